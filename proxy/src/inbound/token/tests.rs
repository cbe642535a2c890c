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
        JwtRule::new("me", Some([Jwk { id: None, algorithm: None, material }].into()))
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

/// The public key of RFC 7515, appendix A.2.
const RSA: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;

const RFC_CLAIMS: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

const RFC_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

#[test]
fn the_published_token_is_accepted_and_its_unsigned_and_shared_secret_kin_are_not() {
    let keys = weft_model::jwks::KeySet::parse(format!("{{\"keys\":[{RSA}]}}").as_bytes()).unwrap().keys;
    let set = set(JwtRule { issuer: "joe".into(), keys: Some(keys.into()), ..Issuer::new().rule() });
    // A moment before it expires, with the leeway and without.
    let expires = 1_300_819_380;
    let ask = |token: &str, at| {
        let mut head = head("/", &[("authorization", &format!("Bearer {token}"))]);
        authenticate(&mut head, &set, &TokenCache::default(), at).map_err(|Refused(error)| error)
    };
    let signed = format!("eyJhbGciOiJSUzI1NiJ9.{RFC_CLAIMS}.{RFC_SIGNATURE}");
    assert_eq!(ask(&signed, expires).unwrap().unwrap().token.issuer(), "joe");
    assert_eq!(ask(&signed, expires + CLOCK_LEEWAY), Err(TokenError::Expired));
    // RFC 7515, appendices A.1 (HS256) and A.5 (none); RFC 7520, section 4.4 (HS256); and headers of one's own.
    let none = format!("eyJhbGciOiJub25lIn0.{RFC_CLAIMS}.");
    let shared = format!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{RFC_CLAIMS}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    let named = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9";
    let cookbook = format!("{named}.{RFC_CLAIMS}.s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0");
    for token in [none, shared, cookbook] {
        assert_eq!(ask(&token, expires), Err(TokenError::Algorithm), "{token}");
    }
    for name in ["None", "NONE", "nOnE", "rs256", "RS256 ", "HS384", "HS512", "RSA1_5", "dir", "ES256K", ""] {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{name}"}}"#));
        for signature in [RFC_SIGNATURE, ""] {
            let token = format!("{header}.{RFC_CLAIMS}.{signature}");
            assert_eq!(ask(&token, expires), Err(TokenError::Algorithm), "{token}");
        }
    }
}

#[test]
fn the_key_that_a_token_names_is_the_one_and_without_a_name_each_that_fits_is_tried() {
    let pair = |seed: u8| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let key = |seed: u8, id: Option<&str>| Jwk {
        id: id.map(Into::into),
        algorithm: None,
        material: KeyMaterial::Ed25519(pair(seed).public_key().as_ref().into()),
    };
    let token = |seed: u8, more: &str| {
        let header = format!(r#"{{"alg":"EdDSA"{more}}}"#);
        let signed = [&*header, r#"{"iss":"me"}"#].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair(seed).sign(signed.as_bytes())))
    };
    let keys = vec![key(1, Some("one")), key(2, Some("two")), key(3, None)];
    let set = set(JwtRule { keys: Some(keys.into()), ..Issuer::new().rule() });
    let cache = TokenCache::default();
    let ask = |token: &str| {
        let mut head = head("/", &[("authorization", &format!("Bearer {token}"))]);
        let before = cache.checks();
        let said = authenticate(&mut head, &set, &cache, NOW).map_err(|Refused(error)| error);
        (said.map(|accepted| accepted.is_some()), cache.checks() - before)
    };
    // Named: that key, and those without a name, which may be it.
    assert_eq!(ask(&token(1, r#","kid":"one""#)), (Ok(true), 1));
    assert_eq!(ask(&token(2, r#","kid":"two""#)), (Ok(true), 1));
    assert_eq!(ask(&token(3, r#","kid":"three""#)), (Ok(true), 1));
    assert_eq!(ask(&token(2, r#","kid":"one""#)), (Err(TokenError::Signature), 2));
    assert_eq!(ask(&token(4, r#","kid":"four""#)), (Err(TokenError::Signature), 1));
    // Not named: each.
    assert_eq!(ask(&token(2, "")), (Ok(true), 2));
    assert_eq!(ask(&token(4, "")), (Err(TokenError::Signature), 3));
    // What a token says of keys and of itself changes nothing, or ends it.
    let own = URL_SAFE_NO_PAD.encode(pair(4).public_key().as_ref());
    let jwk =
        format!(r#","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{own}"}},"jku":"https://evil.example/keys""#);
    assert_eq!(ask(&token(4, &jwk)), (Err(TokenError::Signature), 3));
    for critical in
        [r#","crit":["exp"]"#, r#","crit":[]"#, r#","crit":null"#, r#","b64":false,"crit":["b64"]"#]
    {
        assert_eq!(ask(&token(1, critical)), (Err(TokenError::Critical), 0), "{critical}");
    }
    for kid in ["1", "null", "[\"one\"]", "{}"] {
        let named = format!(r#","kid":{kid}"#);
        assert_eq!(ask(&token(1, &named)), (Err(TokenError::Member("kid")), 0), "{kid}");
    }
}
