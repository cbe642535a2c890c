//! `weft test DIR|FILE…`: judges the cases of every `PolicyTest` and says which do not hold.
//!
//! Exit code 0: all hold; 1: one does not, or fewer rules were hit than `--coverage-min` asks; 2:
//! nothing could be judged (unreadable, errors in the policies, no cases).

mod coverage;
mod junit;
mod verify;

pub(crate) use verify::backends_of;

use crate::input;
use crate::judge::{Judge, Prepared};
use clap::ValueEnum;
use coverage::Coverage;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use weft_config::case::Case;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Directories and files: the policies and the tests of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// How to say it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The least percentage of rules that some case must hit
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    coverage_min: Option<u8>,
    /// Judge all cases this often, and say how many verdicts a second that was
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    Text,
    Json,
    Junit,
}

/// How a case fared.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fared<'c> {
    test: &'c str,
    name: &'c str,
    file: &'c str,
    line: u32,
    /// What is not as expected; empty: all is.
    failures: Vec<String>,
    /// What became of the request.
    verdict: &'static str,
    /// Why it does not pass.
    reason: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    cases: &'a [Fared<'a>],
    passed: usize,
    failed: usize,
    coverage: &'a Coverage,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdicts_per_second: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    input::finish("test", judge(arguments))
}

fn judge(arguments: &Arguments) -> Result<(String, u8), String> {
    let compilation = input::load(&arguments.paths)?;
    if compilation.cases.is_empty() {
        return Err("there are no cases: write a document of kind PolicyTest".to_owned());
    }
    let (cases, judge) = (compilation.cases, Judge::new(compilation.mesh));
    let mut coverage = Coverage::new(&judge.mesh);
    let fared: Vec<_> = cases.iter().map(|case| fare(case, &judge, &mut coverage)).collect();
    let speed = arguments.repeat.map(|times| speed(&cases, &judge, times));
    let failed = fared.iter().filter(|fared| !fared.failures.is_empty()).count();
    let answer = Answer {
        cases: &fared,
        passed: fared.len() - failed,
        failed,
        coverage: &coverage,
        verdicts_per_second: speed,
    };
    let short = arguments.coverage_min.is_some_and(|least| !coverage.reaches(least));
    let text = match arguments.output {
        Output::Text => text(&answer, arguments.coverage_min.filter(|_| short)),
        Output::Json => input::json(&answer),
        Output::Junit => junit::document(&fared),
    };
    Ok((text, u8::from(failed > 0 || short)))
}

fn fare<'c>(case: &'c Case, judge: &Judge, coverage: &mut Coverage) -> Fared<'c> {
    let (failures, verdict, reason) = match judge.prepare(&case.from, &case.to, &case.request) {
        Err(error) => (vec![error.to_string()], "none", None),
        Ok(mut prepared) => {
            prepared.authorizer = case.authorizer;
            let outcome = prepared.judge();
            coverage.count(&outcome);
            let verdict = outcome.fate().map_or("mixed", |fate| fate.word());
            let reason = outcome.reason().map(|reason| reason.label());
            (verify::verify(&case.expect, &prepared, &outcome), verdict, reason)
        }
    };
    let Case { test, name, place, .. } = case;
    Fared { test, name, file: &place.file, line: place.line, failures, verdict, reason }
}

// Judged as often as a large suite would be: a verdict is one endpoint's answer.
fn speed(cases: &[Case], judge: &Judge, times: u32) -> u64 {
    let prepared = cases.iter().filter_map(|case| {
        let mut prepared = judge.prepare(&case.from, &case.to, &case.request).ok()?;
        prepared.authorizer = case.authorizer;
        Some(prepared)
    });
    let prepared: Vec<Prepared<'_>> = prepared.collect();
    let started = Instant::now();
    let mut verdicts: u64 = 0;
    for _ in 0..times {
        for prepared in &prepared {
            let outcome = std::hint::black_box(prepared).judge();
            verdicts += u64::try_from(std::hint::black_box(outcome).answers().count().max(1)).unwrap_or(1);
        }
    }
    let taken = started.elapsed().as_nanos().max(1);
    u64::try_from(u128::from(verdicts) * 1_000_000_000 / taken).unwrap_or(u64::MAX)
}

fn text(answer: &Answer<'_>, short_of: Option<u8>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for fared in answer.cases {
        let Fared { test, name, file, line, failures, .. } = fared;
        if failures.is_empty() {
            let _ = writeln!(text, "ok    {test}: {name}");
            continue;
        }
        let _ = writeln!(text, "FAIL  {test}: {name} ({file}:{line})");
        for failure in failures {
            let _ = writeln!(text, "      {failure}");
        }
    }
    let total = answer.cases.len();
    let _ = writeln!(text, "\n{total} cases: {} passed, {} failed", answer.passed, answer.failed);
    text.push_str(&answer.coverage.text());
    if let Some(least) = short_of {
        let _ = writeln!(text, "that is less than the {least} % asked for");
    }
    if let Some(speed) = answer.verdicts_per_second {
        let _ = writeln!(text, "{speed} verdicts per second on one core");
    }
    text
}

#[cfg(test)]
mod tests;
