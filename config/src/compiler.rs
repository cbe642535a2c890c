//! Compiling again and again: what was read of a file is kept for as long as its text stays the same.
//!
//! Reading (text → tree → checked documents) depends on nothing but the file, and is most of the work;
//! joining all documents is always done anew and whole. So an edit costs the reading of the files it
//! touches, and what comes out cannot depend on what was compiled before: [`crate::compile`] is the
//! first compilation of a compiler that is thrown away.

use crate::arena::Arena;
use crate::case::Case;
use crate::document::{self, Node, Tree};
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
    /// What the last compilations were made of, by name.
    held: HashMap<&'a str, Held<'a>>,
    /// How many compilations there were.
    compilations: u64,
    /// How many files were read.
    reads: u32,
    /// How much room all takes that was read.
    read: usize,
    /// How much of it what is held takes.
    live: usize,
}

/// The texts of one file that were used last, the newest first. While a file is bad, each change is compiled
/// with its bad text and then with its last good one.
struct Held<'a> {
    texts: [Option<Rc<Read<'a>>>; 2],
    /// In which compilation.
    used: u64,
}

/// How many compilations a file may have no part in until it is forgotten: more than one change can take.
const COMPILATIONS_UNUSED_MAX: u64 = 32;

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

/// What is kept and no longer used may take as much room as what is used, and this many bytes.
const WASTE_MIN: usize = 64 * 1024 * 1024;

/// About the room that a file takes beside what its text is made of.
const READ_SIZE: usize = 4096;

/// About the room that the checked documents take of each node that they were read from.
const CHECKED_NODE_SIZE: usize = 64;

impl<'a> Read<'a> {
    /// About the room that it takes in all.
    fn size(&self) -> usize {
        let node = size_of::<Node<'a>>() + CHECKED_NODE_SIZE;
        READ_SIZE + self.file.text.len() + self.tree.nodes.len() * node
    }
}

impl<'a> Held<'a> {
    fn find(&mut self, file: &SourceFile) -> Option<Rc<Read<'a>>> {
        let at = self.texts.iter().position(|text| text.as_ref().is_some_and(|read| read.file == file))?;
        self.texts[..=at].rotate_right(1);
        self.texts[0].clone()
    }

    fn put(&mut self, read: Rc<Read<'a>>) {
        self.texts.rotate_right(1);
        self.texts[0] = Some(read);
    }
}

impl<'a> Compiler<'a> {
    /// Nothing is read yet.
    pub fn new(sources: &'a Sources<'a>) -> Self {
        Self { sources, held: HashMap::new(), compilations: 0, reads: 0, read: 0, live: 0 }
    }

    /// Compiles all files together.
    pub fn compile(&mut self, files: &[SourceFile]) -> Compilation {
        self.compilations += 1;
        let reads: Vec<Rc<Read<'a>>> = files.iter().map(|file| self.read(file)).collect();
        let compilations = self.compilations;
        self.held.retain(|_, held| compilations - held.used <= COMPILATIONS_UNUSED_MAX);
        self.count();
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
            self.read(file);
        }
        self.count();
    }

    /// Whether so much of what was read is out of use that it is time for a new compiler.
    pub fn is_wasteful(&self) -> bool {
        self.read.saturating_sub(self.live) > WASTE_MIN.max(self.live) || self.reads > u32::MAX / 2
    }

    fn count(&mut self) {
        let texts = self.held.values().flat_map(|held| &held.texts).flatten();
        self.live = texts.map(|read| read.size()).sum();
    }

    fn read(&mut self, file: &SourceFile) -> Rc<Read<'a>> {
        if let Some(held) = self.held.get_mut(file.name.as_str()) {
            held.used = self.compilations;
            if let Some(read) = held.find(file) {
                return read;
            }
        }
        let read = Rc::new(self.read_anew(file));
        self.read += read.size();
        let new = || Held { texts: [None, None], used: self.compilations };
        self.held.entry(&read.file.name).or_insert_with(new).put(read.clone());
        read
    }

    fn read_anew(&mut self, file: &SourceFile) -> Read<'a> {
        let number = self.reads;
        self.reads += 1;
        let file = self.sources.files.keep(file.clone());
        let (tree, flaws) = document::walk(&file.text);
        let tree = self.sources.trees.keep(tree);
        let report = self.sources.reports.keep(Report::of_file(number, file, tree));
        flaws.into_iter().for_each(|flaw| report.flaw(number, flaw));
        let flaws = report.take();
        let documents = schema::read(report, number);
        Read { number, file, tree, flaws, problems: report.take(), documents }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> SourceFile {
        SourceFile { name: name.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn while_a_file_is_bad_neither_of_its_texts_is_read_again() {
        let sources = Sources::default();
        let mut compiler = Compiler::new(&sources);
        let (good, bad) = (file("a.yaml", "# good"), file("a.yaml", "kind: ["));
        let (new, other) = (file("b.yaml", "kind: ["), file("c.yaml", "# 0"));
        for number in 1..100 {
            let other = SourceFile { text: format!("# {number}"), ..other.clone() };
            // As resolving a change does: what is there, then what can be in force of it.
            compiler.compile(&[bad.clone(), new.clone(), other.clone()]);
            compiler.compile(&[good.clone(), other]);
            assert_eq!(compiler.reads, 3 + number, "only the file that changed is read");
        }
        // A third text takes the place of the one that was not used for longest.
        compiler.compile(&[file("a.yaml", "# better")]);
        compiler.compile(&[good]);
        assert_eq!(compiler.reads, 103);
        compiler.compile(&[bad]);
        assert_eq!(compiler.reads, 104);
    }

    #[test]
    fn what_is_out_of_use_is_waste_however_short_its_text() {
        let sources = Sources::default();
        let mut compiler = Compiler::new(&sources);
        let mut read = 0;
        // A text of few bytes takes the room of its nodes and of the file all the same.
        let text = |number: usize| format!("a: [{}]# {number}", "1,".repeat(2000));
        while !compiler.is_wasteful() {
            compiler.compile(&[file("a.yaml", &text(read))]);
            read += 1;
            assert!(read < 10_000, "it never ends");
        }
        assert!(read * text(0).len() < WASTE_MIN / 4, "{read}");
        // A file that is gone is not held for ever either.
        for number in 0..=COMPILATIONS_UNUSED_MAX {
            compiler.compile(&[file("b.yaml", &format!("# {number}"))]);
        }
        assert_eq!(compiler.held.len(), 1);
    }
}
