//! The log as an operator reads it: whole runs of the real program, every line held to its words.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use test_support::secrets::Secrets;

use crate::harness::write_program;

/// Longer than any run here takes, however loaded the machine is.
const DEADLINE: Duration = Duration::from_secs(60);

/// A run of start-worker with a worker that is a shell script.
struct Story {
    folder: Option<tempfile::TempDir>,
    runner: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Story {
    /// `worker` and `supervision` are YAML in flow style, without the braces.
    fn begin(worker: &str, supervision: &str, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.sh");
        write_program(&path, format!("#!/bin/sh\n{script}\n"));
        let config = folder.path().join("runner.yml");
        let text = format!(
            r#"
provider: {{providerType: standalone, rootURL: "https://tc.example.com", clientID: c, accessToken: hush-hush, workerPoolID: pp/ww, workerGroup: wg, workerID: wi}}
getSecrets: false
worker: {{path: {path}, {worker}}}
supervision: {{{supervision}}}
host: {{shutdownCommand: ["true"], rebootCommand: ["true"], forceShutdownCommand: ["true"], forceRebootCommand: ["true"]}}
"#,
            path = path.display()
        );
        std::fs::write(&config, text).unwrap();
        std::fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
        Self::run(folder)
    }

    /// Runs the same runner once more, in the same place.
    fn run(folder: tempfile::TempDir) -> Self {
        let mut runner = Command::new(env!("CARGO_BIN_EXE_start-worker"))
            .arg(folder.path().join("runner.yml"))
            .env("RUNTIME_DIRECTORY", folder.path())
            .env("STATE_DIRECTORY", folder.path())
            .env_remove("START_WORKER_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(runner.stderr.take().unwrap());
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { folder: Some(folder), runner, lines, seen: Vec::new() }
    }

    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.seen.last().is_some_and(|line| line.contains(text)) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("no line with {text:?}: {error}; seen: {:#?}", self.seen),
            }
        }
    }

    /// Waits for lines that come in any order.
    fn wait_for_all(&mut self, texts: &[&str]) {
        let deadline = Instant::now() + DEADLINE;
        while !texts.iter().all(|text| self.seen.iter().any(|line| line.contains(text))) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("not all of {texts:?}: {error}; seen: {:#?}", self.seen),
            }
        }
    }

    /// Makes the file that a script waits for.
    fn go(&self) {
        std::fs::write(self.folder.as_ref().unwrap().path().join("go"), "").unwrap();
    }

    /// Runs a command that speaks to the runner.
    fn ask(&self, command: &[&str]) {
        let folder = self.folder.as_ref().unwrap().path();
        let mut asked = Command::new(env!("CARGO_BIN_EXE_start-worker"));
        asked.args(command).arg("--socket").arg(folder.join("status.sock"));
        let output = asked.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.runner.id()).unwrap()), signal).unwrap();
    }

    /// Like [`Story::end`], where two threads have their say and the order of lines is left to chance.
    fn end_in_any_order(self) -> String {
        let text = self.end();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    /// All lines, with the parts replaced that differ from run to run, and the exit code.
    fn end(self) -> String {
        self.end_keeping().0
    }

    /// The same, and the folder for another run.
    fn end_keeping(mut self) -> (String, tempfile::TempDir) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("{error}; seen: {:#?}", self.seen),
            }
        }
        let code = self.runner.wait().unwrap().code();
        let folder = self.folder.take().unwrap();
        Secrets::of_folder(folder.path()).assert_kept(self.seen.join("\n").as_bytes());
        let lines: Vec<String> = self.seen.iter().map(|line| always_the_same(line, folder.path())).collect();
        (format!("{}\nexit code {}", lines.join("\n"), code.unwrap()), folder)
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind: the worker goes with its runner.
        let _ = self.runner.kill();
        let _ = self.runner.wait();
    }
}

/// Without the time, process ids, measured times and the test's own folder.
fn always_the_same(line: &str, folder: &Path) -> String {
    let (time, rest) = line.split_once(' ').unwrap();
    let parsed: Result<jiff::Timestamp, _> = time.parse();
    assert!(parsed.is_ok() && time.len() == "2026-11-23T19:12:00.123Z".len(), "{line}");
    let mut rest = rest.replace(folder.to_str().unwrap(), "DIR");
    if let Some((before, quoted)) = rest.split_once(" lines=\"") {
        let lines = quoted.split("\\n").map(|line| line.split_once(' ').map_or(line, |(_, text)| text));
        rest = format!("{before} lines=\"… {}", lines.collect::<Vec<_>>().join("\\n… "));
    }
    for key in [" pid=", " from_pid=", " ran=", " version="] {
        let Some(start) = rest.find(key).map(|at| at + key.len()) else { continue };
        let value = &rest[start..];
        let length = match value.strip_prefix('"') {
            Some(quoted) => quoted.find('"').unwrap() + 2,
            None => value.find(' ').unwrap_or(value.len()),
        };
        rest.replace_range(start..start + length, "…");
    }
    rest
}

const COMMAND: &str = "implementation: command";

#[test]
fn a_worker_that_does_its_work() {
    let script = r#"
read welcome
echo '~{"type":"hello","capabilities":["graceful-termination","log","teleport"]}'
while [ ! -e "$(dirname "$0")/go" ]; do sleep 0.01; done
echo working
echo '~{"type":"log","body":{"textPayload":"task resolved","taskId":"abc"}}'
"#;
    let mut story = Story::begin(COMMAND, "", script);
    story.wait_for("says hello");
    story.go();
    assert_snapshot!(story.end(), @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=command
    INFO  worker started pid=… worker=command program=DIR/worker.sh
    INFO  worker says hello capabilities=graceful-termination,log
    [worker] working
    [worker] task resolved; taskId: abc
    INFO  worker exited pid=… status="exit code 0" meaning=done ran=…
    INFO  start-worker ends: the worker is done
    exit code 0
    "#);
}

#[test]
fn an_operator_who_stops_the_runner() {
    let script = r#"
read welcome
echo '~{"type":"hello","capabilities":["graceful-termination"]}'
read message
echo "told: $message"
"#;
    let mut story = Story::begin(COMMAND, "", script);
    story.wait_for("says hello");
    story.signal(Signal::SIGTERM);
    assert_snapshot!(story.end(), @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=command
    INFO  worker started pid=… worker=command program=DIR/worker.sh
    INFO  worker says hello capabilities=graceful-termination
    INFO  received a signal to stop signal=SIGTERM from_pid=…
    INFO  asked the worker to stop at once pid=… cause=operator
    [worker] told: ~{"finish-tasks":false,"type":"graceful-termination"}
    INFO  worker exited pid=… status="exit code 0" meaning=done ran=…
    INFO  start-worker ends: stopped as asked
    exit code 0
    "#);
}

#[test]
fn a_worker_that_does_not_want_to_end() {
    let script = r#"
trap '' TERM
read welcome
echo '~{"type":"hello","capabilities":["graceful-termination"]}'
exec sleep 1000
"#;
    let mut story = Story::begin(COMMAND, "stopTimeout: 100ms, killTimeout: 100ms", script);
    story.wait_for("says hello");
    story.signal(Signal::SIGTERM);
    assert_snapshot!(story.end(), @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=command
    INFO  worker started pid=… worker=command program=DIR/worker.sh
    INFO  worker says hello capabilities=graceful-termination
    INFO  received a signal to stop signal=SIGTERM from_pid=…
    INFO  asked the worker to stop at once pid=… cause=operator
    WARN  worker has not ended within supervision.stopTimeout: sending SIGTERM waited=100ms
    WARN  worker has not ended within supervision.killTimeout of SIGTERM (stopTimeout, where it could not be asked): sending SIGKILL waited=100ms
    INFO  worker exited pid=… status=SIGKILL meaning=killed ran=…
    INFO  start-worker ends: stopped as asked
    exit code 0
    "#);
}

#[test]
fn a_drain_of_a_worker_that_cannot_be_asked() {
    let script = r#"
read welcome
echo '~{"type":"hello","capabilities":[]}'
read message
"#;
    let mut story = Story::begin(COMMAND, "drainTimeout: 100ms, killTimeout: 30s", script);
    story.wait_for("says hello");
    story.signal(Signal::SIGUSR1);
    assert_snapshot!(story.end(), @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=command
    INFO  worker started pid=… worker=command program=DIR/worker.sh
    INFO  worker says hello capabilities=none
    INFO  received a signal to drain signal=SIGUSR1 from_pid=…
    INFO  worker cannot be asked to finish its tasks (no graceful-termination): waiting for it to end by itself pid=… cause=operator
    WARN  worker has not finished its tasks within supervision.drainTimeout: the drain becomes a stop waited=100ms
    INFO  worker cannot be asked to stop (no graceful-termination): sent SIGTERM pid=… cause=operator
    INFO  worker exited pid=… status=SIGTERM meaning="told to stop" ran=…
    INFO  start-worker ends: stopped as asked
    exit code 0
    "#);
}

#[test]
fn a_drain_that_ends_in_the_workers_reboot() {
    let script = r#"
read welcome
echo '~{"type":"hello","capabilities":["graceful-termination"]}'
read message
exit 67
"#;
    let mut story = Story::begin(COMMAND, "", script);
    story.wait_for("says hello");
    story.ask(&["drain", "--once"]);
    let (before, folder) = story.end_keeping();
    let mark = folder.path().join("held");
    let record = std::fs::read_to_string(&mark).unwrap();
    assert!(record.starts_with(r#"{"by":""#), "{record}");
    assert_snapshot!(before.replace(&by(&record), "NAME"), @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=command
    INFO  worker started pid=… worker=command program=DIR/worker.sh
    INFO  worker says hello capabilities=graceful-termination
    INFO  asked to drain through the status socket from_pid=… once=true
    INFO  asked the worker to finish its tasks and exit pid=… cause=operator
    INFO  worker exited pid=… status="exit code 67" meaning="reboot required" ran=…
    INFO  held: no worker is started on this host until `start-worker resume` mark=DIR/held by=NAME
    INFO  drained, and the worker reboots the host: no worker is started after the boot until `start-worker resume`
    INFO  start-worker ends: drained as asked; holding after the reboot
    exit code 0
    "#);
    let known = r#"{"by":"alice","since":"2026-11-29T13:00:00Z","reason":"new disk"}"#;
    std::fs::write(&mark, known).unwrap();
    let mut after_the_boot = Story::run(folder);
    after_the_boot.wait_for("holding");
    after_the_boot.signal(Signal::SIGTERM);
    let (held, folder) = after_the_boot.end_keeping();
    assert_snapshot!(held, @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=command
    WARN  holding: no worker is started on this host until `start-worker resume` (or remove the mark and restart the service) mark=DIR/held since=2026-11-29T13:00:00Z by=alice reason="new disk"
    INFO  received a signal to stop signal=SIGTERM from_pid=…
    INFO  start-worker ends: stopped as asked
    exit code 0
    "#);
    std::fs::remove_file(mark).unwrap();
    let mut released = Story::run(folder);
    released.wait_for("says hello");
    released.signal(Signal::SIGTERM);
    assert!(released.end().contains("worker started"));
}

/// The name in a drain marker, as the log quotes it.
fn by(record: &str) -> String {
    let name = record.split('"').nth(3).unwrap();
    if name.contains(' ') { format!("\"{name}\"") } else { name.to_owned() }
}

#[test]
fn a_host_that_is_held_while_its_worker_runs() {
    let script = r#"
read welcome
echo '~{"type":"hello","capabilities":["graceful-termination"]}'
read message
exit 0
"#;
    let mut story = Story::begin(COMMAND, "", script);
    story.wait_for("says hello");
    story.ask(&["hold", "--reason", "new disk"]);
    story.ask(&["resume"]);
    story.signal(Signal::SIGTERM);
    let seen = story.end();
    let name =
        seen.lines().find_map(|line| line.split_once(" by=")?.1.split_once(" reason=")).unwrap().0.to_owned();
    assert_snapshot!(seen.replace(&name, "NAME"), @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=command
    INFO  worker started pid=… worker=command program=DIR/worker.sh
    INFO  worker says hello capabilities=graceful-termination
    INFO  asked to hold through the status socket from_pid=…
    INFO  held: no worker is started on this host until `start-worker resume` mark=DIR/held by=NAME reason="new disk"
    INFO  asked to resume through the status socket from_pid=…
    INFO  resumed: the mark is removed, and a worker may be started mark=DIR/held
    INFO  received a signal to stop signal=SIGTERM from_pid=…
    INFO  asked the worker to stop at once pid=… cause=operator
    INFO  worker exited pid=… status="exit code 0" meaning=done ran=…
    INFO  start-worker ends: stopped as asked
    exit code 0
    "#);
}

#[test]
fn a_worker_that_crashes_again_and_again() {
    let script = "echo 'no disk'; echo 'giving up'; exit 3";
    let supervision = "maxRestarts: 1, backoff: {initial: 10ms, max: 10ms}";
    assert_snapshot!(Story::begin(COMMAND, supervision, script).end(), @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=command
    INFO  worker started pid=… worker=command program=DIR/worker.sh
    [worker] no disk
    [worker] giving up
    WARN  worker exited pid=… status="exit code 3" meaning=failed ran=…
    INFO  worker is started again after a crash wait=10ms crashes=1 max_restarts=1
    INFO  worker started pid=… worker=command program=DIR/worker.sh
    [worker] no disk
    [worker] giving up
    WARN  worker exited pid=… status="exit code 3" meaning=failed ran=…
    ERROR worker crashed too often: giving up crashes=2 max_restarts=1 restart_window=10m
    INFO  the worker's last lines repeated=true count=2 lines="… [worker] no disk\n… [worker] giving up"
    ERROR start-worker ends: gave up on the worker exit_code=1
    exit code 1
    "#);
}

#[test]
fn a_worker_that_cannot_use_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gw.json");
    let worker = format!("implementation: generic-worker, configPath: {}", config.display());
    assert_snapshot!(Story::begin(&worker, "", "exit 73").end(), @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=generic-worker
    INFO  worker started pid=… worker=generic-worker program=DIR/worker.sh
    WARN  worker exited pid=… status="exit code 73" meaning="invalid configuration" ran=…
    ERROR worker cannot work with its configuration: not started again; see its last lines and worker.configPath
    ERROR start-worker ends: gave up on the worker exit_code=1
    exit code 1
    "#);
}

#[test]
fn a_worker_whose_reboot_does_not_come() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gw.json");
    let worker =
        format!("implementation: generic-worker, configPath: {}, restartInPlace: false", config.display());
    assert_snapshot!(Story::begin(&worker, "rebootTimeout: 100ms", "exit 67").end(), @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=generic-worker
    INFO  worker started pid=… worker=generic-worker program=DIR/worker.sh
    INFO  worker exited pid=… status="exit code 67" meaning="reboot required" ran=…
    INFO  worker wants a reboot: waiting for the host to go down timeout=100ms
    ERROR the reboot has not come within supervision.rebootTimeout, and the worker cannot go on without one: reboot the host waited=100ms
    ERROR start-worker ends: the worker needs a reboot exit_code=70
    exit code 70
    "#);
}

#[test]
fn a_worker_that_leaves_processes_behind() {
    let script = r#"
mark="$(dirname "$0")/up"
read welcome
setsid sh -c "trap '' TERM; touch '$mark'; exec sleep 1000" &
while [ ! -e "$mark" ]; do sleep 0.01; done
"#;
    assert_snapshot!(Story::begin(COMMAND, "killTimeout: 100ms", script).end(), @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=command
    INFO  worker started pid=… worker=command program=DIR/worker.sh
    INFO  worker exited pid=… status="exit code 0" meaning=done ran=…
    INFO  worker left processes behind: sent them SIGTERM processes=1
    WARN  processes that the worker left behind have not ended: sending SIGKILL waited=100ms
    INFO  start-worker ends: the worker is done
    exit code 0
    "#);
}

#[test]
fn a_worker_that_cannot_be_executed() {
    let worker = "implementation: command, cwd: /nowhere/at/all";
    assert_snapshot!(Story::begin(worker, "", "exit 0").end(), @r#"
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=command
    ERROR worker cannot be started error="cannot execute DIR/worker.sh: No such file or directory (os error 2) (worker.cwd is no folder); see worker.path"
    ERROR start-worker ends: the worker could not be started exit_code=1
    exit code 1
    "#);
}

#[test]
fn a_worker_that_sends_nonsense() {
    let script = r#"
cat <<'END'
~{"type":"hello","capabilities":"x"}
~{"type":"hello","capabilities":["log","error-report"]}
~{"type":"log","body":null}
~{"type":"error-report","kind":null,"title":"t","description":"d"}
~{"type":"error-report","kind":"k","title":"t","description":"line 1\nline 2","extra":{"a":[1]}}
~{"type":"unheard-of"}
~{"type":"log"
~{"type":"log","body":{"textPayload":"two\nlines"}}
END
echo 'nothing runs beside the shell now'
read welcome
read never
"#;
    let mut story = Story::begin(COMMAND, "", script);
    story.wait_for_all(&["worker reports an error", "nothing runs beside"]);
    story.signal(Signal::SIGTERM);
    assert_snapshot!(story.end_in_any_order(), @r#"
    ERROR worker reports an error kind=k title=t description="line 1\nline 2" extra="{\"a\":[1]}"
    INFO  received a signal to stop signal=SIGTERM from_pid=…
    INFO  start-worker ends: stopped as asked
    INFO  start-worker starts version=… config=DIR/runner.yml provider=standalone worker=command
    INFO  worker cannot be asked to stop (no graceful-termination): sent SIGTERM pid=… cause=operator
    INFO  worker exited pid=… status=SIGTERM meaning="told to stop" ran=…
    INFO  worker says hello capabilities=error-report,log
    INFO  worker says hello capabilities=none
    INFO  worker started pid=… worker=command program=DIR/worker.sh
    WARN  error reports of this worker stay in this log: its provider does not register it, so worker-manager takes none
    WARN  worker sent a malformed message: ignored error="error-report: kind is null, expected a string" message_text="~{\"type\":\"error-report\",\"kind\":null,\"title\":\"t\",\"description\":\"d\"}"
    WARN  worker sent a malformed message: ignored error="log: body is null, expected an object" message_text="~{\"type\":\"log\",\"body\":null}"
    WARN  worker's hello is malformed: taken as one without capabilities error="hello: capabilities is a string, expected an array of strings"
    [worker] lines
    [worker] nothing runs beside the shell now
    [worker] two
    [worker] ~{"type":"log"
    exit code 0
    "#);
}
