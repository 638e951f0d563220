//! Signatures, compared with those of an independent implementation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;

use crate::credentials::Credentials;
use crate::taskcluster::client::{ToSign, sign};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vector {
    name: String,
    client_id: String,
    access_token: String,
    certificate: Option<String>,
    method: String,
    url: String,
    body: Option<String>,
    timestamp: i64,
    nonce: String,
    authorization: String,
}

fn attributes(header: &str) -> BTreeMap<String, String> {
    let rest = header.strip_prefix("Hawk ").expect("a Hawk header");
    rest.split(", ")
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

#[test]
fn signatures_are_those_of_another_implementation() {
    let vectors = include_str!("../../../tests/fixtures/hawk/vectors.json");
    let vectors: Vec<Vector> = serde_json::from_str(vectors).unwrap();
    assert!(vectors.len() >= 6);
    for vector in vectors {
        let credentials = Credentials {
            client_id: vector.client_id,
            access_token: SecretString::from(vector.access_token),
            certificate: vector.certificate.map(SecretString::from),
            expires: None,
            obtained: None,
        };
        let method = vector.method.parse().unwrap();
        let url = vector.url.parse().unwrap();
        let request = ToSign { method: &method, url: &url, body: vector.body.as_deref() };
        let time = Timestamp::from_second(vector.timestamp).unwrap();
        let header = sign(&request, &credentials, time, &vector.nonce).unwrap();
        assert_eq!(attributes(&header), attributes(&vector.authorization), "{}", vector.name);
    }
}

#[test]
fn what_cannot_be_signed_is_said_without_the_secret() {
    let sign = |client_id: &str, certificate: Option<&str>| {
        let credentials = Credentials {
            client_id: client_id.to_owned(),
            access_token: SecretString::from("fake-token"),
            certificate: certificate.map(SecretString::from),
            expires: None,
            obtained: None,
        };
        let (method, url) = (reqwest::Method::GET, "https://tc.example.com/x".parse().unwrap());
        let request = ToSign { method: &method, url: &url, body: None };
        sign(&request, &credentials, Timestamp::UNIX_EPOCH, "n")
    };
    for certificate in ["", "nonsense-secret", "[1]", "\"{}\"", "{\"secret\": 1"] {
        assert_eq!(sign("me", Some(certificate)), Err("certificate is not a JSON object".to_owned()));
    }
    assert!(sign("me", Some(" {\"version\": 1}\n")).is_ok());
    assert!(sign("a\"b", None).is_err());
}
