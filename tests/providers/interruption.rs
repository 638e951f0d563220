//! A cloud's notices: one each, at once, and none while nothing changes.

use std::cell::RefCell;
use std::time::Duration;

use serde_json::{Value, json};
use start_worker::config::{CloudConfig, ProviderConfig};
use start_worker::provider::interruption::{Kind, Notice, Watcher, watcher};
use start_worker::run_spec::{WorkerIdentity, WorkerPoolId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::advance;

use crate::harness::captured::Log;
use crate::harness::frozen::{Frozen, freeze, until, until_quiet};
use crate::providers::scene::Scene;

const ACTION: &str = "/latest/meta-data/spot/instance-action";
const TERMINATION: &str = "/latest/meta-data/spot/termination-time";
const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";
const MAINTENANCE: &str = "/latest/meta-data/events/maintenance/scheduled";
const EVENTS: &str = "/metadata/scheduledevents";
const PREEMPTED: &str = "/computeMetadata/v1/instance/preempted";

/// A watcher at work, as a task of its own. Time stands still but for [`Watch::pass`].
struct Watch {
    scene: Scene,
    notices: RefCell<mpsc::Receiver<Notice>>,
    log: Log,
    _task: JoinSet<()>,
    _frozen: Frozen,
}

fn watcher_of(scene: &Scene) -> Watcher {
    let identity = WorkerIdentity {
        provider_id: "p".to_owned(),
        worker_pool_id: WorkerPoolId::unknown(),
        worker_group: "g".to_owned(),
        worker_id: "vm-8fh2k".to_owned(),
    };
    watcher(&scene.config, &scene.origins, &identity).unwrap().unwrap()
}

impl Watch {
    /// `path` is one that is asked for at the beginning.
    async fn start(scene: Scene, path: &str) -> Self {
        let (log, frozen) = (Log::capture(), freeze());
        let mut watcher = watcher_of(&scene);
        let (sender, notices) = mpsc::channel(8);
        let mut task = JoinSet::new();
        task.spawn(async move { while sender.send(watcher.next().await).await.is_ok() {} });
        let watch = Self { scene, notices: RefCell::new(notices), log, _task: task, _frozen: frozen };
        watch.asked(path, 1).await;
        watch
    }

    fn tell(&self, command: &str) {
        self.scene.fake.tell(command).unwrap();
    }

    /// Until a path has been asked for so many times.
    async fn asked(&self, path: &str, times: usize) {
        until(path, || self.scene.count(path) >= times).await;
    }

    /// Seconds pass, and the path is asked for in each of them.
    async fn pass(&self, seconds: u64, every: u64, path: &str) {
        for _ in 0..seconds / every {
            let count = self.scene.count(path);
            self.pass_over(Duration::from_secs(every)).await;
            self.asked(path, count + 1).await;
        }
    }

    /// Lets time pass, regardless of the requests made meanwhile.
    async fn pass_over(&self, time: Duration) {
        until_quiet(|| self.scene.quiet()).await;
        advance(time).await;
    }

    async fn notice(&self) -> Notice {
        let mut notice = None;
        until("a notice", || {
            notice = notice.take().or_else(|| self.notices.borrow_mut().try_recv().ok());
            notice.is_some()
        })
        .await;
        notice.unwrap()
    }

    fn assert_no_notice(&self) {
        assert_eq!(self.notices.borrow_mut().try_recv().ok(), None);
    }

    async fn logged(&self, start: &str) {
        until(start, || self.log.lines().iter().any(|line| line.starts_with(start))).await;
    }

    #[track_caller]
    fn assert_silent(&self) {
        assert_eq!(self.log.lines(), Vec::<String>::new());
    }
}

fn text(notice: &Notice) -> (String, bool) {
    (notice.to_string(), notice.ends)
}

fn event(id: &str, event_type: &str, machines: &[&str]) -> Value {
    json!({
        "EventId": id, "EventType": event_type, "ResourceType": "VirtualMachine", "Resources": machines,
        "EventStatus": "Scheduled", "NotBefore": "Tue, 24 Nov 2026 18:29:47 GMT", "Description": "",
        "EventSource": "Platform", "DurationInSeconds": -1,
    })
}

#[tokio::test(start_paused = true)]
async fn a_spot_notice_comes_with_the_next_poll_and_once() {
    let watch = Watch::start(Scene::aws(), TERMINATION).await;
    watch.pass(20, 5, TERMINATION).await;
    watch.assert_no_notice();
    watch.tell(&format!(r#"set {ACTION} {{"action": "terminate", "time": "2026-11-24T18:02:00Z"}}"#));
    watch.tell(&format!("set {TERMINATION} 2026-11-24T18:02:00Z"));
    watch.pass(5, 5, ACTION).await;
    let notice = watch.notice().await;
    assert_eq!(text(&notice), ("EC2 spot: terminate at 2026-11-24T18:02:00Z".to_owned(), true));
    assert_eq!(notice.kind, Kind::Interruption);
    watch.pass(60, 5, TERMINATION).await;
    watch.assert_no_notice();
    watch.assert_silent();
}

#[tokio::test(start_paused = true)]
async fn the_older_form_will_do_where_it_is_a_time() {
    let watch = Watch::start(Scene::aws(), TERMINATION).await;
    watch.tell(&format!("set {TERMINATION} not a time"));
    watch.pass(10, 5, TERMINATION).await;
    watch.assert_no_notice();
    watch.tell(&format!("set {TERMINATION} 2026-11-24T18:02:00Z"));
    watch.pass(5, 5, TERMINATION).await;
    assert_eq!(text(&watch.notice().await), ("EC2 spot: terminate at 2026-11-24T18:02:00Z".to_owned(), true));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_stopped_or_hibernates_can_come_back() {
    for action in ["stop", "hibernate"] {
        let value = json!({"action": action, "time": "2026-11-24T18:02:00Z"});
        let watch = Watch::start(Scene::aws().told(&format!("set {ACTION} {value}")), ACTION).await;
        assert_eq!(
            text(&watch.notice().await),
            (format!("EC2 spot: {action} at 2026-11-24T18:02:00Z"), false)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_is_withdrawn_is_a_line_and_the_next_one_counts() {
    let value = r#"{"action": "stop", "time": "2026-11-24T18:02:00Z"}"#;
    let watch = Watch::start(Scene::aws().told(&format!("set {ACTION} {value}")), ACTION).await;
    watch.notice().await;
    watch.tell(&format!("unset {ACTION}"));
    watch.pass(10, 5, ACTION).await;
    watch.logged("INFO EC2 has withdrawn its notice of an interruption action=\"stop\"").await;
    watch.tell(&format!("set {ACTION} {value}"));
    watch.pass(5, 5, ACTION).await;
    watch.notice().await;
    assert_eq!(watch.log.lines().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_recommendation_counts_where_it_is_wanted() {
    let told = format!(r#"set {REBALANCE} {{"noticeTime": "2026-11-24T18:02:00Z"}}"#);
    let mut scene = Scene::aws().told(&told);
    scene.config = ProviderConfig::Aws(CloudConfig { drain_on_rebalance: true, ..Default::default() });
    let watch = Watch::start(scene, REBALANCE).await;
    assert_eq!(watch.notice().await.kind, Kind::Rebalance);
    watch.pass(90, 30, REBALANCE).await;
    watch.assert_no_notice();

    let watch = Watch::start(Scene::aws().told(&told), TERMINATION).await;
    watch.pass(60, 5, TERMINATION).await;
    assert_eq!(watch.scene.count(REBALANCE), 0);
}

#[tokio::test(start_paused = true)]
async fn maintenance_is_a_warning_once() {
    let event = json!([{
        "NotBefore": "21 Jan 2027 09:00:43 GMT", "Code": "system-reboot", "Description": "scheduled reboot",
        "EventId": "instance-event-0d59937288b749b32", "NotAfter": "21 Jan 2027 09:17:23 GMT", "State": "active",
    }]);
    let watch = Watch::start(Scene::aws().told(&format!("set {MAINTENANCE} {event}")), MAINTENANCE).await;
    watch.pass(900, 300, MAINTENANCE).await;
    watch.pass(10, 5, ACTION).await;
    let lines = watch.log.lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].starts_with("WARN EC2 has scheduled maintenance for this instance id="), "{lines:#?}");
    assert!(lines[0].contains("system-reboot"), "{lines:#?}");
    watch.assert_no_notice();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_is_renewed_in_silence() {
    let watch = Watch::start(Scene::aws(), TERMINATION).await;
    watch.tell("expire-sessions");
    watch.pass(10, 5, TERMINATION).await;
    assert_eq!(watch.scene.count("/latest/api/token"), 2);
    // By its age: the next one is there before the last has ended.
    watch.pass_over(Duration::from_secs(20000)).await;
    watch.pass(10, 5, TERMINATION).await;
    assert_eq!(watch.scene.count("/latest/api/token"), 3);
    watch.assert_silent();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_is_one_warning_and_one_line_when_it_works_again() {
    let clouds =
        [(Scene::aws as fn() -> Scene, ACTION, 5), (Scene::azure, EVENTS, 1), (Scene::google, PREEMPTED, 5)];
    for (scene, path, every) in clouds {
        for fault in ["500", "garbage", "close", "404", "401", "403"] {
            // For EC2 this is how it says that there is nothing.
            if path == ACTION && fault == "404" {
                continue;
            }
            let watch = Watch::start(scene().told(&format!("fault {path} {fault}")), path).await;
            watch
                .logged(
                    "WARN interruptions cannot be watched for: the metadata service fails; asking on url=",
                )
                .await;
            watch.pass(every * 5, every, path).await;
            assert_eq!(watch.log.lines().len(), 1, "{path} {fault}: {:#?}", watch.log.lines());
            watch.tell("clear");
            watch.pass(every, every, path).await;
            watch.logged("INFO interruptions are watched for again").await;
            assert_eq!(watch.log.lines().len(), 2, "{path} {fault}: {:#?}", watch.log.lines());
            watch.assert_no_notice();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_is_asked_again_after_its_time_limit() {
    let watch = Watch::start(Scene::aws().told(&format!("fault {ACTION} hang")), ACTION).await;
    watch.pass_over(Duration::from_secs(2)).await;
    watch.logged("WARN interruptions cannot be watched for").await;
    assert!(watch.log.lines()[0].ends_with("error=no answer within 2s"), "{:#?}", watch.log.lines());
    watch.pass(5, 5, ACTION).await;
    watch.pass_over(Duration::from_secs(2)).await;
    watch.tell(&format!(r#"set {ACTION} {{"action": "terminate", "time": "2026-11-24T18:02:00Z"}}"#));
    watch.tell("clear");
    watch.pass(5, 5, ACTION).await;
    watch.notice().await;
}

#[tokio::test(start_paused = true)]
async fn azures_events_become_notices_with_their_time_as_the_deadline() {
    for (action, ends) in [("Preempt", true), ("Terminate", true), ("Reboot", false), ("Redeploy", false)] {
        let watch = Watch::start(Scene::azure(), EVENTS).await;
        watch.pass(5, 1, EVENTS).await;
        watch.tell(&format!("events {}", json!([event("e1", action, &["other", "VM-8fh2k"])])));
        watch.pass(1, 1, EVENTS).await;
        let expected = format!("Azure scheduled event: {action} at 2026-11-24T18:29:47Z");
        assert_eq!(text(&watch.notice().await), (expected, ends));
        // The event begins: the same event, without a time.
        let mut begun = event("e1", action, &["other", "vm-8fh2k"]);
        begun["EventStatus"] = "Started".into();
        begun["NotBefore"] = "".into();
        watch.tell(&format!("events {}", json!([begun])));
        watch.pass(10, 1, EVENTS).await;
        watch.assert_no_notice();
        watch.assert_silent();
    }
}

#[tokio::test(start_paused = true)]
async fn freezes_and_events_of_other_machines_are_nothing() {
    let watch = Watch::start(Scene::azure(), EVENTS).await;
    let events = [event("e1", "Freeze", &["vm-8fh2k"]), event("e2", "Preempt", &["vm-8fh2", "other"])];
    watch.tell(&format!("events {}", json!(events)));
    watch.pass(5, 1, EVENTS).await;
    watch.tell("events []");
    watch.pass(5, 1, EVENTS).await;
    watch.assert_no_notice();
    watch.assert_silent();
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_cancelled_is_a_line() {
    let watch = Watch::start(Scene::azure(), EVENTS).await;
    watch.tell(&format!("events {}", json!([event("e1", "Reboot", &["vm-8fh2k"])])));
    watch.pass(1, 1, EVENTS).await;
    watch.notice().await;
    watch.tell("events []");
    watch.pass(3, 1, EVENTS).await;
    let line = "INFO Azure has cancelled a scheduled event, or it is over event=\"e1\" action=\"Reboot\"";
    assert_eq!(watch.log.lines(), [line]);
    watch.assert_no_notice();
}

#[tokio::test(start_paused = true)]
async fn two_events_at_once_are_two_notices() {
    let watch = Watch::start(Scene::azure(), EVENTS).await;
    let events = [event("e1", "Reboot", &["vm-8fh2k"]), event("e2", "Preempt", &["vm-8fh2k"])];
    watch.tell(&format!("events {}", json!(events)));
    watch.pass(1, 1, EVENTS).await;
    assert_eq!(watch.notice().await.action, "Reboot");
    assert_eq!(watch.notice().await.action, "Preempt");
}

#[tokio::test(start_paused = true)]
async fn azures_first_call_may_take_two_minutes_and_no_other_is_made_meanwhile() {
    let watch = Watch::start(Scene::azure().told(&format!("fault {EVENTS} hang")), EVENTS).await;
    watch.pass_over(Duration::from_secs(120)).await;
    watch.tell(&format!("events {}", json!([event("e1", "Preempt", &["vm-8fh2k"])])));
    assert_eq!(watch.scene.count(EVENTS), 1);
    watch.tell("clear");
    watch.notice().await;
    watch.assert_silent();
    // Afterwards an answer has two seconds.
    until_quiet(|| watch.scene.quiet()).await;
    watch.tell(&format!("fault {EVENTS} hang"));
    watch.pass(1, 1, EVENTS).await;
    watch.pass_over(Duration::from_secs(2)).await;
    watch.logged("WARN interruptions cannot be watched for").await;
}

#[tokio::test(start_paused = true)]
async fn events_of_this_machine_alone_are_acknowledged_where_that_is_wanted() {
    for wanted in [true, false] {
        let _frozen = freeze();
        let mut scene = Scene::azure();
        let config = CloudConfig { acknowledge_events: wanted, ..Default::default() };
        scene.config = ProviderConfig::Azure(config);
        let events = [
            event("e1", "Preempt", &["vm-8fh2k"]),
            event("e2", "Reboot", &["vm-8fh2k", "other"]),
            event("e3", "Freeze", &["vm-8fh2k"]),
        ];
        scene.fake.tell(&format!("events {}", json!(events))).unwrap();
        let mut watcher = watcher_of(&scene);
        watcher.acknowledge().await;
        assert_eq!(
            (watcher.next().await.action, watcher.next().await.action),
            ("Preempt".into(), "Reboot".into())
        );
        watcher.acknowledge().await;
        let requests = scene.fake.requests();
        let posts: Vec<&str> = requests
            .iter()
            .filter(|request| request.method == "POST")
            .map(|request| request.body.as_str())
            .collect();
        let expected: &[&str] = if wanted { &[r#"{"StartRequests":[{"EventId":"e1"}]}"#] } else { &[] };
        assert_eq!(posts, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_preemption_is_known_at_once_without_polling() {
    let watch = Watch::start(Scene::google(), PREEMPTED).await;
    watch.asked(PREEMPTED, 2).await;
    let requests = watch.scene.fake.requests();
    let parameter = |name: &str| requests[1].parameter(name).unwrap();
    assert_eq!(
        (parameter("wait_for_change"), parameter("timeout_sec")),
        ("true".to_owned(), "60".to_owned())
    );
    assert!(!parameter("last_etag").is_empty());
    // No time passes at all.
    watch.tell(&format!("set {PREEMPTED} TRUE"));
    let notice = watch.notice().await;
    assert_eq!(text(&notice), ("GCE preemption: preempt".to_owned(), true));
    watch.pass(5, 5, PREEMPTED).await;
    watch.assert_no_notice();
    watch.assert_silent();
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_preempted_already_is_noticed_too() {
    let watch = Watch::start(Scene::google().told(&format!("set {PREEMPTED} TRUE")), PREEMPTED).await;
    watch.notice().await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_get_that_fails_at_once_is_no_tight_loop() {
    let watch = Watch::start(Scene::google(), PREEMPTED).await;
    watch.asked(PREEMPTED, 2).await;
    watch.tell(&format!("fault {PREEMPTED} 503"));
    // An answer that changes nothing ends the wait; the next call fails.
    watch.tell(&format!("set {PREEMPTED} FALSE"));
    watch.pass(5, 5, PREEMPTED).await;
    watch.logged("WARN interruptions cannot be watched for").await;
    let failed = watch.scene.count(PREEMPTED);
    watch.pass_over(Duration::from_millis(4900)).await;
    assert_eq!(watch.scene.count(PREEMPTED), failed);
    watch.tell("clear");
    watch.tell(&format!("set {PREEMPTED} TRUE"));
    watch.pass(5, 5, PREEMPTED).await;
    watch.notice().await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_get_that_nobody_answers_ends_after_75_seconds() {
    let watch = Watch::start(Scene::google(), PREEMPTED).await;
    watch.asked(PREEMPTED, 2).await;
    watch.pass_over(Duration::from_secs(74)).await;
    watch.assert_silent();
    watch.pass_over(Duration::from_secs(1)).await;
    watch.logged("WARN interruptions cannot be watched for").await;
    watch.tell(&format!("set {PREEMPTED} TRUE"));
    watch.pass(5, 5, PREEMPTED).await;
    watch.notice().await;
}

#[test]
fn machines_of_ones_own_are_not_interrupted() {
    use start_worker::config::{FixedIdentity, StaticConfig};
    let mut scene = Scene::aws();
    scene.config = ProviderConfig::Static(StaticConfig {
        identity: FixedIdentity {
            root_url: "https://tc.example.com".to_owned(),
            worker_pool_id: "aa/bb".to_owned(),
            worker_group: "g".to_owned(),
            worker_id: "w".to_owned(),
            provider_metadata: serde_json::Map::new(),
            worker_location: std::collections::BTreeMap::new(),
        },
        provider_id: "p".to_owned(),
        static_secret: "s".into(),
    });
    let identity = WorkerIdentity {
        provider_id: "p".to_owned(),
        worker_pool_id: WorkerPoolId::unknown(),
        worker_group: "g".to_owned(),
        worker_id: "w".to_owned(),
    };
    assert!(watcher(&scene.config, &scene.origins, &identity).unwrap().is_none());
}
