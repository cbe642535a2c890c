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
        text(
            "GET / HTTP/1.1\r\nHost: cart.shop\r\nExpect: 100-continue\r\nExpect: miracles\r\n\r\n",
            Reason::ExpectationUnsupported,
        ),
    ];
    let head = |line: &str| format!("{line}\r\nHost: cart.shop\r\n\r\n").into_bytes();
    for line in [
        "GET /",
        "GET / http/1.1",
        "GET / HTTP/1.10",
        "GET / HTTP/1.1 ",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        " GET / HTTP/1.1",
        "GE T / HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET foo HTTP/1.1",
        "GET * HTTP/1.1",
        "GET cart.shop:80 HTTP/1.1",
        "GET ftp://cart.shop/ HTTP/1.1",
        "GET //[ HTTP/1.1\r",
        "GET /\"a\" HTTP/1.1",
        "GET /<a> HTTP/1.1",
        "GET /a\\b HTTP/1.1",
        "GET /{a} HTTP/1.1",
        "GET /a|b HTTP/1.1",
        "GET /\u{e4} HTTP/1.1",
        "GET /a?b#c HTTP/1.1",
        "GET /a?\u{e4} HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /\rb HTTP/1.1",
        "GET / HTTP/1.1\r\nX\0Y: a",
        "GET / HTTP/1.1\r\nX Y: a",
        "GET / HTTP/1.1\r\nX\tY: a",
        "GET / HTTP/1.1\r\nX\u{e4}: a",
        "GET / HTTP/1.1\r\nX",
        "GET / HTTP/1.1\r\nX: a\x7f",
        "GET / HTTP/1.1\r\nX: a\x1b[0m",
        "GET / HTTP/1.1\r\nX: a\x0b",
        "GET / HTTP/1.1\r\nX: a\nY: b",
        "GET / HTTP/1.1\r\n X: a",
        "GET / HTTP/1.1\nX: a",
        "POST / HTTP/1.1\r\nContent-Length: +1",
        "POST / HTTP/1.1\r\nContent-Length: -1",
        "POST / HTTP/1.1\r\nContent-Length:",
        "POST / HTTP/1.1\r\nContent-Length: 0x1",
        "POST / HTTP/1.1\r\nContent-Length: 1 1",
        "POST / HTTP/1.1\r\nContent-Length: 18446744073709551616",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 80",
    ] {
        cases.push((head(line), Reason::RequestMalformed));
    }
    let raw = |line: &[u8]| [line, b" HTTP/1.1\r\nHost: cart.shop\r\n\r\n"].concat();
    cases.push((raw(b"GET /\xff"), Reason::RequestMalformed));
    cases.push((raw(b"GET /\x80a"), Reason::RequestMalformed));
    cases.push((raw(b"GE\xff /"), Reason::RequestMalformed));
    // HTTP/0.9, which was never numbered, and what was.
    cases.push((head("GET / HTTP/0.9"), Reason::VersionUnsupported));
    cases.push((head("GET / HTTP/3.0"), Reason::VersionUnsupported));
    for lengths in ["1\r\nContent-Length: 1", "1, 1", "1,2", "1,"] {
        let text = format!("POST / HTTP/1.1\r\nHost: cart.shop\r\nContent-Length: {lengths}\r\n\r\na");
        cases.push((text.into_bytes(), Reason::RequestFramingAmbiguous));
    }
    for coding in [
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked, chunked",
        "chunked, identity",
        "identity",
        "gzip",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        ",chunked",
        "",
    ] {
        let text =
            format!("POST / HTTP/1.1\r\nHost: cart.shop\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        cases.push((text.into_bytes(), Reason::TransferCodingUnsupported));
    }
    let old = "POST / HTTP/1.0\r\nHost: cart.shop\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    cases.push(text(old, Reason::RequestFramingAmbiguous));
    let order = "POST / HTTP/1.1\r\nHost: cart.shop\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n";
    cases.push(text(order, Reason::RequestFramingAmbiguous));
    for host in [
        "",
        "a b/c",
        "a,b",
        "cart.shop, bank.shop",
        "cart.shop:",
        "cart.shop:99999",
        "cart.shop:http",
        "cart.shop:80:80",
        "cart%2eshop",
        "[::1",
        "[::1]x",
        "[cart.shop]",
        "cart.shop\\bank",
        "http://cart.shop",
        "\u{e4}.shop",
    ] {
        let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        cases.push((text.into_bytes(), Reason::HostInvalid));
    }
    let twice = "GET / HTTP/1.1\r\nHost: cart.shop\r\nhost: cart.shop\r\n\r\n";
    cases.push(text(twice, Reason::HostInvalid));
    for target in ["http://u@cart.shop/", "http://u:p@cart.shop/", "http:///", "http://cart.shop:99999/"] {
        cases.push((head(&format!("GET {target} HTTP/1.1")), Reason::HostInvalid));
    }
    for target in
        ["http://bank.shop/", "http://cart.shop:8080/", "https://cart.shop:80/", "http://cart.shop.evil/"]
    {
        cases.push((head(&format!("GET {target} HTTP/1.1")), Reason::AuthorityMismatch));
    }
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

/// What passes, and what the application sees of it: no rule looks at it, so that nothing is made of it.
const UNCHANGED: [(&str, &str, &str); 14] = [
    ("GET", "/a/./b/../c", "/a/./b/../c"),
    ("GET", "//a///b", "//a///b"),
    ("GET", "/%2e%2e/%2F%5c%00%zz", "/%2e%2e/%2F%5c%00%zz"),
    ("GET", "/a;b=c/..;/d", "/a;b=c/..;/d"),
    ("GET", "/a?b|c={d}\\^`", "/a?b|c={d}\\^`"),
    ("GET", "/?", "/?"),
    ("get", "/lower", "/lower"),
    ("QUERY", "/extension", "/extension"),
    ("OPTIONS", "*", "*"),
    ("GET", "http://cart.shop/absolute", "/absolute"),
    ("GET", "HTTP://CART.shop:80/case", "/case"),
    ("GET", "http://cart.shop?query", "/?query"),
    ("GET", "http://cart.shop", "/"),
    ("OPTIONS", "http://cart.shop", "*"),
];

#[tokio::test]
async fn what_is_odd_and_has_one_meaning_passes_at_both_ends() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let ends = [mesh.client_of("shop/web-1", "shop/cart").address(), mesh.proxy("shop/cart-1").inbound()];
    for end in ends {
        for (method, target, seen) in UNCHANGED {
            let before = application.requests().len();
            let head =
                format!("{method} {target} HTTP/1.1\r\nHost: cart.shop\r\nX_Under_score: 1\r\nX-High: ");
            let rest = b"\xfe \xc3\xa4\tb \t\r\nConnection: close\r\n\r\n";
            let answer = raw::exchange(end, &[head.as_bytes(), rest].concat()).await;
            assert_eq!((answer.status(), answer.reason()), (200, None), "{method} {target}");
            let requests = application.requests();
            let [request] = &requests[before..] else { panic!("{target}: {requests:?}") };
            assert_eq!((request.method.as_str(), request.target.as_str()), (method, seen));
            assert_eq!(request.field("x_under_score"), Some("1"), "{target}");
            assert_eq!(request.field("x-high"), Some("\u{fffd} \u{e4}\tb"), "{target}");
        }
    }
}

#[tokio::test]
async fn a_broken_chunk_is_a_broken_body_for_both_sides() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let ends = [mesh.client_of("shop/web-1", "shop/cart").address(), mesh.proxy("shop/cart-1").inbound()];
    let head = "POST /discard HTTP/1.1\r\nHost: cart.shop\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1000));
    let chunks = [
        "zz\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        ";a\r\n\r\n",
        "\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3;a\rb\r\nabc\r\n0\r\n\r\n",
        "3;\0\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "8000000000000000\r\n",
        "-1\r\n",
        &long_extension,
        "0\r\nX: y\n\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX: a\r\n b\r\n\r\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: bank.shop\r\n\r\n",
        "0\r\nAuthorization: x\r\n\r\n",
        "0\r\nX-Forwarded-Client-Cert: x\r\n\r\n",
        "0\r\nx_forwarded_client_cert: x\r\n\r\n",
        "0\r\nX-Weft-Reason: x\r\n\r\n",
        "0\r\nX_Weft-Anything: x\r\n\r\n",
    ];
    for end in ends {
        for chunk in chunks {
            let answer = raw::exchange(end, format!("{head}{chunk}").as_bytes()).await;
            if answer.head.is_some() {
                assert_eq!(answer.reason(), Some(Reason::BodyMalformed.label()), "{chunk:?}");
            }
            assert_ne!(answer.status(), 200, "{chunk:?}");
        }
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
