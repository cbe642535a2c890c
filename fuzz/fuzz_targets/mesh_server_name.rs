//! The server name of a mesh connection: what is accepted comes back as it went.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_model::sni::MeshServerName;

fuzz_target!(|text: &str| {
    let Ok(name) = text.parse::<MeshServerName>() else { return };
    let written = name.to_string();
    assert_eq!(written, text);
    assert_eq!(written.parse::<MeshServerName>().ok().as_ref(), Some(&name));
});
