//! Archives: no file is written outside their directory, no limit is exceeded, and a refused archive leaves nothing
//! behind.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use start_worker::run_spec::files::{FileEntry, FileOrigin, Limits, ShippedFile, write_within};

const LIMITS: Limits = Limits { entries: 20, bytes: 64 << 10 };

/// Input that begins with `PK` is an archive. Other input describes one: names and contents, from which a complete
/// archive is made with correct checksums, so that the checks of names are reached.
pub fn check(data: &[u8]) {
    if data.starts_with(b"PK") { unpack(data) } else { unpack(&described(data)) }
}

fn unpack(archive: &[u8]) {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let top = folder.path().join("top");
    let entry = FileEntry {
        description: String::new(),
        path: top.to_str().unwrap().to_owned(),
        content: STANDARD.encode(archive),
        encoding: "base64".to_owned(),
        format: "zip".to_owned(),
    };
    let written = write_within(&[ShippedFile { entry, origin: FileOrigin::Provider }], &LIMITS);
    let beside: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(beside.iter().all(|path| *path == top), "{beside:?}");
    assert!(written.is_ok() || beside.is_empty() || is_by_the_system(&written.unwrap_err()));
    let mut found = Found::default();
    if top.exists() {
        found.look(&top);
    }
    assert!(found.bytes <= LIMITS.bytes);
    assert!(found.files <= LIMITS.entries);
}

/// Returns true if only writing can detect the problem, such as a name that is too long for the file system.
fn is_by_the_system(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.raw_os_error().is_some()) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[derive(Default)]
struct Found {
    files: usize,
    bytes: u64,
}

impl Found {
    fn look(&mut self, folder: &Path) {
        // A directory's mode is the archive's own.
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(folder, mode).unwrap();
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let about = entry.metadata().unwrap();
            assert!(
                about.is_dir() || about.is_file(),
                "{} is neither file nor directory",
                entry.path().display()
            );
            assert_eq!(about.mode() & 0o7000, 0, "{} has special bits", entry.path().display());
            if about.is_dir() {
                self.look(&entry.path());
            } else {
                assert_eq!(about.nlink(), 1);
                self.files += 1;
                self.bytes += about.len();
            }
        }
    }
}

/// For each entry: lengths of name and content (× 16), the upper bits of its mode, name, content.
fn described(mut data: &[u8]) -> Vec<u8> {
    let (mut whole, mut central, mut count) = (Vec::new(), Vec::new(), 0_u16);
    while let [name, content, kind, mode, rest @ ..] = data {
        let (name, rest) = rest.split_at(usize::from(*name).min(rest.len()));
        let (content, rest) = rest.split_at((usize::from(*content) * 16).min(rest.len()));
        data = rest;
        let offset = u32::try_from(whole.len()).unwrap();
        let size = u32::try_from(content.len()).unwrap();
        let mut common = Vec::new();
        for number in [20_u16, 0, 0, 0, 0x21] {
            common.extend(number.to_le_bytes());
        }
        for number in [crc32(content), size, size] {
            common.extend(number.to_le_bytes());
        }
        common.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        common.extend([0, 0]);
        whole.extend([b"PK\x03\x04", &common[..], name, content].concat());
        central.extend([b"PK\x01\x02\x14\x03", &common[..], &[0; 6], &[0, 0, *mode, *kind]].concat());
        central.extend(offset.to_le_bytes());
        central.extend(name);
        count = count.saturating_add(1);
    }
    let place =
        [central.len(), whole.len()].map(|place| u32::try_from(place).unwrap().to_le_bytes()).concat();
    let count = count.to_le_bytes();
    [&whole[..], &central, b"PK\x05\x06\0\0\0\0", &count, &count, &place, &[0, 0]].concat()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}
