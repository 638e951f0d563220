//! `aws`: an EC2 instance that worker-manager has launched. Its user-data names the worker, and the signed identity
//! document proves its identity.
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html>

use super::document::Document;
use super::launched::Launched;
use super::metadata::{Asker, MetadataOrigins, SIGNED, SOON, Service};
use super::spot::{INSTANCE_ACTION, Spot, TERMINATION_TIME};
use super::{Identified, Patience, Proof, ProviderError, location, metadata_of};

/// The instance's data from the one who launched it.
pub(super) const USER_DATA: &str = "/latest/user-data";
const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
const SIGNATURE: &str = "/latest/dynamic/instance-identity/signature";
/// Absent in a private subnet.
const PUBLIC_HOSTNAME: &str = "/latest/meta-data/public-hostname";
/// Absent in a private subnet.
const PUBLIC_IPV4: &str = "/latest/meta-data/public-ipv4";

/// An instance's identity document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceDocument {
    pub instance_id: String,
    pub region: String,
    pub availability_zone: String,
    /// The machine image.
    pub image: Option<String>,
    pub instance_type: Option<String>,
    /// The address within the instance's network.
    pub private_ip: Option<String>,
}

impl InstanceDocument {
    /// Parses a text. `what` names its source in errors. Fails if a required key is missing or invalid.
    pub fn parse(what: String, text: &str) -> Result<Self, ProviderError> {
        let document = Document::parse(what, text)?;
        Ok(Self {
            instance_id: document.text("instanceId")?,
            region: document.text("region")?,
            availability_zone: document.text("availabilityZone")?,
            image: document.optional_text("imageId")?,
            instance_type: document.optional_text("instanceType")?,
            private_ip: document.optional_text("privateIp")?,
        })
    }
}

pub(super) async fn identify(
    origins: &MetadataOrigins,
    patience: Patience,
) -> Result<Identified, ProviderError> {
    let mut service = Asker::new(Service::ec2(origins, false)?, patience);
    let mut launched = service.read(USER_DATA, SOON, Launched::parse, |_| None).await?;
    let with_text = |what, text: &str| Ok((InstanceDocument::parse(what, text)?, text.to_owned()));
    let (document, document_text) = service.read(DOCUMENT, SIGNED, with_text, |_| None).await?;
    let signature = service.required_text(SIGNATURE, SIGNED).await?;
    let hostname = service.optional(PUBLIC_HOSTNAME).await?;
    let public_ipv4 = service.optional(PUBLIC_IPV4).await?;
    refuse_a_doomed_instance(&mut service).await?;
    let InstanceDocument { instance_id, region, availability_zone, .. } = document;
    Ok(Identified {
        root_url: std::mem::take(&mut launched.root_url),
        launch_config_id: launched.launch_config_id.take(),
        identity: launched.identity(instance_id.clone()),
        worker_location: location([
            ("cloud", "aws"),
            ("region", &region),
            ("availabilityZone", &availability_zone),
        ]),
        provider_metadata: metadata_of([
            ("instance-id", Some(instance_id)),
            ("image", document.image),
            ("instance-type", document.instance_type),
            ("region", Some(region)),
            ("availability-zone", Some(availability_zone)),
            ("local-ipv4", document.private_ip),
            ("public-hostname", hostname),
            ("public-ipv4", public_ipv4),
        ]),
        proof: Proof::Registration(
            [("document", document_text.into()), ("signature", signature.into())].into(),
        ),
        own_config: None,
    })
}

/// Fails on an instance that is about to end: a registration or secret can only be used once, and such an instance
/// would waste it.
pub(super) async fn refuse_a_doomed_instance(service: &mut Asker) -> Result<(), ProviderError> {
    let action = service.optional(INSTANCE_ACTION).await?;
    let mut spot = action.as_deref().and_then(Spot::from_instance_action);
    if spot.is_none() {
        let time = service.optional(TERMINATION_TIME).await?;
        spot = time.as_deref().and_then(Spot::from_termination_time);
    }
    match spot {
        None => Ok(()),
        Some(Spot { action, time: None }) => Err(ProviderError::AboutToShutDown(action)),
        Some(Spot { action, time: Some(time) }) => {
            Err(ProviderError::AboutToShutDown(format!("{action} at {time}")))
        }
    }
}
