//! The judge of certificates: SPIFFE's rules for X.509-SVIDs, on webpki's path building.
//!
//! A certificate is believed if its subject alternative names hold exactly one URI and that is a
//! SPIFFE ID of the mesh's form, if it chains to the bundle of that ID's trust domain (and no
//! other's), if it is valid now, may be used for this side of a connection, and is no authority.
//! What a leaf says is read next door (`leaf.rs`), in a pass of our own.

use super::leaf::{Leaf, read, validity};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::{EndEntityCert, KeyUsage};
use weft_model::names::WorkloadUid;
use weft_model::spiffe::TrustDomain;
use weft_model::trust::TrustBundle;
use weft_model::workload::Description;

/// Chains that are known again, per side: at about a kilobyte each, half a megabyte. When it is full
/// it is emptied: what is in use comes back with the next handshake.
const KNOWN_MAX: usize = 512;

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
///
/// Chains that it has believed it knows again, byte by byte: between two proxies the same few
/// certificates come with every connection, and a signature check is a quarter of a handshake. What
/// a verdict rests on cannot change behind it: trust is fixed for the verifier's life, and the time
/// is looked at again.
pub struct Verifier {
    trust: Trust,
    known: [Mutex<HashMap<Box<[u8]>, Known>>; 2],
    /// The mesh's own: its certificates' descriptions are the mesh's words.
    own_trust_domain: Option<Box<str>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// A chain that was believed; its leaf is the key it is found by.
struct Known {
    intermediates: Vec<CertificateDer<'static>>,
    leaf: Arc<Leaf>,
    /// All certificates of the chain are valid from here ...
    from: SystemTime,
    /// ... to here.
    until: SystemTime,
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
            known: Default::default(),
            own_trust_domain: own_trust_domain.map(Into::into),
            algorithms: provider.signature_verification_algorithms,
        }
    }

    #[cfg(test)]
    pub(super) fn known_count(&self) -> usize {
        self.known(Side::Client).len()
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
    ) -> Result<Arc<Leaf>, VerifyError> {
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::Unreadable)?;
        self.check_parts(leaf, intermediates, side, now)
    }

    fn check_parts(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
        now: SystemTime,
    ) -> Result<Arc<Leaf>, VerifyError> {
        if let Some(known) = self.known(side).get(leaf.as_ref())
            && known.intermediates == intermediates
            && (known.from..=known.until).contains(&now)
        {
            return Ok(known.leaf.clone());
        }
        let read = Arc::new(self.check_in_full(leaf, intermediates, side, now)?);
        let (mut from, mut until) = (read.not_before, read.not_after);
        for intermediate in intermediates {
            let (begins, ends) = validity(intermediate)?;
            (from, until) = (from.max(begins), until.min(ends));
        }
        let intermediates = intermediates.iter().map(|der| der.clone().into_owned()).collect();
        let mut known = self.known(side);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(leaf.as_ref().into(), Known { intermediates, leaf: read.clone(), from, until });
        Ok(read)
    }

    fn check_in_full(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
        now: SystemTime,
    ) -> Result<Leaf, VerifyError> {
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

    fn known(&self, side: Side) -> MutexGuard<'_, HashMap<Box<[u8]>, Known>> {
        let known = &self.known[side as usize];
        // What is in there was whole when it was put there.
        known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What metrics call the holder of a verified leaf: the authority's words in the mesh's own
    /// trust domain, else `unknown`.
    pub fn description(&self, leaf: &Leaf) -> Arc<Description> {
        let own = self.own_trust_domain.as_deref() == Some(leaf.identity.trust_domain());
        match &leaf.description {
            Some((_, description)) if own => description.clone(),
            _ => Arc::default(),
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
    ) -> Result<Arc<Leaf>, rustls::Error> {
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.check_parts(leaf, intermediates, side, now).map_err(VerifyError::into_rustls)
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
