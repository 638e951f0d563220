//! `start-worker status` on a terminal and in a pipe: long causes are wrapped to the width there, and whole in both.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use nix::pty::openpty;
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;

use crate::harness::{Runner, Scene, eventually};

/// A runner whose start fails repeatedly, for a reason that is wider than any terminal here.
fn failing() -> Runner {
    // The port is not in use.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let scene = Scene::new();
    let socket = scene.path("status.sock");
    let scene = scene.set("status.socket", socket.to_str().unwrap()).set("getSecrets", true);
    let runner = scene.set("provider.rootURL", format!("http://{free}/{}", "long/".repeat(30))).start();
    eventually(|| json(&runner).filter(|said| said["unhealthy"].is_string())).expect("a failing start");
    runner
}

fn status(runner: &Runner, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
    command.arg("status").args(options).arg("--socket").arg(runner.path("status.sock"));
    command.env_remove("COLUMNS").env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn json(runner: &Runner) -> Option<Value> {
    let said = status(runner, &["--json"]).output().unwrap();
    serde_json::from_slice(&said.stdout).ok()
}

/// A terminal, and the program whose stdout it is.
struct Terminal {
    master: File,
    /// Kept open, so that the terminal outlives the program.
    slave: OwnedFd,
    shown: String,
}

impl Terminal {
    fn new(columns: u16, rows: u16) -> Self {
        let pty = openpty(None, None).unwrap();
        let terminal = Self { master: pty.master.into(), slave: pty.slave, shown: String::new() };
        terminal.resize(columns, rows);
        terminal
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).unwrap();
    }

    fn start(&self, mut command: Command) -> Child {
        command.stdout(self.slave.try_clone().unwrap()).spawn().unwrap()
    }

    /// Reads until something has been shown.
    #[track_caller]
    fn wait_for(&mut self, is_shown: impl Fn(&str) -> bool) {
        let mut block = [0; 4096];
        let shown = eventually(|| {
            if is_shown(&self.shown) {
                return Some(());
            }
            let count = self.master.read(&mut block).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&block[..count]).replace("\r\n", "\n"));
            None
        });
        assert!(shown.is_some(), "not shown: {}", self.shown);
    }

    /// The output of a status command, from its first line to its last.
    fn status(columns: u16, command: Command) -> String {
        let mut terminal = Self::new(columns, 24);
        assert!(terminal.start(command).wait().unwrap().success());
        terminal.wait_for(|shown| shown.contains("next_in=") && shown.ends_with('\n'));
        terminal.shown
    }
}

/// Without line breaks and indentation.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn widest(text: &str) -> usize {
    // A URL is never broken.
    text.lines().filter(|line| !line.contains("://")).map(|line| line.chars().count()).max().unwrap()
}

#[test]
fn the_cause_of_a_failure_is_one_whole_line_in_a_pipe_whatever_columns_says() {
    let runner = failing();
    let cause = json(&runner).unwrap()["unhealthy"].as_str().unwrap().to_owned();
    assert!(cause.len() > 200 && cause.ends_with("Connection refused"), "{cause}");
    for columns in [None, Some("40"), Some("nonsense")] {
        let mut command = status(&runner, &[]);
        command.envs(columns.map(|columns| ("COLUMNS", columns)));
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(said.contains(&format!("unhealthy     {cause}\n")), "{said}");
        assert!(said.lines().last().unwrap().contains("next_in="), "{said}");
    }
    let mut watching = status(&runner, &["--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = said.find(|line| line.starts_with("unhealthy "));
    assert_eq!(line, Some(format!("unhealthy     {cause}")));
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn a_terminal_has_the_whole_cause_wrapped_to_its_width_or_to_columns() {
    let runner = failing();
    let cause = json(&runner).unwrap()["unhealthy"].as_str().unwrap().to_owned();
    for (columns, variable, width) in
        [(60, None, 60), (200, None, 200), (200, Some("50"), 50), (60, Some("x"), 60)]
    {
        let mut command = status(&runner, &[]);
        command.envs(variable.map(|columns| ("COLUMNS", columns)));
        let shown = Terminal::status(columns, command);
        assert!(joined(&shown).contains(&joined(&cause)), "{columns} {variable:?}: {shown}");
        assert!(widest(&shown) <= width, "{columns} {variable:?}: {shown}");
    }
    let narrow = Terminal::status(60, status(&runner, &[]));
    let wide = Terminal::status(1000, status(&runner, &[]));
    assert!(narrow.lines().count() > wide.lines().count());
}

#[test]
fn a_terminal_that_does_not_know_its_size_wraps_by_itself() {
    let runner = failing();
    let cause = json(&runner).unwrap()["unhealthy"].as_str().unwrap().to_owned();
    assert!(Terminal::status(0, status(&runner, &[])).contains(&format!("unhealthy     {cause}\n")));
}

#[test]
fn who_watches_on_a_terminal_sees_as_much_as_fits_its_present_size() {
    let runner = failing();
    let mut terminal = Terminal::new(60, 12);
    let mut watching = terminal.start(status(&runner, &["--watch"]));
    let screens = |shown: &str| shown.matches("\x1b[H\x1b[2J").count();
    terminal.wait_for(|shown| shown.contains("more lines: start-worker status\n"));
    let (_, first) = terminal.shown.rsplit_once("\x1b[H\x1b[2J").unwrap();
    assert!(first.starts_with("state ") && first.contains("\nunhealthy "), "{first}");
    assert!(widest(first) <= 60 && first.lines().count() < 12, "{first}");

    terminal.resize(120, 200);
    terminal.shown.clear();
    terminal.wait_for(|shown| screens(shown) > 2);
    let last = terminal.shown.rsplit("\x1b[H\x1b[2J").nth(1).unwrap().to_owned();
    assert!(last.contains("next_in=") && !last.contains("more lines"), "{last}");
    assert!(widest(&last) > 60 && widest(&last) <= 120, "{last}");
    watching.kill().unwrap();
    watching.wait().unwrap();
}

/// The colours in a text, each with the coloured text.
fn coloured(text: &str) -> Vec<(&str, &str)> {
    let parts = text.split("\x1b[").skip(1).filter_map(|part| part.split_once('m'));
    parts.filter(|(colour, _)| *colour != "0").collect()
}

const RED: &str = "31";

#[test]
fn a_terminal_has_colours_unless_the_user_wants_none_and_a_pipe_never_has() {
    let runner = failing();
    let with = |set: &[(&str, &str)]| {
        let mut command = status(&runner, &[]);
        command.env_remove("NO_COLOR").env("TERM", "xterm").envs(set.iter().copied());
        command
    };
    for set in [&[][..], &[("NO_COLOR", "")]] {
        let shown = Terminal::status(100, with(set));
        let words = coloured(&shown);
        assert!(
            words.iter().any(|(colour, text)| *colour == RED && text.contains("Connection refused")),
            "{words:?}"
        );
    }
    for set in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let shown = Terminal::status(100, with(&[set]));
        assert!(!shown.contains('\x1b'), "{set:?}: {shown}");
    }
    let piped = String::from_utf8(with(&[]).output().unwrap().stdout).unwrap();
    assert!(piped.contains("Connection refused") && !piped.contains('\x1b'), "{piped}");

    // Colours take no columns: lines that fit without them fit with them.
    let mut terminal = Terminal::new(60, 12);
    let mut watching = status(&runner, &["--watch"]);
    watching.env_remove("NO_COLOR").env("TERM", "xterm");
    let mut watching = terminal.start(watching);
    terminal.wait_for(|shown| shown.contains("more lines: start-worker status\n"));
    let (_, first) = terminal.shown.rsplit_once("\x1b[H\x1b[2J").unwrap();
    assert!(first.lines().count() < 12 && !coloured(first).is_empty(), "{first}");
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn what_check_finds_wrong_has_colours_on_a_terminal_alone() {
    let scene = Scene::new().set("nonsense", true).set("worker.path", "/no/such/program");
    let file = scene.write();
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
        command
            .args(["check", "--strict", "--online"])
            .arg(&file)
            .env_remove("NO_COLOR")
            .env("TERM", "xterm");
        command.stdin(Stdio::null());
        command
    };
    let mut terminal = Terminal::new(100, 24);
    let mut command = check();
    command.stderr(terminal.slave.try_clone().unwrap());
    assert_eq!(terminal.start(command).wait().unwrap().code(), Some(64));
    terminal.wait_for(|shown| shown.contains("# verdict: "));
    let words = coloured(&terminal.shown);
    assert!(words.contains(&(RED, "error:")) && words.contains(&(RED, "# fails ")), "{words:?}");
    let piped = check().output().unwrap();
    assert!(!piped.stderr.contains(&0x1b) && !piped.stdout.contains(&0x1b), "{piped:?}");
}
