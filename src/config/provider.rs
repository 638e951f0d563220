//! Reads the section `provider`, and describes the common properties of its types.

use super::keys;
use super::section::Section;
use super::{CloudConfig, FixedIdentity, ProviderConfig, StandaloneConfig, StaticConfig};
use secrecy::ExposeSecret as _;

/// The access token in configurations that contact no server.
const PLACEHOLDER: &str = "placeholder";

impl ProviderConfig {
    /// Returns true if the machines belong to a cloud: they are replaced, and may be removed and shut down.
    pub fn is_dynamic(&self) -> bool {
        !matches!(self, Self::Standalone(_) | Self::Static(_))
    }

    /// Returns true if the credentials are a demonstration's placeholder, so that the file contains no secret.
    pub fn has_placeholder_credentials(&self) -> bool {
        let Self::Standalone(config) = self else { return false };
        config.certificate.is_none() && config.access_token.expose_secret() == PLACEHOLDER
    }

    /// The keys of a cloud's provider.
    pub fn cloud(&self) -> Option<&CloudConfig> {
        match self {
            Self::Standalone(_) | Self::Static(_) => None,
            Self::Aws(cloud) | Self::Azure(cloud) | Self::Google(cloud) | Self::AwsProvisioner(cloud) => {
                Some(cloud)
            }
        }
    }

    /// The value of `provider.providerType`.
    pub fn provider_type(&self) -> &'static str {
        match self {
            Self::Standalone(_) => "standalone",
            Self::Static(_) => "static",
            Self::Aws(_) => "aws",
            Self::Azure(_) => "azure",
            Self::Google(_) => "google",
            Self::AwsProvisioner(_) => "aws-provisioner",
        }
    }
}

/// Reads the section. `None`: the provider's type is missing or unknown, which has been reported.
pub(super) fn read(section: Option<Section<'_>>) -> Option<ProviderConfig> {
    let mut section = section?;
    let provider_type = section.choice(&keys::PROVIDER_TYPE);
    if !provider_type.is_empty() {
        section.set_variant(provider_type);
    }
    let provider = match provider_type {
        "standalone" => Some(ProviderConfig::Standalone(standalone(&mut section))),
        "static" => Some(ProviderConfig::Static(fixed(&mut section))),
        "aws" => Some(ProviderConfig::Aws(cloud(&mut section, provider_type))),
        "azure" => Some(ProviderConfig::Azure(cloud(&mut section, provider_type))),
        "google" => Some(ProviderConfig::Google(cloud(&mut section, provider_type))),
        "aws-provisioner" => Some(ProviderConfig::AwsProvisioner(cloud(&mut section, provider_type))),
        _ => None,
    };
    section.finish();
    provider
}

fn standalone(section: &mut Section<'_>) -> StandaloneConfig {
    StandaloneConfig {
        identity: identity(section),
        client_id: section.string(&keys::CLIENT_ID),
        access_token: section.string(&keys::ACCESS_TOKEN).into(),
        certificate: section.optional_string(&keys::CERTIFICATE).map(Into::into),
    }
}

fn fixed(section: &mut Section<'_>) -> StaticConfig {
    StaticConfig {
        identity: identity(section),
        provider_id: section.string(&keys::PROVIDER_ID),
        static_secret: section.string(&keys::STATIC_SECRET).into(),
    }
}

fn identity(section: &mut Section<'_>) -> FixedIdentity {
    FixedIdentity {
        root_url: section.string(&keys::ROOT_URL),
        worker_pool_id: section.string(&keys::WORKER_POOL_ID),
        worker_group: section.string(&keys::WORKER_GROUP),
        worker_id: section.string(&keys::WORKER_ID),
        provider_metadata: section.object(&keys::PROVIDER_METADATA),
        worker_location: section.string_map(&keys::WORKER_LOCATION),
    }
}

fn cloud(section: &mut Section<'_>, provider_type: &str) -> CloudConfig {
    CloudConfig {
        drain_on_rebalance: provider_type == "aws" && section.choice(&keys::ON_REBALANCE) == "drain",
        acknowledge_events: provider_type == "azure" && section.boolean(&keys::ACKNOWLEDGE_EVENTS),
        finish_tasks_if_deadline_over: section.optional_duration(&keys::FINISH_TASKS),
    }
}
