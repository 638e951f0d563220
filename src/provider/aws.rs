//! `aws`: an EC2 instance that worker-manager has launched. Its user-data says which worker it is, and the signed identity
//! document proves it.
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html>

use super::document::Document;
use super::metadata::{Asker, MetadataOrigins, SIGNED, Service};
use super::spot::{INSTANCE_ACTION, Spot, TERMINATION_TIME};
use super::{Identified, Patience, Proof, ProviderError, location, metadata_of};
use crate::run::WorkerIdentity;

/// What whoever launched the instance says to it.
pub(super) const USER_DATA: &str = "/latest/user-data";
const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
const SIGNATURE: &str = "/latest/dynamic/instance-identity/signature";
/// Absent in a private subnet.
const PUBLIC_HOSTNAME: &str = "/latest/meta-data/public-hostname";
/// Likewise.
const PUBLIC_IPV4: &str = "/latest/meta-data/public-ipv4";

pub(super) async fn identify(
    origins: &MetadataOrigins,
    patience: Patience,
) -> Result<Identified, ProviderError> {
    let mut service = Asker::new(Service::ec2(origins, false)?, patience);
    let user_data = Document::parse(service.url(USER_DATA), &service.required(USER_DATA).await?)?;
    let document_text = service.required_within(DOCUMENT, SIGNED).await?;
    let document = Document::parse(service.url(DOCUMENT), &document_text)?;
    let signature = service.required_within(SIGNATURE, SIGNED).await?;
    let hostname = service.optional(PUBLIC_HOSTNAME).await?;
    let public_ipv4 = service.optional(PUBLIC_IPV4).await?;
    let (instance_id, region) = (document.text("instanceId")?, document.text("region")?);
    let availability_zone = document.text("availabilityZone")?;
    refuse_a_doomed_instance(&mut service).await?;
    Ok(Identified {
        root_url: user_data.root_url("rootUrl")?,
        identity: WorkerIdentity {
            provider_id: user_data.text("providerId")?,
            worker_pool_id: user_data.worker_pool_id("workerPoolId")?,
            worker_group: user_data.text("workerGroup")?,
            worker_id: instance_id.clone(),
        },
        worker_location: location([
            ("cloud", "aws"),
            ("region", &region),
            ("availabilityZone", &availability_zone),
        ]),
        provider_metadata: metadata_of([
            ("instance-id", Some(instance_id)),
            ("image", document.optional_text("imageId")?),
            ("instance-type", document.optional_text("instanceType")?),
            ("region", Some(region)),
            ("availability-zone", Some(availability_zone)),
            ("local-ipv4", document.optional_text("privateIp")?),
            ("public-hostname", hostname),
            ("public-ipv4", public_ipv4),
        ]),
        proof: Proof::Registration(
            [("document", document_text.into()), ("signature", signature.into())].into(),
        ),
        own_config: None,
        launch_config_id: user_data.optional_text("launchConfigId")?,
    })
}

/// A registration, or a secret, is for one use: not on an instance that ends before it has done anything.
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
