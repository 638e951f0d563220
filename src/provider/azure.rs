//! `azure`: a virtual machine that worker-manager has created. Its tags name the worker, and the attested document
//! proves its identity. <https://learn.microsoft.com/en-us/azure/virtual-machines/instance-metadata-service>

use secrecy::SecretString;
use serde_json::Value;

use super::document::Document;
use super::metadata::{Asker, MetadataOrigins, SIGNED, SOON, Service};
use super::{Identified, Patience, Proof, ProviderError, location, metadata_of};
use crate::run_spec::{Object, WorkerIdentity};

const INSTANCE: &str = "/metadata/instance?api-version=2021-12-13";
const ATTESTED: &str = "/metadata/attested/document?api-version=2021-12-13";
/// The only encoding that worker-manager accepts.
const ENCODING: &str = "pkcs7";

/// The service's description of the machine, and the worker named by the machine's tags.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The deployment's root URL, without trailing slashes.
    pub root_url: String,
    /// The worker's identity. Its id is the machine's name.
    pub identity: WorkerIdentity,
    pub region: String,
    /// Further properties of the machine.
    pub metadata: Object,
    /// The launch config from which the machine was created.
    pub launch_config_id: Option<String>,
}

impl Instance {
    /// Parses a text. `what` names its source in errors. Fails if a required key or tag is missing or invalid.
    pub fn parse(what: &str, text: &str) -> Result<Self, ProviderError> {
        let instance = Document::parse(what.to_owned(), text)?;
        let compute = Document::new(format!("{what}: compute"), instance.object("compute")?);
        let tags = tags(format!("{what}: compute.tagsList"), &compute)?;
        let (name, region) = (compute.text("name")?, compute.text("location")?);
        let (local_ipv4, public_ipv4) = addresses(&instance);
        Ok(Self {
            identity: WorkerIdentity {
                provider_id: tags.text("provider-id")?,
                worker_pool_id: tags.worker_pool_id("worker-pool-id")?,
                worker_group: tags.text("worker-group")?,
                worker_id: name,
            },
            root_url: tags.root_url("root-url")?,
            launch_config_id: tags.optional_text("launch-config-id")?,
            metadata: metadata_of([
                ("vm-id", compute.optional_text("vmId")?),
                ("instance-type", compute.optional_text("vmSize")?),
                ("region", Some(region.clone())),
                ("local-ipv4", local_ipv4),
                ("public-ipv4", public_ipv4),
            ]),
            region,
        })
    }
}

/// Returns the signature in an attested document. `what` names its source in errors. Fails if worker-manager could not
/// read the signature.
pub fn attestation(what: String, text: &str) -> Result<SecretString, ProviderError> {
    let attested = Document::parse(what, text)?;
    let encoding = attested.text("encoding")?;
    if encoding != ENCODING {
        return Err(attested.wrong("encoding", &format!("must be {ENCODING}, found {encoding:?}")));
    }
    Ok(attested.text("signature")?.into())
}

pub(super) async fn identify(
    origins: &MetadataOrigins,
    patience: Patience,
) -> Result<Identified, ProviderError> {
    let mut service = Asker::new(Service::azure(origins)?, patience);
    let parse = |what: String, text: &str| Instance::parse(&what, text);
    let vm_id = |instance: &Instance| (!instance.metadata.contains_key("vm-id")).then_some("compute.vmId");
    // While the machine boots, the service can answer without tags and id.
    let instance = service.read(INSTANCE, SOON, parse, vm_id).await?;
    // Read last, because the signature is only valid for a few hours.
    let signature = service.read(ATTESTED, SIGNED, attestation, |_| None).await?;
    Ok(Identified {
        root_url: instance.root_url,
        identity: instance.identity,
        worker_location: location([("cloud", "azure"), ("region", &instance.region)]),
        provider_metadata: instance.metadata,
        proof: Proof::Registration([("document", signature)].into()),
        own_config: None,
        launch_config_id: instance.launch_config_id,
    })
}

/// Converts `[{name, value}]` to an object. Errors name a missing tag.
fn tags(what: String, compute: &Document) -> Result<Document, ProviderError> {
    let list = match compute.value("tagsList") {
        None => &Vec::new(),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(compute.wrong("tagsList", "must be an array")),
    };
    let pair = |tag: &Value| Some((tag.get("name")?.as_str()?.to_owned(), tag.get("value")?.clone()));
    Ok(Document::new(what, list.iter().filter_map(pair).collect::<Object>()))
}

/// The private and the public address, if they are unambiguous: one interface with one address.
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
