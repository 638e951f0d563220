//! The newcomer's path: runs every console session of the README and of docs/getting-started.md, and compares the output.
//!
//! A line that begins with `$ ` is a command; the lines below it are its output. `^C` is pressed after the lines above it
//! have been printed. `…` as the last line means that the command keeps running while the next ones are typed (in another
//! terminal). A block after "Put this into `name`:" is written to that file.
//! `UPDATE_README=1 cargo test --test it -- readme` writes the actual output into both pages.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use test_support::secrets::Secrets;

use crate::harness::write_program;

const DEADLINE: Duration = Duration::from_secs(60);

/// Length of a demonstration's task here: long enough to press Ctrl-C during it on a busy machine.
const TASK: &str = "5";

/// Returns whether the sessions are written to the pages rather than compared with them.
fn updates() -> bool {
    std::env::var_os("UPDATE_README").is_some()
}

fn task() -> &'static str {
    if updates() { "1" } else { TASK }
}

/// Replaces `cargo run`: runs the program that cargo has built already.
const CARGO: &str = r#"#!/bin/sh
program=$START_WORKER; more=
while [ $# -gt 0 ]; do
    case $1 in
        --example) shift; program=$EXAMPLES/$1; more='--port 0' ;;
        --) shift; break ;;
    esac
    shift
done
exec "$program" $more "$@"
"#;

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read_page(name: &str) -> String {
    fs::read_to_string(page(name)).expect("a page")
}

/// A fresh checkout, and a user who has nothing else.
struct Newcomer {
    folder: TempDir,
    /// The exit code of the last command.
    code: i32,
    /// The port of the fake Taskcluster, when it runs.
    port: Option<String>,
    others: Vec<Running>,
}

/// Something that was typed, and runs.
struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

/// A command of a session, and its output according to the README.
#[derive(Debug)]
struct Step<'d> {
    command: &'d str,
    output: Vec<&'d str>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already, mostly; then its number may be another's.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = killpg(self.group(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

impl Running {
    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("the lines").clone()
    }

    fn wait_for_lines(&self, count: usize) {
        let what = || format!("{count} lines: {:#?}", self.lines());
        until(|| (self.lines().len() >= count).then_some(()), what);
    }

    /// All that it has printed, and its exit code, when it has ended.
    fn ended(mut self) -> (Vec<String>, i32) {
        let status = until(|| self.child.try_wait().expect("a child"), || "an end".to_owned());
        // The thread that reads lets go at the end of the pipe.
        until(|| (Arc::strong_count(&self.lines) == 1).then_some(()), || "the end of its output".to_owned());
        (self.lines(), status.code().expect("an exit code"))
    }
}

/// Looks again and again, until there is something.
fn until<T>(mut look: impl FnMut() -> Option<T>, what: impl Fn() -> String) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "there was not in time: {}", what());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

impl Newcomer {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["home", "run", "bin", "config-examples"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config-examples");
        for entry in fs::read_dir(examples).expect("the examples") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                continue;
            }
            let text = fs::read_to_string(&path)
                .expect("an example")
                .replace(r#"["1"]"#, &format!("[{:?}]", task()));
            let copy = folder.path().join("config-examples").join(path.file_name().expect("a name"));
            let script = path.extension().is_some_and(|extension| extension == "sh");
            if script {
                write_program(&copy, text);
            } else {
                fs::write(&copy, text).expect("a copy");
            }
        }
        write_program(&folder.path().join("bin/cargo"), CARGO);
        let program = Path::new(env!("CARGO_BIN_EXE_start-worker"));
        std::os::unix::fs::symlink(program, folder.path().join("bin/start-worker")).expect("a link");
        Self { folder, code: 0, port: None, others: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, command: &str) -> Running {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let program = Path::new(env!("CARGO_BIN_EXE_start-worker"));
        // Keeps the last exit code for later use. A plain command is not run as the child of a shell.
        let plain = !command.contains([';', '|', '>', '$']);
        let script =
            if plain { format!("exec {command}") } else { format!("(exit {})\n{command}", self.code) };
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(self.folder.path()).env_clear().process_group(0);
        shell.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        shell.env("HOME", self.path("home")).env("RUNTIME_DIRECTORY", self.path("run"));
        shell.env("START_WORKER", program);
        shell.env("EXAMPLES", program.parent().expect("a folder").join("examples"));
        shell.stdin(Stdio::null()).stdout(writer.try_clone().expect("a pipe")).stderr(writer);
        let child = shell.spawn().expect("a shell");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines() {
                shared.lock().expect("the lines").push(line.expect("text"));
            }
        });
        Running { child, lines }
    }

    /// The result of a step, as the README would show it.
    fn take(&mut self, step: &Step<'_>) -> Vec<String> {
        let running = self.start(step.command);
        if step.output.last() == Some(&"…") {
            let count = step.output.len() - 1;
            running.wait_for_lines(count);
            let mut lines = running.lines();
            lines.truncate(count);
            self.others.push(running);
            self.learn_port(&lines);
            let mut lines = self.shown(lines);
            lines.push("…".to_owned());
            return lines;
        }
        let pressed = step.output.iter().position(|line| *line == "^C");
        if let Some(count) = pressed {
            running.wait_for_lines(count);
            killpg(running.group(), Signal::SIGINT).expect("a process group");
        }
        let (mut lines, code) = running.ended();
        self.code = code;
        Secrets::of_folder(self.folder.path()).assert_kept(lines.join("\n").as_bytes());
        if let Some(count) = pressed {
            lines.insert(count, "^C".to_owned());
        }
        self.shown(lines)
    }

    /// The fake takes any port; the examples name the one that it has by default.
    fn learn_port(&mut self, lines: &[String]) {
        let urls = lines.iter().filter_map(|line| line.split_once("http://127.0.0.1:"));
        let Some((_, rest)) = urls.into_iter().next() else { return };
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let config = self.path("config-examples/static-demo.yml");
        let text = fs::read_to_string(&config).expect("the example").replace("8085", &port);
        fs::write(&config, &text).expect("a file");
        self.port = Some(port);
    }

    fn shown(&self, lines: Vec<String>) -> Vec<String> {
        let port = |line: String| match &self.port {
            Some(port) => line.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:8085"),
            None => line,
        };
        let one_second = |line: String| {
            line.replace(&format!("take {} s", task()), "take 1 s")
                .replace(&format!("seconds: {}", task()), "seconds: 1")
        };
        lines.into_iter().map(port).map(one_second).map(|line| without(&line, "from_pid", None)).collect()
    }
}

/// A field's value as something else; or no such field.
fn without(line: &str, field: &str, instead: Option<&str>) -> String {
    let Some((before, rest)) = line.split_once(&format!(" {field}=")) else { return line.to_owned() };
    let length = match rest.strip_prefix('"') {
        Some(quoted) => quoted.find('"').map_or(rest.len(), |end| end + 2),
        None => rest.find(' ').unwrap_or(rest.len()),
    };
    let (_, after) = rest.split_at(length);
    match instead {
        Some(instead) => format!("{before} {field}={instead}{after}"),
        None => format!("{before}{after}"),
    }
}

/// Masks the parts that differ each time. The time is a line's first word.
fn masked(line: &str) -> String {
    let timed = line.split_once("Z ").filter(|(time, _)| time.len() == "2026-11-24T20:29:50.479".len());
    let mut line = timed.map_or_else(|| line.to_owned(), |(_, rest)| format!("TIME {rest}"));
    for field in ["pid", "ran", "version", "credentials_expire"] {
        line = without(&line, field, Some("MASKED"));
    }
    line
}

/// The comparable parts: lines of the runner and of its worker may change places, except for those after Ctrl-C.
fn comparable<S: AsRef<str>>(lines: &[S]) -> Vec<Vec<String>> {
    let lines: Vec<String> = lines.iter().map(|line| masked(line.as_ref())).collect();
    let mut parts: Vec<Vec<String>> = lines.split(|line| line == "^C").map(<[String]>::to_vec).collect();
    for part in &mut parts {
        part.sort();
    }
    parts
}

/// The steps of a console session.
fn steps(block: &str) -> Vec<Step<'_>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command, output: Vec::new() });
        } else {
            steps.last_mut().expect("a session begins with a command").output.push(line);
        }
    }
    steps
}

/// Runs the sessions below a heading of a page, in order.
fn follow(newcomer: &mut Newcomer, (name, heading): (&str, &str)) {
    let text = read_page(name);
    let section = section(&text, heading);
    let mut shown = section.to_owned();
    let mut before = "";
    for (index, part) in section.split("```").enumerate() {
        if index % 2 == 0 {
            before = part;
            continue;
        }
        let (language, block) = part.split_once('\n').expect("a block");
        if language == "console" {
            let mut session = String::new();
            for step in steps(block) {
                let lines = newcomer.take(&step);
                if !updates() {
                    assert_eq!(
                        comparable(&lines),
                        comparable(&step.output),
                        "$ {}\n{lines:#?}",
                        step.command
                    );
                }
                let lines: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
                session.extend(["$ ", step.command, "\n", &lines]);
            }
            shown = shown.replace(block, &session);
        } else if let Some(file) = before.trim_end().strip_suffix("`:") {
            let file = file.rsplit('`').next().expect("a name");
            fs::write(newcomer.path(file), block).expect("a file");
        }
    }
    if updates() {
        static WRITING: Mutex<()> = Mutex::new(());
        let _guard = WRITING.lock().expect("the pages");
        fs::write(page(name), read_page(name).replace(section, &shown)).expect("a page");
    }
}

/// The text below a heading, up to the next heading.
fn section<'d>(text: &'d str, heading: &str) -> &'d str {
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    rest.split("\n## ").next().and_then(|rest| rest.split("\n### ").next()).expect("a part")
}

const STARTED: &str = "docs/getting-started.md";

/// The pages and headings that have sessions.
const SESSIONS: [(&str, &str); 4] = [
    ("README.md", "## Try it"),
    (STARTED, "## Register a worker"),
    (STARTED, "## A worker of your own"),
    (STARTED, "## When something is wrong"),
];

#[test]
fn the_demonstration_is_as_it_is_shown() {
    follow(&mut Newcomer::new(), SESSIONS[0]);
}

#[test]
fn registration_with_a_fake_taskcluster_is_as_it_is_shown() {
    follow(&mut Newcomer::new(), SESSIONS[1]);
}

#[test]
fn a_worker_of_ones_own_the_first_failures_and_their_remedies_are_as_they_are_shown() {
    let mut newcomer = Newcomer::new();
    follow(&mut newcomer, SESSIONS[2]);
    follow(&mut newcomer, SESSIONS[3]);
}

#[test]
fn no_session_is_left_out() {
    for name in ["README.md", STARTED] {
        let text = read_page(name);
        let headings = SESSIONS.iter().filter(|(page, _)| *page == name);
        let followed: usize =
            headings.map(|(_, heading)| section(&text, heading).matches("```console").count()).sum();
        assert_eq!(text.matches("```console").count(), followed, "{name}");
        assert!(followed > 0, "{name}");
    }
}

#[test]
fn what_differs_each_time_is_masked_and_all_else_is_not() {
    let line = r#"2026-11-24T20:29:50.479Z INFO  worker exited pid=12 status="exit code 0" ran="2s 488ms" meaning=done"#;
    let shown = r#"TIME INFO  worker exited pid=MASKED status="exit code 0" ran=MASKED meaning=done"#;
    assert_eq!(masked(line), shown);
    assert_ne!(comparable(&["a", "^C", "b"]), comparable(&["b", "^C", "a"]));
    assert_eq!(comparable(&["a", "b"]), comparable(&["b", "a"]));
}
