//! An issuer of tokens: keys of every kind, the set it publishes, and what it signs.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::time::{SystemTime, UNIX_EPOCH};

/// A key with a name, and the algorithm it signs with.
#[derive(Debug)]
pub struct Issuer {
    id: String,
    algorithm: &'static str,
    key: Key,
}

#[derive(Debug)]
enum Key {
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ecdsa(Box<EcdsaKeyPair>, &'static str),
    Ed25519(Box<Ed25519KeyPair>),
}

/// All algorithms that the mesh accepts.
pub const ALGORITHMS: [&str; 10] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs()
}

impl Issuer {
    /// A new key of that name for that algorithm.
    pub fn new(id: &str, algorithm: &'static str) -> Self {
        let rsa =
            |encoding| Key::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")), encoding);
        let ecdsa = |signing: &'static EcdsaSigningAlgorithm, curve| {
            Key::Ecdsa(Box::new(EcdsaKeyPair::generate(signing).expect("a key")), curve)
        };
        let key = match algorithm {
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            "ES256" => ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            "ES384" => ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            "ES512" => ecdsa(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            "EdDSA" => Key::Ed25519(Box::new(Ed25519KeyPair::generate().expect("a key"))),
            other => panic!("no algorithm {other}"),
        };
        Self { id: id.to_owned(), algorithm, key }
    }

    /// The public half as a JSON Web Key.
    pub fn jwk(&self) -> String {
        let numbers = match &self.key {
            Key::Rsa(key, _) => {
                let public = key.public_key();
                let number =
                    |number: aws_lc_rs::io::Positive<'_>| encode(number.big_endian_without_leading_zero());
                format!(
                    r#""kty":"RSA","n":"{}","e":"{}""#,
                    number(public.modulus()),
                    number(public.exponent())
                )
            }
            Key::Ecdsa(key, curve) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                format!(r#""kty":"EC","crv":"{curve}","x":"{}","y":"{}""#, encode(x), encode(y))
            }
            Key::Ed25519(key) => {
                format!(r#""kty":"OKP","crv":"Ed25519","x":"{}""#, encode(key.public_key()))
            }
        };
        format!(r#"{{"kid":"{}",{numbers}}}"#, self.id)
    }

    /// A token with these claims (a JSON object).
    pub fn token(&self, claims: &str) -> String {
        self.token_with(&format!(r#"{{"alg":"{}","kid":"{}"}}"#, self.algorithm, self.id), claims)
    }

    /// A token with this header and these claims, whatever they say.
    pub fn token_with(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        format!("{signed}.{}", encode(self.sign(signed.as_bytes())))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature).expect("a signature");
                signature
            }
            Key::Ecdsa(key, _) => key.sign(&random, message).expect("a signature").as_ref().to_vec(),
            Key::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

/// The set of these keys.
pub fn key_set(issuers: &[&Issuer]) -> String {
    let keys: Vec<_> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

/// A RequestAuthentication in namespace `shop` for the workloads with `app: APP`. `rules` is the list in
/// flow YAML.
pub fn request_authentication(name: &str, app: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{ name: {name}, namespace: \
         shop }}\nspec:\n  selector: {{ matchLabels: {{ app: {app} }} }}\n  jwtRules: {rules}\n"
    )
}
