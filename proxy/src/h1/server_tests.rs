//! Claims about the server: connections, answers, bodies.

use super::tests::{Echo, PATIENCE, converse, pipe};
use super::{ConnectionError, Drain, Handler, NoDrain, Outcome, serve};
use crate::http::{
    Body, BodyError, Frame, Headers, Known, Limits, LocalBody, Request, Response, ResponseHead,
};
use crate::http::{StatusCode, Tunnel};
use crate::stream::Stream;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::time::timeout;
use weft_model::reason::Reason;

/// Answers by a closure.
struct With<F>(F);

impl<F: AsyncFn(Request) -> Response> Handler for With<F> {
    async fn call(&self, request: Request) -> Response {
        (self.0)(request).await
    }
}

/// Frames as they were put in; pending when there is none, until the end was put in.
#[derive(Clone, Default)]
struct Feed(Rc<RefCell<Fed>>);

#[derive(Default)]
struct Fed {
    frames: VecDeque<Frame>,
    ended: bool,
    waker: Option<Waker>,
}

impl Feed {
    fn push(&self, frame: Frame) {
        let waker = {
            let mut feed = self.0.borrow_mut();
            feed.frames.push_back(frame);
            feed.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn data(&self, text: &'static str) {
        self.push(Frame::Data(Bytes::from_static(text.as_bytes())));
    }

    fn end(&self) {
        self.0.borrow_mut().ended = true;
    }
}

impl LocalBody for Feed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut feed = self.0.borrow_mut();
        match feed.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if feed.ended => Poll::Ready(None),
            None => {
                feed.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn streaming(feed: Feed) -> Response {
    Response::new(ResponseHead::new(StatusCode::OK, Headers::new()), Body::Boxed(Box::new(feed)))
}

async fn read_until(client: &mut DuplexStream, end: &str) -> String {
    let mut output = Vec::new();
    while !output.ends_with(end.as_bytes()) {
        let mut byte = [0; 1];
        let read = timeout(PATIENCE, client.read_exact(&mut byte)).await.unwrap();
        assert!(read.is_ok(), "closed after {}", String::from_utf8_lossy(&output));
        output.push(byte[0]);
    }
    String::from_utf8(output).unwrap()
}

async fn talk<T>(
    handler: &impl Handler,
    limits: &Limits,
    client: impl AsyncFnOnce(DuplexStream) -> T,
) -> (Result<Outcome, ConnectionError>, T) {
    let (near, stream) = pipe();
    timeout(PATIENCE, async { tokio::join!(serve(stream, handler, limits, &NoDrain), client(near)) })
        .await
        .unwrap()
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
    let input = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
                 POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
                 POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n\
                 HEAD /4 HTTP/1.1\r\nHost: a\r\n\r\n\
                 GET /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /6 HTTP/1.1\r\n";
    let whole = converse(&Echo, input.as_bytes(), usize::MAX).await;
    for expected in ["GET a /1 +0", "POST a /2 abc+0", "POST a /3 de+1", "GET a /5 +0"] {
        assert!(whole.contains(expected), "{expected}: {whole}");
    }
    assert!(!whole.contains("HEAD a /4") && !whole.contains("/6"), "{whole}");
    assert_eq!(whole.matches("HTTP/1.1 200 OK").count(), 5);
    assert_eq!(whole.matches("Connection: close").count(), 1);
    assert_eq!(converse(&Echo, input.as_bytes(), 1).await, whole);
    for cut in 1..input.len() {
        let (first, second) = input.as_bytes().split_at(cut);
        let (_, output) = talk(&Echo, &Limits::default(), async |mut client| {
            client.write_all(first).await.unwrap();
            tokio::task::yield_now().await;
            let _ = client.write_all(second).await;
            let mut output = String::new();
            client.read_to_string(&mut output).await.unwrap();
            output
        })
        .await;
        assert_eq!(output, whole, "cut at {cut}");
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn http_1_0_gets_no_chunks_and_closes_unless_asked() {
    let handler = With(async |_| {
        let feed = Feed::default();
        feed.data("one");
        feed.data("two");
        feed.end();
        streaming(feed)
    });
    let output = converse(&handler, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", usize::MAX).await;
    assert_eq!(output, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonetwo");
    let output = converse(&Echo, b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n", usize::MAX).await;
    assert_eq!(output.matches("200 OK").count(), 1);
    let twice = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET / HTTP/1.0\r\n\r\n";
    let output = converse(&Echo, twice, usize::MAX).await;
    assert_eq!((output.matches("200 OK").count(), output.matches("Connection: keep-alive").count()), (2, 1));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_body_of_unknown_length_is_chunked_with_its_trailers() {
    let handler = With(async |_| {
        let feed = Feed::default();
        feed.data("one");
        feed.data("twothree");
        let mut trailers = Headers::new();
        trailers.append("Grpc-Status", b"0").unwrap();
        trailers.append("Content-Length", b"7").unwrap();
        feed.push(Frame::Trailers(trailers));
        feed.end();
        let mut response = streaming(feed);
        // What another hop said about its framing.
        response.head.headers_mut().append("Content-Length", b"99").unwrap();
        response.head.headers_mut().append("X-Case", b"kept").unwrap();
        response
    });
    let output =
        converse(&handler, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", usize::MAX).await;
    let head = "HTTP/1.1 200 OK\r\nX-Case: kept\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(output, format!("{head}3\r\none\r\n8\r\ntwothree\r\n0\r\nGrpc-Status: 0\r\n\r\n"));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn continue_is_sent_when_the_body_is_first_read_and_not_before() {
    let asked = Rc::new(Notify::new());
    let handler = With(async |mut request: Request| {
        asked.notified().await;
        let (body, _) = request.body.collect(100).await.unwrap();
        Response::text(StatusCode::OK, body)
    });
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    talk(&handler, &Limits::default(), async |mut client| {
        client.write_all(head).await.unwrap();
        let mut byte = [0; 1];
        let early = timeout(Duration::from_secs(1), client.read(&mut byte)).await;
        assert!(early.is_err(), "nothing is sent before the body is read");
        asked.notify_one();
        assert_eq!(read_until(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"abc").await.unwrap();
        assert!(read_until(&mut client, "abc").await.starts_with("HTTP/1.1 200 OK"));
    })
    .await
    .0
    .unwrap();
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_expectation_that_is_answered_finally_closes_the_connection() {
    let handler = With(async |_| Response::empty(StatusCode::FORBIDDEN));
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let output = converse(&handler, head, usize::MAX).await;
    assert_eq!(output, "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_unread_body_is_dropped_if_small_and_here_else_the_connection_ends() {
    let handler = With(async |_| Response::empty(StatusCode::OK));
    let small = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n{}", "x".repeat(30_000));
    let input = format!("{small}GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(converse(&handler, input.as_bytes(), usize::MAX).await.matches("200 OK").count(), 2);
    let large = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\nabc";
    let output = converse(&handler, large.as_bytes(), usize::MAX).await;
    assert_eq!(output, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_client_that_leaves_cancels_its_request() {
    let cancelled = Cell::new(false);
    struct Guard<'a>(&'a Cell<bool>);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let handler = With(async |_| {
        let _guard = Guard(&cancelled);
        std::future::pending().await
    });
    let (result, ()) = talk(&handler, &Limits::default(), async |mut client| {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        tokio::task::yield_now().await;
        drop(client);
    })
    .await;
    assert!(matches!(result, Err(ConnectionError::Aborted)) && cancelled.get());
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_client_that_half_closes_is_answered_where_that_is_allowed() {
    let limits = Limits { half_close: true, ..Limits::default() };
    let handler = With(async |_| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Response::text(StatusCode::OK, "late")
    });
    let (result, output) = talk(&handler, &limits, async |mut client| {
        client.write_all(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2)).await.unwrap();
        client.shutdown().await.unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        output
    })
    .await;
    assert!(result.is_ok() && output.matches("late").count() == 2, "{output}");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_body_cut_short_is_the_clients_abort_and_reaches_the_handler() {
    let seen = Cell::new(None);
    let handler = With(async |mut request: Request| {
        seen.set(request.body.collect(100).await.err());
        Response::empty(StatusCode::OK)
    });
    talk(&handler, &Limits::default(), async |mut client| {
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
        drop(client);
    })
    .await
    .0
    .ok();
    assert_eq!(seen.get(), Some(BodyError::aborted(Reason::BodyMalformed)));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn heads_bodies_and_idle_connections_have_their_time() {
    let start = tokio::time::Instant::now();
    let output = converse(&Echo, b"GET / HTTP/1.1\r\nHo", usize::MAX).await;
    assert!(output.starts_with("HTTP/1.1 408") && output.contains("x-weft-reason: header_timeout"));
    assert!((10..12).contains(&start.elapsed().as_secs()));
    let limits = Limits {
        stall_timeout: Duration::from_secs(7),
        idle_timeout: Duration::from_secs(3),
        ..Limits::default()
    };
    let start = tokio::time::Instant::now();
    let (_, output) = talk(&Echo, &limits, async |mut client| {
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        output
    })
    .await;
    assert!(output.contains("x-weft-reason: body_timeout"), "{output}");
    assert!((7..9).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    let start = tokio::time::Instant::now();
    let (result, output) = talk(&Echo, &limits, async |mut client| {
        for _ in 0..3 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            read_until(&mut client, "GET a / +0").await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        output
    })
    .await;
    assert!(matches!(result, Ok(Outcome::Closed)) && output.is_empty());
    assert_eq!(start.elapsed().as_secs(), 7, "each request moves the idle deadline");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_client_that_reads_nothing_is_cut_off() {
    let handler = With(async |_| Response::text(StatusCode::OK, vec![b'x'; 1 << 20]));
    let limits = Limits { stall_timeout: Duration::from_secs(7), ..Limits::default() };
    let (result, ()) = talk(&handler, &limits, async |mut client| {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_secs(8)).await;
    })
    .await;
    assert!(matches!(result, Err(ConnectionError::Stalled)), "{result:?}");
}

#[derive(Default)]
struct Draining {
    now: Cell<bool>,
    quiet: Notify,
    told: bool,
}

impl Drain for Draining {
    fn draining(&self) -> bool {
        self.now.get()
    }

    fn is_told(&self) -> bool {
        self.told
    }

    fn quiet(&self) -> impl Future<Output = ()> {
        self.quiet.notified()
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_drain_ends_connections_with_their_answer_and_idle_ones_when_it_is_quiet() {
    let drain = Draining::default();
    let (mut client, stream) = pipe();
    let talk = async {
        client.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(!read_until(&mut client, "GET a /1 +0").await.contains("close"));
        drain.now.set(true);
        client.write_all(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert!(output.contains("Connection: close\r\n") && output.ends_with("GET a /2 +0"));
        assert!(!output.contains("x-weft"), "an application is told in words that it knows");
    };
    let limits = Limits::default();
    let (result, ()) = tokio::join!(serve(stream, &Echo, &limits, &drain), talk);
    assert!(matches!(result, Ok(Outcome::Closed)));

    let drain = Draining::default();
    let (mut client, stream) = pipe();
    let talk = async {
        client.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        read_until(&mut client, "GET a /1 +0").await;
        drain.quiet.notify_one();
        assert_eq!(client.read(&mut [0; 9]).await.unwrap(), 0);
    };
    assert!(tokio::join!(serve(stream, &Echo, &limits, &drain), talk).0.is_ok());
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_proxy_is_told_that_this_one_drains_and_not_when_a_connection_ends_for_another_reason() {
    for (draining, marked) in [(true, true), (false, false)] {
        let drain = Draining { told: true, now: Cell::new(draining), ..Draining::default() };
        let (mut client, stream) = pipe();
        let talk = async {
            client.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut output = String::new();
            client.read_to_string(&mut output).await.unwrap();
            assert!(output.contains("Connection: close\r\n"), "{output}");
            assert_eq!(output.contains("x-weft-draining: 1\r\n"), marked, "{output}");
        };
        let limits = Limits::default();
        let (result, ()) = tokio::join!(serve(stream, &Echo, &limits, &drain), talk);
        assert!(matches!(result, Ok(Outcome::Closed)));
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn connect_is_handed_back_with_what_follows_it_or_refused() {
    let request = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nhello";
    let limits = Limits { connect: true, ..Limits::default() };
    let (result, _client) = talk(&Echo, &limits, async |mut client| {
        client.write_all(request).await.unwrap();
        client
    })
    .await;
    let Ok(Outcome::Connect { head, buffered, .. }) = result else { panic!("{result:?}") };
    assert_eq!((head.authority(), head.path_and_query(), &buffered[..]), ("a:443", "", &b"hello"[..]));
    let (result, _) = talk(&Echo, &Limits::default(), async |mut client| {
        client.write_all(request).await.unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert!(output.starts_with("HTTP/1.1 501") && output.contains("method_unsupported"), "{output}");
    })
    .await;
    assert!(matches!(result, Err(ConnectionError::Refused(Reason::MethodUnsupported))));
}

const UPGRADE: &[u8] =
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly";

fn switched(stream: Stream, buffered: &'static [u8]) -> Response {
    let mut response = Response::empty(StatusCode::SWITCHING_PROTOCOLS);
    response.head.headers_mut().append("Upgrade", b"websocket").unwrap();
    response.body = Body::Tunnel(Box::new(Tunnel {
        stream,
        buffered: Bytes::from_static(buffered),
        revocable: None,
        held: Vec::new(),
    }));
    response
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_upgraded_connection_carries_bytes_both_ways_and_half_closes() {
    let (mut far, near) = duplex(16);
    let near = Cell::new(Some(Stream::Duplex(near)));
    let handler = With(async |request: Request| {
        assert_eq!(request.head.upgrade(), Some("websocket"));
        switched(near.take().unwrap(), b"first ")
    });
    let server = async {
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), 5 + 100_000);
        far.write_all(&vec![b'y'; 50_000]).await.unwrap();
        drop(far);
    };
    let limits = Limits::default();
    let client = talk(&handler, &limits, async |client| {
        let (mut read, mut write) = tokio::io::split(client);
        let upload = async {
            write.write_all(UPGRADE).await.unwrap();
            write.write_all(&vec![b'x'; 100_000]).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut output = Vec::new();
        let (_, result) = tokio::join!(upload, read.read_to_end(&mut output));
        result.unwrap();
        String::from_utf8(output).unwrap()
    });
    let ((result, output), ()) = tokio::join!(client, server);
    assert!(matches!(result, Ok(Outcome::Closed)));
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst ";
    assert!(output.starts_with(head), "{}", &output[..200]);
    assert_eq!(output.len(), head.len() + 50_000);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_switch_that_nobody_asked_for_is_not_made() {
    let handler = With(async |_| switched(pipe().1, b""));
    let output =
        converse(&handler, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", usize::MAX).await;
    assert!(output.starts_with("HTTP/1.1 502") && output.contains("response_malformed"), "{output}");
    let handler = With(async |_| Response::text(StatusCode::OK, "no"));
    let output = converse(
        &handler,
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade\r\nUpgrade: x\r\n\r\n",
        1,
    )
    .await;
    assert!(output.starts_with("HTTP/1.1 200") && output.ends_with("no"), "{output}");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_answer_that_fails_before_it_began_is_refused_and_later_cut_off() {
    struct Failing(Option<Frame>);
    impl LocalBody for Failing {
        fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            let frame = self.0.take().ok_or(BodyError::new(Reason::ConnectionReset));
            Poll::Ready(Some(frame))
        }
    }
    let body = |frame| Body::Boxed(Box::new(Failing(frame)));
    let head = || ResponseHead::new(StatusCode::OK, Headers::new());
    let handler = With(async |_| Response::new(head(), body(None)));
    let output = converse(&handler, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", usize::MAX).await;
    assert!(output.starts_with("HTTP/1.1 502") && output.contains("connection_reset"), "{output}");
    let large = || Frame::Data(Bytes::from(vec![b'x'; 100_000]));
    let handler = With(async |_| Response::new(head(), body(Some(large()))));
    let output = converse(&handler, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", usize::MAX).await;
    assert!(output.starts_with("HTTP/1.1 200") && !output.ends_with("0\r\n\r\n"));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn frames_leave_as_they_come() {
    let feed = Feed::default();
    let handler = With(async |_| streaming(feed.clone()));
    talk(&handler, &Limits::default(), async |mut client| {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        read_until(&mut client, "chunked\r\n\r\n").await;
        feed.data("one");
        assert_eq!(read_until(&mut client, "one\r\n").await, "3\r\none\r\n");
        feed.data("two");
        assert_eq!(read_until(&mut client, "two\r\n").await, "3\r\ntwo\r\n");
        drop(client);
    })
    .await
    .0
    .unwrap_err();
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn heads_keep_what_a_get_would_have_got_and_no_body() {
    let handler = With(async |request: Request| {
        let mut response = Response::empty(StatusCode::OK);
        if request.head.path() == "/304" {
            response.head.set_status(StatusCode::NOT_MODIFIED);
        } else if request.head.path() == "/204" {
            response.head.set_status(StatusCode::NO_CONTENT);
        }
        response.head.headers_mut().append_known(Known::ContentLength, b"1234").unwrap();
        response
    });
    for (request, expected) in [
        ("HEAD /", "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\nConnection: close\r\n\r\n"),
        ("GET /304", "HTTP/1.1 304 Not Modified\r\ncontent-length: 1234\r\nConnection: close\r\n\r\n"),
        ("GET /204", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
        ("GET /", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let input = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(converse(&handler, input.as_bytes(), usize::MAX).await, expected);
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_body_that_outlives_its_exchange_reads_nothing() {
    let kept = RefCell::new(Body::Empty);
    let handler = With(async |request: Request| {
        *kept.borrow_mut() = request.body;
        Response::empty(StatusCode::OK)
    });
    let input = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    talk(&handler, &Limits::default(), async |mut client| {
        client.write_all(input).await.unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert!(output.starts_with("HTTP/1.1 200 OK"));
    })
    .await
    .0
    .unwrap();
    let mut body = kept.take();
    let frame = poll_fn(|cx| body.poll_frame(cx)).await;
    assert!(matches!(frame, Some(Err(error)) if error.aborted));
}

#[test]
fn a_connection_has_room_for_one_call_and_no_more() {
    const CALL: usize = 20_000;
    let handler = With(async |_| {
        let state = [1_u8; CALL];
        std::future::pending::<()>().await;
        Response::text(StatusCode::OK, if state[0] == 1 { "yes" } else { "no" })
    });
    let limits = Limits::default();
    let connection = serve(pipe().1, &handler, &limits, &NoDrain);
    let size = size_of_val(&connection);
    assert!((CALL..CALL + 4096).contains(&size), "{size} bytes");
}
