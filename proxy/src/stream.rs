//! The byte streams a connection can be: TCP, TLS on TCP, and either with bytes already read.
//!
//! One closed enum instead of trait objects: the data path polls it several times a request.
//! Reading ahead is done by [`Stream::prefixed`]; this type itself buffers nothing.

use crate::tls::wire::Wire;
use bytes::{Buf, Bytes};
use socket2::SockRef;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

/// A connection's bytes.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS that we accepted.
    TlsServer(Box<tokio_rustls::server::TlsStream<Wire>>),
    /// TLS that we started.
    TlsClient(Box<tokio_rustls::client::TlsStream<Wire>>),
    /// A stream of which some bytes were read before.
    Prefixed(Box<Prefixed>),
    /// In memory, for tests.
    Duplex(DuplexStream),
}

/// Bytes that come before the rest of a stream.
#[derive(Debug)]
pub struct Prefixed {
    bytes: Bytes,
    stream: Stream,
}

// === impl Stream ===

impl Stream {
    /// Puts bytes that were already read back in front of the stream.
    pub fn prefixed(self, bytes: Bytes) -> Self {
        if bytes.is_empty() { self } else { Self::Prefixed(Box::new(Prefixed { bytes, stream: self })) }
    }

    /// The TCP connection below, if there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::TlsServer(tls) => Some(tls.get_ref().0.tcp()),
            Self::TlsClient(tls) => Some(tls.get_ref().0.tcp()),
            Self::Prefixed(prefixed) => prefixed.stream.tcp(),
            Self::Duplex(_) => None,
        }
    }

    /// Whether a read would find bytes without asking the connection.
    pub fn is_ahead(&self) -> bool {
        match self {
            Self::TlsServer(tls) => tls.get_ref().0.is_ahead(),
            Self::TlsClient(tls) => tls.get_ref().0.is_ahead(),
            Self::Prefixed(prefixed) => !prefixed.bytes.is_empty() || prefixed.stream.is_ahead(),
            Self::Tcp(_) | Self::Duplex(_) => false,
        }
    }

    /// The other side's address.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.tcp().and_then(|tcp| tcp.peer_addr().ok())
    }

    /// Our side's address.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.tcp().and_then(|tcp| tcp.local_addr().ok())
    }

    /// Sends small writes at once.
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |tcp| tcp.set_nodelay(true))
    }

    /// When it is dropped, the peer is told that the connection broke off, not that it ended.
    pub fn reset_on_close(&self) {
        if let Some(tcp) = self.tcp() {
            // A socket that takes no option any more is gone, and its peer knows.
            let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }

    /// What broke the connection, where nobody reads or writes it. Told once.
    pub fn take_error(&self) -> Option<io::Error> {
        self.tcp().and_then(|tcp| tcp.take_error().ok().flatten())
    }

    /// Says that nothing more will be written; reading goes on.
    pub async fn half_close(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *self).poll_shutdown(cx)).await
    }

    /// Whether an idle connection is still good: nothing to read, no end, no error. With `ask`,
    /// the kernel is asked too, for when the reactor may not have run since the peer closed.
    pub fn is_quiet(&mut self, ask: bool) -> bool {
        let mut byte = [0; 1];
        let quiet = match self {
            Self::Tcp(tcp) => {
                matches!(tcp.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            _ => {
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(&mut *self).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        };
        if !quiet || !ask {
            return quiet;
        }
        self.tcp().is_none_or(|tcp| {
            let mut byte = [MaybeUninit::uninit(); 1];
            matches!(SockRef::from(tcp).peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::TlsServer(tls) => Pin::new(&mut **tls).poll_read(cx, buffer),
            Self::TlsClient(tls) => Pin::new(&mut **tls).poll_read(cx, buffer),
            Self::Prefixed(prefixed) if prefixed.bytes.is_empty() => {
                Pin::new(&mut prefixed.stream).poll_read(cx, buffer)
            }
            Self::Prefixed(prefixed) => {
                let length = prefixed.bytes.len().min(buffer.remaining());
                buffer.put_slice(&prefixed.bytes[..length]);
                prefixed.bytes.advance(length);
                Poll::Ready(Ok(()))
            }
            Self::Duplex(duplex) => Pin::new(duplex).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::TlsServer(tls) => Pin::new(&mut **tls).poll_write(cx, bytes),
            Self::TlsClient(tls) => Pin::new(&mut **tls).poll_write(cx, bytes),
            Self::Prefixed(prefixed) => Pin::new(&mut prefixed.stream).poll_write(cx, bytes),
            Self::Duplex(duplex) => Pin::new(duplex).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::TlsServer(tls) => Pin::new(&mut **tls).poll_write_vectored(cx, slices),
            Self::TlsClient(tls) => Pin::new(&mut **tls).poll_write_vectored(cx, slices),
            Self::Prefixed(prefixed) => Pin::new(&mut prefixed.stream).poll_write_vectored(cx, slices),
            Self::Duplex(duplex) => Pin::new(duplex).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.is_write_vectored(),
            Self::TlsServer(tls) => tls.is_write_vectored(),
            Self::TlsClient(tls) => tls.is_write_vectored(),
            Self::Prefixed(prefixed) => prefixed.stream.is_write_vectored(),
            Self::Duplex(duplex) => duplex.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::TlsServer(tls) => Pin::new(&mut **tls).poll_flush(cx),
            Self::TlsClient(tls) => Pin::new(&mut **tls).poll_flush(cx),
            Self::Prefixed(prefixed) => Pin::new(&mut prefixed.stream).poll_flush(cx),
            Self::Duplex(duplex) => Pin::new(duplex).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::TlsServer(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
            Self::TlsClient(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
            Self::Prefixed(prefixed) => Pin::new(&mut prefixed.stream).poll_shutdown(cx),
            Self::Duplex(duplex) => Pin::new(duplex).poll_shutdown(cx),
        }
    }
}
