//! `weft-bench compile`: what policies cost to compile, and what an edit of one of them costs the control API. One
//! thread, no sockets, the libraries that the programs link.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use weft_config::{Compiler, SourceFile, Sources, compile};
use weft_control::snapshot::Snapshot;
use weft_control::snapshot::diff::Diff;
use weft_control::snapshot::generation::GenerationCounter;
use weft_control::state::StateDirectory;
use weft_model::trust::TrustBundle;

use crate::policies::{compiled, many_workloads};

/// Edits of one policy each.
const EDITS: usize = 9;

/// What to measure.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Policies to compile
    #[arg(long, default_value_t = 10_000)]
    policies: usize,
}

pub(crate) fn measure(options: &Options) -> anyhow::Result<()> {
    let mut report = String::new();
    let files = many_workloads(options.policies);
    let bytes: usize = files.iter().map(|file| file.text.len()).sum();
    let mut times = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        let mesh = compiled(&files)?;
        times.push(start.elapsed());
        ensure!(mesh.authorizations.len() == options.policies, "every policy is held");
    }
    times.sort();
    writeln!(
        report,
        "compile, {} policies in {} files of {} MB: {:.0} ms (least {:.0})",
        options.policies,
        files.len(),
        bytes / 1_000_000,
        millis(times[1]),
        millis(times[0])
    )?;
    for (how, remembers) in [("with nothing remembered", false), ("as the control API does", true)] {
        let (median, least) = edits(&files, remembers)?;
        writeln!(
            report,
            "edit of one policy to its snapshot, {how}: {:.1} ms (least {:.1})",
            millis(median),
            millis(least)
        )?;
    }
    crate::report::text(&report);
    Ok(())
}

/// From the text of a file that changed to the snapshot that is pushed: the median of edits, and the least.
fn edits(files: &[SourceFile], remembers: bool) -> anyhow::Result<(Duration, Duration)> {
    let state = tempfile::tempdir()?;
    let mut counter = GenerationCounter::load(Arc::new(StateDirectory::open(state.path())?))?;
    let mut files = files.to_vec();
    let sources = Sources::default();
    let mut compiler = Compiler::new(&sources);
    let first = compiler.compile(&files).mesh;
    let trust_domain = first.config.trust_domain.clone();
    let trust = Arc::new(TrustBundle { trust_domain, roots: Vec::new() });
    let mut snapshot = Snapshot::build(first, &trust, &mut counter, None)?;
    let mut times = Vec::new();
    for edit in 0..EDITS {
        let text = &mut files[edit * 7 % 100].text;
        *text = text.replacen("/v1/things-", &format!("/v1/other-{edit}-"), 1);
        let start = Instant::now();
        let compilation = if remembers { compiler.compile(&files) } else { compile(&files) };
        ensure!(!compilation.has_errors(), "the edit is good");
        let next = Snapshot::build(compilation.mesh, &trust, &mut counter, Some(&snapshot))?;
        times.push(start.elapsed());
        let Diff(changed) = Diff::between(Some(&snapshot), &next);
        ensure!(changed.len() == 1 && changed[0].changed == 1, "one resource changes: {changed:?}");
        snapshot = next;
    }
    times.sort();
    Ok((times[EDITS / 2], times[0]))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
