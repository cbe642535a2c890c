//! Claims about parsing, and what the other tests of the codec share.

use super::chunked::{Decoder, Event};
use super::framing::{self, Framing};
use super::{Handler, NoDrain, Outcome, parse, serve};
use crate::http::{Body, Limits, Method, Request, RequestHead, Response, StatusCode, Version};
use crate::stream::Stream;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use weft_model::reason::Reason;

/// Nothing here takes longer; a test that waits for nothing ends with this.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Answers with what it was asked.
pub(super) struct Echo;

impl Handler for Echo {
    async fn call(&self, mut request: Request) -> Response {
        let (body, trailers) = match request.body.collect(64 << 20).await {
            Ok(collected) => collected,
            Err(error) => return Response::local(error.reason),
        };
        let trailers = trailers.map_or(0, |trailers| trailers.len());
        let text = format!(
            "{} {} {} {}+{}",
            request.head.method,
            request.head.authority(),
            request.head.path_and_query(),
            String::from_utf8_lossy(&body),
            trailers
        );
        Response::text(StatusCode::OK, text)
    }
}

/// Two ends of a connection in memory.
pub(super) fn pipe() -> (DuplexStream, Stream) {
    let (near, far) = duplex(64 * 1024);
    (near, Stream::Duplex(far))
}

/// Serves these bytes, sent in pieces; what came back until the server closed.
pub(super) async fn converse(handler: &impl Handler, input: &[u8], piece: usize) -> String {
    let (mut client, stream) = pipe();
    let limits = Limits { connect: true, ..Limits::default() };
    let served = async {
        if let Ok(Outcome::Connect { mut stream, head, .. }) = serve(stream, handler, &limits, &NoDrain).await
        {
            let answer = format!("CONNECTED {}", head.authority());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let talk = async {
        for part in input.chunks(piece) {
            // The server may have closed already: it refused what it saw.
            if client.write_all(part).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.unwrap();
        String::from_utf8_lossy(&output).into_owned()
    };
    let both = async { tokio::join!(served, talk).1 };
    tokio::time::timeout(PATIENCE, both).await.unwrap()
}

fn head(text: &str) -> RequestHead {
    parse::request_head(text.as_bytes(), &Limits::default()).unwrap().unwrap().1
}

const REFUSED: &[(&str, Reason)] = &[
    // The request line.
    ("GET\r\n\r\n", Reason::RequestMalformed),
    ("GET /\r\n\r\n", Reason::RequestMalformed),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\nHost: a\n\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/11\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTPS/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Reason::VersionUnsupported),
    ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Reason::VersionUnsupported),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Reason::VersionUnsupported),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Reason::VersionUnsupported),
    ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("G\u{e9}T / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03", Reason::RequestMalformed),
    // The target.
    ("GET foo HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /?#a HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /?\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /\" HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /< HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /> HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /^ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /` HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /{a} HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /| HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET /?\"a HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET http:/a/ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", Reason::HostInvalid),
    ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::HostInvalid),
    ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::AuthorityMismatch),
    ("GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::AuthorityMismatch),
    ("GET https://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", Reason::AuthorityMismatch),
    ("GET http://a/ HTTP/1.1\r\n\r\n", Reason::HostInvalid),
    ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", Reason::RequestMalformed),
    ("CONNECT [::1] HTTP/1.1\r\nHost: [::1]\r\n\r\n", Reason::RequestMalformed),
    ("CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n", Reason::AuthorityMismatch),
    ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\nx", Reason::RequestMalformed),
    // Host.
    ("GET / HTTP/1.1\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a/c\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a%41\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a:+1\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: [1.2.3.4]\r\n\r\n", Reason::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", Reason::HostInvalid),
    // Field lines.
    ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: z\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\nX[: z\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a long value with \x7f in it\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\n\n", Reason::RequestMalformed),
    ("GET / HTTP/1.1\r\nHost: a\r\n\rX", Reason::RequestMalformed),
    // Framing.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        Reason::RequestFramingAmbiguous,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        Reason::RequestFramingAmbiguous,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        Reason::RequestFramingAmbiguous,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        Reason::RequestFramingAmbiguous,
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx", Reason::RequestFramingAmbiguous),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", Reason::RequestMalformed),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx", Reason::RequestMalformed),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Reason::RequestMalformed),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx", Reason::RequestMalformed),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\nx", Reason::RequestMalformed),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", Reason::RequestMalformed),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", Reason::RequestMalformed),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Reason::RequestFramingAmbiguous,
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", Reason::TransferCodingUnsupported),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        Reason::TransferCodingUnsupported,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        Reason::TransferCodingUnsupported,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        Reason::TransferCodingUnsupported,
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Reason::TransferCodingUnsupported),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Reason::TransferCodingUnsupported),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", Reason::TransferCodingUnsupported),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n",
        Reason::ExpectationUnsupported,
    ),
    // Bodies.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000003\r\nabc\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: b\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx : b\r\n\r\n",
        Reason::BodyMalformed,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: b\r\n y\r\n\r\n",
        Reason::BodyMalformed,
    ),
];

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_breaks_the_grammar_is_refused_with_its_reason_and_the_connection_ends() {
    for (input, reason) in REFUSED {
        for piece in [usize::MAX, 1] {
            let output = converse(&Echo, input.as_bytes(), piece).await;
            let status = format!("HTTP/1.1 {} ", reason.status());
            let label = format!("x-weft-reason: {}\r\n", reason.label());
            assert!(output.starts_with(&status) && output.contains(&label), "{input:?} by {piece}: {output}");
            assert!(output.contains("Connection: close\r\n"), "{input:?}: {output}");
            assert_eq!(output.matches("HTTP/1.1 ").count(), 1, "{input:?}: {output}");
        }
    }
    assert!(REFUSED.len() >= 100);
}

const ACCEPTED: &[(&str, &str)] = &[
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET a / +0"),
    ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET a / +0"),
    ("get /x HTTP/1.1\r\nhOsT:a:8080 \t\r\n\r\n", "get a:8080 /x +0"),
    (
        "M-SEARCH /a/../b//c%2f;d=1?q={a}|b&c=?/ HTTP/1.1\r\nHost: A_b.c~d-e\r\n\r\n",
        "M-SEARCH A_b.c~d-e /a/../b//c%2f;d=1?q={a}|b&c=?/ +0",
    ),
    ("GET HTTP://A:80/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET a /x?y +0"),
    ("GET https://[::1]:443 HTTP/1.1\r\nHost: [::1]\r\n\r\n", "GET [::1] / +0"),
    ("GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n", "GET a /?x +0"),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS a * +0"),
    ("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS a * +0"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \u{e9}\ttab and \u{ff}\r\nZ:   \r\n\r\n", "GET a / +0"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\n\r\nabc", "POST a / abc+0"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ChunkeD\r\n\r\n3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n000\r\n\r\n",
        "POST a / abc0123456789+0",
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\nz: 1\r\n\r\n",
        "POST a / a+2",
    ),
    ("GET / HTTP/1.0\r\n\r\n", "GET  / +0"),
    ("GET http://a/b HTTP/1.0\r\n\r\n", "GET a /b +0"),
];

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_follows_the_grammar_is_accepted_in_pieces_of_any_size() {
    for (input, expected) in ACCEPTED {
        let text = input.replacen("\r\nHost:", "\r\nConnection: close\r\nHost:", 1);
        let text = text.replacen("\r\nhOsT:", "\r\nConnection: close\r\nhOsT:", 1);
        for piece in [usize::MAX, 1, 2, 3, 7] {
            let output = converse(&Echo, text.as_bytes(), piece).await;
            assert!(output.starts_with("HTTP/1.1 200 OK\r\n"), "{input:?} by {piece}: {output}");
            assert!(output.ends_with(&format!("\r\n\r\n{expected}")), "{input:?} by {piece}: {output}");
        }
    }
}

#[test]
fn limits_refuse_what_is_too_large_and_nothing_smaller() {
    let limits = Limits { head_bytes_max: 200, fields_max: 3, target_bytes_max: 50, ..Limits::default() };
    let parse = |text: &str| parse::request_head(text.as_bytes(), &limits).map(|parsed| parsed.is_some());
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length - 1));
    assert_eq!(parse(&target(50)), Ok(true));
    assert_eq!(parse(&target(51)), Err(Reason::TargetTooLong));
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    assert_eq!(parse(&fields(3)), Ok(true));
    assert_eq!(parse(&fields(4)), Err(Reason::HeaderTooLarge));
    let sized = |size: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(size - 32));
    assert_eq!(sized(200).len(), 200);
    assert_eq!(parse(&sized(199)), Ok(true));
    assert_eq!(parse(&sized(200)), Ok(true));
    assert_eq!(parse(&sized(201)), Err(Reason::HeaderTooLarge));
    assert_eq!(parse(&sized(201)[..150]), Ok(false));
    assert_eq!(parse(&"G".repeat(33)), Err(Reason::RequestMalformed));
}

#[test]
fn a_head_is_the_same_however_it_was_cut() {
    let text = "POST /a?b HTTP/1.1\r\nHost: h:1\r\nX-One: 1\r\nx-two:2\r\nContent-Length: 4\r\n\r\nbody";
    let limits = Limits::default();
    let end = text.len() - 4;
    for cut in 0..end {
        assert!(parse::request_head(&text.as_bytes()[..cut], &limits).unwrap().is_none(), "cut at {cut}");
    }
    let (consumed, parsed) = parse::request_head(text.as_bytes(), &limits).unwrap().unwrap();
    assert_eq!((consumed, parsed.path(), parsed.query()), (end, "/a", Some("b")));
    assert_eq!(
        (parsed.authority(), parsed.version, parsed.method.clone()),
        ("h:1", Version::Http11, Method::POST)
    );
    assert_eq!(framing::of_request(&parsed), Ok(Framing::Length(4)));
    let names: Vec<_> = parsed.headers().iter().map(|field| field.name_str()).collect();
    assert_eq!(names, ["Host", "X-One", "x-two", "Content-Length"]);
    assert_eq!(
        head("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: x, Upgrade\r\n\r\n").upgrade(),
        Some("websocket")
    );
    assert_eq!(head("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n").upgrade(), None);
    let upgrade = |offer: &str| {
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: {offer}\r\nConnection: upgrade\r\n\r\n");
        head(&text).upgrade().map(str::to_owned)
    };
    assert_eq!(upgrade("a, b").as_deref(), Some("a, b"));
    assert_eq!(upgrade("websocket, H2C"), None, "HTTP/2 within would not be judged");
}

#[test]
fn a_verdict_never_changes_with_more_input() {
    let limits = Limits { head_bytes_max: 300, fields_max: 6, target_bytes_max: 60, ..Limits::default() };
    let verdict = |input: &[u8]| match parse::request_head(input, &limits) {
        Ok(parsed) => parsed.map(|(end, head)| Ok((end, format!("{head:?}")))),
        Err(reason) => Some(Err(reason)),
    };
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let bytes = b"\r\n\t :;/*?#%,\0\x7f\x80aZ0";
    for round in 0..20_000 {
        let (text, _) = ACCEPTED[round % ACCEPTED.len()];
        let mut input = text.as_bytes().to_vec();
        for _ in 0..1 + random(3) {
            let at = random(input.len());
            match random(3) {
                0 => input[at] = bytes[random(bytes.len())],
                1 => input.insert(at, bytes[random(bytes.len())]),
                _ => drop(input.remove(at)),
            }
        }
        let last = verdict(&input);
        let mut early = None;
        for cut in 0..input.len() {
            early = early.or_else(|| verdict(&input[..cut]));
            assert!(early.is_none() || early == last, "{:?} at {cut}", input.escape_ascii().to_string());
        }
    }
}

#[test]
fn response_heads_are_parsed_as_strictly() {
    let limits = Limits::default();
    let parse = |text: &str| {
        parse::response_head(text.as_bytes(), &limits).map(|parsed| parsed.map(|(_, head)| head))
    };
    let head = parse("HTTP/1.1 404 Nicht da\r\nX: y\r\n\r\n").unwrap().unwrap();
    assert_eq!((head.status, head.phrase()), (StatusCode::NOT_FOUND, &b"Nicht da"[..]));
    assert!(parse("HTTP/1.0 200\r\n\r\n").unwrap().unwrap().phrase().is_empty());
    assert!(parse("HTTP/1.1 200 OK\r\nX: y\r\n").unwrap().is_none());
    for broken in [
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
    ] {
        assert_eq!(parse(broken).map(|_| ()), Err(Reason::ResponseMalformed), "{broken:?}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(257));
    assert_eq!(parse(&many).map(|_| ()), Err(Reason::ResponseHeaderTooLarge));
}

#[test]
fn the_framing_of_responses_is_never_guessed() {
    let framing = |fields: &str, status: u16, method: Method| {
        let text = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
        let (_, head) = parse::response_head(text.as_bytes(), &Limits::default()).unwrap().unwrap();
        framing::of_response(&head, &method)
    };
    assert_eq!(framing("", 200, Method::GET), Ok(Framing::Close));
    assert_eq!(framing("Content-Length: 5\r\n", 200, Method::GET), Ok(Framing::Length(5)));
    assert_eq!(framing("Content-Length: 5\r\n", 200, Method::HEAD), Ok(Framing::None));
    assert_eq!(framing("Content-Length: 5\r\n", 304, Method::GET), Ok(Framing::None));
    assert_eq!(framing("", 204, Method::GET), Ok(Framing::None));
    assert_eq!(framing("Transfer-Encoding: chunked\r\n", 200, Method::GET), Ok(Framing::Chunked));
    for ambiguous in [
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: x\r\n",
    ] {
        assert_eq!(framing(ambiguous, 200, Method::GET), Err(Reason::ResponseMalformed), "{ambiguous:?}");
    }
}

#[test]
fn chunk_extensions_are_bounded() {
    let line = |length: usize| format!("1;{}\r\na\r\n", "e".repeat(length));
    let mut decoder = Decoder::default();
    assert_eq!(decoder.advance(line(256).as_bytes()), Ok((260, Event::Data(1))));
    assert!(Decoder::default().advance(line(257).as_bytes()).is_err());
    let many = line(200).repeat(100);
    let mut rest = many.as_bytes();
    let mut decoder = Decoder::default();
    let refused = std::iter::from_fn(|| match decoder.advance(rest) {
        Ok((skip, Event::Data(count))) => {
            rest = &rest[skip + count..];
            Some(false)
        }
        Ok(_) => None,
        Err(_) => Some(true),
    });
    assert!(refused.take(200).any(|refused| refused), "all extensions together are bounded");
}

#[test]
fn full_bodies_are_what_they_say() {
    assert_eq!(Body::from(bytes::Bytes::from_static(b"abc")).exact_length(), Some(3));
    assert!(Body::from(bytes::Bytes::new()).is_end());
}
