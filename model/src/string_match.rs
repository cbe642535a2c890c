//! Matching of one string, as Istio's security policies write it: `exact`, `prefix*`, `*suffix`,
//! `*` (present), and path templates with `{*}` and `{**}`.

use crate::names::InvalidName;
use std::fmt;

/// A pattern for one string.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum StringMatch {
    /// The whole string.
    Exact(Box<str>),
    /// `text*`
    Prefix(Box<str>),
    /// `*text`
    Suffix(Box<str>),
    /// `*`: any string but the empty one.
    Presence,
    /// A path template.
    Template(PathTemplate),
}

/// The longest template: judging one goes as deep as it has segments.
const TEMPLATE_LENGTH_MAX: usize = 1024;

/// A path of literal segments, `{*}` for one segment and `{**}` for any number of them, at most once.
/// A segment may have a literal before and after its `{*}` (Envoy's URI templates).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PathTemplate {
    text: Box<str>,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Segment {
    Literal(Box<str>),
    One { before: Box<str>, after: Box<str> },
    Rest { after: Box<str> },
}

impl StringMatch {
    /// Reads Istio's spelling of a value. No template: a `{` is a letter like any other.
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            Self::Presence
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(text.into())
        }
    }

    /// Reads Istio's spelling of a path, templates included.
    pub fn parse_path(text: &str) -> Result<Self, InvalidName> {
        if text.contains('{') || text.contains('}') {
            return Ok(Self::Template(PathTemplate::parse(text)?));
        }
        Ok(Self::parse(text))
    }

    /// Whether the value matches.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == &**text,
            Self::Prefix(text) => value.starts_with(&**text),
            Self::Suffix(text) => value.ends_with(&**text),
            Self::Presence => !value.is_empty(),
            Self::Template(template) => template.matches(value),
        }
    }

    /// Whether the value matches without regard to ASCII case, as host names are compared.
    pub fn matches_ignoring_case(&self, value: &str) -> bool {
        let (value, bytes) = (value.as_bytes(), |text: &str| text.len());
        match self {
            Self::Exact(text) => value.eq_ignore_ascii_case(text.as_bytes()),
            Self::Prefix(text) => {
                value.get(..bytes(text)).is_some_and(|head| head.eq_ignore_ascii_case(text.as_bytes()))
            }
            Self::Suffix(text) => value
                .len()
                .checked_sub(bytes(text))
                .is_some_and(|at| value[at..].eq_ignore_ascii_case(text.as_bytes())),
            Self::Presence => !value.is_empty(),
            Self::Template(_) => false,
        }
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Presence => f.write_str("*"),
            Self::Template(template) => f.write_str(&template.text),
        }
    }
}

impl PathTemplate {
    /// Reads a template. Refused: braces that are neither operator, two operators in a segment, two
    /// `{**}`, anything after `{**}` in the path but a literal ending, a path without leading `/`, and
    /// what is longer than 1,024 bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let refused = || InvalidName::new("path template", text);
        let rest = text.strip_prefix('/').ok_or_else(refused)?;
        if text.len() > TEMPLATE_LENGTH_MAX {
            return Err(refused());
        }
        if text.contains('*') && text.replace("{**}", "").replace("{*}", "").contains('*') {
            return Err(refused());
        }
        let mut segments = Vec::new();
        let mut rest_seen = false;
        for segment in rest.split('/') {
            let parsed = if let Some((before, after)) = segment.split_once("{**}") {
                if rest_seen || !before.is_empty() {
                    return Err(refused());
                }
                rest_seen = true;
                Segment::Rest { after: after.into() }
            } else if let Some((before, after)) = segment.split_once("{*}") {
                Segment::One { before: before.into(), after: after.into() }
            } else {
                Segment::Literal(segment.into())
            };
            let literals: [&str; 2] = match &parsed {
                Segment::Literal(text) | Segment::Rest { after: text } => [text, ""],
                Segment::One { before, after } => [before, after],
            };
            if literals.iter().any(|literal| literal.contains(['{', '}'])) {
                return Err(refused());
            }
            segments.push(parsed);
        }
        Ok(Self { text: text.into(), segments })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What every path that matches begins with.
    pub fn literal_prefix(&self) -> &str {
        self.text.split('{').next().unwrap_or_default()
    }

    /// Whether the path matches, all of it.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        Self::matches_from(&self.segments, path)
    }

    fn matches_from(segments: &[Segment], path: &str) -> bool {
        let Some((first, others)) = segments.split_first() else { return false };
        if let Segment::Rest { after } = first {
            if others.is_empty() {
                return path.ends_with(&**after);
            }
            // One `{**}` at most, so trying each place for the remainder stays linear in segments.
            let mut tail = path;
            loop {
                let Some((head, next)) = tail.split_once('/') else { return false };
                if head.ends_with(&**after) && Self::matches_from(others, next) {
                    return true;
                }
                tail = next;
            }
        }
        let (head, tail) = match path.split_once('/') {
            Some((head, tail)) => (head, Some(tail)),
            None => (path, None),
        };
        let matched = match first {
            Segment::Literal(text) => head == &**text,
            Segment::One { before, after } => {
                head.len() > before.len() + after.len()
                    && head.starts_with(&**before)
                    && head.ends_with(&**after)
            }
            Segment::Rest { .. } => false,
        };
        matched
            && match tail {
                Some(tail) => Self::matches_from(others, tail),
                None => others.is_empty(),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istio_spelling_is_read() {
        assert!(StringMatch::parse("/a*").matches("/ab"));
        assert!(!StringMatch::parse("/a*").matches("/b"));
        assert!(StringMatch::parse("*.gif").matches("/x/y.gif"));
        assert!(StringMatch::parse("*").matches("x"));
        assert!(!StringMatch::parse("*").matches(""));
        assert!(StringMatch::parse("GET").matches("GET"));
        assert!(!StringMatch::parse("GET").matches("get"));
        assert!(StringMatch::parse("*.Example.com").matches_ignoring_case("a.EXAMPLE.COM"));
        assert!(!StringMatch::parse("Example.com").matches_ignoring_case("xample.com"));
    }

    #[test]
    fn templates_match_whole_segments() {
        let cases = [
            ("/foo/{*}", "/foo/bar", true),
            ("/foo/{*}", "/foo/", false),
            ("/foo/{*}", "/foo/bar/baz", false),
            ("/foo/{**}", "/foo/bar/baz", true),
            ("/foo/{**}", "/foo/", true),
            ("/foo/{**}/", "/foo/bar/", true),
            ("/foo/{*}/bar/{**}", "/foo/x/bar/y/z", true),
            ("/foo/{*}/bar/{**}", "/foo/x/baz/y/z", false),
            ("/{*}/baz/foo.txt", "/bar/baz/foo.txt", true),
            ("/{**}/foo.txt", "/a/b/foo.txt", true),
            ("/{**}/foo.txt", "/a/b/foo.txt/c", false),
            ("/v{*}/x", "/v1/x", true),
            ("/v{*}/x", "/v/x", false),
        ];
        for (template, path, expected) in cases {
            assert_eq!(PathTemplate::parse(template).unwrap().matches(path), expected, "{template} {path}");
        }
        for bad in ["foo/{*}", "/{**}/{**}", "/a{**}", "/{name}", "/{*}{*}", "/a*/{*}", "/{"] {
            assert!(PathTemplate::parse(bad).is_err(), "{bad}");
        }
    }
}
