//! A responder for small questions: one HTTP/1.1 request per connection, read whole, answered, closed;
//! over TCP, or over a unix socket that knows who asks.
//!
//! Bounded in everything: connections at once, bytes of a request, time for it. It has nothing to do
//! with the data path and shares no limit with it, so that it answers when that is full.

use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use weft_runtime::spawn_local;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 4 * 1024;
/// Fields of a request's head.
const FIELDS_MAX: usize = 64;
/// From accepting to the answer's last byte.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be accepted.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path, without query.
    pub path: String,
    /// The body.
    pub body: String,
    /// Whether a browser's page asks.
    pub from_browser: bool,
}

/// What is answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Request {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD")
    }
}

impl Answer {
    /// Text with a status.
    pub fn of(status: u16, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }

    /// Text.
    pub fn ok(body: String) -> Self {
        Self::of(200, body)
    }

    fn encode(&self, with_body: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            202 => "Accepted",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len()
        )
        .into_bytes();
        if with_body {
            bytes.extend(self.body.as_bytes());
        }
        bytes
    }
}

/// Where questions come from.
pub trait Listener {
    /// Their connections.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// The next connection; with what to answer whatever it asks, where it may not ask.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<Answer>)>>;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<Answer>)> {
        Self::accept(self).await.map(|(stream, _)| (stream, None))
    }
}

/// Accepts until dropped. `answer` gives `None` for what is not there.
pub async fn serve<L, F>(listener: L, answer: F)
where
    L: Listener + 'static,
    F: Fn(&Request) -> Option<Answer> + 'static,
{
    let answer = Rc::new(answer);
    let permits = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((stream, refused)) = listener.accept().await else {
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
            continue;
        };
        let answer = answer.clone();
        spawn_local("admin-exchange", async move {
            // A client that is gone, or slow, is its own affair.
            let answer = |request: &Request| refused.clone().or_else(|| answer(request));
            let _ = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange(stream, &answer)).await;
            drop(permit);
        });
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &dyn Fn(&Request) -> Option<Answer>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(1024);
    let (reply, with_body) = loop {
        match parse(&buffer) {
            Ok(Some(request)) => {
                let reply = answer(&request).unwrap_or_else(|| Answer::of(404, "not here\n".to_owned()));
                break (reply, request.method != "HEAD");
            }
            Ok(None) if stream.read_buf(&mut buffer).await? == 0 => return Ok(()),
            Ok(None) => {}
            Err(reply) => break (reply, true),
        }
    };
    stream.write_all(&reply.encode(with_body)).await?;
    stream.shutdown().await?;
    // Closing with unread bytes would reset the connection and take the answer with it.
    let mut rest = [0; 1024];
    for _ in 0..16 {
        if stream.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Reads a request. `None`: more is needed.
fn parse(bytes: &[u8]) -> Result<Option<Request>, Answer> {
    let malformed = || Answer::of(400, "the request is malformed\n".to_owned());
    let too_large = || Answer::of(431, "the request is too large\n".to_owned());
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(too_large()),
        Err(_) => return Err(malformed()),
    };
    let field = |name: &str| head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
    if field("transfer-encoding").is_some() {
        return Err(malformed());
    }
    let body_length: usize = match field("content-length") {
        None => 0,
        Some(field) => std::str::from_utf8(field.value)
            .ok()
            .filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|value| value.parse().ok())
            .ok_or_else(malformed)?,
    };
    if body_length > BODY_BYTES_MAX {
        return Err(too_large());
    }
    let Some(body) = bytes[length..].get(..body_length) else { return Ok(None) };
    let target = head.path.unwrap_or_default();
    Ok(Some(Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: target.split(['?', '#']).next().unwrap_or_default().to_owned(),
        body: String::from_utf8(body.to_vec()).map_err(|_| malformed())?,
        from_browser: field("origin").is_some() || field("sec-fetch-site").is_some(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_however_it_is_cut() {
        let bytes = b"POST /log-level?x=1 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\ndebug";
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(None), "{end}");
        }
        let request = parse(bytes).unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/log-level"));
        assert_eq!(request.body, "debug");
        assert!(!request.from_browser);
    }

    #[test]
    fn what_is_malformed_or_too_large_is_refused() {
        let large = format!("GET / HTTP/1.1\r\na: {}", "x".repeat(HEAD_BYTES_MAX));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX + 1));
        for (bytes, status) in [
            ("\0\0", 400),
            ("GET / HTTP/1.1\r\ncontent-length: +1\r\n\r\nx", 400),
            ("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\ncontent-length: 5000\r\n\r\n", 431),
            (&large, 431),
            (&many, 431),
        ] {
            assert_eq!(parse(bytes.as_bytes()).unwrap_err().status, status, "{bytes:.60}");
        }
    }

    #[test]
    fn an_answer_says_how_long_it_is_and_that_it_is_the_last() {
        let bytes = String::from_utf8(Answer::ok("ready\n".to_owned()).encode(true)).unwrap();
        assert!(bytes.starts_with("HTTP/1.1 200 OK\r\n"), "{bytes}");
        assert!(bytes.contains("\r\ncontent-length: 6\r\n") && bytes.contains("\r\nconnection: close\r\n"));
        assert!(bytes.ends_with("\r\n\r\nready\n"));
    }
}
