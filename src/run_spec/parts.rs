//! The sources of the worker configuration, stored separately, so that they can be merged again with another runner
//! file, and no array grows.

use super::Object;
use super::worker_config::{Merged, Source};

/// The parts of the worker configuration that do not come from the runner file.
#[derive(Clone)]
pub enum Parts {
    /// Each layer with its source, lowest precedence first: the provider's, then the secrets'.
    Apart(Vec<(Source, Object)>),
    /// A complete configuration that the Go start-worker cached: its layers, including the runner file's of that time,
    /// cannot be separated. It is kept as it was read, so that every start merges the same.
    Whole(Object),
}

impl Parts {
    /// Merges the worker configuration with the runner file's current `workerConfig`.
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

    /// The layers from secrets.
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

/// Omits the values, because they may be secret.
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
