//! The certificates that vouch for a trust domain.

use crate::spiffe::TrustDomain;

/// A set of roots, so that an old and a new one can overlap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustBundle {
    /// Whose.
    pub trust_domain: TrustDomain,
    /// DER certificates; at least one.
    pub roots: Vec<Vec<u8>>,
}
