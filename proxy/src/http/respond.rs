//! Answers the proxy makes itself, as the client understands them, and the mesh's internal fields.
//!
//! The only mapping from a reason to an HTTP or gRPC answer. An answer of the proxy always carries
//! `x-weft-reason`; fields named `x-weft-…` and `x-forwarded-client-cert` never pass from an application,
//! in either direction.

use super::{Body, Headers, Known, Response, StatusCode};
use crate::spending::SPENT;
use std::time::Duration;
use weft_model::reason::Reason;

const INTERNAL: &[u8] = b"x-weft-";
const CERTIFICATE: &[u8] = b"x-forwarded-client-cert";

/// A local answer in the form its client reads: a gRPC client is told by `grpc-status` in an answer
/// of headers alone (gRPC over HTTP/2, "Trailers-Only").
pub fn for_client(response: Response, reason: Reason, grpc: bool) -> Response {
    if !grpc {
        return response;
    }
    let mut headers = Headers::with_capacity(8, 256);
    let own = reason.grpc_status().to_string();
    // An answer that is made on purpose says which.
    let status = response.head.headers().get(Known::GrpcStatus).unwrap_or(own.as_bytes());
    // Constants and a number: they follow the grammar.
    let _ = headers.append_known(Known::ContentType, b"application/grpc");
    let _ = headers.append_known(Known::GrpcStatus, status);
    let _ = headers.append_known(Known::GrpcMessage, reason.text().as_bytes());
    let _ = headers.append_known(Known::XWeftReason, reason.label().as_bytes());
    if response.head.headers().contains(Known::XWeftUndelivered) {
        let _ = headers.append_known(Known::XWeftUndelivered, b"1");
    }
    Response::new(super::ResponseHead::new(StatusCode::OK, headers), Body::Empty)
}

/// The gRPC status that an HTTP status is told by (gRPC's "HTTP to gRPC Status Code Mapping").
pub fn grpc_status(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// Marks a local answer: nothing of the request reached the application.
pub fn undelivered(mut response: Response) -> Response {
    // A constant that follows the grammar.
    let _ = response.head.headers_mut().insert_known(Known::XWeftUndelivered, b"1");
    response
}

/// Marks a failing answer: retries were spent on it, and whoever called should not make any.
pub fn spent(headers: &mut Headers) {
    // A constant that follows the grammar.
    let _ = headers.insert_known(Known::XWeftRetry, SPENT);
}

/// Says when a client that was refused may come again, in the words that it reads.
pub fn come_again(headers: &mut Headers, grpc: bool, after: Duration) {
    // Numbers: they follow the grammar.
    let _ = if grpc {
        headers.append("grpc-retry-pushback-ms", after.as_millis().max(1).to_string().as_bytes())
    } else {
        // In whole seconds, and never too early.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.append_known(Known::RetryAfter, seconds.to_string().as_bytes())
    };
}

/// Whether an answer is one that its client may want to try again.
pub fn is_failing(response: &Response) -> bool {
    let grpc = response.head.headers().get(Known::GrpcStatus);
    response.head.status.as_u16() >= 400 || grpc.is_some_and(|status| status != b"0")
}

/// Removes the mesh's internal fields, and what says whose certificate was shown: nobody's claim.
pub fn strip_internal(headers: &mut Headers) {
    if headers.iter().any(|field| is_internal(field.name)) {
        headers.retain(|field| !is_internal(field.name));
    }
}

/// Whether only the mesh may say what stands in a field of this name. Applications behind CGI's convention
/// (WSGI, PHP) read `-` and `_` alike, so both are.
pub fn is_internal(name: &[u8]) -> bool {
    let alike =
        |found: &u8, wanted: &u8| found.eq_ignore_ascii_case(wanted) || (*wanted == b'-' && *found == b'_');
    // Few names begin so: the rest is not looked at for most fields.
    matches!(name.first(), Some(b'x' | b'X'))
        && [(INTERNAL, false), (CERTIFICATE, true)].iter().any(|(wanted, whole)| {
            let fits = if *whole { name.len() == wanted.len() } else { name.len() >= wanted.len() };
            fits && name.iter().zip(*wanted).all(|(found, wanted)| alike(found, wanted))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_fields_go_in_any_spelling() {
        let mut headers = Headers::new();
        let (gone, left) = (
            [
                "X-Weft-Reason",
                "x-weft-anything",
                "x-weft-",
                "X_Weft_Reason",
                "x-weft_case",
                "x-forwarded-client-cert",
                "X-Forwarded-Client-Cert",
                "x_forwarded_client_cert",
                "X-FORWARDED_client-CERT",
            ],
            [
                "x-weftish",
                "x-weft",
                "host",
                "x-forwarded-client-certificate",
                "x-forwarded-client",
                "y-weft-a",
            ],
        );
        for name in gone.iter().chain(&left) {
            headers.append(name, b"1").unwrap();
        }
        strip_internal(&mut headers);
        let found: Vec<_> = headers.iter().map(|field| field.name_str().to_owned()).collect();
        assert_eq!(found, left);
    }

    #[test]
    fn every_reason_reaches_a_grpc_client_as_its_grpc_status() {
        for reason in Reason::ALL {
            let response = for_client(Response::local(*reason), *reason, true);
            assert_eq!(response.head.status, StatusCode::OK);
            let status = response.head.headers().get_str(Known::GrpcStatus).unwrap();
            assert_eq!(status, reason.grpc_status().to_string());
            assert!(response.head.headers().contains(Known::XWeftReason));
        }
    }
}
