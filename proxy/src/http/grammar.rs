//! The grammar of names and values (RFC 9110, section 5), byte by byte and word by word.
//!
//! What the parsers and the header block share: tokens, field values, lists. Eight bytes are
//! looked at in one step where every byte of every message comes by.

/// The elements of a comma-separated value, without whitespace and empty ones.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|element| !element.is_empty())
}

/// Without leading and trailing spaces and tabs.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether the text is a token of RFC 9110, section 5.6.2.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

/// Whether the text may be a field value: no control characters but tab. Bytes from 0x80 on are
/// allowed, as RFC 9110 (obs-text) has them and applications send them.
pub fn is_value(text: &[u8]) -> bool {
    let mut rest = text;
    loop {
        match rest.get(value_run(rest)..) {
            None | Some([]) => return true,
            Some([b'\t', more @ ..]) => rest = more,
            Some(_) => return false,
        }
    }
}

/// How many bytes at the start are neither control characters nor DEL; eight at a time.
pub(crate) fn value_run(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    const SPACES: u64 = u64::from_ne_bytes([0x20; 8]);
    const DELETES: u64 = u64::from_ne_bytes([0x7f; 8]);
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let deletes = word ^ DELETES;
        // A borrow can only mark bytes behind the first true one, so the first mark is exact.
        let marks = ((word.wrapping_sub(SPACES) & !word) | (deletes.wrapping_sub(ONES) & !deletes)) & HIGH;
        if marks != 0 {
            return index * 8 + marks.trailing_zeros() as usize / 8;
        }
    }
    let plain = tail.iter().position(|byte| *byte < 0x20 || *byte == 0x7f).unwrap_or(tail.len());
    words.len() * 8 + plain
}

/// Where the first such byte is; eight at a time.
pub(crate) fn position(bytes: &[u8], wanted: u8) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let pattern = u64::from_ne_bytes([wanted; 8]);
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let differs = u64::from_le_bytes(*word) ^ pattern;
        let marks = differs.wrapping_sub(ONES) & !differs & HIGH;
        if marks != 0 {
            return Some(index * 8 + marks.trailing_zeros() as usize / 8);
        }
    }
    tail.iter().position(|byte| *byte == wanted).map(|at| words.len() * 8 + at)
}

pub(crate) const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

pub(crate) const fn is_value_byte(byte: u8) -> bool {
    (byte >= 0x20 && byte != 0x7f) || byte == b'\t'
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let more = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < more.len() {
        table[more[index] as usize] = true;
        index += 1;
    }
    table
};
