//! What a condition on a header field means when the field comes several times, or holds a list.
//!
//! A field's values are the elements of all of its lines, parted at every comma, without the spaces
//! around them and without empty ones; a line with nothing in it has one value, the empty one. That
//! is what RFC 9110 lets any hop make of it by joining and parting lines, so no spelling of a list
//! changes a verdict. The fields below hold one value by definition, commas and all: their lines are
//! compared whole. Nothing is unquoted and case counts.
//!
//! A value fits a clause if one of `any` matches it (or there is none) and none of `not` does. A DENY
//! holds if any value fits, an ALLOW only if all do, so that adding a value never buys admission. A
//! field that is not there has no value: `any` fails then and `not` holds. A value that is not UTF-8
//! fits every DENY and no ALLOW.

use super::{Action, Clause};
use crate::request::HttpFacts;
use crate::string_match::StringMatch;

/// Fields of one value in which a comma is a letter like any other. Sorted.
const SINGLE: [&str; 22] = [
    "authorization",
    "content-length",
    "content-location",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expires",
    "from",
    "host",
    "if-modified-since",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "origin",
    "proxy-authorization",
    "referer",
    "retry-after",
    "server",
    "set-cookie",
    "user-agent",
];

/// Whether a field's lines are lists, so that a pattern with a comma never matches.
pub fn is_list(name: &str) -> bool {
    SINGLE.binary_search(&name).is_err()
}

/// Whether the condition holds.
pub(super) fn matches(
    clause: &Clause<StringMatch>,
    name: &str,
    http: &HttpFacts<'_>,
    action: Action,
) -> bool {
    let strict = action == Action::Allow;
    let list = is_list(name);
    let (mut count, mut fitting) = (0_usize, 0_usize);
    // Goes on for as long as the answer is open.
    let mut value = |value: &[u8]| {
        let fits = match std::str::from_utf8(value) {
            Ok(value) => fits(clause, value),
            Err(_) => !strict,
        };
        count += 1;
        fitting += usize::from(fits);
        fits == strict
    };
    http.headers.visit_values(name, &mut |line| {
        if !list {
            return value(line);
        }
        let mut elements = line
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .filter(|part| !part.is_empty())
            .peekable();
        match elements.peek() {
            Some(_) => elements.all(&mut value),
            None => value(b""),
        }
    });
    match count {
        0 => clause.any.is_empty(),
        _ if strict => fitting == count,
        _ => fitting > 0,
    }
}

fn fits(clause: &Clause<StringMatch>, value: &str) -> bool {
    let matches = |pattern: &StringMatch| pattern.matches(value);
    (clause.any.is_empty() || clause.any.iter().any(matches)) && !clause.not.iter().any(matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_one_value_are_sorted() {
        assert!(SINGLE.is_sorted());
        assert!(is_list("x-groups") && is_list("accept") && !is_list("user-agent"));
    }
}
