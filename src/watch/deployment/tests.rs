//! Tests of the checks for a new deployment, and of their consequences, under paused time.

use std::sync::Mutex;

use jiff::SignedDuration;
use tokio::time::{Instant, sleep, timeout};

use super::super::clock_tests::TestClock;
use super::*;
use crate::telemetry::status_board::StatusBoard;

const INTERVAL: Duration = Duration::from_secs(300);
const DRAIN: Event = Event::Asked { strength: Strength::Drain, cause: Cause::Redeploy };

/// The beginning and the end of each check.
type Times = Arc<Mutex<Vec<(Instant, Instant)>>>;

/// A scripted check that returns given verdicts and takes a given time.
struct Script {
    names: Vec<&'static str>,
    takes: Duration,
    found: Arc<Mutex<Vec<Verdict>>>,
    trouble: Arc<Mutex<Option<String>>>,
    times: Times,
}

impl Look for Script {
    fn names(&self) -> Vec<&'static str> {
        self.names.clone()
    }

    async fn look(&mut self) -> Vec<Verdict> {
        let began = Instant::now();
        sleep(self.takes).await;
        self.times.lock().unwrap().push((began, Instant::now()));
        self.found.lock().unwrap().clone()
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap().clone()
    }
}

struct Scene {
    clock: Arc<TestClock>,
    checks: watch::Sender<()>,
    events: mpsc::Receiver<Event>,
    found: Arc<Mutex<Vec<Verdict>>>,
    trouble: Arc<Mutex<Option<String>>>,
    standing: watch::Receiver<StatusBoard>,
    times: Times,
    began: Instant,
}

impl Scene {
    fn start(poll: bool, takes: Duration, names: &[&'static str], seed: u64) -> Self {
        let (clock, checks) = (TestClock::new(), watch::Sender::new(()));
        let (sender, events) = mpsc::channel(64);
        let (found, times) = (Arc::new(Mutex::default()), Times::default());
        let trouble = Arc::<Mutex<Option<String>>>::default();
        let look = Script {
            names: names.to_vec(),
            takes,
            found: found.clone(),
            trouble: trouble.clone(),
            times: times.clone(),
        };
        let publisher = StatusPublisher::new(clock.clone());
        let standing = publisher.observe();
        let looks = Looks {
            look,
            settings: config::Deployment { poll, interval: INTERVAL },
            clock: clock.clone(),
            publisher,
            checks: checks.subscribe(),
            events: sender,
            told: Vec::new(),
            last: None,
        };
        tokio::spawn(looks.keep(fastrand::Rng::with_seed(seed)));
        Self { clock, checks, events, found, trouble, standing, times, began: Instant::now() }
    }

    fn polling() -> Self {
        Self::start(true, Duration::ZERO, &["deploymentId"], 7)
    }

    fn looks(&self) -> usize {
        self.times.lock().unwrap().len()
    }

    fn finds(&self, reasons: &[&str]) {
        *self.found.lock().unwrap() =
            reasons.iter().map(|reason| Verdict::End { reason: (*reason).to_owned() }).collect();
    }
}

#[tokio::test(start_paused = true)]
async fn first_looks_are_spread_over_the_whole_first_interval() {
    const FLEET: usize = 1000;
    let fleet: Vec<_> =
        (0..FLEET).map(|seed| Scene::start(true, Duration::ZERO, &["deploymentId"], seed as u64)).collect();
    sleep(INTERVAL).await;
    let firsts: Vec<f64> = fleet
        .iter()
        .map(|scene| (scene.times.lock().unwrap()[0].0 - scene.began).as_secs_f64() / INTERVAL.as_secs_f64())
        .collect();
    assert!(firsts.iter().all(|first| *first <= 1.0));
    for tenth in 0..10 {
        let from = f64::from(tenth) / 10.0;
        let here = firsts.iter().filter(|first| (from..from + 0.1).contains(*first)).count();
        assert!((60..=140).contains(&here), "{here} of {FLEET} in the tenth from {from}");
    }
    let mean = firsts.iter().sum::<f64>() / 1000.0;
    assert!((0.46..0.54).contains(&mean), "{mean}");
}

#[tokio::test(start_paused = true)]
async fn further_looks_come_after_the_interval_give_or_take_a_fifth() {
    let scene = Scene::polling();
    sleep(INTERVAL * 500).await;
    let times = scene.times.lock().unwrap().clone();
    let waits: Vec<f64> =
        times.windows(2).map(|two| (two[1].0 - two[0].1).as_secs_f64() / INTERVAL.as_secs_f64()).collect();
    assert!(waits.len() > 400);
    assert!(waits.iter().all(|wait| (0.79..1.21).contains(wait)), "{waits:?}");
    for (from, to) in [(0.79, 0.9), (0.9, 1.0), (1.0, 1.1), (1.1, 1.21)] {
        let here = waits.iter().filter(|wait| (from..to).contains(*wait)).count();
        assert!(here * 100 / waits.len() >= 18, "{here} of {} from {from}", waits.len());
    }
}

#[tokio::test(start_paused = true)]
async fn looks_that_take_long_never_pile_up() {
    let scene = Scene::start(true, INTERVAL * 3, &["deploymentId"], 7);
    sleep(INTERVAL * 100).await;
    let times = scene.times.lock().unwrap().clone();
    assert!((22..=26).contains(&times.len()), "{}", times.len());
    for two in times.windows(2) {
        assert!(two[1].0 - two[0].1 >= INTERVAL.mul_f64(0.79), "{two:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_followed_at_once_and_the_interval_begins_anew() {
    let scene = Scene::polling();
    sleep(Duration::from_millis(1)).await;
    scene.checks.send(()).unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(scene.looks(), 1);
    sleep(INTERVAL.mul_f64(0.79)).await;
    assert_eq!(scene.looks(), 1);
    sleep(INTERVAL.mul_f64(0.42)).await;
    assert_eq!(scene.looks(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_polling_only_a_request_makes_it_look() {
    let mut scene = Scene::start(false, Duration::ZERO, &["deploymentId"], 7);
    scene.finds(&["launch config archived"]);
    sleep(INTERVAL * 1000).await;
    assert_eq!(scene.looks(), 0);
    for looks in 1..4 {
        scene.checks.send(()).unwrap();
        assert_eq!(scene.events.recv().await, Some(DRAIN));
        assert_eq!(scene.looks(), looks);
    }
    sleep(INTERVAL * 1000).await;
    assert_eq!(scene.looks(), 3);
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_during_a_look_are_followed_by_one_more() {
    let scene = Scene::start(false, Duration::from_secs(10), &["deploymentId"], 7);
    sleep(Duration::from_secs(1)).await;
    scene.checks.send(()).unwrap();
    sleep(Duration::from_secs(1)).await;
    for _ in 0..5 {
        scene.checks.send(()).unwrap();
    }
    sleep(INTERVAL).await;
    assert_eq!(scene.looks(), 2);
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_where_nobody_is_left_who_could_make_requests() {
    let mut scene = Scene::polling();
    scene.checks = watch::Sender::new(());
    sleep(INTERVAL * 10).await;
    assert!((8..=13).contains(&scene.looks()), "{}", scene.looks());
}

#[tokio::test(start_paused = true)]
async fn where_nothing_tells_of_deployments_it_is_not_polled() {
    let scene = Scene::start(true, Duration::ZERO, &[], 7);
    sleep(INTERVAL * 1000).await;
    assert_eq!(scene.looks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_sleeps_looks_within_a_minute_of_waking() {
    let scene = Scene::start(true, Duration::ZERO, &["deploymentId"], 7);
    sleep(INTERVAL).await;
    let looks = scene.looks();
    scene.clock.jump(SignedDuration::from_hours(9));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(scene.looks(), looks + 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_does_not_hold_it_up() {
    let scene = Scene::polling();
    sleep(INTERVAL).await;
    let looks = scene.looks();
    scene.clock.jump(SignedDuration::from_hours(-9));
    sleep(INTERVAL * 10).await;
    assert!((8..=13).contains(&(scene.looks() - looks)), "{}", scene.looks());
}

#[tokio::test(start_paused = true)]
async fn each_look_that_finds_a_new_deployment_asks_once_for_a_drain() {
    let mut scene = Scene::polling();
    sleep(INTERVAL * 3).await;
    assert!(scene.events.try_recv().is_err() && scene.looks() > 0);
    scene.finds(&["launch config archived", "over capacity"]);
    let (looks, before) = (scene.looks(), Instant::now());
    for found in 1..4 {
        assert_eq!(scene.events.recv().await, Some(DRAIN));
        assert_eq!(scene.looks(), looks + found);
    }
    assert!(before.elapsed() >= INTERVAL.mul_f64(1.6));
    scene.finds(&[]);
    assert!(timeout(INTERVAL * 10, scene.events.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_supervisor() {
    let Scene { events, times, .. } = Scene::polling();
    drop(events);
    sleep(INTERVAL * 100).await;
    assert_eq!(times.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_look_has_found_is_announced_and_the_same_again_is_no_news() {
    let mut scene = Scene::polling();
    let mut results = Vec::new();
    let mut look = async |scene: &mut Scene| {
        let before = scene.looks();
        while scene.looks() == before {
            sleep(Duration::from_secs(1)).await;
        }
        let news = scene.standing.has_changed().unwrap();
        let standing = scene.standing.borrow_and_update();
        let watch = standing.deployment.as_ref().unwrap();
        assert!(watch.last_check.is_some());
        results.push((watch.result.clone().unwrap(), news));
    };
    look(&mut scene).await;
    look(&mut scene).await;
    *scene.trouble.lock().unwrap() = Some("no connection".to_owned());
    look(&mut scene).await;
    scene.finds(&["over capacity"]);
    look(&mut scene).await;
    let end = "worker-manager wants it to end: over capacity";
    assert_eq!(
        results.iter().map(|(result, news)| (result.as_str(), *news)).collect::<Vec<_>>(),
        [("nothing new", true), ("nothing new", false), ("cannot tell: no connection", true), (end, true)]
    );
}
