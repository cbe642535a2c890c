//! Durations as the Gateway API writes them (GEP-2257): `1h30m`, `500ms`, `0s`.

use crate::names::InvalidName;
use std::time::Duration;

/// Reads a duration: one to four of `h`, `m`, `s`, `ms`, each a whole number of at most five digits,
/// the larger unit first.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidName> {
    let refused = || InvalidName::new("duration (for instance 1h30m, 10s, 500ms)", text);
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut last_rank = 0;
    if rest.is_empty() || rest.len() > 32 {
        return Err(refused());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return Err(refused());
        }
        let value: u64 = rest[..digits].parse().map_err(|_| refused())?;
        rest = &rest[digits..];
        let (rank, unit, length) = if rest.starts_with("ms") {
            (4, 1, 2)
        } else if rest.starts_with('h') {
            (1, 3_600_000, 1)
        } else if rest.starts_with('m') {
            (2, 60_000, 1)
        } else if rest.starts_with('s') {
            (3, 1_000, 1)
        } else {
            return Err(refused());
        };
        if rank <= last_rank {
            return Err(refused());
        }
        last_rank = rank;
        rest = &rest[length..];
        total += Duration::from_millis(value * unit);
    }
    Ok(total)
}

/// Writes a duration in the same form; what is below a millisecond is dropped.
pub fn format_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= size {
            text.push_str(&format!("{}{unit}", left / size));
            left %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, ms) in
            [("0s", 0), ("500ms", 500), ("10s", 10_000), ("1h30m", 5_400_000), ("1m1ms", 60_001)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms));
            assert_eq!(format_duration(Duration::from_millis(ms)), text);
        }
        for bad in ["", "1", "s", "1.5s", "-1s", "1s1h", "1s1s", "123456s", "1d", "1h ", "10 s", "1us"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
