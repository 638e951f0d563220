//! `standalone`: identity and credentials are in the runner configuration. No service is contacted.

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Number;

use super::{Identified, Proof, ProviderError, fixed};
use crate::clock::Date;
use crate::config::StandaloneConfig;
use crate::credentials::Credentials;

/// The providerId and the `cloud` of every standalone worker.
const NAME: &str = "standalone";

/// Taskcluster accepts a certificate this long before its start.
const GRACE: SignedDuration = SignedDuration::from_mins(5);

/// The relevant part of a certificate. Taskcluster's documentation: "temporary credentials".
#[derive(Debug, Deserialize)]
struct Certificate {
    /// The expiry, in milliseconds since the epoch.
    expiry: Option<Number>,
}

pub(super) fn identify(config: &StandaloneConfig) -> Result<Identified, ProviderError> {
    let proof = Proof::Credentials(Credentials {
        client_id: config.client_id.clone(),
        access_token: config.access_token.clone(),
        certificate: config.certificate.clone(),
        expires: config.certificate.as_ref().map(expiry).transpose()?.flatten(),
        obtained: None,
    });
    fixed::identified(&config.identity, NAME, NAME, proof)
}

/// The certificate's expiry; `None` if it has none.
fn expiry(certificate: &SecretString) -> Result<Option<Timestamp>, ProviderError> {
    let wrong = |why: &str| ProviderError::Value { key: "certificate", why: why.to_owned() };
    let certificate: Certificate = serde_json::from_str(certificate.expose_secret())
        .map_err(|_| wrong("expected a string that holds a JSON object, with expiry in milliseconds"))?;
    let expiry = certificate.expiry.map(|milliseconds| match milliseconds.as_i64() {
        Some(milliseconds) => Ok(Date::from_millisecond(milliseconds)),
        // Beyond 64 bits, or written as in 8.64e15.
        None if milliseconds.as_f64().is_some_and(|number| number > 0.0) => Ok(late(&milliseconds)),
        None => Err(wrong("expected a string that holds a JSON object, with expiry in milliseconds")),
    });
    Ok(expiry.transpose()?.and_then(Date::time))
}

/// Returns the time at which the certificate becomes valid, if Taskcluster does not accept it yet.
pub(super) fn not_yet_valid(certificate: &SecretString, now: Timestamp) -> Option<Timestamp> {
    let certificate: serde_json::Value = serde_json::from_str(certificate.expose_secret()).ok()?;
    let start = Timestamp::from_millisecond(certificate.get("start")?.as_i64()?).ok()?;
    (start.duration_since(now) > GRACE).then_some(start)
}

/// Converts a number of milliseconds that is not a 64-bit integer.
fn late(milliseconds: &Number) -> Date {
    let seconds = milliseconds.as_f64().unwrap_or(f64::INFINITY) / 1000.0;
    SignedDuration::try_from_secs_f64(seconds)
        .ok()
        .and_then(|after| Timestamp::UNIX_EPOCH.checked_add(after).ok())
        .map_or(Date::Never, Date::At)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FixedIdentity;

    #[test]
    fn a_certificate_that_is_not_valid_yet_is_said_to_be_so() {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let says = |minutes: i64| {
            let start = now.as_millisecond() + minutes * 60_000;
            not_yet_valid(&format!(r#"{{"start":{start},"seed":"x"}}"#).into(), now)
        };
        assert_eq!(says(6), Some("2026-11-29T12:06:00Z".parse().unwrap()));
        assert_eq!((says(4), says(-60)), (None, None));
        for other in ["{}", r#"{"start":"soon"}"#, r#"{"start":1e300}"#] {
            assert_eq!(not_yet_valid(&other.into(), now), None, "{other}");
        }
    }

    fn config(certificate: Option<&str>) -> StandaloneConfig {
        StandaloneConfig {
            identity: FixedIdentity {
                root_url: "https://tc.example.com".into(),
                worker_pool_id: "pp/ww".into(),
                worker_group: "wg".into(),
                worker_id: "wi".into(),
                provider_metadata: serde_json::Map::new(),
                worker_location: [("dataCenter".to_owned(), "dc1".to_owned())].into(),
            },
            client_id: "c".into(),
            access_token: "t".into(),
            certificate: certificate.map(SecretString::from),
        }
    }

    #[test]
    fn the_location_is_the_configured_one_and_the_cloud() {
        let location = identify(&config(None)).unwrap().worker_location;
        let expected = [("cloud", "standalone"), ("dataCenter", "dc1")];
        assert_eq!(location, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }

    fn expires(certificate: Option<&str>) -> Option<Timestamp> {
        match identify(&config(certificate)).unwrap().proof {
            Proof::Credentials(credentials) => credentials.expires,
            proof => panic!("a standalone worker has credentials, not {proof:?}"),
        }
    }

    #[test]
    fn permanent_credentials_never_expire() {
        assert_eq!(expires(None), None);
    }

    #[test]
    fn a_certificate_says_when_the_credentials_expire() {
        let expires = expires(Some(r#"{"version":1,"expiry":1795804367966}"#));
        assert_eq!(expires.unwrap().to_string(), "2026-11-27T18:32:47.966Z");
    }

    #[test]
    fn a_certificate_whose_end_is_beyond_all_dates_never_expires() {
        for late in
            ["253402300799999", "8640000000000000", "9223372036854775807", "99999999999999999999", "8.64e15"]
        {
            assert_eq!(expires(Some(&format!(r#"{{"expiry":{late}}}"#))), None, "{late}");
        }
        let written_as_float = expires(Some(r#"{"expiry":1.795804367e12}"#));
        assert_eq!(written_as_float.unwrap().to_string(), "2026-11-27T18:32:47Z");
        assert!(identify(&config(Some(r#"{"expiry":"soon"}"#))).is_err());
    }

    #[test]
    fn a_certificate_that_is_no_json_is_refused_without_being_shown() {
        let error = identify(&config(Some("signature-secret"))).unwrap_err().to_string();
        assert!(
            error.starts_with("provider.certificate: expected a string that holds a JSON object"),
            "{error}"
        );
        assert!(!error.contains("signature-secret"));
    }
}
