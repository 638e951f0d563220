//! This host's disk under an overlay in memory: the real dpkg installs, upgrades and removes there.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::package::build::skip;

/// Makes the overlay in a mount namespace of its own, says so, and keeps it until its input ends.
const MAKE: &str = r#"
    set -e
    mount -t tmpfs tmpfs "$1"
    cd "$1"
    mkdir low upper work root
    mount --bind / low
    mount -t overlay -o lowerdir=low,upperdir=upper,workdir=work overlay root
    mount -t tmpfs tmpfs root/run
    mount --rbind /dev root/dev
    mount -t proc proc root/proc
    echo made
    exec cat
"#;

/// A disk. Nothing of it is left when it is dropped.
pub(crate) struct Machine {
    keeper: Child,
    folder: tempfile::TempDir,
}

impl Machine {
    /// A disk; `None`, said, where this host cannot have one.
    pub(crate) fn make() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip("only root can mount a disk to install on");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "bash", "-c", MAKE, "make"]).arg(folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut keeper = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said != "made\n" {
            let output = keeper.wait_with_output().unwrap();
            let cause = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            skip(&format!("no mount namespace or overlay here: {cause}"));
            return None;
        }
        Some(Self { keeper, folder })
    }

    /// Executes a command there.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        let mut inside = Command::new("nsenter");
        inside.args(["--mount", "--target", &self.keeper.id().to_string(), "chroot"]);
        inside.arg(self.folder.path().join("root")).args(command);
        inside.env_clear().stdin(Stdio::null());
        inside.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        inside.env("DEBIAN_FRONTEND", "noninteractive").output().unwrap()
    }

    /// Runs a command that must succeed. Returns its output.
    #[track_caller]
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        let output = self.run(command);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {}: {out}{err}", output.status);
        out.into_owned()
    }

    /// Installs a package, or upgrades it.
    #[track_caller]
    pub(crate) fn install(&self, package: &Path) {
        std::fs::copy(package, self.seen("/run/package.deb")).unwrap();
        self.dpkg(&["--install", "/run/package.deb"]);
        self.ask(&["rm", "/run/package.deb"]);
    }

    /// dpkg, without the triggers of other packages for ours (an index of all manual pages), and without waiting for a
    /// disk.
    #[track_caller]
    pub(crate) fn dpkg(&self, arguments: &[&str]) {
        self.ask(&[&["dpkg", "--no-triggers", "--force-unsafe-io"], arguments].concat());
    }

    /// Writes a file, and its folders.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.seen(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.seen(path).symlink_metadata().is_ok()
    }

    /// The paths that exist only on this disk and not on the host's, sorted, without dpkg's data about all packages.
    pub(crate) fn added(&self) -> Vec<String> {
        let root = format!("/proc/{}/root{}", self.keeper.id(), self.folder.path().display());
        let found =
            Command::new("find").args([".", "-mindepth", "1"]).current_dir(format!("{root}/upper")).output();
        let found = String::from_utf8(found.unwrap().stdout).unwrap();
        let mut added: Vec<String> = found
            .lines()
            .map(|path| path.trim_start_matches('.').to_owned())
            .filter(|path| !OF_DPKG.iter().any(|folder| path.starts_with(folder)))
            .filter(|path| !Path::new(path).exists())
            .chain(self.ask(&["find", "/run", "-mindepth", "1"]).lines().map(str::to_owned))
            .collect();
        added.sort();
        added
    }

    /// A path of the disk, as this process sees it.
    fn seen(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}/root{path}", self.keeper.id(), self.folder.path().display()))
    }
}

/// The folders that dpkg and its triggers write to.
const OF_DPKG: [&str; 4] =
    ["/var/lib/dpkg/", "/var/log/", "/var/cache/", "/var/lib/systemd/deb-systemd-helper"];

impl Drop for Machine {
    fn drop(&mut self) {
        self.keeper.stdin.take();
        self.keeper.wait().ok();
    }
}
