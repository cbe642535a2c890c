//! Drawing endpoints by weight, in constant time: plain where weights are equal, else by Vose's alias
//! method. Made when endpoints change.

use weft_runtime::random::Random;

/// How one of a run of endpoints is drawn.
#[derive(Debug, Default)]
pub struct Draw {
    start: usize,
    count: usize,
    heaviest: u32,
    /// Of each place how likely it is kept, and which other is taken else. Empty: all weights are equal.
    aliases: Box<[(f64, u32)]>,
}

impl Draw {
    /// For endpoints from place `start` on, with these weights, none of them 0.
    pub fn new(start: usize, weights: impl Iterator<Item = u32>) -> Self {
        let weights: Vec<u32> = weights.collect();
        let heaviest = weights.iter().copied().max().unwrap_or(1);
        let equal = weights.iter().all(|weight| *weight == heaviest);
        let aliases = if equal { Box::default() } else { aliases(&weights) };
        Self { start, count: weights.len(), heaviest, aliases }
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The place of a turn.
    pub fn place(&self, turn: usize) -> usize {
        self.start + turn % self.count
    }

    /// A weight as a share of the heaviest.
    pub fn share(&self, weight: u32) -> f64 {
        f64::from(weight) / f64::from(self.heaviest)
    }

    /// Two places; two different ones where weights are equal and there are two.
    pub fn two(&self, random: &mut Random) -> (usize, usize) {
        if !self.aliases.is_empty() {
            return (self.one(random), self.one(random));
        }
        let first = random.below(self.count);
        let second = if self.count > 1 { random.below(self.count - 1) } else { 0 };
        let second = if self.count > 1 && second >= first { second + 1 } else { second };
        (self.start + first, self.start + second)
    }

    fn one(&self, random: &mut Random) -> usize {
        let place = random.below(self.count);
        let (kept, other) = self.aliases[place];
        self.start + if random.fraction() < kept { place } else { other as usize }
    }
}

// Light places are filled up by heavy ones until each is one whole.
fn aliases(weights: &[u32]) -> Box<[(f64, u32)]> {
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let mut rest: Vec<f64> =
        weights.iter().map(|weight| f64::from(*weight) * weights.len() as f64 / total).collect();
    let mut table: Vec<(f64, u32)> = (0_u32..).take(weights.len()).map(|index| (1.0, index)).collect();
    let (mut light, mut heavy): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|index| rest[*index] < 1.0);
    while let (Some(small), Some(large)) = (light.pop(), heavy.last().copied()) {
        table[small] = (rest[small], u32::try_from(large).unwrap_or(u32::MAX));
        rest[large] -= 1.0 - rest[small];
        if rest[large] < 1.0 {
            heavy.pop();
            light.push(large);
        }
    }
    table.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_follows_the_weights() {
        let draw = Draw::new(3, [1, 5, 2, 2].into_iter());
        let mut random = Random::seeded(5);
        let mut counts = [0_u32; 7];
        for _ in 0..50_000 {
            let (first, second) = draw.two(&mut random);
            counts[first] += 1;
            counts[second] += 1;
        }
        assert_eq!(counts[..3], [0, 0, 0]);
        for (count, wanted) in counts[3..].iter().zip([10_000, 50_000, 20_000, 20_000]) {
            assert!(count.abs_diff(wanted) < wanted / 15, "{counts:?}");
        }
    }

    #[test]
    fn two_of_equal_weight_are_two_different_ones_and_every_pair_comes() {
        let draw = Draw::new(0, [7, 7, 7].into_iter());
        let mut random = Random::seeded(6);
        let mut seen = [[0_u32; 3]; 3];
        for _ in 0..9_000 {
            let (first, second) = draw.two(&mut random);
            seen[first][second] += 1;
        }
        for (first, row) in seen.iter().enumerate() {
            for (second, count) in row.iter().enumerate() {
                assert!(if first == second { *count == 0 } else { *count > 1_300 }, "{seen:?}");
            }
        }
        assert_eq!(Draw::new(4, [1].into_iter()).two(&mut random), (4, 4));
        assert!(Draw::new(0, std::iter::empty()).is_empty());
    }
}
