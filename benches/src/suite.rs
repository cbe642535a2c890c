//! `weft-bench suite`: everything that issue and README name, in parts, and the README's tables in Markdown on standard
//! output. Each part starts its contenders anew, so that what one left behind in their memory is no part of the next.

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    process, report,
    run::{self, Outcome, Output, Sessions},
    tables,
};

/// Enough for the parts whose figure is a process's memory, which is read once.
const MEMORY_ROUND: (usize, f64) = (1, 1.0);

const EVERYBODY: &[&str] = &["weft", "envoy-h1", "envoy-h2", "nginx", "haproxy", "direct"];
const OPAQUE: &[&str] = &["weft", "envoy-h2", "haproxy"];

#[derive(Args)]
pub(crate) struct Options {
    /// Only these parts: pairs, bodies, connections, handshakes, idle, workers, services, restarts
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds per scenario and contender, interleaved
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds each round measures
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
}

/// One part: runs that are shown together.
struct Part {
    name: &'static str,
    title: &'static str,
    runs: &'static [Run],
    /// Makes the tables of the runs' outcomes.
    tables: fn(&[Outcome]) -> String,
}

struct Run {
    scenarios: &'static [&'static str],
    contenders: &'static [&'static str],
    sessions: Sessions,
    services: usize,
    restarts: bool,
    /// Rounds and seconds of its own.
    timing: Option<(usize, f64)>,
}

const PLAIN: Run = Run {
    scenarios: &[],
    contenders: EVERYBODY,
    sessions: Sessions::Resumed,
    services: 0,
    restarts: false,
    timing: None,
};

const PARTS: [Part; 8] = [
    Part {
        name: "pairs",
        title: "A request, CPU µs for the pair: median (min–max)",
        runs: &[Run {
            scenarios: &[
                "closed-1",
                "closed-16",
                "closed-64",
                "closed-256",
                "open-500",
                "open-2000",
                "open-5000",
                "h2c-4x32",
                "grpc-4x32",
                "denied-64",
            ],
            ..PLAIN
        }],
        tables: |outcomes| tables::pairs(outcomes) + &tables::latencies(outcomes) + &tables::starts(outcomes),
    },
    Part {
        name: "bodies",
        title: "Bodies, MB per CPU second for the pair: median (min–max)",
        runs: &[Run {
            scenarios: &[
                "closed-16-1k",
                "closed-16-10k",
                "closed-16-100k",
                "closed-16-1m",
                "closed-16-up100k",
            ],
            contenders: &["weft", "envoy-h2", "nginx", "haproxy"],
            ..PLAIN
        }],
        tables: tables::bodies,
    },
    Part {
        name: "connections",
        title: "Opaque TCP and new connections, CPU µs for the pair, of which the server side",
        runs: &[Run { scenarios: &["tcp-64", "tcp-4-1m", "connect-16"], contenders: OPAQUE, ..PLAIN }],
        tables: tables::exchanges,
    },
    Part {
        name: "handshakes",
        title: "New connections without resumption, CPU µs for the pair, of which the server side",
        runs: &[Run { scenarios: &["connect-16"], contenders: OPAQUE, sessions: Sessions::Full, ..PLAIN }],
        tables: tables::exchanges,
    },
    Part {
        name: "idle",
        title: "Idle connections: KB each, and the share given back three seconds after they are closed",
        runs: &[
            Run {
                scenarios: &["idle-10000"],
                contenders: &["weft", "envoy-h1", "nginx", "haproxy"],
                timing: Some(MEMORY_ROUND),
                ..PLAIN
            },
            Run {
                scenarios: &["idletcp-10000"],
                contenders: &["weft", "envoy-h1", "haproxy"],
                timing: Some(MEMORY_ROUND),
                ..PLAIN
            },
        ],
        tables: tables::idle,
    },
    Part {
        name: "workers",
        title: "One worker and two (`weft-w2`), CPU µs for the pair: median (min–max)",
        runs: &[Run { scenarios: &["closed-64", "tcp-64"], contenders: &["weft", "weft-w2"], ..PLAIN }],
        tables: tables::workers,
    },
    Part {
        name: "services",
        title: "Services in the mesh, of which five are used: RSS in MB",
        runs: &[
            Run { scenarios: &["closed-64"], contenders: &["weft"], timing: Some(MEMORY_ROUND), ..PLAIN },
            Run {
                scenarios: &["closed-64"],
                contenders: &["weft"],
                services: 1000,
                timing: Some(MEMORY_ROUND),
                ..PLAIN
            },
            Run {
                scenarios: &["closed-64"],
                contenders: &["weft"],
                services: 50_000,
                timing: Some(MEMORY_ROUND),
                ..PLAIN
            },
        ],
        tables: tables::services,
    },
    Part {
        name: "restarts",
        title: "From SIGKILL to the first answer of the next process, the control API gone",
        runs: &[Run {
            scenarios: &["closed-1"],
            contenders: &["weft"],
            restarts: true,
            timing: Some(MEMORY_ROUND),
            ..PLAIN
        }],
        tables: tables::restarts,
    },
];

/// Measures and prints; false if any round failed.
pub(crate) fn suite(options: &Options) -> Result<bool> {
    if let Some(unknown) = options.only.iter().find(|only| PARTS.iter().all(|part| part.name != **only)) {
        let names: Vec<_> = PARTS.iter().map(|part| part.name).collect();
        bail!("no part {unknown:?}; there are: {}", names.join(", "));
    }
    process::end_on_interruption()?;
    let mut succeeded = true;
    let mut described = false;
    for part in &PARTS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == part.name) {
            continue;
        }
        let mut outcomes = Vec::new();
        for run in part.runs {
            let outcome = run::measure(&run.options(options)?)?;
            succeeded &= outcome.succeeded();
            outcomes.push(outcome);
        }
        if !described {
            described = true;
            report::text(&tables::setting(&outcomes[0]));
        }
        report::text(&format!("\n**{}**\n\n{}\n", part.title, (part.tables)(&outcomes).trim_end()));
    }
    Ok(succeeded)
}

// === impl Run ===

impl Run {
    fn options(&self, suite: &Options) -> Result<run::Options> {
        let (rounds, seconds) = self.timing.unwrap_or((suite.rounds, suite.seconds));
        Ok(run::Options {
            scenarios: self.scenarios.iter().map(|name| name.parse()).collect::<Result<_>>()?,
            contenders: self.contenders.iter().map(|name| (*name).to_owned()).collect(),
            rounds,
            seconds,
            warmup: 0.3,
            workers: 1,
            services: self.services,
            sessions: self.sessions,
            restarts: self.restarts,
            output: Output::None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{contender, scenario::Scenario};

    #[test]
    fn every_part_names_scenarios_and_contenders_that_there_are() {
        let known: Vec<_> = contender::all().iter().map(|contender| contender.name()).collect();
        for run in PARTS.iter().flat_map(|part| part.runs) {
            assert!(!run.scenarios.is_empty());
            for name in run.scenarios {
                name.parse::<Scenario>().unwrap();
            }
            assert!(run.contenders.iter().all(|name| known.contains(name)), "{:?}", run.contenders);
        }
    }

    #[test]
    fn every_scenario_and_part_stands_in_the_readme() {
        let readme = include_str!("../README.md");
        for part in &PARTS {
            assert!(readme.contains(&format!("`{}`", part.name)), "part {} is not documented", part.name);
            for scenario in part.runs.iter().flat_map(|run| run.scenarios) {
                assert!(readme.contains(scenario), "scenario {scenario} is not documented");
            }
        }
    }

    #[test]
    fn no_scenario_takes_a_minute() {
        let suite = Options { only: Vec::new(), rounds: 5, seconds: 1.5 };
        for run in PARTS.iter().flat_map(|part| part.runs) {
            let options = run.options(&suite).unwrap();
            let each = options.warmup + options.seconds;
            assert!(each * (options.rounds * options.contenders.len()) as f64 <= 55.0, "{:?}", run.scenarios);
        }
    }
}
