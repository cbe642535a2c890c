//! Routes of requests, ranked once.
//!
//! HTTP: exact path, then the longest prefix, then (ours) regular expressions; then a method, then the
//! number of headers, then of query parameters. gRPC: the longest service, then the longest method, then
//! the number of headers. A request meets only those matches whose path it can have: exact paths, prefixes
//! and services are looked up by their hash, and what is left over (regular expressions, any service) is
//! tried in order. The lowest rank that matches wins.

use super::{Chosen, age};
use crate::request::HttpFacts;
use crate::route::{Filter, PathMatch, Route, RouteMatch, RouteRule, ValueMatch, rpc_of};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// All matches of all rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    /// By rank.
    entries: Vec<Entry>,
    index: Index,
    /// Whether any rule looks at the path or edits it.
    path: bool,
}

/// One match of one rule.
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

// === impl Requests ===

impl Requests {
    /// Ranks the matches of all routes.
    pub(super) fn new(routes: &[Arc<Route>]) -> Self {
        let mut entries = Vec::new();
        for route in routes {
            for (rule, held) in route.rules.iter().enumerate() {
                let matches = 0..held.matches.len();
                entries.extend(matches.map(|matched| Entry { route: route.clone(), rule, matched }));
            }
        }
        entries.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        let looks = |entry: &Entry| looks_at_path(entry.matched()) || edits_path(entry.rule());
        let path = entries.iter().any(looks);
        Self { index: Index::new(&entries), entries, path }
    }

    /// Whether any rule looks at the path or edits it.
    pub(super) fn looks_at_path(&self) -> bool {
        self.path
    }

    /// Chooses.
    pub(super) fn lookup(&self, facts: &HttpFacts<'_>) -> Option<Chosen<'_>> {
        self.first(facts).map(Entry::chosen)
    }

    /// Chooses by trying all in order: what the index must agree with.
    #[cfg(test)]
    pub(super) fn lookup_one_by_one(&self, facts: &HttpFacts<'_>) -> Option<Chosen<'_>> {
        self.entries.iter().find(|entry| entry.matched().matches(facts)).map(Entry::chosen)
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

fn looks_at_path(matched: &RouteMatch) -> bool {
    !matches!(&matched.path, PathMatch::Prefix(text) if &**text == "/")
}

// What stands before the path that the client wrote must not be climbed out of.
fn edits_path(rule: &RouteRule) -> bool {
    let filters = rule.filters.iter().chain(rule.backends.iter().flat_map(|backend| &backend.filters));
    filters.into_iter().any(|filter| match filter {
        Filter::Rewrite(rewrite) => rewrite.path.is_some(),
        Filter::Redirect(redirect) => redirect.path.is_some(),
        _ => false,
    })
}

// === impl Index ===

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

// === impl Entry ===

impl Entry {
    fn chosen(&self) -> Chosen<'_> {
        Chosen { route: &self.route, index: self.rule, rule: self.rule(), matched: self.matched() }
    }

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
