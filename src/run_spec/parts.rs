//! What the worker configuration is merged from, kept apart: so that it can be merged again, with another runner file,
//! and no array ever grows.

use super::Object;
use super::worker_config::{Merged, Source};

/// What comes to the worker configuration from outside the runner file.
#[derive(Clone)]
pub enum Parts {
    /// Each layer with its source, lowest precedence first: the provider's, then the secrets'.
    Apart(Vec<(Source, Object)>),
    /// A whole that the Go start-worker cached: its layers, the runner file's of that time among them, are not known
    /// apart. It is kept as it was read, so that what is made of it is the same at every start.
    Whole(Object),
}

impl Parts {
    /// The worker configuration, with the runner file's `workerConfig` as it is now.
    pub fn merge_with(&self, runner_file: &Object) -> Merged {
        let mut merged = Merged::new();
        match self {
            Self::Apart(layers) => {
                merged.merge(runner_file.clone(), &Source::RunnerFile);
                for (source, layer) in layers {
                    merged.merge(layer.clone(), source);
                }
            }
            Self::Whole(whole) => {
                merged.merge(whole.clone(), &Source::Cache);
                merged.merge_over_whole(runner_file.clone(), &Source::RunnerFile);
            }
        }
        merged
    }

    /// The layers that came from secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &Object> {
        let layers = match self {
            Self::Apart(layers) => layers.as_slice(),
            Self::Whole(_) => &[],
        };
        layers.iter().filter(|(source, _)| matches!(source, Source::Secret(_))).map(|(_, layer)| layer)
    }
}

impl Default for Parts {
    fn default() -> Self {
        Self::Apart(Vec::new())
    }
}

/// Leaves the values out: they may be secret.
impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Apart(layers) => {
                f.debug_list().entries(layers.iter().map(|(source, _)| source.to_string())).finish()
            }
            Self::Whole(_) => f.write_str("Whole"),
        }
    }
}
