//! What is counted and written of every request: metrics, the budget of retries, rates, a line of the access log.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use weft_model::names::ServiceName;
use weft_proxy::access_log::Entry;
use weft_proxy::measured;
use weft_proxy::metrics::{Direction, Ends, Families, Outcome, RequestMetrics, ServiceLabels};
use weft_proxy::outbound::budget::{Allowance, RetryBudget};
use weft_proxy::overload::gcra::{Gcra, Rate};
use weft_runtime::registry::Registry;

use super::Case;

pub(super) fn cases() -> Result<Vec<Case>> {
    let registry =
        Registry::new("weft-bench", env!("CARGO_PKG_VERSION")).map_err(|error| anyhow!("{error}"))?;
    let families = Families::new(&registry).map_err(|error| anyhow!("{error}"))?;
    let metrics = RequestMetrics::new(&families);
    let ends = ends()?;
    let outcome = Outcome { status: 200, grpc_status: None, reason: None, grpc: false };

    let start = Instant::now();
    let allowance = Allowance { percent: 20, interval: Duration::from_secs(10), floor: 30 };
    let (asked, withdrawn) = (RetryBudget::new(start), RetryBudget::new(start));
    let rate = Rate::new(u32::MAX, Duration::from_secs(1), u32::MAX);
    let rated = Gcra::default();
    Ok(vec![
        Case::new("request counted", move |number| {
            let duration = Duration::from_micros(number & 0xffff);
            metrics.cells(black_box(&ends), outcome).record(duration, 100, number & 0xfff);
        }),
        Case::new("retry budget, a request", move |number| {
            asked.request(start + Duration::from_micros(number), black_box(&allowance));
        }),
        Case::new("retry budget, a retry asked for", move |number| {
            let now = start + Duration::from_micros(number);
            black_box(withdrawn.withdraw(now, black_box(&allowance)));
        }),
        Case::new("rate, a request", move |number| {
            black_box(rated.take(black_box(&rate), number * 1000)).ok();
        }),
        Case::new("access log, a line", |_| {
            black_box(measured::access_log_line(black_box(&entry())));
        }),
    ])
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
