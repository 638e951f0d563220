//! The paths of all files, and their conflicts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::FileOrigin;

/// The planned object at a path, and the file of the worker configuration that requires it.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    is_file: bool,
    wanted_by: Wanted<'a>,
}

/// A file of the worker configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The path as written in the worker configuration.
    pub(super) path: &'a str,
    pub(super) origin: FileOrigin,
}

/// Two files that cannot both be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) at: PathBuf,
    /// The earlier one of the two.
    pub(super) other: String,
    /// One file needs a file and the other a directory at this path.
    pub(super) is_about_kind: bool,
}

/// The planned objects of all files.
#[derive(Debug, Default)]
pub(super) struct Places<'a>(BTreeMap<PathBuf, Place<'a>>);

impl<'a> Places<'a> {
    /// Adds a file and its directories. A secret's file replaces an earlier file, as a secret's configuration overrides
    /// the provider's.
    pub(super) fn add_file(&mut self, at: &Path, wanted_by: Wanted<'a>) -> Result<(), Conflict> {
        if let Some(above) = at.parent() {
            self.add_directory(above, wanted_by)?;
        }
        match self.0.entry(at.to_owned()) {
            Entry::Vacant(vacant) => drop(vacant.insert(Place { is_file: true, wanted_by })),
            Entry::Occupied(mut taken) => {
                let Place { is_file, wanted_by: other } = *taken.get();
                if !is_file || wanted_by.origin == FileOrigin::Provider {
                    let other = other.path.to_owned();
                    return Err(Conflict { at: at.to_owned(), other, is_about_kind: !is_file });
                }
                taken.insert(Place { is_file: true, wanted_by });
            }
        }
        Ok(())
    }

    /// Adds a directory, which others may share, and its parents.
    pub(super) fn add_directory(&mut self, at: &Path, wanted_by: Wanted<'a>) -> Result<(), Conflict> {
        for directory in at.ancestors() {
            match self.0.entry(directory.to_owned()) {
                Entry::Vacant(vacant) => drop(vacant.insert(Place { is_file: false, wanted_by })),
                Entry::Occupied(taken) if taken.get().is_file => {
                    let other = taken.get().wanted_by.path.to_owned();
                    return Err(Conflict { at: directory.to_owned(), other, is_about_kind: true });
                }
                // Its parents were added with it.
                Entry::Occupied(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

/// The canonical form of all spellings of `path` (`a//b`, `./a/b`, `a/c/../b`, through a symlink). A symlink as last
/// component is not followed.
pub(super) fn true_path(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (Some(above), Some(name)) = (whole.parent(), whole.file_name()) else { return whole };
    true_directory(above).join(name)
}

/// As [`true_path`], for a directory, where a symlink as last component is followed.
fn true_directory(path: &Path) -> PathBuf {
    let mut missing: Vec<OsString> = Vec::new();
    let mut there = path.to_owned();
    let mut real = loop {
        match fs::canonicalize(&there) {
            Ok(real) => break real,
            Err(_) => match there.components().next_back() {
                Some(Component::Normal(name)) => {
                    missing.push(name.to_owned());
                    there.pop();
                }
                Some(Component::ParentDir) => {
                    missing.push("..".into());
                    there.pop();
                }
                _ => break there,
            },
        }
    };
    for name in missing.into_iter().rev() {
        if name == ".." {
            real.pop();
        } else {
            real.push(name);
        }
    }
    real
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_a_path_are_one() {
        let root = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(root.path()).unwrap();
        fs::create_dir(real.join("d")).unwrap();
        std::os::unix::fs::symlink("d", real.join("link")).unwrap();
        let at = |text: &str| true_path(Path::new(&format!("{}/{text}", root.path().display())));
        for text in ["d/f", "d//f", "./d/./f", "d/f/", "link/f", "d/../d/f", "link/../d/f", "new/../d/f"] {
            assert_eq!(at(text), real.join("d/f"), "{text}");
        }
        assert_eq!(at("new/deeper/../f"), real.join("new/f"));
        assert_eq!(at("link"), real.join("link"), "a symlink in a file's place is replaced");
        assert_eq!(true_path(Path::new("a/b")), std::env::current_dir().unwrap().join("a/b"));
    }
}
