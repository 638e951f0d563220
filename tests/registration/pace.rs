//! Whatever Taskcluster answers, it is not called all the time.

use std::time::{Duration, Instant};

use test_support::fake_taskcluster::{Fault, Times};

use crate::harness::{Runner, wait_until};
use crate::registration::site::{Site, stop};

/// So many calls may come at once, at a start.
const AT_ONCE: usize = 12;

/// Time in which the calls are counted.
const COUNTED: Duration = Duration::from_secs(12);

fn refused() -> Fault {
    Fault::answer(403, "application/json", r#"{"code":"InputError","message":"no"}"#)
}

#[test]
fn no_life_of_credentials_and_no_refusal_makes_more_than_a_call_in_five_seconds() {
    let begin = |life: Duration, refuses: bool| {
        let site = Site::new();
        site.taskcluster.set_credentials_life(life);
        if refuses {
            site.taskcluster.fail("reregisterWorker", Times::UntilCleared, refused());
        }
        let runner = site
            .scene()
            .set("supervision.backoff", serde_json::json!({"initial": "1ms", "max": "1ms"}))
            .start();
        (site, runner)
    };
    let first_start = Instant::now();
    let sites: Vec<(Site, Runner)> = [
        (Duration::ZERO, false),
        (Duration::from_millis(1), false),
        (Duration::from_millis(1), true),
        (Duration::from_secs(2), false),
        (Duration::from_secs(2), true),
    ]
    .map(|(life, refuses)| begin(life, refuses))
    .into();
    wait_until(Instant::now() + COUNTED);
    // All at the same moment: a stop takes its time, and the others go on calling.
    let counted: Vec<_> = sites.into_iter().map(|(site, runner)| (site.calls(), site, runner)).collect();
    let seconds = usize::try_from(first_start.elapsed().as_secs()).unwrap();
    for (calls, _site, runner) in &counted {
        let allowed = AT_ONCE + seconds / 5 + 1;
        assert!(!calls.is_empty() && calls.len() <= allowed, "{calls:?}\n{runner}");
        for call in &["registerWorker", "reregisterWorker"] {
            let count = calls.iter().filter(|called| **called == *call).count();
            assert!(count <= seconds / 5 + 2, "{count} times {call} in {seconds} s\n{runner}");
        }
    }
    for (_, _site, runner) in &counted {
        stop(runner);
    }
}
