//! Where problems are collected while documents are read and joined.
//!
//! A [`Place`] is a node of a file's tree: eight bytes that every value carries, turned into line,
//! column and path only when there is something to say. An error fails its whole document.

use crate::SourceFile;
use crate::compiler::Read;
use crate::diagnostic::{Diagnostic, Severity};
use crate::document::{Flaw, NONE, Tree};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use weft_model::authorization::Provenance;

/// The most errors, and the most warnings, that are kept: more than anybody reads. Whatever their number, the
/// first error of each file is kept: a file that is not said to be bad is served.
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
    files: Files<'a>,
    found: RefCell<Problems>,
}

/// What places speak of.
enum Files<'a> {
    /// The one file that is being read.
    One(u32, File<'a>),
    /// All that are joined, by number. A number that is not among them is of a text that is out of use.
    All(Vec<Option<File<'a>>>),
}

#[derive(Clone, Copy)]
struct File<'a> {
    /// Its place among all files.
    order: u32,
    name: &'a str,
    tree: &'a Tree<'a>,
}

/// What was found.
#[derive(Clone, Default)]
pub(crate) struct Problems {
    // With the order of their files.
    diagnostics: Vec<(u32, Diagnostic)>,
    failed: BTreeSet<Place>,
    /// The files with an error, by their order.
    bad: BTreeSet<u32>,
    errors: Count,
    warnings: Count,
}

/// How many there are of a severity.
#[derive(Clone, Copy, Default)]
struct Count {
    kept: usize,
    left_out: usize,
}

impl<'a> Report<'a> {
    /// For reading one file.
    pub(crate) fn of_file(number: u32, file: &'a SourceFile, tree: &'a Tree<'a>) -> Self {
        let files = Files::One(number, File { order: 0, name: &file.name, tree });
        Self { files, found: RefCell::default() }
    }

    /// For joining files: begins with what was found in each. `numbers`: how many there are.
    pub(crate) fn of_all(reads: &[Rc<Read<'a>>], numbers: u32) -> Self {
        let mut files = vec![None; numbers as usize];
        let mut found = Problems::default();
        for (order, read) in (0..).zip(reads) {
            files[read.number as usize] = Some(File { order, name: &read.file.name, tree: read.tree });
            found.add(order, &read.flaws);
        }
        for (order, read) in (0..).zip(reads) {
            found.add(order, &read.problems);
        }
        Self { files: Files::All(files), found: RefCell::new(found) }
    }

    /// What was found so far: it is taken out.
    pub(crate) fn take(&self) -> Problems {
        self.found.take()
    }

    fn file(&self, number: u32) -> File<'a> {
        let file = match &self.files {
            Files::One(held, file) => (*held == number).then_some(*file),
            Files::All(all) => all.get(number as usize).copied().flatten(),
        };
        file.expect("a place must be of a file that is being compiled")
    }

    pub(crate) fn tree(&self, place: Place) -> &'a Tree<'a> {
        self.file(place.file).tree
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
        format!("{}:{}", self.file(place.file).name, self.line(place))
    }

    pub(crate) fn provenance(&self, place: Place) -> Provenance {
        let file = self.file(place.file).name.into();
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
        for (severity, Count { left_out, .. }) in
            [(Severity::Error, found.errors), (Severity::Warning, found.warnings)]
        {
            // In a file that has one anyway: no other is said to be bad.
            let last = diagnostics.iter().rev().find(|held| held.severity == severity).cloned();
            if let Some(last) = last.filter(|_| left_out > 0) {
                let what = if severity == Severity::Error { "errors" } else { "warnings" };
                let message = format!("{left_out} more {what} are not shown");
                diagnostics.push(Diagnostic { message, hint: None, ..last });
            }
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
        let File { order, name, .. } = self.file(file);
        found.push(order, severity, || {
            let (file, path) = (name.to_owned(), path());
            Diagnostic { severity, file, line, column, path, message, hint }
        });
    }
}

impl Problems {
    fn push(&mut self, order: u32, severity: Severity, diagnostic: impl FnOnce() -> Diagnostic) {
        let first = severity == Severity::Error && self.bad.insert(order);
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        if count.kept < DIAGNOSTICS_MAX || first {
            count.kept += 1;
            self.diagnostics.push((order, diagnostic()));
        } else {
            count.left_out += 1;
        }
    }

    // Of the file at that place among all, as if it was found now.
    fn add(&mut self, order: u32, other: &Self) {
        for (_, diagnostic) in &other.diagnostics {
            self.push(order, diagnostic.severity, || diagnostic.clone());
        }
        self.errors.left_out += other.errors.left_out;
        self.warnings.left_out += other.warnings.left_out;
        self.failed.extend(&other.failed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;

    fn file(name: &str, text: String) -> SourceFile {
        SourceFile { name: name.to_owned(), text }
    }

    // A selector that matches nothing is a warning.
    fn policies(count: usize) -> String {
        let policy = |number: usize| {
            format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: p{number} }}\n\
                 spec: {{ selector: {{ matchLabels: {{ app: none }} }}, rules: [{{}}] }}\n"
            )
        };
        (0..count).map(policy).collect::<Vec<_>>().join("---\n")
    }

    fn bad_files(diagnostics: &[Diagnostic]) -> Vec<&str> {
        let errors = diagnostics.iter().filter(|held| held.severity == Severity::Error);
        let mut names: Vec<_> = errors.map(|held| held.file.as_str()).collect();
        names.dedup();
        names
    }

    #[test]
    fn however_many_warnings_there_are_every_file_with_an_error_is_named_and_no_other() {
        let many = policies(DIAGNOSTICS_MAX + 10);
        let bad = "apiVersion: v1\nkind: Nothing\nmetadata: { name: a }\n".to_owned();
        let files = [
            file("a.yaml", many.clone()),
            file("m.yaml", bad.clone()),
            file("n.yaml", bad),
            file("z.yaml", many.replace("name: p", "name: q")),
        ];
        let diagnostics = compile(&files).diagnostics;
        assert_eq!(bad_files(&diagnostics), ["m.yaml", "n.yaml"]);
        let last = diagnostics.last().unwrap();
        assert_eq!(last.severity, Severity::Warning);
        assert!(last.message.ends_with("more warnings are not shown"), "{last:?}");
    }

    #[test]
    fn however_many_errors_a_file_has_the_next_one_is_named_as_well() {
        let many = policies(DIAGNOSTICS_MAX + 10).replace("rules", "rulez");
        let bad = "kind: [\n".to_owned();
        let files = [
            file("a.yaml", many),
            file("m.yaml", bad),
            file("z.yaml", policies(1).replace("name: p", "name: q")),
        ];
        let diagnostics = compile(&files).diagnostics;
        assert_eq!(bad_files(&diagnostics), ["a.yaml", "m.yaml"]);
        let errors = diagnostics.iter().filter(|held| held.severity == Severity::Error).count();
        assert!(errors <= DIAGNOSTICS_MAX + files.len() + 1, "{errors}");
        assert!(diagnostics.iter().any(|held| held.message.ends_with("more errors are not shown")));
    }
}
