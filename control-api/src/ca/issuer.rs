//! From a certificate signing request to an SVID. Of the request only the key counts, and that its
//! sender holds it; subject and extensions are ignored, since the identity is what the caller proved.
//! An SVID has exactly one URI SAN, no subject, and says whom it names in a private extension.

use super::root::Root;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use weft_model::certificate;
use weft_model::names::WorkloadUid;
use weft_model::spiffe::SpiffeId;
use weft_model::workload::Description;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::FromDer;

/// A P-256 request is 0.3 KB; one with many extensions is still far below.
const REQUEST_LENGTH_MAX: usize = 8 * 1024;

/// How far a peer's clock may be behind this one's.
const BACKDATE_MAX: Duration = Duration::from_secs(120);

/// Why a request is refused.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// It is larger than any sensible one.
    #[error("the certificate request is larger than 8 KiB")]
    TooLarge,
    /// It is not a PKCS#10 request in DER.
    #[error("the certificate request is not a PKCS#10 request in DER")]
    Malformed,
    /// Its key is of another kind.
    #[error("the certificate request's key is not ECDSA P-256, signed with SHA-256")]
    KeyKind,
    /// Its sender does not hold the key.
    #[error("the certificate request is not signed by its own key")]
    Signature,
}

/// Signs SVIDs.
#[derive(Clone, Debug)]
pub struct Issuer {
    root: Arc<Root>,
    lifetime: Duration,
}

/// A signed certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// When it ends.
    pub not_after: SystemTime,
}

/// The key of a request that its sender has proven to hold.
pub fn key_of_request(der: &[u8]) -> Result<SubjectPublicKeyInfo, RequestError> {
    if der.len() > REQUEST_LENGTH_MAX {
        return Err(RequestError::TooLarge);
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestError::Malformed);
    }
    let key = &request.certification_request_info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY
        || curve != Some(OID_EC_P256)
        || request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256
    {
        return Err(RequestError::KeyKind);
    }
    request.verify_signature().map_err(|_| RequestError::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| RequestError::KeyKind)
}

impl Issuer {
    /// Signs by the root, for so long.
    pub fn new(root: Arc<Root>, lifetime: Duration) -> Self {
        Self { root, lifetime }
    }

    /// The root.
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// How long certificates live.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Signs an SVID for the key.
    pub fn sign(
        &self,
        key: &impl PublicKeyData,
        identity: &SpiffeId,
        description: Option<(&WorkloadUid, &Description)>,
        now: SystemTime,
    ) -> Result<Issued, rcgen::Error> {
        let not_after = (now + self.lifetime).min(self.root.not_after());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial());
        // A quarter of a short life at most: renewal at half of it must still lie ahead.
        params.not_before = OffsetDateTime::from(now - BACKDATE_MAX.min(self.lifetime / 4));
        params.not_after = OffsetDateTime::from(not_after);
        if let Some((uid, description)) = description {
            let value = certificate::encode(uid, description);
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(certificate::EXTENSION_OID, value));
        }
        let signed = params.signed_by(key, self.root.issuer())?;
        Ok(Issued { certificate: signed.der().clone(), not_after })
    }
}

/// 127 random bits, positive in DER's eyes (RFC 5280, section 4.1.2.2).
fn serial() -> SerialNumber {
    let mut bytes = crate::random_bytes::<16>();
    bytes[0] = (bytes[0] & 0x7f) | 0x01;
    SerialNumber::from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateDirectory;
    use crate::tls::PeerCertificate;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    use x509_parser::extensions::ParsedExtension;

    fn issuer(lifetime: Duration) -> Issuer {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(temporary.path()).unwrap();
        let root = Root::load_or_create(&state, &"cluster.local".parse().unwrap()).unwrap();
        Issuer::new(Arc::new(root), lifetime)
    }

    fn request(key: &KeyPair) -> Vec<u8> {
        // What it asks for is to be ignored.
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI("spiffe://evil/ns/a/sa/b".try_into().unwrap()));
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.serialize_request(key).unwrap().der().to_vec()
    }

    fn identity() -> SpiffeId {
        "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap()
    }

    #[test]
    fn an_svid_says_what_was_proven_and_nothing_that_was_asked_for() {
        let issuer = issuer(Duration::from_secs(86_400));
        let key = key_of_request(&request(&KeyPair::generate().unwrap())).unwrap();
        let uid: WorkloadUid = "shop/cart-1".parse().unwrap();
        let description = Description { app: "cart".into(), ..Description::default() };
        let now = SystemTime::now();
        let issued = issuer.sign(&key, &identity(), Some((&uid, &description)), now).unwrap();

        let peer = PeerCertificate::read(&issued.certificate).unwrap();
        assert_eq!(peer.to_string(), "spiffe://cluster.local/ns/shop/sa/cart (shop/cart-1)");
        let (_, parsed) = x509_parser::parse_x509_certificate(&issued.certificate).unwrap();
        assert_eq!(parsed.subject().iter().count(), 0, "no common name");
        assert!(!parsed.is_ca());
        let backdated = i64::try_from(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap()
            - parsed.validity().not_before.timestamp();
        assert!((119..=121).contains(&backdated), "{backdated}");
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::KeyUsage(usage) => assert_eq!(usage.flags, 1, "digitalSignature alone"),
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    assert!(usage.client_auth && usage.server_auth && !usage.any && usage.other.is_empty());
                }
                ParsedExtension::SubjectAlternativeName(names) => assert_eq!(names.general_names.len(), 1),
                _ => {}
            }
        }
        let held = parsed
            .extensions()
            .iter()
            .find(|held| held.oid.iter().unwrap().eq(certificate::EXTENSION_OID.iter().copied()))
            .unwrap();
        assert!(!held.critical);
        assert_eq!(certificate::decode(held.value).unwrap(), (uid, description));
    }

    #[test]
    fn a_short_life_is_backdated_by_a_quarter_of_it() {
        let issuer = issuer(Duration::from_secs(12));
        let key = key_of_request(&request(&KeyPair::generate().unwrap())).unwrap();
        let now = SystemTime::now();
        let issued = issuer.sign(&key, &identity(), None, now).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&issued.certificate).unwrap();
        let whole = parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp();
        assert!((14..=16).contains(&whole), "{whole}");
    }

    #[test]
    fn other_keys_foreign_signatures_and_garbage_are_refused() {
        for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(key_of_request(&request(&key)).unwrap_err(), RequestError::KeyKind);
        }
        let good = request(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
        let mut other_key = good.clone();
        let end = other_key.len() - 1;
        other_key[end] ^= 1;
        assert!(key_of_request(&other_key).is_err());
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(key_of_request(&longer).unwrap_err(), RequestError::Malformed);
        assert_eq!(key_of_request(&[0; 8193]).unwrap_err(), RequestError::TooLarge);
        for end in 0..good.len() {
            assert!(key_of_request(&good[..end]).is_err());
        }
        // Any single changed byte: refused, or of no consequence (the parser takes some outer tags in
        // two spellings); never another key, and never a panic.
        let expected = key_of_request(&good).unwrap();
        for position in 0..good.len() {
            let mut changed = good.clone();
            changed[position] ^= 0x20;
            let key = key_of_request(&changed);
            assert!(key.is_err() || key.as_ref() == Ok(&expected), "byte {position}");
        }
    }
}
