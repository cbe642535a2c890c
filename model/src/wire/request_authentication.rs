//! `weft.v1.RequestAuthentication`.

use super::route::{duration_from_wire, duration_to_wire};
use super::{Refusal, each, invalid, level, missing, parse, provenance_from_wire, provenance_to_wire};
use crate::jwks::{Jwk, KEYS_MAX, KeyMaterial};
use crate::proto::v1;
use crate::proto::v1::key::Material;
use crate::proto::v1::token_place::Kind;
use crate::request_authentication::{ClaimHeader, JwtRule, KeySource, RequestAuthentication, TokenPlace};
use crate::token::Algorithm;

pub(super) fn to_wire(policy: &RequestAuthentication) -> v1::RequestAuthentication {
    v1::RequestAuthentication {
        needs_level: 1,
        namespace: policy.namespace.to_string(),
        name: policy.name.to_string(),
        rules: policy.rules.iter().map(rule_to_wire).collect(),
        provenance: provenance_to_wire(&policy.provenance),
    }
}

pub(super) fn from_wire(message: v1::RequestAuthentication) -> Result<RequestAuthentication, Refusal> {
    level(message.needs_level)?;
    Ok(RequestAuthentication {
        namespace: parse(&message.namespace)?,
        name: parse(&message.name)?,
        rules: each(message.rules, rule_from_wire)?,
        provenance: provenance_from_wire(message.provenance),
    })
}

fn texts(texts: &[Box<str>]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn rule_to_wire(rule: &JwtRule) -> v1::JwtRule {
    v1::JwtRule {
        issuer: rule.issuer.to_string(),
        audiences: texts(&rule.audiences),
        keys: rule.keys.as_ref().map(|keys| v1::KeySet { keys: keys.iter().map(key_to_wire).collect() }),
        jwks_uri: rule.key_source.as_ref().map(|source| source.uri.to_string()).unwrap_or_default(),
        timeout: rule.key_source.as_ref().map(|source| duration_to_wire(source.timeout)),
        places: rule.places.iter().map(place_to_wire).collect(),
        forward: rule.forward,
        payload_header: rule.payload_header.as_deref().unwrap_or_default().to_owned(),
        claim_headers: rule
            .claim_headers
            .iter()
            .map(|held| v1::ClaimHeader { header: held.header.to_string(), claim: held.claim.to_string() })
            .collect(),
        space_delimited: texts(&rule.space_delimited),
    }
}

fn rule_from_wire(message: v1::JwtRule) -> Result<JwtRule, Refusal> {
    if message.issuer.is_empty() || message.places.is_empty() {
        return Err(missing("a rule's issuer or places"));
    }
    let keys = match message.keys {
        Some(set) if set.keys.len() > KEYS_MAX => return Err(invalid("too many keys")),
        Some(set) => Some(each(set.keys, key_from_wire)?.into()),
        None => None,
    };
    let key_source = (!message.jwks_uri.is_empty()).then(|| KeySource {
        uri: message.jwks_uri.into(),
        timeout: message.timeout.map(duration_from_wire).unwrap_or_default(),
    });
    Ok(JwtRule {
        issuer: message.issuer.into(),
        audiences: message.audiences.into_iter().map(Into::into).collect(),
        keys,
        key_source,
        places: each(message.places, place_from_wire)?,
        forward: message.forward,
        payload_header: match &*message.payload_header {
            "" => None,
            name => Some(field_name(name)?),
        },
        claim_headers: each(message.claim_headers, |held| {
            Ok(ClaimHeader { header: field_name(&held.header)?, claim: held.claim.into() })
        })?,
        space_delimited: message.space_delimited.into_iter().map(Into::into).collect(),
    })
}

fn field_name(name: &str) -> Result<Box<str>, Refusal> {
    let name: http::HeaderName = parse(name)?;
    Ok(name.as_str().into())
}

fn place_to_wire(place: &TokenPlace) -> v1::TokenPlace {
    let kind = match place {
        TokenPlace::Header { name, prefix } => {
            Kind::Header(v1::TokenHeader { name: name.to_string(), prefix: prefix.to_string() })
        }
        TokenPlace::Query(name) => Kind::Query(name.to_string()),
        TokenPlace::Cookie(name) => Kind::Cookie(name.to_string()),
    };
    v1::TokenPlace { kind: Some(kind) }
}

fn place_from_wire(message: v1::TokenPlace) -> Result<TokenPlace, Refusal> {
    Ok(match message.kind {
        Some(Kind::Header(held)) => {
            TokenPlace::Header { name: field_name(&held.name)?, prefix: held.prefix.into() }
        }
        Some(Kind::Query(name)) if !name.is_empty() => TokenPlace::Query(name.into()),
        Some(Kind::Cookie(name)) if !name.is_empty() => TokenPlace::Cookie(name.into()),
        _ => return Err(missing("a token's place")),
    })
}

fn key_to_wire(key: &Jwk) -> v1::Key {
    let material = match &key.material {
        KeyMaterial::Rsa { modulus, exponent } => {
            Material::Rsa(v1::RsaKey { modulus: modulus.to_vec(), exponent: exponent.to_vec() })
        }
        KeyMaterial::P256(point) => Material::P256(point.to_vec()),
        KeyMaterial::P384(point) => Material::P384(point.to_vec()),
        KeyMaterial::P521(point) => Material::P521(point.to_vec()),
        KeyMaterial::Ed25519(point) => Material::Ed25519(point.to_vec()),
    };
    v1::Key {
        id: key.id.as_deref().unwrap_or_default().to_owned(),
        algorithm: algorithm_to_wire(key.algorithm).into(),
        material: Some(material),
    }
}

fn key_from_wire(message: v1::Key) -> Result<Jwk, Refusal> {
    let point = |bytes: Vec<u8>, length: usize| {
        let fits = bytes.len() == length && (length == 32 || bytes[0] == 4);
        if fits { Ok(bytes.into_boxed_slice()) } else { Err(invalid("a key has the wrong length")) }
    };
    let material = match message.material.ok_or_else(|| missing("a key"))? {
        Material::Rsa(key) => KeyMaterial::rsa(&key.modulus, &key.exponent).map_err(invalid)?,
        Material::P256(bytes) => KeyMaterial::P256(point(bytes, 65)?),
        Material::P384(bytes) => KeyMaterial::P384(point(bytes, 97)?),
        Material::P521(bytes) => KeyMaterial::P521(point(bytes, 133)?),
        Material::Ed25519(bytes) => KeyMaterial::Ed25519(point(bytes, 32)?),
    };
    let algorithm = algorithm_from_wire(message.algorithm)?;
    if algorithm.is_some_and(|algorithm| !material.fits(algorithm)) {
        return Err(invalid("a key's algorithm is another type's"));
    }
    Ok(Jwk { id: (!message.id.is_empty()).then(|| message.id.into()), algorithm, material })
}

fn algorithm_to_wire(algorithm: Option<Algorithm>) -> v1::KeyAlgorithm {
    match algorithm {
        None => v1::KeyAlgorithm::Any,
        Some(Algorithm::Rs256) => v1::KeyAlgorithm::Rs256,
        Some(Algorithm::Rs384) => v1::KeyAlgorithm::Rs384,
        Some(Algorithm::Rs512) => v1::KeyAlgorithm::Rs512,
        Some(Algorithm::Ps256) => v1::KeyAlgorithm::Ps256,
        Some(Algorithm::Ps384) => v1::KeyAlgorithm::Ps384,
        Some(Algorithm::Ps512) => v1::KeyAlgorithm::Ps512,
        Some(Algorithm::Es256) => v1::KeyAlgorithm::Es256,
        Some(Algorithm::Es384) => v1::KeyAlgorithm::Es384,
        Some(Algorithm::Es512) => v1::KeyAlgorithm::Es512,
        Some(Algorithm::EdDsa) => v1::KeyAlgorithm::Eddsa,
    }
}

fn algorithm_from_wire(number: i32) -> Result<Option<Algorithm>, Refusal> {
    Ok(match v1::KeyAlgorithm::try_from(number) {
        Ok(v1::KeyAlgorithm::Any) => None,
        Ok(v1::KeyAlgorithm::Rs256) => Some(Algorithm::Rs256),
        Ok(v1::KeyAlgorithm::Rs384) => Some(Algorithm::Rs384),
        Ok(v1::KeyAlgorithm::Rs512) => Some(Algorithm::Rs512),
        Ok(v1::KeyAlgorithm::Ps256) => Some(Algorithm::Ps256),
        Ok(v1::KeyAlgorithm::Ps384) => Some(Algorithm::Ps384),
        Ok(v1::KeyAlgorithm::Ps512) => Some(Algorithm::Ps512),
        Ok(v1::KeyAlgorithm::Es256) => Some(Algorithm::Es256),
        Ok(v1::KeyAlgorithm::Es384) => Some(Algorithm::Es384),
        Ok(v1::KeyAlgorithm::Es512) => Some(Algorithm::Es512),
        Ok(v1::KeyAlgorithm::Eddsa) => Some(Algorithm::EdDsa),
        Ok(v1::KeyAlgorithm::Unspecified) | Err(_) => return Err(missing("a key's algorithm")),
    })
}
