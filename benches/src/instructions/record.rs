//! The record that is kept in the repository: what each case costs, and under what it was counted.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

/// How much a case may cost above its record, in percent: what runs differ by, and a change too small to matter.
const TOLERANCE_PERCENT: f64 = 8.0;

/// Begins the line that says under what was counted.
const COUNTED_UNDER: &str = "# counted under ";

/// Instructions per request, client side and server side.
pub(crate) type Pair = [f64; 2];

pub(super) struct Record {
    pub(super) costs: BTreeMap<String, Pair>,
    /// The counter, the C library, the compiler and the processor's kind.
    pub(super) counted_under: String,
}

// === impl Record ===

impl Record {
    pub(super) fn new(costs: BTreeMap<String, Pair>) -> Self {
        Self { costs, counted_under: counted_under() }
    }

    pub(super) fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not a record of instructions", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut costs = BTreeMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let parts: Vec<_> = line.split_whitespace().collect();
            let [name, client, server] = parts[..] else {
                bail!("line {}: expected NAME CLIENT SERVER", number + 1)
            };
            costs.insert(name.to_owned(), [client.parse()?, server.parse()?]);
        }
        let under = text.lines().find_map(|line| line.strip_prefix(COUNTED_UNDER)).unwrap_or_default();
        Ok(Self { costs, counted_under: under.to_owned() })
    }

    /// Its text, the cases in this order.
    pub(super) fn written<'a>(&self, order: impl IntoIterator<Item = &'a str>) -> String {
        let mut text = format!(
            "# Instructions per request, client side and server side: made by `make instructions-record`, compared by\n\
             # `make instructions`. A change that makes a case dearer by more than the tolerance says why and records anew.\n\
             {COUNTED_UNDER}{}\n",
            self.counted_under
        );
        for name in order {
            if let Some([client, server]) = self.costs.get(name) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{name} {client:.0} {server:.0}");
            }
        }
        text
    }

    /// Fails unless it has exactly these cases.
    pub(super) fn expect_cases(&self, names: &[&str]) -> Result<()> {
        let unknown = self.costs.keys().map(String::as_str).find(|name| !names.contains(name));
        let missing = names.iter().copied().find(|name| !self.costs.contains_key(*name));
        if let Some(name) = unknown.or(missing) {
            bail!("the record and the mix differ in {name}: record anew (make instructions-record)");
        }
        ensure!(self.costs.values().flatten().all(|cost| *cost > 0.0), "a case of the record costs nothing");
        Ok(())
    }

    /// Whether a case costs more than it may.
    pub(super) fn is_exceeded(&self, name: &str, counted: Pair) -> bool {
        let sum = |pair: &Pair| pair[0] + pair[1];
        self.costs
            .get(name)
            .is_none_or(|record| sum(&counted) > sum(record) * (1.0 + TOLERANCE_PERCENT / 100.0))
    }
}

/// What a count depends on besides the programs. The processor does not: to what it runs, valgrind shows one of its
/// own making, so that the same code is chosen wherever it can show that one.
fn counted_under() -> String {
    let first_line = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(str::to_owned)
    };
    let valgrind = first_line("valgrind", "--version").unwrap_or_default();
    let library = first_line("getconf", "GNU_LIBC_VERSION").unwrap_or_default();
    let compiler = first_line("rustc", "--version").unwrap_or_default();
    format!("{valgrind}, {library}, {compiler}, {}", std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(client: f64) -> Record {
        let costs = BTreeMap::from([("closed-1".to_owned(), [client, 1000.0])]);
        Record { costs, counted_under: "valgrind-3, glibc 2, x86_64".to_owned() }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let read = Record::parse(&record(7.0).written(["closed-1"])).unwrap();
        assert_eq!(read.costs, record(7.0).costs);
        assert_eq!(read.counted_under, "valgrind-3, glibc 2, x86_64");
        assert!(Record::parse("closed-1 7").is_err());
    }

    #[test]
    fn what_is_dearer_than_the_tolerance_exceeds_and_what_is_cheaper_does_not() {
        let record = record(1000.0);
        assert!(!record.is_exceeded("closed-1", [1070.0, 1000.0]));
        assert!(record.is_exceeded("closed-1", [1200.0, 1000.0]));
        assert!(!record.is_exceeded("closed-1", [500.0, 1000.0]));
        assert!(record.is_exceeded("unknown", [1.0, 1.0]));
    }

    #[test]
    fn a_record_of_other_cases_is_none() {
        assert!(record(1.0).expect_cases(&["closed-1"]).is_ok());
        assert!(record(1.0).expect_cases(&["closed-1", "tcp-16"]).is_err());
        assert!(record(1.0).expect_cases(&[]).is_err());
        assert!(record(0.0).expect_cases(&["closed-1"]).is_err());
    }
}
