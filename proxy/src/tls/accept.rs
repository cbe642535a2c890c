//! The server side of a mesh connection: a handshake in, a proven peer out.
//!
//! A client certificate is mandatory, the ALPN is one of the mesh's, the server name is of the
//! mesh's form. A resumed session's chain is judged again by the verifier of now, since rustls asks
//! no verifier then. Whether the server name is this workload's is the data path's question.

use super::verify::{Side, VerifyError};
use super::wire::Wire;
use super::{MeshAlpn, Tls};
use crate::stream::Stream;
use rustls::HandshakeKind;
use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use weft_model::names::{InvalidName, WorkloadUid};
use weft_model::sni::MeshServerName;
use weft_model::spiffe::SpiffeId;
use weft_model::workload::Description;

/// A connection of the mesh.
#[derive(Debug)]
pub struct Accepted {
    /// Its bytes.
    pub stream: Stream,
    /// Who is at the other end.
    pub peer: Arc<Peer>,
    /// What it carries.
    pub alpn: MeshAlpn,
    /// What it is for, as the client says.
    pub server_name: MeshServerName,
    /// Whether the handshake was a resumed one.
    pub resumed: bool,
}

/// A client that has proven who it is.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its identity.
    pub identity: SpiffeId,
    /// What metrics call it: the authority's words, `unknown` for another trust domain's.
    pub description: Arc<Description>,
    /// Which workload it is, where the authority says that.
    pub uid: Option<WorkloadUid>,
    /// Until when its certificate is valid.
    pub not_after: SystemTime,
    /// What `x-forwarded-client-cert` says of its certificate.
    pub presented: Arc<str>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// This proxy has no certificate yet.
    #[error("this proxy has no certificate yet")]
    NoCertificate,
    /// This proxy's own certificate is past its time.
    #[error("this proxy's own certificate has expired (own_cert_expired)")]
    OwnCertificateExpired,
    /// The handshake did not end in time.
    #[error("the TLS handshake did not end in time")]
    Timeout,
    /// The handshake failed; the source says why.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// No ALPN of the mesh.
    #[error("the client offered no protocol of the mesh")]
    Alpn,
    /// No server name, or none of the mesh's form.
    #[error("the client named no destination of the mesh")]
    ServerName(#[source] Option<InvalidName>),
    /// A resumed session of a client that is not believed any more.
    #[error("the client is not believed any more")]
    Peer(#[source] VerifyError),
}

impl AcceptError {
    /// A word for metrics, of a closed list.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::OwnCertificateExpired => "own_cert_expired",
            Self::Timeout => "timeout",
            Self::Handshake(error) => handshake_label(error),
            Self::Alpn => "alpn",
            Self::ServerName(_) => "server_name",
            Self::Peer(VerifyError::Expired) => "peer_cert_expired",
            Self::Peer(_) => "peer_not_trusted",
        }
    }
}

fn handshake_label(error: &io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired)) => "peer_cert_expired",
        Some(rustls::Error::InvalidCertificate(_)) => "peer_not_trusted",
        Some(rustls::Error::NoCertificatesPresented) => "no_client_certificate",
        Some(rustls::Error::NoApplicationProtocol) => "alpn",
        Some(_) => "handshake",
        None => "io",
    }
}

impl Tls {
    /// Performs a handshake as server, ending by `deadline`.
    pub async fn accept(&self, tcp: TcpStream, deadline: Instant) -> Result<Accepted, AcceptError> {
        let state = self.state();
        let config = state.server.clone().ok_or(AcceptError::NoCertificate)?;
        // Fails closed here, with the reason, rather than with an alert in the client's log.
        if state.own.as_ref().is_some_and(|own| own.own().not_after() <= self.now()) {
            return Err(AcceptError::OwnCertificateExpired);
        }
        let handshake = TlsAcceptor::from(config).accept(Wire::new(tcp));
        let tls = tokio::time::timeout_at(deadline.into(), handshake)
            .await
            .map_err(|_| AcceptError::Timeout)?
            .map_err(AcceptError::Handshake)?;

        let connection = tls.get_ref().1;
        let alpn = connection.alpn_protocol().and_then(MeshAlpn::from_bytes).ok_or(AcceptError::Alpn)?;
        let server_name = connection.server_name().ok_or(AcceptError::ServerName(None))?;
        let server_name = server_name.parse().map_err(|error| AcceptError::ServerName(Some(error)))?;
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let chain = connection.peer_certificates().unwrap_or_default();
        // After every handshake, and by the trust and the clock of now: rustls asks no verifier on a
        // resumed one. A chain that was believed a moment ago is known again at no cost.
        let leaf = self.state().verifier.check(chain, Side::Client, self.now()).map_err(AcceptError::Peer)?;
        let peer = Arc::new(Peer {
            identity: leaf.identity.clone(),
            description: state.verifier.description(&leaf),
            uid: state.verifier.uid(&leaf).cloned(),
            not_after: leaf.not_after,
            presented: leaf.presented.clone(),
        });
        Ok(Accepted { stream: Stream::TlsServer(Box::new(tls)), peer, alpn, server_name, resumed })
    }
}
