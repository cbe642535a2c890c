//! What arrives by redirection: taken to where it was meant to go, or closed with a reason.
//!
//! Behind here both modes of capture are the same: outbound, a redirected connection is one to a
//! destination by address; inbound, it is one to the application at the address that was dialled. It
//! reads nothing of the connection.

use super::original_dst::{OriginalDst, Refusal};
use crate::inbound;
use crate::metrics::Direction;
use crate::outbound::{self, Target};
use crate::policy::Asked;
use crate::rules::wanted::PROBE_PORT;
use crate::worker::Worker;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::net::TcpStream;
use weft_model::reason::Reason;

/// Serves what the application dialled.
pub async fn outbound(worker: Rc<Worker>, stream: TcpStream, client: SocketAddr) {
    let found = look_up(&stream)
        .and_then(|(found, local)| OriginalDst::outbound(found, local, &worker.own_listeners));
    let destination = match found {
        Ok(destination) => destination.address(),
        Err(refusal) => return refuse(&worker, Direction::Outbound, client, &refusal),
    };
    if let Some(arrivals) = &worker.shared.arrivals {
        if destination.port() == PROBE_PORT && destination.ip().is_loopback() {
            return arrivals.hear(stream, Direction::Outbound, destination).await;
        }
        if arrivals.returns(destination.ip()) {
            let why = &"the redirection does not let this proxy's own connections pass";
            return refused(&worker, Direction::Outbound, client, Reason::LoopDetected, why);
        }
    }
    let target = Target::Destination { asked: Asked::Address(destination), port: destination.port() };
    outbound::serve(worker, stream, client, target).await;
}

/// Serves what another workload dialled.
pub async fn inbound(worker: Rc<Worker>, stream: TcpStream, client: SocketAddr) {
    let policy = worker.policy.current();
    let Some(own) = &policy.own.workload else {
        // Until the mesh says which addresses are this workload's, none is.
        return refused(
            &worker,
            Direction::Inbound,
            client,
            Reason::ConfigurationMissing,
            &"no configuration",
        );
    };
    let found = look_up(&stream).and_then(|(found, local)| {
        OriginalDst::inbound(found, local, &worker.own_listeners, |ip| own.addresses.contains(&ip))
    });
    drop(policy);
    let local = match found {
        Ok(destination) => destination.address(),
        Err(refusal) => return refuse(&worker, Direction::Inbound, client, &refusal),
    };
    if let Some(arrivals) = &worker.shared.arrivals {
        arrivals.came_in(local, client);
        if local.port() == PROBE_PORT {
            return arrivals.hear(stream, Direction::Inbound, local).await;
        }
    }
    let application = worker.applications.at(&worker, local);
    inbound::serve_at(worker, application, stream, client, local).await;
}

fn look_up(stream: &TcpStream) -> Result<(SocketAddr, SocketAddr), Refusal> {
    let local = stream.local_addr().map_err(Refusal::Missing)?;
    Ok((OriginalDst::look_up(stream)?, local))
}

fn refuse(worker: &Worker, direction: Direction, client: SocketAddr, refusal: &Refusal) {
    let reason = match refusal {
        Refusal::Missing(_) => Reason::OriginalDestinationMissing,
        Refusal::Loop(_) => Reason::LoopDetected,
        Refusal::NotOurs(_) => Reason::WorkloadMismatch,
    };
    refused(worker, direction, client, reason, refusal);
}

fn refused(
    worker: &Worker,
    direction: Direction,
    client: SocketAddr,
    reason: Reason,
    why: &dyn std::fmt::Display,
) {
    worker.metrics.answered(direction, reason);
    tracing::info!(
        direction = direction.as_str(),
        %client,
        reason = reason.label(),
        detail = %why,
        "redirected connection refused"
    );
}
