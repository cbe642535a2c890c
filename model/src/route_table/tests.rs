use super::*;
use crate::authorization::Provenance;
use crate::route::{PathMatch, Pattern, ValueMatch};
use http::{HeaderName, Method};

fn anything(path: PathMatch) -> RouteMatch {
    RouteMatch { path, headers: Vec::new(), queries: Vec::new(), method: None }
}

fn route(name: &str, matches: Vec<RouteMatch>) -> (ResourceName, Option<Arc<Route>>) {
    let rules = matches
        .into_iter()
        .map(|matched| RouteRule {
            name: "".into(),
            matches: vec![matched],
            filters: Vec::new(),
            backends: Vec::new(),
            request_timeout: None,
            backend_request_timeout: None,
            retry: None,
            session: None,
            provenance: Provenance::default(),
        })
        .collect();
    let namespace = "shop".parse().unwrap();
    let name = name.parse().unwrap();
    let resource = ResourceName::of("HTTPRoute", &namespace, &name);
    (
        resource,
        Some(Arc::new(Route {
            kind: RouteKind::Http,
            namespace,
            name,
            created: None,
            server_names: Vec::new(),
            rules,
            provenance: Provenance::default(),
        })),
    )
}

fn chosen(
    table: &RouteTable,
    method: &str,
    path: &str,
    headers: &[(String, String)],
) -> Option<(String, usize)> {
    let facts = HttpFacts {
        method,
        authority: "cart",
        path,
        query: Some("a=1&b"),
        headers: &headers,
        remote_address: "10.0.0.1".parse().unwrap(),
        token: None,
    };
    match table.lookup(&facts) {
        Lookup::Rule(chosen) => Some((chosen.route.name.to_string(), chosen.index)),
        _ => None,
    }
}

#[test]
fn precedence_is_exact_then_longest_prefix_then_method_then_headers() {
    let headers = [("x-team".to_owned(), "red".to_owned())];
    let mut with_method = anything(PathMatch::prefix("/a"));
    with_method.method = Some(Method::POST);
    let mut with_header = anything(PathMatch::prefix("/a"));
    with_header.headers.push((HeaderName::from_static("x-team"), ValueMatch::Exact("red".into())));
    let table = RouteTable::new([
        route("b", vec![anything(PathMatch::prefix("/")), anything(PathMatch::prefix("/a")), with_method]),
        route(
            "a",
            vec![
                with_header,
                anything(PathMatch::Exact("/a/b".into())),
                anything(PathMatch::prefix("/a/b/c")),
            ],
        ),
    ]);
    let at = |route: &str, rule| Some((route.to_owned(), rule));
    assert_eq!(chosen(&table, "GET", "/x", &[]), at("b", 0));
    assert_eq!(chosen(&table, "GET", "/a", &[]), at("b", 1));
    assert_eq!(chosen(&table, "POST", "/a", &headers), at("b", 2));
    assert_eq!(chosen(&table, "GET", "/a", &headers), at("a", 0));
    assert_eq!(chosen(&table, "GET", "/a/b", &[]), at("a", 1));
    assert_eq!(chosen(&table, "GET", "/a/b/c/d", &[]), at("a", 2));
}

#[test]
fn ties_go_to_the_route_first_by_name() {
    let table = RouteTable::new([
        route("b", vec![anything(PathMatch::prefix("/"))]),
        route("a", vec![anything(PathMatch::prefix("/"))]),
    ]);
    assert_eq!(chosen(&table, "GET", "/", &[]), Some(("a".to_owned(), 0)));
}

#[test]
fn ties_go_to_the_older_route_before_the_first_by_name() {
    let aged = |name: &str, created: Option<u64>| {
        let (resource, route) = route(name, vec![anything(PathMatch::prefix("/"))]);
        (resource, route.map(|route| Arc::new(Route { created, ..(*route).clone() })))
    };
    let chosen_of = |routes: [(ResourceName, Option<Arc<Route>>); 3]| {
        chosen(&RouteTable::new(routes), "GET", "/", &[]).map(|(name, _)| name)
    };
    assert_eq!(chosen_of([aged("a", None), aged("b", Some(20)), aged("c", Some(10))]).as_deref(), Some("c"));
    assert_eq!(chosen_of([aged("a", None), aged("c", Some(20)), aged("b", Some(20))]).as_deref(), Some("b"));
}

fn connection_route(kind: RouteKind, name: &str, servers: &[&str]) -> (ResourceName, Option<Arc<Route>>) {
    let (_, route) = route(name, vec![anything(PathMatch::prefix("/"))]);
    let server_names = servers.iter().map(|name| (*name).into()).collect();
    let route = Route { kind, server_names, ..(*route.unwrap()).clone() };
    (route.resource_name(), Some(Arc::new(route)))
}

fn led(table: &RouteTable, server_name: Option<&str>) -> Option<String> {
    match table.lookup_connection(server_name) {
        Lookup::Rule(chosen) => Some(chosen.route.name.to_string()),
        _ => None,
    }
}

#[test]
fn connections_go_by_the_whole_server_name_then_by_the_longest_domain() {
    let tls = |name, servers: &[&str]| connection_route(RouteKind::Tls, name, servers);
    let table = RouteTable::new([
        tls("wide", &["*.shop.example"]),
        tls("narrow", &["*.eu.shop.example"]),
        tls("whole", &["a.eu.shop.example", "shop.example"]),
        tls("late", &["shop.example"]),
    ]);
    for (server, route) in [
        ("a.eu.shop.example", Some("whole")),
        ("b.eu.shop.example", Some("narrow")),
        ("x.b.eu.shop.example", Some("narrow")),
        ("eu.shop.example", Some("wide")),
        ("shop.example", Some("late")),
        ("myshop.example", None),
        ("example", None),
        ("", None),
    ] {
        assert_eq!(led(&table, Some(server)).as_deref(), route, "{server}");
    }
    assert_eq!(led(&table, None), None, "a connection that names no server matches none");
    assert!(!table.expects_requests());
}

#[test]
fn a_tcp_route_takes_every_connection_and_the_first_by_name_holds() {
    let tcp = |name| connection_route(RouteKind::Tcp, name, &[]);
    let table = RouteTable::new([tcp("b"), tcp("a")]);
    assert_eq!(led(&table, None).as_deref(), Some("a"));
    assert_eq!(led(&table, Some("any.example")).as_deref(), Some("a"));
    let tls = connection_route(RouteKind::Tls, "z", &["one.example"]);
    let mixed = RouteTable::new([tcp("a"), tls]);
    assert_eq!((led(&mixed, Some("one.example")).as_deref(), led(&mixed, None)), (Some("z"), None));
    let missing = RouteTable::new([("TCPRoute/shop/x".parse().unwrap(), None), tcp("a")]);
    assert!(matches!(missing.lookup_connection(None), Lookup::Unresolved(_)));
    assert!(matches!(RouteTable::default().lookup_connection(None), Lookup::Unrouted));
}

#[test]
fn routes_for_requests_hold_before_those_for_connections() {
    let table = RouteTable::new([
        connection_route(RouteKind::Tcp, "a", &[]),
        route("b", vec![anything(PathMatch::prefix("/"))]),
    ]);
    assert!(table.expects_requests());
    assert!(matches!(table.lookup_connection(None), Lookup::Unrouted));
    assert_eq!(chosen(&table, "GET", "/", &[]), Some(("b".to_owned(), 0)));
}

#[test]
fn calls_go_to_the_longest_service_then_the_longest_method() {
    let exact = |text: &str| Some(ValueMatch::Exact(text.into()));
    let rpc = |service, method| anything(PathMatch::Rpc { service, method });
    let long = Pattern::new("shop[.]Cart|never-called-service").unwrap();
    let table = RouteTable::new([route(
        "a",
        vec![
            rpc(None, None),
            rpc(None, exact("Get")),
            rpc(exact("shop.Cart"), None),
            rpc(exact("shop.Cart"), exact("Get")),
            rpc(Some(ValueMatch::Regex(long)), exact("Drop")),
        ],
    )]);
    let rule = |path: &str| chosen(&table, "POST", path, &[]).map(|(_, rule)| rule);
    assert_eq!(rule("/shop.Cart/Get"), Some(3));
    assert_eq!(rule("/shop.Cart/Put"), Some(2));
    assert_eq!(rule("/shop.Cart/Drop"), Some(4), "the longer expression comes first");
    assert_eq!(rule("/other/Get"), Some(1));
    assert_eq!(rule("/other/Put"), Some(0));
    assert_eq!(rule("/not-a-call"), None);
}

/// The index answers as trying every entry in order would.
#[test]
fn the_index_agrees_with_trying_all_in_order() {
    let mut seed = 7_u64;
    let mut below = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    let texts = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/b", "/b/c/d"];
    let mut compared = 0;
    for _ in 0..300 {
        let mut pick = |list: &[&'static str]| list[usize::try_from(below(list.len() as u64)).unwrap()];
        let matches: Vec<_> = (0..12)
            .map(|_| {
                let text = pick(&texts);
                let path = match pick(&["exact", "prefix", "prefix", "regex"]) {
                    "exact" => PathMatch::Exact(text.into()),
                    "prefix" => PathMatch::prefix(text),
                    _ => PathMatch::Regex(Pattern::new(&format!("{text}.*")).unwrap()),
                };
                let mut made = anything(path);
                if pick(&["any", "any", "post"]) == "post" {
                    made.method = Some(Method::POST);
                }
                if pick(&["no", "no", "yes"]) == "yes" {
                    made.headers.push((HeaderName::from_static("x-team"), ValueMatch::Exact("red".into())));
                }
                made
            })
            .collect();
        let table = RouteTable::new([route("a", matches)]);
        let headers = [("x-team".to_owned(), "red".to_owned())];
        for path in ["/", "/a", "/a/", "/a/b", "/a/bc", "/a/b/c", "/ab", "/abc", "/b/c/d/e", "/z", "*"] {
            for (method, headers) in [("GET", &headers[..]), ("POST", &headers[..]), ("POST", &[])] {
                let facts = HttpFacts {
                    method,
                    authority: "cart",
                    path,
                    query: None,
                    headers: &headers,
                    remote_address: "10.0.0.1".parse().unwrap(),
                    token: None,
                };
                let one_by_one = table.requests.lookup_one_by_one(&facts).map(|chosen| chosen.index);
                let found = table.requests.lookup(&facts).map(|chosen| chosen.index);
                assert_eq!(found, one_by_one, "{path}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 300 * 33);
}

#[test]
fn no_route_is_no_rule_and_a_missing_route_is_an_error() {
    let facts_of = |table: &RouteTable| chosen(table, "GET", "/", &[]);
    assert_eq!(facts_of(&RouteTable::default()), None);
    let missing = RouteTable::new([("HTTPRoute/shop/x".parse().unwrap(), None)]);
    assert_eq!(facts_of(&missing), None);
}
