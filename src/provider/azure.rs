//! `azure`: a virtual machine that worker-manager has made. Its tags say which worker it is, and the attested document
//! proves it.
//! <https://learn.microsoft.com/en-us/azure/virtual-machines/instance-metadata-service>

use serde_json::Value;

use super::document::Document;
use super::metadata::{Asker, MetadataOrigins, SIGNED, Service};
use super::{Identified, Patience, Proof, ProviderError, location, metadata_of};
use crate::run::{Object, WorkerIdentity};

const INSTANCE: &str = "/metadata/instance?api-version=2021-12-13";
const ATTESTED: &str = "/metadata/attested/document?api-version=2021-12-13";
/// What worker-manager reads.
const ENCODING: &str = "pkcs7";

pub(super) async fn identify(
    origins: &MetadataOrigins,
    patience: Patience,
) -> Result<Identified, ProviderError> {
    let mut service = Asker::new(Service::azure(origins)?, patience);
    let url = service.url(INSTANCE);
    let instance = Document::parse(url.clone(), &service.required(INSTANCE).await?)?;
    let compute = Document::new(format!("{url}: compute"), instance.object("compute")?);
    let tags = tags(format!("{url}: compute.tagsList"), &compute)?;
    let (name, region) = (compute.text("name")?, compute.text("location")?);
    let (local_ipv4, public_ipv4) = addresses(&instance);
    let identity = WorkerIdentity {
        provider_id: tags.text("provider-id")?,
        worker_pool_id: tags.worker_pool_id("worker-pool-id")?,
        worker_group: tags.text("worker-group")?,
        worker_id: name,
    };
    let (root_url, launch_config_id) = (tags.root_url("root-url")?, tags.optional_text("launch-config-id")?);
    // Last, for it is good for a few hours only.
    let attested = Document::parse(service.url(ATTESTED), &service.required_within(ATTESTED, SIGNED).await?)?;
    let encoding = attested.text("encoding")?;
    if encoding != ENCODING {
        return Err(attested.wrong("encoding", &format!("must be {ENCODING}, found {encoding:?}")));
    }
    Ok(Identified {
        root_url,
        identity,
        worker_location: location([("cloud", "azure"), ("region", &region)]),
        provider_metadata: metadata_of([
            ("vm-id", compute.optional_text("vmId")?),
            ("instance-type", compute.optional_text("vmSize")?),
            ("region", Some(region)),
            ("local-ipv4", local_ipv4),
            ("public-ipv4", public_ipv4),
        ]),
        proof: Proof::Registration([("document", attested.text("signature")?.into())].into()),
        own_config: None,
        launch_config_id,
    })
}

/// `[{name, value}]` as an object. A tag that is not there is missed by its name.
fn tags(what: String, compute: &Document) -> Result<Document, ProviderError> {
    let list = match compute.value("tagsList") {
        None => &Vec::new(),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(compute.wrong("tagsList", "must be an array")),
    };
    let pair = |tag: &Value| Some((tag.get("name")?.as_str()?.to_owned(), tag.get("value")?.clone()));
    Ok(Document::new(what, list.iter().filter_map(pair).collect::<Object>()))
}

/// The private and the public address, where it is clear which: one interface with one address.
fn addresses(instance: &Document) -> (Option<String>, Option<String>) {
    let one = |value: &Value| match value.as_array()?.as_slice() {
        [only] => Some(only.clone()),
        _ => None,
    };
    let address = instance
        .value("network")
        .and_then(|network| one(network.get("interface")?))
        .and_then(|interface| one(interface.get("ipv4")?.get("ipAddress")?));
    let text = |key: &str| {
        let text = address.as_ref()?.get(key)?.as_str()?;
        Some(text.to_owned()).filter(|text| !text.is_empty())
    };
    (text("privateIpAddress"), text("publicIpAddress"))
}
