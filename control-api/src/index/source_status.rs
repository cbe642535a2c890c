//! How the source of policies fares, for `/status`: what of it is not in force, and why.

use crate::resolve::FileProblem;
use serde::Serialize;
use std::time::Instant;
use weft_config::Diagnostic;

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
    /// Why what was read is not in force, or would be lost by a restart, if so.
    pub unwritten: Option<String>,
    /// How often the source was looked at and all that it held had been taken in. Whoever sees it rise twice
    /// knows that one whole look lies in between.
    pub settled: u64,
    /// When the source was last looked at with success.
    #[serde(skip)]
    pub seen: Instant,
    /// When a change last came into force.
    #[serde(skip)]
    pub changed: Instant,
}

impl SourceStatus {
    /// How much is wrong: files, and whatever stops all of them.
    pub fn errors(&self) -> usize {
        self.problems.len() + usize::from(!self.refused.is_empty()) + usize::from(self.unwritten.is_some())
    }
}
