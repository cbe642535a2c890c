//! `weft who-can DIR --to …`: everybody who may make a request, and by which rule.
//!
//! Asked of every workload of the mesh, of an identity that no policy can mean, and of a client that
//! proves nothing. Exit code 0: answered; 2: no answer.

use crate::input;
use crate::judge::{Judge, describe};
use crate::query::Request;
use clap::ValueEnum;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use weft_config::case::{Caller, Fate, Who};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The directories and files with the policies
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    request: Request,
    /// The address that clients outside the mesh call from
    #[arg(long)]
    ip: Option<IpAddr>,
    /// How to say it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    callers: Vec<CallerSaid>,
    /// Whoever has an identity of the mesh that no policy names.
    any_identity: Said,
    /// Whoever proves nothing.
    outside: Said,
}

/// Workloads of one identity that fare alike.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CallerSaid {
    /// `None`: a workload without a proxy.
    principal: Option<String>,
    workloads: Vec<String>,
    #[serde(flatten)]
    said: Said,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    verdict: &'static str,
    why: String,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    input::finish("who-can", answer(arguments).map(|text| (text, 0)))
}

fn answer(arguments: &Arguments) -> Result<String, String> {
    let judge = Judge::new(input::load(&arguments.paths)?.mesh);
    let mut callers: BTreeMap<(Option<String>, Said), Vec<String>> = BTreeMap::new();
    for (uid, workload) in &judge.mesh.workloads {
        let from = Caller { who: Who::Workload(uid.clone()), ip: None, claims: None, plaintext: false };
        let proxied = !judge.mesh.plain.contains(uid);
        let principal = proxied.then(|| workload.identity().principal().to_owned());
        let said = said(&judge, &from, &arguments.request)?;
        callers.entry((principal, said)).or_default().push(uid.to_string());
    }
    let nobody = |who: Who, plaintext| Caller { who, ip: arguments.ip, claims: None, plaintext };
    // A name that is too long to be anybody's.
    let unknown = "x".repeat(63);
    let account = |text: &str| text.parse().map_err(|_| "a long name must be a name".to_owned());
    let namespace = unknown.parse().map_err(|_| "a long name must be a namespace".to_owned())?;
    let stranger = nobody(Who::Account(namespace, account(&unknown)?), false);
    let answer = Answer {
        callers: callers
            .into_iter()
            .map(|((principal, said), workloads)| CallerSaid { principal, workloads, said })
            .collect(),
        any_identity: outside(&judge, &stranger, &arguments.request)?,
        outside: outside(&judge, &nobody(Who::Unknown, true), &arguments.request)?,
    };
    Ok(match arguments.output {
        Output::Json => input::json(&answer),
        Output::Text => answer.text(),
    })
}

fn said(judge: &Judge, from: &Caller, request: &Request) -> Result<Said, String> {
    let mut prepared = judge.prepare(from, &request.to, &request.ask()).map_err(|error| error.to_string())?;
    prepared.authorizer = request.authorizer;
    let outcome = prepared.judge();
    let mut why: Vec<String> = outcome.answers().map(describe).collect();
    why.extend(outcome.locals().map(|local| local.reason.text().to_owned()));
    why.sort();
    why.dedup();
    Ok(Said { verdict: outcome.fate().map_or("mixed", Fate::word), why: why.join("; ") })
}

// Of a client that has no address, what depends on addresses has no answer, and that is the answer.
fn outside(judge: &Judge, from: &Caller, request: &Request) -> Result<Said, String> {
    match judge.prepare(from, &request.to, &request.ask()) {
        Err(error) if error.wants_address() => Ok(Said { verdict: "depends", why: error.to_string() }),
        _ => said(judge, from, request),
    }
}

impl Answer {
    fn text(&self) -> String {
        let mut text = String::new();
        let can = |said: &Said| said.verdict != "deny";
        // Writing to a String cannot fail.
        for held in self.callers.iter().filter(|held| can(&held.said)) {
            let principal = held.principal.as_deref().unwrap_or("without a proxy");
            let _ = writeln!(text, "{:8} {principal} ({})", held.said.verdict, held.workloads.join(", "));
            let _ = writeln!(text, "         {}", held.said.why);
        }
        let others = self.callers.iter().filter(|held| !can(&held.said));
        let (identities, workloads) =
            others.fold((0, 0), |(count, all), held| (count + 1, all + held.workloads.len()));
        if text.is_empty() {
            text.push_str("nobody of the mesh\n");
        } else if identities > 0 {
            let _ = writeln!(text, "nobody else of the mesh: {workloads} workloads are denied");
        }
        for (who, said) in [("any other identity", &self.any_identity), ("without identity", &self.outside)] {
            let _ = writeln!(text, "{:8} {who}\n         {}", said.verdict, said.why);
        }
        text
    }
}

#[cfg(test)]
mod tests;
