//! An interactive shell on its own terminal, in which a test types.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, tcgetpgrp};
use test_support::processes::{self, Process};
use test_support::record::Event;
use test_support::secrets::Secrets;

use super::scene::ACCESS_TOKEN;
use super::{Scene, eventually};

const PROMPT: &str = "prompt> ";

/// Ctrl-C, Ctrl-\ and Ctrl-Z.
pub(crate) const INTERRUPT: u8 = 0x03;
pub(crate) const QUIT: u8 = 0x1c;
pub(crate) const SUSPEND: u8 = 0x1a;

/// A shell in the folder of a scene. Dropping it kills everything.
pub(crate) struct Shell {
    scene: Scene,
    bash: Child,
    master: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Shell {
    /// Starts a shell with job control, and writes the runner configuration.
    pub(crate) fn start(scene: Scene) -> Self {
        scene.write();
        // Close-on-exec: a process that inherited the descriptor would keep the terminal open.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname_r(&master).unwrap();
        let slave = || {
            let opened = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&name);
            Stdio::from(opened.unwrap())
        };
        let mut command = Command::new("setsid");
        command.args(["--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"]);
        command.env("PS1", PROMPT).envs(scene.variables()).current_dir(env!("CARGO_MANIFEST_DIR"));
        let bash = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        let (master, screen) = (File::from(OwnedFd::from(master)), Arc::<Mutex<Vec<u8>>>::default());
        let (mut reader, shown) = (master.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            // An error means that no process has the terminal open any more.
            while let Ok(count) = reader.read(&mut block) {
                shown.lock().unwrap().extend_from_slice(&block[..count]);
            }
        });
        let shell = Self { scene, bash, master, screen };
        shell.wait_for(PROMPT);
        shell
    }

    /// The command that starts the runner.
    pub(crate) fn runner(&self) -> String {
        format!("{} {}", env!("CARGO_BIN_EXE_start-worker"), self.scene.path("runner.yml").display())
    }

    /// Starts the runner in the foreground, followed by the output of its exit code. Returns its pid once its worker
    /// has recorded its start.
    pub(crate) fn run(&self) -> i32 {
        self.line(&format!("{}; echo \"exit=$?.\"", self.runner()));
        self.wait_for_event("start", 1);
        self.child("start-worker")
    }

    /// Types a line.
    pub(crate) fn line(&self, line: &str) {
        (&self.master).write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Types a control character.
    pub(crate) fn press(&self, key: u8) {
        (&self.master).write_all(&[key]).unwrap();
    }

    /// Everything that the terminal has shown.
    pub(crate) fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).replace("\r\n", "\n")
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        assert!(eventually(|| self.screen().contains(text).then_some(())).is_some(), "no `{text}`\n{self}");
    }

    /// Waits until this is the terminal's foreground group.
    #[track_caller]
    pub(crate) fn wait_for_foreground(&self, group: i32) {
        let has = eventually(|| (self.foreground() == group).then_some(()));
        assert!(has.is_some(), "{group} has not got the terminal\n{self}");
    }

    /// The terminal's foreground process group.
    pub(crate) fn foreground(&self) -> i32 {
        tcgetpgrp(&self.master).map_or(-1, Pid::as_raw)
    }

    /// Waits until the shell has the terminal again, and a command works in it.
    #[track_caller]
    pub(crate) fn assert_usable(&self) {
        self.wait_for_foreground(self.pid());
        self.line("read answer; stty; echo \"answer=$answer.\"");
        self.line("typed");
        self.wait_for("answer=typed.");
    }

    pub(crate) fn pid(&self) -> i32 {
        self.bash.id().cast_signed()
    }

    /// Waits for the shell's child with this name.
    #[track_caller]
    pub(crate) fn child(&self, name: &str) -> i32 {
        let found = eventually(|| {
            let children = processes::children(self.pid());
            children.iter().find(|child| child.name == name).map(|child| child.pid)
        });
        found.unwrap_or_else(|| panic!("no {name}\n{self}"))
    }

    /// Everything that the worker has recorded so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        Event::read(&self.scene.path("record"))
    }

    /// Waits for the `count`-th event of this name.
    #[track_caller]
    pub(crate) fn wait_for_event(&self, name: &str, count: usize) -> Event {
        let found = eventually(|| {
            let events = self.events();
            events.into_iter().filter(|event| event.name() == name).nth(count - 1)
        });
        found.unwrap_or_else(|| panic!("no {name} {count}\n{self}"))
    }

    /// The answer of `start-worker status --json`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let socket = self.scene.path("status.sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
        let said = command.args(["status", "--json", "--socket"]).arg(socket).output().unwrap();
        serde_json::from_slice(&said.stdout).unwrap_or_default()
    }

    /// The scene's live processes, except the shell.
    pub(crate) fn living(&self) -> Vec<Process> {
        let mut living = self.scene.living();
        living.retain(|process| process.pid != self.pid());
        living
    }
}

impl std::fmt::Display for Shell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "--- foreground group {}, shell {}; the screen:", self.foreground(), self.pid())?;
        writeln!(f, "{}--- the worker's record: {:?}", self.screen(), self.events())?;
        writeln!(f, "--- living: {:?}", self.living())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let gone = eventually(|| {
            let living = self.living();
            for process in &living {
                kill(Pid::from_raw(process.pid), Signal::SIGKILL).ok();
            }
            living.is_empty().then_some(())
        });
        self.bash.kill().ok();
        self.bash.wait().ok();
        if !std::thread::panicking() {
            assert!(gone.is_some(), "cannot kill what the scene has left behind");
            let mut secrets = Secrets::of_folder(self.scene.path("").as_path());
            secrets.add("the scene's access token", ACCESS_TOKEN);
            secrets.assert_kept(&self.screen.lock().unwrap());
        }
    }
}
