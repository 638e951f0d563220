//! `start-worker check --online`: tries each step of a start as far as that has no side effect, and reports its
//! outcome.
//!
//! It registers no worker, uses up no secret and writes nothing. `host.rs` checks this host, `network.rs` the provider
//! and Taskcluster.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::config::{Implementation, ProviderConfig, RunnerConfig};
use crate::provider::MetadataOrigins;
use crate::redact::Secrets;
use crate::run_spec::cache::{CachedRun, Stage};
use crate::taskcluster::Proxies;

mod host;
mod network;

/// The probe's environment, as parameters.
pub struct Surroundings {
    pub clock: Arc<dyn Clock>,
    pub proxies: Proxies,
    /// The addresses of the clouds' metadata services.
    pub metadata: MetadataOrigins,
    /// The directory of the lock and the status socket.
    pub runtime_directory: Option<PathBuf>,
    /// The folders in which programs are looked up.
    pub path: Option<OsString>,
}

/// The outcome of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A start would pass this step.
    Ok,
    /// A start would pass this step, perhaps with limitations.
    Warning,
    /// A start would fail at this step.
    Failed,
    /// Not checked, because an earlier step failed or because the check would have a side effect.
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The step's name.
    pub what: &'static str,
    pub outcome: Outcome,
    /// The result, or the reason for the outcome.
    pub found: String,
}

#[derive(Debug)]
pub struct Findings {
    steps: Vec<Step>,
    plan: Vec<String>,
}

/// Checks all steps. Takes at most half a minute if no server answers.
pub async fn look(config: &RunnerConfig, surroundings: &Surroundings) -> Findings {
    let (mut steps, cached) = host::look(config, surroundings);
    steps.extend(network::look(config, surroundings, cached.as_ref()).await);
    Findings { steps, plan: plan(config, cached.as_ref()) }
}

impl Findings {
    /// The verdict in one line.
    pub fn verdict(&self) -> String {
        let of = |outcome| {
            let steps = self.steps.iter().filter(move |step| step.outcome == outcome);
            steps.map(|step| step.what).collect::<Vec<_>>().join(", ")
        };
        let mut verdict = match of(Outcome::Failed) {
            failed if failed.is_empty() => "a start would succeed, as far as that can be checked".to_owned(),
            failed => format!("a start would fail: {failed}"),
        };
        for (outcome, word) in [(Outcome::Warning, "doubtful"), (Outcome::Skipped, "not checked")] {
            let steps = of(outcome);
            if !steps.is_empty() {
                // Writing to a String cannot fail.
                let _ = write!(verdict, "; {word}: {steps}");
            }
        }
        verdict
    }

    /// Returns true if a start would fail.
    pub fn fails(&self) -> bool {
        self.steps.iter().any(|step| step.outcome == Outcome::Failed)
    }

    /// Masks these secrets.
    #[must_use]
    pub fn masked(self, secrets: &Secrets) -> Self {
        let step = |step: Step| Step { found: secrets.mask(step.found), ..step };
        Self { steps: self.steps.into_iter().map(step).collect(), ..self }
    }

    /// Formats the findings for people.
    pub fn text(&self) -> String {
        let mut text = "\n# online: what a start would meet\n".to_owned();
        for Step { what, outcome, found } in &self.steps {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# {:<11} {what}: {found}", outcome.word());
        }
        text.push_str("# at start:\n");
        for (number, sentence) in (1..).zip(&self.plan) {
            let _ = writeln!(text, "#   {number}. {sentence}");
        }
        text
    }

    /// Formats the findings for programs.
    pub fn json(&self) -> Value {
        let step =
            |step: &Step| json!({"step": step.what, "result": step.outcome.word(), "found": step.found});
        json!({"steps": self.steps.iter().map(step).collect::<Vec<_>>(), "atStart": self.plan, "fails": self.fails()})
    }
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "doubtful",
            Self::Failed => "fails",
            Self::Skipped => "not checked",
        }
    }
}

impl Step {
    fn new(what: &'static str, outcome: Outcome, found: impl Into<String>) -> Self {
        Self { what, outcome, found: found.into() }
    }

    /// Reduces a failure to a warning, for a step that is optional.
    fn at_most_doubtful(mut self) -> Self {
        if self.outcome == Outcome::Failed {
            self.outcome = Outcome::Warning;
        }
        self
    }
}

/// The steps of a start, one sentence each.
fn plan(config: &RunnerConfig, cached: Option<&CachedRun>) -> Vec<String> {
    let name = config.worker.implementation.name();
    if let Some(cached) = cached.filter(|cached| cached.leaving.is_some()) {
        let so_far = cached.how_far_it_has_left();
        let rest = if cached.has_left() || !config.provider.is_dynamic() {
            "nothing is done"
        } else {
            "no worker is started, and the machine is deregistered and shut down"
        };
        return vec![format!("{so_far}: {rest}")];
    }
    let mut plan = Vec::new();
    let goes_on = cached.is_some_and(|cached| cached.stage == Stage::Complete);
    let is_static = matches!(config.provider, ProviderConfig::Static(_));
    if goes_on && !is_static {
        plan.push("the worker goes on with the cached run: nothing is asked for again".to_owned());
        plan.push("credentials that are due are renewed".to_owned());
    } else {
        plan.push(match &config.provider {
            ProviderConfig::Standalone(_) => {
                "the worker's name and credentials are those of the runner configuration".to_owned()
            }
            ProviderConfig::AwsProvisioner(_) => {
                "the one-time secret of the user-data is fetched, and removed".to_owned()
            }
            _ => "the worker registers with worker-manager".to_owned(),
        });
        if goes_on {
            plan.push("where that gets no answer for a minute, the cached run serves".to_owned());
        }
        if config.get_secrets {
            plan.push(
                "the worker pool's secrets are fetched, and the files that come with all this written"
                    .to_owned(),
            );
        }
        if let Some(path) = &config.cache_over_restarts {
            plan.push(format!("the run is cached at {}", path.display()));
        }
    }
    match &config.worker.implementation {
        Implementation::Dummy { .. } => plan.push("the run is shown, and nothing started".to_owned()),
        _ => plan.push(format!("{name}'s configuration is written, and it is started")),
    }
    plan
}
