//! A certificate's subject as text: RFC 2253, as OpenSSL and so Envoy write it.

use std::fmt::Write;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Longer subjects are left out: what nobody needs must not make a request's head too large.
const SUBJECT_BYTES_MAX: usize = 1024;

/// The short names of RFC 2253, section 2.3, with those that OpenSSL adds.
const NAMES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// The last attribute first. Only visible ASCII, with quotation marks and backslashes escaped: it may stand
/// between quotation marks in a header field.
pub(super) fn text(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let sets: Vec<_> = name.iter_rdn().collect();
    for (index, set) in sets.iter().rev().enumerate() {
        for (place, attribute) in set.iter().enumerate() {
            match (index, place) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            push(&mut text, attribute);
        }
        if text.len() > SUBJECT_BYTES_MAX {
            return String::new();
        }
    }
    text
}

fn push(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let id = attribute.attr_type().to_id_string();
    let value = attribute.attr_value();
    match NAMES.iter().find(|(held, _)| *held == id) {
        Some((_, name)) => text.push_str(name),
        None => text.push_str(&id),
    }
    text.push('=');
    let readable =
        matches!(value.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::T61String);
    if !readable {
        text.push('#');
        for byte in value.data {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02X}");
        }
        return;
    }
    let last = value.data.len().saturating_sub(1);
    for (at, byte) in value.data.iter().enumerate() {
        match byte {
            0..=0x1f | 0x7f.. => {
                let _ = write!(text, "\\{byte:02X}");
                continue;
            }
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => text.push('\\'),
            b'#' if at == 0 => text.push('\\'),
            b' ' if at == 0 || at == last => text.push('\\'),
            _ => {}
        }
        text.push(char::from(*byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};
    use x509_parser::prelude::{FromDer, X509Certificate};

    fn of(attributes: &[(DnType, &str)]) -> String {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in attributes {
            parameters.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).to_owned()));
        }
        let certificate = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
        text(parsed.subject())
    }

    #[test]
    fn the_last_attribute_comes_first_and_nothing_can_end_the_quotation() {
        assert_eq!(of(&[]), "");
        assert_eq!(of(&[(DnType::OrganizationName, "Shop"), (DnType::CommonName, "web")]), "CN=web,O=Shop");
        let odd = of(&[(DnType::CommonName, "a\",b;By=x\\\r\n\u{e4}")]);
        assert_eq!(odd, r#"CN=a\"\,b\;By=x\\\0D\0A\C3\A4"#);
        assert_eq!(of(&[(DnType::CommonName, " #")]), r"CN=\ #");
        assert_eq!(of(&[(DnType::CommonName, "# ")]), r"CN=\#\ ");
        assert_eq!(of(&[(DnType::CustomDnType(vec![1, 2, 3, 4]), "x")]), "1.2.3.4=x");
    }

    #[test]
    fn a_subject_that_is_too_long_is_left_out() {
        assert_eq!(of(&[(DnType::CommonName, &"x".repeat(2000))]), "");
    }
}
