//! The package, built once for all tests of a process; also for those under the real systemd.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The two versions there are: an upgrade goes from the one to the other.
pub(crate) const VERSIONS: [&str; 2] = ["0.0.1-1", "0.0.1-2"];

/// The programs that the tests need, and the Debian packages that have them.
const NEEDED: [(&str, &str); 3] = [
    ("cargo-deb", "cargo install cargo-deb --locked"),
    ("dpkg-shlibdeps", "package dpkg-dev"),
    ("strip", "binutils"),
];

/// Packages, and the folder they are in.
pub(crate) struct Built {
    folder: tempfile::TempDir,
    /// The generated documents: `man`, and a folder for each shell.
    pub(crate) documents: PathBuf,
    /// One for each of [`VERSIONS`].
    pub(crate) packages: [PathBuf; 2],
}

impl Built {
    /// The first one, built again.
    pub(crate) fn again(&self) -> PathBuf {
        pack(self.folder.path(), VERSIONS[0], "again.deb")
    }
}

/// The package of this program; `None`, said once, where this host cannot build it.
pub(crate) fn built(program: &Path) -> Option<&'static Built> {
    static BUILT: OnceLock<Option<Built>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let missing =
            NEEDED.iter().find(|(program, _)| Command::new(program).arg("--version").output().is_err());
        match missing {
            None => Some(build(program)),
            Some((program, from)) => {
                skip(&format!("there is no {program} ({from})"));
                None
            }
        }
    });
    built.as_ref()
}

/// Tells why tests do not run, also where the test passes; with `CI` that is a failure.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "with CI set nothing may be skipped: {reason}");
    writeln!(std::io::stderr(), "skipped: {reason}").ok();
}

/// Runs a command that must succeed.
#[track_caller]
pub(crate) fn must(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
    output
}

fn build(program: &Path) -> Built {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    // The documents are where the package's list of files has them.
    let documents = project.join("target/package");
    let maker = Path::new(env!("CARGO_BIN_EXE_start-worker")).with_file_name("examples/documents");
    must(Command::new(maker).arg(&documents).env("SOURCE_DATE_EPOCH", "1000000000"));
    // cargo-deb packs release builds: it is shown a target folder with the program that is there, and told to build
    // nothing.
    let release = folder.path().join("target/release");
    std::fs::create_dir_all(&release).unwrap();
    must(Command::new("strip").arg("-o").arg(release.join("start-worker")).arg(program));
    let packages = VERSIONS.map(|version| pack(folder.path(), version, &format!("{version}.deb")));
    Built { folder, documents, packages }
}

/// Packs the program in this folder.
fn pack(folder: &Path, version: &str, name: &str) -> PathBuf {
    let package = folder.join(name);
    let mut command = Command::new("cargo-deb");
    command.args(["--no-build", "--no-strip", "--quiet", "--locked", "--offline"]);
    // Soon rather than small.
    command.args(["--fast", "--compress-system", "--compress-type", "gz"]);
    command.args(["--deb-version", version, "--output"]).arg(&package);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", folder.join("target"));
    must(command.env("SOURCE_DATE_EPOCH", "1000000000"));
    let finish = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/finish");
    let mut finish = Command::new(finish);
    finish.arg(&package).env("SOURCE_DATE_EPOCH", "1000000000").env("DPKG_DEB_COMPRESSOR_TYPE", "gzip");
    must(finish.env("DPKG_DEB_COMPRESSOR_LEVEL", "1"));
    package
}
