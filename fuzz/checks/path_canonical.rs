//! Paths as any client may spell them: the canonical form is a fixed point with nothing left to resolve, at
//! every level, and what a parser of another house reads alike is one path to policy, or refused.

use weft_model::path::{Normalization, canonical};

/// Whether the path has a canonical form where no level is chosen.
pub(crate) fn check(path: &str) -> bool {
    for (name, level) in Normalization::NAMES {
        let Ok(found) = level.canonical(path) else { continue };
        assert_eq!(level.canonical(&found).as_deref(), Ok(&*found), "{name}: a fixed point");
        if level == Normalization::None {
            assert_eq!(found, path);
            continue;
        }
        assert!(found.starts_with('/') && found.is_ascii(), "{name}: {found}");
        let dots = |segment: &str| matches!(segment, "." | "..");
        assert!(!found.split('/').any(dots), "{name}: {found}");
        assert!(level < Normalization::MergeSlashes || !found.contains("//"), "{name}: {found}");
    }
    // What a level refuses, those that do more refuse, too.
    let taken = Normalization::NAMES.map(|(_, level)| level.canonical(path).is_ok());
    assert!(taken.is_sorted_by(|before, after| *before || !*after), "{path}: {taken:?}");
    let Ok(found) = canonical(path) else { return false };
    // Who decodes twice sees what who decodes once sees.
    assert!(!found.contains("%25") && !found.to_ascii_lowercase().contains("%2f"), "{found}");
    true
}

/// The path as somebody would spell it who wants to be read otherwise than judged. Each step is an operation
/// and a place.
pub(crate) fn respelled(path: &str, steps: &[u8]) -> String {
    let mut text = path.as_bytes().to_vec();
    for step in steps.chunks_exact(2).take(8) {
        let at = usize::from(step[1]) % text.len().max(1);
        let Some(byte) = text.get(at).copied() else { break };
        let slash = text[at..].iter().position(|byte| *byte == b'/').map(|found| at + found);
        let behind = |insert: &'static [u8]| slash.map(|slash| (slash + 1..slash + 1, insert.to_vec()));
        let instead = |piece: &'static [u8]| slash.map(|slash| (slash..slash + 1, piece.to_vec()));
        let change = match step[0] % 14 {
            0 => Some((at..at + 1, format!("%{byte:02X}").into_bytes())),
            1 => Some((at..at + 1, format!("%{byte:02x}").into_bytes())),
            2 => Some((at..at + 1, format!("%25{byte:02X}").into_bytes())),
            3 => behind(b"/"),
            4 => behind(b"./"),
            5 => behind(b"x/../"),
            6 => behind(b"%2e/"),
            7 => behind(b"x/%2E%2e/"),
            8 => instead(b"\\"),
            9 => instead(b"%2f"),
            10 => instead(b"%5C"),
            11 => instead(b";a=b/"),
            // An escape as what it stands for.
            12 => match text.get(at..at + 3) {
                Some([b'%', high, low]) => value(*high, *low).map(|value| (at..at + 3, vec![value])),
                _ => None,
            },
            _ => Some((
                at..at + 1,
                if byte.is_ascii_lowercase() {
                    vec![byte.to_ascii_uppercase()]
                } else {
                    vec![byte.to_ascii_lowercase()]
                },
            )),
        };
        if let Some((range, piece)) = change {
            text.splice(range, piece);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Holds two spellings against each other; says whether any parser reads them alike.
pub(crate) fn meet(path: &str, other: &str) -> bool {
    let (Ok(one), Ok(two)) = (canonical(path), canonical(other)) else { return false };
    let mut met = false;
    for (name, parser) in PARSERS {
        let (Some(ours), Some(theirs)) = (parser(path), parser(other)) else { continue };
        if ours == theirs {
            assert_eq!(one, two, "{name} reads {path} and {other} alike, and policy does not");
            met = true;
        }
    }
    met
}

/// A parser of another house: what it makes of a path. `None`: it takes no such path.
pub(crate) type Parser = (&'static str, fn(&str) -> Option<Vec<u8>>);

/// Independent parsers, whose readings no two spellings may share that policy judges differently.
pub(crate) const PARSERS: [Parser; 6] = [
    ("the url crate", url_crate),
    ("RFC 3986, sections 6.2.2 and 5.2.4", rfc_3986),
    ("decoded once, then cleaned", |path| Some(clean(&decode(path.as_bytes())))),
    ("cleaned, then decoded", |path| Some(decode(&clean(path.as_bytes())))),
    ("decoded until nothing is left, backslashes as slashes, then cleaned", decode_all),
    ("decoded once, then by RFC 3986", |path| Some(remove_dot_segments(&decode(path.as_bytes())))),
];

/// The URL standard, as browsers have it.
fn url_crate(path: &str) -> Option<Vec<u8>> {
    let url = url::Url::parse(&format!("http://cart.shop{path}")).ok()?;
    Some(url.path().as_bytes().to_vec())
}

/// Case of digits and escapes of unreserved characters, then dot segments.
fn rfc_3986(path: &str) -> Option<Vec<u8>> {
    let mut normal = Vec::new();
    let mut rest = path.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        let decoded = match after {
            [high, low, ..] if *byte == b'%' => value(*high, *low),
            _ => None,
        };
        match decoded {
            Some(value) if value.is_ascii_alphanumeric() || b"-._~".contains(&value) => normal.push(value),
            Some(value) => normal.extend(format!("%{value:02X}").into_bytes()),
            None => {
                normal.push(*byte);
                continue;
            }
        }
        rest = &after[2..];
    }
    Some(remove_dot_segments(&normal))
}

/// RFC 3986, section 5.2.4, step by step.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut input = path.to_vec();
    let mut output: Vec<u8> = Vec::new();
    while !input.is_empty() {
        if input.starts_with(b"../") {
            input.drain(..3);
        } else if input.starts_with(b"./") || input.starts_with(b"/./") {
            input.drain(..2);
        } else if input == b"/." {
            input = b"/".to_vec();
        } else if input.starts_with(b"/../") || input == b"/.." {
            input = if input == b"/.." { b"/".to_vec() } else { input[3..].to_vec() };
            let end = output.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            output.truncate(end);
        } else if input == b"." || input == b".." {
            input.clear();
        } else {
            let end = input.iter().skip(1).position(|byte| *byte == b'/').map_or(input.len(), |at| at + 1);
            output.extend(input.drain(..end));
        }
    }
    output
}

/// As servers do that look for files: empty and dot segments go, `..` removes what stands before it.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let directory = path.ends_with(b"/") || path.ends_with(b"/.") || path.ends_with(b"/..");
    let mut cleaned = segments.iter().flat_map(|segment| [b"/", *segment].concat()).collect::<Vec<u8>>();
    if directory || cleaned.is_empty() {
        cleaned.push(b'/');
    }
    cleaned
}

/// Lenient, as many are: a percent sign that begins no escape stays.
fn decode(path: &[u8]) -> Vec<u8> {
    percent_encoding::percent_decode(path).collect()
}

fn decode_all(path: &str) -> Option<Vec<u8>> {
    let mut path = path.as_bytes().to_vec();
    loop {
        let decoded = decode(&path);
        if decoded == path {
            break;
        }
        path = decoded;
    }
    path.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
    Some(clean(&path))
}

fn value(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| (digit as char).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}
