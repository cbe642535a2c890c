//! Which backend of a rule: by weight, and for connections by their route (TLSRoute, TCPRoute).
//!
//! A connection's route is chosen once, when it is made. What leads nowhere is refused, in proportion to
//! its weight: never sent elsewhere instead.

use super::{Port, spoken_in_time, tcp};
use crate::detect::{DEFAULT_SILENCE_MAX, Expect, Opening, Spoken};
use crate::worker::Worker;
use std::rc::Rc;
use weft_model::reason::Reason;
use weft_model::route::{Backend, RouteKind};
use weft_model::route_table::Lookup;
use weft_runtime::random::Random;

/// Draws a backend by weight; its index. `None`: there is none, or no weight.
pub fn draw(backends: &[Backend], random: &mut Random) -> Option<usize> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if backends.len() == 1 {
        return (total > 0).then_some(0);
    }
    let total = usize::try_from(total).ok().filter(|total| *total > 0)?;
    let mut drawn = random.below(total) as u64;
    backends.iter().position(|backend| {
        let weight = u64::from(backend.weight);
        let here = drawn < weight;
        drawn = drawn.saturating_sub(weight);
        here
    })
}

/// Carries a connection to a port whose routes are for connections.
pub async fn serve_connection(worker: &Rc<Worker>, port: &Rc<Port>, mut opening: Opening) {
    let server_name = if port.model.routes.opaque() == Some(RouteKind::Tls) {
        // TLS is spoken by the client first, and nothing is connected before it is known for whom.
        match spoken_in_time(&mut opening, Expect::Any, DEFAULT_SILENCE_MAX).await {
            None | Some(Spoken::Nothing) => return,
            Some(Spoken::Tls(hello)) => hello.server_name,
            Some(Spoken::Http1 | Spoken::Http2 | Spoken::Opaque) => None,
        }
    } else {
        None
    };
    let backend = choose(worker, port, server_name.as_deref());
    let (stream, buffered) = opening.into_parts();
    match backend {
        Ok(backend) => tcp::carry(worker, &backend, stream, buffered).await,
        Err(reason) => {
            let (service, server_name) = (&port.labels.host, server_name.as_deref());
            tracing::debug!(%service, server_name, "no route leads this connection anywhere");
            tcp::refuse(worker, port, reason, &stream);
        }
    }
}

fn choose(worker: &Worker, port: &Port, server_name: Option<&str>) -> Result<Rc<Port>, Reason> {
    let model = &port.model;
    if model.unresolved.is_some() {
        return Err(Reason::ResourceUnresolved);
    }
    let rule = match model.routes.lookup_connection(server_name) {
        Lookup::Rule(chosen) => chosen.rule,
        Lookup::NotFound | Lookup::Unrouted => return Err(Reason::RouteNotFound),
        Lookup::Unresolved(_) => return Err(Reason::ResourceUnresolved),
    };
    let drawn =
        draw(&rule.backends, &mut worker.random.borrow_mut()).and_then(|index| rule.backends.get(index));
    let named = drawn.and_then(|backend| backend.service.as_ref()).ok_or(Reason::BackendInvalid)?;
    let backend = model.backends.get(named).ok_or(Reason::BackendInvalid)?;
    Ok(worker.destinations.of(worker, backend))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(weights: &[u32]) -> Vec<Backend> {
        weights.iter().map(|weight| Backend { service: None, weight: *weight, filters: Vec::new() }).collect()
    }

    #[test]
    fn backends_are_drawn_in_proportion_to_their_weights() {
        let mut random = Random::new();
        let backends = weights(&[0, 70, 0, 30, 0]);
        let mut counts = [0; 5];
        for _ in 0..10_000 {
            counts[draw(&backends, &mut random).unwrap()] += 1;
        }
        assert_eq!([counts[0], counts[2], counts[4]], [0; 3]);
        // Eleven standard deviations.
        assert!((6_500..7_500).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn without_weight_there_is_no_backend() {
        let mut random = Random::new();
        for nothing in [&[][..], &[0], &[0, 0]] {
            assert_eq!(draw(&weights(nothing), &mut random), None, "{nothing:?}");
        }
        assert_eq!(draw(&weights(&[1]), &mut random), Some(0));
    }
}
