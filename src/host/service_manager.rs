//! Notifications to the service manager that started the runner: status, readiness and heartbeats.
//!
//! The protocol is `sd_notify(3)`: one datagram with one `NAME=value` a line, sent to the socket that `NOTIFY_SOCKET`
//! names. It is implemented here, in a line of code, because the crates for it read the environment themselves.
//!
//! Nothing here blocks. If the manager accepts no more datagrams, it misses one, and the next heartbeat, which then
//! comes earlier, makes up for it.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::blocking::Lane;

/// The extension requested from the manager at once, when a start or a stop takes longer than it allows.
const EXTENSION: Duration = Duration::from_secs(120);

/// Interval of the extension requests: two within each extension.
const EXTEND_EVERY: Duration = Duration::from_secs(60);

/// Delay of the next heartbeat after a missed datagram.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Interval at which the status is refreshed if the manager expects no heartbeat.
const SHOW_EVERY: Duration = Duration::from_secs(300);

/// Time limit for the file system of the manager's socket.
const LOOK: Duration = Duration::from_secs(5);

/// The variables that systemd passes to the runner only. Neither the worker and its tasks nor a host command may see
/// them.
pub const VARIABLES: [&str; 15] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "FDSTORE",
    "JOURNAL_STREAM",
    "INVOCATION_ID",
    "MAINPID",
    "MANAGERPID",
    "SYSTEMD_EXEC_PID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
];

/// Removes [`VARIABLES`] from the environment of this command.
pub fn hide_from(command: &mut Command) {
    for name in VARIABLES {
        command.env_remove(name);
    }
}

/// The service manager's variables in the runner's environment.
#[derive(Debug, Clone, Default)]
pub struct Address {
    /// `NOTIFY_SOCKET`: a path, or `@` and an abstract name.
    pub notify_socket: Option<OsString>,
    /// `WATCHDOG_USEC`, if `WATCHDOG_PID` names this process.
    pub watchdog: Option<Duration>,
}

/// A handle to the service manager. Without a service manager, every method does nothing. Clones share the connection.
#[derive(Debug, Clone, Default)]
pub struct ServiceManager(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    socket: UnixDatagram,
    address: SocketAddr,
    /// Interval of the heartbeats: a third of the manager's time limit, so that one may be late.
    watchdog: Option<Duration>,
    last_beat: Mutex<Instant>,
    /// True while a start or stop may take longer than the manager allows.
    extending: AtomicBool,
    ready: AtomicBool,
    /// True once the final status has been sent. Later statuses from other tasks are out of date.
    concluded: AtomicBool,
    /// True if the manager did not accept a datagram since the last heartbeat.
    missed: AtomicBool,
    /// Brings the next heartbeat forward.
    sooner: Notify,
    /// Notified at each heartbeat.
    beats: Notify,
}

impl ServiceManager {
    /// As [`Self::at`], unless the file system of the socket does not answer: sending to a path includes a look-up of
    /// that path.
    pub async fn where_it_answers(address: &Address, lane: &Lane) -> Self {
        let path = address.notify_socket.as_deref().map(Path::new).filter(|path| path.is_absolute());
        if let Some(path) = path
            && let Err(error) = lane.at(path, LOOK, || ()).await
        {
            warn!(socket = %path.display(), %error, "cannot tell the service manager anything (NOTIFY_SOCKET)");
            return Self(None);
        }
        Self::at(address)
    }

    /// Connects to the service manager at this address. Logs a warning if that fails.
    pub fn at(address: &Address) -> Self {
        let Some(name) = address.notify_socket.as_deref().filter(|name| !name.is_empty()) else {
            return Self(None);
        };
        match Inner::new(name, address.watchdog) {
            Ok(inner) => Self(Some(Arc::new(inner))),
            Err(error) => {
                warn!(socket = %name.display(), %error, "cannot tell the service manager anything (NOTIFY_SOCKET)");
                Self(None)
            }
        }
    }

    /// Returns true if there is a service manager.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Returns true if the service manager has been notified that the service is ready.
    pub fn is_ready(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.ready.load(Ordering::Relaxed))
    }

    /// Sends the status and, with `ready`, that the service is up. Returns true if the manager accepted it. Sends
    /// nothing after [`Self::conclude`].
    pub fn show(&self, status: &str, ready: bool) -> bool {
        let Some(inner) = self.0.as_ref().filter(|inner| !inner.concluded.load(Ordering::Relaxed)) else {
            return true;
        };
        let status: String =
            status.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
        let newly_ready = ready && !inner.ready.load(Ordering::Relaxed);
        let readiness = if newly_ready { "READY=1\n" } else { "" };
        let taken = inner.send(&format!("{readiness}STATUS={status}"));
        if taken && newly_ready {
            inner.ready.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// Sends the outcome as the final status, and that the service is stopping.
    pub fn conclude(&self, outcome: &str, ready: bool) {
        self.show(outcome, ready);
        self.stopping();
        if let Some(inner) = &self.0 {
            inner.concluded.store(true, Ordering::Relaxed);
        }
    }

    /// Notifies the manager that the service is stopping.
    pub fn stopping(&self) {
        if let Some(inner) = &self.0 {
            inner.send("STOPPING=1");
        }
    }

    /// Notifies the manager that a requested reload is done.
    pub fn reloaded(&self) {
        let Some(inner) = self.0.as_ref().filter(|_| self.is_ready()) else { return };
        let Ok(now) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) else { return };
        let microseconds = Duration::from(now).as_micros();
        // Sent separately, because in one datagram the second would cancel the first.
        inner.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
        if !inner.send("READY=1") {
            // Otherwise the manager would wait for the end of the reload.
            inner.ready.store(false, Ordering::Relaxed);
        }
    }

    /// Marks the beginning or the end of a start or stop that may take longer than the manager allows.
    pub fn extend(&self, extending: bool) {
        let Some(inner) = &self.0 else { return };
        // Requested each time, because a start's extension does not apply to the stop that follows.
        if extending {
            inner.beat(true);
        }
        inner.extending.store(extending, Ordering::Relaxed);
    }

    /// Waits until the next heartbeat is due and sends it. Awaiting this proves that the caller is still making
    /// progress. Cancel-safe.
    pub async fn heartbeat(&self) {
        let Some(inner) = &self.0 else { return std::future::pending().await };
        while tokio::time::timeout_at(inner.next_beat(), inner.sooner.notified()).await.is_ok() {}
        inner.beat(inner.extending.load(Ordering::Relaxed));
    }

    /// Sends heartbeats while it awaits `future` in the same task.
    pub async fn alive_while<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                value = &mut future => return value,
                () = self.heartbeat() => {}
            }
        }
    }

    /// Waits for a heartbeat that other code sends, so that the status can be refreshed without an extra wake-up.
    pub async fn beaten(&self) {
        match &self.0 {
            Some(inner) => inner.beats.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Inner {
    fn new(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "not a unix socket")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address,
            watchdog: watchdog.map(|time| time / 3),
            last_beat: Mutex::new(Instant::now()),
            extending: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            concluded: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            sooner: Notify::new(),
            beats: Notify::new(),
        })
    }

    fn last_beat(&self) -> MutexGuard<'_, Instant> {
        self.last_beat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_beat(&self) -> Instant {
        let every = self.watchdog.unwrap_or(SHOW_EVERY);
        let every = if self.extending.load(Ordering::Relaxed) { every.min(EXTEND_EVERY) } else { every };
        *self.last_beat() + if self.missed.load(Ordering::Relaxed) { every.min(AGAIN_AFTER) } else { every }
    }

    fn beat(&self, extending: bool) {
        *self.last_beat() = Instant::now();
        self.missed.store(false, Ordering::Relaxed);
        let mut message = String::new();
        if self.watchdog.is_some() {
            message.push_str("WATCHDOG=1\n");
        }
        if extending {
            // Writing to a String cannot fail.
            let _ = writeln!(message, "EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros());
        }
        if !message.is_empty() {
            self.send(&message);
        }
        self.beats.notify_one();
    }

    /// Returns true if the datagram was accepted.
    fn send(&self, message: &str) -> bool {
        match self.socket.send_to_addr(message.as_bytes(), &self.address) {
            Ok(_) => true,
            Err(error) => {
                debug!(%error, "the service manager misses a notification");
                self.missed.store(true, Ordering::Relaxed);
                self.sooner.notify_one();
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service manager's own socket, and the runner's side of it.
    fn manager(watchdog: Option<Duration>) -> (tempfile::TempDir, UnixDatagram, ServiceManager) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager = ServiceManager::at(&Address { notify_socket: Some(path.into()), watchdog });
        (folder, socket, manager)
    }

    fn told(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 4096];
        let mut told = Vec::new();
        while let Ok(size) = socket.recv(&mut buffer) {
            told.push(String::from_utf8_lossy(&buffer[..size]).into_owned());
        }
        told
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_come_three_times_as_often_as_the_manager_looks_while_somebody_awaits_them() {
        let (_folder, socket, manager) = manager(Some(Duration::from_secs(300)));
        let lives = manager.alive_while(tokio::time::sleep(Duration::from_secs(601)));
        lives.await;
        assert_eq!(told(&socket), ["WATCHDOG=1\n"; 6]);
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!(told(&socket), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_that_is_dropped_again_and_again_still_comes_in_time() {
        let (_folder, socket, manager) = manager(Some(Duration::from_secs(300)));
        for _ in 0..110 {
            let _ = tokio::time::timeout(Duration::from_secs(1), manager.heartbeat()).await;
        }
        assert_eq!(told(&socket), ["WATCHDOG=1\n"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_extended_at_once_and_before_the_extension_is_over() {
        let (_folder, socket, manager) = manager(None);
        manager.extend(true);
        assert_eq!(told(&socket), ["EXTEND_TIMEOUT_USEC=120000000\n"]);
        manager.alive_while(tokio::time::sleep(Duration::from_secs(130))).await;
        assert_eq!(told(&socket), ["EXTEND_TIMEOUT_USEC=120000000\n"; 2]);
        manager.extend(false);
        manager.alive_while(tokio::time::sleep(Duration::from_secs(1000))).await;
        assert_eq!(told(&socket), [""; 0]);
    }

    #[test]
    fn it_is_told_once_that_the_service_is_ready_and_a_status_is_one_line() {
        let (_folder, socket, manager) = manager(None);
        manager.reloaded();
        manager.show("preparing", false);
        manager.show("running\nREADY=0", true);
        manager.show("running", true);
        manager.reloaded();
        let told = told(&socket);
        assert_eq!(told[..3], ["STATUS=preparing", "READY=1\nSTATUS=running READY=0", "STATUS=running"]);
        let now = told[3].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(now.parse::<u64>().unwrap() > 0);
        assert_eq!(told[4..], ["READY=1"]);
    }

    #[test]
    fn what_was_not_taken_is_not_taken_for_told() {
        let (folder, socket, manager) = manager(None);
        let path = folder.path().join("notify");
        drop(socket);
        std::fs::remove_file(&path).unwrap();
        manager.show("running", true);
        assert!(!manager.is_ready());
        let socket = UnixDatagram::bind(&path).unwrap();
        manager.show("running", true);
        assert!(manager.is_ready());
        socket.set_nonblocking(true).unwrap();
        assert_eq!(told(&socket), ["READY=1\nSTATUS=running"]);
    }

    /// Sends until no more is accepted.
    fn fill(folder: &tempfile::TempDir) {
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        while other.send_to(b"other", folder.path().join("notify")).is_ok() {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_that_was_not_taken_is_given_again_soon() {
        let (folder, socket, manager) = manager(Some(Duration::from_secs(300)));
        fill(&folder);
        manager.alive_while(tokio::time::sleep(Duration::from_secs(101))).await;
        assert!(told(&socket).iter().all(|told| told == "other"));
        manager.alive_while(tokio::time::sleep(Duration::from_secs(5))).await;
        assert_eq!(told(&socket), ["WATCHDOG=1\n"]);
        manager.alive_while(tokio::time::sleep(Duration::from_secs(98))).await;
        assert_eq!(told(&socket), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_was_not_taken_brings_a_heartbeat_that_is_awaited_already() {
        let (folder, socket, manager) = manager(None);
        let misses = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            fill(&folder);
            assert!(!manager.show("running", true));
            told(&socket);
            let soon = tokio::time::timeout(Duration::from_secs(6), manager.beaten()).await;
            assert!(soon.is_ok() && manager.show("running", true));
        };
        manager.alive_while(misses).await;
        assert_eq!(told(&socket), ["READY=1\nSTATUS=running"]);
    }

    #[test]
    fn a_reload_whose_end_was_not_taken_is_not_taken_for_ended() {
        let (folder, socket, manager) = manager(None);
        assert!(manager.show("running", true));
        fill(&folder);
        manager.reloaded();
        assert!(!manager.is_ready());
        drop(socket);
    }

    #[test]
    fn nothing_is_shown_after_the_last_status() {
        let (_folder, socket, manager) = manager(None);
        manager.conclude("stopped as asked", true);
        assert!(manager.show("preparing", true));
        assert_eq!(told(&socket), ["READY=1\nSTATUS=stopped as asked", "STOPPING=1"]);
    }

    #[test]
    fn an_abstract_socket_is_spoken_to() {
        let name = format!("start-worker-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let notify_socket = Some(OsString::from(format!("@{name}")));
        ServiceManager::at(&Address { notify_socket, watchdog: None }).stopping();
        assert_eq!(told(&socket), ["STOPPING=1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_manager_nothing_happens_and_nothing_wakes_up() {
        for name in [None, Some(OsString::new()), Some("vsock:2:1".into())] {
            let manager = ServiceManager::at(&Address { notify_socket: name, watchdog: None });
            assert!(!manager.is_there());
            manager.show("running", true);
            manager.stopping();
            let waits = tokio::time::timeout(Duration::from_secs(100_000), manager.heartbeat()).await;
            assert!(waits.is_err());
        }
    }
}
