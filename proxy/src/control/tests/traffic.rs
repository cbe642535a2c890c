//! Endpoints, routes and traffic policies: what requests of the own application go by.

use super::*;

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
