//! The proxy's local view of the model: one immutable [`Policy`] at a time, published by the control
//! client, read by every worker.
//!
//! Workers hold a [`Reader`]: a cached `Arc` that is renewed when a counter says so, so that a request
//! takes no lock another worker can hold. Destinations appear on demand ([`Reader::demand`]); one that
//! was asked for is `Known` or `Absent`, else nothing is known yet and the caller waits.
//!
//! It refuses to guess: what a resource names and what is not held is unresolved, and that denies.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use weft_model::authentication::TlsModes;
use weft_model::authorization::AuthorizationSet;
use weft_model::endpoints::Endpoint;
use weft_model::mesh::{Generation, MeshConfig};
use weft_model::names::{ResourceName, ServiceName};
use weft_model::request_authentication::RequestAuthenticationSet;
use weft_model::route_table::RouteTable;
use weft_model::service::{Protocol, Service};
use weft_model::traffic::{Traffic, TrafficPolicy};
use weft_model::workload::{Description, Workload};

/// How many destinations may be asked for and not yet passed to the control client.
const DEMANDS_MAX: usize = 1024;

/// One state of what the proxy knows.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The generation it was committed as; `None` until the first.
    pub generation: Option<Arc<Generation>>,
    /// What holds for the whole mesh.
    pub config: Arc<MeshConfig>,
    /// What binds this workload.
    pub own: Arc<Own>,
    /// By the name that was asked for.
    pub destinations: HashMap<Asked, Resolution>,
    /// Set while the control API has not confirmed it: it came from the last good snapshot.
    pub stale: bool,
    /// Set when it is older than its maximum age: everything is denied.
    pub too_old: bool,
    /// Which publication it is; set by [`Publisher::publish`].
    pub version: u64,
    /// The publication since which `own` is what it is: endpoints change often, and what is looked up of `own`
    /// need not be looked up again for that. Set by [`Publisher::publish`].
    pub own_version: u64,
}

impl Policy {
    /// Whether it says the same of who may call. Endpoints change often and bind nobody.
    pub fn binds_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.own, &other.own) && self.too_old == other.too_old && self.config == other.config
    }
}

/// What binds this workload.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Own {
    /// Who it is. `None` until told: then nothing is admitted.
    pub workload: Option<Arc<Workload>>,
    /// Who may call.
    pub authorization: Arc<AuthorizationSet>,
    /// How clients must connect.
    pub tls: TlsModes,
    /// Which tokens requests may carry. The same `Arc` for as long as nothing in it changes.
    pub tokens: Arc<RequestAuthenticationSet>,
    /// The TrafficPolicies of its ports, as far as they are held.
    pub traffic: Vec<(ResourceName, Option<Arc<TrafficPolicy>>)>,
    /// What metrics call it.
    pub description: Arc<Description>,
}

impl Own {
    /// What is declared of a port.
    pub fn protocol(&self, port: u16) -> Protocol {
        let held = self.workload.as_ref().and_then(|workload| workload.port(port));
        held.map(|held| held.protocol).unwrap_or_default()
    }
}

/// A name under which a destination is asked for: a Service, or an address and port as dialled.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Asked {
    /// By name.
    Service(ServiceName),
    /// By address.
    Address(SocketAddr),
}

impl Asked {
    /// The name on the wire: `NAMESPACE/NAME` or `@IP:PORT`.
    pub fn wire_name(&self) -> String {
        match self {
            Self::Service(name) => name.to_string(),
            Self::Address(address) => format!("@{address}"),
        }
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// What became of a question.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// It exists.
    Known(Arc<Destination>),
    /// The mesh has nothing of that name or address.
    Absent,
}

/// A Service, or one workload, with all that concerns calls to it.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Its canonical name.
    pub name: ResourceName,
    /// What it is.
    pub service: Arc<Service>,
    /// Its ports.
    pub ports: Vec<Arc<DestinationPort>>,
}

impl Destination {
    /// The port of that number.
    pub fn port(&self, port: u16) -> Option<&Arc<DestinationPort>> {
        self.ports.iter().find(|held| held.port == port)
    }
}

/// One port of a destination. The same `Arc` for as long as nothing in it changes.
#[derive(Clone, Debug)]
pub struct DestinationPort {
    /// The destination's canonical name.
    pub destination: ResourceName,
    /// The destination's kind and name.
    pub service: Arc<Service>,
    /// The number that is dialled.
    pub port: u16,
    /// What its owner declared.
    pub protocol: Protocol,
    /// The routes that hold for this proxy's namespace.
    pub routes: RouteTable,
    /// The destinations that the routes' backends name, by `NAMESPACE/NAME`, where they exist.
    pub backends: HashMap<(ServiceName, u16), Arc<Self>>,
    /// Where it leads.
    pub endpoints: Arc<EndpointSet>,
    /// How its callers treat it. The same `Arc` for as long as nothing in it changes.
    pub traffic: Arc<Traffic>,
    /// Whether this is the port without routes, as backends are. Of a port that has some, both are in use.
    pub is_backend: bool,
    /// Whether a backend has sessions by a policy of its own.
    pub backend_sessions: bool,
    /// A resource that it names and that is not held or not understood: every request fails.
    pub unresolved: Option<ResourceName>,
}

/// All endpoints of a port. The same `Arc` for as long as nothing in it changes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EndpointSet {
    /// Sorted by UID and address.
    pub endpoints: Vec<Arc<Endpoint>>,
}

struct Shared {
    version: AtomicU64,
    current: Mutex<Arc<Policy>>,
    changed: watch::Sender<u64>,
    demands: mpsc::Sender<Asked>,
}

/// The control client's end: publishes, and hears what is asked for.
pub struct Publisher {
    shared: Arc<Shared>,
}

/// What a process shares; each worker makes its own [`Reader`] of it.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// A worker's end.
pub struct Reader {
    shared: Arc<Shared>,
    seen: Cell<u64>,
    cached: RefCell<Rc<Current>>,
}

/// The policy as a worker holds it: counted by the worker alone, since the Arc's own count would be
/// written to by all workers at once.
pub struct Current(Arc<Policy>);

impl std::ops::Deref for Current {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.0
    }
}

/// Makes the two ends and the queue of what is asked for.
pub fn channel() -> (Publisher, Handle, mpsc::Receiver<Asked>) {
    let (demands, asked) = mpsc::channel(DEMANDS_MAX);
    let shared = Arc::new(Shared {
        version: AtomicU64::new(0),
        current: Mutex::new(Arc::default()),
        changed: watch::Sender::new(0),
        demands,
    });
    (Publisher { shared: shared.clone() }, Handle { shared }, asked)
}

// === impl Publisher ===

impl Publisher {
    /// Replaces what all workers see from their next request on.
    pub fn publish(&self, mut policy: Policy) {
        let mut current = lock(&self.shared.current);
        let version = self.shared.version.load(Ordering::Acquire) + 1;
        policy.version = version;
        policy.own_version =
            if Arc::ptr_eq(&policy.own, &current.own) { current.own_version } else { version };
        *current = Arc::new(policy);
        self.shared.version.store(version, Ordering::Release);
        drop(current);
        // State first, wake-ups second: who is woken sees what it was woken for.
        self.shared.changed.send_replace(version);
    }

    /// What is published now.
    pub fn current(&self) -> Arc<Policy> {
        lock(&self.shared.current).clone()
    }
}

fn lock(current: &Mutex<Arc<Policy>>) -> std::sync::MutexGuard<'_, Arc<Policy>> {
    // A panic while the lock is held cannot leave a half-written Arc.
    current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

// === impl Handle ===

impl Handle {
    /// A worker's end.
    pub fn reader(&self) -> Reader {
        let seen = self.shared.version.load(Ordering::Acquire);
        let cached = lock(&self.shared.current).clone();
        Reader { shared: self.shared.clone(), seen: seen.into(), cached: Rc::new(Current(cached)).into() }
    }

    /// What is published now; for admin, not for requests.
    pub fn current(&self) -> Arc<Policy> {
        lock(&self.shared.current).clone()
    }

    /// Told of every publication.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }
}

// === impl Reader ===

impl Reader {
    /// What holds now.
    pub fn current(&self) -> Rc<Current> {
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.seen.get() {
            *self.cached.borrow_mut() = Rc::new(Current(lock(&self.shared.current).clone()));
            self.seen.set(version);
        }
        self.cached.borrow().clone()
    }

    /// Counts up with every publication: what was looked up before may be stale.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// The destination, asked for on first use. `None`: not known by the deadline.
    pub async fn resolve(&self, asked: &Asked, deadline: Instant) -> Option<Resolution> {
        if let Some(held) = self.current().destinations.get(asked) {
            return Some(held.clone());
        }
        let mut changes = self.shared.changed.subscribe();
        let wait = async {
            // A full queue is load, not failure: wait for room within the deadline.
            self.shared.demands.send(asked.clone()).await.ok()?;
            loop {
                if let Some(held) = self.current().destinations.get(asked) {
                    return Some(held.clone());
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout_at(deadline.into(), wait).await.ok().flatten()
    }

    /// Told of every publication.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_destination_is_asked_for_once_and_waited_for() {
        let (publisher, handle, mut asked) = channel();
        let reader = handle.reader();
        let name = Asked::Service("shop/cart".parse().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        let answer = async {
            let wanted = asked.recv().await.unwrap();
            let mut policy = Policy::default();
            policy.destinations.insert(wanted, Resolution::Absent);
            publisher.publish(policy);
        };
        let (found, ()) = tokio::join!(reader.resolve(&name, deadline), answer);
        assert!(matches!(found, Some(Resolution::Absent)));
        assert_eq!(name.wire_name(), "shop/cart");
    }

    #[test]
    fn what_binds_the_workload_has_a_version_of_its_own() {
        let (publisher, handle, _asked) = channel();
        let reader = handle.reader();
        let bound = Policy { own: Arc::new(Own::default()), ..Policy::default() };
        publisher.publish(bound.clone());
        let first = reader.current().own_version;
        assert_eq!((reader.current().version, first), (1, 1));
        publisher.publish(Policy { own: bound.own.clone(), ..Policy::default() });
        assert_eq!((reader.current().version, reader.current().own_version), (2, first), "endpoints alone");
        publisher.publish(Policy { own: Arc::new(Own::default()), ..Policy::default() });
        assert_eq!((reader.current().version, reader.current().own_version), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_answered_by_the_deadline_is_unknown() {
        let (_publisher, handle, _asked) = channel();
        let address = Asked::Address("10.0.0.1:80".parse().unwrap());
        let deadline = Instant::now() + Duration::from_secs(1);
        assert!(handle.reader().resolve(&address, deadline).await.is_none());
        assert_eq!(address.wire_name(), "@10.0.0.1:80");
    }
}
