//! `start-worker status` in every state: real runners, held in it, and every line that an operator then sees.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use insta::assert_snapshot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use test_support::fake_taskcluster::{FakeTaskcluster, Fault, Times};

use crate::clouds::machine::{EC2, Machine};
use crate::harness::{Runner, Scene, eventually};

/// With a socket in its folder.
fn open(scene: Scene) -> Scene {
    let path = scene.path("status.sock");
    scene.set("status.socket", path.to_str().unwrap())
}

fn status(runner: &Runner, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
    command.arg("status").args(options).arg("--socket").arg(runner.path("status.sock"));
    command.output().unwrap()
}

/// Waits until the JSON status satisfies the condition. Then returns the status in words, without the parts that differ
/// from run to run.
#[track_caller]
fn words_when(runner: &Runner, mut is_so: impl FnMut(&Value) -> bool) -> String {
    let mut last = None;
    let found = eventually(|| {
        let said = status(runner, &["--json"]);
        let said: Value = serde_json::from_slice(&said.stdout).ok()?;
        let so = is_so(&said);
        last = Some(said);
        so.then_some(())
    });
    assert!(found.is_some(), "never so, last {last:?}\n{runner}");
    let words = status(runner, &[]);
    assert_eq!(words.status.code(), Some(0), "{runner}");
    plain(&String::from_utf8(words.stdout).unwrap(), runner)
}

#[track_caller]
fn words_in(runner: &Runner, state: &str) -> String {
    words_when(runner, |said| said["state"] == state)
}

/// Removes the parts that differ from run to run: times, distances, process ids, names, the folder.
fn plain(words: &str, runner: &Runner) -> String {
    let folder = runner.path("").display().to_string();
    let mut text = words.replace(&folder, "DIR/").replace(runner.worker_id(), "WORKER");
    for (before, after) in [("127.0.0.1:", ""), ("pid ", ""), ("pid=", ""), (" (", ")"), (" after ", ": ")] {
        let mut parts = text.split(before);
        let mut plain = parts.next().unwrap().to_owned();
        for part in parts {
            let end = match after {
                "" => part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len()),
                after => part.find(after).unwrap_or(0),
            };
            let (what, rest) = part.split_at(end);
            let is_time = what.starts_with("in ") || what.ends_with(" ago");
            let differs = match before {
                " (" => is_time,
                " after " => what.ends_with(['s', 'm', 'h']),
                _ => !what.is_empty(),
            };
            plain.push_str(before);
            plain.push_str(if differs { "…" } else { what });
            plain.push_str(rest);
        }
        text = plain;
    }
    without_times(&text)
}

/// `2026-11-23T19:12:00Z` becomes `TIME`.
fn without_times(text: &str) -> String {
    let is_time =
        |part: &str| part.len() == 20 && part.ends_with('Z') && part.parse::<jiff::Timestamp>().is_ok();
    let lines = text.lines().map(|line| {
        let words = line.split(' ').map(|word| {
            let bare = word.trim_end_matches([',', ':']);
            if is_time(bare) { word.replace(bare, "TIME") } else { word.to_owned() }
        });
        let line = words.collect::<Vec<_>>().join(" ");
        // The rest says how long the worker ran, or when the call is repeated.
        let varying =
            ["meaning=failed ", "next_in="].iter().find_map(|key| Some(line.find(key)? + key.len()));
        varying.map_or_else(|| line.clone(), |at| format!("{}…", &line[..at]))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn preparing() {
    // Accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let runner = open(Scene::new()).set("provider.rootURL", url).set("getSecrets", true).start();
    assert_snapshot!(words_in(&runner, "preparing"), @"
    state         preparing, since TIME (…)
    worker        command, not running
    worker pool   pp/ww
    worker group  wg
    worker id     WORKER
    root URL      http://127.0.0.1:…
    provider      standalone
    output        lines: 0, bytes: 0
    log           errors: 0, warnings: 0
    start-worker  0.1.0, pid …, since TIME (…)
    ");
}

#[test]
fn preparing_while_nobody_answers() {
    let runner =
        open(Scene::new()).set("provider.rootURL", "http://127.0.0.1:1").set("getSecrets", true).start();
    assert_snapshot!(words_when(&runner, |said| said["unhealthy"].is_string()), @r#"
    state         preparing, since TIME (…)
    unhealthy     the worker cannot start yet: get failed: GET http://127.0.0.1:…/api/secrets/v1/secret/worker-type%3App%2Fww: cannot connect: Connection refused
    worker        command, not running
    worker pool   pp/ww
    worker group  wg
    worker id     WORKER
    root URL      http://127.0.0.1:…
    provider      standalone
    output        lines: 0, bytes: 0
    log           errors: 0, warnings: 1
    start-worker  0.1.0, pid …, since TIME (…)
    TIME warning: a call to Taskcluster fails: trying again call=get error="get failed: GET http://127.0.0.1:…/api/secrets/v1/secret/worker-type%3App%2Fww: cannot connect: Connection refused" next_in=…
    "#);
}

#[test]
fn what_keeps_it_from_starting_is_told_also_where_warnings_are_not_logged() {
    let scene = open(Scene::new()).set("provider.rootURL", "http://127.0.0.1:1").set("getSecrets", true);
    let runner = scene.env("START_WORKER_LOG", "error").start();
    let words = words_when(&runner, |said| said["unhealthy"].is_string());
    assert!(words.contains("\nunhealthy     the worker cannot start yet: "), "{words}");
    assert!(words.contains("warnings: 1"), "{words}");
}

#[test]
fn holding() {
    let scene = open(Scene::new());
    let record = r#"{"by":"alice","since":"2026-11-29T13:00:00Z","reason":"new disk"}"#;
    std::fs::write(scene.path("held"), record).unwrap();
    assert_snapshot!(words_in(&scene.start(), "holding"), @"
    state         holding, since TIME (…)
    hold          no other worker is started until `start-worker resume`; held since TIME (…) by alice: new disk
    worker        command, not running
    worker pool   pp/ww
    worker group  wg
    worker id     WORKER
    root URL      https://tc.example.com
    provider      standalone
    output        lines: 0, bytes: 0
    log           errors: 0, warnings: 1
    start-worker  0.1.0, pid …, since TIME (…)
    TIME warning: holding: no worker is started on this host until `start-worker resume` (or remove the mark and restart the service) mark=DIR/held since=2026-11-29T13:00:00Z by=alice reason=\"new disk\"
    ");
}

#[test]
fn running() {
    let runner = open(Scene::new()).worker(["on now: exit 0", "hello all", "print ready", "wait"]).start();
    runner.wait_for_log("ready");
    assert_snapshot!(words_when(&runner, |said| said["log"]["workerLines"] == 2), @"
    state         running, since TIME (…)
    worker        command, pid …
    worker pool   pp/ww
    worker group  wg
    worker id     WORKER
    root URL      https://tc.example.com
    provider      standalone
    output        lines: 2, bytes: 135, last written TIME (…)
    log           errors: 0, warnings: 0
    start-worker  0.1.0, pid …, since TIME (…)
    ");
}

#[test]
fn draining() {
    let runner =
        open(Scene::new()).worker(["on finish: wait-file never", "hello all", "print ready", "wait"]).start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGUSR1);
    runner.wait_for_graceful_termination(true);
    assert_snapshot!(words_in(&runner, "draining"), @"
    state         draining, since TIME (…)
    reason        operator
    worker        command, pid …
    worker pool   pp/ww
    worker group  wg
    worker id     WORKER
    root URL      https://tc.example.com
    provider      standalone
    output        lines: 2, bytes: 135, last written TIME (…)
    log           errors: 0, warnings: 0
    start-worker  0.1.0, pid …, since TIME (…)
    ");
}

#[test]
fn stopping() {
    let runner =
        open(Scene::new()).worker(["on now: wait-file never", "hello all", "print ready", "wait"]).start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    runner.wait_for_graceful_termination(false);
    assert_snapshot!(words_in(&runner, "stopping"), @"
    state         stopping, since TIME (…)
    reason        operator
    worker        command, pid …
    worker pool   pp/ww
    worker group  wg
    worker id     WORKER
    root URL      https://tc.example.com
    provider      standalone
    output        lines: 2, bytes: 135, last written TIME (…)
    log           errors: 0, warnings: 0
    start-worker  0.1.0, pid …, since TIME (…)
    ");
}

#[test]
fn backing_off_after_a_crash() {
    let scene = open(Scene::new()).worker(["hello all", "exit 7"]);
    let runner = scene.set("supervision.backoff", json!({"initial": "10m", "max": "10m"})).start();
    assert_snapshot!(words_in(&runner, "backing off"), @r#"
    state         backing off, since TIME (…)
    reason        exit code 7: failed
    worker        command, not running, crashes: 1 of 5
      exit        TIME after …: exit code 7: failed
    worker pool   pp/ww
    worker group  wg
    worker id     WORKER
    root URL      https://tc.example.com
    provider      standalone
    output        lines: 1, bytes: 129, last written TIME (…)
    log           errors: 0, warnings: 1
    start-worker  0.1.0, pid …, since TIME (…)
    TIME warning: worker exited pid=… status="exit code 7" meaning=failed …
    "#);
}

#[test]
fn running_in_a_crash_loop() {
    let scene = open(Scene::new()).worker(["hello all", "start 4: wait", "exit 7"]);
    let runner = scene.start();
    assert_snapshot!(words_when(&runner, |said| {
        said["state"] == "running" && said["runs"]["crashes"] == 3 && said["log"]["workerLines"] == 4
    }), @r#"
    state         running, since TIME (…)
    unhealthy     the worker crashes again and again: 3 times in a row
    worker        command, pid …, restarts: 3, crashes: 3 of 5
      exit        TIME after …: exit code 7: failed
      exit        TIME after …: exit code 7: failed
      exit        TIME after …: exit code 7: failed
    worker pool   pp/ww
    worker group  wg
    worker id     WORKER
    root URL      https://tc.example.com
    provider      standalone
    output        lines: 4, bytes: 516, last written TIME (…)
    log           errors: 0, warnings: 3
    start-worker  0.1.0, pid …, since TIME (…)
    TIME warning: worker exited pid=… status="exit code 7" meaning=failed …
    TIME warning: worker exited pid=… status="exit code 7" meaning=failed …
    TIME warning: worker exited pid=… status="exit code 7" meaning=failed …
    "#);
}

#[test]
fn awaiting_a_reboot() {
    let runner = open(Scene::new()).worker(["hello all", "exit 67"]).start();
    assert_snapshot!(words_in(&runner, "awaiting reboot"), @"
    state         awaiting reboot, since TIME (…)
    reason        exit code 67: reboot required
    worker        command, not running
      exit        TIME after …: exit code 67: reboot required
    worker pool   pp/ww
    worker group  wg
    worker id     WORKER
    root URL      https://tc.example.com
    provider      standalone
    output        lines: 1, bytes: 129, last written TIME (…)
    log           errors: 0, warnings: 0
    start-worker  0.1.0, pid …, since TIME (…)
    ");
}

#[test]
fn gave_up() {
    let machine = Machine::new(EC2);
    let scene =
        open(machine.scene()).set("host.startFailureDelay", "10m").set("supervision.restart", "never");
    let runner = scene.worker(["hello all", "on SIGTERM: exit 7", "wait"]).start();
    // Not before EC2 has answered: it is not asked any longer once the worker has been given up on.
    let mut worker = None;
    words_when(&runner, |said| {
        worker = said["workerPid"].as_i64();
        worker.is_some() && said["interruption"]["lastAnswer"].is_string()
    });
    let worker = i32::try_from(worker.unwrap()).unwrap();
    kill(Pid::from_raw(worker), Signal::SIGTERM).unwrap();
    runner.wait_for_log("this machine is removed after host.startFailureDelay");
    assert_snapshot!(words_in(&runner, "ended"), @r#"
    state               ended, since TIME (…)
    reason              gave up on the worker
    unhealthy           gave up on the worker
    worker              command, not running, crashes: 1 of 5
      exit              TIME after …: exit code 7: failed
    worker pool         proj-example/linux
    worker group        us-west-2
    worker id           i-1234567890abcdef0
    root URL            http://127.0.0.1:…
    provider            aws
    credentials expire  TIME (…)
    credentials renew   TIME (…)
    deployment          shouldWorkerTerminate, launchConfigId lc-1
    interruptions       EC2 answered TIME (…): no notice
    output              lines: 1, bytes: 129, last written TIME (…)
    log                 errors: 1, warnings: 2
    start-worker        0.1.0, pid …, since TIME (…)
    TIME warning: this machine is removed after host.startFailureDelay; stop start-worker to keep it delay=10m
    TIME error: worker crashed, and supervision allows no restart: giving up crashes=1
    TIME warning: worker exited pid=… status="exit code 7" meaning=failed …
    "#);
}

#[test]
fn running_on_a_machine_of_a_cloud() {
    let machine = Machine::new(EC2);
    let scene = open(machine.scene()).set("deployment", json!({"poll": true, "interval": "1s"}));
    let runner = scene.worker(["hello all", "wait"]).start();
    runner.wait_for_log("worker says hello");
    assert_snapshot!(words_when(&runner, |said| {
        said["interruption"]["lastAnswer"].is_string() && said["deployment"]["lastCheck"].is_string()
    }), @"
    state               running, since TIME (…)
    worker              command, pid …
    worker pool         proj-example/linux
    worker group        us-west-2
    worker id           i-1234567890abcdef0
    root URL            http://127.0.0.1:…
    provider            aws
    credentials expire  TIME (…)
    credentials renew   TIME (…)
    deployment          shouldWorkerTerminate
      checked           TIME (…): cannot tell: workerPool needs the scope worker-manager:get-worker-pool:proj-example/linux
    interruptions       EC2 answered TIME (…): no notice
    output              lines: 1, bytes: 129, last written TIME (…)
    log                 errors: 0, warnings: 0
    start-worker        0.1.0, pid …, since TIME (…)
    ");
}

/// Asserts that all outputs that name the worker still name it when `registerWorker` fails.
#[track_caller]
fn assert_identity_is_shown(runner: &Runner, identity: [&str; 3], root_url: &str) {
    let words = words_when(runner, |said| said["unhealthy"].is_string());
    let [pool, group, id] = identity;
    for line in [
        format!("worker pool   {pool}\n"),
        format!("worker group  {group}\n"),
        format!("worker id     {id}\n"),
        format!("root URL      {}\n", root_url.rsplit_once(':').unwrap().0),
    ] {
        let line =
            line.replace("http://127.0.0.1\n", "http://127.0.0.1:…\n").replace(runner.worker_id(), "WORKER");
        assert!(words.contains(&line), "no {line}{words}");
    }
    let named = format!(r#""workerPool":"{pool}","workerGroup":"{group}","workerId":"{id}","#);
    let log = runner.log();
    let failure =
        log.lines().find(|line| line.contains("registerWorker") && line.contains("\"level\":\"warn"));
    let failure = failure.or_else(|| log.lines().find(|line| line.contains("the worker cannot start yet")));
    assert!(failure.is_some_and(|line| line.contains(&named)), "not in the log: {named}\n{log}");
}

#[test]
fn a_machine_of_a_cloud_whose_registration_fails_says_who_it_is() {
    let machine = Machine::new(EC2);
    machine.taskcluster.fail("registerWorker", Times::UntilCleared, Fault::bad_gateway());
    let runner = open(machine.scene()).set("logging.implementation", "json").worker(["wait"]).start();
    assert_identity_is_shown(&runner, [EC2.pool, EC2.group, EC2.worker], &machine.taskcluster.url());
}

#[test]
fn a_static_worker_whose_registration_is_refused_or_fails_says_who_it_is() {
    for fails in [false, true] {
        let taskcluster = FakeTaskcluster::start();
        if fails {
            taskcluster.fail("registerWorker", Times::UntilCleared, Fault::bad_gateway());
        }
        let scene = open(Scene::new()).set("logging.implementation", "json").set(
            "provider",
            json!({
                "providerType": "static", "rootURL": taskcluster.url(), "providerID": "static", "workerPoolID": "aa/bb",
                "workerGroup": "gg", "workerID": "ii", "staticSecret": "no-such-secret-of-forty-four-characters-long",
            }),
        );
        let runner = scene.worker(["wait"]).start();
        assert_identity_is_shown(&runner, ["aa/bb", "gg", "ii"], &taskcluster.url());
    }
}

#[test]
fn who_watches_sees_every_change_until_the_end() {
    let scene = open(Scene::new()).worker(["on now: exit 0", "hello all", "print ready", "wait"]);
    std::fs::write(scene.path("held"), "").unwrap();
    let runner = scene.start();
    let watching = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
        command.arg("status").args(options).arg("--watch").arg("--socket").arg(runner.path("status.sock"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    };
    words_in(&runner, "holding");
    let mut programs = watching(&["--json"]);
    let people = watching(&[]);
    let mut records = BufReader::new(programs.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&records.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["state"], "holding");
    let mut resume = Command::new(env!("CARGO_BIN_EXE_start-worker"));
    resume.arg("resume").arg("--socket").arg(runner.path("status.sock"));
    assert!(resume.output().unwrap().status.success());
    while next()["state"] != "running" {}
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    let mut last = Value::Null;
    for record in records {
        last = serde_json::from_str(&record.unwrap()).unwrap();
    }
    assert_eq!((&last["state"], &last["reason"]), (&json!("ended"), &json!("stopped as asked")));
    assert!(programs.wait().unwrap().success());
    let people = people.wait_with_output().unwrap();
    assert!(people.status.success());
    let said = String::from_utf8(people.stdout).unwrap();
    let states: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("state ")).collect();
    assert!(states.len() >= 3 && states.last().unwrap().trim_start().starts_with("ended"), "{said}");
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn the_json_has_the_shape_that_is_documented() {
    let document =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.md")).unwrap();
    let (_, rest) = document.split_once("```json\n").expect("an example");
    let example: Value = serde_json::from_str(rest.split_once("```").unwrap().0).unwrap();
    let runner = open(Scene::new()).worker(["hello all", "exit 7"]).start();
    let words =
        words_when(&runner, |said| said["runs"]["exits"].as_array().is_some_and(|exits| !exits.is_empty()));
    assert!(!words.is_empty());
    let said: Value = serde_json::from_slice(&status(&runner, &["--json"]).stdout).unwrap();
    assert_eq!(keys(&said, &example), keys(&example, &said));
}

/// All keys of a value, inner ones as paths; of lists, those of the first item, where both have one.
fn keys(value: &Value, other: &Value) -> Vec<String> {
    let Value::Object(object) = value else { return Vec::new() };
    let mut all = Vec::new();
    for (key, value) in object {
        all.push(key.clone());
        let (inner, other) = match (value, &other[key]) {
            (Value::Array(one), Value::Array(other)) if !one.is_empty() && !other.is_empty() => {
                (&one[0], &other[0])
            }
            (value, other) if value.is_object() && other.is_object() => (value, other),
            _ => continue,
        };
        all.extend(keys(inner, other).into_iter().map(|inner| format!("{key}.{inner}")));
    }
    all
}

#[test]
fn a_state_is_waited_for() {
    let scene = open(Scene::new());
    let socket = scene.path("status.sock");
    let wait = move |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
        command.args(["status", "--json", "--wait"]).args(options).arg("--socket").arg(&socket);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // There is no runner.
    let in_vain = wait(&["running", "--timeout", "200ms"]).output().unwrap();
    let said = String::from_utf8_lossy(&in_vain.stderr).into_owned();
    assert_eq!((in_vain.status.code(), &*in_vain.stdout), (Some(1), &b""[..]), "{said}");
    assert!(said.starts_with("error: not running within 200ms: no start-worker listens at "), "{said}");
    // The runner starts later.
    let waiting = wait(&["running"]).spawn().unwrap();
    let runner = scene.worker(["on SIGTERM: exit 0", "wait"]).start();
    let reached = waiting.wait_with_output().unwrap();
    assert!(reached.status.success(), "{reached:?}\n{runner}");
    let said: Value = serde_json::from_slice(&reached.stdout).unwrap();
    assert_eq!(said["state"], "running");
    // The runner does not reach this state.
    let in_vain = wait(&["backing-off", "--timeout", "200ms"]).output().unwrap();
    let said = String::from_utf8_lossy(&in_vain.stderr).into_owned();
    assert_eq!((in_vain.status.code(), &*said), (Some(1), "error: not backing off within 200ms: running\n"));
    let wrong = wait(&["runing"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    runner.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}
