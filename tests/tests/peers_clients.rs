//! The mesh as other people's programs see it: curl, grpcio, websockets, openssl, h2load.
//! Needs tests/peers/install.sh; `make test-peers` runs it.

use std::fs;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::certificate::{Authority, Shape, Svid};
use weft_tests::client::Request;
use weft_tests::issuer::{ALGORITHMS, request_authentication};
use weft_tests::mesh::{Builder, Mesh, Workload, authorization};
use weft_tests::peers::{find, run, script, serve, succeed};
use weft_tests::ports::Port;

/// A service whose application is a foreign program on `port`.
async fn in_front_of(port: &Port, protocol: &str) -> Mesh {
    Builder::default()
        .service("shop/cart")
        .with_protocol(protocol)
        .workload(Workload::new("shop/cart-1").serves(port.address()).protocol(protocol))
        .workload(Workload::new("shop/web-1").calls("shop/cart", 80))
        .start()
        .await
}

#[tokio::test]
async fn curl_over_every_version_and_way_in() {
    let Some(curl) = find("curl") else { return };
    let application = Application::start("cart-1").await;
    let deny = authorization("no-admin", "cart", "DENY", "[{ to: [{ operation: { paths: ['/admin'] } }] }]");
    let mesh = Builder::pair(application.address()).policy("deny", &deny).start().await;
    let proxy = format!("http://{}", mesh.proxy("shop/web-1").outbound());
    let port = mesh.client_of("shop/web-1", "shop/cart").address();
    let direct = format!("http://{port}/items");
    let cart = "http://cart.shop/items";
    let ways: [&[&str]; 5] = [
        &["--http1.1", "--proxy", &proxy, cart],
        &["--http1.0", "--proxy", &proxy, cart],
        &["--http1.1", "--proxy", &proxy, "--proxytunnel", cart],
        &["--http1.1", &direct],
        &["--http2-prior-knowledge", &direct],
    ];
    for way in ways {
        let arguments = [&["--silent", "--show-error", "--fail", "--max-time", "30"], way].concat();
        assert_eq!(succeed(&curl, &arguments).await.stdout, "cart-1 GET /items", "{way:?}");
    }
    let tunnelled =
        ["--silent", "--fail", "--http2-prior-knowledge", "--proxy", &proxy, "--proxytunnel", cart];
    assert_eq!(succeed(&curl, &tunnelled).await.stdout, "cart-1 GET /items");
    let denied = ["--silent", "--include", "--proxy", &proxy, "http://cart.shop/admin"];
    let answer = succeed(&curl, &denied).await.stdout;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains(&format!("x-weft-reason: {}", Reason::AuthorizationDenied.label())), "{answer}");
}

#[tokio::test]
async fn curl_uploads_and_downloads_long_bodies() {
    let Some(curl) = find("curl") else { return };
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let file = mesh.directory().join("body");
    fs::write(&file, vec![b'x'; 20 << 20]).unwrap();
    let upload = format!("@{}", file.display());
    let port = mesh.client_of("shop/web-1", "shop/cart").address();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let url = format!("http://{port}/discard");
        let arguments = ["--silent", "--fail", "--max-time", "60", version, "--data-binary", &upload, &url];
        assert_eq!(succeed(&curl, &arguments).await.stdout, (20 << 20).to_string(), "{version}");
        let copy = mesh.directory().join("copy");
        let copy_text = copy.to_string_lossy();
        let url = format!("http://{port}/bytes/20000000");
        let arguments = ["--silent", "--fail", "--max-time", "60", version, "--output", &*copy_text, &url];
        succeed(&curl, &arguments).await;
        assert_eq!(fs::metadata(&copy).unwrap().len(), 20_000_000, "{version}");
    }
}

#[tokio::test]
async fn grpcio_at_both_ends() {
    let Some(python) = find("grpcio") else { return };
    let port = Port::claim();
    let mesh = in_front_of(&port, "grpc").await;
    let server = serve(&python, "grpc_echo.py", port.number(), mesh.directory()).await;
    let client = script("grpc_echo.py");
    let client = client.to_string_lossy();
    let direct = mesh.client_of("shop/web-1", "shop/cart").address().to_string();
    let ended = succeed(&python, &[&client, "client", &direct]).await;
    assert!(ended.stdout.contains("100 messages both ways"), "{}", ended.stdout);
    // The same through CONNECT, as grpcio uses an HTTP proxy.
    let proxy = format!("http://{}", mesh.proxy("shop/web-1").outbound());
    succeed(&python, &[&client, "client", "cart.shop:80", &proxy]).await;
    drop(server);
}

#[tokio::test]
async fn websockets_at_both_ends() {
    let Some(python) = find("websockets") else { return };
    let port = Port::claim();
    let mesh = in_front_of(&port, "http").await;
    let server = serve(&python, "websocket_echo.py", port.number(), mesh.directory()).await;
    let client = script("websocket_echo.py");
    let address = mesh.client_of("shop/web-1", "shop/cart").address();
    let arguments = [
        &*client.to_string_lossy(),
        "client",
        &address.ip().to_string(),
        &address.port().to_string(),
        "cart.shop",
    ];
    let ended = succeed(&python, &arguments).await;
    assert!(ended.stdout.contains("a clean close"), "{}", ended.stdout);
    drop(server);
}

#[tokio::test]
async fn openssl_is_refused_without_the_right_certificate() {
    let Some(openssl) = find("openssl") else { return };
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let identity = "spiffe://cluster.local/ns/shop/sa/web";
    let right = mesh.authority().issue(&Shape::svid(identity));
    let wrong = Authority::new("cluster.local").issue(&Shape::svid(identity));
    let expired = mesh.authority().issue(&Shape::svid(identity).expired());
    for (what, svid) in
        [("no certificate", None), ("another authority", Some(&wrong)), ("expired", Some(&expired))]
    {
        let text = s_client(&openssl, &mesh, svid).await;
        assert!(!text.contains("HTTP/1.1 200"), "{what} was served: {text}");
        assert!(text.contains("alert"), "{what}: the refusal is an alert: {text}");
    }
    let text = s_client(&openssl, &mesh, Some(&right)).await;
    assert!(text.contains("HTTP/1.1 200"), "{text}");
    assert!(text.contains("TLSv1.3"), "{text}");
    assert!(text.contains("ALPN protocol: weft1-http/1.1"), "{text}");
    // OpenSSL has the hybrid group from 3.5 on; an older one must be served with X25519.
    let groups = run(&openssl, &["list", "-tls-groups"]).await.stdout;
    let group = if groups.contains("X25519MLKEM768") { "X25519MLKEM768" } else { "X25519" };
    assert!(text.contains(group), "{text}");
}

/// One request by `openssl s_client` against the inbound port; everything it printed.
async fn s_client(openssl: &std::path::Path, mesh: &Mesh, svid: Option<&Svid>) -> String {
    let address = mesh.proxy("shop/cart-1").inbound().to_string();
    let directory = mesh.directory();
    let mut arguments: Vec<String> =
        ["s_client", "-connect", &address, "-servername", "80.cart.shop"].map(str::to_owned).to_vec();
    arguments.extend(["-alpn", "weft1-http/1.1", "-ign_eof"].map(str::to_owned));
    if let Some(svid) = svid {
        let (certificate, key) = (directory.join("peer.crt"), directory.join("peer.key"));
        fs::write(&certificate, &svid.certificate_pem).expect("a file in the test's directory");
        fs::write(&key, &svid.key_pem).expect("a file in the test's directory");
        let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        arguments.extend(["-cert".to_owned(), path(certificate), "-key".to_owned(), path(key)]);
    }
    let request = directory.join("request");
    fs::write(&request, "GET /items HTTP/1.1\r\nHost: cart.shop\r\nConnection: close\r\n\r\n")
        .expect("a file in the test's directory");
    // Standard input is a file, so that the request goes out once the handshake is done.
    let mut command = tokio::process::Command::new(openssl);
    command
        .args(&arguments)
        .stdin(fs::File::open(&request).expect("a file in the test's directory"))
        .kill_on_drop(true);
    let output =
        weft_tests::wait::within("openssl ends", command.output()).await.expect("openssl must start");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn h2load_has_no_failed_request() {
    let Some(h2load) = find("h2load") else { return };
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let url = format!("http://{}/items", mesh.client_of("shop/web-1", "shop/cart").address());
    for arguments in [&["-n2000", "-c4", "-m10"][..], &["-n2000", "-c4", "--h1"]] {
        let ended = succeed(&h2load, &[arguments, &[&url]].concat()).await;
        assert!(ended.stdout.contains("2000 succeeded, 0 failed, 0 errored"), "{}", ended.stdout);
        assert!(ended.stdout.contains("status codes: 2000 2xx"), "{}", ended.stdout);
    }
}

#[tokio::test]
async fn an_external_authorizer_on_grpcio_with_envoys_own_definitions() {
    let Some(python) = find("xds-protos") else { return };
    let (application, port) = (Application::start("cart-1").await, Port::claim());
    let custom = authorization("ask", "cart", "CUSTOM", "[{}]")
        .replace("  rules:", "  provider: { name: opa }\n  rules:");
    let body = "includeRequestBodyInCheck: { maxRequestBytes: 4, allowPartialMessage: true }";
    let provider = format!(
        "{{ name: opa, envoyExtAuthzGrpc: {{ service: opa.auth.svc.cluster.local, port: 80, timeout: 60s, {body} }} }}"
    );
    let mesh = Builder::pair(application.address())
        .service("auth/opa")
        .with_protocol("grpc")
        .workload(Workload::new("auth/opa-1").serves(port.address()).protocol("grpc"))
        .mesh_config(&format!("{{ extensionProviders: [{provider}] }}"))
        .policy("ask", &custom)
        .start()
        .await;
    let server = serve(&python, "ext_authz.py", port.number(), mesh.directory()).await;
    let client = mesh.client("shop/web-1");
    let request = Request::post("http://cart.shop/items?a=b", "12345")
        .field("x-secret", "s")
        .field("x-list", "a")
        .field("x-mine", "yes")
        .field("x-user", "admin")
        .id("agreed");
    let answer = client.send(&request).await;
    answer.passed();
    assert_eq!(answer.field("x-judged"), Some("yes"));
    let seen = application.request("agreed");
    let edited = ["x-secret", "x-mine", "x-user"].map(|name| seen.field(name));
    assert_eq!(edited, [None, Some("yes"), Some("joe")]);
    let list: Vec<_> =
        seen.fields.iter().filter(|(name, _)| name == "x-list").map(|(_, value)| &**value).collect();
    assert_eq!(list, ["a", "b"]);
    let inbound = mesh.proxy("shop/cart-1").inbound().port().to_string();
    for (name, value) in [
        ("method", "POST"),
        ("path", "/items?a=b"),
        ("host", "cart.shop"),
        ("scheme", "http"),
        ("protocol", "HTTP/1.1"),
        ("size", "5"),
        ("body", "1234"),
        ("partial", "true"),
        ("source", "spiffe://cluster.local/ns/shop/sa/web"),
        ("source-address", "127.0.0.1"),
        ("destination", "spiffe://cluster.local/ns/shop/sa/cart"),
        ("destination-port", &inbound),
        ("sni", "80.cart.shop"),
        ("pseudo", "POST /items?a=b cart.shop http"),
    ] {
        assert_eq!(seen.field(&format!("x-told-{name}")), Some(value), "{name}");
    }
    let ask = async |wish: &str| client.send(&Request::get("http://cart.shop/").field("x-ask", wish)).await;
    let denied = ask("deny").await;
    assert_eq!((denied.status(), denied.field("x-why")), (429, Some("not today")));
    assert_eq!(denied.text(), "come back tomorrow");
    ask("deny without a word").await.refused_with(Reason::ExternalAuthorizerDenied);
    ask("abort").await.refused_with(Reason::ExternalAuthorizerFailed);
    drop(server);
    ask("yes").await.refused_with(Reason::ExternalAuthorizerFailed);
    assert_eq!(application.requests().len(), 1);
}

#[tokio::test]
async fn tokens_of_pyjwt_are_good_with_their_own_key_and_forgeries_are_not() {
    let Some(python) = find("pyjwt") else { return };
    let minter = script("mint_tokens.py");
    let minted = succeed(&python, &[&*minter.to_string_lossy(), "https://id.example"]).await.stdout;
    let minted: serde_json::Value = serde_json::from_str(&minted).unwrap();
    let rule = format!("[{{ issuer: 'https://id.example', jwks: '{}' }}]", minted["jwks"]);
    let nested = "[{ when: [{ key: 'request.auth.claims[realm][roles]', values: [b] }] }]";
    let policies =
        [request_authentication("jwt", "cart", &rule), authorization("nested", "cart", "ALLOW", nested)];
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).policy("jwt", &policies.join("---\n")).start().await;
    let ask = async |token: &serde_json::Value| {
        let bearer = format!("Bearer {}", token.as_str().unwrap());
        mesh.client("shop/web-1")
            .send(&Request::get("http://cart.shop/").field("authorization", &bearer))
            .await
    };
    let (good, bad) = (minted["good"].as_object().unwrap(), minted["bad"].as_object().unwrap());
    assert_eq!(good.len(), ALGORITHMS.len());
    for (algorithm, token) in good {
        let response = ask(token).await;
        assert_eq!((response.status(), response.reason()), (200, None), "{algorithm}");
    }
    assert!(bad.len() >= 10);
    for (wrong, token) in bad {
        let response = ask(token).await;
        assert_eq!((response.status(), response.reason()), (401, Some(Reason::JwtInvalid)), "{wrong}");
    }
    assert_eq!(application.requests().len(), good.len());
}
