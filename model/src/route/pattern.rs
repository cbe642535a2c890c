//! Regular expressions of routes: for whole values, linear in time, bounded in size.

use crate::names::InvalidName;
use regex::bytes::Regex;

/// The largest compiled regular expression, bytes: a pattern that needs more is refused.
const REGEX_SIZE_MAX: usize = 64 * 1024;
/// The longest written one, bytes.
const SOURCE_BYTES_MAX: usize = 1024;

/// A regular expression for a whole value: linear in time, bounded in size.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// Compiles.
    pub fn new(source: &str) -> Result<Self, InvalidName> {
        let refused = || InvalidName::new("regular expression", source);
        if source.len() > SOURCE_BYTES_MAX {
            return Err(refused());
        }
        let compile = |source: &str| {
            regex::bytes::RegexBuilder::new(source)
                .unicode(false)
                .size_limit(REGEX_SIZE_MAX)
                .dfa_size_limit(REGEX_SIZE_MAX)
                .build()
                .map_err(|_| refused())
        };
        // By itself first: `a)|(b` is no expression, and within parentheses it would be one for beginnings.
        compile(source)?;
        let regex = compile(&format!("^(?:{source})$"))?;
        Ok(Self { source: source.into(), regex })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole value matches.
    pub fn matches(&self, value: &str) -> bool {
        self.regex.is_match(value.as_bytes())
    }
}

impl Eq for Pattern {}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_values_and_are_bounded() {
        assert!(Pattern::new("a+").unwrap().matches("aaa"));
        assert!(!Pattern::new("a+").unwrap().matches("baaa"));
        assert!(!Pattern::new("a|b").unwrap().matches("ac"));
        assert!(Pattern::new("(").is_err());
        assert!(Pattern::new("a)|(b").is_err());
        assert!(Pattern::new(&"a{1000}".repeat(100)).is_err());
    }
}
