//! What is logged: a level for everything, and levels for single targets.
//! `info`, or `info,weft_proxy::outbound=debug,h2=off`. Parsed strictly, since the text comes from people
//! (a flag, an admin request): an unknown word is an error that names it, never a target nobody has.

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::filter::{LevelFilter, Targets};

/// More directives than anybody writes by hand; the text may come over the admin port.
const DIRECTIVES_MAX: usize = 64;

/// A parsed filter. The default is `info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    default: LevelFilter,
    targets: Vec<(String, LevelFilter)>,
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFilterError {
    /// Nothing was given.
    #[error("a log level is missing: one of off, error, warn, info, debug, trace")]
    Empty,
    /// A level that does not exist.
    #[error(
        "unknown log level {0:?}: use off, error, warn, info, debug or trace, for all or as TARGET=LEVEL"
    )]
    UnknownLevel(String),
    /// A target that cannot be one.
    #[error("{0:?} is no log target: a target is a module path such as weft_proxy::outbound")]
    InvalidTarget(String),
    /// The same thing is said twice.
    #[error("the log level of {0} is given twice")]
    Repeated(String),
    /// Longer than is sensible.
    #[error("more than {DIRECTIVES_MAX} log directives")]
    TooMany,
}

// === impl LogFilter ===

impl LogFilter {
    pub(super) fn targets(&self) -> Targets {
        Targets::new().with_default(self.default).with_targets(self.targets.iter().cloned())
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self { default: LevelFilter::INFO, targets: Vec::new() }
    }
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    /// Comma-separated `LEVEL` (at most once; `info` when it is left out) and `TARGET=LEVEL`.
    fn from_str(text: &str) -> Result<Self, LogFilterError> {
        if text.trim().is_empty() {
            return Err(LogFilterError::Empty);
        }
        let mut default = None;
        let mut targets: Vec<(String, LevelFilter)> = Vec::new();
        for (count, directive) in text.split(',').enumerate() {
            if count == DIRECTIVES_MAX {
                return Err(LogFilterError::TooMany);
            }
            let Some((target, level)) = directive.split_once('=') else {
                if default.replace(parse_level(directive)?).is_some() {
                    return Err(LogFilterError::Repeated("everything".to_owned()));
                }
                continue;
            };
            let target = parse_target(target)?;
            let level = parse_level(level)?;
            if targets.iter().any(|(other, _)| *other == target) {
                return Err(LogFilterError::Repeated(target));
            }
            targets.push((target, level));
        }
        Ok(Self { default: default.unwrap_or(LevelFilter::INFO), targets })
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.default)?;
        self.targets.iter().try_for_each(|(target, level)| write!(f, ",{target}={level}"))
    }
}

fn parse_level(text: &str) -> Result<LevelFilter, LogFilterError> {
    // By name only: the library would take numbers too, and those mean the reverse elsewhere.
    Ok(match text.trim().to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return Err(LogFilterError::UnknownLevel(shortened(text))),
    })
}

fn parse_target(text: &str) -> Result<String, LogFilterError> {
    let target = text.trim();
    let sensible = !target.is_empty()
        && target.len() <= 256
        && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'));
    if !sensible {
        return Err(LogFilterError::InvalidTarget(shortened(text)));
    }
    Ok(target.to_owned())
}

/// Enough of it to be recognised in a message.
fn shortened(text: &str) -> String {
    text.trim().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<LogFilter, LogFilterError> {
        text.parse()
    }

    #[test]
    fn a_filter_prints_as_it_is_read() {
        for text in ["info", "off", "warn,weft_proxy::outbound=debug,h2=off"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse(" INFO , h2 = Off ").unwrap().to_string(), "info,h2=off");
        assert_eq!(parse("h2=off").unwrap().to_string(), "info,h2=off");
        assert_eq!(LogFilter::default().to_string(), "info");
    }

    #[test]
    fn a_misspelt_level_is_named() {
        assert_eq!(
            parse("inof").unwrap_err().to_string(),
            "unknown log level \"inof\": use off, error, warn, info, debug or trace, \
             for all or as TARGET=LEVEL"
        );
        assert_eq!(parse("info,weft_proxy=loud"), Err(LogFilterError::UnknownLevel("loud".into())));
        assert_eq!(parse("3"), Err(LogFilterError::UnknownLevel("3".into())));
        assert_eq!(parse("info,"), Err(LogFilterError::UnknownLevel(String::new())));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        assert_eq!(parse("  "), Err(LogFilterError::Empty));
        assert_eq!(parse("=info"), Err(LogFilterError::InvalidTarget(String::new())));
        assert_eq!(parse("a b=info"), Err(LogFilterError::InvalidTarget("a b".into())));
        assert_eq!(parse("info,debug"), Err(LogFilterError::Repeated("everything".into())));
        assert_eq!(parse("h2=off,h2=info"), Err(LogFilterError::Repeated("h2".into())));
        assert_eq!(parse(&"h=info,".repeat(2)).unwrap_err().to_string(), "the log level of h is given twice");
        let many: Vec<_> = (0..65).map(|n| format!("t{n}=info")).collect();
        assert_eq!(parse(&many.join(",")), Err(LogFilterError::TooMany));
    }

    #[test]
    fn a_refused_word_cannot_flood_or_forge_a_message() {
        let message = parse(&"\x1b\n".repeat(5_000)).unwrap_err().to_string();
        assert!(message.len() < 600 && !message.contains(['\x1b', '\n']));
    }
}
