//! The invariants, each with its name and the condition that it checks.

use std::fmt;
use std::time::Duration;

/// An invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    OneWorker,
    NoOrphan,
    LiveCredentials,
    WholeCache,
    RemovedOnce,
    StopEnds,
    NoSecret,
    Bounded,
    Explained,
    OrderlyEnd,
    GivenUp,
    Answers,
    Recovers,
}

use Invariant::{
    Answers, Bounded, Explained, GivenUp, LiveCredentials, NoOrphan, NoSecret, OneWorker, OrderlyEnd,
    Recovers, RemovedOnce, StopEnds, WholeCache,
};

impl Invariant {
    pub(crate) const ALL: [Self; 13] = [
        OneWorker,
        NoOrphan,
        LiveCredentials,
        WholeCache,
        RemovedOnce,
        StopEnds,
        NoSecret,
        Bounded,
        Explained,
        OrderlyEnd,
        GivenUp,
        Answers,
        Recovers,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            OneWorker => "one-worker",
            NoOrphan => "no-orphan",
            LiveCredentials => "live-credentials",
            WholeCache => "whole-cache",
            RemovedOnce => "removed-once",
            StopEnds => "stop-ends",
            NoSecret => "no-secret",
            Bounded => "bounded",
            Explained => "explained",
            OrderlyEnd => "orderly-end",
            GivenUp => "given-up",
            Answers => "answers",
            Recovers => "recovers",
        }
    }

    /// The invariant and the condition that it checks.
    pub(crate) fn doc(self) -> &'static str {
        match self {
            OneWorker => "at most one worker lives on a host: each holds a lock for as long as it lives",
            NoOrphan => {
                "when the runner has ended nothing of its worker lives; after its SIGKILL the worker ends by itself, \
                 unless it ignores SIGTERM: the processes with the host's mark, and a lock that all of them hold"
            }
            LiveCredentials => {
                "no worker lives with credentials that have expired, by Taskcluster's clock; a host whose clock is \
                 behind may be late by that, and a sleep is noticed within a minute: the certificates that workers got"
            }
            WholeCache => {
                "the cache is a whole run, or is not there, at any moment; and has new credentials before the worker, \
                 where the disk works: the file"
            }
            RemovedOnce => {
                "removeWorker succeeds once for a machine of a cloud, never for a static host, and no worker starts \
                 after it where there is a cache: what Taskcluster was asked"
            }
            StopEnds => {
                "a stop, a drain and a notice are over in bounded time: when the runner, or the worker, ended"
            }
            NoSecret => {
                "no secret that is in play is in the log, whole or its first half, as it is or with escapes: all its \
                 lines but the worker's"
            }
            Bounded => "at most 32 MiB of memory, 64 files, 24 threads: what the kernel says of the runner",
            Explained => {
                "the log tells of each start and end of a worker, of each signal, and how the runner ended; unless it \
                 tells that lines are missing: its lines"
            }
            OrderlyEnd => {
                "the runner ends with an exit code that is documented for what happened, never in a panic"
            }
            GivenUp => {
                "a worker that SIGKILL does not end is given up, with exit code 1, and the log says its state and where in \
                 the kernel it waits: what is left of it when the runner has ended"
            }
            Answers => {
                "status is answered in bounded time as long as the runner lives: its socket, twice a second"
            }
            Recovers => {
                "when all faults are over, the next start brings a worker with live credentials; on a cloud's machine \
                 where its cached ones still are"
            }
        }
    }
}

/// A violated invariant.
#[derive(Debug, Clone)]
pub(crate) struct Break {
    pub(crate) invariant: Invariant,
    /// Since the episode's beginning.
    pub(crate) at: Duration,
    pub(crate) what: String,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken after {:.1} s: {}", self.invariant.name(), self.at.as_secs_f64(), self.what)
    }
}
