//! TLS to the control API: bootstrap trust from a file, and its SPIFFE ID checked in the handshake.
//!
//! The roots are read anew for every connection, so that a replaced file holds at once. The
//! handshake fails unless the server proves the one identity that is expected, so that no token is
//! sent to anybody else. Sessions are not resumed: connections are rare, and are judged in full.

use super::own::OwnResolver;
use super::verify::{Side, Trust, TrustError, Verifier, VerifyError};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use weft_model::names::{Name, Namespace};
use weft_model::spiffe::{SpiffeId, TrustDomain};
use weft_model::trust::TrustBundle;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The largest file of roots that is read: a hundred certificates and more.
const ROOTS_BYTES_MAX: u64 = 1 << 20;

/// Why there is no configuration for connections to the control API.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The file of roots cannot be read.
    #[error("the control API's roots cannot be read from {path} (control.roots)")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file of roots holds no certificate, or something that is none.
    #[error("{path} (control.roots) is not a PEM file of certificates: {why}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The identity to expect was neither set nor can be told from the roots.
    #[error(
        "the first certificate of {path} (control.roots) names no trust domain; set control.spiffeId to \
         the control API's SPIFFE ID"
    )]
    TrustDomain {
        /// Which.
        path: PathBuf,
    },
    /// A root cannot be used.
    #[error("a certificate of control.roots cannot be used")]
    Trust(#[source] TrustError),
    /// What rustls says.
    #[error("TLS cannot be configured")]
    Configuration(#[source] rustls::Error),
}

/// Accepts the control API and nobody else.
#[derive(Debug)]
struct AuthorityVerifier {
    verifier: Verifier,
    expected: SpiffeId,
}

/// Makes the configuration of one connection. `own`: the certificate to prove who we are by, once
/// there is one.
pub fn client_config(
    roots: &Path,
    expected: Option<&SpiffeId>,
    own: Option<Arc<OwnResolver>>,
) -> Result<ClientConfig, AuthorityError> {
    let certificates = read_roots(roots)?;
    let expected = match expected {
        Some(expected) => expected.clone(),
        None => default_identity(&certificates)
            .ok_or_else(|| AuthorityError::TrustDomain { path: roots.to_owned() })?,
    };
    let trust_domain: TrustDomain =
        expected.trust_domain().parse().expect("a SPIFFE ID's trust domain must parse");
    let bundle =
        TrustBundle { trust_domain, roots: certificates.iter().map(|root| root.as_ref().to_vec()).collect() };
    let trust = Trust::new([&bundle]).map_err(AuthorityError::Trust)?;
    let provider = Arc::new(super::provider());
    let verifier = AuthorityVerifier { verifier: Verifier::new(trust, None, &provider), expected };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(AuthorityError::Configuration)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(own),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let read = |source| AuthorityError::Read { path: path.to_owned(), source };
    let parse = |why: String| AuthorityError::Parse { path: path.to_owned(), why };
    let length = std::fs::metadata(path).map_err(read)?.len();
    if length > ROOTS_BYTES_MAX {
        return Err(parse(format!("it is larger than {ROOTS_BYTES_MAX} bytes")));
    }
    let pem = std::fs::read(path).map_err(read)?;
    let roots: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| parse(error.to_string()))?;
    if roots.is_empty() {
        return Err(parse("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// `weft-control` in `weft-system`, of the trust domain that the first root names.
fn default_identity(roots: &[CertificateDer<'_>]) -> Option<SpiffeId> {
    let (_, root) = X509Certificate::from_der(roots.first()?).ok()?;
    let names = root.subject_alternative_name().ok()??;
    let trust_domain = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://")?.parse::<TrustDomain>().ok(),
        _ => None,
    })?;
    let namespace: Namespace = "weft-system".parse().expect("a constant namespace must parse");
    let name: Name = "weft-control".parse().expect("a constant name must parse");
    Some(SpiffeId::new(&trust_domain, &namespace, &name))
}

// === impl AuthorityVerifier ===

impl ServerCertVerifier for AuthorityVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut chain = vec![leaf.clone()];
        chain.extend(intermediates.iter().cloned());
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let leaf = self.verifier.check(&chain, Side::Server, now).map_err(VerifyError::into_rustls)?;
        if leaf.identity != self.expected {
            let error = WrongAuthority { expected: self.expected.clone(), presented: leaf.identity.clone() };
            return Err(CertificateError::Other(OtherError(Arc::new(error))).into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(&self.verifier, message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(&self.verifier, message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(&self.verifier)
    }
}

/// The server is of the mesh, and not the control API.
#[derive(Debug, thiserror::Error)]
#[error("the server proved to be {presented}, not {expected} (control.spiffeId)")]
struct WrongAuthority {
    expected: SpiffeId,
    presented: SpiffeId,
}
