//! What users write, compiled: YAML documents in, a [`weft_model::mesh::Mesh`] and diagnostics out.
//!
//! The control API, the webhook and `weft check` all judge through [`compile`], so they judge alike.
//! The way of a document: `document` (text → positioned tree) → `schema` (tree → checked values) →
//! `compile` (joined with all others → model). Every problem is reported at once, each with file,
//! line, column and path. Nothing here panics, and time and memory are bounded by the size of the
//! input.

#![forbid(unsafe_code)]

mod arena;
pub mod case;
mod closest;
mod compile;
mod compiler;
mod diagnostic;
mod directory;
mod document;
mod report;
mod schema;

pub use compiler::{Compiler, Sources};
pub use diagnostic::{Diagnostic, Severity, render};
pub use directory::{ReadError, read_directory, read_paths};

use weft_model::mesh::Mesh;

/// A file as it was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SourceFile {
    /// The name that diagnostics give it.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// What came of compiling.
#[derive(Clone, Debug, Default)]
pub struct Compilation {
    /// The mesh. Documents with errors are left out of it; a security policy among them is still
    /// named by the workloads that it was for, and so denies.
    pub mesh: Mesh,
    /// What the documents of kind `PolicyTest` ask, in the order of files.
    pub cases: Vec<case::Case>,
    /// All problems, by file and place.
    pub diagnostics: Vec<Diagnostic>,
}

impl Compilation {
    /// Whether any diagnostic is an error.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

/// Compiles all files together.
pub fn compile(files: &[SourceFile]) -> Compilation {
    let sources = Sources::default();
    Compiler::new(&sources).compile(files)
}
