//! Arbitrary input from outside: the properties of the fuzz targets (`fuzz/`, docs/reliability.md), checked on the
//! corpus, on mutations of it and on random bytes.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

mod properties;

/// Maximum length of a mutated input, in bytes.
const LONGEST: usize = 64 << 10;

/// Maximum total size of all corpora, in bytes.
const MOST: u64 = 200_000;

/// One change of an input.
#[derive(Debug, Clone)]
enum Edit {
    Put(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// Something of another input.
    Splice(Index, Index, Index, usize),
    Twice(Index, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Put(at, byte)),
        (at(), prop::collection::vec(any::<u8>(), 1..5)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (at(), "[\\[\\]{}\",:~\\\\\n 0-9a-z-]{1,4}")
            .prop_map(|(at, text)| Edit::Insert(at, text.into_bytes())),
        (at(), 1..40_usize).prop_map(|(at, size)| Edit::Remove(at, size)),
        (at(), at(), at(), 1..200_usize)
            .prop_map(|(at, other, from, size)| Edit::Splice(at, other, from, size)),
        (at(), 1..100_usize).prop_map(|(at, size)| Edit::Twice(at, size)),
    ]
}

impl Edit {
    fn apply(&self, input: &mut Vec<u8>, corpus: &[(PathBuf, Vec<u8>)]) {
        let place = |at: &Index, input: &[u8]| at.index(input.len() + 1);
        let part =
            |from: usize, size: usize, input: &[u8]| input[from..input.len().min(from + size)].to_vec();
        match self {
            Self::Put(at, byte) => {
                let at = place(at, input);
                input.get_mut(at).into_iter().for_each(|old| *old = *byte);
            }
            Self::Insert(at, bytes) => {
                let at = place(at, input);
                input.splice(at..at, bytes.iter().copied());
            }
            Self::Remove(at, size) => {
                let at = place(at, input);
                input.drain(at..input.len().min(at + size));
            }
            Self::Splice(at, other, from, size) => {
                let (_, other) = &corpus[other.index(corpus.len())];
                let (at, from) = (place(at, input), place(from, other));
                input.splice(at..at, part(from, *size, other));
            }
            Self::Twice(at, size) => {
                let at = place(at, input);
                let again = part(at, *size, input);
                input.splice(at..at, again);
            }
        }
        input.truncate(LONGEST);
    }
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Tries a property on a corpus, on so many mutations, and on random bytes.
fn hold(target: &str, check: fn(&[u8]), cases: u32) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty());
    for (path, input) in &corpus {
        let held = std::panic::catch_unwind(|| check(input));
        assert!(held.is_ok(), "{}", path.display());
    }
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mutations = (any::<Index>(), prop::collection::vec(edit(), 1..6));
    let mutated = TestRunner::new(config.clone()).run(&mutations, |(which, edits)| {
        let (path, mut input) = corpus[which.index(corpus.len())].clone();
        for edit in &edits {
            edit.apply(&mut input, &corpus);
        }
        let held = std::panic::catch_unwind(|| check(&input));
        prop_assert!(held.is_ok(), "{}, changed: {:?}", path.display(), input.escape_ascii().to_string());
        Ok(())
    });
    let random = prop::collection::vec(any::<u8>(), 0..300);
    let tried = TestRunner::new(config).run(&random, |input| {
        check(&input);
        Ok(())
    });
    for result in [mutated.map_err(|error| error.to_string()), tried.map_err(|error| error.to_string())] {
        assert!(result.is_ok(), "{}", result.unwrap_err());
    }
}

/// Checks mutations of each input for a part of a second each.
macro_rules! targets {
    ($($target:ident, $cases:literal, $name:ident;)*) => {
        $(
            #[test]
            fn $name() {
                hold(stringify!($target), properties::$target::check, $cases);
            }
        )*

        #[test]
        fn the_corpora_are_small() {
            let files = [$(corpus(stringify!($target))),*].concat();
            let size: usize = files.iter().map(|(_, input)| input.len()).sum();
            assert!((size as u64) < MOST, "{size} bytes");
        }
    };
}

targets! {
    transport, 25, lines_are_the_same_however_they_are_read;
    messages, 1000, messages_are_read_the_same_by_every_way;
    runner_config, 300, a_runner_configuration_is_read_or_its_faults_are_named;
    worker_config, 1000, layers_of_worker_configuration_are_merged_by_the_rule;
    cache, 500, a_cache_comes_back_as_it_was_written;
    zip, 300, archives_stay_within_their_directory_and_limits;
    metadata, 500, answers_of_metadata_services_are_read_or_refused;
    status_request, 1000, a_request_is_one_of_three_or_is_told_why_not;
    gdm, 1000, gdms_file_is_edited_and_nothing_else_changes;
    mask, 60, no_secret_is_left_in_a_text_in_any_form_and_other_texts_stay_as_they_are;
    deployment, 1000, a_definition_calls_for_a_drain_only_where_it_names_others;
}
