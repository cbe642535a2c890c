//! `weft status` and `weft wait`: where the control API and its proxies stand.
//!
//! Both read `/status` of `weft-control`'s admin port, which knows generations, refusals, and how often
//! each rule decided, as proxies report it. `--metrics` asks proxies themselves instead. Exit code 0: asked
//! and answered (`wait`: the generation is enforced); 1: something is refused, or (`wait`) the time is
//! up; 2: no answer.

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
    /// The generation, EPOCH.N or its number; by default the one that is current when asked
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
#[derive(Debug, Deserialize, Serialize)]
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

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    problems: Vec<serde_json::Value>,
    refused: Vec<serde_json::Value>,
    warnings: Vec<serde_json::Value>,
    unreadable: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Proxy {
    pub(crate) workload: String,
    address: String,
    connected_seconds: u64,
    pub(crate) generation: Option<String>,
    pub(crate) current: bool,
    pub(crate) nacks: Vec<Nack>,
}

#[derive(Debug, Deserialize, Serialize)]
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
    let first = ask(arguments.control)?;
    let wanted = arguments.generation.clone().unwrap_or_else(|| first.generation.clone());
    let number = number(&wanted).ok_or_else(|| format!("{wanted:?} is no generation"))?;
    let mut status = first;
    loop {
        if let Some(epoch) = wanted.rsplit_once('.').map(|(epoch, _)| epoch)
            && status.generation.rsplit_once('.').map(|(epoch, _)| epoch) != Some(epoch)
        {
            return Err(format!(
                "the control API counts in another epoch since its state was lost: {}",
                status.generation
            ));
        }
        let missing = status.missing(number, arguments.proxies_min);
        if missing.is_empty() {
            return Ok((format!("{} proxies enforce {wanted}\n", status.proxies.len()), 0));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok((format!("not in time: {}\n", missing.join(", ")), 1));
        }
        sleep(ASK_INTERVAL.min(left));
        // A control API that restarts answers again soon, or the deadline says so.
        match ask(arguments.control) {
            Ok(newer) => status = newer,
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {}
        }
    }
}

fn number(generation: &str) -> Option<u64> {
    generation.rsplit_once('.').map_or(generation, |(_, number)| number).parse().ok()
}

impl Status {
    fn is_troubled(&self) -> bool {
        let Source { problems, refused, unreadable, .. } = &self.source;
        !(problems.is_empty() && refused.is_empty() && unreadable.is_none())
            || self.proxies.iter().any(|proxy| !proxy.nacks.is_empty())
    }

    // What is not there yet of a generation.
    fn missing(&self, wanted: u64, proxies_min: usize) -> Vec<String> {
        let reached = |generation: &str| number(generation).is_some_and(|number| number >= wanted);
        let mut missing = Vec::new();
        if !reached(&self.generation) {
            missing.push(format!("the control API is at {}", self.generation));
        }
        // One for which nothing changed is current without having been told.
        let behind = self
            .proxies
            .iter()
            .filter(|proxy| !(proxy.current || proxy.generation.as_deref().is_some_and(reached)));
        missing.extend(behind.map(|proxy| {
            let at = proxy.generation.as_deref().unwrap_or("none");
            format!("{} is at {at}", proxy.workload)
        }));
        if self.proxies.len() < proxies_min {
            missing.push(format!("{} of {proxies_min} proxies are connected", self.proxies.len()));
        }
        missing
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "generation {}", printable(&self.generation));
        let Source { problems, refused, warnings, unreadable } = &self.source;
        if let Some(why) = unreadable {
            let _ = writeln!(text, "the source cannot be read: {}", printable(why));
        }
        for (what, list) in [
            ("is not served as it is", problems),
            ("is refused as a whole", refused),
            ("holds, but probably not as meant", warnings),
        ] {
            for entry in list {
                let _ = writeln!(text, "{what}: {}", printable(&said(entry)));
            }
        }
        let width = self.proxies.iter().map(|proxy| proxy.workload.len()).max().unwrap_or(0);
        for proxy in &self.proxies {
            let state = if proxy.current { "current" } else { "behind" };
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
        let source = serde_json::json!({ "problems": [], "refused": [], "warnings": [], "unreadable": null });
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
