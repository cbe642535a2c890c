//! The spelling of header names across HTTP/2, which carries them in lower case only.
//!
//! Between two proxies one internal field says how the names were spelled, so that an application
//! behind HTTP/1.1 on both ends sees the bytes its peer wrote: absent means all in lower case,
//! `t` means Title-Case, and names that follow neither are listed as they were. The list is
//! bounded, applies to every field of a listed name, and is never accepted from an application.

/// The field that carries the spelling. Only ever between two proxies.
pub(crate) const CASE: &str = "x-weft-case";

/// The field that carries a reason phrase which is not the usual one.
pub(crate) const PHRASE: &str = "x-weft-phrase";

/// How long the list may grow. Names beyond it are spelled like the rest: a sender that mixes
/// spellings over more than 4 KiB of distinct names is not an application anybody has seen.
const LIST_BYTES_MAX: usize = 4096;

/// What one name looks like.
#[derive(Clone, Copy)]
struct Shape {
    lower: bool,
    title: bool,
}

impl Shape {
    fn of(name: &[u8]) -> Self {
        let mut shape = Self { lower: true, title: true };
        let mut first = true;
        for &byte in name {
            if byte.is_ascii_uppercase() {
                shape.lower = false;
                shape.title &= first;
            } else if byte.is_ascii_lowercase() {
                shape.title &= !first;
            }
            first = byte == b'-';
        }
        shape
    }
}

/// How the names of a block are spelled.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Description {
    /// All in lower case: nothing to say.
    Lower,
    /// All in Title-Case.
    Title,
    /// As the value says.
    List(Vec<u8>),
}

/// Describes the spelling of these names.
pub(crate) fn describe<'a, I>(names: I) -> Description
where
    I: Iterator<Item = &'a [u8]> + Clone,
{
    let mut not_lower = 0;
    let mut not_title = 0;
    for name in names.clone() {
        let shape = Shape::of(name);
        not_lower += usize::from(!shape.lower);
        not_title += usize::from(!shape.title);
    }
    match (not_lower, not_title) {
        (0, _) => Description::Lower,
        (_, 0) => Description::Title,
        _ => list(names, not_title < not_lower),
    }
}

/// Lists the names that follow neither lower case nor, with `title`, Title-Case.
fn list<'a>(names: impl Iterator<Item = &'a [u8]>, title: bool) -> Description {
    let mut value = Vec::with_capacity(64);
    if title {
        value.push(b't');
    }
    for name in names {
        let shape = Shape::of(name);
        // A bare `t` in front is the marker, so names of one letter are not listed.
        if (if title { shape.title } else { shape.lower }) || name.len() == 1 {
            continue;
        }
        if value.split(|&byte| byte == b',').any(|listed| listed.eq_ignore_ascii_case(name)) {
            continue;
        }
        if value.len() + 1 + name.len() > LIST_BYTES_MAX {
            break;
        }
        if !value.is_empty() {
            value.push(b',');
        }
        value.extend_from_slice(name);
    }
    if value.is_empty() { Description::Lower } else { Description::List(value) }
}

/// The spelling that a peer described; gives names back their case.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spelling<'a> {
    title: bool,
    list: &'a [u8],
}

impl<'a> Spelling<'a> {
    /// Reads a description. What it cannot use it leaves out: at worst a name stays in lower case.
    pub(crate) fn parse(value: &'a [u8]) -> Self {
        if value.len() > LIST_BYTES_MAX {
            return Self::default();
        }
        match value {
            b"t" => Self { title: true, list: &[] },
            [b't', b',', list @ ..] => Self { title: true, list },
            list => Self { title: false, list },
        }
    }

    /// Writes `name`, which is in lower case, as the sender spelled it. Only the case can change:
    /// whatever the list holds, what is written equals `name` but for case.
    pub(crate) fn write(&self, name: &str, text: &mut Vec<u8>) {
        let start = text.len();
        let bytes = name.as_bytes();
        if !self.list.is_empty() {
            let mut listed = self.list.split(|&byte| byte == b',');
            if let Some(listed) = listed.find(|listed| listed.eq_ignore_ascii_case(bytes)) {
                text.extend_from_slice(listed);
                return;
            }
        }
        text.extend_from_slice(bytes);
        if self.title {
            let mut first = true;
            for byte in &mut text[start..] {
                if first {
                    byte.make_ascii_uppercase();
                }
                first = *byte == b'-';
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(names: &[&str]) -> (Option<String>, Vec<String>) {
        let value = match describe(names.iter().map(|name| name.as_bytes())) {
            Description::Lower => None,
            Description::Title => Some(b"t".to_vec()),
            Description::List(value) => Some(value),
        };
        let spelling = value.as_deref().map(Spelling::parse).unwrap_or_default();
        let back = names.iter().map(|name| spelled(spelling, &name.to_ascii_lowercase())).collect();
        (value.map(|value| String::from_utf8(value).unwrap()), back)
    }

    fn spelled(spelling: Spelling<'_>, name: &str) -> String {
        let mut text = b"before-".to_vec();
        spelling.write(name, &mut text);
        String::from_utf8(text.split_off(7)).unwrap()
    }

    #[test]
    fn names_come_back_as_they_were_spelled() {
        for (names, expected) in [
            (&["host", "accept", "x-a"][..], None),
            (&["Host", "User-Agent", "Accept-Encoding"], Some("t")),
            (&["Host", "Accept", "x-Request-ID", "ETag", "X-1"], Some("t,x-Request-ID,ETag")),
            (&["host", "accept", "SOAPAction"], Some("SOAPAction")),
            (&["Host", "Set-Cookie", "set-type", "Set-Cookie"], Some("t,set-type")),
            (&["1", "x-9"], None),
        ] {
            let (value, back) = round_trip(names);
            assert_eq!(value.as_deref(), expected);
            assert_eq!(back, names);
        }
    }

    #[test]
    fn a_list_from_a_peer_can_change_nothing_but_case() {
        for value in [&b"t,\r\nx: y"[..], b",,,", b"T,ACCEPTED,acCept,\xff\xff\xff", b"t", b"accep\r", b""] {
            let spelled = spelled(Spelling::parse(value), "accept");
            assert!(spelled.eq_ignore_ascii_case("accept"), "{value:?}");
        }
        let long = vec![b'a'; LIST_BYTES_MAX + 1];
        assert_eq!(spelled(Spelling::parse(&long), "a"), "a");
    }

    #[test]
    fn the_list_is_bounded() {
        let names: Vec<String> = (0..2000).map(|n| format!("xX-{n}")).collect();
        let Description::List(value) = describe(names.iter().map(|name| name.as_bytes())) else { panic!() };
        assert!(value.len() <= LIST_BYTES_MAX);
    }
}
