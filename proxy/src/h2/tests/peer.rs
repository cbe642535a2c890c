//! Our client against a server made of bare bytes.

use super::*;
use crate::h1::{Delivered, SendError};
use crate::http::{Known, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// `:status: 200`.
const OK: &[u8] = &[0x88];

/// Our client and the bytes' other end, past the preface.
async fn bare_server(settings: &[u8]) -> (ClientConnection, DuplexStream) {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let client = connect(Stream::Duplex(near), &Settings::mesh()).await;
    let mut preface = [0; PREFACE.len()];
    far.read_exact(&mut preface).await.unwrap();
    assert_eq!(preface, PREFACE);
    far.write_all(settings).await.unwrap();
    (client, far)
}

fn send(client: &ClientConnection, path: &'static str) -> JoinHandle<Result<Response, SendError>> {
    let client = client.clone();
    spawn_local("send", async move { client.send(&mut get(path)).await })
}

/// Reads frames until so many HEADERS were among them.
async fn read_requests(far: &mut DuplexStream, mut count: usize) {
    while count > 0 {
        let mut head = [0; 9];
        far.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        far.read_exact(&mut payload).await.unwrap();
        count -= usize::from(head[3] == 1);
    }
}

#[test]
fn requests_above_the_last_of_a_goaway_are_given_back_and_others_finish() {
    run(async {
        let (client, mut far) = bare_server(&frame(4, 0, 0, &[])).await;
        let (first, second) = (send(&client, "/1"), send(&client, "/2"));
        read_requests(&mut far, 2).await;
        // Last stream 1, no error.
        far.write_all(&frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await.unwrap();
        let error = second.await.unwrap().unwrap_err();
        assert_eq!((error.reason, error.delivered), (Reason::PeerRefused, Delivered::No));
        assert!(error.intact);
        assert!(!client.is_open());
        far.write_all(&frame(1, 0x5, 1, OK)).await.unwrap();
        assert_eq!(first.await.unwrap().unwrap().head.status, StatusCode::OK);
    });
}

#[test]
fn a_connection_that_breaks_may_have_delivered() {
    run(async {
        let (client, mut far) = bare_server(&frame(4, 0, 0, &[])).await;
        let sent = send(&client, "/1");
        read_requests(&mut far, 1).await;
        drop(far);
        let error = sent.await.unwrap().unwrap_err();
        assert_eq!((error.reason, error.delivered), (Reason::ConnectionReset, Delivered::Maybe));
        // Whole, for a caller who knows that it may go out twice.
        assert!(error.intact);
    });
}

#[test]
fn bad_answers_are_told_by_their_reason() {
    run(async {
        let literal = |name: &[u8], value: &[u8]| {
            let mut bytes = vec![0x00, name.len() as u8];
            bytes.extend(name);
            // A length in HPACK's form, with a prefix of 7 bits.
            let mut rest = value.len();
            if rest < 127 {
                bytes.push(rest as u8);
            } else {
                bytes.push(127);
                rest -= 127;
                while rest >= 128 {
                    bytes.push((rest % 128) as u8 | 0x80);
                    rest /= 128;
                }
                bytes.push(rest as u8);
            }
            bytes.extend(value);
            bytes
        };
        let many = [OK, &literal(b"x", b"y").repeat(257)].concat();
        let spaced = [OK, &literal(b"x", b" y")].concat();
        let lengths = [OK, &literal(b"content-length", b"0").repeat(2)].concat();
        let hop = [OK, &literal(b"connection", b"close")].concat();
        for (name, block, reason) in [
            ("no status", literal(b"x", b"y"), Reason::ResponseMalformed),
            ("many fields", many, Reason::ResponseHeaderTooLarge),
            ("space", spaced, Reason::ResponseMalformed),
            ("two lengths", lengths, Reason::ResponseMalformed),
            ("hop by hop", hop, Reason::ResponseMalformed),
        ] {
            let (client, mut far) = bare_server(&frame(4, 0, 0, &[])).await;
            let sent = send(&client, "/");
            read_requests(&mut far, 1).await;
            far.write_all(&frame(1, 0x5, 1, &block)).await.unwrap();
            let error = sent.await.unwrap().unwrap_err();
            assert_eq!((error.reason, error.delivered), (reason, Delivered::Maybe), "{name}");
            assert_eq!(client.in_flight(), 0, "{name}");
        }
    });
}

#[test]
fn an_answer_shorter_than_its_length_is_an_error_of_its_body() {
    run(async {
        let (client, mut far) = bare_server(&frame(4, 0, 0, &[])).await;
        let sent = send(&client, "/");
        read_requests(&mut far, 1).await;
        // `content-length: 9`, by its place in the static table.
        let block = [OK, &[0x0f, 13, 1, b'9']].concat();
        far.write_all(&frame(1, 0x4, 1, &block)).await.unwrap();
        let mut response = sent.await.unwrap().unwrap();
        assert_eq!(response.head.headers().get(Known::ContentLength), Some(&b"9"[..]));
        assert_eq!(response.body.exact_length(), Some(9));
        far.write_all(&frame(0, 0x1, 1, b"abc")).await.unwrap();
        let error = response.body.collect(100).await.unwrap_err();
        assert_eq!(error, BodyError::new(Reason::ResponseMalformed));
    });
}

#[test]
fn interim_answers_are_passed_over() {
    run(async {
        let (client, mut far) = bare_server(&frame(4, 0, 0, &[])).await;
        let sent = send(&client, "/");
        read_requests(&mut far, 1).await;
        let early = [0x08, 3, b'1', b'0', b'3'];
        let bytes = [frame(1, 0x4, 1, &early), frame(1, 0x4, 1, &early), frame(1, 0x5, 1, OK)].concat();
        far.write_all(&bytes).await.unwrap();
        assert_eq!(sent.await.unwrap().unwrap().head.status, StatusCode::OK);
    });
}

#[test]
fn an_answer_before_the_end_of_the_upload_is_not_held_back() {
    run(async {
        let (client, mut far) = bare_server(&frame(4, 0, 0, &[])).await;
        let upload = Fed::default();
        let body = upload.body();
        let asking = client.clone();
        let sent =
            spawn_local("send", async move { asking.send(&mut request(Method::POST, "/", &[], body)).await });
        read_requests(&mut far, 1).await;
        let bytes = [frame(1, 0x4, 1, OK), frame(0, 0x1, 1, b"no"), frame(3, 0, 1, &[0; 4])].concat();
        far.write_all(&bytes).await.unwrap();
        let mut response = sent.await.unwrap().unwrap();
        assert_eq!(response.body.collect(10).await.unwrap().0, "no");
        until("the upload must be dropped", || upload.is_dropped()).await;
        assert_eq!(client.in_flight(), 0);
        assert!(client.is_open());
    });
}

#[test]
fn a_client_whose_upload_breaks_takes_the_request_back() {
    run(async {
        let (client, mut far) = bare_server(&frame(4, 0, 0, &[])).await;
        let upload = Fed::default();
        let body = upload.body();
        let asking = client.clone();
        let sent =
            spawn_local("send", async move { asking.send(&mut request(Method::POST, "/", &[], body)).await });
        read_requests(&mut far, 1).await;
        upload.push(Err(BodyError::aborted(Reason::BodyMalformed)));
        let error = sent.await.unwrap().unwrap_err();
        assert_eq!((error.reason, error.aborted), (Reason::BodyMalformed, true));
        let mut reset = [0; 13];
        loop {
            let mut head = [0; 9];
            far.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            far.read_exact(&mut reset[9 - 9..length]).await.unwrap();
            if head[3] == 3 {
                break;
            }
        }
        assert_eq!(reset[..4], 8_u32.to_be_bytes(), "CANCEL");
    });
}
