//! Checks the tests that documents name: those for past mistakes, and those for promises about security.

use std::collections::BTreeSet;
use std::path::Path;

/// Number of known pitfalls.
const PITFALLS: usize = 63;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The tests that a text names, each with the file that it is said to be in.
fn named(text: &str) -> Vec<(&str, &str)> {
    let mut file = None;
    let mut tests = Vec::new();
    for name in quoted(text) {
        if Path::new(name).extension().is_some_and(|extension| extension == "rs") {
            file = Some(name);
        } else if let Some(file) = file {
            tests.push((file, name));
        }
    }
    tests
}

/// The names of all tests in a source.
fn tests_of(source: &str) -> BTreeSet<&str> {
    let mut tests = BTreeSet::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(name) =
            line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ").filter(|_| marked)
        {
            tests.extend(name.split('(').next());
            marked = false;
        }
    }
    tests
}

/// The problems with the tests that a text names.
fn missing(text: &str) -> Vec<String> {
    let is_missing = |(file, test): (&str, &str)| {
        (!tests_of(&read(file)).contains(test)).then(|| format!("{file} has no test {test}"))
    };
    named(text).into_iter().filter_map(is_missing).collect()
}

/// The rows of a document's tables whose first cell is a number: that, and the last cell.
fn rows(text: &str) -> Vec<(usize, &str)> {
    text.lines().filter_map(row_of).collect()
}

fn row_of(line: &str) -> Option<(usize, &str)> {
    let (number, rest) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
    Some((number.parse().ok()?, rest.rsplit_once(" | ")?.1))
}

#[test]
fn every_pitfall_has_a_row_in_order_and_tests_that_exist() {
    let text = read("docs/pitfalls.md");
    let rows = rows(&text);
    let numbers: Vec<_> = rows.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=PITFALLS).collect::<Vec<_>>());
    for (number, tests) in rows {
        assert!(!named(tests).is_empty(), "{number} has no test");
        assert_eq!(missing(tests), [""; 0], "{number}");
    }
}

#[test]
fn every_promise_about_security_has_tests_that_exist() {
    let text = read("SECURITY.md");
    let (_, promises) = text.split_once("\n## Promises").expect("the promises");
    let (promises, _) = promises.split_once("\n## ").expect("what follows them");
    let rows: Vec<_> =
        promises.lines().filter(|line| line.starts_with("| ") && !line.contains("---")).collect();
    let rows: Vec<_> = rows.into_iter().filter(|line| *line != "| promise | tests |").collect();
    assert!(rows.len() > 20);
    for row in rows {
        assert!(!named(row).is_empty(), "no test: {row}");
        assert_eq!(missing(row), [""; 0], "{row}");
    }
}

#[test]
fn every_claim_about_containers_has_tests_that_exist() {
    let text = read("docs/containers.md");
    let mut claims = 0;
    for table in text.split("| claim | tests |\n| --- | --- |\n").skip(1) {
        for row in table.lines().take_while(|line| line.starts_with("| ")) {
            claims += 1;
            let (_, tests) = row.trim_end_matches(" |").rsplit_once(" | ").expect("a claim and its tests");
            assert!(!named(tests).is_empty(), "no test: {row}");
            assert_eq!(missing(tests), [""; 0], "{row}");
        }
    }
    // Each test of the page's claims is one of them.
    for file in ["tests/containers/claims.rs", "tests/containers/image.rs"] {
        let source = read(file);
        let unnamed: Vec<_> = tests_of(&source).into_iter().filter(|test| !text.contains(*test)).collect();
        assert!(unnamed.is_empty(), "{file}: {unnamed:?}");
    }
    assert!(claims >= 15, "{claims}");
}

#[test]
fn a_test_that_is_not_there_is_found() {
    let text = "`tests/pitfalls.rs` `a_test_that_is_not_there_is_found` `read`, `not_there`";
    assert_eq!(
        missing(text),
        ["tests/pitfalls.rs has no test read", "tests/pitfalls.rs has no test not_there"]
    );
}
