//! Installed, configured, upgraded, removed, purged.

use crate::package::build::VERSIONS;
use crate::package::machine::Machine;

const CONFIG: &str = "provider: {providerType: aws}\nworker: {implementation: dummy}\n";
const UNITS: [&str; 3] =
    ["start-worker.service", "start-worker@office.service", "start-worker-autologin.service"];

fn version(machine: &Machine) -> String {
    machine.ask(&["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Version}", "start-worker"])
}

fn is_enabled(machine: &Machine, unit: &str) -> bool {
    machine.run(&["systemctl", "is-enabled", unit]).status.success()
}

/// As it is after an operator's work and a few runs.
fn operate(machine: &Machine) {
    machine.write("/etc/start-worker.yml", CONFIG);
    machine.write("/etc/start-worker/office.yml", CONFIG);
    machine
        .write("/etc/systemd/system/start-worker.service.d/hardening.conf", "[Service]\nProtectClock=yes\n");
    for unit in UNITS {
        machine.ask(&["systemctl", "enable", unit]);
        assert!(is_enabled(machine, unit), "{unit}");
    }
    machine.write("/var/lib/start-worker/run.json", "{}");
    machine.write("/var/lib/start-worker/office/held", "");
    machine.write("/run/start-worker/status.sock", "");
    for path in AUTOLOGIN {
        machine.write(path, "");
    }
}

/// The files of automatic login, except GDM's own file.
const AUTOLOGIN: [&str; 4] = [
    "/etc/lightdm/lightdm.conf.d/90-start-worker-autologin.conf",
    "/etc/sddm.conf.d/90-start-worker-autologin.conf",
    "/etc/systemd/system/getty@tty1.service.d/90-start-worker-autologin.conf",
    "/etc/systemd/system/serial-getty@ttyS0.service.d/90-start-worker-autologin.conf",
];

/// The operator's own, which outlives the package.
const OPERATORS: [&str; 5] = [
    "/etc/start-worker",
    "/etc/start-worker.yml",
    "/etc/start-worker/office.yml",
    "/etc/systemd/system/start-worker.service.d",
    "/etc/systemd/system/start-worker.service.d/hardening.conf",
];

#[test]
fn installing_enables_nothing_and_what_is_installed_runs() {
    let Some(built) = crate::package::built() else { return };
    let Some(machine) = Machine::make() else { return };
    machine.install(&built.packages[0]);
    assert_eq!(version(&machine), format!("ii {}", VERSIONS[0]));
    for unit in UNITS {
        assert!(!is_enabled(&machine, unit), "{unit}");
    }
    assert!(!machine.has("/etc/start-worker.yml"));
    assert!(!machine.has("/var/lib/start-worker"));
    let own = machine.ask(&["/usr/bin/start-worker", "--short-version"]);
    assert_eq!(own.trim(), env!("CARGO_PKG_VERSION"));
    // Checksums: what dpkg has installed is what it finds, and a change is seen.
    assert_eq!(machine.ask(&["dpkg", "--verify", "start-worker"]), "");
    machine.write("/usr/share/doc/start-worker/README.md", "changed");
    let verified = machine.run(&["dpkg", "--verify", "start-worker"]).stdout;
    let verified = String::from_utf8(verified).unwrap();
    assert!(verified.contains("/usr/share/doc/start-worker/README.md"), "{verified}");
}

#[test]
fn an_upgrade_changes_nothing_of_the_operators() {
    let Some(built) = crate::package::built() else { return };
    let Some(machine) = Machine::make() else { return };
    machine.install(&built.packages[0]);
    operate(&machine);
    let before = machine.added();
    machine.install(&built.packages[1]);
    assert_eq!(version(&machine), format!("ii {}", VERSIONS[1]));
    assert_eq!(machine.added(), before);
    assert!(UNITS.iter().all(|unit| is_enabled(&machine, unit)));
}

#[test]
fn a_removed_package_leaves_what_it_needs_to_come_back() {
    let Some(built) = crate::package::built() else { return };
    let Some(machine) = Machine::make() else { return };
    machine.install(&built.packages[0]);
    operate(&machine);
    machine.dpkg(&["--remove", "start-worker"]);
    assert!(!machine.has("/usr/bin/start-worker"));
    for path in OPERATORS.iter().chain(&["/var/lib/start-worker/run.json"]) {
        assert!(machine.has(path), "{path}");
    }
    machine.install(&built.packages[1]);
    assert!(UNITS.iter().all(|unit| is_enabled(&machine, unit)));
}

#[test]
fn a_purge_leaves_nothing_but_what_the_operator_has_made() {
    let Some(built) = crate::package::built() else { return };
    let Some(machine) = Machine::make() else { return };
    let before = machine.added();
    machine.install(&built.packages[0]);
    assert!(machine.has("/usr/bin/start-worker"));
    operate(&machine);
    machine.dpkg(&["--purge", "start-worker"]);
    let mut expected = before;
    expected.extend(OPERATORS.map(str::to_owned));
    // Paths that existed before, or that belong to packages that this host does not have.
    let empty = ["/etc/lightdm", "/etc/lightdm/lightdm.conf.d", "/etc/sddm.conf.d"];
    let left: Vec<String> =
        machine.added().into_iter().filter(|path| !empty.contains(&path.as_str())).collect();
    assert_eq!(left, expected);
}
