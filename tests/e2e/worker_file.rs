//! The configuration file that the runner writes for generic-worker.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::harness::Scene;

const RUNNER_FILE: &str = r#"
provider:
  providerType: standalone
  rootURL: https://tc.example.com/
  clientID: client
  accessToken: made-up-access-token
  certificate: '{"version":1,"expiry":4102444800000}'
  workerPoolID: pp/ww/and-more
  workerGroup: wg
  workerID: written
  providerMetadata: {public-ipv4: 192.0.2.7, local-ipv4: 10.0.0.7, instance-type: tower, instance-id: i-7, region: r1, availability-zone: r1b, rack: 12}
  workerLocation: {room: basement}
getSecrets: false
worker: {implementation: generic-worker, path: "{worker}", configPath: "{dir}/deep/down/generic-worker.json", args: [exit 0]}
status: {socket: null}
host: {shutdownCommand: ["true"], rebootCommand: ["true"], forceShutdownCommand: ["true"], forceRebootCommand: ["true"]}
workerConfig:
  big: 12345678901234567890
  negative: -9223372036854775808
  float: 1.0
  nothing: null
  word: yes
  hex: 0x1F
  date: 2020-01-02
  lists: [[1, [2, 3]], []]
  nested: {b: {c: true}, a: {}}
  workerTypeMetadata: {rack: 1, ours: kept}
  deploymentId: d1
  checkForNewDeploymentEverySecs: 600
"#;

#[test]
fn it_is_what_the_worker_expects_key_by_key_and_nobody_elses_to_read() {
    let runner = Scene::new().text(RUNNER_FILE).start();
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    let path = runner.path("deep/down/generic-worker.json");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let text = fs::read_to_string(path).unwrap();
    let metadata = json!({
        "public-ipv4": "192.0.2.7", "local-ipv4": "10.0.0.7", "instance-type": "tower", "instance-id": "i-7",
        "region": "r1", "availability-zone": "r1b", "rack": 12, "ours": "kept",
    });
    let expected = json!({
        "accessToken": "made-up-access-token", "availabilityZone": "r1b", "big": 12_345_678_901_234_567_890_u64,
        "certificate": r#"{"version":1,"expiry":4102444800000}"#, "clientId": "client", "date": "2020-01-02",
        "float": 1.0, "hex": 31, "instanceID": "i-7", "instanceType": "tower", "lists": [[1, [2, 3]], []],
        "negative": i64::MIN, "nested": {"a": {}, "b": {"c": true}}, "nothing": null, "privateIP": "10.0.0.7",
        "provisionerId": "pp", "publicIP": "192.0.2.7", "region": "r1", "rootURL": "https://tc.example.com",
        "word": "yes", "workerGroup": "wg", "workerId": "written",
        "workerLocation": r#"{"cloud":"standalone","room":"basement"}"#, "workerType": "ww/and-more",
        "workerTypeMetadata": metadata,
    });
    // Two spaces, sorted keys, `1.0` and all digits as they were.
    assert_eq!(text.trim_end(), serde_json::to_string_pretty(&expected).unwrap());
}

#[test]
fn a_file_that_others_could_read_is_private_afterwards() {
    let scene = Scene::generic_worker().worker(["exit 0"]);
    let path = scene.path("worker.json");
    fs::write(&path, "{}").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let runner = scene.start();
    assert_eq!(runner.ended().code, Some(0));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn the_command_worker_gets_its_identity_and_credentials_in_one_object() {
    let scene = Scene::new().worker(["exit 0"]).set("workerConfig", json!({"colour": "never"}));
    let runner = scene.start();
    assert_eq!(runner.ended().code, Some(0));
    let text = fs::read_to_string(runner.path("worker.json")).unwrap();
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = json!({
        "colour": "never",
        "taskcluster": {
            "rootUrl": "https://tc.example.com", "clientId": "client", "accessToken": "made-up-access-token",
            "workerPoolId": "pp/ww", "workerGroup": "wg", "workerId": runner.worker_id(),
        },
    });
    assert_eq!(found, expected);
}
