//! Tokens and key sets: what is accepted has one spelling, another reader of JSON reads the same in it, and
//! nothing is accepted without a signature, whatever else it says.

use serde_json::Value;
use std::cell::Cell;
use weft_model::authorization::Provenance;
use weft_model::json::{Json, Members};
use weft_model::jwks::KeySet;
use weft_model::request_authentication::{
    JwtRule, RequestAuthentication, RequestAuthenticationSet, TokenPlace,
};
use weft_model::token::{Algorithm, Claims, Token};

/// Says whether it was a token.
pub(crate) fn check(text: &str) -> bool {
    let bytes = text.as_bytes();
    if let Ok(value) = Json::parse(bytes) {
        // A text of JSON stays one between blanks, and is never two.
        assert_eq!(Json::parse(format!(" {text}\n").as_bytes()).as_ref(), Ok(&value));
        assert!(Json::parse(format!("[{text}").as_bytes()).is_err());
        match serde_json::from_slice::<Value>(bytes) {
            Ok(other) => assert!(is_same(&value, &other), "{value:?} and {other:?}"),
            // A number stays text here until somebody says what it must be.
            Err(error) => assert!(error.to_string().starts_with("number out of range"), "{error}"),
        }
    }
    if let Ok(members) = Members::parse(bytes) {
        let names: Vec<_> = members.iter().map(|(name, _)| name).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "each name once");
        if let Ok(claims) = Claims::new(members) {
            let _ = claims.check_time(0, 60);
        }
    }
    if let Ok(set) = KeySet::parse(bytes) {
        for key in &set.keys {
            let fitting = Algorithm::ALL.iter().filter(|(_, algorithm)| key.material.fits(*algorithm));
            assert!(matches!(fitting.count(), 1 | 6), "a key is of one type");
        }
    }
    let Ok(token) = Token::parse(text) else { return false };
    // Three parts of base64url and nothing else, so that a cache may go by the text.
    assert_eq!(text.split('.').count(), 3);
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    assert!(text.bytes().all(letters));
    assert!(text.strip_prefix(token.signed).is_some_and(|rest| rest.starts_with('.')));
    assert!(token.signed.ends_with(token.payload));
    assert!(!matches!(token.algorithm.name(), "" | "none"));
    accepted_by_its_signature_alone(text, &token);
    true
}

/// Whether both readers read the same.
fn is_same(ours: &Json, other: &Value) -> bool {
    match (ours, other) {
        (Json::Null, Value::Null) => true,
        (Json::Flag(ours), Value::Bool(other)) => ours == other,
        (Json::Number(ours), Value::Number(other)) => {
            ours.parse().ok().zip(other.as_f64()).is_some_and(|(ours, other)| is_near(ours, other))
        }
        (Json::Text(ours), Value::String(other)) => **ours == **other,
        (Json::List(ours), Value::Array(other)) => {
            ours.len() == other.len() && ours.iter().zip(other).all(|(ours, other)| is_same(ours, other))
        }
        (Json::Object(ours), Value::Object(other)) => {
            ours.iter().count() == other.len()
                && ours.iter().all(|(name, ours)| other.get(name).is_some_and(|other| is_same(ours, other)))
        }
        _ => false,
    }
}

/// The other reader rounds the last digit as it likes.
fn is_near(ours: f64, other: f64) -> bool {
    let tiny = 1e-290;
    (ours - other).abs() <= ours.abs() * 1e-12 || (ours.abs() < tiny && other.abs() < tiny)
}

/// With rules for its very issuer and with keys of every type, it is accepted where a signature verifies, and
/// nowhere else.
fn accepted_by_its_signature_alone(text: &str, token: &Token<'_>) {
    const KEYS: &str = r#"{"keys":[
        {"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        {"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}
    ]}"#;
    let keys = KeySet::parse(KEYS.as_bytes()).expect("constants must parse").keys;
    let place = TokenPlace::Query("token".into());
    let issuer = token.claims.issuer().unwrap_or("nobody");
    let rule = JwtRule { places: vec![place.clone()], ..JwtRule::new(issuer, Some(keys.into())) };
    let policy = RequestAuthentication {
        namespace: "shop".parse().expect("a constant must parse"),
        name: "jwt".parse().expect("a constant must parse"),
        rules: vec![rule],
        provenance: Provenance::default(),
    };
    let name = "RequestAuthentication/shop/jwt".parse().expect("a constant must parse");
    let set = RequestAuthenticationSet::new([(name, Some(policy.into()))]);
    let now = token.claims.not_before.max(token.claims.issued).unwrap_or(0);
    assert!(set.accept(text, &place, now, &|_, _, _, _| false).is_err(), "not signed");
    let checked = Cell::new(false);
    let accepted = set.accept(text, &place, now, &|key, algorithm, message, signature| {
        checked.set(true);
        assert!(key.fits(algorithm) && algorithm == token.algorithm);
        assert_eq!((message, signature), (token.signed.as_bytes(), &*token.signature));
        true
    });
    if let Ok(accepted) = accepted {
        assert!(checked.get(), "accepted without a look at the signature");
        assert_eq!(Some(accepted.token.issuer()), token.claims.issuer());
        assert!(token.claims.expires.is_none_or(|expires| now < expires + 60));
    }
    let elsewhere = TokenPlace::Cookie("token".into());
    assert!(set.accept(text, &elsewhere, now, &|_, _, _, _| true).is_err(), "misplaced");
}
