//! Holds three documents to what they describe: `docs/reasons.md` to the list of reasons, word for word and
//! in the same order; `docs/metrics.md` to the families that the programs make, by name and help; and the
//! decision on dependencies to the members' manifests.
//!
//! Who reads an `x-weft-reason` or a metric looks it up there; what is missing or described otherwise would
//! lead astray. What the documents say beside their tables is not judged.

use regex::Regex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use weft_model::reason::{Fault, Reason};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(path).expect("a file of the repository must be there")
}

/// A reason's row, as the document must have it.
fn row(reason: Reason) -> String {
    let fault = match reason.fault() {
        Fault::Client => "client",
        Fault::Configuration => "configuration",
        Fault::Mesh => "mesh",
        Fault::Server => "server",
    };
    let (label, status, grpc) = (reason.label(), reason.status(), reason.grpc_status());
    format!("| `{label}` | {status} | {grpc} | {fault} | {} |", reason.text())
}

#[test]
fn the_document_of_reasons_is_the_list_of_reasons() {
    let text = read("docs/reasons.md");
    let written: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = Reason::ALL.iter().map(|reason| row(*reason)).collect();
    let mut table = String::new();
    for line in &expected {
        writeln!(table, "{line}").unwrap();
    }
    assert_eq!(written, expected, "docs/reasons.md must have this table:\n{table}");
}

/// The names under `dependencies`, `dev-dependencies` and `build-dependencies` of a member.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut within = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            within = line.trim_end_matches(']').ends_with("dependencies");
        } else if let (true, Some((name, _))) = (within, line.split_once([' ', '='])) {
            names.extend(name.split('.').next().map(str::to_owned));
        }
    }
    names.retain(|name| !name.is_empty() && !name.starts_with('#') && !name.starts_with("weft-"));
    names
}

#[test]
fn every_direct_dependency_has_its_reason() {
    let decision = read("docs/decisions/0011-dependencies.md");
    // First cells may name several crates, and a package's other name in parentheses.
    let cells = decision.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    let explained: Vec<&str> = cells.flat_map(|cell| cell.split([',', ' ', '(', ')'])).collect();
    let workspace = read("Cargo.toml");
    let members = workspace.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    for member in members.split(',').map(|member| member.trim().trim_matches('"')) {
        for name in dependencies(&read(&format!("{member}/Cargo.toml"))) {
            let known = explained.contains(&name.as_str());
            assert!(known, "0011-dependencies.md does not say why {member} uses {name}");
        }
    }
}

/// The source files of a crate, those of tests left out.
fn sources(directory: PathBuf, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a crate must have sources") {
        let path = entry.expect("a directory of sources must be readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            sources(path, found);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_document_of_metrics_has_every_family_with_its_help() {
    // A family is made with its name and, next to it, its help.
    let made =
        Regex::new(r#""((?:weft|istio|process)_[a-z0-9_]+)",[ \n]*"((?:[^"\\]|\\[^\n]|\\\n[ \n]*)*)""#)
            .unwrap();
    let continued = Regex::new(r"\\\n[ \n]*").unwrap();
    let mut families = BTreeMap::new();
    for member in ["runtime", "proxy", "control-api"] {
        let mut files = Vec::new();
        sources(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(member).join("src"), &mut files);
        for file in files {
            let text = std::fs::read_to_string(file).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for found in made.captures_iter(text) {
                let help = continued.replace_all(&found[2], "").replace("\\\"", "\"");
                families.insert(found[1].to_owned(), help);
            }
        }
    }
    let document = read("docs/metrics.md");
    let mut written = BTreeMap::new();
    for line in document.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let [name, "counter" | "gauge" | "histogram", .., help] = cells[..] {
            written.insert(name.trim_matches('`').to_owned(), help.trim_start_matches("| ").to_owned());
        }
    }
    assert!(families.len() > 30, "families are no longer made as this test reads them: {families:?}");
    for (name, help) in &families {
        assert_eq!(written.get(name), Some(help), "docs/metrics.md has no {name}, or with another help");
    }
    for name in written.keys() {
        assert!(families.contains_key(name), "docs/metrics.md has {name}, which no program makes");
    }
}
