//! packaging/Containerfile, and the figures of docs/containers.md.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use start_worker::config::Supervision;

const PAGE: &str = include_str!("../../docs/containers.md");
const FILE: &str = include_str!("../../packaging/Containerfile");
const MANIFEST: &str = include_str!("../../Cargo.toml");
const IGNORED: &str = include_str!("../../.dockerignore");

/// All that the format knows: <https://docs.docker.com/reference/dockerfile/>.
const INSTRUCTIONS: [&str; 17] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Its instructions, each with its arguments, on one line.
fn instructions() -> Vec<(&'static str, String)> {
    let lines: Vec<&str> = FILE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let text = lines.join("\n").replace("\\\n", " ");
    let parsed = text.lines().map(|line| {
        let (name, arguments) = line.split_once(' ').expect("an instruction and its arguments");
        let known = INSTRUCTIONS.iter().find(|known| **known == name);
        (*known.unwrap_or_else(|| panic!("no instruction: {name}")), arguments.trim().to_owned())
    });
    parsed.collect()
}

/// The arguments of the last instruction of this name, which is the one that counts.
fn last(name: &str) -> String {
    let found = instructions().into_iter().rev().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no {name}")).1
}

fn words(list: &str) -> Vec<String> {
    serde_json::from_str(list).expect("an instruction in its JSON form, which needs no shell")
}

#[test]
fn the_containerfile_is_built_from_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut stages = BTreeSet::new();
    let mut copied = BTreeSet::new();
    let mut from = 0;
    for (name, arguments) in instructions() {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        match name {
            "FROM" => {
                from += 1;
                if let [_, "AS", stage] = arguments[..] {
                    stages.insert(stage.to_owned());
                }
            }
            "COPY" => match arguments[0].strip_prefix("--from=") {
                Some(stage) => assert!(stages.contains(stage), "no stage {stage}"),
                None => copied.extend(arguments[..arguments.len() - 1].iter().map(|path| (*path).to_owned())),
            },
            _ => {}
        }
    }
    assert_eq!(from, 2);
    for path in &copied {
        assert!(root.join(path).exists(), "no {path}");
        assert!(!IGNORED.lines().any(|ignored| path.split('/').next() == Some(ignored)), "{path} is ignored");
    }
    // cargo refuses a manifest whose targets are missing.
    let targets = MANIFEST.lines().filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'));
    let benches = MANIFEST.matches("[[bench]]").count();
    assert!(benches > 0 && copied.contains("benches"));
    for target in targets {
        let is_there = copied.iter().any(|path| Path::new(target).starts_with(path));
        assert!(is_there, "the manifest's {target} is not copied");
    }
    let rust =
        MANIFEST.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"')).unwrap();
    assert!(instructions()[0].1.starts_with(&format!("docker.io/library/rust:{rust}-")), "{FILE}");
}

#[test]
fn the_image_is_what_the_page_says() {
    assert_eq!(words(&last("ENTRYPOINT")), ["/usr/bin/start-worker"]);
    assert_eq!(words(&last("CMD")), ["/etc/start-worker.yml"]);
    assert_eq!(last("STOPSIGNAL"), "SIGTERM");
    assert_eq!(last("ENV"), "RUNTIME_DIRECTORY=/run/start-worker STATE_DIRECTORY=/var/lib/start-worker");
    assert_eq!(last("VOLUME"), "/var/lib/start-worker");
    assert!(FILE.contains("install -d -m 0700 /run/start-worker /var/lib/start-worker"));
    assert!(PAGE.contains("docker build -f packaging/Containerfile -t start-worker ."));
    assert!(PAGE.contains(":/etc/start-worker.yml:ro") && PAGE.contains("worker:/var/lib/start-worker"));
}

#[test]
fn the_grace_of_the_page_allows_for_the_default_times() {
    let supervision = Supervision::default();
    // The worker, and then what it left behind.
    let longest = supervision.stop_timeout + supervision.kill_timeout * 2;
    for (setting, end) in [
        ("--stop-timeout ", "`"),
        ("stop_grace_period: ", "s`"),
        ("terminationGracePeriodSeconds: ", "`"),
        ("StopTimeout=", "`"),
    ] {
        let (_, rest) = PAGE.split_once(&format!("`{setting}")).unwrap_or_else(|| panic!("no {setting}"));
        let seconds = rest.split_once(end).unwrap().0.parse().unwrap();
        assert!(Duration::from_secs(seconds) > longest + Duration::from_secs(5), "{setting}{seconds}");
    }
    assert!(PAGE.contains(&format!("{} s. Give the engine 90 s", longest.as_secs())));
}
