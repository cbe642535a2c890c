//! From the mesh to the application: a connection's phases.
//!
//! detect → TLS (who calls, and what for) → the server policy of the port → HTTP → [`http`], the
//! inbound stack; opaque bytes → [`tcp`]. Only `weft1-*` is terminated, and says itself what is
//! inside; everything else counts as [`plaintext`] and is refused where the port's mode is STRICT, but
//! for the kubelet's [`probe`]s. A connection that names another workload is refused as undelivered, so
//! that the client tries where it meant to go.

pub mod applications;
pub mod authorizer;
pub mod checks;
pub mod connection;
pub mod http;
pub mod judge;
pub mod plaintext;
pub mod plaintext_clients;
pub mod probe;
pub mod probe_https;
pub mod probe_rules;
pub mod resumed;
pub mod revoke;
pub mod signature;
pub mod tcp;
pub mod token;
pub mod trailers;

use crate::detect::{DEFAULT_SILENCE, DEFAULT_SILENCE_MAX, Expect, Opening, Spoken};
use crate::h1;
use crate::h2;
use crate::listener::ConnectionDrain;
use crate::metrics::Direction;
use crate::pool::{Dial, Pool};
use crate::stream::Stream;
use crate::tls::MeshAlpn;
use crate::worker::Worker;
use bytes::Bytes;
use connection::{Connection, Mesh};
use http::Inbound;
use plaintext::First;
use plaintext_clients::Verdict;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use weft_model::authentication::TlsMode;

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
        Self { pool: Pool::new(address, Dial::Plain, DIRECTION, None) }
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
    let mut opening = Opening::new(stream);
    let policy = worker.policy.current();
    let mode = policy.own.tls.of_port(local.port());
    let declared = policy.own.workload.as_ref().and_then(|own| own.port(local.port()));
    let protocol = declared.map(|port| port.protocol).unwrap_or_default();
    drop(policy);
    let expect = if protocol.is_http() { Expect::Http } else { Expect::Any };
    let spoken = match (mode, expect) {
        // Whoever may come at all speaks first: TLS.
        (TlsMode::Strict, _) => spoken_in_time(&mut opening, expect, DEFAULT_HANDSHAKE_TIMEOUT).await,
        (_, Expect::Http) => spoken_in_time(&mut opening, expect, DEFAULT_SILENCE_MAX).await,
        (_, Expect::Any) => {
            let connection = Connection::new(worker.clone(), application.clone(), client, local, None);
            let silence = match (mode, protocol.is_opaque()) {
                // Nobody comes by the mesh, and it is declared that nobody needs to be waited for.
                (TlsMode::Disable, true) => Duration::ZERO,
                _ => DEFAULT_SILENCE,
            };
            match Box::pin(plaintext::first(Rc::new(connection), &mut opening, silence)).await {
                Some(First::Client(spoken)) => Some(spoken),
                Some(First::Opaque(connection, opened)) => {
                    return plaintext::carry(connection, opening, opened, false).await;
                }
                None => None,
            }
        }
    };
    match spoken {
        None | Some(Spoken::Nothing) => {}
        Some(Spoken::Tls(hello)) if hello.mesh => {
            // Looked into, and nothing of it taken.
            let Some(stream) = opening.into_tcp() else { return };
            serve_mesh(worker, application, stream, client, local).await;
        }
        Some(spoken @ (Spoken::Http1 | Spoken::Http2)) => {
            serve_plaintext(worker, application, opening.into_stream(), client, local, spoken).await;
        }
        Some(spoken @ (Spoken::Tls(_) | Spoken::Opaque)) => {
            let connection = Connection::new(worker, application, client, local, None);
            let Spoken::Tls(hello) = spoken else {
                return plaintext::serve(Rc::new(connection), opening, false).await;
            };
            let connection = Rc::new(connection.naming(hello.server_name.clone()));
            match probe_https::recognise(&connection, &hello) {
                Some(pass) => probe_https::carry(connection, pass, opening.into_stream()).await,
                None => plaintext::serve(connection, opening, true).await,
            }
        }
    }
}

/// What a client says, in time. `None`: nothing.
async fn spoken_in_time(opening: &mut Opening, expect: Expect, silence_max: Duration) -> Option<Spoken> {
    tokio::time::timeout(silence_max, opening.spoken(expect)).await.ok()?.ok()
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
            plaintext::count_stranger(&worker, client, local, Verdict::Refused);
            tracing::info!(%client, %error, "inbound handshake failed");
            return;
        }
    };
    worker.connections.handshake(DIRECTION, accepted.alpn.as_str(), accepted.resumed);
    let drain = worker.shared.drain.clone();
    let limits = worker.shared.settings.limits();
    let mesh = Mesh {
        peer: accepted.peer,
        sni: accepted.server_name.to_string(),
        server_name: accepted.server_name,
    };
    let connection = Rc::new(Connection::new(worker, application, client, local, Some(mesh)));
    match accepted.alpn {
        MeshAlpn::H2 => {
            let inbound = Rc::new(Inbound::new(connection));
            h2::serve(accepted.stream, inbound, &h2::Settings::mesh().within(limits), &drain).await;
        }
        MeshAlpn::Http1 => {
            let inbound = Inbound::new(connection);
            let drain = ConnectionDrain::from_mesh(&drain);
            let _ = h1::serve(accepted.stream, &inbound, &limits, &drain).await;
        }
        MeshAlpn::Tcp => tcp::carry(connection, accepted.stream, Bytes::new()).await,
    }
}

async fn serve_plaintext(
    worker: Rc<Worker>,
    application: Rc<Application>,
    stream: Stream,
    client: SocketAddr,
    local: SocketAddr,
    spoken: Spoken,
) {
    let drain = worker.shared.drain.clone();
    let limits = worker.shared.settings.limits();
    let connection = Rc::new(Connection::new(worker.clone(), application, client, local, None));
    let policy = worker.policy.current();
    let verdict = match connection.admit(&policy) {
        Ok(()) => "admitted",
        // Its probes are let through, and nothing else of it.
        Err(_) if connection.is_from_node(&policy) => "node",
        Err(_) => "refused",
    };
    drop(policy);
    plaintext::count(&connection, verdict);
    let inbound = Rc::new(Inbound::new(connection));
    if spoken == Spoken::Http2 {
        h2::serve(stream, inbound, &h2::Settings::server().within(limits), &drain).await;
    } else {
        let drain = ConnectionDrain::new(&drain);
        let _ = h1::serve(stream, &*inbound, &limits, &drain).await;
    }
}
