//! The server name of a mesh connection: what the client means, said in the TLS handshake.
//!
//! `PORT.SERVICE.NAMESPACE` for a Service; `PORT.NAME.NAMESPACE.workload` where a workload's own
//! address was dialled. The server refuses a name that is not one of its own.

use crate::names::{InvalidName, ServiceName, WorkloadUid};
use std::fmt;
use std::str::FromStr;

/// What a mesh connection is for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum MeshServerName {
    /// A port of a Service.
    Service {
        /// The Service's port.
        port: u16,
        /// The Service.
        service: ServiceName,
    },
    /// A port of one workload.
    Workload {
        /// The workload's port.
        port: u16,
        /// The workload, as `NAMESPACE/NAME`.
        uid: WorkloadUid,
    },
}

impl fmt::Display for MeshServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { port, service } => write!(f, "{port}.{}.{}", service.name, service.namespace),
            Self::Workload { port, uid } => match uid.as_str().split_once('/') {
                Some((namespace, name)) => write!(f, "{port}.{name}.{namespace}.workload"),
                None => write!(f, "{port}.{uid}.uid.workload"),
            },
        }
    }
}

impl FromStr for MeshServerName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let refused = || InvalidName::new("mesh server name", text);
        let (port, rest) = text.split_once('.').ok_or_else(refused)?;
        if port.starts_with('0') || port.starts_with('+') {
            return Err(refused());
        }
        let port = port.parse().map_err(|_| refused())?;
        let (head, last) = rest.rsplit_once('.').ok_or_else(refused)?;
        // A Service's name has no dot, so three labels are a Service even in namespace `workload`.
        if last == "workload" && head.contains('.') {
            let (name, namespace) = head.rsplit_once('.').ok_or_else(refused)?;
            let uid = if namespace == "uid" { name.parse() } else { format!("{namespace}/{name}").parse() };
            return Ok(Self::Workload { port, uid: uid.map_err(|_| refused())? });
        }
        let service = ServiceName::new(last, head).map_err(|_| refused())?;
        Ok(Self::Service { port, service })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_went() {
        for text in
            ["80.cart.shop", "80.cart.workload", "8080.cart-1.shop.workload", "8080.a.b.shop.workload"]
        {
            assert_eq!(text.parse::<MeshServerName>().unwrap().to_string(), text);
        }
        for text in
            ["", "80", "80.cart", "x.cart.shop", "080.cart.shop", "80.cart.shop.svc", "70000.a.b", "80..b"]
        {
            assert!(text.parse::<MeshServerName>().is_err(), "{text:?}");
        }
    }
}
