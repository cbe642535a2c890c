//! Policy files, as anyone with write access to a directory may leave them.
//!
//! Beyond "no panic": the same text gives the same answer, and every diagnostic points into the text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_config::{SourceFile, compile};

fuzz_target!(|text: &str| {
    let files = [SourceFile { name: "policy.yaml".to_owned(), text: text.to_owned() }];
    let compilation = compile(&files);
    let again = compile(&files);
    assert_eq!(compilation.mesh, again.mesh);
    assert_eq!(format!("{:?}", compilation.diagnostics), format!("{:?}", again.diagnostics));
    let lines = text.lines().count() + 1;
    for diagnostic in &compilation.diagnostics {
        assert!(diagnostic.line as usize <= lines, "{diagnostic:?}");
    }
});
