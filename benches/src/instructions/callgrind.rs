//! A proxy under callgrind, and the counts that it leaves.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::contender::{self, Member};

/// Where a proxy leaves its counts, in its own directory.
const COUNTS: &str = "instructions";

/// A dump takes a fraction of a second.
const ANSWER_SECONDS: &str = "60";

/// Fails unless everything that counts is here.
pub(super) fn installed() -> Result<()> {
    for program in ["valgrind", "callgrind_control"] {
        ensure!(
            contender::in_path(program).is_some(),
            "{program} is not installed: it counts the instructions (on Debian: apt-get install valgrind); \
             WEFT_CI_INSTRUCTIONS=off leaves this step of .ci/run out"
        );
    }
    Ok(())
}

/// The command that runs a proxy under callgrind.
pub(super) fn counted(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet"]);
    command.arg(format!("--callgrind-out-file={}", directory.join(COUNTS).display()));
    command.arg(program);
    command
}

/// The instructions that a proxy has run since the last time.
pub(super) fn take(proxy: &Member, directory: &Path) -> Result<u64> {
    let pid = proxy.process.pid().to_string();
    // It asks the proxy, and would wait for as long as that does not answer.
    let output = Command::new("timeout").args([ANSWER_SECONDS, "callgrind_control", "-d", &pid]).output()?;
    ensure!(
        output.status.success(),
        "callgrind_control ({}, {ANSWER_SECONDS} s at most): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    // Each dump is a file of its own, numbered; read and removed, so that there is one at a time.
    let directory = directory.join(proxy.process.name().trim_start_matches("weft-proxy-"));
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with(&format!("{COUNTS}.")) {
            continue;
        }
        let dump = std::fs::read_to_string(&path)?;
        std::fs::remove_file(&path)?;
        let total =
            dump.lines().find_map(|line| line.strip_prefix("totals: ")).context("a dump without totals")?;
        return Ok(total.trim().parse()?);
    }
    bail!("{} left no count", proxy.process.name())
}
