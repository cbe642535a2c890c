//! Histograms with a cell per thread: the same handles as [`super::families`], over a sum and one slot
//! for each bucket. Buckets are fixed when the family is made; the count is always that of the buckets,
//! so that the two cannot disagree in a scrape that comes between two additions.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};

use super::RegistryError;
use super::families::{OneThread, family};
use super::series::{SeriesSet, Shape, Slots};

/// A distribution in fixed buckets, by label values.
#[derive(Clone, Debug)]
pub struct HistogramFamily<const N: usize> {
    set: Arc<SeriesSet<N>>,
    bounds: Arc<[f64]>,
}

/// This thread's part of a histogram.
#[derive(Clone, Debug)]
pub struct HistogramCell {
    slots: Slots,
    bounds: Arc<[f64]>,
    thread: OneThread,
}

/// A histogram that any thread may add to.
#[derive(Clone, Debug)]
pub struct SharedHistogram {
    slots: Slots,
    bounds: Arc<[f64]>,
}

// === impl HistogramFamily ===

impl<const N: usize> HistogramFamily<N> {
    /// A family of its own, to be registered; [`super::Registry::histogram`] does both.
    ///
    /// # Errors
    /// When the name or a label is not allowed, or the bounds are not finite and strictly rising.
    pub fn new(
        name: &str,
        help: &str,
        labels: [&str; N],
        buckets: &[f64],
        series_max: usize,
    ) -> Result<Self, RegistryError> {
        let finite = buckets.iter().all(|bound| bound.is_finite());
        let rising = buckets.windows(2).all(|pair| pair[0] < pair[1]);
        // "le" is the bucket's own label.
        if buckets.is_empty() || !finite || !rising || labels.contains(&"le") {
            return Err(RegistryError::Buckets { name: name.to_owned() });
        }
        // The sum, the buckets, and the one for what is above them all.
        let shape = Shape { slots: buckets.len() + 2, float_first: true };
        Ok(Self {
            set: Arc::new(SeriesSet::new(name, help, labels, shape, series_max)?),
            bounds: buckets.into(),
        })
    }

    /// This thread's cell of the series with these label values.
    #[must_use]
    pub fn cell(&self, values: [&str; N]) -> HistogramCell {
        HistogramCell { slots: self.set.cell(values), bounds: self.bounds.clone(), thread: PhantomData }
    }

    /// The same series, for any thread.
    #[must_use]
    pub fn shared(&self, values: [&str; N]) -> SharedHistogram {
        SharedHistogram { slots: self.set.shared(values), bounds: self.bounds.clone() }
    }
}

impl<const N: usize> Collector for HistogramFamily<N> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.set.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        family(&self.set, MetricType::HISTOGRAM, |metric, sums| {
            let mut cumulative = 0;
            let buckets = self
                .bounds
                .iter()
                .zip(&sums[1..])
                .map(|(bound, count)| {
                    cumulative += count;
                    let mut bucket = proto::Bucket::default();
                    bucket.set_upper_bound(*bound);
                    bucket.set_cumulative_count(cumulative);
                    bucket
                })
                .collect();
            let mut histogram = proto::Histogram::default();
            histogram.set_bucket(buckets);
            histogram.set_sample_sum(f64::from_bits(sums[0]));
            // Added up from the buckets, so that the two can never disagree.
            histogram.set_sample_count(sums[1..].iter().sum());
            metric.set_histogram(histogram);
        })
    }
}

/// The slot of the bucket that a value falls in: bounds are inclusive from above.
#[inline]
fn bucket_slot(bounds: &[f64], value: f64) -> usize {
    1 + bounds.partition_point(|bound| *bound < value)
}

// === impl HistogramCell ===

impl HistogramCell {
    /// Adds a value. One that is no finite number is ignored: it would spoil the sum for good.
    #[inline]
    pub fn observe(&self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let sum = self.slots.first();
        let total = f64::from_bits(sum.load(Ordering::Relaxed)) + value;
        sum.store(total.to_bits(), Ordering::Relaxed);
        let bucket = self.slots.slot(bucket_slot(&self.bounds, value));
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

// === impl SharedHistogram ===

impl SharedHistogram {
    /// Adds a value. One that is no finite number is ignored: it would spoil the sum for good.
    pub fn observe(&self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure never declines.
        let _ = self.slots.first().fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        self.slots.slot(bucket_slot(&self.bounds, value)).fetch_add(1, Ordering::Relaxed);
    }
}
