//! A request's JWT: one that was seen before, and one whose signature must be checked.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use weft_model::authorization::Provenance;
use weft_model::jwks::{Jwk, KeyMaterial};
use weft_model::request_authentication::{JwtRule, RequestAuthentication, RequestAuthenticationSet};
use weft_proxy::http::{Headers, Method, RequestHead, Version};
use weft_proxy::inbound::token::{TokenCache, authenticate};

use super::Case;

const ISSUER: &str = "https://accounts.example.com";
const NOW: i64 = 1_800_000_000;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("JWT seen before (request copied)", || {
            let ((head, set), cache) = (prepared()?, TokenCache::default());
            Ok(move |_: u64| {
                black_box(authenticate(&mut black_box(&head).clone(), &set, &cache, NOW)).ok();
            })
        }),
        Case::new("JWT new, ES256 (request copied)", || {
            let (head, set) = prepared()?;
            Ok(move |_: u64| {
                let cache = TokenCache::default();
                black_box(authenticate(&mut black_box(&head).clone(), &set, &cache, NOW)).ok();
            })
        }),
    ]
}

/// A request with a token, and who accepts it.
fn prepared() -> Result<(RequestHead, Arc<RequestAuthenticationSet>)> {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
        .map_err(|_| anyhow!("no key"))?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())
        .map_err(|_| anyhow!("no key"))?;
    let claims = format!(
        r#"{{"iss":"{ISSUER}","sub":"joe","aud":["shop"],"exp":{},"groups":["readers","writers"]}}"#,
        NOW + 3600
    );
    let signed = [r#"{"alg":"ES256"}"#, &claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = pair.sign(&random, signed.as_bytes()).map_err(|_| anyhow!("no signature"))?;
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    let set = set(pair.public_key().as_ref())?;
    let mut headers = Headers::new();
    headers.append("authorization", format!("Bearer {token}").as_bytes())?;
    let head = RequestHead::new(Method::GET, Version::Http11, "cart.shop", "/items/1", headers)
        .map_err(|error| anyhow!("{error:?}"))?;
    let accepted = authenticate(&mut head.clone(), &set, &TokenCache::default(), NOW);
    ensure!(accepted.is_ok_and(|accepted| accepted.is_some()), "the token is not accepted");
    Ok((head, set))
}

fn set(public_key: &[u8]) -> Result<Arc<RequestAuthenticationSet>> {
    let key = Jwk { id: None, algorithm: None, material: KeyMaterial::P256(public_key.into()) };
    let rule = JwtRule { audiences: vec!["shop".into()], ..JwtRule::new(ISSUER, Some([key].into())) };
    let policy = RequestAuthentication {
        namespace: "shop".parse()?,
        name: "jwt".parse()?,
        rules: vec![rule],
        provenance: Provenance::default(),
    };
    let name = "RequestAuthentication/shop/jwt".parse()?;
    Ok(Arc::new(RequestAuthenticationSet::new([(name, Some(Arc::new(policy)))])))
}
