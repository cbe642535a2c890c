//! The server's own certificate: issued in memory by its own authority, and renewed at half of its life
//! for ever. A new one is for new connections; those that are open live on.

use crate::ca::issuer::{Issued, Issuer};
use crate::tls::{OwnCertificate, provider};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::sleep;
use weft_model::spiffe::SpiffeId;

/// The namespace and service account of the control API.
const NAMESPACE: &str = "weft-system";
const SERVICE_ACCOUNT: &str = "weft-control";

/// How long to wait after a renewal that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum OwnCertificateError {
    /// It cannot be signed.
    #[error("it cannot be signed")]
    Sign(#[source] rcgen::Error),
    /// It cannot be used.
    #[error("it cannot be used")]
    Use(#[source] rustls::Error),
}

/// The identity by which proxies know the control API.
pub fn identity(issuer: &Issuer) -> SpiffeId {
    let namespace = NAMESPACE.parse().expect("a constant namespace must parse");
    let service_account = SERVICE_ACCOUNT.parse().expect("a constant name must parse");
    SpiffeId::new(issuer.root().trust_domain(), &namespace, &service_account)
}

/// Makes a key and a certificate, and serves them from now on.
pub fn renew(own: &OwnCertificate, issuer: &Issuer, now: SystemTime) -> Result<Issued, OwnCertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(OwnCertificateError::Sign)?;
    let issued = issuer.sign(&key, &identity(issuer), None, now).map_err(OwnCertificateError::Sign)?;
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let certified = CertifiedKey::from_der(vec![issued.certificate.clone()], private, &provider())
        .map_err(OwnCertificateError::Use)?;
    own.replace(certified);
    Ok(issued)
}

/// Renews for ever. The clock is read each time, so that a suspended machine renews when it wakes.
pub async fn keep(own: Arc<OwnCertificate>, issuer: Issuer) {
    let half = issuer.lifetime() / 2;
    let mut due = SystemTime::now() + half;
    loop {
        // In small steps: timers stand still while a machine sleeps, certificates do not.
        let left = due.duration_since(SystemTime::now()).unwrap_or_default();
        if !left.is_zero() {
            sleep(left.min(Duration::from_secs(30))).await;
            continue;
        }
        match renew(&own, &issuer, SystemTime::now()) {
            Ok(_) => {
                tracing::debug!("renewed the server's own certificate");
                due = SystemTime::now() + half;
            }
            Err(error) => {
                tracing::error!(error = %crate::chain(&error), "the server's own certificate is not renewed");
                sleep(RETRY).await;
            }
        }
    }
}
