//! Cheap randomness, for jitter and for picks between endpoints: one small generator (SplitMix64)
//! without locks, owned by whoever uses it.
//! It refuses to be a source of secrets: its output can be predicted from a few values. Keys, nonces
//! and tokens come from the cryptography library.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// A small generator of numbers that are random enough to spread load.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

// === impl Random ===

impl Random {
    /// Seeded from the operating system, by way of the standard library's hash seeds. Two generators
    /// made one after the other are seeded differently.
    #[must_use]
    pub fn new() -> Self {
        Self::seeded(RandomState::new().build_hasher().finish())
    }

    /// A generator whose sequence is a function of the seed, for tests and simulations.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number, all 64 bits uniform.
    pub const fn next_u64(&mut self) -> u64 {
        // SplitMix64: a counter (so the period is 2^64 from any seed, zero included) and a mixer.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..end`; 0 when `end` is 0. The bias against some values is below `end / 2^64`.
    pub fn below(&mut self, end: usize) -> usize {
        let wide = u128::from(self.next_u64()) * (end as u128);
        // The product's upper half is below `end`, which is a usize.
        (wide >> 64) as usize
    }

    /// A number in `0.0..1.0`.
    pub fn fraction(&mut self) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A duration in `least..=most`; `least` where `most` is not above it.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least);
        least.saturating_add(span.mul_f64(self.fraction()))
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_splitmix64() {
        // The generator's published sequence for seed 1234567.
        let mut random = Random::seeded(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
        assert_eq!(random.next_u64(), 9_817_491_932_198_370_423);
    }

    #[test]
    fn below_reaches_every_value_and_no_other() {
        let mut random = Random::seeded(7);
        let mut seen = [0_u32; 5];
        for _ in 0..5_000 {
            seen[random.below(5)] += 1;
        }
        assert!(seen.iter().all(|&count| (800..1200).contains(&count)), "{seen:?}");
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn between_stays_inside_its_bounds() {
        let mut random = Random::seeded(9);
        let (least, most) = (Duration::from_millis(10), Duration::from_millis(20));
        for _ in 0..1_000 {
            let drawn = random.between(least, most);
            assert!(drawn >= least && drawn <= most);
        }
        assert_eq!(random.between(most, least), most);
    }

    #[test]
    fn two_new_generators_differ() {
        assert_ne!(Random::new().next_u64(), Random::new().next_u64());
    }
}
