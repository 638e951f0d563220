//! Each display manager's files, in a root directory of their own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error_chain::ErrorChain;
use crate::host::autologin::name::{SessionName, Tty, UserName};
use crate::host::autologin::{Autologin, AutologinError, DisplayManager, Done};

/// A root with the users `ci` (1000) and `daemon` (1).
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::Builder::new().prefix("start-worker-autologin-").tempdir().unwrap());
        host.file(
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:\ndaemon:x:1:1::/:\nci:x:1000:1000::/:\n",
        );
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn login(&self, display_manager: DisplayManager) -> Autologin {
        Autologin::new(self.0.path(), display_manager, Tty::default())
    }

    fn set(&self, display_manager: DisplayManager) -> Done {
        self.login(display_manager).set(&ci(), None).unwrap()
    }

    /// The display manager and file that `auto` finds.
    fn found(&self) -> String {
        let shown = self.login(DisplayManager::Auto).show().unwrap();
        let file = shown.file.strip_prefix(self.0.path()).unwrap().display().to_string();
        format!("{} {file}", shown.display_manager)
    }
}

fn ci() -> UserName {
    UserName::parse("ci").unwrap()
}

fn said(error: &AutologinError, host: &Host) -> String {
    ErrorChain(error).to_string().replace(host.0.path().to_str().unwrap(), "ROOT")
}

const LIGHTDM: &str = "etc/lightdm/lightdm.conf.d/90-start-worker-autologin.conf";
const SDDM: &str = "etc/sddm.conf.d/90-start-worker-autologin.conf";
const GETTY: &str = "etc/systemd/system/getty@tty1.service.d/90-start-worker-autologin.conf";

#[test]
fn auto_follows_the_unit_then_the_default_then_takes_getty() {
    let host = Host::new();
    assert_eq!(host.found(), format!("getty {GETTY}"));
    host.file("etc/X11/default-display-manager", "/usr/sbin/sddm\n");
    assert_eq!(host.found(), format!("sddm {SDDM}"));
    let unit = "etc/systemd/system/display-manager.service";
    host.link(unit, "/lib/systemd/system/lightdm.service");
    assert_eq!(host.found(), format!("lightdm {LIGHTDM}"));
    for target in ["/lib/systemd/system/gdm3.service", "../../../usr/lib/systemd/system/gdm.service"] {
        fs::remove_file(host.path(unit)).unwrap();
        host.link(unit, target);
        assert_eq!(host.found(), "gdm etc/gdm/custom.conf");
    }
    fs::remove_file(host.path(unit)).unwrap();
    host.link(unit, "/dev/null");
    assert_eq!(host.found(), format!("getty {GETTY}"));
    fs::remove_file(host.path(unit)).unwrap();
    host.link(unit, "/lib/systemd/system/xdm.service");
    let login = host.login(DisplayManager::Auto);
    assert!(!login.is_possible());
    insta::assert_snapshot!(said(&login.set(&ci(), None).unwrap_err(), &host), @r#"/etc/systemd/system/display-manager.service names "xdm", which start-worker does not know: set autologin.displayManager"#);
}

#[test]
fn none_refuses() {
    let host = Host::new();
    let login = host.login(DisplayManager::None);
    assert!(!login.is_possible());
    let errors = [login.set(&ci(), None).unwrap_err(), login.clear().unwrap_err(), login.show().unwrap_err()];
    assert!(errors.iter().all(|error| matches!(error, AutologinError::None)));
}

#[test]
fn gdms_file_is_the_one_that_is_there_or_else_the_distributions() {
    let found = |release: &str, there: &[&str]| {
        let host = Host::new();
        host.file("usr/lib/os-release", release);
        // An absolute target, relative to the root directory.
        host.link("etc/os-release", "/usr/lib/os-release");
        for path in there {
            host.file(path, "");
        }
        let shown = host.login(DisplayManager::Gdm).show().unwrap();
        shown.file.strip_prefix(host.0.path()).unwrap().display().to_string()
    };
    let (ubuntu, debian, others) = ("etc/gdm3/custom.conf", "etc/gdm3/daemon.conf", "etc/gdm/custom.conf");
    assert_eq!(found("ID=ubuntu\n", &[]), ubuntu);
    assert_eq!(found("ID=debian\n", &[]), debian);
    assert_eq!(found("ID=fedora\n", &[]), others);
    for there in [ubuntu, debian, others] {
        assert_eq!(found("ID=unheard-of\n", &[there]), there);
    }
    assert_eq!(found("ID=debian\n", &[ubuntu, debian]), debian);
}

#[test]
fn each_display_manager_is_told_shown_and_cleared() {
    for (display_manager, name, file) in [
        (DisplayManager::Gdm, "gdm", "etc/gdm/custom.conf"),
        (DisplayManager::Lightdm, "lightdm", LIGHTDM),
        (DisplayManager::Sddm, "sddm", SDDM),
        (DisplayManager::Getty, "getty", GETTY),
    ] {
        let host = Host::new();
        let login = host.login(display_manager);
        assert!(login.is_possible());
        let done = login.set(&ci(), None).unwrap();
        let path = host.path(file);
        assert_eq!((done.display_manager, &done.file, done.changed, done.reload), (name, &path, true, false));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(login.show().unwrap().user.as_deref(), Some("ci"));
        assert!(!login.set(&ci(), None).unwrap().changed);
        assert!(login.clear().unwrap().changed);
        assert_eq!(login.show().unwrap().user, None);
        assert!(!login.clear().unwrap().changed);
        assert_eq!(path.exists(), display_manager == DisplayManager::Gdm);
        // Nothing else was left behind.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), usize::from(path.exists()));
    }
}

#[test]
fn a_serial_terminal_has_its_own_unit() {
    let host = Host::new();
    let login = Autologin::new(host.0.path(), DisplayManager::Getty, Tty::parse("ttyS0").unwrap());
    login.set(&ci(), None).unwrap();
    let drop_in = host.read("etc/systemd/system/serial-getty@ttyS0.service.d/90-start-worker-autologin.conf");
    assert!(
        drop_in.contains("ExecStart=\nExecStart=-/sbin/agetty --autologin ci --noclear %I $TERM\n"),
        "{drop_in}"
    );
}

#[test]
fn sessions_go_to_those_who_take_them_and_are_a_warning_to_others() {
    let session = SessionName::parse("ubuntu").unwrap();
    for (display_manager, warned) in [
        (DisplayManager::Lightdm, false),
        (DisplayManager::Sddm, false),
        (DisplayManager::Gdm, true),
        (DisplayManager::Getty, true),
    ] {
        let done = Host::new().login(display_manager).set(&ci(), Some(&session)).unwrap();
        assert_eq!(!done.warnings.is_empty(), warned, "{done:?}");
    }
}

#[test]
fn a_main_file_that_overrules_ours_is_told() {
    let host = Host::new();
    host.file("etc/sddm.conf", "[Autologin]\nUser=bob\n");
    host.file("etc/lightdm/lightdm.conf", "[Seat:*]\n#autologin-user=x\nautologin-user=bob\n");
    for display_manager in [DisplayManager::Sddm, DisplayManager::Lightdm] {
        let warnings = host.set(display_manager).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("bob"), "{warnings:?}");
    }
    host.file("etc/sddm.conf", "[Autologin]\nUser=\nSession=plasma\n");
    assert_eq!(host.set(DisplayManager::Sddm).warnings, [""; 0]);
}

#[test]
fn a_shared_file_keeps_its_mode_and_its_owner() {
    let host = Host::new();
    let file = "etc/gdm3/custom.conf";
    host.file(file, "[daemon]\n");
    let path = host.path(file);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        chown(&path, Some(12), Some(34)).unwrap();
    }
    assert!(host.set(DisplayManager::Gdm).changed);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o640);
    assert!(!is_root || (meta.uid(), meta.gid()) == (12, 34));
}

#[test]
fn a_symlink_at_the_shared_file_is_followed_within_the_root_and_stays() {
    let host = Host::new();
    host.file("srv/gdm.conf", "# ours\n");
    host.link("etc/gdm3/custom.conf", "/srv/gdm.conf");
    let done = host.set(DisplayManager::Gdm);
    assert_eq!(done.file, host.path("srv/gdm.conf"));
    assert!(host.read("srv/gdm.conf").starts_with("# ours\n") && host.read("srv/gdm.conf").contains("=ci\n"));
    assert_eq!(fs::read_link(host.path("etc/gdm3/custom.conf")).unwrap(), Path::new("/srv/gdm.conf"));
}

#[test]
fn no_symlink_leads_out_of_the_root() {
    let outside = tempfile::tempdir().unwrap();
    let host = Host::new();
    host.link("etc/gdm3", outside.path().to_str().unwrap());
    host.link("etc/sddm.conf.d", "../../../../../../../../srv");
    host.file("srv/x", "");
    host.link(LIGHTDM, outside.path().join("victim").to_str().unwrap());
    host.file("etc/os-release", "ID=ubuntu\n");
    for display_manager in [DisplayManager::Gdm, DisplayManager::Sddm, DisplayManager::Lightdm] {
        let done = host.set(display_manager);
        assert!(
            done.file.canonicalize().unwrap().starts_with(host.0.path().canonicalize().unwrap()),
            "{done:?}"
        );
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(host.path("srv/90-start-worker-autologin.conf").is_file());
    // In a file of ours, no link is followed.
    assert!(fs::symlink_metadata(host.path(LIGHTDM)).unwrap().is_file());
}

#[test]
fn symlinks_in_circles_are_an_error() {
    let host = Host::new();
    host.link("etc/gdm3/custom.conf", "daemon.conf");
    host.link("etc/gdm3/daemon.conf", "custom.conf");
    host.file("etc/os-release", "ID=ubuntu\n");
    let error = host.login(DisplayManager::Gdm).set(&ci(), None).unwrap_err();
    insta::assert_snapshot!(said(&error, &host), @"cannot read /etc/gdm3/custom.conf: Too many levels of symbolic links (os error 40)");
}

#[test]
fn what_gdm_would_not_read_is_refused_and_left_alone() {
    let host = Host::new();
    let file = "etc/gdm3/custom.conf";
    host.file(file, "[daemon]\n# fine\noops\n");
    let error = host.login(DisplayManager::Gdm).set(&ci(), None).unwrap_err();
    insta::assert_snapshot!(said(&error, &host), @"ROOT/etc/gdm3/custom.conf cannot be read by gdm, which ignores the whole file: line 3 is no comment, no [section] and no key=value in one; repair it");
    assert_eq!(host.read(file), "[daemon]\n# fine\noops\n");
}

#[test]
fn what_is_no_regular_file_is_an_error_and_not_waited_for() {
    let host = Host::new();
    fs::create_dir_all(host.path("etc/gdm/custom.conf")).unwrap();
    let error = host.login(DisplayManager::Gdm).set(&ci(), None).unwrap_err();
    insta::assert_snapshot!(said(&error, &host), @"cannot read ROOT/etc/gdm/custom.conf: not a regular file");
    fs::remove_dir(host.path("etc/gdm/custom.conf")).unwrap();
    nix::unistd::mkfifo(&host.path("etc/gdm/custom.conf"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(host.login(DisplayManager::Gdm).set(&ci(), None).is_err());
}

#[test]
fn users_are_the_roots_own_and_never_the_superuser() {
    let host = Host::new();
    let login = host.login(DisplayManager::Auto);
    let refused = |name| said(&login.user(name).unwrap_err(), &host);
    assert!(login.user("ci").is_ok() && login.user("daemon").is_ok());
    insta::assert_snapshot!(refused("nemo"), @"no user nemo on this host: make the user first");
    insta::assert_snapshot!(refused("toor"), @"toor has uid 0, and display managers do not log the superuser in");
    insta::assert_snapshot!(refused("root"), @r#"cannot use "root": root is not logged in automatically: display managers refuse it"#);
    insta::assert_snapshot!(refused("a\nb"), @r#"cannot use "a\nb": not a user name: up to 32 of a-z, 0-9, - and _, a letter or _ first"#);
    let asked = |name, allowed| login.user_for_worker(name, allowed).map_err(|error| said(&error, &host));
    assert!(
        asked("ci", None).is_ok() && asked("ci", Some("c?")).is_ok() && asked("daemon", Some("d*")).is_ok()
    );
    insta::assert_snapshot!(asked("daemon", None).unwrap_err(), @"daemon has uid 1: a worker may ask for users from uid 1000 (see autologin.allowedUsers), and never for nobody");
    insta::assert_snapshot!(asked("ci", Some("task_*")).unwrap_err(), @"ci does not match autologin.allowedUsers (task_*)");
    assert!(asked("toor", Some("*")).is_err() && asked("root", Some("*")).is_err());
}

#[test]
fn the_running_system_is_asked_for_its_users() {
    let login = Autologin::new(Path::new("/"), DisplayManager::None, Tty::default());
    assert!(matches!(login.user("no_such_user_at_all"), Err(AutologinError::NoSuchUser(_))));
    assert!(login.user("daemon").is_ok());
}
