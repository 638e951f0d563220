//! Tests of the machines themselves: the host is unchanged afterwards, even if the test process was killed.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::systemd::machine::{Machine, PREFIX, eventually, namespace_leader, of_boot, sweep};
use crate::systemd::possible;
use crate::systemd::untouched::{Host, assert_nothing_left_of};

#[test]
fn a_machine_that_is_switched_off_leaves_nothing_on_its_host() {
    let Some(machine) = Machine::boot() else { return };
    machine.end();
}

#[test]
fn a_process_of_the_host_that_a_machine_has_taken_is_noticed() {
    let Some(machine) = Machine::boot() else { return };
    let mut own = Command::new("sleep").arg("1000").spawn().unwrap();
    let before = Host::look();
    let name = format!("{PREFIX}{}-", std::process::id());
    let groups = std::fs::read_to_string("/proc/1/cgroup").unwrap();
    machine.take(own.id());
    let noticed = std::panic::catch_unwind(|| before.assert_untouched_by(&name));
    own.kill().unwrap();
    own.wait().unwrap();
    assert!(noticed.is_err(), "not noticed");
    assert_eq!(std::fs::read_to_string("/proc/1/cgroup").unwrap(), groups);
    machine.end();
}

/// A machine that boots, and who holds its pipe.
struct Orphan {
    name: String,
    holder: Child,
    shell: Child,
    before: Host,
}

impl Orphan {
    fn boot(kind: &str) -> Option<Self> {
        if !possible::is_possible() {
            return None;
        }
        let before = Host::look();
        let name = format!("{PREFIX}{}-{kind}", std::process::id());
        let (held, holds) = std::io::pipe().unwrap();
        let holder = Command::new("sleep").arg("1000").stdout(holds).spawn().unwrap();
        let shell = of_boot(&name).stdin(held).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let top = i32::try_from(shell.id()).unwrap();
        eventually(|| namespace_leader(top, 3)).expect("a machine");
        Some(Self { name, holder, shell, before })
    }
}

#[test]
fn a_machine_whose_test_is_killed_leaves_nothing_on_its_host() {
    let Some(mut machine) = Orphan::boot("orphan") else { return };
    machine.holder.kill().unwrap();
    machine.holder.wait().unwrap();
    assert!(eventually(|| machine.shell.try_wait().unwrap()).is_some());
    machine.before.assert_untouched_by(&machine.name);
    assert_nothing_left_of(&machine.name);
}

#[test]
fn a_machine_whose_own_shell_is_killed_leaves_empty_cgroups_that_the_next_one_sweeps() {
    let Some(mut machine) = Orphan::boot("headless") else { return };
    kill(Pid::from_raw(i32::try_from(machine.shell.id()).unwrap()), Signal::SIGKILL).unwrap();
    machine.shell.wait().unwrap();
    let swept = eventually(|| {
        sweep(&machine.name);
        std::panic::catch_unwind(|| assert_nothing_left_of(&machine.name)).ok()
    });
    machine.holder.kill().unwrap();
    machine.holder.wait().unwrap();
    assert!(swept.is_some(), "something is left of {}", machine.name);
    machine.before.assert_untouched_by(&machine.name);
}
