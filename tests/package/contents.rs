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
            format!("{} {} {}", words[0], words[1], words[5].trim_start_matches('.'))
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
        "/usr/share/doc/start-worker/Cargo.lock",
        "/usr/share/doc/start-worker/README.md",
        "/usr/share/doc/start-worker/changelog.gz",
        "/usr/share/doc/start-worker/copyright",
        "/usr/share/doc/start-worker/examples/cloud-image.conf",
        "/usr/share/doc/start-worker/examples/hardening.conf",
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
    all("docs", ".md", "/usr/share/doc/start-worker/docs");
    all("docs/providers", ".md", "/usr/share/doc/start-worker/docs/providers");
    expected.extend(
        names("target/package/man", ".1")
            .iter()
            .map(|name| format!("-rw-r--r-- 0/0 /usr/share/man/man1/{name}.gz")),
    );
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
