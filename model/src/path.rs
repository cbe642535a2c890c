//! Canonical paths: the one form in which a path rule judges a path and in which it is forwarded.
//!
//! Two spellings that servers may take for one (`/a/../b`, `//b`, `/%62`) become one here, or are
//! refused where no spelling is safe (`%2F`, `%5C`, `%00`, `\`, a climb above the root). Percent
//! signs decode once (RFC 3986 section 6.2.2.2: unreserved characters only), so that the canonical
//! form is a fixed point.

use std::borrow::Cow;

/// Why a path has no canonical form.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// It does not start with `/`.
    #[error("the path does not start with /")]
    Relative,
    /// `%` without two hexadecimal digits.
    #[error("the path has a broken percent escape")]
    Escape,
    /// An escaped slash, backslash, percent sign, NUL or other control character, or a raw backslash:
    /// servers disagree on what these mean.
    #[error("the path has an escape or character that servers read in different ways")]
    Ambiguous,
    /// `..` leads above the root.
    #[error("the path climbs above the root")]
    AboveRoot,
}

/// The canonical form of a path (without query). Borrowed where it already is canonical.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    if is_canonical(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path.as_bytes())?;
    resolve(&decoded).map(Cow::Owned)
}

// No escape, no backslash, no empty segment, no segment that starts with a dot: nothing to do.
fn is_canonical(path: &[u8]) -> bool {
    let plain = path.iter().all(|byte| !matches!(byte, b'%' | b'\\' | b';') && (0x21..0x7f).contains(byte));
    plain && path.windows(2).all(|pair| pair[0] != b'/' || (pair[1] != b'/' && pair[1] != b'.'))
}

fn decode(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        let byte = path[at];
        match byte {
            b'%' => {
                let digits = path.get(at + 1..at + 3).ok_or(PathError::Escape)?;
                let high = (digits[0] as char).to_digit(16).ok_or(PathError::Escape)?;
                let low = (digits[1] as char).to_digit(16).ok_or(PathError::Escape)?;
                let value = u8::try_from(high * 16 + low).expect("two hexadecimal digits must fit a byte");
                match value {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        decoded.push(value)
                    }
                    0..=0x1f | 0x7f | b'/' | b'\\' | b'%' => return Err(PathError::Ambiguous),
                    // Other escapes stay escapes, with digits in upper case (RFC 3986 6.2.2.1).
                    _ => {
                        decoded.push(b'%');
                        decoded.extend(digits.iter().map(u8::to_ascii_uppercase));
                    }
                }
                at += 3;
            }
            // Path parameters (`/a;x/../b`): some servers drop them before they resolve dots.
            b'\\' | b';' | 0..=0x20 | 0x7f.. => return Err(PathError::Ambiguous),
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    Ok(decoded)
}

fn resolve(path: &[u8]) -> Result<String, PathError> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = path[1..].split(|byte| *byte == b'/').peekable();
    let mut directory = path.len() == 1;
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            b"" | b"." => directory = last,
            b".." => {
                segments.pop().ok_or(PathError::AboveRoot)?;
                directory = last;
            }
            _ => {
                segments.push(part);
                directory = false;
            }
        }
    }
    let mut text = String::with_capacity(path.len());
    for segment in &segments {
        text.push('/');
        text.push_str(std::str::from_utf8(segment).map_err(|_| PathError::Ambiguous)?);
    }
    if directory || text.is_empty() {
        text.push('/');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_path_become_one() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/%61dmin", "/admin"),
            ("/%2e%2E/..", "!"),
            ("/x/%2e%2e/admin", "/admin"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a%3fb", "/a%3Fb"),
            ("/%e4", "/%E4"),
        ] {
            match canonical(path) {
                Ok(found) => {
                    assert_eq!(found, expected, "{path}");
                    assert_eq!(canonical(&found).unwrap(), found, "a canonical path is a fixed point");
                }
                Err(error) => assert_eq!((expected, error), ("!", PathError::AboveRoot), "{path}"),
            }
        }
    }

    #[test]
    fn paths_that_servers_read_differently_are_refused() {
        for path in [
            "a", "", "*", "/a%2fb", "/a%5Cb", "/a\\b", "/a%00", "/a%", "/a%2", "/a%zz", "/%252e", "/a;b",
            "/ä", "/a b",
        ] {
            assert!(canonical(path).is_err(), "{path}");
        }
    }
}
