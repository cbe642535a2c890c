//! Bootstrap tokens: a statement "whoever brings this is workload W, until T", signed with a key that
//! lies in the state directory. `weft-control token` makes them beside the running server; a proxy
//! trades one for its first certificate. Two parts in base64url, joined by a dot: JSON and its HMAC.
//! The signature is judged first, and in constant time; nothing of an unsigned token is believed.

use crate::state::{StateDirectory, StateError};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weft_model::names::WorkloadUid;

/// The key, in the state directory.
pub const KEY_FILE: &str = "token.key";

/// As long as what it signs with it: SHA-256.
const KEY_LENGTH: usize = 32;

/// Names are bounded, so tokens are.
const LENGTH_MAX: usize = 2048;

/// Set before the payload that is signed, so that this key's signatures mean nothing elsewhere.
const PURPOSE: &[u8] = b"weft bootstrap token 1\0";

/// Why a token proves nothing.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// It has not a token's form.
    #[error("the token is malformed")]
    Malformed,
    /// Another key signed it, or nobody.
    #[error("the token's signature is wrong: it was made with another state directory, or altered")]
    Forged,
    /// Its time is over.
    #[error("the token expired {seconds} s ago")]
    Expired {
        /// How long ago.
        seconds: u64,
    },
}

/// Signs and judges tokens.
pub struct TokenKey {
    key: hmac::Key,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    workload: String,
    /// Seconds since 1970.
    expires: u64,
    nonce: String,
}

impl TokenKey {
    /// Takes the key from the state directory, or makes one there.
    pub fn load_or_create(state: &StateDirectory) -> Result<Self, StateError> {
        let held = match state.read_secret(KEY_FILE)? {
            Some(held) => held,
            None => {
                // The server and `weft-control token` may both be first: whoever lost takes the
                // winner's.
                state.create(KEY_FILE, &crate::random_bytes::<KEY_LENGTH>(), 0o600)?;
                state.read_secret(KEY_FILE)?.unwrap_or_default()
            }
        };
        // A truncated key would be one that anybody can guess.
        if held.len() < KEY_LENGTH {
            return Err(state.damaged(KEY_FILE));
        }
        Ok(Self::new(&held))
    }

    fn new(secret: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// A token for the workload.
    pub fn issue(&self, workload: &WorkloadUid, lifetime: Duration, now: SystemTime) -> String {
        let claims = Claims {
            workload: workload.to_string(),
            expires: seconds(now + lifetime),
            nonce: crate::random_hex(12),
        };
        let claims = serde_json::to_vec(&claims).expect("plain strings must serialise");
        let payload = BASE64_URL_SAFE_NO_PAD.encode(claims);
        let tag = hmac::sign(&self.key, &signed(&payload));
        format!("{payload}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }

    /// Whose token it is.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<WorkloadUid, TokenError> {
        // A file that an editor touched ends with a line break.
        let token = token.trim_ascii();
        if token.len() > LENGTH_MAX {
            return Err(TokenError::Malformed);
        }
        let (payload, tag) = token.split_once('.').ok_or(TokenError::Malformed)?;
        let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).map_err(|_| TokenError::Malformed)?;
        hmac::verify(&self.key, &signed(payload), &tag).map_err(|_| TokenError::Forged)?;
        let claims = BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Malformed)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| TokenError::Malformed)?;
        let now = seconds(now);
        if now >= claims.expires {
            return Err(TokenError::Expired { seconds: now - claims.expires });
        }
        claims.workload.parse().map_err(|_| TokenError::Malformed)
    }
}

fn signed(payload: &str) -> Vec<u8> {
    [PURPOSE, payload.as_bytes()].concat()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_names_its_workload_until_it_expires() {
        let key = TokenKey::new(b"secret");
        let workload: WorkloadUid = "shop/cart-1".parse().unwrap();
        let now = SystemTime::now();
        let token = key.issue(&workload, HOUR, now);
        assert_eq!(key.verify(&format!(" {token}\n"), now).unwrap(), workload);
        assert_eq!(key.verify(&token, now + HOUR * 2), Err(TokenError::Expired { seconds: 3600 }));
        assert_ne!(token, key.issue(&workload, HOUR, now), "two tokens are never alike");
    }

    #[test]
    fn altered_foreign_and_malformed_tokens_prove_nothing() {
        let key = TokenKey::new(b"secret");
        let now = SystemTime::now();
        let token = key.issue(&"shop/cart-1".parse().unwrap(), HOUR, now);
        assert_eq!(TokenKey::new(b"other").verify(&token, now), Err(TokenError::Forged));
        let (payload, tag) = token.split_once('.').unwrap();
        let other =
            BASE64_URL_SAFE_NO_PAD.encode(r#"{"workload":"shop/admin","expires":99999999999,"nonce":""}"#);
        assert_eq!(key.verify(&format!("{other}.{tag}"), now), Err(TokenError::Forged));
        assert_eq!(key.verify(&format!("{payload}."), now), Err(TokenError::Forged));
        for bad in ["", ".", payload, "a.b.c", "é.é", &"x".repeat(5000)] {
            assert!(key.verify(bad, now).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_key_is_made_once_and_shared_through_the_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let server = StateDirectory::open(temporary.path()).unwrap();
        let tool = StateDirectory::open_shared(temporary.path()).unwrap();
        let now = SystemTime::now();
        let token = TokenKey::load_or_create(&tool).unwrap().issue(&"a/b".parse().unwrap(), HOUR, now);
        assert!(TokenKey::load_or_create(&server).unwrap().verify(&token, now).is_ok());
        server.write(KEY_FILE, b"", 0o600).unwrap();
        assert!(TokenKey::load_or_create(&server).is_err(), "an empty key signs for everybody");
    }
}
