//! Which rule of which route: the Gateway API's precedence, decided once per configuration.
//!
//! HTTP: exact path, then the longest prefix, then (ours) regular expressions; then a method, then the
//! number of headers, then of query parameters. gRPC: the longest service, then the longest method, then
//! the number of headers. Ties go to the older route, where that is known, then to the first in
//! `NAMESPACE/NAME`, then to the rule that comes first. All matches are ranked so once; a request meets only those whose path it can have: exact paths,
//! prefixes and services are looked up by their hash, and what is left over (regular expressions, any
//! service) is tried in order. The lowest rank that matches wins.
//!
//! Connections: a TLSRoute by the server that is named, the whole name before the longest domain; a
//! TCPRoute takes all. Ties as above.

use crate::names::ResourceName;
use crate::request::HttpFacts;
use crate::route::{Filter, PathMatch, Route, RouteKind, RouteMatch, RouteRule, ValueMatch, rpc_of};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// The rules that hold for one client namespace and one port of a Service.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// By rank.
    entries: Vec<Entry>,
    index: Index,
    unresolved: Option<ResourceName>,
    attached: bool,
    /// Of which type the routes are, where they are for connections.
    opaque: Option<RouteKind>,
    /// Whether any rule looks at the path or edits it.
    path: bool,
    connections: Connections,
}

/// Routes of connections. The first that was put in holds.
#[derive(Clone, Debug, Default)]
struct Connections {
    all: Option<Arc<Route>>,
    servers: HashMap<Box<str>, Arc<Route>>,
    /// By what follows `*.`.
    domains: HashMap<Box<str>, Arc<Route>>,
}

#[derive(Clone, Debug)]
struct Entry {
    route: Arc<Route>,
    rule: usize,
    matched: usize,
}

/// Ranks of entries, ascending in every list.
#[derive(Clone, Debug, Default)]
struct Index {
    exact: HashMap<Box<str>, Vec<u32>>,
    prefixes: HashMap<Box<str>, Vec<u32>>,
    /// The distinct lengths of prefixes, longest first.
    prefix_lengths: Vec<usize>,
    services: HashMap<Box<str>, Vec<u32>>,
    /// What no key leads to.
    others: Vec<u32>,
}

/// What was chosen.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The route.
    pub route: &'a Arc<Route>,
    /// The index of its rule.
    pub index: usize,
    /// The rule.
    pub rule: &'a RouteRule,
    /// The match of the rule that matched.
    pub matched: &'a RouteMatch,
}

/// The answer.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'a> {
    /// No route is attached: the Service itself is the backend.
    Unrouted,
    /// This rule.
    Rule(Chosen<'a>),
    /// Routes are attached and none matches: 404.
    NotFound,
    /// A route is named and not held: 500.
    Unresolved(&'a ResourceName),
}

impl RouteTable {
    /// Joins the routes of a port; `None` stands for one that is not held.
    pub fn new(named: impl IntoIterator<Item = (ResourceName, Option<Arc<Route>>)>) -> Self {
        let mut table = Self::default();
        let mut connections = Vec::new();
        let mut requests = false;
        for (name, route) in named {
            table.attached = true;
            let kind = RouteKind::of(&name).filter(|kind| kind.is_opaque());
            // A port has routes of one type; that they are mixed is refused before they come here, and
            // what is more specific would hold.
            table.opaque = [table.opaque, kind].into_iter().flatten().min_by_key(|kind| *kind as u8);
            requests |= kind.is_none();
            let Some(route) = route else {
                table.unresolved = Some(name);
                continue;
            };
            if route.kind.is_opaque() {
                connections.push(route);
                continue;
            }
            for (rule, held) in route.rules.iter().enumerate() {
                for matched in 0..held.matches.len() {
                    table.entries.push(Entry { route: route.clone(), rule, matched });
                }
            }
        }
        table.entries.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        table.index = Index::new(&table.entries);
        table.path =
            table.entries.iter().any(|entry| entry.matched().looks_at_path() || entry.rule().edits_path());
        if requests {
            table.opaque = None;
        }
        connections.retain(|route| Some(route.kind) == table.opaque);
        table.connections = Connections::new(connections);
        table
    }

    /// Whether a route for requests is attached, held or not: they are expected then.
    pub fn expects_requests(&self) -> bool {
        self.attached && self.opaque.is_none()
    }

    /// Whether any rule looks at the path or edits it, so that it must be canonical before one is chosen.
    pub fn looks_at_path(&self) -> bool {
        self.path
    }

    /// The type of the routes that are attached, where they are for connections.
    pub fn opaque(&self) -> Option<RouteKind> {
        self.opaque
    }

    /// Chooses for a connection, whose TLS names this server.
    pub fn lookup_connection(&self, server_name: Option<&str>) -> Lookup<'_> {
        match (self.opaque, &self.unresolved) {
            (None, _) => Lookup::Unrouted,
            (Some(_), Some(name)) => Lookup::Unresolved(name),
            (Some(_), None) => self.connections.lookup(server_name).map_or(Lookup::NotFound, Lookup::Rule),
        }
    }

    /// Chooses. Where routes are for connections, a request is one that names no server.
    pub fn lookup(&self, facts: &HttpFacts<'_>) -> Lookup<'_> {
        if self.opaque.is_some() {
            return self.lookup_connection(None);
        }
        if !self.attached {
            return Lookup::Unrouted;
        }
        if let Some(name) = &self.unresolved {
            return Lookup::Unresolved(name);
        }
        match self.first(facts) {
            Some(entry) => Lookup::Rule(Chosen {
                route: &entry.route,
                index: entry.rule,
                rule: entry.rule(),
                matched: entry.matched(),
            }),
            None => Lookup::NotFound,
        }
    }

    fn first(&self, facts: &HttpFacts<'_>) -> Option<&Entry> {
        let index = &self.index;
        let of = |list: Option<&Vec<u32>>| list.and_then(|list| self.first_of(list, u32::MAX, facts));
        // HTTP's kinds of paths follow each other in rank, so the first that is found wins.
        if !index.exact.is_empty()
            && let Some(found) = of(index.exact.get(facts.path))
        {
            return self.entries.get(found);
        }
        for length in &index.prefix_lengths {
            let Some(prefix) = prefix_of(facts.path, *length) else { continue };
            if let Some(found) = of(index.prefixes.get(prefix)) {
                return self.entries.get(found);
            }
        }
        // A service's own rules and those for any service, by rank.
        let service =
            if index.services.is_empty() { None } else { rpc_of(facts.path).map(|(service, _)| service) };
        let keyed = service.and_then(|service| of(index.services.get(service)));
        let below = keyed.and_then(|rank| u32::try_from(rank).ok()).unwrap_or(u32::MAX);
        self.first_of(&index.others, below, facts).or(keyed).and_then(|rank| self.entries.get(rank))
    }

    // The first of a list, below a rank, that matches.
    fn first_of(&self, list: &[u32], below: u32, facts: &HttpFacts<'_>) -> Option<usize> {
        let ranks =
            list.iter().take_while(|rank| **rank < below).filter_map(|rank| usize::try_from(*rank).ok());
        ranks
            .into_iter()
            .find(|rank| self.entries.get(*rank).is_some_and(|entry| entry.matched().matches(facts)))
    }
}

// The path's first `length` bytes, if an element ends there.
fn prefix_of(path: &str, length: usize) -> Option<&str> {
    if length == 1 {
        return path.starts_with('/').then_some("/");
    }
    match path.as_bytes().get(length) {
        Some(b'/') => path.get(..length),
        None if path.len() == length => Some(path),
        _ => None,
    }
}

impl Connections {
    fn new(mut routes: Vec<Arc<Route>>) -> Self {
        routes.sort_by(|a, b| age(a).cmp(&age(b)));
        let mut held = Self::default();
        for route in routes {
            if route.kind == RouteKind::Tcp {
                held.all.get_or_insert(route);
                continue;
            }
            for name in &route.server_names {
                match name.strip_prefix("*.") {
                    Some(domain) => held.domains.entry(domain.into()).or_insert_with(|| route.clone()),
                    None => held.servers.entry(name.clone()).or_insert_with(|| route.clone()),
                };
            }
        }
        held
    }

    fn lookup(&self, server_name: Option<&str>) -> Option<Chosen<'_>> {
        let named = |name: &str| {
            let mut below = name;
            self.servers.get(name).or_else(|| {
                std::iter::from_fn(|| {
                    below = below.split_once('.')?.1;
                    Some(below)
                })
                .find_map(|domain| self.domains.get(domain))
            })
        };
        let route = self.all.as_ref().or_else(|| server_name.and_then(named))?;
        let rule = route.rules.first()?;
        Some(Chosen { route, index: 0, rule, matched: rule.matches.first()? })
    }
}

/// Which of two routes wins a tie: the older, then the first by name.
fn age(route: &Route) -> (u64, &str, &str) {
    (route.created.unwrap_or(u64::MAX), route.namespace.as_str(), route.name.as_str())
}

impl Index {
    fn new(entries: &[Entry]) -> Self {
        let mut index = Self::default();
        for (rank, entry) in (0..).zip(entries) {
            let list = match &entry.matched().path {
                PathMatch::Exact(text) => index.exact.entry(text.clone()).or_default(),
                PathMatch::Prefix(text) => {
                    if !index.prefix_lengths.contains(&text.len()) {
                        index.prefix_lengths.push(text.len());
                    }
                    index.prefixes.entry(text.clone()).or_default()
                }
                PathMatch::Rpc { service: Some(ValueMatch::Exact(service)), .. } => {
                    index.services.entry(service.clone()).or_default()
                }
                PathMatch::Regex(_) | PathMatch::Rpc { .. } => &mut index.others,
            };
            list.push(rank);
        }
        index.prefix_lengths.sort_by_key(|length| Reverse(*length));
        index
    }
}

impl Entry {
    fn rule(&self) -> &RouteRule {
        &self.route.rules[self.rule]
    }

    fn matched(&self) -> &RouteMatch {
        &self.rule().matches[self.matched]
    }

    fn precedence(&self) -> impl Ord + use<'_> {
        let matched = self.matched();
        let letters = |value: &Option<ValueMatch>| value.as_ref().map_or(0, ValueMatch::len);
        let (kind, length, second) = match &matched.path {
            PathMatch::Exact(text) => (0, text.len(), 0),
            PathMatch::Prefix(text) => (1, text.len(), 0),
            PathMatch::Regex(pattern) => (2, pattern.as_str().len(), 0),
            PathMatch::Rpc { service, method } => (3, letters(service), letters(method)),
        };
        (
            kind,
            Reverse(length),
            Reverse(second),
            Reverse(matched.method.is_some()),
            Reverse(matched.headers.len()),
            Reverse(matched.queries.len()),
            age(&self.route),
            self.rule,
            self.matched,
        )
    }
}

impl RouteMatch {
    fn looks_at_path(&self) -> bool {
        !matches!(&self.path, PathMatch::Prefix(text) if &**text == "/")
    }

    /// Whether the request matches.
    pub fn matches(&self, facts: &HttpFacts<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method.as_str() == facts.method)
            && self.path.matches(facts.path)
            && self.headers.iter().all(|(name, wanted)| header_matches(facts, name.as_str(), wanted))
            && self.queries.iter().all(|(name, wanted)| query_matches(facts.query, name, wanted))
    }
}

// The first value of a field decides, as the Gateway API's conformance has it for repeated names.
pub(crate) fn header_matches(facts: &HttpFacts<'_>, name: &str, wanted: &ValueMatch) -> bool {
    let mut matches = false;
    facts.headers.visit_values(name, &mut |value| {
        matches = std::str::from_utf8(value).is_ok_and(|value| wanted.matches(value));
        false
    });
    matches
}

fn query_matches(query: Option<&str>, name: &str, wanted: &ValueMatch) -> bool {
    query.unwrap_or_default().split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| wanted.matches(value))
    }) == Some(true)
}

impl RouteRule {
    // What stands before the path that the client wrote must not be climbed out of.
    fn edits_path(&self) -> bool {
        let filters = self.filters.iter().chain(self.backends.iter().flat_map(|backend| &backend.filters));
        filters.into_iter().any(|filter| match filter {
            Filter::Rewrite(rewrite) => rewrite.path.is_some(),
            Filter::Redirect(redirect) => redirect.path.is_some(),
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorization::Provenance;
    use crate::route::{Pattern, RouteKind};
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
            route(
                "b",
                vec![anything(PathMatch::prefix("/")), anything(PathMatch::prefix("/a")), with_method],
            ),
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
        assert_eq!(
            chosen_of([aged("a", None), aged("b", Some(20)), aged("c", Some(10))]).as_deref(),
            Some("c")
        );
        assert_eq!(
            chosen_of([aged("a", None), aged("c", Some(20)), aged("b", Some(20))]).as_deref(),
            Some("b")
        );
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
                        made.headers
                            .push((HeaderName::from_static("x-team"), ValueMatch::Exact("red".into())));
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
                    let one_by_one = table.entries.iter().find(|entry| entry.matched().matches(&facts));
                    let found = table.first(&facts);
                    assert_eq!(found.map(|entry| entry.rule), one_by_one.map(|entry| entry.rule), "{path}");
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
        assert!(query_matches(Some("a=1&b"), "b", &ValueMatch::Exact("".into())));
        assert!(!query_matches(Some("a=1&a=2"), "a", &ValueMatch::Exact("2".into())));
    }
}
