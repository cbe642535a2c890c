//! One fetch of a key set: resolve, connect, ask, read; bounded in time and size, no redirects.
//!
//! The address that was judged is the one that is connected to: a name that changes its mind in
//! between leads nowhere else.

use super::JwksSettings;
use super::address::Target;
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, version};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_model::jwks::{JWKS_LENGTH_MAX, JwksError};
use weft_model::request_authentication::KeySource;

/// Why keys were not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URI is none that could be fetched.
    #[error("the URL is not http(s)://HOST/PATH")]
    Uri,
    /// No host is allowed.
    #[error("no host is allowed to be asked for keys: name it in --jwks-hosts (WEFT_JWKS_HOSTS)")]
    NoHostAllowed,
    /// The host is not allowed.
    #[error("the host {0} (with its port) is not in --jwks-hosts (WEFT_JWKS_HOSTS)")]
    HostNotAllowed(String),
    /// It is plain http.
    #[error("keys are not fetched over plain http (but from loopback with --jwks-loopback-http)")]
    Insecure,
    /// The name has no address.
    #[error("the host's name cannot be resolved")]
    Resolve(#[source] io::Error),
    /// An address of the host may not be called.
    #[error(
        "the host has the address {0}, which is private or special: if that is right, name it in --jwks-private-hosts"
    )]
    Address(std::net::IpAddr),
    /// No connection.
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    /// The roots cannot be used.
    #[error("the roots {0} (--jwks-roots) cannot be read, or hold no certificate")]
    Roots(String),
    /// The host did not prove who it is.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// HTTP failed.
    #[error("the request failed")]
    Http(#[source] hyper::Error),
    /// It answered with another status than 200. Redirects are not followed.
    #[error("the answer has status {0} (redirects are not followed)")]
    Status(u16),
    /// It is too large.
    #[error("the answer is larger than {JWKS_LENGTH_MAX} bytes")]
    TooLarge,
    /// It is no text.
    #[error("the answer is not UTF-8")]
    Text,
    /// It took too long.
    #[error("the fetch took longer than its timeout")]
    Timeout,
    /// It is no key set.
    #[error("the answer is not a key set")]
    Keys(#[source] JwksError),
    /// None of its keys can be used.
    #[error("the key set has no key that can be used")]
    Unusable,
}

/// Fetches a key set's text.
pub async fn fetch(source: &KeySource, settings: &JwksSettings) -> Result<String, FetchError> {
    let target = Target::parse(&source.uri, settings)?;
    let fetched = tokio::time::timeout(source.timeout, fetch_from(&target, &settings.jwks_roots));
    fetched.await.unwrap_or(Err(FetchError::Timeout))
}

async fn fetch_from(target: &Target, roots: &Path) -> Result<String, FetchError> {
    let resolved = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
    let addresses: Vec<SocketAddr> = resolved.map_err(FetchError::Resolve)?.collect();
    // One that is refused refuses all: an answer that mixes them is made to get past this.
    if let Some(refused) = addresses.iter().find(|address| !target.allows(address.ip())) {
        return Err(FetchError::Address(refused.ip()));
    }
    let stream = connect(&addresses).await?;
    if !target.secure {
        return ask(stream, target).await;
    }
    let config = client_config(roots)?;
    let name = ServerName::try_from(target.host.clone()).map_err(|_| FetchError::Uri)?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(FetchError::Tls)?;
    ask(stream, target).await
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, FetchError> {
    let nothing = || FetchError::Resolve(io::ErrorKind::NotFound.into());
    let mut failed = nothing();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = FetchError::Connect(*address, error),
        }
    }
    Err(failed)
}

fn client_config(roots: &Path) -> Result<Arc<ClientConfig>, FetchError> {
    let unusable = || FetchError::Roots(roots.display().to_string());
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(roots).map_err(|_| unusable())?;
    store.add_parsable_certificates(certificates.filter_map(Result::ok));
    if store.is_empty() {
        return Err(unusable());
    }
    let provider = Arc::new(crate::tls::provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|_| unusable())?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    target: &Target,
) -> Result<String, FetchError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, String>(TokioIo::new(stream))
        .await
        .map_err(FetchError::Http)?;
    let request = http::Request::get(&target.path)
        .header(http::header::HOST, &target.authority)
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::USER_AGENT, "weft-control")
        .body(String::new())
        .map_err(|_| FetchError::Uri)?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        if response.status() != http::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        read(response.into_body()).await
    };
    tokio::pin!(asked);
    tokio::select! {
        read = &mut asked => read,
        ended = connection => {
            // It may have ended with the answer complete.
            ended.map_err(FetchError::Http)?;
            asked.await
        }
    }
}

async fn read(mut body: Incoming) -> Result<String, FetchError> {
    let mut text = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame.map_err(FetchError::Http)?.into_data() else { continue };
        if text.len() + data.len() > JWKS_LENGTH_MAX {
            return Err(FetchError::TooLarge);
        }
        text.extend_from_slice(&data);
    }
    String::from_utf8(text).map_err(|_| FetchError::Text)
}
