//! The README's tables, in Markdown, of what runs found out. A figure is the median of rounds with the least and the
//! greatest; `–` stands for what a contender does not do, `~` for a median round in which others took more of the
//! machine than is good for a figure.

use std::fmt::{self, Write as _};

use crate::{
    contender::Role,
    measure::{MemberMemory, Round, Spread},
    report::NOISE_SHARE,
    run::{ContenderOutcome, Outcome, ScenarioOutcome},
};

/// What stands where there is no figure.
const NONE: &str = "–";

/// A table that is being filled.
#[derive(Default)]
struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Which figures to show of a scenario, and how.
type Figure = fn(&ScenarioOutcome, &Round) -> f64;

/// Where the figures come from: the machine, the contenders, how they were measured.
pub(crate) fn setting(outcome: &Outcome) -> String {
    let machine = &outcome.machine;
    let mut text = format!(
        "{} cores of {}, Linux {}; {} interleaved rounds of {} ms after {} ms of warm-up.\n",
        machine.cores,
        machine.processor,
        machine.kernel,
        outcome.rounds,
        outcome.timing.window_milliseconds,
        outcome.timing.warmup_milliseconds
    );
    for contender in outcome.contenders.iter().filter(|contender| !contender.configuration.is_empty()) {
        let _ = writeln!(text, "- `{}`: {}", contender.name, contender.configuration.join("; "));
    }
    for skipped in &outcome.skipped {
        let _ = writeln!(text, "- `{}` was skipped: {} ({})", skipped.name, skipped.reason, skipped.install);
    }
    text
}

/// CPU per request: a row per contender, a column per scenario, then what Weft costs beside each peer.
pub(crate) fn pairs(outcomes: &[Outcome]) -> String {
    by_contender(outcomes, 1, false, |_, round| round.pair.cpu_microseconds)
}

/// Bytes per CPU second, likewise.
pub(crate) fn bodies(outcomes: &[Outcome]) -> String {
    // Bytes per microsecond are megabytes per second.
    by_contender(outcomes, 0, false, |scenario, round| {
        scenario.exchange_bytes as f64 / round.pair.cpu_microseconds
    })
}

/// One worker beside two.
pub(crate) fn workers(outcomes: &[Outcome]) -> String {
    by_contender(outcomes, 1, true, |_, round| round.pair.cpu_microseconds)
}

/// `reversed`: ratios are the others' to Weft's.
fn by_contender(outcomes: &[Outcome], decimals: usize, reversed: bool, figure: Figure) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let names = proxies(outcome);
        let mut table =
            Table::headed(["contender"], outcome.scenarios.iter().map(|one| one.scenario.clone()));
        for name in &names {
            let cells = outcome.scenarios.iter().map(|scenario| {
                scenario.of(name).map_or_else(
                    || NONE.to_owned(),
                    |contender| cell(contender, decimals, |round| figure(scenario, round)),
                )
            });
            table.row([(*name).to_owned()], cells);
        }
        for name in names.iter().filter(|name| **name != "weft") {
            let cells = outcome.scenarios.iter().map(|scenario| {
                let (mine, theirs) = if reversed { (*name, "weft") } else { ("weft", *name) };
                let (Some(mine), Some(theirs)) = (scenario.of(mine), scenario.of(theirs)) else {
                    return NONE.to_owned();
                };
                mine.ratio_to(theirs, |round| figure(scenario, round))
                    .filter(|ratio| ratio.is_finite())
                    .map_or_else(|| NONE.to_owned(), |ratio| format!("{ratio:.2}"))
            });
            let title = if reversed { format!("{name} ÷ weft") } else { format!("weft ÷ {name}") };
            table.row([title], cells);
        }
        let _ = writeln!(text, "{table}");
    }
    text
}

/// At fixed rates: p50 and p99, and how much p99 is above that without a proxy.
pub(crate) fn latencies(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let open: Vec<_> = outcome.scenarios.iter().filter(|one| one.scenario.starts_with("open-")).collect();
        let titles = open.iter().map(|one| format!("{}, ms: p50 / p99 (p99 added)", one.scenario));
        let mut table = Table::headed(["contender"], titles);
        for contender in &outcome.contenders {
            let cells = open.iter().map(|scenario| {
                let Some(found) = scenario.of(contender.name) else { return NONE.to_owned() };
                let direct = scenario.of("direct").and_then(|direct| milliseconds(direct, p99));
                let p50 = milliseconds(found, |round| round.load.latency_nanoseconds.p50);
                let (Some(p50), Some(p99)) = (p50, milliseconds(found, p99)) else {
                    return NONE.to_owned();
                };
                let added = direct.filter(|_| contender.name != "direct").map(|direct| p99 - direct);
                let added = added.map_or_else(String::new, |added| format!(" ({added:.2})"));
                format!("{p50:.2} / {p99:.2}{added}")
            });
            table.row([contender.name.to_owned()], cells);
        }
        let _ = writeln!(text, "{table}");
    }
    text
}

/// Start and memory of each process.
pub(crate) fn starts(outcomes: &[Outcome]) -> String {
    let mut table = Table::headed(
        ["process"],
        ["start to ready ms (min–max)", "RSS idle MB", "RSS after the run MB"].map(str::to_owned),
    );
    let mut edits = String::new();
    for contender in outcomes.iter().flat_map(|outcome| &outcome.contenders) {
        for member in &contender.facts.members {
            let ready = Spread::of(member.ready_milliseconds.iter().copied());
            let cells = [
                spread(ready, 0),
                megabytes(Some(member.resident_idle_bytes)),
                megabytes(member.resident_after_bytes),
            ];
            table.row([format!("{}: {}", contender.name, member.name)], cells);
        }
        if let Some(edit) = Spread::of(contender.facts.policy_edit_milliseconds.iter().copied()) {
            let _ = writeln!(
                edits,
                "From a policy file's rename to the first answer that differs, `{}`: {} ms.",
                contender.name,
                spread(Some(edit), 0)
            );
        }
    }
    format!("{table}\n{edits}")
}

/// Opaque exchanges: a row per scenario, the pair and of it the server side for each contender.
pub(crate) fn exchanges(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let names = proxies(outcome);
        let titles = names.iter().flat_map(|name| [(*name).to_owned(), "server side".to_owned()]);
        let ratios = names.iter().filter(|name| **name != "weft");
        let ratios = ratios.map(|name| format!("weft ÷ {name} (server side)"));
        let mut table = Table::headed(["scenario"], titles.chain(ratios));
        for scenario in &outcome.scenarios {
            let both = names.iter().flat_map(|name| {
                let Some(contender) = scenario.of(name) else { return [NONE.to_owned(), NONE.to_owned()] };
                [cell(contender, 1, |round| round.pair.cpu_microseconds), cell(contender, 1, server_side)]
            });
            let ratios = names.iter().filter(|name| **name != "weft").map(|name| {
                let (Some(mine), Some(theirs)) = (scenario.of("weft"), scenario.of(name)) else {
                    return NONE.to_owned();
                };
                let pair = mine.ratio_to(theirs, |round| round.pair.cpu_microseconds);
                match (pair, mine.ratio_to(theirs, server_side)) {
                    (Some(pair), Some(server)) => format!("{pair:.2} ({server:.2})"),
                    _ => NONE.to_owned(),
                }
            });
            table.row([scenario.scenario.clone()], both.chain(ratios));
        }
        let _ = writeln!(text, "{table}");
    }
    text
}

/// Memory around connections that lay idle.
pub(crate) fn idle(outcomes: &[Outcome]) -> String {
    let mut table = Table::headed(
        ["process"],
        ["scenario", "RSS before MB", "KB per connection", "given back"].map(str::to_owned),
    );
    for scenario in outcomes.iter().flat_map(|outcome| &outcome.scenarios) {
        for contender in &scenario.contenders {
            let members = contender.rounds.first().map_or(&[][..], |round| &round.memory);
            if members.is_empty() {
                table.row([contender.name.to_owned(), scenario.scenario.clone()], vec!["FAILED".to_owned()]);
            }
            for (at, member) in members.iter().enumerate() {
                let figure = |figure: fn(&MemberMemory) -> f64| {
                    Spread::of(contender.rounds.iter().filter_map(|round| round.memory.get(at)).map(figure))
                };
                let cells = [
                    scenario.scenario.clone(),
                    megabytes(Some(member.before_bytes)),
                    spread(figure(|memory| memory.per_connection_bytes / 1000.0), 1),
                    format!("{} %", spread(figure(|memory| memory.given_back_share * 100.0), 0)),
                ];
                table.row([format!("{}: {}", contender.name, member.name)], cells);
            }
        }
    }
    format!("{table}\n")
}

/// Memory by how many services the mesh has; the first of the runs has none besides those in use.
pub(crate) fn services(outcomes: &[Outcome]) -> String {
    let mut table = Table::headed(
        ["process"],
        ["at rest", "five services used", "after edits of policy and a round of load", "start to ready ms"]
            .map(str::to_owned),
    );
    for outcome in outcomes {
        for contender in &outcome.contenders {
            for member in &contender.facts.members {
                let cells = [
                    megabytes(Some(member.resident_idle_bytes)),
                    megabytes(member.resident_used_bytes),
                    megabytes(member.resident_after_bytes),
                    spread(Spread::of(member.ready_milliseconds.iter().copied()), 0),
                ];
                table.row([format!("{}, {} others", member.name, outcome.services)], cells);
            }
        }
    }
    format!("{table}\n")
}

/// How long the server-side proxy is gone when it is killed.
pub(crate) fn restarts(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for contender in outcomes.iter().flat_map(|outcome| &outcome.contenders) {
        let restarts = &contender.facts.restart_milliseconds;
        let median = spread(Spread::of(restarts.iter().copied()), 0);
        let _ = writeln!(text, "`{}`: {median} ms, {} restarts.", contender.name, restarts.len());
    }
    text
}

/// All contenders that have proxies, in their order.
fn proxies(outcome: &Outcome) -> Vec<&'static str> {
    let with = outcome.contenders.iter().filter(|contender| !contender.facts.members.is_empty());
    with.map(|contender| contender.name).collect()
}

fn server_side(round: &Round) -> f64 {
    round.of_role(Role::ServerProxy).map_or(f64::NAN, |usage| usage.cpu_microseconds)
}

fn p99(round: &Round) -> u64 {
    round.load.latency_nanoseconds.p99
}

fn milliseconds(contender: &ContenderOutcome, figure: impl Fn(&Round) -> u64) -> Option<f64> {
    Spread::of(contender.rounds.iter().map(|round| figure(round) as f64 / 1e6)).map(|found| found.median)
}

/// One figure of one contender; failed rounds are named, not averaged.
fn cell(contender: &ContenderOutcome, decimals: usize, figure: impl Fn(&Round) -> f64) -> String {
    if !contender.failures.is_empty() {
        return "FAILED".to_owned();
    }
    let noise = Spread::of(contender.rounds.iter().map(|round| round.others_share));
    let noisy = noise.is_some_and(|noise| noise.median > NOISE_SHARE);
    let found = Spread::of(contender.rounds.iter().map(figure));
    format!("{}{}", spread(found, decimals), if noisy { " ~" } else { "" })
}

fn spread(found: Option<Spread>, decimals: usize) -> String {
    match found {
        None => NONE.to_owned(),
        Some(Spread { median, min, max }) if min < max => {
            format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
        }
        Some(Spread { median, .. }) => format!("{median:.decimals$}"),
    }
}

fn megabytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| NONE.to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6))
}

// === impl ScenarioOutcome ===

impl ScenarioOutcome {
    fn of(&self, name: &str) -> Option<&ContenderOutcome> {
        self.contenders.iter().find(|contender| contender.name == name)
    }
}

// === impl Table ===

impl Table {
    fn headed<const N: usize>(first: [&str; N], more: impl IntoIterator<Item = String>) -> Self {
        Self { head: first.iter().map(|title| (*title).to_owned()).chain(more).collect(), rows: Vec::new() }
    }

    fn row<const N: usize>(&mut self, first: [String; N], more: impl IntoIterator<Item = String>) {
        let mut row: Vec<_> = first.into_iter().chain(more).collect();
        row.resize(self.head.len(), NONE.to_owned());
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "| {} |\n|{}", self.head.join(" | "), "---|".repeat(self.head.len()))?;
        for row in &self.rows {
            writeln!(formatter, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_as_many_cells_in_each_row_as_in_its_head() {
        let mut table = Table::headed(["a"], ["b", "c"].map(str::to_owned));
        table.row(["1".to_owned()], ["2".to_owned()]);
        assert_eq!(table.to_string(), "| a | b | c |\n|---|---|---|\n| 1 | 2 | – |\n");
    }

    #[test]
    fn a_figure_has_its_spread_unless_there_is_none() {
        assert_eq!(spread(Spread::of([2.0, 1.0, 4.0]), 1), "2.0 (1.0–4.0)");
        assert_eq!(spread(Spread::of([2.0]), 0), "2");
        assert_eq!(spread(None, 0), "–");
    }
}
