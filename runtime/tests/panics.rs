//! Panics as log lines, in a process of its own, since the panic hook and the global subscriber are the
//! process's. The test starts its own binary again and reads what that writes to stderr.

#![allow(clippy::unwrap_used, reason = "a test throughout")]

use std::process::Command;

const CHILD: &str = "WEFT_TEST_PANIC_CHILD";

#[test]
fn a_panic_in_a_task_is_two_json_lines_with_the_message_escaped() {
    if std::env::var_os(CHILD).is_some() {
        return panic_in_a_task();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("a_panic_in_a_task_is_two_json_lines_with_the_message_escaped")
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}")))
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0]["message"], "a thread panicked");
    assert_eq!(lines[0]["panic"], "peer said \u{1b}[2J\nforged");
    assert!(lines[0]["file"].as_str().unwrap().ends_with("panics.rs"));
    assert!(lines[0]["line"].is_u64());
    assert_eq!(lines[1]["message"], "a task panicked; only this task ends");
    assert_eq!(lines[1]["task"], "victim");
}

fn panic_in_a_task() {
    let filter = "info".parse().unwrap();
    weft_runtime::logging::init(&filter, weft_runtime::logging::Format::Json).unwrap();
    assert!(
        weft_runtime::logging::init(&filter, weft_runtime::logging::Format::Json).is_err(),
        "a second time must be refused"
    );
    let runtime = weft_runtime::workers::build_runtime().unwrap();
    runtime.block_on(async {
        let peer = "\u{1b}[2J\nforged";
        let task = weft_runtime::spawn_local("victim", async move { panic!("peer said {peer}") });
        assert!(task.await.is_err());
        assert_eq!(weft_runtime::spawn("next", async { 1 }).await.unwrap(), 1);
    });
}
