//! Picking an endpoint, without and with what an answer teaches of it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use weft_model::endpoints::{Endpoint, Health, Wire};
use weft_model::traffic::{Algorithm, HashOn, LoadBalancing, Traffic};
use weft_proxy::outbound::balancer::Balancer;
use weft_proxy::outbound::replica::Outcome;
use weft_proxy::policy::EndpointSet;
use weft_proxy::tls::Tls;
use weft_runtime::random::Random;

use super::Case;

pub(super) fn cases() -> Vec<Case> {
    let picks = [
        (Algorithm::PeakEwma, 3),
        (Algorithm::PeakEwma, 1_000),
        (Algorithm::LeastRequest, 1_000),
        (Algorithm::RoundRobin, 1_000),
        (Algorithm::Random, 1_000),
        (Algorithm::ConsistentHash, 1_000),
    ]
    .map(|(algorithm, count)| {
        Case::new(format!("pick among {count}, {algorithm:?}"), move || {
            let (balancer, mut random, now) =
                (balancer(algorithm, count)?, Random::seeded(1), Instant::now());
            Ok(move |number: u64| {
                black_box(balancer.pick(&[], Some(number << 32), &mut random, now));
            })
        })
    });
    let whole = Case::new("pick, begin and report, PeakEwma of 1000", || {
        let (balancer, mut random, now) =
            (balancer(Algorithm::PeakEwma, 1_000)?, Random::seeded(1), Instant::now());
        Ok(move |number: u64| {
            if let Some(picked) = balancer.pick(&[], Some(number << 32), &mut random, now) {
                let (_in_flight, trying) = picked.begin(now);
                black_box(balancer.report(trying, Outcome::Answered, now));
            }
        })
    });
    picks.into_iter().chain([whole]).collect()
}

fn balancer(algorithm: Algorithm, count: usize) -> Result<Balancer> {
    let hash = (algorithm == Algorithm::ConsistentHash).then_some(HashOn::Source);
    let load_balancing = LoadBalancing { algorithm, hash, ..LoadBalancing::default() };
    let traffic = Arc::new(Traffic { load_balancing, ..Traffic::default() });
    let endpoints = (0..count).map(endpoint).collect::<Result<_>>()?;
    let balancer = Balancer::new("80.cart.shop".into(), None, 0, Instant::now());
    balancer.update(&Arc::new(EndpointSet { endpoints }), &traffic, "", &Tls::new(), Instant::now());
    balancer.pick(&[], Some(1), &mut Random::seeded(1), Instant::now()).context("nothing to pick")?;
    Ok(balancer)
}

fn endpoint(number: usize) -> Result<Arc<Endpoint>> {
    Ok(Arc::new(Endpoint {
        uid: format!("shop/cart-{number}").parse()?,
        address: format!("10.0.{}.{}:80", number / 250, number % 250 + 1).parse()?,
        wire: Wire::Plain,
        weight: 1,
        zone: "".into(),
        health: Health::Ready,
        description: Arc::default(),
    }))
}
