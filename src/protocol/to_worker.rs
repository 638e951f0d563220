//! The messages from the runner to the worker.

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::capabilities::Capabilities;

/// From the runner to the worker.
#[derive(Debug)]
pub enum ToWorker {
    /// The first thing that is said.
    Welcome {
        /// What the runner can do.
        capabilities: Capabilities,
    },
    /// The worker is to end.
    GracefulTermination {
        /// `true`: finish the running tasks first. `false`: clean up and exit at once.
        finish_tasks: bool,
    },
    /// The worker is to use these credentials from now on.
    NewCredentials {
        /// `client-id`.
        client_id: String,
        /// `access-token`.
        access_token: SecretString,
        /// `certificate`: a string that holds JSON.
        certificate: Option<SecretString>,
    },
    /// What has come of an `autologin`.
    AutologinResult {
        /// Whom it asked for; `None`: nobody, or it did not say.
        user: Option<String>,
        /// Why it was not done.
        error: Option<String>,
    },
}

impl ToWorker {
    /// The line that goes to the worker, newline included.
    pub fn encode(&self) -> Vec<u8> {
        let value = match self {
            Self::Welcome { capabilities } => {
                json!({"type": "welcome", "capabilities": capabilities.names().collect::<Vec<_>>()})
            }
            Self::GracefulTermination { finish_tasks } => {
                json!({"type": "graceful-termination", "finish-tasks": finish_tasks})
            }
            Self::NewCredentials { client_id, access_token, certificate } => {
                let mut value = json!({
                    "type": "new-credentials",
                    "client-id": client_id,
                    "access-token": access_token.expose_secret(),
                });
                if let (Some(certificate), Some(object)) = (certificate, value.as_object_mut()) {
                    object.insert("certificate".to_owned(), certificate.expose_secret().into());
                }
                value
            }
            Self::AutologinResult { user, error: None } => {
                json!({"type": "autologin-result", "user": user, "ok": true})
            }
            Self::AutologinResult { user, error } => {
                json!({"type": "autologin-result", "user": user, "ok": false, "error": error})
            }
        };
        format!("~{value}\n").into_bytes()
    }
}
