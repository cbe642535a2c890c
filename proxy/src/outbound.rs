//! From the application to the mesh: a connection's phases. Where this worker calls is in [`destinations`].
//!
//! A connection has a fixed target (a per-service port, a CONNECT that was answered) or is an HTTP
//! proxy's, where each request names its own. What is spoken is declared, or [`first`] finds it out.
//! Then: HTTP → [`http`], the outbound stack; opaque bytes → [`tcp`].
//! A drain leaves all of it as it is: the application calls for as long as it lives.

pub mod affinity;
pub mod backends;
pub mod balancer;
pub mod budget;
pub mod candidates;
pub mod classify;
pub mod connections;
pub mod destinations;
pub mod draw;
pub mod ejection;
pub mod faults;
pub mod first;
pub mod http;
pub mod limits;
pub mod maglev;
pub mod mirror;
pub mod passthrough;
pub mod peak_ewma;
mod plan;
pub mod replica;
pub mod retry;
pub mod session;
pub mod tcp;
mod tries;
pub mod verdict;

use crate::detect::guess::Kind;
use crate::detect::{self, DEFAULT_SILENCE_MAX, Expect, Opening, Spoken};
use crate::h1;
use crate::h2;
use crate::http::{Limits, RequestHead, Response};
use crate::listener::ConnectionDrain;
use crate::metrics::{Direction, Ends, ServiceLabels};
use crate::policy::Asked;
use crate::stream::Stream;
use crate::worker::Worker;
use bytes::Bytes;
pub use destinations::{Destinations, Found, Port};
use first::{DEFAULT_REFUSED_SILENCE_MAX, First};
use http::Outbound;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use weft_model::names::service_of_host;
use weft_model::reason::Reason;
use weft_model::request::host_of;

/// Where the requests of a connection go.
#[derive(Clone, Debug)]
pub enum Target {
    /// Where each request says: the application uses the proxy's port as its HTTP proxy.
    Proxy,
    /// To one destination.
    Destination {
        /// The destination.
        asked: Asked,
        /// Its port.
        port: u16,
    },
}

/// Serves a connection from the application.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, client: SocketAddr, target: Target) {
    match target {
        Target::Proxy => serve_proxy(worker, stream, client).await,
        Target::Destination { asked, port } => {
            serve_destination(worker, Opening::new(stream), client, asked, port).await;
        }
    }
}

/// Serves a client that uses this port as its HTTP proxy: it speaks HTTP.
async fn serve_proxy(worker: Rc<Worker>, stream: TcpStream, client: SocketAddr) {
    let mut opening = Opening::new(stream);
    let Some(spoken) = spoken_in_time(&mut opening, Expect::Http, DEFAULT_SILENCE_MAX).await else { return };
    let handler = Rc::new(Outbound::new(worker.clone(), client, Target::Proxy));
    let (drain, limits) = (worker.shared.drain.untouched(), worker.shared.settings.limits());
    let stream = opening.into_stream();
    match spoken {
        Spoken::Nothing => {}
        Spoken::Http2 => {
            h2::serve(stream, handler, &h2::Settings::server().within(limits), &drain).await;
        }
        // What is not HTTP is for its parser to refuse.
        Spoken::Http1 | Spoken::Tls(_) | Spoken::Opaque => {
            let limits = Limits { connect: true, ..limits };
            if let Ok(h1::Outcome::Connect { head, stream, buffered }) =
                h1::serve(stream, &*handler, &limits, &ConnectionDrain::new(&drain)).await
            {
                // Boxed: the path is rare, and the future would otherwise lie in every connection's.
                Box::pin(tunnel(worker, client, &head, stream, buffered)).await;
            }
        }
    }
}

/// Serves a client that dialled a destination. What its owner declared holds; else whoever speaks
/// first decides.
async fn serve_destination(
    worker: Rc<Worker>,
    mut opening: Opening,
    client: SocketAddr,
    asked: Asked,
    port: u16,
) {
    let found = match worker.destinations.find(&worker, &asked, port).await {
        Ok(Found::Outside(address)) => {
            let (stream, buffered) = opening.into_parts();
            passthrough::carry(&worker, address, stream, buffered).await;
            return;
        }
        Ok(Found::Port(found)) => Ok(found),
        Err(reason) => Err(reason),
    };
    let spoken = match found {
        // Before what the port declares: its routes say where its bytes go.
        Ok(found) if found.model.routes.opaque().is_some() => {
            return Box::pin(backends::serve_connection(&worker, &found, opening)).await;
        }
        Ok(found) if found.model.protocol.is_opaque() => {
            let (stream, buffered) = opening.into_parts();
            tcp::carry(&worker, &found, stream, buffered).await;
            return;
        }
        Ok(found) if found.is_http() => {
            match spoken_in_time(&mut opening, Expect::Http, DEFAULT_SILENCE_MAX).await {
                Some(Spoken::Tls(hello)) => {
                    worker.metrics.answered(DIRECTION, Reason::HttpRequired);
                    tracing::info!(
                        service = %found.labels.host,
                        port,
                        server_name = hello.server_name.as_deref(),
                        reason = Reason::HttpRequired.label(),
                        "TLS on a port that is declared as HTTP; appProtocol: https would declare it"
                    );
                    detect::refuse_tls(opening).await;
                    return;
                }
                spoken => spoken,
            }
        }
        Ok(found) => match Box::pin(first::first(&worker, &found, &mut opening)).await {
            Err(_) => return,
            Ok(First::Client(spoken)) => Some(spoken),
            Ok(First::Opaque(opened)) => {
                let (stream, buffered) = opening.into_parts();
                match opened {
                    Some(opened) => tcp::carry_over(&worker, &found, opened, stream, buffered).await,
                    None => tcp::carry(&worker, &found, stream, buffered).await,
                }
                return;
            }
            Ok(First::Refused(reason)) => {
                return tcp::refuse(&worker, &found, reason, &opening.into_stream());
            }
        },
        // An HTTP client is told why; any other sees the connection end.
        Err(reason) => match spoken_in_time(&mut opening, Expect::Any, DEFAULT_REFUSED_SILENCE_MAX).await {
            Some(spoken) if spoken.is_http() => Some(spoken),
            _ => {
                worker.metrics.answered(DIRECTION, reason);
                if matches!((&asked, reason), (Asked::Address(_), Reason::ServiceUnknown)) {
                    passthrough::refused(&worker);
                }
                tracing::info!(destination = %asked, port, reason = reason.label(), "connection refused");
                opening.into_stream().reset_on_close();
                return;
            }
        },
    };
    let handler = Rc::new(Outbound::new(worker.clone(), client, Target::Destination { asked, port }));
    let (drain, limits) = (worker.shared.drain.untouched(), worker.shared.settings.limits());
    let stream = opening.into_stream();
    match spoken {
        Some(Spoken::Http2) => {
            h2::serve(stream, handler, &h2::Settings::server().within(limits), &drain).await;
        }
        Some(Spoken::Http1) => {
            let _ = h1::serve(stream, &*handler, &limits, &ConnectionDrain::new(&drain)).await;
        }
        Some(Spoken::Tls(_) | Spoken::Opaque | Spoken::Nothing) | None => {}
    }
}

/// What a client says. `None`: it was silent too long.
async fn spoken_in_time(opening: &mut Opening, expect: Expect, silence_max: Duration) -> Option<Spoken> {
    tokio::time::timeout(silence_max, opening.spoken(expect)).await.ok()?.ok()
}

/// Notes what a port that declares nothing turned out to be, and tells it once, with the line that
/// would declare it.
fn remember(worker: &Worker, port: &Port, kind: Kind, first: &[u8], server_name: Option<&str>) {
    let model = &port.model;
    if port.guess.remember(kind) && worker.shared.told.is_new(&model.destination, model.port, kind) {
        tracing::info!(
            service = %port.labels.host,
            port = model.port,
            guess = kind.as_str(),
            server_name,
            declare = %format_args!(
                "- {{ port: {}, appProtocol: {} }}", model.port, kind.declaration(first)
            ),
            "a port declares no protocol: this was guessed"
        );
    }
}

/// CONNECT equals a redirected dial: the destination is resolved, the answer given, and what the
/// client says next is served as if it had dialled that address.
async fn tunnel(
    worker: Rc<Worker>,
    client: SocketAddr,
    head: &RequestHead,
    mut stream: Stream,
    buffered: Bytes,
) {
    use tokio::io::AsyncWriteExt;
    let target = target_of(&worker, head.authority(), None);
    let resolved = match &target {
        Ok((asked, port)) => worker.destinations.find(&worker, asked, *port).await,
        Err(reason) => Err(*reason),
    };
    let resolved = match resolved {
        Ok(Found::Port(_)) => Ok(None),
        // Connected before it is said to be.
        Ok(Found::Outside(address)) => passthrough::connect(&worker, address).await.map(Some),
        Err(reason) => Err(reason),
    };
    let outside = match resolved {
        Ok(outside) => outside,
        Err(reason) => {
            let handler = Outbound::new(worker.clone(), client, Target::Proxy);
            let response = h1::Handler::refuse(&handler, reason, Some(head));
            let _ = stream.write_all(&connect_refusal(&response, reason)).await;
            let _ = stream.shutdown().await;
            return;
        }
    };
    if stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_err() {
        return;
    }
    match (outside, target) {
        (Some(server), _) => passthrough::carry_over(&worker, stream, buffered, server).await,
        (None, Ok((asked, port))) => {
            serve_destination(worker, Opening::of(stream, buffered), client, asked, port).await;
        }
        (None, Err(_)) => {}
    }
}

fn connect_refusal(response: &Response, reason: Reason) -> Vec<u8> {
    format!(
        "HTTP/1.1 {} {}\r\nx-weft-reason: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        response.head.status.as_u16(),
        response.head.status.canonical_reason().unwrap_or_default(),
        reason.label()
    )
    .into_bytes()
}

/// The destination that an authority names. `port_default` is what it means without a port.
pub fn target_of(
    worker: &Worker,
    authority: &str,
    port_default: Option<u16>,
) -> Result<(Asked, u16), Reason> {
    let host = host_of(authority);
    let port = match authority.strip_prefix(host).and_then(|rest| rest.strip_prefix(':')) {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(Reason::HostInvalid)?,
        None => port_default.ok_or(Reason::HostInvalid)?,
    };
    let literal = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = literal.parse() {
        return Ok((Asked::Address(SocketAddr::new(address, port)), port));
    }
    let own = &worker.shared.namespace;
    let service = service_of_host(host, own).ok_or(Reason::ServiceUnknown)?;
    Ok((Asked::Service(service), port))
}

/// The ends of what reaches no endpoint of the mesh.
fn ends_of(worker: &Worker, service: Arc<ServiceLabels>) -> Ends {
    let own = &worker.policy.current().own;
    Ends {
        direction: DIRECTION,
        source: own.description.clone(),
        source_identity: own.workload.as_ref().map(|workload| Arc::new(workload.identity())),
        destination: Arc::default(),
        destination_identity: None,
        service,
        mutual_tls: false,
        cells: RefCell::default(),
    }
}

/// The direction of everything here.
pub(crate) const DIRECTION: Direction = Direction::Outbound;
