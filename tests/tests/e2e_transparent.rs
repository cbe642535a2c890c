//! `weft demo --transparent`: the shop in pods, as a new user runs it.

use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_tests::binaries::binaries;
use weft_tests::netns::{isolated, left_out};
use weft_tests::process::{self, Process};
use weft_tests::wait;

/// The demo with its temporary directory in `directory`.
fn demo(arguments: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(&binaries().cli);
    command.args(["demo", "--transparent"]).args(arguments).env("TMPDIR", directory);
    command
}

/// What the demo has left in its directory.
fn left(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).expect("the directory").flatten().map(|entry| entry.path()).collect()
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
async fn the_transparent_demo_checks_every_claim_and_cleans_up() {
    if left_out("the_transparent_demo_checks_every_claim_and_cleans_up") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let ended = process::run(demo(&[], directory.path())).await;
    assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("claims checked and held"), "{}", ended.stdout);
    assert!(ended.stdout.contains("crossed the wire, and it is not among them"), "{}", ended.stdout);
    assert_eq!(left(directory.path()), Vec::<PathBuf>::new());
    assert_eq!(running(directory.path()), Vec::<String>::new());
}

#[tokio::test]
async fn the_transparent_demo_speaks_json_to_programs() {
    if left_out("the_transparent_demo_speaks_json_to_programs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let ended = process::run(demo(&["--output", "json"], directory.path())).await;
    assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    let told: serde_json::Value = serde_json::from_str(&ended.stdout).expect("one JSON document");
    assert_eq!(told["held"], true);
    let checks = told["checks"].as_array().unwrap();
    assert!(checks.len() >= 18 && checks.iter().all(|check| check["held"] == true), "{told:#}");
}

#[tokio::test]
async fn a_transparent_demo_that_is_kept_can_be_entered_and_leaves_nothing() {
    if left_out("a_transparent_demo_that_is_kept_can_be_entered_and_leaves_nothing") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let mut process = Process::start("demo", demo(&["--keep"], directory.path()), logs.path());
    wait::until("the demo invites to try", async || process.output().contains("Try:")).await;
    let shown = process.output();
    let line = shown.lines().find(|line| line.contains("nsenter")).expect("a way in").to_owned();
    assert!(line.contains("curl -i http://cart.checkout/cart/42"), "{line}");
    process.signal(Signal::SIGINT);
    let (status, _) = process.wait().await;
    assert_eq!(status.code(), Some(130), "{status}");
    assert_eq!(left(directory.path()), Vec::<PathBuf>::new());
    assert_eq!(running(directory.path()), Vec::<String>::new());
}

#[test]
fn a_machine_that_makes_no_namespaces_is_told_so_in_one_sentence() {
    isolated("a_machine_that_makes_no_namespaces_is_told_so_in_one_sentence", || async {
        for limit in ["max_user_namespaces", "max_net_namespaces"] {
            std::fs::write(format!("/proc/sys/user/{limit}"), "0")
                .expect("root of a namespace sets its limits");
        }
        let directory = tempfile::tempdir().unwrap();
        let ended = process::run(demo(&[], directory.path())).await;
        assert_eq!(ended.status.code(), Some(1), "{}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains("this machine makes no network namespaces"), "{}", ended.stderr);
        assert_eq!(ended.stderr.trim().lines().count(), 1, "{}", ended.stderr);
        assert_eq!(left(directory.path()), Vec::<PathBuf>::new());
    });
}
