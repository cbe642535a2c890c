//! HTTP/2 heads and frames that no library would send, byte by byte, at both ends: refused by name, ended
//! by the protocol's own means, or passed on in their one meaning. The application sees nothing of the rest.

use std::net::SocketAddr;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::mesh::{Builder, Mesh, peer_authentication};
use weft_tests::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, PREFACE, RawField, SETTINGS, block,
    exchange, exchange_frames, frame,
};

/// What becomes of a head.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// The mesh answers, and says why.
    Refused(Reason),
    /// The stream or the connection ends without an answer (RFC 9113, section 8.1.1).
    Broken,
    /// The application gets it, with this target.
    Passes(&'static str),
}
use Expect::{Broken, Passes, Refused};

const METHOD: RawField<'_> = (b":method", b"GET");
const SCHEME: RawField<'_> = (b":scheme", b"http");
const AUTHORITY: RawField<'_> = (b":authority", b"cart.shop");
const PATH: RawField<'_> = (b":path", b"/plain");

async fn permissive(application: &Application) -> Mesh {
    Builder::pair(application.address())
        .policy("permissive", &peer_authentication("cart", "cart", "PERMISSIVE"))
        .start()
        .await
}

fn ends(mesh: &Mesh) -> [(&'static str, SocketAddr); 2] {
    [
        ("outbound", mesh.client_of("shop/web-1", "shop/cart").address()),
        ("inbound", mesh.proxy("shop/cart-1").inbound()),
    ]
}

/// Compares, and says what differs: one run shows all that does.
async fn differs(
    name: &str,
    end: SocketAddr,
    fields: &[RawField<'_>],
    expect: Expect,
    application: &Application,
) -> Option<String> {
    let before = application.requests().len();
    let outcome = exchange(end, fields, None).await;
    let seen: Vec<_> =
        application.requests()[before..].iter().map(|request| request.target.clone()).collect();
    let fits = match expect {
        Refused(reason) => outcome.is_refused_with(reason) && seen.is_empty(),
        Broken => outcome.is_broken() && seen.is_empty(),
        Passes(target) => outcome.has_status(200) && seen == [target],
    };
    (!fits).then(|| format!("{name}: wanted {expect:?}, found {outcome:?}; the application saw {seen:?}\n"))
}

/// A head of the usual pseudo fields but for one.
fn with(instead: RawField<'_>) -> Vec<RawField<'_>> {
    let usual = [METHOD, SCHEME, AUTHORITY, PATH];
    usual.into_iter().map(|held| if held.0 == instead.0 { instead } else { held }).collect()
}

#[tokio::test]
async fn pseudo_fields_come_once_first_and_with_values_of_one_meaning() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let mut found: Vec<String> = Vec::new();
    let plain = [METHOD, SCHEME, AUTHORITY, PATH];
    for (end, address) in ends(&mesh) {
        found.extend(differs(end, address, &plain, Passes("/plain"), &application).await);
        let late: [RawField<'_>; 5] = [METHOD, SCHEME, AUTHORITY, (b"x", b"y"), PATH];
        found.extend(differs("late", address, &late, Broken, &application).await);
        for (index, field) in plain.iter().enumerate() {
            let name = String::from_utf8_lossy(field.0);
            let twice = [&plain[..], &[*field]].concat();
            found.extend(
                differs(&format!("{end}: {name} twice"), address, &twice, Broken, &application).await,
            );
            let missing = [&plain[..index], &plain[index + 1..]].concat();
            let expect = if *field == AUTHORITY { Refused(Reason::HostInvalid) } else { Broken };
            found
                .extend(differs(&format!("{end}: no {name}"), address, &missing, expect, &application).await);
        }
        for (name, value, expect) in [
            (":path", &b""[..], Broken),
            (":path", b"foo", Broken),
            (":path", b"*", Refused(Reason::RequestMalformed)),
            (":path", b"/a b", Broken),
            (":path", b"/a\\b", Refused(Reason::RequestMalformed)),
            (":path", b"/\"a\"", Refused(Reason::RequestMalformed)),
            (":path", b"/{a}", Refused(Reason::RequestMalformed)),
            (":path", b"/\xff", Broken),
            (":path", b"/\xc3\xa4", Refused(Reason::RequestMalformed)),
            (":path", b"/a\0", Broken),
            (":path", b"/a\r\nX: y", Broken),
            (":path", b"http://cart.shop/", Broken),
            // The library cuts it off before anything looks at the path, and so it is forwarded.
            (":path", b"/a#b", Passes("/a")),
            (":path", b"/a/../b;c//%2e%2F%00", Passes("/a/../b;c//%2e%2F%00")),
            (":path", b"/?", Passes("/?")),
            (":authority", b"", Broken),
            (":authority", b"u@cart.shop", Refused(Reason::HostInvalid)),
            (":authority", b"cart.shop/x", Broken),
            (":authority", b"cart shop", Broken),
            (":authority", b"cart.shop:99999", Refused(Reason::HostInvalid)),
            (":authority", b"cart.shop:", Refused(Reason::HostInvalid)),
            (":authority", b"cart%2eshop", Broken),
            (":authority", b"CART.shop:80", Passes("/plain")),
            (":scheme", b"ftp", Refused(Reason::RequestMalformed)),
            (":scheme", b"", Refused(Reason::RequestMalformed)),
            (":scheme", b"ht tp", Broken),
            (":scheme", b"https", Passes("/plain")),
            (":method", b"", Broken),
            (":method", b"G T", Broken),
            (":method", b"get", Passes("/plain")),
        ] {
            let shown = format!("{end}: {name} {:?}", String::from_utf8_lossy(value));
            found.extend(
                differs(&shown, address, &with((name.as_bytes(), value)), expect, &application).await,
            );
        }
        let connect: [RawField<'_>; 2] = [(b":method", b"CONNECT"), (b":authority", b"cart.shop:80")];
        found.extend(
            differs("CONNECT", address, &connect, Refused(Reason::MethodUnsupported), &application).await,
        );
    }
    assert!(found.is_empty(), "{}", found.concat());
}

#[tokio::test]
async fn fields_of_one_connection_odd_names_and_odd_values_go_no_further() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let mut found: Vec<String> = Vec::new();
    for (end, address) in ends(&mesh) {
        for (name, value, expect) in [
            // RFC 9113, section 8.2.2.
            (&b"connection"[..], &b"close"[..], Broken),
            (b"keep-alive", b"1", Broken),
            (b"proxy-connection", b"close", Broken),
            (b"transfer-encoding", b"chunked", Broken),
            (b"upgrade", b"websocket", Broken),
            (b"te", b"gzip", Broken),
            (b"te", b"trailers", Passes("/plain")),
            // Section 8.2.1.
            (b"X-Upper", b"1", Broken),
            (b"", b"1", Broken),
            (b"x y", b"1", Broken),
            (b"x\0", b"1", Broken),
            (b"x:y", b"1", Broken),
            (b"x\xc3\xa4", b"1", Broken),
            (b":unknown", b"1", Broken),
            (b":status", b"200", Broken),
            (b"x_under_score", b"1", Passes("/plain")),
            (b"x", b"a\0b", Broken),
            (b"x", b"a\rb", Broken),
            (b"x", b"a\nb", Broken),
            (b"x", b"a\r\nHost: bank.shop", Broken),
            (b"x", b"a\x7f", Broken),
            (b"x", b" a", Refused(Reason::RequestMalformed)),
            (b"x", b"a ", Refused(Reason::RequestMalformed)),
            (b"x", b"a\t", Refused(Reason::RequestMalformed)),
            (b"x", b"a\tb", Passes("/plain")),
            (b"x", b"\x80\xfe\xff", Passes("/plain")),
            (b"x", b"", Passes("/plain")),
            (b"host", b"CART.shop", Passes("/plain")),
            (b"host", b"bank.shop", Refused(Reason::AuthorityMismatch)),
            (b"expect", b"miracles", Refused(Reason::ExpectationUnsupported)),
            (b"content-length", b"0", Passes("/plain")),
            (b"content-length", b"5", Broken),
            (b"content-length", b"+0", Broken),
            (b"content-length", b"0, 0", Broken),
        ] {
            let shown = [name, b": ", value].concat();
            let shown = format!("{end}: {}", String::from_utf8_lossy(&shown));
            let fields = [METHOD, SCHEME, AUTHORITY, PATH, (name, value)];
            found.extend(differs(&shown, address, &fields, expect, &application).await);
        }
        let twice = |name, one, other| [METHOD, SCHEME, AUTHORITY, PATH, (name, one), (name, other)];
        let lengths = twice(b"content-length", b"0", b"0");
        found.extend(
            differs("two lengths", address, &lengths, Refused(Reason::RequestFramingAmbiguous), &application)
                .await,
        );
        let expectations = twice(b"expect", b"100-continue", b"miracles");
        let expect = Refused(Reason::ExpectationUnsupported);
        found.extend(differs("two expectations", address, &expectations, expect, &application).await);
        let hosts = twice(b"host", b"cart.shop", b"cart.shop");
        found.extend(differs("two hosts", address, &hosts, Refused(Reason::HostInvalid), &application).await);
        let crumbs = [&with(PATH)[..], &[(&b"cookie"[..], &b"a=b"[..]); 300]].concat();
        found.extend(
            differs("cookie crumbs", address, &crumbs, Refused(Reason::HeaderTooLarge), &application).await,
        );
    }
    assert!(found.is_empty(), "{}", found.concat());
}

#[tokio::test]
async fn a_body_of_another_length_than_its_head_says_is_never_a_whole_request() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    for (end, address) in ends(&mesh) {
        for (length, body) in [(&b"1"[..], &b"abc"[..]), (b"5", b"abc"), (b"0", b"a")] {
            let fields: [RawField<'_>; 5] = [
                (b":method", b"POST"),
                SCHEME,
                AUTHORITY,
                (b":path", b"/discard"),
                (b"content-length", length),
            ];
            let outcome = exchange(address, &fields, Some(body)).await;
            assert!(!outcome.has_status(200), "{end}: {length:?} {body:?}: {outcome:?}");
        }
        let post: [RawField<'_>; 4] = [(b":method", b"POST"), SCHEME, AUTHORITY, (b":path", b"/discard")];
        let head = frame(HEADERS, END_HEADERS, 1, &block(&post));
        let data = frame(DATA, 0, 1, b"abc");
        // Trailers that are none: with what frames, routes or names a sender.
        for field in [
            (&b"content-length"[..], &b"3"[..]),
            (b"host", b"bank.shop"),
            (b"x-forwarded-client-cert", b"x"),
            (b"x_forwarded_client_cert", b"x"),
            (b"transfer-encoding", b"chunked"),
        ] {
            let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[field]));
            let outcome = exchange_frames(address, &[&head[..], &data, &trailers].concat()).await;
            assert!(!outcome.has_status(200), "{end}: {field:?}: {outcome:?}");
        }
        // A pseudo field behind the body is dropped by the library: nobody sees it.
        let trailers =
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(b":path", b"/x"), (b"x-sum", b"1")]));
        let outcome = exchange_frames(address, &[&head[..], &data, &trailers].concat()).await;
        assert!(outcome.has_status(200), "{end}: {outcome:?}");
        assert_eq!(
            application.requests().pop().map(|seen| seen.target).as_deref(),
            Some("/discard"),
            "{end}"
        );
        // A second head that does not end the stream.
        let again = frame(HEADERS, END_HEADERS, 1, &block(&[(b"x", b"y")]));
        let outcome = exchange_frames(address, &[&head[..], &data, &again].concat()).await;
        assert!(!outcome.has_status(200), "{end}: a second head: {outcome:?}");
    }
    assert!(
        !application.requests().iter().any(|request| request.field("x-forwarded-client-cert") == Some("x"))
    );
    // The same, whole: the check above can fail.
    let fields: [RawField<'_>; 5] =
        [(b":method", b"POST"), SCHEME, AUTHORITY, (b":path", b"/discard"), (b"content-length", b"3")];
    for (end, address) in ends(&mesh) {
        assert!(exchange(address, &fields, Some(b"abc")).await.has_status(200), "{end}");
    }
}

#[tokio::test]
async fn frames_against_the_protocol_end_the_connection_and_no_other() {
    let application = Application::start("cart-1").await;
    let mesh = permissive(&application).await;
    let mut found: Vec<String> = Vec::new();
    let plain = block(&[METHOD, SCHEME, AUTHORITY, PATH]);
    let begun = frame(HEADERS, END_STREAM, 1, &plain);
    let flood: Vec<u8> =
        [begun.clone(), frame(CONTINUATION, 0, 1, &block(&[(b"x", b"y")])).repeat(5000)].concat();
    let cases: [(&str, Vec<u8>); 10] = [
        ("data on an idle stream", frame(DATA, END_STREAM, 1, b"x")),
        ("a stream of the server's", frame(HEADERS, END_HEADERS | END_STREAM, 2, &plain)),
        ("stream 0", frame(HEADERS, END_HEADERS | END_STREAM, 0, &plain)),
        ("settings of an odd length", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[])),
        ("another frame within a head", [begun.clone(), frame(DATA, 0, 1, b"x")].concat()),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &plain)),
        ("a block that cannot be read", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 9])),
        ("a frame that is too long", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0; 1 << 20])),
        ("continuations without end", flood),
    ];
    for (end, address) in ends(&mesh) {
        for (name, bytes) in &cases {
            let outcome = exchange_frames(address, bytes).await;
            assert!(matches!(outcome, Outcome::Away(_) | Outcome::Closed), "{end}: {name}: {outcome:?}");
        }
        let twice = exchange_frames(address, PREFACE).await;
        assert!(matches!(twice, Outcome::Away(_) | Outcome::Closed), "{end}: {twice:?}");
        found.extend(
            differs(end, address, &[METHOD, SCHEME, AUTHORITY, PATH], Passes("/plain"), &application).await,
        );
    }
    assert!(found.is_empty(), "{}", found.concat());
}
