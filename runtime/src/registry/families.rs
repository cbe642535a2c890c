//! Counters and gauges with a cell per thread (histograms: `registry/histogram.rs`). `family.cell([values])` looks a series up,
//! ahead of the traffic it will count, and gives this thread's handle: using that is a load and a store
//! in memory only this thread writes, a nanosecond or two. The handle is not `Send`, which is what makes
//! the single writer certain; the same thread gets the same cell again for the same values.
//! `family.shared([values])` gives a handle for everybody else (tasks that move between threads), at the
//! price of an atomic addition. Both count in the same series.
//! A look-up takes a lock and builds a key: keep handles, do not look up per request.

use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, Metric, MetricFamily, MetricType};

use super::RegistryError;
use super::series::{SeriesSet, Shape, Slots};

/// Marks a handle as one thread's own.
pub(super) type OneThread = PhantomData<Rc<()>>;

/// A count that only rises, by label values. `N` is the number of labels.
#[derive(Clone, Debug)]
pub struct CounterFamily<const N: usize> {
    set: Arc<SeriesSet<N>>,
}

/// A number that rises and falls, by label values; the sum of what every thread says.
#[derive(Clone, Debug)]
pub struct GaugeFamily<const N: usize> {
    set: Arc<SeriesSet<N>>,
}

/// This thread's part of a counter.
///
/// It stays on its thread, or else counts would be lost:
/// ```compile_fail,E0277
/// fn send(_: impl Send) {}
/// let family = weft_runtime::registry::CounterFamily::new("a_total", "A.", [], 1).unwrap();
/// send(family.cell([]));
/// ```
#[derive(Clone, Debug)]
pub struct CounterCell {
    slots: Slots,
    thread: OneThread,
}

/// A counter that any thread may raise.
#[derive(Clone, Debug)]
pub struct SharedCounter {
    slots: Slots,
}

/// This thread's part of a gauge.
#[derive(Clone, Debug)]
pub struct GaugeCell {
    slots: Slots,
    thread: OneThread,
}

/// A gauge that any thread may move.
#[derive(Clone, Debug)]
pub struct SharedGauge {
    slots: Slots,
}

/// One more while it lives, one less when it is dropped.
#[derive(Debug)]
#[must_use = "the gauge falls again when the guard is dropped"]
pub struct GaugeGuard {
    cell: GaugeCell,
}

/// One more while it lives, one less when it is dropped, wherever that is.
#[derive(Debug)]
#[must_use = "the gauge falls again when the guard is dropped"]
pub struct SharedGaugeGuard {
    gauge: SharedGauge,
}

const ONE_INTEGER: Shape = Shape { slots: 1, float_first: false };

/// A family as the registry takes it; `fill` makes a metric's value of a series' sums.
pub(super) fn family<const N: usize>(
    set: &SeriesSet<N>,
    kind: MetricType,
    fill: impl Fn(&mut Metric, &[u64]),
) -> Vec<MetricFamily> {
    let metrics = set
        .list()
        .iter()
        .map(|series| {
            let mut metric = Metric::from_label(series.labels.clone());
            fill(&mut metric, &series.sums());
            metric
        })
        .collect();
    let mut family = MetricFamily::default();
    family.set_name(set.desc.fq_name.clone());
    family.set_help(set.desc.help.clone());
    family.set_field_type(kind);
    family.set_metric(metrics);
    vec![family]
}

// === impl CounterFamily ===

impl<const N: usize> CounterFamily<N> {
    /// A family of its own, to be registered; [`super::Registry::counter`] does both.
    ///
    /// # Errors
    /// When the name or a label is not allowed.
    pub fn new(name: &str, help: &str, labels: [&str; N], series_max: usize) -> Result<Self, RegistryError> {
        let set = Arc::new(SeriesSet::new(name, help, labels, ONE_INTEGER, series_max)?);
        Ok(Self { set })
    }

    /// This thread's cell of the series with these label values.
    #[must_use]
    pub fn cell(&self, values: [&str; N]) -> CounterCell {
        CounterCell { slots: self.set.cell(values), thread: PhantomData }
    }

    /// All counts, by label values in the order of the labels.
    #[must_use]
    pub fn counts(&self) -> Vec<([String; N], u64)> {
        let listed = self.set.list();
        listed.iter().map(|series| (self.set.values(series), series.sums()[0])).collect()
    }

    /// The same series, for any thread.
    #[must_use]
    pub fn shared(&self, values: [&str; N]) -> SharedCounter {
        SharedCounter { slots: self.set.shared(values) }
    }
}

impl<const N: usize> Collector for CounterFamily<N> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.set.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        family(&self.set, MetricType::COUNTER, |metric, sums| {
            let mut counter = proto::Counter::default();
            counter.set_value(sums[0] as f64);
            metric.set_counter(counter);
        })
    }
}

// === impl CounterCell ===

impl CounterCell {
    /// One more.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    #[inline]
    pub fn add(&self, count: u64) {
        let slot = self.slots.first();
        // No other thread writes here, so that nothing can come between the two.
        slot.store(slot.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// What this thread has counted: for tests and dumps.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.slots.first().load(Ordering::Relaxed)
    }
}

// === impl SharedCounter ===

impl SharedCounter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.slots.first().fetch_add(count, Ordering::Relaxed);
    }
}

// === impl GaugeFamily ===

impl<const N: usize> GaugeFamily<N> {
    /// A family of its own, to be registered; [`super::Registry::gauge`] does both.
    ///
    /// # Errors
    /// When the name or a label is not allowed.
    pub fn new(name: &str, help: &str, labels: [&str; N], series_max: usize) -> Result<Self, RegistryError> {
        let set = Arc::new(SeriesSet::new(name, help, labels, ONE_INTEGER, series_max)?);
        Ok(Self { set })
    }

    /// This thread's cell of the series with these label values.
    #[must_use]
    pub fn cell(&self, values: [&str; N]) -> GaugeCell {
        GaugeCell { slots: self.set.cell(values), thread: PhantomData }
    }

    /// The same series, for any thread.
    #[must_use]
    pub fn shared(&self, values: [&str; N]) -> SharedGauge {
        SharedGauge { slots: self.set.shared(values) }
    }
}

impl<const N: usize> Collector for GaugeFamily<N> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.set.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        family(&self.set, MetricType::GAUGE, |metric, sums| {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(sums[0].cast_signed() as f64);
            metric.set_gauge(gauge);
        })
    }
}

// === impl GaugeCell ===

impl GaugeCell {
    /// So many more, or fewer.
    #[inline]
    pub fn add(&self, change: i64) {
        let slot = self.slots.first();
        let value = slot.load(Ordering::Relaxed);
        slot.store(value.wrapping_add(change.cast_unsigned()), Ordering::Relaxed);
    }

    /// This thread's part becomes this; those of other threads stay.
    pub fn set(&self, value: i64) {
        self.slots.first().store(value.cast_unsigned(), Ordering::Relaxed);
    }

    /// One more until the guard is dropped.
    pub fn guard(&self) -> GaugeGuard {
        self.add(1);
        GaugeGuard { cell: self.clone() }
    }

    /// This thread's part: for tests and dumps.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.slots.first().load(Ordering::Relaxed).cast_signed()
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.cell.add(-1);
    }
}

// === impl SharedGauge ===

impl SharedGauge {
    /// So many more, or fewer.
    pub fn add(&self, change: i64) {
        self.slots.first().fetch_add(change.cast_unsigned(), Ordering::Relaxed);
    }

    /// The shared part becomes this; use it where no thread has a cell.
    pub fn set(&self, value: i64) {
        self.slots.first().store(value.cast_unsigned(), Ordering::Relaxed);
    }

    /// One more until the guard is dropped.
    pub fn guard(&self) -> SharedGaugeGuard {
        self.add(1);
        SharedGaugeGuard { gauge: self.clone() }
    }
}

impl Drop for SharedGaugeGuard {
    fn drop(&mut self) {
        self.gauge.add(-1);
    }
}

#[cfg(test)]
mod tests;
