//! A small HTTP/1.1 reader for both ends of the tests: independent of the product's codec on
//! purpose, and lenient only where a test would otherwise not see what came.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};
use weft_model::reason::Reason;

/// Longest head that is read.
const HEAD_MAX: usize = 1 << 20;

/// Name and value, as they stood.
pub type Field = (String, String);

/// A start line and fields.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Head {
    /// The first line.
    pub start: String,
    /// The fields, in order, names as written.
    pub fields: Vec<Field>,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// There is none, or it has ended.
    Done,
    /// This many bytes remain.
    Length(u64),
    /// In chunks; trailers follow.
    Chunked,
    /// With the connection.
    Close,
}

/// Bytes read ahead of what was asked for.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    buffer: Vec<u8>,
    /// The trailers of the last chunked body.
    pub trailers: Vec<Field>,
}

/// The first field of this name, in any case.
pub fn field<'a>(fields: &'a [Field], name: &str) -> Option<&'a str> {
    fields.iter().find(|(held, _)| held.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

impl Head {
    /// The first field of this name, in any case.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    /// How the body of a request with this head is framed.
    pub fn request_framing(&self) -> Framing {
        self.framing().unwrap_or(Framing::Done)
    }

    /// How the body of a response with this head is framed.
    pub fn response_framing(&self, method: &str) -> Framing {
        let status = self.status();
        if method == "HEAD" || status == 204 || status == 304 || (100..200).contains(&status) {
            return Framing::Done;
        }
        self.framing().unwrap_or(Framing::Close)
    }

    /// The status of a response; 0 when the line is none.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Panics unless this is the mesh's own answer for `reason`, with its status.
    #[track_caller]
    pub fn refused_with(&self, reason: Reason) {
        let told = self.field("x-weft-reason");
        assert_eq!((self.status(), told), (reason.status(), Some(reason.label())), "{self:?}");
    }

    fn framing(&self) -> Option<Framing> {
        if self.field("transfer-encoding").is_some() {
            return Some(Framing::Chunked);
        }
        let length = self.field("content-length")?.trim().parse().ok()?;
        Some(if length == 0 { Framing::Done } else { Framing::Length(length) })
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::new(), trailers: Vec::new() }
    }

    /// The stream and what was read ahead.
    pub fn into_parts(self) -> (R, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// One head. `None`: the peer ended the connection before it.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Ok(Some(parse(&head)));
            }
            if self.buffer.len() > HEAD_MAX {
                return Err(io::Error::other("the head is too long"));
            }
            if self.fill().await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// The next piece of a body. `None`: it has ended, as its framing says it must.
    pub async fn next(&mut self, framing: &mut Framing) -> io::Result<Option<Vec<u8>>> {
        match *framing {
            Framing::Done => Ok(None),
            Framing::Length(remaining) => {
                if self.buffer.is_empty() && self.fill().await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let take = usize::try_from(remaining).unwrap_or(usize::MAX).min(self.buffer.len());
                let left = remaining - take as u64;
                *framing = if left == 0 { Framing::Done } else { Framing::Length(left) };
                Ok(Some(self.take(take)))
            }
            Framing::Chunked => self.chunk(framing).await,
            Framing::Close => {
                if self.buffer.is_empty() && self.fill().await? == 0 {
                    *framing = Framing::Done;
                    return Ok(None);
                }
                Ok(Some(self.take(self.buffer.len())))
            }
        }
    }

    /// A whole body.
    pub async fn body(&mut self, mut framing: Framing) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.next(&mut framing).await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Everything until the peer ends the connection.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        self.body(Framing::Close).await
    }

    /// At least one byte more, or 0 at the end.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(16 * 1024);
        self.stream.read_buf(&mut self.buffer).await
    }

    async fn chunk(&mut self, framing: &mut Framing) -> io::Result<Option<Vec<u8>>> {
        let line = self.line().await?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(io::Error::other)?;
        if size == 0 {
            self.trailers.clear();
            loop {
                let line = self.line().await?;
                if line.is_empty() {
                    *framing = Framing::Done;
                    return Ok(None);
                }
                self.trailers.push(split(&line));
            }
        }
        while self.buffer.len() < size + 2 {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let data = self.take(size);
        self.take(2);
        Ok(Some(data))
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = self.take(end + 2);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        if count == self.buffer.len() {
            return std::mem::take(&mut self.buffer);
        }
        self.buffer.drain(..count).collect()
    }
}

fn parse(bytes: &[u8]) -> Head {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    Head { start, fields: lines.filter(|line| !line.is_empty()).map(split).collect() }
}

fn split(line: &str) -> Field {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_owned(), value.trim().to_owned())
}

/// `data` as one chunk.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    bytes
}
