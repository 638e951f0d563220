//! The messages from the runner to the worker.

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::capabilities::Capabilities;

/// A message from the runner to the worker.
#[derive(Debug)]
pub enum ToWorker {
    /// The first message of a connection.
    Welcome {
        /// The runner's capabilities.
        capabilities: Capabilities,
    },
    /// Asks the worker to terminate.
    GracefulTermination {
        /// `true`: finish the running tasks first. `false`: clean up and exit at once.
        finish_tasks: bool,
    },
    /// Credentials to use from now on.
    NewCredentials {
        /// `client-id`.
        client_id: String,
        /// `access-token`.
        access_token: SecretString,
        /// `certificate`: a string that contains JSON.
        certificate: Option<SecretString>,
    },
    /// The result of an `autologin`.
    AutologinResult {
        /// The requested user; `None`: nobody, or the request had no user.
        user: Option<String>,
        /// The reason for a failure.
        error: Option<String>,
    },
}

impl ToWorker {
    /// Encodes the message as a line, including its newline.
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
