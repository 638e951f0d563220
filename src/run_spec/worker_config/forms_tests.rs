//! Tests of the forms of providers and secrets, and of numbers in outside JSON.

use serde_json::json;

use super::*;

fn object(value: Value) -> Object {
    serde_json::from_value(value).unwrap()
}

fn warnings(taken: &Taken) -> Vec<String> {
    taken.warnings.iter().map(ToString::to_string).collect()
}

fn provider(value: Value) -> Taken {
    take_provider_form(value, "generic-worker").unwrap()
}

fn secret(value: Value) -> Taken {
    take_secret_form(value, "worker-pool:a/b").unwrap()
}

fn file() -> Value {
    json!({"path": "/p", "content": "AA==", "encoding": "base64", "format": "file", "description": "d"})
}

#[test]
fn the_provider_form_is_taken_when_its_key_is_the_only_one() {
    let taken = provider(json!({"genericWorker": {"config": {"a": 1}, "files": [file()]}}));
    assert_eq!((taken.config, taken.files.len()), (object(json!({"a": 1})), 1));
    assert_eq!((taken.files[0].path.as_str(), taken.files[0].description.as_str()), ("/p", "d"));
    assert_eq!(taken.warnings, []);
    for absent in [json!({}), json!({"config": null}), json!({"files": null}), json!(null)] {
        let taken = provider(json!({"genericWorker": absent}));
        assert!(taken.config.is_empty() && taken.files.is_empty() && taken.warnings.is_empty());
    }
    let docker = take_provider_form(json!({"dockerWorker": {"config": {"a": 1}}}), "docker-worker").unwrap();
    assert_eq!(docker.config, object(json!({"a": 1})));
    let command = take_provider_form(json!({"command": {"config": {"a": 1}}}), "command").unwrap();
    assert_eq!(command.config, object(json!({"a": 1})));
}

#[test]
fn a_configuration_is_found_where_it_would_be_taken() {
    let found = |value: &Value| find_provider_config(value, "generic-worker").cloned();
    for value in [
        json!({"genericWorker": {"config": {"a": 1}, "files": [file()]}}),
        json!({"genericWorker": {"config": {"a": 1}}, "b": 2}),
        json!({"dockerWorker": {"config": {"a": 1}}}),
        json!({"deploymentId": "d"}),
        json!({}),
    ] {
        assert_eq!(found(&value), Some(provider(value.clone()).config), "{value}");
    }
    let bad_files = json!({"genericWorker": {"config": {"a": 1}, "files": [{}]}});
    assert_eq!(found(&bad_files), Some(object(json!({"a": 1}))));
    let inner = [json!(null), json!({}), json!({"config": null}), json!({"config": [1]}), json!("d")];
    let none = inner.map(|inner| json!({"genericWorker": inner}));
    for value in none.into_iter().chain([json!(null), json!([]), json!("d")]) {
        assert_eq!(found(&value), None, "{value}");
    }
}

#[test]
fn everything_else_from_a_provider_is_the_flat_form() {
    for flat in [json!({}), json!({"a": 1}), json!({"deploymentId": "d", "shutdown": {"enabled": true}})] {
        let taken = provider(flat.clone());
        assert_eq!((taken.config, taken.files.len()), (object(flat), 0));
        assert_eq!(taken.warnings, []);
    }
}

#[test]
fn a_provider_form_that_only_nearly_is_one_is_taken_as_flat_with_a_warning() {
    let meant = "taken as a key of the worker's configuration, as all that is beside it \
                 (`genericWorker` must be the only key, with `config` and `files` in it)";
    for (given, key) in [
        (json!({"genericWorker": {"config": {}}, "extra": 1}), "genericWorker"),
        (json!({"generic-worker": {"config": {}}}), "generic-worker"),
        (json!({"genericworker": {"config": {}}}), "genericworker"),
        (json!({"config": {"a": 1}}), "config"),
        (json!({"file": []}), "file"),
    ] {
        let taken = provider(given.clone());
        assert_eq!(warnings(&taken), [format!("workerConfig.{key}: {meant}")]);
        assert_eq!(taken.config, object(given));
    }
}

#[test]
fn a_pool_that_was_made_for_another_implementation_is_taken_as_flat_with_a_warning() {
    let taken = take_provider_form(json!({"genericWorker": {"config": {"a": 1}}}), "docker-worker").unwrap();
    assert_eq!(taken.config.len(), 1);
    assert_eq!(
        warnings(&taken),
        [
            "workerConfig.genericWorker: taken as a key of the worker's configuration, as all that is beside it \
            (`dockerWorker` must be the only key, with `config` and `files` in it)"
        ]
    );
}

#[test]
fn an_unknown_key_within_the_provider_form_is_ignored_with_a_warning() {
    let taken = provider(json!({"genericWorker": {"config": {"a": 1}, "configs": {"b": 2}, "x": 1}}));
    assert_eq!(taken.config, object(json!({"a": 1})));
    let expected = ["configs", "x"].map(|key| {
        format!("workerConfig.genericWorker.{key}: ignored: only `config` and `files` are known here")
    });
    assert_eq!(warnings(&taken), expected);
}

#[test]
fn the_secret_form_has_no_other_keys() {
    let taken = secret(json!({"config": {"a": 1}, "files": [file()]}));
    assert_eq!((taken.config, taken.files.len(), taken.warnings.len()), (object(json!({"a": 1})), 1, 0));
    for absent in [json!({}), json!({"config": null}), json!({"config": null, "files": null})] {
        let taken = secret(absent);
        assert!(taken.config.is_empty() && taken.files.is_empty() && taken.warnings.is_empty());
    }
}

#[test]
fn every_other_secret_is_flat_and_a_near_miss_is_said() {
    let taken = secret(json!({"livelogSecret": "s", "nested": {"config": {}}}));
    assert_eq!((taken.config.len(), taken.warnings.len()), (2, 0));
    for (given, doubtful) in [
        (json!({"config": {"a": "password"}, "note": "x"}), &["config"][..]),
        (json!({"config": {"a": 1}, "file": []}), &["config", "file"]),
        (json!({"configs": {"a": 1}}), &["configs"]),
        (json!({"Config": {"a": 1}, "filse": 1, "fles": 1}), &["Config", "fles"]),
        (json!({"config": null, "a": 1}), &["config"]),
    ] {
        let taken = secret(given.clone());
        let expected: Vec<_> = doubtful
            .iter()
            .map(|key| {
                format!(
                    "secret worker-pool:a/b: {key}: taken as a key of the worker's configuration, as all that is \
                     beside it (`config` and `files` must be the only keys)"
                )
            })
            .collect();
        assert_eq!(warnings(&taken), expected);
        assert_eq!(taken.config, object(given));
    }
}

#[test]
fn what_is_not_an_object_is_an_error_that_shows_no_value() {
    let provider = |value| take_provider_form(value, "generic-worker").unwrap_err().to_string();
    let secret = |value| take_secret_form(value, "worker-pool:a/b").unwrap_err().to_string();
    for (error, expected) in [
        (provider(json!([1])), "workerConfig must be an object, but is an array"),
        (provider(json!(null)), "workerConfig must be an object, but is null"),
        (
            provider(json!({"genericWorker": 5})),
            "workerConfig.genericWorker must be an object, but is a number",
        ),
        (
            provider(json!({"genericWorker": {"config": "password"}})),
            "workerConfig.genericWorker.config must be an object, but is a string",
        ),
        (
            provider(json!({"genericWorker": {"files": {}}})),
            "workerConfig.genericWorker.files must be an array, but is an object",
        ),
        (secret(json!("password")), "secret worker-pool:a/b must be an object, but is a string"),
        (
            secret(json!({"config": true})),
            "secret worker-pool:a/b: config must be an object, but is a boolean",
        ),
        (
            secret(json!({"files": [1]})),
            "secret worker-pool:a/b: files[0] must be an object, but is a number",
        ),
        (
            secret(json!({"files": [{"path": "/p", "content": "AA=="}]})),
            "secret worker-pool:a/b: files[0] has no `encoding` (path \"/p\")",
        ),
        (
            secret(json!({"files": [file(), {"description": "d", "content": "AA=="}]})),
            "secret worker-pool:a/b: files[1] has no `path` (description \"d\")",
        ),
        (
            secret(json!({"files": [{"path": "/p", "description": "d", "content": ["password"]}]})),
            "secret worker-pool:a/b: files[0].content (path \"/p\", description \"d\") must be a string, but is an array",
        ),
    ] {
        assert_eq!(error, expected);
    }
}

#[test]
fn a_file_may_be_without_description_and_its_unknown_keys_are_said() {
    let taken = secret(json!({"files": [
        {"path": "/p", "content": "", "encoding": "rot13", "format": "tar", "description": null, "mode": 420},
    ]}));
    assert_eq!((taken.files[0].description.as_str(), taken.files[0].encoding.as_str()), ("", "rot13"));
    assert_eq!(warnings(&taken), ["secret worker-pool:a/b: files[0].mode: ignored: unknown"]);
}

#[test]
fn integers_beyond_64_bits_become_floats_and_are_named() {
    let text = r#" {"a": [1, 18446744073709551615, 18446744073709551616], "b.c": {"d": -9223372036854775809},
        "e": 1000000000000000000000000, "f": 1e24, "g": 1.5, "h": -9223372036854775808, "s": "99999999999999999999"} "#;
    let (value, long) = parse_outside_json(text).unwrap();
    assert_eq!(long, ["a[2]", "\"b.c\".d", "e"]);
    let expected =
        r#"{"a":[1,18446744073709551615,1.8446744073709552e+19],"b.c":{"d":-9.223372036854776e+18},"#;
    assert!(value.to_string().starts_with(expected), "{value}");
    assert_eq!(value["h"], json!(i64::MIN));
}

#[test]
fn outside_json_of_any_depth_or_kind_is_a_value_or_an_error() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse_outside_json(&deep(100)).is_ok());
    for bad in [
        deep(100_000),
        "[".repeat(100_000),
        String::new(),
        "{\"a\":}".to_owned(),
        format!("1{}", "0".repeat(400)),
    ] {
        assert!(parse_outside_json(&bad).is_err());
    }
    for scalar in ["null", "true", "\"x\"", "5", "-0", "0.0"] {
        assert_eq!(parse_outside_json(scalar).unwrap().1, Vec::<String>::new());
    }
}

#[test]
fn a_float_is_read_to_the_last_digit() {
    // Without serde_json's float_roundtrip, these would end in other digits.
    for text in ["447.33104243076195", "127.88888006135119", "5e-324", "1e+300", "-0.0", "1.0"] {
        assert_eq!(parse_outside_json(text).unwrap().0.to_string(), text);
    }
}
