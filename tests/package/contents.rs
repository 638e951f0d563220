//! The contents of the package.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::package::build::must;

fn said(command: &mut Command) -> String {
    String::from_utf8(must(command).stdout).unwrap()
}

/// Each file with its mode and owner: `-rwxr-xr-x 0/0 /usr/bin/start-worker`.
fn files(package: &Path) -> BTreeSet<String> {
    let list = said(Command::new("dpkg-deb").arg("--contents").arg(package));
    let lines = list.lines().filter(|line| !line.ends_with('/'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Of root, by number or by name.
            format!("{} {} {}", words[0], words[1].replace("root", "0"), words[5].trim_start_matches('.'))
        })
        .collect()
}

/// The names in a folder of the project that end so.
fn names(folder: &str, end: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(end))
        .collect()
}

#[test]
fn the_package_has_the_program_its_units_and_its_documents_and_nothing_else() {
    let Some(built) = crate::package::built() else { return };
    let mut expected: BTreeSet<String> = [
        "/etc/needrestart/conf.d/start-worker.conf",
        "/usr/share/bash-completion/completions/start-worker",
        "/usr/share/doc/start-worker/CHANGELOG.md",
        "/usr/share/doc/start-worker/CONTRIBUTING.md",
        "/usr/share/doc/start-worker/Cargo.lock",
        "/usr/share/doc/start-worker/README.md",
        "/usr/share/doc/start-worker/SECURITY.md",
        "/usr/share/doc/start-worker/changelog.Debian.gz",
        "/usr/share/doc/start-worker/copyright",
        "/usr/share/doc/start-worker/examples/cloud-image.conf",
        "/usr/share/doc/start-worker/examples/hardening.conf",
        "/usr/share/lintian/overrides/start-worker",
        "/usr/share/fish/vendor_completions.d/start-worker.fish",
        "/usr/share/man/man5/start-worker.yml.5.gz",
        "/usr/share/zsh/vendor-completions/_start-worker",
    ]
    .map(|path| format!("-rw-r--r-- 0/0 {path}"))
    .into();
    let mut all = |folder: &str, end: &str, to: &str| {
        expected.extend(names(folder, end).iter().map(|name| format!("-rw-r--r-- 0/0 {to}/{name}")));
    };
    all("systemd", ".service", "/usr/lib/systemd/system");
    all("config-examples", ".yml", "/usr/share/doc/start-worker/examples");
    all("config-examples/monitoring", "", "/usr/share/doc/start-worker/examples/monitoring");
    all("docs/images", "", "/usr/share/doc/start-worker/docs/images");
    all("docs", ".md", "/usr/share/doc/start-worker/docs");
    all("docs/providers", ".md", "/usr/share/doc/start-worker/docs/providers");
    expected.extend(
        names("target/package/man", ".1")
            .iter()
            .map(|name| format!("-rw-r--r-- 0/0 /usr/share/man/man1/{name}.gz")),
    );
    for link in ["LICENSE", "config-examples"] {
        expected.insert(format!("lrwxrwxrwx 0/0 /usr/share/doc/start-worker/{link}"));
    }
    for program in ["/usr/bin/start-worker", "/usr/share/doc/start-worker/examples/demo-worker.sh"] {
        expected.insert(format!("-rwxr-xr-x 0/0 {program}"));
    }
    assert_eq!(files(&built.packages[0]), expected);
}

#[test]
fn the_package_needs_nothing_but_the_c_library() {
    let Some(built) = crate::package::built() else { return };
    let field = |name: &str| said(Command::new("dpkg-deb").arg("--field").arg(&built.packages[0]).arg(name));
    let needed = field("Depends");
    let names: Vec<&str> = needed.split(',').filter_map(|one| one.split_whitespace().next()).collect();
    assert!(names.iter().all(|name| ["libc6", "libgcc-s1"].contains(name)), "{needed}");
    assert!(names.contains(&"libc6"), "{needed}");
    assert_eq!(field("Pre-Depends").trim(), "");
}

#[test]
fn the_maintainer_scripts_are_what_dash_understands_and_start_nothing() {
    for name in ["postinst", "prerm", "postrm"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/debian").join(name);
        must(Command::new("dash").arg("-n").arg(&path));
        let text = std::fs::read_to_string(path).unwrap();
        let commands: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        for word in ["restart", " start ", " enable", "systemctl start"] {
            assert!(!commands.iter().any(|line| line.contains(word)), "{name}: {word}");
        }
    }
}

#[test]
fn two_packages_of_one_program_are_the_same_byte_for_byte() {
    let Some(built) = crate::package::built() else { return };
    assert_eq!(std::fs::read(&built.packages[0]).unwrap(), std::fs::read(built.again()).unwrap());
}

/// The links of a document to files, without those to places of the web.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains([':', ' ', '`'])).collect()
}

#[test]
fn no_link_of_an_installed_document_is_dead() {
    let Some(built) = crate::package::built() else { return };
    let folder = tempfile::tempdir().unwrap();
    must(Command::new("dpkg-deb").arg("--extract").arg(&built.packages[0]).arg(folder.path()));
    let root = folder.path().join("usr/share/doc/start-worker");
    let (mut folders, mut seen, mut dead) = (vec![root], 0, Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                let text = std::fs::read_to_string(&path).unwrap();
                let targets = links(&text);
                seen += targets.len();
                let broken = targets.into_iter().filter(|target| !path.with_file_name(target).exists());
                dead.extend(broken.map(|target| format!("{}: {target}", path.display())));
            }
        }
    }
    assert!(seen > 100, "{seen}: links are not found any more");
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn debians_tools_read_the_changelog() {
    let Some(built) = crate::package::built() else { return };
    let read = |field: &str| {
        let mut command = Command::new("dpkg-parsechangelog");
        let output = must(command.arg("-l").arg(built.documents.join("changelog")).args(["-S", field]));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(read("Source").trim(), "start-worker");
    assert_eq!(read("Version").trim(), concat!(env!("CARGO_PKG_VERSION"), "-1"));
    assert!(read("Changes").contains("\n  * "), "{}", read("Changes"));
}

#[test]
fn lintian_finds_no_error_in_the_package() {
    let Some(built) = crate::package::built() else { return };
    if Command::new("lintian").arg("--version").output().is_err() {
        crate::package::build::skip("there is no lintian");
        return;
    }
    let mut command = Command::new("lintian");
    let output = command.args(["--allow-root", "--tag-display-limit", "0"]).arg(&built.packages[0]).output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("E: ")).collect();
    assert!(errors.is_empty(), "{said}");
}
