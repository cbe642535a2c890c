//! What the demo says: lines for people as it goes, or one JSON document at the end. Nothing is
//! claimed here that was not checked; every check is counted.

use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How the demo speaks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document, at the end.
    Json,
}

/// One claim and whether it held.
#[derive(Debug, Serialize)]
struct Check {
    step: String,
    claim: String,
    held: bool,
}

/// The story so far.
#[derive(Debug)]
pub(crate) struct Report {
    output: Output,
    colour: bool,
    start: Instant,
    step: String,
    steps: usize,
    checks: Vec<Check>,
}

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const CYAN: &str = "\x1b[36m";

impl Report {
    /// A report to standard output, with colours only where a person looks.
    pub(crate) fn new(output: Output) -> Self {
        let colour = output == Output::Text
            && std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none();
        Self { output, colour, start: Instant::now(), step: String::new(), steps: 0, checks: Vec::new() }
    }

    /// The first line.
    pub(crate) fn title(&self, text: &str) {
        self.line(&self.paint(BOLD, text));
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, text: &str) {
        self.steps += 1;
        self.step = text.to_owned();
        self.line("");
        let text = format!("{}. {text}", self.steps);
        self.line(&self.paint(&format!("{BOLD}{CYAN}"), &text));
    }

    /// Says what is happening or what is meant.
    pub(crate) fn say(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("   {line}"));
        }
    }

    /// Shows something as it is: a request, a line of metrics.
    pub(crate) fn show(&self, text: &str) {
        for line in text.lines() {
            self.line(&self.paint(DIM, &format!("     {line}")));
        }
    }

    /// A claim, and whether it holds.
    pub(crate) fn check(&mut self, held: bool, claim: &str) {
        let mark = if held { self.paint(GREEN, "✓") } else { self.paint(RED, "✗ NOT SO:") };
        self.line(&format!("   {mark} {claim}"));
        self.checks.push(Check { step: self.step.clone(), claim: claim.to_owned(), held });
    }

    /// Ends the story; whether every claim held.
    pub(crate) fn finish(&self) -> bool {
        let held = self.checks.iter().filter(|check| check.held).count();
        let all = !self.checks.is_empty() && held == self.checks.len();
        let seconds = self.elapsed().as_secs_f64();
        if self.output == Output::Json {
            let document = serde_json::json!({ "held": all, "seconds": seconds, "checks": self.checks });
            self.raw(&format!("{document:#}\n"));
        } else {
            self.line("");
            let text = format!("{held} of {} claims checked and held, in {seconds:.1} s", self.checks.len());
            self.line(&self.paint(if all { GREEN } else { RED }, &text));
        }
        all
    }

    /// Time since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("{colour}{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, text: &str) {
        if self.output == Output::Text {
            self.raw(&format!("{text}\n"));
        }
    }

    fn raw(&self, text: &str) {
        // A reader that has gone away ends the demo by its own signal; nothing to add here.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}
