//! Taskcluster credentials: who calls, with which secret, and until when.

use jiff::Timestamp;
use secrecy::SecretString;

/// Taskcluster credentials, permanent or temporary.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The client's name; not a secret.
    pub client_id: String,
    /// The secret that goes with `client_id`.
    pub access_token: SecretString,
    /// For temporary credentials: a string that holds JSON, handed on unchanged. It is signed, and as secret as
    /// the token.
    pub certificate: Option<SecretString>,
    /// When they stop being valid; `None`: never.
    pub expires: Option<Timestamp>,
    /// When they were obtained, by the host's clock, where that is known: what they have lived since then says how
    /// close to their end they may come.
    pub obtained: Option<Timestamp>,
}
