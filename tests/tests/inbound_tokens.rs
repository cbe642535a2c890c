//! Tokens of requests: accepted, refused by name, taken out, their claims put in; whole programs.

use tokio::io::AsyncReadExt;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request, Response};
use weft_tests::issuer::{ALGORITHMS, Issuer, key_set, now, request_authentication};
use weft_tests::mesh::{Builder, Mesh, authorization, peer_authentication};
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

    // Nor can a client have what is written removed on its way.
    mesh.enforce_policy("tls", &peer_authentication("cart", "cart", "PERMISSIVE")).await;
    let naming = Request::get(CART)
        .field("Authorization", &format!("Bearer {token}"))
        .field("Connection", "close, X-User, x-claims");
    Client::direct(mesh.proxy("shop/cart-1").inbound()).send(&naming.id("naming")).await.passed();
    let seen = application.request("naming");
    assert_eq!((seen.field("x-user"), seen.field("x-claims")), (Some("joe"), token.split('.').nth(1)));
}

#[tokio::test]
async fn no_spelling_and_no_trailer_of_a_client_stands_for_a_claim() {
    let application = Application::start("cart-1").await;
    let issuer = Issuer::new("one", "ES256");
    let written = ", outputPayloadToHeader: x-claims, outputClaimToHeaders: [{ header: x-user, claim: sub }]";
    let mesh = cart(&application, &[&issuer], written).await;
    let bearer = format!("Bearer {}", issuer.token(&claims("")));
    let forged = |request: Request| {
        ["x_user", "X-User", "X_USER", "x-user", "x_claims", "X-CLAIMS"]
            .into_iter()
            .fold(request, |request, name| request.field(name, "admin"))
    };
    // Behind CGI's convention `-` and `_` are one letter.
    let spelled = |fields: &[(String, String)]| {
        let alike = |name: &str| matches!(&*name.to_lowercase().replace('_', "-"), "x-user" | "x-claims");
        fields.iter().filter(|(name, _)| alike(name)).map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    web(&mesh).send(&forged(Request::get(CART)).id("anonymous")).await.passed();
    assert_eq!(spelled(&application.request("anonymous").fields), Vec::<String>::new());
    let trailers = [("x-user", "admin"), ("X_User", "admin"), ("x-claims", "e30"), ("x-checksum", "7")];
    let named = Request::post("http://cart.shop/echo", "body").field("authorization", &bearer);
    let answer = web(&mesh).send(&forged(named.trailers(&trailers)).id("named")).await;
    assert_eq!((answer.status(), answer.text()), (200, "body".to_owned()));
    let seen = spelled(&application.request("named").fields);
    assert_eq!((seen.len(), seen.contains(&"joe".to_owned())), (2, true), "{seen:?}");
    // The application sends back the trailers that it got.
    assert_eq!(answer.trailers, [("x-checksum".to_owned(), "7".to_owned())]);
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

#[tokio::test]
async fn a_token_that_nobody_looked_at_or_that_is_forwarded_is_not_logged_either() {
    let application = Application::start("cart-1").await;
    let issuer = Issuer::new("one", "ES256");
    let mesh = cart(&application, &[&issuer], ", forwardOriginalToken: true").await;
    let token = issuer.token(&claims(""));
    let url = format!("{CART}?a=1&access_token={token}");
    // Admission refuses it before anything of it is looked at.
    let plain = Client::direct(mesh.proxy("shop/cart-1").inbound());
    plain.get(&url).await.refused_with(Reason::TlsRequired);
    // So does the grammar.
    mesh.enforce_policy("tls", &peer_authentication("cart", "cart", "PERMISSIVE")).await;
    let expecting = Request::get(&url).field("Expect", "the unexpected");
    plain.send(&expecting).await.refused_with(Reason::ExpectationUnsupported);
    // It passes, and is the application's to see.
    plain.send(&Request::get(&url).id("forwarded")).await.passed();
    assert_eq!(application.request("forwarded").target, format!("/items?a=1&access_token={token}"));
    let server = mesh.proxy("shop/cart-1");
    wait::until("all three are logged", async || server.access_log().len() == 3).await;
    assert!(server.access_log().iter().all(|line| line["path"] == "/items?a=1"), "{:?}", server.access_log());
    assert!(!server.process().log().contains(&token) && !server.process().output().contains(&token));
}

#[tokio::test]
async fn a_token_is_taken_from_where_its_rule_says_and_forwarded_only_if_it_says_so() {
    let application = Application::start("cart-1").await;
    let issuer = Issuer::new("one", "ES256");
    let places =
        ", fromHeaders: [{ name: x-jwt, prefix: 'JWT ' }], fromParams: [jwt], fromCookies: [session]";
    let needs =
        authorization("named", "cart", "ALLOW", "[{ from: [{ source: { requestPrincipals: ['*'] } }] }]");
    let policies = |forward: bool| {
        let more = format!("{places}, forwardOriginalToken: {forward}");
        [request_authentication("jwt", "cart", &rules(&[&issuer], &more)), needs.clone()].join("---\n")
    };
    let mesh = Builder::pair(application.address()).policy("jwt", &policies(false)).start().await;
    let token = issuer.token(&claims(""));
    let ask = async |url: &str, field: Option<(&str, String)>, id: &str| {
        let mut request = Request::get(url).id(id);
        if let Some((name, value)) = field {
            request = request.field(name, &value);
        }
        web(&mesh).send(&request).await
    };
    for forwarded in [false, true] {
        let id = |place: &str| format!("{place}-{forwarded}");
        ask(CART, Some(("x-jwt", format!("JWT {token}"))), &id("header")).await.passed();
        ask(&format!("{CART}?jwt={token}"), None, &id("query")).await.passed();
        ask(CART, Some(("cookie", format!("a=b; session={token}"))), &id("cookie")).await.passed();
        let header = application.request(&id("header"));
        let query = application.request(&id("query"));
        let cookie = application.request(&id("cookie"));
        if forwarded {
            assert_eq!(header.field("x-jwt"), Some(format!("JWT {token}").as_str()));
            assert_eq!(query.target, format!("/items?jwt={token}"));
            assert_eq!(cookie.field("cookie"), Some(format!("a=b; session={token}").as_str()));
        } else {
            assert_eq!((header.field("x-jwt"), query.target.as_str()), (None, "/items"));
            assert_eq!(cookie.field("cookie"), Some("a=b"));
        }
        // Where no rule looks, there is no token: the request is anonymous, and the policy wants a name.
        for (name, value) in [
            ("authorization", format!("Bearer {token}")),
            ("x-jwt", token.clone()),
            ("cookie", format!("sessions={token}")),
        ] {
            let response = ask(CART, Some((name, value)), &id("nowhere")).await;
            response.refused_with(Reason::AuthorizationDenied);
        }
        if !forwarded {
            mesh.enforce_policy("jwt", &policies(true)).await;
        }
    }
    assert_eq!(application.requests().len(), 6);
}

/// A clause that a rule has, claims that it fits, and claims that it does not.
const CLAUSES: &[(&str, &[&str], &[&str])] = &[
    (
        "from: [{ source: { requestPrincipals: ['https://id.example/joe'] } }]",
        &["\"sub\":\"joe\""],
        &["\"sub\":\"jane\"", "\"sub\":\"joey\"", "\"a\":1"],
    ),
    (
        "from: [{ source: { requestPrincipals: ['https://id.example/j*'] } }]",
        &["\"sub\":\"jane\""],
        &["\"sub\":\"admin\""],
    ),
    ("from: [{ source: { requestPrincipals: ['*'] } }]", &["\"sub\":\"a/b\""], &[]),
    (
        "from: [{ source: { requestPrincipals: ['*'], notRequestPrincipals: ['https://id.example/joe'] } }]",
        &["\"sub\":\"jane\""],
        &["\"sub\":\"joe\""],
    ),
    (
        "when: [{ key: 'request.auth.principal', values: ['*/joe'] }]",
        &["\"sub\":\"joe\""],
        &["\"sub\":\"jane\""],
    ),
    (
        "when: [{ key: 'request.auth.audiences', values: [cart] }]",
        &["\"aud\":\"cart\"", "\"aud\":[\"web\",\"cart\"]"],
        &["\"aud\":\"carts\"", "\"aud\":[]", "\"sub\":\"cart\""],
    ),
    (
        "when: [{ key: 'request.auth.presenter', values: [app] }]",
        &["\"azp\":\"app\""],
        &["\"azp\":\"apps\"", "\"aud\":\"app\""],
    ),
    (
        "when: [{ key: 'request.auth.claims[groups]', values: [admins] }]",
        &["\"groups\":\"admins\"", "\"groups\":[\"users\",\"admins\"]"],
        &[
            "\"groups\":[]",
            "\"groups\":{\"admins\":true}",
            "\"groups\":[[\"admins\"]]",
            "\"group\":\"admins\"",
        ],
    ),
    (
        "when: [{ key: 'request.auth.claims[realm][roles]', values: [write] }]",
        &["\"realm\":{\"roles\":[\"read\",\"write\"]}", "\"realm\":{\"roles\":\"write\"}"],
        &[
            "\"realm\":{\"role\":\"write\"}",
            "\"realm\":\"write\"",
            "\"roles\":\"write\"",
            "\"realm[roles]\":\"write\"",
        ],
    ),
    (
        "when: [{ key: 'request.auth.claims[scope]', values: ['orders:write'] }]",
        &["\"scope\":\"orders:read orders:write\"", "\"scope\":\"orders:write\""],
        &["\"scope\":\"orders:writer\"", "\"scope\":\"\""],
    ),
    (
        "when: [{ key: 'request.auth.claims[tier]', notValues: [free] }]",
        &["\"tier\":\"gold\"", "\"sub\":\"joe\""],
        &["\"tier\":\"free\"", "\"tier\":[\"gold\",\"free\"]"],
    ),
];

#[tokio::test]
async fn rules_look_at_principal_audiences_presenter_and_claims_however_deep() {
    let application = Application::start("cart-1").await;
    let issuer = Issuer::new("one", "ES256");
    let rule = |(number, (clause, ..)): (usize, &(&str, &[&str], &[&str]))| {
        format!("\n  - to: [{{ operation: {{ paths: ['/{number}'] }} }}]\n    {clause}")
    };
    let allow: String = CLAUSES.iter().enumerate().map(rule).collect();
    let policies = [
        request_authentication("jwt", "cart", &rules(&[&issuer], "")),
        authorization("allow", "cart", "ALLOW", &allow),
    ];
    let mesh = Builder::pair(application.address()).policy("jwt", &policies.join("---\n")).start().await;
    let client = web(&mesh);
    for (number, (clause, good, bad)) in CLAUSES.iter().enumerate() {
        let url = format!("http://cart.shop/{number}");
        let ask = async |token: &str| {
            client.send(&Request::get(&url).field("authorization", &format!("Bearer {token}"))).await
        };
        let token = |claims: &str| issuer.token(&format!(r#"{{"iss":"{ISSUER}",{claims}}}"#));
        for claims in *good {
            assert_eq!(ask(&token(claims)).await.reason(), None, "{clause} must admit {claims}");
        }
        for claims in *bad {
            let reason = ask(&token(claims)).await.reason();
            assert_eq!(reason, Some(Reason::AuthorizationDenied), "{clause} must not admit {claims}");
        }
        // A token that is not good is 401, whatever the rule says; none at all is the rule's to judge.
        ask(&format!("{}x", token("\"sub\":\"joe\""))).await.refused_with(Reason::JwtInvalid);
        let anonymous = client.get(&url).await.reason();
        let expected = (!clause.contains("[tier]")).then_some(Reason::AuthorizationDenied);
        assert_eq!(anonymous, expected, "{clause}");
    }
}

#[tokio::test]
async fn who_has_no_name_is_denied_where_a_rule_denies_all_but_some_principals() {
    let application = Application::start("cart-1").await;
    let issuer = Issuer::new("one", "ES256");
    let rule = "[{ from: [{ source: { notRequestPrincipals: ['https://id.example/*'] } }] }]";
    let policies = [
        request_authentication("jwt", "cart", &rules(&[&issuer], "")),
        authorization("named", "cart", "DENY", rule),
    ];
    let mesh = Builder::pair(application.address()).policy("jwt", &policies.join("---\n")).start().await;
    web(&mesh).get(CART).await.refused_with(Reason::AuthorizationDenied);
    with_token(&mesh, &issuer.token(&claims(""))).await.passed();
    with_token(&mesh, "e30.e30.e30").await.refused_with(Reason::JwtInvalid);
}

#[tokio::test]
async fn no_good_token_is_refused_while_keys_rotate() {
    const ROUNDS: usize = 5;
    let application = Application::start("cart-1").await;
    let issuers: Vec<_> = (0..=ROUNDS).map(|number| Issuer::new(&format!("key-{number}"), "ES256")).collect();
    let mesh = cart(&application, &[&issuers[0]], "").await;
    let policy = |keys: &[&Issuer]| request_authentication("jwt", "cart", &rules(keys, ""));
    // Clients that ask without a break, with the token of now; each says with which it was answered last.
    let (current, _) = tokio::sync::watch::channel(Some(issuers[0].token(&claims(""))));
    let (answered, mut seen) = tokio::sync::watch::channel([String::new(), String::new(), String::new()]);
    let answered = std::sync::Arc::new(answered);
    let asking: Vec<_> = (0..3)
        .map(|number| {
            let (client, current, answered) = (web(&mesh), current.subscribe(), answered.clone());
            wait::spawn(async move {
                let mut count = 0;
                loop {
                    let Some(token) = current.borrow().clone() else { return count };
                    let request = Request::get(CART).field("authorization", &format!("Bearer {token}"));
                    client.send(&request).await.passed();
                    answered.send_modify(|last| last[number] = token);
                    count += 1;
                }
            })
        })
        .collect();
    for number in 0..ROUNDS {
        let (old, new) = (&issuers[number], &issuers[number + 1]);
        // The new key is published before anything is signed with it, the old one until nothing comes any more.
        mesh.enforce_policy("jwt", &policy(&[old, new])).await;
        let token = new.token(&claims(""));
        current.send_replace(Some(token.clone()));
        let all = seen.wait_for(|last| last.iter().all(|held| *held == token));
        wait::within("every client uses the new token", all).await.unwrap();
        mesh.enforce_policy("jwt", &policy(&[new])).await;
        with_token(&mesh, &old.token(&claims(""))).await.refused_with(Reason::JwtInvalid);
    }
    current.send_replace(None);
    for asking in asking {
        assert!(wait::within("the last answer", asking).await.expect("no good token is refused") > ROUNDS);
    }
}
