//! Which rule of which route: the Gateway API's precedence, decided once per configuration.
//!
//! Exact path, then the longest prefix, then (ours) regular expressions; then a method, then the
//! number of headers, then of query parameters; ties go to the route first in
//! `NAMESPACE/NAME`, then to the rule that comes first. The table is sorted so, and the first match
//! wins.

use crate::names::ResourceName;
use crate::request::HttpFacts;
use crate::route::{PathMatch, Route, RouteMatch, RouteRule, ValueMatch};
use std::cmp::Reverse;
use std::sync::Arc;

/// The rules that hold for one client namespace and one port of a Service.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    entries: Vec<Entry>,
    unresolved: Option<ResourceName>,
    attached: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    route: Arc<Route>,
    rule: usize,
    matched: usize,
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
        for (name, route) in named {
            table.attached = true;
            let Some(route) = route else {
                table.unresolved = Some(name);
                continue;
            };
            for (rule, held) in route.rules.iter().enumerate() {
                for matched in 0..held.matches.len() {
                    table.entries.push(Entry { route: route.clone(), rule, matched });
                }
            }
        }
        table.entries.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        table
    }

    /// Whether any route is attached, held or not: requests are expected then.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Chooses.
    pub fn lookup(&self, facts: &HttpFacts<'_>) -> Lookup<'_> {
        if !self.attached {
            return Lookup::Unrouted;
        }
        if let Some(name) = &self.unresolved {
            return Lookup::Unresolved(name);
        }
        match self.entries.iter().find(|entry| entry.matched().matches(facts)) {
            Some(entry) => Lookup::Rule(Chosen {
                route: &entry.route,
                index: entry.rule,
                rule: entry.rule(),
                matched: entry.matched(),
            }),
            None => Lookup::NotFound,
        }
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
        let (kind, length) = match &matched.path {
            PathMatch::Exact(text) => (0, text.len()),
            PathMatch::Prefix(text) => (1, text.len()),
            PathMatch::Regex(pattern) => (2, pattern.as_str().len()),
        };
        (
            kind,
            Reverse(length),
            Reverse(matched.method.is_some()),
            Reverse(matched.headers.len()),
            Reverse(matched.queries.len()),
            (self.route.namespace.as_str(), self.route.name.as_str()),
            self.rule,
            self.matched,
        )
    }
}

impl RouteMatch {
    /// Whether the request matches.
    pub fn matches(&self, facts: &HttpFacts<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method.as_str() == facts.method)
            && self.path.matches(facts.path)
            && self.headers.iter().all(|(name, wanted)| header_matches(facts, name.as_str(), wanted))
            && self.queries.iter().all(|(name, wanted)| query_matches(facts.query, name, wanted))
    }
}

// The first value of a field decides, as the Gateway API's conformance has it for repeated names.
fn header_matches(facts: &HttpFacts<'_>, name: &str, wanted: &ValueMatch) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorization::Provenance;
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
                provenance: Provenance::default(),
            })
            .collect();
        let namespace = "shop".parse().unwrap();
        let name = name.parse().unwrap();
        let resource = ResourceName::of("HTTPRoute", &namespace, &name);
        (resource, Some(Arc::new(Route { namespace, name, rules, provenance: Provenance::default() })))
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
    fn no_route_is_no_rule_and_a_missing_route_is_an_error() {
        let facts_of = |table: &RouteTable| chosen(table, "GET", "/", &[]);
        assert_eq!(facts_of(&RouteTable::default()), None);
        let missing = RouteTable::new([("HTTPRoute/shop/x".parse().unwrap(), None)]);
        assert_eq!(facts_of(&missing), None);
        assert!(query_matches(Some("a=1&b"), "b", &ValueMatch::Exact("".into())));
        assert!(!query_matches(Some("a=1&a=2"), "a", &ValueMatch::Exact("2".into())));
    }
}
