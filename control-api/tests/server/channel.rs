//! Connections to the gRPC port: TLS with the server's identity verified, HTTP/2, and what is presented.

use crate::fixture::TestServer;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;
use tokio::net::TcpStream;
use tonic::body::Body;
use weft_control::ca::issuer::Issuer;
use weft_control::tls::{PeerCertificate, provider};
use weft_model::proto::v1::CertifyRequest;
use weft_model::spiffe::SpiffeId;

const CONTROL: &str = "spiffe://cluster.local/ns/weft-system/sa/weft-control";

/// What a caller presents.
#[derive(Clone, Copy)]
pub(crate) enum Caller<'a> {
    Anonymous,
    Svid(&'a Svid),
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub(crate) struct Svid {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) identity: String,
    pub(crate) key: Vec<u8>,
}

/// An HTTP/2 connection as tonic's clients want it.
#[derive(Clone)]
pub(crate) struct Channel(hyper::client::conn::http2::SendRequest<Body>);

/// Trusts the authority's roots, and the control API's identity alone.
#[derive(Debug)]
struct Verifier {
    roots: Vec<CertificateDer<'static>>,
}

/// Connects, with the server verified as a proxy would.
pub(crate) async fn connect(server: &TestServer, caller: Caller<'_>) -> Result<(Channel, Vec<u8>), String> {
    let roots = fs::read(server.state().join("roots.pem")).unwrap();
    let roots = CertificateDer::pem_slice_iter(&roots).collect::<Result<_, _>>().unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { roots }));
    let mut config = match caller {
        Caller::Anonymous => builder.with_no_client_auth(),
        Caller::Svid(svid) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.key.clone()));
            builder.with_client_auth_cert(svid.chain.clone(), key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(server.address()).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from("weft-control").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    let session = stream.get_ref().1;
    assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    let leaf = session.peer_certificates().unwrap()[0].to_vec();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
    weft_runtime::spawn("test-client", connection);
    Ok((Channel(sender), leaf))
}

/// A certificate signed outside the server.
pub(crate) fn svid_by(issuer: &Issuer, identity: &SpiffeId, at: SystemTime) -> Svid {
    let key = KeyPair::generate().unwrap();
    let issued = issuer.sign(&key, identity, None, at).unwrap();
    Svid { chain: vec![issued.certificate], identity: identity.to_string(), key: key.serialize_der() }
}

/// A certificate of the authority's key that its issuer would never sign. `dns` stands for a DNS name.
pub(crate) fn odd_svid(state: &Path, names: &[&str], client: bool) -> Svid {
    let ca_key = KeyPair::from_pem(&fs::read_to_string(state.join("ca.key")).unwrap()).unwrap();
    let ca = rcgen::Issuer::from_ca_cert_pem(&fs::read_to_string(state.join("roots.pem")).unwrap(), ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    for name in names {
        params.subject_alt_names.push(match *name {
            "dns" => SanType::DnsName("cart.shop".try_into().unwrap()),
            uri => SanType::URI(uri.try_into().unwrap()),
        });
    }
    params.extended_key_usages =
        vec![if client { ExtendedKeyUsagePurpose::ClientAuth } else { ExtendedKeyUsagePurpose::ServerAuth }];
    let signed = params.signed_by(&key, &ca.unwrap()).unwrap();
    let identity = names.first().copied().unwrap_or_default().to_owned();
    Svid { chain: vec![signed.der().clone()], identity, key: key.serialize_der() }
}

pub(crate) fn origin() -> http::Uri {
    http::Uri::from_static("https://weft-control")
}

pub(crate) fn request_for(workload: &str) -> CertifyRequest {
    CertifyRequest { workload: workload.to_owned(), ..CertifyRequest::default() }
}

// === impl Channel ===

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

// === impl Verifier ===

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let anchors: Vec<_> =
            self.roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
        let leaf = webpki::EndEntityCert::try_from(end_entity).unwrap();
        let usage = webpki::KeyUsage::server_auth();
        let algorithms = provider().signature_verification_algorithms.all;
        leaf.verify_for_usage(algorithms, &anchors, intermediates, now, usage, None, None)
            .map_err(|error| Error::General(error.to_string()))?;
        assert_eq!(PeerCertificate::read(end_entity).unwrap().identity().as_str(), CONTROL);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("only TLS 1.3 is offered")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
