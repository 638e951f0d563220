//! Asks worker-manager what tells of a new deployment. Each source degrades by itself: one that may not be asked rests,
//! one that fails is asked again, and neither has any effect on the worker.

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

/// How often in a row worker-manager must say that the worker is to end: it decides anew with every scan.
const TIMES_TO_END: u32 = 2;

/// How many values are logged, at most.
const SHOWN: usize = 5;
/// How much of a value is logged, in characters.
const SHOWN_OF_A_VALUE: usize = 100;

/// What calls for a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What the run was made from is not in use any more.
    Replaced {
        /// What: `deploymentId`, `launchConfigId`.
        what: &'static str,
        old: String,
        new: BTreeSet<String>,
    },
    /// worker-manager wants the worker to end.
    End {
        /// Its word for why.
        reason: String,
    },
}

/// All that tells of a new deployment of this worker.
pub(super) struct Sources {
    registrar: Registrar,
    /// The newest credentials are in it.
    launches: watch::Receiver<LaunchSpec>,
    implementation: &'static str,
    ending: Option<Ending>,
    pool: Call,
    /// `deploymentId`, `launchConfigId`.
    compared: Vec<Compared>,
}

/// Whether worker-manager wants the worker to end.
struct Ending {
    call: Call,
    /// How often in a row it did.
    times: u32,
}

/// Something that the pool's definition is compared with.
struct Compared {
    what: &'static str,
    own: String,
    /// The definition said nothing of it when it was last looked at.
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

/// generic-worker asks by itself, between tasks; for static workers the answer is always no; the others are unknown to
/// worker-manager.
fn asks_whether_to_end(config: &RunnerConfig) -> bool {
    let asked = matches!(
        config.provider,
        ProviderConfig::Aws(_) | ProviderConfig::Azure(_) | ProviderConfig::Google(_)
    );
    asked && !matches!(config.worker.implementation, Implementation::GenericWorker { .. })
}

/// A call, and how it went so far.
struct Call {
    name: &'static str,
    /// What it needs.
    scope: String,
    state: CallState,
    /// Why the last answer was none.
    trouble: Option<String>,
    counters: Counters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallState {
    Works,
    Fails,
    /// It may not be made, and is not.
    Rests,
}

impl Call {
    fn new(name: &'static str, scope: String, counters: Counters) -> Self {
        Self { name, scope, state: CallState::Works, trouble: None, counters }
    }

    fn rests(&self) -> bool {
        self.state == CallState::Rests
    }

    /// The answer, where there is one. The first failure is told, and the first success after it.
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
        // A 403 of some proxy may pass.
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
    /// The same without secrets: before its values are cut.
    fn masked(self, secrets: &Secrets) -> Self {
        match self {
            Self::Replaced { what, old, new } => {
                let new = new.into_iter().map(|value| secrets.mask(value)).collect();
                Self::Replaced { what, old: secrets.mask(old), new }
            }
            Self::End { reason } => Self::End { reason: secrets.mask(reason) },
        }
    }

    /// Logs it, as what it leads to.
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

/// Anybody may have written it, at any length.
fn short(value: &str) -> String {
    cut(value, SHOWN_OF_A_VALUE, "…").into_owned()
}
