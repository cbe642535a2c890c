//! What a leaf certificate says: identity, life, and whom it describes. Reads, and judges nothing.
//!
//! The names are read in a pass of our own over the extension: webpki skips what it cannot parse,
//! and what was skipped must not make two URIs look like one. Other kinds of names (DNS) may stand
//! beside the URI, as SPIFFE allows; nothing looks at them.

use super::subject;
use super::verify::VerifyError;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weft_model::certificate;
use weft_model::names::WorkloadUid;
use weft_model::spiffe::SpiffeId;
use weft_model::workload::Description;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

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
    /// The certificate as `x-forwarded-client-cert` tells it, in Envoy's words: `Hash=…;Subject="…";URI=…`.
    pub presented: Arc<str>,
    /// Which workload it is and what metrics call it, where the authority wrote that.
    pub description: Option<(WorkloadUid, Arc<Description>)>,
}

/// Reads a leaf, without judging it.
pub fn read(leaf: &CertificateDer<'_>) -> Result<Leaf, VerifyError> {
    let (rest, parsed) = X509Certificate::from_der(leaf).map_err(|_| VerifyError::Unreadable)?;
    if !rest.is_empty() {
        return Err(VerifyError::Unreadable);
    }
    let identity = identity(&parsed)?;
    let hash = digest(&SHA256, leaf);
    let subject = subject::text(parsed.subject());
    let mut presented = String::with_capacity(128 + subject.len() + identity.as_str().len());
    presented.push_str("Hash=");
    for byte in hash.as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(presented, "{byte:02x}");
    }
    let _ = write!(presented, ";Subject=\"{subject}\";URI={identity}");
    Ok(Leaf {
        identity,
        not_before: time(parsed.validity().not_before),
        not_after: time(parsed.validity().not_after),
        serial: parsed.raw_serial_as_string(),
        presented: presented.into(),
        description: description(&parsed),
    })
}

fn time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

/// From when and until when a certificate is valid.
pub(super) fn validity(der: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), VerifyError> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| VerifyError::Unreadable)?;
    Ok((time(parsed.validity().not_before), time(parsed.validity().not_after)))
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

fn description(parsed: &X509Certificate<'_>) -> Option<(WorkloadUid, Arc<Description>)> {
    let mut values = parsed.extensions().iter().filter(|extension| {
        extension.oid.iter().is_some_and(|numbers| numbers.eq(certificate::EXTENSION_OID.iter().copied()))
    });
    let value = values.next()?;
    // Two of them are none: which one counts must not depend on who reads.
    if values.next().is_some() {
        return None;
    }
    certificate::decode(value.value).ok().map(|(uid, description)| (uid, Arc::new(description)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Authority, Wanted};
    use super::*;

    #[test]
    fn a_certificate_is_told_in_the_words_of_envoy() {
        let identity = "spiffe://cluster.local/ns/shop/sa/web";
        let made = Authority::new("cluster.local").make(&Wanted::of(identity));
        let hash = digest(&SHA256, &made.chain[0]);
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let leaf = read(&made.chain[0]).unwrap();
        assert_eq!(*leaf.presented, *format!("Hash={hash};Subject=\"\";URI={identity}"));
    }
}
