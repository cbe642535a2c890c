//! External authorizers: asked through the mesh, obeyed, and never taken for a yes.

use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::authorizer::Authorizer;
use weft_tests::client::{Request, Response};
use weft_tests::mesh::{Builder, Mesh, Workload, authorization};
use weft_tests::wait;

fn custom(rules: &str) -> String {
    authorization("ask", "cart", "CUSTOM", rules).replace("  rules:", "  provider: { name: opa }\n  rules:")
}

async fn mesh(application: &Application, authorizer: &Authorizer, more: &str, policies: &[String]) -> Mesh {
    let providers = format!(
        "{{ extensionProviders: [{{ name: opa, envoyExtAuthzGrpc: {{ service: opa.auth.svc.cluster.local, port: \
         80, timeout: 2s{more} }} }}] }}"
    );
    Builder::pair(application.address())
        .service("auth/opa")
        .with_protocol("grpc")
        .workload(Workload::new("auth/opa-1").serves(authorizer.address()).protocol("grpc"))
        .mesh_config(&providers)
        .policy("policies", &policies.join("---\n"))
        .start()
        .await
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
    let source = asked[0].attributes.source.as_ref().unwrap();
    assert_eq!(source.principal, "spiffe://cluster.local/ns/shop/sa/web");

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
    let mut mesh = mesh(&application, &authorizer, "", &[custom("[{}]")]).await;
    for wish in ["silence", "garbage", "error", "smuggle"] {
        ask(&mesh, "/", wish).await.refused_with(Reason::ExternalAuthorizerFailed);
    }
    mesh.proxy_mut("auth/opa-1").kill();
    ask(&mesh, "/", "yes").await.refused_with(Reason::ExternalAuthorizerFailed);
    assert_eq!(application.requests(), []);
}

#[tokio::test]
async fn an_authorizer_that_may_be_missing_is_not_waited_for_but_a_denial_holds() {
    let (application, authorizer) = (Application::start("cart-1").await, Authorizer::start().await);
    let mesh = mesh(&application, &authorizer, ", failOpen: true", &[custom("[{}]")]).await;
    ask(&mesh, "/", "garbage").await.passed();
    assert_eq!(ask(&mesh, "/", "deny").await.status(), 429);
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
