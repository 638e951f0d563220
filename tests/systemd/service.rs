//! A unit on a machine: its configuration, its drop-ins, and the output of systemd and the journal about it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use test_support::record::{Event, named};

use crate::systemd::machine::{Machine, POOL, STATIC_SECRET, eventually};

/// The worker's record of events.
pub(crate) const RECORD: &str = "/var/lib/record/events";

/// A worker that runs until it is told to end.
pub(crate) const OBEDIENT: [&str; 3] = ["on now: exit 72", "hello all", "wait"];

/// The properties that are requested from systemd.
const PROPERTIES: &str =
    "--property=ActiveState,SubState,Result,ExecMainStatus,NRestarts,StatusText,MainPID,ControlGroup";

/// One unit of a machine.
pub(crate) struct Service<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) name: String,
    record: String,
    /// Entries of the journal that are older are not looked at.
    installed: Timestamp,
}

/// The output of `systemctl show` for a unit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Properties(BTreeMap<String, String>);

impl Properties {
    /// A property; empty where there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn is(&self, state: &str) -> bool {
        self.get("ActiveState") == state
    }

    pub(crate) fn pid(&self) -> i32 {
        self.get("MainPID").parse().unwrap_or_default()
    }
}

/// A runner configuration, as the machine's units find it.
pub(crate) struct Config(Value);

impl Config {
    /// With a generic-worker that does as this script says, one statement each, and can be started in place.
    pub(crate) fn new<S: AsRef<str>>(machine: &Machine, script: impl IntoIterator<Item = S>) -> Self {
        let script: Vec<String> = script.into_iter().map(|statement| statement.as_ref().to_owned()).collect();
        Self(json!({
            "provider": {
                "providerType": "static", "rootURL": machine.taskcluster.url(), "providerID": "static",
                "workerPoolID": POOL, "workerGroup": "wg", "workerID": "wi", "staticSecret": STATIC_SECRET,
            },
            "worker": {
                "implementation": "generic-worker", "path": "/usr/bin/test-worker", "args": script,
                "configPath": "/var/lib/start-worker/worker.json", "restartInPlace": true,
                "env": {"TEST_WORKER_RECORD": RECORD},
            },
            "supervision": {"stopTimeout": "20s", "killTimeout": "300ms", "backoff": {"initial": "10ms", "max": "40ms"}},
            "cacheOverRestarts": "/var/lib/start-worker/run.json",
            "deployment": {"poll": false},
            "getSecrets": false,
        }))
    }

    /// Sets one key, by its path: `supervision.stopTimeout`.
    pub(crate) fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.0;
        for key in path.split('.') {
            place = &mut place[key];
        }
        *place = value.into();
        self
    }

    /// JSON is YAML.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string_pretty(&self.0).unwrap()
    }
}

impl<'m> Service<'m> {
    /// `start-worker.service`, as after its installation, with this configuration.
    pub(crate) fn install(machine: &'m Machine, config: &Config) -> Self {
        Self::named(machine, "start-worker.service", "/etc/start-worker.yml", RECORD, config)
    }

    /// A unit by its name, its configuration's place, and where its worker's record goes.
    pub(crate) fn named(machine: &'m Machine, name: &str, path: &str, record: &str, config: &Config) -> Self {
        machine.write(path, &config.text());
        let installed = Timestamp::now();
        Self { machine, name: name.to_owned(), record: record.to_owned(), installed }
    }

    /// A drop-in for it: lines of its `[Service]`.
    pub(crate) fn drop_in(self, lines: &str) -> Self {
        self.machine.write(
            &format!("/etc/systemd/system/{}.d/test.conf", self.name),
            &format!("[Service]\n{lines}\n"),
        );
        self
    }

    /// `systemctl VERB`, which must succeed.
    #[track_caller]
    pub(crate) fn must(&self, verb: &str) {
        self.machine.systemctl(&format!("{verb} {}", self.name));
    }

    /// `systemctl start`, which returns when the service is ready.
    #[track_caller]
    pub(crate) fn started(self) -> Self {
        self.must("start");
        self
    }

    /// `systemctl start --no-block`.
    #[track_caller]
    pub(crate) fn starting(self) -> Self {
        self.must("start --no-block");
        self
    }

    pub(crate) fn properties(&self) -> Properties {
        let output = self.machine.run(["systemctl", "show", PROPERTIES, &self.name]);
        let text = String::from_utf8_lossy(&output.stdout);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Properties(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Waits for something that systemd says about it.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, fits: impl Fn(&Properties) -> bool) -> Properties {
        let mut last = Properties::default();
        let found = eventually(|| {
            last = self.properties();
            fits(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("{} was not {what} in time: {last:?}\n{}", self.name, self.machine))
    }

    /// Waits until it has ended, well or not.
    #[track_caller]
    pub(crate) fn ended(&self) -> Properties {
        self.wait_for("ended", |now| now.is("inactive") || now.is("failed"))
    }

    /// The worker's record.
    pub(crate) fn events(&self) -> Vec<Event> {
        Event::read(&self.machine.path(&self.record))
    }

    /// Waits for something in the worker's record.
    #[track_caller]
    pub(crate) fn wait_for_event(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
        let found = eventually(|| self.events().into_iter().find(&fits));
        found.unwrap_or_else(|| panic!("there was no {what} in time\n{}", self.machine))
    }

    /// Waits for the worker's `count`-th start.
    #[track_caller]
    pub(crate) fn wait_for_start(&self, count: usize) -> Event {
        let found =
            eventually(|| self.events().into_iter().filter(|event| event.name() == "start").nth(count - 1));
        found.unwrap_or_else(|| panic!("there was no start {count} in time\n{}", self.machine))
    }

    /// Number of starts of the worker.
    pub(crate) fn starts(&self) -> usize {
        self.events().iter().filter(|event| event.name() == "start").count()
    }

    /// Waits until the worker has left so many descendants.
    #[track_caller]
    pub(crate) fn wait_for_descendants(&self, count: usize) {
        let found = eventually(|| (named(&self.events(), "descendant").len() >= count).then_some(()));
        found.unwrap_or_else(|| panic!("there were no {count} descendants in time\n{}", self.machine));
    }

    /// The pids, on the machine, of all processes in its cgroup and below.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let group = format!(
            "/sys/fs/cgroup/system.slice/{}",
            self.properties().get("ControlGroup").rsplit('/').next().unwrap()
        );
        let found = self.machine.run(["find", &group, "-name", "cgroup.procs", "-exec", "cat", "{}", "+"]);
        let mut pids: Vec<i32> =
            String::from_utf8_lossy(&found.stdout).lines().map(|line| line.parse().unwrap()).collect();
        pids.sort_unstable();
        pids
    }

    /// None of these pids is one's on the machine.
    #[track_caller]
    pub(crate) fn assert_gone(&self, pids: &[i32]) {
        let living = self.machine.ask(["ls", "/proc"]);
        let left: Vec<_> =
            pids.iter().filter(|pid| living.lines().any(|name| name == pid.to_string())).collect();
        assert!(left.is_empty(), "left: {left:?}\n{}", self.machine);
    }

    /// Entries in the journal since it was installed.
    fn entries(&self, of: &[&str]) -> Vec<Value> {
        self.machine.run(["journalctl", "--sync"]);
        let mut command = vec!["journalctl", "--output=json", "--all", "--no-pager"];
        command.extend(of);
        let output = self.machine.run(command);
        let entries = String::from_utf8_lossy(&output.stdout);
        let entries = entries.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        // (`--after-cursor` finds nothing in a journal of several boots.)
        entries.filter(|entry| time(entry) >= self.installed).collect()
    }

    /// The journal entries of the runner and its worker. Not by unit, because the journal does not know the unit of a
    /// process that has exited already.
    pub(crate) fn journal(&self) -> Vec<Value> {
        self.entries(&["SYSLOG_IDENTIFIER=start-worker", "SYSLOG_IDENTIFIER=generic-worker"])
    }

    /// Waits for an entry with this text.
    #[track_caller]
    pub(crate) fn wait_for_entry(&self, text: &str) -> Value {
        let found = eventually(|| self.journal().into_iter().find(|entry| holds(entry, text)));
        found.unwrap_or_else(|| panic!("there was no `{text}` in the journal in time\n{}", self.machine))
    }

    /// Waits for an entry of systemd's about it.
    #[track_caller]
    pub(crate) fn wait_for_manager_entry(&self, text: &str) {
        let found = eventually(|| {
            self.entries(&[&format!("UNIT={}", self.name)])
                .iter()
                .any(|entry| holds(entry, text))
                .then_some(())
        });
        found.unwrap_or_else(|| panic!("systemd did not say `{text}` in time\n{}", self.machine));
    }

    /// There is none.
    #[track_caller]
    pub(crate) fn assert_no_manager_entry(&self, text: &str) {
        let entries = self.entries(&[&format!("UNIT={}", self.name)]);
        let found = entries.iter().find(|entry| holds(entry, text));
        assert!(found.is_none(), "{found:?}");
    }
}

fn time(entry: &Value) -> Timestamp {
    let microseconds = entry["__REALTIME_TIMESTAMP"].as_str().and_then(|time| time.parse().ok());
    microseconds.and_then(|time| Timestamp::from_microsecond(time).ok()).unwrap()
}

fn holds(entry: &Value, text: &str) -> bool {
    entry["MESSAGE"].as_str().is_some_and(|message| message.contains(text))
}
