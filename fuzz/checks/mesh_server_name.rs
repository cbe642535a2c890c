//! The server name of a mesh connection: what is accepted comes back as it went.

use weft_model::sni::MeshServerName;

/// Says whether it was one.
pub(crate) fn check(text: &str) -> bool {
    let Ok(name) = text.parse::<MeshServerName>() else { return false };
    let written = name.to_string();
    assert_eq!(written, text);
    assert_eq!(written.parse::<MeshServerName>().ok().as_ref(), Some(&name));
    true
}
