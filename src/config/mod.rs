//! The runner configuration, parsed into types that are valid by construction.
//!
//! [`load`] opens the file safely, parses the YAML and collects all errors and warnings in one pass; see
//! [`diagnostics`]. The sections and defaults are those of `docs/configuration.md`.

use std::path::Path;

use thiserror::Error;

use crate::host::private_file;

mod anchors;
pub mod diagnostics;
pub mod effective;
mod file;
mod keys;
mod merge;
mod model;
mod near;
mod node;
mod provider;
mod reader;
mod section;
mod settings;
mod text;
mod trail;
mod values;
mod worker;

pub use diagnostics::{Diagnostic, Faults, Level};
pub use file::to_yaml;
pub use keys::{KeyInfo, known_keys};
pub use model::*;
pub use near::near;

/// The default directory for state that outlives the runner, without systemd's `STATE_DIRECTORY`.
const STATE_DIRECTORY: &str = "/var/lib/start-worker";

/// Maximum size of a runner configuration, in bytes. Usual files have a few kilobytes.
const MOST_BYTES: u64 = 1 << 20;

/// A usable configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: RunnerConfig,
    pub warnings: Vec<Diagnostic>,
}

/// The reason for a missing configuration.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file could not be read. (The text contains the cause, so there is no source that would repeat it.)
    #[error("cannot read the runner configuration: {0}")]
    File(private_file::Error),
    /// The content is invalid.
    #[error(transparent)]
    Faults(#[from] Faults),
}

/// The kind of a [`LoadError`], for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadErrorKind {
    /// The file is missing or unreadable, or its content is invalid.
    Invalid,
    /// The file has the wrong permissions, owner or type.
    Permissions,
}

impl From<private_file::Error> for LoadError {
    fn from(error: private_file::Error) -> Self {
        Self::File(error)
    }
}

impl LoadError {
    /// Converts the error to diagnostics.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        match self {
            Self::Faults(faults) => faults.diagnostics,
            Self::File(error) => vec![Diagnostic {
                level: Level::Error,
                file: error.path().to_owned(),
                line: None,
                path: String::new(),
                message: error.problem(),
            }],
        }
    }

    pub fn kind(&self) -> LoadErrorKind {
        match self {
            Self::File(error) if error.kind() == private_file::ErrorKind::Permissions => {
                LoadErrorKind::Permissions
            }
            Self::File(_) | Self::Faults(_) => LoadErrorKind::Invalid,
        }
    }
}

/// Reads the runner configuration at `path`, without a separate state directory.
pub fn load(path: &Path, access: private_file::Access) -> Result<Loaded, LoadError> {
    load_in(path, access, None)
}

/// Reads the runner configuration at `path`. `state_directory`: `$STATE_DIRECTORY`, which differs for each instance of
/// a unit.
pub fn load_in(
    path: &Path,
    access: private_file::Access,
    state_directory: Option<&Path>,
) -> Result<Loaded, LoadError> {
    let contents = private_file::read(path, access, MOST_BYTES)?;
    let about_file = contents.warnings.into_iter().map(|warning| {
        let readable =
            matches!(warning, private_file::Warning::Tightened { .. } | private_file::Warning::Loose { .. });
        let diagnostic = Diagnostic {
            level: Level::Warning,
            file: path.to_owned(),
            line: None,
            path: String::new(),
            message: warning.to_string(),
        };
        (readable, diagnostic)
    });
    match parse_in(path, &contents.bytes, state_directory) {
        Ok(mut loaded) => {
            let secret = !loaded.config.provider.has_placeholder_credentials();
            loaded
                .warnings
                .splice(0..0, about_file.filter(|(readable, _)| secret || !readable).map(|(_, told)| told));
            Ok(loaded)
        }
        Err(mut faults) => {
            faults.diagnostics.splice(0..0, about_file.map(|(_, told)| told));
            Err(faults.into())
        }
    }
}

/// Parses a runner configuration. `name` names it in diagnostics.
pub fn parse(name: &Path, text: &[u8]) -> Result<Loaded, Faults> {
    parse_in(name, text, None)
}

fn parse_in(name: &Path, text: &[u8], state_directory: Option<&Path>) -> Result<Loaded, Faults> {
    let document = file::Document::parse(text).map_err(|error| Faults {
        diagnostics: vec![Diagnostic {
            level: Level::Error,
            file: name.to_owned(),
            line: error.line,
            path: String::new(),
            message: error.message,
        }],
    })?;
    let reader = reader::Reader {
        document: &document,
        state_directory: state_directory.unwrap_or(Path::new(STATE_DIRECTORY)),
        notes: diagnostics::Notes::default(),
        secrets: reader::secrets_of(&document.root),
    };
    reader.report_flaws(&document.root, &trail::Trail::Start(""));
    if let Some(line) = document.repeated_anchor() {
        let message =
            "an anchor of this name is given before, and aliases may mix them up; use each name once";
        reader.notes.warning_in_line(line, message.to_owned());
    }
    let config = section::Section::top(&reader).and_then(settings::read);
    let diagnostics = reader.notes.finish(name, &document, &reader.secrets);
    let faulty = diagnostics.iter().any(|diagnostic| diagnostic.level == Level::Error);
    match config {
        Some(config) if !faulty => Ok(Loaded { config, warnings: diagnostics }),
        _ => Err(Faults { diagnostics }),
    }
}
