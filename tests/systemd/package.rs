//! The package on a machine: services are started only by the administrator, an upgrade restarts none, and a purge
//! leaves nothing.

use std::path::Path;
use std::process::Command;

use test_support::record::messages;

use crate::package::build::{self, must};
use crate::systemd::machine::Machine;
use crate::systemd::possible;
use crate::systemd::service::{Config, OBEDIENT, Service};

/// The files that the harness itself adds to the disk.
const OF_THE_HARNESS: [&str; 5] = [
    "/usr/bin/start-worker",
    "/usr/lib/systemd/system/start-worker.service",
    "/usr/lib/systemd/system/start-worker@.service",
    "/usr/lib/systemd/system/start-worker-autologin.service",
    "/usr/lib/systemd/system/start-worker.service.d",
];

/// The unit that this job had before.
const OLD_UNIT: &str =
    "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";

fn dpkg(machine: &Machine, arguments: &[&str]) {
    machine.ask(["dpkg", "--no-triggers", "--force-unsafe-io"].iter().chain(arguments));
}

fn install(machine: &Machine, package: &Path) {
    std::fs::copy(package, machine.path("/var/tmp/package.deb")).unwrap();
    dpkg(machine, &["--install", "/var/tmp/package.deb"]);
    machine.ask(["rm", "/var/tmp/package.deb"]);
}

/// A property of the unit.
fn shown(machine: &Machine, property: &str) -> String {
    machine
        .ask(["systemctl", "show", "--value", "--property", property, "start-worker.service"])
        .trim()
        .to_owned()
}

/// All paths that contain the program's name, on the disk and in `/run`, without dpkg's data about all packages.
fn named_so(machine: &Machine) -> Vec<String> {
    let upper = machine.path("/../upper");
    let mut find = Command::new("find");
    find.current_dir(upper).args([".", "-name", "*start-worker*", "-not", "-path", "./var/lib/dpkg/*"]);
    let found = String::from_utf8(must(&mut find).stdout).unwrap();
    let on_disk = found.lines().map(|path| path.trim_start_matches('.').to_owned());
    let running = machine.ask([
        "find",
        "/run",
        "-path",
        "/run/systemd",
        "-prune",
        "-o",
        "-name",
        "*start-worker*",
        "-print",
    ]);
    let mut all: Vec<String> = on_disk.chain(running.lines().map(str::to_owned)).collect();
    all.sort();
    all
}

#[test]
fn a_package_starts_nothing_restarts_nothing_and_takes_all_with_it() {
    let Some(machine) = Machine::borrow() else { return };
    let Some(built) = build::built(possible::start_worker()) else { return };
    machine.ask(["rm", "-r"].iter().chain(&OF_THE_HARNESS));
    // Images for containers have it: by it no package may stop a service. A worker machine has none.
    machine.ask(["rm", "-f", "/usr/sbin/policy-rc.d"]);
    machine.systemctl("daemon-reload");
    assert!(named_so(&machine).is_empty(), "{:?}", named_so(&machine));

    install(&machine, &built.packages[0]);
    let service = Service::install(&machine, &Config::new(&machine, OBEDIENT));
    assert!(service.properties().is("inactive"));
    assert_eq!(shown(&machine, "UnitFileState"), "disabled");

    machine.write("/etc/systemd/system/worker.service", OLD_UNIT);
    machine.systemctl("daemon-reload");
    machine.systemctl("start worker.service");
    service.must("enable --now");
    service.wait_for_start(1);
    let old = machine.run(["systemctl", "is-active", "worker.service"]);
    assert_eq!(String::from_utf8_lossy(&old.stdout).trim(), "inactive");
    let before = service.wait_for("active", |now| now.is("active"));

    install(&machine, &built.packages[1]);
    let after = service.properties();
    assert!(after.is("active"), "{after:?}");
    assert_eq!(shown(&machine, "NeedDaemonReload"), "no");
    assert_eq!((after.pid(), after.get("NRestarts")), (before.pid(), "0"), "{after:?}");
    assert_eq!((service.starts(), messages(&service.events())), (1, vec!["welcome".to_owned()]));

    let processes = service.processes();
    dpkg(&machine, &["--remove", "start-worker"]);
    service.assert_gone(&processes);
    assert_eq!(messages(&service.events()), ["welcome", "now"]);
    assert!(machine.path("/var/lib/start-worker/run.json").exists());

    dpkg(&machine, &["--purge", "start-worker"]);
    assert_eq!(named_so(&machine), ["/etc/start-worker.yml"]);

    // For the next test on this machine.
    install(&machine, &built.packages[0]);
}
