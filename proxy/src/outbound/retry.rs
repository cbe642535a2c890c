//! When a failed try is made again.
//!
//! Safe is: nothing reached the application, or the method is idempotent (RFC 9110, section 9.2.2);
//! and the owner of a route may ask for more (GEP-1731). The body must still be whole, the deadline must leave
//! room for the wait, and nobody nearer to the failure may have spent its retries on it
//! ([`crate::spending`]). How many there may be is [`super::budget`]'s to say.

use crate::h1::{Delivered, SendError};
use crate::http::{Headers, Known, Method, Response};
use crate::spending::SPENT;
use std::time::Duration;
use weft_model::reason::Reason;
use weft_model::route::RetryPolicy;
use weft_runtime::random::Random;

/// Tries of one request, the first included.
pub const TRIES_MAX: usize = 3;

/// How much longer than the least wait the longest can be: eight times doubled would outlive callers.
const BACKOFF_GROWTH_MAX: u32 = 10;

/// A server that wants to be left alone for longer than this gets no retry at all.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// A field of gRPC's retry design (A6): how long to wait, or, negative, that nobody should try again.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// What comes after an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// It is the answer.
    Pass,
    /// Another try was wanted and is not made, by the word of the metric.
    Refused(&'static str),
    /// Another try, after so long.
    Again(Duration),
}

/// What came of a try, and what the next would need.
pub struct Answered<'a> {
    /// The answer.
    pub answer: &'a Response,
    /// Whether it is from an endpoint's proxy.
    pub mesh: bool,
    /// Tries made.
    pub tries: usize,
    /// Whether the request's body is whole still.
    pub whole: bool,
    /// What the deadline leaves. `None`: there is no deadline.
    pub left: Option<Duration>,
}

/// Whether a try that was answered is made again, and when.
pub fn after_answer(policy: &RetryPolicy, answered: &Answered<'_>, random: &mut Random) -> Next {
    let Answered { answer, mesh, tries, whole, left } = answered;
    if !wants_answer(policy, answer, *mesh, *tries) {
        return Next::Pass;
    }
    let headers = answer.head.headers();
    if *mesh && is_spent(headers) {
        return Next::Refused("spent");
    }
    if !whole {
        return Next::Refused("body");
    }
    match wait(policy, *tries, headers, random) {
        None => Next::Refused("pushback"),
        Some(wait) if left.is_some_and(|left| left <= wait) => Next::Refused("deadline"),
        Some(wait) => Next::Again(wait),
    }
}

/// Whether the endpoint's proxy says that retries were spent on this already.
pub fn is_spent(headers: &Headers) -> bool {
    headers.get(Known::XWeftRetry) == Some(SPENT)
}

/// Whether a try that failed so may be made again.
pub fn is_safe(method: &Method, delivered: Delivered) -> bool {
    delivered == Delivered::No || method.is_idempotent()
}

/// Whether no connection was made, so that nobody had any work with the try.
pub fn is_unconnected(reason: Reason) -> bool {
    matches!(reason, Reason::ConnectFailed | Reason::ConnectTimeout | Reason::PeerIdentityMismatch)
}

/// Whether the owner wants a try that was answered so made again. What the endpoint's proxy (`mesh`)
/// says of its own connection to the application is a failed connection, whatever its status.
pub fn wants_answer(policy: &RetryPolicy, answer: &Response, mesh: bool, tries: usize) -> bool {
    let said = if mesh { answer.head.headers().get_str(Known::XWeftReason) } else { None };
    let failed = said.and_then(Reason::from_label).is_some_and(is_endpoints_fault);
    has_left(policy, tries) && (failed || policy.codes.contains(&status(answer)))
}

/// The status of an answer; a gRPC call that ended with its head counts as what it would be in HTTP.
fn status(answer: &Response) -> u16 {
    let status = answer.head.status.as_u16();
    match answer.head.headers().get(Known::GrpcStatus) {
        Some(b"4") if status == 200 => 504,
        Some(b"8") if status == 200 => 429,
        Some(b"13") if status == 200 => 500,
        Some(b"14") if status == 200 => 503,
        _ => status,
    }
}

/// Whether the owner wants a try that failed so made again: with a retry policy, all that is the
/// connection's or the endpoint's fault. What the request itself is at fault for would fail again.
pub fn wants_failure(policy: &RetryPolicy, error: &SendError, tries: usize) -> bool {
    has_left(policy, tries) && is_endpoints_fault(error.reason) && !error.aborted
}

fn is_endpoints_fault(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ApplicationUnreachable
            | Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::ConnectionReset
            | Reason::PeerIdentityMismatch
            | Reason::PeerRefused
            | Reason::RequestTimeout
    )
}

fn has_left(policy: &RetryPolicy, tries: usize) -> bool {
    usize::try_from(policy.attempts).is_ok_and(|attempts| tries <= attempts)
}

/// How long to wait before the next try: at least the owner's time, growing with the tries, and with
/// jitter, so that those who failed together do not come back together.
pub fn backoff(policy: &RetryPolicy, tries: usize, random: &mut Random) -> Duration {
    let doubled = u32::try_from(tries.saturating_sub(1)).ok().and_then(|shift| 1_u32.checked_shl(shift));
    let growth = doubled.unwrap_or(BACKOFF_GROWTH_MAX).clamp(1, BACKOFF_GROWTH_MAX);
    let span = policy.backoff.saturating_mul(growth);
    let microseconds = usize::try_from(span.as_micros()).unwrap_or(usize::MAX);
    policy.backoff + Duration::from_micros(random.below(microseconds.max(1)) as u64)
}

/// The same after an answer, whose `Retry-After` (RFC 9110, section 10.2.3, in seconds) and
/// `grpc-retry-pushback-ms` count where they are longer. `None`: the server wants no retry, or more time than
/// one is worth.
fn wait(policy: &RetryPolicy, tries: usize, headers: &Headers, random: &mut Random) -> Option<Duration> {
    let own = backoff(policy, tries, random);
    let asked = if let Some(pushback) = headers.find(PUSHBACK) {
        // What is no number counts as negative (A6).
        std::str::from_utf8(pushback).ok()?.parse().map(Duration::from_millis).ok()?
    } else if let Some(after) = headers.get_str(Known::RetryAfter) {
        // A date would need a clock that agrees with the server's; it counts as too long.
        after.trim().parse().map(Duration::from_secs).ok()?
    } else {
        return Some(own);
    };
    (asked <= RETRY_AFTER_MAX).then_some(own.max(asked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::StatusCode;

    #[test]
    fn what_may_have_been_executed_is_retried_only_if_idempotent() {
        assert!(is_safe(&Method::POST, Delivered::No));
        assert!(!is_safe(&Method::POST, Delivered::Maybe));
        assert!(!is_safe(&Method::PATCH, Delivered::Maybe));
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert!(is_safe(&method, Delivered::Maybe), "{method}");
        }
    }

    #[test]
    fn an_owner_gets_what_was_asked_for_and_no_more() {
        let policy = RetryPolicy { codes: vec![503], attempts: 2, backoff: Duration::from_millis(10) };
        let answer = |status: u16| Response::empty(StatusCode::from_u16(status).unwrap());
        let status = |status: u16, tries| wants_answer(&policy, &answer(status), true, tries);
        assert!(status(503, 1) && status(503, 2) && !status(503, 3));
        assert!(!status(500, 1));
        let broken = Response::local(Reason::ConnectionReset);
        assert!(wants_answer(&policy, &broken, true, 1));
        assert!(
            !wants_answer(&policy, &broken, false, 1),
            "an application's word about the mesh is not the mesh's"
        );
        let failed =
            |reason, aborted| SendError { reason, delivered: Delivered::Maybe, aborted, intact: false };
        assert!(wants_failure(&policy, &failed(Reason::ConnectionReset, false), 2));
        assert!(!wants_failure(&policy, &failed(Reason::ConnectionReset, false), 3));
        assert!(!wants_failure(&policy, &failed(Reason::ConnectionReset, true), 1));
        assert!(!wants_failure(&policy, &failed(Reason::HeaderTooLarge, false), 1));
    }

    #[test]
    fn waits_grow_with_jitter_and_heed_the_server() {
        let mut random = Random::new();
        let policy = RetryPolicy { codes: vec![], attempts: 9, backoff: Duration::from_millis(10) };
        for tries in 1..40 {
            let wait = backoff(&policy, tries, &mut random);
            let growth = 1_u32 << (tries - 1).min(5);
            let most = policy.backoff * (1 + growth.min(BACKOFF_GROWTH_MAX));
            assert!((policy.backoff..=most).contains(&wait), "{tries}: {wait:?}");
        }
        let mut after = |text: &str| {
            let mut headers = Headers::new();
            headers.append("retry-after", text.as_bytes()).unwrap();
            wait(&policy, 1, &headers, &mut random)
        };
        assert_eq!(after("2"), Some(Duration::from_secs(2)));
        assert_eq!(after("11"), None);
        assert_eq!(after("Fri, 31 Dec 1999 23:59:59 GMT"), None);
        let mut pushback = |text: &str| {
            let mut headers = Headers::new();
            headers.append(PUSHBACK, text.as_bytes()).unwrap();
            headers.append("retry-after", b"1").unwrap();
            wait(&policy, 1, &headers, &mut random)
        };
        assert_eq!(pushback("250"), Some(Duration::from_millis(250)), "the call's own word counts");
        for text in ["-1", "-250", "", "soon", "10001"] {
            assert_eq!(pushback(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_answer_is_tried_again_only_where_nothing_speaks_against_it() {
        let policy = RetryPolicy { codes: vec![503], attempts: 2, backoff: Duration::from_millis(10) };
        let answer = |fields: &[(&str, &str)]| {
            let mut answer = Response::empty(StatusCode::SERVICE_UNAVAILABLE);
            let headers = answer.head.headers_mut();
            fields.iter().for_each(|(name, value)| headers.append(name, value.as_bytes()).unwrap());
            answer
        };
        let next = |answer: &Response, mesh, whole, left| {
            let answered = Answered { answer, mesh, tries: 1, whole, left };
            after_answer(&policy, &answered, &mut Random::new())
        };
        let (plain, spent) = (answer(&[]), answer(&[("x-weft-retry", "spent")]));
        let short = Some(Duration::from_millis(10));
        assert!(matches!(next(&plain, true, true, None), Next::Again(_)));
        assert!(matches!(next(&plain, true, true, Some(Duration::from_secs(1))), Next::Again(_)));
        assert_eq!(next(&plain, true, true, short), Next::Refused("deadline"));
        assert_eq!(next(&plain, true, false, None), Next::Refused("body"));
        assert_eq!(next(&spent, true, true, None), Next::Refused("spent"));
        assert!(
            matches!(next(&spent, false, true, None), Next::Again(_)),
            "an application's word about the mesh is not the mesh's"
        );
        assert_eq!(next(&answer(&[(PUSHBACK, "-1")]), true, true, None), Next::Refused("pushback"));
        assert_eq!(next(&Response::empty(StatusCode::OK), true, true, None), Next::Pass);
    }

    #[test]
    fn a_call_that_ended_with_its_head_counts_as_its_http_status() {
        let policy = RetryPolicy { codes: vec![503, 429], attempts: 2, backoff: Duration::ZERO };
        for (grpc, again) in
            [("14", true), ("8", true), ("0", false), ("4", false), ("13", false), ("5", false)]
        {
            let mut answer = Response::empty(StatusCode::OK);
            answer.head.headers_mut().append("grpc-status", grpc.as_bytes()).unwrap();
            assert_eq!(wants_answer(&policy, &answer, true, 1), again, "{grpc}");
        }
    }
}
