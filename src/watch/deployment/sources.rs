//! Queries worker-manager for signs of a new deployment. Each source degrades separately: one that is not permitted is
//! not called again, one that fails is retried, and neither affects the worker.

use std::collections::BTreeSet;
use std::fmt;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::Look;
use super::definition::{Deployed, Finding, deployment_ids, launch_config_ids};
use crate::config::{Implementation, ProviderConfig, RunnerConfig};
use crate::redact::{Secrets, cut};
use crate::registration::Registrar;
use crate::taskcluster::{CallError, Effort, result_of};
use crate::telemetry::counters::Counters;
use crate::worker::LaunchSpec;

/// The number of consecutive answers with which worker-manager must ask the worker to end, because it decides anew with
/// every scan.
const TIMES_TO_END: u32 = 2;

/// Maximum number of values that are logged.
const SHOWN: usize = 5;
/// Maximum length of a logged value, in characters.
const SHOWN_OF_A_VALUE: usize = 100;

/// A reason to drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The deployment from which the run was made is not in use any more.
    Replaced {
        /// `deploymentId` or `launchConfigId`.
        what: &'static str,
        old: String,
        new: BTreeSet<String>,
    },
    /// worker-manager wants the worker to end.
    End {
        /// worker-manager's reason.
        reason: String,
    },
}

/// All sources that can show a new deployment of this worker.
pub(super) struct Sources {
    registrar: Registrar,
    /// Contains the latest credentials.
    launches: watch::Receiver<LaunchSpec>,
    implementation: &'static str,
    ending: Option<Ending>,
    pool: Call,
    /// `deploymentId`, `launchConfigId`.
    compared: Vec<Compared>,
}

/// The call that asks whether worker-manager wants the worker to end.
struct Ending {
    call: Call,
    /// The number of consecutive positive answers.
    times: u32,
}

/// A value that is compared with the pool's definition.
struct Compared {
    what: &'static str,
    own: String,
    /// True if the last definition did not contain the value.
    missing: bool,
}

impl Sources {
    pub(super) fn new(
        registrar: Registrar,
        config: &RunnerConfig,
        deployed: &Deployed,
        launches: watch::Receiver<LaunchSpec>,
        counters: Counters,
    ) -> Self {
        let name = registrar.name();
        let worker = format!("{}/{}/{}", name.worker_pool_id, name.worker_group, name.worker_id);
        let ending = asks_whether_to_end(config).then(|| Ending {
            call: Call::new(
                "shouldWorkerTerminate",
                format!("worker-manager:should-worker-terminate:{worker}"),
                counters.clone(),
            ),
            times: 0,
        });
        let scope = format!("worker-manager:get-worker-pool:{}", name.worker_pool_id);
        let pool = Call::new("workerPool", scope, counters);
        let compared =
            deployed.values().into_iter().map(|(what, own)| Compared { what, own, missing: false }).collect();
        let implementation = config.worker.implementation.name();
        Self { registrar, launches, implementation, ending, pool, compared }
    }

    async fn ask_whether_to_end(&mut self) -> Option<Verdict> {
        let ending = self.ending.as_mut().filter(|ending| !ending.call.rests())?;
        let credentials = self.launches.borrow().credentials.clone();
        let name = self.registrar.name();
        let answer = self.registrar.client().should_worker_terminate(&credentials, name, Effort::Once).await;
        let answer = ending.call.settle(answer)?;
        ending.times = if answer.terminate { ending.times.saturating_add(1) } else { 0 };
        let verdict = Verdict::End { reason: answer.reason }.masked(self.registrar.client().secrets());
        (ending.times >= TIMES_TO_END).then_some(verdict)
    }

    async fn look_at_the_pool(&mut self) -> Vec<Verdict> {
        if self.compared.is_empty() || self.pool.rests() {
            return Vec::new();
        }
        let credentials = self.launches.borrow().credentials.clone();
        let pool_id = &self.registrar.name().worker_pool_id;
        let answer = self.registrar.client().worker_pool(&credentials, pool_id, Effort::Once).await;
        let Some(pool) = self.pool.settle(answer) else { return Vec::new() };
        let implementation = self.implementation;
        let verdict = |compared: &mut Compared| {
            let in_use = match compared.what {
                "deploymentId" => deployment_ids(&pool.config, implementation),
                _ => launch_config_ids(&pool.config),
            };
            compared.verdict(in_use).map(|verdict| verdict.masked(self.registrar.client().secrets()))
        };
        self.compared.iter_mut().filter_map(verdict).collect()
    }
}

impl Look for Sources {
    fn names(&self) -> Vec<&'static str> {
        let ending = self.ending.iter().filter(|ending| !ending.call.rests()).map(|ending| ending.call.name);
        let compared = self.compared.iter().filter(|_| !self.pool.rests()).map(|compared| compared.what);
        ending.chain(compared).collect()
    }

    async fn look(&mut self) -> Vec<Verdict> {
        let ending = self.ask_whether_to_end().await;
        let mut verdicts = self.look_at_the_pool().await;
        verdicts.extend(ending);
        verdicts
    }

    fn trouble(&self) -> Option<String> {
        let asked = self.ending.iter().map(|ending| &ending.call).chain([&self.pool]);
        let troubles: Vec<&str> = asked.filter_map(|call| call.trouble.as_deref()).collect();
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }
}

impl Compared {
    fn verdict(&mut self, in_use: BTreeSet<&str>) -> Option<Verdict> {
        let finding = Finding::of(&self.own, in_use);
        let missing = finding == Finding::Unknown;
        if missing && !self.missing {
            info!(
                what = self.what,
                own = short(&self.own),
                "the worker pool's definition has nothing to compare with: the worker goes on"
            );
        }
        self.missing = missing;
        match finding {
            Finding::Replaced(new) => Some(Verdict::Replaced { what: self.what, old: self.own.clone(), new }),
            Finding::Unknown | Finding::Current => None,
        }
    }
}

/// generic-worker makes this call itself, between tasks; for static workers the answer is always no; worker-manager
/// does not know the others.
fn asks_whether_to_end(config: &RunnerConfig) -> bool {
    let asked = matches!(
        config.provider,
        ProviderConfig::Aws(_) | ProviderConfig::Azure(_) | ProviderConfig::Google(_)
    );
    asked && !matches!(config.worker.implementation, Implementation::GenericWorker { .. })
}

/// A call and its state.
struct Call {
    name: &'static str,
    /// The required scope.
    scope: String,
    state: CallState,
    /// The reason why the last call failed.
    trouble: Option<String>,
    counters: Counters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallState {
    Works,
    Fails,
    /// The call is not permitted, and is not made.
    Rests,
}

impl Call {
    fn new(name: &'static str, scope: String, counters: Counters) -> Self {
        Self { name, scope, state: CallState::Works, trouble: None, counters }
    }

    fn rests(&self) -> bool {
        self.state == CallState::Rests
    }

    /// Returns the answer, if there is one. Logs the first failure, and the first success after it.
    fn settle<T>(&mut self, result: Result<T, CallError>) -> Option<T> {
        let (call, before) = (self.name, self.state);
        self.counters.polls.count([call, result_of(&result)]);
        self.trouble = None;
        let cause = match result {
            Ok(answer) => {
                self.state = CallState::Works;
                if before == CallState::Fails {
                    info!(name: "deployment-watch-recovered", call, "looking for a new deployment works again");
                }
                return Some(answer);
            }
            Err(cause) => cause,
        };
        // A proxy's 403 may be temporary.
        if cause.status() == Some(403) && cause.code() == Some("InsufficientScopes") {
            self.state = CallState::Rests;
            let missing_scope = cause.missing_scopes().unwrap_or_else(|| self.scope.clone());
            self.trouble = Some(format!("{call} needs the scope {missing_scope}"));
            info!(
                call,
                missing_scope,
                "this worker may not be told of new deployments in this way: not asking again (the role of its worker pool can give the scope)"
            );
            return None;
        }
        self.state = CallState::Fails;
        self.trouble = Some(cause.to_string());
        if before == CallState::Fails {
            debug!(call, error = %cause, "looking for a new deployment still fails");
        } else {
            warn!(name: "deployment-watch-failed", call, error = %cause, "cannot look for a new deployment: the worker goes on, asking again at every interval");
        }
        None
    }
}

impl Verdict {
    /// Masks secrets. Called before the values are truncated.
    fn masked(self, secrets: &Secrets) -> Self {
        match self {
            Self::Replaced { what, old, new } => {
                let new = new.into_iter().map(|value| secrets.mask(value)).collect();
                Self::Replaced { what, old: secrets.mask(old), new }
            }
            Self::End { reason } => Self::End { reason: secrets.mask(reason) },
        }
    }

    /// Logs the reason and its consequence.
    pub(super) fn tell(&self) {
        match self {
            Self::Replaced { what, old, new } => {
                let new = values(new);
                info!(name: "deployment-changed", what, old = short(old), %new, "the worker pool has a new deployment: asking the worker to finish its tasks");
            }
            Self::End { reason } => {
                let reason = short(reason);
                info!(name: "termination-requested", reason, "worker-manager wants this worker to end: asking it to finish its tasks");
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaced { what, new, .. } => write!(f, "new {what}: {}", values(new)),
            Self::End { reason } => write!(f, "worker-manager wants it to end: {}", short(reason)),
        }
    }
}

fn values(new: &BTreeSet<String>) -> Values<'_> {
    Values { shown: new.iter().take(SHOWN).collect(), more: new.len().saturating_sub(SHOWN) }
}

struct Values<'a> {
    shown: Vec<&'a String>,
    more: usize,
}

impl fmt::Display for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.shown.iter().map(|value| short(value)).collect();
        f.write_str(&shown.join(", "))?;
        if self.more == 0 { Ok(()) } else { write!(f, " and {} more", self.more) }
    }
}

/// Truncates a value, which may have any author and length.
fn short(value: &str) -> String {
    cut(value, SHOWN_OF_A_VALUE, "…").into_owned()
}
