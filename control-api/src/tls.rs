//! TLS of the gRPC port: version 1.3 only, the hybrid key exchange first, the server's own certificate
//! issued by its own authority, client certificates judged as SVIDs.
//! A client certificate is optional here (the first certificate is asked for without one); what needs
//! one says so itself. Sessions are never resumed: rustls calls no verifier on resumption, and a proxy
//! connects once a day.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    ServerConfig, SignatureScheme, version,
};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use weft_model::certificate;
use weft_model::names::WorkloadUid;
use weft_model::spiffe::{SpiffeId, TrustDomain};
use weft_model::workload::Workload;
use x509_parser::extensions::{GeneralName, ParsedExtension};

/// Who a client has proven to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerCertificate {
    identity: SpiffeId,
    uid: Option<WorkloadUid>,
}

/// What is wrong with a certificate that chains to a root.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PeerCertificateError {
    /// It is not X.509.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// It names none, several, or something else besides.
    #[error("the certificate's alternative names are not exactly one URI")]
    Names,
    /// What it names is not a workload's identity.
    #[error("the certificate's URI is not a SPIFFE ID of a workload")]
    Identity,
    /// It is another trust domain's.
    #[error("the certificate is of trust domain {0}")]
    TrustDomain(String),
}

/// The server's current certificate.
#[derive(Debug, Default)]
pub struct OwnCertificate {
    current: RwLock<Option<Arc<CertifiedKey>>>,
}

/// Judges client certificates.
#[derive(Debug)]
struct SpiffeClientVerifier {
    anchors: Vec<TrustAnchor<'static>>,
    trust_domain: TrustDomain,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The cryptography, with the hybrid group first: what is recorded today must not be read later.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// The server's configuration.
pub fn server_config(
    roots: &[CertificateDer<'_>],
    trust_domain: &TrustDomain,
    own: Arc<OwnCertificate>,
) -> Result<ServerConfig, Error> {
    let provider = provider();
    let anchors = roots
        .iter()
        .map(|root| Ok(webpki::anchor_from_trusted_cert(root)?.to_owned()))
        .collect::<Result<_, webpki::Error>>()
        .map_err(|error| Error::General(format!("a root cannot be used: {error}")))?;
    let verifier = SpiffeClientVerifier {
        anchors,
        trust_domain: trust_domain.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

// === impl PeerCertificate ===

impl PeerCertificate {
    /// Reads whom a certificate names. It must have been verified.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, PeerCertificateError> {
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(der).map_err(|_| PeerCertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(PeerCertificateError::Malformed);
        }
        let mut names = parsed.extensions().iter().filter_map(|held| match held.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(names),
            _ => None,
        });
        // Every kind of name is looked at: what this parser cannot read counts as a name too.
        let (Some(names), None) = (names.next(), names.next()) else {
            return Err(PeerCertificateError::Names);
        };
        let [GeneralName::URI(uri)] = names.general_names.as_slice() else {
            return Err(PeerCertificateError::Names);
        };
        let identity = uri.parse().map_err(|_| PeerCertificateError::Identity)?;
        let described = parsed.extensions().iter().find(|held| {
            held.oid.iter().is_some_and(|arcs| arcs.eq(certificate::EXTENSION_OID.iter().copied()))
        });
        let uid = match described {
            Some(held) => {
                Some(certificate::decode(held.value).map_err(|_| PeerCertificateError::Malformed)?.0)
            }
            None => None,
        };
        Ok(Self { identity, uid })
    }

    /// The identity.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// Whether its holder may speak for the workload: it has that identity, and where the certificate
    /// says which workload it is, then that one. Others under the same service account are not it.
    pub fn may_be(&self, workload: &Workload) -> bool {
        self.identity == workload.identity() && self.uid.as_ref().is_none_or(|uid| *uid == workload.uid)
    }
}

impl fmt::Display for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.uid {
            Some(uid) => write!(f, "{} ({uid})", self.identity),
            None => write!(f, "{}", self.identity),
        }
    }
}

// === impl OwnCertificate ===

impl OwnCertificate {
    /// Serves this one from now on. Connections that are open live on.
    pub fn replace(&self, key: CertifiedKey) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === impl SpiffeClientVerifier ===

impl ClientCertVerifier for SpiffeClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let certificate = webpki::EndEntityCert::try_from(end_entity).map_err(refused)?;
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                intermediates,
                now,
                webpki::KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(refused)?;
        let other = |error| Error::from(CertificateError::Other(OtherError(Arc::new(error))));
        let peer = PeerCertificate::read(end_entity).map_err(other)?;
        if peer.identity.trust_domain() != self.trust_domain.as_str() {
            let held = peer.identity.trust_domain().to_owned();
            return Err(other(PeerCertificateError::TrustDomain(held)));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The alert that tells the client what to do about it.
fn refused(error: webpki::Error) -> Error {
    Error::from(match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}
