//! Tokens of requests: accepted, refused by name, taken out, their claims put in; whole programs.

use tokio::io::AsyncReadExt;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request, Response};
use weft_tests::issuer::{ALGORITHMS, Issuer, key_set, now, request_authentication};
use weft_tests::mesh::{Builder, Mesh, authorization};
use weft_tests::wait;

const CART: &str = "http://cart.shop/items";
const ISSUER: &str = "https://id.example";

fn rules(issuers: &[&Issuer], more: &str) -> String {
    format!("[{{ issuer: '{ISSUER}', jwks: '{}'{more} }}]", key_set(issuers))
}

async fn cart(application: &Application, issuers: &[&Issuer], more: &str) -> Mesh {
    let policy = request_authentication("jwt", "cart", &rules(issuers, more));
    Builder::pair(application.address()).policy("jwt", &policy).start().await
}

fn web(mesh: &Mesh) -> Client {
    mesh.client("shop/web-1")
}

fn claims(more: &str) -> String {
    format!(r#"{{"iss":"{ISSUER}","sub":"joe","exp":{}{more}}}"#, now() + 600)
}

async fn with_token(mesh: &Mesh, token: &str) -> Response {
    let request = Request::get(CART).field("Authorization", &format!("Bearer {token}"));
    web(mesh).send(&request).await
}

#[tokio::test]
async fn without_a_token_a_request_is_anonymous_and_with_a_good_one_it_passes_without_it() {
    let application = Application::start("cart-1").await;
    let issuer = Issuer::new("one", "ES256");
    let written = ", outputPayloadToHeader: x-claims, outputClaimToHeaders: [{ header: x-user, claim: sub }]";
    let mesh = cart(&application, &[&issuer], written).await;
    let forged = Request::get(CART).field("X-User", "admin").field("x-claims", "e30").id("anonymous");
    web(&mesh).send(&forged).await.passed();
    let seen = application.request("anonymous");
    assert_eq!((seen.field("x-user"), seen.field("x-claims")), (None, None));

    let token = issuer.token(&claims(""));
    let named =
        Request::get(CART).field("authorization", &format!("Bearer {token}")).field("x-user", "admin");
    web(&mesh).send(&named.id("named")).await.passed();
    let seen = application.request("named");
    assert_eq!(seen.field("authorization"), None);
    assert_eq!(seen.field("x-user"), Some("joe"));
    assert_eq!(seen.field("x-claims"), token.split('.').nth(1));

    // From the query it is taken out as well.
    let request = Request::get(&format!("{CART}?a=1&access_token={token}&b=2")).id("query");
    web(&mesh).send(&request).await.passed();
    assert_eq!(application.request("query").target, "/items?a=1&b=2");
}

#[tokio::test]
async fn every_algorithm_is_accepted_with_its_own_key_only() {
    let application = Application::start("cart-1").await;
    let issuers: Vec<_> = ALGORITHMS.iter().map(|name| Issuer::new(name, name)).collect();
    let mesh = cart(&application, &issuers.iter().collect::<Vec<_>>(), "").await;
    let others: Vec<_> = ALGORITHMS.iter().map(|name| Issuer::new(name, name)).collect();
    for (issuer, other) in issuers.iter().zip(&others) {
        with_token(&mesh, &issuer.token(&claims(""))).await.passed();
        with_token(&mesh, &other.token(&claims(""))).await.refused_with(Reason::JwtInvalid);
    }
    assert_eq!(application.requests().len(), ALGORITHMS.len());
}

#[tokio::test]
async fn bad_tokens_are_refused_by_name_and_never_reach_the_application() {
    let application = Application::start("cart-1").await;
    let (issuer, stranger) = (Issuer::new("one", "EdDSA"), Issuer::new("one", "EdDSA"));
    let mesh = cart(&application, &[&issuer], ", audiences: [cart, basket]").await;
    let good = claims(r#","aud":["other","basket"]"#);
    with_token(&mesh, &issuer.token(&good)).await.passed();
    let none = r#"{"alg":"none"}"#;
    let expired = format!(r#"{{"iss":"{ISSUER}","aud":"cart","exp":{}}}"#, now() - 61);
    let early = format!(r#"{{"iss":"{ISSUER}","aud":"cart","nbf":{}}}"#, now() + 120);
    let bad = [
        String::new(),
        "opaque".to_owned(),
        stranger.token(&good),
        issuer.token(&expired),
        issuer.token(&early),
        issuer.token(&good.replace("id.example", "id.example.org")),
        issuer.token(r#"{"aud":"cart"}"#),
        issuer.token_with(none, &good),
        format!("{}.", issuer.token_with(none, &good).rsplit_once('.').unwrap().0),
        issuer.token_with(r#"{"alg":"HS256","kid":"one"}"#, &good),
        issuer.token_with(r#"{"alg":"EdDSA","kid":"two"}"#, &good),
        issuer.token_with(r#"{"alg":"EdDSA","crit":["b64"],"b64":false}"#, &good),
        issuer.token_with(r#"{"alg":"none","alg":"EdDSA"}"#, &good),
        issuer.token(&good.replacen('{', r#"{"iss":"https://evil.example","#, 1)),
        issuer.token("Payload"),
        "a".repeat(20_000),
    ];
    for token in &bad {
        let response = with_token(&mesh, token).await;
        response.refused_with(Reason::JwtInvalid);
        let challenge = r#"Bearer realm="http://cart.shop/items", error="invalid_token""#;
        assert_eq!(response.field("www-authenticate"), Some(challenge), "{token:.80}");
    }
    for claims in [claims(r#","aud":"other""#), claims(r#","aud":["cart2"]"#), claims("")] {
        with_token(&mesh, &issuer.token(&claims)).await.refused_with(Reason::JwtAudienceRefused);
    }
    // Two tokens: whose request would it be?
    let token = issuer.token(&good);
    let two = Request::get(&format!("{CART}?access_token={}", issuer.token(&good.replace("joe", "jane"))));
    let two = two.field("authorization", &format!("Bearer {token}"));
    web(&mesh).send(&two).await.refused_with(Reason::JwtInvalid);
    assert_eq!(application.requests().len(), 1, "what is refused never reaches the application");
    let process = mesh.proxy("shop/cart-1").process();
    assert!(!process.log().contains(&token) && !process.output().contains(&token), "no token is logged");
}

#[tokio::test]
async fn a_token_that_comes_again_and_again_stays_accepted_until_its_key_goes() {
    let application = Application::start("cart-1").await;
    let (old, new) = (Issuer::new("old", "RS256"), Issuer::new("new", "RS256"));
    let mesh = cart(&application, &[&old, &new], "").await;
    let token = old.token(&claims(""));
    for _ in 0..5 {
        with_token(&mesh, &token).await.passed();
    }
    mesh.enforce_policy("jwt", &request_authentication("jwt", "cart", &rules(&[&new], ""))).await;
    with_token(&mesh, &token).await.refused_with(Reason::JwtInvalid);
    with_token(&mesh, &new.token(&claims(""))).await.passed();
}

#[tokio::test]
async fn without_the_issuers_keys_its_tokens_are_refused_and_anonymous_requests_pass() {
    let application = Application::start("cart-1").await;
    let rules = format!("[{{ issuer: '{ISSUER}', jwksUri: 'https://id.example/keys' }}]");
    let policy = request_authentication("jwt", "cart", &rules);
    let mesh = Builder::pair(application.address()).policy("jwt", &policy).start().await;
    let token = Issuer::new("one", "ES256").token(&claims(""));
    with_token(&mesh, &token).await.refused_with(Reason::JwtKeysUnresolved);
    web(&mesh).get(CART).await.passed();
}

#[tokio::test]
async fn a_stream_outlives_its_tokens_expiry_but_not_its_key() {
    let application = Application::start("cart-1").await;
    let (kept, gone) = (Issuer::new("kept", "ES256"), Issuer::new("gone", "ES256"));
    let mesh = cart(&application, &[&kept, &gone], "").await;
    let begin = async |issuer: &Issuer, gate: &str| {
        // Within the leeway of a minute.
        let claims = format!(r#"{{"iss":"{ISSUER}","exp":{}}}"#, now() - 30);
        let mut connection = web(&mesh).connect().await.unwrap();
        let request = Request::get("http://cart.shop/bytes/1000000")
            .field("authorization", &format!("Bearer {}", issuer.token(&claims)))
            .field("x-test-gate-body", gate);
        connection.begin(&request).await.unwrap();
        assert_eq!(connection.head().await.unwrap().status(), 200);
        application.arrived(gate).await;
        connection
    };
    let lives = begin(&kept, "lives").await;
    let mut ends = begin(&gone, "ends").await;
    let policies = [
        request_authentication("jwt", "cart", &rules(&[&kept], "")),
        authorization("no-delete", "cart", "DENY", "[{ to: [{ operation: { methods: [DELETE] } }] }]"),
    ];
    mesh.write_policy("jwt", &policies.join("---\n"));
    let broken = wait::within("the end", ends.rest()).await;
    assert!(broken.is_err() || broken.unwrap().len() < 1_000_000, "the answer must not be complete");
    application.open("lives");
    let (mut read, buffered, _write) = lives.into_parts();
    let mut rest = vec![0; 1_000_000 - buffered.len()];
    wait::within("the rest", read.read_exact(&mut rest)).await.unwrap();
}
