//! A certificate authority for tests, which also issues what no authority should, and a clock.

use super::OwnCertificate;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weft_model::certificate;
use weft_model::trust::TrustBundle;
use weft_model::workload::Description;

/// What a leaf is to be.
pub(crate) struct Wanted {
    pub(crate) uris: Vec<&'static str>,
    pub(crate) dns: Vec<&'static str>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) authority: bool,
    pub(crate) uid: Option<&'static str>,
    pub(crate) names: Option<Vec<u8>>,
}

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    trust_domain: &'static str,
}

/// A leaf with its key.
pub(crate) struct Made {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Vec<u8>,
}

pub(crate) fn now() -> SystemTime {
    // Certificates have whole seconds.
    UNIX_EPOCH + Duration::from_secs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            uris: vec!["spiffe://cluster.local/ns/shop/sa/cart"],
            dns: Vec::new(),
            not_before: now() - Duration::from_secs(120),
            not_after: now() + Duration::from_secs(3600),
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            authority: false,
            uid: None,
            names: None,
        }
    }
}

impl Wanted {
    pub(crate) fn of(uri: &'static str) -> Self {
        Self { uris: vec![uri], ..Self::default() }
    }
}

impl Authority {
    pub(crate) fn new(trust_domain: &'static str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let uri = format!("spiffe://{trust_domain}");
        parameters.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).unwrap())];
        let root = parameters.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(parameters, key), root, trust_domain }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle {
            trust_domain: self.trust_domain.parse().unwrap(),
            roots: vec![self.root.as_ref().to_vec()],
        }
    }

    pub(crate) fn root_pem(&self) -> String {
        pem(&self.root)
    }

    pub(crate) fn make(&self, wanted: &Wanted) -> Made {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let der = self.sign(wanted, &key);
        Made { chain: vec![der], key: key.serialize_der() }
    }

    pub(crate) fn sign(&self, wanted: &Wanted, key: &impl rcgen::PublicKeyData) -> CertificateDer<'static> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.not_before = wanted.not_before.into();
        parameters.not_after = wanted.not_after.into();
        parameters.extended_key_usages.clone_from(&wanted.usages);
        if wanted.authority {
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let text = |text: &&str| Ia5String::try_from((*text).to_owned()).unwrap();
        let uris = wanted.uris.iter().map(|uri| SanType::URI(text(uri)));
        let dns = wanted.dns.iter().map(|name| SanType::DnsName(text(name)));
        parameters.subject_alt_names = uris.chain(dns).collect();
        if let Some(names) = &wanted.names {
            parameters.subject_alt_names.clear();
            let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], names.clone());
            parameters.custom_extensions.push(extension);
        }
        if let Some(uid) = wanted.uid {
            let description = Description { app: "cart".into(), ..Description::default() };
            let value = certificate::encode(&uid.parse().unwrap(), &description);
            parameters
                .custom_extensions
                .push(CustomExtension::from_oid_content(certificate::EXTENSION_OID, value));
        }
        parameters.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    pub(crate) fn own(&self, wanted: &Wanted) -> OwnCertificate {
        let made = self.make(wanted);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.key));
        OwnCertificate::new(made.chain, key).unwrap()
    }
}

fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bytes = [group[0], *group.get(1).unwrap_or(&0), *group.get(2).unwrap_or(&0)];
            let word = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
            for position in 0..4 {
                let index = (word >> (18 - 6 * position)) & 63;
                let used = position <= group.len();
                text.push(if used { char::from(ALPHABET[index as usize]) } else { '=' });
            }
        }
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// A clock that tests set.
#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(now().duration_since(UNIX_EPOCH).unwrap().as_secs().into())
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::SeqCst);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst))))
    }
}
