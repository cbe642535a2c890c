//! How a connection to one place is made: TCP, then mutual TLS where a proxy must prove who it is.

use crate::metrics::Direction;
use crate::stream::Stream;
use crate::tls::{Connector, MeshAlpn};
use crate::worker::Worker;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use weft_model::reason::Reason;

/// How long a TCP and TLS handshake may take together. Within a cluster a second is three lost
/// packets; longer, and another endpoint is the better try. `outbound.connectTimeout` says otherwise.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How to get a connection.
#[derive(Clone, Debug)]
pub enum Dial {
    /// In plaintext.
    Plain,
    /// By mutual TLS, to a proxy that must prove who it is.
    Mesh {
        /// Checks the identity.
        connector: Arc<Connector>,
        /// What the connection is for.
        server_name: Arc<str>,
    },
}

// === impl Dial ===

impl Dial {
    /// Makes one.
    pub(super) async fn connect(
        &self,
        worker: &Worker,
        address: SocketAddr,
        direction: Direction,
        alpn: MeshAlpn,
    ) -> Result<Stream, Reason> {
        let timeout = match direction {
            Direction::Outbound => worker.shared.settings.outbound.connect_timeout,
            // The application beside the proxy.
            Direction::Inbound => DEFAULT_CONNECT_TIMEOUT,
        };
        let deadline = Instant::now() + timeout;
        let tcp = match tokio::time::timeout_at(deadline.into(), self.tcp(worker, address)).await {
            Err(_) => return Err(Reason::ConnectTimeout),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "connect failed");
                return Err(Reason::ConnectFailed);
            }
            Ok(Ok(tcp)) => tcp,
        };
        match self {
            Self::Plain => Ok(Stream::Tcp(tcp)),
            Self::Mesh { connector, server_name } => {
                let stream = connector.connect(tcp, server_name, alpn, deadline).await.map_err(|error| {
                    tracing::info!(%address, expected = %connector.expected(), %error, "mesh handshake failed");
                    error.reason()
                })?;
                worker.connections.handshake(direction, alpn.as_str(), is_resumed(&stream));
                Ok(stream)
            }
        }
    }

    async fn tcp(&self, worker: &Worker, address: SocketAddr) -> io::Result<TcpStream> {
        let to_itself = matches!(self, Self::Mesh { .. })
            && worker.is_redirected_to_itself(&worker.policy.current(), address.ip());
        if to_itself {
            worker.dialler.connect_to_itself(address).await
        } else {
            worker.dialler.connect(address).await
        }
    }
}

fn is_resumed(stream: &Stream) -> bool {
    match stream {
        Stream::TlsClient(tls) => tls.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        _ => false,
    }
}
