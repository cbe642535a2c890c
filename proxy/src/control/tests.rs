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
fn endpoints_hold_at_once_and_touch_nothing_else() {
    let mut store = with_policy();
    for asked in ["shop/catalog", "shop/other"] {
        store.ask(&by_name(asked));
    }
    put(&mut store, &service("shop/catalog", &["HTTPRoute/shop/r"]), "1");
    put(&mut store, &service("shop/other", &[]), "1");
    put(&mut store, &service("shop/v2", &[]), "1");
    put(&mut store, &route("shop/r", &["shop/catalog", "shop/v2"]), "1");
    put(&mut store, &endpoints("shop/catalog", 0, &[1]), "1");
    put(&mut store, &endpoints("shop/v2", 0, &[2]), "1");
    let one = commit(&mut store, 2);

    let two = put(&mut store, &endpoints("shop/catalog", 1, &[5]), "1").policy.unwrap();
    let addresses = |port: &DestinationPort| -> Vec<String> {
        port.endpoints.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    };
    assert_eq!(addresses(&port(&two, "shop/catalog")), ["10.0.0.1:80", "10.0.0.5:80"]);
    assert!(Arc::ptr_eq(&port(&one, "shop/other"), &port(&two, "shop/other")));
    // The endpoint that stayed is the same one.
    let first = |policy: &Policy| port(policy, "shop/catalog").endpoints.endpoints[0].clone();
    assert!(Arc::ptr_eq(&first(&one), &first(&two)));

    // A backend's endpoints reach the routed port through its backends.
    let backend = |policy: &Policy, name: &str| {
        port(policy, "shop/catalog").backends[&(name.parse::<ServiceName>().unwrap(), 80)].clone()
    };
    let three = put(&mut store, &endpoints("shop/v2", 0, &[2, 3]), "2").policy.unwrap();
    assert_eq!(addresses(&backend(&three, "shop/v2")), ["10.0.0.2:80", "10.0.0.3:80"]);
    assert!(Arc::ptr_eq(&backend(&two, "shop/catalog"), &backend(&three, "shop/catalog")));
    assert!(Arc::ptr_eq(&port(&two, "shop/catalog").endpoints, &port(&three, "shop/catalog").endpoints));

    // The same again, and a port that nobody asked for, are no news.
    assert!(put(&mut store, &endpoints("shop/v2", 0, &[2, 3]), "3").policy.is_none());
    assert!(put(&mut store, &endpoints("shop/nobody", 0, &[9]), "1").policy.is_none());

    let four = store.receive(removal(Kind::Endpoints, "shop/catalog:80/1")).policy.unwrap();
    assert_eq!(addresses(&port(&four, "shop/catalog")), ["10.0.0.1:80"]);
    // A commit afterwards agrees with what held at once.
    let five = commit(&mut store, 3);
    assert!(Arc::ptr_eq(&port(&four, "shop/catalog"), &port(&five, "shop/catalog")));
}

#[test]
fn routes_are_those_of_the_own_namespace_and_a_missing_one_is_noticed() {
    let mut store = with_policy();
    store.ask(&by_name("other/svc"));
    put(&mut store, &service("other/svc", &["HTTPRoute/other/producer", "HTTPRoute/shop/consumer"]), "1");
    put(&mut store, &route("shop/consumer", &["shop/mine"]), "1");
    put(&mut store, &service("shop/mine", &[]), "1");
    let policy = commit(&mut store, 2);
    let port_view = port(&policy, "other/svc");
    assert!(format!("{:?}", port_view.routes).contains("consumer"));
    assert!(!format!("{:?}", port_view.routes).contains("producer"));
    assert_eq!(port_view.backends.len(), 1);
    store.receive(removal(Kind::Route, "HTTPRoute/shop/consumer"));
    let policy = commit(&mut store, 3);
    let unresolved = format!("{:?}", port(&policy, "other/svc").routes);
    assert!(unresolved.contains("unresolved: Some(HTTPRoute/shop/consumer)"), "{unresolved}");
}

fn traffic_policy(algorithm: Algorithm) -> Resource {
    Resource::TrafficPolicy(Arc::new(TrafficPolicy {
        kind: TrafficKind::Weft,
        namespace: "shop".parse().unwrap(),
        name: "t".parse().unwrap(),
        traffic: Arc::new(Traffic {
            load_balancing: LoadBalancing { algorithm, ..LoadBalancing::default() },
            ..Traffic::default()
        }),
        provenance: Provenance::default(),
    }))
}

#[test]
fn a_traffic_policy_that_is_named_and_not_held_leaves_its_service_unresolved() {
    let mut store = with_policy();
    store.ask(&by_name("shop/catalog"));
    let Resource::Service(plain) = service("shop/catalog", &[]) else { unreachable!() };
    let limited = Service { traffic_policies: vec![name("TrafficPolicy/shop/t")], ..(*plain).clone() };
    put(&mut store, &Resource::Service(Arc::new(limited)), "1");
    let policy = commit(&mut store, 2);
    assert_eq!(port(&policy, "shop/catalog").unresolved, Some(name("TrafficPolicy/shop/t")));
    put(&mut store, &traffic_policy(Algorithm::RoundRobin), "1");
    let policy = commit(&mut store, 3);
    let held = port(&policy, "shop/catalog");
    assert_eq!(
        (held.unresolved.as_ref(), held.traffic.load_balancing.algorithm),
        (None, Algorithm::RoundRobin)
    );
    let policy = commit(&mut store, 4);
    assert!(Arc::ptr_eq(&port(&policy, "shop/catalog"), &held), "nothing of it changed");
    put(&mut store, &traffic_policy(Algorithm::Random), "2");
    let policy = commit(&mut store, 5);
    assert_eq!(port(&policy, "shop/catalog").traffic.load_balancing.algorithm, Algorithm::Random);
    store.receive(removal(Kind::TrafficPolicy, "TrafficPolicy/shop/t"));
    let policy = commit(&mut store, 6);
    assert_eq!(port(&policy, "shop/catalog").unresolved, Some(name("TrafficPolicy/shop/t")));
}

/// As a newer control API writes it, for newer proxies.
fn above_our_level(resource: &Resource, version: &str) -> Batch {
    let mut value = resource.encode();
    // Field 1, again: the last one counts.
    prost::encoding::encode_key(1, prost::encoding::WireType::Varint, &mut value);
    prost::encoding::encode_varint(u64::from(weft_model::LEVEL) + 1, &mut value);
    let name = resource.name();
    batch(resource.kind(), vec![raw(resource.kind(), name.as_str(), version, value)])
}

#[test]
fn a_limit_or_a_route_that_is_not_understood_leaves_nothing_of_what_it_said_before_in_force() {
    let mut store = with_policy();
    store.ask(&by_name("shop/catalog"));
    let Resource::Service(plain) = service("shop/catalog", &["HTTPRoute/shop/r"]) else { unreachable!() };
    let limited = Service { traffic_policies: vec![name("TrafficPolicy/shop/t")], ..(*plain).clone() };
    put(&mut store, &Resource::Service(Arc::new(limited)), "1");
    put(&mut store, &traffic_policy(Algorithm::RoundRobin), "1");
    put(&mut store, &route("shop/r", &["shop/catalog"]), "1");
    let policy = commit(&mut store, 2);
    assert_eq!(port(&policy, "shop/catalog").unresolved, None);

    let effect = store.receive(above_our_level(&traffic_policy(Algorithm::Random), "2"));
    assert!(effect.refused[0].reason.starts_with("not understood: "), "{}", effect.refused[0].reason);
    let policy = commit(&mut store, 3);
    assert_eq!(port(&policy, "shop/catalog").unresolved, Some(name("TrafficPolicy/shop/t")));
    put(&mut store, &traffic_policy(Algorithm::Random), "3");

    store.receive(above_our_level(&route("shop/r", &["shop/other"]), "2"));
    let policy = commit(&mut store, 4);
    let routes = format!("{:?}", port(&policy, "shop/catalog").routes);
    assert!(routes.contains("unresolved: Some(HTTPRoute/shop/r)"), "{routes}");
    // What only says where something is stays: without it there would be nothing to refuse by.
    store.receive(above_our_level(&service("shop/catalog", &[]), "2"));
    put(&mut store, &route("shop/r", &["shop/catalog"]), "3");
    let policy = commit(&mut store, 5);
    assert_eq!(port(&policy, "shop/catalog").unresolved, None);
    assert!(store.versions(Kind::Service).contains_key("shop/catalog"));
}

#[test]
fn an_address_leads_to_what_it_is_an_alias_of() {
    let mut store = with_policy();
    let address = Asked::Address("10.1.0.1:80".parse().unwrap());
    assert_eq!(store.ask(&address).as_deref(), Some("@10.1.0.1:80"));
    assert_eq!(store.ask(&address), None);
    assert!(!commit(&mut store, 2).destinations.contains_key(&address), "not answered yet");
    let catalog = service("shop/catalog", &[]);
    let aliased = Incoming {
        aliases: vec!["@10.1.0.1:80".to_owned(), "@10.9.9.9:80".to_owned()],
        ..incoming(&catalog, "1")
    };
    store.receive(batch(Kind::Service, vec![aliased]));
    let policy = commit(&mut store, 3);
    assert_eq!(known(&policy, &address).name.as_str(), "shop/catalog");
    assert_eq!(policy.destinations.len(), 1, "an alias that nobody asked for is no destination");

    // Asked for by name as well: the same resource, the same version, another name.
    store.ask(&by_name("shop/catalog"));
    store.receive(batch(Kind::Service, vec![incoming(&catalog, "1")]));
    let policy = commit(&mut store, 4);
    assert!(Arc::ptr_eq(&known(&policy, &address), &known(&policy, &by_name("shop/catalog"))));

    // Gone under its name: gone under all.
    store.receive(removal(Kind::Service, "shop/catalog"));
    let policy = commit(&mut store, 5);
    for asked in [address, by_name("shop/catalog")] {
        assert!(matches!(policy.destinations[&asked], Resolution::Absent), "{asked:?}");
    }
}

#[test]
fn absence_is_an_answer_that_can_change() {
    let mut store = with_policy();
    let asked = by_name("shop/nothing");
    store.ask(&asked);
    store.receive(removal(Kind::Service, "shop/nothing"));
    assert!(matches!(commit(&mut store, 2).destinations[&asked], Resolution::Absent));
    put(&mut store, &service("shop/nothing", &[]), "1");
    assert_eq!(known(&commit(&mut store, 3), &asked).name.as_str(), "shop/nothing");
}

#[test]
fn addresses_outside_the_mesh_make_room_in_the_order_in_which_they_were_asked_for() {
    let mut store = store();
    let address = |number: u16| Asked::Address(format!("192.0.2.1:{number}").parse().unwrap());
    let order = [3, 1, 2];
    store.ask(&by_name("shop/nobody"));
    for number in order {
        store.ask(&address(number));
    }
    // Not answered yet: somebody waits for it.
    store.ask(&address(4));
    let mut answers = batch(Kind::Service, Vec::new());
    answers.removed = order.map(|number| address(number).wire_name()).into();
    answers.removed.push("shop/nobody".to_owned());
    store.receive(answers);
    let policy = commit(&mut store, 1);
    assert!(policy.destinations.contains_key(&address(3)));
    assert_eq!(store.forget_absent(2), ["@192.0.2.1:3", "@192.0.2.1:1"]);
    assert_eq!(store.forget_absent(9), ["@192.0.2.1:2"]);
    assert_eq!(store.names().collect::<Vec<_>>(), ["@192.0.2.1:4", "shop/nobody"]);
    assert!(!commit(&mut store, 2).destinations.contains_key(&address(3)));
    assert!(store.ask(&address(3)).is_some(), "it is asked for again");
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

#[test]
fn what_is_too_old_says_so_until_a_generation_confirms_it() {
    let mut store = with_policy();
    assert!(store.set_stale().stale);
    assert!(store.set_too_old().unwrap().too_old);
    assert!(store.set_too_old().is_none());
    let policy = commit(&mut store, 1);
    assert!(!policy.stale && !policy.too_old);
}

struct Kept {
    directory: tempfile::TempDir,
    last_good: LastGood,
}

fn kept() -> Kept {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(directory.path()).unwrap();
    let last_good = LastGood::new(state, "shop/cart-1".parse().unwrap());
    let mut store = with_policy();
    let asked =
        [by_name("shop/catalog"), by_name("shop/nothing"), Asked::Address("10.1.0.1:80".parse().unwrap())];
    for asked in &asked {
        store.ask(asked);
    }
    let aliased =
        Incoming { aliases: vec!["@10.1.0.1:80".to_owned()], ..incoming(&service("shop/catalog", &[]), "1") };
    store.receive(batch(Kind::Service, vec![aliased]));
    store.receive(removal(Kind::Service, "shop/nothing"));
    put(&mut store, &endpoints("shop/catalog", 0, &[1]), "1");
    commit(&mut store, 2);
    last_good.save(&store);
    Kept { directory, last_good }
}

#[test]
fn a_restart_serves_by_what_was_kept_and_says_that_it_is_stale() {
    let kept = kept();
    let mut store = store();
    let age = kept.last_good.restore(&mut store).unwrap();
    assert!(age < Duration::from_secs(60));
    assert!(store.is_complete());
    let policy = store.set_stale();
    assert!(policy.stale);
    assert_eq!(policy.generation.as_ref().unwrap().to_string(), "e.2");
    assert_eq!(verdict(&policy), "allowed");
    assert_eq!(port(&policy, "shop/catalog").endpoints.endpoints.len(), 1);
    let address = Asked::Address("10.1.0.1:80".parse().unwrap());
    assert_eq!(known(&policy, &address).name.as_str(), "shop/catalog");
    assert!(matches!(policy.destinations[&by_name("shop/nothing")], Resolution::Absent));
    // The next stream resumes from there.
    assert_eq!(store.versions(Kind::Service)["shop/catalog"], "1");
    assert_eq!(store.names().count(), 3);
}

#[test]
fn a_kept_configuration_that_is_damaged_or_of_another_workload_is_ignored() {
    let kept = kept();
    let path = kept.directory.path().join("last-good");
    let whole = std::fs::read(&path).unwrap();
    for end in [0, 1, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..end]).unwrap();
        let mut store = store();
        assert!(kept.last_good.restore(&mut store).is_none(), "{end}");
        assert!(!store.is_complete());
    }
    // Whole, but not what it should be.
    let state = StateDirectory::open(kept.directory.path()).unwrap();
    for content in [&b""[..], b"\xff\xff\xff", b"\x0bshop/cart-1\xff"] {
        state.write("last-good", content).unwrap();
        assert!(!{
            let mut store = store();
            kept.last_good.restore(&mut store);
            store.is_complete()
        });
    }
    std::fs::write(&path, &whole).unwrap();
    let other = LastGood::new(state, "shop/web-1".parse::<WorkloadUid>().unwrap());
    assert!(other.restore(&mut store()).is_none());
    assert!(kept.last_good.restore(&mut store()).is_some());
}

#[test]
fn the_age_is_the_time_since_the_last_confirmation() {
    let kept = kept();
    let path = kept.directory.path().join("last-good");
    let old = std::time::SystemTime::now() - Duration::from_secs(100_000);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    let age = |kept: &Kept| kept.last_good.restore(&mut store()).unwrap();
    assert!(age(&kept) >= Duration::from_secs(100_000));
    kept.last_good.confirm();
    assert!(age(&kept) < Duration::from_secs(60));
}

#[test]
fn a_service_that_is_held_for_a_route_and_asked_for_since_is_not_claimed_to_be_held() {
    let mut store = store();
    put(&mut store, &service("shop/catalog", &[]), "1");
    commit(&mut store, 1);
    assert_eq!(store.versions(Kind::Service)["shop/catalog"], "1");
    // The stream breaks before the answer. A server that is told "held" would not answer on the next.
    store.ask(&by_name("shop/catalog"));
    store.discard_staged();
    assert!(store.versions(Kind::Service).is_empty());
    put(&mut store, &service("shop/catalog", &[]), "1");
    let policy = commit(&mut store, 1);
    assert_eq!(known(&policy, &by_name("shop/catalog")).name.as_str(), "shop/catalog");
    assert_eq!(store.versions(Kind::Service)["shop/catalog"], "1");
}
