//! Broken documents, each with the problems that must be found, no more and no fewer.
//!
//! A case says what it expects at the end of the line where it is expected (`#! error: TEXT`), or,
//! where a comment cannot stand there, at its top (`# expect LINE error: TEXT`). TEXT is a part of
//! the message. `good/base.yaml` has what the cases refer to.

// A helper of a test may fail as a test does.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::fs;
use weft_config::{SourceFile, compile, render};

type Expected = (u32, String, String);

fn expected(text: &str) -> Vec<Expected> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(rest) = line.strip_prefix("# expect ") {
            let (line, rest) = rest.split_once(' ').unwrap();
            let (severity, message) = rest.split_once(": ").unwrap();
            all.push((line.parse().unwrap(), severity.to_owned(), message.to_owned()));
        }
        for mark in line.split("#! ").skip(1) {
            let (severity, message) = mark.split_once(": ").unwrap();
            all.push((number, severity.to_owned(), message.trim().to_owned()));
        }
    }
    all
}

#[test]
fn every_broken_document_is_reported_where_it_is_broken() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let base = fs::read_to_string(format!("{root}/good/base.yaml")).unwrap();
    let base = SourceFile { name: "base.yaml".to_owned(), text: base };
    let mut failures = String::new();
    let mut cases = 0;
    for entry in fs::read_dir(format!("{root}/corpus")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let case = SourceFile { name: name.clone(), text: fs::read_to_string(&path).unwrap() };
        let mut wanted = expected(&case.text);
        assert!(!wanted.is_empty(), "{name} expects nothing");
        let files = [base.clone(), case];
        let compilation = compile(&files);
        let errors = wanted.iter().any(|(_, severity, _)| severity == "error");
        assert_eq!(compilation.has_errors(), errors, "{name}: {:#?}", compilation.diagnostics);
        let mut rest = compilation.diagnostics.clone();
        rest.retain(|found| {
            let severity = format!("{:?}", found.severity).to_lowercase();
            let fits = |(line, wanted, text): &Expected| {
                found.file == name
                    && found.line == *line
                    && severity == *wanted
                    && found.message.contains(text)
            };
            let at = wanted.iter().position(fits);
            at.map(|at| wanted.remove(at)).is_none()
        });
        if !(rest.is_empty() && wanted.is_empty()) {
            write!(
                failures,
                "=== {name}\nmissing: {wanted:#?}\nnot expected:\n{}",
                render(&rest, &files, false)
            )
            .unwrap();
        }
        cases += 1;
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(cases >= 100, "the corpus has {cases} cases");
}

#[test]
fn the_base_has_no_problems() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/good/base.yaml");
    let files = [SourceFile { name: "base.yaml".to_owned(), text: fs::read_to_string(path).unwrap() }];
    let compilation = compile(&files);
    assert!(compilation.diagnostics.is_empty(), "{}", render(&compilation.diagnostics, &files, false));
}
