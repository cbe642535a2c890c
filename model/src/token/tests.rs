use super::*;

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn compact(header: &str, claims: &str) -> String {
    format!("{}.{}.{}", encode(header), encode(claims), encode("signature"))
}

fn refused(header: &str, claims: &str) -> TokenError {
    Token::parse(&compact(header, claims)).unwrap_err()
}

const HEADER: &str = r#"{"alg":"ES256","kid":"one","typ":"JWT"}"#;

#[test]
fn a_token_is_taken_apart() {
    let text = compact(HEADER, r#"{"iss":"joe","exp":1300819380.5,"aud":["a","b"]}"#);
    let token = Token::parse(&text).unwrap();
    assert_eq!((token.algorithm, token.key_id.as_deref()), (Algorithm::Es256, Some("one")));
    assert_eq!((token.claims.issuer(), token.claims.expires), (Some("joe"), Some(1_300_819_380)));
    assert_eq!(token.signature, b"signature");
    assert_eq!(format!("{}.{}", token.signed, encode("signature")), text);
    assert!(token.claims.is_for(&["x".into(), "b".into()]) && !token.claims.is_for(&["x".into()]));
}

#[test]
fn unsigned_tokens_and_shared_secrets_are_refused() {
    // RFC 7515, appendices A.1 (HS256) and A.5 (none), as published.
    let claims =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let shared = format!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{claims}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    let unsigned = format!("eyJhbGciOiJub25lIn0.{claims}.");
    for text in [shared, unsigned] {
        assert_eq!(Token::parse(&text).unwrap_err(), TokenError::Algorithm, "{text}");
    }
    for name in ["none", "None", "NONE", "", "HS256", "HS384", "HS512", "rs256", "ES256K", "RS1", "dir"] {
        assert_eq!(refused(&format!(r#"{{"alg":"{name}"}}"#), "{}"), TokenError::Algorithm, "{name}");
    }
    assert_eq!(refused("{}", "{}"), TokenError::Algorithm);
    assert_eq!(refused(r#"{"alg":["RS256"]}"#, "{}"), TokenError::Algorithm);
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    assert_eq!(refused(r#"{"alg":"RS256","crit":["exp"],"exp":1}"#, "{}"), TokenError::Critical);
    let twice = TokenError::Json("header", JsonError::Duplicate("alg".to_owned()));
    assert_eq!(refused(r#"{"alg":"none","alg":"RS256"}"#, "{}"), twice);
    let twice = TokenError::Json("claims", JsonError::Duplicate("iss".to_owned()));
    assert_eq!(refused(HEADER, r#"{"iss":"a","iss":"b"}"#), twice);
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(70), "]".repeat(70));
    assert_eq!(refused(HEADER, &deep), TokenError::Json("claims", JsonError::Depth));
    assert_eq!(refused(HEADER, "Payload"), TokenError::Json("claims", JsonError::Grammar(0)));
    assert_eq!(refused(HEADER, "[]"), TokenError::Json("claims", JsonError::NotAnObject));
    assert_eq!(refused(r#"{"alg":"RS256","kid":1}"#, "{}"), TokenError::Member("kid"));
    for (claims, member) in [
        (r#"{"iss":1}"#, "iss"),
        (r#"{"sub":["a"]}"#, "sub"),
        (r#"{"aud":1}"#, "aud"),
        (r#"{"aud":["a",1]}"#, "aud"),
        (r#"{"exp":"1"}"#, "exp"),
        (r#"{"exp":1e400}"#, "exp"),
        (r#"{"exp":-1}"#, "exp"),
        (r#"{"exp":null}"#, "exp"),
        (r#"{"nbf":99999999999999}"#, "nbf"),
        (r#"{"iat":true}"#, "iat"),
    ] {
        assert_eq!(refused(HEADER, claims), TokenError::Member(member), "{claims}");
    }
}

#[test]
fn a_token_has_one_spelling() {
    let good = compact(HEADER, "{}");
    assert!(Token::parse(&good).is_ok());
    let (header, rest) = good.split_once('.').unwrap();
    for bad in [
        String::new(),
        "..".to_owned(),
        good.replacen('.', "", 1),
        format!("{good}."),
        format!(".{good}"),
        format!("{header}=.{rest}"),
        format!("{good}="),
        format!("{good} "),
        format!("{good}\n"),
        good.replace(&encode("signature"), "c2lnbmF0dXJl+"),
        // Stray bits behind the last byte: `ZB` and `ZA` would both be "d".
        format!("{}.ZB", good.rsplit_once('.').unwrap().0),
        // A JWE has five parts.
        format!("{good}.a.b"),
    ] {
        assert!(matches!(Token::parse(&bad), Err(TokenError::Form | TokenError::Json(..))), "{bad:?}");
    }
    assert_eq!(Token::parse(&"a".repeat(TOKEN_LENGTH_MAX + 1)).unwrap_err(), TokenError::TooLong);
}

#[test]
fn times_are_looked_at_with_leeway() {
    let claims = |text: &str| Claims::new(Members::parse(text.as_bytes()).unwrap()).unwrap();
    let token = claims(r#"{"nbf":1000,"exp":2000}"#);
    assert_eq!(token.check_time(939, 60), Err(TokenError::NotYetValid));
    assert_eq!(token.check_time(940, 60), Ok(()));
    assert_eq!(token.check_time(2059, 60), Ok(()));
    assert_eq!(token.check_time(2060, 60), Err(TokenError::Expired));
    assert_eq!(claims(r#"{"iat":1000}"#).check_time(939, 60), Err(TokenError::NotYetValid));
    assert_eq!(claims("{}").check_time(0, 60), Ok(()));
}

#[test]
fn claims_are_texts_or_lists_of_texts_however_deep() {
    let all = r#"{"iss":"i","sub":"s","scope":"read  write","group":"a b","list":["x",1,"y"],
        "deep":{"er":["z"],"flag":true},"n":5,"f":1.5,"b":false,"a.b":"dotted"}"#;
    let delimited: Arc<[Box<str>]> = ["scope".into()].into();
    let token = VerifiedToken::new(Members::parse(all.as_bytes()).unwrap(), "cGF5bG9hZA", delimited);
    let values = |path: &[&str]| {
        let path: Vec<Box<str>> = path.iter().map(|name| (*name).into()).collect();
        let mut found = Vec::new();
        token.visit_claim(&path, |value| {
            found.push(value);
            true
        });
        found.join("|")
    };
    assert_eq!(values(&["scope"]), "read|write");
    assert_eq!(values(&["group"]), "a b");
    assert_eq!(values(&["list"]), "x|y");
    assert_eq!(values(&["deep", "er"]), "z");
    for none in [&["n"][..], &["deep"], &["deep", "flag"], &["deep", "none"], &["scope", "read"], &[]] {
        assert_eq!(values(none), "", "{none:?}");
    }
    let header = |claim| token.claim_value(claim);
    assert_eq!((header("n"), header("b"), header("a.b")), (Some("5"), Some("false"), Some("dotted")));
    assert_eq!((header("deep.flag"), header("scope")), (Some("true"), Some("read  write")));
    assert_eq!((header("f"), header("list"), header("deep"), header("none")), (None, None, None, None));
}
