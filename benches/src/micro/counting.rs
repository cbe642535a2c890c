//! What is counted and written of every request: metrics, the budget of retries, rates, a line of the access log.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use weft_model::names::ServiceName;
use weft_proxy::access_log::Entry;
use weft_proxy::measured;
use weft_proxy::metrics::{Direction, Ends, Families, Outcome, RequestMetrics, ServiceLabels};
use weft_proxy::outbound::budget::{Allowance, RetryBudget};
use weft_proxy::overload::gcra::{Gcra, Rate};
use weft_runtime::registry::Registry;

use super::Case;

/// The default.
const ALLOWANCE: Allowance = Allowance { percent: 20, interval: Duration::from_secs(10), floor: 30 };

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("request counted", || {
            let registry = Registry::new("weft-bench", env!("CARGO_PKG_VERSION"))?;
            let (metrics, ends) = (RequestMetrics::new(&Families::new(&registry)?), ends()?);
            let outcome = Outcome { status: 200, grpc_status: None, reason: None, grpc: false };
            Ok(move |number: u64| {
                let duration = Duration::from_micros(number & 0xffff);
                metrics.cells(black_box(&ends), outcome).record(duration, 100, number & 0xfff);
            })
        }),
        Case::new("retry budget, a request", || {
            let (start, budget) = (Instant::now(), RetryBudget::new(Instant::now()));
            Ok(move |number: u64| {
                budget.request(start + Duration::from_micros(number), black_box(&ALLOWANCE))
            })
        }),
        Case::new("retry budget, a retry asked for", || {
            let (start, budget) = (Instant::now(), RetryBudget::new(Instant::now()));
            Ok(move |number: u64| {
                let now = start + Duration::from_micros(number);
                black_box(budget.withdraw(now, black_box(&ALLOWANCE)));
            })
        }),
        Case::new("rate, a request", || {
            let (rate, count) = (Rate::new(u32::MAX, Duration::from_secs(1), u32::MAX), Gcra::default());
            Ok(move |number: u64| {
                black_box(count.take(black_box(&rate), number * 1000)).ok();
            })
        }),
        Case::new("access log, a line", || {
            Ok(|_: u64| {
                black_box(measured::access_log_line(black_box(&entry())));
            })
        }),
    ]
}

fn ends() -> Result<Ends> {
    let service: ServiceName = "shop/cart".parse()?;
    Ok(Ends {
        direction: Direction::Inbound,
        source: Arc::default(),
        source_identity: Some(Arc::new("spiffe://cluster.local/ns/shop/sa/web".parse()?)),
        destination: Arc::default(),
        destination_identity: Some(Arc::new("spiffe://cluster.local/ns/shop/sa/cart".parse()?)),
        service: Arc::new(ServiceLabels::of(&service)),
        mutual_tls: true,
        cells: std::cell::RefCell::default(),
    })
}

fn entry() -> Entry<'static> {
    let address = std::net::Ipv4Addr::new(10, 0, 0, 1);
    Entry {
        direction: "inbound",
        method: "GET",
        authority: "cart.shop.svc.cluster.local",
        path: "/api/v1/items/4711?page=2&sort=price",
        protocol: "HTTP/1.1",
        status: 200,
        grpc_status: None,
        reason: None,
        detail: None,
        audit: None,
        dry_run: None,
        duration: Duration::from_micros(1234),
        request_bytes: 0,
        response_bytes: 1234,
        client: (address, 41234).into(),
        source: Some("spiffe://cluster.local/ns/shop/sa/web"),
        service: "shop/cart",
        endpoint: Some((address, 8080).into()),
        tries: 1,
        probe: None,
    }
}
