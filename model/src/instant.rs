//! Instants as Kubernetes writes them (RFC 3339): `2026-11-26T02:00:00Z`, `…T03:00:00.5+01:00`.

use crate::names::InvalidName;

/// Reads an instant; seconds since 1970, what is below a second dropped. Years before 1970 are refused.
pub fn parse_instant(text: &str) -> Result<u64, InvalidName> {
    read(text).ok_or_else(|| InvalidName::new("instant (for instance 2026-11-26T02:00:00Z)", text))
}

fn read(text: &str) -> Option<u64> {
    let (date, rest) = text.split_at_checked(10)?;
    let (year, month, day) = three(date, '-', [4, 2, 2])?;
    let (time, mut zone) = rest.strip_prefix(['T', 't'])?.split_at_checked(8)?;
    let (hour, minute, second) = three(time, ':', [2, 2, 2])?;
    if let Some(fraction) = zone.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        zone = fraction.get(digits..)?;
    }
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('+') { 1 } else { -1 };
            let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
            let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            sign * (hours * 3600 + minutes * 60)
        }
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    // A leap second is taken for the one after it.
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = (days_since_1970(year, month, day) * 24 + hour) * 3600 + minute * 60 + second - offset;
    u64::try_from(seconds).ok()
}

// Counted in years that begin in March, so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

fn three(text: &str, between: char, lengths: [usize; 3]) -> Option<(i64, i64, i64)> {
    let mut parts = text.split(between);
    let mut part = |length| number(parts.next()?, length);
    Some((part(lengths[0])?, part(lengths[1])?, part(lengths[2])?))
}

fn number(text: &str, length: usize) -> Option<i64> {
    let digits = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_seconds_since_1970() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-03-01T00:00:01z", 59 * 86_400 + 1),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2001-09-09t01:46:40Z", 1_000_000_000),
            ("2033-05-18T03:33:20.999Z", 2_000_000_000),
            ("2033-05-18T05:33:20+02:00", 2_000_000_000),
            ("2033-05-17T22:03:20-05:30", 2_000_000_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(parse_instant(text).ok(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for text in [
            "",
            "2026-11-26",
            "2026-11-26 02:00:00Z",
            "2026-11-26T02:00:00",
            "2026-11-26T02:00:00+01",
            "2026-11-26T02:00:00+24:00",
            "2026-11-26T24:00:00Z",
            "2026-11-26T02:60:00Z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-11-26T02:00:00.Z",
            "2026-11-26T02:00:00Zz",
            "+026-11-26T02:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-2\u{e9}T02:00:00Z",
        ] {
            assert!(parse_instant(text).is_err(), "{text:?}");
        }
    }
}
