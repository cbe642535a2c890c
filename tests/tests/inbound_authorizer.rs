//! External authorizers: asked through the mesh, obeyed, and never taken for a yes.

use tokio::io::AsyncReadExt;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::authorizer::Authorizer;
use weft_tests::certificate::{Shape, judged};
use weft_tests::client::{Client, Request, Response};
use weft_tests::issuer::{Issuer, key_set, request_authentication};
use weft_tests::mesh::{Builder, Mesh, Workload, authorization, peer_authentication};
use weft_tests::speaker::{Lines, Speaker};
use weft_tests::wait;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn custom(rules: &str) -> String {
    custom_of("cart", "opa", rules)
}

fn custom_of(app: &str, provider: &str, rules: &str) -> String {
    authorization("ask", app, "CUSTOM", rules)
        .replace("  rules:", &format!("  provider: {{ name: {provider} }}\n  rules:"))
}

/// How long an authorizer is waited for where its answer is what counts: a busy machine takes its time.
const PATIENCE: &str = ", timeout: 60s";

/// Two providers, `opa` and `other`, which are one Service. `more`: of both.
fn with_providers(builder: Builder, more: &str) -> Builder {
    let more = if more.contains("timeout") { more.to_owned() } else { format!("{PATIENCE}{more}") };
    let provider = |name: &str| {
        let service = "service: opa.auth.svc.cluster.local, port: 80";
        format!("{{ name: {name}, envoyExtAuthzGrpc: {{ {service}{more} }} }}")
    };
    let providers = format!("{{ extensionProviders: [{}, {}] }}", provider("opa"), provider("other"));
    builder.service("auth/opa").with_protocol("grpc").mesh_config(&providers)
}

fn opa(authorizer: &Authorizer) -> Workload {
    Workload::new("auth/opa-1").serves(authorizer.address()).protocol("grpc")
}

async fn mesh(application: &Application, authorizer: &Authorizer, more: &str, policies: &[String]) -> Mesh {
    with_providers(Builder::pair(application.address()), more)
        .workload(opa(authorizer))
        .policy("policies", &policies.join("---\n"))
        .start()
        .await
}

/// `shop/store`, which takes opaque bytes, with one CUSTOM policy for all of them.
async fn store(application: &Speaker, authorizer: &Authorizer, more: &str) -> Mesh {
    let builder = Builder::default()
        .service("shop/store")
        .with_protocol("tcp")
        .workload(Workload::new("shop/store-1").serves(application.address()).protocol("tcp"))
        .workload(Workload::new("shop/web-1"));
    with_providers(builder, more)
        .workload(opa(authorizer))
        .policy("policies", &custom_of("store", "opa", "[{}]"))
        .start()
        .await
}

async fn dial(mesh: &Mesh) -> Lines {
    Lines::tunnel(mesh.proxy("shop/web-1").outbound(), "store.shop:80").await
}

async fn answered(mesh: &Mesh, uid: &str, reason: Reason) -> f64 {
    let labels = [("direction", "inbound"), ("reason", reason.label())];
    mesh.proxy(uid).metrics().await.sum("weft_answers_total", &labels)
}

async fn ask(mesh: &Mesh, path: &str, wish: &str) -> Response {
    let request = Request::get(&format!("http://cart.shop{path}")).field("x-ask", wish).id(wish);
    mesh.client("shop/web-1").send(&request).await
}

#[tokio::test]
async fn the_authorizer_is_asked_through_the_mesh_and_obeyed() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let only_asked = "[{ to: [{ operation: { paths: ['/asked*'] } }] }]";
    let mesh = mesh(&application, &authorizer, "", &[custom(only_asked)]).await;
    ask(&mesh, "/free", "deny").await.passed();
    assert_eq!(authorizer.asked().len(), 0, "what no CUSTOM rule matches is not asked about");

    ask(&mesh, "/asked/../asked/a?b=c", "yes").await.passed();
    let asked = authorizer.asked();
    assert_eq!(asked[0].call.0, "/envoy.service.auth.v3.Authorization/Check");
    assert!(asked[0].call.1.contains("/ns/shop/sa/cart"), "by mutual TLS: {:?}", asked[0].call);
    let http = asked[0].http();
    assert_eq!(
        (http.method.as_str(), http.path.as_str(), http.host.as_str()),
        ("GET", "/asked/a?b=c", "cart.shop")
    );
    let attributes = &asked[0].attributes;
    assert_eq!(attributes.source.as_ref().unwrap().principal, WEB);
    let destination = attributes.destination.as_ref().unwrap();
    assert_eq!(destination.principal, "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!(attributes.tls_session.as_ref().unwrap().sni, "80.cart.shop");
    assert_eq!((http.size, http.headers["x-ask"].as_str()), (0, "yes"));

    let denied = ask(&mesh, "/asked", "deny").await;
    assert_eq!((denied.status(), denied.field("x-why")), (429, Some("not today")));
    assert_eq!(
        (denied.reason(), denied.text()),
        (Some(Reason::ExternalAuthorizerDenied), "come back tomorrow".into())
    );

    let edited = ask(&mesh, "/asked", "edit").await;
    assert_eq!((edited.status(), edited.field("x-judged")), (200, Some("yes")));
    let seen = application.requests().pop().unwrap();
    assert_eq!((seen.field("x-user"), seen.field("x-ask")), (Some("joe"), None));
    assert_eq!(application.requests().len(), 3, "what is denied never reaches the application");
}

#[tokio::test]
async fn no_answer_that_counts_is_no_agreement() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let mut mesh = mesh(&application, &authorizer, ", timeout: 2s", &[custom("[{}]")]).await;
    for wish in ["silence", "garbage", "nothing", "error", "smuggle", "huge"] {
        ask(&mesh, "/", wish).await.refused_with(Reason::ExternalAuthorizerFailed);
    }
    mesh.proxy_mut("auth/opa-1").kill();
    ask(&mesh, "/", "yes").await.refused_with(Reason::ExternalAuthorizerFailed);
    assert_eq!(application.requests(), []);
}

#[tokio::test]
async fn an_authorizer_that_may_be_missing_is_not_waited_for_but_a_denial_holds() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let mut mesh = mesh(&application, &authorizer, ", failOpen: true", &[custom("[{}]")]).await;
    for wish in ["garbage", "nothing", "error"] {
        ask(&mesh, "/", wish).await.passed();
    }
    assert_eq!(ask(&mesh, "/", "deny").await.status(), 429);
    // What cannot be done as it was said is no silence: the client's own field would pass in its place.
    for wish in ["smuggle", "huge"] {
        ask(&mesh, "/", wish).await.refused_with(Reason::ExternalAuthorizerFailed);
    }
    for wish in ["status 7", "status 16"] {
        ask(&mesh, "/", wish).await.refused_with(Reason::ExternalAuthorizerDenied);
    }
    let log = mesh.proxy("shop/cart-1").process().log();
    assert_eq!(log.matches("a request passes that its authorizer did not judge").count(), 3, "{log}");
    mesh.proxy_mut("auth/opa-1").kill();
    ask(&mesh, "/", "deny").await.passed();
}

#[tokio::test]
async fn deny_and_allow_judge_what_the_authorizer_made_of_the_request() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let joe = "[{ when: [{ key: 'request.headers[x-user]', values: [joe] }] }]";
    let deny = "[{ to: [{ operation: { paths: ['/never'] } }] }]";
    let policies = [
        custom("[{}]"),
        authorization("joe", "cart", "ALLOW", joe),
        authorization("never", "cart", "DENY", deny),
    ];
    let mesh = mesh(&application, &authorizer, "", &policies).await;
    ask(&mesh, "/", "edit").await.passed();
    ask(&mesh, "/", "yes").await.refused_with(Reason::AuthorizationDenied);
    ask(&mesh, "/never", "edit").await.refused_with(Reason::AuthorizationDenied);
    assert_eq!(ask(&mesh, "/never", "deny").await.status(), 429, "the authorizer comes first");
}

#[tokio::test]
async fn a_stream_that_nobody_was_asked_about_ends_when_somebody_must_be() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let mesh = mesh(&application, &authorizer, "", &[authorization("all", "cart", "ALLOW", "[{}]")]).await;
    let mut connection = mesh.client("shop/web-1").connect().await.unwrap();
    let request = Request::get("http://cart.shop/bytes/1000000").field("x-test-gate-body", "gate");
    connection.begin(&request).await.unwrap();
    assert_eq!(connection.head().await.unwrap().status(), 200);
    application.arrived("gate").await;
    mesh.write_policy("policies", &custom("[{}]"));
    let broken = wait::within("the end", connection.rest()).await;
    assert!(broken.is_err() || broken.unwrap().len() < 1_000_000, "the answer must not be complete");
}

#[tokio::test]
async fn the_authorizer_is_told_how_long_a_body_is_and_never_what_is_in_it() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let mesh = mesh(&application, &authorizer, "", &[custom("[{}]")]).await;
    let request = Request::post("http://cart.shop/", "a body that is nobody's concern");
    mesh.client("shop/web-1").send(&request).await.passed();
    let asked = authorizer.asked();
    assert_eq!(asked[0].http().size, 31);
    let text = String::from_utf8_lossy(&asked[0].message);
    assert!(!text.contains("concern"), "{text}");
}

/// The body in the question, as text and as bytes, and what is said of whether it is all.
fn shown(authorizer: &Authorizer) -> (String, Vec<u8>, Option<String>) {
    let asked = authorizer.asked().pop().expect("it was asked");
    let http = asked.http();
    (http.body.clone(), http.raw_body.clone(), http.headers.get("x-envoy-auth-partial-body").cloned())
}

async fn echo(mesh: &Mesh, body: &[u8]) -> Response {
    mesh.client("shop/web-1").send(&Request::post("http://cart.shop/echo", body)).await
}

#[tokio::test]
async fn an_authorizer_that_wants_bodies_is_shown_what_is_forwarded() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let more = ", includeRequestBodyInCheck: { maxRequestBytes: 16 }";
    let mesh = mesh(&application, &authorizer, more, &[custom("[{}]")]).await;
    let text = |body: &str| (body.to_owned(), Vec::new(), Some("false".to_owned()));
    for body in ["0123456789abcdef", "grün"] {
        assert_eq!(echo(&mesh, body.as_bytes()).await.text(), body);
        assert_eq!(shown(&authorizer), text(body));
    }
    // In chunks, with a claim of the client's own, and with trailers behind it.
    let chunked = Request::post("http://cart.shop/echo", "in chunks")
        .field("x-envoy-auth-partial-body", "true")
        .trailers(&[("x-checksum", "7")]);
    let answer = mesh.client("shop/web-1").send(&chunked).await;
    assert_eq!((answer.text(), answer.trailers.len()), ("in chunks".to_owned(), 1));
    assert_eq!(shown(&authorizer), text("in chunks"));
    ask(&mesh, "/", "yes").await.passed();
    assert_eq!(shown(&authorizer), (String::new(), Vec::new(), None), "there is no body");
    let denied = Request::post("http://cart.shop/", "a body").field("x-ask", "deny");
    assert_eq!(mesh.client("shop/web-1").send(&denied).await.status(), 429);
    assert_eq!((shown(&authorizer), application.requests().len()), (text("a body"), 4));
}

#[tokio::test]
async fn a_body_that_cannot_be_shown_is_refused_whatever_the_provider_says_of_failures() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let more = ", failOpen: true, includeRequestBodyInCheck: { maxRequestBytes: 16 }";
    let mesh = mesh(&application, &authorizer, more, &[custom("[{}]")]).await;
    let long = "0123456789abcdefg";
    echo(&mesh, long.as_bytes()).await.refused_with(Reason::BodyTooLarge);
    let chunked = Request::post("http://cart.shop/echo", long).trailers(&[]);
    mesh.client("shop/web-1").send(&chunked).await.refused_with(Reason::BodyTooLarge);
    echo(&mesh, b"no text: \xff").await.refused_with(Reason::ExternalAuthorizerFailed);
    assert_eq!((authorizer.asked().len(), application.requests().len()), (0, 0));
}

#[tokio::test]
async fn of_a_long_body_the_beginning_is_shown_and_all_is_forwarded() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let more =
        ", includeRequestBodyInCheck: { maxRequestBytes: 8, allowPartialMessage: true, packAsBytes: true }";
    let mesh = mesh(&application, &authorizer, more, &[custom("[{}]")]).await;
    let bytes = |body: &[u8], partial: &str| (String::new(), body.to_vec(), Some(partial.to_owned()));
    for length in [1, 8, 9, 300_000] {
        let body: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8 ^ 0xff).collect();
        let answer = echo(&mesh, &body).await;
        assert_eq!((answer.status(), answer.body == body), (200, true), "{length}");
        let told = bytes(&body[..body.len().min(8)], if length > 8 { "true" } else { "false" });
        assert_eq!(shown(&authorizer), told, "{length}");
    }
}

#[tokio::test]
async fn a_field_that_cannot_be_shown_as_it_is_forwarded_is_not_asked_about() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let only_asked = "[{ to: [{ operation: { paths: ['/asked*'] } }] }]";
    let mesh = mesh(&application, &authorizer, ", failOpen: true", &[custom(only_asked)]).await;
    let svid = mesh.authority().issue(&Shape::svid(WEB));
    let inbound = mesh.proxy("shop/cart-1").inbound();
    let say = async |path: &str| {
        let request =
            [b"GET ", path.as_bytes(), b" HTTP/1.1\r\nHost: cart.shop\r\nx-role: adm\xefn\r\n\r\n"].concat();
        let answer = judged(inbound, Some(&svid), "80.cart.shop", &[b"weft1-http/1.1"], &request).await;
        String::from_utf8_lossy(&answer.expect("an answer")).into_owned()
    };
    assert!(say("/free").await.starts_with("HTTP/1.1 200 "), "where nobody is asked it passes");
    let answer = say("/asked").await;
    assert!(answer.contains("x-weft-reason: request_malformed"), "{answer}");
    assert_eq!((authorizer.asked().len(), application.requests().len()), (0, 1));
}

#[tokio::test]
async fn a_body_longer_than_any_window_is_shown_whole() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let more = ", includeRequestBodyInCheck: { maxRequestBytes: 4194304 }";
    let mesh = mesh(&application, &authorizer, more, &[custom("[{}]")]).await;
    // More than a stream's window of HTTP/2 between the proxies, and than what is kept for another try.
    let body: String = (0..150_000).map(|at| format!("{at:07}")).collect();
    let answer = echo(&mesh, body.as_bytes()).await;
    assert_eq!((answer.status(), answer.body == body.as_bytes()), (200, true));
    let (text, bytes, partial) = shown(&authorizer);
    assert_eq!((text == body, bytes.len(), partial.as_deref()), (true, 0, Some("false")));
}

#[tokio::test]
async fn an_authorizer_that_cannot_be_asked_is_told_by_the_providers_status() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let mesh = mesh(&application, &authorizer, ", statusOnError: '503'", &[custom("[{}]")]).await;
    let failed = ask(&mesh, "/", "error").await;
    assert_eq!((failed.status(), failed.reason()), (503, Some(Reason::ExternalAuthorizerFailed)));
    let call = Request::post("http://cart.shop/", "").field("content-type", "application/grpc");
    let failed =
        mesh.client("shop/web-1").send(&call.field("te", "trailers").field("x-ask", "garbage")).await;
    assert_eq!((failed.status(), failed.field("grpc-status")), (200, Some("14")));
    assert_eq!(failed.reason(), Some(Reason::ExternalAuthorizerFailed));
    assert_eq!(ask(&mesh, "/", "deny").await.status(), 429, "what it says itself stays");
    assert_eq!(application.requests(), []);
    let labels = [("direction", "inbound"), ("reason", Reason::ExternalAuthorizerFailed.label())];
    assert_eq!(mesh.proxy("shop/cart-1").metrics().await.sum("weft_answers_total", &labels), 2.0);
}

#[tokio::test]
async fn no_route_leads_the_question_elsewhere_and_no_mirror_copies_it() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let evil = Authorizer::start().await;
    // Of the namespace that asks, so that it holds for whatever is called from there.
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: evil, namespace: shop }\n\
                 spec:\n  parentRefs: [{ group: '', kind: Service, name: opa, namespace: auth, port: 80 }]\n  rules:\n    \
                 - filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: evil, port: 80 } } }]\n      \
                 backendRefs: [{ name: evil, port: 80 }]\n";
    let mesh = with_providers(Builder::pair(application.address()), "")
        .service("shop/evil")
        .with_protocol("grpc")
        .workload(Workload::new("shop/evil-1").serves(evil.address()).protocol("grpc"))
        .workload(opa(&authorizer))
        .policy("policies", &custom("[{}]"))
        .policy("route", route)
        .start()
        .await;
    // It is in force: what an application of the namespace asks goes there, and its copy.
    mesh.client("shop/web-1").get("http://opa.auth/").await;
    evil.arrived(2).await;
    assert_eq!(authorizer.asked().len(), 0);
    assert_eq!(ask(&mesh, "/", "deny").await.status(), 429);
    ask(&mesh, "/", "yes").await.passed();
    assert_eq!((authorizer.asked().len(), evil.asked().len()), (2, 2));
    let metrics = mesh.proxy("shop/cart-1").metrics().await;
    assert_eq!(metrics.sum("weft_outbound_mirrors_total", &[]), 0.0, "nor is a copy on its way");
}

#[tokio::test]
async fn an_authorizer_that_proves_no_identity_is_not_asked() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let mesh = with_providers(Builder::pair(application.address()), "")
        .workload(opa(&authorizer).not_injected())
        .policy("policies", &custom("[{}]"))
        .start()
        .await;
    // It is there, and others may call it so.
    mesh.client("shop/web-1").get("http://opa.auth/").await;
    authorizer.arrived(1).await;
    ask(&mesh, "/", "yes").await.refused_with(Reason::ExternalAuthorizerFailed);
    assert_eq!((authorizer.asked().len(), application.requests().len()), (1, 0));
}

#[tokio::test]
async fn opaque_bytes_evade_no_question_where_nothing_is_declared() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let mesh = with_providers(Builder::undeclared(application.address()), "")
        .workload(opa(&authorizer))
        .policy("policies", &custom("[{}]"))
        .start()
        .await;
    let svid = mesh.authority().issue(&Shape::svid(WEB));
    let inbound = mesh.proxy("shop/cart-1").inbound();
    let request = b"GET /items HTTP/1.1\r\nHost: cart.shop\r\nx-ask: deny\r\n\r\n";
    let outcome = judged(inbound, Some(&svid), "80.cart.shop", &[b"weft1-tcp"], request).await;
    assert!(outcome.is_err(), "{:?}", String::from_utf8_lossy(&outcome.unwrap()));
    assert_eq!((application.requests().len(), authorizer.asked().len()), (0, 0));
    assert_eq!(answered(&mesh, "shop/cart-1", Reason::HttpRequired).await, 1.0);
    // As HTTP the port is what it was.
    assert_eq!(ask(&mesh, "/", "deny").await.status(), 429);
}

/// A request about which the authorizer is asked, and does not answer yet.
async fn asking(mesh: &Mesh, authorizer: &Authorizer, id: &str) -> weft_tests::client::Connection {
    let before = authorizer.asked().len();
    let mut connection = mesh.client("shop/web-1").connect().await.expect("the proxy listens");
    let request = Request::get("http://cart.shop/a").field("x-ask", "wait yes").field("x-user", "admin");
    connection.begin(&request.id(id)).await.expect("the request is sent");
    authorizer.arrived(before + 1).await;
    connection
}

#[tokio::test]
async fn a_policy_that_changes_during_the_question_decides_what_is_sent() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let mesh = mesh(&application, &authorizer, "", &[custom("[{}]")]).await;
    // From now on the field is the mesh's word alone.
    let mut waiting = asking(&mesh, &authorizer, "edited").await;
    let rule = "issuer: 'https://id.example', outputClaimToHeaders: [{ header: x-user, claim: sub }]";
    let rules = format!("[{{ {rule}, jwks: '{}' }}]", key_set(&[&Issuer::new("one", "ES256")]));
    mesh.enforce_policy("jwt", &request_authentication("jwt", "cart", &rules)).await;
    authorizer.release();
    waiting.finish("GET").await.unwrap().passed();
    assert_eq!(application.request("edited").field("x-user"), None, "what was judged is what is sent");
    // From now on nobody may.
    let mut waiting = asking(&mesh, &authorizer, "denied").await;
    mesh.enforce_policy("deny", &authorization("nobody", "cart", "DENY", "[{}]")).await;
    authorizer.release();
    waiting.finish("GET").await.unwrap().refused_with(Reason::AuthorizationDenied);
    mesh.enforce_removal("deny").await;
    // From now on somebody else must agree.
    let mut waiting = asking(&mesh, &authorizer, "another").await;
    mesh.enforce_policy("policies", &custom_of("cart", "other", "[{}]")).await;
    authorizer.release();
    waiting.finish("GET").await.unwrap().refused_with(Reason::AuthorizationUnresolved);
    assert_eq!((application.count("denied"), application.count("another")), (0, 0));
}

#[tokio::test]
async fn what_was_agreed_to_lives_with_its_edits_until_somebody_else_must_agree() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let joe = "[{ when: [{ key: 'request.headers[x-user]', values: [joe] }] }]";
    let allow = authorization("joe", "cart", "ALLOW", joe);
    let mesh = mesh(&application, &authorizer, "", &[custom("[{}]"), allow.clone()]).await;
    let begin = async |client: Client, gate: &str| {
        let mut connection = client.connect().await.unwrap();
        let request = Request::get("http://cart.shop/bytes/1000000").field("x-test-gate-body", gate);
        connection.begin(&request.field("x-ask", "edit")).await.unwrap();
        assert_eq!(connection.head().await.unwrap().status(), 200);
        application.arrived(gate).await;
        connection
    };
    let lives = begin(mesh.client("shop/web-1"), "lives").await;
    let mut ends = begin(mesh.client("shop/web-1"), "ends").await;
    // It is judged again, with `x-user: joe`, and nobody is asked again.
    let deny = "[{ to: [{ operation: { methods: [DELETE] } }] }]";
    mesh.enforce_policy("deny", &authorization("no-delete", "cart", "DENY", deny)).await;
    application.open("lives");
    let (mut read, buffered, _write) = lives.into_parts();
    let mut rest = vec![0; 1_000_000 - buffered.len()];
    wait::within("the rest", read.read_exact(&mut rest)).await.unwrap();
    assert_eq!(authorizer.asked().len(), 2);
    mesh.enforce_policy("policies", &[custom_of("cart", "other", "[{}]"), allow].join("---\n")).await;
    let broken = wait::within("the end", ends.rest()).await;
    assert!(broken.is_err() || broken.unwrap().len() < 1_000_000, "the answer must not be complete");
    assert_eq!(answered(&mesh, "shop/cart-1", Reason::AuthorizationUnresolved).await, 1.0);
}

#[tokio::test]
async fn an_opaque_connection_is_asked_about_once_and_told_of_by_its_ends() {
    let (application, authorizer) = (Speaker::echo().await, Authorizer::start().await);
    let mesh = store(&application, &authorizer, "").await;
    let mut client = dial(&mesh).await;
    for _ in 0..3 {
        assert_eq!(client.ask("hello\n").await, "hello\n");
    }
    let asked = authorizer.asked();
    let [asked] = asked.as_slice() else { panic!("once for a connection: {}", asked.len()) };
    let attributes = &asked.attributes;
    assert!(attributes.request.is_none(), "{attributes:?}");
    assert_eq!(attributes.source.as_ref().unwrap().principal, WEB);
    let destination = attributes.destination.as_ref().unwrap();
    assert_eq!(destination.principal, "spiffe://cluster.local/ns/shop/sa/store");
    let address = destination.address.as_ref().unwrap().socket_address.as_ref().unwrap();
    let inbound = mesh.proxy("shop/store-1").inbound();
    assert_eq!(
        (address.address.as_str(), address.port_value),
        (&*inbound.ip().to_string(), u32::from(inbound.port()))
    );
    assert_eq!(attributes.tls_session.as_ref().unwrap().sni, "80.store.shop");
}

#[tokio::test]
async fn an_opaque_connection_that_nobody_agrees_to_never_reaches_the_application() {
    let (application, authorizer) = (Speaker::echo().await, Authorizer::start().await);
    let mut mesh = store(&application, &authorizer, "").await;
    authorizer.wishes("deny");
    assert_eq!(dial(&mesh).await.rest().await, b"");
    assert_eq!(answered(&mesh, "shop/store-1", Reason::ExternalAuthorizerDenied).await, 1.0);
    // An agreement that rests on edits is one to another request; there is none here.
    let failing = ["edit", "garbage", "error"];
    for wish in failing {
        authorizer.wishes(wish);
        assert_eq!(dial(&mesh).await.rest().await, b"", "{wish}");
    }
    mesh.proxy_mut("auth/opa-1").kill();
    assert_eq!(dial(&mesh).await.rest().await, b"");
    let failed = answered(&mesh, "shop/store-1", Reason::ExternalAuthorizerFailed).await;
    assert_eq!(failed, failing.len() as f64 + 1.0);
    assert_eq!(application.connections(), 0);
}

#[tokio::test]
async fn a_silent_client_in_plaintext_is_asked_about_once() {
    let (application, authorizer) = (Speaker::echo().await, Authorizer::start().await);
    let mesh = store(&application, &authorizer, "").await;
    mesh.enforce_policy("tls", &peer_authentication("store", "store", "PERMISSIVE")).await;
    let inbound = mesh.proxy("shop/store-1").inbound();
    for (wish, count) in [("deny", 1), ("yes", 2)] {
        authorizer.wishes(wish);
        let mut client = Lines::open(inbound).await;
        authorizer.arrived(count).await;
        client.say("hello\n").await;
        let heard = if wish == "deny" { client.rest().await } else { client.hear().await.into_bytes() };
        assert_eq!(heard, if wish == "deny" { &b""[..] } else { b"hello\n" });
        assert_eq!(authorizer.asked().len(), count);
    }
    assert_eq!(answered(&mesh, "shop/store-1", Reason::ExternalAuthorizerDenied).await, 1.0);
    assert_eq!(application.connections(), 1);
}

#[tokio::test]
async fn an_opaque_connection_passes_a_missing_authorizer_only_where_it_may_be_missing() {
    let (application, authorizer) = (Speaker::echo().await, Authorizer::start().await);
    let mut mesh = store(&application, &authorizer, ", failOpen: true").await;
    for wish in ["garbage", "error"] {
        authorizer.wishes(wish);
        assert_eq!(dial(&mesh).await.ask("hello\n").await, "hello\n", "{wish}");
    }
    // It has answered: these are no silence.
    for wish in ["deny", "edit"] {
        authorizer.wishes(wish);
        assert_eq!(dial(&mesh).await.rest().await, b"", "{wish}");
    }
    mesh.proxy_mut("auth/opa-1").kill();
    assert_eq!(dial(&mesh).await.ask("hello\n").await, "hello\n");
    assert_eq!(application.connections(), 3);
}

#[tokio::test]
async fn a_silent_authorizer_is_waited_for_as_long_as_its_provider_says() {
    for (more, opens) in [(", timeout: 1s", false), (", timeout: 1s, failOpen: true", true)] {
        let (application, authorizer) = (Speaker::echo().await, Authorizer::start().await);
        let mesh = store(&application, &authorizer, more).await;
        authorizer.wishes("silence");
        let mut client = dial(&mesh).await;
        if opens {
            assert_eq!(client.ask("hello\n").await, "hello\n");
        } else {
            assert_eq!(client.rest().await, b"");
            assert_eq!(answered(&mesh, "shop/store-1", Reason::ExternalAuthorizerFailed).await, 1.0);
        }
        let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
        let mesh = self::mesh(&application, &authorizer, more, &[custom("[{}]")]).await;
        let answer = ask(&mesh, "/", "silence").await;
        assert_eq!(answer.reason(), (!opens).then_some(Reason::ExternalAuthorizerFailed));
    }
}

#[tokio::test]
async fn an_opaque_connection_that_was_agreed_to_lives_until_it_is_denied_or_somebody_else_must_agree() {
    let (application, authorizer) = (Speaker::echo().await, Authorizer::start().await);
    let mesh = store(&application, &authorizer, "").await;
    let (mut first, mut second) = (dial(&mesh).await, dial(&mesh).await);
    for client in [&mut first, &mut second] {
        assert_eq!(client.ask("hello\n").await, "hello\n");
    }
    let other = "[{ from: [{ source: { namespaces: [ops] } }] }]";
    mesh.enforce_policy("deny", &authorization("others", "store", "DENY", other)).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.ask("again\n").await, "again\n");
    }
    assert_eq!(authorizer.asked().len(), 2, "what was agreed to is not asked again");
    mesh.enforce_policy("policies", &custom_of("store", "other", "[{}]")).await;
    for client in [first, second] {
        assert_eq!(client.rest().await, b"");
    }
    assert_eq!(answered(&mesh, "shop/store-1", Reason::AuthorizationUnresolved).await, 2.0);
    let mut third = dial(&mesh).await;
    assert_eq!(third.ask("hello\n").await, "hello\n");
    mesh.enforce_policy("deny", &authorization("all", "store", "DENY", "[{}]")).await;
    assert_eq!(third.rest().await, b"");
    assert_eq!(answered(&mesh, "shop/store-1", Reason::AuthorizationDenied).await, 1.0);
}
