//! A question's names → what they stand for, or why there is no answer.
//!
//! Nothing is guessed: a name that stands for nothing, a port that has to be said, an address that a
//! policy asks for and nobody gave are refused rather than answered somehow.

use super::Prepared;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use weft_config::case::{self, Ask, Destination, Who};
use weft_model::mesh::Mesh;
use weft_model::names::WorkloadUid;
use weft_model::request::host_of;
use weft_model::service::{Service, ServicePort, ServiceTarget, direct_name};
use weft_model::spiffe::SpiffeId;
use weft_model::token::Claims;
use weft_proxy::http::{Headers, Method, RequestHead, Version, respond};

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The workload, where one was named.
    pub(crate) workload: Option<WorkloadUid>,
    /// What it can prove. `None`: nothing.
    pub(crate) identity: Option<SpiffeId>,
    /// Where it calls from.
    pub(crate) address: Option<IpAddr>,
    /// The claims of a good token that it shows.
    pub(crate) claims: Option<Claims>,
    /// Whose consumer routes hold for it; empty: nobody's.
    pub(crate) namespace: String,
    /// Whether a proxy of the mesh carries its calls.
    pub(crate) proxied: bool,
}

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Unanswerable(String, Wants);

/// What would make a question answerable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wants {
    Another,
    Address,
}

impl fmt::Display for Unanswerable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unanswerable {}

impl Unanswerable {
    fn new(text: String) -> Self {
        Self(text, Wants::Another)
    }

    /// Whether the client's address is all that is missing.
    pub(crate) fn wants_address(&self) -> bool {
        self.1 == Wants::Address
    }
}

// === impl Caller ===

impl Caller {
    pub(super) fn find(from: &case::Caller, mesh: &Mesh) -> Result<Self, Unanswerable> {
        let nobody = Self {
            workload: None,
            identity: None,
            address: from.ip,
            claims: from.claims.clone(),
            namespace: String::new(),
            proxied: !from.plaintext,
        };
        let known = |identity: SpiffeId| {
            let namespace = identity.namespace().to_owned();
            Self { identity: Some(identity), namespace, ..nobody.clone() }
        };
        Ok(match &from.who {
            Who::Unknown => nobody,
            Who::Identity(identity) => known(identity.clone()),
            Who::Account(namespace, account) => {
                known(SpiffeId::new(&mesh.config.trust_domain, namespace, account))
            }
            Who::Workload(uid) => {
                let workload = mesh.workloads.get(uid).ok_or_else(|| {
                    Unanswerable::new(format!("there is no Workload {uid} (or it has errors)"))
                })?;
                let proxied = nobody.proxied && !mesh.plain.contains(uid);
                Self {
                    claims: nobody.claims,
                    workload: Some(uid.clone()),
                    identity: proxied.then(|| workload.identity()),
                    address: from.ip.or(workload.addresses.first().copied()),
                    namespace: workload.namespace.to_string(),
                    proxied,
                }
            }
        })
    }

    /// Its address; where no policy asks for it, any will do.
    pub(super) fn address_or_none(&self) -> IpAddr {
        self.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

/// The destination and its port.
pub(super) fn destination<'m>(
    to: &Destination,
    mesh: &'m Mesh,
) -> Result<(&'m Service, &'m ServicePort), Unanswerable> {
    let (name, what, wanted) = match to {
        Destination::Service(name, port) => (name.resource_name(), format!("Service {name}"), *port),
        Destination::Workload(uid, port) => (direct_name(uid), format!("Workload {uid}"), *port),
    };
    let service = mesh.services.get(&name);
    let service =
        service.ok_or_else(|| Unanswerable::new(format!("there is no {what} (or it has errors)")))?;
    let ports = || service.ports.iter().map(|port| port.port.to_string()).collect::<Vec<_>>().join(", ");
    let port = match (wanted, &service.ports[..]) {
        (Some(wanted), _) => service.port(wanted).ok_or_else(|| {
            Unanswerable::new(format!("the {what} has no port {wanted}; it has {}", ports()))
        })?,
        (None, [only]) => only,
        (None, []) => return Err(Unanswerable::new(format!("the {what} has no port"))),
        (None, _) => {
            return Err(Unanswerable::new(format!("the {what} has several ports, say which: {}", ports())));
        }
    };
    Ok((service, port))
}

/// The request as the client's proxy has it when the first rule looks at it.
pub(super) fn head(
    ask: &Ask,
    service: &Service,
    port: &ServicePort,
) -> Result<Option<RequestHead>, Unanswerable> {
    let Ask::Http { method, path, host, headers } = ask else { return Ok(None) };
    let refused = |what: &str| Unanswerable::new(format!("{what} cannot stand in a request"));
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| refused("the method"))?;
    let mut fields = Headers::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).map_err(|_| refused(&format!("the field {name:?}")))?;
    }
    respond::strip_internal(&mut fields);
    fields.remove_hop_by_hop(false);
    let authority = host.clone().unwrap_or_else(|| authority(service, port.port));
    let head = RequestHead::new(method, Version::Http11, &authority, path, fields);
    head.map(Some).map_err(|_| refused("the host or the path"))
}

/// The server that a client's own TLS names: for a request the host of that within, where one is given.
pub(super) fn server_name(ask: &Ask) -> Option<String> {
    let named = match ask {
        Ask::Tcp { server_name } => server_name.as_deref(),
        Ask::Http { host, .. } => host.as_deref().map(host_of),
    };
    named.map(str::to_ascii_lowercase)
}

// As applications spell it.
fn authority(service: &Service, port: u16) -> String {
    let host = match &service.target {
        ServiceTarget::Service(name) => format!("{}.{}", name.name, name.namespace),
        ServiceTarget::Workload(uid) => match service.addresses.first() {
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            Some(address) => address.to_string(),
            None => uid.to_string(),
        },
    };
    if port == 80 { host } else { format!("{host}:{port}") }
}

// === impl Prepared ===

impl Prepared<'_> {
    /// An address that nobody gave must not be judged as if it were some address.
    pub(super) fn check_address(&self) -> Result<(), Unanswerable> {
        if self.caller.address.is_some() {
            return Ok(());
        }
        let mut ends = self.direct.iter().chain(self.backends.values().flatten());
        match ends.find_map(|end| end.own.looks_at_address.as_ref()) {
            Some(policy) => {
                let text = format!(
                    "the AuthorizationPolicy {policy} looks at the client's address: say which it is (`ip`)"
                );
                Err(Unanswerable(text, Wants::Address))
            }
            None => Ok(()),
        }
    }
}
