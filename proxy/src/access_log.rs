//! One JSON line per request, on standard output: off, errors only (the default), or all. Beside a
//! command that the proxy runs, standard output is the command's, and lines go to standard error.
//!
//! Lines go to a writer thread over a bounded queue; a slow reader of standard output costs lines,
//! which are counted, and never a worker. Every value that came from a peer is escaped.

use std::io::Write;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use weft_model::reason::Reason;

/// Lines that may wait for the writer.
const QUEUE_LINES: usize = 4096;

/// The longest piece of a request that is written.
const VALUE_BYTES_MAX: usize = 512;

/// What is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// Nothing.
    Off,
    /// Answers the proxy made itself, statuses from 500 on, and what policy marks: audits, and what
    /// dry runs would change.
    #[default]
    Errors,
    /// Every request.
    All,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "errors" => Ok(Self::Errors),
            "all" => Ok(Self::All),
            _ => Err(format!("{text:?} is not off, errors or all")),
        }
    }
}

/// A handle to the log; cloned into each worker.
#[derive(Clone, Debug)]
pub struct AccessLog {
    mode: Mode,
    lines: Option<mpsc::Sender<String>>,
    dropped: Arc<AtomicU64>,
}

/// What a line says.
#[derive(Debug)]
pub struct Entry<'a> {
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// The method.
    pub method: &'a str,
    /// The authority.
    pub authority: &'a str,
    /// The path with its query.
    pub path: &'a str,
    /// The version the client spoke.
    pub protocol: &'static str,
    /// The status.
    pub status: u16,
    /// `grpc-status`.
    pub grpc_status: Option<u8>,
    /// Why, where the proxy answered itself or the body broke.
    pub reason: Option<Reason>,
    /// More of the why: the deciding policy and rule.
    pub detail: Option<&'a str>,
    /// The AUDIT policy that matches.
    pub audit: Option<&'a str>,
    /// What would be different if dry runs were enforced.
    pub dry_run: Option<&'a str>,
    /// From the request's head to the answer's end.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// The client's address.
    pub client: SocketAddr,
    /// The client's proven identity.
    pub source: Option<&'a str>,
    /// The Service that was asked for.
    pub service: &'a str,
    /// The endpoint that answered.
    pub endpoint: Option<SocketAddr>,
    /// How many tries it took.
    pub tries: u32,
    /// Which kind of the kubelet's probes it is.
    pub probe: Option<&'static str>,
}

impl AccessLog {
    /// A log that writes to standard output from a thread of its own.
    pub fn to_stdout(mode: Mode) -> std::io::Result<Self> {
        Self::to(mode, std::io::stdout())
    }

    /// The same to standard error.
    pub fn to_stderr(mode: Mode) -> std::io::Result<Self> {
        Self::to(mode, std::io::stderr())
    }

    fn to(mode: Mode, mut output: impl Write + Send + 'static) -> std::io::Result<Self> {
        let dropped = Arc::new(AtomicU64::new(0));
        if mode == Mode::Off {
            return Ok(Self { mode, lines: None, dropped });
        }
        // It takes memory for the lines that wait, where the standard library's takes it for all that could.
        let (lines, mut queue) = mpsc::channel::<String>(QUEUE_LINES);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            // Ends with the last handle. A closed standard output must not end the proxy.
            while let Some(line) = queue.blocking_recv() {
                let _ = output.write_all(line.as_bytes());
                let _ = output.flush();
            }
        })?;
        Ok(Self { mode, lines: Some(lines), dropped })
    }

    /// Whether a request with this outcome is written; `marked`: policy has something to say of it.
    /// Asked before anything is formatted.
    pub fn wants(&self, status: u16, reason: Option<Reason>, marked: bool) -> bool {
        match self.mode {
            Mode::Off => false,
            Mode::Errors => marked || reason.is_some() || status >= 500,
            Mode::All => true,
        }
    }

    /// Writes a line, or counts it as dropped.
    pub fn write(&self, entry: &Entry<'_>) {
        if let Some(lines) = &self.lines
            && lines.try_send(entry.line()).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that found the queue full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Entry<'_> {
    pub(crate) fn line(&self) -> String {
        let mut line = String::with_capacity(512);
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        line.push_str(&format!("{{\"time_unix_ms\":{}", time.as_millis()));
        text(&mut line, "direction", self.direction);
        text(&mut line, "method", self.method);
        text(&mut line, "authority", self.authority);
        text(&mut line, "path", self.path);
        text(&mut line, "protocol", self.protocol);
        line.push_str(&format!(",\"status\":{}", self.status));
        if let Some(status) = self.grpc_status {
            line.push_str(&format!(",\"grpc_status\":{status}"));
        }
        if let Some(reason) = self.reason {
            text(&mut line, "reason", reason.label());
        }
        let more = [("detail", self.detail), ("audit", self.audit), ("dry_run", self.dry_run)];
        for (name, value) in more {
            if let Some(value) = value {
                text(&mut line, name, value);
            }
        }
        line.push_str(&format!(
            ",\"duration_us\":{},\"request_bytes\":{},\"response_bytes\":{},\"client\":\"{}\"",
            self.duration.as_micros(),
            self.request_bytes,
            self.response_bytes,
            self.client
        ));
        if let Some(source) = self.source {
            text(&mut line, "source", source);
        }
        text(&mut line, "service", self.service);
        if let Some(endpoint) = self.endpoint {
            line.push_str(&format!(",\"endpoint\":\"{endpoint}\""));
        }
        if let Some(kind) = self.probe {
            text(&mut line, "probe", kind);
        }
        line.push_str(&format!(",\"tries\":{}}}\n", self.tries));
        line
    }
}

fn text(line: &mut String, name: &str, value: &str) {
    let mut end = value.len().min(VALUE_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    line.push_str(",\"");
    line.push_str(name);
    line.push_str("\":");
    // JSON's own escapes, and all that is not printable ASCII as \u: a terminal shows what is there.
    let escaped = serde_json::Value::from(&value[..end]).to_string();
    for character in escaped.chars() {
        if (' '..='~').contains(&character) {
            line.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(path: &'a str) -> Entry<'a> {
        Entry {
            direction: "inbound",
            method: "GET",
            authority: "cart",
            path,
            protocol: "HTTP/1.1",
            status: 403,
            grpc_status: None,
            reason: Some(Reason::AuthorizationDenied),
            detail: None,
            audit: None,
            dry_run: None,
            duration: Duration::from_micros(5),
            request_bytes: 0,
            response_bytes: 1,
            client: "10.0.0.1:1".parse().unwrap(),
            source: None,
            service: "shop/cart",
            endpoint: None,
            tries: 1,
            probe: None,
        }
    }

    #[test]
    fn a_line_is_json_whatever_a_peer_sends() {
        let line = entry("/\"}\n\u{1b}[31m\u{202e}é\u{1f600}").line();
        assert!(line.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], "/\"}\n\u{1b}[31m\u{202e}é\u{1f600}");
        assert_eq!(value["reason"], "authorization_denied");
    }

    #[test]
    fn only_what_the_mode_wants_is_written() {
        let errors = AccessLog::to(Mode::Errors, std::io::sink()).unwrap();
        assert!(errors.wants(403, Some(Reason::AuthorizationDenied), false));
        assert!(errors.wants(500, None, false));
        assert!(errors.wants(200, None, true), "what is to be audited is written");
        assert!(!errors.wants(404, None, false));
        assert!(AccessLog::to(Mode::All, std::io::sink()).unwrap().wants(200, None, false));
        assert!(!AccessLog::to(Mode::Off, std::io::sink()).unwrap().wants(500, None, true));
    }
}
