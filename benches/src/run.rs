//! `weft-bench run`: starts the application and every contender, proves that each does its job, then goes round
//! after round through all contenders, so that whatever disturbs the machine disturbs all of them alike.
//! An error in any round fails the run loudly; a contender that is not installed is skipped by name.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    certificates::Certificates,
    contender::{self, Contender, Running, Setting},
    facts::{self, Facts},
    machine::Machine,
    measure::{self, Round, Spread, Timing},
    process::{self, Owned, Scratch, free_port, wait_until},
    report,
    scenario::{DESCRIPTORS_BESIDES, Scenario, Shape},
};

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Below this a median means little.
const ROUNDS_MIN: usize = 1;

/// A start is short and varies: one is not enough.
const STARTS: usize = 3;

/// A proxy that has just started still allocates; its idle memory is read after this.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(crate) struct Options {
    /// Scenarios: closed-N, open-RATE, h2c-CxS, grpc-CxS, denied-N, tcp-N, connect-N, idle-N, idletcp-N; optionally followed by -BYTES or -upBYTES
    #[arg(long = "scenario", value_delimiter = ',', default_value = "closed-64,open-500,open-2000")]
    pub(crate) scenarios: Vec<Scenario>,
    /// Contenders by name; see `weft-bench list`
    #[arg(long, value_delimiter = ',', default_value = "weft,envoy-h1,envoy-h2,direct")]
    pub(crate) contenders: Vec<String>,
    /// Rounds per scenario and contender, interleaved
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Seconds each round measures
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Seconds each round warms up
    #[arg(long, default_value_t = 0.3)]
    pub(crate) warmup: f64,
    /// Threads of each proxy
    #[arg(long, default_value_t = 1)]
    pub(crate) workers: usize,
    /// Services in the mesh besides the ones in use, each with a workload
    #[arg(long, default_value_t = 0)]
    pub(crate) services: usize,
    /// Whether the proxies may resume TLS sessions
    #[arg(long, value_enum, default_value_t = Sessions::Resumed)]
    pub(crate) sessions: Sessions,
    /// Also kill and restart the server-side proxy, its control API gone
    #[arg(long)]
    pub(crate) restarts: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
    /// Progress alone; whoever measures prints.
    #[value(skip)]
    None,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Sessions {
    Resumed,
    Full,
}

/// Everything a run found out; what `--output json` prints.
#[derive(Serialize)]
pub(crate) struct Outcome {
    pub(crate) machine: Machine,
    pub(crate) timing: Timing,
    pub(crate) rounds: usize,
    /// Services of the mesh besides the ones in use.
    pub(crate) services: usize,
    pub(crate) contenders: Vec<Described>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) scenarios: Vec<ScenarioOutcome>,
}

#[derive(Serialize)]
pub(crate) struct Described {
    pub(crate) name: &'static str,
    pub(crate) job: &'static str,
    pub(crate) configuration: Vec<String>,
    pub(crate) facts: Facts,
}

#[derive(Serialize)]
pub(crate) struct Skipped {
    pub(crate) name: &'static str,
    pub(crate) reason: String,
    pub(crate) install: &'static str,
}

#[derive(Serialize)]
pub(crate) struct ScenarioOutcome {
    pub(crate) scenario: String,
    /// Bytes of bodies per exchange.
    pub(crate) exchange_bytes: usize,
    pub(crate) contenders: Vec<ContenderOutcome>,
}

#[derive(Serialize)]
pub(crate) struct ContenderOutcome {
    pub(crate) name: &'static str,
    pub(crate) rounds: Vec<Round>,
    /// Rounds that failed: with errors, or not measured at all.
    pub(crate) failures: Vec<String>,
}

/// Runs and prints; false if any round failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    process::end_on_interruption()?;
    let outcome = measure(options)?;
    report::end(&outcome, options.output)?;
    Ok(outcome.succeeded())
}

/// Measures; each scenario is printed as soon as it is measured.
pub(crate) fn measure(options: &Options) -> Result<Outcome> {
    ensure!(options.rounds >= ROUNDS_MIN, "--rounds must be at least {ROUNDS_MIN}");
    ensure!(
        options.seconds >= 0.1 && options.warmup >= 0.0,
        "--seconds must be at least 0.1, --warmup not negative"
    );
    let timing = Timing {
        warmup_milliseconds: (options.warmup * 1000.0) as u64,
        window_milliseconds: (options.seconds * 1000.0) as u64,
    };
    let chosen = choose(&options.contenders)?;
    let descriptors = process::raise_descriptor_limit()?;
    let scenarios: Vec<_> = options
        .scenarios
        .iter()
        .map(|scenario| {
            let within = scenario.within(descriptors);
            if let Some(within) = &within {
                report::fewer(scenario, within, descriptors);
            }
            within.unwrap_or_else(|| scenario.clone())
        })
        .collect();
    let scratch = Scratch::new()?;
    let (application, address, raw) = start_application(scratch.path())?;
    let certificates = Certificates::make(scratch.path())?;
    let mut outcome = Outcome {
        machine: Machine::describe(),
        timing,
        rounds: options.rounds,
        services: options.services,
        contenders: Vec::new(),
        skipped: Vec::new(),
        scenarios: Vec::new(),
    };

    let mut runnings = Vec::new();
    for contender in &chosen {
        if let Some(missing) = contender.missing() {
            let skipped = Skipped { name: contender.name(), reason: missing.what, install: missing.install };
            report::skipped(&skipped);
            outcome.skipped.push(skipped);
            continue;
        }
        let directory = scratch.path().join(contender.name());
        std::fs::create_dir(&directory)?;
        let setting = Setting {
            directory: &directory,
            application: address,
            application_raw: raw,
            certificates: &certificates,
            connections_max: descriptors.saturating_sub(DESCRIPTORS_BESIDES),
            workers: options.workers,
            resumption: options.sessions == Sessions::Resumed,
            services: options.services,
            counted: None,
        };
        let (running, facts) = start(contender.as_ref(), &setting)
            .with_context(|| format!("contender {} does not work", contender.name()))?;
        let (name, job, configuration) = (contender.name(), contender.job(), running.configuration.clone());
        outcome.contenders.push(Described { name, job, configuration, facts });
        runnings.push((name, running));
    }
    ensure!(!runnings.is_empty(), "no contender left to measure");
    report::configuration(&outcome);

    for scenario in &scenarios {
        let scenario =
            measure_scenario(scenario, &runnings, &application, timing, options.rounds, scratch.path());
        report::scenario(&scenario, options.output);
        outcome.scenarios.push(scenario);
    }
    for ((name, running), described) in runnings.iter_mut().zip(&mut outcome.contenders) {
        facts::after_load(running, &mut described.facts)?;
        if options.restarts {
            described.facts.restart_milliseconds = facts::restarts(running, &scratch.path().join(name))?;
        }
    }
    Ok(outcome)
}

// === impl ContenderOutcome ===

impl ContenderOutcome {
    /// The median of the rounds' ratios of a figure: neighbours in time were disturbed alike. Only where all rounds
    /// succeeded.
    pub(crate) fn ratio_to(&self, other: &Self, figure: impl Fn(&Round) -> f64) -> Option<f64> {
        if !self.failures.is_empty() || !other.failures.is_empty() {
            return None;
        }
        let pairs = self.rounds.iter().zip(&other.rounds);
        Spread::of(pairs.map(|(mine, theirs)| figure(mine) / figure(theirs))).map(|spread| spread.median)
    }
}

// === impl Outcome ===

impl Outcome {
    pub(crate) fn succeeded(&self) -> bool {
        self.scenarios
            .iter()
            .flat_map(|scenario| &scenario.contenders)
            .all(|outcome| outcome.failures.is_empty())
    }
}

fn choose(names: &[String]) -> Result<Vec<Box<dyn Contender>>> {
    let mut all = contender::all();
    let known: Vec<_> = all.iter().map(|contender| contender.name()).collect();
    let mut chosen = Vec::new();
    for name in names {
        let Some(position) = all.iter().position(|contender| contender.name() == name) else {
            bail!("no contender {name:?} (or named twice); there are: {}", known.join(", "));
        };
        chosen.push(all.remove(position));
    }
    Ok(chosen)
}

/// The application, where it speaks HTTP and where it takes opaque exchanges.
pub(crate) fn start_application(
    directory: &Path,
) -> Result<(Owned, std::net::SocketAddr, std::net::SocketAddr)> {
    let (address, raw) = (free_port(LOOPBACK)?, free_port(LOOPBACK)?);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "--listen", &address.to_string(), "--listen-raw", &raw.to_string()]);
    command.stdin(std::process::Stdio::piped());
    let application = Owned::start("application", directory, &mut command)?;
    wait_until("the application", Duration::from_secs(5), || {
        application.check_running()?;
        Ok(facts::status(address, "localhost", "/items/1").is_ok())
    })?;
    Ok((application, address, raw))
}

/// Starts a contender, proves that it does its job, and takes what is measured before any load.
fn start(contender: &dyn Contender, setting: &Setting<'_>) -> Result<(Running, Facts)> {
    let attempt = |number: usize| {
        let directory = setting.directory.join(number.to_string());
        std::fs::create_dir_all(&directory)?;
        contender.start(&Setting { directory: &directory, ..*setting })
    };
    let running = attempt(0)?;
    std::thread::sleep(SETTLE);
    let mut members = facts::idle(&running)?;
    facts::started(&running, &mut members);
    // The others only to time their start: each ends before the next, beside the first one, which is idle.
    if !members.is_empty() {
        for number in 1..STARTS {
            facts::started(&attempt(number)?, &mut members);
        }
    }
    facts::verify(&running)?;
    facts::used(&running, &mut members)?;
    let policy_edit_milliseconds = match &running.policy {
        Some(policy) => facts::policy_edits(&running, policy)?,
        None => Vec::new(),
    };
    Ok((running, Facts { members, policy_edit_milliseconds, restart_milliseconds: Vec::new() }))
}

/// Whether a contender carries what the scenario sends.
fn takes_part(running: &Running, scenario: &Scenario) -> bool {
    match scenario.shape {
        Shape::Grpc { .. } => running.grpc_target.is_some(),
        Shape::Denied { .. } => running.authorizes,
        shape => !shape.is_tcp() || running.tcp_target.is_some(),
    }
}

fn measure_scenario(
    scenario: &Scenario,
    runnings: &[(&'static str, Running)],
    application: &Owned,
    timing: Timing,
    rounds: usize,
    directory: &Path,
) -> ScenarioOutcome {
    let mut contenders: Vec<_> = runnings
        .iter()
        .map(|(name, _)| ContenderOutcome { name, rounds: Vec::new(), failures: Vec::new() })
        .collect();
    for number in 1..=rounds {
        for ((_, running), outcome) in runnings.iter().zip(&mut contenders) {
            if !takes_part(running, scenario) {
                continue;
            }
            let round = running
                .check()
                .and_then(|()| measure::round(running, application, scenario, timing, directory));
            match round {
                Ok(round) if round.load.errors == 0 && round.load.requests > 0 => outcome.rounds.push(round),
                Ok(round) => {
                    let first = round.load.first_error.as_deref().unwrap_or("no request was completed");
                    let failure = format!(
                        "round {number}: {} errors, {} requests; first: {first}",
                        round.load.errors, round.load.requests
                    );
                    report::round_failed(scenario, outcome.name, &failure);
                    outcome.failures.push(failure);
                }
                Err(error) => {
                    let failure = format!("round {number}: {error:#}");
                    report::round_failed(scenario, outcome.name, &failure);
                    outcome.failures.push(failure);
                }
            }
        }
    }
    ScenarioOutcome { scenario: scenario.to_string(), exchange_bytes: scenario.exchange_bytes(), contenders }
}
