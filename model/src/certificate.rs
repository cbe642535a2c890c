//! The private extension of certificates that the mesh's own authority issues: who the workload is,
//! beyond its identity (UID, and the words by which metrics call it). The control API writes it, the
//! server side of a connection reads it from its client's verified certificate. Not critical: other
//! software passes over it. It proves nothing by itself; the chain around it does.

use crate::names::WorkloadUid;
use crate::proto::v1;
use crate::wire::{Refusal, description_from_wire, description_to_wire};
use crate::workload::Description;
use prost::Message;

/// The extension's object identifier: under 2.25 numbers belong to whoever drew them at random.
pub const EXTENSION_OID: &[u64] = &[2, 25, 6_437_412_081_563_490_171];

/// The most bytes that are looked at.
const LENGTH_MAX: usize = 8 * 1024;

/// DER's tag of an OCTET STRING.
const OCTET_STRING: u8 = 4;

/// The extension's value: a DER OCTET STRING around the message `weft.v1.CertificateDescription`.
pub fn encode(uid: &WorkloadUid, description: &Description) -> Vec<u8> {
    let message = v1::CertificateDescription {
        uid: uid.to_string(),
        description: Some(description_to_wire(description)),
    };
    let content = message.encode_to_vec();
    let mut value = vec![OCTET_STRING];
    match u8::try_from(content.len()) {
        Ok(short @ 0..=127) => value.push(short),
        Ok(long) => value.extend([0x81, long]),
        Err(_) => {
            let length = u16::try_from(content.len()).expect("names and labels must be bounded");
            value.push(0x82);
            value.extend(length.to_be_bytes());
        }
    }
    value.extend(content);
    value
}

/// Reads the extension's value. Total: the bytes are a peer's.
pub fn decode(value: &[u8]) -> Result<(WorkloadUid, Description), Refusal> {
    let refused = |why: &str| Refusal::Invalid(format!("the certificate's description: {why}"));
    if value.len() > LENGTH_MAX {
        return Err(refused("it is too long"));
    }
    let (length, content) = match value {
        [OCTET_STRING, 0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        [OCTET_STRING, 0x81, length, rest @ ..] => (usize::from(*length), rest),
        [OCTET_STRING, length @ 0..=127, rest @ ..] => (usize::from(*length), rest),
        _ => return Err(refused("it is not an OCTET STRING")),
    };
    if length != content.len() {
        return Err(refused("its length is wrong"));
    }
    let message = v1::CertificateDescription::decode(content).map_err(|error| refused(&error.to_string()))?;
    let uid = message.uid.parse().map_err(|error| refused(&format!("{error}")))?;
    let description = message.description.ok_or_else(|| refused("it describes nothing"))?;
    Ok((uid, description_from_wire(description)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_whatever_its_length() {
        let uid: WorkloadUid = "shop/cart-1".parse().unwrap();
        for length in [1, 20, 80, 160, 253] {
            let description = Description { app: "a".repeat(length).into(), ..Description::default() };
            let value = encode(&uid, &description);
            assert_eq!(decode(&value).unwrap(), (uid.clone(), description));
        }
    }

    #[test]
    fn truncated_and_foreign_bytes_are_refused() {
        let value = encode(&"shop/cart-1".parse().unwrap(), &Description::default());
        for end in 0..value.len() {
            assert!(decode(&value[..end]).is_err(), "{end}");
        }
        assert!(decode(&[4, 0]).is_err());
        assert!(decode(&[4, 0x82, 0xff, 0xff]).is_err());
        assert!(decode(&vec![4; LENGTH_MAX + 1]).is_err());
    }
}
