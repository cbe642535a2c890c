//! What a client speaks, from its first bytes, which stay in front of everything that is read later.
//!
//! Nothing here decides what is allowed: that a connection looks like TLS or HTTP only says which
//! parser judges it. What was looked at is what is parsed: a TCP connection is looked into, and of any
//! other stream what was read is put back. The judgement itself is in [`judge`], without I/O;
//! [`guess`] is what is remembered of a port that declares nothing.

pub mod client_hello;
pub mod guess;
pub mod judge;

pub use judge::{Expect, Spoken};

use crate::stream::Stream;
use bytes::{Bytes, BytesMut};
use judge::LOOK_MAX;
use socket2::SockRef;
use std::future::poll_fn;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// How long a client may say nothing before its connection is closed.
pub const DEFAULT_SILENCE_MAX: Duration = Duration::from_secs(300);

/// How long a client's silence may be before the server is given the chance to speak first. A client
/// that speaks first has its first bytes on the way when its connection is made: on one node they
/// take less than a millisecond, and twenty leave room for a busy one. A person does not notice them.
pub const DEFAULT_SILENCE: Duration = Duration::from_millis(20);

/// How long first bytes may leave open what they are: as long as HTTP's head may take. What is then
/// still unclear is no HTTP that would be served.
pub const DEFAULT_UNCLEAR_MAX: Duration = Duration::from_secs(10);

/// A connection of which nothing was taken yet.
#[derive(Debug)]
pub struct Opening {
    stream: Stream,
    /// Whether the stream can be looked into; else it is read.
    looks: bool,
    /// What had to be read.
    read: BytesMut,
    /// Bytes wait in the socket that the reactor will not speak of again.
    unread: bool,
    /// What was said is not clear yet: until when it must be, and what it is otherwise.
    unclear: Option<(Instant, Spoken)>,
    /// The first bytes of what is opaque: a guess is worded by them.
    first: Bytes,
}

/// As many first bytes as name a protocol.
const FIRST_MAX: usize = 16;

// === impl Opening ===

impl Opening {
    /// At the beginning of a TCP connection.
    pub fn new(stream: TcpStream) -> Self {
        Self::of(Stream::Tcp(stream), Bytes::new())
    }

    /// Of any stream, of which these bytes were read already.
    pub fn of(stream: Stream, read: Bytes) -> Self {
        let looks = matches!(stream, Stream::Tcp(_)) && read.is_empty();
        Self { stream, looks, read: read.into(), unread: false, unclear: None, first: Bytes::new() }
    }

    /// The first bytes of what turned out to be opaque.
    pub fn first(&self) -> &[u8] {
        &self.first
    }

    /// Whether the client has said something that is not clear yet.
    pub fn has_begun(&self) -> bool {
        self.unclear.is_some()
    }

    /// Waits until it is clear what the client speaks. May be dropped and called again.
    pub async fn spoken(&mut self, expect: Expect) -> io::Result<Spoken> {
        let mut closed = false;
        loop {
            let clear_by = self.unclear.as_ref().map(|(clear_by, _)| *clear_by);
            let looked = match clear_by {
                None => self.look(expect).await?,
                Some(clear_by) => match timeout_at(clear_by, self.look(expect)).await {
                    Ok(looked) => looked?,
                    Err(_) => return Ok(self.conclude()),
                },
            };
            let so_far = match looked {
                Ok(clear) => {
                    self.unclear = None;
                    return Ok(clear);
                }
                Err(so_far) => so_far,
            };
            if closed {
                return Ok(so_far);
            }
            closed = if so_far == Spoken::Nothing {
                self.more().await?
            } else {
                let clear_by = clear_by.unwrap_or_else(|| Instant::now() + DEFAULT_UNCLEAR_MAX);
                self.unclear = Some((clear_by, so_far));
                match timeout_at(clear_by, self.more()).await {
                    Ok(closed) => closed?,
                    Err(_) => return Ok(self.conclude()),
                }
            };
        }
    }

    fn conclude(&mut self) -> Spoken {
        self.unclear.take().map_or(Spoken::Nothing, |(_, so_far)| so_far)
    }

    /// Judges what is here, waiting for a first byte where the stream can be looked into. `Err`: what
    /// it is if nothing more comes.
    async fn look(&mut self, expect: Expect) -> io::Result<Result<Spoken, Spoken>> {
        if !self.looks {
            let judged = judge::judge(expect, &self.read);
            self.first = first_of(judged.as_ref(), &self.read);
            return Ok(judged.ok_or_else(|| judge::conclude(expect, &self.read)));
        }
        let Stream::Tcp(tcp) = &self.stream else { return Ok(Ok(Spoken::Nothing)) };
        let first = &mut self.first;
        let looked = poll_fn(|cx| {
            // On the stack of this call only: no connection's memory holds it.
            let mut space = [MaybeUninit::uninit(); LOOK_MAX];
            let mut buffer = ReadBuf::uninit(&mut space);
            ready!(tcp.poll_peek(cx, &mut buffer))?;
            let bytes = buffer.filled();
            let judged = judge::judge(expect, bytes);
            *first = first_of(judged.as_ref(), bytes);
            Poll::Ready(io::Result::Ok(match judged {
                Some(spoken) => Ok(spoken),
                None if bytes.is_empty() => Ok(Spoken::Nothing),
                None => Err(judge::conclude(expect, bytes)),
            }))
        });
        let looked = looked.await?;
        self.unread = false;
        Ok(looked)
    }

    /// Waits for more; whether the client has ended.
    async fn more(&mut self) -> io::Result<bool> {
        if !self.looks {
            return Ok(self.stream.read_buf(&mut self.read).await? == 0);
        }
        let Stream::Tcp(tcp) = &self.stream else { return Ok(true) };
        // What is there stays there, so readiness must be given up by hand to wait for more.
        let _ = tcp.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        self.unread = true;
        let ready = tcp.ready(Interest::READABLE).await?;
        self.unread = false;
        Ok(ready.is_read_closed())
    }

    /// The TCP connection as it was accepted; `None` if it was another stream, or was read from.
    pub fn into_tcp(self) -> Option<TcpStream> {
        match self.into_parts() {
            (Stream::Tcp(tcp), read) if read.is_empty() => Some(tcp),
            _ => None,
        }
    }

    /// The stream, with all that the client said.
    pub fn into_stream(self) -> Stream {
        let (stream, read) = self.into_parts();
        stream.prefixed(read)
    }

    /// The stream, and what was read of it before.
    pub fn into_parts(mut self) -> (Stream, Bytes) {
        if self.unread
            && let Stream::Tcp(tcp) = &self.stream
        {
            take_unread(tcp, &mut self.read);
        }
        (self.stream, self.read.freeze())
    }
}

/// "No application protocol" as a fatal alert of TLS: the client's library says what it was about.
const TLS_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

/// How long a refused client may take to accept its refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Ends a connection whose client speaks TLS that is not wanted here, in its own words.
pub async fn refuse_tls(opening: Opening) {
    let mut stream = opening.into_stream();
    let say = async {
        // What was said is taken first: an end with unread bytes is a reset, which destroys the alert.
        let mut hello = BytesMut::with_capacity(LOOK_MAX);
        stream.read_buf(&mut hello).await?;
        stream.write_all(&TLS_ALERT).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, say).await;
}

fn first_of(judged: Option<&Spoken>, bytes: &[u8]) -> Bytes {
    match judged {
        Some(Spoken::Opaque) => Bytes::copy_from_slice(&bytes[..bytes.len().min(FIRST_MAX)]),
        _ => Bytes::new(),
    }
}

/// Takes what waits in the socket, past the reactor, which has been told that nothing does.
fn take_unread(tcp: &TcpStream, read: &mut BytesMut) {
    let socket = SockRef::from(tcp);
    let mut space = [0; 4096];
    while read.len() < LOOK_MAX {
        match (&*socket).read(&mut space) {
            Ok(count) if count > 0 => read.extend_from_slice(&space[..count]),
            // An end or an error is met again by the next reader.
            _ => break,
        }
    }
}

#[cfg(test)]
mod tests;
