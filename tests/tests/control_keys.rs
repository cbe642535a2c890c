//! Keys of token issuers, fetched by the control API: allowed, rotated, kept through failures.

use std::io;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::certificate::Authority;
use weft_tests::client::{Request, Response};
use weft_tests::issuer::{Issuer, key_set, now, request_authentication};
use weft_tests::key_server::KeyServer;
use weft_tests::mesh::{Builder, Mesh};
use weft_tests::wait;

const ISSUER: &str = "https://id.example";

fn policy(uri: &str) -> String {
    request_authentication("jwt", "cart", &format!("[{{ issuer: '{ISSUER}', jwksUri: '{uri}' }}]"))
}

async fn cart(application: &Application, uri: &str, arguments: &[&str]) -> Mesh {
    Builder::pair(application.address())
        .policy("jwt", &policy(uri))
        .control_arguments(arguments)
        .control_arguments(&["--jwks-interval", "1s"])
        .start()
        .await
}

async fn ask(mesh: &Mesh, issuer: &Issuer) -> Response {
    try_ask(mesh, issuer).await.expect("an answer must come")
}

/// The same; while keys change it may be cut off.
async fn try_ask(mesh: &Mesh, issuer: &Issuer) -> io::Result<Response> {
    let token = issuer.token(&format!(r#"{{"iss":"{ISSUER}","exp":{}}}"#, now() + 600));
    let request = Request::get("http://cart.shop/").field("authorization", &format!("Bearer {token}"));
    mesh.client("shop/web-1").try_send(&request).await
}

async fn accepted(mesh: &Mesh, issuer: &Issuer) {
    wait::until("its tokens are accepted", || async {
        try_ask(mesh, issuer).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
}

async fn refused(mesh: &Mesh, issuer: &Issuer, reason: Reason) {
    wait::until("its tokens are refused", || async {
        try_ask(mesh, issuer).await.is_ok_and(|answer| answer.reason() == Some(reason))
    })
    .await;
}

// What the status says of the one key set.
async fn said(mesh: &Mesh) -> String {
    mesh.status().await["issuerKeys"][0]["error"].as_str().unwrap_or_default().to_owned()
}

async fn error(mesh: &Mesh, part: &str) {
    wait::until(part, || async { said(mesh).await.contains(part) }).await;
}

#[tokio::test]
async fn keys_are_fetched_rotated_and_kept_through_failures_and_restarts() {
    let application = Application::start("cart-1").await;
    let (old, new) = (Issuer::new("old", "ES256"), Issuer::new("new", "EdDSA"));
    let server = KeyServer::start().await;
    let here = server.address().to_string();
    server.publish(&key_set(&[&old]));
    let arguments = ["--jwks-hosts", &here, "--jwks-loopback-http"];
    let mut mesh = cart(&application, &format!("http://{here}/keys"), &arguments).await;
    accepted(&mesh, &old).await;
    server.publish(&key_set(&[&new]));
    accepted(&mesh, &new).await;
    ask(&mesh, &old).await.refused_with(Reason::JwtInvalid);

    // Redirects, garbage, sets that give away a secret and sets without a usable key change nothing.
    let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n";
    let huge = format!("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n{}", " ".repeat(400_000));
    let secret = key_set(&[&new]).replace(r#""kid""#, r#""d":"AA","kid""#);
    for (answer, part) in [(elsewhere, "status 302"), (&huge, "larger than"), ("nonsense", "request failed")]
    {
        server.say(answer);
        error(&mesh, part).await;
    }
    for (keys, part) in
        [(&*secret, "not a key set"), (r#"{"keys":[{"kty":"XYZ"}]}"#, "no key that can be used")]
    {
        server.publish(keys);
        error(&mesh, part).await;
    }
    ask(&mesh, &new).await.passed();
    let metrics = mesh.control_metrics().await;
    assert_eq!(metrics.sum("weft_control_jwks_failing", &[]), 1.0);
    assert_eq!(metrics.sum("weft_control_jwks_unresolved", &[]), 0.0);
    mesh.kill_control();
    mesh.start_control().await;
    error(&mesh, "no key that can be used").await;
    ask(&mesh, &new).await.passed();
    assert_eq!(mesh.status().await["issuerKeys"][0]["keys"], 1, "the last good keys outlive the process");
}

#[tokio::test]
async fn without_an_allowed_host_nothing_is_asked_and_its_tokens_are_refused() {
    let application = Application::start("cart-1").await;
    let issuer = Issuer::new("one", "ES256");
    let server = KeyServer::start().await;
    server.publish(&key_set(&[&issuer]));
    let uri = format!("http://{}/keys", server.address());
    let mesh = cart(&application, &uri, &[]).await;
    error(&mesh, "--jwks-hosts").await;
    ask(&mesh, &issuer).await.refused_with(Reason::JwtKeysUnresolved);
    mesh.client("shop/web-1").get("http://cart.shop/").await.passed();
    let metrics = mesh.control_metrics().await;
    assert_eq!(metrics.sum("weft_control_jwks_unresolved", &[]), 1.0);
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn over_tls_the_host_must_prove_its_name_and_a_private_address_must_be_named() {
    let application = Application::start("cart-1").await;
    let issuer = Issuer::new("one", "RS256");
    let (trusted, stranger) = (Authority::new("cluster.local"), Authority::new("cluster.local"));
    let roots = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(roots.path(), trusted.root_pem()).unwrap();
    let roots = roots.path().to_str().unwrap();
    for (authority, name, private, part) in [
        (&trusted, "localhost", true, ""),
        (&trusted, "localhost", false, "--jwks-private-hosts"),
        (&trusted, "other.example", true, "TLS failed"),
        (&stranger, "localhost", true, "TLS failed"),
    ] {
        let server = KeyServer::start_tls(authority, name).await;
        server.publish(&key_set(&[&issuer]));
        let host = format!("localhost:{}", server.address().port());
        let mut arguments = vec!["--jwks-hosts", &host, "--jwks-roots", roots];
        if private {
            arguments.extend(["--jwks-private-hosts", &host]);
        }
        let mesh = cart(&application, &format!("https://{host}/keys"), &arguments).await;
        if part.is_empty() {
            accepted(&mesh, &issuer).await;
        } else {
            error(&mesh, part).await;
            ask(&mesh, &issuer).await.refused_with(Reason::JwtKeysUnresolved);
            assert_eq!(server.asked(), 0, "{part}");
        }
    }
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_again_are_used_no_longer_than_they_may() {
    let application = Application::start("cart-1").await;
    let issuer = Issuer::new("one", "ES256");
    let server = KeyServer::start().await;
    server.publish(&key_set(&[&issuer]));
    let here = server.address().to_string();
    let arguments = ["--jwks-hosts", &here, "--jwks-loopback-http", "--jwks-age-max", "3s"];
    let mesh = cart(&application, &format!("http://{here}/keys"), &arguments).await;
    accepted(&mesh, &issuer).await;
    server.say("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    refused(&mesh, &issuer, Reason::JwtKeysUnresolved).await;
    server.publish(&key_set(&[&issuer]));
    accepted(&mesh, &issuer).await;
}
