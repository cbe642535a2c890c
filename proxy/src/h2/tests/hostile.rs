//! What a peer may try, with a bare `h2` client or bare bytes.

use super::*;
use crate::http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn ok_server(stream: DuplexStream, settings: Settings) -> Server {
    start(Stream::Duplex(stream), settings, |mut request| async move {
        let _ = request.body.collect(1 << 20).await;
        Response::text(StatusCode::OK, format!("{:?}", request.head.headers()))
    })
}

/// The status and reason that a bare request gets; a reset is its code.
async fn outcome(request: ::http::Request<()>) -> String {
    let (near, far) = tokio::io::duplex(1 << 20);
    let _server = ok_server(far, Settings::server());
    let mut client = bare_client(near).await;
    let (answer, _) = match client.send_request(request, true) {
        Ok(sent) => sent,
        Err(error) => return format!("not sent: {error}"),
    };
    match answer.await {
        Ok(answer) => {
            let reason = answer.headers().get("x-weft-reason").map_or("-", |reason| reason.to_str().unwrap());
            format!("{} {reason}", answer.status().as_u16())
        }
        Err(error) => format!("{:?}", error.reason().unwrap()),
    }
}

#[test]
fn heads_that_the_library_lets_pass_are_judged() {
    run(async {
        let get = || ::http::Request::get("http://shop.test/");
        let long = "x".repeat(70_000);
        let big = "x".repeat(25_000);
        let cases: Vec<(&str, ::http::Request<()>, &str)> = vec![
            ("plain", get().body(()).unwrap(), "200 -"),
            ("host alike", get().header("host", "SHOP.test").body(()).unwrap(), "200 -"),
            ("host else", get().header("host", "other.test").body(()).unwrap(), "400 authority_mismatch"),
            (
                "two hosts",
                get().header("host", "shop.test").header("host", "shop.test").body(()).unwrap(),
                "400 host_invalid",
            ),
            (
                "no authority",
                ::http::Request::get("/x").version(::http::Version::HTTP_11).body(()).unwrap(),
                "400 host_invalid",
            ),
            (
                "host only",
                ::http::Request::get("/x")
                    .version(::http::Version::HTTP_11)
                    .header("host", "a.b:1")
                    .body(())
                    .unwrap(),
                "200 -",
            ),
            ("user", ::http::Request::get("http://u@shop.test/").body(()).unwrap(), "400 host_invalid"),
            ("port", ::http::Request::get("http://shop.test:99999/").body(()).unwrap(), "400 host_invalid"),
            (
                "quote in path",
                ::http::Request::get("http://a/{x}").body(()).unwrap(),
                "400 request_malformed",
            ),
            (
                "star",
                ::http::Request::get("http://a/").uri(star()).body(()).unwrap(),
                "400 request_malformed",
            ),
            ("scheme", ::http::Request::get("ftp://a/").body(()).unwrap(), "400 request_malformed"),
            ("connect", ::http::Request::connect("a.test:443").body(()).unwrap(), "501 method_unsupported"),
            ("long method", get().method(&*"M".repeat(40)).body(()).unwrap(), "400 request_malformed"),
            ("spaces", get().header("x-a", " b").body(()).unwrap(), "400 request_malformed"),
            (
                "two lengths",
                get().header("content-length", "0").header("content-length", "0").body(()).unwrap(),
                "400 request_framing_ambiguous",
            ),
            (
                "a length without a body",
                get().header("content-length", "5").body(()).unwrap(),
                "PROTOCOL_ERROR",
            ),
            ("te", get().header("te", "trailers").body(()).unwrap(), "200 -"),
            (
                "large",
                get()
                    .header("a", &big)
                    .header("b", &big)
                    .header("c", &big)
                    .header("d", &big)
                    .body(())
                    .unwrap(),
                "431 header_too_large",
            ),
            ("far too large", get().header("a", &long).header("b", &long).body(()).unwrap(), "431 -"),
        ];
        for (name, request, expected) in cases {
            assert_eq!(outcome(request).await, expected, "{name}");
        }
        let mut many = get();
        for n in 0..257 {
            many = many.header("x-many", n);
        }
        assert_eq!(outcome(many.body(()).unwrap()).await, "431 header_too_large");
    });
}

fn star() -> ::http::Uri {
    let mut parts = ::http::uri::Parts::default();
    parts.scheme = Some(::http::uri::Scheme::HTTP);
    parts.authority = Some("a".parse().unwrap());
    parts.path_and_query = Some("*".parse().unwrap());
    ::http::Uri::from_parts(parts).unwrap()
}

#[test]
fn cookie_crumbs_are_joined() {
    run(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let _server = ok_server(far, Settings::server());
        let mut client = bare_client(near).await;
        let request = ::http::Request::get("http://a/")
            .header("cookie", "a=1")
            .header("x", "y")
            .header("cookie", "b=2");
        let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        let mut answer = answer.await.unwrap();
        let said = answer.body_mut().data().await.unwrap().unwrap();
        assert_eq!(said, r#"{"host": "a", "cookie": "a=1; b=2", "x": "y"}"#);
    });
}

#[test]
fn forbidden_trailers_break_the_request_not_the_connection() {
    run(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let found = Rc::new(Cell::new(None));
        let seen = Rc::clone(&found);
        let _server = start(Stream::Duplex(far), Settings::server(), move |mut request| {
            let seen = Rc::clone(&seen);
            async move {
                seen.set(request.body.collect(100).await.err());
                Response::empty(StatusCode::OK)
            }
        });
        let mut client = bare_client(near).await;
        let request = ::http::Request::post("http://a/").body(()).unwrap();
        let (answer, mut upload) = client.send_request(request, false).unwrap();
        upload.send_data(Bytes::from_static(b"x"), false).unwrap();
        let mut trailers = ::http::HeaderMap::new();
        trailers.insert("host", "b".parse().unwrap());
        upload.send_trailers(trailers).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        assert_eq!(found.take(), Some(BodyError::new(Reason::BodyMalformed)));
    });
}

#[test]
fn a_body_shorter_than_its_length_is_an_error_of_the_body() {
    run(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let found = Rc::new(Cell::new(None));
        let seen = Rc::clone(&found);
        let _server = start(Stream::Duplex(far), Settings::server(), move |mut request| {
            let seen = Rc::clone(&seen);
            async move {
                assert_eq!(request.body.exact_length(), Some(5));
                seen.set(request.body.collect(100).await.err());
                Response::empty(StatusCode::OK)
            }
        });
        let mut client = bare_client(near).await;
        let request = ::http::Request::post("http://a/").header("content-length", "5").body(()).unwrap();
        let (answer, mut upload) = client.send_request(request, false).unwrap();
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        upload.send_data(Bytes::from_static(b"abc"), true).unwrap();
        assert!(answer.await.is_err());
        assert_eq!(found.take(), Some(BodyError::new(Reason::BodyMalformed)));
    });
}

/// Taken back one after the other, each after its handler ran, as the protocol library allows.
#[test]
fn a_client_that_keeps_taking_requests_back_loses_the_connection() {
    // The budget fills with time, of which a busy machine has more.
    run_paused(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let running = Rc::new(Cell::new(0_usize));
        let most = Rc::new(Cell::new(0_usize));
        struct Running(Rc<Cell<usize>>);
        impl Drop for Running {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let (now, peak) = (Rc::clone(&running), Rc::clone(&most));
        let server = start(Stream::Duplex(far), Settings::server(), move |_| {
            now.set(now.get() + 1);
            peak.set(peak.get().max(now.get()));
            let guard = Running(Rc::clone(&now));
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Response::empty(StatusCode::OK)
            }
        });
        let mut client = bare_client(near).await;
        let mut code = None;
        for sent in 0..1000 {
            let request = ::http::Request::get("http://a/").body(()).unwrap();
            match client.clone().ready().await {
                Ok(ready) => client = ready,
                Err(error) => {
                    code = error.reason().map(|code| (code, sent));
                    break;
                }
            }
            let (answer, mut stream) = client.send_request(request, true).unwrap();
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            stream.send_reset(::h2::Reason::CANCEL);
            drop(answer);
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        }
        let (code, sent) = code.expect("the connection must end");
        assert_eq!(code, ::h2::Reason::ENHANCE_YOUR_CALM);
        assert!(sent <= 600, "{sent}");
        assert!(most.get() <= 10, "{}", most.get());
        drop(client);
        server.task.await.unwrap();
        until("handlers must be dropped", || running.get() == 0).await;
    });
}

/// GET / on http://a, in plain HPACK.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 0x01, b'a'];

/// Sends bytes, reads until the server closes; how it ended and what it wrote.
async fn raw(bytes: Vec<u8>) -> (Ended, Vec<u8>) {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let server = ok_server(far, Settings::server());
    // The server may close before it has read everything.
    let _ = near.write_all(&bytes).await;
    let _ = near.shutdown().await;
    let mut read = Vec::new();
    let _ = near.read_to_end(&mut read).await;
    (server.task.await.unwrap(), read)
}

/// The error code of the GOAWAY in what a server wrote.
fn go_away(mut bytes: &[u8]) -> Option<u32> {
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let payload = &bytes[9..9 + length];
        if bytes[3] == 7 {
            return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        bytes = &bytes[9 + length..];
    }
    None
}

#[test]
fn attacks_end_the_connection_with_a_code() {
    run(async {
        let settings = frame(4, 0, 0, &[]);
        let open = |bytes: Vec<u8>| [PREFACE, &settings, &bytes].concat();
        // Rapid reset in one burst: 1000 requests, each taken back at once.
        let mut resets = Vec::new();
        for n in 0..1000 {
            resets.extend(frame(1, 0x5, 2 * n + 1, GET));
            resets.extend(frame(3, 0, 2 * n + 1, &8_u32.to_be_bytes()));
        }
        let mut continuations = frame(1, 0x1, 1, GET);
        for _ in 0..2000 {
            continuations.extend(frame(9, 0, 1, &[0x40, 1, b'x', 1, b'y']));
        }
        let mut empties = frame(1, 0x4, 1, GET);
        for _ in 0..20_000 {
            empties.extend(frame(0, 0, 1, &[]));
        }
        for (name, bytes, code) in [
            ("rapid reset", resets, 11),
            ("continuation flood", continuations, 11),
            ("empty data", empties, 11),
            ("data on stream 0", frame(0, 0, 0, b"x"), 1),
            ("window overflow", frame(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes()), 3),
            ("even stream", frame(1, 0x5, 2, GET), 1),
            ("oversize frame", frame(0, 0, 1, &[0; 20_000]), 6),
            // RFC 9113 has a code of its own for this; the library says PROTOCOL_ERROR.
            ("bad hpack", frame(1, 0x5, 1, &[0x80]), 1),
            ("push", frame(5, 0x4, 1, &[0, 0, 0, 2]), 1),
        ] {
            let (_, read) = raw(open(bytes)).await;
            assert_eq!(go_away(&read), Some(code), "{name}");
        }
    });
}

#[test]
fn bytes_at_random_neither_panic_nor_hang() {
    run(async {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..2000 {
            let mut bytes = PREFACE.to_vec();
            bytes.extend(frame(4, 0, 0, &[]));
            for n in 0..next() % 12 {
                let payload: Vec<u8> = match next() % 3 {
                    0 => GET.to_vec(),
                    1 => (0..next() % 40).map(|_| next() as u8).collect(),
                    _ => [&GET[..4], &[(next() % 256) as u8, 1, b'a', 0x40, 1, b'x', 1, b'y']].concat(),
                };
                let stream = if next() % 4 == 0 { (next() % 8) as u32 } else { 2 * n as u32 + 1 };
                bytes.extend(frame((next() % 11) as u8, next() as u8, stream, &payload));
            }
            if round % 3 == 0 {
                let length = bytes.len();
                bytes[(next() as usize) % length] ^= 1 << (next() % 8);
            }
            let _ = raw(bytes).await;
        }
    });
}
