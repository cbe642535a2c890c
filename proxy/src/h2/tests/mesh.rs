//! What two proxies tell each other, and how connections begin and end.

use super::*;
use crate::h1::Delivered;
use crate::http::{Known, ResponseHead, StatusCode};

fn spelled(headers: &Headers) -> Vec<String> {
    headers.iter().map(|field| format!("{}: {}", field.name_str(), field.value.escape_ascii())).collect()
}

/// As the HTTP/1 parser would have it.
fn respond_as_http1() -> Response {
    let mut headers = Headers::new();
    for (name, value) in
        [("Server", "x"), ("ETag", "\"1\""), ("x-lower", "y"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    {
        headers.append(name, value.as_bytes()).unwrap();
    }
    let phrase = headers.push(b"Very Well").unwrap();
    Response::new(ResponseHead::from_parts(StatusCode::OK, Version::Http11, headers, phrase), Body::Empty)
}

#[test]
fn names_and_phrase_keep_their_spelling_between_proxies() {
    run(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&seen);
        let (client, _server) = pair(Settings::mesh(), move |request| {
            *log.borrow_mut() = spelled(request.head.headers());
            async { respond_as_http1() }
        })
        .await;
        let headers = [("Host", "shop.test"), ("User-Agent", "c"), ("X-Own-ID", "1"), ("accept", "*/*")];
        let response = client.send(&mut request(Method::GET, "/", &headers, Body::Empty)).await.unwrap();
        assert_eq!(*seen.borrow(), ["Host: shop.test", "User-Agent: c", "X-Own-ID: 1", "accept: */*"]);
        assert_eq!(response.head.phrase(), b"Very Well");
        assert_eq!(
            spelled(response.head.headers()),
            ["Server: x", "ETag: \\\"1\\\"", "x-lower: y", "Set-Cookie: a=1", "Set-Cookie: b=2"]
        );
    });
}

#[test]
fn applications_neither_get_nor_send_the_internal_fields() {
    run(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&seen);
        let (client, _server) = pair(Settings::server(), move |request| {
            *log.borrow_mut() = spelled(request.head.headers());
            let mut response = respond_as_http1();
            response.head.headers_mut().append("X-Weft-Case", b"t").unwrap();
            async { response }
        })
        .await;
        let headers = [("X-Own", "1"), ("X-Weft-Case", "t"), ("x-weft-phrase", "Hm")];
        let response = client.send(&mut request(Method::GET, "/", &headers, Body::Empty)).await.unwrap();
        assert_eq!(*seen.borrow(), ["host: shop.test", "x-own: 1"]);
        assert_eq!(response.head.phrase(), b"OK");
        assert!(response.head.headers().find("x-weft-case").is_none());
    });
}

#[test]
fn an_undelivered_request_is_refused_on_the_wire_and_given_back() {
    run(async {
        let (client, _server) = pair(Settings::mesh(), |_| async {
            let mut response = Response::local(Reason::ApplicationUnreachable);
            response.head.headers_mut().append_known(Known::XWeftUndelivered, b"1").unwrap();
            response
        })
        .await;
        let full = || Body::from(Bytes::from_static(b"body"));
        let mut again = request(Method::POST, "/p", &[("x-a", "1")], full());
        let error = client.send(&mut again).await.unwrap_err();
        assert_eq!((error.reason, error.delivered), (Reason::PeerRefused, Delivered::No));
        assert!(error.intact);
        assert_eq!(again.head.path(), "/p");
        assert_eq!(again.head.headers().find("x-a"), Some(&b"1"[..]));
        assert_eq!(again.body.collect(10).await.unwrap().0, "body");

        // A body that was read away cannot be given back; one that was not can.
        let upload = Fed::default();
        let error = client.send(&mut request(Method::POST, "/p", &[], upload.body())).await.unwrap_err();
        assert_eq!(error.delivered, Delivered::No);
        assert!(error.intact);
        upload.data(b"x");
        let error = client.send(&mut request(Method::POST, "/p", &[], upload.body())).await.unwrap_err();
        assert_eq!(error.delivered, Delivered::No);
        assert!(!error.intact);
        assert_eq!(client.in_flight(), 0);
    });
}

#[test]
fn applications_get_an_answer_instead_of_a_refusal() {
    run(async {
        let (client, _server) = pair(Settings::server(), |_| async {
            let mut response = Response::local(Reason::ApplicationUnreachable);
            response.head.headers_mut().append_known(Known::XWeftUndelivered, b"1").unwrap();
            response
        })
        .await;
        let response = client.send(&mut get("/")).await.unwrap();
        assert_eq!(response.head.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!response.head.headers().contains(Known::XWeftUndelivered));
    });
}

#[test]
fn a_drain_lets_what_runs_finish_and_takes_no_more() {
    run(async {
        let answer = Fed::default();
        let fed = answer.clone();
        let (client, server) = pair(Settings::mesh(), move |_| {
            let body = fed.body();
            async move { Response::new(ResponseHead::new(StatusCode::OK, Headers::new()), body) }
        })
        .await;
        let mut response = client.send(&mut get("/")).await.unwrap();
        server.drain.drain(Duration::from_secs(30));
        assert!(!client.was_asked_to_go());
        until("the client must be told", || !client.is_open()).await;
        assert!(client.was_asked_to_go());
        let error = client.send(&mut get("/new")).await.unwrap_err();
        assert_eq!(error.delivered, Delivered::No);
        assert!(error.intact);
        assert!(!server.task.is_finished());
        answer.data(b"late");
        answer.close();
        assert_eq!(response.body.collect(10).await.unwrap().0, "late");
        assert_eq!(server.task.await.unwrap(), Ended::Closed);
        assert!(client.was_asked_to_go(), "that is known when the connection has ended, too");
    });
}

#[test]
fn a_forced_drain_cuts_what_is_left() {
    run(async {
        let dropped = Rc::new(Cell::new(false));
        let seen = Rc::clone(&dropped);
        let (client, server) = pair(Settings::mesh(), move |_| {
            let guard = OnDrop(Rc::clone(&seen));
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Response::empty(StatusCode::OK)
            }
        })
        .await;
        let sender = client.clone();
        let send = spawn_local("send", async move { sender.send(&mut get("/")).await.unwrap_err() });
        until("the request must be in flight", || client.in_flight() == 1).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        server.drain.force();
        assert_eq!(server.task.await.unwrap(), Ended::Forced);
        let error = send.await.unwrap();
        assert_eq!((error.reason, error.delivered), (Reason::ConnectionReset, Delivered::Maybe));
        assert!(!client.was_asked_to_go(), "it broke");
        until("the handler must be dropped", || dropped.get()).await;
    });
}

#[test]
fn a_request_that_was_never_written_is_known_as_undelivered() {
    run(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (client, driver) =
            ClientConnection::handshake(Stream::Duplex(near), &Settings::mesh()).await.unwrap();
        // The peer is gone, which the driver finds out when it is about to write.
        drop(far);
        let mut kept = get("/kept");
        let send = client.send(&mut kept);
        let (sent, ()) = tokio::join!(send, driver);
        let error = sent.unwrap_err();
        assert_eq!((error.delivered, error.intact), (Delivered::No, true));
        assert_eq!(kept.head.path(), "/kept");
        assert!(!client.is_open());
    });
}

#[test]
fn the_peers_limit_of_streams_is_reported_not_waited_for() {
    run(async {
        let settings = Settings { streams_max: 3, ..Settings::mesh() };
        let (near, far) = tokio::io::duplex(1 << 16);
        let server = start(Stream::Duplex(far), settings, |_| async {
            std::future::pending::<()>().await;
            Response::empty(StatusCode::OK)
        });
        let client = connect(Stream::Duplex(near), &Settings::mesh()).await;
        until("the settings must arrive", || client.capacity() == 3).await;
        for _ in 0..3 {
            assert!(client.has_room());
            let client = client.clone();
            drop(spawn_local("send", async move { client.send(&mut get("/")).await.is_ok() }));
            tokio::task::yield_now().await;
        }
        assert!(!client.has_room());
        let error = client.send(&mut get("/")).await.unwrap_err();
        assert_eq!((error.reason, error.delivered), (Reason::Overloaded, Delivered::No));
        server.task.abort();
    });
}

#[test]
fn the_connection_closes_when_the_last_handle_is_dropped() {
    run(async {
        let (client, server) =
            pair(Settings::mesh(), |_| async { Response::text(StatusCode::OK, "x") }).await;
        let response = client.send(&mut get("/")).await.unwrap();
        drop(client);
        assert_eq!(text(response).await, "x");
        assert_eq!(server.task.await.unwrap(), Ended::Closed);
    });
}

#[test]
fn a_silent_peer_is_found_out_by_either_side() {
    run_paused(async {
        // A peer that answers nothing more: its stream is kept, and nobody polls it.
        let (near, far) = tokio::io::duplex(1 << 16);
        let server =
            start(Stream::Duplex(far), Settings::mesh(), |_| async { Response::empty(StatusCode::OK) });
        let (client, driver) =
            ClientConnection::handshake(Stream::Duplex(near), &Settings::mesh()).await.unwrap();
        let mut driver = Box::pin(driver);
        let began = tokio::time::Instant::now();
        // Polled once, so that preface and settings go out.
        std::future::poll_fn(|cx| {
            let _ = driver.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
        assert_eq!(server.task.await.unwrap(), Ended::Silent);
        let waited = began.elapsed();
        assert!(waited >= Duration::from_secs(20) && waited < Duration::from_secs(40), "{waited:?}");
        drop((client, driver));

        let (near, far) = tokio::io::duplex(1 << 16);
        let client = connect(Stream::Duplex(near), &Settings::mesh()).await;
        let error = client.send(&mut get("/")).await.unwrap_err();
        assert_eq!((error.reason, error.delivered), (Reason::ConnectionReset, Delivered::Maybe));
        assert!(!client.is_open());
        drop(far);
    });
}

#[test]
fn pings_keep_a_living_connection_and_idleness_ends_it() {
    run_paused(async {
        let (client, server) = pair(Settings::mesh(), |_| async { Response::empty(StatusCode::OK) }).await;
        client.send(&mut get("/")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(250)).await;
        assert!(client.is_open());
        client.send(&mut get("/")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(250)).await;
        assert!(client.is_open());
        assert_eq!(server.task.await.unwrap(), Ended::Closed);
        until("the client must notice", || !client.is_open()).await;
    });
}

#[test]
fn a_peer_that_says_nothing_at_first_is_not_waited_for() {
    run_paused(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let server =
            start(Stream::Duplex(far), Settings::mesh(), |_| async { Response::empty(StatusCode::OK) });
        assert_eq!(server.task.await.unwrap(), Ended::Handshake);
        drop(near);
    });
}

#[test]
fn a_client_that_takes_nothing_of_the_answer_is_cut_off() {
    run_paused(async {
        let source = Fed::default();
        let fed = source.clone();
        let (client, _server) = pair(Settings::mesh(), move |_| {
            let body = fed.body();
            async move { Response::new(ResponseHead::new(StatusCode::OK, Headers::new()), body) }
        })
        .await;
        source.push(Ok(Frame::Data(Bytes::from(vec![0; 2_000_000]))));
        let response = client.send(&mut get("/")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(299)).await;
        assert!(!source.is_dropped());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(source.is_dropped());
        drop(response);
    });
}
