//! What a client speaks, from its first bytes, which are left in the socket's buffer.
//!
//! Nothing here decides what is allowed: that a connection looks like TLS or HTTP only says which
//! parser judges it. It reads nothing away, so what was looked at is what is parsed.

use crate::stream::Stream;
use bytes::{Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;

/// The first bytes of an HTTP/2 connection with prior knowledge (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client may say nothing before its connection is closed.
pub const DEFAULT_SILENCE_MAX: Duration = Duration::from_secs(300);

/// What the first bytes look like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spoken {
    /// A TLS handshake record.
    Tls,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else: HTTP/1, or what its parser refuses.
    Http1,
    /// The client closed, or never spoke.
    Nothing,
}

/// Judges what has come so far. `None`: more is needed.
pub fn judge(bytes: &[u8]) -> Option<Spoken> {
    match bytes {
        [] => None,
        // TLS record type "handshake". No method and no preface begins with it.
        [0x16, ..] => Some(Spoken::Tls),
        _ if bytes.len() >= PREFACE.len() && bytes.starts_with(PREFACE) => Some(Spoken::Http2),
        _ if bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes) => None,
        _ => Some(Spoken::Http1),
    }
}

/// Waits for the client's first bytes and judges them.
pub async fn detect(stream: &TcpStream, silence_max: Duration) -> io::Result<Spoken> {
    tokio::time::timeout(silence_max, peek(stream)).await.unwrap_or(Ok(Spoken::Nothing))
}

async fn peek(stream: &TcpStream) -> io::Result<Spoken> {
    let mut buffer = [0; PREFACE.len()];
    let mut closed = false;
    loop {
        let length = stream.peek(&mut buffer).await?;
        if let Some(spoken) = judge(&buffer[..length]) {
            return Ok(spoken);
        }
        if length == 0 || closed {
            return Ok(Spoken::Nothing);
        }
        // What is there stays there, so readiness must be given up by hand to wait for more.
        let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        closed = stream.ready(Interest::READABLE).await?.is_read_closed();
    }
}

/// The same for a stream that cannot be looked into: what was read is put back in front.
pub async fn detect_by_reading(
    mut stream: Stream,
    buffered: Bytes,
    silence_max: Duration,
) -> io::Result<(Spoken, Stream)> {
    let mut read = BytesMut::from(&buffered[..]);
    let spoken = loop {
        if let Some(spoken) = judge(&read) {
            break spoken;
        }
        let Ok(length) = tokio::time::timeout(silence_max, stream.read_buf(&mut read)).await else {
            break Spoken::Nothing;
        };
        if length? == 0 {
            break Spoken::Nothing;
        }
    };
    Ok((spoken, stream.prefixed(read.freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[test]
    fn first_bytes_are_judged_as_soon_as_they_can_be() {
        assert_eq!(judge(b""), None);
        assert_eq!(judge(b"\x16"), Some(Spoken::Tls));
        assert_eq!(judge(b"P"), None);
        assert_eq!(judge(b"PO"), Some(Spoken::Http1));
        assert_eq!(judge(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), None);
        assert_eq!(judge(PREFACE), Some(Spoken::Http2));
        assert_eq!(judge(b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n"), Some(Spoken::Http1));
        assert_eq!(judge(b"GET / HTTP/1.1\r\n"), Some(Spoken::Http1));
        assert_eq!(judge(b"\x00\xff"), Some(Spoken::Http1));
    }

    #[tokio::test]
    async fn a_preface_in_pieces_is_waited_for_and_left_in_the_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        let speak = async {
            for piece in PREFACE.chunks(5) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (spoken, ()) = tokio::join!(detect(&server, Duration::from_secs(10)), speak);
        assert_eq!(spoken.unwrap(), Spoken::Http2);
        let mut buffer = [0; 64];
        let length = server.peek(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], PREFACE);
    }

    #[tokio::test]
    async fn a_client_that_closes_said_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for said in [&b""[..], b"PRI"] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            client.write_all(said).await.unwrap();
            drop(client);
            assert_eq!(detect(&server, Duration::from_secs(10)).await.unwrap(), Spoken::Nothing, "{said:?}");
        }
    }
}
