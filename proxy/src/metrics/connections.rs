//! Connections, counted where they are accepted, secured and made.

use super::Direction;
use super::families::Families;
use std::cell::Cell;
use std::rc::Rc;
use weft_runtime::registry::{CounterCell, GaugeCell, GaugeGuard};

/// A worker's connection metrics.
#[derive(Debug)]
pub struct ConnectionMetrics {
    families: Families,
    accepted: [CounterCell; 2],
    open: [GaugeCell; 2],
    count: Rc<Cell<usize>>,
    paused: CounterCell,
    waiting: GaugeCell,
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
            waiting: families.queued.cell([]),
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

    /// Counts a request as waiting for its turn while the guard lives.
    pub fn waiting(&self) -> GaugeGuard {
        self.waiting.guard()
    }

    /// How many requests the application is given at once; 0 where that is not limited. The process's.
    pub fn places(&self, places: u64) {
        self.families.places.shared([]).set(i64::try_from(places).unwrap_or(i64::MAX));
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

    /// Counts a probe by its kind, which is of a closed list, and how it ended.
    pub fn probe(&self, kind: &'static str, outcome: &'static str) {
        self.families.probes.cell([kind, outcome]).inc();
    }

    /// Counts an idle connection that was found closed, by what became of the request that met it.
    pub fn reused_closed(&self, direction: Direction, outcome: &'static str) {
        self.families.reused_closed.cell([direction.as_str(), outcome]).inc();
    }

    /// Counts an inbound connection outside the mesh.
    pub fn plaintext(&self, verdict: &'static str, source: &'static str) {
        self.families.plaintext.cell([verdict, source]).inc();
    }
}
