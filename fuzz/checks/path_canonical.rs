//! Canonical paths: the form in which a path rule judges, so two spellings of one path must end as one.
//!
//! A canonical path is a fixed point, and nothing in it is left for a server to resolve.

use weft_model::path::canonical;

/// Says whether it has a canonical form.
pub(crate) fn check(path: &str) -> bool {
    let Ok(found) = canonical(path) else { return false };
    assert_eq!(canonical(&found).as_deref(), Ok(&*found));
    assert!(found.starts_with('/'));
    assert!(!found.contains("//") && !found.contains('\\'));
    assert!(found.split('/').all(|segment| segment != "." && segment != ".."));
    assert!(found.bytes().all(|byte| byte.is_ascii_graphic()));
    let lower = found.to_ascii_lowercase();
    assert!(!["%2f", "%5c", "%2e", "%00", "%25"].iter().any(|escape| lower.contains(escape)));
    true
}
