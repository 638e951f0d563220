//! A provider, and the fake of its cloud's metadata service.

use std::time::Duration;

use serde_json::json;
use start_worker::config::{CloudConfig, ProviderConfig};
use start_worker::provider::{Identified, MetadataOrigins, Patience, ProviderError, identify};
use test_support::fake_metadata::{Cloud, FakeMetadata};

use crate::harness::captured;
use crate::harness::frozen::{freeze, passing};

/// A provider, and its cloud.
pub(crate) struct Scene {
    pub(crate) fake: FakeMetadata,
    pub(crate) config: ProviderConfig,
    pub(crate) origins: MetadataOrigins,
    implementation: &'static str,
}

impl Scene {
    pub(crate) fn new(cloud: Cloud, config: ProviderConfig) -> Self {
        let fake = FakeMetadata::start(cloud, "127.0.0.1:0".parse().unwrap()).unwrap();
        captured::install();
        let origin = Some(fake.origin());
        let origins = match cloud {
            Cloud::Ec2 => MetadataOrigins { ec2: origin, ..Default::default() },
            Cloud::Azure => MetadataOrigins { azure: origin, ..Default::default() },
            Cloud::Gce => MetadataOrigins { gce: origin, ..Default::default() },
        };
        Self { fake, config, origins, implementation: "generic-worker" }
    }

    pub(crate) fn aws() -> Self {
        Self::new(Cloud::Ec2, ProviderConfig::Aws(CloudConfig::default()))
    }

    pub(crate) fn azure() -> Self {
        Self::new(Cloud::Azure, ProviderConfig::Azure(CloudConfig::default()))
    }

    pub(crate) fn google() -> Self {
        Self::new(Cloud::Gce, ProviderConfig::Google(CloudConfig::default()))
    }

    pub(crate) fn provisioner() -> Self {
        let user_data = json!({
            "data": {"a": 1, "genericWorker": {"config": {"b": 2}}}, "capacity": 2,
            "workerType": "ww", "provisionerId": "pp", "region": "us-west-2",
            "taskclusterRootUrl": "https://tc.example.com/", "securityToken": "made-up-security-token",
        });
        Self::new(Cloud::Ec2, ProviderConfig::AwsProvisioner(CloudConfig::default()))
            .told(&format!("set /latest/user-data {user_data}"))
    }

    pub(crate) fn told(self, command: &str) -> Self {
        self.fake.tell(command).unwrap();
        self
    }

    pub(crate) async fn asked(&self, patience: Option<Duration>) -> Result<Identified, ProviderError> {
        let patience = Patience { time: patience, ..Patience::default() };
        self.asked_with(patience).await
    }

    pub(crate) async fn asked_with(&self, patience: Patience) -> Result<Identified, ProviderError> {
        identify(&self.config, &self.origins, self.implementation, patience).await
    }

    pub(crate) async fn identified(&self) -> Identified {
        self.asked(None).await.unwrap()
    }

    pub(crate) async fn error(&self) -> String {
        self.asked(None).await.unwrap_err().to_string()
    }

    /// With time that passes only where nothing else happens.
    pub(crate) async fn asked_over_time(
        &self,
        patience: Option<Duration>,
    ) -> Result<Identified, ProviderError> {
        let _frozen = freeze();
        passing(self.asked(patience), || self.quiet()).await
    }

    /// For [`until_quiet`](crate::harness::frozen::until_quiet): true if the fake is not answering and no client waits
    /// for an answer, or clients have waited so long that none is to come.
    pub(crate) fn quiet(&self) -> Option<u32> {
        let answering = self.fake.tell("busy").unwrap() != "0";
        (!answering).then(|| if captured::asking() { 20 } else { 2 })
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.fake.requests().iter().filter(|request| request.path() == path).count()
    }
}
