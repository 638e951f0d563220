//! Tests with real files, and with a writer that is killed.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::{Command, Stdio};

use super::*;

/// The writer's target; set in the process of the writer only.
const TARGET: &str = "START_WORKER_TEST_ATOMIC_TARGET";
const PRIVATE: Attributes = Attributes { mode: 0o600, owner: None };

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn entries(path: &Path) -> Vec<OsString> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn a_file_is_written_with_its_mode_and_parents_with_theirs() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b/file");
    replace(&path, b"content", PRIVATE, 0o711).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"content");
    assert_eq!(
        (mode(&path), mode(path.parent().unwrap()), mode(&root.path().join("a"))),
        (0o600, 0o711, 0o711)
    );
    assert_eq!(entries(path.parent().unwrap()), ["file"]);
}

#[test]
fn the_mode_of_the_replaced_file_is_not_kept() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, "a long old content").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    replace(&path, b"new", PRIVATE, 0o755).unwrap();
    assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (&b"new"[..], 0o600));
}

#[test]
fn a_symlink_is_replaced_and_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let (victim, path) = (root.path().join("victim"), root.path().join("file"));
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, &path).unwrap();
    replace(&path, b"new", PRIVATE, 0o755).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
}

#[test]
fn parents_may_be_symlinks() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("real")).unwrap();
    symlink(root.path().join("real"), root.path().join("link")).unwrap();
    replace(&root.path().join("link/sub/file"), b"x", PRIVATE, 0o755).unwrap();
    assert_eq!(fs::read(root.path().join("real/sub/file")).unwrap(), b"x");
}

#[test]
fn a_file_is_given_to_its_owner() {
    let root = tempfile::tempdir().unwrap();
    let us = root.path().metadata().unwrap();
    // Only root can give files away; all others can give them to themselves.
    let owner = if us.uid() == 0 {
        Owner { uid: 12_345, gid: 54_321 }
    } else {
        Owner { uid: us.uid(), gid: us.gid() }
    };
    let path = root.path().join("file");
    replace(&path, b"x", Attributes { mode: 0o4755, owner: Some(owner) }, 0o755).unwrap();
    let metadata = path.metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), mode(&path)), (owner.uid, owner.gid, 0o4755));
}

#[test]
fn a_failure_leaves_the_old_file_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "old").unwrap();
    let directory = Directory::open(root.path()).unwrap();
    let failed = directory.replace(OsStr::new("file"), PRIVATE, |file| {
        file.write_all(b"half")?;
        Err(io::ErrorKind::StorageFull.into())
    });
    let error = failed.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot write {}", root.path().join("file").display()));
    assert_eq!(error.io().kind(), io::ErrorKind::StorageFull);
    assert_eq!(entries(root.path()), ["file"]);
    assert_eq!(fs::read(root.path().join("file")).unwrap(), b"old");
}

#[test]
fn what_cannot_be_replaced_is_named_with_what_was_being_done() {
    let root = tempfile::tempdir().unwrap();
    let (directory, file) = (root.path().join("directory"), root.path().join("file"));
    fs::create_dir(&directory).unwrap();
    fs::write(&file, "").unwrap();
    let refused = |path: &Path| replace(path, b"x", PRIVATE, 0o755).unwrap_err().to_string();
    let expected = format!("cannot put a new file in the place of {}", directory.display());
    assert_eq!(refused(&directory), expected);
    assert_eq!(refused(&file.join("below")), format!("cannot open the directory {}", file.display()));
    assert_eq!(refused(Path::new("/")), "cannot write /");
    assert_eq!(entries(&directory), Vec::<OsString>::new());
}

#[test]
fn a_child_directory_is_never_reached_through_a_symlink() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("real")).unwrap();
    symlink("real", root.path().join("link")).unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    let directory = Directory::open(root.path()).unwrap();
    assert!(directory.child(OsStr::new("link"), 0o755).is_err());
    assert!(directory.child(OsStr::new("file"), 0o755).is_err());
    directory.child(OsStr::new("real"), 0o700).unwrap();
    directory.child(OsStr::new("new"), 0o751).unwrap();
    assert_eq!((mode(&root.path().join("real")), mode(&root.path().join("new"))), (0o755, 0o751));
}

/// Not a test of its own: the process that [`a_killed_writer_leaves_the_old_file_or_the_new_one`] kills.
#[test]
fn writes_for_ever_where_a_target_is_given() {
    let Some(target) = std::env::var_os(TARGET) else { return };
    for letter in (b'a'..=b'z').cycle() {
        replace(Path::new(&target), &vec![letter; 1 << 18], PRIVATE, 0o755).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_the_old_file_or_the_new_one() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    let read_whole = || {
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len(), 1 << 18);
        assert!(content.iter().all(|byte| *byte == content[0]), "old and new are mixed");
        content[0]
    };
    replace(&path, &vec![b'A'; 1 << 18], PRIVATE, 0o755).unwrap();
    for kill in 0..50 {
        let before = read_whole();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "host::atomic::tests::writes_for_ever_where_a_target_is_given"])
            .env(TARGET, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while read_whole() == before {
            assert!(writer.try_wait().unwrap().is_none(), "the writer has ended by itself");
        }
        // Then a number of further reads: the kill comes at another point of the loop each time.
        for _ in 0..kill * 7 % 13 {
            read_whole();
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        read_whole();
    }
}

#[test]
fn what_is_removed_is_the_file_itself_and_what_was_never_there_is_no_error() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::write(at("file"), "").unwrap();
    symlink(at("file"), at("link")).unwrap();
    for name in ["link", "link", "file/below", "folder/below"] {
        remove(&at(name)).unwrap();
    }
    assert_eq!(entries(root.path()), ["file"]);
    remove(&at("file")).unwrap();
    assert_eq!(entries(root.path()).len(), 0);
    fs::create_dir(at("folder")).unwrap();
    let error = remove(&at("folder")).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot remove {}", at("folder").display()));
    assert!(remove(Path::new("/")).is_err());
}

#[test]
fn what_killed_processes_have_left_is_swept_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    let gone = dead.id();
    dead.wait().unwrap();
    let kept = [
        format!(".start-worker-{}-7.tmp", std::process::id()),
        format!(".start-worker-{gone}-x.tmp"),
        format!("start-worker-{gone}-1.tmp"),
        ".start-worker-0-1.tmp".to_owned(),
        "run.json".to_owned(),
    ];
    for name in kept.iter().cloned().chain([format!(".start-worker-{gone}-1.tmp")]) {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    sweep(folder.path());
    let mut left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut kept = kept.to_vec();
    left.sort();
    kept.sort();
    assert_eq!(left, kept);
    sweep(Path::new("/nowhere"));
}
