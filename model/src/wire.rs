//! Messages ↔ model. The only way from the wire into the model, and so the place where what is not
//! understood is refused: a level above ours, an enum value that is 0 or unknown, a oneof with
//! nothing in it. A refused security resource is as good as not held, and that denies.

mod authentication;
mod authorization;
mod endpoints;
mod mesh;
mod overload;
mod probe;
mod request_authentication;
mod route;
mod service;
mod traffic;
mod workload;

use crate::authentication::PeerAuthentication;
use crate::authorization::{Authorization, Provenance};
use crate::endpoints::Endpoints;
use crate::mesh::{Generation, MeshConfig};
use crate::names::ResourceName;
use crate::proto::v1;
use crate::request_authentication::RequestAuthentication;
use crate::route::Route;
use crate::service::Service;
use crate::traffic::TrafficPolicy;
use crate::trust::TrustBundle;
use crate::workload::{Description, Workload};
use prost::Message;
use std::sync::Arc;

/// The type of a resource.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `weft.v1.TrustBundle`
    TrustBundle,
    /// `weft.v1.MeshConfig`
    MeshConfig,
    /// `weft.v1.Authorization`
    Authorization,
    /// `weft.v1.PeerAuthentication`
    PeerAuthentication,
    /// `weft.v1.RequestAuthentication`
    RequestAuthentication,
    /// `weft.v1.Workload`
    Workload,
    /// `weft.v1.Route`
    Route,
    /// `weft.v1.TrafficPolicy`
    TrafficPolicy,
    /// `weft.v1.Endpoints`
    Endpoints,
    /// `weft.v1.Service`
    Service,
    /// `weft.v1.Generation`
    Generation,
}

impl Kind {
    /// All, in the order in which a batch is sent: what is named comes before what names it, and the
    /// Generation last.
    pub const ALL: [Self; 11] = [
        Self::TrustBundle,
        Self::MeshConfig,
        Self::Authorization,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::Workload,
        Self::Route,
        Self::TrafficPolicy,
        Self::Endpoints,
        Self::Service,
        Self::Generation,
    ];

    /// The type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::TrustBundle => "type.googleapis.com/weft.v1.TrustBundle",
            Self::MeshConfig => "type.googleapis.com/weft.v1.MeshConfig",
            Self::Authorization => "type.googleapis.com/weft.v1.Authorization",
            Self::PeerAuthentication => "type.googleapis.com/weft.v1.PeerAuthentication",
            Self::RequestAuthentication => "type.googleapis.com/weft.v1.RequestAuthentication",
            Self::Workload => "type.googleapis.com/weft.v1.Workload",
            Self::Route => "type.googleapis.com/weft.v1.Route",
            Self::TrafficPolicy => "type.googleapis.com/weft.v1.TrafficPolicy",
            Self::Endpoints => "type.googleapis.com/weft.v1.Endpoints",
            Self::Service => "type.googleapis.com/weft.v1.Service",
            Self::Generation => "type.googleapis.com/weft.v1.Generation",
        }
    }

    /// The type of a URL.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Whether one that is not understood counts as not held, which refuses what it is for: its last good
    /// version may allow what the new one forbids. All that decides about requests is such a kind, a route's
    /// filters and a traffic policy's limits too; the others say where something is.
    pub fn is_lost_unless_understood(self) -> bool {
        match self {
            Self::TrustBundle
            | Self::MeshConfig
            | Self::Authorization
            | Self::PeerAuthentication
            | Self::RequestAuthentication
            | Self::Workload
            | Self::Route
            | Self::TrafficPolicy => true,
            Self::Endpoints | Self::Service | Self::Generation => false,
        }
    }
}

/// One resource, whatever its type.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Resource {
    TrustBundle(Arc<TrustBundle>),
    MeshConfig(Arc<MeshConfig>),
    Authorization(Arc<Authorization>),
    PeerAuthentication(Arc<PeerAuthentication>),
    RequestAuthentication(Arc<RequestAuthentication>),
    Workload(Arc<Workload>),
    Route(Arc<Route>),
    TrafficPolicy(Arc<TrafficPolicy>),
    Endpoints(Arc<Endpoints>),
    Service(Arc<Service>),
    Generation(Arc<Generation>),
}

/// Why a resource was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// It needs a newer reader, or holds what this one does not know. Keeping the last good version
    /// may be weaker than what was meant: see [`Kind::is_lost_unless_understood`].
    #[error("not understood: {0}")]
    NotUnderstood(String),
    /// It is wrong. The last good version stays.
    #[error("invalid: {0}")]
    Invalid(String),
}

impl Resource {
    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            Self::TrustBundle(_) => Kind::TrustBundle,
            Self::MeshConfig(_) => Kind::MeshConfig,
            Self::Authorization(_) => Kind::Authorization,
            Self::PeerAuthentication(_) => Kind::PeerAuthentication,
            Self::RequestAuthentication(_) => Kind::RequestAuthentication,
            Self::Workload(_) => Kind::Workload,
            Self::Route(_) => Kind::Route,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::Service(_) => Kind::Service,
            Self::Generation(_) => Kind::Generation,
        }
    }

    /// Its name.
    pub fn name(&self) -> ResourceName {
        let fixed = |text: &str| text.parse().expect("a resource's own name must parse");
        match self {
            Self::TrustBundle(bundle) => fixed(bundle.trust_domain.as_str()),
            Self::MeshConfig(_) => fixed("mesh"),
            Self::Authorization(policy) => {
                ResourceName::of("AuthorizationPolicy", &policy.namespace, &policy.name)
            }
            Self::PeerAuthentication(policy) => {
                ResourceName::of("PeerAuthentication", &policy.namespace, &policy.name)
            }
            Self::RequestAuthentication(policy) => {
                ResourceName::of("RequestAuthentication", &policy.namespace, &policy.name)
            }
            Self::Workload(workload) => fixed(workload.uid.as_str()),
            Self::Route(route) => route.resource_name(),
            Self::TrafficPolicy(policy) => policy.resource_name(),
            Self::Endpoints(endpoints) => endpoints.resource_name(),
            Self::Service(service) => service.resource_name(),
            Self::Generation(_) => fixed("generation"),
        }
    }

    /// The message. Deterministic: equal resources have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::TrustBundle(held) => mesh::bundle_to_wire(held).encode_to_vec(),
            Self::MeshConfig(held) => mesh::config_to_wire(held).encode_to_vec(),
            Self::Authorization(held) => authorization::to_wire(held).encode_to_vec(),
            Self::PeerAuthentication(held) => authentication::to_wire(held).encode_to_vec(),
            Self::RequestAuthentication(held) => request_authentication::to_wire(held).encode_to_vec(),
            Self::Workload(held) => workload::to_wire(held).encode_to_vec(),
            Self::Route(held) => route::to_wire(held).encode_to_vec(),
            Self::TrafficPolicy(held) => traffic::to_wire(held).encode_to_vec(),
            Self::Endpoints(held) => endpoints::to_wire(held).encode_to_vec(),
            Self::Service(held) => service::to_wire(held).encode_to_vec(),
            Self::Generation(held) => mesh::generation_to_wire(held).encode_to_vec(),
        }
    }

    /// Reads a message, and holds the resource to the name it came under.
    pub fn decode(kind: Kind, name: &str, bytes: &[u8]) -> Result<Self, Refusal> {
        let resource = match kind {
            Kind::TrustBundle => Self::TrustBundle(Arc::new(mesh::bundle_from_wire(message(bytes)?)?)),
            Kind::MeshConfig => Self::MeshConfig(Arc::new(mesh::config_from_wire(message(bytes)?)?)),
            Kind::Authorization => Self::Authorization(Arc::new(authorization::from_wire(message(bytes)?)?)),
            Kind::PeerAuthentication => {
                Self::PeerAuthentication(Arc::new(authentication::from_wire(message(bytes)?)?))
            }
            Kind::RequestAuthentication => {
                Self::RequestAuthentication(Arc::new(request_authentication::from_wire(message(bytes)?)?))
            }
            Kind::Workload => Self::Workload(Arc::new(workload::from_wire(message(bytes)?)?)),
            Kind::Route => Self::Route(Arc::new(route::from_wire(message(bytes)?)?)),
            Kind::TrafficPolicy => Self::TrafficPolicy(Arc::new(traffic::from_wire(message(bytes)?)?)),
            Kind::Endpoints => Self::Endpoints(Arc::new(endpoints::from_wire(message(bytes)?)?)),
            Kind::Service => Self::Service(Arc::new(service::from_wire(message(bytes)?)?)),
            Kind::Generation => Self::Generation(Arc::new(mesh::generation_from_wire(message(bytes)?)?)),
        };
        let own = resource.name();
        if own.as_str() != name {
            return Err(Refusal::Invalid(format!("it is named {own} and came as {name:?}")));
        }
        Ok(resource)
    }
}

fn message<M: Message + Default>(bytes: &[u8]) -> Result<M, Refusal> {
    M::decode(bytes).map_err(|error| Refusal::Invalid(error.to_string()))
}

// === What all conversions share ===

fn level(needs_level: u32) -> Result<(), Refusal> {
    match needs_level {
        0 => Err(Refusal::NotUnderstood("it has no needs_level".to_owned())),
        1..=crate::LEVEL => Ok(()),
        newer => {
            Err(Refusal::NotUnderstood(format!("it needs level {newer}, this proxy has {}", crate::LEVEL)))
        }
    }
}

fn invalid(error: impl std::fmt::Display) -> Refusal {
    Refusal::Invalid(error.to_string())
}

fn missing(what: &str) -> Refusal {
    Refusal::NotUnderstood(format!("{what} is empty, or of a kind this proxy does not know"))
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Refusal>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| Refusal::Invalid(format!("{error} ({text:.128?})")))
}

fn each<T, M>(messages: Vec<M>, convert: impl FnMut(M) -> Result<T, Refusal>) -> Result<Vec<T>, Refusal> {
    messages.into_iter().map(convert).collect()
}

fn port(number: u32) -> Result<u16, Refusal> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| invalid(format!("{number} is not a port")))
}

fn provenance_to_wire(provenance: &Provenance) -> Option<v1::Provenance> {
    (*provenance != Provenance::default())
        .then(|| v1::Provenance { file: provenance.file.to_string(), line: provenance.line })
}

fn provenance_from_wire(message: Option<v1::Provenance>) -> Provenance {
    message.map(|message| Provenance { file: message.file.into(), line: message.line }).unwrap_or_default()
}

/// Writes a description; shared with the certificate extension.
pub fn description_to_wire(description: &Description) -> v1::Description {
    v1::Description {
        workload: description.workload.to_string(),
        namespace: description.namespace.to_string(),
        service_account: description.service_account.to_string(),
        app: description.app.to_string(),
        version: description.version.to_string(),
        canonical_service: description.canonical_service.to_string(),
        canonical_revision: description.canonical_revision.to_string(),
        cluster: description.cluster.to_string(),
    }
}

/// Reads a description; shared with the certificate extension. An empty word is `unknown`; a word
/// over 253 bytes or with other than printable ASCII is too, since it becomes a metric label.
pub fn description_from_wire(message: v1::Description) -> Description {
    let word = |text: String| -> Box<str> {
        let fit = (1..=253).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fit { text.into() } else { crate::workload::UNKNOWN.into() }
    };
    Description {
        workload: word(message.workload),
        namespace: word(message.namespace),
        service_account: word(message.service_account),
        app: word(message.app),
        version: word(message.version),
        canonical_service: word(message.canonical_service),
        canonical_revision: word(message.canonical_revision),
        cluster: word(message.cluster),
    }
}

#[cfg(test)]
mod tests;
