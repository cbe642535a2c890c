//! Checking a token's signature: the only place where tokens meet cryptography.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use weft_model::jwks::KeyMaterial;
use weft_model::token::Algorithm;

/// Whether the signature is of this message by this key. A key never serves another algorithm than its
/// type has, whatever the token says.
pub fn check(key: &KeyMaterial, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
    let point = |algorithm: &'static dyn VerificationAlgorithm, point: &[u8]| {
        UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
    };
    match (key, algorithm) {
        (KeyMaterial::Rsa { modulus, exponent }, algorithm) => rsa(algorithm).is_some_and(|parameters| {
            let key = RsaPublicKeyComponents { n: modulus, e: exponent };
            key.verify(parameters, message, signature).is_ok()
        }),
        (KeyMaterial::P256(key), Algorithm::Es256) => point(&ECDSA_P256_SHA256_FIXED, key),
        (KeyMaterial::P384(key), Algorithm::Es384) => point(&ECDSA_P384_SHA384_FIXED, key),
        (KeyMaterial::P521(key), Algorithm::Es512) => point(&ECDSA_P521_SHA512_FIXED, key),
        (KeyMaterial::Ed25519(key), Algorithm::EdDsa) => point(&ED25519, key),
        _ => false,
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => return None,
    })
}

#[cfg(test)]
mod tests;
