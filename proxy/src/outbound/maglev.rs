//! Consistent hashing by Maglev's table: the same key leads to the same endpoint for as long as that is
//! there, and when one goes or comes few keys move. A look-up is one index. Built when endpoints change.
//!
//! Every proxy builds the same table of the same endpoints, so that all clients' keys agree.

use hash::{mixed, of_bytes};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Sizes of tables: primes, so that each endpoint's steps reach every place. A hundred places for each
/// endpoint keep shares within a few percent.
const SIZES: [u32; 7] = [251, 1_021, 4_093, 16_381, 65_537, 131_071, 524_287];

/// Places per endpoint.
const PLACES: usize = 100;

/// How many other places are looked at where an endpoint does not serve, before the key is given up.
const DETOURS_MAX: u64 = 8;

/// Hashes that are the same in every process and version.
pub mod hash {
    /// FNV-1a, then mixed: FNV alone is weak in its upper bits.
    pub fn of_bytes(seed: u64, bytes: &[u8]) -> u64 {
        let start = 0xcbf2_9ce4_8422_2325 ^ seed;
        mixed(bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// SplitMix64's mixer.
    pub const fn mixed(value: u64) -> u64 {
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}

/// Which endpoint each place belongs to.
#[derive(Debug)]
pub struct Maglev {
    places: Box<[u32]>,
}

/// An endpoint's walk through the table.
struct Walk {
    index: u32,
    next: u64,
    step: u64,
    weight: u64,
    /// Places taken.
    taken: u64,
}

impl Walk {
    /// The round in which it takes its next place: each, for the heaviest.
    fn round(&self, heaviest: u64) -> u64 {
        ((self.taken + 1) * heaviest).div_ceil(self.weight)
    }
}

impl Maglev {
    /// The table of endpoints with these names and weights (none of them 0), in whatever order they come:
    /// callers of other zones have another. `None`: there are none.
    pub fn new<'a>(endpoints: impl Iterator<Item = (&'a str, u32)>) -> Option<Self> {
        let endpoints: Vec<_> = endpoints.collect();
        let heaviest = u64::from(endpoints.iter().map(|(_, weight)| *weight).max()?.max(1));
        let wanted = endpoints.len().saturating_mul(PLACES);
        let fits = SIZES.into_iter().find(|size| *size as usize >= wanted);
        let size = u64::from(fits.unwrap_or(SIZES[SIZES.len() - 1]));
        let mut order: Vec<_> = (0_u32..).zip(&endpoints).collect();
        order.sort_unstable_by_key(|(_, (name, _))| *name);
        let mut walks: Vec<Walk> = order
            .into_iter()
            .map(|(index, (name, weight))| Walk {
                index,
                next: of_bytes(0, name.as_bytes()) % size,
                step: of_bytes(1, name.as_bytes()) % (size - 1) + 1,
                weight: u64::from(*weight).max(1),
                taken: 0,
            })
            .collect();
        // By round, and within one in order: the light are not asked in the many rounds of a heavy one.
        let mut turns: BinaryHeap<_> =
            walks.iter().enumerate().map(|(at, walk)| Reverse((walk.round(heaviest), at))).collect();
        let mut places = vec![u32::MAX; size as usize];
        let mut free = places.len();
        while free > 0
            && let Some(Reverse((_, at))) = turns.pop()
        {
            let walk = &mut walks[at];
            while places[walk.next as usize] != u32::MAX {
                walk.next = (walk.next + walk.step) % size;
            }
            places[walk.next as usize] = walk.index;
            walk.taken += 1;
            free -= 1;
            turns.push(Reverse((walk.round(heaviest), at)));
        }
        Some(Self { places: places.into() })
    }

    /// The endpoint of a key, or the next that serves. `None`: none was found soon.
    pub fn find(&self, key: u64, serves: impl Fn(usize) -> bool) -> Option<usize> {
        let size = self.places.len() as u64;
        (0..=DETOURS_MAX)
            .map(|detour| {
                let place = if detour == 0 { key } else { mixed(key.wrapping_add(detour)) } % size;
                self.places[place as usize] as usize
            })
            .find(|index| serves(*index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("shop/cart-{number}@10.0.0.{number}:80")).collect()
    }

    fn table(names: &[String], weight: impl Fn(usize) -> u32) -> Maglev {
        Maglev::new(names.iter().enumerate().map(|(index, name)| (name.as_str(), weight(index)))).unwrap()
    }

    fn owner<'n>(table: &Maglev, names: &'n [String], key: u64) -> &'n str {
        &names[table.find(mixed(key), |_| true).unwrap()]
    }

    #[test]
    fn shares_follow_weights() {
        let names = names(10);
        let table = table(&names, |index| if index == 0 { 3 } else { 1 });
        let mut counts = [0_u32; 10];
        for key in 0..120_000 {
            counts[table.find(mixed(key), |_| true).unwrap()] += 1;
        }
        assert!((27_000..33_000).contains(&counts[0]), "{counts:?}");
        assert!(counts[1..].iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_order_in_which_endpoints_are_told_is_not_the_tables() {
        let names = names(30);
        let reversed: Vec<String> = names.iter().rev().cloned().collect();
        let (one, other) = (table(&names, |_| 1), table(&reversed, |_| 1));
        for key in 0..5_000 {
            assert_eq!(owner(&one, &names, key), owner(&other, &reversed, key));
        }
    }

    #[test]
    fn one_heavy_endpoint_among_thousands_of_light_ones_takes_no_longer() {
        let names = names(4_000);
        // A round each for every place of the heavy one, times 4,000, would be 10⁹ looks.
        let table = table(&names, |index| if index == 0 { 1_000_000 } else { 1 });
        let heavy = (0..1_000).filter(|key| table.find(mixed(*key), |_| true) == Some(0)).count();
        assert!(heavy > 980, "{heavy} of 1,000");
    }

    #[test]
    fn few_keys_move_when_an_endpoint_goes() {
        let all = names(20);
        let (before, without) = (table(&all, |_| 1), &all[1..]);
        let after = table(without, |_| 1);
        let (mut moved, mut orphans) = (0, 0);
        for key in 0..20_000 {
            let was = owner(&before, &all, key);
            if was == all[0] {
                orphans += 1;
            } else if was != owner(&after, without, key) {
                moved += 1;
            }
        }
        assert!(orphans > 500, "{orphans}");
        assert!(moved < 1_000, "{moved} of 20,000 keys moved although their endpoint stayed");
    }

    #[test]
    fn an_endpoint_that_does_not_serve_is_passed_by_and_only_its_keys_move() {
        let names = names(5);
        let table = table(&names, |_| 1);
        for key in 0..1_000 {
            let own = table.find(mixed(key), |_| true).unwrap();
            let found = table.find(mixed(key), |index| index != 2).unwrap();
            assert!(if own == 2 { found != 2 } else { found == own });
        }
        assert_eq!(table.find(7, |_| false), None);
        assert!(Maglev::new(std::iter::empty()).is_none());
    }
}
