//! Everything that is printed: progress and complaints on standard error, results on standard output, as a table for
//! people or as JSON for programs. Figures are medians with least and greatest; failed rounds are named, not averaged.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the program's output")]

use anyhow::Result;

use crate::{
    contender::{Contender, Role},
    instructions::Pair,
    measure::{MemberMemory, Round, Spread},
    run::{ContenderOutcome, Outcome, Output, ScenarioOutcome, Skipped},
    scenario::Scenario,
};

/// The contender that ratios are given to.
const REFERENCE: &str = "envoy-h2";

/// With more of the machine taken by others than this in the median round, figures are called noisy.
pub(crate) const NOISE_SHARE: f64 = 0.05;

/// Lines that are ready to be read.
pub(crate) fn text(text: &str) {
    print!("{text}");
}

pub(crate) fn failure(error: &anyhow::Error) {
    eprintln!("weft-bench: {error:#}");
}

pub(crate) fn skipped(skipped: &Skipped) {
    eprintln!("SKIPPED {}: {}; to install it: {}", skipped.name, skipped.reason, skipped.install);
}

/// A scenario that asks for more idle connections than the limit of open files allows.
pub(crate) fn fewer(asked: &Scenario, taken: &Scenario, descriptors: u64) {
    eprintln!(
        "{asked}: {taken} instead, since the hard limit of open files gives a process {descriptors}; raise it (ulimit -Hn) to measure all"
    );
}

pub(crate) fn round_failed(scenario: &Scenario, contender: &str, failure: &str) {
    eprintln!("FAILED {contender} in {scenario}: {failure}");
}

pub(crate) fn contenders(all: &[Box<dyn Contender>]) {
    for contender in all {
        let state = contender.missing().map_or_else(
            || "available".to_owned(),
            |missing| format!("missing: {}; to install it: {}", missing.what, missing.install),
        );
        println!("{:10} {}\n{:10} {state}", contender.name(), contender.job(), "");
    }
}

/// What is about to run, on standard error: with `--output json` standard output is one JSON document.
pub(crate) fn configuration(outcome: &Outcome) {
    let machine = &outcome.machine;
    eprintln!(
        "machine: {} · {} cores · Linux {} · load average {}",
        machine.processor, machine.cores, machine.kernel, machine.load_average
    );
    eprintln!(
        "rounds: {}, interleaved, {} ms each after {} ms of warm-up; GET over HTTP/1.1 unless the scenario says otherwise",
        outcome.rounds, outcome.timing.window_milliseconds, outcome.timing.warmup_milliseconds
    );
    for contender in &outcome.contenders {
        eprintln!("{}: {}", contender.name, contender.job);
        for line in &contender.configuration {
            eprintln!("    {line}");
        }
    }
}

pub(crate) fn scenario(outcome: &ScenarioOutcome, output: Output) {
    if output != Output::Table {
        eprintln!("measured {}", outcome.scenario);
        return;
    }
    println!("\n{}", outcome.scenario);
    if outcome.contenders.iter().flat_map(|contender| &contender.rounds).any(|round| !round.memory.is_empty())
    {
        memory(outcome);
        return;
    }
    println!(
        "| contender | requests/s | CPU µs/request: client-side | server-side | pair (min–max) | ÷ {REFERENCE} | MB per CPU s | wake-ups/request | p50 ms | p99 ms | p99.9 ms | application µs | others |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let reference = outcome.contenders.iter().find(|contender| contender.name == REFERENCE);
    for contender in &outcome.contenders {
        println!("{}", row(contender, reference, outcome.exchange_bytes));
    }
}

fn memory(outcome: &ScenarioOutcome) {
    println!("| process | RSS before MB | KB per connection (min–max) | given back |\n|---|---|---|---|");
    for contender in &outcome.contenders {
        let failed = if contender.failures.is_empty() { "" } else { " FAILED" };
        let names = contender.rounds.first().map_or(&[][..], |round| &round.memory);
        for (at, member) in names.iter().enumerate() {
            let spread = |figure: &dyn Fn(&MemberMemory) -> f64| {
                Spread::of(contender.rounds.iter().filter_map(|round| round.memory.get(at)).map(figure))
            };
            let (Some(each), Some(back)) = (
                spread(&|memory| memory.per_connection_bytes / 1000.0),
                spread(&|memory| memory.given_back_share * 100.0),
            ) else {
                continue;
            };
            println!(
                "| {}: {}{failed} | {:.1} | {:.1} ({:.1}–{:.1}) | {:.0} % |",
                contender.name,
                member.name,
                member.before_bytes as f64 / 1e6,
                each.median,
                each.min,
                each.max,
                back.median
            );
        }
        if names.is_empty() {
            println!("| {}{failed} | – | – | – |", contender.name);
        }
    }
}

fn row(contender: &ContenderOutcome, reference: Option<&ContenderOutcome>, bytes: usize) -> String {
    let failed = match contender.failures.len() {
        0 => String::new(),
        failed => format!(" ({failed} rounds FAILED)"),
    };
    let spread = |figure: &dyn Fn(&Round) -> f64| Spread::of(contender.rounds.iter().map(figure));
    let median = |figure: &dyn Fn(&Round) -> f64, decimals: usize| {
        spread(figure).map_or_else(|| "–".to_owned(), |spread| format!("{:.decimals$}", spread.median))
    };
    let role = |role: Role| {
        let values = contender.rounds.iter().filter_map(|round| round.of_role(role));
        Spread::of(values.map(|usage| usage.cpu_microseconds))
            .map_or_else(|| "–".to_owned(), |spread| format!("{:.1}", spread.median))
    };
    let has_proxies = contender.rounds.iter().any(|round| round.pair.cpu_microseconds > 0.0);
    let (pair, wakeups) = if has_proxies {
        let pair = spread(&|round| round.pair.cpu_microseconds).map_or_else(
            || "–".to_owned(),
            |pair| format!("**{:.1}** ({:.1}–{:.1})", pair.median, pair.min, pair.max),
        );
        (pair, median(&|round| round.pair.wakeups, 2))
    } else {
        ("–".to_owned(), "–".to_owned())
    };
    let ratio = reference
        .filter(|_| has_proxies)
        .and_then(|reference| contender.ratio_to(reference, |round| round.pair.cpu_microseconds));
    let others = spread(&|round| round.others_share).map_or_else(
        || "–".to_owned(),
        |share| {
            format!("{:.0} %{}", share.median * 100.0, if share.median > NOISE_SHARE { " noisy" } else { "" })
        },
    );
    let milliseconds = |nanoseconds: u64| nanoseconds as f64 / 1e6;
    [
        format!("| {}{failed}", contender.name),
        median(&Round::requests_per_second, 0),
        role(Role::ClientProxy),
        role(Role::ServerProxy),
        pair,
        ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
        if has_proxies {
            // Bytes per microsecond are megabytes per second.
            median(&|round| bytes as f64 / round.pair.cpu_microseconds, 0)
        } else {
            "–".to_owned()
        },
        wakeups,
        median(&|round| milliseconds(round.load.latency_nanoseconds.p50), 2),
        median(&|round| milliseconds(round.load.latency_nanoseconds.p99), 2),
        median(&|round| milliseconds(round.load.latency_nanoseconds.p999), 2),
        median(&|round| round.application.cpu_microseconds, 1),
        format!("{others} |"),
    ]
    .join(" | ")
}

/// One case of the mix, as soon as it is counted, beside its record if it has one.
pub(crate) fn instructions(name: &str, pair: Pair, record: Option<&Pair>, exceeded: bool) {
    let [client, server] = pair;
    let total = client + server;
    match record.map(|[client, server]| client + server) {
        None => println!("{name:16} client side {client:10.0}  server side {server:10.0}  pair {total:10.0}"),
        Some(before) => println!(
            "{name:16} client side {client:10.0}  server side {server:10.0}  pair {total:10.0}  record {before:10.0}  {:+.1} %{}",
            (total / before - 1.0) * 100.0,
            if exceeded {
                "  TOO MUCH: say why in the change, and record anew (make instructions-record)"
            } else {
                ""
            }
        ),
    }
}

/// Says it where counts are compared that were made under something else.
pub(crate) fn counted_under(record: &str, here: &str) {
    if record != here {
        eprintln!(
            "the record was counted under {record}, this is {here}: a case that differs may differ by that"
        );
    }
}

pub(crate) fn end(outcome: &Outcome, output: Output) -> Result<()> {
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(outcome)?);
        return Ok(());
    }
    println!(
        "\n| process | start to ready ms (min–max) | RSS idle MB | RSS, services used MB | RSS after MB |\n|---|---|---|---|---|"
    );
    let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    for member in outcome
        .contenders
        .iter()
        .flat_map(|contender| contender.facts.members.iter().map(move |member| (contender.name, member)))
    {
        let (contender, member) = member;
        println!(
            "| {contender}: {} | {} | {} | {} | {} |",
            member.name,
            Spread::of(member.ready_milliseconds.iter().copied()).map_or_else(
                || "–".to_owned(),
                |ready| format!("{:.0} ({:.0}–{:.0})", ready.median, ready.min, ready.max)
            ),
            megabytes(member.resident_idle_bytes),
            member.resident_used_bytes.map_or_else(|| "–".to_owned(), megabytes),
            member.resident_after_bytes.map_or_else(|| "–".to_owned(), megabytes),
        );
    }
    for contender in &outcome.contenders {
        if let Some(edit) = Spread::of(contender.facts.policy_edit_milliseconds.iter().copied()) {
            let edits = contender.facts.policy_edit_milliseconds.len();
            println!(
                "\n{}: policy edit to enforcement {:.0} ms ({:.0}–{:.0}, {edits} edits)",
                contender.name, edit.median, edit.min, edit.max
            );
        }
    }
    for contender in &outcome.contenders {
        if let Some(restart) = Spread::of(contender.facts.restart_milliseconds.iter().copied()) {
            println!(
                "\n{}: kill to the first answer of the next process {:.0} ms ({:.0}–{:.0}, {} restarts, control API gone)",
                contender.name,
                restart.median,
                restart.min,
                restart.max,
                contender.facts.restart_milliseconds.len()
            );
        }
    }
    for skipped in &outcome.skipped {
        println!("\nskipped {}: {}; to install it: {}", skipped.name, skipped.reason, skipped.install);
    }
    Ok(())
}
