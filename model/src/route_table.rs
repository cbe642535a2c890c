//! Which rule of which route: the Gateway API's precedence, decided once per configuration.
//!
//! A port of a Service has routes of one type, for requests (`requests`) or for connections
//! (`connections`), each with an order of its own. Ties go to the older route, where that is known, then to
//! the first in `NAMESPACE/NAME`, then to the rule that comes first.
//!
//! It refuses to guess: a route that is named and not held is an answer of its own, and no other route of
//! the port is looked at.

mod connections;
mod requests;

use crate::names::ResourceName;
use crate::request::HttpFacts;
use crate::route::{Route, RouteKind, RouteMatch, RouteRule};
use connections::Connections;
use requests::Requests;
use std::sync::Arc;

/// The rules that hold for one client namespace and one port of a Service.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    unresolved: Option<ResourceName>,
    attached: bool,
    /// Of which type the routes are, where they are for connections.
    opaque: Option<RouteKind>,
    requests: Requests,
    connections: Connections,
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
        let (mut for_requests, mut for_connections) = (Vec::new(), Vec::new());
        let mut expects_requests = false;
        for (name, route) in named {
            table.attached = true;
            let kind = RouteKind::of(&name).filter(|kind| kind.is_opaque());
            // A port has routes of one type; that they are mixed is refused before they come here, and
            // what is more specific would hold.
            table.opaque = [table.opaque, kind].into_iter().flatten().min_by_key(|kind| *kind as u8);
            expects_requests |= kind.is_none();
            match route {
                None => table.unresolved = Some(name),
                Some(route) if route.kind.is_opaque() => for_connections.push(route),
                Some(route) => for_requests.push(route),
            }
        }
        if expects_requests {
            table.opaque = None;
        }
        for_connections.retain(|route| Some(route.kind) == table.opaque);
        table.requests = Requests::new(&for_requests);
        table.connections = Connections::new(for_connections);
        table
    }

    /// Whether a route for requests is attached, held or not: they are expected then.
    pub fn expects_requests(&self) -> bool {
        self.attached && self.opaque.is_none()
    }

    /// Whether any rule looks at the path or edits it, so that it must be canonical before one is chosen.
    pub fn looks_at_path(&self) -> bool {
        self.requests.looks_at_path()
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
        match (self.attached, &self.unresolved) {
            (false, _) => Lookup::Unrouted,
            (true, Some(name)) => Lookup::Unresolved(name),
            (true, None) => self.requests.lookup(facts).map_or(Lookup::NotFound, Lookup::Rule),
        }
    }
}

/// Which of two routes wins a tie: the older, then the first by name.
fn age(route: &Route) -> (u64, &str, &str) {
    (route.created.unwrap_or(u64::MAX), route.namespace.as_str(), route.name.as_str())
}

#[cfg(test)]
mod tests;
