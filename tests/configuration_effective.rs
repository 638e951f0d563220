//! The runner configuration in effect: complete, masked, and a configuration itself.

use std::path::Path;

use serde_json::{Map, Value, json};
use start_worker::config::effective::effective;
use start_worker::config::{self, KeyInfo, RunnerConfig};

const SECRET: &str = "hunter2hunter2hunter2hunter2hunter2hunter2hu";

fn parse(value: &Value) -> Result<config::Loaded, config::Faults> {
    config::parse(Path::new("r.yml"), config::to_yaml(value).as_bytes())
}

fn load(value: &Value) -> RunnerConfig {
    parse(value).expect("a configuration that loads").config
}

/// One configuration for every provider type and every implementation, with their required keys.
fn all_variants() -> Vec<(Vec<&'static str>, Value)> {
    let mut variants = Vec::new();
    for provider in ["standalone", "static", "aws", "azure", "google", "aws-provisioner"] {
        for implementation in ["generic-worker", "docker-worker", "command", "dummy"] {
            let mut value = json!({
                "provider": {"providerType": provider},
                "worker": {"implementation": implementation},
            });
            for key in config::known_keys().iter().filter(|key| key.default == "required") {
                let has = |variant| key.only.contains(&variant);
                if has(provider) || has(implementation) {
                    set(&mut value, &key.path, good(&key.path));
                }
            }
            variants.push((vec![provider, implementation], value));
        }
    }
    variants
}

fn good(path: &str) -> Value {
    json!(match path {
        "provider.rootURL" => "https://tc.example.com",
        "provider.workerPoolID" => "a/b",
        "provider.staticSecret" => SECRET,
        _ => "/x",
    })
}

fn set(value: &mut Value, path: &str, to: Value) {
    let parts: Vec<&str> = path.split('.').collect();
    let (last, sections) = parts.split_last().expect("a key");
    let mut section = value;
    for name in sections {
        let entry = section.as_object_mut().expect("a section").entry(*name);
        section = entry.or_insert_with(|| Value::Object(Map::new()));
    }
    section[*last] = to;
}

fn is_for(key: &KeyInfo, variant: &[&str]) -> bool {
    key.only.is_empty() || key.only.iter().any(|only| variant.contains(only))
}

#[test]
fn every_known_key_is_read() {
    for (variant, value) in all_variants() {
        for key in config::known_keys().iter().filter(|key| is_for(key, &variant)) {
            let mut ill_typed = value.clone();
            set(&mut ill_typed, &key.path, json!([[]]));
            let said = match parse(&ill_typed) {
                Ok(loaded) => loaded.warnings,
                Err(faults) => faults.diagnostics,
            };
            let read = said.iter().any(|diagnostic| {
                diagnostic.path.starts_with(&key.path) && diagnostic.message.starts_with("expected ")
            });
            assert!(read, "{} with {variant:?}: {said:#?}", key.path);
        }
    }
}

#[test]
fn every_known_key_is_in_effect() {
    // Keys for Windows are accepted and dropped.
    let windows = ["worker.service", "worker.protocolPipe"];
    for (variant, mut value) in all_variants() {
        for hook in ["beforeStart", "afterRun"] {
            set(&mut value, &format!("hooks.{hook}"), json!({"command": ["true"]}));
        }
        let effective = effective(&load(&value), false);
        for key in config::known_keys().iter().filter(|key| is_for(key, &variant)) {
            let there = effective.pointer(&format!("/{}", key.path.replace('.', "/"))).is_some();
            assert!(there || windows.contains(&key.path.as_str()), "{} with {variant:?}", key.path);
        }
    }
}

#[test]
fn what_is_in_effect_has_the_same_effect() {
    for (variant, value) in all_variants() {
        let first = effective(&load(&value), true);
        let again = parse(&first).unwrap_or_else(|faults| unreachable!("{variant:?}: {faults}"));
        assert_eq!(again.warnings, [], "{variant:?}");
        assert_eq!(effective(&again.config, true), first, "{variant:?}");
    }
}

#[test]
fn the_defaults_are_those_of_the_types() {
    for (_, value) in all_variants() {
        let config = load(&value);
        assert_eq!(config.supervision, config::Supervision::default());
        assert_eq!(config.deployment, config::Deployment::default());
        assert_eq!(config.host, config::HostSettings::default());
        assert_eq!(config.autologin, config::Autologin::default());
        assert_eq!(config.worker.hello_timeout.as_secs(), 30);
        assert_eq!(config.worker.oom_score_adj, 0);
        assert!(config.get_secrets);
    }
}

fn with_secrets() -> Value {
    json!({
        "provider": {
            "providerType": "standalone", "rootURL": "https://tc.example.com/", "clientID": "project/ci",
            "accessToken": SECRET, "certificate": format!(r#"{{"signature": "{SECRET}"}}"#),
            "workerPoolID": "a/b", "workerGroup": "g", "workerID": "w", "providerMetadata": {"bmcPassword": SECRET},
        },
        "worker": {
            "implementation": "command", "path": "/bin/work", "env": {"GITHUB_TOKEN": SECRET, "LANG": "C"},
            "credentialsInEnvironment": true,
        },
        "workerConfig": {
            "livelogSecret": SECRET, "dockerWorkerPrivateKey": "/etc/taskcluster/key", "passwords": {"a": [SECRET]},
            "tokenLifetime": 3600, "publicKey": "shown",
        },
        "status": {"socket": null},
    })
}

#[test]
fn secrets_are_masked() {
    let mut effective = effective(&load(&with_secrets()), false);
    let shown = config::to_yaml(&effective);
    assert!(!shown.contains("hunter2"), "{shown}");
    for section in
        ["supervision", "deployment", "host", "hooks", "events", "autologin", "logging", "status", "metrics"]
    {
        effective[section] = json!("…");
    }
    insta::assert_snapshot!(config::to_yaml(&effective), @"
    autologin: …
    cacheOverRestarts: null
    deployment: …
    events: …
    getSecrets: true
    hooks: …
    host: …
    logging: …
    metrics: …
    provider:
      accessToken: (masked)
      certificate: (masked)
      clientID: project/ci
      providerMetadata:
        bmcPassword: (masked)
      providerType: standalone
      rootURL: https://tc.example.com
      workerGroup: g
      workerID: w
      workerLocation: {}
      workerPoolID: a/b
    startTimeout: null
    status: …
    supervision: …
    worker:
      args: []
      configPath: null
      credentialsInEnvironment: true
      cwd: null
      env:
        GITHUB_TOKEN: (masked)
        LANG: C
      helloTimeout: 30s
      implementation: command
      oomScoreAdj: 0
      path: /bin/work
      restartInPlace: auto
      user: null
    workerConfig:
      dockerWorkerPrivateKey: /etc/taskcluster/key
      livelogSecret: (masked)
      passwords:
        a:
        - (masked)
      publicKey: shown
      tokenLifetime: 3600
    ");
}

#[test]
fn secrets_are_shown_to_who_asks_for_them() {
    let shown = effective(&load(&with_secrets()), true);
    assert_eq!(shown["provider"]["accessToken"], SECRET);
    assert_eq!(shown["worker"]["env"]["GITHUB_TOKEN"], SECRET);
    assert_eq!(shown["workerConfig"]["passwords"]["a"][0], SECRET);
}

#[test]
fn a_configuration_is_not_shown_with_its_secrets_by_mistake() {
    let mut value = with_secrets();
    set(&mut value, "provider.providerMetadata", json!({}));
    set(&mut value, "worker.env", json!({}));
    set(&mut value, "workerConfig", json!({}));
    let shown = format!("{:?}", load(&value));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn clouds_stop_trying_to_start_and_others_do_not() {
    let timeout = |provider: Value| {
        let value = json!({"provider": provider, "worker": {"implementation": "dummy"}});
        effective(&load(&value), false)["startTimeout"].clone()
    };
    assert_eq!(timeout(json!({"providerType": "google"})), "15m");
    let (_, fixed) =
        all_variants().into_iter().find(|(variant, _)| variant.contains(&"static")).expect("static");
    assert_eq!(timeout(fixed["provider"].clone()), Value::Null);
}
