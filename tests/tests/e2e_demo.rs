//! The first thing a new user runs: `weft demo` and `weft check` on the examples.

use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use weft_tests::binaries::binaries;
use weft_tests::process::{self, Process};
use weft_tests::{figures, wait};

fn weft(arguments: &[&str]) -> Command {
    let mut command = Command::new(&binaries().cli);
    command.args(arguments);
    command
}

/// `weft demo` with its temporary directory in `directory`.
fn demo(arguments: &[&str], directory: &Path) -> Command {
    let mut command = weft(&[&["demo"], arguments].concat());
    command.env("TMPDIR", directory);
    command
}

/// What the demo has left in its directory.
fn left(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("the directory").flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().contains("weft-demo-")).collect()
}

/// Processes whose command line names `directory`.
fn running(directory: &Path) -> Vec<String> {
    let name = directory.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&name))
        .collect()
}

#[tokio::test]
async fn the_demo_checks_every_claim_and_cleans_up() {
    let directory = tempfile::tempdir().unwrap();
    // Building them is no part of the demo.
    binaries();
    let start = Instant::now();
    let ended = process::run(demo(&[], directory.path())).await;
    assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    figures::show(&format!("the demo took {:?}", start.elapsed()));
    assert!(ended.stdout.contains("claims checked and held"), "{}", ended.stdout);
    assert!(!ended.stdout.contains('\u{1b}'), "colours only where a person looks");
    assert_eq!(left(directory.path()), Vec::<PathBuf>::new());
    assert_eq!(running(directory.path()), Vec::<String>::new());
}

#[tokio::test]
async fn the_demo_speaks_json_to_programs() {
    let directory = tempfile::tempdir().unwrap();
    let ended = process::run(demo(&["--output", "json"], directory.path())).await;
    assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    let told: serde_json::Value = serde_json::from_str(&ended.stdout).expect("one JSON document");
    assert_eq!(told["held"], true);
    let checks = told["checks"].as_array().unwrap();
    assert!(checks.len() >= 20 && checks.iter().all(|check| check["held"] == true), "{told:#}");
}

#[tokio::test]
async fn a_demo_that_is_kept_runs_until_ctrl_c_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let mut process = Process::start("demo", demo(&["--keep"], directory.path()), logs.path());
    wait::until("the demo invites to try", async || process.output().contains("Try:")).await;
    let shown = process.output();
    let curl = shown.lines().find(|line| line.contains("curl -x http://")).expect("something to try");
    let proxy = curl.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    let client = weft_tests::client::Client::through(proxy.parse().expect("an address"));
    assert_eq!(client.get("http://catalog.shop/items").await.status(), 200);
    process.signal(Signal::SIGINT);
    let (status, _) = process.wait().await;
    assert_eq!(status.code(), Some(130), "{status}");
    assert_eq!(left(directory.path()), Vec::<PathBuf>::new());
    assert_eq!(running(directory.path()), Vec::<String>::new());
}

#[tokio::test]
async fn the_examples_have_no_problem_and_a_broken_copy_has() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    let ended = process::run(weft(&["check", &examples.to_string_lossy()])).await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stdout);
    assert!(ended.stdout.contains("0 errors, 0 warnings"), "{}", ended.stdout);
    let copy = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(examples.join("authorization.yaml")).unwrap();
    std::fs::write(copy.path().join("authorization.yaml"), text.replace("principals", "principal")).unwrap();
    let ended = process::run(weft(&["check", &copy.path().to_string_lossy()])).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stdout);
    assert!(ended.stdout.contains("principals"), "the hint names the right key: {}", ended.stdout);
    let ended = process::run(weft(&["check", "/nonexistent"])).await;
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
}

#[tokio::test]
async fn a_demo_that_lacks_a_program_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let alone = directory.path().join("weft");
    std::fs::copy(&binaries().cli, &alone).unwrap();
    let mut command = Command::new(&alone);
    command.arg("demo").env("PATH", directory.path());
    let ended = process::run(command).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("weft-control is neither beside"), "{}", ended.stderr);
}
