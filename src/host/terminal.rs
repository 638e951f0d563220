//! The runner's controlling terminal, lent to the worker's process group while a worker lives.
//!
//! The kernel stops a process that changes the settings of its terminal, or reads from it, unless its process group is
//! the terminal's foreground group (termios(3), SIGTTOU and SIGTTIN). The worker has a process group of its own. Where
//! the runner's group is the foreground group, the worker's therefore takes its place, before the worker executes its
//! program.
//!
//! Ctrl-C and Ctrl-\ reach the foreground group alone, and a worker may handle or ignore them. A child of the runner,
//! the *listener*, therefore joins the worker's group. It passes these two signals on to the runner, and it returns the
//! terminal to the runner's group when the runner ends, even by SIGKILL: a shell without job control would not do that.
//!
//! The kernel sends no signal when the listener ends, so nobody else waits for it, as in `probe.rs`.
#![expect(unsafe_code, reason = "fork, and what runs in the child, have no safe wrappers")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp, setpgid};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustix::termios::{tcgetpgrp, tcsetpgrp};
use tokio::io::AsyncReadExt;

/// The signals of Ctrl-C and Ctrl-\.
const TYPED: [Signal; 2] = [Signal::SIGINT, Signal::SIGQUIT];

/// The listener's answer when it has joined a process group. No signal has this number.
const JOINED: u8 = 0;

/// The lent terminal and the listener. Dropping it returns the terminal to the runner's process group.
#[derive(Debug)]
pub struct Loan {
    device: File,
    listener: Pid,
    socket: UnixStream,
    /// The socket, once the runtime reads it.
    reader: Option<tokio::net::UnixStream>,
}

impl Loan {
    /// Starts the listener; `None`: the runner has no terminal, or runs in its background. Fails if the kernel refuses
    /// another process or its descriptors.
    pub fn prepare() -> io::Result<Option<Self>> {
        let opened =
            File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/tty").ok();
        let Some(device) = opened.filter(|device| foreground_group(device) == Some(getpgrp())) else {
            return Ok(None);
        };
        let (socket, its_socket) = UnixStream::pair()?;
        let typed = SigSet::from_iter(TYPED);
        let signals = SignalFd::with_flags(&typed, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let files = [its_socket.as_raw_fd(), device.as_raw_fd(), signals.as_fd().as_raw_fd()];
        let (other_end, runner) = (socket.as_raw_fd(), getpgrp());
        // The listener handles none of the runner's signals.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: without flags the call is a fork without a signal at the child's end. The child makes only system
        // calls on data that was allocated before, and ends without running any other code.
        let forked = Errno::result(unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) });
        if forked == Ok(0) {
            listen(files, other_end, runner.as_raw());
        }
        mask.thread_set_mask()?;
        let pid = i32::try_from(forked?).map_err(|_| Errno::EOVERFLOW)?;
        Ok(Some(Self { device, listener: Pid::from_raw(pid), socket, reader: None }))
    }

    /// The descriptor for the new process in which [`join`] is called.
    pub fn entrance(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Lends the terminal to the process group of a worker that already runs; `false`: the runner is in the background,
    /// or the group does not exist.
    pub fn lend_to(&self, group: Pid) -> bool {
        setpgid(self.listener, group).is_ok() && self.lend()
    }

    /// Lends the terminal again; `false`: the runner is in the background, or the terminal is lent already.
    pub fn lend(&self) -> bool {
        let Some(group) = self.group() else { return false };
        foreground_group(&self.device) == Some(getpgrp()) && self.set_foreground_group(group)
    }

    /// Returns the terminal to the runner's process group. If a shell or another user's process has the terminal, that
    /// process keeps it.
    pub fn take_back(&self) {
        let Some(holder) = foreground_group(&self.device).filter(|holder| *holder != getpgrp()) else {
            return;
        };
        if self.group() == Some(holder) || killpg(holder, None) == Err(Errno::ESRCH) {
            self.set_foreground_group(getpgrp());
        }
    }

    /// Waits for Ctrl-C or Ctrl-\; `None`: the listener has ended. May be dropped and called again.
    pub async fn typed(&mut self) -> Option<Signal> {
        loop {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                none => none.insert(self.socket.try_clone().and_then(nonblocking).ok()?),
            };
            let mut byte = [JOINED];
            if reader.read(&mut byte).await.ok()? == 0 {
                return None;
            }
            if let Some(signal) = TYPED.into_iter().find(|signal| *signal as i32 == i32::from(byte[0])) {
                return Some(signal);
            }
        }
    }

    /// Lets the listener end once it has passed on what was typed until now.
    pub fn finish(&self) {
        // The listener may have been stopped together with the worker.
        let _ = kill(self.listener, Signal::SIGCONT);
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// The process group that the listener has joined.
    fn group(&self) -> Option<Pid> {
        getpgid(Some(self.listener)).ok().filter(|group| *group != getpgrp())
    }

    /// SIGTTOU is ignored (`faults.rs`), so a background process may make this call.
    fn set_foreground_group(&self, group: Pid) -> bool {
        rustix::process::Pid::from_raw(group.as_raw())
            .is_some_and(|group| tcsetpgrp(&self.device, group).is_ok())
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.take_back();
        // The listener has not been reaped yet, so the pid still belongs to it. None of its calls can hang.
        let _ = kill(self.listener, Signal::SIGKILL);
        let _ = waitpid(self.listener, Some(WaitPidFlag::__WCLONE));
    }
}

fn foreground_group(device: &File) -> Option<Pid> {
    tcgetpgrp(device).ok().map(|group| Pid::from_raw(group.as_raw_nonzero().get()))
}

fn nonblocking(socket: UnixStream) -> io::Result<tokio::net::UnixStream> {
    socket.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(socket)
}

/// Has the listener lend the terminal to the process group of the calling process, and waits until that is done. For a
/// new process before it executes a program: makes only system calls. Best effort.
pub fn join(entrance: &OwnedFd) {
    let pid = nix::unistd::getpid().as_raw().to_ne_bytes();
    if rustix::net::send(entrance, &pid, SendFlags::NOSIGNAL).is_ok() {
        let _ = rustix::net::recv(entrance, &mut [JOINED], RecvFlags::empty());
    }
}

/// The listener. It keeps none of the runner's other files open; `other_end`: the runner's end of its socket.
fn listen(files: [RawFd; 3], other_end: RawFd, runner: libc::pid_t) -> ! {
    const SOCKET: RawFd = 0;
    const DEVICE: RawFd = 1;
    const SIGNALS: RawFd = 2;
    // SAFETY: plain system calls; `dup2` and `close_range` affect descriptors of this process alone, which runs nothing
    // else. The buffers outlive the calls.
    unsafe {
        for (kept, file) in [SOCKET, DEVICE, SIGNALS].into_iter().zip(files) {
            libc::dup2(file, kept);
        }
        // Also closes the log, because a reader of the log waits until every writer has closed it. (Kernels before 5.11
        // have no close_range.)
        libc::close(other_end);
        libc::syscall(libc::SYS_close_range, SIGNALS + 1, u32::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, c"terminal".as_ptr());
        let interest = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut watched = [interest(SOCKET), interest(SIGNALS)];
        loop {
            libc::poll(watched.as_mut_ptr(), 2, -1);
            pass_on(SIGNALS, SOCKET, runner);
            let mut group = 0_i32;
            match libc::recv(SOCKET, (&raw mut group).cast(), size_of::<i32>(), libc::MSG_DONTWAIT) {
                0 => break,
                1.. => {
                    // SIGTTOU is blocked. If the runner has been put into the background meanwhile, it stays there.
                    if libc::setpgid(0, group) == 0 && libc::tcgetpgrp(DEVICE) == runner {
                        libc::tcsetpgrp(DEVICE, group);
                    }
                    send(SOCKET, JOINED);
                }
                _ if *libc::__errno_location() == libc::EAGAIN => {}
                _ if *libc::__errno_location() == libc::EINTR => {}
                _ => break,
            }
        }
        pass_on(SIGNALS, SOCKET, runner);
        let own = libc::getpgrp();
        if own != runner && libc::tcgetpgrp(DEVICE) == own {
            libc::tcsetpgrp(DEVICE, runner);
        }
        libc::_exit(0)
    }
}

/// Passes on the received signals, except those that the runner has received itself because the listener was still in
/// the runner's group.
fn pass_on(signals: RawFd, socket: RawFd, runner: libc::pid_t) {
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: plain system calls; all bytes are valid for a structure of integers, which outlives the calls.
    unsafe {
        let mut received: libc::signalfd_siginfo = std::mem::zeroed();
        while usize::try_from(libc::read(signals, (&raw mut received).cast(), size)) == Ok(size) {
            if libc::getpgrp() != runner {
                send(socket, u8::try_from(received.ssi_signo).unwrap_or(JOINED));
            }
        }
    }
}

fn send(socket: RawFd, byte: u8) {
    // SAFETY: a plain system call; the byte outlives it.
    unsafe { libc::send(socket, (&raw const byte).cast(), 1, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
}
