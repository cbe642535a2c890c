//! From the mesh to the application: a connection's phases.
//!
//! detect → TLS (who calls, and what for) → the server policy of the port → HTTP → [`http`], the
//! inbound stack. Only `weft1-*` is terminated; everything else counts as plaintext and is refused
//! where the port's mode is STRICT. A connection that names another workload is refused as
//! undelivered, so that the client tries where it meant to go.

pub mod http;
pub mod tcp;

use crate::detect::{self, Spoken};
use crate::h1;
use crate::h2;
use crate::http::Limits;
use crate::listener::ConnectionDrain;
use crate::metrics::Direction;
use crate::pool::{Dial, Pool};
use crate::stream::Stream;
use crate::tls::{MeshAlpn, Peer};
use crate::worker::Worker;
use http::{Admission, Inbound};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use weft_model::authentication::TlsMode;
use weft_model::reason::Reason;
use weft_model::sni::MeshServerName;
use weft_model::workload::Workload;

/// How long a client may take over its TLS handshake.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The direction of everything here.
pub(crate) const DIRECTION: Direction = Direction::Inbound;

/// The application behind one inbound address.
pub struct Application {
    pool: Rc<Pool>,
}

impl Application {
    /// The application at that address.
    pub fn new(address: SocketAddr) -> Self {
        Self { pool: Pool::new(address, Dial::Plain, DIRECTION) }
    }

    /// Connections to it.
    pub fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }
}

/// Serves a connection to the workload's address.
pub async fn serve(worker: Rc<Worker>, application: Rc<Application>, stream: TcpStream, client: SocketAddr) {
    // The address that was dialled, as the mesh advertises it.
    let Ok(local) = stream.local_addr() else { return };
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let Ok(spoken) = detect::detect(&stream, detect::DEFAULT_SILENCE_MAX).await else { return };
    match spoken {
        Spoken::Nothing => {}
        Spoken::Tls => serve_mesh(worker, application, stream, client, local).await,
        Spoken::Http1 | Spoken::Http2 => {
            serve_plaintext(worker, application, stream, client, local, spoken).await;
        }
    }
}

async fn serve_mesh(
    worker: Rc<Worker>,
    application: Rc<Application>,
    stream: TcpStream,
    client: SocketAddr,
    local: SocketAddr,
) {
    let deadline = Instant::now() + DEFAULT_HANDSHAKE_TIMEOUT;
    let accepted = match worker.shared.tls.accept(stream, deadline).await {
        Ok(accepted) => accepted,
        Err(error) => {
            worker.connections.plaintext("refused");
            tracing::info!(%client, %error, "inbound handshake failed");
            return;
        }
    };
    worker.connections.handshake(DIRECTION, accepted.alpn.as_str(), accepted.resumed);
    let policy = worker.policy.current();
    let admission = match &policy.own.workload {
        None => Admission::Refused(Reason::ConfigurationMissing),
        Some(own) if !is_own(&accepted.server_name, own, local.port()) => {
            Admission::Refused(Reason::WorkloadMismatch)
        }
        Some(_) if policy.own.tls.of_port(local.port()) == TlsMode::Disable => {
            Admission::Refused(Reason::WorkloadMismatch)
        }
        Some(_) => Admission::Admitted,
    };
    drop(policy);
    let drain = worker.shared.drain.clone();
    let server_name = Some(accepted.server_name);
    let inbound = Rc::new(Inbound::new(
        worker.clone(),
        application,
        client,
        local,
        Some(accepted.peer),
        server_name,
        admission,
    ));
    match accepted.alpn {
        MeshAlpn::H2 => {
            h2::serve(accepted.stream, inbound, &h2::Settings::mesh(), &drain).await;
        }
        MeshAlpn::Http1 => {
            let _ = h1::serve(accepted.stream, &*inbound, &Limits::default(), &ConnectionDrain::new(&drain))
                .await;
        }
        MeshAlpn::Tcp => tcp::carry(&worker, &inbound, accepted.stream).await,
    }
}

async fn serve_plaintext(
    worker: Rc<Worker>,
    application: Rc<Application>,
    stream: TcpStream,
    client: SocketAddr,
    local: SocketAddr,
    spoken: Spoken,
) {
    let policy = worker.policy.current();
    let admission = match (&policy.own.workload, policy.own.tls.of_port(local.port())) {
        (None, _) => Admission::Refused(Reason::ConfigurationMissing),
        (Some(_), TlsMode::Strict) => Admission::Refused(Reason::TlsRequired),
        (Some(_), TlsMode::Permissive | TlsMode::Disable) => Admission::Admitted,
    };
    drop(policy);
    worker.connections.plaintext(if admission == Admission::Admitted { "admitted" } else { "refused" });
    let drain = worker.shared.drain.clone();
    let inbound =
        Rc::new(Inbound::new(worker, application, client, local, None::<Arc<Peer>>, None, admission));
    if spoken == Spoken::Http2 {
        h2::serve(Stream::Tcp(stream), inbound, &h2::Settings::server(), &drain).await;
    } else {
        let _ = h1::serve(Stream::Tcp(stream), &*inbound, &Limits::default(), &ConnectionDrain::new(&drain))
            .await;
    }
}

/// Whether a connection with this server name is meant for this workload's port.
pub(crate) fn is_own(name: &MeshServerName, own: &Workload, port: u16) -> bool {
    match name {
        MeshServerName::Workload { port: named, uid } => *uid == own.uid && *named == port,
        MeshServerName::Service { port: named, service } => own.port(port).is_some_and(|held| {
            held.services.iter().any(|(held, number)| held == service && number == named)
        }),
    }
}
