//! Automatic login according to the runner configuration: requests of a worker, and the user set at every start.

use std::path::Path;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::config;
use crate::error_chain::ErrorChain;
use crate::host::autologin::name::{SessionName, UserName};
use crate::host::autologin::{Autologin, AutologinError, Done, Shown};
use crate::host::blocking::{Lanes, Unanswered};
use crate::host::helper::{HelperError, Helpers};
use crate::host::power;
use crate::protocol::message::AutologinRequest;

/// This folder exists if systemd runs (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";

/// Time limit of the disk for setting the configured user, before the worker is started without it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time limit of finding a display manager.
const LOOK: Duration = Duration::from_secs(10);

/// The automatic login of this runner's host.
#[derive(Debug, Clone)]
pub struct Logins {
    host: Autologin,
    user: Option<UserName>,
    session: Option<SessionName>,
    allowed: Option<String>,
    lanes: Lanes,
    /// The command that makes systemd reload its units.
    pub reload_command: Vec<String>,
}

impl Logins {
    /// Applies the configuration's section `autologin`.
    pub fn new(config: &config::Autologin) -> Self {
        Self {
            host: Autologin::new(&config.root, config.display_manager, config.tty.clone()),
            user: config.user.clone(),
            session: config.session.clone(),
            allowed: config.allowed_users.clone(),
            lanes: Lanes::default(),
            reload_command: ["systemctl", "daemon-reload"].map(str::to_owned).to_vec(),
        }
    }

    /// Runs the blocking calls in these lanes.
    #[must_use]
    pub fn with_lanes(self, lanes: Lanes) -> Self {
        Self { lanes, ..self }
    }

    pub fn user(&self) -> Option<&UserName> {
        self.user.as_ref()
    }

    /// Returns true if there is a supported display manager that this process can configure. One on a disk that does
    /// not answer does not count.
    pub async fn can_be_set(&self) -> bool {
        let host = self.host.clone();
        let possible = self.lanes.autologin.at(self.host.root(), LOOK, move || host.is_possible()).await;
        possible.unwrap_or_else(|cause| {
            warn!(error = %cause, "cannot look for a display manager: the worker is offered no automatic login");
            false
        })
    }

    /// Performs a worker's request. The change is on the disk when this returns `Ok`.
    pub async fn perform(
        &self,
        request: &AutologinRequest,
    ) -> Result<Result<Done, AutologinError>, Unanswered> {
        let (logins, request) = (self.clone(), request.clone());
        self.lanes.autologin.at(self.host.root(), PATIENCE, move || logins.answer(&request)).await
    }

    fn answer(&self, request: &AutologinRequest) -> Result<Done, AutologinError> {
        let Some(user) = &request.user else { return self.clear() };
        let user = self.host.user_for_worker(user, self.allowed.as_deref())?;
        let bad_session = |name: &str| {
            let name = name.to_owned();
            move |cause| AutologinError::Name(name, cause)
        };
        let asked = request.session.as_deref();
        let asked = asked.map(|name| SessionName::parse(name).map_err(bad_session(name))).transpose()?;
        self.host.set(&user, asked.as_ref().or(self.session.as_ref()))
    }

    /// Sets the user named by an operator, with the configured session. Blocks.
    pub fn set(&self, user: &str) -> Result<Done, AutologinError> {
        self.host.set(&self.host.user(user)?, self.session.as_ref())
    }

    /// Configures the next boot to log nobody in. Blocks.
    pub fn clear(&self) -> Result<Done, AutologinError> {
        self.host.clear()
    }

    /// Returns the user whom the next boot logs in. Blocks.
    pub fn show(&self) -> Result<Shown, AutologinError> {
        self.host.show()
    }

    /// Makes systemd reload its units after a change. The next boot does so in any case, so a failure only deserves a
    /// warning.
    pub async fn follow_up(&self, done: &Done, helpers: &Helpers) -> Result<(), HelperError> {
        if !done.reload || !Path::new(SYSTEMD).exists() {
            return Ok(());
        }
        power::run(&self.reload_command, helpers).await.map(|_| ())
    }

    /// Logs a change made for a worker or the configuration, and makes systemd reload its units.
    pub async fn conclude(&self, user: Option<&str>, done: &Done, helpers: &Helpers) {
        tell(user, done);
        if let Err(cause) = self.follow_up(done, helpers).await {
            warn!(error = %cause, "systemd has not read its units again: the next boot will");
        }
    }

    /// Sets `autologin.user`, if it is configured. A failure is only logged, because it must not keep a host down.
    pub async fn set_configured(&self, helpers: &Helpers) {
        let Some(user) = self.user.clone() else { return };
        let (logins, name) = (self.clone(), user.clone());
        let setting = self.lanes.autologin.at(self.host.root(), PATIENCE, move || logins.set(name.as_str()));
        match setting.await {
            Ok(Ok(done)) => {
                self.conclude(Some(user.as_str()), &done, helpers).await;
            }
            Ok(Err(cause)) => {
                error!(name: "autologin-failed", %user, error = %ErrorChain(&cause), "autologin.user is not set: the next boot does not log this user in; the worker starts all the same");
            }
            Err(cause) => {
                error!(name: "autologin-failed", %user, error = %cause, "autologin.user is not on the disk: the worker starts all the same");
            }
        }
    }
}

/// Logs a change. `user`: `None` means nobody.
fn tell(user: Option<&str>, done: &Done) {
    let (display_manager, file, changed) = (done.display_manager, done.file.display(), done.changed);
    match user {
        Some(user) => {
            info!(name: "autologin-set", user, display_manager, %file, changed, "automatic login is set: the next boot logs the user in");
        }
        None => {
            info!(name: "autologin-cleared", display_manager, %file, changed, "automatic login is cleared: the next boot logs nobody in");
        }
    }
    for warning in &done.warnings {
        warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn systemd_reads_its_units_again_only_where_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("reloaded");
        let mut logins = Logins::new(&config::Autologin { root: folder.path().into(), ..Default::default() });
        logins.reload_command = vec!["touch".to_owned(), mark.display().to_string()];
        let done = |reload| Done {
            display_manager: "getty",
            file: mark.clone(),
            changed: true,
            reload,
            warnings: Vec::new(),
        };
        logins.follow_up(&done(false), &Helpers::default()).await.unwrap();
        assert!(!mark.exists());
        logins.follow_up(&done(true), &Helpers::default()).await.unwrap();
        assert_eq!(mark.exists(), Path::new(SYSTEMD).exists());
    }
}
