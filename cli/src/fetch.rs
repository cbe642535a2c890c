//! One GET from an admin port: plain HTTP, bounded in time and size.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for a connection, and then for each part of the answer.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// The largest answer: the status of 100,000 proxies fits.
const ANSWER_SIZE_MAX: u64 = 256 * 1024 * 1024;

/// The body of what `path` answers with 200.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String, String> {
    let answer = exchange(address, path).map_err(|error| format!("{address}: {error}"))?;
    let text = String::from_utf8(answer).map_err(|_| format!("{address}: the answer is no text"))?;
    let (head, body) =
        text.split_once("\r\n\r\n").ok_or_else(|| format!("{address}: the answer is not HTTP"))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        // It says why, in a sentence.
        Some("403") => Err(format!("{address}{path} refuses: {}", crate::status::printable(body.trim_end()))),
        status => Err(format!("{address}{path} answers {}", status.unwrap_or("what is not HTTP"))),
    }
}

fn exchange(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, WAIT_MAX)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    stream.set_write_timeout(Some(WAIT_MAX))?;
    // HTTP/1.0: the answer ends with the connection, and comes in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_SIZE_MAX + 1).read_to_end(&mut answer)?;
    if u64::try_from(answer.len()).unwrap_or(u64::MAX) > ANSWER_SIZE_MAX {
        return Err(io::Error::other("the answer is too large"));
    }
    Ok(answer)
}
