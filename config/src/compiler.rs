//! Compiling again and again: what was read of a file is kept for as long as its text stays the same.
//!
//! Reading (text → tree → checked documents) depends on nothing but the file, and is most of the work;
//! joining all documents is always done anew and whole. So an edit costs the reading of the files it
//! touches, and what comes out cannot depend on what was compiled before: [`crate::compile`] is the
//! first compilation of a compiler that is thrown away.

use crate::arena::Arena;
use crate::case::Case;
use crate::document::{self, Tree};
use crate::report::{Problems, Report};
use crate::schema::{self, Documents};
use crate::{Compilation, SourceFile, compile};
use std::collections::HashMap;
use std::rc::Rc;

/// Where a [`Compiler`] keeps what it read. It only grows: see [`Compiler::is_wasteful`].
#[derive(Default)]
pub struct Sources<'a> {
    files: Arena<SourceFile>,
    trees: Arena<Tree<'a>>,
    reports: Arena<Report<'a>>,
}

/// Compiles, and remembers what was read.
pub struct Compiler<'a> {
    sources: &'a Sources<'a>,
    /// What the last compilation was made of, by name.
    held: HashMap<&'a str, Rc<Read<'a>>>,
    /// How many files were read.
    reads: u32,
    /// How many bytes of text were read.
    read: usize,
    /// How many of them the last compilation was made of.
    live: usize,
}

/// A file as it was read.
pub(crate) struct Read<'a> {
    /// Which of all that the compiler read: its places name it so.
    pub(crate) number: u32,
    pub(crate) file: &'a SourceFile,
    pub(crate) tree: &'a Tree<'a>,
    /// Of the text.
    pub(crate) flaws: Problems,
    /// Of the documents.
    pub(crate) problems: Problems,
    documents: Documents<'a>,
}

/// Text that is kept and no longer used may take as much room as what is used, and this many bytes.
const WASTE_MIN: usize = 16 * 1024 * 1024;

impl<'a> Compiler<'a> {
    /// Nothing is read yet.
    pub fn new(sources: &'a Sources<'a>) -> Self {
        Self { sources, held: HashMap::new(), reads: 0, read: 0, live: 0 }
    }

    /// Compiles all files together.
    pub fn compile(&mut self, files: &[SourceFile]) -> Compilation {
        let reads: Vec<Rc<Read<'a>>> = files.iter().map(|file| self.read(file)).collect();
        self.live = files.iter().map(|file| file.text.len()).sum();
        self.held = reads.iter().map(|read| (read.file.name.as_str(), read.clone())).collect();
        let report = Report::of_all(&reads, self.reads);
        let (mesh, cases) = {
            let mut documents = Documents::default();
            reads.iter().for_each(|read| documents.extend(&read.documents));
            let cases: Vec<Case> =
                documents.policy_tests.iter().flat_map(|test| test.spec.iter().cloned()).collect();
            (compile::mesh(&report, &documents), cases)
        };
        Compilation { mesh, cases, diagnostics: report.finish() }
    }

    /// Reads files that are going to be compiled.
    pub fn prepare(&mut self, files: &[SourceFile]) {
        for file in files {
            let read = self.read(file);
            self.held.insert(&read.file.name, read);
        }
        self.live = self.held.values().map(|read| read.file.text.len()).sum();
    }

    /// Whether so much of what was read is out of use that it is time for a new compiler.
    pub fn is_wasteful(&self) -> bool {
        self.read.saturating_sub(self.live) > WASTE_MIN.max(self.live) || self.reads > u32::MAX / 2
    }

    fn read(&mut self, file: &SourceFile) -> Rc<Read<'a>> {
        if let Some(held) = self.held.get(file.name.as_str()).filter(|held| held.file == file) {
            return held.clone();
        }
        let number = self.reads;
        self.reads += 1;
        self.read += file.text.len();
        let file = self.sources.files.keep(file.clone());
        let (tree, flaws) = document::walk(&file.text);
        let tree = self.sources.trees.keep(tree);
        let report = self.sources.reports.keep(Report::of_file(number, file, tree));
        flaws.into_iter().for_each(|flaw| report.flaw(number, flaw));
        let flaws = report.take();
        let documents = schema::read(report, number);
        Rc::new(Read { number, file, tree, flaws, problems: report.take(), documents })
    }
}
