//! Where problems are collected while documents are read and joined.
//!
//! A [`Place`] is a node of a file's tree: eight bytes that every value carries, turned into line,
//! column and path only when there is something to say. An error fails its whole document.

use crate::SourceFile;
use crate::diagnostic::{Diagnostic, Severity};
use crate::document::{Flaw, NONE, Tree};
use std::cell::RefCell;
use std::collections::BTreeSet;
use weft_model::authorization::Provenance;

/// The most diagnostics that are kept: more than anybody reads.
const DIAGNOSTICS_MAX: usize = 2_000;

/// A node of a file.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Place {
    pub(crate) file: u32,
    pub(crate) node: u32,
}

/// A value, and where it was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

impl<T> At<T> {
    pub(crate) fn map<U>(self, convert: impl FnOnce(T) -> U) -> At<U> {
        At { value: convert(self.value), place: self.place }
    }
}

pub(crate) struct Report<'a> {
    files: &'a [SourceFile],
    trees: &'a [Tree<'a>],
    found: RefCell<Found>,
}

#[derive(Default)]
struct Found {
    diagnostics: Vec<(u32, Diagnostic)>,
    failed: BTreeSet<Place>,
    left_out: Vec<Severity>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(files: &'a [SourceFile], trees: &'a [Tree<'a>]) -> Self {
        Self { files, trees, found: RefCell::default() }
    }

    pub(crate) fn trees(&self) -> &'a [Tree<'a>] {
        self.trees
    }

    pub(crate) fn tree(&self, place: Place) -> &'a Tree<'a> {
        &self.trees[place.file as usize]
    }

    pub(crate) fn error(&self, place: Place, message: impl Into<String>) {
        self.add(Severity::Error, place, message.into(), None);
    }

    pub(crate) fn error_hint(&self, place: Place, message: impl Into<String>, hint: impl IntoHint) {
        self.add(Severity::Error, place, message.into(), hint.into_hint());
    }

    pub(crate) fn warn(&self, place: Place, message: impl Into<String>, hint: impl IntoHint) {
        self.add(Severity::Warning, place, message.into(), hint.into_hint());
    }

    /// A problem of the text.
    pub(crate) fn flaw(&self, file: u32, flaw: Flaw) {
        if flaw.node != NONE {
            self.add(Severity::Error, Place { file, node: flaw.node }, flaw.message, flaw.hint);
            return;
        }
        self.push(file, Severity::Error, (flaw.line, flaw.column), String::new, flaw.message, flaw.hint);
    }

    /// Whether the document that the place belongs to has an error.
    pub(crate) fn failed(&self, place: Place) -> bool {
        self.found.borrow().failed.contains(&self.document(place))
    }

    /// `FILE:LINE` of a place, for a message about another one.
    pub(crate) fn location(&self, place: Place) -> String {
        format!("{}:{}", self.files[place.file as usize].name, self.line(place))
    }

    pub(crate) fn provenance(&self, place: Place) -> Provenance {
        let file = self.files[place.file as usize].name.as_str().into();
        Provenance { file, line: self.line(place) }
    }

    /// All diagnostics, by file and place.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        found.diagnostics.sort_by(|(a_file, a), (b_file, b)| {
            (a_file, a.line, a.column, a.severity).cmp(&(b_file, b.line, b.column, b.severity))
        });
        let mut diagnostics: Vec<_> =
            found.diagnostics.into_iter().map(|(_, diagnostic)| diagnostic).collect();
        if let (Some(last), Some(worst)) = (diagnostics.last().cloned(), found.left_out.iter().min()) {
            let message = format!("{} more problems are not shown", found.left_out.len());
            diagnostics.push(Diagnostic { severity: *worst, message, hint: None, ..last });
        }
        diagnostics
    }

    fn line(&self, place: Place) -> u32 {
        self.tree(place).nodes[place.node as usize].line
    }

    fn document(&self, place: Place) -> Place {
        Place { file: place.file, node: self.tree(place).document_of(place.node) }
    }

    fn add(&self, severity: Severity, place: Place, message: String, hint: Option<String>) {
        if severity == Severity::Error {
            let document = self.document(place);
            self.found.borrow_mut().failed.insert(document);
        }
        let tree = self.tree(place);
        let node = &tree.nodes[place.node as usize];
        let path = || tree.path(place.node);
        self.push(place.file, severity, (node.line, node.column), path, message, hint);
    }

    fn push(
        &self,
        file: u32,
        severity: Severity,
        (line, column): (u32, u32),
        path: impl FnOnce() -> String,
        message: String,
        hint: Option<String>,
    ) {
        let mut found = self.found.borrow_mut();
        if found.diagnostics.len() >= DIAGNOSTICS_MAX {
            found.left_out.push(severity);
            return;
        }
        let name = self.files[file as usize].name.clone();
        let path = path();
        found
            .diagnostics
            .push((file, Diagnostic { severity, file: name, line, column, path, message, hint }));
    }
}

/// What can be said as a hint.
pub(crate) trait IntoHint {
    fn into_hint(self) -> Option<String>;
}

impl IntoHint for &str {
    fn into_hint(self) -> Option<String> {
        Some(self.to_owned())
    }
}

impl IntoHint for String {
    fn into_hint(self) -> Option<String> {
        Some(self)
    }
}

impl IntoHint for Option<String> {
    fn into_hint(self) -> Option<String> {
        self
    }
}
