//! Runner configurations from outside: valid and invalid ones, and their diagnostics.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use start_worker::config::{self, LoadError, LoadErrorKind, Loaded, RunnerConfig};
use start_worker::host::private_file::Access;

fn fixture(name: &str) -> Loaded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/runner-configs").join(name);
    let text = std::fs::read(path).expect("a fixture");
    config::parse(Path::new(name), &text).expect("a configuration that loads")
}

fn lines(diagnostics: &[config::Diagnostic]) -> String {
    diagnostics.iter().map(config::Diagnostic::labelled).collect::<Vec<_>>().join("\n")
}

/// Everything that is said about a configuration, a line each.
fn said(text: impl AsRef<[u8]>) -> String {
    match config::parse(Path::new("r.yml"), text.as_ref()) {
        Ok(loaded) => lines(&loaded.warnings),
        Err(faults) => lines(&faults.diagnostics),
    }
}

/// The diagnostics of a configuration whose provider and worker need no keys of their own; `rest` begins in line 3.
fn said_of(rest: &str) -> String {
    said(small(rest))
}

fn small(rest: &str) -> String {
    format!("provider: {{providerType: google}}\nworker: {{implementation: dummy}}\n{rest}")
}

/// The diagnostics of a static provider, with these keys in place of, or beside, good ones.
fn said_of_static(keys: &[(&str, &str)]) -> String {
    said(provider("static", &[("providerID", "p"), ("staticSecret", SECRET)], keys))
}

/// The diagnostics of a standalone provider, with these keys in place of, or beside, good ones.
fn said_of_standalone(keys: &[(&str, &str)]) -> String {
    said(provider("standalone", &[("clientID", "c"), ("accessToken", "a")], keys))
}

/// The diagnostics of a worker with these keys, each beginning a line; the first is line 3.
fn said_of_worker(keys: &str) -> String {
    said(format!("provider: {{providerType: google}}\nworker:\n  {}\n", keys.replace('\n', "\n  ")))
}

fn provider(provider_type: &str, own: &[(&str, &str)], keys: &[(&str, &str)]) -> String {
    let common = [
        ("rootURL", "https://tc.example.com"),
        ("workerPoolID", "a/b"),
        ("workerGroup", "g"),
        ("workerID", "w"),
    ];
    let mut text = format!("worker: {{implementation: dummy}}\nprovider:\n  providerType: {provider_type}\n");
    let good = common.iter().chain(own).filter(|(name, _)| keys.iter().all(|(other, _)| other != name));
    for (name, value) in good.chain(keys).filter(|(_, value)| *value != "-") {
        text.extend(["  ", name, ": ", value, "\n"]);
    }
    text
}

/// A value that no diagnostic may show.
const SECRET: &str = "hunter2hunter2hunter2hunter2hunter2hunter2hu";

fn loaded(text: impl AsRef<[u8]>) -> RunnerConfig {
    config::parse(Path::new("r.yml"), text.as_ref()).expect("a configuration that loads").config
}

/// The worker configuration that a text under `workerConfig` becomes.
fn worker_config(text: &str) -> String {
    let config = loaded(small(&format!("workerConfig:\n  {}\n", text.replace('\n', "\n  "))));
    serde_json::to_string(&config.worker_config).expect("JSON")
}

#[test]
fn configurations_from_the_field_load_without_a_word() {
    for name in [
        "aws-generic-worker.yml",
        "aws-provisioner-docker-worker.yml",
        "azure-generic-worker.yml",
        "google-generic-worker.yml",
        "standalone-dummy.yml",
        "static-hardware.yml",
        "windows-azure.yml",
    ] {
        assert_eq!(fixture(name).warnings, [], "{name}");
    }
}

#[test]
fn the_examples_for_generic_worker_say_where_its_directories_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config-examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        if !text.contains("implementation: generic-worker") {
            continue;
        }
        seen += 1;
        let config = serde_json::to_value(&loaded(&text).worker_config).unwrap();
        for key in ["tasksDir", "cachesDir", "downloadsDir"] {
            let directory = config[key].as_str().unwrap_or_default();
            assert!(directory.starts_with('/'), "{}: {key} is {directory:?}", path.display());
        }
    }
    assert!(seen >= 5, "{seen} examples");
}

const FIVE_FAULTS: &str = "\
provider: {providerType: google}
worker:
  implementation: dummy
  helloTimeout: 30
  oomScoreAdj: 2000
supervision:
  restart: sometimes
  stopTimeout: soon
startTimeout: 0s
";

#[test]
fn an_unknown_key_from_the_field_is_a_warning() {
    insta::assert_snapshot!(lines(&fixture("docker-compose-static.json").warnings), @"warning: docker-compose-static.json:14: provider.workerNodeType: unknown key, ignored; remove it");
}

#[test]
fn five_faults_are_told_in_one_pass() {
    insta::assert_snapshot!(said(FIVE_FAULTS), @r#"
    error: r.yml:4: worker.helloTimeout: expected a duration, found the integer 30; add a unit, as in 90s
    error: r.yml:5: worker.oomScoreAdj: expected an integer from -1000 to 1000, found the integer 2000
    error: r.yml:7: supervision.restart: expected one of never, on-failure, always, found "sometimes"
    error: r.yml:8: supervision.stopTimeout: expected a duration, found "soon"; write it as in 90s, 15m, 6h or 1h 30m
    error: r.yml:9: startTimeout: expected a duration of more than zero, found "0s"
    "#);
}

#[test]
fn what_is_no_configuration_says_so() {
    insta::assert_snapshot!(said(""), @"error: r.yml: nothing in it; give it at least the sections provider and worker");
    insta::assert_snapshot!(said("# only a comment\n"), @"error: r.yml: nothing in it; give it at least the sections provider and worker");
    insta::assert_snapshot!(said("just words"), @"error: r.yml:1: expected sections, found a string; begin with `provider:`");
    insta::assert_snapshot!(said("[1, 2]"), @"error: r.yml:1: expected sections, found a list; begin with `provider:`");
    insta::assert_snapshot!(said("--- {a: 1}\n--- {b: 2}\n"), @"error: r.yml:2: a second document with content, which nothing would read; remove it, or the `---` before it");
    for empty in ["---\n", "---", "...\n", "---\n---\n", "---\n# nothing\n", "...\n---\n"] {
        assert_eq!(said_of(&format!("cacheOverRestarts: /c\n{empty}")), "", "{empty:?}");
    }
    insta::assert_snapshot!(said("---\n---\nprovider: {}\n"), @"error: r.yml:3: a second document with content, which nothing would read; remove it, or the `---` before it");
    insta::assert_snapshot!(said("provider:\n  providerType: static\n worker: x\n"), @"error: r.yml:3: not valid YAML: did not find expected key, while parsing a block mapping");
    insta::assert_snapshot!(said("provider: {providerType: static"), @"error: r.yml:2: not valid YAML: did not find expected ',' or '}', while parsing a flow mapping at line 1 column 11");
    insta::assert_snapshot!(said("provider:\n\tproviderType: static\n"), @"error: r.yml:2: not valid YAML: found character that cannot start any token, while scanning for the next token");
    insta::assert_snapshot!(said("a: *nowhere\n"), @"error: r.yml:1: not valid YAML: unknown anchor");
}

#[test]
fn missing_sections_are_errors() {
    insta::assert_snapshot!(said("getSecrets: true\n"), @"
    error: r.yml: provider: missing; add this section
    error: r.yml: worker: missing; add this section
    ");
    insta::assert_snapshot!(said("provider:\nworker: 3\n"), @"
    error: r.yml:1: provider: null, or nothing after it; expected a section
    error: r.yml:2: worker: expected a section, found the integer 3
    ");
    insta::assert_snapshot!(said("Provider: {}\nworkers: {}\n"), @"
    error: r.yml:1: Provider: unknown key; it is spelled provider
    error: r.yml:2: workers: unknown key, and worker is missing; did you mean worker?
    ");
}

#[test]
fn only_utf_8_without_control_characters_is_read() {
    insta::assert_snapshot!(said(b"provider:\n  rootURL: \xff\xfe"), @"error: r.yml:2: not valid UTF-8; save the file as UTF-8");
    insta::assert_snapshot!(said(b"\xff\xfep\0r\0"), @"error: r.yml:1: not valid UTF-8; save the file as UTF-8");
    insta::assert_snapshot!(said("provider:\n  providerType: \u{7}\n"), @"error: r.yml:2: a control character, which YAML does not allow; remove it");
}

#[test]
fn a_provider_type_is_one_that_is_known() {
    insta::assert_snapshot!(said("provider: {providerType: gogle}\nworker: {implementation: dummy}\n"), @r#"error: r.yml:1: provider.providerType: expected one of standalone, static, aws, azure, google, aws-provisioner, found "gogle"; did you mean google?"#);
    insta::assert_snapshot!(said("provider: {}\nworker: {implementation: dummy}\n"), @"error: r.yml:1: provider.providerType: missing; expected one of standalone, static, aws, azure, google, aws-provisioner");
    insta::assert_snapshot!(said("provider: {providerType: 3, staticSecret: x}\nworker: {implementation: dummy}\n"), @"error: r.yml:1: provider.providerType: expected one of standalone, static, aws, azure, google, aws-provisioner, found the integer 3");
}

#[test]
fn the_missing_keys_of_static_are_told_at_once() {
    insta::assert_snapshot!(said("worker: {implementation: dummy}\nprovider:\n  providerType: static\n"), @"
    error: r.yml:2: provider.rootURL: missing; expected an http or https URL
    error: r.yml:2: provider.workerPoolID: missing; expected a worker pool ID (`provisioner/type`)
    error: r.yml:2: provider.workerGroup: missing; expected a string
    error: r.yml:2: provider.workerID: missing; expected a string
    error: r.yml:2: provider.providerID: missing; expected a string
    error: r.yml:2: provider.staticSecret: missing; expected 44 characters of `a-z A-Z 0-9 _ -`
    ");
}

#[test]
fn the_missing_keys_of_standalone_are_told_at_once() {
    insta::assert_snapshot!(said("worker: {implementation: dummy}\nprovider:\n  providerType: standalone\n"), @"
    error: r.yml:2: provider.rootURL: missing; expected an http or https URL
    error: r.yml:2: provider.workerPoolID: missing; expected a worker pool ID (`provisioner/type`)
    error: r.yml:2: provider.workerGroup: missing; expected a string
    error: r.yml:2: provider.workerID: missing; expected a string
    error: r.yml:2: provider.clientID: missing; expected a string
    error: r.yml:2: provider.accessToken: missing; expected a string
    ");
}

#[test]
fn another_spelling_of_a_required_key_is_an_error_that_says_which_one_to_use() {
    insta::assert_snapshot!(said_of_static(&[("rootURL", "-"), ("rootUrl", "https://tc.example.com"), ("workerPoolID", "-"), ("workerPoolId", "a/b"), ("workerID", "-"), ("worker_id", "w"), ("providerID", "-"), ("providerId", "p")]), @"
    error: r.yml:6: provider.rootUrl: unknown key; it is spelled rootURL
    error: r.yml:7: provider.workerPoolId: unknown key; it is spelled workerPoolID
    error: r.yml:8: provider.worker_id: unknown key; it is spelled workerID
    error: r.yml:9: provider.providerId: unknown key; it is spelled providerID
    ");
    insta::assert_snapshot!(said_of_standalone(&[("clientID", "-"), ("clientId", "c"), ("accessToken", "-"), ("acessToken", "a")]), @"
    error: r.yml:8: provider.clientId: unknown key; it is spelled clientID
    error: r.yml:9: provider.acessToken: unknown key, and accessToken is missing; did you mean accessToken?
    ");
}

#[test]
fn another_spelling_beside_the_right_key_is_a_warning() {
    insta::assert_snapshot!(said_of_static(&[("rootUrl", "https://tc.example.com"), ("workerLOCATION", "{a: b}")]), @"
    warning: r.yml:10: provider.rootUrl: unknown key, ignored; remove it
    warning: r.yml:11: provider.workerLOCATION: unknown key, ignored; it is spelled workerLocation
    ");
}

#[test]
fn a_root_url_is_http_or_https() {
    insta::assert_snapshot!(said_of_static(&[("rootURL", "tc.example.com")]), @r#"error: r.yml:9: provider.rootURL: expected an http or https URL, found "tc.example.com"; write it as in https://tc.example.com"#);
    insta::assert_snapshot!(said_of_static(&[("rootURL", "ftp://tc.example.com")]), @r#"error: r.yml:9: provider.rootURL: expected an http or https URL, found "ftp://tc.example.com"; write it as in https://tc.example.com"#);
    insta::assert_snapshot!(said_of_static(&[("rootURL", "https://")]), @r#"error: r.yml:9: provider.rootURL: expected an http or https URL, found "https://"; write it as in https://tc.example.com"#);
    insta::assert_snapshot!(said_of_static(&[("rootURL", "https://tc.example.com:port")]), @r#"error: r.yml:9: provider.rootURL: expected an http or https URL, found "https://tc.example.com:port"; write it as in https://tc.example.com"#);
    insta::assert_snapshot!(said_of_static(&[("rootURL", "https://tc.example.com/?a=b")]), @r#"error: r.yml:9: provider.rootURL: expected an http or https URL, found "https://tc.example.com/?(masked)"; it has neither spaces nor a query"#);
    insta::assert_snapshot!(said_of_static(&[("rootURL", "https://me:hunter2@tc.example.com")]), @"error: r.yml:9: provider.rootURL: expected an http or https URL without credentials, found another string; remove what stands before the @");
    insta::assert_snapshot!(said_of_static(&[("rootURL", "'https://tc example.com'")]), @r#"error: r.yml:9: provider.rootURL: expected an http or https URL, found "https://tc example.com"; it has neither spaces nor a query"#);
}

#[test]
fn a_worker_pool_id_has_two_halves() {
    insta::assert_snapshot!(said_of_static(&[("workerPoolID", "pool")]), @r#"error: r.yml:9: provider.workerPoolID: expected a worker pool ID (`provisioner/type`), found "pool""#);
    insta::assert_snapshot!(said_of_static(&[("workerPoolID", "/pool")]), @r#"error: r.yml:9: provider.workerPoolID: expected a worker pool ID (`provisioner/type`), found "/pool""#);
    insta::assert_snapshot!(said_of_static(&[("workerPoolID", "'a/'")]), @r#"error: r.yml:9: provider.workerPoolID: expected a worker pool ID (`provisioner/type`), found "a/""#);
}

#[test]
fn ids_are_strings_that_are_not_empty() {
    insta::assert_snapshot!(said_of_static(&[("workerID", "''")]), @"error: r.yml:9: provider.workerID: expected a string, found an empty one; give one");
    insta::assert_snapshot!(said_of_static(&[("workerID", "1.10")]), @"error: r.yml:9: provider.workerID: expected a string, found the number 1.10; put it in quotes");
    insta::assert_snapshot!(said_of_static(&[("workerID", "2026-11-23")]), @"error: r.yml:9: provider.workerID: expected a string, found the date 2026-11-23; put it in quotes");
    insta::assert_snapshot!(said_of_static(&[("workerID", "true")]), @"error: r.yml:9: provider.workerID: expected a string, found the boolean true; put it in quotes");
    insta::assert_snapshot!(said_of_static(&[("workerID", "0x1F")]), @"error: r.yml:9: provider.workerID: expected a string, found the integer 0x1F; put it in quotes");
    insta::assert_snapshot!(said_of_static(&[("workerID", "123456789012345678901234567890")]), @"error: r.yml:9: provider.workerID: expected a string, found an integer of more than 64 bits; put it in quotes");
    insta::assert_snapshot!(said_of_static(&[("workerID", "[a]")]), @"error: r.yml:9: provider.workerID: expected a string, found a list");
    insta::assert_snapshot!(said_of_static(&[("workerID", "{a: b}")]), @"error: r.yml:9: provider.workerID: expected a string, found an object");
    insta::assert_snapshot!(said_of_static(&[("workerID", "")]), @"error: r.yml:9: provider.workerID: null, or nothing after it; expected a string");
    insta::assert_snapshot!(said_of_static(&[("workerGroup", "\"a\\nb\"")]), @r#"error: r.yml:9: provider.workerGroup: expected a string without line breaks and control characters, found "a\nb"; quote it instead of using `|`"#);
    insta::assert_snapshot!(said_of_static(&[("workerGroup", "!vault x")]), @"error: r.yml:9: provider.workerGroup: expected a string, found a value that begins with `!`, which makes it a tag");
}

#[test]
fn a_static_secret_has_44_characters_and_is_never_shown() {
    insta::assert_snapshot!(said_of_static(&[("staticSecret", "hunter2")]), @"error: r.yml:9: provider.staticSecret: expected 44 characters of `a-z A-Z 0-9 _ -`, found another string");
    insta::assert_snapshot!(said_of_static(&[("staticSecret", "1234")]), @"error: r.yml:9: provider.staticSecret: expected 44 characters of `a-z A-Z 0-9 _ -`, found another string");
    insta::assert_snapshot!(said_of_static(&[("staticSecret", "1.5")]), @"error: r.yml:9: provider.staticSecret: expected 44 characters of `a-z A-Z 0-9 _ -`, found a number; put it in quotes");
    insta::assert_snapshot!(said_of_static(&[("staticSecret", "2026-11-23")]), @"error: r.yml:9: provider.staticSecret: expected 44 characters of `a-z A-Z 0-9 _ -`, found a date; put it in quotes");
    insta::assert_snapshot!(said_of_static(&[("staticSecret", "[hunter2]")]), @"error: r.yml:9: provider.staticSecret: expected 44 characters of `a-z A-Z 0-9 _ -`, found a list");
    insta::assert_snapshot!(said_of_static(&[("staticSecret", "!!int hunter2")]), @"error: r.yml:9: a value does not fit its tag (`!!…`); remove the tag");
}

#[test]
fn credentials_are_never_shown() {
    insta::assert_snapshot!(said_of_standalone(&[("accessToken", "3.14")]), @"error: r.yml:9: provider.accessToken: expected a string, found a number; put it in quotes");
    insta::assert_snapshot!(said_of_standalone(&[("accessToken", "{hunter2: hunter2}")]), @"error: r.yml:9: provider.accessToken: expected a string, found an object");
    insta::assert_snapshot!(said_of_standalone(&[("certificate", "hunter2")]), @"error: r.yml:10: provider.certificate: expected a string that holds a JSON object, found another string");
    insta::assert_snapshot!(said_of_standalone(&[("certificate", "{version: 1}")]), @"error: r.yml:10: provider.certificate: expected a string that holds a JSON object, found an object");
    insta::assert_snapshot!(said_of_standalone(&[("certificate", "'[1]'")]), @"error: r.yml:10: provider.certificate: expected a string that holds a JSON object, found another string");
}

#[test]
fn locations_are_strings() {
    insta::assert_snapshot!(said_of_static(&[("workerLocation", "{region: us, rack: 12, row: true}")]), @"
    error: r.yml:10: provider.workerLocation.rack: expected a string, found the integer 12; put it in quotes
    error: r.yml:10: provider.workerLocation.row: expected a string, found the boolean true; put it in quotes
    ");
    insta::assert_snapshot!(said_of_static(&[("workerLocation", "us")]), @r#"error: r.yml:10: provider.workerLocation: expected an object of strings, found "us""#);
    insta::assert_snapshot!(said_of_static(&[("providerMetadata", "[1]")]), @"error: r.yml:10: provider.providerMetadata: expected an object, found a list");
}

#[test]
fn a_key_of_another_provider_is_a_warning() {
    insta::assert_snapshot!(said("provider: {providerType: google, onRebalance: drain, acknowledgeEvents: true, staticSecret: x}\nworker: {implementation: dummy}\n"), @"
    warning: r.yml:1: provider.onRebalance: unknown key with google, ignored; it is for aws only; remove it
    warning: r.yml:1: provider.acknowledgeEvents: unknown key with google, ignored; it is for azure only; remove it
    warning: r.yml:1: provider.staticSecret: unknown key with google, ignored; it is for static only; remove it
    ");
    insta::assert_snapshot!(said("provider: {providerType: aws, onRebalance: sometimes, finishTasksIfDeadlineOver: 10}\nworker: {implementation: dummy}\n"), @r#"
    error: r.yml:1: provider.onRebalance: expected one of drain, ignore, found "sometimes"
    error: r.yml:1: provider.finishTasksIfDeadlineOver: expected a duration, found the integer 10; add a unit, as in 90s
    "#);
}

#[test]
fn a_worker_needs_the_keys_of_its_implementation() {
    insta::assert_snapshot!(said_of_worker("implementation: generic-worker"), @"
    error: r.yml:2: worker.path: missing; expected a path
    error: r.yml:2: worker.configPath: missing; expected a path
    ");
    insta::assert_snapshot!(said_of_worker("implementation: docker-worker"), @"
    error: r.yml:2: worker.path: missing; expected a path
    error: r.yml:2: worker.configPath: missing; expected a path
    ");
    insta::assert_snapshot!(said_of_worker("implementation: command"), @"error: r.yml:2: worker.path: missing; expected a path");
    insta::assert_snapshot!(said_of_worker("implementation: genericworker"), @r#"error: r.yml:3: worker.implementation: expected one of generic-worker, docker-worker, command, dummy, found "genericworker"; did you mean generic-worker?"#);
    insta::assert_snapshot!(said_of_worker("path: /bin/true"), @"error: r.yml:2: worker.implementation: missing; expected one of generic-worker, docker-worker, command, dummy");
    insta::assert_snapshot!(said_of_worker("implementation: generic-worker\npath: /bin/true\nconfigpath: /etc/c"), @"error: r.yml:5: worker.configpath: unknown key; it is spelled configPath");
}

#[test]
fn a_key_of_another_implementation_is_a_warning() {
    insta::assert_snapshot!(said_of_worker("implementation: dummy\npath: /bin/true\nservice: x\ncredentialsInEnvironment: true"), @"
    warning: r.yml:4: worker.path: unknown key with dummy, ignored; it is for generic-worker, docker-worker, command only; remove it
    warning: r.yml:5: worker.service: unknown key with dummy, ignored; it is for generic-worker only; remove it
    warning: r.yml:6: worker.credentialsInEnvironment: unknown key with dummy, ignored; it is for command only; remove it
    ");
}

#[test]
fn common_worker_keys_are_checked() {
    insta::assert_snapshot!(said_of_worker("implementation: dummy\nargs: one two\nenv: [A]\ncwd: 3.5\nuser: null\nhelloTimeout: 1d 2x\nrestartInPlace: maybe\noomScoreAdj: 1001"), @r#"
    error: r.yml:4: worker.args: expected a list of strings, found a string; write it as in [a, b]
    error: r.yml:5: worker.env: expected an object of strings, found a list
    error: r.yml:6: worker.cwd: expected a path, found the number 3.5; put it in quotes
    error: r.yml:8: worker.helloTimeout: expected a duration, found "1d 2x"; write it as in 90s, 15m, 6h or 1h 30m
    error: r.yml:9: worker.restartInPlace: expected one of auto, true, false, found "maybe"
    error: r.yml:10: worker.oomScoreAdj: expected an integer from -1000 to 1000, found the integer 1001
    "#);
    insta::assert_snapshot!(said_of_worker("implementation: dummy\nargs: [a, 1, 2.5, true, null, [b], 2026-11-23]\nenv: {A: b, B: 1, C: true, \"D=\": x, E: \"\\0\"}"), @r#"
    error: r.yml:4: worker.args[2]: expected a string, found a number; put it in quotes
    error: r.yml:4: worker.args[3]: expected a string, found a boolean; put it in quotes
    error: r.yml:4: worker.args[4]: expected a string, found null
    error: r.yml:4: worker.args[5]: expected a string, found a list
    error: r.yml:4: worker.args[6]: expected a string, found a date; put it in quotes
    error: r.yml:5: worker.env.C: expected a string, found a boolean; put it in quotes
    error: r.yml:5: worker.env."D=": expected a variable's name, which is not empty and has no =; change it
    error: r.yml:5: worker.env.E: expected a string, found one with a NUL character in it; remove it
    "#);
}

#[test]
fn durations_have_a_unit() {
    insta::assert_snapshot!(said_of("startTimeout: 900\n"), @"error: r.yml:3: startTimeout: expected a duration, found the integer 900; add a unit, as in 90s");
    insta::assert_snapshot!(said_of("startTimeout: '900'\n"), @r#"error: r.yml:3: startTimeout: expected a duration, found "900"; add a unit, as in 90s"#);
    insta::assert_snapshot!(said_of("startTimeout: 1.5\n"), @"error: r.yml:3: startTimeout: expected a duration, found the number 1.5; add a unit, as in 90s");
    insta::assert_snapshot!(said_of("startTimeout: 0s\n"), @r#"error: r.yml:3: startTimeout: expected a duration of more than zero, found "0s""#);
    insta::assert_snapshot!(said_of("startTimeout: soon\n"), @r#"error: r.yml:3: startTimeout: expected a duration, found "soon"; write it as in 90s, 15m, 6h or 1h 30m"#);
    insta::assert_snapshot!(said_of("startTimeout: [15m]\n"), @"error: r.yml:3: startTimeout: expected a duration, found a list; write it as in 90s, 15m, 6h or 1h 30m");
    insta::assert_snapshot!(said_of("startTimeout: 99999y\n"), @r#"error: r.yml:3: startTimeout: expected a duration of at most 10 years, found "99999y""#);
    insta::assert_snapshot!(said_of("startTimeout: -5m\n"), @r#"error: r.yml:3: startTimeout: expected a duration, found "-5m"; write it as in 90s, 15m, 6h or 1h 30m"#);
}

#[test]
fn booleans_of_yaml_1_1_are_taken_with_a_warning() {
    insta::assert_snapshot!(said_of("getSecrets: yes\nsupervision: {killDescendants: Off}\n"), @r#"
    warning: r.yml:3: getSecrets: expected true or false, found "yes"; taken as true; write true
    warning: r.yml:4: supervision.killDescendants: expected true or false, found "Off"; taken as false; write false
    "#);
    insta::assert_snapshot!(said_of_worker("implementation: dummy\nrestartInPlace: yes"), @r#"warning: r.yml:4: worker.restartInPlace: expected true or false, found "yes"; taken as true; write true"#);
}

#[test]
fn other_things_are_no_booleans() {
    insta::assert_snapshot!(said_of("getSecrets: 1\nsupervision: {killDescendants: 'true'}\nhost: {shutdownStatic: ja}\n"), @r#"
    error: r.yml:3: getSecrets: expected true or false, found the integer 1
    error: r.yml:4: supervision.killDescendants: expected true or false, found "true"; remove the quotes
    error: r.yml:5: host.shutdownStatic: expected true or false, found "ja"
    "#);
}

#[test]
fn integers_are_in_their_range() {
    insta::assert_snapshot!(said_of("supervision: {maxRestarts: -1, reportOutputLines: '5'}\n"), @r#"
    error: r.yml:3: supervision.maxRestarts: expected an integer from 0 to 1000000, found the integer -1
    error: r.yml:3: supervision.reportOutputLines: expected an integer from 0 to 10000, found "5"; write it without quotes
    "#);
    insta::assert_snapshot!(said_of("supervision: {maxRestarts: 2.0, reportOutputLines: 123456789012345678901234567890}\n"), @"
    error: r.yml:3: supervision.maxRestarts: expected an integer from 0 to 1000000, found the number 2.0
    error: r.yml:3: supervision.reportOutputLines: expected an integer from 0 to 10000, found an integer of more than 64 bits
    ");
}

#[test]
fn the_longest_back_off_is_not_shorter_than_the_first() {
    insta::assert_snapshot!(said_of("supervision:\n  backoff: {initial: 2m}\n"), @"error: r.yml:4: supervision.backoff.max: expected not less than initial (2m), found 1m (the default); raise it");
    insta::assert_snapshot!(said_of("supervision:\n  backoff:\n    initial: 10s\n    max: 5s\n"), @"error: r.yml:6: supervision.backoff.max: expected not less than initial (10s), found 5s; raise it");
    insta::assert_snapshot!(said_of("supervision:\n  backoff: 5s\n"), @r#"error: r.yml:4: supervision.backoff: expected a section, found "5s""#);
}

#[test]
fn commands_are_lists() {
    insta::assert_snapshot!(said_of("host:\n  shutdownCommand: shutdown -h now\n  rebootCommand: []\n"), @r#"
    error: r.yml:4: host.shutdownCommand: expected a list of strings: program and arguments, found "shutdown -h now"; write it as in [a, b]
    error: r.yml:5: host.rebootCommand: expected a program and its arguments, found no program
    "#);
    insta::assert_snapshot!(said_of("host:\n  shutdownCommand: ['']\n  rebootCommand: [reboot, {now: true}]\n"), @"
    error: r.yml:4: host.shutdownCommand: expected a program and its arguments, found no program
    error: r.yml:5: host.rebootCommand[1]: expected a string, found an object
    ");
}

#[test]
fn the_cache_is_a_path() {
    insta::assert_snapshot!(said_of("cacheOverRestarts: true\n"), @"warning: r.yml:3: cacheOverRestarts: expected a path, found the boolean true; taken as /var/lib/start-worker/run.json; write the path");
    insta::assert_snapshot!(said_of("cacheOverRestarts: 3.5\n"), @"error: r.yml:3: cacheOverRestarts: expected a path, or true, found the number 3.5; put it in quotes");
    insta::assert_snapshot!(said_of("cacheOverRestarts: {path: /x}\n"), @"error: r.yml:3: cacheOverRestarts: expected a path, or true, found an object");
    insta::assert_snapshot!(said_of("cacheOverRestarts: false\n"), @"");
    insta::assert_snapshot!(said_of("cacheOverRestarts: ''\n"), @"");
}

#[test]
fn an_unknown_log_format_is_a_warning() {
    insta::assert_snapshot!(said_of("logging: {implementation: stackdriver}\n"), @r#"warning: r.yml:3: logging.implementation: expected one of stdio, json, journald, found "stackdriver"; stdio is used"#);
    insta::assert_snapshot!(said_of("logging: {implementation: Json}\n"), @r#"warning: r.yml:3: logging.implementation: expected one of stdio, json, journald, found "Json"; stdio is used; did you mean json?"#);
    insta::assert_snapshot!(said_of("logging: {implementation: [json]}\n"), @"warning: r.yml:3: logging.implementation: expected one of stdio, json, journald, found a list; stdio is used");
    insta::assert_snapshot!(said_of("logging: stdio\n"), @r#"error: r.yml:3: logging: expected a section, found "stdio""#);
}

#[test]
fn autologin_takes_only_what_can_go_into_the_files() {
    insta::assert_snapshot!(said_of("autologin:\n  displayManager: kdm\n  user: root\n  session: 'a b'\n  tty: ../tty1\n  allowedUsers: ''\n"), @r#"
    error: r.yml:4: autologin.displayManager: expected one of auto, gdm, lightdm, sddm, getty, none, found "kdm"
    error: r.yml:5: autologin.user: expected a user name, found "root"; display managers do not log root in
    error: r.yml:6: autologin.session: expected a session's name, found "a b"
    error: r.yml:7: autologin.tty: expected a terminal's name, found "../tty1"
    error: r.yml:8: autologin.allowedUsers: expected a string, found an empty one; give one
    "#);
    insta::assert_snapshot!(said_of("autologin: {user: Ci, displayManager: lightDM}\n"), @r#"
    error: r.yml:3: autologin.user: expected a user name, found "Ci"; up to 32 of a-z, 0-9, - and _, a letter first
    error: r.yml:3: autologin.displayManager: expected one of auto, gdm, lightdm, sddm, getty, none, found "lightDM"; did you mean lightdm?
    "#);
}

#[test]
fn a_metrics_address_has_a_port() {
    insta::assert_snapshot!(said_of("metrics: {listen: localhost:9464}\n"), @r#"error: r.yml:3: metrics.listen: expected an IP address and a port, found "localhost:9464"; write it as in 127.0.0.1:9464"#);
    insta::assert_snapshot!(said_of("metrics: {listen: 9464}\n"), @"error: r.yml:3: metrics.listen: expected an IP address and a port, found the integer 9464; write it as in 127.0.0.1:9464");
    insta::assert_snapshot!(said_of("metrics: {listen: 127.0.0.1}\n"), @r#"error: r.yml:3: metrics.listen: expected an IP address and a port, found "127.0.0.1"; write it as in 127.0.0.1:9464"#);
}

#[test]
fn a_status_socket_is_a_path() {
    insta::assert_snapshot!(said_of("status: {socket: 3.5}\n"), @"error: r.yml:3: status.socket: expected a path, found the number 3.5; put it in quotes");
    insta::assert_snapshot!(said_of("status: {socket: ''}\n"), @"error: r.yml:3: status.socket: expected a path, found an empty one; give one");
}

#[test]
fn unknown_keys_name_the_key_that_was_probably_meant() {
    insta::assert_snapshot!(said_of("cacheOverRestart: /c\nworkerconfig: {a: 1}\nstopTimeout: 60s\nwhatever: 1\n'odd key': 1\n"), @r#"
    warning: r.yml:3: cacheOverRestart: unknown key, ignored; did you mean cacheOverRestarts?
    warning: r.yml:4: workerconfig: unknown key, ignored; it is spelled workerConfig
    warning: r.yml:5: stopTimeout: unknown key here, ignored; did you mean supervision.stopTimeout?
    warning: r.yml:6: whatever: unknown key, ignored; remove it
    warning: r.yml:7: "odd key": unknown key, ignored; remove it
    "#);
    insta::assert_snapshot!(said_of("supervision: {stoptimeout: 5s, drainTimout: 1h, backof: {}}\nhost: {onReboot: wait}\n"), @"
    warning: r.yml:3: supervision.stoptimeout: unknown key, ignored; it is spelled stopTimeout
    warning: r.yml:3: supervision.drainTimout: unknown key, ignored; did you mean drainTimeout?
    warning: r.yml:3: supervision.backof: unknown key, ignored; did you mean backoff?
    warning: r.yml:4: host.onReboot: unknown key here, ignored; did you mean supervision.onReboot?
    ");
}

#[test]
fn duplicate_keys_are_errors_at_every_level() {
    insta::assert_snapshot!(said("provider: {providerType: google, providerType: aws}\nworker: {implementation: dummy}\nworkerConfig:\n  a:\n    - {b: 1, b: 2}\n  a: 3\ngetSecrets: true\ngetSecrets: false\n"), @"
    error: r.yml:1: provider.providerType: given twice in the same place; remove one
    error: r.yml:5: workerConfig.a[0].b: given twice in the same place; remove one
    error: r.yml:6: workerConfig.a: given twice in the same place; remove one
    error: r.yml:8: getSecrets: given twice in the same place; remove one
    ");
    insta::assert_snapshot!(said_of("workerConfig: {1: a, '1': b}\n"), @"
    warning: r.yml:3: workerConfig.1: expected a string as key; taken as one; put it in quotes
    error: r.yml:3: workerConfig.1: given twice in the same place; remove one
    ");
}

#[test]
fn keys_that_are_no_strings_are_told() {
    insta::assert_snapshot!(said_of("workerConfig:\n  8080: a\n  true: b\n  1.10: c\n  ~: d\n  ? [x]\n  : e\n"), @"
    warning: r.yml:4: workerConfig.8080: expected a string as key; taken as one; put it in quotes
    warning: r.yml:5: workerConfig.true: expected a string as key; taken as one; put it in quotes
    error: r.yml:6: workerConfig: expected a string as key, found something else; put the key in quotes
    error: r.yml:7: workerConfig: expected a string as key, found something else; put the key in quotes
    error: r.yml:8: workerConfig: expected a string as key, found something else; put the key in quotes
    ");
}

#[test]
fn numbers_that_json_cannot_hold_are_errors() {
    insta::assert_snapshot!(said_of("workerConfig:\n  a: 18446744073709551616\n  b: -9223372036854775809\n  c: .nan\n  d: [-.inf, 1]\n  e: 1000000000000000000000000000000000000000000000\n  f: 10000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\n"), @"
    error: r.yml:4: workerConfig.a: an integer of more than 64 bits would lose digits; put it in quotes
    error: r.yml:5: workerConfig.b: an integer of more than 64 bits would lose digits; put it in quotes
    error: r.yml:6: workerConfig.c: expected a finite number, found one that JSON cannot hold; put it in quotes
    error: r.yml:7: workerConfig.d[0]: expected a finite number, found one that JSON cannot hold; put it in quotes
    error: r.yml:8: workerConfig.e: an integer of more than 64 bits would lose digits; put it in quotes
    error: r.yml:9: workerConfig.f: an integer of more than 64 bits would lose digits; put it in quotes
    ");
}

#[test]
fn tags_without_a_meaning_are_errors() {
    insta::assert_snapshot!(said_of("workerConfig:\n  a: !vault hunter2\n  b: !x {c: d}\n  e: !!int hunter2\n"), @"error: r.yml:6: a value does not fit its tag (`!!…`); remove the tag");
    insta::assert_snapshot!(said_of("workerConfig:\n  a: !vault hunter2\n  b: [!x {c: d}]\n"), @"
    error: r.yml:4: workerConfig.a: a value that begins with `!` is taken for one with a tag, which has no meaning here; put it in quotes, or remove the tag
    error: r.yml:5: workerConfig.b[0]: a value that begins with `!` is taken for one with a tag, which has no meaning here; put it in quotes, or remove the tag
    ");
}

#[test]
fn only_mappings_merge() {
    insta::assert_snapshot!(said_of("workerConfig:\n  <<: 3\n  a: {<<: [{b: 1}, c]}\n"), @r#"
    error: r.yml:4: workerConfig."<<": expected a mapping or a list of mappings to merge, found something else
    error: r.yml:5: workerConfig.a."<<": expected a mapping or a list of mappings to merge, found something else
    "#);
}

#[test]
fn what_an_alias_brings_is_told_where_it_stands() {
    insta::assert_snapshot!(said_of("common: &common\n  stopTimeout: 5\nsupervision: *common\n"), @"
    warning: r.yml:3: common: unknown key, ignored; remove it
    error: r.yml:4: supervision.stopTimeout: expected a duration, found the integer 5; add a unit, as in 90s
    ");
    insta::assert_snapshot!(said_of("common: &common\n  stopTimeout: 5\nsupervision:\n  <<: *common\n"), @"
    warning: r.yml:3: common: unknown key, ignored; remove it
    error: r.yml:4: supervision.stopTimeout: expected a duration, found the integer 5; add a unit, as in 90s
    ");
}

#[test]
fn anchors_that_are_given_twice_are_a_warning() {
    insta::assert_snapshot!(said_of("workerConfig:\n  a: &x 1\n  b: *x\n  c: &x 2\n  d: *x\n"), @"warning: r.yml:6: an anchor of this name is given before, and aliases may mix them up; use each name once");
}

#[test]
fn what_yaml_calls_a_string_is_one() {
    for (written, meant) in [
        ("1234", "1234"),
        ("-5", "-5"),
        ("'1.10'", "1.10"),
        ("'2026-11-23'", "2026-11-23"),
        ("\"2026-11-23\"", "2026-11-23"),
        ("&anchor '2026-11-23'", "2026-11-23"),
        ("!!str 1.10", "1.10"),
        ("no", "no"),
        ("2026-11-23-a", "2026-11-23-a"),
        ("012", "012"),
    ] {
        let text =
            provider("static", &[("providerID", "p"), ("staticSecret", SECRET)], &[("workerID", written)]);
        let config::ProviderConfig::Static(fixed) = loaded(text).provider else { unreachable!() };
        assert_eq!(fixed.identity.worker_id, meant, "{written}");
    }
}

#[test]
fn trailing_slashes_of_a_root_url_are_stripped() {
    for url in ["https://tc.example.com", "https://tc.example.com/", "https://tc.example.com///"] {
        let config::ProviderConfig::Standalone(standalone) =
            loaded(provider("standalone", &[("clientID", "c"), ("accessToken", "a")], &[("rootURL", url)]))
                .provider
        else {
            unreachable!()
        };
        assert_eq!(standalone.identity.root_url, "https://tc.example.com");
    }
}

#[test]
fn worker_config_follows_yaml_1_2() {
    let text = "a: yes\nb: on\nc: null\nd: 0x1F\ne: 2026-11-23\nf: 1.0\ng: 012\nh: 1_000\ni: ~\nj:\nk: True\nl: 12:30:45";
    assert_eq!(
        worker_config(text),
        r#"{"a":"yes","b":"on","c":null,"d":31,"e":"2026-11-23","f":1.0,"g":"012","h":"1_000","i":null,"j":null,"k":true,"l":"12:30:45"}"#
    );
}

#[test]
fn integers_of_64_bits_keep_every_digit() {
    let text = "a: 18446744073709551615\nb: -9223372036854775808\nc: 9007199254740993";
    assert_eq!(
        worker_config(text),
        r#"{"a":18446744073709551615,"b":-9223372036854775808,"c":9007199254740993}"#
    );
}

#[test]
fn long_numbers_in_quotes_are_strings() {
    let digits = "1".repeat(400);
    assert_eq!(worker_config(&format!("a: '{digits}'")), format!(r#"{{"a":"{digits}"}}"#));
}

#[test]
fn merge_keys_give_way_to_explicit_keys_and_to_earlier_sources() {
    let text = "one: &one {a: 1, b: 1, c: 1}\ntwo: &two {b: 2, c: 2, d: 2}\nboth: {<<: [*one, *two], c: 3}\nlone: {e: 5, <<: *two}";
    assert_eq!(
        worker_config(text),
        r#"{"both":{"a":1,"b":1,"c":3,"d":2},"lone":{"b":2,"c":2,"d":2,"e":5},"one":{"a":1,"b":1,"c":1},"two":{"b":2,"c":2,"d":2}}"#
    );
}

#[test]
fn a_bom_and_crlf_line_ends_are_accepted() {
    let text = format!("\u{feff}{}", small("workerConfig:\n  a: b\nmystery: 1\n")).replace('\n', "\r\n");
    insta::assert_snapshot!(said(&text), @"warning: r.yml:5: mystery: unknown key, ignored; remove it");
    assert_eq!(loaded(&text).worker_config["a"], "b");
}

#[test]
fn sections_that_hold_nothing_are_as_not_given() {
    let text = small(
        "workerConfig:\nlogging:\nsupervision:\n  backoff:\n  stopTimeout:\nhost: {}\nautologin:\nstatus:\nmetrics:\nstartTimeout:\ncacheOverRestarts:\n",
    );
    assert_eq!(said(&text), "");
    let config = loaded(text);
    assert_eq!(config.supervision, config::Supervision::default());
    assert_eq!(config.status_socket, config::StatusSocket::Default);
}

#[test]
fn a_null_socket_is_none() {
    assert_eq!(loaded(small("status: {socket: null}\n")).status_socket, config::StatusSocket::None);
    assert_eq!(loaded(small("status: {socket: /s}\n")).status_socket, config::StatusSocket::At("/s".into()));
}

#[test]
fn a_windows_set_up_loads_without_a_path() {
    let worker = fixture("windows-azure.yml").config.worker;
    let config::Implementation::GenericWorker { path, .. } = worker.implementation else { unreachable!() };
    assert_eq!(path, None);
}

#[test]
fn what_nests_too_deeply_or_grows_too_large_is_an_error() {
    let bomb = (0..12).fold("a0: &a0 [x]\n".to_owned(), |text, level| {
        let items = vec![format!("*a{level}"); 10].join(",");
        text + &format!("a{}: &a{} [{items}]\n", level + 1, level + 1)
    });
    insta::assert_snapshot!(said_of(&bomb), @"error: r.yml: more than 200000 values once aliases are resolved; use fewer");
    insta::assert_snapshot!(said_of(&format!("workerConfig: {}\n", "[".repeat(1000))), @"error: r.yml:3: nested too deeply; at most 128 levels");
    insta::assert_snapshot!(said_of(&format!("workerConfig: {}{}\n", "[".repeat(1000), "]".repeat(1000))), @"error: r.yml:3: nested too deeply; at most 128 levels");
    insta::assert_snapshot!(said_of(&format!("workerConfig: {}\n", "[".repeat(500_000))), @"error: r.yml:3: too many brackets are open; close them");
    insta::assert_snapshot!(said_of(&format!("workerConfig:\n  {}x\n", "- ".repeat(300))), @"error: r.yml:4: nested too deeply; at most 128 levels");
    insta::assert_snapshot!(said_of("workerConfig: &self [*self, *self]\n"), @"error: r.yml:3: nested too deeply; at most 128 levels");
}

#[test]
fn a_long_text_with_many_aliases_is_an_error_whatever_they_stand_for() {
    let long = "x".repeat(200_000);
    let times = |what: &str| vec![what; 50_000].join(",");
    let aliases = times("*x");
    let keys = (0..200).map(|number| format!("{{*x : {number}}}")).collect::<Vec<_>>().join(",");
    let merged = times("{<<: *x}");
    for text in [
        format!("workerConfig: {{a: &x {long}, b: [{aliases}]}}\n"),
        format!("workerConfig: {{a: &x \"{long}\", b: [{aliases}]}}\n"),
        format!("workerConfig: {{a: &x {long}, b: [{keys}]}}\n"),
        format!("workerConfig: {{a: &x {{k: {long}}}, b: [{merged}]}}\n"),
        format!("workerConfig: {{a: &x {{? {long} : 1}}, b: [{merged}]}}\n"),
        format!("workerConfig: {{a: &x [{long}, {long}], b: [{aliases}]}}\n"),
        format!("workerConfig: {{a: &x !{long} y, b: [{aliases}]}}\n"),
        format!("workerConfig: {{a: &x {long}, b: &y [*x, *x, *x], c: [{}]}}\n", times("*y")),
    ] {
        let said = said_of(&text);
        assert!(
            said.contains("more than 8388608 bytes of text once aliases are resolved"),
            "{}",
            said.get(..300).unwrap_or(&said)
        );
    }
    let short = said_of(&format!("workerConfig: {{a: &x {}, b: [{aliases}]}}\n", "x".repeat(100)));
    assert_eq!(short, "");
}

#[test]
fn diagnostics_of_aliases_are_bounded() {
    let deep = (0..100)
        .fold("{1.5: x}".to_owned(), |inner, level| format!("{{{}{level}: {inner}}}", "k".repeat(78)));
    let said = said_of(&format!("workerConfig: {{a: &x {deep}, b: [{}]}}\n", vec!["*x"; 900].join(",")));
    assert!(said.len() < 6 << 20, "{}", said.len());
    assert!(said.contains("more of this kind than can be told"));
}

#[test]
fn a_large_file_of_faults_is_told_in_a_moment() {
    let many: Vec<_> = (0..10_000).map(|number| format!("key{number}: x")).collect();
    assert_eq!(said_of(&many.join("\n")).lines().count(), 10_000);
    let numbers: Vec<_> = (0..10_000).map(|number| format!("{number}.5")).collect();
    assert_eq!(
        said_of(&format!("host: {{shutdownCommand: [{}]}}\n", numbers.join(", "))).lines().count(),
        10_000
    );
}

#[test]
fn the_first_fault_and_their_number_stand_for_all() {
    let faults = config::parse(Path::new("r.yml"), FIVE_FAULTS.as_bytes()).expect_err("faults");
    insta::assert_snapshot!(faults, @"r.yml:4: worker.helloTimeout: expected a duration, found the integer 30; add a unit, as in 90s (and 4 more)");
    let fault = config::parse(Path::new("r.yml"), b"nothing").expect_err("a fault");
    insta::assert_snapshot!(fault, @"r.yml:1: expected sections, found a string; begin with `provider:`");
}

/// Writes a configuration with this mode, and loads it.
fn load_with_mode(text: &str, mode: u32, access: Access) -> (String, u32) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("r.yml");
    std::fs::write(&path, text).expect("a file");
    std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
    let said = match config::load(&path, access) {
        Ok(loaded) => lines(&loaded.warnings),
        Err(LoadError::Faults(faults)) => lines(&faults.diagnostics),
        Err(error) => format!("{:?}: {error}", error.kind()),
    };
    let mode = std::fs::metadata(&path).expect("the file").mode() & 0o7777;
    (said.replace(folder.path().to_str().expect("a path"), "/etc"), mode)
}

#[test]
fn a_file_with_the_placeholder_of_a_demonstration_is_tightened_without_a_warning() {
    let demo = include_str!("../config-examples/demo.yml");
    assert_eq!(load_with_mode(demo, 0o644, Access::Tighten), (String::new(), 0o600));
    let real = demo.replace("placeholder", "a-token");
    let (said, _) = load_with_mode(&real, 0o644, Access::Tighten);
    assert!(said.starts_with("warning: /etc/r.yml: mode was 0644"), "{said}");
}

#[test]
fn a_file_that_others_can_read_is_tightened_with_a_warning() {
    let (said, mode) = load_with_mode(&small(""), 0o644, Access::Tighten);
    insta::assert_snapshot!(said, @"warning: /etc/r.yml: mode was 0644, others had access: it is 0600 now; rotate the secrets that are in it");
    assert_eq!(mode, 0o600);
}

#[test]
fn looking_at_a_file_that_others_can_read_changes_nothing() {
    let (said, mode) = load_with_mode(&small(""), 0o640, Access::Observe);
    insta::assert_snapshot!(said, @"warning: /etc/r.yml: mode is 0640, others have access: chmod it 0600 and rotate the secrets that are in it");
    assert_eq!(mode, 0o640);
}

#[test]
fn a_warning_about_the_file_comes_with_the_faults() {
    let (said, _) = load_with_mode(&small("startTimeout: 5"), 0o604, Access::Tighten);
    insta::assert_snapshot!(said, @"
    warning: /etc/r.yml: mode was 0604, others had access: it is 0600 now; rotate the secrets that are in it
    error: /etc/r.yml:3: startTimeout: expected a duration, found the integer 5; add a unit, as in 90s
    ");
}

#[test]
fn a_file_that_its_owner_may_not_read_is_a_matter_of_permissions() {
    let (said, _) = load_with_mode(&small(""), 0o200, Access::Tighten);
    assert!(said.starts_with("Permissions: "), "{said}");
}

#[test]
fn a_missing_file_is_an_invalid_configuration() {
    let error = config::load(Path::new("/nonexistent/r.yml"), Access::Tighten).expect_err("no file");
    assert_eq!(error.kind(), LoadErrorKind::Invalid);
    insta::assert_snapshot!(error, @"cannot read the runner configuration: /nonexistent/r.yml: no such file; create it, or give the right path");
}

#[test]
fn a_file_of_more_than_a_mebibyte_is_no_runner_configuration() {
    let (said, _) = load_with_mode(&"#".repeat((1 << 20) + 1), 0o600, Access::Tighten);
    insta::assert_snapshot!(said, @"Invalid: cannot read the runner configuration: /etc/r.yml: larger than 1048576 bytes; give the right path");
}

#[test]
fn a_force_command_follows_the_default_command_only_unless_it_is_named() {
    let host = |section: &str| {
        let host = config::parse(Path::new("r.yml"), small(section).as_bytes()).unwrap().config.host;
        [host.force_shutdown_command, host.force_reboot_command]
            .map(|command| command.map(|words| words.join(" ")))
    };
    let both = [Some("systemctl poweroff --force".to_owned()), Some("systemctl reboot --force".to_owned())];
    assert_eq!(host(""), both);
    assert_eq!(host("host: {shutdownCommand: [shutdown, -h, now]}\n"), both);
    assert_eq!(host("host: {shutdownCommand: [a], rebootCommand: [b]}\n"), [None, None]);
    assert_eq!(host("host: {shutdownCommand: [a]}\n"), [None, both[1].clone()]);
    let named = host("host: {shutdownCommand: [a], forceShutdownCommand: [c, d], forceRebootCommand: [e]}\n");
    assert_eq!(named, [Some("c d".to_owned()), Some("e".to_owned())]);
}
