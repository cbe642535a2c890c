//! Public keys of token issuers: JSON Web Key Sets (RFC 7517), read strictly.
//!
//! Two kinds of flaw are told apart. What makes the whole set untrustworthy (no JSON, a private or a
//! shared key in it, too many keys) is an error. A key that cannot be used (a type that is not known, an
//! RSA key that is too short, one for encryption) is left out and named: written by hand it is a
//! mistake, fetched from an issuer it is another program's key.

use crate::json::{Json, JsonError, Members};
use crate::token::Algorithm;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The largest set. Large issuers publish a dozen keys with their certificates.
pub const JWKS_LENGTH_MAX: usize = 256 * 1024;
/// The most keys of a set. A token without `kid` may cost a check for each that fits its algorithm.
pub const KEYS_MAX: usize = 32;
/// The shortest RSA modulus that is safe (RFC 7518, section 3.3), in bits.
pub const RSA_BITS_MIN: usize = 2048;
/// The longest RSA modulus: longer ones cost too much to check.
pub const RSA_BITS_MAX: usize = 8192;

/// A key that signatures are checked with.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Jwk {
    /// What tokens call it.
    pub id: Option<Box<str>>,
    /// The one algorithm that it is for.
    pub algorithm: Option<Algorithm>,
    /// The key.
    pub material: KeyMaterial,
}

/// The numbers of a public key.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum KeyMaterial {
    /// RSA: both big-endian, without leading zeros.
    Rsa {
        /// The modulus.
        modulus: Box<[u8]>,
        /// The exponent.
        exponent: Box<[u8]>,
    },
    /// A point of NIST P-256, uncompressed.
    P256(Box<[u8]>),
    /// A point of NIST P-384, uncompressed.
    P384(Box<[u8]>),
    /// A point of NIST P-521, uncompressed.
    P521(Box<[u8]>),
    /// Ed25519.
    Ed25519(Box<[u8]>),
}

/// A set that was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeySet {
    /// The keys that can be used.
    pub keys: Vec<Jwk>,
    /// What is wrong with others, or with their names.
    pub flaws: Vec<KeyFlaw>,
}

/// Something wrong with one key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyFlaw {
    /// Its place in the set, from 0.
    pub index: usize,
    /// What.
    pub error: KeyError,
}

/// Why a key is not used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// A member is missing, or has another form than it must have.
    #[error("`{0}` is missing or malformed")]
    Member(&'static str),
    /// Its type is none of those supported.
    #[error("the key type {0:?} is not supported (RSA, EC and OKP are)")]
    Type(String),
    /// Its curve is none of those supported.
    #[error("the curve {0:?} is not supported (P-256, P-384, P-521 and Ed25519 are)")]
    Curve(String),
    /// Its algorithm is none of those supported, or of another type of key.
    #[error("the algorithm {0:?} does not fit the key")]
    Algorithm(String),
    /// It is for something else than signatures.
    #[error("the key is not for checking signatures (`use` or `key_ops`)")]
    Purpose,
    /// It is too short to be safe, or too long.
    #[error("the RSA key has {0} bits; {RSA_BITS_MIN} to {RSA_BITS_MAX} are accepted")]
    Length(usize),
    /// Another key has the same name.
    #[error("the `kid` {0:?} comes twice")]
    Duplicate(String),
}

/// Why a set is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JwksError {
    /// It is too large.
    #[error("the key set is larger than {JWKS_LENGTH_MAX} bytes")]
    TooLarge,
    /// It is no JSON object.
    #[error("the key set: {0}")]
    Json(JsonError),
    /// It has no list of keys.
    #[error("the key set has no list `keys`")]
    NoList,
    /// It has too many keys.
    #[error("the key set has more than {KEYS_MAX} keys")]
    TooMany,
    /// It gives away a secret.
    #[error("key {0} of the set is a private or a shared key: who can read it can sign tokens")]
    Secret(usize),
}

// === impl KeySet ===

impl KeySet {
    /// Reads a set.
    pub fn parse(text: &[u8]) -> Result<Self, JwksError> {
        if text.len() > JWKS_LENGTH_MAX {
            return Err(JwksError::TooLarge);
        }
        let set = Members::parse(text).map_err(JwksError::Json)?;
        let Some(Json::List(items)) = set.get("keys") else { return Err(JwksError::NoList) };
        if items.len() > KEYS_MAX {
            return Err(JwksError::TooMany);
        }
        let mut read = Self::default();
        for (index, item) in items.iter().enumerate() {
            let Some(members) = item.as_object() else { return Err(JwksError::NoList) };
            if SECRET.iter().any(|name| members.has(name)) {
                return Err(JwksError::Secret(index));
            }
            match Jwk::read(members) {
                Ok(key) => {
                    if let Some(id) = &key.id
                        && read.keys.iter().any(|held| held.id.as_ref() == Some(id))
                    {
                        let error = KeyError::Duplicate(short(id));
                        read.flaws.push(KeyFlaw { index, error });
                    }
                    read.keys.push(key);
                }
                Err(error) => read.flaws.push(KeyFlaw { index, error }),
            }
        }
        Ok(read)
    }
}

/// Members that only a private or a shared key has (RFC 7518, section 6).
const SECRET: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

// === impl Jwk ===

impl Jwk {
    /// Whether a token with this algorithm and `kid` may have been signed with it.
    pub fn fits(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let named = match (&self.id, id) {
            (Some(own), Some(id)) => **own == *id,
            _ => true,
        };
        named && self.algorithm.is_none_or(|own| own == algorithm) && self.material.fits(algorithm)
    }

    fn read(members: &Members) -> Result<Self, KeyError> {
        let text = |name: &'static str| members.text(name).ok_or(KeyError::Member(name));
        match members.get("use") {
            None => {}
            Some(Json::Text(purpose)) if **purpose == *"sig" => {}
            Some(_) => return Err(KeyError::Purpose),
        }
        if let Some(operations) = members.get("key_ops") {
            let Json::List(operations) = operations else { return Err(KeyError::Member("key_ops")) };
            if !operations.iter().any(|operation| operation.as_text() == Some("verify")) {
                return Err(KeyError::Purpose);
            }
        }
        let material = match text("kty")? {
            "RSA" => rsa(members)?,
            "EC" => point(members, text("crv")?)?,
            "OKP" => match text("crv")? {
                "Ed25519" => KeyMaterial::Ed25519(number(members, "x", Some(32))?),
                other => return Err(KeyError::Curve(short(other))),
            },
            other => return Err(KeyError::Type(short(other))),
        };
        let id = match members.get("kid") {
            None => None,
            Some(Json::Text(id)) => Some(id.clone()),
            Some(_) => return Err(KeyError::Member("kid")),
        };
        let algorithm = match members.get("alg") {
            None => None,
            Some(Json::Text(name)) => {
                let known = Algorithm::of(name).filter(|algorithm| material.fits(*algorithm));
                Some(known.ok_or_else(|| KeyError::Algorithm(short(name)))?)
            }
            Some(_) => return Err(KeyError::Member("alg")),
        };
        Ok(Self { id, algorithm, material })
    }
}

fn number(members: &Members, name: &'static str, length: Option<usize>) -> Result<Box<[u8]>, KeyError> {
    let decoded = members.text(name).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    decoded
        .filter(|bytes| length.is_none_or(|length| bytes.len() == length))
        .map(Into::into)
        .ok_or(KeyError::Member(name))
}

// Some issuers write a leading zero; RFC 7518 forbids it and means the same number.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn rsa(members: &Members) -> Result<KeyMaterial, KeyError> {
    let (modulus, exponent) = (number(members, "n", None)?, number(members, "e", None)?);
    KeyMaterial::rsa(&modulus, &exponent)
}

fn point(members: &Members, curve: &str) -> Result<KeyMaterial, KeyError> {
    let length = match curve {
        "P-256" => 32,
        "P-384" => 48,
        "P-521" => 66,
        other => return Err(KeyError::Curve(short(other))),
    };
    let (x, y) = (number(members, "x", Some(length))?, number(members, "y", Some(length))?);
    let point = [&[4], &*x, &*y].concat().into();
    Ok(match curve {
        "P-256" => KeyMaterial::P256(point),
        "P-384" => KeyMaterial::P384(point),
        _ => KeyMaterial::P521(point),
    })
}

// === impl KeyMaterial ===

impl KeyMaterial {
    /// An RSA key of a safe length.
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
        let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(KeyError::Length(bits));
        }
        // Odd, above 1, and no longer than the 33 bits that the cryptography library takes.
        let short = exponent.len() <= 4 || exponent.len() == 5 && exponent[0] == 1;
        let odd = exponent.last().is_some_and(|last| last & 1 == 1);
        if !short || !odd || exponent == [1] {
            return Err(KeyError::Member("e"));
        }
        Ok(Self::Rsa { modulus: modulus.into(), exponent: exponent.into() })
    }

    /// Whether signatures of this algorithm are checked with such a key: the key decides what is
    /// possible, never the token alone.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Es512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        matches!(
            (self, algorithm),
            (Self::Rsa { .. }, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512)
                | (Self::P256(_), Es256)
                | (Self::P384(_), Es384)
                | (Self::P521(_), Es512)
                | (Self::Ed25519(_), EdDsa)
        )
    }
}

#[cfg(test)]
mod tests;
