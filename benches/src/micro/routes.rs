//! Choosing a route's rule. Routes go the whole way (YAML, compiler, joined into what holds for one port), and requests
//! are taken in turn from a set large enough that none is remembered by the branch predictor.

use std::fmt::Write as _;
use std::hint::black_box;

use anyhow::{Result, ensure};
use weft_config::{SourceFile, compile};
use weft_model::request::HttpFacts;
use weft_model::route_table::{Lookup, RouteTable};

use super::{Case, REQUESTS, in_turn};

struct Sent {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
}

pub(super) fn cases() -> Vec<Case> {
    let sizes = [(1, 1), (10, 1), (100, 1), (1_000, 1), (1_000, 10)].into_iter();
    sizes
        .map(|(routes, rules)| {
            Case::new(format!("route, {routes} routes of {rules} rules"), move || {
                let table = table(routes, rules)?;
                let sent = requests(routes * rules);
                let found = sent.iter().filter(|sent| is_found(&table, sent)).count();
                ensure!(found > REQUESTS / 4 && found < REQUESTS, "{found} of {REQUESTS} have a rule");
                Ok(move |number: u64| {
                    black_box(is_found(black_box(&table), black_box(&sent[in_turn(number)])));
                })
            })
        })
        .collect()
}

/// Prefixes of several depths, exact paths, and every fourth with a header or a method besides.
fn rule(number: usize) -> String {
    let path = match number % 3 {
        0 => format!("path: {{ value: /api/v1/things-{number} }}"),
        1 => format!("path: {{ type: Exact, value: /api/v1/things-{number}/detail }}"),
        _ => format!("path: {{ value: /api/v2/regions/r-{}/things-{number} }}", number % 17),
    };
    let more = match number % 8 {
        3 => ", headers: [{ name: x-team, value: red }]",
        7 => ", method: GET",
        _ => "",
    };
    format!("{{ matches: [{{ {path}{more} }}], backendRefs: [{{ name: cart, port: 80 }}] }}")
}

fn table(routes: usize, rules: usize) -> Result<RouteTable> {
    let mut text = "apiVersion: v1\nkind: Service\nmetadata: { name: cart, namespace: shop }\nspec: { ports: [{ port: 80, \
                    appProtocol: http }] }\n"
        .to_owned();
    for route in 0..routes {
        let rules: Vec<_> = (route * rules..(route + 1) * rules).map(rule).collect();
        write!(
            text,
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r{route}, namespace: shop }}\n\
             spec:\n  parentRefs: [{{ group: '', kind: Service, name: cart }}]\n  rules: [{}]\n",
            rules.join(", ")
        )?;
    }
    let compilation = compile(&[SourceFile { name: "routes.yaml".to_owned(), text }]);
    ensure!(!compilation.has_errors(), "{:?}", compilation.diagnostics.first());
    let held = &compilation.mesh.routes;
    ensure!(held.len() == routes, "every route is held");
    Ok(RouteTable::new(held.iter().map(|(name, route)| (name.clone(), Some(route.clone())))))
}

/// Two of three as a rule wants them, the others off by a part of the path.
fn requests(rules: usize) -> Vec<Sent> {
    (0..REQUESTS)
        .map(|index| {
            let number = index * 7_919 % rules;
            let path = match number % 3 {
                0 => format!("/api/v1/things-{number}/item-{index}"),
                1 => format!("/api/v1/things-{number}/detail"),
                _ => format!("/api/v2/regions/r-{}/things-{number}", number % 17),
            };
            let path = if index % 3 == 2 { path.replace("things", "thing") } else { path };
            let names = ["host", "user-agent", "accept", "x-request-id", "traceparent", "x-team"];
            let headers = names.map(|name| (name.to_owned(), "red".to_owned())).into();
            Sent { method: "GET", path, headers }
        })
        .collect()
}

fn is_found(table: &RouteTable, sent: &Sent) -> bool {
    let headers = &sent.headers[..];
    let facts = HttpFacts {
        method: sent.method,
        authority: "cart.shop",
        path: &sent.path,
        query: None,
        headers: &headers,
        remote_address: std::net::Ipv4Addr::new(10, 1, 2, 3).into(),
        token: None,
    };
    matches!(table.lookup(&facts), Lookup::Rule(_))
}
