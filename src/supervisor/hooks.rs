//! The operator's hooks around a worker's run: `hooks.beforeStart` and `hooks.afterRun`.
//!
//! Both run beside the supervisor's loop. The worker's files are written once `afterRun` of the run before and
//! `beforeStart` are over; a reboot, and the runner's end, wait for `afterRun`. Nothing waits longer than a stop or an
//! interruption allows.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitStatus as ProcessStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Supervisor;
use super::start::StartError;
use super::state::{Action, Ended, Request, State};
use crate::config::{Hook, Hooks};
use crate::event::{Event, ExitStatus, Outcome, Strength};
use crate::host::helper::{HelperError, Helpers, PrintLine};
use crate::host::power;
use crate::host::run_count::RunCount;
use crate::redact::Secrets;
use crate::run_spec::WorkerIdentity;
use crate::stop::{GRACE, StopSignal};
use crate::telemetry::current_retry::CurrentRetry;

/// `beforeStart`'s exit code for "not yet": `EX_TEMPFAIL`.
const NOT_YET: i32 = 75;

/// Pause before a `beforeStart` that says "not yet" runs again.
const AFTER_NOT_YET: Duration = Duration::from_secs(30);

/// The variables of Taskcluster's clients.
const CREDENTIALS: [&str; 3] =
    ["TASKCLUSTER_CLIENT_ID", "TASKCLUSTER_ACCESS_TOKEN", "TASKCLUSTER_CERTIFICATE"];

/// The time of a machine that is taken away which is kept for its deregistration.
const FOR_DEREGISTRATION: Duration = Duration::from_secs(5);

/// The parts of the runner that hooks use.
#[derive(Debug, Clone)]
pub struct HookJob {
    /// `hooks`.
    pub hooks: Hooks,
    /// Counts the runs in this boot.
    pub runs: RunCount,
    /// Shows that `beforeStart` says "not yet".
    pub trouble: CurrentRetry,
    /// The deployment's root URL.
    pub root_url: String,
    /// The worker's name.
    pub identity: WorkerIdentity,
}

/// The reason for which `beforeStart` has not done its work.
#[derive(Debug, Error)]
pub(super) enum HookError {
    /// It could not be executed, or took too long.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// It failed.
    #[error("it ended with {0}")]
    Failed(ProcessStatus),
    /// The start is no longer wanted.
    #[error("given up")]
    GivenUp,
}

/// The hooks of a supervised run.
#[derive(Debug)]
pub(super) struct RunHooks {
    settings: Hooks,
    context: Context,
    /// The number of the present run in this boot; 0: not determined yet.
    number: Arc<AtomicU32>,
    /// `beforeStart` has succeeded for the next worker.
    ready: Arc<AtomicBool>,
    /// Tasks that the present worker has finished.
    tasks: u32,
    /// Cancelled when the start is no longer wanted that `beforeStart` runs for.
    unwanted: CancellationToken,
    /// Cancelled when the last `afterRun` is over.
    after_run_over: CancellationToken,
    /// The time at which no hook runs any more, on a machine that is taken away.
    deadline: watch::Sender<Option<Instant>>,
}

/// Everything that a hook is started with.
#[derive(Debug, Clone)]
struct Context {
    job: HookJob,
    helpers: Helpers,
    secrets: Secrets,
}

impl Context {
    /// Runs a hook to its end, or until it is given up: then its whole process group is killed. `None`: given up.
    async fn run(
        &self,
        name: &'static str,
        hook: &Hook,
        more: Vec<(&'static str, String)>,
        given_up: impl Future<Output = ()>,
    ) -> Result<Option<ProcessStatus>, HelperError> {
        let identity = &self.job.identity;
        let mut variables = vec![
            ("START_WORKER_POOL", identity.worker_pool_id.to_string()),
            ("START_WORKER_GROUP", identity.worker_group.clone()),
            ("START_WORKER_ID", identity.worker_id.clone()),
            ("START_WORKER_ROOT_URL", self.job.root_url.clone()),
            ("START_WORKER_BOOT_ID", self.job.runs.boot_id().to_owned()),
        ];
        variables.extend(more);
        let (words, withheld) = (hook.command.clone(), self.withheld());
        let make = move || {
            let mut command = power::host_command(&words)?;
            for name in withheld {
                command.env_remove(name);
            }
            command.envs(variables);
            Ok(command)
        };
        let secrets = self.secrets.clone();
        let print: PrintLine = Arc::new(move |line| info!("[hook {name}] {}", secrets.mask(line)));
        let program = hook.command.first().map_or("", String::as_str);
        let mut given_up = std::pin::pin!(given_up);
        let running = tokio::select! {
            biased;
            () = &mut given_up => return Ok(None),
            running = self.helpers.start_hook(program, make, print) => running?,
        };
        let mut was_given_up = false;
        let ended = running.end_unless(hook.timeout, async {
            given_up.await;
            was_given_up = true;
        });
        let ended = ended.await;
        match ended {
            Err(HelperError::TimedOut { .. }) if was_given_up => Ok(None),
            ended => Ok(Some(ended?.status)),
        }
    }

    /// The runner's variables that a hook does not get: those with credentials.
    fn withheld(&self) -> Vec<OsString> {
        let is_secret = |value: &OsString| {
            let value = String::from_utf8_lossy(value.as_bytes());
            self.secrets.mask(value.as_ref()) != value
        };
        std::env::vars_os()
            .filter(|(name, value)| CREDENTIALS.iter().any(|known| name == known) || is_secret(value))
            .map(|(name, _)| name)
            .collect()
    }

    /// Runs `beforeStart` until it says something else than "not yet".
    async fn before_start(
        &self,
        hook: &Hook,
        number: u32,
        unwanted: &CancellationToken,
    ) -> Result<(), HookError> {
        loop {
            let variables = vec![("START_WORKER_RUN", number.to_string())];
            let ended = self.run("beforeStart", hook, variables, unwanted.cancelled()).await?;
            match ended {
                None => return Err(HookError::GivenUp),
                Some(status) if status.success() => return Ok(()),
                Some(status) if status.code() == Some(NOT_YET) => {
                    info!(again_in = "30s", "hooks.beforeStart says not yet (exit code 75): it runs again");
                }
                Some(status) => return Err(HookError::Failed(status)),
            }
            self.job.trouble.tell("hooks.beforeStart says not yet (exit code 75)");
            let _over = self.job.trouble.until_dropped();
            tokio::select! {
                biased;
                () = unwanted.cancelled() => return Err(HookError::GivenUp),
                () = tokio::time::sleep(AFTER_NOT_YET) => {}
            }
        }
    }

    async fn after_run(
        &self,
        hook: &Hook,
        variables: Vec<(&'static str, String)>,
        given_up: impl Future<Output = ()>,
    ) {
        match self.run("afterRun", hook, variables, given_up).await {
            Ok(Some(status)) if status.success() => info!("hooks.afterRun has succeeded"),
            Ok(Some(status)) => {
                warn!(%status, "hooks.afterRun has failed: that changes nothing");
            }
            Ok(None) => {
                warn!("hooks.afterRun was killed, with its process group: start-worker is to end");
            }
            Err(cause) => warn!(error = %cause, "hooks.afterRun has failed: that changes nothing"),
        }
    }
}

impl RunHooks {
    pub(super) fn new(job: HookJob, helpers: Helpers, secrets: Secrets) -> Self {
        let after_run_over = CancellationToken::new();
        after_run_over.cancel();
        Self {
            settings: job.hooks.clone(),
            context: Context { job, helpers, secrets },
            number: Arc::default(),
            ready: Arc::default(),
            tasks: 0,
            unwanted: CancellationToken::new(),
            after_run_over,
            deadline: watch::Sender::new(None),
        }
    }

    /// Returns what must be over before the worker's files are written; `None`: nothing.
    pub(super) fn before_start(
        &mut self,
    ) -> Option<impl Future<Output = Result<(), StartError>> + Send + use<>> {
        let Hooks { before_start, after_run, .. } = &self.settings;
        if before_start.is_none() && after_run.is_none() {
            return None;
        }
        self.unwanted = CancellationToken::new();
        let (hook, unwanted) = (before_start.clone(), self.unwanted.clone());
        let (context, number, ready) = (self.context.clone(), self.number.clone(), self.ready.clone());
        let after_run_over = self.after_run_over.clone();
        Some(async move {
            after_run_over.cancelled().await;
            if number.load(Ordering::Relaxed) == 0 {
                number.store(context.job.runs.next().await, Ordering::Relaxed);
            }
            if let Some(hook) = hook.filter(|_| !ready.load(Ordering::Relaxed)) {
                context
                    .before_start(&hook, number.load(Ordering::Relaxed), &unwanted)
                    .await
                    .map_err(StartError::Hook)?;
                ready.store(true, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    /// Awaiting this waits for the last `afterRun`.
    pub(super) fn after_run_over(&self) -> impl Future<Output = ()> + Send + use<> {
        let over = self.after_run_over.clone();
        async move { over.cancelled().await }
    }

    /// Follows what happens outside the machine's states.
    fn note(&mut self, event: Event) {
        match event {
            Event::Started { .. } => {
                self.tasks = 0;
                self.ready.store(false, Ordering::Relaxed);
            }
            Event::TaskFinished => self.tasks = self.tasks.saturating_add(1),
            Event::Interrupted { within, .. } => {
                let left = within.unwrap_or(GRACE);
                let until = Instant::now() + left.saturating_sub(FOR_DEREGISTRATION.min(left / 3));
                self.deadline.send_modify(|deadline| {
                    *deadline = Some(deadline.map_or(until, |earlier| earlier.min(until)));
                });
            }
            _ => {}
        }
    }
}

/// Ends when a hook must not go on: a stop (one that came before it leaves it its grace), or the machine's deadline.
async fn given_up(stop: StopSignal, mut deadline: watch::Receiver<Option<Instant>>) {
    let stopped = async {
        let came_before = stop.current().is_some_and(|request| request.strength >= Strength::Stop);
        if came_before {
            // A timeout is as good a reason as a kill.
            let _ = tokio::time::timeout(GRACE, stop.at_least(Strength::Kill)).await;
        } else {
            stop.at_least(Strength::Stop).await;
        }
    };
    let taken_away = async {
        loop {
            let until = *deadline.borrow_and_update();
            let over = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                Ok(()) = deadline.changed() => {}
            }
        }
    };
    tokio::select! {
        () = stopped => {}
        () = taken_away => {}
    }
}

impl Supervisor<'_> {
    /// Follows the state machine: a start that is no longer wanted, the end of a run.
    pub(super) fn follow(&mut self, event: Event, before: State, actions: &[Action]) {
        self.hooks.note(event);
        match event {
            Event::TaskStarted => self.job.publisher.events().record("task-start", json!({})),
            Event::TaskFinished => self.job.publisher.events().record("task-finish", json!({})),
            _ => {}
        }
        let after = *self.machine.state();
        if before == State::Preparing && !matches!(after, State::Preparing | State::Spawning(_)) {
            self.hooks.unwanted.cancel();
        }
        let (ended, request) = match before {
            State::Clearing(ended, request, _) => (ended, request),
            State::Lingering { ended, .. } => (ended, None),
            _ => return,
        };
        if !matches!(after, State::Clearing(..) | State::Lingering { .. }) {
            self.run_over(ended, request, self.next(after, actions));
        }
    }

    /// Runs `afterRun`, beside the loop.
    fn run_over(&mut self, ended: Ended, request: Option<Request>, next: &'static str) {
        let number = self.hooks.number.swap(0, Ordering::Relaxed);
        let Some(hook) = self.hooks.settings.after_run.clone() else { return };
        let exit = match ended.exit.status {
            ExitStatus::Code(code) => code.to_string(),
            status @ (ExitStatus::Signal(_) | ExitStatus::Stuck) => status.to_string(),
        };
        let variables = vec![
            ("START_WORKER_RUN", number.to_string()),
            ("START_WORKER_EXIT", exit),
            ("START_WORKER_MEANING", ended.exit.meaning.to_owned()),
            ("START_WORKER_CAUSE", request.map_or("none".to_owned(), |request| request.cause.to_string())),
            ("START_WORKER_RAN_SECONDS", ended.ran.as_secs().to_string()),
            ("START_WORKER_TASKS", self.hooks.tasks.to_string()),
            ("START_WORKER_NEXT", next.to_owned()),
        ];
        let over = CancellationToken::new();
        self.hooks.after_run_over = over.clone();
        let context = self.hooks.context.clone();
        let given_up = given_up(self.job.stop.clone(), self.hooks.deadline.subscribe());
        let over = over.drop_guard();
        tokio::spawn(async move {
            let _over = over;
            context.after_run(&hook, variables, given_up).await;
        });
    }

    /// The step that follows the run, in one word.
    fn next(&self, after: State, actions: &[Action]) -> &'static str {
        let held = self.job.hold.current().is_some();
        match after {
            State::Holding => "hold",
            State::AwaitingReboot { .. } if actions.contains(&Action::PowerOffHost) => "poweroff",
            State::AwaitingReboot { .. } => "reboot",
            State::Ended(outcome) => match outcome {
                Outcome::Held => "hold",
                Outcome::Unfit if !self.job.dynamic => "hold",
                Outcome::Redeploy { in_place: true } | Outcome::CredentialsExpired
                    if !self.job.dynamic && self.registers =>
                {
                    "restart"
                }
                Outcome::Redeploy { in_place: false } if !self.job.dynamic && self.registers => "reboot",
                Outcome::Done
                | Outcome::Interrupted { ends: true }
                | Outcome::Redeploy { .. }
                | Outcome::Stuck { leaves: true }
                | Outcome::CredentialsExpired
                | Outcome::StartFailed
                | Outcome::GaveUp
                | Outcome::Unfit
                    if self.job.dynamic =>
                {
                    "remove"
                }
                _ if actions.contains(&Action::RebootHost) => "reboot",
                _ if held => "hold",
                _ => "exit",
            },
            _ => "restart",
        }
    }

    /// Waits for the last `afterRun`. An interruption that comes meanwhile shortens it.
    pub(super) async fn after_run(&mut self, events: &mut tokio::sync::mpsc::Receiver<Event>) {
        let mut over = std::pin::pin!(self.hooks.after_run_over());
        loop {
            tokio::select! {
                biased;
                () = &mut over => return,
                Some(event) = events.recv() => self.hooks.note(event),
            }
        }
    }
}
