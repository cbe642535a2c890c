//! `weft-proxy drain` and `weft-proxy log-level`: the proxy's own client of its admin socket, since its
//! image holds no other.

use super::socket;
use clap::Args;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// From connecting to the answer's last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Where the running proxy listens.
#[derive(Args, Clone, Debug)]
pub struct Running {
    /// The admin socket [default: admin.sock in the state directory].
    #[arg(long, env = "WEFT_ADMIN_SOCKET", value_name = "PATH")]
    admin_socket: Option<PathBuf>,
    /// The state directory of the running proxy.
    #[arg(long, env = "WEFT_STATE", value_name = "DIRECTORY")]
    state: Option<PathBuf>,
}

/// What the running proxy is asked.
#[derive(Clone, Debug)]
pub enum Question {
    /// To drain.
    Drain,
    /// What it logs.
    LogLevel,
    /// To log this.
    SetLogLevel(String),
}

// === impl Running ===

impl Running {
    /// Asks, and gives the answer's text; what went wrong otherwise, for people.
    pub fn ask(&self, question: &Question) -> Result<String, String> {
        let path = match (&self.admin_socket, &self.state) {
            (Some(path), _) => path.clone(),
            (None, Some(state)) => state.join(socket::FILE),
            (None, None) => {
                return Err(
                    "which proxy? Give its socket by --admin-socket or its state directory by --state"
                        .to_owned(),
                );
            }
        };
        let answered = exchange(&path, question).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => "; does a proxy run with this state directory?",
                io::ErrorKind::ConnectionRefused => "; the proxy that made it is gone",
                io::ErrorKind::PermissionDenied => "; only the proxy's user and root may ask",
                _ => "",
            };
            format!("{}: {error}{hint}", path.display())
        })?;
        let (status, text) = answered;
        if (200..300).contains(&status) { Ok(text) } else { Err(text.trim_end().to_owned()) }
    }
}

fn exchange(path: &std::path::Path, question: &Question) -> io::Result<(u16, String)> {
    let (method, target, body) = match question {
        Question::Drain => ("POST", "/drain", ""),
        Question::LogLevel => ("GET", "/log-level", ""),
        Question::SetLogLevel(filter) => ("POST", "/log-level", filter.as_str()),
    };
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let length = body.len();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nhost: weft-proxy\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let malformed = || io::Error::other("what listens there is no proxy");
    let (head, text) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    Ok((status, text.to_owned()))
}
