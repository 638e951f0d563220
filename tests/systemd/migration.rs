//! docs/migration.md, executed: its commands, as they are there and in their order, on a machine that runs the Go program
//! as the public images do, and back.

use std::os::unix::fs::PermissionsExt as _;

use test_support::record::named;

use crate::systemd::machine::{Borrowed, Machine, POOL, STATIC_SECRET};
use crate::systemd::service::RECORD;

const PAGE: &str = include_str!("../../docs/migration.md");
const GO_CACHE: &str = include_str!("../fixtures/contract/go-cache-standalone.json");
const CLOUD_IMAGE: &str = include_str!("../../systemd/start-worker.service.d/cloud-image.conf.example");

/// The page's names of things, which each of its steps needs.
const NAMES: usize = 1;

/// Stands in for the Go program: it knows no commands, writes its cache at its first start, and refuses a cache with
/// `static`, in the words of its source (worker-runner's `static.go`).
const GO_PROGRAM: &str = r#"#!/bin/bash
set -eu
[ -f "$1" ] || { echo "open $1: no such file or directory"; exit 1; }
cache=$(sed -n 's/^cacheOverRestarts: *//p' "$1")
if [ -n "$cache" ] && [ -f "$cache" ]; then
    ! grep -q 'providerType: static' "$1" || { echo "do not use cacheOverRestarts with static provider"; exit 1; }
    echo cached >>/var/lib/record/go
else
    [ -z "$cache" ] || install -m 0700 /var/lib/record/go-cache "$cache"
    echo registered >>/var/lib/record/go
fi
exec sleep infinity
"#;

/// As in the public images (community-tc-config), but that this machine boots to multi-user.target.
const GO_UNIT: &str = "\
[Unit]
Description=Start TC worker
Wants=network-online.target
After=network-online.target docker.service

[Service]
Type=simple
ExecStart=/usr/local/bin/start-worker /etc/start-worker.yml
StandardOutput=journal+console
StandardError=journal+console
User=root

[Install]
RequiredBy=multi-user.target
";

/// The blocks of commands in a section.
fn blocks(section: &str) -> Vec<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("\n## {section}\n")).expect("the section");
    let section = rest.split("\n## ").next().unwrap();
    section.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// A machine with the Go program at work, its runner configuration as readable as the public images have it.
struct Migration {
    machine: Borrowed,
}

impl Migration {
    fn begin(provider: &str) -> Option<Self> {
        let machine = Machine::borrow()?;
        let url = machine.taskcluster.url();
        let provider = provider.replace("ROOT", &url);
        let config = format!(
            "provider:\n{provider}
worker:
    implementation: generic-worker
    path: /usr/bin/test-worker
    args: ['on now: exit 72', 'on finish: exit 72', 'hello all', 'wait']
    configPath: /var/lib/record/worker.json
    restartInPlace: true
    env: {{TEST_WORKER_RECORD: {RECORD}}}
host:
    shutdownCommand: [touch, /var/lib/record/shutdown]
    rebootCommand: [touch, /var/lib/record/reboot]
getSecrets: false
cacheOverRestarts: /etc/start-worker-cache.json\n"
        );
        machine.write("/etc/start-worker.yml", &config);
        machine.write("/usr/local/bin/start-worker", GO_PROGRAM);
        machine.write("/etc/systemd/system/worker.service", GO_UNIT);
        machine.write("/usr/share/doc/start-worker/examples/cloud-image.conf", CLOUD_IMAGE);
        machine.write("/var/lib/record/go-cache", &GO_CACHE.replace("https://tc.example.com", &url));
        for (path, mode) in [("/usr/local/bin/start-worker", 0o755), ("/etc/start-worker.yml", 0o644)] {
            std::fs::set_permissions(machine.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        machine.systemctl("enable --now worker.service");
        Some(Self { machine })
    }

    /// Executes a step of the page; what it prints.
    #[track_caller]
    fn execute(&self, step: &str) -> String {
        let names = blocks("Step by step")[..NAMES].join("\n");
        self.machine.ask(["bash", "-euc", &format!("{names}\n{step}")])
    }

    fn is_active(&self, unit: &str) -> bool {
        self.machine.run(["systemctl", "is-active", "--quiet", unit]).status.success()
    }

    fn is_enabled(&self, unit: &str) -> bool {
        self.machine.run(["systemctl", "is-enabled", "--quiet", unit]).status.success()
    }

    /// The record of each start of the Go program.
    fn go_starts(&self) -> Vec<String> {
        self.machine.read("/var/lib/record/go").lines().map(str::to_owned).collect()
    }

    /// Waits until a start of the Go program is over or goes on.
    #[track_caller]
    fn wait_for_go(&self, starts: &[&str]) {
        let seen = crate::systemd::machine::eventually(|| (self.go_starts() == starts).then_some(()));
        assert!(
            seen.is_some() && self.is_active("worker.service"),
            "{:?}\n{}",
            self.go_starts(),
            *self.machine
        );
    }

    /// From the Go program to start-worker.
    #[track_caller]
    fn migrate(&self) {
        let steps = blocks("Step by step");
        let [check, stop, path, configuration, drop_in, start] = &steps[NAMES..] else {
            panic!("the page has other steps than this test: {steps:#?}")
        };
        assert!(self.execute(check).contains("RequiredBy=multi-user.target"));
        assert!(self.is_active("worker.service"), "a check ends nothing");
        assert!(self.execute(stop).ends_with("nothing is left\n"));
        assert!(!self.is_active("worker.service") && !self.is_enabled("worker.service"));
        let version = self.execute(path);
        assert_eq!(version, self.machine.ask(["/usr/bin/start-worker", "--version"]));
        self.execute(configuration);
        assert!(self.machine.path("/etc/start-worker-cache.json.go").exists());
        self.execute(drop_in);
        let said = self.execute(start);
        assert!(said.contains("state ") && said.contains("running, since "), "{said}");
        assert!(said.contains(POOL), "{said}");
        assert!(self.is_active("start-worker.service") && self.is_enabled("start-worker.service"));
        let kept = self.machine.ask([
            "systemctl",
            "show",
            "--property=StandardOutput,After",
            "start-worker.service",
        ]);
        assert!(kept.contains("StandardOutput=journal+console") && kept.contains("docker.service"), "{kept}");
    }

    /// Back, up to the start of the Go program.
    #[track_caller]
    fn go_back(&self) {
        let steps = blocks("Back");
        let [stop, with_static, start] = &steps[..] else {
            panic!("the page has other steps than this test: {steps:#?}")
        };
        self.execute(stop);
        assert!(!self.is_active("start-worker.service") && !self.is_enabled("start-worker.service"));
        self.execute(with_static);
        assert_eq!(self.execute(start).trim(), "active");
        assert!(self.is_enabled("worker.service"));
    }

    /// For the next test on this machine, which may look for whatever is called as the program is.
    fn end(self) {
        self.machine.systemctl("disable --now worker.service");
        self.machine.ask([
            "sh",
            "-c",
            "rm -f /usr/local/bin/start-worker /usr/local/bin/start-worker.go /etc/start-worker-cache.json*
            cd /usr/share/doc/start-worker && rm -f examples/cloud-image.conf
            cd .. && rmdir --ignore-fail-on-non-empty start-worker/examples start-worker",
        ]);
    }
}

/// The worker's starts below start-worker.
fn starts(machine: &Machine) -> usize {
    let events = test_support::record::Event::read(&machine.path(RECORD));
    named(&events, "start").len()
}

const STATIC: &str = "    providerType: static
    rootURL: ROOT
    providerID: static
    workerPoolID: pp/ww
    workerGroup: wg
    workerID: wi
    staticSecret: SECRET";

const STANDALONE: &str = "    providerType: standalone
    rootURL: ROOT
    clientID: c
    accessToken: fake-token
    workerPoolID: pp/ww
    workerGroup: wg
    workerID: wi
    providerMetadata: {region: r1}
    workerLocation: {dataCenter: dc1}";

#[test]
fn the_steps_of_the_page_take_a_static_worker_there_and_back() {
    let Some(migration) = Migration::begin(&STATIC.replace("SECRET", STATIC_SECRET)) else { return };
    migration.wait_for_go(&["registered"]);
    // The reason for a step in the way back: with a cache, the Go program does not start a second time.
    migration.machine.systemctl("restart worker.service");
    let refused = migration.machine.ask([
        "sh",
        "-c",
        "until systemctl is-failed --quiet worker.service; do sleep 0.02; done; rm /etc/start-worker-cache.json;
        journalctl --sync; journalctl --output=cat --no-pager --unit worker.service",
    ]);
    assert!(refused.contains("do not use cacheOverRestarts with static provider"), "{refused}");
    migration.machine.systemctl("start worker.service");
    migration.wait_for_go(&["registered", "registered"]);

    migration.migrate();
    assert_eq!(starts(&migration.machine), 1);
    assert_eq!(migration.machine.taskcluster.count("registerWorker"), 1);
    migration.go_back();
    migration.wait_for_go(&["registered", "registered", "registered"]);
    migration.end();
}

#[test]
fn the_steps_of_the_page_take_a_worker_with_a_cache_of_the_go_program_there_and_back() {
    let Some(migration) = Migration::begin(STANDALONE) else { return };
    migration.wait_for_go(&["registered"]);
    migration.migrate();
    assert_eq!(starts(&migration.machine), 1);
    migration.go_back();
    migration.wait_for_go(&["registered", "cached"]);
    migration.end();
}
