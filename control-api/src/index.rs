//! The single owner of the configuration: takes documents in, decides what is in force, and publishes
//! one immutable snapshot after another. It runs on a thread of its own, since compiling a large mesh
//! takes longer than a stream may wait. Whoever serves only ever sees whole snapshots.

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
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;
use tokio::sync::watch;
use weft_config::{Compiler, Diagnostic, Severity, SourceFile, Sources};
use weft_model::mesh::Mesh;
use weft_model::trust::TrustBundle;

/// How the source fares, for people.
#[derive(Clone, Debug, Serialize)]
pub struct SourceStatus {
    /// Files that are not served as they are.
    pub problems: Vec<FileProblem>,
    /// Why the newest state of the source as a whole is not served, if it is not.
    pub refused: Vec<Diagnostic>,
    /// What holds, but probably not as meant.
    pub warnings: Vec<Diagnostic>,
    /// Why the source cannot be read, if it cannot.
    pub unreadable: Option<String>,
    /// When the source was last looked at with success.
    #[serde(skip)]
    pub seen: Instant,
    /// When a change last came into force.
    #[serde(skip)]
    pub changed: Instant,
}

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
        let now = Instant::now();
        let status = SourceStatus {
            warnings: warnings(&resolved.compilation.diagnostics),
            problems: resolved.problems,
            refused: Vec::new(),
            unreadable: None,
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
            snapshots: watch::Sender::new(Arc::new(snapshot)),
            status: watch::Sender::new(Arc::new(status)),
            metrics,
        };
        index.status.borrow().warnings.iter().for_each(log_warning);
        index.report();
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
                    self.seen();
                }
                Err(error) => self.unreadable(&error),
            }
            self.refill();
        }
        ControlFlow::Continue(())
    }

    /// Takes in what the source holds now.
    pub fn apply(&mut self, documents: &Documents, compiler: &mut Compiler<'_>) {
        let mut compile = |files: &[SourceFile]| compiler.compile(files);
        let outcome = match resolve(documents, &self.last_good, false, &mut compile) {
            Ok(resolved) => self.publish(resolved),
            Err(refused) => {
                self.refuse(refused);
                "refused"
            }
        };
        self.metrics.source_changes.shared([outcome]).inc();
        self.report();
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
            self.status.send_modify(|status| {
                Arc::make_mut(status).refused = vec![Diagnostic {
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
        self.compiled = resolved.compilation.mesh;
        self.filled = self.keys.version();
        let mesh = with_keys(&self.compiled, &self.keys);
        let snapshot = match Snapshot::build(mesh, &self.trust, &mut self.counter, Some(&before)) {
            Ok(snapshot) => snapshot.with_files(resolved.files.as_slice().into()),
            Err(error) => {
                // A number that is not written down must not be used.
                tracing::error!(error = %crate::chain(&error), "the change is not applied");
                return "refused";
            }
        };
        tracing::info!(
            generation = %snapshot.generation(),
            change = %Diff::between(Some(&before), &snapshot),
            "configuration changed"
        );
        self.snapshots.send_replace(Arc::new(snapshot));
        // Proxies come first: what was good is remembered after they have been told.
        if !self.last_good.is(&resolved.files)
            && let Err(error) = self.last_good.accept(&resolved.files)
        {
            tracing::error!(error = %crate::chain(&error), "the last good files cannot be kept");
        }
        for problem in &resolved.problems {
            log_problem(problem);
        }
        let partly = !resolved.problems.is_empty();
        let warnings = warnings(&resolved.compilation.diagnostics);
        let held = self.status.borrow().clone();
        warnings.iter().filter(|warning| !held.warnings.contains(warning)).for_each(log_warning);
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.problems = resolved.problems;
            status.refused = Vec::new();
            status.warnings = warnings;
            status.changed = Instant::now();
        });
        if partly { "partly" } else { "applied" }
    }

    // Other keys were fetched, or became too old: a change of those RequestAuthentications alone.
    fn refill(&mut self) {
        let version = self.keys.version();
        if version == self.filled {
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
                self.snapshots.send_replace(Arc::new(snapshot));
                self.filled = version;
                self.report();
            }
            // Tried again at the next look.
            Err(error) => tracing::error!(error = %crate::chain(&error), "the keys are not applied"),
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
        self.status.send_modify(|status| Arc::make_mut(status).refused = refused.diagnostics);
    }

    fn seen(&self) {
        self.status.send_if_modified(|status| {
            let status = Arc::make_mut(status);
            status.seen = Instant::now();
            status.unreadable.take().is_some()
        });
    }

    fn unreadable(&self, error: &SourceError) {
        let said = crate::chain(error);
        let new = self.status.borrow().unreadable.as_ref() != Some(&said);
        if new {
            tracing::error!(error = said, "the source cannot be read; what was served stays");
            self.status.send_modify(|status| Arc::make_mut(status).unreadable = Some(said));
        }
    }

    fn report(&self) {
        let number = self.snapshots.borrow().generation().number;
        self.metrics.generation.shared([]).set(i64::try_from(number).unwrap_or(i64::MAX));
        let status = self.status.borrow();
        let bad = status.problems.len() + usize::from(!status.refused.is_empty());
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
