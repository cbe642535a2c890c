//! Request and connection metrics: Istio's names and labels, so that dashboards work as they are.
//!
//! Every label value is the mesh's own word (a certificate's description, Endpoints, Workload) or
//! one of a closed list, never a byte of a request. Handles are looked up once per combination and
//! kept by the worker; counting a request is then a few additions in the worker's own cells.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use weft_model::reason::Reason;
use weft_model::spiffe::SpiffeId;
use weft_model::workload::{Description, UNKNOWN};
use weft_runtime::registry::{
    CounterCell, CounterFamily, GaugeCell, GaugeFamily, GaugeGuard, HistogramCell, HistogramFamily, Registry,
    RegistryError,
};

const REQUEST_LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

const TCP_LABELS: [&str; 22] = {
    let mut labels = [""; 22];
    let mut index = 0;
    while index < 21 {
        labels[index] = REQUEST_LABELS[index];
        index += 1;
    }
    labels[21] = "connection_security_policy";
    labels
};

/// Milliseconds: from what two hops add on one machine to the longest default timeout in use.
const DURATION_BUCKETS: [f64; 20] = [
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
];

/// Bytes, by powers of ten.
const SIZE_BUCKETS: [f64; 8] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7];

/// Decisions a worker keeps handles for; past it they are looked up anew.
const CELLS_MAX: usize = 4096;

/// Outcomes that one pair of ends keeps handles for.
const OUTCOMES_MAX: usize = 32;

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

    const fn reporter(self) -> &'static str {
        match self {
            Self::Inbound => "destination",
            Self::Outbound => "source",
        }
    }
}

/// The families, made once per process.
#[derive(Clone, Debug)]
pub struct Families {
    requests: CounterFamily<25>,
    duration: HistogramFamily<25>,
    request_bytes: HistogramFamily<25>,
    response_bytes: HistogramFamily<25>,
    answers: CounterFamily<2>,
    authorization: CounterFamily<3>,
    retries: CounterFamily<2>,
    connections: CounterFamily<1>,
    connections_open: GaugeFamily<1>,
    connections_paused: CounterFamily<0>,
    handshakes: CounterFamily<3>,
    upstream: CounterFamily<2>,
    plaintext: CounterFamily<1>,
    tcp_opened: CounterFamily<22>,
    tcp_closed: CounterFamily<22>,
    tcp_sent: CounterFamily<22>,
    tcp_received: CounterFamily<22>,
}

impl Families {
    /// Makes and registers them.
    pub fn new(registry: &Registry) -> Result<Self, RegistryError> {
        let r = registry;
        Ok(Self {
            requests: r.counter("istio_requests_total", "Requests, by both ends.", REQUEST_LABELS)?,
            duration: r.histogram(
                "istio_request_duration_milliseconds",
                "From a request's head to the end of its answer.",
                REQUEST_LABELS,
                &DURATION_BUCKETS,
            )?,
            request_bytes: r.histogram(
                "istio_request_bytes",
                "Bytes of request bodies.",
                REQUEST_LABELS,
                &SIZE_BUCKETS,
            )?,
            response_bytes: r.histogram(
                "istio_response_bytes",
                "Bytes of answers' bodies.",
                REQUEST_LABELS,
                &SIZE_BUCKETS,
            )?,
            answers: r.counter(
                "weft_answers_total",
                "Answers that the proxy made itself, by reason.",
                ["direction", "reason"],
            )?,
            authorization: r.counter(
                "weft_authorization_decisions_total",
                "Decisions, by the policy that made them.",
                ["verdict", "policy", "rule"],
            )?,
            retries: r.counter(
                "weft_outbound_retries_total",
                "Tries beyond a request's first, by why; outcome `budget` was due and not made.",
                ["reason", "outcome"],
            )?,
            connections: r.counter("weft_connections_total", "Connections accepted.", ["direction"])?,
            connections_open: r.gauge("weft_connections_open", "Connections open.", ["direction"])?,
            connections_paused: r.counter(
                "weft_connections_accept_paused_total",
                "Pauses of accepting for want of file descriptors or room.",
                [],
            )?,
            handshakes: r.counter(
                "weft_tls_handshakes_total",
                "Mesh handshakes that succeeded.",
                ["direction", "alpn", "resumed"],
            )?,
            upstream: r.counter(
                "weft_upstream_connections_total",
                "Connections made to endpoints and the application, by how it went.",
                ["direction", "outcome"],
            )?,
            plaintext: r.counter(
                "weft_inbound_plaintext_connections_total",
                "Inbound connections outside the mesh, by what became of them.",
                ["verdict"],
            )?,
            tcp_opened: r.counter(
                "istio_tcp_connections_opened_total",
                "Opaque connections opened.",
                TCP_LABELS,
            )?,
            tcp_closed: r.counter(
                "istio_tcp_connections_closed_total",
                "Opaque connections closed.",
                TCP_LABELS,
            )?,
            tcp_sent: r.counter("istio_tcp_sent_bytes_total", "Bytes sent as answers.", TCP_LABELS)?,
            tcp_received: r.counter(
                "istio_tcp_received_bytes_total",
                "Bytes received as requests.",
                TCP_LABELS,
            )?,
        })
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

/// The handles of one combination.
#[derive(Debug)]
pub struct RequestCells {
    requests: CounterCell,
    duration: HistogramCell,
    request_bytes: HistogramCell,
    response_bytes: HistogramCell,
}

impl RequestCells {
    /// Counts one request.
    pub fn record(&self, duration: Duration, request_bytes: u64, response_bytes: u64) {
        self.requests.inc();
        self.duration.observe(duration.as_secs_f64() * 1000.0);
        self.request_bytes.observe(request_bytes as f64);
        self.response_bytes.observe(response_bytes as f64);
    }
}

/// The handles of opaque connections between two ends.
#[derive(Debug)]
pub struct TcpCells {
    opened: CounterCell,
    closed: CounterCell,
    sent: CounterCell,
    received: CounterCell,
}

/// Counts the close when dropped.
#[derive(Debug)]
pub struct OpenTcp<'a>(&'a CounterCell);

impl TcpCells {
    /// Counts one as opened now, and as closed when the guard is dropped.
    pub fn opened(&self) -> OpenTcp<'_> {
        self.opened.inc();
        OpenTcp(&self.closed)
    }

    /// Counts bytes, as the server sees them.
    pub fn carried(&self, received: u64, sent: u64) {
        self.received.add(received);
        self.sent.add(sent);
    }
}

impl Drop for OpenTcp<'_> {
    fn drop(&mut self) {
        self.0.inc();
    }
}

/// Label values that must be made: the identities' texts.
struct EndLabels {
    source_principal: String,
    destination_principal: String,
}

impl EndLabels {
    fn of(ends: &Ends) -> Self {
        let principal = |id: &Option<Arc<SpiffeId>>| id.as_ref().map_or(UNKNOWN, |id| id.as_str()).to_owned();
        Self {
            source_principal: principal(&ends.source_identity),
            destination_principal: principal(&ends.destination_identity),
        }
    }

    /// The first twenty values, of both kinds of metrics.
    fn values<'a>(&'a self, ends: &'a Ends) -> [&'a str; 20] {
        let (source, destination, service) = (&ends.source, &ends.destination, &ends.service);
        [
            ends.direction.reporter(),
            &source.workload,
            &source.namespace,
            &self.source_principal,
            &source.app,
            &source.version,
            &source.cluster,
            &source.canonical_service,
            &source.canonical_revision,
            &destination.workload,
            &destination.namespace,
            &self.destination_principal,
            &destination.app,
            &destination.version,
            &destination.cluster,
            &destination.canonical_service,
            &destination.canonical_revision,
            &service.host,
            &service.name,
            &service.namespace,
        ]
    }
}

fn security(ends: &Ends) -> &'static str {
    match (ends.mutual_tls, ends.direction) {
        (true, Direction::Inbound) => "mutual_tls",
        (false, Direction::Inbound) => "none",
        // As Istio: the client's side leaves it to the server's to say.
        (_, Direction::Outbound) => UNKNOWN,
    }
}

/// A worker's request metrics.
#[derive(Debug)]
pub struct RequestMetrics {
    families: Families,
    answers: RefCell<HashMap<(Direction, Reason), CounterCell>>,
    retries: RefCell<HashMap<(Reason, &'static str), CounterCell>>,
    decisions: RefCell<HashMap<(&'static str, usize, usize), CounterCell>>,
    decisions_version: Cell<u64>,
}

impl RequestMetrics {
    /// The worker's own.
    pub fn new(families: &Families) -> Self {
        Self {
            families: families.clone(),
            answers: RefCell::default(),
            retries: RefCell::default(),
            decisions: RefCell::default(),
            decisions_version: Cell::new(0),
        }
    }

    /// The handles for a request between these ends with this outcome.
    pub fn cells(&self, ends: &Ends, outcome: Outcome) -> Rc<RequestCells> {
        let mut held = ends.cells.borrow_mut();
        if let Some((_, cells)) = held.iter().find(|(seen, _)| *seen == outcome) {
            return cells.clone();
        }
        if held.len() >= OUTCOMES_MAX {
            held.clear();
        }
        let cells = Rc::new(self.make(ends, outcome));
        held.push((outcome, cells.clone()));
        cells
    }

    fn make(&self, ends: &Ends, outcome: Outcome) -> RequestCells {
        let status = outcome.status.to_string();
        let grpc_status = outcome.grpc_status.map(|status| status.to_string()).unwrap_or_default();
        let labels = EndLabels::of(ends);
        let mut values = [""; 25];
        values[..20].copy_from_slice(&labels.values(ends));
        values[20] = if outcome.grpc { "grpc" } else { "http" };
        values[21] = &status;
        values[22] = &grpc_status;
        values[23] = outcome.reason.map_or("-", Reason::label);
        values[24] = security(ends);
        RequestCells {
            requests: self.families.requests.cell(values),
            duration: self.families.duration.cell(values),
            request_bytes: self.families.request_bytes.cell(values),
            response_bytes: self.families.response_bytes.cell(values),
        }
    }

    /// The handles for opaque connections between these ends. Once per connection.
    pub fn tcp_cells(&self, ends: &Ends) -> TcpCells {
        let labels = EndLabels::of(ends);
        let mut values = [""; 22];
        values[..20].copy_from_slice(&labels.values(ends));
        values[20] = "tcp";
        values[21] = security(ends);
        TcpCells {
            opened: self.families.tcp_opened.cell(values),
            closed: self.families.tcp_closed.cell(values),
            sent: self.families.tcp_sent.cell(values),
            received: self.families.tcp_received.cell(values),
        }
    }

    /// Counts an answer that the proxy made itself.
    pub fn answered(&self, direction: Direction, reason: Reason) {
        self.answers
            .borrow_mut()
            .entry((direction, reason))
            .or_insert_with(|| self.families.answers.cell([direction.as_str(), reason.label()]))
            .inc();
    }

    /// Counts a try beyond the first.
    pub fn retried(&self, reason: Reason, outcome: &'static str) {
        self.retries
            .borrow_mut()
            .entry((reason, outcome))
            .or_insert_with(|| self.families.retries.cell([reason.label(), outcome]))
            .inc();
    }

    /// Counts a decision under that version of the policy. `address` is the deciding policy's, 0 for
    /// none; `name` makes its name.
    pub fn decided(
        &self,
        version: u64,
        verdict: &'static str,
        address: usize,
        rule: usize,
        name: impl FnOnce() -> String,
    ) {
        let mut held = self.decisions.borrow_mut();
        // Under another version another policy may lie at the address.
        if self.decisions_version.replace(version) != version || held.len() >= CELLS_MAX {
            held.clear();
        }
        held.entry((verdict, address, rule))
            .or_insert_with(|| {
                let rule = if address == 0 { String::new() } else { rule.to_string() };
                self.families.authorization.cell([verdict, &name(), &rule])
            })
            .inc();
    }
}

/// A worker's connection metrics.
#[derive(Debug)]
pub struct ConnectionMetrics {
    families: Families,
    accepted: [CounterCell; 2],
    open: [GaugeCell; 2],
    count: Rc<Cell<usize>>,
    paused: CounterCell,
}

/// Counts as open while it lives.
#[derive(Debug)]
pub struct OpenConnection {
    _gauge: GaugeGuard,
    count: Rc<Cell<usize>>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.count.set(self.count.get().saturating_sub(1));
    }
}

impl ConnectionMetrics {
    /// The worker's own.
    pub fn new(families: &Families) -> Self {
        let both = [Direction::Inbound, Direction::Outbound];
        Self {
            accepted: both.map(|direction| families.connections.cell([direction.as_str()])),
            open: both.map(|direction| families.connections_open.cell([direction.as_str()])),
            count: Rc::default(),
            paused: families.connections_paused.cell([]),
            families: families.clone(),
        }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.count.get()
    }

    /// Counts one.
    pub fn accepted(&self, direction: Direction) -> OpenConnection {
        let index = usize::from(direction == Direction::Outbound);
        self.accepted[index].inc();
        self.count.set(self.count.get() + 1);
        OpenConnection { _gauge: self.open[index].guard(), count: self.count.clone() }
    }

    /// Counts a pause of accepting.
    pub fn refused(&self) {
        self.paused.inc();
    }

    /// Counts a mesh handshake. Once per connection: the look-up is not on the request path.
    pub fn handshake(&self, direction: Direction, alpn: &'static str, resumed: bool) {
        let resumed = if resumed { "true" } else { "false" };
        self.families.handshakes.cell([direction.as_str(), alpn, resumed]).inc();
    }

    /// Counts a connection to an endpoint or the application, by `ok` or a reason.
    pub fn dialled(&self, direction: Direction, outcome: &'static str) {
        self.families.upstream.cell([direction.as_str(), outcome]).inc();
    }

    /// Counts an inbound connection outside the mesh.
    pub fn plaintext(&self, verdict: &'static str) {
        self.families.plaintext.cell([verdict]).inc();
    }
}
