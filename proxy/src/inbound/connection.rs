//! One connection to the workload: whose it is, what it is for, and how it came (mutual TLS or
//! plaintext). Everything is asked of the policy of the moment; nothing of an earlier judgement is kept.

use super::Application;
use super::checks::Came;
use super::judge::Denied;
use crate::metrics::{Ends, ServiceLabels};
use crate::overload::Admission;
use crate::policy::Policy;
use crate::pool::Pool;
use crate::tls::Peer;
use crate::worker::Worker;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use weft_model::authorization::Caller;
use weft_model::reason::Reason;
use weft_model::service::Protocol;
use weft_model::sni::MeshServerName;
use weft_model::workload::{Description, Workload};

/// One connection to the workload.
pub struct Connection {
    worker: Rc<Worker>,
    application: Rc<Application>,
    client: SocketAddr,
    /// As the mesh advertises it.
    local: SocketAddr,
    mesh: Option<Mesh>,
    /// The server that the application's own TLS names, outside the mesh.
    server_name: Option<Box<str>>,
    /// What requests are counted under, for that version of what binds the workload.
    ends: RefCell<Option<(u64, Rc<Ends>)>>,
    /// What its client is to the policies, for the same.
    caller: Cell<Option<(u64, Caller)>>,
    /// The external authorizer that agreed to what it carries as opaque bytes.
    agreed: RefCell<Option<Box<str>>>,
    /// What counts for its requests, for the same.
    admission: RefCell<Option<(u64, Rc<Admission>)>>,
}

/// What mutual TLS proved.
pub struct Mesh {
    /// The client.
    pub peer: Arc<Peer>,
    /// What it means.
    pub server_name: MeshServerName,
    /// The same as it came.
    pub sni: String,
}

impl Connection {
    /// A connection that was accepted. `mesh`: `None` for plaintext.
    pub fn new(
        worker: Rc<Worker>,
        application: Rc<Application>,
        client: SocketAddr,
        local: SocketAddr,
        mesh: Option<Mesh>,
    ) -> Self {
        // A listener on all addresses shows IPv4 in IPv6 clothes, in which it is in no block.
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        Self {
            worker,
            application,
            client,
            local,
            mesh,
            server_name: None,
            ends: RefCell::default(),
            caller: Cell::default(),
            agreed: RefCell::default(),
            admission: RefCell::default(),
        }
    }

    /// With the server that the application's own TLS names.
    #[must_use]
    pub fn naming(mut self, server_name: Option<Box<str>>) -> Self {
        self.server_name = server_name;
        self
    }

    /// The server that the client's TLS names: the mesh's, else the application's own.
    pub fn sni(&self) -> Option<&str> {
        match &self.mesh {
            Some(mesh) => Some(&mesh.sni),
            None => self.server_name.as_deref(),
        }
    }

    /// What is declared of the port.
    pub fn protocol(&self, policy: &Policy) -> Protocol {
        policy.own.protocol(self.local.port())
    }

    /// Whose it is.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// The client's address.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// The address that was dialled, as the mesh advertises it.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The client's proven identity; empty without one.
    pub fn source(&self) -> &str {
        self.peer().map_or("", |peer| peer.identity.as_str())
    }

    /// The client, if it proved who it is.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.mesh.as_ref().map(|mesh| &mesh.peer)
    }

    /// Connections to the application.
    pub fn application(&self) -> &Rc<Pool> {
        self.application.pool()
    }

    /// Whether it is plaintext from where the kubelet's probes come from, to a port that has some.
    pub fn is_from_node(&self, policy: &Policy) -> bool {
        if self.mesh.is_some() {
            return false;
        }
        let Some(own) = &policy.own.workload else { return false };
        own.probes.iter().any(|probe| probe.port == self.local.port())
            && policy.config.node_cidrs.iter().any(|block| block.contains(&self.client.ip()))
    }

    /// How it came.
    pub fn came(&self) -> Came<'_> {
        Came {
            client: self.client.ip(),
            local: self.local,
            server_name: self.mesh.as_ref().map(|mesh| &mesh.server_name),
            source: self.peer().map(|peer| &peer.identity),
            sni: self.sni(),
        }
    }

    /// What holds whatever is asked for, see [`Came::admit`].
    pub fn admit(&self, policy: &Policy) -> Result<(), Denied> {
        self.came().admit(policy).map(drop)
    }

    /// What its client is to the policies: looked up once for all requests under them.
    pub fn caller(&self, policy: &Policy) -> Caller {
        if let Some((version, caller)) = self.caller.get()
            && version == policy.own_version
        {
            return caller;
        }
        let caller = policy.own.authorization.caller(self.peer().map(|peer| &peer.identity));
        self.caller.set(Some((policy.own_version, caller)));
        caller
    }

    /// The external authorizer that agreed to what it carries as opaque bytes.
    pub fn agreed(&self) -> Option<Box<str>> {
        self.agreed.borrow().clone()
    }

    /// Notes that it agreed.
    pub fn agree(&self, provider: Box<str>) {
        *self.agreed.borrow_mut() = Some(provider);
    }

    /// What limits hold for its requests. A limit that is not held, or not understood, lets nothing pass.
    pub fn admission(&self, policy: &Policy) -> Result<Rc<Admission>, Denied> {
        if let Some((held, admission)) = &*self.admission.borrow()
            && *held == policy.own_version
        {
            return Ok(admission.clone());
        }
        let port = policy.own.workload.as_ref().and_then(|own| own.port(self.local.port()));
        let mut policies = Vec::new();
        for name in port.into_iter().flat_map(|port| &port.traffic_policies) {
            let held = policy.own.traffic.iter().find(|(held, _)| held == name);
            let Some(held) = held.and_then(|(_, held)| held.clone()) else {
                let detail = Some(format!("{name} is not held"));
                return Err(Denied::new(Reason::ResourceUnresolved, detail, false));
            };
            policies.push(held);
        }
        let admission = Rc::new(self.worker.shared.guards.admission(&policies, self.source()));
        *self.admission.borrow_mut() = Some((policy.own_version, admission.clone()));
        Ok(admission)
    }

    /// What requests are counted under.
    pub fn ends(&self) -> Rc<Ends> {
        let policy = self.worker.policy.current();
        if let Some((held, ends)) = &*self.ends.borrow()
            && *held == policy.own_version
        {
            return ends.clone();
        }
        let own = &policy.own;
        let source = self.peer().map_or_else(Arc::<Description>::default, |peer| peer.description.clone());
        let ends = Rc::new(Ends {
            direction: super::DIRECTION,
            source,
            source_identity: self.peer().map(|peer| Arc::new(peer.identity.clone())),
            destination: own.description.clone(),
            destination_identity: own.workload.as_ref().map(|workload| Arc::new(workload.identity())),
            service: Arc::new(self.service_labels(own.workload.as_deref())),
            mutual_tls: self.mesh.is_some(),
            cells: RefCell::default(),
        });
        *self.ends.borrow_mut() = Some((policy.own_version, ends.clone()));
        ends
    }

    // Only a name that is this workload's becomes a label.
    fn service_labels(&self, own: Option<&Workload>) -> ServiceLabels {
        let Some(own) = own else { return ServiceLabels::default() };
        let port = self.local.port();
        let named = match self.mesh.as_ref().map(|mesh| &mesh.server_name) {
            Some(name @ MeshServerName::Service { service, .. }) if own.is_meant_by(name, port) => {
                Some(service)
            }
            _ => own.port(port).and_then(|port| port.services.first()).map(|(service, _)| service),
        };
        named.map_or_else(ServiceLabels::default, ServiceLabels::of)
    }
}
