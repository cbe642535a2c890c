//! How much a caller has under way to a Service, and what waits.

use std::time::Duration;

/// How much a caller's proxy has under way to a Service at once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connections {
    /// Requests and opaque connections under way, in the whole proxy. `None`: no limit. The default, as in
    /// Istio: a number that nobody chose would refuse what the endpoints can bear.
    pub in_flight_max: Option<u32>,
    /// Connections, used and idle, in the whole proxy. `None`: no limit. The default, as in Istio, for the
    /// same reason.
    pub connections_max: Option<u32>,
    /// How long a request waits while no endpoint is ready. Zero: it is answered at once, so that callers
    /// see what is wrong; a Service that scales from zero wants more.
    pub wait: Duration,
    /// The most requests that wait. 1024, as Envoy's pending requests: more would be a wave that the
    /// first endpoint does not survive.
    pub pending_max: u32,
    /// The most bytes of requests that wait. 16 MiB: what a small pod can spare.
    pub pending_bytes_max: u32,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            in_flight_max: None,
            connections_max: None,
            wait: Duration::ZERO,
            pending_max: 1024,
            pending_bytes_max: 16 << 20,
        }
    }
}
