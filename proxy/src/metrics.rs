//! Request and connection metrics: Istio's names and labels, so that dashboards work as they are.
//!
//! Every label value is the mesh's own word (a certificate's description, Endpoints, Workload) or
//! one of a closed list, never a byte of a request. Handles are looked up once per combination and
//! kept by the worker; counting a request is then a few additions in the worker's own cells.

mod connections;
mod families;
mod requests;

pub use connections::{ConnectionMetrics, OpenConnection};
pub use families::Families;
pub use requests::{OpenTcp, RequestCells, RequestMetrics, TcpCells};

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use weft_model::names::ServiceName;
use weft_model::reason::Reason;
use weft_model::spiffe::SpiffeId;
use weft_model::workload::{Description, UNKNOWN};

/// Which side of the application a connection is on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// From another workload to the application.
    Inbound,
    /// From the application to another workload.
    Outbound,
}

impl Direction {
    /// The word in labels and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    pub(super) const fn reporter(self) -> &'static str {
        match self {
            Self::Inbound => "destination",
            Self::Outbound => "source",
        }
    }
}

/// What a request is counted under, besides its outcome. Made once per connection or endpoint and
/// kept, with the handles of the outcomes seen so far.
#[derive(Debug)]
pub struct Ends {
    /// Who counts.
    pub direction: Direction,
    /// Who called.
    pub source: Arc<Description>,
    /// Its proven identity.
    pub source_identity: Option<Arc<SpiffeId>>,
    /// Who was called.
    pub destination: Arc<Description>,
    /// The identity it proved.
    pub destination_identity: Option<Arc<SpiffeId>>,
    /// The Service that was asked for: host, name, namespace.
    pub service: Arc<ServiceLabels>,
    /// Whether the connection was mutual TLS.
    pub mutual_tls: bool,
    /// A few outcomes make up nearly all requests: a list is searched faster than a map.
    pub cells: RefCell<Vec<(Outcome, Rc<RequestCells>)>>,
}

/// A Service in labels.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceLabels {
    /// `NAME.NAMESPACE.svc.cluster.local`
    pub host: Box<str>,
    /// The Service's name.
    pub name: Box<str>,
    /// The Service's namespace.
    pub namespace: Box<str>,
}

impl ServiceLabels {
    /// A Service's.
    pub fn of(service: &ServiceName) -> Self {
        Self {
            host: format!("{}.{}.svc.cluster.local", service.name, service.namespace).into(),
            name: service.name.as_str().into(),
            namespace: service.namespace.as_str().into(),
        }
    }
}

impl Default for ServiceLabels {
    fn default() -> Self {
        Self { host: UNKNOWN.into(), name: UNKNOWN.into(), namespace: UNKNOWN.into() }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// The status.
    pub status: u16,
    /// `grpc-status`, of gRPC answers.
    pub grpc_status: Option<u8>,
    /// Set on an answer the mesh made, and on a body that broke.
    pub reason: Option<Reason>,
    /// Whether it was gRPC.
    pub grpc: bool,
}
