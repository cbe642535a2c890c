//! HTTP/2 as bytes: heads that no library would send, and what comes back for them.
//!
//! Header blocks are written as literals without Huffman's code, so that every byte of a name or value is
//! as the test wants it. Of an answer only what tests ask is read: which frame ended the stream, and whether
//! its block holds a status or a value, which this side looks for in the form that the proxies' encoder
//! writes.

use crate::wait;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_model::reason::Reason;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

/// Flags of frames.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A name and a value, byte by byte.
pub type RawField<'a> = (&'a [u8], &'a [u8]);

/// How the first stream of a connection ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was answered, with this block.
    Answered(Vec<u8>),
    /// The stream was reset, with this code.
    Reset(u32),
    /// The connection was ended, with this code.
    Away(u32),
    /// The connection ended without a word.
    Closed,
}

impl Outcome {
    /// Whether it was answered with this status.
    pub fn has_status(&self, status: u16) -> bool {
        let Self::Answered(block) = self else { return false };
        // RFC 7541, appendix A: what has an index of its own; else a literal after `:status`.
        let indexed = match status {
            200 => Some(0x88),
            204 => Some(0x89),
            400 => Some(0x8c),
            404 => Some(0x8d),
            500 => Some(0x8e),
            _ => None,
        };
        match indexed {
            Some(index) => block.first() == Some(&index),
            None => block.first() == Some(&0x48) && block[1..].starts_with(&huffman(&status.to_string())),
        }
    }

    /// Whether the mesh answered it itself, for this reason.
    pub fn is_refused_with(&self, reason: Reason) -> bool {
        self.has_status(reason.status()) && self.holds(reason.label())
    }

    /// Whether it ended without an answer.
    pub fn is_broken(&self) -> bool {
        !matches!(self, Self::Answered(_))
    }

    fn holds(&self, value: &str) -> bool {
        let Self::Answered(block) = self else { return false };
        let wanted = huffman(value);
        block.windows(wanted.len()).any(|found| found == wanted)
    }
}

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literals.
pub fn block(fields: &[RawField<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        text(&mut bytes, name);
        text(&mut bytes, value);
    }
    bytes
}

/// Sends a request of these fields and this body (with the end of the stream) as the first of a connection.
pub async fn exchange(address: SocketAddr, fields: &[RawField<'_>], body: Option<&[u8]>) -> Outcome {
    let flags = END_HEADERS | if body.is_none() { END_STREAM } else { 0 };
    let mut frames = frame(HEADERS, flags, 1, &block(fields));
    if let Some(body) = body {
        frames.extend(frame(DATA, END_STREAM, 1, body));
    }
    exchange_frames(address, &frames).await
}

/// Sends these frames behind preface and settings, and waits for the end of the first stream.
pub async fn exchange_frames(address: SocketAddr, frames: &[u8]) -> Outcome {
    let stream = TcpStream::connect(address).await.expect("the port must be open");
    let (mut read, mut write) = stream.into_split();
    let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat();
    // The server may end the connection before it has read everything; then the write fails.
    let writer = wait::spawn(async move {
        let _ = write.write_all(&bytes).await;
        write
    });
    let outcome = wait::within("the first stream ends", async {
        loop {
            let mut head = [0; 9];
            if read.read_exact(&mut head).await.is_err() {
                return Outcome::Closed;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            if read.read_exact(&mut payload).await.is_err() {
                return Outcome::Closed;
            }
            let code = |at: usize| {
                let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                bytes.map_or(0, u32::from_be_bytes)
            };
            match (head[3], head[8]) {
                (HEADERS, 1) => return Outcome::Answered(payload),
                (RST_STREAM, 1) => return Outcome::Reset(code(0)),
                (GOAWAY, _) if code(4) != 0 => return Outcome::Away(code(4)),
                _ => {}
            }
        }
    })
    .await;
    writer.abort();
    outcome
}

fn text(bytes: &mut Vec<u8>, text: &[u8]) {
    // RFC 7541, section 5.1, with a prefix of seven bits.
    let mut rest = text.len();
    if rest < 127 {
        bytes.push(u8::try_from(rest).expect("below 127"));
    } else {
        bytes.push(127);
        rest -= 127;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).expect("below 128") | 0x80);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).expect("below 128"));
    }
    bytes.extend_from_slice(text);
}

/// A string literal in Huffman's code (RFC 7541, appendix B), for the letters of labels and statuses.
fn huffman(text: &str) -> Vec<u8> {
    const FIVE: &[u8] = b"012aceiost";
    const SIX: &[u8] = b" %-./3456789=A_bdfghlmnpru";
    const SEVEN: &[u8] = b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz";
    let find = |list: &[u8], byte: u8| list.iter().position(|held| *held == byte);
    let (mut bits, mut held, mut bytes) = (0_u64, 0_u32, Vec::new());
    for byte in text.bytes() {
        let (code, length) = if let Some(at) = find(FIVE, byte) {
            (at, 5)
        } else if let Some(at) = find(SIX, byte) {
            (at + 0x14, 6)
        } else if let Some(at) = find(SEVEN, byte) {
            (at + 0x5c, 7)
        } else {
            panic!("{text:?} has a letter that no label has")
        };
        bits = bits << length | u64::try_from(code).expect("a short code");
        held += length;
        while held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).expect("a byte"));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        let padded = bits << (8 - held) | ((1 << (8 - held)) - 1);
        bytes.push(u8::try_from(padded).expect("a byte"));
    }
    let mut literal = vec![0x80 | u8::try_from(bytes.len()).expect("a short text")];
    literal.extend(bytes);
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_coded_as_in_the_examples_of_the_standard() {
        // RFC 7541, appendix C.4.1 and C.6.1.
        assert_eq!(
            huffman("www.example.com")[1..],
            [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]
        );
        assert_eq!(huffman("302"), [0x82, 0x64, 0x02]);
        assert_eq!(huffman("private")[1..], [0xae, 0xc3, 0x77, 0x1a, 0x4b]);
    }
}
