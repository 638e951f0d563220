//! A machine with the real systemd: `boot.sh` started, watched, and ended; a Taskcluster that only the machine can reach.

use std::ffi::OsStr;
use std::fs;
use std::io::{PipeReader, Read as _};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use test_support::fake_taskcluster::FakeTaskcluster;
use test_support::hung_mount::{self, HungMount, Wait};
use test_support::secrets::Secrets;

use crate::systemd::possible;
use crate::systemd::untouched::{HIERARCHIES, Host, assert_nothing_left_of};

/// Prefix of the cgroup names of all machines; the test's pid and a number follow.
pub(crate) const PREFIX: &str = "start-worker-test-";

/// Time limit for operations that take milliseconds, or for a boot, on an idle host.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The pool, the group, the worker and its secret, of which a machine's worker is.
pub(crate) const POOL: &str = "pp/ww";
pub(crate) const STATIC_SECRET: &str = "a-static-secret-is-of-forty-four-characters-";

/// A machine. Its disk outlives its boots; nothing outlives the machine.
pub(crate) struct Machine {
    name: String,
    before: Host,
    shell: Child,
    /// Closed, it ends the machine.
    lifeline: Option<ChildStdin>,
    console: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    /// The first process of the namespaces in which the machine boots.
    outer: i32,
    /// Units have changed on the disk.
    stale: AtomicBool,
    /// The machine's own Taskcluster, at its loopback.
    pub(crate) taskcluster: FakeTaskcluster,
}

/// Removes the traces of tests from a machine's disk and systemd.
const REFRESH: &str = "\
    systemctl stop 'start-worker*' worker.service old-worker.service 'serial-getty@*' 2>/dev/null; systemctl reset-failed;
    rm -rf /var/lib/start-worker /var/lib/record /run/start-worker /etc/start-worker /etc/start-worker.yml;
    cd /etc/systemd/system && rm -rf *worker* *getty* *.wants && mkdir /var/lib/record";

/// Machines that no test uses at the moment. The end of this process ends them.
static IDLE: Mutex<Vec<Machine>> = Mutex::new(Vec::new());

/// Asks until there is an answer; none within [`DEADLINE`]: none.
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Waits until this much time has passed since a moment, for events that depend on the clock alone.
pub(crate) fn wait_until_after(moment: Instant, time: Duration) {
    eventually(|| (moment.elapsed() >= time).then_some(())).expect("a moment within the deadline");
}

/// `boot.sh` for a machine of this name.
pub(crate) fn shell<S: AsRef<OsStr>>(name: &str, command: impl IntoIterator<Item = S>) -> Command {
    let mut shell = Command::new("bash");
    shell.arg(script()).arg(name).args(command);
    shell
}

/// `boot.sh` that boots a machine of this name.
pub(crate) fn of_boot(name: &str) -> Command {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let mut shell = shell(name, [OsStr::new("bash"), script().as_os_str(), OsStr::new("boot")]);
    shell.args([possible::start_worker(), &possible::test_worker(), &units]);
    shell
}

/// Removes the cgroups of a machine whose shell was killed, as far as they are empty.
pub(crate) fn sweep(name: &str) {
    for hierarchy in HIERARCHIES {
        remove_groups(&Path::new(hierarchy).join(name));
    }
}

fn remove_groups(group: &Path) {
    for below in fs::read_dir(group).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&below.path());
        }
    }
    fs::remove_dir(group).ok();
}

/// The same for all machines of tests that were killed.
fn sweep_the_dead() {
    for entry in HIERARCHIES.iter().flat_map(fs::read_dir).flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).unwrap_or_default();
        let pid = rest.split('-').next().filter(|pid| !pid.is_empty());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove_groups(&entry.path());
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/boot.sh")
}

impl Machine {
    /// A machine on which nothing is enabled but the system itself; `None`: this host cannot. It is this test's alone, and
    /// then the next one's, unless the test fails.
    pub(crate) fn borrow() -> Option<Borrowed> {
        let machine = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut machine = machine.or_else(Self::boot)?;
        machine.refresh();
        Some(Borrowed(Some(machine)))
    }

    /// Boots one.
    pub(crate) fn boot() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !possible::is_possible() {
            return None;
        }
        let before = Host::look();
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        sweep_the_dead();
        let mut shell = of_boot(&name);
        shell.stdin(Stdio::piped());
        // Both to one pipe, in order.
        let (output, input) = std::io::pipe().unwrap();
        shell.stdout(input.try_clone().unwrap()).stderr(input);
        let mut child = shell.spawn().unwrap();
        drop(shell);
        let console = Arc::new(Mutex::new(Vec::new()));
        let reader = Some(read(output, &console));
        let lifeline = child.stdin.take();
        let found = eventually(|| {
            let ended = child.try_wait().unwrap().is_some();
            let found = namespace_leader(i32::try_from(child.id()).unwrap(), 2);
            (ended || found.is_some()).then_some(found)
        });
        let Some(Some(outer)) = found else {
            panic!("there are no namespaces: {}", String::from_utf8_lossy(&console.lock().unwrap()));
        };
        let taskcluster = in_network_of(outer, FakeTaskcluster::start);
        let stale = AtomicBool::new(false);
        let machine =
            Self { name, before, shell: child, lifeline, console, reader, outer, stale, taskcluster };
        machine.wait_for_boot_after(0);
        machine.assert_host_untouched();
        Some(machine)
    }

    /// As after its installation; with a new Taskcluster.
    fn refresh(&mut self) {
        self.ask(["sh", "-c", REFRESH]);
        self.stale.store(true, Ordering::Relaxed);
        self.taskcluster = in_network_of(self.outer, FakeTaskcluster::start);
        self.taskcluster.set_pool(POOL, serde_json::json!({"config": {"workerConfig": {}}}));
        self.taskcluster.add_static_worker(POOL, "wg", "wi", STATIC_SECRET);
    }

    /// Starts something on a thread that is in the machine's network, where it outlives the machine's boots.
    pub(crate) fn in_network<T: Send + 'static>(&self, start: impl FnOnce() -> T + Send + 'static) -> T {
        in_network_of(self.outer, start)
    }

    /// Mounts a file system that never answers at this path, until the mount is dropped.
    pub(crate) fn mount_hung(&self, path: &str) -> HungMount {
        let device = hung_mount::device().expect("no /dev/fuse");
        let mounts = fs::File::open(format!("/proc/{}/ns/mnt", self.init())).unwrap();
        let path = Path::new(path);
        let there = || {
            // Threads that share their root cannot enter another namespace.
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(mounts, CloneFlags::CLONE_NEWNS).unwrap();
            fs::create_dir_all(path).unwrap();
            HungMount::new(path, device, Wait::Endless, Path::new("/usr/bin/test-worker")).unwrap()
        };
        std::thread::scope(|scope| scope.spawn(there).join()).unwrap()
    }

    /// The pid, on the host, of the machine's init; 0 while there is none.
    pub(crate) fn init(&self) -> i32 {
        namespace_leader(self.outer, 3).unwrap_or_default()
    }

    /// Waits until a boot with another init than this is done; returns its init.
    #[track_caller]
    pub(crate) fn wait_for_boot_after(&self, init: i32) -> i32 {
        let booted = eventually(|| {
            let now = self.init();
            if now == 0 || now == init {
                return None;
            }
            let reached = self.run(["systemctl", "is-active", "--quiet", "basic.target"]);
            reached.status.success().then_some(now)
        });
        booted.unwrap_or_else(|| panic!("the machine did not boot\n{self}"))
    }

    /// A path on the machine's disk, as the host sees it; there between two boots, too.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/root{path}", self.outer))
    }

    /// Writes a file on the machine's disk, mode 0600.
    pub(crate) fn write(&self, path: &str, text: &str) {
        if path.starts_with("/etc/systemd") {
            self.stale.store(true, Ordering::Relaxed);
        }
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Reads a file on the machine's disk; empty where there is none.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// Executes a command on the machine.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Output {
        let mut inside = Command::new("nsenter");
        inside
            .args(["-t", &self.init().to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"])
            .args(command);
        inside.env_clear().stdin(Stdio::null());
        inside.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8").env("SYSTEMD_PAGER", "");
        inside.output().unwrap()
    }

    /// Runs a command that must succeed. Returns its output.
    #[track_caller]
    pub(crate) fn ask<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> String {
        let output = self.run(command);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {out}{err}\n{self}", output.status);
        out.into_owned()
    }

    /// `systemctl`, which must succeed; with the units as they are on the disk.
    #[track_caller]
    pub(crate) fn systemctl(&self, arguments: &str) {
        if self.stale.swap(false, Ordering::Relaxed) {
            self.ask(["systemctl", "daemon-reload"]);
        }
        self.ask(std::iter::once("systemctl").chain(arguments.split_whitespace()));
    }

    /// Switches the machine off, and asserts that it was in order and that the host is as it was.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.assert_host_untouched();
        self.systemctl("poweroff");
        let status = eventually(|| self.shell.try_wait().unwrap());
        assert!(
            status.is_some_and(|status| status.success()),
            "the machine was not switched off: {status:?}\n{self}"
        );
        self.before.assert_untouched_by(&self.name);
        assert_nothing_left_of(&self.name);
    }

    /// Takes a process of the host into the machine's cgroup, as its systemd would if it could.
    pub(crate) fn take(&self, pid: u32) {
        let groups = HIERARCHIES.map(|hierarchy| Path::new(hierarchy).join(&self.name).join("supervisor"));
        let taken = groups.iter().any(|group| fs::write(group.join("cgroup.procs"), pid.to_string()).is_ok());
        assert!(taken, "no cgroup of {groups:?}");
    }

    fn assert_host_untouched(&self) {
        self.before.assert_untouched_by(&self.name);
    }

    /// No secret that is on the machine's disk is in its journal.
    fn assert_no_secrets(&self) {
        let mut secrets = Secrets::of_folder(&self.path("/var/lib/start-worker"));
        secrets.add("the static secret", STATIC_SECRET);
        let journal = self.run(["journalctl", "--output=cat", "--no-pager"]);
        secrets.assert_kept(&journal.stdout);
    }
}

/// The process with pid 1 in its own namespace, so many namespaces deep, at or below this one.
pub(crate) fn namespace_leader(pid: i32, depth: usize) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let pids: Vec<&str> = pids.split_whitespace().collect();
    if pids.len() == depth && pids.last() == Some(&"1") {
        return Some(pid);
    }
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().find_map(|child| namespace_leader(child.parse().ok()?, depth))
}

fn in_network_of<T: Send + 'static>(pid: i32, start: impl FnOnce() -> T + Send + 'static) -> T {
    let network = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let there = move || {
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        start()
    };
    std::thread::spawn(there).join().unwrap()
}

/// Collects the data from a pipe.
fn read(mut pipe: PipeReader, kept: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let kept = Arc::clone(kept);
    std::thread::spawn(move || {
        let mut block = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut block) {
            kept.lock().unwrap().extend_from_slice(&block[..count]);
        }
    })
}

impl std::fmt::Display for Machine {
    /// For failed assertions.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let console = self.console.lock().unwrap();
        writeln!(f, "--- the console:\n{}", String::from_utf8_lossy(&console))?;
        let journal = self.run(["journalctl", "--no-pager", "--lines=100", "--output=short-precise"]);
        writeln!(f, "--- the journal:\n{}", String::from_utf8_lossy(&journal.stdout))?;
        writeln!(f, "--- the worker's record:\n{}", self.read(crate::systemd::service::RECORD))
    }
}

/// A machine that others get after the test. A failed test's is thrown away.
pub(crate) struct Borrowed(Option<Machine>);

impl Deref for Borrowed {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(machine) = self.0.take().filter(|_| !std::thread::panicking()) else { return };
        machine.assert_no_secrets();
        machine.assert_host_untouched();
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(machine);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.lifeline.take();
        self.shell.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}
