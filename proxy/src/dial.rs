//! Every TCP connection that this process makes begins here, so that none of them is redirected back
//! to it.
//!
//! Where the redirection knows the proxy by a mark, the mark is set before the connection is made; a
//! mark that cannot be set fails the connection, it never leaves without. It knows nothing of what the
//! connection is for, and waits for as long as its caller lets it.

use crate::rules::settings::Bypass;
use crate::socket::TcpSettings;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream};

/// How this process dials.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialler {
    mark: Option<u32>,
    tcp: TcpSettings,
}

// === impl Dialler ===

impl Dialler {
    /// For a pod whose redirection knows the proxy so. `None`: nothing is redirected. What it dials is set so.
    pub fn new(bypass: Option<Bypass>, tcp: TcpSettings) -> Self {
        let mark = bypass.and_then(|bypass| match bypass {
            Bypass::Mark(mark) => Some(mark),
            // The kernel sees whose socket it is.
            Bypass::User(_) | Bypass::Group(_) => None,
        });
        Self { mark, tcp }
    }

    /// Connects.
    pub async fn connect(self, address: SocketAddr) -> io::Result<TcpStream> {
        self.socket(address)?.connect(address).await
    }

    /// Connects to this pod's own address as a peer would: from a loopback address, which the
    /// redirection takes to the inbound port (the rule "the proxy calls its own workload").
    pub async fn connect_to_itself(self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(address)?;
        let loopback = match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        // The port is chosen at connect, when the kernel knows both ends: it may then be one that another
        // connection has to elsewhere. Chosen here, ports would run out.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(loopback, 0))?;
        socket.connect(address).await
    }

    /// Connects to the first address that answers of those a name stands for.
    pub async fn connect_to_name(self, name: &str) -> io::Result<TcpStream> {
        let mut last = None;
        for address in tokio::net::lookup_host(name).await? {
            match self.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
    }

    fn socket(self, address: SocketAddr) -> io::Result<TcpSocket> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        self.tcp.apply(&socket)?;
        Ok(socket)
    }
}
