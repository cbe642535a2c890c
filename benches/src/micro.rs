//! `weft-bench micro`: what each function on a request's way costs by itself. One thread, no sockets, the libraries
//! that the programs link. Given is the least batch, which a busy machine disturbs least, and the median; with
//! `--instructions` also how many instructions one call runs, which no machine's load changes (needs valgrind).
//!
//! A function is called in batches long enough for the clock. Inputs are made before; where a function uses its
//! input up, the copy is part of the figure and its name says so.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{measure::Spread, report};

mod authorization;
mod balancer;
mod counting;
mod http;
mod routes;
mod token;

/// Distinct requests, where they are taken in turn.
const REQUESTS: usize = 509;

/// A batch is at least as long.
const BATCH_TIME: Duration = Duration::from_millis(1);

/// Calls whose instructions are counted. With twice as many, the difference is that of the calls alone.
const COUNTED: u64 = 1018;

#[derive(Args)]
pub(crate) struct Options {
    /// Only cases whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Batches of each case
    #[arg(long, default_value_t = 51)]
    batches: usize,
    /// Count instructions as well
    #[arg(long)]
    instructions: bool,
    /// One batch of so many calls of one case, for who counts its instructions
    #[arg(long, hide = true, requires = "only")]
    calls: Option<u64>,
}

/// Calls a function, from a number on, so many times.
type Batch = Box<dyn FnMut(u64, u64)>;

/// A function to measure.
pub(crate) struct Case {
    name: String,
    /// Makes its inputs: only of what is measured, since under callgrind they take long.
    prepare: Box<dyn Fn() -> Result<Batch>>,
}

pub(crate) fn micro(options: &Options) -> Result<()> {
    let mut cases = cases();
    cases.retain(|case| case.name.contains(&options.only));
    ensure!(!cases.is_empty(), "no case has {:?} in its name", options.only);
    if let Some(calls) = options.calls {
        let [case] = &cases[..] else { bail!("calls are counted of one case at a time") };
        (case.prepare)()?(0, calls);
        return Ok(());
    }
    report::text("| function | ns: least | median | instructions |\n|---|---|---|---|\n");
    for case in &cases {
        let measured = || -> Result<_> {
            let spread = nanoseconds(&mut (case.prepare)()?, options.batches).context("no batches")?;
            let instructions =
                if options.instructions { case.instructions()?.to_string() } else { "–".to_owned() };
            Ok((spread, instructions))
        };
        let (spread, instructions) = measured().with_context(|| case.name.clone())?;
        report::text(&format!(
            "| {} | {:.1} | {:.1} | {instructions} |\n",
            case.name, spread.min, spread.median
        ));
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let groups =
        [authorization::cases, routes::cases, balancer::cases, http::cases, token::cases, counting::cases];
    groups.iter().flat_map(|group| group()).collect()
}

/// Which of the distinct requests a call takes.
fn in_turn(number: u64) -> usize {
    (number % REQUESTS as u64) as usize
}

fn nanoseconds(batch: &mut Batch, batches: usize) -> Option<Spread> {
    let mut calls = 1;
    let mut next = 0;
    let mut time = |calls: u64| {
        let start = Instant::now();
        batch(next, calls);
        next += calls;
        start.elapsed()
    };
    // Doubled until a batch is long enough, which also warms up.
    while time(calls) < BATCH_TIME {
        calls *= 2;
    }
    Spread::of((0..batches).map(|_| time(calls).as_nanos() as f64 / calls as f64))
}

// === impl Case ===

impl Case {
    fn new<Once: FnMut(u64) + 'static>(
        name: impl Into<String>,
        prepare: impl Fn() -> Result<Once> + 'static,
    ) -> Self {
        let prepare = move || {
            let mut once = prepare()?;
            let batch = move |first: u64, calls: u64| (first..first + calls).for_each(&mut once);
            Ok(Box::new(batch) as Batch)
        };
        Self { name: name.into(), prepare: Box::new(prepare) }
    }

    fn instructions(&self) -> Result<u64> {
        Ok(self.counted(2 * COUNTED)?.saturating_sub(self.counted(COUNTED)?) / COUNTED)
    }

    /// The instructions of a whole process that makes so many calls.
    fn counted(&self, calls: u64) -> Result<u64> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe()?)
            .args(["micro", "--only", &self.name, "--calls", &calls.to_string()])
            .output()
            .context("valgrind cannot be run (on Debian: apt-get install valgrind)")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} under valgrind: {}", self.name, said.trim());
        let collected = said.lines().find_map(|line| line.split_once("Collected :"));
        let (_, number) = collected.context("callgrind did not say what it collected")?;
        Ok(number.trim().parse()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_a_batch_has_a_number_of_its_own() {
        let (send, receive) = std::sync::mpsc::channel();
        let case = Case::new("numbers", move || {
            let send = send.clone();
            Ok(move |number| send.send(number).unwrap())
        });
        (case.prepare)().unwrap()(3, 4);
        assert_eq!(receive.try_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
    }

    #[test]
    fn every_case_can_be_called_and_chosen_by_its_name() {
        let cases = cases();
        for case in &cases {
            (case.prepare)().unwrap()(0, 2);
            let chosen = cases.iter().filter(|other| other.name.contains(&case.name));
            assert_eq!(chosen.count(), 1, "{} chooses another as well", case.name);
        }
    }
}
