//! An example instance of each cloud, invented, in the form of its metadata service.

use super::Cloud;

pub(super) fn values(cloud: Cloud) -> &'static [(&'static str, &'static str)] {
    match cloud {
        Cloud::Ec2 => EC2,
        Cloud::Azure => AZURE,
        Cloud::Gce => GCE,
    }
}

const EC2: &[(&str, &str)] = &[
    (
        "/latest/user-data",
        r#"{"workerPoolId": "proj-example/linux", "providerId": "aws-example", "rootUrl": "https://tc.example.com/",
            "workerGroup": "us-west-2", "launchConfigId": "lc-1", "workerConfig": {"ignored": true}}"#,
    ),
    (
        "/latest/dynamic/instance-identity/document",
        r#"{
  "accountId" : "123456789012",
  "architecture" : "x86_64",
  "availabilityZone" : "us-west-2b",
  "billingProducts" : null,
  "imageId" : "ami-5fb8c835",
  "instanceId" : "i-1234567890abcdef0",
  "instanceType" : "m5.large",
  "pendingTime" : "2026-11-19T16:32:11Z",
  "privateIp" : "10.158.112.84",
  "region" : "us-west-2",
  "version" : "2017-09-30"
}
"#,
    ),
    (
        "/latest/dynamic/instance-identity/signature",
        "ZG9jdW1lbnQgc2lnbmVkIGJ5IG5vYm9keSwgZm9yIHRlc3Rz\nIG9ubHk6IHR3byBsaW5lcyBvZiBiYXNlNjQ=",
    ),
    ("/latest/meta-data/ami-id", "ami-5fb8c835"),
    ("/latest/meta-data/instance-id", "i-1234567890abcdef0"),
    ("/latest/meta-data/instance-type", "m5.large"),
    ("/latest/meta-data/placement/availability-zone", "us-west-2b"),
    ("/latest/meta-data/local-ipv4", "10.158.112.84"),
    ("/latest/meta-data/public-ipv4", "203.0.113.17"),
    ("/latest/meta-data/public-hostname", "ec2-203-0-113-17.us-west-2.compute.amazonaws.com"),
    ("/latest/meta-data/events/maintenance/scheduled", "[]"),
];

const AZURE: &[(&str, &str)] = &[
    (
        "/metadata/instance",
        r#"{"compute": {"location": "eastus", "name": "vm-8fh2k", "vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6",
            "vmSize": "Standard_F8s_v2", "tagsList": [
                {"name": "worker-pool-id", "value": "proj-example/win11"}, {"name": "provider-id", "value": "azure-example"},
                {"name": "worker-group", "value": "eastus"}, {"name": "root-url", "value": "https://tc.example.com"},
                {"name": "launch-config-id", "value": "lc-2"}, {"name": "owner", "value": "somebody@example.com"}]},
          "network": {"interface": [{"ipv4": {"ipAddress": [{"privateIpAddress": "10.0.0.4",
            "publicIpAddress": "203.0.113.29"}], "subnet": [{"address": "10.0.0.0", "prefix": "24"}]},
            "ipv6": {"ipAddress": []}, "macAddress": "000D3A00FA89"}]}}"#,
    ),
    (
        "/metadata/attested/document",
        r#"{"encoding":"pkcs7","signature":"MIIEEgYJKoZIhvcNAQcCoIIEAzCCA/8CAQExDzANmadeup=="}"#,
    ),
];

const GCE: &[(&str, &str)] = &[
    (
        "/computeMetadata/v1/instance/attributes/taskcluster",
        r#"{"workerPoolId": "proj-example/linux", "providerId": "google-example", "workerGroup": "us-east1",
            "rootUrl": "https://tc.example.com", "workerConfig": {"ignored": true}}"#,
    ),
    ("/computeMetadata/v1/instance/id", "4242424242424242424"),
    ("/computeMetadata/v1/instance/zone", "projects/123/zones/us-east1-b"),
    ("/computeMetadata/v1/instance/image", "projects/proj-1234/global/images/img-123"),
    ("/computeMetadata/v1/instance/machine-type", "projects/123/machineTypes/n1-standard-4"),
    ("/computeMetadata/v1/instance/hostname", "my-worker.c.proj-1234.internal"),
    ("/computeMetadata/v1/instance/network-interfaces/0/ip", "192.168.0.1"),
    ("/computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip", "203.0.113.4"),
    ("/computeMetadata/v1/instance/preempted", "FALSE"),
    (
        "/computeMetadata/v1/instance/service-accounts/default/identity",
        "eyJhbGciOiJub25lIn0.eyJtYWRlIjoidXAifQ.c2ln",
    ),
    ("/computeMetadata/v1/project/project-id", "proj-1234"),
];
