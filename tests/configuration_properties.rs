//! Properties of reading a runner configuration, whatever the file holds.

use std::path::Path;

use proptest::prelude::*;
use start_worker::config;

/// Parts of configurations.
const PIECES: &[&str] = &[
    "provider",
    "worker",
    "workerConfig",
    "providerType",
    "static",
    "implementation",
    "dummy",
    ":",
    ": ",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "? ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "'",
    "\"",
    "|",
    ">",
    "|-\n  ",
    "&a ",
    "*a",
    "&a",
    "<<: ",
    "!x ",
    "!!int ",
    "!!str ",
    "!!null ",
    "!",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "# c\n",
    "~",
    "null",
    "1",
    "-",
    "0x1F",
    "1.10",
    ".nan",
    "2026-11-23",
    "99999999999999999999999",
    "\\0",
    "\\u0041",
    "\r\n",
    "\t",
    "\u{85}",
    "\u{2028}",
    "é",
    "\u{feff}",
    "\u{1f600}",
    "a",
    "@",
    "`",
];

/// Text made of these.
fn yaml_like() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(PIECES);
    prop::collection::vec(pieces, 0..60).prop_map(|pieces| pieces.concat())
}

/// Parses, and checks the properties of every diagnostic.
fn parse(text: &[u8]) -> Result<(), TestCaseError> {
    let diagnostics = match config::parse(Path::new("r.yml"), text) {
        Ok(loaded) => loaded.warnings,
        Err(faults) => {
            prop_assert!(faults.errors().next().is_some());
            faults.diagnostics
        }
    };
    let lines = 1 + text.split(|byte| *byte == b'\n').count();
    for diagnostic in diagnostics {
        let line = diagnostic.to_string();
        prop_assert!(!line.contains(char::is_control), "{:?}", line);
        prop_assert!(!line.ends_with('.'), "{:?}", line);
        // Other line breaks than \n count for YAML 1.1: the text of these tests has few.
        prop_assert!(diagnostic.line.is_none_or(|line| line <= lines + text.len()), "{:?}", line);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        parse(&bytes)?;
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        parse(text.as_bytes())?;
    }

    #[test]
    fn nothing_like_yaml_makes_it_panic(text in yaml_like()) {
        parse(text.as_bytes())?;
        parse(format!("provider: {{providerType: aws}}\nworker: {{implementation: dummy}}\n{text}").as_bytes())?;
        let indented = text.replace('\n', "\n    ");
        parse(format!("provider:\n  providerType: static\n  workerLocation:\n    {indented}\n").as_bytes())?;
    }

    #[test]
    fn integers_of_64_bits_survive(signed in any::<i64>(), unsigned in any::<u64>()) {
        let text = format!("provider: {{providerType: aws}}\nworker: {{implementation: dummy}}\nworkerConfig: {{a: {signed}, b: {unsigned}}}\n");
        let config = config::parse(Path::new("r.yml"), text.as_bytes())?.config.worker_config;
        prop_assert_eq!(config["a"].as_i64(), Some(signed));
        prop_assert_eq!(config["b"].as_u64(), Some(unsigned));
    }

    #[test]
    fn json_objects_come_back_as_they_were(value in json()) {
        let text = format!("{{\"provider\": {{\"providerType\": \"aws\"}}, \"worker\": {{\"implementation\": \"dummy\"}}, \"workerConfig\": {{\"k\": {value}}}}}");
        let config = config::parse(Path::new("r.json"), text.as_bytes())?.config.worker_config;
        prop_assert_eq!(&config["k"], &value);
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1e15..1e15).prop_map(|number: f64| number.into()),
        "[ -~äöü]{0,20}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map("[a-z]{1,8}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}
