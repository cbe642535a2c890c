//! `weft-proxy -- COMMAND`: starts the application once the proxy is ready, passes it every signal, and
//! ends as it ended.
//!
//! For jobs and for places without an orchestrator that orders containers. The command has this
//! process's standard input, output and error, and runs as the same user. It is never killed from here:
//! at the drain's deadline its connections are cut, and this process waits for it. As process 1 of a
//! container this also buries orphans.

use super::DEFAULT_AFTERMATH_MAX;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::future::poll_fn;
use std::io::{self, IsTerminal};
use std::process::Command;
use std::task::Poll;
use std::time::Duration;
use tokio::signal::unix::{self, SignalKind};
use weft_runtime::drain::Trigger;
use weft_runtime::readiness::Readiness;

/// What wrappers exit with when they fail themselves, and not the command: as `env` and `timeout` do.
pub const EXIT_OWN_FAILURE: u8 = 125;

/// Signals that are the command's to act upon.
const PASSED: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// A command and its arguments.
#[derive(Clone, Debug)]
pub struct CommandLine {
    program: OsString,
    arguments: Vec<OsString>,
}

/// What the wrapper needs of the proxy around it.
#[derive(Debug)]
pub struct Around {
    /// Holds the command back until the proxy serves.
    pub readiness: Readiness,
    /// Ends the proxy.
    pub trigger: Trigger,
    /// How long the command may be held back.
    pub startup_timeout: Duration,
    /// How long a drain may take.
    pub drain_deadline: Duration,
    /// The limit of open files that this process was started with: the command's.
    pub descriptors: Option<u64>,
}

/// Why there is no exit code of the command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Signals cannot be taken over.
    #[error("the signal handlers cannot be installed")]
    Signals(#[source] io::Error),
    /// The proxy is not ready.
    #[error("the command is not started: the proxy is not ready within {within:?}, missing: {missing}")]
    NotReady {
        /// How long was waited.
        within: Duration,
        /// What is missing.
        missing: String,
    },
    /// There is no such program, or it is none.
    #[error("{program:?} cannot be started")]
    Start {
        /// Which.
        program: OsString,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be waited for.
    #[error("the command cannot be waited for")]
    Wait(#[source] Errno),
}

/// A command that runs. Where the proxy cannot go on, it is asked to end: without it there is no network.
struct Child(Option<Pid>);

/// All signals that this process takes over.
struct Signals {
    passed: Vec<(Signal, unix::Signal)>,
    children: unix::Signal,
}

// === impl CommandLine ===

impl CommandLine {
    /// From the words after `--`; none without any.
    pub fn new(words: Vec<OsString>) -> Option<Self> {
        let mut words = words.into_iter();
        let program = words.next()?;
        Some(Self { program, arguments: words.collect() })
    }

    /// Runs it to its end, inside the proxy's main runtime, and ends the proxy then; the exit code.
    pub async fn run(self, around: Around) -> Result<u8, CommandError> {
        let code = self.run_to_end(&around).await;
        around.trigger.finish(DEFAULT_AFTERMATH_MAX);
        code
    }

    async fn run_to_end(&self, around: &Around) -> Result<u8, CommandError> {
        // Before the command is there: its end must not be missed.
        let mut signals = Signals::install().map_err(CommandError::Signals)?;
        let ready = tokio::time::timeout(around.startup_timeout, around.readiness.ready());
        tokio::select! {
            ready = ready => {
                if ready.is_err() {
                    let missing = around.readiness.missing().join(", ");
                    return Err(CommandError::NotReady { within: around.startup_timeout, missing });
                }
            }
            // Nothing was started: it ends as the command would have.
            signal = signals.next_that_ends() => return Ok(by_signal(signal)),
        }
        let mut child = Child(Some(self.start(around.descriptors)?));
        tracing::info!(process = child.id().as_raw(), program = ?self.program, "the command is started");
        let code = signals.follow(child.id(), around).await?;
        child.0 = None;
        tracing::info!(code, "the command has ended");
        Ok(code)
    }

    fn start(&self, descriptors: Option<u64>) -> Result<Pid, CommandError> {
        let _limit = descriptors.and_then(Lowered::to);
        let started = Command::new(&self.program).args(&self.arguments).spawn();
        let child =
            started.map_err(|source| CommandError::Start { program: self.program.clone(), source })?;
        Ok(Pid::from_raw(i32::try_from(child.id()).expect("a process id must fit")))
    }
}

// === impl Child ===

impl Child {
    fn id(&self) -> Pid {
        self.0.expect("a command must run until its end is known")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            let _ = signal::kill(id, Signal::SIGTERM);
        }
    }
}

// === impl CommandError ===

impl CommandError {
    /// As shells say it: 127 not found, 126 found and not startable, 125 everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Start { .. } => 126,
            _ => EXIT_OWN_FAILURE,
        }
    }
}

// === impl Signals ===

impl Signals {
    fn install() -> io::Result<Self> {
        let install = |number| unix::signal(SignalKind::from_raw(number));
        let passed = PASSED
            .into_iter()
            .map(|signal| Ok((signal, install(signal as i32)?)))
            .collect::<io::Result<_>>()?;
        Ok(Self { passed, children: unix::signal(SignalKind::child())? })
    }

    /// The next signal that ends a process which does not handle it.
    async fn next_that_ends(&mut self) -> Signal {
        loop {
            let signal = next(&mut self.passed).await;
            if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP) {
                return signal;
            }
        }
    }

    /// Passes signals on until the command has ended.
    async fn follow(&mut self, child: Pid, around: &Around) -> Result<u8, CommandError> {
        // A terminal sends its own signals to the command as well; twice would be once too often.
        let from_terminal = io::stdin().is_terminal();
        loop {
            let signal = tokio::select! {
                _ = self.children.recv() => None,
                signal = next(&mut self.passed) => Some(signal),
            };
            match signal {
                None => {}
                Some(Signal::SIGINT | Signal::SIGQUIT) if from_terminal => {}
                Some(signal) => {
                    if matches!(signal, Signal::SIGTERM | Signal::SIGINT) {
                        tracing::info!(%signal, deadline = ?around.drain_deadline, "draining, until the command ends");
                        around.trigger.drain(around.drain_deadline);
                    }
                    // It may have ended in this moment; then its end is on its way here.
                    let _ = signal::kill(child, signal);
                }
            }
            if let Some(code) = bury(child)? {
                return Ok(code);
            }
        }
    }
}

/// The next signal that is the command's.
async fn next(passed: &mut [(Signal, unix::Signal)]) -> Signal {
    poll_fn(|cx| {
        for (signal, stream) in &mut *passed {
            if stream.poll_recv(cx).is_ready() {
                return Poll::Ready(*signal);
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits for every child that has ended; the exit code if the command is among them.
fn bury(child: Pid) -> Result<Option<u8>, CommandError> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(id, status)) if id == child => {
                code = Some(u8::try_from(status & 0xff).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::Signaled(id, signal, _)) if id == child => code = Some(by_signal(signal)),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(code),
            // An orphan, or an interruption.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(CommandError::Wait(error)),
        }
    }
}

/// How shells write the end by a signal.
fn by_signal(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)
}

/// This process's limit of open files, lowered for a moment: a command inherits it, and some close
/// every number up to it, one by one.
struct Lowered {
    soft: u64,
    hard: u64,
}

impl Lowered {
    fn to(limit: u64) -> Option<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        setrlimit(Resource::RLIMIT_NOFILE, limit.min(hard), hard).ok()?;
        Some(Self { soft, hard })
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, self.soft, self.hard) {
            tracing::warn!(%error, "the limit of file descriptors stays as the command's");
        }
    }
}
