//! Requests and opaque connections, counted under both ends: Istio's names and labels.
//!
//! Handles are looked up once per pair of ends and outcome and kept with the ends, so that counting a
//! request is a few additions in the worker's own cells.

use super::families::Families;
use super::{Direction, Ends, Outcome, ServiceLabels};
use crate::tcp::Meter;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use weft_model::reason::Reason;
use weft_model::spiffe::SpiffeId;
use weft_model::workload::UNKNOWN;
use weft_runtime::registry::{CounterCell, GaugeGuard, HistogramCell};

/// Decisions a worker keeps handles for; past it they are looked up anew.
const CELLS_MAX: usize = 4096;

/// Outcomes that one pair of ends keeps handles for.
const OUTCOMES_MAX: usize = 32;

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

    /// Counts bytes as they pass, client first: received and sent are the server's words.
    pub fn meter(&self) -> Meter<'_> {
        Meter { there: Some(&self.received), back: Some(&self.sent) }
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

    /// Counts a try that an answer's status led to.
    pub fn retried_status(&self, outcome: &'static str) {
        self.families.retries.cell(["status", outcome]).inc();
    }

    /// Counts what became of an endpoint's standing, by a word of a closed list. Rare beside requests.
    pub fn ejection(&self, cause: &'static str) {
        self.families.ejections.cell([cause]).inc();
    }

    /// Counts an endpoint as ejected for as long as the guard lives.
    pub fn ejected(&self) -> GaugeGuard {
        self.families.ejected.cell([]).guard()
    }

    /// Counts a request as waiting for an endpoint for as long as the guard lives.
    pub fn waiting(&self, service: &ServiceLabels) -> GaugeGuard {
        self.families.waiting.cell([&service.name, &service.namespace]).guard()
    }

    /// Counts a copy for a mirror. Rare beside requests, so that no handle is kept.
    pub fn mirrored(&self, outcome: &'static str) {
        self.families.mirrors.cell([outcome]).inc();
    }

    /// Counts a fault on purpose: a `delay` or an `abort`.
    pub fn faulted(&self, kind: &'static str) {
        self.families.faults.cell([kind]).inc();
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
