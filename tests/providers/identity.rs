//! The worker's identity, its location, and its proof.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use start_worker::config::{CloudConfig, ProviderConfig};
use start_worker::provider::{Identified, MetadataOrigins, Patience, Proof, identify};

use crate::harness::captured::Log;
use crate::providers::scene::Scene;

fn proof(identified: &Identified) -> BTreeMap<&'static str, &str> {
    match &identified.proof {
        Proof::Registration(proof) => {
            proof.iter().map(|(key, value)| (*key, value.expose_secret())).collect()
        }
        proof => panic!("not to be registered, but {proof:?}"),
    }
}

/// Everything but the proof, as JSON.
fn shown(identified: &Identified) -> Value {
    let identity = &identified.identity;
    json!({
        "root": identified.root_url,
        "who": [identity.provider_id, identity.worker_pool_id.as_str(), identity.worker_group, identity.worker_id],
        "location": identified.worker_location,
        "metadata": identified.provider_metadata,
        "launch config": identified.launch_config_id,
        "own": identified.own_config,
    })
}

#[tokio::test]
async fn an_ec2_instance_is_known_by_its_user_data_and_identity_document() {
    let scene = Scene::aws();
    let identified = scene.identified().await;
    assert_eq!(
        shown(&identified),
        json!({
            "root": "https://tc.example.com",
            "who": ["aws-example", "proj-example/linux", "us-west-2", "i-1234567890abcdef0"],
            "location": {"cloud": "aws", "region": "us-west-2", "availabilityZone": "us-west-2b"},
            "metadata": {
                "instance-id": "i-1234567890abcdef0", "image": "ami-5fb8c835", "instance-type": "m5.large",
                "region": "us-west-2", "availability-zone": "us-west-2b", "local-ipv4": "10.158.112.84",
                "public-hostname": "ec2-203-0-113-17.us-west-2.compute.amazonaws.com", "public-ipv4": "203.0.113.17",
            },
            "launch config": "lc-1",
            "own": null,
        })
    );
    assert_eq!(scene.count("/latest/api/token"), 1);
}

#[tokio::test]
async fn an_ec2_instances_proof_is_what_the_service_says_byte_for_byte() {
    let document =
        "{ \"instanceId\": \"i-1\", \"region\":\"r\",\t\"availabilityZone\":\"ra\", \"ü\": 1.0 }  \n";
    let signature = "bGluZSBvbmU=\nbGluZSB0d28=\n";
    let scene = Scene::aws()
        .told(&format!("set /latest/dynamic/instance-identity/document {document}"))
        .told(&format!("set /latest/dynamic/instance-identity/signature {signature}"));
    let identified = scene.identified().await;
    assert_eq!(proof(&identified), [("document", document), ("signature", signature)].into());
}

#[tokio::test]
async fn an_ec2_instance_without_public_address_has_none_and_no_error_page_for_one() {
    let scene = Scene::aws()
        .told("unset /latest/meta-data/public-ipv4")
        .told("set /latest/meta-data/public-hostname ");
    let metadata = scene.identified().await.provider_metadata;
    assert!(
        !metadata.contains_key("public-ipv4") && !metadata.contains_key("public-hostname"),
        "{metadata:?}"
    );
    assert!(!format!("{metadata:?}").contains("html"), "{metadata:?}");
}

#[tokio::test(start_paused = true)]
async fn user_data_without_a_key_is_an_error_that_names_it_and_shows_no_value() {
    let scene = Scene::aws()
        .told(r#"set /latest/user-data {"rootUrl": "https://tc.example.com", "password": "s3cr3t"}"#);
    let error = scene.asked_over_time(None).await.unwrap_err().to_string();
    assert!(error.ends_with("/latest/user-data: `providerId` is missing, and needed"), "{error}");
    let scene = Scene::aws().told("set /latest/user-data #!/bin/sh s3cr3t");
    let error = scene.error().await;
    assert!(error.contains("/latest/user-data: expected a JSON object, found none: "), "{error}");
    assert!(!error.contains("s3cr3t"), "{error}");
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced() {
    let log = Log::capture();
    let scene = Scene::aws().told("fault once /latest/dynamic/instance-identity/document 401");
    scene.identified().await;
    assert_eq!(scene.count("/latest/api/token"), 2);
    assert_eq!(log.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn an_instance_that_is_marked_for_termination_is_not_registered() {
    let action = r#"{"action": "terminate", "time": "2026-11-24T18:02:00Z"}"#;
    let scene = Scene::aws().told(&format!("set /latest/meta-data/spot/instance-action {action}"));
    assert_eq!(scene.error().await, "instance is about to shut down: terminate at 2026-11-24T18:02:00Z");
    let scene = Scene::aws().told("set /latest/meta-data/spot/termination-time 2026-11-24T18:02:00Z");
    assert_eq!(scene.error().await, "instance is about to shut down: terminate at 2026-11-24T18:02:00Z");
    let scene = Scene::aws().told("set /latest/meta-data/spot/termination-time not a time");
    scene.identified().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_needed_and_not_there_is_an_error_after_a_minute() {
    let scene = Scene::aws().told("unset /latest/user-data");
    let started = tokio::time::Instant::now();
    let error = scene.asked_over_time(None).await.unwrap_err();
    let expected = format!("{}/latest/user-data: not there (404), and it is needed", scene.fake.origin());
    assert_eq!(error.to_string(), expected);
    assert!(!error.is_unreachable());
    let waited = started.elapsed().as_secs();
    assert!((60..63).contains(&waited), "{waited} s");
    assert!(scene.count("/latest/user-data") > 3);
}

#[tokio::test(start_paused = true)]
async fn what_comes_late_is_waited_for_with_one_warning() {
    let log = Log::capture();
    let scene = Scene::aws().told("fault /latest/user-data 404");
    let late = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        scene.fake.tell("clear").unwrap();
    };
    let (identified, ()) = tokio::join!(scene.asked_over_time(None), late);
    assert_eq!(identified.unwrap().identity.worker_id, "i-1234567890abcdef0");
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    let warning = "WARN the metadata service gives no answer: asking again url=\"http://127.0.0.1";
    assert!(lines[0].starts_with(warning) && lines[0].contains("/latest/user-data"), "{lines:#?}");
    assert!(lines[0].contains("error=not there (404) next_attempt_in="), "{lines:#?}");
    assert!(lines[1].starts_with("INFO the metadata service answers after="), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_answer_is_unreachable_when_patience_ends() {
    for fault in ["500", "close", "hang", "garbage"] {
        let log = Log::capture();
        // A token that is garbage is refused with the next request.
        let path = if fault == "garbage" { "/latest/api/token" } else { "*" };
        let scene = Scene::aws().told(&format!("fault {path} {fault}"));
        let started = tokio::time::Instant::now();
        let error = scene.asked_over_time(Some(Duration::from_secs(100))).await.unwrap_err();
        assert!(error.is_unreachable(), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("cannot read http://127.0.0.1:"), "{text}");
        assert!(text.contains("/latest/user-data: ") && text.contains("; gave up after 10"), "{text}");
        assert!((100..106).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
        assert_eq!(log.lines().len(), 2, "once, and again after a minute: {:#?}", log.lines());
    }
}

#[tokio::test]
async fn an_answer_without_end_is_refused() {
    let scene = Scene::aws().told(&format!("set /latest/user-data {}", "x".repeat((1 << 20) + 1)));
    let error = scene.error().await;
    assert!(error.ends_with("/latest/user-data: the answer is longer than 1 MiB"), "{error}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let scene = Scene::aws().told("fault once /latest/user-data 302");
    scene.identified().await;
    assert_eq!(scene.count("/latest/user-data"), 2);
}

#[test]
fn a_proxy_in_the_environment_is_not_asked() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "providers::identity::an_ec2_instance_is_known_by_its_user_data_and_identity_document",
        ])
        .envs(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(|name| (name, "http://127.0.0.1:9")))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn a_legacy_instance_brings_a_token_and_its_configuration() {
    for sessions in ["required", "optional", "unsupported"] {
        let scene = Scene::provisioner().told(&format!("sessions {sessions}"));
        let identified = scene.identified().await;
        assert_eq!(
            shown(&identified),
            json!({
                "root": "https://tc.example.com",
                "who": ["aws-provisioner", "pp/ww", "us-west-2", "i-1234567890abcdef0"],
                "location": {"cloud": "aws", "region": "us-west-2", "availabilityZone": "us-west-2b"},
                "metadata": {
                    "ami-id": "ami-5fb8c835", "instance-id": "i-1234567890abcdef0", "instance-type": "m5.large",
                    "availability-zone": "us-west-2b", "region": "us-west-2", "local-ipv4": "10.158.112.84",
                    "public-hostname": "ec2-203-0-113-17.us-west-2.compute.amazonaws.com", "public-ipv4": "203.0.113.17",
                },
                "launch config": null,
                "own": {"a": 1, "b": 2, "capacity": 2},
            }),
            "sessions {sessions}"
        );
        let Proof::ProvisionerSecret(token) = identified.proof else { panic!("{:?}", identified.proof) };
        assert_eq!(token.expose_secret(), "made-up-security-token");
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_legacy_provider_goes_on_without_session_tokens() {
    let scene = Scene::aws().told("sessions unsupported");
    let error = scene.asked_over_time(Some(Duration::from_secs(5))).await.unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("no session token"), "{error}");
}

#[tokio::test]
async fn an_azure_machine_is_known_by_its_tags_and_attested_document() {
    let scene = Scene::azure();
    let identified = scene.identified().await;
    assert_eq!(
        shown(&identified),
        json!({
            "root": "https://tc.example.com",
            "who": ["azure-example", "proj-example/win11", "eastus", "vm-8fh2k"],
            "location": {"cloud": "azure", "region": "eastus"},
            "metadata": {
                "vm-id": "02aab8a4-74ef-476e-8182-f6d2ba4166a6", "instance-type": "Standard_F8s_v2",
                "region": "eastus", "local-ipv4": "10.0.0.4", "public-ipv4": "203.0.113.29",
            },
            "launch config": "lc-2",
            "own": null,
        })
    );
    let signature = "MIIEEgYJKoZIhvcNAQcCoIIEAzCCA/8CAQExDzANmadeup==";
    assert_eq!(proof(&identified), [("document", signature)].into());
}

/// The instance document of the fake, changed.
fn azure_instance(change: impl FnOnce(&mut Value)) -> Scene {
    let tag = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut instance = json!({
        "compute": {
            "location": "eastus", "name": "vm-8fh2k", "vmId": "02aab8a4", "vmSize": "Standard_F8s_v2",
            "tagsList": [
                tag("worker-pool-id", "aa/bb"), tag("provider-id", "az"), tag("worker-group", "eastus"),
                tag("root-url", "https://tc.example.com///"),
            ],
        },
        "network": {"interface": [
            {"ipv4": {"ipAddress": [{"privateIpAddress": "10.0.0.4", "publicIpAddress": ""}]}},
        ]},
    });
    change(&mut instance);
    Scene::azure().told(&format!("set /metadata/instance {instance}"))
}

#[tokio::test]
async fn an_azure_machine_without_public_address_has_none() {
    let scene = azure_instance(|_| ());
    let identified = scene.identified().await;
    let metadata = &identified.provider_metadata;
    assert_eq!((metadata.get("local-ipv4"), metadata.get("public-ipv4")), (Some(&json!("10.0.0.4")), None));
    assert_eq!((identified.root_url.as_str(), identified.launch_config_id), ("https://tc.example.com", None));
}

#[tokio::test]
async fn an_azure_machine_with_two_interfaces_has_no_address() {
    let scene = azure_instance(|instance| {
        let interfaces = instance["network"]["interface"].as_array_mut().unwrap();
        interfaces.push(interfaces[0].clone());
    });
    let metadata = scene.identified().await.provider_metadata;
    assert_eq!((metadata.get("local-ipv4"), metadata.get("public-ipv4")), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_missing_tag_is_an_error_that_names_it() {
    for (at, tag) in ["worker-pool-id", "provider-id", "worker-group", "root-url"].iter().enumerate() {
        let scene = azure_instance(|instance| {
            instance["compute"]["tagsList"].as_array_mut().unwrap().remove(at);
        });
        let error = scene.asked_over_time(None).await.unwrap_err().to_string();
        let expected = format!("/metadata/instance: compute.tagsList: `{tag}` is missing, and needed");
        assert!(error.ends_with(&expected), "{error}");
    }
}

#[tokio::test]
async fn an_attested_document_in_another_encoding_is_refused() {
    let scene =
        Scene::azure().told(r#"set /metadata/attested/document {"encoding": "cose", "signature": "xx"}"#);
    let error = scene.error().await;
    assert!(
        error.ends_with(r#"/metadata/attested/document: `encoding` must be pkcs7, found "cose""#),
        "{error}"
    );
}

#[tokio::test]
async fn a_gce_instance_is_known_by_its_attribute_and_identity_token() {
    let scene = Scene::google();
    let identified = scene.identified().await;
    assert_eq!(
        shown(&identified),
        json!({
            "root": "https://tc.example.com",
            "who": ["google-example", "proj-example/linux", "us-east1", "4242424242424242424"],
            "location": {"cloud": "google", "region": "us-east1", "zone": "us-east1-b"},
            "metadata": {
                "instance-id": "4242424242424242424", "project-id": "proj-1234",
                "image": "projects/proj-1234/global/images/img-123",
                "instance-type": "projects/123/machineTypes/n1-standard-4", "zone": "us-east1-b", "region": "us-east1",
                "public-hostname": "my-worker.c.proj-1234.internal", "public-ipv4": "203.0.113.4",
                "local-ipv4": "192.168.0.1",
            },
            "launch config": null,
            "own": null,
        })
    );
    assert_eq!(proof(&identified), [("token", "eyJhbGciOiJub25lIn0.eyJtYWRlIjoidXAifQ.c2ln")].into());
    let requests = scene.fake.requests();
    let identity = requests.iter().find(|request| request.path().ends_with("/identity")).unwrap();
    assert!(
        identity.target.ends_with("/identity?audience=https%3A%2F%2Ftc.example.com&format=full"),
        "{}",
        identity.target
    );
}

#[tokio::test]
async fn a_gce_instance_without_external_address_has_none() {
    let path = "/computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip";
    for command in [format!("unset {path}"), format!("set {path} ")] {
        let metadata = Scene::google().told(&command).identified().await.provider_metadata;
        assert_eq!(metadata.get("public-ipv4"), None, "{command}");
    }
}

#[tokio::test]
async fn a_gce_instance_that_is_preempted_is_not_registered() {
    let scene = Scene::google().told("set /computeMetadata/v1/instance/preempted TRUE");
    assert_eq!(scene.error().await, "instance is about to shut down: it is preempted");
}

#[tokio::test]
async fn what_is_not_gces_service_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gce = Some(format!("http://{}", listener.local_addr().unwrap()));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The request is of no interest.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
        }
    });
    let origins = MetadataOrigins { gce, ..Default::default() };
    let config = ProviderConfig::Google(CloudConfig::default());
    let patience = Patience { time: Some(Duration::from_millis(1)), ..Patience::default() };
    let error = identify(&config, &origins, "generic-worker", patience).await.unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("Metadata-Flavor: Google"), "{error}");
}

#[tokio::test]
async fn the_fakes_are_as_strict_as_the_real_ones() {
    let ec2 = Scene::aws();
    for (head, status) in [
        ("PUT /latest/api/token HTTP/1.1", "400"),
        ("PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 30000", "400"),
        (
            "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nX-Forwarded-For: 10.0.0.1",
            "403",
        ),
        ("PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60", "200"),
        ("GET /latest/user-data HTTP/1.1", "401"),
        ("GET /latest/user-data HTTP/1.1\r\nX-aws-ec2-metadata-token: made-up", "401"),
    ] {
        assert_eq!(raw_status(&ec2, head), status, "{head}");
    }
    let azure = Scene::azure();
    for (head, status) in [
        ("GET /metadata/instance?api-version=2021-12-13 HTTP/1.1", "400"),
        ("GET /metadata/instance HTTP/1.1\r\nMetadata: true", "400"),
        ("GET /metadata/instance?api-version=2021-12-13 HTTP/1.1\r\nMetadata: true", "200"),
    ] {
        assert_eq!(raw_status(&azure, head), status, "{head}");
    }
    let gce = Scene::google();
    for (head, status) in [
        ("GET /computeMetadata/v1/instance/id HTTP/1.1", "403"),
        ("GET /computeMetadata/v1/instance/id HTTP/1.1\r\nMetadata-Flavor: Google", "200"),
    ] {
        assert_eq!(raw_status(&gce, head), status, "{head}");
    }
}

/// The status that a request with these first lines is answered with.
fn raw_status(scene: &Scene, head: &str) -> String {
    let address = scene.fake.origin().replace("http://", "");
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    write!(stream, "{head}\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn a_silent_service_is_shown_until_it_answers_or_nobody_asks_any_more() {
    let scene = Scene::aws().told("fault once /latest/user-data 500");
    let patience = Patience::default();
    let (mut seen, trouble) = (patience.trouble.observe(), patience.trouble.clone());
    scene.asked_with(patience).await.unwrap();
    assert!(seen.has_changed().unwrap());
    assert_eq!(seen.borrow_and_update().as_deref(), None);
    let scene = scene.told("fault * 500");
    let patience = Patience { time: None, trouble: trouble.clone() };
    {
        let asking = std::pin::pin!(scene.asked_with(patience));
        tokio::select! {
            _ = asking => panic!("it has answered"),
            told = seen.wait_for(Option::is_some) => {
                let told = told.unwrap().clone().unwrap();
                assert!(told.contains("/latest/user-data: "), "{told}");
                assert!(told.ends_with("answered 500 Internal Server Error"), "{told}");
            }
        }
    }
    assert_eq!(trouble.observe().borrow().as_deref(), None);
}
