//! Which known word was probably meant by an unknown one.

/// The candidate that `word` nearly is: in another spelling (`rootUrl`, `root_url`), or with few typing errors.
pub(super) fn near<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let plain = letters(word);
    candidates
        .map(|candidate| (distance(&plain, &letters(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= tolerance(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Whether two words are the same but for case, hyphens and underscores.
pub(super) fn same_letters(one: &str, other: &str) -> bool {
    letters(one) == letters(other)
}

fn letters(word: &str) -> Vec<char> {
    // Longer than any key: it is none, and the distance takes time.
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

/// Damerau and Levenshtein's distance (optimal string alignment): how many letters must be added, left out, changed,
/// or exchanged with their neighbour.
fn distance(one: &[char], other: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    let mut left_of_a = None;
    for (row, a) in one.iter().enumerate() {
        let mut current = vec![row + 1];
        let mut left_of_b = None;
        for (column, b) in other.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
            let mut best = at(&last, column) + usize::from(a != b);
            best = best.min(at(&last, column + 1) + 1).min(at(&current, column) + 1);
            if left_of_a == Some(b) && left_of_b == Some(a) {
                best = best.min(at(&before_last, column.saturating_sub(1)) + 1);
            }
            current.push(best);
            left_of_b = Some(b);
        }
        before_last = std::mem::replace(&mut last, current);
        left_of_a = Some(a);
    }
    last.last().copied().unwrap_or(one.len())
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

    #[test]
    fn neighbours_exchanged_are_one_error() {
        let chars = |word: &str| word.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("abcd"), &chars("abdc")), 1);
        assert_eq!(distance(&chars("abcd"), &chars("acbde")), 2);
        assert_eq!(distance(&chars(""), &chars("abc")), 3);
        assert_eq!(distance(&chars("abc"), &chars("")), 3);
    }
}
