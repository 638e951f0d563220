//! Tests with real files, and with archives made byte by byte.

use std::error::Error;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};

use ::zip::CompressionMethod;

use super::*;

/// An archive's entry, with every possible fault.
#[derive(Clone)]
struct Entry {
    name: &'static str,
    content: Vec<u8>,
    /// 0: DOS, 3: Unix.
    system: u8,
    attributes: u32,
    method: u16,
    flags: u16,
    claimed: Option<u32>,
    crc: Option<u32>,
}

fn entry(name: &'static str, content: &[u8], mode: u32) -> Entry {
    Entry {
        name,
        content: content.to_vec(),
        system: 3,
        attributes: mode << 16,
        method: 0,
        flags: 0,
        claimed: None,
        crc: None,
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut whole, mut central) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = u32::try_from(whole.len()).unwrap();
        let size = u32::try_from(entry.content.len()).unwrap();
        let mut common = Vec::new();
        for number in [20, entry.flags, entry.method, 0, 0x21] {
            common.extend(number.to_le_bytes());
        }
        for number in
            [entry.crc.unwrap_or_else(|| crc32(&entry.content)), size, entry.claimed.unwrap_or(size)]
        {
            common.extend(number.to_le_bytes());
        }
        common.extend(u16::try_from(entry.name.len()).unwrap().to_le_bytes());
        common.extend([0, 0]);
        whole.extend(b"PK\x03\x04");
        whole.extend(&common);
        whole.extend(entry.name.as_bytes());
        whole.extend(&entry.content);
        central.extend(b"PK\x01\x02");
        central.extend([20, entry.system]);
        central.extend(&common);
        central.extend([0; 6]);
        central.extend(entry.attributes.to_le_bytes());
        central.extend(offset.to_le_bytes());
        central.extend(entry.name.as_bytes());
    }
    let count = u16::try_from(entries.len()).unwrap().to_le_bytes();
    let end = [&b"PK\x05\x06\0\0\0\0"[..], &count, &count].concat();
    let place = [central.len(), whole.len()].map(|n| u32::try_from(n).unwrap().to_le_bytes()).concat();
    [&whole[..], &central, &end, &place, &[0, 0]].concat()
}

fn shipped(path: &Path, format: &str, content: &[u8], origin: FileOrigin) -> ShippedFile {
    let entry = FileEntry {
        description: "tools".to_owned(),
        path: path.to_str().unwrap().to_owned(),
        content: BASE64.encode(content),
        encoding: "base64".to_owned(),
        format: format.to_owned(),
    };
    ShippedFile { entry, origin }
}

fn write_zip(root: &Path, entries: &[Entry]) -> Result<(), String> {
    let limits = Limits { entries: 50, bytes: 1000 };
    write_within(&[shipped(root, "zip", &zip(entries), FileOrigin::Provider)], &limits).map_err(|e| chain(&e))
}

/// The printed error with all its causes.
fn chain(error: &FileError) -> String {
    let causes = std::iter::successors(error.source(), |cause: &&dyn Error| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn files_of_providers_are_executable_and_files_of_secrets_are_private() {
    let root = tempfile::tempdir().unwrap();
    let (script, key) = (root.path().join("a/b/script"), root.path().join("key"));
    let files = [
        shipped(&script, "file", b"#!/bin/sh\n", FileOrigin::Provider),
        shipped(&key, "file", b"private", FileOrigin::Secret),
    ];
    write_all(&files).unwrap();
    assert_eq!(fs::read(&script).unwrap(), b"#!/bin/sh\n");
    assert_eq!((mode(&script), mode(&key), mode(script.parent().unwrap())), (0o755, 0o600, 0o755));
}

#[test]
fn the_files_of_a_real_pool_are_written() {
    let cache = include_str!("../../../tests/fixtures/contract/go-cache-google.json");
    let cache: serde_json::Value = serde_json::from_str(cache).unwrap();
    let mut entries: Vec<FileEntry> = serde_json::from_value(cache["Files"].clone()).unwrap();
    assert_eq!(serde_json::to_value(&entries).unwrap(), cache["Files"]);
    let root = tempfile::tempdir().unwrap();
    for entry in &mut entries {
        entry.path = entry.path.replace("/etc/start-worker", root.path().to_str().unwrap());
    }
    let files: Vec<_> =
        entries.into_iter().map(|entry| ShippedFile { entry, origin: FileOrigin::Provider }).collect();
    write_all(&files).unwrap();
    assert_eq!(fs::read(root.path().join("hello.sh")).unwrap(), b"#!/bin/sh\necho hello\n");
    let tool = root.path().join("tools/bin/tool");
    assert_eq!((fs::read(&tool).unwrap().as_slice(), mode(&tool)), (&b"#!/bin/sh\nexit 0\n"[..], 0o755));
}

/// Files at these places below a folder: either a file, or an archive at the place with a file within.
fn at_places(root: &Path, places: &[(&str, Option<&'static str>)]) -> Vec<ShippedFile> {
    let file = |(index, (place, within)): (usize, &(&str, Option<&'static str>))| {
        let path = format!("{}/{place}", root.display());
        let content = index.to_string();
        match within {
            None => shipped(Path::new(&path), "file", content.as_bytes(), FileOrigin::Provider),
            Some(name) => {
                let archive = zip(&[entry(name, content.as_bytes(), 0)]);
                shipped(Path::new(&path), "zip", &archive, FileOrigin::Provider)
            }
        }
    };
    places.iter().enumerate().map(file).collect()
}

#[test]
fn files_that_contradict_each_other_are_refused_before_anything_is_written() {
    type Places<'a> = [(&'a str, Option<&'static str>); 2];
    let twice: [Places<'_>; 9] = [
        [("a", None), ("a", None)],
        [("d/a", None), ("d//a", None)],
        [("a", None), ("./a", None)],
        [("a", None), ("a/", None)],
        [("new/a", None), ("new/deeper/../a", None)],
        [("link/a", None), ("real/a", None)],
        [("d/a", None), ("d", Some("a"))],
        [("d", Some("a")), ("d/a", None)],
        [("d", Some("e/a")), ("d/e", Some("a"))],
    ];
    let kinds: [Places<'_>; 7] = [
        [("a", None), ("a/b", None)],
        [("a/b", None), ("a", None)],
        [("a", None), ("a/b/c/d", None)],
        [("a", None), ("a", Some("b"))],
        [("a", Some("b")), ("a", None)],
        [("d/a", None), ("d", Some("a/b"))],
        [("d", Some("a")), ("d/a/b", None)],
    ];
    let all = twice.iter().map(|places| (places, "with different content"));
    for (places, why) in all.chain(kinds.iter().map(|places| (places, "would be a file and a directory"))) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("real")).unwrap();
        symlink("real", root.path().join("link")).unwrap();
        let message = chain(&write_all(&at_places(root.path(), places)).unwrap_err());
        assert!(message.contains(why), "{places:?}: {message}");
        assert!(
            message.contains(&format!("{:?}", format!("{}/{}", root.path().display(), places[0].0))),
            "{message}"
        );
        let left: Vec<_> =
            fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{places:?}: {left:?}");
        assert!(is_empty(&root.path().join("real")), "{places:?}");
    }
}

#[test]
fn a_file_of_a_secret_takes_the_place_of_an_earlier_file_of_the_same_path() {
    let root = tempfile::tempdir().unwrap();
    let places = [("a", None), ("a", None), ("./a", None), ("d", Some("b")), ("d/b", None)];
    let mut files = at_places(root.path(), &places);
    for index in [1, 2, 4] {
        files[index].origin = FileOrigin::Secret;
    }
    write_all(&files).unwrap();
    assert_eq!(fs::read(root.path().join("a")).unwrap(), b"2");
    assert_eq!(fs::read(root.path().join("d/b")).unwrap(), b"4");
}

#[test]
fn files_that_share_directories_and_repetitions_do_not_contradict_each_other() {
    let root = tempfile::tempdir().unwrap();
    let places =
        [("d/a", None), ("d/b", None), ("d", Some("c")), ("d", Some("e/f")), ("d/e", Some("g")), ("h", None)];
    let mut files = at_places(root.path(), &places);
    let repeated: Vec<_> = files
        .iter()
        .filter(|file| file.entry.path.ends_with('d') || file.entry.path.ends_with('h'))
        .cloned()
        .collect();
    files.extend(repeated);
    write_all(&files).unwrap();
    for (index, path) in ["d/a", "d/b", "d/c", "d/e/f", "d/e/g", "h"].iter().enumerate() {
        assert_eq!(fs::read(root.path().join(path)).unwrap(), index.to_string().as_bytes(), "{path}");
    }
}

#[test]
fn an_archive_with_a_file_under_two_spellings_of_its_name_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let message =
        write_zip(&root.path().join("d"), &[entry("a", b"1", 0), entry("./a", b"2", 0)]).unwrap_err();
    assert!(message.ends_with("\"a\" in the zip archive is there twice"), "{message}");
    assert!(is_empty(root.path()));
}

#[test]
fn what_a_killed_start_has_left_beside_files_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let files = at_places(root.path(), &[("d/a", None), ("z", Some("e/f"))]);
    write_all(&files).unwrap();
    let left =
        ["d/.start-worker-1-0.tmp", "z/e/.start-worker-4711-12.tmp"].map(|name| root.path().join(name));
    for sweeping in [
        |files: &[ShippedFile]| write_all(files).unwrap(),
        |files: &[ShippedFile]| {
            for directory in directories(files) {
                crate::host::atomic::sweep(&directory);
            }
        },
    ] {
        for path in &left {
            fs::write(path, "secret").unwrap();
        }
        sweeping(&files);
        assert!(left.iter().all(|path| !path.exists()));
    }
}

#[test]
fn base64_with_line_ends_is_read_as_go_reads_it() {
    let root = tempfile::tempdir().unwrap();
    let mut file = shipped(&root.path().join("file"), "file", b"", FileOrigin::Provider);
    "aGVs\r\nbG8=\n".clone_into(&mut file.entry.content);
    write_all(&[file]).unwrap();
    assert_eq!(fs::read(root.path().join("file")).unwrap(), b"hello");
}

#[test]
fn a_symlink_at_a_files_path_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("victim"), "untouched").unwrap();
    let path = root.path().join("file");
    symlink("victim", &path).unwrap();
    write_all(&[shipped(&path, "file", b"new", FileOrigin::Provider)]).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::read(root.path().join("victim")).unwrap(), b"untouched");
}

#[test]
fn nothing_is_written_when_the_last_file_is_wrong() {
    type Fault = (fn(&mut FileEntry), &'static str);
    let faults: [Fault; 7] = [
        (|file| "gzip".clone_into(&mut file.encoding), r#"unknown encoding "gzip": only base64 is known"#),
        (|file| "tar".clone_into(&mut file.format), r#"unknown format "tar": file and zip are known"#),
        (|file| "cGFzc3dvcmQ".clone_into(&mut file.content), "the content is not base64"),
        (|file| "pass\u{e4}".clone_into(&mut file.content), "the content is not base64"),
        (|file| "zip".clone_into(&mut file.format), "the zip archive is broken: "),
        (|file| "/".clone_into(&mut file.path), "the path does not name a file"),
        (|file| "/proc".clone_into(&mut file.path), "there is a directory of that name"),
    ];
    for (spoil, expected) in faults {
        let root = tempfile::tempdir().unwrap();
        let good = shipped(&root.path().join("good"), "file", b"x", FileOrigin::Provider);
        let mut bad = shipped(&root.path().join("bad"), "file", b"password", FileOrigin::Secret);
        spoil(&mut bad.entry);
        let message = chain(&write_all(&[good, bad.clone()]).unwrap_err());
        let path = &bad.entry.path;
        let start =
            format!("cannot write the file {path:?} that came with the worker configuration (\"tools\"): ");
        assert!(message.starts_with(&start), "{message}");
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains("pass") && !format!("{bad:?}").contains("pass"), "{message}");
        assert!(is_empty(root.path()), "{message}");
    }
}

#[test]
fn nothing_is_written_when_something_is_in_the_way_of_the_last_file() {
    for (format, content) in [("file", b"x".to_vec()), ("zip", zip(&[entry("a", b"x", 0)]))] {
        for (below, expected) in [
            ("plain/new", "/plain is not a directory"),
            ("plain/deep/er/new", "/plain is not a directory"),
            ("dangling/new", "/dangling is a symlink to nothing"),
        ] {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join("plain"), "").unwrap();
            symlink("nowhere", root.path().join("dangling")).unwrap();
            let good = shipped(&root.path().join("good"), "file", b"x", FileOrigin::Provider);
            let bad = shipped(&root.path().join(below), format, &content, FileOrigin::Provider);
            let message = chain(&write_all(&[good, bad]).unwrap_err());
            assert!(message.ends_with(expected), "{message}");
            assert!(!root.path().join("good").exists(), "{format} {below}");
        }
    }
    let root = tempfile::tempdir().unwrap();
    let good = shipped(&root.path().join("good"), "file", b"x", FileOrigin::Provider);
    let bad = shipped(&root.path().join("nul\0"), "file", b"x", FileOrigin::Provider);
    let message = chain(&write_all(&[good, bad]).unwrap_err());
    assert!(message.ends_with("the path does not name a file"), "{message}");
    assert!(is_empty(root.path()));
}

#[test]
fn directories_on_the_way_may_be_missing_or_symlinks_to_some() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("real")).unwrap();
    symlink("real", root.path().join("link")).unwrap();
    let archive = zip(&[entry("a", b"x", 0)]);
    let files = [
        shipped(&root.path().join("link/new/file"), "file", b"x", FileOrigin::Provider),
        shipped(&root.path().join("link/other/zip"), "zip", &archive, FileOrigin::Provider),
    ];
    write_all(&files).unwrap();
    assert_eq!(fs::read(root.path().join("real/new/file")).unwrap(), b"x");
    assert_eq!(fs::read(root.path().join("real/other/zip/a")).unwrap(), b"x");
}

#[test]
fn an_archive_keeps_unix_modes_and_has_defaults_where_none_are_recorded() {
    let root = tempfile::tempdir().unwrap();
    let unrecorded = Entry { attributes: 0, ..entry("plain", b"1", 0) };
    let dos_read_only = Entry { system: 0, attributes: 0x21, ..entry("dos", b"2", 0) };
    let go_on_windows = Entry { system: 0, ..entry("go", b"3", 0o100_751) };
    let entries = [
        unrecorded,
        dos_read_only,
        go_on_windows,
        entry("bits", b"4", 0o107_755),
        entry("deep/er/private", b"5", 0o100_600),
        entry("own/", b"", 0o040_711),
        entry("own/inside", b"6", 0o100_444),
        Entry { system: 0, attributes: 0x10, ..entry("dosdir/", b"", 0) },
        entry("./", b"", 0o040_700),
    ];
    let top = root.path().join("made/top");
    write_zip(&top, &entries).unwrap();
    for (name, expected) in [
        ("plain", 0o644),
        ("dos", 0o644),
        ("go", 0o751),
        ("bits", 0o755),
        ("deep", 0o755),
        ("deep/er", 0o755),
        ("deep/er/private", 0o600),
        ("own", 0o711),
        ("own/inside", 0o444),
        ("dosdir", 0o755),
        ("", 0o755),
    ] {
        assert_eq!(mode(&top.join(name)), expected, "{name}");
    }
    assert_eq!(fs::read(top.join("own/inside")).unwrap(), b"6");
    write_zip(&top, &entries).unwrap();
}

#[test]
fn an_archive_that_leaves_its_directory_is_refused_before_anything_is_written() {
    for name in ["../evil", "a/../../evil", "/evil", "a/..", "..", "..\\evil", "C:\\evil", "nul\0", "", "."] {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().join("top");
        let result = write_zip(&top, &[entry("good", b"x", 0o100_644), entry(name, b"evil", 0o100_644)]);
        let message = result.unwrap_err();
        let expected = format!("{name:?} in the zip archive would not land below its directory");
        assert!(message.ends_with(&expected), "{message}");
        assert!(is_empty(root.path()), "{name}");
    }
}

#[test]
fn symlinks_and_devices_in_an_archive_are_refused_before_anything_is_written() {
    for (kind, system, expected) in [
        (0o120_777, 3, "is a symlink; symlinks are refused"),
        (0o120_777, 0, "is a symlink; symlinks are refused"),
        (0o020_600, 3, "is neither a file nor a directory"),
        (0o010_600, 3, "is neither a file nor a directory"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let odd = Entry { system, ..entry("odd", b"/etc/passwd", kind) };
        let message = write_zip(root.path(), &[entry("good", b"x", 0o100_644), odd]).unwrap_err();
        assert!(message.ends_with(&format!("\"odd\" in the zip archive {expected}")), "{message}");
        assert!(is_empty(root.path()));
    }
}

#[test]
fn what_is_in_an_archives_way_is_refused_before_anything_is_written() {
    let entries = [entry("first", b"x", 0o100_644), entry("a/b/c", b"x", 0o100_644)];
    let refusal = |prepare: fn(&Path)| {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().join("top");
        fs::create_dir_all(root.path().join("elsewhere/b")).unwrap();
        prepare(&top);
        let message = write_zip(&top, &entries).unwrap_err();
        assert!(!top.join("first").exists());
        assert!(is_empty(&root.path().join("elsewhere/b")));
        message
    };
    let through = "is a symlink; zip archives are not unpacked through symlinks";
    let top = refusal(|top| symlink("elsewhere", top).unwrap());
    assert!(top.contains("/top is a symlink") && top.ends_with(through), "{top}");
    let way = refusal(|top| {
        fs::create_dir(top).unwrap();
        symlink("../elsewhere", top.join("a")).unwrap();
    });
    assert!(way.contains("/top/a is a symlink") && way.ends_with(through), "{way}");
    let file = refusal(|top| {
        fs::create_dir(top).unwrap();
        fs::write(top.join("a"), "").unwrap();
    });
    assert!(file.ends_with("/top/a is not a directory"), "{file}");
    let directory = refusal(|top| fs::create_dir_all(top.join("a/b/c")).unwrap());
    assert!(directory.ends_with("/top/a/b/c is a directory"), "{directory}");
}

#[test]
fn a_symlink_named_like_a_directory_with_a_slash_is_refused() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("elsewhere")).unwrap();
    symlink("elsewhere", root.path().join("top")).unwrap();
    let message = write_zip(&root.path().join("top/"), &[entry("x", b"x", 0)]).unwrap_err();
    assert!(message.contains("is a symlink"), "{message}");
    assert!(is_empty(&root.path().join("elsewhere")));
}

#[test]
fn a_symlink_at_an_entrys_own_place_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("victim"), "untouched").unwrap();
    fs::create_dir(root.path().join("top")).unwrap();
    symlink("../victim", root.path().join("top/x")).unwrap();
    write_zip(&root.path().join("top"), &[entry("x", b"new", 0o100_644)]).unwrap();
    assert_eq!(fs::read(root.path().join("victim")).unwrap(), b"untouched");
    assert_eq!(fs::read(root.path().join("top/x")).unwrap(), b"new");
}

#[test]
fn too_much_is_refused_with_both_limits_before_anything_is_written() {
    const NAMES: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let many: Vec<_> = (0..51).map(|i| entry(&NAMES[i..=i], b"", 0)).collect();
    let large = [entry("a", &[0; 600], 0), entry("b", &[0; 401], 0)];
    for (entries, what) in
        [(&many[..], "the zip archive has 51 entries"), (&large, "the zip archive unpacks to 1001 bytes")]
    {
        let root = tempfile::tempdir().unwrap();
        let message = write_zip(root.path(), entries).unwrap_err();
        let expected = format!("{what}; at most 50 entries and 1000 bytes unpacked are allowed");
        assert!(message.ends_with(&expected), "{message}");
        assert!(is_empty(root.path()));
    }
    let root = tempfile::tempdir().unwrap();
    write_zip(root.path(), &[entry("a", &[0; 600], 0), entry("b", &[0; 400], 0)]).unwrap();
    assert_eq!((LIMITS.entries, LIMITS.bytes), (100_000, 4_294_967_296));
}

/// An archive made by the zip crate, as by other programs.
fn made(method: CompressionMethod, entries: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let options = ::zip::write::SimpleFileOptions::default().compression_method(method);
    let mut writer = ::zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(name, options).unwrap();
        writer.write_all(&content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Replaces every `from` by `to`.
fn replaced(bytes: &mut [u8], from: [u8; 4], to: [u8; 4]) -> usize {
    let places: Vec<_> = (0..bytes.len() - 3).filter(|at| bytes[*at..*at + 4] == from).collect();
    for at in &places {
        bytes[*at..*at + 4].copy_from_slice(&to);
    }
    places.len()
}

#[test]
fn a_hundred_thousand_and_one_entries_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let archive = made(CompressionMethod::Stored, (0..100_001).map(|i| (i.to_string(), Vec::new())));
    let file = shipped(root.path(), "zip", &archive, FileOrigin::Provider);
    let message = chain(&write_all(&[file]).unwrap_err());
    let expected = "the zip archive has 100001 entries; at most 100000 entries and 4294967296 bytes unpacked are allowed";
    assert!(message.ends_with(expected), "{message}");
    assert!(is_empty(root.path()));
}

#[test]
fn a_bomb_is_refused_whether_it_tells_its_size_or_not() {
    const TRUE_SIZE: u32 = 9_876_543;
    let honest =
        made(CompressionMethod::Deflated, [("bomb".to_owned(), vec![0; TRUE_SIZE as usize])].into_iter());
    assert!(honest.len() < 100_000);
    let limits = Limits { entries: 50, bytes: 1000 };
    for (claimed, expected) in [
        (TRUE_SIZE, "the zip archive unpacks to 9876543 bytes; at most 50 entries and 1000 bytes"),
        (999, "the zip archive is broken: \"bomb\" cannot be unpacked"),
    ] {
        let mut archive = honest.clone();
        assert_eq!(replaced(&mut archive, TRUE_SIZE.to_le_bytes(), claimed.to_le_bytes()), 2);
        let root = tempfile::tempdir().unwrap();
        let file = shipped(root.path(), "zip", &archive, FileOrigin::Provider);
        let message = chain(&write_within(&[file], &limits).unwrap_err());
        assert!(message.contains(expected), "{message}");
        assert!(is_empty(root.path()));
    }
    // 5 GB according to its header: refused before anything is unpacked.
    let archive = zip(&[
        Entry { claimed: Some(2_500_000_000), ..entry("a", b"x", 0) },
        Entry { claimed: Some(2_500_000_000), ..entry("b", b"x", 0) },
    ]);
    let root = tempfile::tempdir().unwrap();
    let message =
        chain(&write_all(&[shipped(root.path(), "zip", &archive, FileOrigin::Provider)]).unwrap_err());
    assert!(message.contains("unpacks to 5000000000 bytes"), "{message}");
    assert!(is_empty(root.path()));
}

#[test]
fn a_broken_archive_is_refused_before_anything_is_written() {
    let good = entry("good", b"content", 0o100_644);
    let broken = |spoil: fn(&mut Entry)| {
        let mut entry = good.clone();
        entry.name = "bad";
        spoil(&mut entry);
        let root = tempfile::tempdir().unwrap();
        let message = write_zip(root.path(), &[good.clone(), entry]).unwrap_err();
        assert!(is_empty(root.path()));
        assert!(message.contains("the zip archive is broken") && message.contains("\"bad\""), "{message}");
        assert!(!message.contains("content"), "{message}");
    };
    broken(|entry| entry.crc = Some(1));
    broken(|entry| entry.claimed = Some(1));
    // Bit 3: the sizes follow the content, so that those in the first header are not binding.
    broken(|entry| (entry.claimed, entry.flags) = (Some(1), 8));
    broken(|entry| entry.method = 8);
    broken(|entry| entry.method = 99);
    broken(|entry| entry.flags = 1);

    let whole = zip(&[good.clone(), good]);
    for length in 0..whole.len() {
        let root = tempfile::tempdir().unwrap();
        let file = shipped(root.path(), "zip", &whole[..length], FileOrigin::Provider);
        assert!(write_all(&[file]).is_err(), "{length}");
        assert!(is_empty(root.path()));
    }
}

#[test]
fn an_entry_that_is_a_file_and_a_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let message =
        write_zip(root.path(), &[entry("a", b"", 0o100_644), entry("a/b", b"", 0o100_644)]).unwrap_err();
    assert!(message.ends_with("\"a\" in the zip archive is a file, and has entries below it"), "{message}");
    assert!(is_empty(root.path()));
}

#[test]
fn any_bytes_are_refused_or_unpacked_but_never_a_panic() {
    use proptest::prelude::*;
    let whole = zip(&[entry("a/b", b"content", 0o100_755), entry("d/", b"", 0o040_755)]);
    let changes = prop::collection::vec((0..whole.len(), any::<u8>()), 1..4);
    proptest!(ProptestConfig::with_cases(500), |(changes in changes)| {
        let mut bytes = whole.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let root = tempfile::tempdir().unwrap();
        let top = root.path().join("top");
        let limits = Limits { entries: 50, bytes: 1000 };
        let _ = write_within(&[shipped(&top, "zip", &bytes, FileOrigin::Provider)], &limits);
        let around: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        prop_assert!(around.iter().all(|name| name == "top"), "{around:?}");
    });
}
