//! What a pick between endpoints costs: `pick [ENDPOINTS]`, 1,000 unless said otherwise. One thread, no sockets. Given
//! is the median of batches and the least, in nanoseconds, with the report of the answer and without.

#![allow(clippy::print_stdout, reason = "figures are what this program is for")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use weft_model::endpoints::{Endpoint, Health, Wire};
use weft_model::traffic::{Algorithm, HashOn, LoadBalancing, Traffic};
use weft_proxy::outbound::balancer::{Balancer, Outcome};
use weft_proxy::policy::EndpointSet;
use weft_proxy::tls::Tls;
use weft_runtime::random::Random;

/// Batches, and picks in each.
const BATCHES: usize = 101;
const PICKS: u32 = 20_000;

fn main() {
    let count = std::env::args().nth(1).map_or(1_000, |text| text.parse().expect("a number must be given"));
    let tls = Tls::new();
    for algorithm in [
        Algorithm::PeakEwma,
        Algorithm::LeastRequest,
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::ConsistentHash,
    ] {
        let hash = (algorithm == Algorithm::ConsistentHash).then_some(HashOn::Source);
        let load_balancing = LoadBalancing { algorithm, hash, ..LoadBalancing::default() };
        let traffic = Arc::new(Traffic { load_balancing, ..Traffic::default() });
        let set = Arc::new(EndpointSet { endpoints: (0..count).map(endpoint).collect() });
        let balancer = Balancer::new("80.cart.shop".into(), Instant::now());
        balancer.update(&set, &traffic, "", &tls, Instant::now());
        let mut random = Random::seeded(1);
        let now = Instant::now();
        let pick = cost(|number| {
            black_box(balancer.pick(&[], Some(number << 32), &mut random, now));
        });
        let whole = cost(|number| {
            let picked =
                balancer.pick(&[], Some(number << 32), &mut random, now).expect("there are endpoints");
            let (_in_flight, trying) = picked.begin(now);
            black_box(balancer.report(trying, Outcome::Answered, now));
        });
        println!(
            "{count} endpoints, {algorithm:?}: pick {:.0} ns (least {:.0}), with begin and report {:.0} (least {:.0})",
            pick.0, pick.1, whole.0, whole.1
        );
    }
}

/// Median and least.
fn cost(mut once: impl FnMut(u64)) -> (f64, f64) {
    let mut times: Vec<f64> = (0..BATCHES)
        .map(|batch| {
            let start = Instant::now();
            for number in 0..PICKS {
                once(u64::from(number) + batch as u64);
            }
            start.elapsed().as_nanos() as f64 / f64::from(PICKS)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[BATCHES / 2], times[0])
}

fn endpoint(number: usize) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        uid: format!("shop/cart-{number}").parse().expect("a name must parse"),
        address: format!("10.0.{}.{}:80", number / 250, number % 250 + 1)
            .parse()
            .expect("an address must parse"),
        wire: Wire::Plain,
        weight: 1,
        zone: "".into(),
        health: Health::Ready,
        description: Arc::default(),
    })
}
