//! Which text of each file is in force: a pure decision over what the source holds and what was good
//! before. A bad file keeps its own last good text and everything else applies. A new file that is bad
//! from the start is held out. Where that does not help (an error that comes from several files
//! together, such as a Service deleted under a route), nothing weaker is made up: the last good whole
//! stays, with those changes on top that are good by themselves.

use crate::source::Documents;
use crate::source::last_good::LastGood;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use weft_config::{Compilation, Diagnostic, Severity, SourceFile};

/// How many changed files are tried one by one; each try joins everything.
const TRIES_MAX: usize = 16;

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
    let mut problems: BTreeMap<String, FileProblem> = BTreeMap::new();
    let mut files: BTreeMap<&str, &str> =
        documents.files.iter().map(|file| (file.name.as_str(), file.text.as_str())).collect();
    for unreadable in &documents.unreadable {
        let said = diagnostic(&unreadable.name, format!("the file cannot be read: {}", unreadable.reason));
        substitute(&unreadable.name, vec![said], &mut files, last_good, &mut problems);
    }
    // Each round replaces at least one file or is the last.
    loop {
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
        if !progress {
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
mod tests {
    use super::*;
    use crate::source::UnreadableFile;
    use crate::state::StateDirectory;

    const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
        metadata: { name: deny, namespace: shop }\nspec: { action: DENY, rules: [{}] }\n";
    const WORKLOAD: &str = "apiVersion: weft.dev/v1alpha1\nkind: Workload\n\
        metadata: { name: cart-1, namespace: shop }\n\
        spec: { address: 127.0.1.1, ports: [{ name: http, port: 8080, protocol: http }] }\n";
    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: cart, namespace: shop }\n\
        spec: { selector: { app: cart }, ports: [{ name: http, port: 80 }] }\n";
    const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
        metadata: { name: cart, namespace: shop }\nspec:\n  \
        parentRefs: [{ kind: Service, group: '', name: cart, port: 80 }]\n  \
        rules: [{ backendRefs: [{ name: cart, port: 80 }] }]\n";
    const BROKEN: &str = "kind: [\n";

    struct Fixture {
        last_good: LastGood,
        _temporary: tempfile::TempDir,
    }

    impl Fixture {
        fn new(good: &[(&str, &str)]) -> Self {
            let temporary = tempfile::tempdir().unwrap();
            let state = StateDirectory::open(temporary.path()).unwrap();
            let mut last_good = LastGood::load(&state).unwrap();
            last_good.accept(&documents(good).files).unwrap();
            Self { last_good, _temporary: temporary }
        }

        fn resolve(&self, files: &[(&str, &str)], starting: bool) -> Result<Resolved, Refused> {
            resolve(&documents(files), &self.last_good, starting, &mut weft_config::compile)
        }
    }

    fn documents(files: &[(&str, &str)]) -> Documents {
        let file = |(name, text): &(&str, &str)| SourceFile { name: (*name).into(), text: (*text).into() };
        Documents { files: files.iter().map(file).collect(), unreadable: Vec::new() }
    }

    fn fates(resolved: &Resolved) -> Vec<(&str, Fate)> {
        resolved.problems.iter().map(|problem| (problem.file.as_str(), problem.fate)).collect()
    }

    #[test]
    fn good_files_are_in_force_as_they_are() {
        let resolved = Fixture::new(&[]).resolve(&[("a.yaml", WORKLOAD), ("b.yaml", POLICY)], true).unwrap();
        assert!(resolved.problems.is_empty());
        assert_eq!(resolved.compilation.mesh.authorizations.len(), 1);
    }

    #[test]
    fn a_bad_file_keeps_its_last_good_and_all_else_applies() {
        let fixture = Fixture::new(&[("policy.yaml", POLICY)]);
        let files = [("policy.yaml", BROKEN), ("workload.yaml", WORKLOAD)];
        for starting in [false, true] {
            let resolved = fixture.resolve(&files, starting).unwrap();
            assert_eq!(fates(&resolved), [("policy.yaml", Fate::LastGood)]);
            assert!(!resolved.problems[0].diagnostics.is_empty());
            assert_eq!(resolved.compilation.mesh.authorizations.len(), 1, "the DENY stays");
            assert_eq!(resolved.compilation.mesh.workloads.len(), 1, "the new file applies");
        }
    }

    #[test]
    fn a_new_bad_file_is_held_out_while_running_and_refuses_the_start() {
        let fixture = Fixture::new(&[("workload.yaml", WORKLOAD)]);
        let files = [("policy.yaml", BROKEN), ("workload.yaml", WORKLOAD)];
        let resolved = fixture.resolve(&files, false).unwrap();
        assert_eq!(fates(&resolved), [("policy.yaml", Fate::HeldOut)]);
        assert_eq!(resolved.compilation.mesh.workloads.len(), 1);
        let refused = fixture.resolve(&files, true).unwrap_err();
        assert_eq!(refused.diagnostics[0].file, "policy.yaml");
    }

    #[test]
    fn a_deleted_file_is_deleted() {
        let fixture = Fixture::new(&[("policy.yaml", POLICY), ("workload.yaml", WORKLOAD)]);
        let resolved = fixture.resolve(&[("workload.yaml", WORKLOAD)], false).unwrap();
        assert!(resolved.problems.is_empty());
        assert!(resolved.compilation.mesh.authorizations.is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_bad_file() {
        let fixture = Fixture::new(&[("policy.yaml", POLICY)]);
        let mut documents = documents(&[("workload.yaml", WORKLOAD)]);
        documents.unreadable =
            vec![UnreadableFile { name: "policy.yaml".to_owned(), reason: "permission denied".to_owned() }];
        let resolved = resolve(&documents, &fixture.last_good, true, &mut weft_config::compile).unwrap();
        assert_eq!(fates(&resolved), [("policy.yaml", Fate::LastGood)]);
        assert!(resolved.problems[0].diagnostics[0].message.contains("permission denied"));
        assert_eq!(resolved.compilation.mesh.authorizations.len(), 1);
        documents.unreadable[0].name = "other.yaml".to_owned();
        assert!(resolve(&documents, &fixture.last_good, true, &mut weft_config::compile).is_err());
    }

    #[test]
    fn a_change_that_breaks_another_file_is_held_back_and_nothing_weaker_is_made_up() {
        let deny_and_route = format!("{ROUTE}---\n{POLICY}");
        let fixture = Fixture::new(&[("mixed.yaml", &deny_and_route), ("service.yaml", SERVICE)]);
        // The Service goes, and the route in the other file has no parent any more.
        let files = [("mixed.yaml", deny_and_route.as_str()), ("workload.yaml", WORKLOAD)];
        for starting in [false, true] {
            let outcome = fixture.resolve(&files, starting);
            let resolved = outcome.unwrap();
            let mesh = &resolved.compilation.mesh;
            assert_eq!(mesh.authorizations.len(), 1, "the DENY beside the route stays");
            assert_eq!(mesh.routes.len(), 1);
            assert!(mesh.services.contains_key("shop/cart"), "the deletion is held back");
            assert_eq!(mesh.workloads.len(), 1, "a change that is good by itself applies");
            assert!(fates(&resolved).contains(&("service.yaml", Fate::LastGood)), "{:?}", resolved.problems);
        }
        // Both in one change are fine.
        let resolved = fixture.resolve(&[("mixed.yaml", POLICY)], false).unwrap();
        assert!(resolved.problems.is_empty());
    }
}
