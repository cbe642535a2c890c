//! The judge of certificates: SPIFFE's rules for X.509-SVIDs, on webpki's path building.
//!
//! A certificate is believed if its subject alternative names hold exactly one URI and that is a
//! SPIFFE ID of the mesh's form, if it chains to the bundle of that ID's trust domain (and no
//! other's), if it is valid now, may be used for this side of a connection, and is no authority.
//! The names are read in a pass of our own over the extension: webpki skips what it cannot parse,
//! and what was skipped must not make two URIs look like one. Other kinds of names (DNS) may stand
//! beside the URI, as SPIFFE allows; nothing looks at them.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::{EndEntityCert, KeyUsage};
use weft_model::certificate;
use weft_model::names::WorkloadUid;
use weft_model::spiffe::{SpiffeId, TrustDomain};
use weft_model::trust::TrustBundle;
use weft_model::workload::Description;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The roots by trust domain.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    anchors: BTreeMap<TrustDomain, Vec<TrustAnchor<'static>>>,
}

/// A root that is not a certificate.
#[derive(Debug, thiserror::Error)]
#[error("root {index} of trust domain {trust_domain} is not a certificate authority's certificate: {error}")]
pub struct TrustError {
    trust_domain: TrustDomain,
    index: usize,
    error: webpki::Error,
}

/// Judges peers of one state of trust.
pub struct Verifier {
    trust: Trust,
    /// The mesh's own: its certificates' descriptions are the mesh's words.
    own_trust_domain: Option<Box<str>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What a leaf says about its holder. Proves nothing by itself.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Who it is.
    pub identity: SpiffeId,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Which workload it is and what metrics call it, where the authority wrote that.
    pub description: Option<(WorkloadUid, Description)>,
}

/// Which side of the connection the certificate is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The peer connected to us.
    Client,
    /// We connected to the peer.
    Server,
}

/// Why a certificate is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum VerifyError {
    /// It is not a certificate.
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    /// No URI, several, or a name that cannot be read.
    #[error("the peer's certificate does not have exactly one URI name ({0})")]
    Names(&'static str),
    /// The URI is no SPIFFE ID of the mesh's form.
    #[error("the peer's certificate is not of the mesh: {0}")]
    Identity(String),
    /// No bundle of its trust domain is held.
    #[error("the peer's trust domain {0:?} is not trusted")]
    TrustDomain(String),
    /// No chain to a root of its trust domain.
    #[error("the peer's certificate does not lead to a trusted root")]
    UnknownIssuer,
    /// Past its time.
    #[error("the peer's certificate has expired (peer_cert_expired)")]
    Expired,
    /// Before its time, which means that one of the two clocks is wrong.
    #[error("the peer's certificate is not valid yet: one of the two clocks is wrong")]
    NotYetValid,
    /// Its extended key usage forbids this.
    #[error("the peer's certificate is not for this use")]
    Purpose,
    /// All else.
    #[error("the peer's certificate is not acceptable: {0}")]
    Chain(webpki::Error),
}

/// Reads a leaf, without judging it.
pub fn read(leaf: &CertificateDer<'_>) -> Result<Leaf, VerifyError> {
    let (rest, parsed) = X509Certificate::from_der(leaf).map_err(|_| VerifyError::Unreadable)?;
    if !rest.is_empty() {
        return Err(VerifyError::Unreadable);
    }
    let identity = identity(&parsed)?;
    let time = |time: x509_parser::time::ASN1Time| {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
    };
    Ok(Leaf {
        identity,
        not_before: time(parsed.validity().not_before),
        not_after: time(parsed.validity().not_after),
        serial: parsed.raw_serial_as_string(),
        description: description(&parsed),
    })
}

fn identity(parsed: &X509Certificate<'_>) -> Result<SpiffeId, VerifyError> {
    let extension = parsed
        .get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME)
        .map_err(|_| VerifyError::Names("the extension comes twice"))?
        .ok_or(VerifyError::Names("none"))?;
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
        return Err(VerifyError::Names("the extension cannot be read"));
    };
    let mut found = None;
    for name in &names.general_names {
        match name {
            GeneralName::URI(uri) if found.is_none() => found = Some(uri),
            GeneralName::URI(_) => return Err(VerifyError::Names("several")),
            GeneralName::Invalid(..) => return Err(VerifyError::Names("a name cannot be read")),
            _ => {}
        }
    }
    let uri = found.ok_or(VerifyError::Names("none"))?;
    uri.parse().map_err(|error: weft_model::names::InvalidName| VerifyError::Identity(error.to_string()))
}

fn description(parsed: &X509Certificate<'_>) -> Option<(WorkloadUid, Description)> {
    let mut values = parsed.extensions().iter().filter(|extension| {
        extension.oid.iter().is_some_and(|numbers| numbers.eq(certificate::EXTENSION_OID.iter().copied()))
    });
    let value = values.next()?;
    // Two of them are none: which one counts must not depend on who reads.
    if values.next().is_some() {
        return None;
    }
    certificate::decode(value.value).ok()
}

// === impl Trust ===

impl Trust {
    /// From bundles, each of another trust domain.
    pub fn new<'a>(bundles: impl IntoIterator<Item = &'a TrustBundle>) -> Result<Self, TrustError> {
        let mut anchors = BTreeMap::new();
        for bundle in bundles {
            let mut held = Vec::with_capacity(bundle.roots.len());
            for (index, root) in bundle.roots.iter().enumerate() {
                let der = CertificateDer::from(root.as_slice());
                let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|error| TrustError {
                    trust_domain: bundle.trust_domain.clone(),
                    index,
                    error,
                })?;
                held.push(anchor.to_owned());
            }
            anchors.insert(bundle.trust_domain.clone(), held);
        }
        Ok(Self { anchors })
    }

    /// Whose bundles are held.
    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.anchors.keys()
    }

    fn anchors(&self, trust_domain: &str) -> Option<&[TrustAnchor<'static>]> {
        // There are a handful of trust domains at most.
        let found = self.anchors.iter().find(|(held, _)| held.as_str() == trust_domain);
        found.map(|(_, anchors)| anchors.as_slice())
    }
}

// === impl Verifier ===

impl Verifier {
    /// Judges by these roots. Descriptions are believed of `own_trust_domain` only.
    pub fn new(trust: Trust, own_trust_domain: Option<&str>, provider: &CryptoProvider) -> Self {
        Self {
            trust,
            own_trust_domain: own_trust_domain.map(Into::into),
            algorithms: provider.signature_verification_algorithms,
        }
    }

    /// By what it judges.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Judges a chain, leaf first, as of `now`.
    pub fn check(
        &self,
        chain: &[CertificateDer<'_>],
        side: Side,
        now: SystemTime,
    ) -> Result<Leaf, VerifyError> {
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::Unreadable)?;
        let read = read(leaf)?;
        let trust_domain = read.identity.trust_domain();
        let anchors = self
            .trust
            .anchors(trust_domain)
            .ok_or_else(|| VerifyError::TrustDomain(trust_domain.chars().take(255).collect()))?;
        let usage = match side {
            Side::Client => KeyUsage::client_auth(),
            Side::Server => KeyUsage::server_auth(),
        };
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        EndEntityCert::try_from(leaf)
            .and_then(|parsed| {
                parsed
                    .verify_for_usage(self.algorithms.all, anchors, intermediates, now, usage, None, None)
                    .map(|_| ())
            })
            .map_err(VerifyError::from_webpki)?;
        Ok(read)
    }

    /// What metrics call the holder of a verified leaf: the authority's words in the mesh's own
    /// trust domain, else `unknown`.
    pub fn description(&self, leaf: &Leaf) -> Description {
        let own = self.own_trust_domain.as_deref() == Some(leaf.identity.trust_domain());
        match &leaf.description {
            Some((_, description)) if own => description.clone(),
            _ => Description::default(),
        }
    }

    /// The workload of a verified leaf, by the same rule.
    pub fn uid<'a>(&self, leaf: &'a Leaf) -> Option<&'a WorkloadUid> {
        let own = self.own_trust_domain.as_deref() == Some(leaf.identity.trust_domain());
        leaf.description.as_ref().filter(|_| own).map(|(uid, _)| uid)
    }

    fn check_handshake(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<Leaf, rustls::Error> {
        let mut chain = Vec::with_capacity(1 + intermediates.len());
        chain.push(leaf.clone());
        chain.extend(intermediates.iter().cloned());
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.check(&chain, side, now).map_err(VerifyError::into_rustls)
    }

    fn signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("trust_domains", &self.trust.anchors.keys()).finish_non_exhaustive()
    }
}

/// What rustls asks of a version of TLS that is turned off.
fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken".to_owned())
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check_handshake(leaf, intermediates, Side::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Whether it is the identity that was expected is the connector's to say: the verifier is
        // shared by all of them.
        self.check_handshake(leaf, intermediates, Side::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

// === impl VerifyError ===

impl VerifyError {
    fn from_webpki(error: webpki::Error) -> Self {
        match error {
            webpki::Error::CertExpired { .. } => Self::Expired,
            webpki::Error::CertNotValidYet { .. } => Self::NotYetValid,
            // A root of the same name and another key is what a wrong authority most often is.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => Self::UnknownIssuer,
            webpki::Error::RequiredEkuNotFoundContext(_) => Self::Purpose,
            webpki::Error::BadDer | webpki::Error::BadDerTime => Self::Unreadable,
            other => Self::Chain(other),
        }
    }

    pub(super) fn into_rustls(self) -> rustls::Error {
        // What has an alert of its own keeps it, so that the peer's log says why.
        rustls::Error::InvalidCertificate(match self {
            Self::Unreadable => CertificateError::BadEncoding,
            Self::Expired => CertificateError::Expired,
            Self::NotYetValid => CertificateError::NotValidYet,
            Self::UnknownIssuer => CertificateError::UnknownIssuer,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}
