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

/// A path of literal segments, `{*}` for one segment and, as the last operator, `{**}` for any number of
/// them (Envoy's URI templates, as Istio takes them: an operator is a segment of its own).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PathTemplate {
    text: Box<str>,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Segment {
    Literal(Box<str>),
    One,
    Rest,
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
    /// Reads a template. Refused, as by Istio: `*`, `{` or `}` other than in an operator, other letters in
    /// an operator's segment, an operator after `{**}`, a path without leading `/`; and what is longer than
    /// 1,024 bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let refused = || InvalidName::new("path template", text);
        let rest = text.strip_prefix('/').ok_or_else(refused)?;
        if text.len() > TEMPLATE_LENGTH_MAX {
            return Err(refused());
        }
        let mut segments = Vec::new();
        let mut rest_seen = false;
        for segment in rest.split('/') {
            let parsed = match segment {
                "{*}" => Segment::One,
                "{**}" => Segment::Rest,
                literal if literal.contains(['*', '{', '}']) => return Err(refused()),
                literal => Segment::Literal(literal.into()),
            };
            if rest_seen && !matches!(parsed, Segment::Literal(_)) {
                return Err(refused());
            }
            rest_seen |= parsed == Segment::Rest;
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
        let Some(mut path) = path.strip_prefix('/') else { return false };
        let mut segments = self.segments.iter();
        while let Some(segment) = segments.next() {
            if *segment == Segment::Rest {
                return Self::ends_with(segments.as_slice(), path);
            }
            let (head, tail) = match path.split_once('/') {
                Some((head, tail)) => (head, Some(tail)),
                None => (path, None),
            };
            let matched = match segment {
                Segment::Literal(text) => head == &**text,
                Segment::One => !head.is_empty(),
                Segment::Rest => false,
            };
            if !matched {
                return false;
            }
            match tail {
                Some(tail) => path = tail,
                None => return segments.as_slice().is_empty(),
            }
        }
        // There is more of the path than of the template.
        false
    }

    // Whether the path ends with these literals, each behind a `/`.
    fn ends_with(literals: &[Segment], mut path: &str) -> bool {
        for segment in literals.iter().rev() {
            let Segment::Literal(text) = segment else { return false };
            let Some(rest) = path.strip_suffix(&**text).and_then(|rest| rest.strip_suffix('/')) else {
                return false;
            };
            path = rest;
        }
        true
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
            ("/{**}/foo.txt", "/foo.txt", false),
            ("/{**}/foo.txt", "//foo.txt", true),
            ("/{**}/a/b", "/x/a/a/b", true),
            ("/{**}/a/b", "/a/b", false),
            ("/a/{**}", "/a", false),
            ("/{**}", "/", true),
            ("/{*}", "/", false),
        ];
        for (template, path, expected) in cases {
            assert_eq!(PathTemplate::parse(template).unwrap().matches(path), expected, "{template} {path}");
        }
        for bad in [
            "foo/{*}",
            "/{**}/{**}",
            "/a{**}",
            "/{name}",
            "/{*}{*}",
            "/a*/{*}",
            "/{",
            "/{*}.txt",
            "/v{*}",
            "/{**}/a/{*}",
        ] {
            assert!(PathTemplate::parse(bad).is_err(), "{bad}");
        }
    }
}
