//! Which step of a start or a renewal a kill has hit, and where kills are aimed.

use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use start_worker::run_spec::cache::Stage;
use test_support::fake_taskcluster::Request;

use crate::eventually;
use crate::machine::{Boot, Provider};

/// A step, as it can be told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    BeforeRegistration,
    Register,
    RegisterAnswer,
    Secrets,
    Caching,
    Starting,
    AtWork,
    Renew,
    RenewAnswer,
    CachingRenewal,
    Renewed,
}

use Step::{
    AtWork, BeforeRegistration, Caching, CachingRenewal, Register, RegisterAnswer, Renew, RenewAnswer,
    Renewed, Secrets, Starting,
};

impl Step {
    pub(crate) const OF_STATIC: &[Self] = &[
        BeforeRegistration,
        Register,
        RegisterAnswer,
        Secrets,
        Caching,
        Starting,
        AtWork,
        Renew,
        RenewAnswer,
        CachingRenewal,
        Renewed,
    ];

    pub(crate) const OF_CLOUD: &[Self] = Self::OF_STATIC;

    pub(crate) fn in_words(self) -> &'static str {
        match self {
            BeforeRegistration => "before the registration",
            Register => "registerWorker on its way",
            RegisterAnswer => "registerWorker done, its answer on its way",
            Secrets => "secrets being fetched",
            Caching => "all answered, the cache not written",
            Starting => "cached, the worker not started",
            AtWork => "the worker at work",
            Renew => "reregisterWorker on its way",
            RenewAnswer => "reregisterWorker done, its answer on its way",
            CachingRenewal => "renewed, the cache not written",
            Renewed => "renewed and cached, the worker told or not",
        }
    }

    /// The step that a runner was in when it was killed.
    pub(crate) fn hit(boot: &Boot<'_>) -> Self {
        let machine = boot.machine;
        let requests = machine.fake.requests();
        let of = |call: &str| requests.iter().rfind(|request| request.call == call);
        let secret = machine.fake.one_time_secret(&machine.key);
        let cached = machine.cache();
        let cached_secret = cached.as_ref().and_then(|cached| cached.run.registration_secret.as_ref());
        let is_cached = secret.as_deref() == cached_secret.map(ExposeSecret::expose_secret);
        if let Some(renewal) = of("reregisterWorker") {
            return match renewal.status {
                None if renewal
                    .body
                    .as_ref()
                    .is_none_or(|body| body["secret"].as_str() == secret.as_deref()) =>
                {
                    Renew
                }
                None => RenewAnswer,
                Some(_) if !is_cached => CachingRenewal,
                Some(_) => Renewed,
            };
        }
        if boot.worker_started() {
            return AtWork;
        }
        match of("registerWorker") {
            None => BeforeRegistration,
            Some(Request { status: None, .. }) if secret == boot.secret_before => Register,
            Some(Request { status: None, .. }) => RegisterAnswer,
            Some(_) if is_cached && cached.is_some_and(|cached| cached.stage == Stage::Complete) => Starting,
            // A cloud's machine must have cached its registration before it asks for anything else.
            Some(_) if !is_cached && of("secret").is_none() => {
                if machine.provider == Provider::Google {
                    Caching
                } else {
                    Secrets
                }
            }
            Some(_) if !secrets_answered(&requests) => Secrets,
            Some(_) => Caching,
        }
    }
}

fn secrets_answered(requests: &[Request]) -> bool {
    requests.iter().filter(|request| request.call == "secret" && request.status.is_some()).count() >= 2
}

/// The event that a kill waits for, and the maximum time between the two.
pub(crate) struct Aim {
    what: &'static str,
    /// True if calls are performed before they are delayed.
    pub(crate) late: bool,
    happened: fn(&Boot<'_>) -> bool,
    within: Duration,
}

/// Together they cover the time from a runner's start to the effects of its first renewal.
pub(crate) const AIMS: &[Aim] = &[
    aim("a start", false, 60, |_| true),
    aim("registerWorker", false, 60, |boot| called(boot, "registerWorker")),
    aim("registerWorker", true, 60, |boot| called(boot, "registerWorker")),
    aim("a call for a secret", false, 150, |boot| called(boot, "secret")),
    aim("a registration to cache", true, 0, |boot| answered(boot, "registerWorker") && being_written(boot)),
    aim("all secrets", true, 20, |boot| secrets_answered(&boot.machine.fake.requests())),
    aim("a complete run", false, 5, complete),
    aim("a worker", false, 300, worker_started),
    aim("reregisterWorker", false, 60, |boot| called(boot, "reregisterWorker")),
    aim("reregisterWorker", true, 60, |boot| called(boot, "reregisterWorker")),
    aim("a renewal to cache", false, 0, |boot| answered(boot, "reregisterWorker") && being_written(boot)),
    aim("a renewal", true, 40, |boot| answered(boot, "reregisterWorker")),
    aim("new credentials", false, 60, worker_told),
];

const fn aim(what: &'static str, late: bool, within_ms: u64, happened: fn(&Boot<'_>) -> bool) -> Aim {
    Aim { what, late, happened, within: Duration::from_millis(within_ms) }
}

impl Aim {
    /// Returns when it is time for the kill.
    pub(crate) fn wait(&self, boot: &Boot<'_>, chance: &mut fastrand::Rng) {
        let happened = eventually(|| (self.happened)(boot).then_some(()));
        assert!(happened.is_some(), "there was not {} in time\n{}", self.what, boot.machine.log());
        let end = Instant::now() + self.within.mul_f64(chance.f64());
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
    }
}

fn worker_started(boot: &Boot<'_>) -> bool {
    boot.worker_started()
}

fn worker_told(boot: &Boot<'_>) -> bool {
    boot.worker_told()
}

fn called(boot: &Boot<'_>, call: &str) -> bool {
    boot.machine.fake.count(call) > 0
}

fn answered(boot: &Boot<'_>, call: &str) -> bool {
    boot.machine.fake.requests().iter().any(|request| request.call == call && request.status.is_some())
}

/// Returns true if the cache has everything that this boot has obtained.
fn complete(boot: &Boot<'_>) -> bool {
    secrets_answered(&boot.machine.fake.requests()) && is_newest(boot) && {
        boot.machine.cache().is_some_and(|cached| cached.stage == Stage::Complete)
    }
}

/// Returns true if the cache has the secret that Taskcluster accepts next.
fn is_newest(boot: &Boot<'_>) -> bool {
    let secret = boot.machine.fake.one_time_secret(&boot.machine.key);
    let cached = boot.machine.cache().and_then(|cached| cached.run.registration_secret);
    secret.as_deref() == cached.as_ref().map(ExposeSecret::expose_secret)
}

/// Looks closely until the cache is being written, or has been.
fn being_written(boot: &Boot<'_>) -> bool {
    let files = boot.machine.temporary_files();
    let end = Instant::now() + LOOK_CLOSELY;
    while Instant::now() < end {
        if boot.machine.temporary_files() != files {
            return true;
        }
    }
    is_newest(boot)
}

/// Time in which the test polls without a pause.
const LOOK_CLOSELY: Duration = Duration::from_millis(300);
