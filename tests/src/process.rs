//! A program under test as a child process: its log, its memory, its end.
//!
//! Every child is ended by its own id when its owner is dropped, whatever became of the test.

use crate::wait::{self, SOON};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Lines of a log that a failed test shows.
const LOG_LINES_SHOWN: usize = 40;

/// How long a program that is run to its end may take: how fast it is nobody's claim, and this is for one that
/// hangs.
const RUN_MAX: Duration = Duration::from_secs(10 * 60);

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a program that ended left behind.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Process {
    /// Starts `command`, its standard error appended to `NAME.log` and its standard output to
    /// `NAME.out` in `directory`.
    pub fn start(name: &str, mut command: Command, directory: &Path) -> Self {
        let file = name.replace('/', ".");
        let log = directory.join(format!("{file}.log"));
        command.stdin(Stdio::null());
        command.stderr(append(&log));
        command.stdout(append(&directory.join(format!("{file}.out"))));
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Everything it has written to standard output.
    pub fn output(&self) -> String {
        fs::read_to_string(self.log.with_extension("out")).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id must fit");
        kill(Pid::from_raw(id), signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The exit status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child must be waited for")
    }

    /// Waits until it ends and says how long that took.
    pub async fn wait(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        let name = self.name.clone();
        let child = &mut self.child;
        loop {
            if let Some(status) = child.try_wait().expect("a child must be waited for") {
                return (status, start.elapsed());
            }
            assert!(start.elapsed() < SOON * 2, "{name} does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the log contains `text`.
    pub async fn logged(&self, text: &str) {
        wait::until(&format!("{} logs {text:?}", self.name), async || self.log().contains(text)).await;
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The highest resident memory so far, in bytes.
    pub fn resident_peak(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    }

    /// The end of the log, for a failed test.
    pub fn show(&self) {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        let text = shown.join("\n");
        #[allow(clippy::print_stderr, reason = "libtest shows it with the test that failed")]
        {
            eprintln!("--- {} (last {} of {} lines)\n{text}", self.name, shown.len(), lines.len());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
        }
        self.kill();
    }
}

/// Runs a program to its end, bounded.
pub async fn run(mut command: Command) -> Ended {
    command.stdin(Stdio::null());
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let output = tokio::time::timeout(RUN_MAX, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} does not end within {RUN_MAX:?}"));
    let output = output.expect("the program must start");
    Ended {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn append(path: &Path) -> File {
    File::options().create(true).append(true).open(path).expect("a log file must open")
}
