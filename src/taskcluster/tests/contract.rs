//! The calls, compared with requests and answers that were recorded with the real services.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::server::{Reply, Request, Server};
use super::{client, credentials, proof, worker};
use crate::taskcluster::error::{Quoting, Why};
use crate::taskcluster::{Effort, RegisterWorker, WorkerError};

#[derive(Deserialize)]
struct Exchange {
    name: String,
    request: RecordedRequest,
    response: Response,
}

#[derive(Deserialize)]
struct RecordedRequest {
    method: String,
    path: String,
    auth: String,
    body: Value,
}

#[derive(Deserialize)]
struct Response {
    status: u16,
    body: Value,
}

fn exchanges() -> Vec<Exchange> {
    serde_json::from_str(include_str!("../../../tests/fixtures/contract/exchanges.json")).unwrap()
}

fn exchange(name: &str) -> Exchange {
    exchanges().into_iter().find(|exchange| exchange.name == name).expect(name)
}

impl Exchange {
    async fn server(&self) -> Server {
        Server::start([Reply::json(self.response.status, &self.response.body.to_string())]).await
    }

    #[track_caller]
    fn assert_same(&self, server: &Server) {
        let requests = server.requests();
        assert_eq!(requests.len(), 1);
        let Request { line, body, .. } = &requests[0];
        assert_eq!(*line, format!("{} {}", self.request.method, self.request.path));
        let sent = if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() };
        assert_eq!(sent, self.request.body);
        let signed = requests[0].header("authorization").is_some();
        assert_eq!(signed, self.request.auth != "none");
        let kind = requests[0].header("content-type");
        assert_eq!(kind, (!body.is_empty()).then_some("application/json"));
        let agent = concat!("start-worker/", env!("CARGO_PKG_VERSION"));
        assert_eq!(requests[0].header("user-agent"), Some(agent));
    }
}

fn date(text: &Value) -> Timestamp {
    text.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn register_worker_is_as_recorded() {
    let exchange = exchange("registerWorker ok (no Authorization)");
    let server = exchange.server().await;
    let proof = proof(exchange.request.body["workerIdentityProof"]["staticSecret"].as_str().unwrap());
    let name = worker("worker-1");
    let request =
        RegisterWorker { name: &name, provider_id: "static", proof: &proof, system_boot_time: None };
    let registered = client(&server.root_url).register_worker(&request, Effort::Once).await.unwrap();
    exchange.assert_same(&server);
    let answer = &exchange.response.body;
    assert_eq!(registered.credentials.client_id, answer["credentials"]["clientId"]);
    assert_eq!(
        registered.credentials.access_token.expose_secret(),
        answer["credentials"]["accessToken"].as_str().unwrap()
    );
    let certificate = registered.credentials.certificate.as_ref().unwrap();
    assert_eq!(certificate.expose_secret(), answer["credentials"]["certificate"].as_str().unwrap());
    assert_eq!(registered.credentials.expires, Some(date(&answer["expires"])));
    assert!(registered.credentials.obtained.is_some());
    assert_eq!(registered.secret.expose_secret(), answer["secret"].as_str().unwrap());
    let config: Value = serde_json::from_str(registered.worker_config.get()).unwrap();
    assert_eq!(config, answer["workerConfig"]);
    assert!(!format!("{registered:?}").contains("fake"), "{registered:?}");
}

#[tokio::test]
async fn reregister_worker_is_as_recorded() {
    let exchange = exchange("reregister ok");
    let server = exchange.server().await;
    let secret = SecretString::from(exchange.request.body["secret"].as_str().unwrap());
    let client = client(&server.root_url);
    let name = worker("worker-1");
    let renewed =
        client.reregister_worker(&credentials(Some("{}")), &name, &secret, Effort::Once).await.unwrap();
    exchange.assert_same(&server);
    let answer = &exchange.response.body;
    assert_eq!(renewed.credentials.expires, Some(date(&answer["expires"])));
    assert_eq!(renewed.secret.expose_secret(), answer["secret"].as_str().unwrap());
    let header = server.requests()[0].header("authorization").unwrap().to_owned();
    for part in
        ["Hawk id=\"", " ts=\"", " nonce=\"", " mac=\"", " hash=\"", " ext=\"eyJjZXJ0aWZpY2F0ZSI6e319\""]
    {
        assert!(header.contains(part), "{header}");
    }
}

#[tokio::test]
async fn report_worker_error_is_as_recorded() {
    let exchange = exchange("reportWorkerError ok");
    let server = exchange.server().await;
    let sent = &exchange.request.body;
    let text = |key: &str| sent[key].as_str().unwrap().to_owned();
    let error = WorkerError {
        kind: text("kind"),
        title: text("title"),
        description: text("description"),
        extra: sent["extra"].as_object().unwrap().clone(),
    };
    let client = client(&server.root_url);
    client.report_worker_error(&credentials(None), &worker("worker-1"), &error, Effort::Once).await.unwrap();
    exchange.assert_same(&server);
}

#[tokio::test]
async fn remove_worker_is_as_recorded() {
    let exchange = exchange("removeWorker as itself");
    let server = exchange.server().await;
    let client = client(&server.root_url);
    client.remove_worker(&credentials(None), &worker("worker-2"), Effort::Once).await.unwrap();
    exchange.assert_same(&server);
}

#[tokio::test]
async fn should_worker_terminate_is_as_recorded() {
    let names = [
        ("shouldWorkerTerminate ok", "worker-1"),
        (
            "static: shouldWorkerTerminate worker-3 with decision written by SQL (not by any real code path)",
            "worker-3",
        ),
    ];
    for (name, id) in names {
        let exchange = exchange(name);
        let server = exchange.server().await;
        let client = client(&server.root_url);
        let answer =
            client.should_worker_terminate(&credentials(None), &worker(id), Effort::Once).await.unwrap();
        exchange.assert_same(&server);
        assert_eq!(json!({"terminate": answer.terminate, "reason": answer.reason}), exchange.response.body);
    }
}

#[tokio::test]
async fn worker_pool_is_as_recorded() {
    let exchange = exchange("workerPool GET as root");
    let server = exchange.server().await;
    let client = client(&format!("{}//", server.root_url));
    let pool = client.worker_pool(&credentials(None), "demo-provider/demo-pool", Effort::Once).await.unwrap();
    exchange.assert_same(&server);
    assert_eq!(pool.provider_id, "static");
    assert_eq!(pool.config, exchange.response.body["config"]);
}

#[tokio::test]
async fn secrets_are_as_recorded() {
    let exchange = exchange("secrets.get worker-pool: (name %3A %2F escaped)");
    let server = exchange.server().await;
    let client = client(&server.root_url);
    let name = "worker-pool:demo-provider/demo-pool";
    let secret = client.secret(&credentials(None), name, Effort::Once).await.unwrap();
    exchange.assert_same(&server);
    let secret: Value = serde_json::from_str(secret.get()).unwrap();
    assert_eq!(secret, exchange.response.body["secret"]);
}

#[test]
fn every_recorded_refusal_is_told_in_a_line() {
    let mut lines: Vec<String> = exchanges()
        .iter()
        .filter(|exchange| exchange.response.status >= 400 && !exchange.response.body.is_null())
        .map(|exchange| {
            Why::of_answer(
                exchange.response.status,
                exchange.response.body.to_string().as_bytes(),
                &Quoting { body: true, content_type: None, mask: &str::to_owned },
            )
        })
        .map(|why| why.to_string())
        .map(|line| {
            // Each incident has its own number.
            line.split("incidentId ").next().unwrap().to_owned()
        })
        .collect();
    lines.sort();
    lines.dedup();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    400 InputError: Could not generate credentials for this secret
    400 InputError: Worker demo-group/worker-2 is not running
    400 InputError: Worker demo-group/worker-exp has expired
    400 InputError: Worker pool demo-provider/demo-pool not associated with provider null-provider
    400 InputError: bad staticSecret in workerIdentityProof
    400 InputError: missing staticSecret in workerIdentityProof
    400 InputError: worker is not running
    400 InputValidationError: Schema Validation Failed! Rejecting Schema: http://tc.example.com/schemas/worker-manager/v1/config-static.json# Errors: * data/lifecycle/reregistrationTimeout must be <= 2592000
    400 InputValidationError: Schema Validation Failed! Rejecting Schema: http://tc.example.com/schemas/worker-manager/v1/register-worker-request.json# Errors: * data/workerIdentityProof must have required property 'token' * data/workerIdentityProof must NOT have additional properties: "staticSecret" * data/workerIdentityProof/staticSecret must match pattern "^[a-zA-Z0-9_-]{44}$" * data/workerIdentityProof must have required property 'document' * data/workerIdentityProof must have required property 'signature' * data/workerI…
    400 InputValidationError: Schema Validation Failed! Rejecting Schema: http://tc.example.com/schemas/worker-manager/v1/report-worker-error-request.json# Errors: * data must have required property 'extra'
    400 MalformedPayload: Failed to parse JSON: Expected property name or '}' in JSON at position 1 (line 1 column 2)
    400 MalformedPayload: Failed to parse JSON: Must be an object or array
    400 MalformedPayload: Failed to parse JSON: Unexpected end of JSON input
    400 MalformedPayload: Payload must be JSON with content-type: application/json got content-type: null
    401 AuthenticationFailed: Bad Request: Missing attributes
    401 AuthenticationFailed: Client with clientId 'nobody/here' not found
    401 AuthenticationFailed: Client with clientId 'worker/static/demo-provider/demo-pool/demo-group/worker-1' not found
    401 AuthenticationFailed: Failed to parse ext
    401 AuthenticationFailed: Invalid payload hash: {{hash}} Computed payload hash: B0weSUXsMcb5UhL41FZbrUJCAotzSI3HawE1NPLRUz8= This happens when your request carries a signed hash of the payload and the hash doesn't match the hash we've computed on the server-side.
    401 AuthenticationFailed: Invalid payload hash: {{hash}} Computed payload hash: BITgaqE7Ooa69p833jEO+HLhieP9F1HaUsxDQ9fUP58= This happens when your request carries a signed hash of the payload and the hash doesn't match the hash we've computed on the server-side.
    401 AuthenticationFailed: Supplied credentials do not satisfy authorizedScopes; credentials have scopes: assume:anonymous assume:worker-id:demo-group/worker-1 assume:worker-pool:demo-provider/demo-pool assume:worker-type:demo-provider/demo-pool queue:claim-work:demo-provider/demo-pool queue:worker-id:demo-group/worker-1 secrets:get:project/demo/* secrets:get:worker-pool:demo-provider/demo-pool secrets:get:worker-type:demo-provider/demo-pool worker-manager:remove-worker:demo-provider/demo-pool/demo-group/worker-1 worker-m…
    401 AuthenticationFailed: Unauthorized: Bad mac
    401 AuthenticationFailed: Unauthorized: Stale timestamp
    401 AuthenticationFailed: Unauthorized: Unauthorized
    401 AuthenticationFailed: ext.certificate cannot last longer than 31 days!
    401 AuthenticationFailed: ext.certificate issuer `static/taskcluster/worker-manager` doesn't satisfy all certificate scopes assume:worker-type:demo-provider/demo-pool, assume:worker-pool:demo-provider/demo-pool, assume:worker-id:demo-group/worker-1, queue:worker-id:demo-group/worker-1, secrets:get:worker-type:demo-provider/demo-pool, secrets:get:worker-pool:demo-provider/demo-pool, queue:claim-work:demo-provider/demo-pool, worker-manager:remove-worker:demo-provider/demo-pool/demo-group/worker-1, worker-manager:reregister…
    401 AuthenticationFailed: ext.certificate.expiry < now
    401 AuthenticationFailed: ext.certificate.signature is not valid, or wrong clientId provided
    401 AuthenticationFailed: ext.certificate.start > now
    403 InsufficientScopes: Client ID worker/static/demo-provider/demo-pool/demo-group/worker-1 does not have sufficient scopes and is missing the following scopes: assume:worker-id:demo-group/worker-colon
    403 InsufficientScopes: Client ID worker/static/demo-provider/demo-pool/demo-group/worker-1 does not have sufficient scopes and is missing the following scopes: secrets:get:worker-pool:demo-provider/other-pool
    403 InsufficientScopes: Client ID worker/static/demo-provider/demo-pool/demo-group/worker-1 does not have sufficient scopes and is missing the following scopes: worker-manager:get-worker-pool:demo-provider/demo-pool
    403 InsufficientScopes: Client ID worker/static/demo-provider/demo-pool/demo-group/worker-1 does not have sufficient scopes and is missing the following scopes: worker-manager:get-worker:demo-provider/demo-pool/demo-group/worker-1
    403 InsufficientScopes: Client ID worker/static/demo-provider/demo-pool/demo-group/worker-1 does not have sufficient scopes and is missing the following scopes: worker-manager:list-worker-pool-errors:demo-provider/demo-pool
    403 InsufficientScopes: Client ID worker/static/demo-provider/demo-pool/demo-group/worker-1 does not have sufficient scopes and is missing the following scopes: worker-manager:list-workers:demo-provider/demo-pool/demo-group/worker-1/should-terminate
    403 InsufficientScopes: Client ID worker/static/demo-provider/demo-pool/demo-group/worker-1 does not have sufficient scopes and is missing the following scopes: worker-manager:reregister-worker:demo-provider/demo-pool/demo-group/worker-colon
    403 InsufficientScopes: Client ID worker/static/demo-provider/demo-pool/demo-group/worker-1 does not have sufficient scopes and is missing the following scopes: worker-manager:should-worker-terminate:demo-provider/demo-pool/demo-group/worker-colon
    403 InsufficientScopes: Client ID worker/static/demo-provider/demo-pool/demo-group/worker-1 does not have sufficient scopes and is missing the following scopes: { "AllOf": [ "worker-manager:manage-worker-pool:demo-provider/demo-pool", "worker-manager:provider:static" ] }
    403 InsufficientScopes: Client ID worker/static/demo-provider/demo-pool/demo-group/worker-2 does not have sufficient scopes and is missing the following scopes: worker-manager:remove-worker:demo-provider/demo-pool/demo-group/worker-1
    403 InsufficientScopes: This request requires Taskcluster credentials that satisfy the following scope expression: secrets:get:worker-pool:demo-provider/demo-pool
    403 InsufficientScopes: This request requires Taskcluster credentials that satisfy the following scope expression: worker-manager:get-worker-pool:demo-provider/demo-pool
    403 InsufficientScopes: This request requires Taskcluster credentials that satisfy the following scope expression: worker-manager:remove-worker:demo-provider/demo-pool/demo-group/worker-2
    403 InsufficientScopes: This request requires Taskcluster credentials that satisfy the following scope expression: worker-manager:reregister-worker:demo-provider/demo-pool/demo-group/worker-1
    403 InsufficientScopes: This request requires Taskcluster credentials that satisfy the following scope expression: worker-manager:should-worker-terminate:demo-provider/demo-pool/demo-group/worker-1
    403 InsufficientScopes: This request requires Taskcluster credentials that satisfy the following scope expression: { "AllOf": [ "assume:worker-pool:demo-provider/demo-pool", "assume:worker-id:demo-group/worker-1" ] }
    404 ResourceNotFound: Provider nope does not exist
    404 ResourceNotFound: Secret not found
    404 ResourceNotFound: Worker demo-group/no-such-worker in worker pool demo-provider/demo-pool does not exist
    404 ResourceNotFound: Worker no-such-group/worker-1 in worker pool demo-provider/demo-pool does not exist
    404 ResourceNotFound: Worker not found
    404 ResourceNotFound: Worker pool demo-provider/nope does not exist
    404 ResourceNotFound: Worker pool does not exist
    404: Not found
    500 InternalServerError: Internal Server Error,
    "#);
}

#[tokio::test]
async fn missing_scopes_are_told() {
    let names = [
        "workerPool GET as worker",
        "workerPool GET no creds",
        "updateWorkerPool as worker",
        "reportWorkerError no creds",
        "workerPool GET missing",
    ];
    let mut found = Vec::new();
    for name in names {
        let server = exchange(name).server().await;
        let client = client(&server.root_url);
        let error = client.worker_pool(&credentials(None), "p/w", Effort::Once).await.unwrap_err();
        assert!(error.refused());
        assert_eq!(error.is_not_found(), name == "workerPool GET missing");
        found.push(error.missing_scopes().unwrap_or_else(|| "-".to_owned()));
    }
    insta::assert_snapshot!(found.join("\n"), @r#"
    worker-manager:get-worker-pool:demo-provider/demo-pool
    worker-manager:get-worker-pool:demo-provider/demo-pool
    { "AllOf": [ "worker-manager:manage-worker-pool:demo-provider/demo-pool", "worker-manager:provider:static" ] }
    { "AllOf": [ "assume:worker-pool:demo-provider/demo-pool", "assume:worker-id:demo-group/worker-1" ] }
    -
    "#);
}
