//! The client before the proxies, in its own process. It says `begin` on standard output when the measured window
//! opens, so that `run` can read the counters of the contender at that moment, and `end {report}` when it closes.
//! Whatever is not a 200 of the right size is an error; it never retries, and it never goes on after a hang.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::exit,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    histogram::{Histogram, Quantiles},
    http1::Answer,
    scenario::{Scenario, Shape},
};

mod closed;
pub(crate) mod grpc;
pub(crate) mod http2;
mod idle;
mod open;
mod tcp;

/// A window that has not closed by then never will.
const OVERRUN_MAX: Duration = Duration::from_secs(15);

/// What each idle connection may add to that: they are opened one exchange after the other.
const OVERRUN_MAX_EACH: Duration = Duration::from_millis(10);

/// More errors than this teach nothing; a failing contender must not be hammered for the whole window.
const ERRORS_MAX: u64 = 1000;

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Where to connect
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// Host or authority to ask for
    #[arg(long)]
    pub(crate) host: String,
    /// What to do, for instance closed-64 or open-2000
    #[arg(long)]
    pub(crate) scenario: Scenario,
    /// Milliseconds before the window opens
    #[arg(long)]
    pub(crate) warmup: u64,
    /// Milliseconds the window stays open
    #[arg(long)]
    pub(crate) window: u64,
}

/// One round as the client saw it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) reconnects: u64,
    pub(crate) elapsed_nanoseconds: u64,
    pub(crate) latency_nanoseconds: Quantiles,
}

/// Counts what happens; only what belongs to the window is measured, but errors count from the first request.
pub(crate) struct Recorder {
    latencies: Histogram,
    requests: u64,
    errors: u64,
    first_error: Option<String>,
    reconnects: u64,
}

pub(crate) fn load(options: &Options) -> Result<()> {
    let idle = u32::try_from(options.scenario.shape.idle().unwrap_or(0))?;
    let limit =
        Duration::from_millis(options.warmup + options.window) + OVERRUN_MAX + OVERRUN_MAX_EACH * idle;
    thread::spawn(move || {
        thread::sleep(limit);
        say(&format!("hang no end of the window after {limit:?}"));
        exit(3);
    });
    let (recorder, elapsed) = match options.scenario.shape {
        Shape::Closed { connections } | Shape::Denied { connections } => closed::run(options, connections)?,
        Shape::Open { rate, connections } => open::run(options, rate, connections)?,
        Shape::Http2 { connections, streams } | Shape::Grpc { connections, streams } => {
            http2::run(options, connections, streams)?
        }
        Shape::Tcp { connections } => tcp::run(options, connections, tcp::Connections::Kept)?,
        Shape::Connect { connections } => tcp::run(options, connections, tcp::Connections::OnePerExchange)?,
        Shape::Idle { connections } | Shape::IdleTcp { connections } => idle::run(options, connections)?,
    };
    say(&format!("end {}", serde_json::to_string(&recorder.report(elapsed))?));
    Ok(())
}

/// One line of the protocol with `run`; a reader that is gone means that nobody measures any more.
fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    if writeln!(output, "{line}").and_then(|()| output.flush()).is_err() {
        exit(1);
    }
}

/// Fails unless `answer` is what the application sent, or where policy refuses the request, a proxy.
pub(crate) fn expect_answer(answer: Answer, scenario: &Scenario) -> Result<()> {
    if scenario.shape.is_denied() {
        ensure!(answer.status == 403, "status {} where policy refuses", answer.status);
        return Ok(());
    }
    ensure!(answer.status == 200, "status {}", answer.status);
    ensure!(answer.body_bytes == scenario.body_bytes, "{} bytes of body", answer.body_bytes);
    Ok(())
}

// === impl Recorder ===

impl Recorder {
    fn new() -> Self {
        Self { latencies: Histogram::new(), requests: 0, errors: 0, first_error: None, reconnects: 0 }
    }

    fn answered(&mut self, latency: Duration) {
        self.requests += 1;
        self.latencies.record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts an error; false once there were so many that the connection should give up.
    fn failed(&mut self, error: &anyhow::Error) -> bool {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(format!("{error:#}"));
        }
        self.errors < ERRORS_MAX
    }

    fn merge(&mut self, other: Self) {
        self.latencies.merge(&other.latencies);
        self.requests += other.requests;
        self.errors += other.errors;
        self.reconnects += other.reconnects;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn report(self, elapsed: Duration) -> Report {
        Report {
            requests: self.requests,
            errors: self.errors,
            first_error: self.first_error,
            reconnects: self.reconnects,
            elapsed_nanoseconds: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            latency_nanoseconds: self.latencies.quantiles(),
        }
    }
}

/// When the measured window opens and closes.
#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

// === impl Window ===

impl Window {
    fn from_now(options: &Options) -> Self {
        let begin = Instant::now() + Duration::from_millis(options.warmup);
        Self { begin, end: begin + Duration::from_millis(options.window) }
    }
}
