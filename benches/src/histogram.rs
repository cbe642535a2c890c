//! Latencies in logarithmic buckets: 64 linear steps within each power of two, so that a quantile is off by less
//! than 1.6 % from a nanosecond to hours, in a fixed 30 KB, with no allocation while recording.

use serde::{Deserialize, Serialize};

/// Linear steps within one power of two, as a power of two itself.
const STEP_BITS: u32 = 6;
const STEPS: usize = 1 << STEP_BITS;
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) * STEPS;

pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// What one round reports of its latencies, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

// === impl Histogram ===

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.counts[Self::bucket(nanoseconds)] += 1;
        self.total += 1;
        self.max = self.max.max(nanoseconds);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn quantiles(&self) -> Quantiles {
        Quantiles {
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            max: self.max,
        }
    }

    /// The smallest recorded value, to bucket precision, that `share` of all values do not exceed.
    fn quantile(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Self::upper_bound(bucket).min(self.max);
            }
        }
        self.max
    }

    fn bucket(value: u64) -> usize {
        let bits = 64 - value.leading_zeros();
        if bits <= STEP_BITS {
            return value as usize;
        }
        // The leading one plus the STEP_BITS below it; each octave holds STEPS buckets.
        let shift = bits - STEP_BITS - 1;
        (shift as usize + 1) * STEPS + ((value >> shift) as usize - STEPS)
    }

    fn upper_bound(bucket: usize) -> u64 {
        if bucket < STEPS {
            return bucket as u64;
        }
        let shift = (bucket / STEPS - 1) as u32;
        let step = (bucket % STEPS + STEPS) as u128;
        u64::try_from(((step + 1) << shift) - 1).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_its_bucket() {
        for value in
            (0..63).flat_map(|bit| [1_u64 << bit, (1 << bit) + 1, (1_u64 << bit) - 1]).chain([u64::MAX])
        {
            let bucket = Histogram::bucket(value);
            assert!(bucket < BUCKETS, "{value}");
            assert!(Histogram::upper_bound(bucket) >= value, "{value}");
            assert!(bucket == 0 || Histogram::upper_bound(bucket - 1) < value, "{value}");
        }
    }

    #[test]
    fn quantiles_are_within_two_percent() {
        let mut histogram = Histogram::new();
        (1..=100_000).for_each(|value| histogram.record(value * 1000));
        let quantiles = histogram.quantiles();
        for (found, wanted) in [(quantiles.p50, 50_000_000.0), (quantiles.p99, 99_000_000.0)] {
            assert!((found as f64 / wanted - 1.0).abs() < 0.02, "{found} for {wanted}");
        }
        assert_eq!(quantiles.max, 100_000_000);
    }

    #[test]
    fn merging_counts_both() {
        let (mut left, mut right) = (Histogram::new(), Histogram::new());
        left.record(10);
        right.record(50);
        left.merge(&right);
        assert_eq!((left.total, left.quantiles().p50, left.quantiles().max), (2, 10, 50));
    }
}
