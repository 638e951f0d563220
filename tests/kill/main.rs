//! `kill -9` at any moment: the cache is complete, no process is left, and the next start brings a worker with valid
//! credentials, without manual help. Real processes, real files, a Taskcluster on loopback.
//!
//! Each kill is aimed: it waits for an event, and then for a random time. The step that it hit is determined afterwards
//! from the outside.
#![cfg(test)]

mod machine;
mod steps;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use machine::{Machine, Provider};
use steps::{AIMS, Step};

/// Number of machines that are killed at the same time.
const LANES: usize = 12;

/// Minimum number of hits for each step.
const AT_LEAST: usize = 5;

/// Time limit for operations that take milliseconds on an idle machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Asks until there is an answer; none within [`DEADLINE`]: none.
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::park_timeout(Duration::from_micros(500));
    }
}

/// Number of hits by step.
#[derive(Default)]
struct Counters {
    steps: BTreeMap<Step, usize>,
    /// Machines that had registered and did not know it: the answer was lost with the runner.
    lost: usize,
}

impl Counters {
    /// A step that too few kills have hit.
    fn missed(&self, steps: &[Step]) -> Option<Step> {
        steps.iter().copied().find(|step| self.steps.get(step).is_none_or(|hits| *hits < AT_LEAST))
    }
}

/// The number of times that the jobs may be done over to hit every step: a loaded machine misses the short ones more often.
const ROUNDS: usize = 5;

/// Does so many jobs on all lanes, each with a random generator of its own, and goes on until every step was hit often
/// enough.
fn on_all_lanes(
    jobs: usize,
    tally: &Mutex<Counters>,
    steps: &[Step],
    job: impl Fn(usize, &mut fastrand::Rng) + Sync,
) {
    let seed = std::env::var("KILL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("again with KILL_SEED={seed}");
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= jobs
                        && (number >= ROUNDS * jobs || tally.lock().unwrap().missed(steps).is_none())
                    {
                        return;
                    }
                    job(number, &mut fastrand::Rng::with_seed(seed.wrapping_add(number as u64)));
                }
            });
        }
    });
}

/// Kills the machine's runner once, aimed at `aim`, and checks the state that is left.
fn kill(machine: &Machine, aim: usize, chance: &mut fastrand::Rng, tally: &Mutex<Counters>) -> Step {
    let aim = &AIMS[aim % AIMS.len()];
    machine.slow_down(aim.late, chance);
    let boot = machine.boot();
    aim.wait(&boot, chance);
    boot.kill();
    let step = Step::hit(&boot);
    // Panics where it is not whole.
    machine.cache();
    machine.assert_nothing_lives();
    let mut tally = tally.lock().unwrap();
    *tally.steps.entry(step).or_default() += 1;
    step
}

/// Starts the runner, which must bring a worker with credentials that Taskcluster accepts; and kills it.
fn works_again(machine: &Machine, after: Step) {
    machine.speed_up();
    let boot = machine.boot();
    let credentials = boot.wait_for_worker(&format!("after a kill in the step {after:?}"));
    machine.assert_accepted(&credentials, &format!("after a kill in the step {after:?}"));
    let swept = eventually(|| (machine.temporary_files() == 0).then_some(()));
    assert!(swept.is_some(), "credentials are left in a temporary file after a kill in the step {after:?}");
    boot.kill();
    assert!(machine.cache().is_some(), "a worker without a cache\n{}", machine.log());
    machine.assert_nothing_lives();
}

fn report(title: &str, tally: &Counters, steps: &[Step]) {
    println!("{title}:");
    for step in steps {
        println!("{:5}  {}", tally.steps.get(step).copied().unwrap_or(0), step.in_words());
    }
    println!("{:5}  lost the machine", tally.lost);
}

fn assert_all_hit(tally: &Counters, steps: &[Step]) {
    let missed = tally.missed(steps).map(Step::in_words);
    assert_eq!(missed, None, "fewer than {AT_LEAST} kills hit this step");
}

#[test]
fn a_static_worker_survives_kills_at_any_moment() {
    let tally = Mutex::new(Counters::default());
    let kills_a_machine = 4;
    on_all_lanes(200 / kills_a_machine, &tally, Step::OF_STATIC, |number, chance| {
        let machine = Machine::new(Provider::Static, &format!("static-{number}"));
        for kill_number in 0..kills_a_machine {
            let step = kill(&machine, number * kills_a_machine + kill_number, chance, &tally);
            works_again(&machine, step);
        }
        machine.assert_no_secrets();
    });
    let tally = tally.into_inner().unwrap();
    report("kills of static workers", &tally, Step::OF_STATIC);
    assert_all_hit(&tally, Step::OF_STATIC);
}

#[test]
fn a_cloud_s_machine_survives_kills_but_for_that_between_its_registration_and_its_cache() {
    let tally = Mutex::new(Counters::default());
    on_all_lanes(130, &tally, Step::OF_CLOUD, |number, chance| {
        let machine = Machine::new(Provider::Google, &format!("google-{number}"));
        let step = kill(&machine, number, chance, &tally);
        if machine.is_registered() && machine.cache().is_none() {
            assert!(matches!(step, Step::RegisterAnswer | Step::Caching), "lost in the step {step:?}");
            tally.lock().unwrap().lost += 1;
            machine.assert_gives_up();
        } else {
            works_again(&machine, step);
        }
        machine.assert_no_secrets();
    });
    let tally = tally.into_inner().unwrap();
    report("kills of machines that can register once", &tally, Step::OF_CLOUD);
    assert_all_hit(&tally, Step::OF_CLOUD);
}
