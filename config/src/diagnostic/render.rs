//! Diagnostics for people: the line itself, and a caret below what is meant.
//!
//! What comes from a file is shown without control characters, so that it cannot steer a terminal.

use super::{Diagnostic, Severity};
use crate::SourceFile;
use std::collections::HashMap;
use std::fmt::Write;

/// The most characters of a line that are shown.
const WIDTH_MAX: usize = 160;
/// How many of them stand before the place.
const BEFORE_MAX: usize = 80;

/// Writes diagnostics, each with its line.
pub fn render(diagnostics: &[Diagnostic], files: &[SourceFile], colour: bool) -> String {
    let mut text = String::new();
    let mut lines: HashMap<&str, Vec<&str>> = HashMap::new();
    for diagnostic in diagnostics {
        let held = lines.entry(&diagnostic.file).or_insert_with(|| {
            let file = files.iter().find(|file| file.name == diagnostic.file);
            file.map(|file| file.text.lines().collect()).unwrap_or_default()
        });
        let line = usize::try_from(diagnostic.line).ok().and_then(|line| held.get(line.checked_sub(1)?));
        one(&mut text, diagnostic, line.copied(), colour);
    }
    text
}

fn one(text: &mut String, diagnostic: &Diagnostic, line: Option<&str>, colour: bool) {
    let (word, code) = match diagnostic.severity {
        Severity::Error => ("error", "\x1b[1;31m"),
        Severity::Warning => ("warning", "\x1b[1;33m"),
    };
    let paint = |code: &'static str| if colour { code } else { "" };
    let (strong, blue, reset) = (paint("\x1b[1m"), paint("\x1b[1;34m"), paint("\x1b[0m"));
    let Diagnostic { file, line: number, column, path, message, hint, .. } = diagnostic;
    let code = paint(code);
    let (file, path, message) = (printable(file), printable(path), printable(message));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{code}{word}{reset}{strong}: {message}{reset}");
    let gutter = " ".repeat(number.to_string().len());
    let path = if path.is_empty() { path } else { format!("  ({path})") };
    let _ = writeln!(text, "{gutter}{blue}-->{reset} {file}:{number}:{column}{path}");
    if let Some((shown, before, length)) = line.map(|line| snippet(line, *column)) {
        let _ = writeln!(text, "{gutter} {blue}|{reset}");
        let _ = writeln!(text, "{blue}{number} |{reset} {shown}");
        let carets = "^".repeat(length);
        let _ = writeln!(text, "{gutter} {blue}|{reset} {}{code}{carets}{reset}", " ".repeat(before));
    }
    if let Some(hint) = hint {
        let _ = writeln!(text, "{gutter} {blue}={reset} hint: {}", printable(hint));
    }
    text.push('\n');
}

// The part of the line to show, how far in it the place is, and how long it is.
fn snippet(line: &str, column: u32) -> (String, usize, usize) {
    let chars: Vec<char> = line.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    let at = usize::try_from(column).unwrap_or(usize::MAX).saturating_sub(1).min(chars.len());
    let start = at.saturating_sub(BEFORE_MAX);
    let end = chars.len().min(start + WIDTH_MAX);
    let word = |char: &&char| !char.is_whitespace() && !matches!(char, ':' | ',' | '}' | ']');
    let rest = &chars[at..end];
    let length = match rest.first() {
        Some(quote @ ('"' | '\'')) => {
            rest[1..].iter().position(|char| char == quote).map_or(rest.len(), |end| end + 2)
        }
        _ => rest.iter().take_while(word).count(),
    };
    (chars[start..end].iter().collect(), at - start, length.max(1))
}

fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{b7}' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_in_its_line() {
        let files =
            [SourceFile { name: "a.yaml".into(), text: "spec:\n  rules:\n  - form: []\x1b[2J\n".into() }];
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            file: "a.yaml".into(),
            line: 3,
            column: 5,
            path: "spec.rules[0].form".into(),
            message: "unknown key \"form\"".into(),
            hint: Some("did you mean `from`?".into()),
        };
        let expected = "error: unknown key \"form\"\n --> a.yaml:3:5  (spec.rules[0].form)\n  |\n\
                        3 |   - form: [] [2J\n  |     ^^^^\n  = hint: did you mean `from`?\n\n";
        assert_eq!(render(std::slice::from_ref(&diagnostic), &files, false), expected);
        assert!(render(&[diagnostic], &files, true).contains("\x1b[1;31merror\x1b[0m"));
    }

    #[test]
    fn a_place_that_is_not_there_is_no_trouble() {
        let (shown, before, length) = snippet(&"x".repeat(1000), 990);
        assert_eq!((shown.len(), before, length), (91, 80, 11));
        assert_eq!(snippet("", 7), (String::new(), 0, 1));
    }
}
