//! What is not HTTP is refused by name, at both ends, and the connection ends.

use tokio::io::AsyncWriteExt;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request};
use weft_tests::mesh::{Builder, Mesh, Workload, peer_authentication};
use weft_tests::{raw, wait};

/// What is sent, and why it is refused.
fn malformed() -> Vec<(Vec<u8>, Reason)> {
    let text = |request: &str, reason| (request.as_bytes().to_vec(), reason);
    let mut cases = vec![
        text("NOT HTTP\r\n\r\n", Reason::RequestMalformed),
        text("GET  / HTTP/1.1\r\nHost: cart.shop\r\n\r\n", Reason::RequestMalformed),
        text("GET / HTTP/1.1\nHost: cart.shop\n\n", Reason::RequestMalformed),
        text("G\u{1}T / HTTP/1.1\r\nHost: cart.shop\r\n\r\n", Reason::RequestMalformed),
        text("GET /a b HTTP/1.1\r\nHost: cart.shop\r\n\r\n", Reason::RequestMalformed),
        text("GET /a#b HTTP/1.1\r\nHost: cart.shop\r\n\r\n", Reason::RequestMalformed),
        text("GET / HTTP/1.1\r\nHost : cart.shop\r\n\r\n", Reason::RequestMalformed),
        text("GET / HTTP/1.1\r\nHost: cart.shop\r\nX: a\r\n b\r\n\r\n", Reason::RequestMalformed),
        text("GET / HTTP/1.1\r\nHost: cart.shop\r\nX: a\0b\r\n\r\n", Reason::RequestMalformed),
        text("GET / HTTP/1.1\r\nHost: cart.shop\r\nX: a\rb\r\n\r\n", Reason::RequestMalformed),
        text("GET / HTTP/1.1\r\nHost: cart.shop\r\n: empty\r\n\r\n", Reason::RequestMalformed),
        text("GET / HTTP/1.1\r\n\r\n", Reason::HostInvalid),
        text("GET / HTTP/1.1\r\nHost: a.shop\r\nHost: b.shop\r\n\r\n", Reason::HostInvalid),
        text("GET / HTTP/1.1\r\nHost: user@cart.shop\r\n\r\n", Reason::HostInvalid),
        text("GET / HTTP/1.1\r\nHost: cart.shop/x\r\n\r\n", Reason::HostInvalid),
        text("GET http://cart.shop/ HTTP/1.1\r\nHost: bank.shop\r\n\r\n", Reason::AuthorityMismatch),
        text("GET / HTTP/1.2\r\nHost: cart.shop\r\n\r\n", Reason::VersionUnsupported),
        text("GET / HTTP/2.0\r\nHost: cart.shop\r\n\r\n", Reason::VersionUnsupported),
        text(
            "POST / HTTP/1.1\r\nHost: cart.shop\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Reason::RequestFramingAmbiguous,
        ),
        text(
            "POST / HTTP/1.1\r\nHost: cart.shop\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            Reason::RequestFramingAmbiguous,
        ),
        text(
            "POST / HTTP/1.1\r\nHost: cart.shop\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            Reason::TransferCodingUnsupported,
        ),
        text("GET / HTTP/1.1\r\nHost: cart.shop\r\nExpect: miracles\r\n\r\n", Reason::ExpectationUnsupported),
    ];
    let long = |name: &str, count: usize| [name.as_bytes(), &vec![b'a'; count]].concat();
    let target = [&long("GET /", 70_000)[..], b" HTTP/1.1\r\nHost: cart.shop\r\n\r\n"].concat();
    cases.push((target, Reason::TargetTooLong));
    let start = b"GET / HTTP/1.1\r\nHost: cart.shop\r\n";
    let block = [&start[..], &long("X: ", 200_000), b"\r\n\r\n"].concat();
    cases.push((block, Reason::HeaderTooLarge));
    let many = [&start[..], &b"x: y\r\n".repeat(400), b"\r\n"].concat();
    cases.push((many, Reason::HeaderTooLarge));
    cases
}

async fn permissive(application: &Application) -> Mesh {
    Builder::pair(application.address())
        .policy("permissive", &peer_authentication("cart", "cart", "PERMISSIVE"))
        .start()
        .await
}

#[tokio::test]
async fn malformed_requests_are_refused_by_name_at_both_ends() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let ends = [
        ("outbound", mesh.client_of("shop/web-1", "shop/cart").address()),
        ("inbound", mesh.proxy("shop/cart-1").inbound()),
    ];
    for (end, address) in ends {
        for (bytes, reason) in malformed() {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(90)]).into_owned();
            let answer = raw::exchange(address, &bytes).await;
            assert_eq!(
                (answer.status(), answer.reason()),
                (reason.status(), Some(reason.label())),
                "{end}: {shown:?}"
            );
        }
        let good = b"GET /still-there HTTP/1.1\r\nHost: cart.shop\r\nConnection: close\r\n\r\n";
        assert_eq!(raw::exchange(address, good).await.status(), 200, "{end}");
    }
    let seen = application.requests();
    assert!(seen.iter().all(|request| request.target == "/still-there"), "{seen:?}");
}

#[tokio::test]
async fn a_second_request_hidden_behind_a_refused_one_is_never_served() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let smuggled = b"POST / HTTP/1.1\r\nHost: cart.shop\r\nContent-Length: 44\r\nTransfer-Encoding: \
                     chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: cart.shop\r\n\r\n";
    for address in [mesh.client_of("shop/web-1", "shop/cart").address(), mesh.proxy("shop/cart-1").inbound()]
    {
        let answer = raw::exchange(address, smuggled).await;
        assert_eq!(answer.reason(), Some(Reason::RequestFramingAmbiguous.label()));
    }
    assert_eq!(application.requests(), []);
}

#[tokio::test]
async fn a_broken_chunk_is_a_broken_body_for_both_sides() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let head = "POST /discard HTTP/1.1\r\nHost: cart.shop\r\nTransfer-Encoding: chunked\r\n\r\n";
    for chunk in ["zz\r\n", "0x3\r\nabc\r\n0\r\n\r\n", "3\nabc\n0\n\n", "ffffffffffffffffff\r\n", "-1\r\n"] {
        let address = mesh.client_of("shop/web-1", "shop/cart").address();
        let answer = raw::exchange(address, format!("{head}{chunk}").as_bytes()).await;
        if answer.head.is_some() {
            assert_eq!(answer.reason(), Some(Reason::BodyMalformed.label()), "{chunk:?}");
        }
        assert_ne!(answer.status(), 200, "{chunk:?}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: cart.shop\r\n\r\n");
    let last = "GET /3 HTTP/1.1\r\nHost: cart.shop\r\nConnection: close\r\n\r\n";
    let bytes = [one("/1"), one("/2"), last.to_owned()].concat();
    let address = mesh.client_of("shop/web-1", "shop/cart").address();
    let answer = raw::exchange(address, bytes.as_bytes()).await;
    let rest = String::from_utf8_lossy(&answer.rest).into_owned();
    let at = |text: &str| rest.find(text).unwrap_or_else(|| panic!("{text} in {rest}"));
    assert!(at("GET /1") < at("GET /2") && at("GET /2") < at("GET /3"), "{rest}");
}

#[tokio::test]
async fn an_old_client_gets_an_answer_it_can_read() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let address = mesh.client_of("shop/web-1", "shop/cart").address();
    let answer = raw::exchange(address, b"GET /trailers HTTP/1.0\r\nHost: cart.shop\r\n\r\n").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.head.unwrap().field("transfer-encoding"), None);
    assert_eq!(answer.rest, b"body");
}

#[tokio::test]
async fn expect_100_continue_is_answered_before_the_body() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let address = mesh.client_of("shop/web-1", "shop/cart").address();
    let mut connection = Client::direct(address).connect().await.unwrap();
    let request = Request::new("POST", "http://cart.shop/discard")
        .field("Content-Length", "4")
        .field("Expect", "100-continue");
    connection.begin(&request).await.unwrap();
    assert_eq!(connection.head().await.unwrap().status(), 100);
    let (read, buffered, mut write) = connection.into_parts();
    assert!(buffered.is_empty());
    write.write_all(b"body").await.unwrap();
    let mut reader = weft_tests::http1::Reader::new(read);
    let head = wait::within("the answer", reader.head()).await.unwrap().unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(reader.body(head.response_framing("POST")).await.unwrap(), b"4");
}

#[tokio::test]
async fn what_an_application_answers_wrongly_is_not_passed_on() {
    let cases: [(&[u8], Reason); 7] = [
        (b"NOT HTTP\r\n\r\n", Reason::ResponseMalformed),
        (b"HTTP/1.1 99 Low\r\n\r\n", Reason::ResponseMalformed),
        (b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n", Reason::ResponseMalformed),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", Reason::ResponseMalformed),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Reason::ResponseMalformed,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", Reason::ResponseMalformed),
        (b"", Reason::ConnectionReset),
    ];
    let mut servers = Vec::new();
    let mut builder = Builder::default().workload(Workload::new("shop/web-1"));
    for (number, (answer, reason)) in cases.iter().enumerate() {
        let server = raw::Server::start(answer).await;
        let name = format!("shop/server{}", char::from(b'a' + number as u8));
        builder =
            builder.service(&name).workload(Workload::new(&format!("{name}-1")).serves(server.address()));
        servers.push((server, name, *reason));
    }
    let large = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'a'; 200_000], b"\r\n\r\n"].concat();
    let server = raw::Server::start(&large).await;
    builder = builder.service("shop/large").workload(Workload::new("shop/large-1").serves(server.address()));
    servers.push((server, "shop/large".to_owned(), Reason::ResponseHeaderTooLarge));
    let mesh = builder.start().await;
    for (_, name, reason) in &servers {
        let host = name.trim_start_matches("shop/");
        // A POST, so that nothing is tried again.
        let request = Request::post(&format!("http://{host}.shop/"), "x");
        mesh.client("shop/web-1").send(&request).await.refused_with(*reason);
    }
}

#[tokio::test]
async fn methods_that_cannot_be_carried_are_refused_by_name() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    // A per-service port is no HTTP proxy; neither is a workload's inbound port.
    for address in [mesh.client_of("shop/web-1", "shop/cart").address(), mesh.proxy("shop/cart-1").inbound()]
    {
        let refused = Client::direct(address).tunnel("cart.shop:80").await.expect_err("no tunnel");
        refused.refused_with(Reason::MethodUnsupported);
    }
    assert_eq!(application.requests(), []);
}

#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for_for_ever() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let ends = [mesh.client_of("shop/web-1", "shop/cart").address(), mesh.proxy("shop/cart-1").inbound()];
    // Both at once: each waits as long as the proxies do.
    let answers = ends.map(|address| raw::exchange(address, b"GET / HTTP/1.1\r\nHost: cart.shop\r\nX: "));
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(answer.reason(), Some(Reason::HeaderTimeout.label()), "{:?}", answer.head);
        assert_eq!(answer.status(), Reason::HeaderTimeout.status());
    }
}
