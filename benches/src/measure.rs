//! One round of one scenario against one contender: start the client, read the counters of everything in the
//! request's way when its window opens and when it closes, divide by the requests it completed.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::{
    contender::{Role, Running},
    counters::{self, MachineSample, Sample, Usage},
    load::Report,
    process::Owned,
    scenario::{Scenario, Shape},
};

/// How long proxies have to see that connections are gone and to give their memory back.
const GIVEN_BACK_AFTER: Duration = Duration::from_secs(3);

/// How long a round lasts.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Timing {
    pub(crate) warmup_milliseconds: u64,
    pub(crate) window_milliseconds: u64,
}

/// One round; times per request are in microseconds of CPU.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) load: Report,
    pub(crate) members: Vec<MemberUsage>,
    /// Client-side and server-side proxy together.
    pub(crate) pair: PerRequest,
    pub(crate) application: PerRequest,
    pub(crate) client: PerRequest,
    /// Share of the machine that was busy with what is none of ours: the noise of this round.
    pub(crate) others_share: f64,
    /// Where connections lay idle.
    pub(crate) memory: Vec<MemberMemory>,
}

/// A process's memory around connections that lay idle.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemberMemory {
    pub(crate) name: String,
    pub(crate) before_bytes: u64,
    pub(crate) per_connection_bytes: f64,
    pub(crate) given_back_share: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemberUsage {
    pub(crate) role: Role,
    pub(crate) name: String,
    pub(crate) per_request: PerRequest,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct PerRequest {
    pub(crate) cpu_microseconds: f64,
    pub(crate) wakeups: f64,
}

/// Everything that runs during a round, in a fixed order: members, application, client.
struct Samples {
    processes: Vec<Sample>,
    machine: MachineSample,
}

pub(crate) fn round(
    running: &Running,
    application: &Owned,
    scenario: &Scenario,
    timing: Timing,
    directory: &Path,
) -> Result<Round> {
    let target = match scenario.shape {
        Shape::Http2 { .. } => running.http2_target,
        Shape::Closed { .. } | Shape::Denied { .. } | Shape::Open { .. } | Shape::Idle { .. } => {
            running.target
        }
        Shape::Grpc { .. } => running.grpc_target.context("this contender carries no trailers")?,
        Shape::Tcp { .. } | Shape::Connect { .. } | Shape::IdleTcp { .. } => {
            running.tcp_target.context("this contender carries no opaque bytes")?
        }
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["load", "--host", &running.host, "--target", &target.to_string()]);
    command.args(["--scenario", &scenario.to_string()]);
    command.args(["--warmup", &timing.warmup_milliseconds.to_string()]);
    command.args(["--window", &timing.window_milliseconds.to_string()]);
    let (client, output) = Owned::start_piped("load", directory, &mut command)?;
    let mut lines = BufReader::new(output).lines();
    let mut line = || {
        lines.next().transpose()?.context("the client ended early").or_else(|error| {
            // Its own message says more than that it is gone.
            client.check_running().and(Err(error))
        })
    };

    let pids: Vec<u32> = running
        .members
        .iter()
        .map(|member| member.process.pid())
        .chain([application.pid(), client.pid()])
        .collect();
    let residents = || -> Result<Vec<u64>> {
        running.members.iter().map(|member| counters::resident_bytes(member.process.pid())).collect()
    };
    let memory_before = residents()?;
    if line()? != "begin" {
        bail!("the client did not begin");
    }
    let before = Samples::take(&pids)?;
    let memory_open = residents()?;
    let ended = line()?;
    // The client has not ended yet: it waits for nobody, but its counters stay until it is reaped.
    let after = Samples::take(&pids)?;
    let report = ended.strip_prefix("end ").with_context(|| format!("the client said {ended:?}"))?;
    let load: Report = serde_json::from_str(report)?;
    let mut round = Round::of(running, load, &before, &after);
    if let Some(connections) = scenario.shape.idle() {
        // Gone, so that its connections are closed; then time for the proxies to see it and to give back.
        drop(client);
        std::thread::sleep(GIVEN_BACK_AFTER);
        let memory = memory_before.into_iter().zip(memory_open).zip(residents()?);
        round.memory = memory
            .zip(&running.members)
            .map(|(((before, open), after), member)| MemberMemory {
                name: member.process.name().to_owned(),
                before_bytes: before,
                per_connection_bytes: open.saturating_sub(before) as f64 / connections as f64,
                given_back_share: given_back(before, open, after),
            })
            .collect();
    }
    Ok(round)
}

/// How much of what a process grew by it has given back.
fn given_back(before: u64, open: u64, after: u64) -> f64 {
    let grown = open.saturating_sub(before);
    if grown == 0 { 1.0 } else { open.saturating_sub(after) as f64 / grown as f64 }
}

// === impl Samples ===

impl Samples {
    fn take(pids: &[u32]) -> Result<Self> {
        let processes = pids.iter().map(|pid| Sample::of(*pid)).collect::<Result<_>>()?;
        Ok(Self { processes, machine: MachineSample::now()? })
    }
}

// === impl Round ===

impl Round {
    fn of(running: &Running, load: Report, before: &Samples, after: &Samples) -> Self {
        let usages: Vec<Usage> = after
            .processes
            .iter()
            .zip(&before.processes)
            .map(|(after, before)| after.since(before))
            .collect();
        let per_request: Vec<_> = usages.iter().map(|usage| PerRequest::of(*usage, load.requests)).collect();
        let members: Vec<_> = running
            .members
            .iter()
            .zip(&per_request)
            .map(|(member, per_request)| MemberUsage {
                role: member.role,
                name: member.process.name().to_owned(),
                per_request: *per_request,
            })
            .collect();
        let mut pair = PerRequest::default();
        for member in members.iter().filter(|member| member.role.is_proxy()) {
            pair.cpu_microseconds += member.per_request.cpu_microseconds;
            pair.wakeups += member.per_request.wakeups;
        }
        let ours: u64 = usages.iter().map(|usage| usage.cpu_nanoseconds).sum();
        let busy = after.machine.busy_nanoseconds_since(&before.machine);
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let capacity = load.elapsed_nanoseconds as f64 * cores;
        Self {
            pair,
            application: per_request[members.len()],
            client: per_request[members.len() + 1],
            others_share: busy.saturating_sub(ours) as f64 / capacity,
            memory: Vec::new(),
            members,
            load,
        }
    }

    pub(crate) fn requests_per_second(&self) -> f64 {
        self.load.requests as f64 / (self.load.elapsed_nanoseconds as f64 / 1e9)
    }

    pub(crate) fn of_role(&self, role: Role) -> Option<PerRequest> {
        self.members.iter().find(|member| member.role == role).map(|member| member.per_request)
    }
}

// === impl PerRequest ===

impl PerRequest {
    fn of(usage: Usage, requests: u64) -> Self {
        let requests = requests.max(1) as f64;
        Self {
            cpu_microseconds: usage.cpu_nanoseconds as f64 / 1000.0 / requests,
            wakeups: usage.wakeups as f64 / requests,
        }
    }
}

/// Median, least and greatest of a figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

// === impl Spread ===

impl Spread {
    /// `None` without values: no round, no figure.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_back_is_a_share_of_what_was_grown_by() {
        assert_eq!(given_back(100, 300, 150), 0.75);
        assert_eq!(given_back(100, 300, 350), 0.0);
        assert_eq!(given_back(100, 90, 90), 1.0);
    }

    #[test]
    fn the_median_of_an_even_number_of_rounds_lies_between_the_middle_two() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of([]), None);
    }
}
