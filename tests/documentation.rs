//! Holds the documents to the code: messages and exit codes that an operator can meet, links, and the index.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use start_worker::protocol::capabilities::Capability;
use start_worker::telemetry::events::{MESSAGE_IDS, message_id};

/// Shorter constant parts of a text that becomes a part of other messages are not searched for.
const SHORTEST: usize = 12;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder that end so.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The macros of messages for operators, and of all messages that are told in a story.
const ALARMS: &[&str] = &["warn!(", "error!(", "#[error("];
const LINES: &[&str] = &["warn!(", "error!(", "#[error(", "info!("];

/// The texts of such lines in a source, each as its constant pieces.
fn messages(source: &str, calls: &[&str]) -> Vec<Vec<String>> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let starts = calls.iter().flat_map(|call| source.match_indices(call).map(|(at, _)| at + call.len()));
    starts.filter_map(|at| source.get(at..).and_then(message)).map(|text| pieces(&text)).collect()
}

/// The first argument that is a string literal by itself; a field's value is none.
fn message(arguments: &str) -> Option<String> {
    let mut depth = 0;
    let mut begins = true;
    let mut characters = arguments.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let (text, length) = literal(arguments.get(at + 1..)?);
                if depth == 0 && begins {
                    return Some(text);
                }
                let end = at + 1 + length;
                while characters.next()?.0 < end {}
                begins = false;
            }
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => return None,
            ')' | ']' | '}' => depth -= 1,
            ',' => begins = true,
            _ if character.is_whitespace() => {}
            _ => begins = false,
        }
    }
    None
}

/// A string literal behind its first quote, and how long it is in the source without its last one.
fn literal(source: &str) -> (String, usize) {
    let mut text = String::new();
    let mut characters = source.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (text, at),
            '\\' => match characters.next() {
                Some((_, '\n')) => while characters.next_if(|(_, c)| c.is_whitespace()).is_some() {},
                Some((_, escaped)) => text.push(escaped),
                None => {}
            },
            _ => text.push(character),
        }
    }
    (text, source.len())
}

/// The constant parts of a text, without quotes that are markup in Markdown.
fn pieces(text: &str) -> Vec<String> {
    let constant = text.split('{').enumerate().map(|(index, part)| match index {
        0 => part,
        _ => part.split_once('}').map_or("", |(_, rest)| rest),
    });
    let plain = constant.map(|part| part.replace('`', "").trim_matches([' ', ':', ';', ',']).to_owned());
    plain.filter(|part| part.len() >= SHORTEST).collect()
}

#[test]
fn every_warning_error_and_cause_is_in_the_pages_for_operators() {
    let pages = ["troubleshooting.md", "operations.md"].map(|name| read(&root().join("docs").join(name)));
    let pages = pages.concat().replace('`', "");
    let mut seen = BTreeSet::new();
    let mut missing = Vec::new();
    for path in files("src", ".rs") {
        if path.to_string_lossy().contains("tests") {
            continue;
        }
        for piece in messages(&read(&path), ALARMS).concat() {
            if !pages.contains(&piece) {
                missing.push(format!("{}: {piece}", path.display()));
            }
            seen.insert(piece);
        }
    }
    assert!(seen.len() > 60, "{}: messages are not found any more", seen.len());
    assert!(missing.is_empty(), "in neither docs/troubleshooting.md nor docs/operations.md: {missing:#?}");
}

#[test]
fn a_message_is_found_behind_its_fields_and_over_lines() {
    let source = r#"
        warn!(wait = %format!("{}", wait), what = "a value, no text",
            "it waits for \
             {what}, which does not come: \"quoted\"");
        error!(%cause); // no text
        warn!("{warning}");
    "#;
    let found: Vec<String> = messages(source, ALARMS).concat();
    assert_eq!(found, ["it waits for", "which does not come: \"quoted\""]);
}

#[test]
fn every_quoted_message_of_the_log_is_still_one() {
    let text = read(&root().join("docs/troubleshooting.md"));
    let (_, section) = text.split_once("\n## Messages of the log").expect("the section");
    // The reasons of the commands are not log messages.
    let (section, _) = section.split_once("\n### What `status`").expect("the last part");
    let known: Vec<String> =
        files("src", ".rs").iter().flat_map(|path| messages(&read(path), LINES).concat()).collect();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells: Vec<&str> = rows.filter_map(|line| line.get(2..)?.split(" | ").next()).collect();
    assert!(cells.len() > 40);
    for quoted in cells.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
        assert!(known.iter().any(|piece| quoted.contains(piece)), "nobody says this any more: {quoted}");
    }
}

/// The log messages that have an event identifier: by identifier, each with its level.
fn events() -> BTreeMap<String, BTreeSet<(&'static str, String)>> {
    let mut events: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for path in files("src", ".rs") {
        let source = read(&path);
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (call, level) in [("error!(", "error"), ("warn!(", "warning"), ("info!(", "info")] {
            for (at, _) in source.match_indices(call) {
                let arguments = source.get(at + call.len()..).unwrap_or_default();
                let Some(rest) = arguments.trim_start().strip_prefix("name: \"") else { continue };
                let (id, _) = rest.split_once('"').expect("a name");
                let text = message(arguments).expect("a message");
                events.entry(id.to_owned()).or_default().insert((level, text));
            }
        }
    }
    events
}

/// docs/events.md, made from the sources.
fn events_page() -> String {
    let mut page = "# Events of the log\n\n\
        Alerts and dashboards rely on these identifiers and not on the wording of messages, which may change. JSON records\n\
        (`logging.implementation: json`) have the identifier as `event`, entries of the journal as `START_WORKER_EVENT`:\n\n\
        ```sh\njournalctl -u start-worker START_WORKER_EVENT=worker-exited\n```\n\n\
        Events with a `MESSAGE_ID` can also be found by it, and described in a message catalog (`journalctl -x`).\n\n\
        This page is made from the sources: `UPDATE_DOCS=1 cargo test --test it documentation` writes it.\n\n\
        | event | level | message | `MESSAGE_ID` |\n| --- | --- | --- | --- |\n"
        .to_owned();
    for (id, messages) in events() {
        let levels: BTreeSet<&str> = messages.iter().map(|(level, _)| *level).collect();
        let texts: BTreeSet<String> =
            messages.iter().map(|(_, text)| format!("`{}`", text.replace('|', "\\|"))).collect();
        let (levels, texts) = (Vec::from_iter(levels).join(", "), Vec::from_iter(texts).join("<br>"));
        let message_id = message_id(&id).map(|id| format!("`{id}`")).unwrap_or_default();
        writeln!(page, "| `{id}` | {levels} | {texts} | {message_id} |").expect("a String");
    }
    page
}

#[test]
fn the_page_of_events_is_made_from_the_sources() {
    let path = root().join("docs/events.md");
    let page = events_page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("the page");
    }
    assert!(
        read(&path) == page,
        "docs/events.md is not up to date: UPDATE_DOCS=1 cargo test --test it documentation"
    );
}

#[test]
fn event_identifiers_are_words_with_hyphens_and_those_with_a_message_id_exist() {
    let events = events();
    assert!(events.len() > 80, "{}", events.len());
    for id in events.keys() {
        let fine = id.split('-').all(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase()));
        assert!(fine, "{id}");
    }
    for (id, message_id) in MESSAGE_IDS {
        assert!(events.contains_key(*id), "{id} is no event");
        assert!(message_id.len() == 32 && message_id.chars().all(|c| c.is_ascii_hexdigit()), "{message_id}");
    }
}

#[test]
fn the_exit_codes_are_those_of_the_program() {
    let source = read(&root().join("src/cli/exit.rs"));
    let clap_for_wrong_usage = "2";
    let codes: BTreeSet<&str> = std::iter::once(clap_for_wrong_usage)
        .chain(source.lines().filter_map(|line| line.split_once(": u8 = ")?.1.strip_suffix(';')))
        .collect();
    let text = read(&root().join("docs/operations.md"));
    let section = text.split("\n## ").find(|section| section.starts_with("Exit codes")).expect("the section");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let documented: BTreeSet<&str> = rows.filter(|cell| cell.parse::<u8>().is_ok()).collect();
    assert_eq!(documented, codes);
}

#[test]
fn the_protocol_page_has_each_capability_and_an_example_that_names_none_else() {
    let text = read(&root().join("docs/protocol.md"));
    let (_, table) = text.split_once("\n## The messages").expect("the messages");
    for capability in Capability::ALL {
        let row = format!("\n| `{}`", capability.name());
        assert!(table.contains(&row), "no row: {}", capability.name());
    }
    let welcome =
        text.lines().find_map(|line| line.strip_prefix("→ ~{\"type\":\"welcome\"")).expect("an example");
    let names: Vec<&str> =
        welcome.split('"').filter(|part| part.contains(char::is_alphabetic)).skip(1).collect();
    let offered = Capability::ALL.iter().map(|capability| capability.name());
    // With `standalone`, and without automatic login.
    let offered: Vec<&str> =
        offered.filter(|name| !["new-credentials", "autologin"].contains(name)).collect();
    assert_eq!(names, offered);
}

/// All documents for people.
fn documents() -> Vec<PathBuf> {
    let mut documents = files("docs", ".md");
    let top = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"];
    documents.extend(top.iter().map(|name| root().join(name)).filter(|path| path.exists()));
    documents
}

/// The targets of a document's links, except links to other sites.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).collect()
}

/// The anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for path in documents() {
        let text = read(&path);
        for link in links(&text) {
            let (file, heading) =
                link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name("").join(file) };
            let leads = match heading {
                None => target.exists(),
                Some(heading) => std::fs::read_to_string(&target).is_ok_and(|text| {
                    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
                    headings.map(|line| anchor(line.trim_start_matches('#'))).any(|anchor| anchor == heading)
                }),
            };
            if !leads {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Paths of Markdown files that a text names.
fn cited(text: &str) -> Vec<&str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    let words = text.split(|letter| !is_part(letter)).map(|word| word.trim_end_matches('.'));
    words.filter(|word| Path::new(word).extension().is_some_and(|end| end == "md")).collect()
}

#[test]
fn every_page_that_a_source_cites_exists() {
    // Files that the package installs, files that a benchmark writes, and the subject of this test.
    let elsewhere = ["/usr/share/doc/", "summary.md", "target/", "no-such-page.md"];
    let mut sources = Vec::new();
    for (folder, end) in [
        ("src", ".rs"),
        ("tests", ".rs"),
        ("tests", ".py"),
        ("tests", ".sh"),
        ("benches", ".rs"),
        ("packaging", ""),
        ("systemd", ""),
        ("config-examples", ""),
    ] {
        sources.extend(files(folder, end));
    }
    sources.extend(["Cargo.toml", "justfile", "clippy.toml", "deny.toml"].map(|name| root().join(name)));
    assert!(sources.len() > 200);
    let mut stale = Vec::new();
    for source in &sources {
        for page in cited(&read(source)) {
            let exists =
                ["", "docs", "docs/providers"].iter().any(|folder| root().join(folder).join(page).exists());
            if !exists && !elsewhere.iter().any(|known| page.starts_with(known)) {
                stale.push(format!("{}: {page}", source.display()));
            }
        }
    }
    assert_eq!(stale, [""; 0]);
    assert_eq!(cited("see no-such-page.md. (docs/README.md#a)"), ["no-such-page.md", "docs/README.md"]);
}

#[test]
fn the_index_has_every_page() {
    let index = read(&root().join("docs/README.md"));
    let linked: BTreeSet<&str> =
        links(&index).into_iter().filter_map(|link| link.split('#').next()).collect();
    for page in files("docs", ".md") {
        let name = page.strip_prefix(root().join("docs")).expect("a page").to_string_lossy().into_owned();
        let listed = name.starts_with("providers/") || name == "README.md" || linked.contains(name.as_str());
        assert!(listed, "docs/README.md does not lead to {name}");
    }
}

#[test]
fn no_page_or_example_signals_processes_by_their_name() {
    let pages =
        [files("docs", ".md"), files("config-examples", ""), files("systemd", ""), files("packaging", "")];
    let own = ["README.md", "SECURITY.md", "CONTRIBUTING.md"].map(|name| root().join(name));
    for path in pages.into_iter().flatten().chain(own) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        // As root they would end the worker of a service, too.
        for command in ["pkill", "killall", "kill $(pgrep", "kill $(pidof"] {
            assert!(!text.contains(command), "{}: {command}", path.display());
        }
    }
}
