//! Which text of each file is in force: a pure decision over what the source holds and what was good
//! before. A bad file keeps its own last good text and everything else applies. A new file that is bad
//! from the start is held out. Where that does not help (an error that comes from several files
//! together, such as a Service deleted under a route), nothing weaker is made up: the last good whole
//! stays, with those changes on top that are good by themselves. A file that is gone while a new one much
//! like it is bad was moved rather than deleted, and stays too.

use crate::source::Documents;
use crate::source::last_good::LastGood;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use weft_config::{Compilation, Diagnostic, Severity, SourceFile};

/// How many changed files are tried one by one; each try joins everything.
const TRIES_MAX: usize = 16;

/// How often files are replaced whose errors only showed when others had been. Each round joins everything, and
/// the next change waits meanwhile.
const ROUNDS_MAX: usize = 16;

/// What is to be served.
#[derive(Debug)]
pub struct Resolved {
    /// The files in force.
    pub files: Vec<SourceFile>,
    /// What they compile to.
    pub compilation: Compilation,
    /// The files that are not in force as they are.
    pub problems: Vec<FileProblem>,
}

/// A file that is not served as it is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct FileProblem {
    /// The file.
    pub file: String,
    /// What is in force in its place.
    pub fate: Fate,
    /// Why: errors, with the file's lines.
    pub diagnostics: Vec<Diagnostic>,
}

/// What is in force in place of a bad file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// What it said before.
    LastGood,
    /// Nothing: it is new.
    HeldOut,
}

/// Nothing can be served: only at a start.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub diagnostics: Vec<Diagnostic>,
    /// The files that they speak of.
    pub files: Vec<SourceFile>,
}

/// Decides. `starting`: nothing is served yet, so there is no state that a bad new file could be held
/// out of, and leaving it out may admit what it was written to deny. `compile`: as
/// [`weft_config::compile`] does, though it may remember what it read.
pub fn resolve(
    documents: &Documents,
    last_good: &LastGood,
    starting: bool,
    compile: &mut dyn FnMut(&[SourceFile]) -> Compilation,
) -> Result<Resolved, Refused> {
    let mut resolved = file_by_file(documents, last_good, starting, compile)?;
    keep_moved(&mut resolved, documents, last_good, compile);
    Ok(resolved)
}

fn file_by_file(
    documents: &Documents,
    last_good: &LastGood,
    starting: bool,
    compile: &mut dyn FnMut(&[SourceFile]) -> Compilation,
) -> Result<Resolved, Refused> {
    let mut problems: BTreeMap<String, FileProblem> = BTreeMap::new();
    let mut files: BTreeMap<&str, &str> =
        documents.files.iter().map(|file| (file.name.as_str(), file.text.as_str())).collect();
    for unreadable in &documents.unreadable {
        let said = diagnostic(&unreadable.name, format!("the file cannot be read: {}", unreadable.reason));
        substitute(&unreadable.name, vec![said], &mut files, last_good, &mut problems);
    }
    let mut rounds = 0;
    // Each round replaces at least one file or is the last.
    loop {
        rounds += 1;
        let chosen = collect(&files);
        let compilation = compile(&chosen);
        let mut bad: BTreeMap<String, Vec<Diagnostic>> = BTreeMap::new();
        for error in errors(&compilation) {
            bad.entry(error.file.clone()).or_default().push(error.clone());
        }
        if bad.is_empty() {
            let problems: Vec<_> = problems.into_values().collect();
            let new = problems.iter().any(|problem| problem.fate == Fate::HeldOut);
            if starting && new {
                return Err(refused(&problems, documents));
            }
            return Ok(Resolved { files: chosen, compilation, problems });
        }
        let mut progress = false;
        for (name, diagnostics) in &bad {
            progress |= substitute(name, diagnostics.clone(), &mut files, last_good, &mut problems);
        }
        if !progress || rounds >= ROUNDS_MAX {
            return from_last_good(documents, last_good, starting, compile, problems, bad);
        }
    }
}

/// Puts the last good text of a file in its place, or nothing; whether that changed anything.
fn substitute<'a>(
    name: &str,
    diagnostics: Vec<Diagnostic>,
    files: &mut BTreeMap<&'a str, &'a str>,
    last_good: &'a LastGood,
    problems: &mut BTreeMap<String, FileProblem>,
) -> bool {
    let held = last_good.get_key_value(name);
    if held.is_some() && files.get(name).copied() == held.map(|(_, text)| text) {
        // It is as it was when it was good: the fault is elsewhere.
        return false;
    }
    let fate = match held {
        Some((name, text)) => {
            files.insert(name, text);
            Fate::LastGood
        }
        None => {
            if files.remove(name).is_none() && problems.contains_key(name) {
                return false;
            }
            Fate::HeldOut
        }
    };
    let problem = FileProblem { file: name.to_owned(), fate, diagnostics };
    // The first diagnosis is that of the user's own text.
    problems.entry(name.to_owned()).or_insert(problem);
    true
}

/// The last good whole, and on top of it each change that is good by itself.
fn from_last_good(
    documents: &Documents,
    last_good: &LastGood,
    starting: bool,
    compile: &mut dyn FnMut(&[SourceFile]) -> Compilation,
    mut problems: BTreeMap<String, FileProblem>,
    bad: BTreeMap<String, Vec<Diagnostic>>,
) -> Result<Resolved, Refused> {
    for (file, diagnostics) in bad {
        problems.entry(file.clone()).or_insert(FileProblem { file, fate: Fate::LastGood, diagnostics });
    }
    let base = last_good.files();
    let mut compilation = compile(&base);
    if errors(&compilation).next().is_some() || (starting && base.is_empty()) {
        let problems: Vec<_> = problems.into_values().collect();
        return Err(refused(&problems, documents));
    }
    let mut files: BTreeMap<&str, &str> =
        base.iter().map(|file| (file.name.as_str(), file.text.as_str())).collect();
    let now: BTreeMap<&str, &str> =
        documents.files.iter().map(|file| (file.name.as_str(), file.text.as_str())).collect();
    let names: BTreeSet<&str> = files.keys().chain(now.keys()).copied().collect();
    let changed: Vec<&str> = names.into_iter().filter(|name| files.get(name) != now.get(name)).collect();
    for (tried, name) in changed.into_iter().enumerate() {
        if problems.get(name).is_some_and(|problem| problem.fate == Fate::HeldOut) {
            continue;
        }
        let mut candidate = files.clone();
        match now.get(name) {
            Some(text) => candidate.insert(name, text),
            None if documents.unreadable.iter().any(|file| file.name == name) => continue,
            None => candidate.remove(name),
        };
        let compiled = if tried < TRIES_MAX { compile(&collect(&candidate)) } else { Compilation::default() };
        let found: Vec<Diagnostic> = errors(&compiled).cloned().collect();
        if tried < TRIES_MAX && found.is_empty() {
            (files, compilation) = (candidate, compiled);
            continue;
        }
        let said = vec![diagnostic(
            name,
            match found.first() {
                Some(first) => format!(
                    "this change is held back, because with it {}:{} has an error: {}",
                    first.file, first.line, first.message
                ),
                None => "this change is held back until the errors in other files are repaired".to_owned(),
            },
        )];
        let fate = if last_good.get(name).is_some() { Fate::LastGood } else { Fate::HeldOut };
        problems.entry(name.to_owned()).or_insert(FileProblem {
            file: name.to_owned(),
            fate,
            diagnostics: said,
        });
    }
    let problems: Vec<_> = problems.into_values().collect();
    if starting && problems.iter().any(|problem| problem.fate == Fate::HeldOut) {
        return Err(refused(&problems, documents));
    }
    Ok(Resolved { files: collect(&files), compilation, problems })
}

/// Whoever moves a file and breaks it on the way has not deleted what it said.
fn keep_moved(
    resolved: &mut Resolved,
    documents: &Documents,
    last_good: &LastGood,
    compile: &mut dyn FnMut(&[SourceFile]) -> Compilation,
) {
    let now: BTreeMap<&str, &str> =
        documents.files.iter().map(|file| (file.name.as_str(), file.text.as_str())).collect();
    let new = resolved.problems.iter().filter(|problem| problem.fate == Fate::HeldOut);
    let new: Vec<String> = new.map(|problem| problem.file.clone()).collect();
    if new.is_empty() {
        return;
    }
    let there: HashSet<&str> = now.keys().copied().chain(unreadable(documents)).collect();
    let gone = last_good.files().into_iter().filter(|file| !there.contains(file.name.as_str()));
    for file in gone.take(TRIES_MAX) {
        // What cannot be read may say anything.
        let like = |name: &&String| now.get(name.as_str()).is_none_or(|text| is_like(&file.text, text));
        let Some(moved) = new.iter().find(like) else { continue };
        let message = format!(
            "the file is gone, and what it said stays in force: {moved}, which is new and may be what became \
             of it, has errors"
        );
        if resolved.files.contains(&file) {
            continue;
        }
        let name = file.name.clone();
        let mut candidate = resolved.files.clone();
        candidate.push(file);
        candidate.sort_by(|a, b| a.name.cmp(&b.name));
        let compilation = compile(&candidate);
        // What another file says by now was moved there.
        if errors(&compilation).next().is_none() {
            (resolved.files, resolved.compilation) = (candidate, compilation);
            let diagnostics = vec![diagnostic(&name, message)];
            resolved.problems.push(FileProblem { file: name, fate: Fate::LastGood, diagnostics });
        }
    }
    resolved.problems.sort_by(|a, b| a.file.cmp(&b.file));
}

fn unreadable(documents: &Documents) -> impl Iterator<Item = &str> {
    documents.unreadable.iter().map(|file| file.name.as_str())
}

/// Whether most of a text's lines are in another one.
fn is_like(text: &str, other: &str) -> bool {
    let lines = |text: &'_ str| -> Vec<String> {
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    };
    let (lines, others) = (lines(text), lines(other).into_iter().collect::<HashSet<_>>());
    2 * lines.iter().filter(|line| others.contains(*line)).count() > lines.len()
}

fn collect(files: &BTreeMap<&str, &str>) -> Vec<SourceFile> {
    files
        .iter()
        .map(|(name, text)| SourceFile { name: (*name).to_owned(), text: (*text).to_owned() })
        .collect()
}

fn errors(compilation: &Compilation) -> impl Iterator<Item = &Diagnostic> {
    compilation.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error)
}

fn refused(problems: &[FileProblem], documents: &Documents) -> Refused {
    Refused {
        diagnostics: problems.iter().flat_map(|problem| problem.diagnostics.clone()).collect(),
        files: documents.files.clone(),
    }
}

fn diagnostic(file: &str, message: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        file: file.to_owned(),
        line: 1,
        column: 1,
        path: String::new(),
        message,
        hint: None,
    }
}

#[cfg(test)]
mod tests;
