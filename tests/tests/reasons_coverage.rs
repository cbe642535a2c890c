//! Every reason has a test that provokes it over real sockets: no answer of the mesh is there untested.
//!
//! What counts is a reason that an integration test names by itself. Unit tests do not count, nor does a
//! line that names several reasons, since it would be content with any of them.

use std::fs;
use std::path::Path;
use weft_model::reason::Reason;

/// Reasons that nothing from outside can provoke, and which unit test does.
const WITHIN: &[(Reason, &str)] = &[
    // It is the answer to what cannot happen, so nothing that programs do to each other provokes it: a head has
    // room for 1 MiB of text, and the largest that is parsed (96 KiB), with what a route may write (two paths of
    // the target's 64 KiB and 1 KiB more, 128 fields of 4 KiB) and an authorizer (256 KiB), does not fill it; the
    // framing of an answer is made of the length of its body, by the same program. A test that provokes it over
    // sockets would find a bug. Within: a rewrite that has no room, in a head that no parser lets pass.
    (Reason::Internal, "proxy/src/http/tests.rs"),
];

fn names_alone(line: &str, reason: Reason) -> bool {
    let needle = format!("Reason::{reason:?}");
    let mut named = line.match_indices("Reason::").filter(|(at, _)| {
        // `Reason::HeaderTimeout` is not `Reason::HeaderTimeoutX`, and `Reason::from_label` no reason.
        line[at + "Reason::".len()..].starts_with(|next: char| next.is_ascii_uppercase())
    });
    let (Some((at, _)), None) = (named.next(), named.next()) else { return false };
    line[at..]
        .strip_prefix(&needle)
        .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
}

/// The lines of all integration tests but this one.
fn lines() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory).expect("the tests must be there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("reasons_coverage.rs")
        {
            let text = fs::read_to_string(&path).expect("a source");
            lines.extend(text.lines().map(str::to_owned));
        }
    }
    lines
}

#[test]
fn every_reason_is_provoked_by_an_integration_test() {
    let lines = lines();
    let provoked = |reason: &Reason| lines.iter().any(|line| names_alone(line, *reason));
    let within = |reason: &Reason| WITHIN.iter().any(|(listed, _)| listed == reason);
    let missing: Vec<_> = Reason::ALL.iter().filter(|reason| !provoked(reason) && !within(reason)).collect();
    assert!(
        missing.is_empty(),
        "no integration test provokes {missing:?}: make the mesh give that answer over real sockets, and assert it \
         with `refused_with(Reason::…)`"
    );
    let done: Vec<_> = Reason::ALL.iter().filter(|reason| provoked(reason) && within(reason)).collect();
    assert!(done.is_empty(), "covered now, so take them off the list: {done:?}");
}

#[test]
fn what_cannot_be_provoked_from_outside_is_provoked_within() {
    for (reason, file) in WITHIN {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = fs::read_to_string(&path).expect("the unit tests must be there");
        assert!(text.lines().any(|line| names_alone(line, *reason)), "{file} does not provoke {reason:?}");
    }
}

#[test]
fn a_line_that_would_be_content_with_any_of_several_reasons_provokes_none() {
    assert!(names_alone("response.refused_with(Reason::ConnectFailed);", Reason::ConnectFailed));
    assert!(!names_alone("[Reason::ConnectFailed, Reason::ConnectTimeout]", Reason::ConnectFailed));
    assert!(!names_alone("refused_with(Reason::ConnectFailedX)", Reason::ConnectFailed));
}
