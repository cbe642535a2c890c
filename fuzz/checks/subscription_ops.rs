//! The two halves of the discovery protocol against each other: the control API's subscription and the
//! proxy's, over a stream that may break at any moment, while the mesh changes and names are asked for.
//!
//! Each byte of the input is one step. Whatever the steps were, when both sides have said all they have to
//! say the proxy must hold exactly what the newest snapshot means for it, and the control API must know so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use weft_config::{SourceFile, compile};
use weft_control::ca::root::Root;
use weft_control::discovery::scope;
use weft_control::discovery::subscription::Subscription as Server;
use weft_control::snapshot::Snapshot;
use weft_control::snapshot::generation::GenerationCounter;
use weft_control::state::StateDirectory;
use weft_model::names::WorkloadUid;
use weft_model::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_model::trust::TrustBundle;
use weft_model::wire::Kind;
use weft_proxy::control::apply::Store;
use weft_proxy::control::subscription::{Holdings, Subscription as Client};
use weft_proxy::policy::{Asked, Resolution};

const SELF: &str = "shop/web-1";

/// What the proxy's application may call: some of it always there, some at times, some never.
const ASKED: [&str; 8] = [
    "shop/catalog",
    "shop/catalog-v1",
    "shop/cart",
    "shop/nobody",
    "@10.0.0.1:80",
    "@10.1.0.2:8080",
    "@10.1.0.9:8080",
    "other/catalog",
];

/// How many states the mesh goes through.
const STATES: u32 = 64;

static SNAPSHOTS: LazyLock<Vec<Arc<Snapshot>>> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("weft-fuzz-{}", std::process::id()));
    let state = Arc::new(StateDirectory::open(&directory).expect("a temporary directory must be usable"));
    let mut counter = GenerationCounter::load(state.clone()).expect("a new state directory must load");
    let mut snapshots: Vec<Arc<Snapshot>> = Vec::new();
    for number in 0..STATES {
        let text = mesh(number.wrapping_mul(0x9e37_79b9).rotate_left(number));
        let compilation = compile(&[SourceFile { name: "mesh.yaml".to_owned(), text }]);
        assert!(!compilation.has_errors(), "{:?}", compilation.diagnostics);
        let trust_domain = compilation.mesh.config.trust_domain.clone();
        let root = Root::load_or_create(&state, &trust_domain).expect("a root must be made");
        let roots = root.certificates().iter().map(|root| root.to_vec()).collect();
        let trust = Arc::new(TrustBundle { trust_domain, roots });
        let previous = snapshots.last().map(|held| &**held);
        let built = Snapshot::build(compilation.mesh, &trust, &mut counter, previous);
        snapshots.push(Arc::new(built.expect("a mesh must encode")));
    }
    let _ = std::fs::remove_dir_all(directory);
    snapshots
});

/// A mesh in which each bit is something that may be there or not.
fn mesh(bits: u32) -> String {
    let has = |bit: u32| bits & (1 << bit) != 0;
    let mut documents = Vec::new();
    let mut workload = |name: &str, address: &str, app: &str| {
        documents.push(format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\n\
             spec: {{address: {address}, serviceAccount: {app}, ports: [{{name: http, port: 8080}}]}}\n"
        ));
    };
    workload("web-1", "10.1.0.1", "web");
    workload("catalog-1", "10.1.0.2", "catalog");
    if has(0) {
        workload("catalog-2", "10.1.0.3", "catalog");
    }
    if has(1) {
        workload("cart-1", "10.1.0.4", "cart");
    }
    let mut service = |name: &str, app: &str, address: &str| {
        documents.push(format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{{address}selector: {{app: {app}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n"
        ));
    };
    service("catalog", "catalog", if has(2) { "clusterIP: 10.0.0.1, " } else { "" });
    service("catalog-v1", "catalog", "");
    if has(3) {
        service("cart", "cart", "");
    }
    if has(4) {
        let weight = 1 + (bits >> 16) % 3;
        let backend = if has(5) { "catalog-v1" } else { "cart" };
        documents.push(format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: split, namespace: shop}}\n\
             spec: {{parentRefs: [{{kind: Service, group: \"\", name: catalog}}], rules: [{{backendRefs: [\
             {{name: {backend}, port: 80, weight: {weight}}}, {{name: catalog, port: 80}}]}}]}}\n"
        ));
    }
    for (bit, app) in [(6, "web"), (7, "cart")] {
        if has(bit) {
            let method = if has(8) { "GET" } else { "PUT" };
            documents.push(format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: to-{app}, namespace: shop}}\n\
                 spec: {{selector: {{matchLabels: {{app: {app}}}}}, rules: [{{to: [{{operation: {{methods: [{method}]}}}}]}}]}}\n"
            ));
        }
    }
    if has(9) {
        documents.push(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\n\
             spec: {mtls: {mode: PERMISSIVE}}\n"
                .to_owned(),
        );
    }
    documents.join("---\n")
}

struct World {
    now: Instant,
    state: usize,
    server: Server,
    client: Client,
    store: Store,
    /// The newest policy that the proxy published.
    known: BTreeMap<String, Option<String>>,
    to_server: VecDeque<DeltaDiscoveryRequest>,
    to_client: VecDeque<DeltaDiscoveryResponse>,
}

impl World {
    fn new() -> Self {
        let uid: WorkloadUid = SELF.parse().expect("a constant must parse");
        let now = Instant::now();
        let mut world = Self {
            now,
            state: 0,
            server: Server::new(uid.clone(), SNAPSHOTS[0].clone(), now),
            client: Client::new(SELF.to_owned()),
            store: Store::new(uid, "shop".parse().expect("a constant must parse")),
            known: BTreeMap::new(),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
        };
        world.connect();
        world
    }

    /// A new stream. What was under way on the old one is lost.
    fn connect(&mut self) {
        self.to_server.clear();
        self.to_client.clear();
        self.client.closed();
        self.store.discard_staged();
        let uid = SELF.parse().expect("a constant must parse");
        self.server = Server::new(uid, SNAPSHOTS[self.state].clone(), self.now);
        self.to_server.extend(self.client.open(&self.store));
    }

    fn edit(&mut self, steps: usize) {
        self.state = (self.state + steps).min(SNAPSHOTS.len() - 1);
        self.server.on_snapshot(SNAPSHOTS[self.state].clone());
    }

    fn ask(&mut self, name: &str) {
        let asked = match name.strip_prefix('@') {
            Some(address) => Asked::Address(address.parse().expect("a constant must parse")),
            None => Asked::Service(name.parse().expect("a constant must parse")),
        };
        let names = self.store.ask(&asked);
        self.to_server.extend(self.client.ask(names, &self.store));
    }

    fn server_sends(&mut self) -> bool {
        self.now += Duration::from_millis(300);
        let responses = self.server.poll(self.now);
        let any = !responses.is_empty();
        self.to_client.extend(responses);
        any
    }

    fn server_hears(&mut self) -> bool {
        let Some(request) = self.to_server.pop_front() else { return false };
        let told = self.server.on_request(&request).expect("our proxy must keep to the protocol");
        assert!(told.refused.is_empty(), "nothing here is to be refused: {:?}", told.refused);
        true
    }

    fn client_hears(&mut self) -> bool {
        let Some(response) = self.to_client.pop_front() else { return false };
        let batch = self.client.receive(response).expect("our control API must send known types");
        let (kind, nonce) = (batch.kind, batch.nonce.clone());
        let effect = self.store.receive(batch);
        assert!(effect.refused.is_empty(), "nothing here is to be refused: {:?}", effect.refused);
        if let Some(policy) = effect.policy {
            let known = policy.destinations.iter().map(|(asked, resolution)| {
                let name = match resolution {
                    Resolution::Known(destination) => Some(destination.name.to_string()),
                    Resolution::Absent => None,
                };
                (asked.wire_name(), name)
            });
            self.known = known.collect();
        }
        self.to_server.push_back(self.client.answer(kind, nonce, &effect.refused));
        true
    }

    /// Lets both sides say all they have to say, then compares.
    fn settle(&mut self) {
        let mut rounds = 0;
        while self.server_hears() || self.client_hears() || self.server_sends() {
            rounds += 1;
            assert!(rounds < 10_000, "the two sides must come to an end");
        }
        assert!(self.server.is_current());
        let snapshot = &SNAPSHOTS[self.state];
        // A proxy for which nothing changed counts as current without a message, under its old number.
        assert_eq!(self.server.enforced(), Some(snapshot.generation()));
        assert!(self.store.generation().is_some_and(|held| held.number <= snapshot.generation().number));
        let asked: Vec<Box<str>> = self.store.names().map(|name| name.as_str().into()).collect();
        let uid = SELF.parse().expect("a constant must parse");
        let wanted = scope::wanted(&uid, &asked, snapshot);
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Generation) {
            let meant = wanted.names[kind as usize].iter().filter_map(|name| {
                let encoded = snapshot.get(kind, name.as_str())?;
                Some((name.to_string(), encoded.version.to_string()))
            });
            assert_eq!(self.store.versions(kind), meant.collect::<BTreeMap<_, _>>(), "{kind:?}");
        }
        for name in &asked {
            let meant = scope::resolve(name, snapshot).map(ToString::to_string);
            assert_eq!(self.known.get(&**name), Some(&meant), "{name}");
        }
    }
}

/// Whether the input says something.
pub(crate) fn check(steps: &[u8]) -> bool {
    let mut world = World::new();
    for step in steps.iter().take(256) {
        let argument = usize::from(step >> 3);
        match step & 7 {
            0 => world.edit(1 + argument % 3),
            1 | 2 => drop(world.server_sends()),
            3 => drop(world.server_hears()),
            4 => drop(world.client_hears()),
            5 => world.ask(ASKED[argument % ASKED.len()]),
            6 if argument == 0 => world.connect(),
            6 => drop(world.client_hears()),
            _ if argument == 0 => world.settle(),
            _ => drop(world.server_hears()),
        }
    }
    world.settle();
    true
}
