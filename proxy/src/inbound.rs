//! From the mesh to the application: a connection's phases.
//!
//! detect → TLS (who calls, and what for) → the server policy of the port → HTTP → [`http`], the
//! inbound stack. Only `weft1-*` is terminated; everything else counts as plaintext and is refused
//! where the port's mode is STRICT, but for the kubelet's [`probe`]s. A connection that names another workload is refused as
//! undelivered, so that the client tries where it meant to go.

pub mod applications;
pub mod connection;
pub mod http;
pub mod judge;
pub mod plaintext;
pub mod probe;
pub mod probe_https;
pub mod probe_rules;
pub mod revoke;
pub mod signature;
pub mod tcp;
pub mod token;

use crate::detect::{self, Spoken};
use crate::h1;
use crate::h2;
use crate::http::Limits;
use crate::listener::ConnectionDrain;
use crate::metrics::Direction;
use crate::pool::{Dial, Pool};
use crate::stream::Stream;
use crate::tls::MeshAlpn;
use crate::worker::Worker;
use connection::{Connection, Mesh};
use http::Inbound;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

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
    serve_at(worker, application, stream, client, local).await;
}

/// Serves a connection to the workload. `local`: the address that was dialled, as the mesh advertises
/// it, which is what policy sees.
pub async fn serve_at(
    worker: Rc<Worker>,
    application: Rc<Application>,
    stream: TcpStream,
    client: SocketAddr,
    local: SocketAddr,
) {
    let Ok(spoken) = detect::detect(&stream, detect::DEFAULT_SILENCE_MAX).await else { return };
    match spoken {
        Spoken::Nothing => {}
        Spoken::Tls => {
            let connection = Connection::new(worker.clone(), application.clone(), client, local, None);
            if let Some(pass) = probe_https::recognise(&connection, &stream).await {
                return probe_https::carry(Rc::new(connection), pass, Stream::Tcp(stream)).await;
            }
            serve_mesh(worker, application, stream, client, local).await;
        }
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
            let client = SocketAddr::new(client.ip().to_canonical(), client.port());
            let (policy, clients) = (worker.policy.current(), &worker.shared.plaintext_clients);
            clients.note(&policy, client.ip(), local.port(), plaintext::Verdict::Refused);
            tracing::info!(%client, %error, "inbound handshake failed");
            return;
        }
    };
    worker.connections.handshake(DIRECTION, accepted.alpn.as_str(), accepted.resumed);
    let drain = worker.shared.drain.clone();
    let mesh = Mesh {
        peer: accepted.peer,
        sni: accepted.server_name.to_string(),
        server_name: accepted.server_name,
    };
    let connection = Rc::new(Connection::new(worker, application, client, local, Some(mesh)));
    match accepted.alpn {
        MeshAlpn::H2 => {
            let inbound = Rc::new(Inbound::new(connection));
            h2::serve(accepted.stream, inbound, &h2::Settings::mesh(), &drain).await;
        }
        MeshAlpn::Http1 => {
            let inbound = Inbound::new(connection);
            let drain = ConnectionDrain::new(&drain);
            let _ = h1::serve(accepted.stream, &inbound, &Limits::default(), &drain).await;
        }
        MeshAlpn::Tcp => tcp::carry(connection, accepted.stream).await,
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
    let drain = worker.shared.drain.clone();
    let connection = Rc::new(Connection::new(worker.clone(), application, client, local, None));
    let policy = worker.policy.current();
    let admitted = connection.admit(&policy).is_ok();
    // Of a node that is refused the probes are let through, and nothing else: no client to look after.
    if !admitted && connection.is_from_node(&policy) {
        worker.connections.plaintext("node");
    } else {
        let (verdict, noted) = match admitted {
            true => ("admitted", plaintext::Verdict::Admitted),
            false => ("refused", plaintext::Verdict::Refused),
        };
        worker.connections.plaintext(verdict);
        let clients = &worker.shared.plaintext_clients;
        clients.note(&policy, connection.client().ip(), local.port(), noted);
    }
    drop(policy);
    let inbound = Rc::new(Inbound::new(connection));
    if spoken == Spoken::Http2 {
        h2::serve(Stream::Tcp(stream), inbound, &h2::Settings::server(), &drain).await;
    } else {
        let drain = ConnectionDrain::new(&drain);
        let _ = h1::serve(Stream::Tcp(stream), &*inbound, &Limits::default(), &drain).await;
    }
}
