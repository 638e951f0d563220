//! Suggests the known word that was probably meant by an unknown one.

/// The candidate that `word` resembles: in another spelling (`rootUrl`, `root_url`), or with few typing errors.
pub fn near<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let plain = letters(word);
    candidates
        .map(|candidate| (strsim::osa_distance(&plain, &letters(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= tolerance(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns true if two words are equal except for case, hyphens and underscores.
pub(super) fn same_letters(one: &str, other: &str) -> bool {
    letters(one) == letters(other)
}

fn letters(word: &str) -> String {
    // Limited, because no key is longer and the distance takes time to compute.
    word.chars().filter(|c| !"-_".contains(*c)).take(64).flat_map(char::to_lowercase).collect()
}

fn tolerance(word: &str) -> usize {
    match word.len() {
        0..=3 => 0,
        4..=7 => 1,
        8..=12 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_spelling_and_small_errors_are_near() {
        let known = ["rootURL", "workerPoolID", "workerID", "path", "cacheOverRestarts"];
        let found = |word| near(word, known.into_iter());
        assert_eq!(found("rootUrl"), Some("rootURL"));
        assert_eq!(found("root_url"), Some("rootURL"));
        assert_eq!(found("wrokerPoolID"), Some("workerPoolID"));
        assert_eq!(found("workerPollID"), Some("workerPoolID"));
        assert_eq!(found("workerIDs"), Some("workerID"));
        assert_eq!(found("cacheOverRestart"), Some("cacheOverRestarts"));
        assert_eq!(found("paths"), Some("path"));
        assert_eq!(found("workerNodeType"), None);
        assert_eq!(found(""), None);
    }
}
