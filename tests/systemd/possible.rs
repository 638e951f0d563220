//! Checks whether a machine can be made on this host, and selects the program under test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The parts of a machine, and the Debian packages that have them.
const NEEDED: &[(&str, &str)] = &[
    ("/usr/bin/systemd-nspawn", "systemd-container"),
    ("/usr/bin/dbus-daemon", "dbus"),
    ("/usr/sbin/agetty", "util-linux"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/bin/nsenter", "util-linux"),
];

/// `pam_systemd.so` tells logind who logs in.
const PAM: &str = "pam_systemd.so";

/// Returns true if the tests can run. Otherwise prints the reason once; with `CI` that is a failure.
pub(crate) fn is_possible() -> bool {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let reason = REASON.get_or_init(|| {
        let reason = why_not();
        if let Some(reason) = &reason {
            tell(&format!("skipped: {reason}"));
        }
        reason
    });
    assert!(
        reason.is_none() || std::env::var_os("CI").is_none(),
        "with CI set nothing may be skipped: {reason:?}"
    );
    reason.is_none()
}

/// The reason why there can be no machine on this host.
fn why_not() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("only root can boot a machine".to_owned());
    }
    if let Some((path, package)) = NEEDED.iter().find(|(path, _)| !Path::new(path).exists()) {
        return Some(format!("there is no {path} (package {package})"));
    }
    if Command::new("ip").arg("-V").output().is_err() {
        return Some("there is no ip (package iproute2)".to_owned());
    }
    let library = format!("/usr/lib/{}-linux-gnu/security/{PAM}", std::env::consts::ARCH);
    if !Path::new(&library).exists() && !Path::new("/usr/lib/security").join(PAM).exists() {
        return Some(format!("there is no {PAM} (package libpam-systemd)"));
    }
    let name = format!("{}{}-look", super::machine::PREFIX, std::process::id());
    let mut shell = super::machine::shell(&name, ["true"]);
    let mut looking = shell.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The end of its input would be the end of it.
    let lifeline = looking.stdin.take();
    let looked = looking.wait_with_output().unwrap();
    drop(lifeline);
    let said = String::from_utf8_lossy(&looked.stderr);
    (!looked.status.success())
        .then(|| format!("no namespaces, cgroup or overlay here: {}", said.trim().replace('\n', "; ")))
}

/// The program under test: `START_WORKER_BINARY`; otherwise the release build, if it is the newest; otherwise the
/// program that cargo has built for this test.
pub(crate) fn start_worker() -> &'static Path {
    static CHOSEN: OnceLock<PathBuf> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_start-worker"));
        let release = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/start-worker");
        let age = |path: &Path| path.metadata().and_then(|about| about.modified()).ok();
        let newest = if age(&release) >= age(&built) { release } else { built };
        let chosen = std::env::var_os("START_WORKER_BINARY").map_or(newest, PathBuf::from);
        tell(&format!("the program under test is {}", chosen.display()));
        chosen
    })
}

/// Prints a text even for tests that pass: the output of the macros is captured.
pub(crate) fn tell(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}

/// The path at which cargo puts the test worker.
pub(crate) fn test_worker() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_start-worker")).with_file_name("examples/test-worker");
    assert!(path.exists(), "no {}: `--test machines` needs `--example test-worker`", path.display());
    path
}
