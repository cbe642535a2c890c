//! Resources as they come over the wire; the first byte chooses the type.
//!
//! What is accepted must survive being encoded and decoded again, unchanged and with equal bytes: its
//! version is a hash of them.

use weft_model::wire::{Kind, Refusal, Resource};

/// Says whether it was a resource.
pub(crate) fn check(input: &[u8]) -> bool {
    let Some((kind, bytes)) = input.split_first() else { return false };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    // A resource is held to the name it came under. The refusal says which name it would have had.
    let name = match Resource::decode(kind, "", bytes) {
        Err(Refusal::Invalid(text)) => {
            let own = text.strip_prefix("it is named ").and_then(|rest| rest.split_once(" and came as "));
            let Some((own, _)) = own else { return false };
            own.to_owned()
        }
        Err(Refusal::NotUnderstood(_)) => return false,
        Ok(_) => unreachable!("no resource has an empty name"),
    };
    let resource = Resource::decode(kind, &name, bytes).expect("a resource must decode under its own name");
    assert_eq!(resource.kind(), kind);
    let encoded = resource.encode();
    let again = Resource::decode(kind, &name, &encoded).expect("what was encoded must decode");
    assert_eq!(again, resource);
    assert_eq!(again.encode(), encoded);
    true
}
