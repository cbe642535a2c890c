use super::apply::{Effect, Store};
use super::last_good::LastGood;
use super::subscription::{Batch, Holdings, Incoming};
use crate::policy::{Asked, Destination, DestinationPort, Policy, Resolution};
use crate::state::StateDirectory;
use crate::tls::testing::Authority;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use weft_model::authentication::TlsMode;
use weft_model::authorization::{Action, Authorization, Facts, Provenance, Rule, Verdict};
use weft_model::endpoints::{Endpoint, Endpoints, Health, Wire};
use weft_model::mesh::{Generation, MeshConfig};
use weft_model::names::{ResourceName, ServiceName, WorkloadUid};
use weft_model::proto::v1;
use weft_model::request::ConnectionFacts;
use weft_model::route::{Backend, PathMatch, Route, RouteMatch, RouteRule};
use weft_model::service::{Protocol, Service, ServicePort, ServiceTarget};
use weft_model::traffic::{Algorithm, LoadBalancing, Traffic, TrafficKind, TrafficPolicy};
use weft_model::wire::{Kind, Resource};
use weft_model::workload::{Description, Workload, WorkloadPort};

mod last_good;
mod questions;
mod traffic;

fn store() -> Store {
    Store::new("shop/cart-1".parse().unwrap(), "shop".parse().unwrap())
}

fn name(text: &str) -> ResourceName {
    text.parse().unwrap()
}

fn incoming(resource: &Resource, version: &str) -> Incoming {
    Incoming {
        name: resource.name().to_string(),
        version: version.to_owned(),
        aliases: Vec::new(),
        type_url: resource.kind().type_url().to_owned(),
        value: resource.encode().into(),
    }
}

/// An incoming resource of bytes that are as given.
fn raw(kind: Kind, name: &str, version: &str, value: Vec<u8>) -> Incoming {
    Incoming {
        name: name.to_owned(),
        version: version.to_owned(),
        aliases: Vec::new(),
        type_url: kind.type_url().to_owned(),
        value: value.into(),
    }
}

fn batch(kind: Kind, resources: Vec<Incoming>) -> Batch {
    Batch { kind, nonce: "n".to_owned(), resources, removed: Vec::new() }
}

fn removal(kind: Kind, name: &str) -> Batch {
    Batch { kind, nonce: "n".to_owned(), resources: Vec::new(), removed: vec![name.to_owned()] }
}

fn put(store: &mut Store, resource: &Resource, version: &str) -> Effect {
    store.receive(batch(resource.kind(), vec![incoming(resource, version)]))
}

fn commit(store: &mut Store, number: u64) -> Policy {
    let generation = Resource::Generation(Arc::new(Generation { epoch: "e".into(), number }));
    let effect = put(store, &generation, &number.to_string());
    assert!(effect.committed);
    effect.policy.unwrap()
}

fn config() -> Resource {
    Resource::MeshConfig(Arc::new(MeshConfig::default()))
}

fn workload(authorizations: &[&str], requests: &[&str]) -> Resource {
    let names = |all: &[&str]| all.iter().map(|text| name(text)).collect();
    Resource::Workload(Arc::new(Workload {
        uid: "shop/cart-1".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        service_account: "cart".parse().unwrap(),
        trust_domain: "cluster.local".parse().unwrap(),
        description: Description {
            namespace: "shop".into(),
            service_account: "cart".into(),
            ..Description::default()
        },
        addresses: vec!["127.0.1.1".parse().unwrap()],
        ports: vec![WorkloadPort {
            port: 8080,
            protocol: Protocol::Http,
            services: Vec::new(),
            traffic_policies: Vec::new(),
        }],
        authorizations: names(authorizations),
        peer_authentications: Vec::new(),
        request_authentications: names(requests),
        zone: "".into(),
        probes: Vec::new(),
    }))
}

fn authorization(name: &str, action: Action) -> Resource {
    Resource::Authorization(Arc::new(Authorization {
        namespace: "shop".parse().unwrap(),
        name: name.parse().unwrap(),
        action,
        dry_run: false,
        provider: None,
        rules: vec![Rule::default()],
        provenance: Provenance::default(),
    }))
}

fn service(text: &str, routes: &[&str]) -> Resource {
    let service: ServiceName = text.parse().unwrap();
    Resource::Service(Arc::new(Service {
        target: ServiceTarget::Service(service),
        addresses: Vec::new(),
        ports: vec![ServicePort {
            port: 80,
            protocol: Protocol::Http,
            name: "http".into(),
            routes: routes.iter().map(|text| name(text)).collect(),
        }],
        traffic_policies: Vec::new(),
    }))
}

fn route(text: &str, backends: &[&str]) -> Resource {
    let (namespace, name) = text.split_once('/').unwrap();
    Resource::Route(Arc::new(Route {
        kind: weft_model::route::RouteKind::Http,
        namespace: namespace.parse().unwrap(),
        name: name.parse().unwrap(),
        created: None,
        server_names: Vec::new(),
        rules: vec![RouteRule {
            name: "".into(),
            matches: vec![RouteMatch {
                path: PathMatch::prefix("/"),
                headers: Vec::new(),
                queries: Vec::new(),
                method: None,
            }],
            filters: Vec::new(),
            backends: backends
                .iter()
                .map(|service| Backend {
                    service: Some((service.parse().unwrap(), 80)),
                    weight: 1,
                    filters: Vec::new(),
                })
                .collect(),
            request_timeout: None,
            backend_request_timeout: None,
            retry: None,
            session: None,
            provenance: Provenance::default(),
        }],
        provenance: Provenance::default(),
    }))
}

fn endpoints(service: &str, slice: u32, last_bytes: &[u8]) -> Resource {
    let endpoint = |last: &u8| Endpoint {
        uid: format!("shop/pod-{last}").parse().unwrap(),
        address: format!("10.0.0.{last}:80").parse().unwrap(),
        wire: Wire::Weft("spiffe://cluster.local/ns/shop/sa/catalog".parse().unwrap()),
        weight: 1,
        zone: "".into(),
        health: Health::Ready,
        description: Arc::new(Description::default()),
    };
    Resource::Endpoints(Arc::new(Endpoints {
        target: ServiceTarget::Service(service.parse().unwrap()),
        port: 80,
        slice,
        endpoints: last_bytes.iter().map(endpoint).collect(),
    }))
}

fn by_name(text: &str) -> Asked {
    Asked::Service(text.parse().unwrap())
}

fn known(policy: &Policy, asked: &Asked) -> Arc<Destination> {
    match policy.destinations.get(asked) {
        Some(Resolution::Known(destination)) => destination.clone(),
        other => panic!("{asked:?} is {other:?}"),
    }
}

fn port(policy: &Policy, service: &str) -> Arc<DestinationPort> {
    known(policy, &by_name(service)).port(80).unwrap().clone()
}

/// What the own policies say to anybody.
fn verdict(policy: &Policy) -> String {
    let connection = ConnectionFacts {
        source: None,
        source_address: "10.0.0.9".parse().unwrap(),
        original_address: None,
        destination: "127.0.1.1:8080".parse().unwrap(),
        sni: None,
    };
    match policy.own.authorization.decide(&Facts { connection, http: None }) {
        Verdict::Allowed(_) => "allowed".to_owned(),
        Verdict::Denied(decider) => format!("denied by {}", decider.policy.name),
        Verdict::NotAllowed => "not allowed".to_owned(),
        Verdict::Unresolved(name) => format!("unresolved {name}"),
    }
}

#[test]
fn nothing_holds_before_its_generation() {
    let mut store = store();
    assert!(put(&mut store, &config(), "1").policy.is_none());
    assert!(put(&mut store, &workload(&[], &[]), "1").policy.is_none());
    assert!(!store.is_complete());
    let policy = commit(&mut store, 7);
    assert!(store.is_complete());
    assert_eq!(policy.generation.unwrap().to_string(), "e.7");
    assert_eq!(policy.own.workload.as_ref().unwrap().uid.as_str(), "shop/cart-1");
}

#[test]
fn what_a_lost_stream_had_staged_is_forgotten() {
    let mut store = store();
    put(&mut store, &config(), "1");
    put(&mut store, &workload(&[], &[]), "1");
    store.discard_staged();
    assert!(store.versions(Kind::Workload).is_empty());
    let policy = commit(&mut store, 1);
    assert!(policy.own.workload.is_none());
    assert!(!store.is_complete());
}

#[test]
fn a_named_policy_that_is_not_held_denies_until_it_is() {
    let mut store = store();
    put(&mut store, &config(), "1");
    put(&mut store, &workload(&["AuthorizationPolicy/shop/a"], &[]), "1");
    assert_eq!(verdict(&commit(&mut store, 1)), "unresolved AuthorizationPolicy/shop/a");
    put(&mut store, &authorization("a", Action::Allow), "1");
    assert_eq!(verdict(&commit(&mut store, 2)), "allowed");
    store.receive(removal(Kind::Authorization, "AuthorizationPolicy/shop/a"));
    assert_eq!(verdict(&commit(&mut store, 3)), "unresolved AuthorizationPolicy/shop/a");
}

#[test]
fn a_named_request_authentication_that_is_not_held_is_known_to_be_missing() {
    let mut store = store();
    put(&mut store, &config(), "1");
    put(&mut store, &workload(&[], &["RequestAuthentication/shop/jwt"]), "1");
    let policy = commit(&mut store, 1);
    let missing = policy.own.tokens.unresolved().map(|name| name.as_str().to_owned());
    assert_eq!(missing.as_deref(), Some("RequestAuthentication/shop/jwt"));
    assert!(!policy.own.tokens.is_empty(), "a set with a hole is not an empty one");
}

#[test]
fn without_the_meshs_configuration_everything_is_denied_and_strict() {
    let mut store = store();
    put(&mut store, &workload(&[], &[]), "1");
    let policy = commit(&mut store, 1);
    assert_eq!(verdict(&policy), "unresolved mesh");
    assert_eq!(policy.own.tls.of_port(8080), TlsMode::Strict);
    put(&mut store, &config(), "1");
    assert_eq!(verdict(&commit(&mut store, 2)), "allowed");
}

fn with_policy() -> Store {
    let mut store = store();
    put(&mut store, &config(), "1");
    put(&mut store, &workload(&["AuthorizationPolicy/shop/a"], &[]), "1");
    put(&mut store, &authorization("a", Action::Allow), "1");
    assert_eq!(verdict(&commit(&mut store, 1)), "allowed");
    store
}

fn authorization_message(change: impl FnOnce(&mut v1::Authorization)) -> Vec<u8> {
    let bytes = authorization("a", Action::Deny).encode();
    let mut message = v1::Authorization::decode(&bytes[..]).unwrap();
    change(&mut message);
    message.encode_to_vec()
}

#[test]
fn a_wrong_policy_is_refused_by_name_and_the_last_good_one_and_all_else_holds() {
    let mut store = with_policy();
    let wrong = authorization_message(|message| message.namespace = "not a namespace".to_owned());
    let good = incoming(&authorization("b", Action::Allow), "1");
    let wrong = raw(Kind::Authorization, "AuthorizationPolicy/shop/a", "2", wrong);
    let effect = store.receive(batch(Kind::Authorization, vec![wrong, good]));
    assert_eq!(effect.refused.len(), 1);
    assert_eq!(effect.refused[0].name, "AuthorizationPolicy/shop/a");
    assert!(effect.refused[0].reason.starts_with("invalid: "), "{}", effect.refused[0].reason);
    assert_eq!(verdict(&commit(&mut store, 2)), "allowed");
    // What is said to be held is what is held, so that the next stream is sent the refused one anew.
    let versions = store.versions(Kind::Authorization);
    assert_eq!(versions["AuthorizationPolicy/shop/a"], "1");
    assert_eq!(versions["AuthorizationPolicy/shop/b"], "1");
}

#[test]
fn a_policy_that_is_not_understood_denies_and_is_not_said_to_be_held() {
    for change in [
        (|message: &mut v1::Authorization| message.needs_level = 99) as fn(&mut v1::Authorization),
        |message| message.action = 42,
        |message| message.action = 0,
        |message| message.needs_level = 0,
    ] {
        let mut store = with_policy();
        let value = authorization_message(change);
        let effect = store.receive(batch(
            Kind::Authorization,
            vec![raw(Kind::Authorization, "AuthorizationPolicy/shop/a", "2", value)],
        ));
        assert!(effect.refused[0].reason.starts_with("not understood: "), "{}", effect.refused[0].reason);
        assert_eq!(verdict(&commit(&mut store, 2)), "unresolved AuthorizationPolicy/shop/a");
        assert!(store.versions(Kind::Authorization).is_empty());
        assert_eq!(store.not_understood(), 1);
        // The version before comes back: understood again.
        put(&mut store, &authorization("a", Action::Allow), "1");
        assert_eq!(verdict(&commit(&mut store, 3)), "allowed");
        assert_eq!(store.not_understood(), 0);
    }
}

#[test]
fn a_change_that_is_taken_back_before_its_generation_never_was() {
    let mut store = with_policy();
    put(&mut store, &authorization("a", Action::Deny), "2");
    put(&mut store, &authorization("a", Action::Allow), "1");
    assert_eq!(verdict(&commit(&mut store, 2)), "allowed");
}

#[test]
fn resources_under_a_wrong_name_or_type_and_other_workloads_are_refused() {
    let mut store = with_policy();
    let a = authorization("a", Action::Deny);
    let wrong_name = Incoming { name: "AuthorizationPolicy/shop/z".to_owned(), ..incoming(&a, "2") };
    let wrong_type = Incoming { type_url: Kind::Route.type_url().to_owned(), ..incoming(&a, "2") };
    let no_name = Incoming { name: String::new(), ..incoming(&a, "2") };
    let garbage = raw(Kind::Authorization, "AuthorizationPolicy/shop/a", "2", vec![0xff; 9]);
    let effect = store.receive(batch(Kind::Authorization, vec![wrong_name, wrong_type, no_name, garbage]));
    assert_eq!(effect.refused.len(), 4);
    let Resource::Workload(own) = workload(&[], &[]) else { unreachable!() };
    let other =
        Resource::Workload(Arc::new(Workload { uid: "shop/web-1".parse().unwrap(), ..(*own).clone() }));
    assert_eq!(put(&mut store, &other, "1").refused.len(), 1);
    assert_eq!(verdict(&commit(&mut store, 2)), "allowed");
}

#[test]
fn the_same_values_are_the_same_pointers_through_every_commit() {
    let mut store = with_policy();
    store.ask(&by_name("shop/catalog"));
    put(&mut store, &endpoints("shop/catalog", 0, &[1, 2]), "1");
    put(&mut store, &service("shop/catalog", &["HTTPRoute/shop/r"]), "1");
    put(&mut store, &service("shop/v2", &[]), "1");
    put(&mut store, &endpoints("shop/v2", 0, &[3]), "1");
    put(&mut store, &route("shop/r", &["shop/catalog", "shop/v2"]), "1");
    let one = commit(&mut store, 2);
    // Nothing new, then the same under new versions, then something else entirely.
    let two = commit(&mut store, 3);
    put(&mut store, &service("shop/catalog", &["HTTPRoute/shop/r"]), "9");
    put(&mut store, &route("shop/r", &["shop/catalog", "shop/v2"]), "9");
    put(&mut store, &workload(&["AuthorizationPolicy/shop/a"], &[]), "9");
    put(&mut store, &endpoints("shop/v2", 0, &[3]), "9");
    let three = commit(&mut store, 4);
    put(&mut store, &authorization("a", Action::Deny), "2");
    let four = commit(&mut store, 5);
    for other in [&two, &three, &four] {
        assert!(Arc::ptr_eq(&port(&one, "shop/catalog"), &port(other, "shop/catalog")));
        let asked = by_name("shop/catalog");
        assert!(Arc::ptr_eq(&known(&one, &asked), &known(other, &asked)));
    }
    assert!(Arc::ptr_eq(&one.own, &two.own) && Arc::ptr_eq(&one.own, &three.own));
    assert!(!Arc::ptr_eq(&one.own, &four.own));
    assert_eq!(verdict(&four), "denied by a");
}

#[test]
fn trust_bundles_go_with_the_generation_and_bad_ones_are_refused() {
    let mut store = with_policy();
    let authority = Authority::new("cluster.local");
    let good = Resource::TrustBundle(Arc::new(authority.bundle()));
    put(&mut store, &good, "1");
    let effect =
        put(&mut store, &Resource::Generation(Arc::new(Generation { epoch: "e".into(), number: 2 })), "2");
    let bundles = effect.bundles.unwrap();
    assert!(bundles.values().all(Option::is_some) && bundles.len() == 1);

    let mut bad = authority.bundle();
    bad.roots.push(b"no certificate".to_vec());
    let effect = put(&mut store, &Resource::TrustBundle(Arc::new(bad)), "2");
    assert!(effect.refused[0].reason.contains("root 1"), "{}", effect.refused[0].reason);

    let mut newer = v1::TrustBundle::decode(&good.encode()[..]).unwrap();
    newer.needs_level = 99;
    store.receive(batch(
        Kind::TrustBundle,
        vec![raw(Kind::TrustBundle, "cluster.local", "3", newer.encode_to_vec())],
    ));
    let effect =
        put(&mut store, &Resource::Generation(Arc::new(Generation { epoch: "e".into(), number: 3 })), "3");
    assert_eq!(effect.bundles.unwrap().into_values().collect::<Vec<_>>(), [None]);
}

struct Kept {
    directory: tempfile::TempDir,
    last_good: LastGood,
}
