//! Header names as the `http` crate has them, found without making them anew.
//!
//! A name that crate does not know costs it an allocation each time. The names seen lately are
//! kept per thread in a table of fixed size: a clone is a reference count. What a peer sends can
//! push names out of the table, never make it grow.

use crate::http::{FieldRef, Known};
use http::HeaderName;
use std::cell::RefCell;

/// One slot per id of `Known`, whose set is one word.
const KNOWN_SLOTS: usize = 64;

/// Slots for other names: services use a few dozen.
const OTHER_SLOTS: usize = 256;

/// Longer names are not kept.
const KEPT_BYTES_MAX: usize = 64;

struct Names {
    known: [Option<HeaderName>; KNOWN_SLOTS],
    other: Vec<Option<HeaderName>>,
}

thread_local! {
    static NAMES: RefCell<Names> = RefCell::new(Names {
        known: [const { None }; KNOWN_SLOTS],
        other: vec![None; OTHER_SLOTS],
    });
}

/// The name of a field, in lower case. `None` if it is no name, which a parsed field always is.
pub(crate) fn name_of(field: &FieldRef<'_>) -> Option<HeaderName> {
    NAMES.with_borrow_mut(|names| {
        if field.known != Known::Other {
            let slot = names.known.get_mut(field.known as usize)?;
            return Some(slot.get_or_insert_with(|| HeaderName::from_static(field.known.name())).clone());
        }
        if field.name.len() > KEPT_BYTES_MAX {
            return HeaderName::from_bytes(field.name).ok();
        }
        let slot = names.other.get_mut(slot_of(field.name))?;
        match slot {
            Some(name) if name.as_str().as_bytes().eq_ignore_ascii_case(field.name) => Some(name.clone()),
            _ => {
                let name = HeaderName::from_bytes(field.name).ok()?;
                *slot = Some(name.clone());
                Some(name)
            }
        }
    })
}

/// FNV-1a, case folded. A peer that makes names collide only makes itself a little slower.
fn slot_of(name: &[u8]) -> usize {
    let hash = name
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte | 0x20)).wrapping_mul(0x0100_0193));
    (hash ^ (hash >> 16)) as usize % OTHER_SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<HeaderName> {
        name_of(&FieldRef { name: text.as_bytes(), known: Known::of(text.as_bytes()), value: b"" })
    }

    #[test]
    fn names_are_found_in_lower_case_first_and_again() {
        for text in ["Content-Type", "X-Own", "ETag", "x-own", "GRPC-Status", "X-Own"] {
            for _ in 0..2 {
                assert_eq!(name(text).unwrap().as_str(), text.to_ascii_lowercase());
            }
        }
        assert!(name("a b").is_none());
        let long = "x".repeat(200);
        assert_eq!(name(&long).unwrap().as_str(), long);
    }

    #[test]
    fn more_names_than_slots_are_all_right() {
        for round in 0..3 {
            for n in 0..2000 {
                let text = format!("X-{n}-{round}");
                assert_eq!(name(&text).unwrap().as_str(), text.to_ascii_lowercase());
            }
        }
    }
}
