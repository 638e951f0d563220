//! `google`: a GCE instance that worker-manager has created. An attribute names the worker, and an identity token for
//! the deployment's root URL proves its identity. <https://cloud.google.com/compute/docs/metadata/overview>

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::launched::Launched;
use super::metadata::{Asker, MetadataOrigins, SIGNED, SOON, Service};
use super::{Identified, Patience, Proof, ProviderError, location, metadata_of};

/// `TRUE` once the instance will be stopped within 30 s.
pub(super) const PREEMPTED: &str = "/computeMetadata/v1/instance/preempted";
const TASKCLUSTER: &str = "/computeMetadata/v1/instance/attributes/taskcluster";
const ID: &str = "/computeMetadata/v1/instance/id";
const ZONE: &str = "/computeMetadata/v1/instance/zone";
const PROJECT: &str = "/computeMetadata/v1/project/project-id";
const IMAGE: &str = "/computeMetadata/v1/instance/image";
pub(super) const MACHINE_TYPE: &str = "/computeMetadata/v1/instance/machine-type";
const HOSTNAME: &str = "/computeMetadata/v1/instance/hostname";
const LOCAL_IPV4: &str = "/computeMetadata/v1/instance/network-interfaces/0/ip";
const PUBLIC_IPV4: &str = "/computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip";
const IDENTITY: &str = "/computeMetadata/v1/instance/service-accounts/default/identity";

/// All characters except RFC 3986's unreserved ones.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(super) async fn identify(
    origins: &MetadataOrigins,
    patience: Patience,
) -> Result<Identified, ProviderError> {
    let mut service = Asker::new(Service::gce(origins)?, patience);
    let launched = service.read(TASKCLUSTER, SOON, Launched::parse, |_| None).await?;
    let root_url = launched.root_url.clone();
    let id = service.required_text(ID, SOON).await?;
    let zone = service.required_text(ZONE, SOON).await?;
    let (zone, region) = zone_and_region(&zone).ok_or_else(|| {
        let why = format!("expected a zone such as us-east1-b, found {zone:?}");
        ProviderError::Answer { what: service.url(ZONE), why }
    })?;
    let provider_metadata = metadata_of([
        ("instance-id", Some(id.clone())),
        ("project-id", Some(service.required(PROJECT).await?)),
        ("image", Some(service.required(IMAGE).await?)),
        ("instance-type", Some(service.required(MACHINE_TYPE).await?)),
        ("zone", Some(zone.to_owned())),
        ("region", Some(region.to_owned())),
        ("public-hostname", Some(service.required(HOSTNAME).await?)),
        ("public-ipv4", service.optional(PUBLIC_IPV4).await?),
        ("local-ipv4", Some(service.required(LOCAL_IPV4).await?)),
    ]);
    let audience = utf8_percent_encode(&root_url, RESERVED);
    let identity = format!("{IDENTITY}?audience={audience}&format=full");
    let token = service.required_text(&identity, SIGNED).await?;
    if service.optional(PREEMPTED).await?.is_some_and(|preempted| preempted.trim() == "TRUE") {
        return Err(ProviderError::AboutToShutDown("it is preempted".to_owned()));
    }
    Ok(Identified {
        root_url,
        identity: launched.identity(id),
        worker_location: location([("cloud", "google"), ("region", region), ("zone", zone)]),
        provider_metadata,
        proof: Proof::Registration([("token", token.into())].into()),
        own_config: None,
        launch_config_id: None,
    })
}

/// The names of a zone and its region: for `projects/1234/zones/us-east1-b`, `us-east1-b` and `us-east1`.
pub fn zone_and_region(zone: &str) -> Option<(&str, &str)> {
    let zone = zone.rsplit('/').next().unwrap_or_default();
    let (region, _) = zone.rsplit_once('-')?;
    Some((zone, region))
}
