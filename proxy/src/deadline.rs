//! How long a request may still take: one moment, whatever said so.
//!
//! A route's timeout, a gRPC client's `grpc-timeout`, `x-envoy-expected-rq-timeout-ms` and the mark of the
//! proxy before become one deadline, the earliest; all that happens to the request spends it. On the wire
//! it is what is left, since clocks differ. Between proxies that is `x-weft-deadline`; the
//! application is shown it in the field that it may pass on. What a client claims can only shorten.

use crate::http::{HeaderError, Headers, Known};
use std::time::{Duration, Instant};

/// Claims beyond this are none: a timer for them would never fire.
const CLAIM_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// When a request must be answered, to its last byte.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Deadline(Instant);

/// Digits of a number, without an allocation.
struct Digits {
    text: [u8; 24],
    length: usize,
}

// === impl Deadline ===

impl Deadline {
    /// So long after that moment.
    pub fn after(start: Instant, timeout: Duration) -> Option<Self> {
        (timeout <= CLAIM_MAX).then(|| start.checked_add(timeout)).flatten().map(Self)
    }

    /// The moment.
    pub const fn at(self) -> Instant {
        self.0
    }

    /// What is left.
    pub fn left(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// The earlier of two, where there are two.
    pub fn earlier(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// What a client asks for in the fields that applications use. One that cannot be read is none: it
    /// is not ours to refuse.
    pub fn claimed(headers: &Headers, grpc: bool, now: Instant) -> Option<Self> {
        let call = if grpc { headers.get(Known::GrpcTimeout).and_then(read_grpc) } else { None };
        let expected = headers.get(Known::XEnvoyExpectedRqTimeoutMs).and_then(read_milliseconds);
        // Envoy's zero means none.
        let expected = expected.filter(|timeout| !timeout.is_zero());
        let after = |timeout: Option<Duration>| timeout.and_then(|timeout| Self::after(now, timeout));
        Self::earlier(after(call), after(expected))
    }

    /// What the proxy before says is left.
    pub fn marked(headers: &Headers, now: Instant) -> Option<Self> {
        let left = headers.get(Known::XWeftDeadline).and_then(read_milliseconds)?;
        Self::after(now, left)
    }

    /// Tells the next proxy what is left. Rounded up: who is nearest to the client says that it has passed.
    pub fn mark(self, headers: &mut Headers, now: Instant) -> Result<(), HeaderError> {
        headers.insert_known(Known::XWeftDeadline, Digits::of(self.milliseconds(now), b"").bytes())
    }

    /// Shows an application what is left, in the field that it may pass on with its own calls.
    pub fn show(self, headers: &mut Headers, grpc: bool, now: Instant) -> Result<(), HeaderError> {
        let left = self.milliseconds(now);
        if !grpc {
            return headers.insert_known(Known::XEnvoyExpectedRqTimeoutMs, Digits::of(left, b"").bytes());
        }
        // One that is there would be read instead of grpc-timeout by the next proxy.
        headers.remove(Known::XEnvoyExpectedRqTimeoutMs);
        // At most eight digits.
        let text = if left < 100_000_000 { Digits::of(left, b"m") } else { Digits::of(left / 1000, b"S") };
        headers.insert_known(Known::GrpcTimeout, text.bytes())
    }

    fn milliseconds(self, now: Instant) -> u64 {
        let left = self.left(now);
        u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

/// A call's timeout: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn read_grpc(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let number = read_number(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

fn read_milliseconds(value: &[u8]) -> Option<Duration> {
    if value.len() > 10 { None } else { read_number(value).map(Duration::from_millis) }
}

/// Digits alone; at most as many as fit.
fn read_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'9' => Some(number * 10 + u64::from(digit - b'0')),
        _ => None,
    })
}

// === impl Digits ===

impl Digits {
    fn of(mut number: u64, unit: &[u8]) -> Self {
        let mut reversed = [0; 20];
        let mut count = 0;
        loop {
            reversed[count] = b'0' + (number % 10) as u8;
            count += 1;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        let mut text = [0; 24];
        let digits = reversed[..count].iter().rev().chain(unit);
        let length = text.iter_mut().zip(digits).map(|(to, from)| *to = *from).count();
        Self { text, length }
    }

    fn bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        fields.iter().for_each(|(name, value)| headers.append(name, value.as_bytes()).unwrap());
        headers
    }

    #[test]
    fn a_calls_timeout_is_read_in_every_unit_and_in_no_other_form() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("250m", Duration::from_millis(250)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(read_grpc(text.as_bytes()), Some(expected), "{text}");
        }
        for text in ["", "m", "1", "1s", "1h", "-1S", "+1S", "1.5S", "1 S", "100000000S", "1Sm"] {
            assert_eq!(read_grpc(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_earliest_claim_counts_and_what_cannot_be_read_is_none() {
        let now = Instant::now();
        let left = |fields: &[(&str, &str)], grpc| {
            Deadline::claimed(&headers(fields), grpc, now).map(|deadline| deadline.left(now).as_millis())
        };
        let both = [("grpc-timeout", "2S"), ("x-envoy-expected-rq-timeout-ms", "500")];
        assert_eq!(left(&both, true), Some(500));
        assert_eq!(left(&[("grpc-timeout", "100m")], true), Some(100));
        assert_eq!(left(&[("grpc-timeout", "100m")], false), None, "only gRPC's");
        assert_eq!(left(&[("x-envoy-expected-rq-timeout-ms", "0")], false), None);
        for text in ["", "1s", "-1", "1e3", "99999999999", "99999999999999999999999"] {
            assert_eq!(left(&[("x-envoy-expected-rq-timeout-ms", text)], false), None, "{text:?}");
        }
        assert_eq!(left(&[("grpc-timeout", "99999999H")], true), None, "eleven thousand years are none");
        assert_eq!(left(&[("x-weft-deadline", "5")], false), None, "no application speaks as the mesh");
    }

    #[test]
    fn what_is_left_shrinks_from_hop_to_hop() {
        let start = Instant::now();
        let mut left = Duration::from_millis(1000);
        // Each hop reads what is left, takes 150 ms and passes on the rest.
        for hop in 1..=6 {
            let deadline = Deadline::after(start, left).unwrap();
            let later = start + Duration::from_millis(150);
            let mut fields = Headers::new();
            deadline.mark(&mut fields, later).unwrap();
            left = Deadline::marked(&fields, start).unwrap().left(start);
            assert_eq!(left.as_millis(), 1000 - 150 * hop);
        }
        let deadline = Deadline::after(start, left).unwrap();
        assert_eq!(deadline.left(start + Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn it_is_shown_where_the_application_looks_for_it() {
        let now = Instant::now();
        let shown = |left: Duration, grpc, name: &str| {
            let mut fields = headers(&[("grpc-timeout", "9S"), ("x-envoy-expected-rq-timeout-ms", "9000")]);
            Deadline::after(now, left).unwrap().show(&mut fields, grpc, now).unwrap();
            fields.find(name).map(|value| String::from_utf8(value.to_vec()).unwrap())
        };
        assert_eq!(shown(Duration::from_micros(1500), true, "grpc-timeout").as_deref(), Some("2m"));
        assert_eq!(shown(Duration::ZERO, true, "grpc-timeout").as_deref(), Some("0m"));
        let days = Duration::from_secs(20 * 24 * 60 * 60);
        assert_eq!(shown(days, true, "grpc-timeout").as_deref(), Some("1728000S"));
        assert_eq!(shown(days, true, "x-envoy-expected-rq-timeout-ms"), None);
        let plain = shown(Duration::from_millis(70), false, "x-envoy-expected-rq-timeout-ms");
        assert_eq!(plain.as_deref(), Some("70"));
    }
}
