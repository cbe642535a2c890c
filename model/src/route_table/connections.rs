//! Routes of connections: a TLSRoute by the server that is named, the whole name before the longest domain; a
//! TCPRoute takes all. A server's name is looked up by its hash, once for each domain that it is below.

use super::{Chosen, age};
use crate::route::{Route, RouteKind};
use std::collections::HashMap;
use std::sync::Arc;

/// Of several routes for one name the older holds, as for all ties.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    all: Option<Arc<Route>>,
    servers: HashMap<Box<str>, Arc<Route>>,
    /// By what follows `*.`.
    domains: HashMap<Box<str>, Arc<Route>>,
}

impl Connections {
    /// Joins the routes, which are of one type.
    pub(super) fn new(mut routes: Vec<Arc<Route>>) -> Self {
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

    /// Chooses.
    pub(super) fn lookup(&self, server_name: Option<&str>) -> Option<Chosen<'_>> {
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
