//! Tests with real files, and with a writer that is killed.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::{Command, Stdio};

use super::*;

/// The writer's target. Set in the writer's process only.
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
    // Only root can give files away; other users can only give them to themselves.
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
        // A varying number of further reads, so that each kill hits another point of the loop.
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
    let directory = Directory::open(folder.path()).unwrap();
    let being_written = Draft::named(&directory).unwrap();
    let living = std::process::id();
    // The lock decides, and not the process id in the name.
    let left = [
        format!(".start-worker-{living}-4000000.tmp"),
        ".start-worker-1-0.tmp".to_owned(),
        ".start-worker-4194303-7.tmp".to_owned(),
    ];
    let kept = [
        ".start-worker-7-x.tmp",
        "start-worker-7-1.tmp",
        ".start-worker-0-1.tmp",
        ".start-worker-7-1.tmp.json",
        "run.json",
    ];
    for name in left.iter().map(String::as_str).chain(kept) {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    fs::create_dir(folder.path().join(".start-worker-7-2.tmp")).unwrap();
    symlink("run.json", folder.path().join(".start-worker-7-3.tmp")).unwrap();
    nix::unistd::mkfifo(&folder.path().join(".start-worker-7-4.tmp"), Mode::S_IRUSR).unwrap();
    let mut expected = entries(folder.path());
    expected.retain(|name| !left.iter().any(|left| *name == **left));
    sweep(folder.path());
    let mut found = entries(folder.path());
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    drop(being_written);
    assert_eq!(entries(folder.path()).len(), expected.len() - 1);
    sweep(Path::new("/nowhere"));
}

#[test]
fn temporary_files_of_other_users_are_not_swept_but_for_the_owner_that_files_are_given_to() {
    let folder = tempfile::tempdir().unwrap();
    if folder.path().metadata().unwrap().uid() != 0 {
        return; // only root can give files away
    }
    for (name, uid) in [(".start-worker-7-0.tmp", 12_345), (".start-worker-7-1.tmp", 54_321)] {
        fs::write(folder.path().join(name), "x").unwrap();
        fchown(File::open(folder.path().join(name)).unwrap(), Some(uid), None).unwrap();
    }
    sweep(folder.path());
    assert_eq!(entries(folder.path()).len(), 2);
    let owner = Some(Owner { uid: 12_345, gid: 0 });
    replace(&folder.path().join("file"), b"x", Attributes { mode: 0o600, owner }, 0o755).unwrap();
    let mut names = entries(folder.path());
    names.sort();
    assert_eq!(names, [".start-worker-7-1.tmp", "file"]);
}

#[test]
fn a_file_that_is_being_written_has_no_name_and_its_content_cannot_be_left_behind() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path()).unwrap();
    for before in [&[][..], &["file"]] {
        let look = |file: &mut File| {
            file.write_all(b"secret")?;
            assert_eq!(entries(root.path()), before, "what a kill would leave now");
            Ok(())
        };
        directory.replace(OsStr::new("file"), PRIVATE, look).unwrap();
        assert_eq!(fs::read(root.path().join("file")).unwrap(), b"secret");
        assert_eq!(entries(root.path()), ["file"]);
    }
}

#[test]
fn where_every_file_has_a_name_it_is_a_temporary_one_and_private() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path()).unwrap();
    for content in [b"1", b"2"] {
        let mut draft = Draft::named(&directory).unwrap();
        draft.file().write_all(content).unwrap();
        let names = entries(root.path());
        let name = names.iter().find(|name| draft::is_temporary(name)).expect("a temporary file");
        assert_eq!(mode(&root.path().join(name)), 0o600);
        draft.publish(OsStr::new("file"), PRIVATE).unwrap();
        drop(draft);
        assert_eq!(entries(root.path()), ["file"]);
        assert_eq!(fs::read(root.path().join("file")).unwrap(), content);
    }
}

#[test]
fn a_file_in_a_directory_that_may_not_be_written_is_written_in_place() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, "a long old content").unwrap();
    let inode = path.metadata().unwrap().ino();
    let cause = io::Error::from_raw_os_error(libc::EROFS);
    let directory = Directory::open(root.path()).unwrap();
    let write = |name: &str, attributes| {
        in_place::write(&directory, (OsStr::new(name), attributes), &cause, 3, |file| file.write_all(b"new"))
    };
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    write("file", Attributes { mode: 0o644, owner: None }).unwrap().unwrap();
    let found = path.metadata().unwrap();
    assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path), found.ino()), (&b"new"[..], 0o644, inode));
    // Only a regular file of ours with a single name is written.
    symlink("file", root.path().join("link")).unwrap();
    fs::create_dir(root.path().join("directory")).unwrap();
    nix::unistd::mkfifo(&root.path().join("pipe"), Mode::S_IRWXU).unwrap();
    for name in ["link", "directory", "pipe", "missing"] {
        assert!(write(name, PRIVATE).is_none(), "{name}");
    }
    fs::hard_link(&path, root.path().join("second")).unwrap();
    assert!(write("second", PRIVATE).is_none());
    fs::remove_file(root.path().join("second")).unwrap();
    if found.uid() == 0 {
        fchown(File::open(&path).unwrap(), Some(12_345), None).unwrap();
        assert!(write("file", PRIVATE).is_none(), "another user's");
        let owner = Some(Owner { uid: 12_345, gid: 0 });
        write("file", Attributes { mode: 0o600, owner }).unwrap().unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn access_of_others_is_taken_away_before_a_file_is_written_in_place() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    let directory = Directory::open(root.path()).unwrap();
    let cause = io::Error::from_raw_os_error(libc::EBUSY);
    let target = (OsStr::new("file"), Attributes { mode: 0o755, owner: None });
    let fill = |_: &mut File| {
        assert_eq!(mode(&path), 0o600);
        Ok(())
    };
    in_place::write(&directory, target, &cause, 0, fill).unwrap().unwrap();
    assert_eq!(mode(&path), 0o755);
}
