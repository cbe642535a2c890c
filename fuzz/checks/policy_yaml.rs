//! Policy files, as anyone with write access to a directory may leave them.
//!
//! Beyond "no panic": the same text gives the same answer, every diagnostic points into the text, and what is
//! printed of it holds no control characters.

use weft_config::{SourceFile, compile, render};

pub(crate) fn check(text: &str) {
    let files = [SourceFile { name: "policy.yaml".to_owned(), text: text.to_owned() }];
    let compilation = compile(&files);
    let again = compile(&files);
    assert_eq!(compilation.mesh, again.mesh);
    assert_eq!(compilation.cases, again.cases);
    assert_eq!(format!("{:?}", compilation.diagnostics), format!("{:?}", again.diagnostics));
    // A line of YAML may end in a carriage return too, and its parser looks one line past the end.
    let lines = text.matches(['\n', '\r']).count() + 2;
    for diagnostic in &compilation.diagnostics {
        assert!((1..=lines).contains(&(diagnostic.line as usize)), "{diagnostic:?}");
    }
    let rendered = render(&compilation.diagnostics, &files, false);
    assert!(rendered.chars().all(|character| !character.is_control() || character == '\n'), "{rendered:?}");
}
