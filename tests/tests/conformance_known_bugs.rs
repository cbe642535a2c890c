//! Bugs that other proxies have had, by their class, each as the bytes or the document that exploited it:
//! frozen, so that none of them comes back here.
//!
//! What needs more than bytes is tested where it belongs: names in certificates in the proxy's `tls` tests and
//! `identity_mtls`, tokens in `inbound_tokens` and `control_keys`, the time before a policy is held in
//! `inbound_windows`, what is spoken against what is declared in `inbound_detection`, resets and floods in the
//! `h2` tests and `conformance_http2`, bombs of YAML in the corpus of `weft-config`.

use std::net::SocketAddr;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::Client;
use weft_tests::mesh::{Builder, Mesh, Workload, authorization, peer_authentication, route};
use weft_tests::raw_http2::{RawField, exchange};
use weft_tests::{raw, wait};

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Expect {
    Refused(Reason),
    /// The application gets it, with this target.
    Forwarded(&'static str),
}
use Expect::{Forwarded, Refused};

/// What is denied to everybody; everything else is allowed.
const DENIED: &str = "[{ to: [{ operation: { paths: ['/admin*', '/v1/x:cancel'] } }] }, \
                      { to: [{ operation: { hosts: [bank.shop] } }] }, \
                      { to: [{ operation: { methods: [DELETE] } }] }, \
                      { when: [{ key: 'request.headers[x-role]', values: [admin] }] }]";

const DENY: Expect = Refused(Reason::AuthorizationDenied);
const MALFORMED: Expect = Refused(Reason::RequestMalformed);

async fn denying(application: &Application) -> Mesh {
    let policies =
        [authorization("denied", "cart", "DENY", DENIED), peer_authentication("cart", "cart", "PERMISSIVE")];
    Builder::pair(application.address()).policy("policies", &policies.join("---\n")).start().await
}

/// Sends the request and holds what becomes of it against what must; says which class it was.
async fn check(class: &str, end: SocketAddr, bytes: &[u8], expect: Expect, application: &Application) {
    let before = application.requests().len();
    let answer = raw::exchange(end, bytes).await;
    let seen = application.requests().split_off(before);
    let shown = format!("{class}: {}", String::from_utf8_lossy(bytes).escape_debug());
    let told = (answer.status(), answer.reason());
    match expect {
        Refused(reason) => {
            assert_eq!(told, (reason.status(), Some(reason.label())), "{shown}");
            assert!(seen.is_empty(), "{shown}: {seen:?}");
        }
        Forwarded(target) => {
            assert_eq!(told, (200, None), "{shown}");
            let targets: Vec<_> = seen.iter().map(|request| request.target.as_str()).collect();
            assert_eq!(targets, [target], "{shown}");
        }
    }
}

fn ends(mesh: &Mesh) -> [SocketAddr; 2] {
    [mesh.proxy("shop/cart-1").inbound(), mesh.client_of("shop/web-1", "shop/cart").address()]
}

fn get(target: &str) -> Vec<u8> {
    request(target, "cart.shop", b"")
}

fn request(target: &str, host: &str, fields: &[u8]) -> Vec<u8> {
    let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    [head.as_bytes(), fields, b"\r\n"].concat()
}

#[tokio::test]
async fn spellings_of_a_path_that_slipped_past_a_rule() {
    const PATHS: [(&str, Expect); 37] = [
        ("/x/../admin", DENY),
        ("/./admin", DENY),
        ("//admin", DENY),
        ("/x/..//admin", DENY),
        ("/%61dmin", DENY),
        ("/%2e/admin", DENY),
        ("/x/%2E%2e/admin", DENY),
        ("/%2fadmin", DENY),
        ("/%5cadmin", DENY),
        ("/admin?x", DENY),
        ("/admin%3fx", DENY),
        ("/admin%23x", DENY),
        ("/admin/../admin", DENY),
        ("/v1/x%3acancel", DENY),
        ("/v1/x:cancel?a", DENY),
        ("http://cart.shop/x/../admin", DENY),
        ("http://cart.shop//admin", DENY),
        ("/admin#x", MALFORMED),
        ("/x#/../admin", MALFORMED),
        ("/\\admin", MALFORMED),
        ("/x\\..\\admin", MALFORMED),
        ("/x/..%2fadmin", MALFORMED),
        ("/x%2f..%2fadmin", MALFORMED),
        ("/x%5c..%5cadmin", MALFORMED),
        ("/%252e%252e/admin", MALFORMED),
        ("/%2561dmin", MALFORMED),
        ("/admin;x", MALFORMED),
        ("/x/..;/admin", MALFORMED),
        ("/admin%00.png", MALFORMED),
        ("/%0aadmin", MALFORMED),
        ("/../admin", MALFORMED),
        ("/%zz/../admin", MALFORMED),
        // No other path than the rule's.
        ("/ADMIN", Forwarded("/ADMIN")),
        ("/x/admin", Forwarded("/x/admin")),
        ("/public//./x", Forwarded("/public/x")),
        ("/a%2fb?u=//%2e%2e&v=/../%2f", Forwarded("/a/b?u=//%2e%2e&v=/../%2f")),
        ("/a%20b/%C3%a4", Forwarded("/a%20b/%C3%A4")),
    ];
    let application = Application::start("cart-1").await;
    let mesh = denying(&application).await;
    for end in ends(&mesh) {
        for (path, expect) in PATHS {
            check("path", end, &get(path), expect, &application).await;
        }
    }
    // The same on HTTP/2, where the grammar is another library's.
    for (path, expect) in PATHS.into_iter().filter(|(path, _)| path.starts_with('/') && !path.contains('#')) {
        let fields: [RawField<'_>; 4] = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"cart.shop"),
            (b":path", path.as_bytes()),
        ];
        let outcome = exchange(mesh.proxy("shop/cart-1").inbound(), &fields, None).await;
        match expect {
            Refused(reason) => assert!(outcome.is_refused_with(reason), "{path}: {outcome:?}"),
            Forwarded(target) => {
                assert!(outcome.has_status(200), "{path}: {outcome:?}");
                assert_eq!(application.requests().pop().unwrap().target, target);
            }
        }
    }
}

#[tokio::test]
async fn spellings_of_a_host_a_method_or_a_value_that_slipped_past_a_rule() {
    let application = Application::start("cart-1").await;
    let mesh = denying(&application).await;
    let inbound = mesh.proxy("shop/cart-1").inbound();
    for host in ["bank.shop", "BANK.shop", "bank.shop:80", "Bank.Shop:8080", "bank.shop.", "bank.shop.:80"] {
        check("host", inbound, &request("/", host, b""), DENY, &application).await;
        let absolute = format!("http://{host}/");
        check("host", inbound, &request(&absolute, host, b""), DENY, &application).await;
    }
    for host in ["bank.shop@cart.shop", "cart.shop, bank.shop", "bank.shop/x", "bank%2eshop"] {
        let expect = Refused(Reason::HostInvalid);
        check("host", inbound, &request("/", host, b""), expect, &application).await;
    }
    check("host", inbound, &request("/", "notbank.shop", b""), Forwarded("/"), &application).await;
    for (fields, expect) in [
        (&b"X-Role: admin\r\n"[..], DENY),
        (b"x-role: user\r\nX-ROLE: admin\r\n", DENY),
        (b"x-role: admin\r\nx-role: user\r\n", DENY),
        (b"x-role: user, admin\r\n", DENY),
        (b"x-role: user,admin,x\r\n", DENY),
        (b"x-role:\tadmin \t \r\n", DENY),
        (b"x-role:admin\r\n", DENY),
        (b"x-role: , ,admin,\r\n", DENY),
        // Nobody can say what it is.
        (b"x-role: \xff\r\n", DENY),
        (b"x-role: user\r\nx-role: \xc3\x28\r\n", DENY),
        (b"X-Role : admin\r\n", MALFORMED),
        (b"x-role: user\r\n admin\r\n", MALFORMED),
        (b"x-role: admin\0\r\n", MALFORMED),
        (b"x-role: admin\x0b\r\n", MALFORMED),
        (b"x-role: user\nx-role: admin\r\n", MALFORMED),
        (b"x-role: user\rx-role: admin\r\n", MALFORMED),
        (b"x-role: administrator\r\n", Forwarded("/")),
        (b"x-role: user\r\nx-role: ADMIN\r\n", Forwarded("/")),
    ] {
        check("values", inbound, &request("/", "cart.shop", fields), expect, &application).await;
    }
    let method =
        |method: &str| format!("{method} / HTTP/1.1\r\nHost: cart.shop\r\nConnection: close\r\n\r\n");
    check("method", inbound, method("DELETE").as_bytes(), DENY, &application).await;
    // Methods have case (RFC 9110, section 9.1), and nothing that overrides them is believed.
    check("method", inbound, method("delete").as_bytes(), Forwarded("/"), &application).await;
    let overridden = request("/", "cart.shop", b"X-HTTP-Method-Override: DELETE\r\n");
    check("method", inbound, &overridden, Forwarded("/"), &application).await;
}

#[tokio::test]
async fn an_identity_is_compared_whole_and_never_as_a_pattern_of_characters() {
    let application = Application::start("cart-1").await;
    let rules = "[{ from: [{ source: { principals: ['cluster.local/ns/shop/sa/w.b'] } }] }]";
    let mesh = Builder::pair(application.address())
        .workload(Workload::new("shop/dotted-1").account("w.b"))
        .policy("dotted", &authorization("dotted", "cart", "ALLOW", rules))
        .start()
        .await;
    let call = async |uid: &str| mesh.client(uid).get("http://cart.shop/").await;
    call("shop/web-1").await.refused_with(Reason::AuthorizationDenied);
    call("shop/dotted-1").await.passed();
}

/// Names that only the mesh may use, as clients have spelt them.
const INTERNAL: [&str; 9] = [
    "x-forwarded-client-cert",
    "X-Forwarded-Client-Cert",
    "x_forwarded_client_cert",
    "X-FORWARDED_CLIENT-CERT",
    "x-weft-reason",
    "X-Weft-Undelivered",
    "x-weft-deadline",
    "x_weft_attempt",
    "X-Weft-Made-Up",
];

#[tokio::test]
async fn what_only_the_mesh_may_say_is_taken_from_nobody_on_any_wire() {
    let application = Application::start("cart-1").await;
    let mesh = denying(&application).await;
    let claim = "By=spiffe://x;Hash=0;Subject=\"\";URI=spiffe://cluster.local/ns/ops/sa/admin";
    let fields: String = INTERNAL.iter().map(|name| format!("{name}: {claim}\r\n")).collect();
    // A name in Connection would take the proof away behind it, if it were taken as one.
    let fields = format!("{fields}Connection: x-forwarded-client-cert\r\n");
    let spelt: Vec<String> = INTERNAL.iter().map(|name| name.to_ascii_lowercase()).collect();
    for (end, proven) in ends(&mesh).into_iter().zip([false, true]) {
        let bytes = request("/one", "cart.shop", fields.as_bytes());
        check("internals", end, &bytes, Forwarded("/one"), &application).await;
        let mut block: Vec<RawField<'_>> = vec![
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"cart.shop"),
            (b":path", b"/two"),
        ];
        block.extend(spelt.iter().map(|name| (name.as_bytes(), claim.as_bytes())));
        let outcome = exchange(end, &block, None).await;
        assert!(outcome.has_status(200), "{outcome:?}");
        for request in application.requests().iter().rev().take(2) {
            let odd = |name: &str| {
                let name = name.to_ascii_lowercase().replace('_', "-");
                name.starts_with("x-weft-") || name == "x-forwarded-client-cert"
            };
            let left: Vec<_> = request.fields.iter().filter(|(name, _)| odd(name)).collect();
            if !proven {
                assert_eq!(left, Vec::<&(String, String)>::new(), "{}", request.target);
                continue;
            }
            let [(name, value)] = left.as_slice() else { panic!("{left:?}") };
            assert_eq!(name.to_ascii_lowercase(), "x-forwarded-client-cert");
            // In Envoy's words and order, as Istio's sidecars set it.
            let rest = value.strip_prefix("By=spiffe://cluster.local/ns/shop/sa/cart;Hash=").unwrap();
            let (hash, rest) = rest.split_once(';').unwrap();
            assert!(
                hash.len() == 64 && hash.bytes().all(|byte| b"0123456789abcdef".contains(&byte)),
                "{hash}"
            );
            assert_eq!(rest, "Subject=\"\";URI=spiffe://cluster.local/ns/shop/sa/web");
        }
    }
}

#[tokio::test]
async fn an_application_cannot_speak_as_the_mesh_to_its_client() {
    let answer = b"HTTP/1.1 200 OK\r\nX-Weft-Reason: connect_failed\r\nx_weft_undelivered: 1\r\nX-Forwarded-Client-Cert: \
                   x\r\nContent-Length: 0\r\n\r\n";
    let server = raw::Server::start(answer).await;
    let mesh = Builder::pair(server.address())
        .policy("permissive", &peer_authentication("cart", "cart", "PERMISSIVE"))
        .start()
        .await;
    for end in ends(&mesh) {
        let response = Client::direct(end).get("http://cart.shop/").await;
        response.passed();
        for name in ["x-weft-reason", "x_weft_undelivered", "x-forwarded-client-cert"] {
            assert_eq!(response.field(name), None, "{end}");
        }
    }
}

#[tokio::test]
async fn bytes_that_hid_a_second_request() {
    let application = Application::start("cart-1").await;
    let mesh = denying(&application).await;
    let hidden = "GET /admin HTTP/1.1\r\nHost: cart.shop\r\n\r\n";
    let post = |fields: &str, body: &str| {
        format!("POST /x HTTP/1.1\r\nHost: cart.shop\r\n{fields}\r\n{body}{hidden}").into_bytes()
    };
    let ambiguous = Refused(Reason::RequestFramingAmbiguous);
    let coding = Refused(Reason::TransferCodingUnsupported);
    for (bytes, expect) in [
        (post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), ambiguous),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", "0\r\n\r\n"), ambiguous),
        (post("Content-Length: 0\r\nContent-Length: 46\r\n", ""), ambiguous),
        (post("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"), coding),
        (post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), coding),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "0\r\n\r\n"), coding),
        (post("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"), MALFORMED),
        (post("Transfer-Encoding\x20: chunked\r\n", "0\r\n\r\n"), MALFORMED),
        (post("X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), MALFORMED),
        // The header of the PROXY protocol, versions 1 and 2: the mesh's ports take none.
        ([b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n", hidden.as_bytes()].concat(), MALFORMED),
        ([b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", hidden.as_bytes()].concat(), MALFORMED),
        // Two empty lines: one is tolerated.
        (format!("\r\n\r\n{hidden}").into_bytes(), MALFORMED),
    ] {
        for end in ends(&mesh) {
            check("smuggling", end, &bytes, expect, &application).await;
        }
    }
    // What a body holds is a body, and what follows it is judged.
    let whole = post("Content-Length: 3\r\nConnection: keep-alive\r\n", "abc");
    for end in ends(&mesh) {
        let before = application.requests().len();
        let mut closing = whole.clone();
        closing.splice(closing.len() - 2.., *b"Connection: close\r\n\r\n");
        let answer = raw::exchange(end, &closing).await;
        assert_eq!(answer.status(), 200);
        let rest = String::from_utf8_lossy(&answer.rest).into_owned();
        assert!(rest.contains("HTTP/1.1 403 "), "the second one is judged: {rest}");
        assert_eq!(application.requests().len(), before + 1);
    }
}

#[tokio::test]
async fn an_upgrade_that_was_not_taken_leaves_http_in_place() {
    let application = Application::start("cart-1").await;
    let mesh = denying(&application).await;
    // The application answers 200, and what follows is a request, not the other protocol's bytes.
    let bytes = "GET /status/200 HTTP/1.1\r\nHost: cart.shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nGET /admin \
                 HTTP/1.1\r\nHost: cart.shop\r\nConnection: close\r\n\r\n";
    for end in ends(&mesh) {
        let answer = raw::exchange(end, bytes.as_bytes()).await;
        let rest = String::from_utf8_lossy(&answer.rest).into_owned();
        let told = format!("{:?} {rest}", answer.head);
        assert!(
            !told.contains("GET /admin")
                && !application.requests().iter().any(|seen| seen.target == "/admin")
        );
        assert!(matches!(answer.status(), 200 | 400), "{told}");
    }
    // An offer of HTTP/2 is none: what would follow is not judged by request.
    let offered =
        request("/h2c", "cart.shop", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n");
    for end in ends(&mesh) {
        check("upgrade", end, &offered, Forwarded("/h2c"), &application).await;
        assert_eq!(application.requests().pop().unwrap().field("upgrade"), None);
    }
}

#[tokio::test]
async fn numbers_and_pieces_at_the_edge() {
    let application = Application::start("cart-1").await;
    let mesh = denying(&application).await;
    for end in ends(&mesh) {
        for timeout in ["99999999H", "99999999999999999999S", "-1S", "1", ""] {
            let fields = format!("grpc-timeout: {timeout}\r\n");
            let bytes = request("/x", "cart.shop", fields.as_bytes());
            check("grpc-timeout", end, &bytes, Forwarded("/x"), &application).await;
        }
        // A body in pieces of one byte costs what it costs, and arrives.
        let mut bytes = b"POST /discard HTTP/1.1\r\nHost: cart.shop\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        bytes.extend(b"1\r\nx\r\n".repeat(20_000));
        bytes.extend(b"0\r\n\r\n");
        let answer = raw::exchange(end, &bytes).await;
        assert_eq!(answer.status(), 200, "{end}");
        assert!(String::from_utf8_lossy(&answer.rest).contains("20000"), "{end}");
        // The refusals of what is pipelined behind a refusal are one.
        let answer = raw::exchange(end, &b"GET /\\ HTTP/1.1\r\nHost: cart.shop\r\n\r\n".repeat(1000)).await;
        assert_eq!((answer.status(), answer.reason()), (400, Some("request_malformed")));
        assert!(!String::from_utf8_lossy(&answer.rest).contains("HTTP/1.1"), "one answer, then the end");
    }
}

#[tokio::test]
async fn what_a_client_sends_is_one_line_of_the_log() {
    let application = Application::start("cart-1").await;
    let mesh = denying(&application).await;
    let server = mesh.proxy("shop/cart-1");
    let path = "/admin%0a{\"forged\":1}";
    check("log", server.inbound(), &get("/admin?a=b\\c,{d}&e=%0a%1b[0m"), DENY, &application).await;
    check("log", server.inbound(), &get(path), MALFORMED, &application).await;
    wait::until("both are logged", async || server.access_log().len() == 2).await;
    // Every line was read as JSON by then; none is of the client's making.
    assert!(server.access_log().iter().all(|line| line.get("forged").is_none()));
    assert!(!server.process().log().contains('\x1b'));
}

#[tokio::test]
async fn a_route_is_chosen_by_the_very_path_that_is_forwarded() {
    let (public, admin) = (Application::start("public").await, Application::start("admin").await);
    let rules = "[{ matches: [{ path: { value: /admin } }], backendRefs: [{ name: admin, port: 80 }] }, { matches: [{ \
                 path: { value: /api } }], filters: [{ type: URLRewrite, urlRewrite: { path: { type: \
                 ReplacePrefixMatch, replacePrefixMatch: /v1 } } }] }, {}]";
    let mesh = Builder::pair(public.address())
        .service("shop/admin")
        .workload(Workload::new("shop/admin-1").serves(admin.address()))
        .policy("route", &route("cart", "cart", rules))
        .start()
        .await;
    let end = mesh.client_of("shop/web-1", "shop/cart").address();
    for (sent, expect, by) in [
        ("/x/../admin", Forwarded("/admin"), &admin),
        ("//admin/%61", Forwarded("/admin/a"), &admin),
        ("/%2fadmin", Forwarded("/admin"), &admin),
        ("/admin/../x", Forwarded("/x"), &public),
        ("/administrator//x", Forwarded("/administrator/x"), &public),
        ("/api/../x", Forwarded("/x"), &public),
        ("/api/%2e/x?a=..", Forwarded("/v1/x?a=.."), &public),
        ("/api/..;/admin", MALFORMED, &public),
        ("/admin%2f../x", MALFORMED, &public),
        ("/../admin", MALFORMED, &admin),
    ] {
        check("route", end, &get(sent), expect, by).await;
    }
    assert_eq!((public.requests().len(), admin.requests().len()), (4, 3), "nobody else saw any");
}

#[tokio::test]
async fn the_mesh_chooses_how_far_paths_are_made_one() {
    let application = Application::start("cart-1").await;
    let policies = [
        authorization("denied", "cart", "DENY", "[{ to: [{ operation: { paths: ['/admin*'] } }] }]"),
        peer_authentication("cart", "cart", "PERMISSIVE"),
    ];
    let levels: [(&str, &[(&str, Expect)]); 3] = [
        (
            "NONE",
            &[
                ("/admin", DENY),
                ("/x/../admin", Forwarded("/x/../admin")),
                ("/%61dmin;%zz", Forwarded("/%61dmin;%zz")),
            ],
        ),
        (
            "BASE",
            &[
                ("/x/../admin", DENY),
                ("/%61dmin", DENY),
                ("/a//b%2fc;d/%25%7e", Forwarded("/a//b%2Fc;d/%25~")),
                ("//admin", Forwarded("//admin")),
                ("/x/..;/admin", MALFORMED),
                ("/a%00", MALFORMED),
            ],
        ),
        (
            "MERGE_SLASHES",
            &[("//admin", DENY), ("/a//b%2f%2fc", Forwarded("/a/b%2F%2Fc")), ("/a//../admin", MALFORMED)],
        ),
    ];
    for (level, cases) in levels {
        let config = format!("{{ pathNormalization: {{ normalization: {level} }} }}");
        let mesh = Builder::pair(application.address())
            .mesh_config(&config)
            .policy("policies", &policies.join("---\n"))
            .start()
            .await;
        for (path, expect) in cases {
            for end in ends(&mesh) {
                check(level, end, &get(path), *expect, &application).await;
            }
        }
    }
}
