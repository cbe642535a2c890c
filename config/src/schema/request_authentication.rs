//! `RequestAuthentication` (security.istio.io/v1): which tokens a workload accepts.
//!
//! A rule that could accept nothing, or more than its owner sees, is an error: no issuer, no keys, keys
//! that cannot be used, a field that an application trusts and a client could have sent.

use super::metadata::Metadata;
use super::route_filters::is_untouchable;
use super::selector::{Target, target};
use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::At;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use http::{HeaderName, Uri};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use weft_model::jwks::{Jwk, KeyMaterial, KeySet};
use weft_model::request_authentication::{ClaimHeader, JwtRule, KeySource, SPACE_DELIMITED, TokenPlace};

/// The most rules of a policy, and places, audiences or fields of a rule.
const ITEMS_MAX: usize = 64;
/// The longest text of a rule: issuers and audiences are mostly URLs.
const TEXT_MAX: usize = 1024;
/// How long a fetch of keys may take, as in Istio.
const FETCH_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// The longest that a fetch of keys may take.
const FETCH_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Fields that no claim may become, besides those that frame the message: answered before the application, or
/// written by the mesh itself.
const UNWRITABLE: [&str; 2] = ["expect", "x-forwarded-client-cert"];

/// What a policy's owner wrote.
#[derive(Debug)]
pub(crate) struct RequestAuthentication<'r> {
    pub(crate) target: Target<'r>,
    pub(crate) rules: Vec<JwtRule>,
}

pub(crate) fn read<'r>(spec: Option<&Object<'r>>, metadata: &Metadata<'_>) -> RequestAuthentication<'r> {
    let Some(spec) = spec else { return RequestAuthentication { target: Target::All, rules: Vec::new() } };
    let target = target(spec, metadata);
    let rules = spec.take("jwtRules").and_then(|value| value.items(ITEMS_MAX)).unwrap_or_default();
    let rules: Vec<JwtRule> = rules.into_iter().filter_map(rule).collect();
    RequestAuthentication { target, rules }
}

fn rule(value: Value<'_>) -> Option<JwtRule> {
    let object = value.object()?;
    let issuer = object.require("issuer").and_then(text);
    let audiences = list(&object, "audiences", text);
    let (keys, key_source) = keys(&object);
    object.only("failureMode", "PERMISSIVE");
    let places = places(&object);
    let payload_header = object.take("outputPayloadToHeader").and_then(written_header);
    let claim_headers = claim_headers(&object);
    let mut seen: HashSet<&str> = payload_header.iter().map(|held| &*held.value).collect();
    for held in &claim_headers {
        if !seen.insert(&held.value.header) {
            let message = format!("the header {} is written twice", quoted(&held.value.header));
            value.report.error(held.place, message);
        }
    }
    let mut space_delimited: Vec<Box<str>> = SPACE_DELIMITED.map(Into::into).into();
    space_delimited.extend(list(&object, "spaceDelimitedClaims", text).into_iter().map(|held| held.value));
    space_delimited.sort();
    space_delimited.dedup();
    let forward = object.take("forwardOriginalToken").and_then(Value::flag).is_some_and(|flag| flag.value);
    Some(JwtRule {
        issuer: issuer?.value,
        audiences: audiences.into_iter().map(|held| held.value).collect(),
        keys,
        key_source,
        places,
        forward,
        payload_header: payload_header.map(|held| held.value),
        claim_headers: claim_headers.into_iter().map(|held| held.value).collect(),
        space_delimited: space_delimited.into(),
    })
}

fn text(value: Value<'_>) -> Option<At<Box<str>>> {
    let text = value.text()?;
    if text.value.is_empty() {
        value.error("the value is empty");
        return None;
    }
    if text.value.len() > TEXT_MAX {
        value.error(format!("this has {} letters; at most {TEXT_MAX} are allowed", text.value.len()));
        return None;
    }
    Some(text.map(Into::into))
}

// A list of values that come once each.
fn list<'r, T: Eq>(
    object: &Object<'r>,
    key: &'static str,
    mut read: impl FnMut(Value<'r>) -> Option<At<T>>,
) -> Vec<At<T>> {
    let mut all: Vec<At<T>> = Vec::new();
    for value in object.take(key).and_then(|value| value.items(ITEMS_MAX)).unwrap_or_default() {
        let Some(read) = read(value) else { continue };
        if all.iter().any(|held| held.value == read.value) {
            value.error(format!("this comes twice in `{key}`"));
        } else {
            all.push(read);
        }
    }
    all
}

fn keys(object: &Object<'_>) -> (Option<Arc<[Jwk]>>, Option<KeySource>) {
    let inline = object.take("jwks");
    // Upstream's CRD takes both spellings.
    let (uri, other) = (object.take("jwksUri"), object.take("jwks_uri"));
    let timeout = object.take("timeout").and_then(fetch_timeout).unwrap_or(FETCH_TIMEOUT_DEFAULT);
    if let (Some(_), Some(other)) = (&uri, &other) {
        other.error("`jwks_uri` and `jwksUri` are the same key");
    }
    let uri = uri.or(other);
    if inline.is_none() && uri.is_none() && !object.has("jwks") && !object.has("jwksUri") {
        let hint = "keys are not discovered from the issuer: write the `jwks_uri` of its \
                    /.well-known/openid-configuration here";
        object.report().error_hint(object.place(), "the rule has neither `jwks` nor `jwksUri`", hint);
    }
    if let (Some(inline), Some(_)) = (&inline, &uri) {
        inline.error("only one of `jwks` and `jwksUri` may be given");
    }
    let keys = inline.and_then(key_set);
    let key_source = uri.and_then(key_uri).map(|uri| KeySource { uri: uri.value, timeout });
    (keys, key_source)
}

fn fetch_timeout(value: Value<'_>) -> Option<Duration> {
    let timeout = value.duration()?.value;
    if timeout.is_zero() || timeout > FETCH_TIMEOUT_MAX {
        value.error(format!(
            "a fetch of keys may take up to {} s, and some time",
            FETCH_TIMEOUT_MAX.as_secs()
        ));
        return None;
    }
    Some(timeout)
}

fn key_set(value: Value<'_>) -> Option<Arc<[Jwk]>> {
    let text = value.text()?;
    let set = match KeySet::parse(text.value.as_bytes()) {
        Ok(set) => set,
        Err(error) => {
            value.error(error.to_string());
            return None;
        }
    };
    for flaw in &set.flaws {
        value.error(format!("key {}: {}", flaw.index, flaw.error));
    }
    for (index, key) in set.keys.iter().enumerate() {
        if !is_a_key(&key.material) {
            value.error(format!("key {index}: its point does not lie on its curve"));
        }
    }
    if set.keys.is_empty() && set.flaws.is_empty() {
        value.error("the key set is empty: no token could be accepted");
    }
    Some(set.keys.into())
}

fn is_a_key(material: &KeyMaterial) -> bool {
    let (algorithm, point): (&'static dyn VerificationAlgorithm, _) = match material {
        KeyMaterial::Rsa { .. } => return true,
        KeyMaterial::P256(point) => (&signature::ECDSA_P256_SHA256_FIXED, point),
        KeyMaterial::P384(point) => (&signature::ECDSA_P384_SHA384_FIXED, point),
        KeyMaterial::P521(point) => (&signature::ECDSA_P521_SHA512_FIXED, point),
        KeyMaterial::Ed25519(point) => (&signature::ED25519, point),
    };
    ParsedPublicKey::new(algorithm, point).is_ok()
}

fn key_uri(value: Value<'_>) -> Option<At<Box<str>>> {
    let written = text(value)?;
    let uri = written.value.parse::<Uri>().ok();
    let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
    let Some((scheme, authority)) = parts else {
        value.error_hint(format!("{} is not a URL", quoted(&written.value)), "write https://HOST/PATH");
        return None;
    };
    if authority.as_str().contains('@') || written.value.contains('#') {
        value.error("the URL of a key set has no user and no fragment");
        return None;
    }
    // The control API takes http from this machine, if it is told so: for tests.
    let here = matches!(authority.host(), "localhost" | "127.0.0.1" | "[::1]");
    if scheme != "https" && !(scheme == "http" && here) {
        let hint = "who can change the keys on their way can sign tokens: use https";
        value.error_hint(format!("keys are not fetched over {scheme}"), hint);
        return None;
    }
    Some(written)
}

fn places(object: &Object<'_>) -> Vec<TokenPlace> {
    let headers = list(object, "fromHeaders", |value| {
        let object = value.object()?;
        let name = object.require("name").and_then(Value::parse::<HeaderName>);
        let prefix = object.take("prefix").and_then(text).map_or_else(Default::default, |held| held.value);
        Some(value.at(TokenPlace::Header { name: name?.value.as_str().into(), prefix }))
    });
    let params = list(object, "fromParams", |value| Some(text(value)?.map(TokenPlace::Query)));
    let cookies = list(object, "fromCookies", |value| {
        let name = text(value)?;
        if name.value.bytes().any(|byte| !byte.is_ascii_graphic() || b"=;,\"".contains(&byte)) {
            value.error(format!("{} is not the name of a cookie", quoted(&name.value)));
            return None;
        }
        Some(name.map(TokenPlace::Cookie))
    });
    let all: Vec<_> = [headers, params, cookies].into_iter().flatten().map(|held| held.value).collect();
    if all.is_empty() { TokenPlace::defaults() } else { all }
}

fn claim_headers(object: &Object<'_>) -> Vec<At<ClaimHeader>> {
    let items = object.take("outputClaimToHeaders").and_then(|value| value.items(ITEMS_MAX));
    let read = |value: Value<'_>| {
        let object = value.object()?;
        let header = object.require("header").and_then(written_header);
        let claim = object.require("claim").and_then(text);
        Some(value.at(ClaimHeader { header: header?.value, claim: claim?.value }))
    };
    items.unwrap_or_default().into_iter().filter_map(read).collect()
}

// A field that gets something of a token: one that an application can trust, since the proxy removes
// what a client sent under that name.
fn written_header(value: Value<'_>) -> Option<At<Box<str>>> {
    let name = value.parse::<HeaderName>()?;
    let text = name.value.as_str();
    if is_untouchable(text) || UNWRITABLE.contains(&text) {
        value.error(format!("the header {} cannot be written", quoted(text)));
        return None;
    }
    Some(value.at(text.into()))
}
