//! Names: parsed once, compared as values, never as raw text.
//!
//! Kubernetes names are RFC 1123 labels or subdomains: lower-case letters, digits, `-` (and `.` in
//! subdomains), at most 253 bytes. What is not such a name is refused here and exists nowhere else.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A text that is not the name it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a valid {what}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
}

impl InvalidName {
    pub(crate) fn new(what: &'static str, text: &str) -> Self {
        // Bounded: the text may come from a peer.
        Self { what, text: text.chars().take(128).collect() }
    }
}

/// Whether the text is an RFC 1123 subdomain (which every label is too).
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Whether the text is an RFC 1123 label of at most 63 bytes.
pub fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(inner)
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(InvalidName::new($what, text)) }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A Kubernetes namespace.
    Namespace, "namespace", is_label
);
name!(
    /// The name of an object within its namespace.
    Name, "name", is_subdomain
);
name!(
    /// What identifies one workload in the mesh: `NAMESPACE/NAME`, or a pod's UID.
    WorkloadUid, "workload UID", |text| {
        let mut parts = text.splitn(2, '/');
        match (parts.next(), parts.next()) {
            (Some(first), Some(rest)) => is_label(first) && is_subdomain(rest),
            (Some(only), None) => is_subdomain(only),
            _ => false,
        }
    }
);
name!(
    /// The name of a resource on the wire, for instance `HTTPRoute/shop/cart`.
    ResourceName, "resource name", |text| {
        (1..=1024).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    }
);

impl ResourceName {
    /// The name of an object of a kind that has its kind in its name.
    pub fn of(kind: &str, namespace: &Namespace, name: &Name) -> Self {
        Self(format!("{kind}/{namespace}/{name}").into())
    }

    /// The namespace of a `KIND/NAMESPACE/NAME`.
    pub fn namespace(&self) -> Option<&str> {
        let mut parts = self.0.split('/');
        let (_, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        (!name.is_empty() && parts.next().is_none()).then_some(namespace)
    }
}

/// `NAMESPACE/NAME` of a Service.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceName {
    /// The Service's namespace.
    pub namespace: Namespace,
    /// The Service's name, an RFC 1123 label (it is a DNS label).
    pub name: Name,
}

impl ServiceName {
    /// Parses the two halves.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        if !is_label(name) {
            return Err(InvalidName::new("service name", name));
        }
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }

    /// Its name on the wire.
    pub fn resource_name(&self) -> ResourceName {
        ResourceName(format!("{}/{}", self.namespace, self.name).into())
    }
}

impl FromStr for ServiceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (namespace, name) =
            text.split_once('/').ok_or_else(|| InvalidName::new("service (NAMESPACE/NAME)", text))?;
        Self::new(namespace, name)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A host name that a client used, without port, as a Service's name: `cart`, `cart.shop`,
/// `cart.shop.svc`, `cart.shop.svc.cluster.local`. The short form is the caller's namespace's.
/// Case is ignored, and one trailing dot. `None`: it is not a name of a Service.
pub fn service_of_host(host: &str, own: &Namespace) -> Option<ServiceName> {
    if host.len() > 253 {
        return None;
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let mut parts = host.splitn(3, '.');
    let name = parts.next()?;
    let namespace = parts.next().unwrap_or(own.as_str());
    match parts.next() {
        None | Some("svc" | "svc.cluster.local") => ServiceName::new(namespace, name).ok(),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_services_in_four_forms() {
        let own: Namespace = "web".parse().unwrap();
        let named = |host| service_of_host(host, &own).map(|name| name.to_string());
        assert_eq!(named("cart").as_deref(), Some("web/cart"));
        assert_eq!(named("Cart.Shop").as_deref(), Some("shop/cart"));
        assert_eq!(named("cart.shop.svc").as_deref(), Some("shop/cart"));
        assert_eq!(named("cart.shop.svc.cluster.local.").as_deref(), Some("shop/cart"));
        assert_eq!(named("cart.example.com"), None);
        assert_eq!(named("127.0.0.1"), None);
        assert_eq!(named(""), None);
    }

    #[test]
    fn names_out_of_grammar_are_refused() {
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "a b", &"x".repeat(64)] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad:?}");
        }
        assert!("shop/cart-1".parse::<WorkloadUid>().is_ok());
        assert!("shop/cart/1".parse::<WorkloadUid>().is_err());
        assert_eq!("HTTPRoute/shop/a".parse::<ResourceName>().unwrap().namespace(), Some("shop"));
    }
}
