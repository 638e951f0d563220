//! Automatic login: whom the display manager logs in at the next boot.
//!
//! [`Autologin`] finds the display manager of a root directory and reads, sets or clears the user. What a file is to
//! say is decided by pure functions ([`gdm`], [`own`]); names are parsed before they come that far ([`name`]). Files
//! are replaced atomically, and are on the disk when a call returns. All of it blocks.

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
    /// `LightDM`.
    Lightdm,
    /// KDE's.
    Sddm,
    /// A text console.
    Getty,
    /// None: requests are refused.
    None,
}

/// A display manager that can be told whom to log in.
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

/// Why the automatic login is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AutologinError {
    /// There is to be none.
    #[error("autologin.displayManager is none: this host logs nobody in automatically")]
    None,
    /// `auto` has found something else.
    #[error("{source_path} names {name:?}, which start-worker does not know: set autologin.displayManager")]
    Unknown {
        /// Where that stands.
        source_path: &'static str,
        /// What is there.
        name: String,
    },
    /// The user's name, or the session's.
    #[error("cannot use {0:?}")]
    Name(String, #[source] NameError),
    /// Nobody has this name.
    #[error("no user {0} on this host: make the user first")]
    NoSuchUser(UserName),
    /// The users cannot be asked.
    #[error("cannot look up the user {0}")]
    Lookup(UserName, #[source] io::Error),
    /// Somebody has given user id 0 another name.
    #[error("{0} has uid 0, and display managers do not log the superuser in")]
    Superuser(UserName),
    /// Not one for a worker to ask for.
    #[error(
        "{0} has uid {1}: a worker may ask for users from uid 1000 (see autologin.allowedUsers), and never for nobody"
    )]
    System(UserName, u32),
    /// Not one for this worker to ask for.
    #[error("{0} does not match autologin.allowedUsers ({1})")]
    NotAllowed(UserName, String),
    /// gdm would not read the file.
    #[error("{} cannot be read by gdm, which ignores the whole file: line {line} is no comment, no [section] and no key=value in one; repair it", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file cannot be written, or removed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What has been done.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// The display manager.
    pub display_manager: &'static str,
    /// Its file.
    pub file: PathBuf,
    /// Whether the file was not right already.
    pub changed: bool,
    /// Whether systemd must read its units again to know of it before the next boot.
    pub reload: bool,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// What is in force.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    /// The display manager.
    pub display_manager: &'static str,
    /// Its file.
    pub file: PathBuf,
    /// Whom it logs in.
    pub user: Option<String>,
    /// What an operator should know.
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
    /// `tty` matters to getty alone.
    pub fn new(root: &Path, display_manager: DisplayManager, tty: Tty) -> Self {
        Self { root: Root::new(root), display_manager, tty }
    }

    /// The root directory of the files.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Whether there is a display manager that this process can tell whom to log in.
    pub fn is_possible(&self) -> bool {
        self.find().is_ok_and(|(_, file)| self.root.may_write(&file))
    }

    /// A user whom a worker asks for, if it may: an existing one, that matches `allowed`; without that, one with a uid
    /// of 1000 or more. Never root, never nobody.
    pub fn user_for_worker(&self, name: &str, allowed: Option<&str>) -> Result<UserName, AutologinError> {
        let user = UserName::parse(name).map_err(|error| AutologinError::Name(name.to_owned(), error))?;
        let uid = account::uid_of(&self.root, &user)?;
        account::may_be_asked_for(&user, uid, allowed)?;
        Ok(user)
    }

    /// An existing user, not root.
    pub fn user(&self, name: &str) -> Result<UserName, AutologinError> {
        let user = UserName::parse(name).map_err(|error| AutologinError::Name(name.to_owned(), error))?;
        account::uid_of(&self.root, &user)?;
        Ok(user)
    }

    /// Lets the next boot log this user in. When this returns without an error, that is on the disk.
    ///
    /// # Errors
    ///
    /// It cannot be done. Then the file is as it was.
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

    /// Lets the next boot log nobody in. When this returns without an error, that is on the disk.
    ///
    /// # Errors
    ///
    /// It cannot be done. Then the file is as it was.
    pub fn clear(&self) -> Result<Done, AutologinError> {
        let (found, file) = self.find()?;
        let warnings = self.overruled(found)?;
        let changed = if found == Known::Gdm {
            let old = content(&file)?;
            let new = gdm::clear(&old);
            // A file that is not there need not be made, to say nothing.
            if old.is_empty() { false } else { root::write(&file, &new)? }
        } else {
            root::remove(&file)?
        };
        Ok(self.done(found, file, changed, warnings))
    }

    /// Whom the next boot logs in.
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

    /// The display manager, and its file. A symlink at gdm's file is followed: what it leads to is edited, and the
    /// link stays. One in the place of a file that is ours is replaced.
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

    /// Both read their one great file after the small ones, and what is read last counts.
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

/// What a file has; nothing where it is not there.
fn content(file: &Path) -> Result<Vec<u8>, AutologinError> {
    let read = root::read(file).map_err(|source| AutologinError::Read { path: file.to_owned(), source });
    Ok(read?.unwrap_or_default())
}
