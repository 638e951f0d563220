//! Automatic login: the user whom the display manager logs in at the next boot.
//!
//! [`Autologin`] finds the display manager of a root directory and reads, sets or clears the user. Pure functions
//! ([`gdm`], [`own`]) compute the content of the files; names are validated first ([`name`]). Files are replaced
//! atomically, and are on the disk when a call returns. Every call blocks.

use std::io;
use std::path::{Path, PathBuf};

use super::atomic::WriteError;

mod account;
mod find;
pub mod gdm;
pub mod keyfile;
pub mod name;
pub mod own;
mod root;

#[cfg(test)]
mod tests;

use name::{NameError, SessionName, Tty, UserName};
use root::Root;

/// `autologin.displayManager`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisplayManager {
    /// The one that the host uses.
    Auto,
    /// GNOME's.
    Gdm,
    Lightdm,
    /// KDE's.
    Sddm,
    /// A text console.
    Getty,
    /// No automatic login: requests are refused.
    None,
}

/// A display manager whose automatic login can be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Gdm,
    Lightdm,
    Sddm,
    Getty,
}

impl Known {
    fn name(self) -> &'static str {
        match self {
            Self::Gdm => "gdm",
            Self::Lightdm => "lightdm",
            Self::Sddm => "sddm",
            Self::Getty => "getty",
        }
    }
}

/// The reason why an automatic login was not set, cleared or read.
#[derive(Debug, thiserror::Error)]
pub enum AutologinError {
    /// Automatic login is disabled in the runner configuration.
    #[error("autologin.displayManager is none: this host logs nobody in automatically")]
    None,
    /// `auto` found an unknown display manager.
    #[error("{source_path} names {name:?}, which start-worker does not know: set autologin.displayManager")]
    Unknown {
        /// The file that names it.
        source_path: &'static str,
        name: String,
    },
    /// The name of the user or session is invalid.
    #[error("cannot use {0:?}")]
    Name(String, #[source] NameError),
    #[error("no user {0} on this host: make the user first")]
    NoSuchUser(UserName),
    #[error("cannot look up the user {0}")]
    Lookup(UserName, #[source] io::Error),
    /// The user has uid 0 under another name than root.
    #[error("{0} has uid 0, and display managers do not log the superuser in")]
    Superuser(UserName),
    /// A user whom no worker may request.
    #[error(
        "{0} has uid {1}: a worker may ask for users from uid 1000 (see autologin.allowedUsers), and never for nobody"
    )]
    System(UserName, u32),
    /// A user whom this worker may not request.
    #[error("{0} does not match autologin.allowedUsers ({1})")]
    NotAllowed(UserName, String),
    /// gdm would ignore the file.
    #[error("{} cannot be read by gdm, which ignores the whole file: line {line} is no comment, no [section] and no key=value in one; repair it", path.display())]
    Broken {
        path: PathBuf,
        /// The line number, from 1.
        line: usize,
    },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file cannot be written or removed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The result of a change.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    pub display_manager: &'static str,
    /// The display manager's file.
    pub file: PathBuf,
    /// False if the file was already correct.
    pub changed: bool,
    /// True if systemd must reload its units for the change to take effect at the next boot.
    pub reload: bool,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// The automatic login in force.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    pub display_manager: &'static str,
    /// The display manager's file.
    pub file: PathBuf,
    /// The user who is logged in automatically.
    pub user: Option<String>,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// The automatic login of one host, or of a root directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autologin {
    root: Root,
    display_manager: DisplayManager,
    tty: Tty,
}

impl Autologin {
    /// `tty` only matters to getty.
    pub fn new(root: &Path, display_manager: DisplayManager, tty: Tty) -> Self {
        Self { root: Root::new(root), display_manager, tty }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Returns true if there is a supported display manager, and this process may write its file.
    pub fn is_possible(&self) -> bool {
        self.find().is_ok_and(|(_, file)| self.root.may_write(&file))
    }

    /// Validates a user requested by a worker: the user must exist and match `allowed` or, if that is not set, have a
    /// uid of 1000 or more. Never root, never nobody.
    pub fn user_for_worker(&self, name: &str, allowed: Option<&str>) -> Result<UserName, AutologinError> {
        let user = UserName::parse(name).map_err(|error| AutologinError::Name(name.to_owned(), error))?;
        let uid = account::uid_of(&self.root, &user)?;
        account::may_be_asked_for(&user, uid, allowed)?;
        Ok(user)
    }

    /// Validates an existing user other than root.
    pub fn user(&self, name: &str) -> Result<UserName, AutologinError> {
        let user = UserName::parse(name).map_err(|error| AutologinError::Name(name.to_owned(), error))?;
        account::uid_of(&self.root, &user)?;
        Ok(user)
    }

    /// Configures the next boot to log this user in. The change is on the disk when this returns `Ok`. On failure, the
    /// file is unchanged.
    pub fn set(&self, user: &UserName, session: Option<&SessionName>) -> Result<Done, AutologinError> {
        let (found, file) = self.find()?;
        let mut warnings = self.overruled(found)?;
        let content = match found {
            Known::Gdm => {
                let old = content(&file)?;
                if let Some(line) = keyfile::first_fault(&old) {
                    return Err(AutologinError::Broken { path: file, line });
                }
                gdm::set(&old, user)
            }
            Known::Lightdm => own::lightdm(user, session).into_bytes(),
            Known::Sddm => own::sddm(user, session).into_bytes(),
            Known::Getty => own::getty(user).into_bytes(),
        };
        if session.is_some() && matches!(found, Known::Gdm | Known::Getty) {
            warnings.push(format!(
                "{} takes no session for an automatic login: autologin's session has no effect",
                found.name()
            ));
        }
        let changed = root::write(&file, &content)?;
        Ok(self.done(found, file, changed, warnings))
    }

    /// Configures the next boot to log nobody in. The change is on the disk when this returns `Ok`. On failure, the
    /// file is unchanged.
    pub fn clear(&self) -> Result<Done, AutologinError> {
        let (found, file) = self.find()?;
        let warnings = self.overruled(found)?;
        let changed = if found == Known::Gdm {
            let old = content(&file)?;
            let new = gdm::clear(&old);
            // A missing file already logs nobody in.
            if old.is_empty() { false } else { root::write(&file, &new)? }
        } else {
            root::remove(&file)?
        };
        Ok(self.done(found, file, changed, warnings))
    }

    /// Returns the user whom the next boot logs in.
    pub fn show(&self) -> Result<Shown, AutologinError> {
        let (found, file) = self.find()?;
        let content = content(&file)?;
        let user = match found {
            Known::Gdm => gdm::user(&content).filter(|_| keyfile::first_fault(&content).is_none()),
            Known::Lightdm => own::lightdm_user(&content),
            Known::Sddm => own::sddm_user(&content),
            Known::Getty => own::getty_user(&content),
        };
        let warnings = self.overruled(found)?;
        Ok(Shown { display_manager: found.name(), file, user, warnings })
    }

    /// Finds the display manager and its file. A symlink at gdm's file is followed: its target is edited, and the link
    /// is kept. A symlink at the path of a file of ours is replaced.
    fn find(&self) -> Result<(Known, PathBuf), AutologinError> {
        let found = find::display_manager(&self.root, self.display_manager)?;
        let path = match found {
            Known::Gdm => find::gdm_file(&self.root)?.to_owned(),
            Known::Lightdm => format!("/etc/lightdm/lightdm.conf.d/{}", own::NAME),
            Known::Sddm => format!("/etc/sddm.conf.d/{}", own::NAME),
            Known::Getty => format!("/etc/systemd/system/{}.d/{}", own::unit(&self.tty), own::NAME),
        };
        let resolved =
            if found == Known::Gdm { self.root.resolve(&path) } else { self.root.resolve_entry(&path) };
        let file = resolved.map_err(|source| AutologinError::Read { path: path.into(), source })?;
        Ok((found, file))
    }

    /// Warns if the main configuration file overrides our file: lightdm and sddm read it after the small files, and the
    /// last value counts.
    fn overruled(&self, found: Known) -> Result<Vec<String>, AutologinError> {
        let path = match found {
            Known::Lightdm => "/etc/lightdm/lightdm.conf",
            Known::Sddm => "/etc/sddm.conf",
            Known::Gdm | Known::Getty => return Ok(Vec::new()),
        };
        let content = self.root.read(path)?.unwrap_or_default();
        let user = if found == Known::Sddm { own::sddm_user(&content) } else { own::lightdm_user(&content) };
        let warning =
            |user| format!("{path} logs {user} in, and overrules start-worker's file: remove that there");
        Ok(user.map(warning).into_iter().collect())
    }

    fn done(&self, found: Known, file: PathBuf, changed: bool, warnings: Vec<String>) -> Done {
        let reload = found == Known::Getty && changed && self.root.is_live();
        Done { display_manager: found.name(), file, changed, reload, warnings }
    }
}

/// A file's content; empty if the file does not exist.
fn content(file: &Path) -> Result<Vec<u8>, AutologinError> {
    let read = root::read(file).map_err(|source| AutologinError::Read { path: file.to_owned(), source });
    Ok(read?.unwrap_or_default())
}
