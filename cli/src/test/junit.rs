//! The answer as JUnit XML, which every CI system shows.

use super::Fared;
use std::fmt::Write;

pub(crate) fn document(all: &[Fared<'_>]) -> String {
    let failed = all.iter().filter(|fared| !fared.failures.is_empty()).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"weft\" tests=\"{}\" failures=\"{failed}\">\n",
        all.len()
    );
    for fared in all {
        let Fared { test, name, file, line, failures, .. } = fared;
        let (test, name, file) = (escaped(test), escaped(name), escaped(file));
        // Writing to a String cannot fail.
        let _ =
            write!(text, "  <testcase classname=\"{test}\" name=\"{name}\" file=\"{file}\" line=\"{line}\"");
        if failures.is_empty() {
            text.push_str("/>\n");
            continue;
        }
        let said = escaped(&failures.join("; "));
        let _ = writeln!(text, ">\n    <failure message=\"{said}\"/>\n  </testcase>");
    }
    text.push_str("</testsuite>\n");
    text
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 has no form for these at all.
            char if char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            char => escaped.push(char),
        }
    }
    escaped
}
