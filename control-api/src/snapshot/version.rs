//! Versions: a short hash of a resource's bytes. Equal content has the same version on every replica
//! and after every restart, so that a proxy that reconnects is sent only what really changed.

use sha2::{Digest, Sha256};
use std::fmt;

/// The version of a resource's content.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version([u8; 8]);

impl Version {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_digest(Sha256::digest(bytes).as_slice())
    }

    /// Of many resources together, in the order given.
    pub fn of_all<'a>(parts: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let mut hasher = Sha256::new();
        for (name, version) in parts {
            // Lengths first: names cannot run into one another.
            hasher.update((name.len() as u64).to_be_bytes());
            hasher.update(name.as_bytes());
            hasher.update(version.0);
        }
        Self::from_digest(hasher.finalize().as_slice())
    }

    fn from_digest(digest: &[u8]) -> Self {
        let mut short = [0; 8];
        short.copy_from_slice(&digest[..8]);
        Self(short)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_sixteen_hex_digits_of_the_contents_hash() {
        assert_eq!(Version::of(b"").to_string(), "e3b0c44298fc1c14");
        assert_ne!(Version::of(b"a"), Version::of(b"b"));
        let (a, b) = (Version::of(b"a"), Version::of(b"b"));
        assert_ne!(Version::of_all([("x", a), ("y", b)]), Version::of_all([("y", b), ("x", a)]));
        assert_ne!(Version::of_all([("xy", a)]), Version::of_all([("x", a)]));
    }
}
