//! `weft diff BEFORE AFTER`: which verdicts change between two policy sets.
//!
//! Both are asked the same requests: those of given cases, and those made of the values that either
//! mentions. Exit code 0: nothing that `--fail-on` names; 1: it changes (by default: something is
//! allowed that was not); 2: no answer.

mod generate;

use crate::input;
use crate::judge::{Judge, Outcome, describe};
use crate::test::backends_of;
use clap::ValueEnum;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use weft_config::case::{Ask, Authorizer, Caller, Destination, Fate, Who};
use weft_model::json::Json;
use weft_model::spiffe::TrustDomain;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The policies as they are: a directory or file
    before: PathBuf,
    /// The policies as they are to be
    after: PathBuf,
    /// Directories and files with PolicyTest documents: ask their requests, and no generated ones
    #[arg(long, value_name = "PATH")]
    cases: Vec<PathBuf>,
    /// The most requests that are generated for each destination
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000)]
    requests_max: usize,
    /// Which changes make the exit code 1
    #[arg(long, value_enum, default_value_t = FailOn::More)]
    fail_on: FailOn,
    /// How to say it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum FailOn {
    /// Something is allowed that was not
    More,
    /// Any verdict or way changes
    Any,
    /// None
    Never,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// One request to both.
#[derive(Clone, Debug)]
struct Question {
    from: Caller,
    to: Destination,
    ask: Ask,
    authorizer: Option<Authorizer>,
}

/// In which direction a verdict changes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    /// Something passes that did not.
    More,
    /// Something that passed does not.
    Less,
    /// It fares alike, by another way.
    Way,
}

/// Changes of one kind, with one request for all.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    direction: Direction,
    to: String,
    before: Seen,
    after: Seen,
    requests: usize,
    example: String,
}

/// What one set says.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    verdict: &'static str,
    why: Vec<String>,
    /// Why it does not pass, and what it is answered with.
    reasons: Vec<String>,
    backends: Vec<String>,
    #[serde(skip)]
    passes: Passes,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Passes {
    Never,
    Sometimes,
    Always,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    requests: usize,
    left_out: usize,
    changes: Vec<Change>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    input::finish("diff", answer(arguments))
}

fn answer(arguments: &Arguments) -> Result<(String, u8), String> {
    let load = |path: &PathBuf| {
        let loaded = input::load(std::slice::from_ref(path));
        loaded.map_err(|error| format!("{}: {error}", path.display()))
    };
    let before = Judge::new(load(&arguments.before)?.mesh);
    let after = Judge::new(load(&arguments.after)?.mesh);
    let (questions, left_out) = if arguments.cases.is_empty() {
        generate::questions([&before.mesh, &after.mesh], arguments.requests_max)
    } else {
        let cases = input::load(&arguments.cases)?.cases;
        if cases.is_empty() {
            return Err("there are no cases: write a document of kind PolicyTest".to_owned());
        }
        let question = |case: weft_config::case::Case| {
            let weft_config::case::Case { from, to, request: ask, authorizer, .. } = case;
            Question { from, to, ask, authorizer }
        };
        (cases.into_iter().map(question).collect(), 0)
    };
    let answer = compare(&before, &after, &questions, left_out);
    let has = |direction| answer.changes.iter().any(|change| change.direction == direction);
    let fails = match arguments.fail_on {
        FailOn::More => has(Direction::More),
        FailOn::Any => !answer.changes.is_empty(),
        FailOn::Never => false,
    };
    let text = match arguments.output {
        Output::Text => answer.text(),
        Output::Json => input::json(&answer),
    };
    Ok((text, u8::from(fails)))
}

fn compare(before: &Judge, after: &Judge, questions: &[Question], left_out: usize) -> Answer {
    let mut found: BTreeMap<(Direction, String, Seen, Seen), (usize, String)> = BTreeMap::new();
    for question in questions {
        let (old, new) = (Seen::new(before, question), Seen::new(after, question));
        let direction = match old.passes.cmp(&new.passes) {
            std::cmp::Ordering::Less => Direction::More,
            std::cmp::Ordering::Greater => Direction::Less,
            std::cmp::Ordering::Equal if old.way() != new.way() => Direction::Way,
            std::cmp::Ordering::Equal => continue,
        };
        let key = (direction, shown_destination(&question.to), old, new);
        let (requests, _) =
            found.entry(key).or_insert_with(|| (0, question.shown(&after.mesh.config.trust_domain)));
        *requests += 1;
    }
    let change = |((direction, to, before, after), (requests, example))| Change {
        direction,
        to,
        before,
        after,
        requests,
        example,
    };
    Answer { requests: questions.len(), left_out, changes: found.into_iter().map(change).collect() }
}

impl Seen {
    fn new(judge: &Judge, question: &Question) -> Self {
        match judge.prepare(&question.from, &question.to, &question.ask) {
            Ok(mut prepared) => {
                prepared.authorizer = question.authorizer;
                Self::of(&prepared.judge())
            }
            // What is not there cannot be called.
            Err(error) => Self {
                verdict: "none",
                why: vec![error.to_string()],
                reasons: Vec::new(),
                backends: Vec::new(),
                passes: Passes::Never,
            },
        }
    }

    fn of(outcome: &Outcome<'_>) -> Self {
        let mut why: BTreeSet<String> = outcome.answers().map(describe).collect();
        why.extend(outcome.locals().map(|local| {
            let text = local.reason.text();
            local.location.as_ref().map_or(text.to_owned(), |to| format!("{text} To {to}"))
        }));
        let mut reasons: BTreeSet<String> =
            outcome.answers().filter_map(|answer| Some(answer.reason()?.label().to_owned())).collect();
        reasons.extend(outcome.locals().map(|local| {
            let to = local.location.as_deref().unwrap_or_default();
            format!("{} {} {to}", local.reason.label(), local.status).trim_end().to_owned()
        }));
        let passes = match outcome.fate() {
            Some(Fate::Allow) => Passes::Always,
            Some(Fate::Deny | Fate::Redirect) => Passes::Never,
            None | Some(Fate::Ask) => Passes::Sometimes,
        };
        Self {
            verdict: outcome.fate().map_or("mixed", Fate::word),
            why: why.into_iter().collect(),
            reasons: reasons.into_iter().collect(),
            backends: backends_of(outcome),
            passes,
        }
    }
}

impl Seen {
    // What becomes of a request, but not by whose doing.
    fn way(&self) -> impl Eq + use<'_> {
        (self.verdict, &self.reasons, &self.backends)
    }
}

impl Question {
    // As `weft explain` takes it.
    fn shown(&self, domain: &TrustDomain) -> String {
        let mut text = match &self.from.who {
            Who::Workload(uid) => format!("--from {uid}"),
            Who::Identity(identity) => format!("--from {}", identity.principal()),
            Who::Account(namespace, account) => format!("--from {domain}/ns/{namespace}/sa/{account}"),
            Who::Unknown => String::new(),
        };
        if self.from.plaintext {
            text += " --plaintext";
        }
        if let Some(ip) = self.from.ip {
            text += &format!(" --ip {ip}");
        }
        if let Some(claims) = &self.from.claims {
            for (name, value) in claims.all.iter() {
                let values = match value {
                    Json::List(values) => values.as_slice(),
                    one => std::slice::from_ref(one),
                };
                for value in values {
                    text += &format!(" --claim '{name}={}'", value.as_text().unwrap_or("…"));
                }
            }
        }
        text += &format!(" --to {}", shown_destination(&self.to));
        match &self.ask {
            Ask::Tcp { server_name } => {
                text += " --tcp";
                if let Some(name) = server_name {
                    text += &format!(" --server-name '{name}'");
                }
            }
            Ask::Http { method, path, host, headers } => {
                text += &format!(" --method {method} --path '{path}'");
                if let Some(host) = host {
                    text += &format!(" --host '{host}'");
                }
                for (name, value) in headers {
                    text += &format!(" --header '{name}: {value}'");
                }
            }
        }
        let said = |(_, held): &&(&str, Authorizer)| Some(*held) == self.authorizer;
        if let Some((word, _)) = Authorizer::WORDS.iter().find(said) {
            text += &format!(" --authorizer {word}");
        }
        text.trim_start().to_owned()
    }
}

fn shown_destination(to: &Destination) -> String {
    let (name, port) = match to {
        Destination::Service(name, port) => (name.to_string(), port),
        Destination::Workload(uid, port) => (format!("workload/{uid}"), port),
    };
    port.map_or(name.clone(), |port| format!("{name}:{port}"))
}

impl Answer {
    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        for change in &self.changes {
            let Change { direction, to, before, after, requests, example } = change;
            let word = match direction {
                Direction::More => "MORE",
                Direction::Less => "LESS",
                Direction::Way => "WAY",
            };
            let _ = writeln!(
                text,
                "{word:5} {to}: {} -> {} ({requests} requests)",
                before.verdict, after.verdict
            );
            for (when, seen) in [("before", before), ("after", after)] {
                let way = if seen.backends.is_empty() {
                    String::new()
                } else {
                    format!(" [{}]", seen.backends.join(", "))
                };
                let _ = writeln!(text, "      {when:6} {}{way}", seen.why.join("; "));
            }
            let _ = writeln!(text, "      for example: weft explain … {example}");
        }
        let of = |direction| self.changes.iter().filter(|change| change.direction == direction).count();
        let _ = writeln!(
            text,
            "{} requests: {} changes allow more, {} allow less, {} lead elsewhere",
            self.requests,
            of(Direction::More),
            of(Direction::Less),
            of(Direction::Way)
        );
        if self.left_out > 0 {
            let _ = writeln!(
                text,
                "{} combinations were left out (--requests-max): what they change is not known",
                self.left_out
            );
        }
        text
    }
}

#[cfg(test)]
mod tests;
