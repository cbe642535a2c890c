//! SPIFFE IDs of the one form that the mesh issues and accepts:
//! `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT` (SPIFFE-ID standard, section 2).
//!
//! Parsing is strict and total; what parses has one spelling, so text comparison of two parsed IDs
//! is value comparison. Identities are never matched as patterns on unparsed text.

use crate::names::{InvalidName, Name, Namespace};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";

/// The longest SPIFFE ID the standard lets anybody rely on.
const LENGTH_MAX: usize = 2048;

/// A trust domain: lower-case letters, digits, `.`, `-` and `_`, at most 255 bytes.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
        };
        if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName::new("trust domain", text))
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a workload.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    // `spiffe://…`, whole; the parts are spans of it.
    text: Arc<str>,
    trust_domain_end: u16,
    namespace_end: u16,
}

impl SpiffeId {
    /// Puts an identity together from its parts.
    pub fn new(trust_domain: &TrustDomain, namespace: &Namespace, service_account: &Name) -> Self {
        let text = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        let trust_domain_end = SCHEME.len() + trust_domain.as_str().len();
        let namespace_end = trust_domain_end + "/ns/".len() + namespace.as_str().len();
        Self {
            text: text.into(),
            trust_domain_end: u16::try_from(trust_domain_end)
                .expect("a trust domain's length must be bounded"),
            namespace_end: u16::try_from(namespace_end).expect("a namespace's length must be bounded"),
        }
    }

    /// The whole ID, `spiffe://…`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The ID without its scheme, as Istio's `principals` spell it.
    pub fn principal(&self) -> &str {
        &self.text[SCHEME.len()..]
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.trust_domain_end)]
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.text[usize::from(self.trust_domain_end) + "/ns/".len()..usize::from(self.namespace_end)]
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.text[usize::from(self.namespace_end) + "/sa/".len()..]
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let refused =
            || InvalidName::new("SPIFFE ID (spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT)", text);
        if text.len() > LENGTH_MAX {
            return Err(refused());
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(refused)?;
        let parts: Vec<&str> = rest.splitn(6, '/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = parts.as_slice() else {
            return Err(refused());
        };
        let trust_domain = trust_domain.parse().map_err(|_| refused())?;
        let namespace = namespace.parse().map_err(|_| refused())?;
        let service_account = service_account.parse().map_err(|_| refused())?;
        Ok(Self::new(&trust_domain, &namespace, &service_account))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_its_parts() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.service_account(), "cart");
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/cart");
        assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
    }

    #[test]
    fn other_spellings_and_shapes_are_refused() {
        for bad in [
            "",
            "spiffe://",
            "SPIFFE://cluster.local/ns/shop/sa/cart",
            "spiffe://Cluster.local/ns/shop/sa/cart",
            "spiffe://cluster.local/ns/shop/sa/cart/",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns//sa/cart",
            "spiffe://cluster.local/ns/shop/sa/cart\0",
            "spiffe://cluster.local/ns/shop/sa/c%61rt",
            "spiffe://cluster.local:443/ns/shop/sa/cart",
            "spiffe://a@cluster.local/ns/shop/sa/cart",
            "spiffe://cluster.local/ns/../sa/cart",
            "spiffe://cluster.local/ns/shop/sa/cart?x",
            "spiffe://cluster.local/sa/cart/ns/shop",
            "https://cluster.local/ns/shop/sa/cart",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?}");
        }
    }
}
