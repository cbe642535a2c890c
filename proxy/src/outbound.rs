//! From the application to the mesh: a connection's phases, and where this worker calls.
//!
//! A connection has a fixed target (a per-service port, a CONNECT that was answered) or is an HTTP
//! proxy's, where each request names its own. Then: detect → HTTP → [`http`], the outbound stack.

pub mod balancer;
pub mod http;
pub mod retry;
pub mod tcp;

use crate::detect::{self, Spoken};
use crate::h1;
use crate::h2;
use crate::http::{Limits, RequestHead, Response};
use crate::listener::ConnectionDrain;
use crate::metrics::{Direction, ServiceLabels};
use crate::policy::{Asked, Destination, DestinationPort, Policy, Resolution};
use crate::pool::Pool;
use crate::stream::Stream;
use crate::worker::Worker;
use balancer::Balancer;
use bytes::Bytes;
use http::Outbound;
use retry::RetryBudget;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use weft_model::names::{ResourceName, service_of_host};
use weft_model::reason::Reason;
use weft_model::request::host_of;
use weft_model::service::ServiceTarget;
use weft_model::sni::MeshServerName;

/// How long a request waits for the control API to say what a destination is. Once per destination
/// and process; the control API answers in a round trip.
pub const DEFAULT_RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

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

/// A port of a destination, as this worker calls it.
pub struct Port {
    /// What the mesh says of it.
    pub model: Arc<DestinationPort>,
    /// Its endpoints.
    pub balancer: Rc<Balancer>,
    /// What retries it can bear.
    pub budget: Rc<RetryBudget>,
    /// What metrics call it.
    pub labels: Arc<ServiceLabels>,
}

/// Where a worker calls. Balancers live as long as their destination is known.
#[derive(Default)]
pub struct Destinations {
    ports: RefCell<HashMap<(ResourceName, u16), Rc<Port>>>,
    others: RefCell<Vec<Weak<Pool>>>,
}

/// Serves a connection from the application.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, client: SocketAddr, target: Target) {
    if let Target::Destination { asked, port } = &target
        && let Ok(found) = worker.destinations.port(&worker, asked, *port).await
        && found.model.protocol.is_opaque()
    {
        // Declared: no wait for who speaks first.
        tcp::carry(&worker, &found, Stream::Tcp(stream), Bytes::new()).await;
        return;
    }
    let Ok(spoken) = detect::detect(&stream, detect::DEFAULT_SILENCE_MAX).await else { return };
    if let (Spoken::Tls, Target::Destination { asked, port }) = (spoken, &target) {
        // The application's own TLS, on a port that declares nothing or HTTP: carried as it is, for the
        // peer's proxy to judge without seeing requests.
        if let Ok(found) = worker.destinations.port(&worker, asked, *port).await {
            tcp::carry(&worker, &found, Stream::Tcp(stream), Bytes::new()).await;
        }
        return;
    }
    let connect = matches!(target, Target::Proxy);
    let handler = Rc::new(Outbound::new(worker.clone(), client, target));
    let drain = worker.shared.drain.clone();
    if spoken == Spoken::Http2 {
        h2::serve(Stream::Tcp(stream), handler, &h2::Settings::server(), &drain).await;
        return;
    }
    if spoken == Spoken::Nothing {
        return;
    }
    let limits = Limits { connect, ..Limits::default() };
    if let Ok(h1::Outcome::Connect { head, stream, buffered }) =
        h1::serve(Stream::Tcp(stream), &*handler, &limits, &ConnectionDrain::new(&drain)).await
    {
        // Boxed: the path is rare, and the future would otherwise lie in every connection's.
        Box::pin(tunnel(worker, client, &head, stream, buffered)).await;
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
    let handler = Outbound::new(worker.clone(), client, Target::Proxy);
    let resolved = match target_of(&worker, head.authority(), None) {
        Ok((asked, port)) => {
            worker.destinations.port(&worker, &asked, port).await.map(|found| (asked, port, found))
        }
        Err(reason) => Err(reason),
    };
    let (asked, port, found) = match resolved {
        Ok(found) => found,
        Err(reason) => {
            let response = h1::Handler::refuse(&handler, reason, Some(head));
            let _ = stream.write_all(&connect_refusal(&response, reason)).await;
            let _ = stream.shutdown().await;
            return;
        }
    };
    if stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_err() {
        return;
    }
    if found.model.protocol.is_opaque() {
        tcp::carry(&worker, &found, stream, buffered).await;
        return;
    }
    let target = Target::Destination { asked, port };
    let drain = worker.shared.drain.clone();
    let handler = Rc::new(Outbound::new(worker.clone(), client, target));
    let Ok((spoken, stream)) = detect::detect_by_reading(stream, buffered, detect::DEFAULT_SILENCE_MAX).await
    else {
        return;
    };
    match spoken {
        Spoken::Http2 => {
            h2::serve(stream, handler, &h2::Settings::server(), &drain).await;
        }
        Spoken::Http1 => {
            let _ = h1::serve(stream, &*handler, &Limits::default(), &ConnectionDrain::new(&drain)).await;
        }
        Spoken::Tls => tcp::carry(&worker, &found, stream, Bytes::new()).await,
        Spoken::Nothing => {}
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

// === impl Destinations ===

impl Destinations {
    /// The port of a destination, asked for on first use.
    pub async fn port(&self, worker: &Worker, asked: &Asked, port: u16) -> Result<Rc<Port>, Reason> {
        let deadline = Instant::now() + DEFAULT_RESOLVE_TIMEOUT;
        let resolution = match worker.policy.current().destinations.get(asked) {
            Some(held) => held.clone(),
            // Boxed: once per destination.
            None => {
                Box::pin(worker.policy.resolve(asked, deadline)).await.ok_or(Reason::ConfigurationMissing)?
            }
        };
        let Resolution::Known(destination) = resolution else { return Err(Reason::ServiceUnknown) };
        self.known(worker, &destination, port)
    }

    fn known(&self, worker: &Worker, destination: &Destination, port: u16) -> Result<Rc<Port>, Reason> {
        destination.port(port).map(|model| self.of(worker, model)).ok_or(Reason::ServiceUnknown)
    }

    /// This worker's view of a port. The balancer stays as the model changes.
    pub fn of(&self, worker: &Worker, model: &Arc<DestinationPort>) -> Rc<Port> {
        let key = (model.destination.clone(), model.port);
        let mut ports = self.ports.borrow_mut();
        let held = ports.get(&key);
        if let Some(port) = held
            && Arc::ptr_eq(&port.model, model)
        {
            return port.clone();
        }
        let (balancer, budget, labels) = match held {
            Some(port) => (port.balancer.clone(), port.budget.clone(), port.labels.clone()),
            None => {
                let balancer = Rc::new(Balancer::new(server_name(model).into()));
                (balancer, Rc::new(RetryBudget::new(Instant::now())), Arc::new(labels(model)))
            }
        };
        balancer.update(&model.endpoints, &worker.shared.tls);
        let port = Rc::new(Port { model: model.clone(), balancer, budget, labels });
        ports.insert(key, port.clone());
        port
    }

    /// Has a pool that is not a balancer's swept as well.
    pub fn keep_swept(&self, pool: &Rc<Pool>) {
        self.others.borrow_mut().push(Rc::downgrade(pool));
    }

    /// Closes what lay idle too long, and forgets ports of which nothing is known any more.
    pub fn sweep(&self, policy: &Policy) {
        let now = Instant::now();
        let mut known: HashMap<(&ResourceName, u16), ()> = HashMap::new();
        for resolution in policy.destinations.values() {
            let Resolution::Known(destination) = resolution else { continue };
            for port in &destination.ports {
                known.insert((&port.destination, port.port), ());
                for backend in port.backends.values() {
                    known.insert((&backend.destination, backend.port), ());
                }
            }
        }
        let mut ports = self.ports.borrow_mut();
        ports.retain(|(name, port), _| known.contains_key(&(name, *port)));
        for port in ports.values() {
            port.balancer.for_each_pool(|pool| pool.sweep(now));
        }
        self.others.borrow_mut().retain(|pool| match pool.upgrade() {
            Some(pool) => {
                pool.sweep(now);
                true
            }
            None => false,
        });
    }
}

fn server_name(model: &DestinationPort) -> String {
    match &model.service.target {
        ServiceTarget::Service(service) => {
            MeshServerName::Service { port: model.port, service: service.clone() }.to_string()
        }
        ServiceTarget::Workload(uid) => {
            MeshServerName::Workload { port: model.port, uid: uid.clone() }.to_string()
        }
    }
}

fn labels(model: &DestinationPort) -> ServiceLabels {
    match &model.service.target {
        ServiceTarget::Service(service) => ServiceLabels::of(service),
        ServiceTarget::Workload(uid) => {
            let (namespace, name) = uid.as_str().split_once('/').unwrap_or(("unknown", uid.as_str()));
            ServiceLabels { host: name.into(), name: name.into(), namespace: namespace.into() }
        }
    }
}

/// The direction of everything here.
pub(crate) const DIRECTION: Direction = Direction::Outbound;
