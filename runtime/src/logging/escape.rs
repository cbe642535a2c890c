//! The last step before a log line leaves the process: every character that could break the line or
//! fool a terminal is written as an escape. It works on whole formatted lines, so that no way of
//! recording a field (display, debug, error, span) gets past it, whatever the formatter escapes itself:
//! tracing-subscriber writes newlines in displayed values raw in text, and leaves C1 controls in JSON.

use std::borrow::Cow;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// How an escape is spelt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    /// `\n`, `\u{1b}`.
    Text,
    /// `\u001b`, which a parser turns back: such characters occur only inside strings in JSON.
    Json,
}

/// Makes writers that escape, over those of another maker.
#[derive(Debug)]
pub(super) struct Escaped<M> {
    inner: M,
    style: Style,
}

/// Takes a whole line at each write, as the formatter gives it.
#[derive(Debug)]
pub(super) struct EscapedLine<W> {
    inner: W,
    style: Style,
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and the marks that change the
/// direction in which text is shown.
pub(super) fn must_escape(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

// === impl Style ===

impl Style {
    fn escape(self, text: &str) -> Cow<'_, str> {
        if !text.chars().any(must_escape) {
            return Cow::Borrowed(text);
        }
        let mut escaped = String::with_capacity(text.len() + 16);
        for character in text.chars() {
            match (self, must_escape(character)) {
                (_, false) => escaped.push(character),
                (Self::Text, true) => match character {
                    // Letters for the common ones, numbers for the rest.
                    '\n' | '\r' | '\t' => escaped.extend(character.escape_default()),
                    other => escaped.extend(other.escape_unicode()),
                },
                // All of them lie in the basic plane: four digits always do.
                (Self::Json, true) => {
                    escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
                }
            }
        }
        Cow::Owned(escaped)
    }
}

// === impl Escaped ===

impl<M> Escaped<M> {
    pub(super) const fn new(inner: M, style: Style) -> Self {
        Self { inner, style }
    }
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Escaped<M> {
    type Writer = EscapedLine<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapedLine { inner: self.inner.make_writer(), style: self.style }
    }
}

// === impl EscapedLine ===

impl<W: Write> Write for EscapedLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only the newline that ends the line is the formatter's own.
        let (line, end) = match bytes.strip_suffix(b"\n") {
            Some(line) => (line, "\n"),
            None => (bytes, ""),
        };
        let text = String::from_utf8_lossy(line);
        match self.style.escape(&text) {
            // One write for one line, so that lines of several threads do not mix.
            Cow::Borrowed(_) if matches!(text, Cow::Borrowed(_)) => self.inner.write_all(bytes)?,
            escaped => {
                let mut whole = escaped.into_owned();
                whole.push_str(end);
                self.inner.write_all(whole.as_bytes())?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(style: Style, line: &[u8]) -> String {
        let mut out = Vec::new();
        EscapedLine { inner: &mut out, style }.write_all(line).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_clean_line_passes_unchanged() {
        let line = "caf\u{e9} \u{1f9f5} \"quoted\" \\n\n";
        assert_eq!(written(Style::Text, line.as_bytes()), line);
        assert_eq!(written(Style::Json, line.as_bytes()), line);
    }

    #[test]
    fn only_the_last_newline_stays() {
        assert_eq!(written(Style::Text, b"a\n\nb\r\n\n"), "a\\n\\nb\\r\\n\n");
        assert_eq!(written(Style::Text, b"no end\x1b"), "no end\\u{1b}");
    }

    #[test]
    fn json_escapes_are_those_of_json() {
        let out = written(Style::Json, "\"\u{7f}\u{85}\u{202e}\"\n".as_bytes());
        assert_eq!(out, "\"\\u007f\\u0085\\u202e\"\n");
        let back: String = serde_json::from_str(&out).unwrap();
        assert_eq!(back, "\u{7f}\u{85}\u{202e}");
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        assert_eq!(written(Style::Text, b"a\xff\xfeb\n"), "a\u{fffd}\u{fffd}b\n");
    }
}
