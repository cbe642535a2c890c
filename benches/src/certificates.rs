//! Certificates for the peers: one P-256 authority and two workloads with SPIFFE IDs, as a mesh would issue them.
//! The server's also has a DNS name, since nginx and HAProxy know no other identity. Weft makes its own.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::process::write_private;

pub(crate) const CLIENT_ID: &str = "spiffe://cluster.local/ns/shop/sa/front";
pub(crate) const SERVER_ID: &str = "spiffe://cluster.local/ns/shop/sa/catalog";
pub(crate) const SERVER_NAME: &str = "catalog.shop.svc.cluster.local";

/// Where the files are.
pub(crate) struct Certificates {
    pub(crate) authority: PathBuf,
    pub(crate) client: Leaf,
    pub(crate) server: Leaf,
}

pub(crate) struct Leaf {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file, as HAProxy wants them.
    pub(crate) both: PathBuf,
}

// === impl Certificates ===

impl Certificates {
    pub(crate) fn make(directory: &Path) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.distinguished_name.push(DnType::CommonName, "weft-bench");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        validity(&mut parameters);
        let certificate = parameters.self_signed(&key)?;
        let authority = directory.join("authority.pem");
        write_private(&authority, &certificate.pem())?;
        let issuer = Issuer::new(parameters, key);
        Ok(Self {
            authority,
            client: leaf(directory, "client", CLIENT_ID, &issuer)?,
            server: leaf(directory, "server", SERVER_ID, &issuer)?,
        })
    }
}

fn leaf(directory: &Path, name: &str, id: &str, issuer: &Issuer<'_, KeyPair>) -> Result<Leaf> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.subject_alt_names.push(SanType::URI(id.try_into()?));
    if id == SERVER_ID {
        parameters.subject_alt_names.push(SanType::DnsName(SERVER_NAME.try_into()?));
    }
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    validity(&mut parameters);
    let certificate = parameters.signed_by(&key, issuer)?;
    let leaf = Leaf {
        certificate: directory.join(format!("{name}.pem")),
        key: directory.join(format!("{name}.key")),
        both: directory.join(format!("{name}.both.pem")),
    };
    write_private(&leaf.certificate, &certificate.pem())?;
    write_private(&leaf.key, &key.serialize_pem())?;
    write_private(&leaf.both, &format!("{}{}", certificate.pem(), key.serialize_pem()))?;
    Ok(leaf)
}

fn validity(parameters: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    parameters.not_before = now - Duration::minutes(5);
    parameters.not_after = now + Duration::days(1);
}
