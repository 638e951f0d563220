//! Runner configurations: an error names the file and no secret, and a parsed configuration survives writing and
//! reading.

use std::path::Path;

use start_worker::config::{self, effective};

const FILE: &str = "/etc/runner.yml";

/// Stands in these inputs for whatever is secret.
const SECRET: &str = "hunter2hunter2hunter2";

/// Keys whose values are secret.
const KEYS: [&str; 4] = ["accessToken", "staticSecret", "certificate", "PASSWORD"];

/// Parses twice, and parses the effective configuration once more.
pub fn check(data: &[u8]) {
    let parsed = config::parse(Path::new(FILE), data);
    let again = config::parse(Path::new(FILE), data);
    let diagnostics = match (&parsed, &again) {
        (Ok(loaded), Ok(again)) => {
            assert_eq!(format!("{:?}", loaded.config), format!("{:?}", again.config));
            assert_eq!(loaded.warnings, again.warnings);
            written_and_read(&loaded.config);
            &loaded.warnings
        }
        (Err(faults), Err(again)) => {
            assert_eq!(faults, again);
            assert!(faults.errors().next().is_some());
            &faults.diagnostics
        }
        _ => panic!("once it can be read, once it cannot"),
    };
    let hidden = secrets_are_in_their_places(data);
    for diagnostic in diagnostics {
        let line = diagnostic.to_string();
        assert!(line.starts_with(FILE), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(!line.ends_with('.'), "{line:?}");
        assert!(!hidden || !line.contains(SECRET), "{line:?}");
    }
    if let Ok(loaded) = &parsed
        && hidden
    {
        assert!(!format!("{:?}", loaded.config.provider).contains(SECRET));
        assert!(!effective::effective(&loaded.config, false).to_string().contains(SECRET));
    }
}

/// Returns true if secrets are recognisable as secrets: each is the whole value of a key on one line.
fn secrets_are_in_their_places(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    let in_place = |line: &str| {
        line.split_once(": ").is_some_and(|(key, value)| {
            KEYS.contains(&key.trim_start_matches([' ', '-'])) && value.trim_matches(['"', '\'']) == SECRET
        })
    };
    text.contains(SECRET) && text.split('\n').all(|line| !line.contains(SECRET) || in_place(line))
}

/// `check --effective` writes a runner configuration with the same meaning.
fn written_and_read(config: &config::RunnerConfig) {
    let value = effective::effective(config, true);
    // But for a Windows set-up, which has no path: it loads, and starts nowhere here.
    if value["worker"]["implementation"] == "generic-worker" && value["worker"]["path"].is_null() {
        return;
    }
    let text = config::to_yaml(&value);
    match config::parse(Path::new(FILE), text.as_bytes()) {
        Ok(again) => assert_eq!(effective::effective(&again.config, true), value, "{text}"),
        Err(faults) => panic!("{faults}\n{text}"),
    }
}
