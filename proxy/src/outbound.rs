//! From the application to the mesh: a connection's phases, and where this worker calls.
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
pub mod replay;
pub mod replica;
pub mod retry;
pub mod session;
pub mod tcp;
mod tries;
pub mod verdict;

use crate::detect::guess::{Guess, Kind};
use crate::detect::{self, DEFAULT_SILENCE_MAX, Expect, Opening, Spoken};
use crate::h1;
use crate::h2;
use crate::http::{Limits, RequestHead, Response};
use crate::listener::ConnectionDrain;
use crate::metrics::{Direction, Ends, ServiceLabels};
use crate::policy::{Asked, Destination, DestinationPort, Policy, Resolution};
use crate::pool::Pool;
use crate::stream::Stream;
use crate::worker::Worker;
use balancer::{Balancer, Change};
use budget::{Allowance, RetryBudget};
use bytes::Bytes;
use connections::Connections;
use first::{DEFAULT_REFUSED_SILENCE_MAX, First};
use http::Outbound;
use limits::ServiceCounts;
use replica::{Outcome, Trying};
use std::cell::{Cell, RefCell};
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
#[derive(Clone)]
pub struct Port {
    /// What the mesh says of it.
    pub model: Arc<DestinationPort>,
    /// Its endpoints.
    pub balancer: Rc<Balancer>,
    /// What retries it can bear.
    pub budget: Arc<RetryBudget>,
    /// How many that is.
    pub allowance: Allowance,
    /// What is under way to its Service, in the whole process.
    pub counts: Arc<ServiceCounts>,
    /// This worker's connections to it.
    pub connections: Rc<Connections>,
    /// What metrics call it.
    pub labels: Arc<ServiceLabels>,
    /// What it turned out to speak, where that is not declared.
    pub guess: Rc<Guess>,
    /// For which version of the policy its endpoints were looked for by who waits.
    renewed: Rc<Cell<Option<u64>>>,
}

impl Port {
    /// Takes note of what a try says of its endpoint, and tells it where that changes anything.
    pub fn report(&self, worker: &Worker, trying: Trying, outcome: Outcome) {
        if outcome == Outcome::Answered && !trying.is_probe() {
            let _ = self.balancer.report(trying, outcome, Instant::now());
            return;
        }
        let replica = trying.replica().clone();
        let now = Instant::now();
        let Some(change) = self.balancer.report(trying, outcome, now) else { return };
        let (endpoints, ejected) = self.balancer.counts();
        let (service, endpoint) = (&self.labels.host, &replica.endpoint.uid);
        match change {
            Change::Ejected(cause, until) => {
                worker.metrics.ejection(cause.as_str());
                replica.count_ejected(|| worker.metrics.ejected());
                let seconds = until.saturating_duration_since(now).as_secs_f64();
                let cause = cause.as_str();
                tracing::warn!(%service, %endpoint, cause, seconds, ejected, endpoints, "an endpoint is ejected");
            }
            Change::Returned => {
                worker.metrics.ejection("returned");
                tracing::info!(%service, %endpoint, ejected, endpoints, "an endpoint is used again");
            }
            Change::Kept => {
                worker.metrics.ejection("kept");
                tracing::debug!(%service, %endpoint, ejected, endpoints, "an endpoint fails and is used on");
            }
        }
    }

    /// Whether requests are expected: declared, or implied by a route for them.
    fn is_http(&self) -> bool {
        self.model.protocol.is_http() || self.model.routes.expects_requests()
    }
}

/// What is at an address or behind a name.
pub enum Found {
    /// A port of the mesh.
    Port(Rc<Port>),
    /// Nothing of the mesh: the address as it was dialled.
    Outside(SocketAddr),
}

/// The views of a port: one as it was asked for, one as a backend.
type Views = Vec<Rc<Port>>;

/// Where a worker calls. Balancers live as long as their destination is known.
#[derive(Default)]
pub struct Destinations {
    ports: RefCell<HashMap<(ResourceName, u16), Views>>,
    others: RefCell<Vec<Weak<Pool>>>,
    /// Copies of requests under way.
    mirrors: mirror::Mirrors,
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

// === impl Destinations ===

impl Destinations {
    /// The port of a destination, asked for on first use.
    pub async fn port(&self, worker: &Worker, asked: &Asked, port: u16) -> Result<Rc<Port>, Reason> {
        match self.resolve(worker, asked).await? {
            Resolution::Known(destination) => self.known(worker, &destination, port),
            Resolution::Absent => Err(Reason::ServiceUnknown),
        }
    }

    /// The same for a connection, which may lead out of the mesh. What the mesh has something at never
    /// does, nor what could not be looked up.
    pub async fn find(&self, worker: &Worker, asked: &Asked, port: u16) -> Result<Found, Reason> {
        let Asked::Address(address) = asked else {
            return self.port(worker, asked, port).await.map(Found::Port);
        };
        let policy = worker.policy.current();
        if policy.config.is_outside(address.ip()) {
            // No look-up, so that such connections depend on nobody.
            return passthrough::permit(worker, &policy, *address).map(Found::Outside);
        }
        drop(policy);
        match self.resolve(worker, asked).await? {
            Resolution::Known(destination) => self.known(worker, &destination, port).map(Found::Port),
            Resolution::Absent => {
                let policy = worker.policy.current();
                if !policy.config.cidrs.is_empty() {
                    // It is the mesh's, and leads nowhere.
                    return Err(Reason::ServiceUnknown);
                }
                passthrough::permit(worker, &policy, *address).map(Found::Outside)
            }
        }
    }

    async fn resolve(&self, worker: &Worker, asked: &Asked) -> Result<Resolution, Reason> {
        if let Some(held) = worker.policy.current().destinations.get(asked) {
            return Ok(held.clone());
        }
        let deadline = Instant::now() + DEFAULT_RESOLVE_TIMEOUT;
        // Boxed: once per destination.
        Box::pin(worker.policy.resolve(asked, deadline)).await.ok_or(Reason::ConfigurationMissing)
    }

    fn known(&self, worker: &Worker, destination: &Destination, port: u16) -> Result<Rc<Port>, Reason> {
        destination.port(port).map(|model| self.of(worker, model)).ok_or(Reason::ServiceUnknown)
    }

    /// This worker's view of a port. What was learned of the port stays as the model changes.
    pub fn of(&self, worker: &Worker, model: &Arc<DestinationPort>) -> Rc<Port> {
        let key = (model.destination.clone(), model.port);
        let mut ports = self.ports.borrow_mut();
        let views = ports.entry(key).or_default();
        if let Some(port) = views.iter().find(|port| Arc::ptr_eq(&port.model, model)) {
            return port.clone();
        }
        // As it was asked for, with routes, or as a backend, without: both may be in use at once.
        let replaced = views.iter().position(|port| port.model.is_backend == model.is_backend);
        let replaced = replaced.map(|index| views.swap_remove(index));
        let held = replaced.as_ref().or_else(|| views.first());
        // What was learned of a port holds for as long as what is told of it: endpoints may come and go.
        let guess = match held {
            Some(port) if Arc::ptr_eq(&port.model.service, &model.service) => port.guess.clone(),
            _ => Rc::default(),
        };
        let allowance = model.traffic.retry_budget.as_ref().map_or_else(Allowance::default, Allowance::from);
        let model = model.clone();
        let port = match held {
            Some(held) => Port { model, allowance, guess, ..(**held).clone() },
            None => {
                let now = Instant::now();
                let counts = worker.shared.limits.of(&model.destination);
                let connections = Connections::new(counts.clone());
                let turn = worker.random.borrow_mut().below(usize::MAX);
                let server_name = server_name(&model).into();
                Port {
                    balancer: Rc::new(Balancer::new(server_name, Some(connections.clone()), turn, now)),
                    budget: worker.shared.budgets.of(&model.destination, model.port, now),
                    allowance,
                    counts,
                    connections,
                    labels: Arc::new(labels(&model)),
                    guess,
                    renewed: Rc::default(),
                    model,
                }
            }
        };
        let policy = worker.policy.current();
        let zone = policy.own.workload.as_ref().map_or("", |own| &*own.zone);
        let model = &port.model;
        port.connections.limit(model.traffic.connections.connections_max);
        port.balancer.update(&model.endpoints, &model.traffic, zone, &worker.shared.tls, Instant::now());
        let port = Rc::new(port);
        views.push(port.clone());
        port
    }

    /// Has the balancer of a port learn what is known of its endpoints now. Looked for once a version,
    /// however many wait for it.
    pub fn renew(&self, worker: &Worker, port: &Port) {
        let version = Some(worker.policy.version());
        if port.renewed.replace(version) == version {
            return;
        }
        let policy = worker.policy.current();
        let is_it = |held: &&Arc<DestinationPort>| {
            held.port == port.model.port && held.destination == port.model.destination
        };
        let known = policy.destinations.values().find_map(|resolution| {
            let Resolution::Known(destination) = resolution else { return None };
            let backends = destination.ports.iter().flat_map(|port| port.backends.values());
            destination.ports.iter().chain(backends).find(is_it)
        });
        if let Some(model) = known {
            self.of(worker, model);
        }
    }

    /// Has a pool that is not a balancer's swept as well.
    pub fn keep_swept(&self, pool: &Rc<Pool>) {
        self.others.borrow_mut().push(Rc::downgrade(pool));
    }

    /// Closes what lies idle and someone elsewhere waits for.
    pub fn give_up_wanted(&self) {
        for port in self.ports.borrow().values().filter_map(|views| views.first()) {
            for _ in 0..port.connections.wanted_elsewhere() {
                if !port.balancer.give_up_idle() {
                    break;
                }
            }
        }
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
        for port in ports.values().filter_map(|views| views.first()) {
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
