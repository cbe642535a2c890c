//! The certificate authority's root: made on first start and kept in the state directory, `ca.key`
//! (0600) and `roots.pem` (0644), the latter being what proxies are given to trust.
//! `roots.pem` may hold further roots, so that an old and a new one overlap; the one that belongs to
//! the key signs. A key that others could read, or that belongs to none of the roots, is refused.

use crate::state::{StateDirectory, StateError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use weft_model::spiffe::TrustDomain;
use x509_parser::extensions::{GeneralName, ParsedExtension};

/// The key, in the state directory.
pub const KEY_FILE: &str = "ca.key";
/// The roots, in the state directory.
pub const ROOTS_FILE: &str = "roots.pem";

/// A root outlives the machines it is used on; replacing it is a matter of overlapping roots.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How far clocks may be behind when a mesh is set up.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The state directory does not give or take it.
    #[error("the certificate authority's state cannot be used")]
    State(#[source] StateError),
    /// The key file holds no key.
    #[error("{path} holds no usable private key")]
    Key {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// The roots file holds no certificates.
    #[error("{path}: {reason}")]
    Roots {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There are roots and no key.
    #[error("{roots} is there and {key} is not: give the key back, or remove both to start a new authority")]
    KeyMissing {
        /// The file that is missing.
        key: String,
        /// The file that is there.
        roots: String,
    },
    /// The root is another trust domain's.
    #[error(
        "the certificate authority in the state directory is that of trust domain {held:?}, and the \
         configuration says {wanted:?}"
    )]
    TrustDomain {
        /// The root's.
        held: String,
        /// The configuration's.
        wanted: String,
    },
    /// A certificate could not be made.
    #[error("the root certificate cannot be made")]
    Make(#[source] rcgen::Error),
}

/// The root that signs, and all that are trusted.
#[derive(Debug)]
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    trust_domain: TrustDomain,
    certificates: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
}

impl Root {
    /// Takes the root from the state directory, or makes one there.
    pub fn load_or_create(state: &StateDirectory, trust_domain: &TrustDomain) -> Result<Self, RootError> {
        let path = |name: &str| state.path_of(name).display().to_string();
        let key = match state.read_secret(KEY_FILE).map_err(RootError::State)? {
            Some(content) => parse_key(&content, &path(KEY_FILE))?,
            None if state.read(ROOTS_FILE).map_err(RootError::State)?.is_some() => {
                return Err(RootError::KeyMissing { key: path(KEY_FILE), roots: path(ROOTS_FILE) });
            }
            None => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(RootError::Make)?;
                // The key goes first: a crash in between leaves a key without certificate, which the
                // next start completes.
                state.write(KEY_FILE, key.serialize_pem().as_bytes(), 0o600).map_err(RootError::State)?;
                key
            }
        };
        let roots = match state.read(ROOTS_FILE).map_err(RootError::State)? {
            Some(content) => content,
            None => {
                let made =
                    self_signed(&key, trust_domain, SystemTime::now()).map_err(RootError::Make)?.into_bytes();
                state.write(ROOTS_FILE, &made, 0o644).map_err(RootError::State)?;
                made
            }
        };
        Self::new(key, &roots, trust_domain, &path(ROOTS_FILE))
    }

    fn new(key: KeyPair, roots: &[u8], wanted: &TrustDomain, path: &str) -> Result<Self, RootError> {
        let refused = |reason: String| RootError::Roots { path: path.to_owned(), reason };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(roots)
            .collect::<Result<_, _>>()
            .map_err(|error| refused(format!("it is not PEM: {error}")))?;
        for der in &certificates {
            webpki::anchor_from_trusted_cert(der)
                .map_err(|error| refused(format!("a certificate in it cannot be a root: {error}")))?;
        }
        let public_key = key.subject_public_key_info();
        for der in &certificates {
            let (_, parsed) = x509_parser::parse_x509_certificate(der)
                .map_err(|error| refused(format!("a certificate in it cannot be read: {error}")))?;
            if parsed.public_key().raw != public_key {
                continue;
            }
            let held = trust_domain_of(&parsed)
                .ok_or_else(|| refused("the root has no URI spiffe://TRUST-DOMAIN".to_owned()))?;
            if held != wanted.as_str() {
                return Err(RootError::TrustDomain { held, wanted: wanted.to_string() });
            }
            let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
            let issuer = Issuer::from_ca_cert_der(der, key).map_err(RootError::Make)?;
            return Ok(Self {
                issuer,
                trust_domain: wanted.clone(),
                not_after: UNIX_EPOCH + Duration::from_secs(seconds),
                certificates,
            });
        }
        Err(refused(format!("none of its certificates belongs to the key in {KEY_FILE}")))
    }

    /// What signs.
    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Whose certificates it signs.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// All roots that are trusted.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

fn parse_key(content: &[u8], path: &str) -> Result<KeyPair, RootError> {
    let refused = |source| RootError::Key { path: path.to_owned(), source };
    let text = std::str::from_utf8(content).map_err(|_| refused(rcgen::Error::CouldNotParseKeyPair))?;
    KeyPair::from_pem(text).map_err(refused)
}

fn self_signed(key: &KeyPair, trust_domain: &TrustDomain, now: SystemTime) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "weft");
    // With a drawn part, so that two authorities' roots in one bundle are told apart by name.
    let distinct: String = crate::random_hex(4);
    subject.push(DnType::CommonName, format!("{trust_domain} root {distinct}"));
    params.distinguished_name = subject;
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(now + LIFETIME);
    Ok(params.self_signed(key)?.pem())
}

fn trust_domain_of(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Option<String> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => {
            names.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(str::to_owned),
                _ => None,
            })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn domain(text: &str) -> TrustDomain {
        text.parse().unwrap()
    }

    #[test]
    fn the_root_is_made_once_and_kept() {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(temporary.path()).unwrap();
        let first = Root::load_or_create(&state, &domain("cluster.local")).unwrap();
        let second = Root::load_or_create(&state, &domain("cluster.local")).unwrap();
        assert_eq!(first.certificates(), second.certificates());
        assert!(second.not_after() > SystemTime::now() + Duration::from_secs(9 * 365 * 86_400));
        let mode = |name| fs::metadata(state.path_of(name)).unwrap().mode() & 0o777;
        assert_eq!((mode(KEY_FILE), mode(ROOTS_FILE)), (0o600, 0o644));
        // A crash after the key: the root is completed, and what it signs is still its own.
        state.remove(ROOTS_FILE).unwrap();
        Root::load_or_create(&state, &domain("cluster.local")).unwrap();
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_its_reason() {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(temporary.path()).unwrap();
        Root::load_or_create(&state, &domain("cluster.local")).unwrap();
        let fails = |wanted: &str| Root::load_or_create(&state, &domain(wanted)).unwrap_err();
        assert!(matches!(fails("other.local"), RootError::TrustDomain { .. }));

        fs::set_permissions(state.path_of(KEY_FILE), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(fails("cluster.local"), RootError::State(StateError::Exposed { .. })));

        state.write(KEY_FILE, b"not a key", 0o600).unwrap();
        assert!(matches!(fails("cluster.local"), RootError::Key { .. }));

        let another = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        state.write(KEY_FILE, another.serialize_pem().as_bytes(), 0o600).unwrap();
        let error = fails("cluster.local").to_string();
        assert!(error.ends_with("none of its certificates belongs to the key in ca.key"), "{error}");

        state.remove(KEY_FILE).unwrap();
        assert!(matches!(fails("cluster.local"), RootError::KeyMissing { .. }));
    }
}
