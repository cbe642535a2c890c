//! What applications do with a connection.

use super::*;
use crate::h1::Delivered;
use crate::http::{Known, StatusCode};

#[test]
fn a_request_and_its_answer_arrive_whole() {
    run(async {
        let (client, _server) = pair(Settings::server(), |mut request| async move {
            let (body, _) = request.body.collect(1000).await.unwrap();
            let head = &request.head;
            let said = format!(
                "{} {} {} {:?} {}",
                head.method,
                head.authority(),
                head.path_and_query(),
                head.headers().find("X-Own").map(|value| value.escape_ascii().to_string()),
                body.escape_ascii(),
            );
            let mut response = Response::text(StatusCode::CREATED, said);
            response.head.headers_mut().append("x-answer", b"1").unwrap();
            response
        })
        .await;
        let headers =
            [("X-Own", "v"), ("Connection", "keep-alive, x-hop"), ("x-hop", "no"), ("Content-Length", "5")];
        let full = Body::from(Bytes::from_static(b"hello"));
        let response = client.send(&mut request(Method::POST, "/a?b=c", &headers, full)).await.unwrap();
        assert_eq!(response.head.status, StatusCode::CREATED);
        assert_eq!(response.head.version, Version::Http2);
        assert_eq!(response.head.headers().find("x-answer"), Some(&b"1"[..]));
        assert_eq!(text(response).await, "POST shop.test /a?b=c Some(\"v\") hello");
        assert_eq!(client.in_flight(), 0);

        let response = client.send(&mut request(Method::OPTIONS, "*", &[], Body::Empty)).await.unwrap();
        assert_eq!(text(response).await, "OPTIONS shop.test * None ");
    });
}

#[test]
fn many_requests_share_a_connection() {
    run(async {
        let (client, _server) = pair(Settings::mesh(), |request| async move {
            Response::text(StatusCode::OK, request.head.path().to_owned())
        })
        .await;
        let mut tasks = Vec::new();
        for n in 0..1000 {
            if n % 90 == 0 {
                until("earlier requests must end", || client.in_flight() == 0).await;
            }
            let client = client.clone();
            tasks.push(spawn_local("request", async move {
                let path = format!("/{n}");
                assert_eq!(text(client.send(&mut get(&path)).await.unwrap()).await, path);
            }));
            tokio::task::yield_now().await;
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn head_and_not_modified_keep_the_length_of_what_is_not_sent() {
    run(async {
        let (client, _server) = pair(Settings::server(), |request| async move {
            let status =
                if request.head.path() == "/304" { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
            let mut response = Response::empty(status);
            response.head.headers_mut().append("Content-Length", b"123").unwrap();
            response
        })
        .await;
        for (method, path) in [(Method::HEAD, "/"), (Method::GET, "/304")] {
            let response = client.send(&mut request(method, path, &[], Body::Empty)).await.unwrap();
            assert_eq!(response.head.headers().get(Known::ContentLength), Some(&b"123"[..]));
            assert!(response.body.is_end());
        }
        // The length of another body than the one it came with is not sent on.
        let response = client.send(&mut get("/")).await.unwrap();
        assert_eq!(response.head.headers().get(Known::ContentLength), Some(&b"0"[..]));
    });
}

#[test]
fn grpc_streams_both_ways_and_ends_with_trailers() {
    run(async {
        let (client, _server) = pair(Settings::mesh(), |request| async move {
            assert!(request.head.is_grpc());
            assert_eq!(request.head.headers().get(Known::Te), Some(&b"trailers"[..]));
            let (answer, mut upload) = (Fed::default(), request.body);
            let mut headers = Headers::new();
            headers.append("content-type", b"application/grpc").unwrap();
            let fed = answer.clone();
            drop(spawn_local("echo", async move {
                while let Some(frame) = upload.frame().await {
                    if let Frame::Data(data) = frame.unwrap() {
                        fed.push(Ok(Frame::Data(data)));
                    }
                }
                let mut trailers = Headers::new();
                trailers.append("grpc-status", b"0").unwrap();
                fed.push(Ok(Frame::Trailers(trailers)));
                fed.close();
            }));
            Response::new(crate::http::ResponseHead::new(StatusCode::OK, headers), answer.body())
        })
        .await;
        let upload = Fed::default();
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let mut response =
            client.send(&mut request(Method::POST, "/s/m", &headers, upload.body())).await.unwrap();
        assert_eq!(response.body.exact_length(), None);
        for _ in 0..3 {
            upload.data(b"ping");
            let Some(Ok(Frame::Data(data))) = response.body.frame().await else { panic!("data expected") };
            assert_eq!(&data[..], b"ping");
        }
        upload.close();
        let Some(Ok(Frame::Trailers(trailers))) = response.body.frame().await else {
            panic!("trailers expected")
        };
        assert_eq!(trailers.get(Known::GrpcStatus), Some(&b"0"[..]));
        assert!(response.body.frame().await.is_none());
        assert!(response.body.is_end());
        assert_eq!(client.in_flight(), 0);
    });
}

#[test]
fn a_grpc_answer_that_breaks_ends_with_a_status() {
    run(async {
        let (client, _server) = pair(Settings::mesh(), |_| async {
            let mut headers = Headers::new();
            headers.append("content-type", b"application/grpc+proto").unwrap();
            let answer = Fed::default();
            answer.data(b"half");
            answer.push(Err(BodyError::aborted(Reason::ConnectionReset)));
            Response::new(crate::http::ResponseHead::new(StatusCode::OK, headers), answer.body())
        })
        .await;
        let mut response = client.send(&mut get("/")).await.unwrap();
        let (data, trailers) = response.body.collect(100).await.unwrap();
        let trailers = trailers.unwrap();
        assert_eq!(&data[..], b"half");
        assert_eq!(trailers.get(Known::GrpcStatus), Some(&b"14"[..]));
        assert_eq!(trailers.get(Known::XWeftReason), Some(&b"connection_reset"[..]));
    });
}

#[test]
fn an_answer_that_breaks_is_reset() {
    run(async {
        let (client, _server) = pair(Settings::mesh(), |_| async {
            let answer = Fed::default();
            answer.data(b"half");
            let fed = answer.clone();
            drop(spawn_local(
                "breaks",
                async move { fed.push(Err(BodyError::new(Reason::ConnectionReset))) },
            ));
            Response::new(crate::http::ResponseHead::new(StatusCode::OK, Headers::new()), answer.body())
        })
        .await;
        let mut response = client.send(&mut get("/")).await.unwrap();
        let error = response.body.collect(100).await.unwrap_err();
        assert_eq!(error, BodyError::aborted(Reason::ConnectionReset));
        assert!(client.is_open());
        assert_eq!(client.in_flight(), 0);
    });
}

/// 10 MB each way, where the server answers while it still reads: neither side waits for the other.
async fn full_duplex(client: ClientConnection) {
    const LENGTH: usize = 10_000_000;
    let mut response = client.send(&mut request(Method::POST, "/", &[], zeros(LENGTH))).await.unwrap();
    let mut length = 0;
    while let Some(frame) = response.body.frame().await {
        if let Frame::Data(data) = frame.unwrap() {
            length += data.len();
        }
    }
    assert_eq!(length, LENGTH);
}

async fn echo(request: Request) -> Response {
    Response::new(crate::http::ResponseHead::new(StatusCode::OK, Headers::new()), request.body)
}

#[test]
fn ten_megabytes_both_ways_at_once_in_memory() {
    run(async {
        let (client, _server) = pair(Settings::mesh(), echo).await;
        full_duplex(client).await;
    });
}

#[test]
fn ten_megabytes_both_ways_at_once_over_sockets_and_two_hops() {
    run(async {
        let (near, far) = sockets().await;
        let _last = start(far, Settings::mesh(), echo);
        let upstream = connect(near, &Settings::mesh()).await;
        let (near, far) = sockets().await;
        let _first = start(far, Settings::mesh(), move |mut request| {
            let upstream = upstream.clone();
            async move { upstream.send(&mut request).await.unwrap() }
        });
        let client = connect(near, &Settings::mesh()).await;
        let (a, b) = (client.clone(), client.clone());
        let a = spawn_local("a", full_duplex(a));
        let b = spawn_local("b", full_duplex(b));
        a.await.unwrap();
        b.await.unwrap();
    });
}

async fn sockets() -> (Stream, Stream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    (Stream::Tcp(near.unwrap()), Stream::Tcp(far.unwrap().0))
}

#[test]
fn what_nobody_reads_stays_with_the_sender() {
    run(async {
        let settings = Settings::server();
        let bound = settings.stream_window as usize + settings.send_buffer_bytes_max + 128 * 1024;
        let (client, _server) = pair(settings, |request| async move {
            // Keeps the request's body without reading it.
            let held = request.body;
            std::future::pending::<()>().await;
            drop(held);
            Response::empty(StatusCode::OK)
        })
        .await;
        struct Counted(Rc<Cell<usize>>);
        impl LocalBody for Counted {
            fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
                self.0.set(self.0.get() + 8192);
                Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(&[0; 8192])))))
            }
        }
        let taken = Rc::new(Cell::new(0));
        let body = Body::Boxed(Box::new(Counted(Rc::clone(&taken))));
        let send = client.clone();
        drop(spawn_local("send", async move {
            send.send(&mut request(Method::POST, "/", &[], body)).await.is_ok()
        }));
        let mut last = usize::MAX;
        while last != taken.get() || taken.get() == 0 {
            last = taken.get();
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
        }
        assert!(taken.get() <= bound, "{} bytes were taken from the sender", taken.get());
        // Others are not held up.
        assert!(client.is_open());
    });
}

#[test]
fn a_client_that_leaves_cancels_the_handler() {
    run(async {
        let dropped = Rc::new(Cell::new(false));
        let started = Rc::new(Cell::new(false));
        let (seen, began) = (Rc::clone(&dropped), Rc::clone(&started));
        let (client, _server) = pair(Settings::mesh(), move |_| {
            let guard = OnDrop(Rc::clone(&seen));
            began.set(true);
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Response::empty(StatusCode::OK)
            }
        })
        .await;
        let sender = client.clone();
        let send = spawn_local("send", async move { sender.send(&mut get("/")).await.is_ok() });
        until("the handler must start", || started.get()).await;
        assert_eq!(client.in_flight(), 1);
        send.abort();
        until("the handler must be dropped", || dropped.get()).await;
        assert_eq!(client.in_flight(), 0);
        assert!(client.is_open());
    });
}

#[test]
fn dropping_the_answers_body_cancels_the_source() {
    run(async {
        let source = Fed::default();
        let fed = source.clone();
        let (client, _server) = pair(Settings::mesh(), move |_| {
            let body = fed.body();
            async move { Response::new(crate::http::ResponseHead::new(StatusCode::OK, Headers::new()), body) }
        })
        .await;
        source.data(b"first");
        let mut response = client.send(&mut get("/")).await.unwrap();
        assert!(matches!(response.body.frame().await, Some(Ok(Frame::Data(_)))));
        drop(response);
        until("the source must be dropped", || source.is_dropped()).await;
    });
}

#[test]
fn an_expectation_is_met_when_the_body_is_asked_for() {
    run(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let _server = start(Stream::Duplex(far), Settings::server(), |mut request| async move {
            assert!(!request.head.headers().contains(Known::Expect));
            let (body, _) = request.body.collect(100).await.unwrap();
            Response::text(StatusCode::OK, body)
        });
        let mut client = bare_client(near).await;
        let asked =
            ::http::Request::post("http://shop.test/").header("expect", "100-continue").body(()).unwrap();
        let (mut answer, mut upload) = client.send_request(asked, false).unwrap();
        let go_on = std::future::poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(go_on.status(), 100);
        upload.send_data(Bytes::from_static(b"now"), true).unwrap();
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "now");

        let asked = ::http::Request::post("http://shop.test/").header("expect", "more").body(()).unwrap();
        let (answer, _) = client.send_request(asked, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 417);
    });
}

#[test]
fn what_cannot_be_sent_is_given_back() {
    run(async {
        let (client, server) = pair(Settings::mesh(), |_| async { Response::empty(StatusCode::OK) }).await;
        let error = client.send(&mut request(Method::CONNECT, "", &[], Body::Empty)).await.unwrap_err();
        assert_eq!((error.reason, error.delivered), (Reason::MethodUnsupported, Delivered::No));
        assert!(error.intact);
        server.task.abort();
        until("the client must notice", || !client.is_open()).await;
        let mut kept = get("/kept");
        let error = client.send(&mut kept).await.unwrap_err();
        assert_eq!((error.delivered, error.intact), (Delivered::No, true));
        assert_eq!(kept.head.path(), "/kept");
    });
}

#[test]
fn answers_that_take_their_time_do_not_hold_the_window_of_what_was_read() {
    run(async {
        // Each upload is most of the connection's window: the second gets through only if the
        // first gave its share back when it was read.
        let settings = Settings { stream_window: 1 << 20, connection_window: 1 << 20, ..Settings::mesh() };
        let read = Rc::new(Cell::new(0));
        let count = Rc::clone(&read);
        let (client, _server) = pair(settings, move |mut request| {
            let count = Rc::clone(&count);
            async move {
                request.body.collect(1 << 20).await.unwrap();
                drop(request);
                count.set(count.get() + 1);
                std::future::pending().await
            }
        })
        .await;
        for _ in 0..5 {
            let client = client.clone();
            let body = zeros(900_000);
            drop(spawn_local("send", async move {
                client.send(&mut request(Method::POST, "/", &[], body)).await.is_ok()
            }));
        }
        until("every upload must be read", || read.get() == 5).await;
    });
}
