//! The examples are what they say: free of problems, and every rule of them tested by a case that holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_tests::binaries::binaries;
use weft_tests::process::{self, Ended};

fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let entries = fs::read_dir(root).expect("the examples must be there");
    let mut all: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    all.retain(|path| path.is_dir());
    all.sort();
    assert!(all.len() >= 4, "examples are missing: {all:?}");
    all
}

async fn weft(arguments: &[&str], path: &Path) -> Ended {
    let mut command = Command::new(&binaries().cli);
    command.args(arguments).arg(path);
    process::run(command).await
}

#[tokio::test]
async fn every_example_is_free_of_problems() {
    for path in examples() {
        let ended = weft(&["check", "--deny-warnings"], &path).await;
        assert!(ended.status.success(), "{}:\n{}{}", path.display(), ended.stdout, ended.stderr);
    }
}

#[tokio::test]
async fn every_rule_of_every_example_is_tested_by_a_case_that_holds() {
    for path in examples() {
        let ended = weft(&["test", "--coverage-min", "100"], &path).await;
        assert!(ended.status.success(), "{}:\n{}{}", path.display(), ended.stdout, ended.stderr);
    }
}
