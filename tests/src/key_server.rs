//! Where an issuer publishes its keys: one answer to every request, over TLS or in the open.

use crate::certificate::{Authority, Shape};
use crate::http1::Reader;
use crate::wait;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// A running server.
#[derive(Debug)]
pub struct KeyServer {
    address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    answer: Mutex<Vec<u8>>,
    asked: AtomicUsize,
}

impl KeyServer {
    /// In the open.
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// Over TLS, with a certificate of that authority for this DNS name.
    pub async fn start_tls(authority: &Authority, name: &str) -> Self {
        let shape = Shape::svid("spiffe://cluster.local/ns/a/sa/a").dns_only(name);
        Self::listen(Some(authority.issue(&shape).server(b"http/1.1"))).await
    }

    async fn listen(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::<State>::default();
        let shared = state.clone();
        let task = wait::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, tls) = (shared.clone(), tls.clone());
                wait::spawn(async move {
                    match tls.map(tokio_rustls::TlsAcceptor::from) {
                        None => answer(stream, &state).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                answer(stream, &state).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, state, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers with this key set from now on.
    pub fn publish(&self, keys: &str) {
        self.say(&format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{keys}",
            keys.len()
        ));
    }

    /// Answers with these very bytes from now on.
    pub fn say(&self, bytes: &str) {
        *self.state.answer.lock().expect("no panic while it is held") = bytes.as_bytes().to_vec();
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, state: &State) {
    let mut reader = Reader::new(stream);
    let _ = reader.head().await;
    state.asked.fetch_add(1, Ordering::SeqCst);
    let (mut stream, _) = reader.into_parts();
    let answer = state.answer.lock().expect("no panic while it is held").clone();
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
    let mut sink = [0; 1024];
    while matches!(stream.read(&mut sink).await, Ok(count) if count > 0) {}
}
