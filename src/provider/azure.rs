//! `azure`: a virtual machine that worker-manager has made. Its tags say which worker it is, and the attested document
//! proves it.
//! <https://learn.microsoft.com/en-us/azure/virtual-machines/instance-metadata-service>

use secrecy::SecretString;
use serde_json::Value;

use super::document::Document;
use super::metadata::{Asker, MetadataOrigins, SIGNED, SOON, Service};
use super::{Identified, Patience, Proof, ProviderError, location, metadata_of};
use crate::run_spec::{Object, WorkerIdentity};

const INSTANCE: &str = "/metadata/instance?api-version=2021-12-13";
const ATTESTED: &str = "/metadata/attested/document?api-version=2021-12-13";
/// What worker-manager reads.
const ENCODING: &str = "pkcs7";

/// What the service says of the machine, and by the machine's tags of the worker.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The deployment's root URL, without trailing slashes.
    pub root_url: String,
    /// Which worker the machine is to be; it goes by the machine's name.
    pub identity: WorkerIdentity,
    /// Where it is.
    pub region: String,
    /// What else is known of the machine.
    pub metadata: Object,
    /// The launch config that made it.
    pub launch_config_id: Option<String>,
}

impl Instance {
    /// Reads the text that is at `what`.
    ///
    /// # Errors
    ///
    /// It is no JSON object, or a key or a tag that is needed is missing or of no use.
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

/// The signature in an attested document, the text that is at `what`.
///
/// # Errors
///
/// It is no JSON object with a signature that worker-manager can read.
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
    // While the machine boots the service can answer without tags and id.
    let instance = service.read(INSTANCE, SOON, parse, vm_id).await?;
    // Last, for it is good for a few hours only.
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
