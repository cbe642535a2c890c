//! The TCP connection below TLS, which reads ahead while records keep coming.
//!
//! rustls asks for four kilobytes a read, a quarter of a full record: left alone, a long transfer costs five
//! system calls per record. Once a read has filled what it was given, the next one takes more, into a buffer
//! of this thread's pool; a connection holds one only while there are bytes in it. Writes pass as they are.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// One read ahead: four full records, so that as many leave at once on the other leg.
const AHEAD_BYTES: usize = 64 * 1024;

/// A read that was given less than this tells nothing by being filled.
const FULL_MIN: usize = 4096;

/// Buffers kept per thread: more are in use at once only while many peers send faster than is taken.
const POOL_MAX: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A TCP connection that TLS runs on.
#[derive(Debug)]
pub struct Wire {
    tcp: TcpStream,
    ahead: Option<Ahead>,
    /// The last read was filled.
    eager: bool,
}

/// Bytes read and not yet asked for.
#[derive(Debug)]
struct Ahead {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

// === impl Wire ===

impl Wire {
    /// Over a connection of which nothing was read.
    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp, ahead: None, eager: false }
    }

    /// The connection.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether bytes are here that the connection need not be asked for.
    pub fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    fn take_ahead(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let Some(ahead) = &mut self.ahead else { return false };
        let count = buffer.remaining().min(ahead.end - ahead.start);
        buffer.put_slice(&ahead.bytes[ahead.start..ahead.start + count]);
        ahead.start += count;
        if ahead.start == ahead.end
            && let Some(ahead) = self.ahead.take()
        {
            give(ahead.bytes);
        }
        true
    }

    fn poll_read_ahead(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wanted = buffer.remaining();
        let mut bytes = take();
        let room = wanted + bytes.len();
        let read = loop {
            match self.tcp.poll_read_ready(cx) {
                Poll::Pending => {
                    // Quiet again: what comes next may be little.
                    self.eager = false;
                    give(bytes);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Ready(Ok(())) => {}
            }
            let target = buffer.initialize_unfilled();
            match self.tcp.try_read_vectored(&mut [IoSliceMut::new(target), IoSliceMut::new(&mut bytes)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => break read,
            }
        };
        let count = match read {
            Ok(count) => count,
            Err(error) => {
                give(bytes);
                return Poll::Ready(Err(error));
            }
        };
        if 0 < count && count < room {
            // All there was: readiness is given up as an ordinary short read does it, or the next read
            // would be one that only finds out.
            let _ = self.tcp.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        buffer.advance(count.min(wanted));
        self.eager = count >= wanted;
        if count > wanted {
            self.ahead = Some(Ahead { bytes, start: 0, end: count - wanted });
        } else {
            give(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(ahead) = self.ahead.take() {
            give(ahead.bytes);
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.take_ahead(buffer) {
            return Poll::Ready(Ok(()));
        }
        if this.eager && buffer.remaining() > 0 {
            return this.poll_read_ahead(cx, buffer);
        }
        let wanted = buffer.remaining();
        ready!(Pin::new(&mut this.tcp).poll_read(cx, buffer))?;
        this.eager = wanted >= FULL_MIN && buffer.remaining() == 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

fn take() -> Box<[u8]> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; AHEAD_BYTES].into_boxed_slice())
}

fn give(bytes: Box<[u8]>) {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < POOL_MAX {
            pool.push(bytes);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Wire::new(near.unwrap()), far.unwrap().0)
    }

    /// Reads of rustls' size, until so many bytes have come.
    async fn read(wire: &mut Wire, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            let mut piece = [0; 4096];
            let count = wire.read(&mut piece).await.unwrap();
            assert!(count > 0, "{} of {length} bytes", all.len());
            all.extend_from_slice(&piece[..count]);
        }
        all
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_what_was_sent_and_no_buffer_is_kept() {
        let (mut wire, mut far) = pair().await;
        let sent: Vec<u8> = (0..1_000_003_u32).map(|number| (number % 251) as u8).collect();
        let mut ahead = false;
        let receive = async {
            let mut all = Vec::new();
            while all.len() < sent.len() {
                let mut piece = [0; 4096];
                let count = wire.read(&mut piece).await.unwrap();
                assert!(count > 0);
                all.extend_from_slice(&piece[..count]);
                ahead |= wire.is_ahead();
            }
            all
        };
        let (received, written) = tokio::join!(receive, far.write_all(&sent));
        written.unwrap();
        assert!(received == sent);
        assert!(ahead, "it never read ahead");
        assert!(!wire.is_ahead());
        // Then small reads again, and the end.
        far.write_all(b"last").await.unwrap();
        assert_eq!(read(&mut wire, 4).await, b"last");
        drop(far);
        assert_eq!(wire.read(&mut [0; 4096]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn bytes_that_come_after_a_short_read_wake_the_reader() {
        let (mut wire, mut far) = pair().await;
        for round in 0..50 {
            // Fills one read exactly, so that the next is one ahead, which finds nothing or a little.
            far.write_all(&[7; 4096]).await.unwrap();
            assert_eq!(read(&mut wire, 4096).await.len(), 4096);
            let mut piece = [0; 4096];
            let late = async {
                tokio::task::yield_now().await;
                far.write_all(&[round; 3]).await.unwrap();
            };
            let (count, ()) = tokio::join!(wire.read(&mut piece), late);
            let mut count = count.unwrap();
            while count < 3 {
                count += wire.read(&mut piece[count..]).await.unwrap();
            }
            assert_eq!(piece[..3], [round; 3]);
        }
    }

    #[tokio::test]
    async fn a_reset_is_an_error_and_not_an_end() {
        let (mut wire, mut far) = pair().await;
        far.write_all(&[7; 4096]).await.unwrap();
        read(&mut wire, 4096).await;
        socket2::SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(far);
        let error = poll_fn(|cx| {
            let mut piece = [0; 4096];
            Pin::new(&mut wire).poll_read(cx, &mut ReadBuf::new(&mut piece))
        })
        .await
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
