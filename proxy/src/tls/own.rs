//! The certificate by which this proxy proves who it is, to servers and to clients.
//!
//! Immutable: a renewed certificate is a new resolver, which is what makes rustls drop the sessions
//! that were made under the old one.

use super::leaf;
use super::verify::VerifyError;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::SystemTime;
use weft_model::names::WorkloadUid;
use weft_model::spiffe::SpiffeId;

/// A chain with its key, which belong together, and what the leaf says.
#[derive(Clone, Debug)]
pub struct OwnCertificate {
    key: Arc<CertifiedKey>,
    identity: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    uid: Option<WorkloadUid>,
}

/// Why a chain and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnCertificateError {
    /// There is no certificate in it.
    #[error("the certificate chain is empty")]
    Empty,
    /// The leaf is not an SVID.
    #[error("the certificate is not an SVID of the mesh")]
    Leaf(#[source] VerifyError),
    /// The key is not a key, or another certificate's.
    #[error("the private key does not fit the certificate")]
    Key(#[source] rustls::Error),
}

/// Gives the certificate to rustls.
#[derive(Debug)]
pub struct OwnResolver {
    own: OwnCertificate,
}

// === impl OwnCertificate ===

impl OwnCertificate {
    /// Puts chain and key together.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, OwnCertificateError> {
        let first = chain.first().ok_or(OwnCertificateError::Empty)?;
        let read = leaf::read(first).map_err(OwnCertificateError::Leaf)?;
        let key = CertifiedKey::from_der(chain, key, &super::provider()).map_err(OwnCertificateError::Key)?;
        Ok(Self {
            key: Arc::new(key),
            identity: read.identity,
            not_before: read.not_before,
            not_after: read.not_after,
            serial: read.serial,
            uid: read.description.map(|(uid, _)| uid),
        })
    }

    /// Whose it is.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// From when it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its serial number, in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Which workload it is for, where the authority says that.
    pub fn uid(&self) -> Option<&WorkloadUid> {
        self.uid.as_ref()
    }

    /// The chain, the leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }
}

// === impl OwnResolver ===

impl OwnResolver {
    pub(super) fn new(own: OwnCertificate) -> Self {
        Self { own }
    }

    /// What it gives.
    pub fn own(&self) -> &OwnCertificate {
        &self.own
    }

    /// Whose it is.
    pub fn identity(&self) -> &SpiffeId {
        &self.own.identity
    }
}

impl ResolvesServerCert for OwnResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.own.key.clone())
    }
}

impl ResolvesClientCert for OwnResolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.own.key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
