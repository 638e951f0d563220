//! Checks the layers of `docs/architecture.md`: which modules may use which, which names are forbidden where, and the
//! maximum length of a file.
//!
//! Reads the sources, both `use` trees and paths in the code; ignores comments, strings and test modules. Paths in
//! macros of other crates are not visible to it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The floors, highest first. A module may use its own folder and lower floors; never a higher one, and never another
/// module of its own floor. A file of a folder can have a floor of its own.
const FLOORS: &[(u8, &[&str])] = &[
    (8, &["main", "cli"]),
    (7, &["lib"]),
    (6, &["lifecycle"]),
    (5, &["supervisor", "watch", "startup"]),
    (4, &["telemetry"]),
    (3, &["provider", "registration", "worker", "output", "autologin"]),
    (2, &["taskcluster", "run_spec", "protocol", "config", "hold", "stop", "failure_log"]),
    (
        1,
        &[
            "host",
            "credentials",
            "clock",
            "event",
            "retry",
            "redact",
            "error_chain",
            "quota",
            "telemetry/counters",
            "telemetry/current_retry",
            "telemetry/liveness",
            "telemetry/recent_warnings",
        ],
    ),
];

/// Exceptions to the rule of the layers: module, used module, and reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Everything that makes processes.
const PROCESSES: &[&str] = &[
    "tokio::process",
    "std::process::Command",
    "std::process::Child",
    "nix::unistd::fork",
    "nix::unistd::execv",
];
/// Everything that speaks HTTP.
const HTTP: &[&str] = &["reqwest", "hyper", "hawk"];

/// Names that are forbidden in a file, or in all files of a folder.
const MUST_NOT_KNOW: &[(&str, &[&[&str]])] = &[
    ("lib.rs", &[&["clap"]]),
    ("supervisor/", &[&["crate::provider", "crate::taskcluster", "clap"], HTTP]),
    // Pure: State × Event → actions. No runtime, no clock, no I/O.
    (
        "supervisor/state",
        &[
            &["tokio", "tokio_util", "jiff", "tracing", "std::fs", "std::io", "std::thread", "std::env"],
            &["std::time::Instant", "std::time::SystemTime", "nix::unistd", "nix::sys::signal::kill"],
            PROCESSES,
        ],
    ),
    ("watch/", &[PROCESSES, &["nix::sys::signal::kill", "nix::sys::wait"]]),
    ("telemetry/", &[PROCESSES, &["reqwest", "hawk"]]),
    ("startup/", &[PROCESSES]),
    ("registration/", &[PROCESSES, &["crate::supervisor", "reqwest"]]),
    ("telemetry/status_board.rs", &[PROCESSES, HTTP]),
    ("autologin.rs", &[HTTP, &["crate::taskcluster"]]),
    ("lifecycle/drained.rs", &[PROCESSES, HTTP]),
    ("startup/probe/", &[PROCESSES, HTTP, &["crate::supervisor", "crate::registration"]]),
    ("provider/", &[PROCESSES, &["crate::worker", "crate::supervisor"]]),
    ("worker/", &[PROCESSES, HTTP, &["tokio"]]),
    // Of the runtime it knows the channel to the supervisor alone.
    (
        "output/",
        &[PROCESSES, HTTP, &["tokio::spawn", "tokio::task", "tokio::runtime", "tokio::time", "tokio::io"]],
    ),
    ("event", &[PROCESSES, HTTP, &["tokio", "std::fs", "std::io", "std::thread"]]),
    ("hold.rs", &[PROCESSES, HTTP, &["std::fs", "std::io", "std::thread"]]),
    ("stop.rs", &[PROCESSES, HTTP, &["std::fs", "std::io", "std::thread"]]),
    ("taskcluster/", &[PROCESSES, &["crate::provider", "crate::config", "serde_yaml"]]),
    ("run_spec/", &[PROCESSES, HTTP, &["serde_yaml"]]),
    ("protocol/", &[PROCESSES, HTTP, &["tokio::process", "serde_yaml"]]),
    ("config/", &[PROCESSES, HTTP, &["tokio"]]),
    ("host/", &[&["crate::taskcluster"], HTTP]),
];

/// Names that are allowed in these files only.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("serde_yaml", &["config/file.rs"]),
    ("hawk", &["taskcluster/client.rs"]),
    (
        "unsafe",
        &[
            "supervisor/spawn.rs",
            "host/execute.rs",
            "host/faults.rs",
            "host/helper.rs",
            "host/memory.rs",
            "host/oom.rs",
            "host/probe.rs",
            "host/terminal.rs",
        ],
    ),
    ("prometheus", &["telemetry/metrics/export.rs"]),
    ("hyper", &["telemetry/metrics/serve.rs"]),
];

/// Maximum number of lines of a file before its tests.
const MAX_LINES: usize = 600;

/// One source file.
struct Source {
    /// Below `src/`, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The entry of [`FLOORS`] that this file belongs to, or the module right below the crate's root.
    fn module(&self) -> String {
        let path = self.module_path();
        if path.is_empty() { self.path.trim_end_matches(".rs").to_owned() } else { place(&path) }
    }

    /// The module path of the file, outermost first; empty for the crate's root.
    fn module_path(&self) -> Vec<&str> {
        let path = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let mut parts: Vec<&str> = path.split('/').collect();
        if matches!(parts.last(), Some(&"mod" | &"lib" | &"main")) {
            parts.pop();
        }
        parts
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The text before the test module.
    fn code(&self) -> &str {
        self.text.find("\n#[cfg(test)]").map_or(&self.text, |end| &self.text[..=end])
    }
}

/// All that is wrong with these files, one line each.
fn faults(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        let paths = paths(&tokens(source.code()));
        faults.extend(wrong_floors(source, &paths));
        faults.extend(forbidden_names(source, &paths));
        faults.extend(wrong_shape(source));
    }
    faults
}

/// The entry of [`FLOORS`] with the longest prefix of this module path; else its first module.
fn place(path: &[&str]) -> String {
    let prefixes = (1..=path.len()).rev().map(|length| path[..length].join("/"));
    prefixes.into_iter().find(|prefix| floor(prefix).is_some()).unwrap_or_else(|| path[0].to_owned())
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

/// Uses of a higher floor, or of another module of the same floor.
fn wrong_floors(source: &Source, paths: &[String]) -> Vec<String> {
    let module = source.module();
    let Some(own) = floor(&module) else {
        return vec![format!("{}: `{module}` has no floor: add it to FLOORS and to the docs", source.path)];
    };
    let mut faults = Vec::new();
    for path in paths {
        let Some(used) = used_module(source, path) else { continue };
        // A name that is not a module is an item of lib.rs.
        let theirs = floor(&used).unwrap_or(7);
        let excepted = EXCEPTIONS.iter().any(|(who, whom, _)| *who == module && *whom == used);
        if used != module && theirs >= own && !excepted {
            faults.push(format!("{}: floor {own} uses `{path}` of floor {theirs}", source.path));
        }
    }
    faults
}

/// The module right below the crate's root that a path leads to; none where it leads out of the crate.
fn used_module(source: &Source, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").collect();
    let mut absolute = match parts.first() {
        Some(&"crate" | &"start_worker") => Vec::new(),
        Some(&"super") => source.module_path(),
        _ => return None,
    };
    while parts.first() == Some(&"super") {
        absolute.pop();
        parts.remove(0);
    }
    let rest = parts.into_iter().filter(|part| !matches!(*part, "crate" | "start_worker" | "self"));
    absolute.extend(rest);
    (!absolute.is_empty()).then(|| place(&absolute))
}

/// The forbidden names that this file uses.
fn forbidden_names(source: &Source, paths: &[String]) -> Vec<String> {
    let mut forbidden: Vec<&str> = Vec::new();
    for (place, names) in MUST_NOT_KNOW {
        if source.path.starts_with(place) {
            forbidden.extend(names.iter().copied().flatten());
        }
    }
    forbidden.extend(
        ONLY_IN.iter().filter(|(_, files)| !files.contains(&source.path.as_str())).map(|(name, _)| *name),
    );
    let named = |path: &&String, name: &str| {
        path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let mut faults = Vec::new();
    for name in forbidden {
        if let Some(path) = paths.iter().find(|path| named(path, name)) {
            faults.push(format!("{}: must not know `{name}`, names `{path}`", source.path));
        }
    }
    faults
}

/// Files that are too long, have no first doc line, or hide more than tests behind `#[cfg(test)]`.
fn wrong_shape(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = source.code().lines().count();
    if lines > MAX_LINES {
        faults.push(format!("{}: {lines} lines before its tests, at most {MAX_LINES}", source.path));
    }
    if !source.text.starts_with("//!") {
        faults.push(format!("{}: the first line does not say what the file is", source.path));
    }
    for (_, behind) in source.text.split("#[cfg(test)]").enumerate().skip(1) {
        let item = behind.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("#["));
        if !item.is_some_and(|item| item.trim_start_matches("pub(crate) ").starts_with("mod ")) {
            faults.push(format!("{}: `#[cfg(test)]` is for test modules, not for `{item:?}`", source.path));
        }
    }
    faults
}

/// Identifiers, `::` and single other characters; comments, strings, characters and lifetimes left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let (here, next) = (chars[at], chars.get(at + 1).copied().unwrap_or(' '));
        let start = at;
        if here == '/' && next == '/' {
            at = find(&chars, at, |c| c == '\n');
        } else if here == '/' && next == '*' {
            at = end_of_comment(&chars, at);
        } else if here == '"' {
            at = end_of_string(&chars, at);
        } else if here == '\'' {
            let character = next == '\\' || chars.get(at + 2) == Some(&'\'');
            at = if character { end_of_string(&chars, at) } else { at + 1 };
        } else if here.is_alphanumeric() || here == '_' {
            at = find(&chars, at, |c| !c.is_alphanumeric() && c != '_');
            let word: String = chars[start..at].iter().collect();
            match raw_string(&word, &chars, at) {
                Some(end) => at = end,
                None => tokens.push(word),
            }
        } else if here == ':' && next == ':' {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            at += 1;
            if !here.is_whitespace() {
                tokens.push(here.to_string());
            }
        }
    }
    tokens
}

fn find(chars: &[char], from: usize, stop: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|&at| stop(chars[at])).unwrap_or(chars.len())
}

/// The end of a string or character whose first quote stands here.
fn end_of_string(chars: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < chars.len() && chars[at] != chars[quote] {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn end_of_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

/// The end of the raw string that this word is the prefix of; none where it is an ordinary word.
fn raw_string(word: &str, chars: &[char], after: usize) -> Option<usize> {
    let quote = find(chars, after, |c| c != '#');
    if !matches!(word, "r" | "br" | "cr") || chars.get(quote) != Some(&'"') {
        return None;
    }
    let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', quote - after)).collect();
    (quote + 1..chars.len()).find(|&at| chars[at..].starts_with(&closing)).map(|at| at + closing.len())
}

/// Every path in the code, with groups (`a::{b, c::d}`) written out. A single word is a path, too.
fn paths(tokens: &[String]) -> Vec<String> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let inside = at > 0 && matches!(tokens[at - 1].as_str(), "." | "::");
        if is_word(&tokens[at]) && !inside {
            at = path(tokens, at, String::new(), &mut paths);
        } else {
            at += 1;
        }
    }
    paths
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads the path, or the group of paths, at `at`; answers where it ends.
fn path(tokens: &[String], mut at: usize, mut prefix: String, found: &mut Vec<String>) -> usize {
    let token = |at: usize| tokens.get(at).map_or("", String::as_str);
    loop {
        if token(at) == "{" {
            at += 1;
            while !matches!(token(at), "}" | "") {
                if token(at) == "as" {
                    at += 2;
                } else if is_word(token(at)) {
                    at = path(tokens, at, prefix.clone(), found);
                } else {
                    at += 1;
                }
            }
            return at + 1;
        }
        if !is_word(token(at)) {
            found.push(prefix);
            return at;
        }
        let separator = if prefix.is_empty() { "" } else { "::" };
        write!(prefix, "{separator}{}", token(at)).expect("a String takes everything");
        at += 1;
        if token(at) != "::" {
            found.push(prefix);
            return at;
        }
        at += 1;
    }
}

fn read_sources(folder: &Path, below: &Path, into: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            read_sources(&path, below, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(below).expect("below src").to_str().expect("a UTF-8 name");
            into.push(Source::new(name, &std::fs::read_to_string(&path).expect("a source file")));
        }
    }
}

#[test]
fn the_documentation_has_the_same_floors() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md"));
    let mut documented = Vec::new();
    for line in text.expect("the document").lines() {
        let mut cells = line.trim_start_matches("| ").split(" | ");
        let Some(floor) = cells.next().and_then(|cell| cell.parse::<u8>().ok()) else { continue };
        let modules = cells.next().unwrap_or_default();
        let names = modules.split('`').skip(1).step_by(2);
        documented
            .extend(names.map(|name| (floor, name.trim_end_matches('/').trim_end_matches(".rs").to_owned())));
    }
    let mut held: Vec<_> = FLOORS
        .iter()
        .flat_map(|(floor, names)| names.iter().map(|name| (*floor, (*name).to_owned())))
        .collect();
    documented.sort();
    held.sort();
    assert_eq!(documented, held);
}

#[test]
fn the_sources_keep_to_the_layers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    read_sources(&src, &src, &mut sources);
    assert!(sources.len() > 5, "found only {} source files", sources.len());
    let faults = faults(&sources);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Asserts that a file with this text, and nothing else, has one fault that says this.
#[track_caller]
fn assert_fault(path: &str, code: &str, says: &str) {
    let faults = faults(&[Source::new(path, &format!("//! A file.\n{code}\n"))]);
    assert!(faults.len() == 1 && faults[0].contains(says), "expected `{says}`, found {faults:?}");
}

#[track_caller]
fn assert_fine(path: &str, code: &str) {
    assert_eq!(faults(&[Source::new(path, &format!("//! A file.\n{code}\n"))]), Vec::<String>::new());
}

#[test]
fn a_use_of_a_higher_floor_is_found() {
    assert_fault("host/power.rs", "use crate::stop::GRACE;", "floor 1 uses `crate::stop::GRACE` of floor 2");
    assert_fault("worker/mod.rs", "use crate::supervisor;", "floor 3 uses");
    assert_fault(
        "run_spec/mod.rs",
        "use crate::{credentials::Credentials, startup::go};",
        "crate::startup::go",
    );
    assert_fault("run_spec/cache.rs", "fn f() { crate::worker::launch() }", "crate::worker::launch");
    assert_fault("run_spec/cache.rs", "use super::super::worker::Launch;", "super::super::worker::Launch");
    assert_fault("event.rs", "use super::supervisor::State;", "super::supervisor::State");
    assert_fault("supervisor/child.rs", "use crate::Outcome;", "of floor 7");
}

#[test]
fn a_use_of_another_module_of_the_same_floor_is_found() {
    assert_fault("run_spec/mod.rs", "use crate::config::RunnerConfig;", "floor 2 uses");
    assert_fault("watch/signals.rs", "use crate::supervisor::Handle;", "floor 5 uses");
}

#[test]
fn a_module_without_a_floor_is_found() {
    assert_fault("utils.rs", "", "`utils` has no floor");
}

#[test]
fn lower_floors_and_the_own_folder_may_be_used() {
    assert_fine("supervisor/mod.rs", "use crate::event::Exit;\nuse crate::supervisor::state::State;");
    assert_fine(
        "supervisor/child.rs",
        "use super::state::State;\nuse crate::{clock, worker::LaunchSpec as Spec};",
    );
    assert_fine("main.rs", "use start_worker::config;\nfn main() { start_worker::run() }");
}

#[test]
fn forbidden_knowledge_is_found() {
    assert_fault("supervisor/mod.rs", "fn f() { reqwest::get() }", "must not know `reqwest`");
    assert_fault("supervisor/state.rs", "use tokio::time;", "must not know `tokio`");
    assert_fault(
        "supervisor/state/stop.rs",
        "use std::{fmt, time::{Duration, Instant}};",
        "`std::time::Instant`",
    );
    assert_fault("worker/dummy.rs", "use std::process::Command;", "must not know `std::process::Command`");
    assert_fault("lib.rs", "use clap::Parser;", "must not know `clap`");
    assert_fault("config/mod.rs", "fn f(v: serde_yaml::Value) {}", "must not know `serde_yaml`");
    assert_fault("host/lock.rs", "fn f() { unsafe { g() } }", "must not know `unsafe`");
    assert_fine("supervisor/state.rs", "use std::time::Duration;");
    assert_fine("supervisor/spawn.rs", "fn f() { unsafe { g() } }");
    assert_fine("config/file.rs", "use serde_yaml::Value;");
}

#[test]
fn a_file_that_is_too_long_is_found() {
    assert_fault("clock.rs", &"//\n".repeat(MAX_LINES), "lines before its tests");
    assert_fine("clock.rs", &format!("#[cfg(test)]\nmod tests {{\n{}}}", "//\n".repeat(MAX_LINES)));
}

#[test]
fn an_item_that_exists_only_for_tests_is_found() {
    assert_fault("clock.rs", "#[cfg(test)]\npub struct Fake;", "`#[cfg(test)]` is for test modules");
}

#[test]
fn a_file_that_does_not_say_what_it_is_is_found() {
    let faults = faults(&[Source::new("clock.rs", "pub struct Clock;\n")]);
    assert!(faults[0].contains("does not say what the file is"), "{faults:?}");
}

#[test]
fn comments_strings_and_tests_do_not_count() {
    assert_fine("host/mod.rs", "// crate::worker\n/* crate::worker /* nested */ */\n/// [`crate::worker`]");
    assert_fine(
        "host/mod.rs",
        r##"const A: &str = "crate::worker \" unsafe"; const B: &str = r#"" unsafe "#;"##,
    );
    assert_fine(
        "host/mod.rs",
        "fn f<'a>(x: &'a str) -> char { '\"' }\n#[cfg(test)]\nmod tests { use crate::worker; }",
    );
    assert_fault("host/mod.rs", "fn f<'a>() -> char { '\\'' } use crate::worker::W;", "crate::worker::W");
}

/// The host commands that a runner configuration in a test replaces.
const HOST_COMMANDS: [&str; 4] =
    ["shutdownCommand", "rebootCommand", "forceShutdownCommand", "forceRebootCommand"];

/// Files with runner configurations that do not replace them, and why that is harmless.
const WITHOUT_HOST_COMMANDS: &[(&str, &str)] = &[
    ("tests/architecture.rs", "starts no runner"),
    ("tests/check.rs", "runs `check` only"),
    ("tests/configuration.rs", "parses only"),
    ("tests/configuration_docs.rs", "dummy workers and `check` only"),
    ("tests/configuration_effective.rs", "parses only"),
    ("tests/configuration_properties.rs", "parses only"),
    ("tests/containers/claims.rs", "changes one command of a Container, which replaces all four"),
    ("tests/package/life.rs", "a dummy worker in a machine of its own"),
    ("tests/systemd/", "run in machines of their own, which may reboot"),
];

/// Returns true if this source, at this path, has a runner configuration that could take down the host of a test.
fn endangers_the_host(path: &str, source: &str) -> bool {
    // A scene's configuration replaces all four, and a test changes what it needs.
    let scene = source.contains("Scene") || source.contains("scene()");
    let configures = source.contains("providerType") && source.contains("implementation");
    let replaces = HOST_COMMANDS
        .iter()
        .filter(|command| source.contains(&format!("{command}\"")) || source.contains(&format!("{command}:")))
        .count();
    let listed = WITHOUT_HOST_COMMANDS.iter().any(|(name, _)| path.starts_with(name));
    (configures || replaces > 0) && replaces < HOST_COMMANDS.len() && !listed && !scene
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn no_test_or_benchmark_can_take_its_host_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["tests", "benches", "fuzz/fuzz_targets"] {
        rust_files(&root.join(folder), &mut files);
    }
    let dangerous: Vec<_> = files
        .iter()
        .map(|path| path.strip_prefix(root).unwrap().to_str().unwrap())
        .filter(|path| endangers_the_host(path, &std::fs::read_to_string(root.join(path)).unwrap()))
        .collect();
    assert!(
        dangerous.is_empty(),
        "replace all of {HOST_COMMANDS:?} in the runner configurations of {dangerous:?}"
    );
    for (path, _) in WITHOUT_HOST_COMMANDS {
        assert!(root.join(path).exists(), "{path} is gone: take it off the list");
    }
    // Tests and the README start these examples unchanged.
    for example in ["demo.yml", "static-demo.yml"] {
        let text = std::fs::read_to_string(root.join("config-examples").join(example)).unwrap();
        for command in HOST_COMMANDS {
            assert!(
                text.contains(&format!("\n  {command}: [\"true\"]\n")),
                "{example} does not replace {command}"
            );
        }
    }
}

#[test]
fn a_runner_configuration_that_leaves_one_host_command_is_found() {
    let config = r#""provider": {"providerType": "aws"}, "worker": {"implementation": "command"}, "host": {
        "shutdownCommand": ["true"], "rebootCommand": ["true"], "forceShutdownCommand": ["true"]"#;
    assert!(endangers_the_host("tests/new.rs", config));
    assert!(!endangers_the_host("tests/new.rs", &format!(r#"{config}, "forceRebootCommand": ["true"]}}"#)));
}
