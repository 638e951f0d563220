//! The services at their real addresses, in a network namespace of the test's own.

use std::process::Command;

use start_worker::config::{CloudConfig, ProviderConfig};
use start_worker::provider::{MetadataOrigins, Patience, identify};

use test_support::fake_metadata::{Cloud, FakeMetadata};

/// Sets up the link-local address and GCE's name, visible only to the program started by it.
const NAMESPACE: &str = "ip link set lo up && ip address add 169.254.169.254/32 dev lo && \
     mount --bind \"$0\" /etc/hosts && exec \"$@\"";

#[test]
fn the_services_are_found_where_the_clouds_have_them() {
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "127.0.0.1 localhost\n169.254.169.254 metadata.google.internal\n").unwrap();
    let unshare = |program: &str, arguments: &[&str]| {
        Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", NAMESPACE])
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
    let inside = "providers::real_address::inside_the_namespace";
    let output = unshare(this.to_str().unwrap(), &["--exact", inside, "--ignored"]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "started by the test above, where there is the address"]
async fn inside_the_namespace() {
    type Provider = fn(CloudConfig) -> ProviderConfig;
    let clouds: [(Cloud, Provider, &str); 3] = [
        (Cloud::Ec2, ProviderConfig::Aws, "i-1234567890abcdef0"),
        (Cloud::Azure, ProviderConfig::Azure, "vm-8fh2k"),
        (Cloud::Gce, ProviderConfig::Google, "4242424242424242424"),
    ];
    for (cloud, provider, worker_id) in clouds {
        let _fake = FakeMetadata::start(cloud, "169.254.169.254:80".parse().unwrap()).unwrap();
        let config = provider(CloudConfig::default());
        let identified =
            identify(&config, &MetadataOrigins::default(), "generic-worker", Patience::default())
                .await
                .unwrap();
        assert_eq!(identified.identity.worker_id, worker_id);
    }
}
