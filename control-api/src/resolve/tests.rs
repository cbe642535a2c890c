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
fn a_file_that_is_moved_and_broken_on_the_way_is_not_deleted() {
    let fixture = Fixture::new(&[("policy.yaml", POLICY), ("workload.yaml", WORKLOAD)]);
    let broken = POLICY.replace("action", "acton");
    let moved = [("security/policy.yaml", broken.as_str()), ("workload.yaml", WORKLOAD)];
    let resolved = fixture.resolve(&moved, false).unwrap();
    let told = [("policy.yaml", Fate::LastGood), ("security/policy.yaml", Fate::HeldOut)];
    assert_eq!(fates(&resolved), told);
    assert_eq!(resolved.compilation.mesh.authorizations.len(), 1, "the DENY stays");
    // So it does where nobody can say what the new file holds.
    let mut documents = documents(&[("workload.yaml", WORKLOAD)]);
    let reason = "permission denied".to_owned();
    documents.unreadable = vec![UnreadableFile { name: "security/policy.yaml".to_owned(), reason }];
    let resolved = resolve(&documents, &fixture.last_good, false, &mut weft_config::compile).unwrap();
    assert_eq!(fates(&resolved), told);
    assert_eq!(resolved.compilation.mesh.authorizations.len(), 1);
    // Once the new file is good, the old one is gone.
    let repaired = [("security/policy.yaml", POLICY), ("workload.yaml", WORKLOAD)];
    let resolved = fixture.resolve(&repaired, false).unwrap();
    assert!(resolved.problems.is_empty() && resolved.files.len() == 2);
    // What a third file says by now is not said twice.
    documents.files.push(SourceFile { name: "other.yaml".to_owned(), text: POLICY.to_owned() });
    let resolved = resolve(&documents, &fixture.last_good, false, &mut weft_config::compile).unwrap();
    assert_eq!(fates(&resolved), [("security/policy.yaml", Fate::HeldOut)]);
    assert_eq!(resolved.compilation.mesh.authorizations.len(), 1);
}

#[test]
fn a_file_that_is_deleted_while_another_new_one_is_bad_is_deleted() {
    let fixture = Fixture::new(&[("policy.yaml", POLICY), ("workload.yaml", WORKLOAD)]);
    let files = [("route.yaml", "kind: HTTPRoute\n"), ("workload.yaml", WORKLOAD)];
    let resolved = fixture.resolve(&files, false).unwrap();
    assert_eq!(fates(&resolved), [("route.yaml", Fate::HeldOut)]);
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

#[test]
fn errors_that_show_one_after_the_other_are_followed_for_so_long_and_then_all_stays_as_it_was() {
    // What each file said before, the next one says now: only as the one before goes back does it clash.
    let service = |number: usize| SERVICE.replace("name: cart", &format!("name: s{number}"));
    let names: Vec<String> = (0..60).map(|number| format!("{number:02}.yaml")).collect();
    let good: Vec<String> = (0..60).map(service).collect();
    let now: Vec<String> =
        (0..60).map(|number: usize| number.checked_sub(1).map_or(BROKEN.to_owned(), service)).collect();
    let pairs = |texts: &'_ [String]| -> Vec<(String, String)> {
        names.iter().cloned().zip(texts.iter().cloned()).collect()
    };
    let borrowed = |pairs: &[(String, String)]| -> Documents {
        documents(&pairs.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect::<Vec<_>>())
    };
    let mut fixture = Fixture::new(&[]);
    fixture.last_good.accept(&borrowed(&pairs(&good)).files).unwrap();
    let mut compilations = 0;
    let mut compile = |files: &[SourceFile]| {
        compilations += 1;
        weft_config::compile(files)
    };
    let resolved = resolve(&borrowed(&pairs(&now)), &fixture.last_good, false, &mut compile).unwrap();
    assert_eq!(resolved.files, fixture.last_good.files());
    assert_eq!(resolved.problems.len(), 60);
    assert!(compilations <= ROUNDS_MAX + TRIES_MAX + 1, "{compilations}");
}
