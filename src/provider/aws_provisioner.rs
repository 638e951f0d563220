//! `aws-provisioner` (legacy): an EC2 instance whose user-data contains a single-use token for its credentials, and the
//! worker configuration.

use secrecy::SecretString;
use serde_json::Value;

use super::aws::{USER_DATA, refuse_a_doomed_instance};
use super::document::Document;
use super::metadata::{Asker, MetadataOrigins, SOON, Service};
use super::{Identified, Patience, Proof, ProviderError, location, metadata_of};
use crate::run_spec::worker_config::{Merged, Source};
use crate::run_spec::{Object, WorkerIdentity, WorkerPoolId};

/// The providerId of all such workers.
const NAME: &str = "aws-provisioner";

/// Required paths below `/latest/meta-data/`.
const NEEDED: [&str; 5] =
    ["ami-id", "instance-id", "instance-type", "placement/availability-zone", "local-ipv4"];
/// Optional paths below `/latest/meta-data/`.
const OPTIONAL: [&str; 2] = ["public-ipv4", "public-hostname"];

/// The instance's user-data.
#[derive(Debug, Clone)]
pub struct UserData {
    /// The deployment's root URL, without trailing slashes.
    pub root_url: String,
    pub worker_pool_id: WorkerPoolId,
    /// The worker's group.
    pub region: String,
    /// A single-use token.
    pub token: SecretString,
    pub config: Object,
}

impl UserData {
    /// Parses a text for this worker implementation. `what` names its source in errors. Fails if a required key is
    /// missing or invalid.
    pub fn parse(what: String, text: &str, implementation: &str) -> Result<Self, ProviderError> {
        let document = Document::parse(what, text)?;
        let pool = format!("{}/{}", document.text("provisionerId")?, document.text("workerType")?);
        Ok(Self {
            worker_pool_id: WorkerPoolId::parse(&pool)
                .ok_or_else(|| document.wrong("provisionerId", "does not make a worker pool's id"))?,
            root_url: document.root_url("taskclusterRootUrl")?,
            region: document.text("region")?,
            token: document.text("securityToken")?.into(),
            config: own_config(&document, implementation)?,
        })
    }
}

pub(super) async fn identify(
    origins: &MetadataOrigins,
    implementation: &str,
    patience: Patience,
) -> Result<Identified, ProviderError> {
    let mut service = Asker::new(Service::ec2(origins, true)?, patience);
    let parse = |what, text: &str| UserData::parse(what, text, implementation);
    let user_data = service.read(USER_DATA, SOON, parse, |_| None).await?;
    let mut metadata = Vec::new();
    for path in NEEDED {
        metadata.push((last_segment(path), Some(service.required_text(&meta_data(path), SOON).await?)));
    }
    for path in OPTIONAL {
        metadata.push((last_segment(path), service.optional(&meta_data(path)).await?));
    }
    let value = |key: &str| {
        let found = metadata.iter().find(|(name, _)| *name == key);
        found.and_then(|(_, value)| value.clone()).unwrap_or_default()
    };
    let (instance_id, zone) = (value("instance-id"), value("availability-zone"));
    // A zone's name is its region and a letter.
    let region = zone.trim_end_matches(|c: char| c.is_ascii_lowercase()).to_owned();
    metadata.push(("region", Some(region.clone())));
    refuse_a_doomed_instance(&mut service).await?;
    Ok(Identified {
        root_url: user_data.root_url,
        identity: WorkerIdentity {
            provider_id: NAME.to_owned(),
            worker_pool_id: user_data.worker_pool_id,
            worker_group: user_data.region,
            worker_id: instance_id,
        },
        worker_location: location([("cloud", "aws"), ("region", &region), ("availabilityZone", &zone)]),
        provider_metadata: metadata_of(metadata),
        proof: Proof::ProvisionerSecret(user_data.token),
        own_config: Some(user_data.config),
        launch_config_id: None,
    })
}

fn meta_data(path: &str) -> String {
    format!("/latest/meta-data/{path}")
}

fn last_segment(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The user-data's `data`. For generic-worker, `data.genericWorker.config` is merged over it and then removed, because
/// generic-worker refuses unknown keys. `capacity` is added if it is not 1.
fn own_config(user_data: &Document, implementation: &str) -> Result<Object, ProviderError> {
    let mut data = user_data.object("data")?;
    let mut merged = Merged::new();
    let mut inner = None;
    if implementation == "generic-worker"
        && let Some(section) = data.remove("genericWorker")
    {
        inner = section.get("config").cloned();
        if !section.is_object() {
            return Err(user_data.wrong("data.genericWorker", "must be an object"));
        }
    }
    merged.merge(data, &Source::Provider);
    match inner {
        None => {}
        Some(Value::Object(config)) => merged.merge(config, &Source::Provider),
        Some(_) => return Err(user_data.wrong("data.genericWorker.config", "must be an object")),
    }
    match user_data.value("capacity") {
        None => {}
        Some(Value::Number(capacity)) if capacity.as_u64() == Some(1) => {}
        Some(capacity @ Value::Number(_)) => merged.set(&["capacity"], capacity.clone()),
        Some(_) => return Err(user_data.wrong("capacity", "must be a number")),
    }
    Ok(merged.object().clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(user_data: &Value, implementation: &str) -> Result<Value, String> {
        let document = Document::new("user-data".to_owned(), user_data.as_object().unwrap().clone());
        own_config(&document, implementation).map(Value::Object).map_err(|error| error.to_string())
    }

    #[test]
    fn the_data_is_the_worker_configuration() {
        let data = json!({"a": 1, "genericWorker": {"config": {"a": 2}}});
        let made = made(&json!({"data": data, "capacity": 1}), "docker-worker").unwrap();
        assert_eq!(made, data);
    }

    #[test]
    fn generic_workers_own_part_is_merged_at_the_top() {
        let data = json!({"a": 1, "list": [1], "genericWorker": {"config": {"a": 2, "list": [2], "b": {}}}});
        let made = made(&json!({"data": data}), "generic-worker").unwrap();
        assert_eq!(made, json!({"a": 2, "list": [1, 2], "b": {}}));
    }

    #[test]
    fn a_part_that_is_no_object_is_an_error_that_names_it() {
        let made = |data: Value| made(&json!({"data": data}), "generic-worker").unwrap_err();
        let error = made(json!({"genericWorker": {"config": "secret"}}));
        assert_eq!(error, "user-data: `data.genericWorker.config` must be an object");
        assert_eq!(made(json!({"genericWorker": 1})), "user-data: `data.genericWorker` must be an object");
        assert_eq!(made(json!([])), "user-data: `data` must be an object");
    }

    #[test]
    fn a_capacity_other_than_one_is_set() {
        assert_eq!(made(&json!({"capacity": 4}), "docker-worker").unwrap(), json!({"capacity": 4}));
        assert_eq!(made(&json!({"capacity": 1, "data": {}}), "docker-worker").unwrap(), json!({}));
    }
}
