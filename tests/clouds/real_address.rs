//! Each cloud with its metadata service at its real address, in a network namespace of the test's own.

use std::process::Command;

use crate::clouds::identity::assert_whole_start;
use crate::clouds::machine::{AZURE, EC2, GCE, Kind, Machine};

/// Sets up the link-local address and GCE's name, visible only to the program started by it.
const NAMESPACE: &str = "ip link set lo up && ip address add 169.254.169.254/32 dev lo && \
     mount --bind \"$0\" /etc/hosts && exec \"$@\"";

/// An instance that has IPv6 alone.
const IPV6_ALONE: &str = "ip link set lo up && ip -6 address add fd00:ec2::254/128 dev lo && \
     mount --bind \"$0\" /etc/hosts && exec \"$@\"";

fn outside(inside: &str) {
    outside_in(NAMESPACE, inside);
}

fn outside_in(namespace: &str, inside: &str) {
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "127.0.0.1 localhost\n169.254.169.254 metadata.google.internal\n").unwrap();
    let unshare = |program: &str, arguments: &[&str]| {
        Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", namespace])
            .arg(hosts.path())
            .arg(program)
            .args(arguments)
            .output()
    };
    let possible = unshare("true", &[]).is_ok_and(|output| output.status.success());
    if !possible {
        println!("skipped: network namespaces need root, unshare and ip");
        assert!(std::env::var_os("CI").is_none(), "with CI set nothing may be skipped");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let output = unshare(this.to_str().unwrap(), &["--exact", inside, "--ignored"]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// A proxy that does not exist is not asked.
fn inside(kind: Kind) {
    inside_at(kind, "169.254.169.254:80");
}

fn inside_at(kind: Kind, address: &str) {
    let machine = Machine::at(kind, address.parse().unwrap());
    let variable =
        ["START_WORKER_EC2_METADATA_URL", "START_WORKER_AZURE_METADATA_URL", "START_WORKER_GCE_METADATA_URL"];
    assert_whole_start(&machine, |scene| {
        let scene = variable.iter().fold(scene, |scene, name| scene.env(name, ""));
        scene.env("HTTP_PROXY", "http://127.0.0.1:9")
    });
}

#[test]
fn an_ec2_instance_starts_its_worker() {
    outside("clouds::real_address::inside_ec2");
}

#[test]
fn an_ec2_instance_that_has_ipv6_alone_starts_its_worker() {
    outside_in(IPV6_ALONE, "clouds::real_address::inside_ec2_with_ipv6_alone");
}

#[test]
fn an_azure_machine_starts_its_worker() {
    outside("clouds::real_address::inside_azure");
}

#[test]
fn a_gce_instance_starts_its_worker() {
    outside("clouds::real_address::inside_gce");
}

#[test]
#[ignore = "started by a test above, where there is the address"]
fn inside_ec2() {
    inside(EC2);
}

#[test]
#[ignore = "started by a test above, where there is the address"]
fn inside_azure() {
    inside(AZURE);
}

#[test]
#[ignore = "started by a test above, where there is the address"]
fn inside_gce() {
    inside(GCE);
}

#[test]
#[ignore = "started by a test above, where there is the address"]
fn inside_ec2_with_ipv6_alone() {
    inside_at(EC2, "[fd00:ec2::254]:80");
}
