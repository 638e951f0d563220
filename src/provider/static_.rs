//! `static`: the identity and a registration secret are in the runner configuration.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::{Identified, Proof, ProviderError, fixed};
use crate::config::StaticConfig;

/// The worker's `cloud`.
const NAME: &str = "static";

pub(super) fn identify(config: &StaticConfig) -> Result<Identified, ProviderError> {
    let proof = Proof::Registration(static_proof(config));
    fixed::identified(&config.identity, &config.provider_id, NAME, proof)
}

/// The proof with which such a worker registers. It can be used any number of times.
pub fn static_proof(config: &StaticConfig) -> BTreeMap<&'static str, SecretString> {
    [("staticSecret", config.static_secret.clone())].into()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::config::FixedIdentity;

    fn config(location: &[(&str, &str)]) -> StaticConfig {
        StaticConfig {
            identity: FixedIdentity {
                root_url: "https://tc.example.com".into(),
                worker_pool_id: "releng-hardware/linux-perf".into(),
                worker_group: "mdc1".into(),
                worker_id: "t-linux64-001".into(),
                provider_metadata: serde_json::Map::new(),
                worker_location: location
                    .iter()
                    .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                    .collect(),
            },
            provider_id: "releng-hardware".into(),
            static_secret: "A".repeat(44).into(),
        }
    }

    #[test]
    fn the_proof_is_the_static_secret_alone() {
        let identified = identify(&config(&[])).unwrap();
        let Proof::Registration(proof) = identified.proof else { panic!("a static worker is registered") };
        let proof: Vec<_> = proof.iter().map(|(key, value)| (*key, value.expose_secret())).collect();
        assert_eq!(proof, [("staticSecret", "A".repeat(44).as_str())]);
        assert_eq!(identified.identity.provider_id, "releng-hardware");
        assert_eq!(identified.identity.worker_id, "t-linux64-001");
    }

    #[test]
    fn the_location_has_its_cloud_and_what_is_configured() {
        let location = identify(&config(&[("dataCenter", "mdc1")])).unwrap().worker_location;
        let expected = [("cloud", "static"), ("dataCenter", "mdc1")];
        assert_eq!(location, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn a_pool_without_a_slash_is_refused() {
        let mut config = config(&[]);
        config.identity.worker_pool_id = "linux-perf".into();
        let error = identify(&config).unwrap_err().to_string();
        assert_eq!(
            error,
            r#"provider.workerPoolID: expected <provisionerId>/<workerType>, found "linux-perf""#
        );
    }
}
