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

/// What the examples of docs/policy.md refer to, and what stands around those that are a part of a document.
const REFERENCE: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80, appProtocol: PROTOCOL}]}
---
apiVersion: v1
kind: Service
metadata: {name: checkout, namespace: shop}
spec: {selector: {app: checkout}, ports: [{port: 80, appProtocol: grpc}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{port: 5432, appProtocol: tls}]}
---
apiVersion: v1
kind: Service
metadata: {name: db-orders, namespace: shop}
spec: {selector: {app: db}, ports: [{port: 5432, appProtocol: tls}]}
---
apiVersion: v1
kind: Service
metadata: {name: db-orders-next, namespace: shop}
spec: {selector: {app: db}, ports: [{port: 5432, appProtocol: tls}]}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {address: 10.0.0.1, serviceAccount: web, ports: [{port: 80, protocol: PROTOCOL}]}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: checkout-1, namespace: shop, labels: {app: checkout}}
spec: {address: 10.0.0.2, serviceAccount: checkout, ports: [{port: 80, protocol: grpc}]}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: db-1, namespace: shop, labels: {app: db}}
spec: {address: 10.0.0.3, serviceAccount: db, ports: [{port: 5432, protocol: tls}]}
";
const AROUND: [(&str, &str); 2] = [
    (
        "  rules:",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: cart, namespace: shop}\nspec:\n  \
         parentRefs: [{group: '', kind: Service, name: cart, port: 80}]\n",
    ),
    (
        "  faults:",
        "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: cart, namespace: shop}\nspec:\n  targetRefs: \
         [{kind: Service, name: cart}]\n",
    ),
];

#[test]
fn every_example_of_the_policy_reference_is_free_of_problems() {
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy.md");
    let text = fs::read_to_string(reference).unwrap();
    let blocks: Vec<_> =
        text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 6, "{blocks:?}");
    for block in blocks {
        let around =
            AROUND.iter().find(|(first, _)| block.starts_with(first)).map_or("", |(_, around)| *around);
        let protocol = if block.contains("GRPCRoute") { "grpc" } else { "http" };
        let file = |name: &str, text: String| SourceFile { name: name.to_owned(), text };
        let files = [
            file("reference.yaml", REFERENCE.replace("PROTOCOL", protocol)),
            file("example.yaml", format!("{around}{block}")),
        ];
        let compilation = compile(&files);
        assert!(
            compilation.diagnostics.is_empty(),
            "{}\n{block}",
            render(&compilation.diagnostics, &files, false)
        );
    }
}
