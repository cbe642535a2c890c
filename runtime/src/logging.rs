//! Logging of a whole process: JSON lines on stderr, or plain text when stderr is a terminal; a filter
//! that can be changed while running; panics as one line like any other.
//! Every line is escaped as it is written (`logging/escape.rs`): nothing that a peer sent can start a new
//! line, move a cursor or reorder what is read, whichever field it came in.
//! It refuses to take a misspelt level: that would silently log nothing, or everything.

use std::io;
use std::io::IsTerminal;
use std::panic;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;

use escape::{Escaped, Style};

pub use filter::{LogFilter, LogFilterError};

mod escape;
mod filter;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text when stderr is a terminal, otherwise JSON.
    #[default]
    Auto,
    /// One JSON object a line: `timestamp`, `level`, `message`, the event's fields, `target`.
    Json,
    /// For people.
    Text,
}

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct LogHandle {
    reload: reload::Handle<tracing_subscriber::filter::Targets, tracing_subscriber::Registry>,
    current: Arc<Mutex<LogFilter>>,
}

/// Why logging could not be set up or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// [`init`] was called before, or somebody else has set a subscriber.
    #[error("logging has been set up already")]
    AlreadySet,
    /// The subscriber that the handle belongs to is no more.
    #[error("logging has ended")]
    Ended,
}

/// Sets up logging for the process, on stderr, and turns panics into log lines. Once, first of all.
///
/// # Errors
/// When it was done already.
pub fn init(filter: &LogFilter, format: Format) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = subscriber(filter, format, io::stderr);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)?;
    panic::set_hook(Box::new(log_panic));
    Ok(handle)
}

/// The same subscriber over any writer, not installed: for tests, and for what logs elsewhere.
pub fn subscriber<W>(
    filter: &LogFilter,
    format: Format,
    writer: W,
) -> (impl Subscriber + Send + Sync + use<W>, LogHandle)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (targets, reload) = reload::Layer::new(filter.targets());
    let json = match format {
        Format::Json => true,
        Format::Text => false,
        Format::Auto => !io::stderr().is_terminal(),
    };
    // Colours are escape sequences, which the writer below lets nobody write, us included.
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        // Otherwise a line that cannot be written is reported on stderr, which panics when that is
        // what cannot be written to.
        .log_internal_errors(false);
    let lines = if json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(Escaped::new(writer, Style::Json))
            .boxed()
    } else {
        lines.with_writer(Escaped::new(writer, Style::Text)).boxed()
    };
    let subscriber = tracing_subscriber::registry().with(targets).with(lines);
    let handle = LogHandle { reload, current: Arc::new(Mutex::new(filter.clone())) };
    (subscriber, handle)
}

/// The panic hook. The message can hold anything, peers' bytes included, and the standard hook prints
/// it raw; here it goes through the same writer as all else.
fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let message = crate::workers::panic_message(info.payload());
    let thread = std::thread::current();
    let location = info.location();
    tracing::error!(
        panic = message,
        file = location.map(panic::Location::file),
        line = location.map(panic::Location::line),
        thread = thread.name().unwrap_or("unnamed"),
        "a thread panicked"
    );
}

// === impl LogHandle ===

impl LogHandle {
    /// Logs by this filter from now on.
    ///
    /// # Errors
    /// When the subscriber is gone, which for the one of [`init`] cannot be.
    pub fn set(&self, filter: &LogFilter) -> Result<(), LogError> {
        // Held over the reload, so that two changes at once leave both saying the same.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.reload.reload(filter.targets()).map_err(|_| LogError::Ended)?;
        current.clone_from(filter);
        Ok(())
    }

    /// The filter in force.
    #[must_use]
    pub fn current(&self) -> LogFilter {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Peers' bytes at their worst: a forged line, a terminal's escapes, a carriage return, C1, a text
    /// direction override, quotes.
    const EVIL: &str = "a\nERROR forged=1\r\x1b[2J\x07\x7f\u{9b}31m\u{202e}\u{2028}\0\t\"\\";

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("outer {EVIL}")]
    struct Evil(#[source] io::Error);

    fn captured(filter: &str, format: Format, body: impl FnOnce(&LogHandle)) -> String {
        // The greatest level that is looked at is the process's: one test's changes are seen by another.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let out = Captured::default();
        let writer = out.clone();
        let (subscriber, handle) = subscriber(&filter.parse().unwrap(), format, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || body(&handle));
        out.text()
    }

    fn log_evil() {
        let error = Evil(io::Error::other(EVIL));
        let span = tracing::info_span!("work", peer = EVIL, shown = %EVIL);
        let _entered = span.enter();
        tracing::info!(
            quoted = EVIL,
            shown = %EVIL,
            debugged = ?EVIL,
            error = &error as &(dyn std::error::Error + 'static),
            "message {EVIL}"
        );
    }

    fn assert_one_clean_line(text: &str) {
        let line = text.strip_suffix('\n').expect("must end its line");
        for character in line.chars() {
            assert!(!escape::must_escape(character), "{character:?} in {line:?}");
        }
    }

    #[test]
    fn no_field_can_put_a_control_character_into_a_text_line() {
        let text = captured("info", Format::Text, |_| log_evil());
        assert_one_clean_line(&text);
        assert!(text.contains("message a\\nERROR forged=1\\r"), "{text}");
    }

    #[test]
    fn no_field_can_put_a_control_character_into_a_json_line_and_nothing_is_lost() {
        let text = captured("info", Format::Json, |_| log_evil());
        assert_one_clean_line(&text);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["quoted"], EVIL);
        assert_eq!(value["shown"], EVIL);
        assert_eq!(value["message"], format!("message {EVIL}"));
        assert_eq!(value["level"], "INFO");
        assert_eq!(value["target"], module_path!());
        assert!(value["timestamp"].is_string());
        assert_eq!(value["span"]["peer"], EVIL);
    }

    #[test]
    fn the_filter_can_be_changed_while_running() {
        let text = captured("info", Format::Json, |handle| {
            tracing::debug!("one");
            handle.set(&"debug".parse().unwrap()).unwrap();
            assert_eq!(handle.current().to_string(), "debug");
            tracing::debug!("two");
            handle.set(&"off".parse().unwrap()).unwrap();
            tracing::error!("three");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("two"));
    }

    #[test]
    fn a_target_can_be_louder_or_quieter_than_the_rest() {
        let text = captured("warn,weft_runtime=debug,h2=off", Format::Text, |_| {
            tracing::debug!("ours");
            tracing::error!(target: "h2::codec", "theirs");
            tracing::info!(target: "hyper", "unmentioned");
            tracing::warn!(target: "hyper", "warned");
        });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("ours") && lines[1].contains("warned"));
    }

    #[test]
    fn a_handle_outlives_its_subscriber_with_an_error() {
        let mut kept = None;
        captured("info", Format::Json, |handle| kept = Some(handle.clone()));
        let result = kept.unwrap().set(&"debug".parse().unwrap());
        assert_eq!(result, Err(LogError::Ended));
    }
}
