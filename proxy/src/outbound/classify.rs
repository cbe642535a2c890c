//! What an answer, or the lack of one, says of the endpoint: it works, it is busy, it fails. The one place
//! that decides this for balancing and ejection.
//!
//! Busy is not broken: an endpoint that sheds load (429, RESOURCE_EXHAUSTED, 503 with `Retry-After`, its
//! proxy's own limits) gets less for a while. Ejecting it would push its load onto the others, which are
//! next. And a refusal is no answer: it is there in no time, and a replica that refuses must not look fast,
//! or it would draw all traffic.

use super::replica::Outcome;
use crate::h1::SendError;
use crate::http::{Headers, Known, Response};
use std::time::Duration;
use weft_model::reason::Reason;
use weft_model::traffic::FailureKind;

/// How long an endpoint is believed that wants to be left alone. Longer, and its word would be an
/// ejection that nothing ends early.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// What an answer says of who gave it. `mesh`: the endpoint has a proxy, whose word on itself counts.
pub fn of_answer(response: &Response, mesh: bool, grpc: bool, counts: FailureKind) -> Outcome {
    let headers = response.head.headers();
    let said = if mesh { headers.get_str(Known::XWeftReason) } else { None };
    // A word that a newer proxy knows is left to its status.
    if let Some(reason) = said.and_then(Reason::from_label) {
        return match reason {
            reason if sheds(reason) => Outcome::Busy(retry_after(headers).unwrap_or_default()),
            reason if is_endpoints_fault(reason) => Outcome::Failed,
            // Whatever it is, the application did not say it: a verdict on the request.
            _ => Outcome::Refused,
        };
    }
    let status = response.head.status.as_u16();
    let status = if grpc { grpc_status(headers).unwrap_or(status) } else { status };
    if status != 429 && status < 500 {
        return Outcome::Answered;
    }
    let asked = retry_after(headers);
    if status == 429 || status == 503 && asked.is_some() {
        return Outcome::Busy(asked.unwrap_or_default());
    }
    failed(status, counts)
}

/// What the status that a gRPC call ended with says.
pub fn of_grpc_status(code: u8, counts: FailureKind) -> Outcome {
    match status_of_grpc(code) {
        429 => Outcome::Busy(Duration::ZERO),
        status => failed(status, counts),
    }
}

/// Whether an answer says in its trailers how the call fared.
pub fn ends_with_status(response: &Response, grpc: bool) -> bool {
    grpc && response.head.status.is_success()
        && !response.head.headers().contains(Known::GrpcStatus)
        && !response.body.is_end()
}

fn failed(status: u16, counts: FailureKind) -> Outcome {
    let counted = matches!(status, 502..=504) || status >= 500 && counts == FailureKind::ServerErrors;
    if counted { Outcome::Failed } else { Outcome::Answered }
}

/// What a try without an answer says of the endpoint. `None`: nothing, the fault is the client's or our own.
pub fn of_error(error: &SendError) -> Option<Outcome> {
    if error.aborted {
        return None;
    }
    of_reason(error.reason)
}

/// The same of a reason alone.
pub fn of_reason(reason: Reason) -> Option<Outcome> {
    match reason {
        Reason::ConnectFailed | Reason::ConnectTimeout | Reason::PeerIdentityMismatch => {
            Some(Outcome::Unreachable)
        }
        Reason::ConnectionReset
        | Reason::PeerRefused
        | Reason::RequestTimeout
        | Reason::ResponseMalformed
        | Reason::ResponseHeaderTooLarge => Some(Outcome::Failed),
        _ => None,
    }
}

/// Whether an endpoint's proxy says by it that there is too much to do.
fn sheds(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Overloaded | Reason::RateLimited | Reason::ConcurrencyLimited | Reason::QueueTimeout
    )
}

/// Whether it says by it that this replica does not work, and another may: its application is gone, or its
/// proxy is cut off from what it needs to judge.
fn is_endpoints_fault(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ApplicationUnreachable
            | Reason::AuthorizationUnresolved
            | Reason::ConfigurationMissing
            | Reason::ExternalAuthorizerFailed
            | Reason::JwtKeysUnresolved
            | Reason::PolicyTooOld
            | Reason::ResourceUnresolved
    ) || of_reason(reason).is_some()
}

/// The status of a gRPC answer that is a status alone, as HTTP's, as Envoy maps it.
fn grpc_status(headers: &Headers) -> Option<u16> {
    headers.get_str(Known::GrpcStatus)?.parse().ok().map(status_of_grpc)
}

fn status_of_grpc(code: u8) -> u16 {
    match code {
        2 | 13 | 15 => 500,
        4 => 504,
        8 => 429,
        14 => 503,
        _ => 200,
    }
}

/// Seconds (RFC 9110, section 10.2.3). A date would need a clock that agrees with the server's.
fn retry_after(headers: &Headers) -> Option<Duration> {
    let seconds = headers.get_str(Known::RetryAfter)?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::Delivered;
    use crate::http::{Body, StatusCode};

    fn answer(status: u16, fields: &[(&str, &str)]) -> Response {
        let mut response = Response::empty(StatusCode::from_u16(status).unwrap());
        for (name, value) in fields {
            response.head.headers_mut().append(name, value.as_bytes()).unwrap();
        }
        response
    }

    fn of(status: u16, fields: &[(&str, &str)]) -> Outcome {
        of_answer(&answer(status, fields), true, false, FailureKind::GatewayErrors)
    }

    #[test]
    fn busy_is_not_broken() {
        assert_eq!(of(429, &[]), Outcome::Busy(Duration::ZERO));
        assert_eq!(of(503, &[("retry-after", "7")]), Outcome::Busy(Duration::from_secs(7)));
        assert_eq!(of(503, &[("retry-after", "86400")]), Outcome::Busy(RETRY_AFTER_MAX));
        assert_eq!(of(503, &[("x-weft-reason", "overloaded")]), Outcome::Busy(Duration::ZERO));
        assert_eq!(of(503, &[("retry-after", "soon")]), Outcome::Failed);
        assert_eq!(of(503, &[]), Outcome::Failed);
    }

    #[test]
    fn other_server_errors_are_the_requests_doing_unless_the_owner_says_otherwise() {
        assert_eq!(of(200, &[]), Outcome::Answered);
        assert_eq!(of(404, &[]), Outcome::Answered);
        assert_eq!(of(500, &[]), Outcome::Answered);
        assert_eq!(of(504, &[]), Outcome::Failed);
        let all = |status| of_answer(&answer(status, &[]), true, false, FailureKind::ServerErrors);
        assert_eq!(all(500), Outcome::Failed);
        assert_eq!(all(404), Outcome::Answered);
    }

    #[test]
    fn a_proxys_verdict_on_the_request_is_not_its_applications_failure() {
        assert_eq!(of(503, &[("x-weft-reason", "workload_mismatch")]), Outcome::Refused);
        assert_eq!(of(403, &[("x-weft-reason", "authorization_denied")]), Outcome::Refused);
        assert_eq!(of(503, &[("x-weft-reason", "of_a_newer_proxy")]), Outcome::Failed);
        assert_eq!(of(503, &[("x-weft-reason", "application_unreachable")]), Outcome::Failed);
        let plain = answer(503, &[("x-weft-reason", "workload_mismatch")]);
        let of_plain = of_answer(&plain, false, false, FailureKind::GatewayErrors);
        assert_eq!(of_plain, Outcome::Failed, "an application's word about the mesh is not the mesh's");
    }

    #[test]
    fn a_replica_that_sheds_by_its_limits_is_busy_and_one_that_cannot_judge_fails() {
        for label in ["overloaded", "rate_limited", "concurrency_limited", "queue_timeout"] {
            for status in [429, 503] {
                let outcome = of(status, &[("x-weft-reason", label), ("retry-after", "2")]);
                assert_eq!(outcome, Outcome::Busy(Duration::from_secs(2)), "{label}");
            }
        }
        for label in ["policy_too_old", "authorization_unresolved", "external_authorizer_failed"] {
            assert_eq!(of(403, &[("x-weft-reason", label)]), Outcome::Failed, "{label}");
        }
        assert_eq!(of(500, &[("x-weft-reason", "resource_unresolved")]), Outcome::Failed);
        assert_eq!(of(503, &[("x-weft-reason", "configuration_missing")]), Outcome::Failed);
    }

    #[test]
    fn grpc_statuses_count_as_the_http_ones_they_stand_for() {
        let of = |code: &str, counts| of_answer(&answer(200, &[("grpc-status", code)]), true, true, counts);
        assert_eq!(of("0", FailureKind::ServerErrors), Outcome::Answered);
        assert_eq!(of("5", FailureKind::ServerErrors), Outcome::Answered);
        assert_eq!(of("8", FailureKind::GatewayErrors), Outcome::Busy(Duration::ZERO));
        assert_eq!(of("14", FailureKind::GatewayErrors), Outcome::Failed);
        assert_eq!(of("13", FailureKind::GatewayErrors), Outcome::Answered);
        assert_eq!(of("13", FailureKind::ServerErrors), Outcome::Failed);
        for code in 0..=17 {
            for counts in [FailureKind::GatewayErrors, FailureKind::ServerErrors] {
                let text = code.to_string();
                let at_once = of(&text, counts);
                assert_eq!(of_grpc_status(code, counts), at_once, "{code}: it counts the same in trailers");
            }
        }
    }

    #[test]
    fn only_a_grpc_answer_that_began_well_is_judged_by_its_trailers() {
        let open = |status: u16, fields: &[(&str, &str)], grpc| {
            let mut answer = answer(status, fields);
            answer.body = Body::Full("message".into());
            ends_with_status(&answer, grpc)
        };
        assert!(open(200, &[], true));
        assert!(!open(200, &[], false), "not gRPC");
        assert!(!open(503, &[], true), "a status of HTTP's");
        assert!(!open(200, &[("grpc-status", "14")], true), "it has said it already");
        assert!(!ends_with_status(&answer(200, &[]), true), "nothing follows");
    }

    #[test]
    fn what_is_the_clients_fault_says_nothing_of_the_endpoint() {
        let error =
            |reason, aborted| SendError { reason, delivered: Delivered::Maybe, aborted, intact: false };
        assert_eq!(of_error(&error(Reason::ConnectFailed, false)), Some(Outcome::Unreachable));
        assert_eq!(of_error(&error(Reason::RequestTimeout, false)), Some(Outcome::Failed));
        assert_eq!(of_error(&error(Reason::ConnectionReset, true)), None);
        assert_eq!(of_error(&error(Reason::BodyTimeout, false)), None);
    }
}
