use super::*;
use crate::http::{Method, Version};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use weft_model::authorization::Provenance;
use weft_model::jwks::{Jwk, KeyMaterial};
use weft_model::request_authentication::{ClaimHeader, RequestAuthentication};

const NOW: i64 = 1_000_000;

struct Issuer(Ed25519KeyPair);

impl Issuer {
    fn new() -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap())
    }

    fn token(&self, claims: &str) -> String {
        let signed = [r#"{"alg":"EdDSA"}"#, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn rule(&self) -> JwtRule {
        let material = KeyMaterial::Ed25519(self.0.public_key().as_ref().into());
        JwtRule {
            issuer: "me".into(),
            audiences: Vec::new(),
            keys: Some([Jwk { id: None, algorithm: None, material }].into()),
            key_source: None,
            places: TokenPlace::defaults(),
            forward: false,
            payload_header: None,
            claim_headers: Vec::new(),
            space_delimited: [].into(),
        }
    }
}

fn set(rule: JwtRule) -> Arc<RequestAuthenticationSet> {
    let policy = RequestAuthentication {
        namespace: "shop".parse().unwrap(),
        name: "jwt".parse().unwrap(),
        rules: vec![rule],
        provenance: Provenance::default(),
    };
    let name = "RequestAuthentication/shop/jwt".parse().unwrap();
    Arc::new(RequestAuthenticationSet::new([(name, Some(Arc::new(policy)))]))
}

fn head(target: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.append(name, value.as_bytes()).unwrap();
    }
    RequestHead::new(Method::GET, Version::Http11, "cart.shop", target, headers).unwrap()
}

fn fields(head: &RequestHead) -> Vec<String> {
    head.headers()
        .iter()
        .map(|field| format!("{}: {}", field.name_str(), field.value_str().unwrap()))
        .collect()
}

fn run(
    set: &Arc<RequestAuthenticationSet>,
    head: &mut RequestHead,
) -> Result<Option<Rc<Accepted>>, TokenError> {
    authenticate(head, set, &TokenCache::default(), NOW).map_err(|Refused(error)| error)
}

#[test]
fn a_token_is_found_in_each_kind_of_place_and_taken_out() {
    let issuer = Issuer::new();
    let token = issuer.token(r#"{"iss":"me","sub":"joe"}"#);
    let places = vec![
        TokenPlace::Header { name: "authorization".into(), prefix: "Bearer ".into() },
        TokenPlace::Header { name: "x-token".into(), prefix: "".into() },
        TokenPlace::Query("access_token".into()),
        TokenPlace::Cookie("session".into()),
    ];
    let set = set(JwtRule { places, ..issuer.rule() });
    let cookie = format!("a=1; session={token}; b=\"2\"");
    let quoted = format!("session=\"{token}\"");
    let escaped = token.replace('.', "%2e");
    let cases = [
        (
            "/a?b=c",
            vec![("Authorization", format!("Bearer {token}")), ("x", "y".into())],
            "/a?b=c",
            vec!["x: y"],
        ),
        ("/a", vec![("authorization", format!("bEARER  {token} "))], "/a", vec![]),
        ("/a", vec![("X-Token", token.clone())], "/a", vec![]),
        (&format!("/a?x=1&access_token={token}&y=%20"), vec![], "/a?x=1&y=%20", vec![]),
        (&format!("/a?acc%65ss_token={escaped}"), vec![], "/a", vec![]),
        ("/a", vec![("Cookie", cookie)], "/a", vec!["cookie: a=1; b=\"2\""]),
        ("/a", vec![("Cookie", quoted)], "/a", vec![]),
        // The same token twice is one token.
        (&format!("/a?access_token={token}"), vec![("x-token", token.clone())], "/a", vec![]),
    ];
    for (target, sent, target_left, fields_left) in cases {
        let sent: Vec<_> = sent.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut head = head(target, &sent);
        let accepted = run(&set, &mut head).unwrap().unwrap();
        assert_eq!(accepted.token.subject(), "joe");
        assert_eq!(
            (head.path_and_query(), fields(&head)),
            (target_left, fields_left.iter().map(ToString::to_string).collect())
        );
    }
}

#[test]
fn what_is_no_token_of_the_rule_leaves_the_request_anonymous() {
    let set = set(Issuer::new().rule());
    for (target, name, value) in [
        ("/", "x", "y"),
        ("/?token=a", "authorization", "Basic am9lOnNlY3JldA=="),
        ("/?access_tokens=a", "authorization", "Bearertoken"),
        ("/", "authorization", "Beare"),
        ("/", "cookie", "access_token=a"),
    ] {
        let mut head = head(target, &[(name, value)]);
        assert_eq!(run(&set, &mut head), Ok(None));
        assert_eq!((head.path_and_query(), fields(&head)), (target, vec![format!("{name}: {value}")]));
    }
}

#[test]
fn a_bad_token_is_refused_and_does_not_reach_the_log() {
    let issuer = Issuer::new();
    let set = set(issuer.rule());
    let good = issuer.token(r#"{"iss":"me"}"#);
    let forged = format!("{}.{}", good.rsplit_once('.').unwrap().0, URL_SAFE_NO_PAD.encode([1; 64]));
    for (token, error) in [
        ("", TokenError::Form),
        ("opaque", TokenError::Form),
        (&*forged, TokenError::Signature),
        (&*issuer.token(r#"{"iss":"you"}"#), TokenError::IssuerUnknown),
        (&*issuer.token(r#"{"iss":"me","exp":1}"#), TokenError::Expired),
        (&*"a".repeat(TOKEN_LENGTH_MAX + 1), TokenError::TooLong),
    ] {
        let mut in_query = head(&format!("/a?access_token={token}"), &[]);
        assert_eq!(run(&set, &mut in_query), Err(error), "{token}");
        assert_eq!(in_query.path_and_query(), "/a");
    }
    let mut empty = head("/", &[("authorization", "bearer")]);
    assert_eq!(run(&set, &mut empty), Err(TokenError::Form));
    let mut several =
        head(&format!("/a?access_token={good}"), &[("authorization", &format!("Bearer {forged}"))]);
    assert_eq!(run(&set, &mut several), Err(TokenError::Several));
    let mut several =
        head("/a", &[("authorization", &format!("Bearer {good}")), ("authorization", "Bearer x")]);
    assert_eq!(run(&set, &mut several), Err(TokenError::Several));
}

#[test]
fn claims_become_fields_only_by_a_token() {
    let issuer = Issuer::new();
    let claim = |header: &str, claim: &str| ClaimHeader { header: header.into(), claim: claim.into() };
    let rule = JwtRule {
        payload_header: Some("x-payload".into()),
        claim_headers: vec![claim("x-group", "group"), claim("x-deep", "a.b"), claim("x-list", "list")],
        ..issuer.rule()
    };
    let kept = JwtRule { forward: true, ..rule.clone() };
    let forged = [("X-Group", "admin"), ("x-payload", "e30"), ("x-list", "all"), ("X-Deep", "1")];
    let mut anonymous = head("/", &forged);
    assert_eq!(run(&set(rule.clone()), &mut anonymous), Ok(None));
    assert_eq!(fields(&anonymous), Vec::<String>::new());

    let claims = r#"{"iss":"me","group":"staff","a":{"b":7},"list":["x"]}"#;
    let bearer = format!("Bearer {}", issuer.token(claims));
    let mut sent = vec![("authorization", bearer.as_str())];
    sent.extend(forged);
    let written = [
        format!("x-payload: {}", URL_SAFE_NO_PAD.encode(claims)),
        "x-group: staff".into(),
        "x-deep: 7".into(),
    ];
    let mut named = head("/", &sent);
    assert!(run(&set(rule.clone()), &mut named).unwrap().is_some());
    assert_eq!(fields(&named), written);
    let mut forwarded = head("/", &sent);
    assert!(run(&set(kept), &mut forwarded).unwrap().is_some());
    assert_eq!(fields(&forwarded)[0], format!("authorization: {bearer}"));
    assert_eq!(fields(&forwarded)[1..], written);

    // Nor can the client have them removed on their way.
    let mut nominated =
        head("/", &[("authorization", &bearer), ("connection", "keep-alive, X-Group, x-deep")]);
    assert!(run(&set(rule.clone()), &mut nominated).unwrap().is_some());
    nominated.headers_mut().remove_hop_by_hop(false);
    assert_eq!(fields(&nominated), written);

    // A claim cannot end the line it is written in.
    let bearer = format!("Bearer {}", issuer.token("{\"iss\":\"me\",\"group\":\"a\\r\\nx-admin: 1\"}"));
    let mut split = head("/", &[("authorization", &bearer)]);
    assert!(run(&set(rule), &mut split).unwrap().is_some());
    assert_eq!(fields(&split).len(), 1, "the payload alone: {:?}", fields(&split));
}

#[test]
fn a_token_that_comes_again_costs_no_signature_but_its_time_is_looked_at() {
    let issuer = Issuer::new();
    let held = set(issuer.rule());
    let cache = TokenCache::default();
    let bearer = format!("Bearer {}", issuer.token(&format!(r#"{{"iss":"me","exp":{}}}"#, NOW + 10)));
    let ask = |set: &Arc<RequestAuthenticationSet>, at| {
        authenticate(&mut head("/", &[("authorization", &bearer)]), set, &cache, at)
    };
    for _ in 0..3 {
        assert!(ask(&held, NOW).unwrap().is_some());
    }
    assert_eq!(cache.checks(), 1);
    assert_eq!(ask(&held, NOW + 10 + CLOCK_LEEWAY), Err(Refused(TokenError::Expired)));
    assert_eq!(cache.checks(), 1);
    // Another set of rules has accepted nothing yet.
    let other = set(JwtRule { keys: None, ..issuer.rule() });
    assert_eq!(ask(&other, NOW), Err(Refused(TokenError::KeysUnresolved)));
    assert!(ask(&held, NOW).unwrap().is_some());
    assert_eq!(cache.checks(), 2);
}

#[test]
fn the_cache_is_bounded_and_keeps_what_is_used() {
    let issuer = Issuer::new();
    let set = set(issuer.rule());
    let cache = TokenCache::default();
    let ask = |number: usize| {
        let bearer = format!("Bearer {}", issuer.token(&format!(r#"{{"iss":"me","n":{number}}}"#)));
        authenticate(&mut head("/", &[("authorization", &bearer)]), &set, &cache, NOW).unwrap().unwrap();
    };
    let many = 3 * REMEMBERED_MAX;
    for number in 1..=many {
        ask(number);
        ask(0);
    }
    assert_eq!(cache.checks(), many as u64 + 1, "the token in use was never forgotten");
    assert!(cache.young.borrow().len() <= REMEMBERED_MAX && cache.old.borrow().len() <= REMEMBERED_MAX);
    // A place that the rule does not look at gets nothing from the cache.
    let text = issuer.token(r#"{"iss":"me","n":0}"#);
    let elsewhere = Found { text, places: vec![TokenPlace::Cookie("c".into())] };
    assert_eq!(cache.accept(&set, &elsewhere, NOW), Err(TokenError::Misplaced));
}

#[test]
fn the_challenge_names_the_resource_and_not_the_query() {
    let head = head("/a/b?access_token=x", &[]);
    let said = challenge(&head, Reason::JwtInvalid).unwrap();
    assert_eq!(said, r#"Bearer realm="http://cart.shop/a/b", error="invalid_token""#);
    assert_eq!(challenge(&head, Reason::AuthorizationDenied), None);
}
