//! `weft status` and `weft wait`: where the control API and its proxies stand.
//!
//! Both read `/status` of `weft-control`'s admin port, which knows generations, refusals, and how often
//! each rule decided, as proxies report it. `--metrics` asks proxies themselves instead. Exit code 0: asked
//! and answered (`wait`: the generation is enforced); 1: something is refused, or (`wait`) the time is
//! up; 2: no answer. What `wait` says was enforced was: a proxy that refused a part enforces it not.

mod hits;

use crate::{fetch, input};
use clap::ValueEnum;
use hits::Hits;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};
use weft_model::duration::parse_duration;

/// How often a waiting command asks.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The admin address of weft-control
    #[arg(long, env = "WEFT_CONTROL_ADMIN", default_value = "127.0.0.1:15014")]
    control: SocketAddr,
    /// Metrics addresses of proxies: says how often each policy decided at these, as they count now
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    metrics: Vec<SocketAddr>,
    /// How to say it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(clap::Args, Debug)]
pub(crate) struct WaitArguments {
    /// The admin address of weft-control
    #[arg(long, env = "WEFT_CONTROL_ADMIN", default_value = "127.0.0.1:15014")]
    control: SocketAddr,
    /// The generation, EPOCH.N or its number; by default that of all that the directory holds when asked
    #[arg(long)]
    generation: Option<String>,
    /// How many proxies there must be at least
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    proxies_min: usize,
    /// How long to wait
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What `/status` says. What is not understood is passed on in JSON and not shown in text.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) generation: String,
    source: Source,
    pub(crate) proxies: Vec<Proxy>,
    /// How often rules decided, at all connected proxies.
    #[serde(default)]
    policy_hits: Vec<Hits>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    problems: Vec<serde_json::Value>,
    refused: Vec<serde_json::Value>,
    warnings: Vec<serde_json::Value>,
    unreadable: Option<String>,
    #[serde(default)]
    unwritten: Option<String>,
    #[serde(default)]
    settled: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Proxy {
    pub(crate) workload: String,
    address: String,
    connected_seconds: u64,
    pub(crate) generation: Option<String>,
    pub(crate) current: bool,
    pub(crate) nacks: Vec<Nack>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Nack {
    kind: String,
    pub(crate) name: String,
    pub(crate) reason: String,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    input::finish("status", answer(arguments))
}

pub(crate) fn run_wait(arguments: &WaitArguments) -> ExitCode {
    input::finish("wait", wait(arguments))
}

/// What the control API says of itself and its proxies.
pub(crate) fn ask(control: SocketAddr) -> Result<Status, String> {
    let text = fetch::get(control, "/status")?;
    serde_json::from_str(&text).map_err(|error| format!("{control}: this is no status: {error}"))
}

fn answer(arguments: &Arguments) -> Result<(String, u8), String> {
    let mut status = ask(arguments.control)?;
    if !arguments.metrics.is_empty() {
        status.policy_hits = hits::of(&arguments.metrics)?;
    }
    let code = u8::from(status.is_troubled());
    let text = match arguments.output {
        Output::Json => input::json(&status),
        Output::Text => status.text() + &hits::text(&status.policy_hits),
    };
    Ok((text, code))
}

fn wait(arguments: &WaitArguments) -> Result<(String, u8), String> {
    let deadline = Instant::now() + arguments.timeout;
    let mut wanted = Wanted::new(arguments, ask(arguments.control)?)?;
    loop {
        let missing = wanted.missing()?;
        if missing.is_empty() {
            return Ok((format!("{} proxies enforce {}\n", wanted.now.proxies.len(), wanted.name()), 0));
        }
        if let Some(refused) = wanted.refused() {
            return Ok((format!("not in force: {refused}\n"), 1));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok((format!("not in time: {}\n", missing.join(", ")), 1));
        }
        sleep(ASK_INTERVAL.min(left));
        // A control API that restarts answers again soon, or the deadline says so.
        match ask(arguments.control) {
            Ok(newer) => wanted.told(newer),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {}
        }
    }
}

/// What is waited for.
struct Wanted<'a> {
    /// The generation, if one was asked for.
    asked: Option<&'a str>,
    /// Its number; of what the directory held at the question, once that is known.
    number: Option<u64>,
    proxies_min: usize,
    /// How often the source had been taken in at the question.
    settled: u64,
    now: Status,
}

impl<'a> Wanted<'a> {
    fn new(arguments: &'a WaitArguments, now: Status) -> Result<Self, String> {
        let asked = arguments.generation.as_deref();
        let number = asked.map(|text| number(text).ok_or_else(|| format!("{text:?} is no generation")));
        let settled = now.source.settled;
        Ok(Self { asked, number: number.transpose()?, proxies_min: arguments.proxies_min, settled, now })
    }

    fn told(&mut self, newer: Status) {
        // One that was started again counts from nothing.
        self.settled = self.settled.min(newer.source.settled);
        self.now = newer;
        // The look that was counted first may have begun before the question.
        if self.number.is_none() && self.now.source.settled >= self.settled.saturating_add(2) {
            self.number = number(&self.now.generation);
        }
    }

    fn name(&self) -> &str {
        self.asked.unwrap_or(&self.now.generation)
    }

    // What was written before the question and does not come into force until it is written anew.
    fn refused(&self) -> Option<String> {
        let source = &self.now.source;
        let files = !(source.problems.is_empty() && source.refused.is_empty());
        let found = self.asked.is_none() && self.number.is_some() && files;
        found.then(|| source.troubles().collect::<Vec<_>>().join(", "))
    }

    // What is not there yet.
    fn missing(&self) -> Result<Vec<String>, String> {
        fn epoch(generation: &str) -> Option<&str> {
            generation.rsplit_once('.').map(|(epoch, _)| epoch)
        }
        let generation = &self.now.generation;
        if let Some(wanted) = self.asked.and_then(epoch)
            && epoch(generation) != Some(wanted)
        {
            return Err(format!(
                "the control API counts in another epoch since its state was lost: {generation}"
            ));
        }
        let mut missing = match self.number {
            Some(number) => self.now.missing(number, self.proxies_min),
            None => vec!["the control API has not taken in all that its directory holds".to_owned()],
        };
        if self.asked.is_none() {
            missing.extend(self.now.source.troubles());
        }
        Ok(missing)
    }
}

fn number(generation: &str) -> Option<u64> {
    generation.rsplit_once('.').map_or(generation, |(_, number)| number).parse().ok()
}

impl Status {
    fn is_troubled(&self) -> bool {
        self.source.troubles().next().is_some() || self.proxies.iter().any(|proxy| !proxy.nacks.is_empty())
    }

    // What is not there yet of a generation.
    fn missing(&self, wanted: u64, proxies_min: usize) -> Vec<String> {
        let reached = |generation: &str| number(generation).is_some_and(|number| number >= wanted);
        let mut missing = Vec::new();
        if !reached(&self.generation) {
            missing.push(format!("the control API is at {}", self.generation));
        }
        for Proxy { workload, generation, current, nacks, .. } in &self.proxies {
            // What it refused it does not enforce, whichever generation it has come to.
            if let Some(nack) = nacks.first() {
                let (name, reason) = (printable(&nack.name), printable(&nack.reason));
                missing.push(format!("{workload} refuses {name}: {reason}"));
            // One for which nothing changed is current without having been told.
            } else if !(*current || generation.as_deref().is_some_and(reached)) {
                missing.push(format!("{workload} is at {}", generation.as_deref().unwrap_or("none")));
            }
        }
        if self.proxies.len() < proxies_min {
            missing.push(format!("{} of {proxies_min} proxies are connected", self.proxies.len()));
        }
        missing
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "generation {}", printable(&self.generation));
        for trouble in self.source.troubles() {
            let _ = writeln!(text, "{trouble}");
        }
        for warning in &self.source.warnings {
            let _ = writeln!(text, "holds, but probably not as meant: {}", printable(&said(warning)));
        }
        let width = self.proxies.iter().map(|proxy| proxy.workload.len()).max().unwrap_or(0);
        for proxy in &self.proxies {
            let state = match (proxy.nacks.is_empty(), proxy.current) {
                (false, _) => "refuses",
                (true, true) => "current",
                (true, false) => "behind",
            };
            let generation = proxy.generation.as_deref().unwrap_or("none");
            let _ = writeln!(
                text,
                "{:width$}  {state:7}  {}  {} for {} s",
                printable(&proxy.workload),
                printable(generation),
                printable(&proxy.address),
                proxy.connected_seconds
            );
            for Nack { name, reason, .. } in &proxy.nacks {
                let _ = writeln!(text, "  refused {}: {}", printable(name), printable(reason));
            }
        }
        let _ = writeln!(text, "{} proxies", self.proxies.len());
        text
    }
}

impl Source {
    /// Why what the directory holds is not all in force, a line each.
    fn troubles(&self) -> impl Iterator<Item = String> {
        let whole = [
            ("the source cannot be read", &self.unreadable),
            ("the state cannot be written", &self.unwritten),
        ];
        let whole = whole.into_iter().filter_map(|(what, why)| Some((what, why.clone()?)));
        let lists = [
            ("a file is not served as it is", &self.problems),
            ("the change is refused as a whole", &self.refused),
        ];
        let lists =
            lists.into_iter().flat_map(|(what, list)| list.iter().map(move |entry| (what, said(entry))));
        whole.chain(lists).map(|(what, why)| format!("{what}: {}", printable(&why)))
    }
}

// A diagnostic on one line, whatever its form.
fn said(entry: &serde_json::Value) -> String {
    let field = |name: &str| entry.get(name).and_then(serde_json::Value::as_str);
    if let (Some(file), Some(causes)) = (field("file"), entry.get("diagnostics")) {
        let fate = field("fate").map(|fate| format!(" ({fate})")).unwrap_or_default();
        let causes: Vec<_> = causes.as_array().into_iter().flatten().map(said).collect();
        return format!("{file}{fate}: {}", causes.join("; "));
    }
    match (field("file"), field("message")) {
        (Some(file), Some(message)) => {
            let line = entry.get("line").and_then(serde_json::Value::as_u64);
            line.map_or_else(|| format!("{file}: {message}"), |line| format!("{file}:{line}: {message}"))
        }
        _ => entry.to_string(),
    }
}

/// What was fetched, so that nothing of it steers a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{b7}' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(generation: &str, proxies: &[(&str, Option<&str>, bool)]) -> Status {
        let proxies: Vec<_> = proxies
            .iter()
            .map(|(workload, generation, current)| {
                serde_json::json!({
                    "workload": workload, "address": "127.0.0.1:1", "connectedSeconds": 7,
                    "generation": generation, "current": current, "nacks": [],
                })
            })
            .collect();
        let source = serde_json::json!({
            "problems": [], "refused": [], "warnings": [], "unreadable": null, "unwritten": null, "settled": 7,
        });
        let status = serde_json::json!({ "generation": generation, "source": source, "proxies": proxies });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn a_generation_is_reached_when_the_control_api_and_every_proxy_have_it() {
        let of = |generation, proxies: &[_], wanted| status(generation, proxies).missing(wanted, 0);
        assert!(of("e.4", &[("a/b", Some("e.4"), true), ("a/c", Some("e.2"), true)], 4).is_empty());
        assert_eq!(of("e.4", &[("a/b", Some("e.3"), false)], 4), ["a/b is at e.3"]);
        assert_eq!(of("e.3", &[], 4), ["the control API is at e.3"]);
        // Behind a newer one, and with the wanted one.
        assert!(of("e.5", &[("a/b", Some("e.4"), false)], 4).is_empty());
        assert_eq!(of("e.4", &[("a/b", None, false)], 4), ["a/b is at none"]);
        assert_eq!(status("e.4", &[]).missing(4, 2), ["0 of 2 proxies are connected"]);
    }

    #[test]
    fn a_proxy_that_refuses_a_part_enforces_no_generation() {
        let mut now = status("e.4", &[("a/b", Some("e.4"), true)]);
        assert!(now.missing(4, 0).is_empty());
        let nack = Nack { kind: "Route".into(), name: "HTTPRoute/a/b".into(), reason: "level 9".into() };
        now.proxies[0].nacks.push(nack);
        assert_eq!(now.missing(4, 0), ["a/b refuses HTTPRoute/a/b: level 9"]);
        assert!(now.text().contains("refuses"), "{}", now.text());
    }

    #[test]
    fn without_a_generation_all_that_the_directory_held_is_waited_for() {
        let arguments = WaitArguments {
            control: "127.0.0.1:1".parse().unwrap(),
            generation: None,
            proxies_min: 0,
            timeout: Duration::ZERO,
        };
        let mut wanted = Wanted::new(&arguments, status("e.3", &[("a/b", Some("e.3"), true)])).unwrap();
        let not_taken_in = ["the control API has not taken in all that its directory holds"];
        assert_eq!(wanted.missing().unwrap(), not_taken_in);
        let told = |settled, generation, current| {
            let mut newer = status(generation, &[("a/b", Some("e.3"), current)]);
            newer.source.settled = settled;
            newer
        };
        // That look may have begun before.
        wanted.told(told(8, "e.3", true));
        assert_eq!(wanted.missing().unwrap(), not_taken_in);
        wanted.told(told(9, "e.4", false));
        assert_eq!(wanted.missing().unwrap(), ["a/b is at e.3"]);
        // What is written later is not waited for.
        wanted.told(told(10, "e.5", true));
        assert_eq!(wanted.number, Some(4));
        assert!(wanted.missing().unwrap().is_empty());
        // One that is started again has read all of it, and counts from nothing.
        let mut restarted = Wanted::new(&arguments, told(1000, "e.3", true)).unwrap();
        restarted.told(told(1, "e.3", true));
        assert_eq!(restarted.missing().unwrap(), not_taken_in);
        restarted.told(told(3, "e.3", true));
        assert!(restarted.missing().unwrap().is_empty());

        wanted.now.source.unwritten = Some("no space left".to_owned());
        assert_eq!(wanted.missing().unwrap(), ["the state cannot be written: no space left"]);
        assert!(wanted.now.is_troubled() && wanted.refused().is_none(), "it is tried again");
        wanted.now.source.problems.push(serde_json::json!({ "file": "a.yaml", "message": "no" }));
        assert!(wanted.refused().unwrap().contains("a.yaml"));
    }

    #[test]
    fn numbers_of_generations_are_read_with_and_without_epoch() {
        assert_eq!((number("e.12"), number("12"), number("e.")), (Some(12), Some(12), None));
    }

    #[test]
    fn what_was_fetched_cannot_steer_a_terminal() {
        let mut shown = status("e.1", &[("a/b", None, false)]);
        shown.proxies[0].nacks.push(Nack {
            kind: "Route".to_owned(),
            name: "x\x1b[2J".to_owned(),
            reason: "bad\nline".to_owned(),
        });
        let text = shown.text();
        assert!(text.contains("refused x\u{b7}[2J: bad\u{b7}line") && shown.is_troubled(), "{text}");
    }
}
