//! Where a worker calls: the ports of destinations, each with what this worker learned of it.
//!
//! A port is looked up once for a connection or a request; its balancer, budget and connections live as long as its
//! destination is known, through every change of what is said of it.

use super::balancer::{Balancer, Change};
use super::budget::{Allowance, RetryBudget};
use super::connections::Connections;
use super::limits::ServiceCounts;
use super::replica::{Outcome, Trying};
use super::{mirror, passthrough};
use crate::detect::guess::Guess;
use crate::metrics::ServiceLabels;
use crate::policy::{Asked, Destination, DestinationPort, Policy, Resolution};
use crate::pool::Pool;
use crate::worker::Worker;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_model::names::ResourceName;
use weft_model::reason::Reason;
use weft_model::service::ServiceTarget;
use weft_model::sni::MeshServerName;

/// How long a request waits for the control API to say what a destination is. Once per destination
/// and process; the control API answers in a round trip.
pub const DEFAULT_RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

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

/// What is at an address or behind a name.
pub enum Found {
    /// A port of the mesh.
    Port(Rc<Port>),
    /// Nothing of the mesh: the address as it was dialled.
    Outside(SocketAddr),
}

/// Where a worker calls. Balancers live as long as their destination is known.
#[derive(Default)]
pub struct Destinations {
    /// By destination: its ports, each as it was asked for, as a backend, or both.
    ports: RefCell<HashMap<ResourceName, Vec<Rc<Port>>>>,
    others: RefCell<Vec<Weak<Pool>>>,
    /// Copies of requests under way.
    pub(super) mirrors: mirror::Mirrors,
}

// === impl Port ===

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
    pub(super) fn is_http(&self) -> bool {
        self.model.protocol.is_http() || self.model.routes.expects_requests()
    }
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
        let mut ports = self.ports.borrow_mut();
        // Asked on each request that has backends: the name is only copied the first time.
        let views = match ports.get_mut(&model.destination) {
            Some(views) => views,
            None => ports.entry(model.destination.clone()).or_default(),
        };
        if let Some(port) = views.iter().find(|port| Arc::ptr_eq(&port.model, model)) {
            return port.clone();
        }
        // As it was asked for, with routes, or as a backend, without: both may be in use at once.
        let is_view = |port: &Rc<Port>| port.model.port == model.port;
        let replaced =
            views.iter().position(|port| is_view(port) && port.model.is_backend == model.is_backend);
        let replaced = replaced.map(|index| views.swap_remove(index));
        let held = replaced.as_ref().or_else(|| views.iter().find(|port| is_view(port)));
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
        for port in self.ports.borrow().values().flat_map(|views| balancers(views)) {
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
        let mut known: HashSet<(&ResourceName, u16)> = HashSet::new();
        for resolution in policy.destinations.values() {
            let Resolution::Known(destination) = resolution else { continue };
            for port in &destination.ports {
                known.insert((&port.destination, port.port));
                for backend in port.backends.values() {
                    known.insert((&backend.destination, backend.port));
                }
            }
        }
        let mut ports = self.ports.borrow_mut();
        ports.retain(|name, views| {
            views.retain(|port| known.contains(&(name, port.model.port)));
            !views.is_empty()
        });
        for port in ports.values().flat_map(|views| balancers(views)) {
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

/// One view of each port: what it holds is the same in both.
fn balancers(views: &[Rc<Port>]) -> impl Iterator<Item = &Rc<Port>> {
    let is_first = |(index, port): &(usize, &Rc<Port>)| {
        !views[..*index].iter().any(|other| Rc::ptr_eq(&other.balancer, &port.balancer))
    };
    views.iter().enumerate().filter(is_first).map(|(_, port)| port)
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
