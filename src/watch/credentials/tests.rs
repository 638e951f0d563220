//! Tests of the renewal under paused time: days and weeks, sleeping hosts, clock jumps, and a fake worker-manager.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::super::clock_tests::TestClock;
use secrecy::ExposeSecret;

use super::*;
use crate::config::{Implementation, RestartInPlace};
use crate::host::private_file::Access;
use crate::run_spec::cache::{self, Stage};
use crate::run_spec::worker_config::Merged;
use crate::run_spec::{Object, Parts, Run, WorkerIdentity, WorkerPoolId};
use crate::taskcluster::tests::attempts::{Fails, scripted};
use crate::telemetry::status_board::StatusPublisher;

/// Decides whether an attempt at this time, by the true clock, fails.
type Script = Box<dyn Fn(Timestamp) -> Option<Fails> + Send + Sync>;

/// A worker-manager that issues credentials for one worker.
struct Manager {
    clock: Arc<TestClock>,
    life: SignedDuration,
    script: Script,
    /// The times of the attempts, by the host's clock.
    attempts: Mutex<Vec<Timestamp>>,
    /// The number of the latest credentials and of their secret.
    newest: Mutex<usize>,
}

impl Manager {
    /// Issues the credentials with this number; 0: the registration.
    fn issue(&self, number: usize) -> Renewed {
        let credentials = Credentials {
            client_id: "worker/static/pp/ww/wg/wi".to_owned(),
            access_token: format!("token-{number}").into(),
            certificate: None,
            expires: Some(self.clock.true_time() + self.life),
            obtained: Some(self.clock.now()),
        };
        Renewed { credentials, secret: format!("secret-{number}").into() }
    }

    fn attempts(&self) -> Vec<Timestamp> {
        self.attempts.lock().unwrap().clone()
    }

    fn renewals(&self) -> usize {
        *self.newest.lock().unwrap()
    }
}

impl Renews for Arc<Manager> {
    async fn renew(
        &self,
        credentials: &Credentials,
        secret: &SecretString,
        effort: Effort,
    ) -> Result<Renewed, CallError> {
        scripted(effort, &*self.clock, || {
            self.attempts.lock().unwrap().push(self.clock.now());
            if let Some(fails) = (self.script)(self.clock.true_time()) {
                return Err(fails);
            }
            let mut newest = self.newest.lock().unwrap();
            assert_eq!(secret.expose_secret(), format!("secret-{newest}"), "each secret is used once");
            assert_eq!(credentials.access_token.expose_secret(), format!("token-{newest}"));
            *newest += 1;
            Ok(self.issue(*newest))
        })
        .await
    }
}

/// A running renewal.
struct World {
    clock: Arc<TestClock>,
    manager: Arc<Manager>,
    launches: watch::Receiver<LaunchSpec>,
    events: mpsc::Receiver<Event>,
    publisher: StatusPublisher,
    task: JoinHandle<()>,
    folder: TempDir,
}

impl World {
    /// Starts with credentials of this lifetime, obtained now.
    fn new(
        life: SignedDuration,
        script: impl Fn(Timestamp) -> Option<Fails> + Send + Sync + 'static,
    ) -> Self {
        Self::start(TestClock::new(), life, true, script)
    }

    fn start(
        clock: Arc<TestClock>,
        life: SignedDuration,
        may_register_again: bool,
        script: impl Fn(Timestamp) -> Option<Fails> + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manager = Arc::new(Manager {
            clock: clock.clone(),
            life,
            script: Box::new(script),
            attempts: Mutex::default(),
            newest: Mutex::default(),
        });
        let registered = manager.issue(0);
        let cached = CachedRun::new(run(registered), "static", Stage::Complete);
        let Ok(Launch::Start(spec)) = worker::launch(&cached.run, &settings()) else { panic!("no launch") };
        let (launches, newest) = watch::channel(*spec);
        let (sender, events) = mpsc::channel(16);
        let publisher = StatusPublisher::new(clock.clone());
        let renewal = Renewal {
            registrar: manager.clone(),
            may_register_again,
            current: Arc::new(Mutex::new(cached)),
            settings: settings(),
            cache_writer: CacheWriter::new(Some(folder.path().join("run.json"))),
            clock: clock.clone(),
            secrets: Secrets::default(),
            publisher: publisher.clone(),
            launches,
            events: sender,
        };
        let task = tokio::spawn(renewal.keep());
        Self { clock, manager, launches: newest, events, publisher, task, folder }
    }

    /// The supervisor's credentials.
    fn credentials(&self) -> Credentials {
        self.launches.borrow().credentials.clone()
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("run.json")
    }

    /// The next event, and its time by the host's clock.
    async fn event(&mut self) -> (Timestamp, Event) {
        let event = self.events.recv().await.expect("an event");
        (self.clock.now(), event)
    }
}

fn settings() -> WorkerSettings {
    WorkerSettings {
        implementation: Implementation::Command {
            path: "/bin/worker".into(),
            config_path: Some("/tmp/worker.json".into()),
            credentials_in_environment: false,
        },
        args: Vec::new(),
        env: std::collections::BTreeMap::new(),
        cwd: None,
        user: None,
        hello_timeout: Duration::from_secs(30),
        restart_in_place: RestartInPlace::Yes,
        oom_score_adj: 0,
    }
}

fn run(registered: Renewed) -> Run {
    Run {
        root_url: "https://tc.example.com".to_owned(),
        identity: WorkerIdentity {
            provider_id: "static".to_owned(),
            worker_pool_id: WorkerPoolId::parse("pp/ww").unwrap(),
            worker_group: "wg".to_owned(),
            worker_id: "wi".to_owned(),
        },
        credentials: registered.credentials,
        worker_location: std::collections::BTreeMap::new(),
        provider_metadata: Object::new(),
        worker_config: Merged::new(),
        parts: Parts::default(),
        files: Vec::new(),
        registration_secret: Some(registered.secret),
        launch_config_id: None,
    }
}

const STOP: Event = Event::Asked { strength: Strength::Stop, cause: Cause::CredentialsExpiring };

fn hours(count: i64) -> SignedDuration {
    SignedDuration::from_hours(count)
}

fn mins(count: i64) -> SignedDuration {
    SignedDuration::from_mins(count)
}

fn secs(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

/// Every attempt succeeds.
fn fine(_: Timestamp) -> Option<Fails> {
    None
}

/// Advances the time in small steps, as on an awake host. The credentials must be usable all the time, by the host's
/// clock and by the true one, except in the first minute after the host has woken or its clock was set.
async fn watch_for(world: &World, time: SignedDuration, grace: SignedDuration) {
    let (end, graced) = (world.clock.true_time() + time, world.clock.true_time() + grace);
    while world.clock.true_time() < end {
        sleep(Duration::from_secs(30)).await;
        assert!(!world.task.is_finished(), "the renewal has ended");
        let credentials = world.credentials();
        if world.clock.true_time() > graced {
            assert!(credentials.usable(world.clock.now()), "{credentials:?} at {}", world.clock.now());
            let expires = credentials.expires.unwrap();
            assert!(expires > world.clock.true_time(), "expired since {expires}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn for_30_days_no_worker_has_credentials_that_are_of_no_use_on_a_host_that_sleeps_and_whose_clock_jumps()
 {
    let world = World::new(hours(96), fine);
    let begin = world.clock.true_time();
    let minute = secs(61);
    let (mut sleeps, mut off) = (0, 0);
    let mut chance = fastrand::Rng::with_seed(4711);
    // Renewals come early by a random time: continue until one was slept through.
    let goes_on = |world: &World, sleeps| {
        world.clock.true_time() < begin + hours(if sleeps == 0 { 3000 } else { 30 } * 24)
    };
    while goes_on(&world, sleeps) {
        let left = world.credentials().expires.unwrap().duration_since(world.clock.true_time());
        if left < hours(4) && sleeps < world.manager.renewals() + 1 {
            // Sleep across the renewal, and beyond the expiry.
            world.clock.sleep(hours(5));
            sleeps += 1;
            let before = world.manager.renewals();
            watch_for(&world, minute, minute).await;
            assert_eq!(world.manager.renewals(), before + 1, "renewed within a minute of waking");
        }
        // Up to 20 min off, back and forth: less than the time by which a renewal is early.
        let jump = chance.i64(-20..=20) - off;
        off += jump;
        world.clock.jump(mins(jump));
        watch_for(&world, mins(chance.i64(10..600)), minute).await;
    }
    let renewals = world.manager.renewals();
    println!("{renewals} renewals, {sleeps} of them slept through");
    let days = world.clock.true_time().duration_since(begin).as_hours() / 24;
    let (least, most) = (days / 4, days / 3);
    let counted = i64::try_from(renewals).unwrap();
    assert!(days >= 30 && (least..=most).contains(&counted), "{renewals} renewals in {days} days");
    assert_eq!(world.manager.attempts().len(), renewals);
    assert!(sleeps >= 1, "some were slept through");
}

#[tokio::test(start_paused = true)]
async fn a_sleep_across_the_renewal_is_noticed_within_a_minute() {
    let world = World::new(hours(96), fine);
    // The renewal is not due yet, however early it is.
    watch_for(&world, hours(85), SignedDuration::ZERO).await;
    assert_eq!(world.manager.renewals(), 0);
    // Sleep until it is due at the latest, but has not expired.
    world.clock.sleep(hours(10) + mins(31));
    sleep(Duration::from_secs(61)).await;
    assert_eq!(world.manager.renewals(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_and_forth_makes_no_more_renewals() {
    let world = World::new(hours(96), fine);
    for _ in 0..50 {
        world.clock.jump(-hours(30));
        watch_for(&world, mins(5), SignedDuration::ZERO).await;
        world.clock.jump(hours(30));
        watch_for(&world, mins(5), SignedDuration::ZERO).await;
    }
    assert_eq!(world.manager.attempts(), []);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_days_ahead_does_not_make_the_worker_renew_in_a_row() {
    let world = World::new(hours(96), fine);
    world.clock.jump(hours(10 * 24));
    sleep(Duration::from_secs(3600)).await;
    let renewals = world.manager.renewals();
    assert!((55..=70).contains(&renewals), "{renewals} renewals in an hour");
    world.clock.jump(-hours(10 * 24));
    // A renewal that was planned by the wrong clock waits for its time, and so does the next.
    sleep(Duration::from_secs(3600)).await;
    assert!(world.manager.renewals() <= renewals + 1);
    assert!(world.credentials().usable(world.clock.now()));
}

#[tokio::test(start_paused = true)]
async fn credentials_that_live_for_seconds_are_used_for_a_quarter_of_that() {
    let world = World::new(secs(20), fine);
    sleep(Duration::from_secs(100)).await;
    let renewals = world.manager.renewals();
    assert!((18..=26).contains(&renewals), "{renewals} renewals in 100 s");
    assert!(world.credentials().usable(world.clock.now()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_for_hours_is_asked_until_the_margin_and_then_the_worker_is_stopped() {
    let mut world = World::new(hours(96), |_| Some(Fails::Unreachable));
    let last_use = world.credentials().last_use().unwrap();
    let (when, event) = world.event().await;
    assert_eq!(event, STOP);
    assert!((last_use..=last_use + secs(1)).contains(&when), "{when}, not {last_use}");
    let attempts = world.manager.attempts();
    let (first, last) = (attempts[0], *attempts.last().unwrap());
    assert!(first <= last_use - mins(28), "first asked at {first}");
    assert!(last >= last_use - secs(2), "last asked at {last}");
    // At most half a minute between two attempts.
    assert!(attempts.windows(2).all(|two| two[1].duration_since(two[0]) <= secs(30)));
    let (expected, count) = (last.duration_since(first).as_secs() / 15, attempts.len());
    assert!(i64::try_from(count).unwrap() < expected * 2 + 20, "{count} attempts are too many");
    assert_eq!(world.events.recv().await, None, "there is nothing more to tell");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_back_shortly_before_the_margin_is_in_time() {
    let back = Timestamp::UNIX_EPOCH + hours(96) - mins(4);
    let mut world = World::new(hours(96), move |now| (now < back).then_some(Fails::Unreachable));
    let last_use = world.credentials().last_use().unwrap();
    world.launches.changed().await.unwrap();
    assert!((back..last_use).contains(&world.clock.now()));
    watch_for(&world, hours(1), SignedDuration::ZERO).await;
    // And not that the credentials have run out.
    assert_eq!(world.events.try_recv(), Ok(Event::OldCredentialsEnd { renewals: 0 }));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_may_register_once_is_not_asked_for_again_and_goes_on_while_its_credentials_are_of_use()
{
    let mut world = World::start(TestClock::new(), hours(96), false, |_| Some(Fails::Refused));
    let last_use = world.credentials().last_use().unwrap();
    let (when, event) = world.event().await;
    assert_eq!(event, STOP);
    assert!((last_use..=last_use + secs(1)).contains(&when), "{when}, not {last_use}");
    assert_eq!(world.manager.attempts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_static_worker_that_is_refused_tries_again_every_10_minutes() {
    let allowed = Timestamp::UNIX_EPOCH + hours(96) - mins(14);
    let world = World::new(hours(96), move |now| (now < allowed).then_some(Fails::Refused));
    let mut changed = world.launches.clone();
    changed.changed().await.unwrap();
    let attempts = world.manager.attempts();
    assert!(attempts.len() >= 3, "{attempts:?}");
    assert!(attempts.windows(2).all(|two| two[1].duration_since(two[0]) == mins(10)), "{attempts:?}");
    watch_for(&world, mins(30), SignedDuration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn new_credentials_are_on_the_disk_before_the_supervisor_learns_of_them() {
    let mut world = World::new(hours(96), fine);
    for number in 1..=5 {
        world.launches.changed().await.unwrap();
        // At once, because nothing else has been polled since.
        let cached = cache::read(&world.cache(), Access::Refuse).unwrap().unwrap();
        let token = format!("token-{number}");
        assert_eq!(cached.run.credentials.access_token.expose_secret(), token);
        assert_eq!(cached.run.registration_secret.unwrap().expose_secret(), format!("secret-{number}"));
        let launch = world.launches.borrow_and_update().clone();
        assert_eq!(launch.credentials.access_token.expose_secret(), token);
        // The worker's file contains them, too, so that a restarted worker does not use older ones.
        let file: Value = serde_json::from_str(launch.config_file.unwrap().content.expose_secret()).unwrap();
        assert!(file.to_string().contains(&token), "the worker's file has other credentials");
        // The replaced credentials have not expired yet, but the ones before them have.
        let ended = std::iter::from_fn(|| world.events.try_recv().ok()).count();
        assert_eq!(ended, usize::from(number > 1));
    }
}

#[tokio::test(start_paused = true)]
async fn replaced_credentials_end_when_they_are_of_no_more_use() {
    let mut world = World::new(hours(96), fine);
    let mut last_use = world.credentials().last_use().unwrap();
    for _ in 0..3 {
        let (when, event) = world.event().await;
        assert!(matches!(event, Event::OldCredentialsEnd { .. }));
        assert!((last_use..=last_use + secs(1)).contains(&when), "{when}, not {last_use}");
        last_use = world.credentials().last_use().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn replaced_credentials_end_in_time_although_others_were_replaced_since() {
    // Renewed every 5 min, usable for 18.
    let mut world = World::new(mins(20), fine);
    let first = world.credentials().last_use().unwrap();
    let mut ends = vec![first];
    let mut newest = world.launches.clone();
    let renewals = tokio::spawn(async move {
        let mut all = Vec::new();
        while all.len() < 6 && newest.changed().await.is_ok() {
            all.push(newest.borrow_and_update().credentials.last_use().unwrap());
        }
        all
    });
    let mut told = Vec::new();
    for _ in 0..4 {
        let (when, event) = world.event().await;
        assert!(matches!(event, Event::OldCredentialsEnd { .. }));
        told.push(when);
    }
    ends.extend(renewals.await.unwrap());
    for (when, end) in told.iter().zip(&ends) {
        assert!((*end..=*end + secs(1)).contains(when), "{told:?}, not {ends:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn replaced_credentials_end_while_the_next_renewal_fails() {
    let began = Timestamp::UNIX_EPOCH;
    let mut world = World::new(mins(20), move |now| (now > began + mins(7)).then_some(Fails::Unreachable));
    let old_end = world.credentials().last_use().unwrap();
    world.launches.changed().await.unwrap();
    let new_end = world.credentials().last_use().unwrap();
    let (when, event) = world.event().await;
    assert!(matches!(event, Event::OldCredentialsEnd { .. }));
    assert!((old_end..=old_end + secs(1)).contains(&when), "{when}, not {old_end}");
    let (when, event) = world.event().await;
    assert_eq!(event, STOP);
    assert!((new_end..=new_end + secs(1)).contains(&when), "{when}, not {new_end}");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_ended_while_the_host_slept_are_replaced_before_their_end_is_told() {
    let mut world = World::new(hours(96), fine);
    sleep(Duration::from_secs(3600)).await;
    world.clock.sleep(hours(100));
    let woke = Instant::now();
    assert!(matches!(world.event().await.1, Event::OldCredentialsEnd { .. }));
    assert!(woke.elapsed() <= Duration::from_secs(60));
    assert_eq!(world.credentials().access_token.expose_secret(), "token-1");
    assert!(world.launches.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_next_renewal_is_announced_and_results_are_counted() {
    let began = Timestamp::UNIX_EPOCH;
    let mut world = World::new(mins(20), move |now| (now > began + mins(7)).then_some(Fails::Unreachable));
    let renew = world.publisher.observe();
    let next = || renew.borrow().credentials_renew;
    sleep(Duration::from_secs(1)).await;
    let first = next().unwrap();
    assert!((began + mins(4)..=began + mins(5)).contains(&first), "{first}");
    world.launches.changed().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let second = next().unwrap();
    assert!((first + mins(4)..=first + mins(6)).contains(&second), "{second}");
    while world.event().await.1 != STOP {}
    assert_eq!(next(), None, "nothing is renewed any more");
    let counted = world.publisher.counters().renewals.all();
    assert_eq!(counted.get(&["ok".into()]), Some(&1), "{counted:?}");
    assert_eq!(counted.get(&["failed".into()]), Some(&1), "{counted:?}");
}
