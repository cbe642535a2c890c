use super::*;
use crate::jwks::JwksSettings;
use std::path::PathBuf;
use weft_runtime::registry::Registry;

const WORKLOAD: &str = "apiVersion: weft.dev/v1alpha1\nkind: Workload\n\
    metadata: { name: cart-1, namespace: shop }\n\
    spec: { address: 127.0.1.1, ports: [{ name: http, port: 8080, protocol: http }] }\n";
const DENY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
    metadata: { name: deny, namespace: shop }\nspec: { action: DENY, rules: [{}] }\n";
const BOTH: [(&str, &str); 2] = [("deny.yaml", DENY), ("workload.yaml", WORKLOAD)];

struct Fixture {
    index: Index,
    registry: Registry,
    state: PathBuf,
    _temporary: tempfile::TempDir,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDirectory::open(&temporary.path().join("state")).unwrap());
        let registry = Registry::new("weft-control", "1").unwrap();
        let metrics = Arc::new(Metrics::new(&registry).unwrap());
        let keys = KeyStore::open(JwksSettings::default(), &state, metrics.clone()).unwrap();
        let last_good = LastGood::load(&state).unwrap();
        let resolved = resolve(&documents(files), &last_good, true, &mut weft_config::compile).unwrap();
        let trust_domain = resolved.compilation.mesh.config.trust_domain.clone();
        let trust = TrustBundle { trust_domain, roots: vec![vec![1]] };
        let index = Index::start(&state, resolved, trust, last_good, Arc::new(keys), metrics).unwrap();
        Self { index, registry, state: temporary.path().join("state"), _temporary: temporary }
    }

    fn apply(&mut self, files: &[(&str, &str)]) {
        let sources = Sources::default();
        self.index.apply(&documents(files), &mut Compiler::new(&sources));
    }

    /// This file of the state directory cannot be written: a directory is in its place.
    fn block(&self, name: &str) {
        let path = self.state.join(name);
        let _ = std::fs::remove_file(&path);
        std::fs::create_dir(path).unwrap();
    }

    fn unblock(&self, name: &str) {
        std::fs::remove_dir(self.state.join(name)).unwrap();
    }

    /// As soon as a failure has been waited out.
    fn later(&mut self) {
        self.index.write_again(self.index.retry);
    }

    fn denies(&self) -> bool {
        !self.index.snapshots.borrow().mesh().authorizations.is_empty()
    }

    fn generation(&self) -> u64 {
        let number = self.index.snapshots.borrow().generation().number;
        self.counted("generation", number);
        number
    }

    /// What is told, and counted for alarms just so.
    fn status(&self) -> Arc<SourceStatus> {
        let status = self.index.status.borrow().clone();
        self.counted("source_errors", status.errors());
        status
    }

    fn counted(&self, name: &str, value: impl std::fmt::Display) {
        let (line, text) = (format!("\nweft_control_{name} {value}\n"), self.registry.encode());
        assert!(text.contains(&line), "{line}{text}");
    }
}

fn documents(files: &[(&str, &str)]) -> Documents {
    let file = |(name, text): &(&str, &str)| SourceFile { name: (*name).into(), text: (*text).into() };
    Documents { files: files.iter().map(file).collect(), unreadable: Vec::new() }
}

#[test]
fn a_change_whose_generation_cannot_be_written_is_told_and_comes_into_force_when_it_can_be() {
    let mut fixture = Fixture::new(&BOTH[1..]);
    fixture.block("generation");
    fixture.apply(&BOTH);
    assert!(!fixture.denies());
    let said = fixture.status().unwritten.clone().unwrap();
    assert!(said.contains("nothing of the last change is in force"), "{said}");
    assert_eq!(fixture.status().errors(), 1, "it is counted for alarms");
    // What happens in between hides nothing of it, and brings nothing of it into force.
    let settled = fixture.status().settled;
    fixture.index.seen(true);
    fixture.index.filled = u64::MAX;
    fixture.index.refill(fixture.index.retry);
    fixture.later();
    assert!(!fixture.denies() && fixture.status().unwritten.is_some());
    assert_eq!(fixture.status().settled, settled);
    assert!(fixture.index.snapshots.borrow().files().iter().all(|file| file.name != "deny.yaml"));
    assert_eq!(fixture.index.last_good.get("deny.yaml"), None);

    fixture.unblock("generation");
    fixture.later();
    assert!(fixture.denies());
    assert_eq!((fixture.generation(), fixture.status().unwritten.clone()), (2, None));
    assert_eq!(fixture.index.last_good.get("deny.yaml"), Some(DENY));
}

#[test]
fn a_change_that_is_overtaken_while_it_cannot_be_written_never_comes_into_force() {
    let mut fixture = Fixture::new(&BOTH[1..]);
    fixture.block("generation");
    fixture.apply(&BOTH);
    // Taken back: that needs no new generation.
    fixture.apply(&BOTH[1..]);
    assert_eq!(fixture.status().unwritten, None);
    fixture.unblock("generation");
    fixture.later();
    assert!(!fixture.denies());
    assert_eq!(fixture.generation(), 1);
}

#[test]
fn last_good_files_that_cannot_be_written_are_told_and_written_later_and_hold_meanwhile() {
    let mut fixture = Fixture::new(&BOTH[1..]);
    fixture.block("last-good/deny.yaml");
    fixture.apply(&BOTH);
    assert!(fixture.denies());
    assert!(fixture.status().unwritten.as_ref().unwrap().contains("a restart"));
    // A text that turns bad leaves what was in force, not what lies on the disk.
    fixture.apply(&[("deny.yaml", "kind: ["), BOTH[1]]);
    assert!(fixture.denies());
    fixture.unblock("last-good/deny.yaml");
    fixture.later();
    assert_eq!(fixture.status().unwritten, None);
    assert_eq!(std::fs::read_to_string(fixture.state.join("last-good/deny.yaml")).unwrap(), DENY);
}
