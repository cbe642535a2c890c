//! Claims about the client, alone and behind the server as a proxy has it.

use super::tests::{PATIENCE, pipe};
use super::{ClientConnection, Delivered, Handler, NoDrain, Outcome, Recycle, SendError, serve};
use crate::http::{
    Body, BodyError, Frame, Headers, Limits, LocalBody, Method, Request, RequestHead, Response,
};
use crate::http::{StatusCode, Version};
use crate::stream::Stream;
use bytes::Bytes;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use weft_model::reason::Reason;

#[derive(Default)]
struct Pool(RefCell<Vec<ClientConnection>>);

impl Recycle for Pool {
    fn recycle(&self, connection: ClientConnection) {
        self.0.borrow_mut().push(connection);
    }
}

impl Pool {
    fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

fn connection(stream: Stream) -> ClientConnection {
    ClientConnection::new(stream, Rc::new(Limits::default()))
}

fn request(method: Method, fields: &[(&str, &str)], body: impl Into<Body>) -> Request {
    let mut headers = Headers::new();
    headers.append("Host", b"a").unwrap();
    for (name, value) in fields {
        headers.append(name, value.as_bytes()).unwrap();
    }
    Request::new(RequestHead::new(method, Version::Http11, "a", "/x?y", headers).unwrap(), body.into())
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::from(Bytes::from_static(text.as_bytes()))
    }
}

/// A body that never ends, never comes, or yields so many chunks.
struct Chunks(usize, usize);

impl LocalBody for Chunks {
    fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        self.0 -= 1;
        Poll::Ready(Some(Ok(Frame::Data(Bytes::from(vec![b'x'; self.1])))))
    }
}

struct Never;

impl LocalBody for Never {
    fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        Poll::Pending
    }
}

fn boxed(body: impl LocalBody + 'static) -> Body {
    Body::Boxed(Box::new(body))
}

/// Sends a request to a server that reads a head and answers with these bytes, in pieces.
async fn ask(
    mut request: Request,
    answer: &str,
    piece: usize,
    pool: &Rc<Pool>,
) -> Result<(Response, String), SendError> {
    let (mut server, stream) = pipe();
    let recycle: Rc<dyn Recycle> = Rc::<Pool>::clone(pool);
    let client = async {
        let mut response = connection(stream).send(&mut request, Some(recycle)).await?;
        let collected = response.body.collect(1 << 20).await;
        let text = match collected {
            Ok((body, trailers)) => {
                format!(
                    "{}+{}",
                    String::from_utf8_lossy(&body),
                    trailers.map_or(0, |trailers| trailers.len())
                )
            }
            Err(error) => format!("{error:?}"),
        };
        Ok((response, text))
    };
    let serve = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(server.read_u8().await.unwrap());
        }
        for part in answer.as_bytes().chunks(piece) {
            let _ = server.write_all(part).await;
            tokio::task::yield_now().await;
        }
        // The server ends here: its end of the pipe is dropped unless the connection was kept.
        tokio::task::yield_now().await;
        drop(server);
    };
    timeout(PATIENCE, async { tokio::join!(client, serve).0 }).await.unwrap()
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn answers_are_read_in_pieces_of_any_size_and_connections_kept() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n";
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc".to_owned(), "abc+0", 1),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), "+0", 1),
        (format!("{chunked}\r\n"), "abcd+0", 1),
        (format!("{chunked}Grpc-Status: 0\r\n\r\n"), "abcd+1", 1),
        ("HTTP/1.1 200 OK\r\n\r\nabc".to_owned(), "abc+0", 0),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc".to_owned(), "abc+0", 0),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc".to_owned(), "abc+0", 0),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na".to_owned(), "a+0", 1),
        // Bytes behind the answer would be the next one's.
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcX".to_owned(), "abc+0", 0),
    ];
    for (answer, expected, kept) in &cases {
        for piece in [usize::MAX, 1, 5] {
            if answer.ends_with('X') && piece != usize::MAX {
                continue;
            }
            let pool = Rc::new(Pool::default());
            let (_, text) = ask(request(Method::GET, &[], Body::Empty), answer, piece, &pool).await.unwrap();
            assert_eq!((text.as_str(), pool.len()), (*expected, *kept), "{answer:?} by {piece}");
        }
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn answers_without_bodies_are_known_by_their_request() {
    let pool = Rc::new(Pool::default());
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    let (response, text) = ask(request(Method::HEAD, &[], Body::Empty), answer, 1, &pool).await.unwrap();
    assert_eq!((text.as_str(), pool.len()), ("+0", 1));
    assert_eq!(response.head.headers().find("content-length"), Some(&b"3"[..]));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn malformed_answers_are_errors_that_give_the_request_back() {
    let interim = "HTTP/1.1 102 X\r\n\r\n".repeat(17);
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "nonsense",
        interim.as_str(),
    ] {
        let pool = Rc::new(Pool::default());
        let error = ask(request(Method::POST, &[], "body"), answer, usize::MAX, &pool).await.unwrap_err();
        assert_eq!(
            (error.reason, error.delivered),
            (Reason::ResponseMalformed, Delivered::Maybe),
            "{answer:?}"
        );
        assert_eq!(error.intact, !answer.contains(" 101 "), "{answer:?}");
        assert_eq!(pool.len(), 0);
    }
    let pool = Rc::new(Pool::default());
    let error = ask(request(Method::GET, &[], Body::Empty), "", 1, &pool).await.unwrap_err();
    assert_eq!((error.reason, error.intact), (Reason::ConnectionReset, true));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_truncated_answer_is_an_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    ] {
        let pool = Rc::new(Pool::default());
        let (_, text) = ask(request(Method::GET, &[], Body::Empty), answer, usize::MAX, &pool).await.unwrap();
        assert!(text.contains("ConnectionReset") && pool.len() == 0, "{answer:?}: {text}");
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn requests_are_written_with_this_hops_framing() {
    let sent = async |mut request: Request| {
        let (mut server, stream) = pipe();
        let mut sent = String::new();
        let read = async {
            let mut buffer = vec![0; 4096];
            // The client waits for an answer: everything it sends is here by then.
            while let Ok(Ok(count)) = timeout(Duration::from_secs(2), server.read(&mut buffer)).await {
                sent.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
        };
        tokio::select! { () = read => {}, _ = connection(stream).send(&mut request, None) => {} }
        sent
    };
    let foreign = [
        ("connection", "x"),
        ("Keep-Alive", "9"),
        ("Transfer-Encoding", "gzip"),
        ("X-Case", "1"),
        ("upgrade", "y"),
    ];
    assert_eq!(
        sent(request(Method::GET, &foreign, Body::Empty)).await,
        "GET /x?y HTTP/1.1\r\nHost: a\r\nX-Case: 1\r\n\r\n"
    );
    let wrong = [("content-length", "7"), ("A", "b")];
    assert_eq!(
        sent(request(Method::GET, &wrong, "abc")).await,
        "GET /x?y HTTP/1.1\r\nHost: a\r\nA: b\r\nContent-Length: 3\r\n\r\nabc"
    );
    let right = [("content-length", "3"), ("A", "b")];
    assert_eq!(
        sent(request(Method::PUT, &right, "abc")).await,
        "PUT /x?y HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\nA: b\r\n\r\nabc"
    );
    assert_eq!(
        sent(request(Method::POST, &[], Body::Empty)).await,
        "POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(
        sent(request(Method::POST, &[("TE", "trailers")], boxed(Chunks(2, 3)))).await,
        "POST /x?y HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nxxx\r\n3\r\nxxx\r\n0\r\n\r\n"
    );
    let expecting = request(Method::POST, &[("Expect", "100-continue")], boxed(Chunks(1, 1)));
    assert!(
        sent(expecting).await.ends_with("\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
        "a silent server gets the body after a second"
    );
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_body_that_is_expected_waits_for_continue() {
    let (mut server, stream) = pipe();
    let mut expecting = request(Method::POST, &[("Expect", "100-continue")], boxed(Chunks(1, 3)));
    let start = tokio::time::Instant::now();
    let serve = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(server.read_u8().await.unwrap());
        }
        server.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 13];
        server.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"3\r\nxxx\r\n0\r\n\r\n");
        server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    };
    let (response, ()) = tokio::join!(connection(stream).send(&mut expecting, None), serve);
    assert_eq!(response.unwrap().head.status, StatusCode::NO_CONTENT);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_the_server_may_have_seen_is_reported() {
    // Nothing was accepted: the request is whole and undelivered.
    let (server, stream) = pipe();
    drop(server);
    let mut kept = request(Method::POST, &[], "abc");
    let error = connection(stream).send(&mut kept, None).await.unwrap_err();
    assert_eq!((kept.head.path_and_query(), kept.body.exact_length()), ("/x?y", Some(3)));
    assert_eq!((error.delivered, error.intact), (Delivered::No, true));
    // The head was accepted, the streamed body never polled.
    let pool = Rc::new(Pool::default());
    let error = ask(request(Method::POST, &[], boxed(Never)), "", 1, &pool).await.unwrap_err();
    assert_eq!((error.delivered, error.intact), (Delivered::Maybe, false));
    let expecting = request(Method::POST, &[("Expect", "100-continue")], boxed(Never));
    let error = ask(expecting, "", 1, &pool).await.unwrap_err();
    assert_eq!((error.delivered, error.intact), (Delivered::Maybe, true));
    let error =
        connection(pipe().1).send(&mut request(Method::CONNECT, &[], Body::Empty), None).await.unwrap_err();
    assert_eq!((error.reason, error.delivered), (Reason::MethodUnsupported, Delivered::No));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_early_answer_is_seen_while_the_upload_goes_on() {
    let pool = Rc::new(Pool::default());
    let answer = "HTTP/1.1 413 X\r\nContent-Length: 3\r\n\r\nabc";
    let (response, text) =
        ask(request(Method::POST, &[], boxed(Chunks(1 << 20, 1 << 16))), answer, usize::MAX, &pool)
            .await
            .unwrap();
    assert_eq!((response.head.status.as_u16(), text.as_str(), pool.len()), (413, "abc+0", 0));
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn upgrades_hand_the_stream_over_with_what_was_read() {
    let pool = Rc::new(Pool::default());
    let upgrade = [("Connection", "upgrade"), ("Upgrade", "websocket")];
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhello";
    let (response, _) =
        ask(request(Method::GET, &upgrade, Body::Empty), answer, usize::MAX, &pool).await.unwrap();
    let Body::Tunnel(tunnel) = response.body else { panic!("{response:?}") };
    assert_eq!((&tunnel.buffered[..], pool.len()), (&b"hello"[..], 0));
}

/// Forwards every request to one address, over fresh or pooled connections.
struct Proxy {
    to: SocketAddr,
    pool: Rc<Pool>,
}

impl Handler for Proxy {
    async fn call(&self, mut request: Request) -> Response {
        let upgrade = request.head.upgrade().is_some();
        request.head.headers_mut().remove_hop_by_hop(upgrade);
        let pooled = self.pool.0.borrow_mut().pop();
        let connection = match pooled.and_then(|mut pooled| pooled.is_open().then_some(pooled)) {
            Some(pooled) => pooled,
            None => connection(Stream::Tcp(TcpStream::connect(self.to).await.unwrap())),
        };
        let recycle: Rc<dyn Recycle> = Rc::<Pool>::clone(&self.pool);
        match connection.send(&mut request, Some(recycle)).await {
            Ok(mut response) => {
                response.head.headers_mut().remove_hop_by_hop(upgrade);
                response
            }
            Err(error) => Response::local(error.reason),
        }
    }
}

/// Runs a client against a proxy against an origin, all over real sockets.
async fn through<T>(origin: impl AsyncFn(TcpStream), client: impl AsyncFnOnce(TcpStream) -> T) -> (T, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy { to: listener.local_addr().unwrap(), pool: Rc::default() };
    let limits = Limits::default();
    let origin = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            origin(stream).await;
        }
    };
    let serve = async {
        let (stream, _) = front.accept().await.unwrap();
        let result = serve(Stream::Tcp(stream), &proxy, &limits, &NoDrain).await;
        assert!(!matches!(result, Ok(Outcome::Connect { .. })));
        std::future::pending::<()>().await;
    };
    let address = front.local_addr().unwrap();
    let client = async { client(TcpStream::connect(address).await.unwrap()).await };
    let all = async {
        tokio::select! {
            result = client => result,
            () = origin => unreachable!("it never ends"),
            () = serve => unreachable!("it never ends"),
        }
    };
    let result = timeout(PATIENCE, all).await.unwrap();
    (result, proxy.pool.len())
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

#[tokio::test(flavor = "current_thread")]
async fn a_proxied_exchange_keeps_case_order_and_phrase_and_the_connection() {
    let seen = RefCell::new(Vec::new());
    let connections = RefCell::new(0);
    let origin = async |mut stream: TcpStream| {
        *connections.borrow_mut() += 1;
        while let Some(head) = read_head(&mut stream).await {
            seen.borrow_mut().push(head);
            stream.write_all(b"HTTP/1.1 299 So So\r\nX-B: 1\r\nx-a: 2\r\nX-b: 3\r\nKeep-Alive: timeout=5\r\ncontent-LENGTH: 2\r\n\r\nok").await.unwrap();
        }
    };
    let (output, pooled) = through(origin, async |mut client| {
        let request =
            b"GET /p HTTP/1.1\r\nX-Z: 1\r\nhOST: a.b\r\nx-y:2\r\nConnection: x-gone\r\nX-Gone: 1\r\n\r\n";
        for _ in 0..3 {
            client.write_all(request).await.unwrap();
            read_head(&mut client).await.unwrap();
            client.read_exact(&mut [0; 2]).await.unwrap();
        }
        client.write_all(b"GET /q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        output
    })
    .await;
    assert_eq!(
        output,
        "HTTP/1.1 299 So So\r\nX-B: 1\r\nx-a: 2\r\nX-b: 3\r\ncontent-LENGTH: 2\r\nConnection: close\r\n\r\nok"
    );
    assert_eq!(seen.borrow()[0], "GET /p HTTP/1.1\r\nX-Z: 1\r\nhOST: a.b\r\nx-y: 2\r\n\r\n");
    assert_eq!((seen.borrow().len(), *connections.borrow(), pooled), (4, 1, 1));
}

#[tokio::test(flavor = "current_thread")]
async fn both_sides_may_send_much_before_they_read() {
    const SIZE: usize = 10 << 20;
    for length in ["Content-Length: 10485760\r\n", "Transfer-Encoding: chunked\r\n"] {
        let origin = async |mut stream: TcpStream| {
            read_head(&mut stream).await.unwrap();
            // All of the answer before a byte of the request is read.
            let head = format!("HTTP/1.1 200 OK\r\n{length}\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let (mut read, mut write) = stream.split();
            write_body(&mut write, SIZE, length).await;
            let mut buffer = vec![0; 1 << 16];
            let mut got = 0;
            let mut last = Vec::new();
            // To the last byte: closing with one unread would reset the connection.
            while got < SIZE || length.starts_with("Transfer") && !last.ends_with(b"\r\n0\r\n\r\n") {
                let count = read.read(&mut buffer).await.unwrap();
                assert!(count > 0, "the request ended after {got} bytes");
                last.extend_from_slice(&buffer[count.saturating_sub(7)..count]);
                got += count;
            }
        };
        let (got, _) = through(origin, async |mut client| {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{length}\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            let (mut read, mut write) = client.split();
            // The client reads nothing of the answer before its own body is out, either.
            let drain = async {
                let mut buffer = vec![0; 1 << 16];
                let mut got = 0;
                while got < SIZE {
                    let count = read.read(&mut buffer).await.unwrap();
                    assert!(count > 0, "the answer ended after {got} bytes");
                    got += count;
                }
                got
            };
            let upload = write_body(&mut write, SIZE, length);
            // Reading starts only when the upload can make no headway without it.
            tokio::pin!(upload);
            tokio::select! {
                biased;
                () = &mut upload => drain.await,
                () = tokio::time::sleep(Duration::from_millis(300)) => tokio::join!(upload, drain).1,
            }
        })
        .await;
        assert!(got >= SIZE);
    }
}

async fn write_body(write: &mut (impl AsyncWriteExt + Unpin), size: usize, length: &str) {
    let block = vec![b'x'; 1 << 16];
    for _ in 0..size / block.len() {
        if length.starts_with("Transfer") {
            write.write_all(b"10000\r\n").await.unwrap();
            write.write_all(&block).await.unwrap();
            write.write_all(b"\r\n").await.unwrap();
        } else {
            write.write_all(&block).await.unwrap();
        }
    }
    if length.starts_with("Transfer") {
        write.write_all(b"0\r\n\r\n").await.unwrap();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_closed_or_talking_idle_connection_is_not_open() {
    for talk in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut connection = connection(Stream::Tcp(stream));
        assert!(connection.is_open());
        if talk {
            server.write_all(b"x").await.unwrap();
        } else {
            drop(server);
        }
        // Loopback delivers at once, and the kernel is asked once the connection was idle a while.
        let closed = async {
            while connection.is_open() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, closed).await.unwrap();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn an_upgrade_goes_through_a_proxy_both_ways() {
    let origin = async |mut stream: TcpStream| {
        let head = read_head(&mut stream).await.unwrap();
        assert!(
            head.contains("Upgrade: websocket\r\n") && head.contains("Connection: Upgrade\r\n"),
            "{head}"
        );
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            )
            .await
            .unwrap();
        let mut buffer = [0; 5];
        stream.read_exact(&mut buffer).await.unwrap();
        stream.write_all(&buffer).await.unwrap();
    };
    let (output, _) = through(origin, async |mut client| {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
            .await
            .unwrap();
        let mut output = read_head(&mut client).await.unwrap();
        client.shutdown().await.unwrap();
        client.read_to_string(&mut output).await.unwrap();
        output
    })
    .await;
    assert!(output.starts_with("HTTP/1.1 101 ") && output.ends_with("\r\n\r\nhello"), "{output}");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn idle_connections_hold_no_buffers() {
    use crate::buffer::ReadBuffer;
    use std::future::poll_fn;
    let (mut far, near) = duplex(64);
    let mut stream = Stream::Duplex(near);
    let mut buffer = ReadBuffer::default();
    let poll = |buffer: &mut ReadBuffer, stream: &mut Stream| {
        buffer.poll_fill(stream, &mut Context::from_waker(std::task::Waker::noop())).is_pending()
    };
    assert!(poll(&mut buffer, &mut stream) && !buffer.holds_memory());
    write(&mut far, b"abc").await;
    poll_fn(|cx| buffer.poll_fill(&mut stream, cx)).await.unwrap();
    assert!(buffer.holds_memory() && buffer.bytes() == b"abc");
    assert_eq!(&buffer.take(3)[..], b"abc");
    assert!(poll(&mut buffer, &mut stream) && !buffer.holds_memory());
}

async fn write(stream: &mut DuplexStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
}
