use super::*;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const NOW: i64 = 1_000_000;

fn compact(issuer: &str, more: &str, key: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = format!(r#"{{"iss":"{issuer}"{more}}}"#);
    format!("{}.{}.{}", encode(&format!(r#"{{"alg":"EdDSA","kid":"{key}"}}"#)), encode(&claims), encode(key))
}

// The signature of these tests is the key's own name.
fn check(key: &KeyMaterial, _: Algorithm, _: &[u8], signature: &[u8]) -> bool {
    matches!(key, KeyMaterial::Ed25519(name) if **name == *signature)
}

fn key(name: &str) -> Jwk {
    Jwk { id: Some(name.into()), algorithm: None, material: KeyMaterial::Ed25519(name.as_bytes().into()) }
}

fn rule(issuer: &str, keys: Option<&[&str]>) -> JwtRule {
    JwtRule::new(issuer, keys.map(|names| names.iter().map(|name| key(name)).collect()))
}

fn set(rules: Vec<JwtRule>) -> RequestAuthenticationSet {
    let name = "RequestAuthentication/shop/jwt".parse().unwrap();
    let policy = RequestAuthentication {
        namespace: "shop".parse().unwrap(),
        name: "jwt".parse().unwrap(),
        rules,
        provenance: Provenance::default(),
    };
    RequestAuthenticationSet::new([(name, Some(Arc::new(policy)))])
}

fn bearer() -> TokenPlace {
    TokenPlace::defaults().swap_remove(0)
}

fn verdict(set: &RequestAuthenticationSet, token: &str) -> Result<(usize, usize), TokenError> {
    set.accept(token, &bearer(), NOW, &check).map(|accepted| accepted.rule)
}

#[test]
fn the_rule_of_the_issuer_decides() {
    let set = set(vec![rule("a", Some(&["k1"])), rule("b", Some(&["k2"]))]);
    assert_eq!(verdict(&set, &compact("a", "", "k1")), Ok((0, 0)));
    assert_eq!(verdict(&set, &compact("b", "", "k2")), Ok((0, 1)));
    // A key of another issuer vouches for nothing.
    assert_eq!(verdict(&set, &compact("a", "", "k2")), Err(TokenError::KeyUnknown));
    assert_eq!(verdict(&set, &compact("c", "", "k1")), Err(TokenError::IssuerUnknown));
    // Exactly: no case, no slash more or less.
    assert_eq!(verdict(&set, &compact("A", "", "k1")), Err(TokenError::IssuerUnknown));
    assert_eq!(verdict(&set, &compact("a/", "", "k1")), Err(TokenError::IssuerUnknown));
}

#[test]
fn one_of_several_rules_of_an_issuer_is_enough() {
    let with = |audience: &str| JwtRule { audiences: vec![audience.into()], ..rule("a", Some(&["k"])) };
    let set = set(vec![with("x"), with("y")]);
    assert_eq!(verdict(&set, &compact("a", r#","aud":"y""#, "k")), Ok((0, 1)));
    assert_eq!(verdict(&set, &compact("a", r#","aud":["z"]"#, "k")), Err(TokenError::Audience));
    assert_eq!(verdict(&set, &compact("a", "", "k")), Err(TokenError::Audience));
}

#[test]
fn a_rule_without_keys_accepts_nothing() {
    let both = set(vec![rule("a", None), rule("b", Some(&[]))]);
    assert_eq!(verdict(&both, &compact("a", "", "k")), Err(TokenError::KeysUnresolved));
    assert_eq!(verdict(&both, &compact("b", "", "k")), Err(TokenError::KeyUnknown));
}

#[test]
fn a_token_counts_only_where_its_rule_looks() {
    let header = TokenPlace::Header { name: "x-token".into(), prefix: "".into() };
    let elsewhere = JwtRule { places: vec![header.clone()], ..rule("a", Some(&["k"])) };
    let set = set(vec![elsewhere, rule("b", Some(&["k"]))]);
    let token = compact("a", "", "k");
    assert_eq!(verdict(&set, &token), Err(TokenError::Misplaced));
    assert_eq!(set.accept(&token, &header, NOW, &check).map(|accepted| accepted.rule), Ok((0, 0)));
    assert_eq!(set.places().len(), 3);
}

#[test]
fn time_is_checked() {
    let set = set(vec![rule("a", Some(&["k"]))]);
    let at =
        |claim: &str, seconds: i64| verdict(&set, &compact("a", &format!(r#","{claim}":{seconds}"#), "k"));
    assert_eq!(at("exp", NOW - CLOCK_LEEWAY), Err(TokenError::Expired));
    assert_eq!(at("exp", NOW - CLOCK_LEEWAY + 1), Ok((0, 0)));
    assert_eq!(at("nbf", NOW + CLOCK_LEEWAY + 1), Err(TokenError::NotYetValid));
    assert_eq!(at("iat", NOW + CLOCK_LEEWAY + 1), Err(TokenError::NotYetValid));
}

#[test]
fn a_policy_that_is_not_held_is_told() {
    let name: ResourceName = "RequestAuthentication/shop/jwt".parse().unwrap();
    let set = RequestAuthenticationSet::new([(name.clone(), None)]);
    assert_eq!(set.unresolved(), Some(&name));
    assert!(!set.is_empty() && RequestAuthenticationSet::default().is_empty());
}
