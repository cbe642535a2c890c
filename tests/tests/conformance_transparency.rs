//! The proxies are not there: what arrives is what was sent, byte for byte, but for what HTTP itself says
//! belongs to one hop.
//!
//! Exchanges are generated: names in any case and order, repeated, empty, with spaces and bytes beyond
//! ASCII; bodies of every framing, with trailers. Each goes to the server once directly and once through two
//! proxies, and both ends compare. One after another they take the HTTP/1.1 wire between the proxies,
//! sixteen at once the HTTP/2 one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request, Response};
use weft_tests::figures::Random;
use weft_tests::http1::{Field, Reader, chunk};
use weft_tests::http2;
use weft_tests::mesh::{Builder, Mesh};
use weft_tests::{raw, wait, websocket};

/// Exchanges on each wire in CI; WEFT_TESTS_EXCHANGES asks for more.
const EXCHANGES: u64 = 500;

const NAMES: [&str; 18] = [
    "X-CuStOm",
    "x-lower",
    "X-UPPER",
    "Accept",
    "aCCEPT-lANGUAGE",
    "Cookie",
    "cookie",
    "X-Rep",
    "x-rep",
    "X-reP",
    "X_Under_Score",
    "x!#$%&'*+.^`|~",
    "User-Agent",
    "IF-NONE-MATCH",
    "Etag",
    "x-1",
    "Authorization",
    "X-Trace",
];

const VALUES: [&str; 12] = [
    "",
    "plain",
    "two words",
    "a\ttab",
    "comma, separated, list",
    "\"quoted; string\"",
    "caf\u{e9} \u{2603}",
    "=;:@/?[]{}",
    "W/\"etag\"",
    "0",
    "-1",
    "Bearer abc.def-ghi_jkl~mno+pqr/==",
];

/// What HTTP leaves to each hop, beside what a Connection field names.
const OF_ONE_HOP: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "trailer"];

/// A message as one end saw it, with what belongs to one hop left out.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Seen {
    start: String,
    fields: Vec<Field>,
    body: Vec<u8>,
    trailers: Vec<Field>,
}

impl Seen {
    fn new(start: &str, fields: &[Field], body: Vec<u8>, trailers: Vec<Field>) -> Self {
        let named: Vec<String> = fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
            .flat_map(|(_, value)| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
            .collect();
        let passes = |name: &str| {
            let name = name.to_ascii_lowercase();
            !OF_ONE_HOP.contains(&name.as_str())
                && !named.contains(&name)
                && name != "x-forwarded-client-cert"
        };
        let fields = fields.iter().filter(|(name, _)| passes(name)).cloned().collect();
        Self { start: start.to_owned(), fields, body, trailers }
    }
}

/// Which wire between the proxies an exchange may have taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wire {
    /// HTTP/1.1: nothing changes.
    Http1,
    /// HTTP/2, which has no words for three things that mean nothing in HTTP (RFC 9110 section 5.3, RFC 9113
    /// section 8.2.3): where between other fields a repeated one stood, one name in several spellings,
    /// and Cookie in several fields.
    Any,
}

impl Seen {
    /// What must be the same at both ends.
    fn over(mut self, wire: Wire) -> Self {
        if wire == Wire::Http1 {
            return self;
        }
        let mut grouped: Vec<Field> = Vec::new();
        for (mut name, value) in std::mem::take(&mut self.fields) {
            let spellings = NAMES.iter().filter(|held| held.eq_ignore_ascii_case(&name)).count();
            if spellings > 1 {
                name.make_ascii_lowercase();
            }
            match grouped.iter().rposition(|(held, _)| *held == name) {
                None => grouped.push((name, value)),
                Some(last) if name == "cookie" => grouped[last].1 += &format!("; {value}"),
                Some(last) => grouped.insert(last + 1, (name, value)),
            }
        }
        self.fields = grouped;
        for (name, _) in &mut self.trailers {
            name.make_ascii_lowercase();
        }
        self
    }
}

fn fields(random: &mut Random) -> Vec<Field> {
    let field = |random: &mut Random| {
        let (name, value) = (*random.pick(&NAMES), *random.pick(&VALUES));
        // A cookie that is empty leaves a trace only where it is a field of its own.
        let value = if value.is_empty() && name.eq_ignore_ascii_case("cookie") { "a=b" } else { value };
        (name.to_owned(), value.to_owned())
    };
    (0..random.below(14)).map(|_| field(random)).collect()
}

fn trailers(random: &mut Random) -> Vec<Field> {
    let count = random.below(3);
    (0..count)
        .map(|number| (format!("X-TrAiLeR-{number}"), (*random.pick(&VALUES[1..])).to_owned()))
        .collect()
}

fn body(random: &mut Random) -> Vec<u8> {
    let length = match random.below(6) {
        0 => 0,
        1 => random.below(60_000),
        _ => random.below(600),
    };
    (0..length).map(|index| (index.wrapping_mul(31) % 251) as u8).collect()
}

/// The request of a case.
fn request(case: u64) -> Request {
    let mut random = Random::new(case);
    let method = *random.pick(&["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "REPORT", "HEAD"]);
    let target = *random.pick(&["/", "/a/b;c=d?x=%20&y", "/p%2Fath/./x//y?q=a+b&e=", "/~u/*/!$'()?/?", "/?"]);
    let mut request =
        Request::new(method, &format!("http://cart.shop{target}")).field("X-Case", &case.to_string());
    for (name, value) in fields(&mut random) {
        request = request.field(&name, &value);
    }
    if random.below(4) == 0 {
        request = request
            .field("Connection", "keep-alive, X-Hop")
            .field("X-Hop", "this hop's")
            .field("Keep-Alive", "timeout=9");
    }
    match (method, random.below(3)) {
        ("GET" | "HEAD" | "OPTIONS", _) | (_, 0) => request,
        (_, 1) => request.body(body(&mut random)),
        _ => {
            let trailers = trailers(&mut random);
            let borrowed: Vec<_> =
                trailers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            request.body(body(&mut random)).trailers(&borrowed)
        }
    }
}

/// The answer of a case, as bytes; whether the connection ends behind it.
fn answer(case: u64, method: &str) -> (Vec<u8>, bool) {
    let mut random = Random::new(case ^ 0x5555);
    let status = *random.pick(&[200, 201, 299, 404, 503, 204, 304]);
    let phrase = *random.pick(&["OK", "Fine by me", "", "N\u{f6}"]);
    let mut text = format!("HTTP/1.1 {status} {phrase}\r\n");
    for (name, value) in fields(&mut random) {
        text += &format!("{name}: {value}\r\n");
    }
    if random.below(4) == 0 {
        text += "Keep-Alive: timeout=60\r\nConnection: X-Hop\r\nX-Hop: this hop's\r\n";
    }
    if method == "HEAD" || status == 204 || status == 304 {
        return ((text + "\r\n").into_bytes(), false);
    }
    let content = body(&mut random);
    match random.below(5) {
        0 => ([(text + "Connection: close\r\n\r\n").as_bytes(), &content].concat(), true),
        1 | 2 => {
            text += "Transfer-Encoding: chunked\r\n\r\n";
            let mut bytes = text.into_bytes();
            for piece in content.chunks(1000) {
                bytes.extend(chunk(piece));
            }
            bytes.extend(b"0\r\n");
            for (name, value) in trailers(&mut random) {
                bytes.extend(format!("{name}: {value}\r\n").as_bytes());
            }
            bytes.extend(b"\r\n");
            (bytes, false)
        }
        _ => (
            [format!("{text}Content-Length: {}\r\n\r\n", content.len()).as_bytes(), &content].concat(),
            false,
        ),
    }
}

type Record = Arc<Mutex<HashMap<u64, Vec<Seen>>>>;

/// Answers each case as it should be, and keeps what it saw of it.
async fn server() -> (SocketAddr, Record) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let record = Record::default();
    let shared = record.clone();
    wait::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let record = shared.clone();
            wait::spawn(async move {
                // A client that closes is done.
                let _ = serve(stream, &record).await;
            });
        }
    });
    (address, record)
}

async fn serve(stream: TcpStream, record: &Record) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    while let Some(head) = reader.head().await? {
        let body = reader.body(head.request_framing()).await?;
        let trailers = std::mem::take(&mut reader.trailers);
        let case = head.field("x-case").and_then(|case| case.parse().ok()).unwrap_or(0);
        let method = head.start.split(' ').next().unwrap_or_default().to_owned();
        let seen = Seen::new(&head.start, &head.fields, body, trailers);
        record.lock().expect("no panic while recording").entry(case).or_default().push(seen);
        let (bytes, close) = answer(case, &method);
        write.write_all(&bytes).await?;
        if close {
            return Ok(());
        }
    }
    Ok(())
}

async fn exchange(client: &Client, case: u64) -> Seen {
    let Response { head, body, trailers } = client.send(&request(case)).await;
    Seen::new(&head.start, &head.fields, body, trailers)
}

fn exchanges() -> u64 {
    std::env::var("WEFT_TESTS_EXCHANGES")
        .map_or(EXCHANGES, |text| text.parse().expect("WEFT_TESTS_EXCHANGES must be a number"))
}

/// Runs these cases directly and through the mesh, `at_once` at a time, and compares at both ends.
async fn compare(
    mesh: &Mesh,
    direct: SocketAddr,
    record: &Record,
    cases: std::ops::Range<u64>,
    at_once: u64,
) {
    let wire = if at_once == 1 { Wire::Http1 } else { Wire::Any };
    let mut tasks = Vec::new();
    for worker in 0..at_once {
        let (direct, through) = (Client::direct(direct), mesh.client_of("shop/web-1", "shop/cart"));
        let cases = cases.clone().filter(move |case| case % at_once == worker);
        tasks.push(wait::spawn(async move {
            for case in cases {
                let straight = exchange(&direct, case).await;
                let meshed = exchange(&through, case).await;
                assert_eq!(meshed.over(wire), straight.over(wire), "the answer of case {case}");
            }
        }));
    }
    for task in tasks {
        task.await.expect("a worker must not fail");
    }
    let record = record.lock().expect("no panic while recording");
    for case in cases {
        let [straight, meshed] = &record[&case][..] else { panic!("case {case} must have come twice") };
        let (meshed, straight) = (meshed.clone().over(wire), straight.clone().over(wire));
        assert_eq!(meshed, straight, "the request of case {case}");
    }
}

#[tokio::test]
async fn generated_exchanges_arrive_as_they_were_sent_on_both_wires() {
    let (address, record) = server().await;
    let mesh = Builder::pair(address).start().await;
    let count = exchanges();
    compare(&mesh, address, &record, 1..count + 1, 1).await;
    compare(&mesh, address, &record, count + 1..2 * count + 1, 16).await;
    let metrics = mesh.proxy("shop/web-1").metrics().await;
    for alpn in ["weft1-http/1.1", "weft1-h2"] {
        let made = metrics.sum("weft_tls_handshakes_total", &[("alpn", alpn)]);
        assert!(made >= 1.0, "both wires must have been used: {alpn}");
    }
}

#[tokio::test]
async fn heads_as_large_as_the_limit_pass_both_ways_and_larger_ones_are_refused_by_name() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let client = mesh.client_of("shop/web-1", "shop/cart");
    let url = "http://cart.shop/items";
    // Both ends of the mesh add a little of their own, hence not to the last byte.
    let large = "x".repeat(90 * 1024);
    client.send(&Request::get(url).field("X-Large", &large).id("large")).await.passed();
    assert_eq!(application.request("large").field("x-large").map(str::len), Some(large.len()));
    let answered = client.send(&Request::get(url).field("X-Test-Field", &format!("X-Back={large}"))).await;
    assert_eq!(answered.field("x-back").map(str::len), Some(large.len()));
    let many = |count: usize| {
        (0..count).fold(Request::get(url), |request, number| request.field(&format!("X-N-{number}"), "v"))
    };
    client.send(&many(240).id("many")).await.passed();
    assert!(application.request("many").fields.len() >= 240);
    for request in [Request::get(url).field("X-Large", &"x".repeat(97 * 1024)), many(260)] {
        let refused = client.send(&request).await;
        refused.refused_with(Reason::HeaderTooLarge);
        let text = Reason::HeaderTooLarge.text();
        assert!(text.contains("96 KiB") && text.contains("256 fields"), "the limits are named: {text}");
        assert!(refused.text().contains(text), "{}", refused.text());
    }
    for answer in [
        format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(97 * 1024)),
        format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X-N: v\r\n".repeat(260)),
    ] {
        let server = raw::Server::start(answer.as_bytes()).await;
        let mesh = Builder::pair(server.address()).start().await;
        mesh.client("shop/web-1").get(url).await.refused_with(Reason::ResponseHeaderTooLarge);
    }
}

/// Connections of each kind that are open at once.
const OF_EACH_KIND: usize = 34;

#[tokio::test]
async fn websockets_http2_and_tunnels_go_on_side_by_side() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let mut tasks = Vec::new();
    for number in 0..OF_EACH_KIND {
        let client = mesh.client("shop/web-1");
        tasks.push(wait::spawn(async move {
            let mut connection = client.connect().await.expect("the proxy must accept");
            let upgrade = Request::get("http://cart.shop/socket")
                .field("Connection", "Upgrade")
                .field("Upgrade", "websocket")
                .field("Sec-WebSocket-Version", "13")
                .field("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
            connection.begin(&upgrade).await.expect("the request must be sent");
            assert_eq!(connection.head().await.expect("an answer must come").status(), 101);
            let (mut read, _, mut write) = connection.into_parts();
            for round in 0..20 {
                let text = format!("socket {number} round {round}");
                websocket::send_text(&mut write, &text).await.expect("a frame must be sent");
                let echo = wait::within("an echo", websocket::read_frame(&mut read)).await.expect("a frame");
                assert_eq!(echo.1, text.as_bytes());
            }
        }));
        let address = mesh.client_of("shop/web-1", "shop/cart").address();
        tasks.push(wait::spawn(async move {
            let connection = http2::Connection::open(address).await;
            for round in 0..20 {
                let whole =
                    connection.get("http://cart.shop/items", &[("x-round", &round.to_string())]).await;
                assert_eq!(whole.expect("an answer").status(), 200);
            }
        }));
        let client = mesh.client("shop/web-1");
        tasks.push(wait::spawn(async move {
            let mut stream = client.tunnel("cart.shop:80").await.expect("CONNECT must pass");
            for round in 0..20 {
                let text = format!("GET /round/{round} HTTP/1.1\r\nHost: cart.shop\r\n\r\n");
                stream.write_all(text.as_bytes()).await.expect("a request must be sent");
                let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
                let end = format!("cart-1 GET /round/{round}");
                while !bytes.ends_with(end.as_bytes()) {
                    let count = wait::within("an answer", stream.read(&mut buffer)).await.expect("bytes");
                    assert!(count > 0, "the tunnel must not end");
                    bytes.extend_from_slice(&buffer[..count]);
                }
            }
        }));
    }
    for task in tasks {
        task.await.expect("none may fail");
    }
}
