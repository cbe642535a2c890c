//! Certificates for tests, good and bad, and a TLS client and server that use them.

use crate::wait;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

/// What a certificate is to look like.
#[derive(Clone, Debug)]
pub struct Shape {
    uris: Vec<String>,
    dns: Vec<String>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Svid {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The key, PEM.
    pub key_pem: String,
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

// === impl Authority ===

impl Authority {
    /// A new root for this trust domain: nobody trusts it.
    pub fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a root of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
        let root_pem = params.self_signed(&key).expect("a root").pem();
        Self { issuer: Issuer::new(params, key), root_pem }
    }

    /// The mesh's own, from the control API's state directory.
    pub fn of_mesh(state: &Path) -> Self {
        let read = |name| std::fs::read_to_string(state.join(name)).expect("the control API has started");
        let key = KeyPair::from_pem(&read("ca.key")).expect("a key in PEM");
        let root_pem = read("roots.pem");
        let issuer = Issuer::from_ca_cert_pem(&root_pem, key).expect("a root in PEM");
        Self { issuer, root_pem }
    }

    /// The root, PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Issues a certificate.
    pub fn issue(&self, shape: &Shape) -> Svid {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.not_before = shape.not_before;
        params.not_after = shape.not_after;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = shape.uris.iter().map(|text| uri(text)).collect();
        for name in &shape.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().expect("ASCII")));
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Svid {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        }
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("a URI is ASCII"))
}

// === impl Shape ===

impl Shape {
    /// A valid SVID of this identity.
    pub fn svid(spiffe_id: &str) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            uris: vec![spiffe_id.to_owned()],
            dns: Vec::new(),
            not_before: now - Duration::from_secs(120),
            not_after: now + Duration::from_secs(3600),
        }
    }

    /// With one more URI.
    pub fn and_uri(mut self, text: &str) -> Self {
        self.uris.push(text.to_owned());
        self
    }

    /// With a DNS name instead of any URI.
    pub fn dns_only(mut self, name: &str) -> Self {
        self.uris.clear();
        self.dns.push(name.to_owned());
        self
    }

    /// That ended a minute ago.
    pub fn expired(mut self) -> Self {
        let now = OffsetDateTime::now_utc();
        self.not_before = now - Duration::from_secs(3600);
        self.not_after = now - Duration::from_secs(60);
        self
    }

    /// That starts in an hour.
    pub fn not_yet_valid(mut self) -> Self {
        let now = OffsetDateTime::now_utc();
        self.not_before = now + Duration::from_secs(3600);
        self.not_after = now + Duration::from_secs(7200);
        self
    }
}

// === impl Svid ===

impl Svid {
    fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key().into()
    }

    /// A TLS server that shows this certificate, asks clients for none, and speaks `alpn`.
    pub fn server(&self, alpn: &[u8]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key())
            .expect("a certificate and its key");
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }
}

/// Opens TLS to `address`, believing whatever the server shows. In TLS 1.3 a server that refuses
/// the client's certificate says so only after this; see [`judged`].
pub async fn handshake(
    address: SocketAddr,
    svid: Option<&Svid>,
    server_name: &str,
    alpn: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    handshake_over(TcpStream::connect(address).await?, svid, server_name, alpn).await
}

/// Opens TLS over a connection, believing whatever the server shows.
pub async fn handshake_over(
    stream: TcpStream,
    svid: Option<&Svid>,
    server_name: &str,
    alpn: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believe(provider().signature_verification_algorithms)));
    let mut config = match svid {
        Some(svid) => builder
            .with_client_auth_cert(vec![svid.certificate.clone()], svid.key())
            .expect("a certificate and its key"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(server_name.to_owned()).map_err(io::Error::other)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    wait::within("a TLS handshake ends", connector.connect(name, stream)).await
}

/// Opens TLS, sends `request` and gives the first bytes of the answer; an error is the server's
/// refusal, by alert or by closing.
pub async fn judged(
    address: SocketAddr,
    svid: Option<&Svid>,
    server_name: &str,
    alpn: &[&[u8]],
    request: &[u8],
) -> io::Result<Vec<u8>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = handshake(address, svid, server_name, alpn).await?;
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut bytes = vec![0; 16 * 1024];
    let count = wait::within("the server answers or closes", stream.read(&mut bytes)).await?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(count);
    Ok(bytes)
}

fn provider() -> Arc<CryptoProvider> {
    // As the mesh's own clients: the hybrid group first, the plain one for those that lack it.
    let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519];
    Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
}

/// Believes every server, so that a test sees what the server does rather than what a client thinks.
#[derive(Debug)]
struct Believe(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Believe {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// An application with TLS of its own, which is not the mesh's: answers each connection with `answer`.
pub fn answer_over_tls(listener: TcpListener, answer: Vec<u8>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let svid = Authority::new("health.example").issue(&Shape::svid("spiffe://health.example/ns/a/sa/b"));
    let acceptor = tokio_rustls::TlsAcceptor::from(svid.server(b"http/1.1"));
    wait::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            wait::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 256];
                // What goes wrong from here on is the client's doing: it may have had enough.
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
}

/// A server that speaks TLS with a certificate of the test's making, and answers every request with
/// `200`: an impostor on a workload's address.
#[derive(Debug)]
pub struct Impostor {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Impostor {
    /// Listens on a free port.
    pub async fn start(svid: &Svid, alpn: &'static [u8]) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let acceptor = tokio_rustls::TlsAcceptor::from(svid.server(alpn));
        let task = wait::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                wait::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut request = [0; 4096];
                    if matches!(stream.read(&mut request).await, Ok(count) if count > 0) {
                        let answer =
                            b"HTTP/1.1 200 OK\r\nx-application: impostor\r\ncontent-length: 0\r\n\r\n";
                        let _ = stream.write_all(answer).await;
                    }
                });
            }
        });
        Self { address, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
