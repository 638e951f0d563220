//! The worker's identity on each cloud: the proof sent to worker-manager, and the data given to the worker.

use serde_json::{Value, json};

use crate::clouds::machine::{AZURE, EC2, GCE, Kind, Machine, OBEDIENT, interface};

/// The body of the only registerWorker request.
pub(crate) fn registration(machine: &Machine) -> Value {
    let mut sent = machine.only("registerWorker").body.unwrap();
    let boot_time = sent.as_object_mut().unwrap().remove("systemBootTime").unwrap();
    assert!(boot_time.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{boot_time}");
    sent
}

/// The expected registerWorker body for this kind of machine.
pub(crate) fn expected_registration(kind: Kind) -> Value {
    let proof = match kind.provider {
        "aws" => json!({
            // Byte for byte: the signature is for these.
            "document": "{\n  \"accountId\" : \"123456789012\",\n  \"architecture\" : \"x86_64\",\n  \"availabilityZone\" : \
                \"us-west-2b\",\n  \"billingProducts\" : null,\n  \"imageId\" : \"ami-5fb8c835\",\n  \"instanceId\" : \
                \"i-1234567890abcdef0\",\n  \"instanceType\" : \"m5.large\",\n  \"pendingTime\" : \"2026-11-19T16:32:11Z\",\n  \
                \"privateIp\" : \"10.158.112.84\",\n  \"region\" : \"us-west-2\",\n  \"version\" : \"2017-09-30\"\n}\n",
            "signature": "ZG9jdW1lbnQgc2lnbmVkIGJ5IG5vYm9keSwgZm9yIHRlc3Rz\nIG9ubHk6IHR3byBsaW5lcyBvZiBiYXNlNjQ=",
        }),
        "azure" => json!({"document": "MIIEEgYJKoZIhvcNAQcCoIIEAzCCA/8CAQExDzANmadeup=="}),
        _ => json!({"token": "eyJhbGciOiJub25lIn0.eyJtYWRlIjoidXAifQ.c2ln"}),
    };
    json!({
        "workerPoolId": kind.pool, "providerId": kind.provider_id, "workerGroup": kind.group,
        "workerId": kind.worker, "workerIdentityProof": proof,
    })
}

/// The metadata of this kind of machine.
fn metadata_of(kind: Kind) -> Value {
    match kind.provider {
        "aws" => json!({
            "instance-id": "i-1234567890abcdef0", "image": "ami-5fb8c835", "instance-type": "m5.large",
            "region": "us-west-2", "availability-zone": "us-west-2b", "local-ipv4": "10.158.112.84",
            "public-hostname": "ec2-203-0-113-17.us-west-2.compute.amazonaws.com", "public-ipv4": "203.0.113.17",
        }),
        "azure" => json!({
            "vm-id": "02aab8a4-74ef-476e-8182-f6d2ba4166a6", "instance-type": "Standard_F8s_v2", "region": "eastus",
            "local-ipv4": "10.0.0.4", "public-ipv4": "203.0.113.29",
        }),
        _ => json!({
            "instance-id": "4242424242424242424", "project-id": "proj-1234",
            "image": "projects/proj-1234/global/images/img-123",
            "instance-type": "projects/123/machineTypes/n1-standard-4", "zone": "us-east1-b", "region": "us-east1",
            "public-hostname": "my-worker.c.proj-1234.internal", "public-ipv4": "203.0.113.4",
            "local-ipv4": "192.168.0.1",
        }),
    }
}

/// The location of this kind of machine as generic-worker receives it: JSON in a string.
fn location_of(kind: Kind) -> Value {
    match kind.provider {
        "aws" => json!({"cloud": "aws", "region": "us-west-2", "availabilityZone": "us-west-2b"}),
        "azure" => json!({"cloud": "azure", "region": "eastus"}),
        _ => json!({"cloud": "google", "region": "us-east1", "zone": "us-east1-b"}),
    }
}

/// The known facts of a machine, with generic-worker's keys for them.
fn settings(metadata: &Value) -> Vec<(&'static str, Value)> {
    let pairs = [
        ("publicIP", "public-ipv4"),
        ("privateIP", "local-ipv4"),
        ("instanceType", "instance-type"),
        ("instanceID", "instance-id"),
        ("region", "region"),
        ("availabilityZone", "availability-zone"),
    ];
    pairs.into_iter().filter_map(|(key, name)| Some((key, metadata.get(name)?.clone()))).collect()
}

/// Asserts that generic-worker's configuration is this kind of machine's, with this metadata, and nothing else in it.
pub(crate) fn assert_configuration(machine: &Machine, metadata: &Value, mut found: Value) {
    let kind = machine.kind;
    let object = found.as_object_mut().unwrap();
    let location: Value =
        serde_json::from_str(object.remove("workerLocation").unwrap().as_str().unwrap()).unwrap();
    assert_eq!(location, location_of(kind));
    for key in ["clientId", "accessToken", "certificate"] {
        let value = object.remove(key).unwrap();
        assert!(value.as_str().is_some_and(|text| !text.is_empty()), "{key}");
    }
    let (provisioner, worker_type) = kind.pool.split_once('/').unwrap();
    let mut expected = json!({
        "fromThePool": true, "list": ["file", "pool"], "rootURL": machine.taskcluster.url(),
        "workerGroup": kind.group, "workerId": kind.worker, "provisionerId": provisioner, "workerType": worker_type,
        "workerTypeMetadata": metadata,
    });
    for (key, value) in settings(metadata) {
        expected[key] = value;
    }
    assert_eq!(found, expected);
}

/// Boots a machine with generic-worker, and hands back the worker's configuration.
pub(crate) fn boot(
    machine: &Machine,
    furnish: impl FnOnce(crate::harness::Scene) -> crate::harness::Scene,
) -> Value {
    let scene = machine.generic_worker().worker(OBEDIENT).set("workerConfig", json!({"list": ["file"]}));
    let runner = furnish(scene).start();
    runner.wait_for_log("worker says hello");
    let text = std::fs::read_to_string(runner.path("worker.json")).unwrap();
    runner.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    serde_json::from_str(&text).unwrap()
}

/// The whole way, of a machine that has everything.
pub(crate) fn assert_whole_start(
    machine: &Machine,
    furnish: impl FnOnce(crate::harness::Scene) -> crate::harness::Scene,
) {
    let configuration = boot(machine, furnish);
    assert_eq!(registration(machine), expected_registration(machine.kind));
    assert_configuration(machine, &metadata_of(machine.kind), configuration);
}

/// The metadata of a machine that lacks some of these keys.
fn without(kind: Kind, keys: &[&str]) -> Value {
    let mut metadata = metadata_of(kind);
    for key in keys {
        metadata.as_object_mut().unwrap().remove(*key);
    }
    metadata
}

#[test]
fn an_ec2_instance_without_a_public_address_starts_without_one() {
    let machine = Machine::new(EC2);
    machine.tell("unset /latest/meta-data/public-ipv4");
    machine.tell("unset /latest/meta-data/public-hostname");
    let configuration = boot(&machine, |scene| scene);
    assert_configuration(&machine, &without(EC2, &["public-ipv4", "public-hostname"]), configuration);
    assert_eq!(registration(&machine), expected_registration(EC2));
}

#[test]
fn a_gce_instance_without_an_external_address_starts_without_one() {
    let machine = Machine::new(GCE);
    machine.tell("unset /computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip");
    let configuration = boot(&machine, |scene| scene);
    assert_configuration(&machine, &without(GCE, &["public-ipv4"]), configuration);
}

#[test]
fn an_azure_machine_with_two_interfaces_starts_without_an_address() {
    let machine = Machine::new(AZURE);
    machine.set_azure(&["worker-group"], &json!([interface(), interface()]));
    let configuration = boot(&machine, |scene| scene);
    assert_configuration(&machine, &without(AZURE, &["public-ipv4", "local-ipv4"]), configuration);
}

#[test]
fn an_azure_machine_without_a_tag_does_not_start_and_says_which() {
    let machine = Machine::new(AZURE);
    machine.set_azure(&[], &json!([interface()]));
    let ended = machine.scene().worker(OBEDIENT).set("startTimeout", "1s").start().ended();
    assert!(ended.log.contains("tagsList: `worker-group` is missing, and needed"), "{}", ended.log);
    // Without a known identity the machine is left alone.
    assert_eq!((ended.code, ended.starts(), ended.host_commands), (Some(1), 0, vec![]));
    assert_eq!(machine.calls(), []);
}

#[test]
fn the_identity_token_is_for_the_root_url_and_asked_for_encoded() {
    let machine = Machine::new(GCE);
    boot(&machine, |scene| scene);
    let requests = machine.metadata.requests();
    let identity = requests.iter().find(|request| request.path().ends_with("/identity")).unwrap();
    assert_eq!(identity.parameter("audience"), Some(machine.taskcluster.url()));
    let query = identity.target.split_once('?').unwrap().1;
    assert!(query.starts_with("audience=http%3A%2F%2F127.0.0.1%3A"), "{query}");
    assert!(query.ends_with("&format=full"), "{query}");
}
