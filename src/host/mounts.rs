//! The mount table, as the kernel reports it. No file system is accessed.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The required fields of one line of `proc_pid_mountinfo(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its mount point.
    pub place: PathBuf,
    /// The file system type: `ext4`, `nfs4`, `fuse.sshfs` …
    pub kind: String,
}

/// All mounts of this process's namespace; empty if they cannot be read.
pub fn all() -> Vec<Mount> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

/// The file system types of all mounts.
pub fn kinds() -> Vec<String> {
    all().into_iter().map(|mount| mount.kind).collect()
}

/// `36 35 98:0 /root /place rw,noatime master:1 - ext3 /dev/root rw`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let place = unescape(fields.nth(4)?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { place, kind: String::from_utf8_lossy(kind).into_owned() })
}

/// Decodes space, tab, newline and backslash, which the kernel writes as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}

/// The mount point of the file's file system, if it is mounted `noexec`. Blocks, because it accesses the file.
pub fn noexec_mount_of(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let flags = rustix::fs::statvfs(&path).ok()?.f_flag;
    if !flags.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
        return None;
    }
    // Of several mounts on one place, the last one is visible.
    let above = all().into_iter().filter(|mount| path.starts_with(&mount.place));
    above.max_by_key(|mount| mount.place.as_os_str().len()).map(|mount| mount.place)
}

/// A hint for the end of an error message if the program's file system is mounted `noexec`. Blocks.
pub fn noexec_hint(program: &Path) -> Option<String> {
    let mount = noexec_mount_of(program)?;
    let mount = mount.display();
    Some(format!(
        " (its file system, {mount}, is mounted noexec: put the program elsewhere, or `mount -o remount,exec {mount}`)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_and_without_optional_fields() {
        let mount = |place: &str, kind: &str| Some(Mount { place: place.into(), kind: kind.into() });
        assert_eq!(
            parse(b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw"),
            mount("/mnt2", "ext3")
        );
        assert_eq!(
            parse(br"40 28 0:35 / /mnt/a\040b\134c rw,noexec - fuse.sshfs user@host: rw,user_id=0"),
            mount(r"/mnt/a b\c", "fuse.sshfs")
        );
        for broken in [&b""[..], b"36 35", b"36 35 98:0 / /x rw", b"36 35 98:0 / /x rw -"] {
            assert_eq!(parse(broken), None);
        }
    }

    #[test]
    fn the_mounts_of_this_process_are_seen() {
        let mounts = all();
        assert!(mounts.iter().any(|mount| mount.place == Path::new("/proc") && mount.kind == "proc"));
        assert_eq!(noexec_mount_of(Path::new("/bin/sh")), None);
        let place = mounts.iter().find(|mount| mount.place == Path::new("/proc")).map(|mount| &mount.place);
        let noexec = noexec_mount_of(Path::new("/proc/self/status"));
        assert!(noexec.is_none() || noexec.as_ref() == place, "{noexec:?}");
    }
}
