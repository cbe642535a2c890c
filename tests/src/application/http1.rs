//! The test application over HTTP/1.1.

use super::{Recorded, State, Wish, pattern};
use crate::http1::{Field, Head, Reader, chunk};
use crate::websocket;
use socket2::SockRef;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes per piece of a long body.
const PIECE: usize = 64 * 1024;

pub(super) async fn serve(stream: TcpStream, connection: u64, state: &Arc<State>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    let mut closing = state.closing.subscribe();
    loop {
        let head = tokio::select! {
            biased;
            head = reader.head() => Some(head?),
            _ = closing.wait_for(|closing| *closing) => None,
        };
        let head = match head {
            Some(head) => head,
            // A close would reset a request that has come, and tokio may not have heard of it yet.
            None if has_arrived(&write) => reader.head().await?,
            None => None,
        };
        let Some(head) = head else { return Ok(()) };
        let mut parts = head.start.split(' ');
        let method = parts.next().unwrap_or_default().to_owned();
        let target = parts.next().unwrap_or_default().to_owned();
        state.record(Recorded {
            connection,
            version: "HTTP/1.1",
            method: method.clone(),
            target: target.clone(),
            fields: head.fields.clone(),
        });
        state.gate(&head.fields, "x-test-gate").await;
        let wish = Wish::read(&state.name, &target, &head.fields);
        let mut answer = Answer { state, head: &head, method: &method, write: &mut write };
        match wish {
            Wish::Close => return Ok(()),
            Wish::Cut => {
                answer.head(200, &[("content-length".into(), "100".into())]).await?;
                return write.write_all(&[b'x'; 10]).await;
            }
            Wish::Socket => {
                let key = head.field("sec-websocket-key").unwrap_or_default();
                answer.switch(&websocket::accept_key(key)).await?;
                let (read, buffered) = reader.into_parts();
                return websocket::echo(read, buffered, write).await;
            }
            wish => answer.body(wish, &target, &mut reader).await?,
        }
        if head.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
}

/// Whether the kernel has bytes to be read, whatever tokio has heard of.
fn has_arrived(write: &OwnedWriteHalf) -> bool {
    let peeked = SockRef::from(write.as_ref()).peek(&mut [MaybeUninit::uninit()]);
    peeked.is_ok_and(|count| count > 0)
}

struct Answer<'a> {
    state: &'a State,
    head: &'a Head,
    method: &'a str,
    write: &'a mut OwnedWriteHalf,
}

impl Answer<'_> {
    async fn body(&mut self, wish: Wish, target: &str, reader: &mut Reader<OwnedReadHalf>) -> io::Result<()> {
        let mut framing = self.head.request_framing();
        match wish {
            Wish::Echo => {
                self.head(200, &[("transfer-encoding".into(), "chunked".into())]).await?;
                let mut first = true;
                while let Some(piece) = reader.next(&mut framing).await? {
                    self.write.write_all(&chunk(&piece)).await?;
                    if std::mem::take(&mut first) {
                        self.state.gate(&self.head.fields, "x-test-gate-body").await;
                    }
                }
                let mut end = "0\r\n".to_owned();
                for (name, value) in reader.trailers.drain(..) {
                    end += &format!("{name}: {value}\r\n");
                }
                self.write.write_all((end + "\r\n").as_bytes()).await
            }
            Wish::Bytes(count) => {
                reader.body(framing).await?;
                self.head(200, &[("content-length".into(), count.to_string())]).await?;
                let mut sent = 0;
                while sent < count && self.method != "HEAD" {
                    let piece = PIECE.min((count - sent) as usize);
                    self.give(&pattern(sent, piece)).await?;
                    if sent == 0 {
                        self.state.gate(&self.head.fields, "x-test-gate-body").await;
                    }
                    sent += piece as u64;
                }
                Ok(())
            }
            Wish::Discard => {
                let mut length = 0;
                while let Some(piece) = reader.next(&mut framing).await? {
                    length += piece.len();
                }
                self.text(200, &length.to_string()).await
            }
            Wish::Trailers => {
                reader.body(framing).await?;
                let fields =
                    [("transfer-encoding".into(), "chunked".into()), ("trailer".into(), "x-checksum".into())];
                self.head(200, &fields).await?;
                self.write.write_all(&chunk(b"body")).await?;
                self.write.write_all(b"0\r\nx-checksum: 42\r\n\r\n").await
            }
            Wish::Text { status } => {
                reader.body(framing).await?;
                let text = format!("{} {} {target}", self.state.name, self.method);
                self.text(status, &text).await
            }
            Wish::Close | Wish::Cut | Wish::Socket => Ok(()),
        }
    }

    /// Sends all of it, and counts what was taken as it is taken.
    async fn give(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.write.write(bytes).await?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.state.given.fetch_add(taken as u64, Ordering::Relaxed);
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    async fn text(&mut self, status: u16, text: &str) -> io::Result<()> {
        let empty = status == 204 || status == 304;
        let length = [("content-length".to_owned(), text.len().to_string())];
        let fields: &[Field] = if empty { &[] } else { &length };
        self.head(status, fields).await?;
        if self.method == "HEAD" || empty {
            return Ok(());
        }
        self.write.write_all(text.as_bytes()).await
    }

    async fn switch(&mut self, accept: &str) -> io::Result<()> {
        let text = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.write.write_all(text.as_bytes()).await
    }

    async fn head(&mut self, status: u16, fields: &[Field]) -> io::Result<()> {
        let phrase = self.head.field("x-test-phrase").unwrap_or("Fine");
        let mut text = format!("HTTP/1.1 {status} {phrase}\r\n");
        for (name, value) in self.state.answer_fields(&self.head.fields).iter().chain(fields) {
            text += &format!("{name}: {value}\r\n");
        }
        self.write.write_all((text + "\r\n").as_bytes()).await
    }
}
