//! Where a redirected connection was meant to go, and whether the proxy may take it there.
//!
//! The kernel tells the first destination of a connection it redirected. What names one of our own
//! listeners would go round in a circle, and inbound, what names an address that is not this
//! workload's would make the proxy an open relay: both are refused. It dials nothing.

use socket2::SockRef;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

/// The address that the client dialled, IPv4 in IPv4 form.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct OriginalDst(SocketAddr);

/// Why a connection cannot be taken where it was meant to go.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The kernel knows no first destination.
    #[error("the original destination is unknown")]
    Missing(#[source] io::Error),
    /// It was meant for the proxy itself.
    #[error("{0} is this proxy's own: the connection would run in a circle")]
    Loop(SocketAddr),
    /// It was meant for somebody else.
    #[error("{0} is not an address of this workload")]
    NotOurs(SocketAddr),
}

// === impl OriginalDst ===

impl OriginalDst {
    /// The address.
    pub const fn address(self) -> SocketAddr {
        self.0
    }

    /// Asks the kernel about an accepted connection.
    pub fn look_up<S: AsFd>(stream: &S) -> Result<SocketAddr, Refusal> {
        let socket = SockRef::from(stream);
        let local = socket.local_addr().map_err(Refusal::Missing)?;
        let local = local.as_socket().ok_or_else(|| Refusal::Missing(io::ErrorKind::Unsupported.into()))?;
        // IPv4 on a socket of both families is asked for as what it is.
        let found = if local.ip().to_canonical().is_ipv4() {
            socket.original_dst_v4()
        } else {
            socket.original_dst_v6()
        };
        found
            .map_err(Refusal::Missing)?
            .as_socket()
            .ok_or_else(|| Refusal::Missing(io::ErrorKind::InvalidData.into()))
    }

    /// What the application dialled. `local`: where the connection arrived; `listeners`: where this
    /// proxy listens.
    pub fn outbound(found: SocketAddr, local: SocketAddr, listeners: &[SocketAddr]) -> Result<Self, Refusal> {
        let found = canonical(found);
        if found == canonical(local) || is_listener(found, local, listeners) {
            return Err(Refusal::Loop(found));
        }
        Ok(Self(found))
    }

    /// What another workload dialled. `is_own`: whether an address is this workload's.
    pub fn inbound(
        found: SocketAddr,
        local: SocketAddr,
        listeners: &[SocketAddr],
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Result<Self, Refusal> {
        let found = canonical(found);
        // Loopback first: never to be reached from outside, whatever the workload calls its own.
        if found.ip().is_loopback() || found.ip().is_unspecified() || !is_own(found.ip()) {
            return Err(Refusal::NotOurs(found));
        }
        let own = listeners.iter().any(|listener| {
            let listener = canonical(*listener);
            listener.port() == found.port() && (listener.ip().is_unspecified() || listener.ip() == found.ip())
        });
        if own || found == canonical(local) {
            return Err(Refusal::Loop(found));
        }
        Ok(Self(found))
    }
}

/// Outbound, a listener on all addresses is met only where the address is this machine's: somebody
/// else's port of the same number is somebody else's.
fn is_listener(found: SocketAddr, local: SocketAddr, listeners: &[SocketAddr]) -> bool {
    listeners.iter().any(|listener| {
        let listener = canonical(*listener);
        listener.port() == found.port()
            && (listener.ip() == found.ip()
                || (listener.ip().is_unspecified()
                    && (found.ip().is_loopback() || found.ip() == canonical(local).ip())))
    })
}

/// IPv4 in IPv4 form. The scope of a link-local address stays: without it it cannot be dialled.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn listeners() -> [SocketAddr; 3] {
        [at("127.0.0.1:15001"), at("[::]:15006"), at("[::]:15020")]
    }

    #[test]
    fn what_the_application_dialled_is_taken_as_it_is() {
        let local = at("127.0.0.1:15001");
        for (found, expected) in [
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1:80"),
            ("[fe80::1%3]:80", "[fe80::1%3]:80"),
            // The same port on another machine is not ours.
            ("192.0.2.1:15001", "192.0.2.1:15001"),
            ("192.0.2.1:15006", "192.0.2.1:15006"),
        ] {
            let taken = OriginalDst::outbound(at(found), local, &listeners()).unwrap();
            assert_eq!(taken.address(), at(expected), "{found}");
        }
    }

    #[test]
    fn a_circle_is_refused() {
        let local = at("127.0.0.1:15001");
        for found in ["127.0.0.1:15001", "[::ffff:127.0.0.1]:15001", "127.0.0.1:15006", "[::1]:15020"] {
            let refused = OriginalDst::outbound(at(found), local, &listeners());
            assert!(matches!(refused, Err(Refusal::Loop(_))), "{found}");
        }
        let local = at("[::ffff:192.0.2.9]:15006");
        for found in ["192.0.2.9:15006", "192.0.2.9:15020"] {
            let refused = OriginalDst::inbound(at(found), local, &listeners(), |_| true);
            assert!(matches!(refused, Err(Refusal::Loop(_))), "{found}");
        }
    }

    #[test]
    fn inbound_only_this_workloads_addresses_are_served() {
        let local = at("192.0.2.9:15006");
        let is_own = |address: IpAddr| address == at("192.0.2.9:1").ip() || address.is_loopback();
        let inbound = |found| OriginalDst::inbound(at(found), local, &listeners(), is_own);
        assert_eq!(inbound("192.0.2.9:80").unwrap().address(), at("192.0.2.9:80"));
        assert_eq!(inbound("[::ffff:192.0.2.9]:80").unwrap().address(), at("192.0.2.9:80"));
        // Loopback-only on the pod, and not reached by way of 15001's port number on its address.
        assert!(inbound("192.0.2.9:15001").is_ok());
        for found in ["192.0.2.10:80", "127.0.0.1:80", "0.0.0.0:80", "[::1]:80", "[2001:db8::1]:80"] {
            assert!(matches!(inbound(found), Err(Refusal::NotOurs(_))), "{found}");
        }
    }

    #[test]
    fn a_connection_that_was_not_redirected_has_no_other_destination() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(local).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        match OriginalDst::look_up(&accepted) {
            // With connection tracking the kernel answers with the address itself, without it not at all.
            Ok(found) => {
                let refused = OriginalDst::outbound(found, local, &[local]);
                assert!(matches!(refused, Err(Refusal::Loop(_))), "{found}");
            }
            Err(refused) => assert!(matches!(refused, Refusal::Missing(_)), "{refused}"),
        }
    }
}
