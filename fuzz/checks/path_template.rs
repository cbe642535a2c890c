//! Path templates and request principals: what is read never panics, and a template matches as a plain search
//! says. The input: the template, a line feed, the path.

use weft_model::authorization::RequestPrincipal;
use weft_model::string_match::{PathTemplate, StringMatch};

/// Whether the input says something.
pub(crate) fn check(input: &str) -> bool {
    let Some((text, path)) = input.split_once('\n') else { return false };
    if let Some(principal) = RequestPrincipal::parse(text) {
        assert!(text.bytes().filter(|byte| *byte == b'*').count() <= 1);
        let _ = principal.issuer.matches(path) && principal.subject.matches(path);
    }
    let _ = StringMatch::parse_path(text).map(|pattern| pattern.matches_ignoring_case(path));
    let Ok(template) = PathTemplate::parse(text) else { return false };
    // The plain search takes its time.
    if text.len() + path.len() > 256 {
        return false;
    }
    assert_eq!(template.matches(path), search(text.as_bytes(), path.as_bytes()));
    assert!(!template.matches(path) || path.starts_with(template.literal_prefix()));
    true
}

fn search(template: &[u8], path: &[u8]) -> bool {
    if let Some(rest) = template.strip_prefix(b"{**}") {
        (0..=path.len()).any(|end| search(rest, &path[end..]))
    } else if let Some(rest) = template.strip_prefix(b"{*}") {
        let longest = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
        longest > 0 && search(rest, &path[longest..])
    } else {
        match (template.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((a, template)), Some((b, path))) => a == b && search(template, path),
            _ => false,
        }
    }
}
