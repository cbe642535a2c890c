//! `weft-bench instructions`: how many instructions the pair of proxies runs for one request of a fixed mix, counted
//! by callgrind. Times differ between machines and moments; this count hardly does, so that it is kept in the
//! repository and a change that makes requests dearer is seen before it lands.
//!
//! Each case goes in lockstep: every connection or stream sends one request, then all answers are awaited. Under
//! callgrind a proxy is far slower than the client, so that it finds the whole step waiting, and batches are the same
//! every time. On a busy machine they are not always: a step that was torn in two costs more, and so do the proxies'
//! own clocks when a step takes long. Nothing makes one cost less. So each case is counted in several blocks, of which
//! the least is taken, and a case that still exceeds its record is counted again before it fails. What the kernel does
//! is not counted.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::task::LocalSet;

use crate::{
    certificates::Certificates,
    contender::{self, Contender as _, Member, Running, Setting},
    facts,
    process::{self, Scratch, wait_until},
    report, run,
    scenario::Scenario,
};
use clients::Clients;
pub(crate) use record::Pair;
use record::Record;

mod callgrind;
mod clients;
mod record;

/// The mix: a scenario, and how many steps a block of it has.
const MIX: [(&str, usize); 9] = [
    ("closed-1", 100),
    ("closed-16", 12),
    ("closed-4-up10k", 8),
    ("closed-1-100k", 8),
    ("h2c-1x32", 6),
    ("grpc-1x32", 6),
    ("denied-1", 100),
    ("tcp-16", 12),
    ("connect-1", 15),
];

/// Steps before the count begins: connections, sessions and buffers are there by then.
const WARM_UP: usize = 5;

/// Blocks of each case, of which the least is taken.
const BLOCKS: usize = 4;

/// How often a case that exceeds its record, or fails, is counted in all.
const ATTEMPTS: usize = 4;

/// Under callgrind all is slow, and on a busy machine slower.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(180);

#[derive(Args)]
pub(crate) struct Options {
    /// Compare with the record in this file; the exit code is 1 if a case costs more
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    check: Option<PathBuf>,
    /// Write the record to this file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// Measures the mix, and prints, writes or compares it; false if a case costs more than its record.
pub(crate) fn instructions(options: &Options) -> Result<bool> {
    callgrind::installed()?;
    let names = MIX.map(|(name, _)| name);
    let record = options.check.as_deref().map(Record::read).transpose()?;
    if let Some(record) = &record {
        record.expect_cases(&names)?;
        report::counted_under(&record.counted_under, &Record::new(BTreeMap::new()).counted_under);
    }
    process::end_on_interruption()?;
    let scratch = Scratch::new()?;
    let (application, address, raw) = run::start_application(scratch.path())?;
    let certificates = Certificates::make(scratch.path())?;
    let running = contender::weft().start(&Setting {
        directory: scratch.path(),
        application: address,
        application_raw: raw,
        certificates: &certificates,
        connections_max: 100,
        workers: 1,
        resumption: true,
        services: 0,
        counted: Some(&callgrind::counted),
    })?;
    let proxies: Vec<_> = running.members.iter().filter(|member| member.role.is_proxy()).collect();
    let [client, server] = proxies[..] else { bail!("a pair has two proxies") };
    let case = Case { running: &running, proxies: [client, server], directory: scratch.path() };
    wait_until("first answer", FIRST_ANSWER_WITHIN, || {
        running.check()?;
        Ok(facts::status(running.target, &running.host, "/items/100").is_ok_and(|status| status == 200))
    })?;
    let mut costs = BTreeMap::new();
    let mut succeeded = true;
    for (name, steps) in MIX {
        let scenario: Scenario = name.parse()?;
        let exceeded = |pair| record.as_ref().is_some_and(|record| record.is_exceeded(name, pair));
        let pair = least_of(&exceeded, || {
            application.check_running()?;
            running.check()?;
            case.count(&scenario, steps)
        })
        .with_context(|| format!("{name} cannot be measured"))?;
        let exceeded = exceeded(pair);
        succeeded &= !exceeded;
        report::instructions(name, pair, record.as_ref().and_then(|record| record.costs.get(name)), exceeded);
        costs.insert(name.to_owned(), pair);
    }
    if let Some(file) = &options.record {
        let text = Record::new(costs).written(names);
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(succeeded)
}

/// Where cases are counted.
struct Case<'run> {
    running: &'run Running,
    proxies: [&'run Member; 2],
    directory: &'run std::path::Path,
}

// === impl Case ===

impl Case<'_> {
    /// What one request costs: the least of the blocks.
    fn count(&self, scenario: &Scenario, steps: usize) -> Result<Pair> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let mut clients = Clients::open(scenario, self.running).await?;
            for _ in 0..WARM_UP {
                clients.step(scenario, self.running).await?;
            }
            let mut found = [f64::INFINITY; 2];
            self.take()?;
            for _ in 0..BLOCKS {
                for _ in 0..steps {
                    clients.step(scenario, self.running).await?;
                }
                let requests = (steps * clients.at_once()) as f64;
                found = least(found, self.take()?.map(|instructions| instructions as f64 / requests));
            }
            Ok(found)
        })
    }

    fn take(&self) -> Result<[u64; 2]> {
        let [client, server] = self.proxies;
        Ok([callgrind::take(client, self.directory)?, callgrind::take(server, self.directory)?])
    }
}

/// Counts until the least that was found is good enough, or often enough. A count that fails is one that a busy
/// machine spoiled (a proxy that runs a hundred times slower than it should misses its own deadlines), unless all do.
fn least_of(exceeded: &dyn Fn(Pair) -> bool, mut count: impl FnMut() -> Result<Pair>) -> Result<Pair> {
    let mut found = None;
    let mut failed = None;
    for _ in 0..ATTEMPTS {
        match count() {
            Ok(pair) => {
                let pair = found.map_or(pair, |before| least(before, pair));
                if !exceeded(pair) {
                    return Ok(pair);
                }
                found = Some(pair);
            }
            Err(error) => failed = Some(error),
        }
    }
    match (found, failed) {
        (Some(pair), _) => Ok(pair),
        (None, Some(error)) => Err(error),
        (None, None) => bail!("nothing was counted"),
    }
}

/// The less of each side.
fn least(one: Pair, other: Pair) -> Pair {
    [one[0].min(other[0]), one[1].min(other[1])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_of_the_mix_is_a_scenario_and_stands_in_the_record() {
        let record = Record::read(concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt").as_ref()).unwrap();
        record.expect_cases(&MIX.map(|(name, _)| name)).unwrap();
        for (name, _) in MIX {
            name.parse::<Scenario>().unwrap();
        }
    }

    #[test]
    fn a_case_is_counted_again_until_it_is_good_enough_or_often_enough() {
        let counts = |counts: &'static [f64]| {
            let mut counts = counts.iter();
            least_of(&|pair| pair[0] > 10.0, move || match counts.next() {
                Some(count) if *count > 0.0 => Ok([*count, 1.0]),
                Some(_) => bail!("spoiled"),
                None => bail!("one more than there are attempts"),
            })
        };
        assert_eq!(counts(&[9.0]).unwrap(), [9.0, 1.0]);
        assert_eq!(counts(&[0.0, 12.0, 10.0]).unwrap(), [10.0, 1.0]);
        assert_eq!(counts(&[12.0, 11.0, 0.0, 13.0]).unwrap(), [11.0, 1.0], "the least of what exceeds");
        assert_eq!(counts(&[0.0; ATTEMPTS]).unwrap_err().to_string(), "spoiled");
    }

    #[test]
    fn the_least_is_taken_side_by_side() {
        assert_eq!(least([1.0, 5.0], [2.0, 3.0]), [1.0, 3.0]);
    }
}
