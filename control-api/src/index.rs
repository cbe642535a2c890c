//! The single owner of the configuration: takes documents in, decides what is in force, and publishes
//! one immutable snapshot after another. It runs on a thread of its own, since compiling a large mesh
//! takes longer than a stream may wait. Whoever serves only ever sees whole snapshots.

mod source_status;

pub use source_status::SourceStatus;

use crate::jwks::KeyStore;
use crate::metrics::Metrics;
use crate::resolve::{FileProblem, Refused, Resolved, resolve};
use crate::snapshot::Snapshot;
use crate::snapshot::diff::Diff;
use crate::snapshot::generation::GenerationCounter;
use crate::source::file::FileSource;
use crate::source::last_good::LastGood;
use crate::source::{Documents, SourceError};
use crate::state::{StateDirectory, StateError};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use weft_config::{Compiler, Diagnostic, Severity, SourceFile, Sources};
use weft_model::mesh::Mesh;
use weft_model::trust::TrustBundle;

/// How long after a failure the state directory is written again.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// The owner.
#[derive(Debug)]
pub struct Index {
    trust: Arc<TrustBundle>,
    // What was compiled last, without the keys that are fetched.
    compiled: Mesh,
    keys: Arc<KeyStore>,
    // The version of the keys that the snapshot has.
    filled: u64,
    counter: GenerationCounter,
    last_good: LastGood,
    // What was taken in and is not in force: its generation could not be written.
    pending: Option<Resolved>,
    // When to write again what could not be written.
    retry: Instant,
    snapshots: watch::Sender<Arc<Snapshot>>,
    status: watch::Sender<Arc<SourceStatus>>,
    metrics: Arc<Metrics>,
}

impl Index {
    /// Starts with what the source held first.
    pub fn start(
        state: &Arc<StateDirectory>,
        resolved: Resolved,
        trust: TrustBundle,
        mut last_good: LastGood,
        keys: Arc<KeyStore>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StateError> {
        let trust = Arc::new(trust);
        let mut counter = GenerationCounter::load(state.clone())?;
        last_good.accept(&resolved.files)?;
        let compiled = resolved.compilation.mesh;
        let filled = keys.version();
        let snapshot = Snapshot::build(with_keys(&compiled, &keys), &trust, &mut counter, None)?
            .with_files(resolved.files.into());
        keys.forget_others(&compiled);
        let now = Instant::now();
        let status = SourceStatus {
            warnings: warnings(&resolved.compilation.diagnostics),
            problems: resolved.problems,
            refused: Vec::new(),
            unreadable: None,
            unwritten: None,
            settled: 0,
            seen: now,
            changed: now,
        };
        tracing::info!(
            generation = %snapshot.generation(),
            content = %Diff::between(None, &snapshot),
            "configuration is in force"
        );
        let index = Self {
            trust,
            compiled,
            keys,
            filled,
            counter,
            last_good,
            pending: None,
            retry: now,
            snapshots: watch::Sender::new(Arc::new(snapshot)),
            status: watch::Sender::new(Arc::new(status)),
            metrics,
        };
        index.status.borrow().warnings.iter().for_each(log_warning);
        index.count_generation(&index.snapshots.borrow());
        index.count_errors(&index.status.borrow());
        Ok(index)
    }

    /// The current snapshot, and each that follows.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// How the source fares.
    pub fn status(&self) -> watch::Receiver<Arc<SourceStatus>> {
        self.status.subscribe()
    }

    /// Watches the source on this thread until `stop`'s other end is gone.
    pub fn run(mut self, mut source: FileSource, stop: &mpsc::Receiver<()>) {
        loop {
            let sources = Sources::default();
            let mut compiler = Compiler::new(&sources);
            // Nobody waits yet: the first edit then costs as little as those that follow.
            compiler.prepare(source.files());
            if self.watch(&mut source, &mut compiler, stop).is_break() {
                return;
            }
        }
    }

    // Until the end, or until the compiler keeps too much that is out of use.
    fn watch(
        &mut self,
        source: &mut FileSource,
        compiler: &mut Compiler<'_>,
        stop: &mpsc::Receiver<()>,
    ) -> ControlFlow<()> {
        while !compiler.is_wasteful() {
            if stop.recv_timeout(source.interval()) != Err(mpsc::RecvTimeoutError::Timeout) {
                return ControlFlow::Break(());
            }
            match source.poll(Instant::now()) {
                Ok(documents) => {
                    if let Some(documents) = documents {
                        self.apply(&documents, compiler);
                    }
                    self.seen(source.is_settled());
                }
                Err(error) => self.unreadable(&error),
            }
            self.write_again(Instant::now());
            self.refill(Instant::now());
        }
        ControlFlow::Continue(())
    }

    /// Takes in what the source holds now.
    pub fn apply(&mut self, documents: &Documents, compiler: &mut Compiler<'_>) {
        // What was to come into force before is overtaken.
        self.pending = None;
        let mut compile = |files: &[SourceFile]| compiler.compile(files);
        let outcome = match resolve(documents, &self.last_good, false, &mut compile) {
            Ok(resolved) => self.publish(resolved),
            Err(refused) => {
                self.refuse(refused);
                "refused"
            }
        };
        self.metrics.source_changes.shared([outcome]).inc();
    }

    fn publish(&mut self, resolved: Resolved) -> &'static str {
        let wanted = &resolved.compilation.mesh.config.trust_domain;
        if *wanted != self.trust.trust_domain {
            tracing::error!(
                held = %self.trust.trust_domain,
                %wanted,
                "the trust domain cannot change while the control API runs: nothing of this change is applied"
            );
            let message = "the trust domain cannot change while the control API runs";
            self.tell(|status| {
                status.refused = vec![Diagnostic {
                    severity: Severity::Error,
                    file: String::new(),
                    line: 1,
                    column: 1,
                    path: "spec.trustDomain".to_owned(),
                    message: message.to_owned(),
                    hint: Some("restart weft-control with a new state directory".to_owned()),
                }];
            });
            return "refused";
        }
        let before = self.snapshots.borrow().clone();
        let version = self.keys.version();
        let mesh = with_keys(&resolved.compilation.mesh, &self.keys);
        let snapshot = match Snapshot::build(mesh, &self.trust, &mut self.counter, Some(&before)) {
            Ok(snapshot) => snapshot.with_files(resolved.files.as_slice().into()),
            Err(error) => {
                // A number that is not written down must not be used. The source will not say this again.
                self.unwritten("nothing of the last change is in force", &error);
                self.pending = Some(resolved);
                return "refused";
            }
        };
        self.compiled = resolved.compilation.mesh;
        self.filled = version;
        self.keys.forget_others(&self.compiled);
        tracing::info!(
            generation = %snapshot.generation(),
            change = %Diff::between(Some(&before), &snapshot),
            "configuration changed"
        );
        self.serve(snapshot);
        // Proxies come first: what was good is remembered after they have been told.
        let kept = self.last_good.accept(&resolved.files);
        self.written_unless(kept);
        for problem in &resolved.problems {
            log_problem(problem);
        }
        let partly = !resolved.problems.is_empty();
        let warnings = warnings(&resolved.compilation.diagnostics);
        let held = self.status.borrow().clone();
        warnings.iter().filter(|warning| !held.warnings.contains(warning)).for_each(log_warning);
        self.tell(|status| {
            status.problems = resolved.problems;
            status.refused = Vec::new();
            status.warnings = warnings;
            status.changed = Instant::now();
        });
        if partly { "partly" } else { "applied" }
    }

    // What is in force must be what the source holds, and what the next start finds: what could not be
    // written is tried until it can be.
    fn write_again(&mut self, now: Instant) {
        if now < self.retry {
            return;
        }
        if let Some(resolved) = self.pending.take() {
            let outcome = self.publish(resolved);
            if self.pending.is_none() {
                self.metrics.source_changes.shared([outcome]).inc();
            }
        } else if self.last_good.is_behind() {
            let kept = self.last_good.write();
            self.written_unless(kept);
        } else if self.filled == self.keys.version() && self.status.borrow().unwritten.is_some() {
            // What could not be written was taken back, or refused for another reason.
            self.written_unless(Ok(()));
        }
    }

    // Other keys were fetched, or became too old: a change of those RequestAuthentications alone.
    fn refill(&mut self, now: Instant) {
        let version = self.keys.version();
        // A change that cannot be written brings them along when it can be.
        if version == self.filled || self.pending.is_some() || now < self.retry {
            return;
        }
        let before = self.snapshots.borrow().clone();
        let mesh = with_keys(&self.compiled, &self.keys);
        match Snapshot::build(mesh, &self.trust, &mut self.counter, Some(&before)) {
            Ok(snapshot) => {
                let snapshot = snapshot.with_files(before.files().clone());
                tracing::info!(
                    generation = %snapshot.generation(),
                    change = %Diff::between(Some(&before), &snapshot),
                    "keys changed"
                );
                self.serve(snapshot);
                self.filled = version;
                if !self.last_good.is_behind() {
                    self.written_unless(Ok(()));
                }
            }
            Err(error) => {
                self.unwritten("keys that were fetched, or became too old, are not applied", &error)
            }
        }
    }

    fn unwritten(&mut self, effect: &str, error: &StateError) {
        self.retry = Instant::now() + WRITE_RETRY;
        let said = format!("{effect}: {}", crate::chain(error));
        if self.status.borrow().unwritten.as_ref() != Some(&said) {
            tracing::error!(reason = said, "the state directory cannot be written; it is tried again");
            self.tell(|status| status.unwritten = Some(said));
        }
    }

    fn written_unless(&mut self, kept: Result<(), StateError>) {
        if let Err(error) = kept {
            self.unwritten("a restart would not find all of the last good files", &error);
        } else if self.pending.is_none() && self.status.borrow().unwritten.is_some() {
            tracing::info!("the state directory can be written again");
            self.tell(|status| status.unwritten = None);
        }
    }

    fn refuse(&self, refused: Refused) {
        for error in &refused.diagnostics {
            tracing::error!(
                file = error.file,
                line = error.line,
                reason = error.message,
                "nothing of this change is applied"
            );
        }
        self.tell(|status| status.refused = refused.diagnostics);
    }

    fn seen(&self, settled: bool) {
        let settled = settled && self.pending.is_none();
        self.status.send_if_modified(|status| {
            let status = Arc::make_mut(status);
            status.seen = Instant::now();
            status.settled += u64::from(settled);
            status.unreadable.take().is_some()
        });
    }

    fn unreadable(&self, error: &SourceError) {
        let said = crate::chain(error);
        let new = self.status.borrow().unreadable.as_ref() != Some(&said);
        if new {
            tracing::error!(error = said, "the source cannot be read; what was served stays");
            self.tell(|status| status.unreadable = Some(said));
        }
    }

    // Puts it in force.
    fn serve(&self, snapshot: Snapshot) {
        self.count_generation(&snapshot);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    // Changes what is said of the source. Nobody sees it before the metric says the same.
    fn tell(&self, change: impl FnOnce(&mut SourceStatus)) {
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            change(status);
            self.count_errors(status);
        });
    }

    fn count_generation(&self, snapshot: &Snapshot) {
        let number = snapshot.generation().number;
        self.metrics.generation.shared([]).set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    fn count_errors(&self, status: &SourceStatus) {
        let bad = status.errors();
        self.metrics.source_errors.shared([]).set(i64::try_from(bad).unwrap_or(i64::MAX));
    }
}

fn with_keys(compiled: &Mesh, keys: &KeyStore) -> Mesh {
    let mut mesh = compiled.clone();
    keys.fill(&mut mesh);
    mesh
}

fn warnings(diagnostics: &[Diagnostic]) -> Vec<Diagnostic> {
    diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning).cloned().collect()
}

fn log_warning(warning: &Diagnostic) {
    tracing::warn!(
        file = warning.file,
        line = warning.line,
        path = warning.path,
        reason = warning.message,
        "this holds, but probably not as meant"
    );
}

/// One line a diagnostic: what is bad, and what is in force instead.
pub fn log_problem(problem: &FileProblem) {
    for diagnostic in &problem.diagnostics {
        tracing::error!(
            file = diagnostic.file,
            line = diagnostic.line,
            column = diagnostic.column,
            path = diagnostic.path,
            reason = diagnostic.message,
            in_force = ?problem.fate,
            "a file is not served as it is"
        );
    }
}

#[cfg(test)]
mod tests;
