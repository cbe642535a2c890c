//! Every reason has a test that provokes it: no answer of the mesh is there untested.

use std::fs;
use std::path::{Path, PathBuf};
use weft_model::reason::Reason;

/// Reasons of features that are not built yet, and what will provoke them. An entry that is covered
/// fails the test, so the list only shrinks.
const LATER: &[(Reason, &str)] =
    &[(Reason::Draining, "a refusal while draining; until the deadline all that comes is served")];

/// Rust files of a directory and below.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the sources must be there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The text of all tests: these, and what lies in a file of tests or behind `#[cfg(test)]`.
fn test_text() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    files(&root.join("tests"), &mut paths);
    paths.retain(|path| !path.ends_with("reasons_coverage.rs"));
    let mut text: String = paths.iter().map(|path| fs::read_to_string(path).expect("a source")).collect();
    paths.clear();
    files(&root.join("../proxy"), &mut paths);
    for path in paths {
        let source = fs::read_to_string(&path).expect("a source");
        let of_tests =
            path.iter().any(|part| part == "tests") || path.to_string_lossy().ends_with("tests.rs");
        match (of_tests, source.find("#[cfg(test)]\nmod tests {")) {
            (true, _) => text += &source,
            (false, Some(start)) => text += &source[start..],
            (false, None) => {}
        }
    }
    text
}

#[test]
fn every_reason_is_named_by_a_test() {
    let text = test_text();
    let named = |reason: &Reason| {
        // `Reason::HeaderTimeout` must not count for `Reason::HeaderTimeoutX`.
        let needle = format!("Reason::{reason:?}");
        text.match_indices(&needle)
            .any(|(at, _)| !text[at + needle.len()..].starts_with(|next: char| next.is_ascii_alphanumeric()))
    };
    let later = |reason: &Reason| LATER.iter().any(|(listed, _)| listed == reason);
    let missing: Vec<_> = Reason::ALL.iter().filter(|reason| !named(reason) && !later(reason)).collect();
    assert!(missing.is_empty(), "no test provokes {missing:?}");
    let done: Vec<_> = Reason::ALL.iter().filter(|reason| named(reason) && later(reason)).collect();
    assert!(done.is_empty(), "covered now, so take them off the list: {done:?}");
}
