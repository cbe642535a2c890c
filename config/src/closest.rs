//! The known word nearest to a mistyped one, for hints.

/// The known word at an edit distance of at most two, and less than the word is long.
pub(crate) fn closest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    known
        .into_iter()
        .filter_map(|candidate| {
            let distance = distance(&lower, &candidate.to_ascii_lowercase());
            (distance <= 2 && distance * 2 <= candidate.len()).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?`, if there is something near.
pub(crate) fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    closest(word, known).map(|near| format!("did you mean `{near}`?"))
}

// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX / 4;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_another_word_is_not() {
        let known = ["from", "to", "when", "source", "principals", "AuthorizationPolicy"];
        for (typed, meant) in [
            ("form", Some("from")),
            ("sorce", Some("source")),
            ("ot", Some("to")),
            ("princpals", Some("principals")),
            ("authorizationpolicy", Some("AuthorizationPolicy")),
            ("banana", None),
            ("x", None),
        ] {
            assert_eq!(closest(typed, known), meant, "{typed}");
        }
    }
}
