//! One worker: its listeners and all that belongs to it alone.
//!
//! A worker is one thread with one runtime. Pools, balancers and caches are its own, called inline,
//! never locked and never shared; what is shared (policy, TLS, limits) comes in through [`Shared`].

use crate::access_log::AccessLog;
use crate::dial::Dialler;
use crate::http::replay::Spares;
use crate::inbound::applications::Applications;
use crate::inbound::authorizer::shown;
use crate::inbound::resumed::Room;
use crate::inbound::revoke::LiveSet;
use crate::inbound::token::TokenCache;
use crate::inbound::{self, Application};
use crate::listener::{self, redirected};
use crate::metrics::{ConnectionMetrics, Direction, RequestMetrics};
use crate::outbound::{self, Destinations, Target};
use crate::policy::{Asked, Policy, Reader};
use crate::shared::Shared;
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use weft_model::names::ServiceName;
use weft_runtime::random::Random;
use weft_runtime::spawn_local;
use weft_runtime::workers::WorkerIndex;

/// How often what is idle is looked through: pools, destinations no longer known.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A worker's share of every listener.
#[derive(Debug, Default)]
pub struct Listeners {
    /// The HTTP proxy port.
    pub outbound: Option<std::net::TcpListener>,
    /// One port per Service: everything on it goes to that Service.
    pub services: Vec<(ServiceName, u16, std::net::TcpListener)>,
    /// The workload's own addresses, each with the application's address behind it.
    pub inbound: Vec<(SocketAddr, std::net::TcpListener)>,
    /// Where what the application dials is redirected to.
    pub redirected_outbound: Vec<std::net::TcpListener>,
    /// Where what others dial is redirected to.
    pub redirected_inbound: Option<std::net::TcpListener>,
}

/// What everything on a worker's thread can reach.
pub struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// What the mesh says.
    pub policy: Reader,
    /// How it dials.
    pub dialler: Dialler,
    /// Where this process listens: what leads there would run in a circle.
    pub own_listeners: Vec<SocketAddr>,
    /// Where this worker calls.
    pub destinations: Destinations,
    /// The applications behind redirected connections.
    pub applications: Applications,
    /// Requests, counted.
    pub metrics: RequestMetrics,
    /// Connections, counted.
    pub connections: ConnectionMetrics,
    /// Requests, written down.
    pub access_log: AccessLog,
    /// What is open and was admitted.
    pub live: LiveSet,
    /// Tokens that were accepted.
    pub tokens: TokenCache,
    /// Where bodies lie while external authorizers are shown them.
    pub shown: Room,
    /// Where bodies were kept that could have been sent again.
    pub spares: Spares,
    /// For choices that need not be secret.
    pub random: RefCell<Random>,
}

/// Runs a worker until the drain is over.
pub async fn run(index: WorkerIndex, shared: Arc<Shared>, listeners: Listeners) {
    let worker = Worker::new(shared);
    tracing::debug!(worker = index.get(), "worker started");
    // Until the certificate and the first configuration are there, connections wait in the backlog.
    let drain = worker.shared.drain.clone();
    if drain.until_closing(worker.shared.admitted()).await.is_none() {
        // A worker that ends before the drain is one that failed.
        drain.forced().await;
        return;
    }
    let mut accepting = Vec::new();
    if let Some(listener) = listeners.outbound {
        accepting.push(accept(&worker, listener, Direction::Outbound, move |worker, stream, client| {
            outbound::serve(worker, stream, client, Target::Proxy)
        }));
    }
    for (service, port, listener) in listeners.services {
        let target = Target::Destination { asked: Asked::Service(service), port };
        accepting.push(accept(&worker, listener, Direction::Outbound, move |worker, stream, client| {
            outbound::serve(worker, stream, client, target.clone())
        }));
    }
    for (application, listener) in listeners.inbound {
        let application = Rc::new(Application::new(application));
        worker.destinations.keep_swept(application.pool());
        accepting.push(accept(&worker, listener, Direction::Inbound, move |worker, stream, client| {
            inbound::serve(worker, application.clone(), stream, client)
        }));
    }
    for listener in listeners.redirected_outbound {
        accepting.push(accept(&worker, listener, Direction::Outbound, redirected::outbound));
    }
    if let Some(listener) = listeners.redirected_inbound {
        accepting.push(accept(&worker, listener, Direction::Inbound, redirected::inbound));
    }
    let sweeper = worker.clone();
    let sweep = spawn_local("sweep", async move {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            sweeper.destinations.sweep(&sweeper.policy.current());
            sweeper.applications.sweep();
            let own = sweeper.policy.current().own.clone();
            let guards = &sweeper.shared.guards;
            // Who it is may be missing for a moment; what is being served counts on.
            if own.workload.is_some() {
                guards.retain(|name| own.traffic.iter().any(|(held, _)| held == name));
            }
            sweeper.connections.places(guards.places());
        }
    });
    let giver = worker.clone();
    let give = spawn_local("connections wanted", async move {
        let mut wanted = giver.shared.limits.wanted();
        while wanted.changed().await.is_ok() {
            giver.destinations.give_up_wanted();
        }
    });
    let follower = worker.clone();
    let follow = spawn_local("revocation", async move { follower.live.follow(&follower.policy).await });
    for task in accepting {
        if let Err(error) = task.await {
            tracing::error!(%error, "a listener ended early");
        }
    }
    // Connections hold their own watch of the drain; the runtime outlives this until they are done.
    drain.forced().await;
    sweep.abort();
    give.abort();
    follow.abort();
}

impl Worker {
    /// A worker that has nothing open.
    pub fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            policy: shared.policy.reader(),
            dialler: Dialler::new(shared.settings.control.bypass, shared.settings.tcp),
            own_listeners: shared.settings.listeners().into_iter().map(|(_, address)| address).collect(),
            destinations: Destinations::default(),
            applications: Applications::default(),
            metrics: RequestMetrics::new(&shared.families),
            connections: ConnectionMetrics::new(&shared.families),
            access_log: shared.access_log.clone(),
            live: LiveSet::default(),
            tokens: TokenCache::default(),
            shown: Room::new(shown::ROOM),
            spares: Spares::default(),
            random: RefCell::new(Random::new()),
            shared,
        })
    }

    /// Whether an address is this pod's own, so that a call to it must come back in like a peer's.
    pub fn is_redirected_to_itself(&self, policy: &Policy, ip: IpAddr) -> bool {
        self.shared.settings.capture.is_some()
            && policy.own.workload.as_ref().is_some_and(|own| own.addresses.contains(&ip))
    }
}

fn accept<F, Fut>(
    worker: &Rc<Worker>,
    listener: std::net::TcpListener,
    direction: Direction,
    serve: F,
) -> tokio::task::JoinHandle<()>
where
    F: Fn(Rc<Worker>, tokio::net::TcpStream, SocketAddr) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let worker = worker.clone();
    spawn_local("listener", async move {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "a listener cannot be registered");
                return;
            }
        };
        let drain = worker.shared.drain.clone();
        let accepting = listener::accept(worker, listener, direction, serve);
        match direction {
            Direction::Inbound => drain.until_closing(accepting).await,
            // The application calls for as long as it lives.
            Direction::Outbound => drain.until_forced(accepting).await,
        };
    })
}
