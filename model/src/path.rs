//! Canonical paths: the one form in which a path rule judges a path and in which it is forwarded.
//!
//! How far spellings are made one is the mesh's choice, by Istio's names ([`Normalization`]); without a
//! choice as far as it goes. What remains of two meanings is refused: a path that two servers could read
//! in two ways has no form in which a rule could speak of it. Percent signs are decoded once, and the
//! canonical form is a fixed point.

use std::borrow::Cow;

/// How far paths are put into one form, where a path rule applies.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Normalization {
    /// Not at all: paths are judged and forwarded as they came.
    None,
    /// RFC 3986, section 6.2.2: escapes of unreserved characters are decoded, the digits of others are in
    /// upper case, dot segments are resolved.
    Base,
    /// And slashes in a row become one.
    MergeSlashes,
    /// And every escape of what may stand in a path as it is is decoded, slashes among them.
    #[default]
    DecodeAndMergeSlashes,
}

/// Why a path has no canonical form.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// It does not start with `/`.
    #[error("the path does not start with /")]
    Relative,
    /// `%` without two hexadecimal digits.
    #[error("the path has a broken percent escape")]
    Escape,
    /// An escaped control character or percent sign, what may not stand in a path as it is, a path parameter,
    /// `..` beside an escaped slash, an escaped dot segment or an empty one: servers disagree on what these mean.
    #[error("the path has an escape or character that servers read in different ways")]
    Ambiguous,
    /// `..` leads above the root.
    #[error("the path climbs above the root")]
    AboveRoot,
}

/// A path whose escapes are decoded as far as the level has it.
struct Decoded {
    text: Vec<u8>,
    /// A slash was escaped.
    slashes: bool,
    /// A dot was escaped.
    dots: bool,
}

/// What becomes of an escape.
enum Escape {
    Decode(u8),
    /// A slash, or a backslash, which servers take for one.
    Slash,
    Keep,
    Refuse,
}

/// The canonical form of a path (without query), as far as it goes. Borrowed where it already is canonical.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathError> {
    Normalization::default().canonical(path)
}

// === impl Normalization ===

impl Normalization {
    /// All levels, from what changes nothing to what changes most, by Istio's names.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("NONE", Self::None),
        ("BASE", Self::Base),
        ("MERGE_SLASHES", Self::MergeSlashes),
        ("DECODE_AND_MERGE_SLASHES", Self::DecodeAndMergeSlashes),
    ];

    /// The form of a path (without query) at this level. Borrowed, and without an allocation, where the
    /// path has it already.
    pub fn canonical(self, path: &str) -> Result<Cow<'_, str>, PathError> {
        if self == Self::None {
            return Ok(Cow::Borrowed(path));
        }
        if !path.starts_with('/') {
            return Err(PathError::Relative);
        }
        if self.is_plain(path.as_bytes()) || self.is_canonical(path.as_bytes()) {
            return Ok(Cow::Borrowed(path));
        }
        let decoded = self.decode(path.as_bytes())?;
        self.resolve(&decoded).map(Cow::Owned)
    }

    fn merges(self) -> bool {
        self >= Self::MergeSlashes
    }

    fn decodes(self) -> bool {
        self == Self::DecodeAndMergeSlashes
    }

    // Nothing in it that any level changes or refuses: what nearly all requests have.
    fn is_plain(self, path: &[u8]) -> bool {
        path.iter().all(|byte| PLAIN[usize::from(*byte)])
            && path.windows(2).all(|pair| pair[0] != b'/' || (pair[1] != b'/' && pair[1] != b'.'))
    }

    // The same with escapes, names that begin with a dot and what lower levels keep, segment by segment.
    fn is_canonical(self, path: &[u8]) -> bool {
        let mut segments = path[1..].split(|byte| *byte == b'/').peekable();
        while let Some(segment) = segments.next() {
            let empty = segment.is_empty() && segments.peek().is_some() && self.merges();
            if empty || is_dots(segment) || has_dots_with_parameters(segment) {
                return false;
            }
            let mut rest = segment;
            while let [byte, after @ ..] = rest {
                rest = match byte {
                    b'%' => match after {
                        [high, low, after @ ..] if is_upper_digit(*high) && is_upper_digit(*low) => {
                            match hexadecimal(*high, *low).map(|value| self.escape(value)) {
                                Some(Escape::Keep) => after,
                                _ => return false,
                            }
                        }
                        _ => return false,
                    },
                    _ if self.refuses(*byte) => return false,
                    _ => after,
                };
            }
        }
        true
    }

    /// Whether this character, as it is, has no meaning that all servers share.
    fn refuses(self, byte: u8) -> bool {
        match byte {
            b'"' | b'#' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => true,
            0..=0x20 | 0x7f.. => true,
            // Path parameters (`/a;x/../b`): some servers drop them before they resolve dots.
            b';' => self.decodes(),
            _ => false,
        }
    }

    fn escape(self, value: u8) -> Escape {
        match value {
            0..=0x1f | 0x7f => Escape::Refuse,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Escape::Decode(value),
            _ if !self.decodes() => Escape::Keep,
            b'/' | b'\\' => Escape::Slash,
            // Decoded twice, `%252e` is a dot.
            b'%' | b';' => Escape::Refuse,
            // What may not stand in a path as it is, and has only this spelling.
            b' ' | b'"' | b'#' | b'<' | b'>' | b'?' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => {
                Escape::Keep
            }
            _ => Escape::Decode(value),
        }
    }

    fn decode(self, path: &[u8]) -> Result<Decoded, PathError> {
        let mut decoded = Vec::with_capacity(path.len());
        let (mut slashes, mut dots) = (false, false);
        let mut rest = path;
        while let [byte, after @ ..] = rest {
            if *byte != b'%' {
                if self.refuses(*byte) {
                    return Err(PathError::Ambiguous);
                }
                decoded.push(*byte);
                rest = after;
                continue;
            }
            let [high, low, after @ ..] = after else { return Err(PathError::Escape) };
            match self.escape(hexadecimal(*high, *low).ok_or(PathError::Escape)?) {
                Escape::Decode(value) => {
                    dots |= value == b'.';
                    decoded.push(value);
                }
                Escape::Slash => {
                    slashes = true;
                    decoded.push(b'/');
                }
                Escape::Keep => decoded.extend([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]),
                Escape::Refuse => return Err(PathError::Ambiguous),
            }
            rest = after;
        }
        Ok(Decoded { text: decoded, slashes, dots })
    }

    fn resolve(self, decoded: &Decoded) -> Result<String, PathError> {
        let path = decoded.text.as_slice();
        let parts = || path[1..].split(|byte| *byte == b'/');
        if self.decodes() && parts().any(|part| part == b"..") {
            // A server that resolves dots before it decodes sees other segments.
            let several = parts().filter(|part| is_dots(part)).nth(1).is_some();
            if decoded.slashes || (decoded.dots && several) {
                return Err(PathError::Ambiguous);
            }
        }
        let mut segments: Vec<&[u8]> = Vec::new();
        let mut parts = parts().peekable();
        let mut directory = false;
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            directory = last && (part.is_empty() || is_dots(part));
            match part {
                _ if has_dots_with_parameters(part) => return Err(PathError::Ambiguous),
                b".." => match segments.pop() {
                    None => return Err(PathError::AboveRoot),
                    // Who merges first removes what stands before the empty segment, who merges last does not.
                    Some([]) if self.merges() => return Err(PathError::Ambiguous),
                    Some(_) => {}
                },
                b"." => {}
                b"" if last => {}
                _ => segments.push(part),
            }
        }
        let mut text = String::with_capacity(path.len());
        for segment in segments.iter().filter(|segment| !(segment.is_empty() && self.merges())) {
            text.push('/');
            text.push_str(std::str::from_utf8(segment).map_err(|_| PathError::Ambiguous)?);
        }
        if directory || text.is_empty() {
            text.push('/');
        }
        Ok(text)
    }
}

/// What needs no second look: what may stand in a path but `%` and `;`.
static PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = !matches!(
            byte as u8,
            b'"' | b'#' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'%' | b';'
        );
        byte += 1;
    }
    table
};

fn is_dots(segment: &[u8]) -> bool {
    matches!(segment, b"." | b"..")
}

// `..;x`: a dot segment to a server that drops parameters, a name to others.
fn has_dots_with_parameters(segment: &[u8]) -> bool {
    segment.starts_with(b".;") || segment.starts_with(b"..;")
}

fn is_upper_digit(digit: u8) -> bool {
    matches!(digit, b'0'..=b'9' | b'A'..=b'F')
}

fn hexadecimal(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| (digit as char).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests;
