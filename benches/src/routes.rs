//! What choosing a route's rule costs.
//!
//! One thread, no sockets, the library that the proxy links. Routes go the whole way (YAML, compiler, joined
//! into what holds for one port), and requests are taken in turn from a set large enough that none is
//! remembered by the branch predictor. Given is the median of batches, and the least.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use anyhow::ensure;
use weft_config::{SourceFile, compile};
use weft_model::request::HttpFacts;
use weft_model::route_table::{Lookup, RouteTable};

/// Batches, and look-ups in each.
const BATCHES: usize = 101;
const LOOKUPS: usize = 20_000;

/// Distinct requests.
const REQUESTS: usize = 509;

struct Sent {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
}

pub(crate) fn routes() -> anyhow::Result<()> {
    let mut report = String::new();
    for (routes, rules) in [(1, 1), (10, 1), (100, 1), (1_000, 1), (100, 10), (1_000, 10)] {
        let start = Instant::now();
        let table = table(routes, rules)?;
        let joined = start.elapsed();
        let sent = requests(routes * rules);
        let found = sent.iter().filter(|sent| is_found(&table, sent)).count();
        ensure!(found > REQUESTS / 4 && found < REQUESTS, "{found} of {REQUESTS} have a rule");
        let (median, least) = cost(&table, &sent);
        writeln!(
            report,
            "look-up, {routes:>5} routes of {rules:>2} rules: {median:>6.0} ns (least {least:.0}); compiled and joined in {:.1} ms",
            joined.as_secs_f64() * 1e3
        )?;
    }
    crate::report::text(&report);
    Ok(())
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

fn table(routes: usize, rules: usize) -> anyhow::Result<RouteTable> {
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

/// Nanoseconds per look-up: the median of the batches, and the least.
fn cost(table: &RouteTable, sent: &[Sent]) -> (f64, f64) {
    let mut batches: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            for sent in sent.iter().cycle().take(LOOKUPS) {
                black_box(is_found(black_box(table), black_box(sent)));
            }
            start.elapsed().as_nanos() as f64 / LOOKUPS as f64
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    (batches[BATCHES / 2], batches[0])
}
