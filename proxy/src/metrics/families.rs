//! The families of the data path, with their labels and buckets; made once per process.

use weft_runtime::registry::{CounterFamily, GaugeFamily, HistogramFamily, Registry, RegistryError};

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

/// The families, made once per process.
#[derive(Clone, Debug)]
pub struct Families {
    pub(super) requests: CounterFamily<25>,
    pub(super) duration: HistogramFamily<25>,
    pub(super) request_bytes: HistogramFamily<25>,
    pub(super) response_bytes: HistogramFamily<25>,
    pub(super) answers: CounterFamily<2>,
    pub(super) authorization: CounterFamily<3>,
    pub(super) retries: CounterFamily<2>,
    pub(super) mirrors: CounterFamily<1>,
    pub(super) ejections: CounterFamily<1>,
    pub(super) ejected: GaugeFamily<0>,
    pub(super) waiting: GaugeFamily<2>,
    pub(super) faults: CounterFamily<1>,
    pub(super) connections: CounterFamily<1>,
    pub(super) connections_open: GaugeFamily<1>,
    pub(super) connections_paused: CounterFamily<0>,
    pub(super) handshakes: CounterFamily<3>,
    pub(super) upstream: CounterFamily<2>,
    pub(super) reused_closed: CounterFamily<2>,
    pub(super) plaintext: CounterFamily<2>,
    pub(super) probes: CounterFamily<2>,
    pub(super) queued: GaugeFamily<0>,
    pub(super) places: GaugeFamily<0>,
    pub(super) tcp_opened: CounterFamily<22>,
    pub(super) tcp_closed: CounterFamily<22>,
    pub(super) tcp_sent: CounterFamily<22>,
    pub(super) tcp_received: CounterFamily<22>,
}

impl Families {
    /// How often rules decided: verdict, policy and rule, with the count.
    pub fn decisions(&self) -> Vec<([String; 3], u64)> {
        self.authorization.counts()
    }

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
                "Tries beyond a request's first, by why, and by whether they were `made` or what spoke against them.",
                ["reason", "outcome"],
            )?,
            ejections: r.counter(
                "weft_outbound_ejections_total",
                "Endpoints that were left alone because they failed, by why; `kept` fails, and is used on because too many are \
                 ejected already; `returned` is one whose probe was answered.",
                ["cause"],
            )?,
            ejected: r.gauge(
                "weft_outbound_endpoints_ejected",
                "Endpoints that are ejected now, by each worker and port.",
                [],
            )?,
            waiting: r.gauge(
                "weft_outbound_requests_waiting",
                "Requests and opaque connections that wait for an endpoint to become ready, or for a connection to come free: what a Service scales up by.",
                ["destination_service_name", "destination_service_namespace"],
            )?,
            mirrors: r.counter(
                "weft_outbound_mirrors_total",
                "Copies of requests for mirrors, by what became of them.",
                ["outcome"],
            )?,
            faults: r.counter(
                "weft_outbound_faults_total",
                "Faults that a TrafficPolicy wants, by what they did to a request.",
                ["kind"],
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
            reused_closed: r.counter(
                "weft_upstream_reused_closed_total",
                "Idle connections that the server had closed: noticed `before` a request was lost, the request `repeated` \
                 on a new one, or `lost`.",
                ["direction", "outcome"],
            )?,
            plaintext: r.counter(
                "weft_inbound_plaintext_connections_total",
                "Inbound connections outside the mesh, by what became of them.",
                ["verdict", "source"],
            )?,
            queued: r.gauge(
                "weft_inbound_requests_waiting",
                "Requests that wait for their turn at the application.",
                [],
            )?,
            places: r.gauge(
                "weft_inbound_places",
                "Requests that the application is given at once, where that is limited.",
                [],
            )?,
            probes: r.counter(
                "weft_inbound_probes_total",
                "Probes of the kubelet that were let through, by how they ended.",
                ["kind", "outcome"],
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
