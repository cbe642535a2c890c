//! Applications that call on, and applications that never answer.
//!
//! A [`Relay`] passes each request to the next service through its own proxy, as a service in the middle of a
//! chain does, and gives back the status it got. A [`Holder`] keeps every request until its client gives
//! it up, over HTTP/1.1 and HTTP/2, and counts those.

use crate::client::{Client, Connection, Request};
use crate::http1::{Framing, Reader};
use crate::wait;
use bytes::Bytes;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// A service in the middle of a chain.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<RelayState>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct RelayState {
    /// The host that it calls.
    next: String,
    /// The fields that it passes on.
    passes: Vec<String>,
    client: OnceLock<Client>,
    requests: AtomicUsize,
}

/// An application that never answers.
#[derive(Debug)]
pub struct Holder {
    address: SocketAddr,
    state: Arc<HolderState>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct HolderState {
    held: AtomicUsize,
    given_up: AtomicUsize,
}

impl Relay {
    /// Listens on a free port; calls the host `next`, and passes these fields on besides `x-request-id`.
    pub async fn start(next: &str, passes: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut passed: Vec<_> = passes.iter().map(|name| (*name).to_owned()).collect();
        passed.push("x-request-id".to_owned());
        let state = Arc::new(RelayState {
            next: next.to_owned(),
            passes: passed,
            client: OnceLock::new(),
            requests: AtomicUsize::new(0),
        });
        let task = wait::spawn(accept(listener, state.clone(), relay));
        Self { address, state, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The way out, known once its proxy runs. Requests before that fail.
    pub fn calls_through(&self, client: Client) {
        self.state.client.set(client).expect("a relay has one proxy");
    }

    /// Requests that came.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Holder {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(HolderState::default());
        let task = wait::spawn(accept(listener, state.clone(), hold));
        Self { address, state, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until so many requests have come in all.
    pub async fn holds(&self, count: usize) {
        wait::until(&format!("{count} requests are held"), async || {
            self.state.held.load(Ordering::Relaxed) >= count
        })
        .await;
    }

    /// Waits until so many were given up in all: by a reset stream, or a closed connection.
    pub async fn given_up(&self, count: usize) {
        wait::until(&format!("{count} requests are given up"), async || {
            self.state.given_up.load(Ordering::Relaxed) >= count
        })
        .await;
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<S, F>(listener: TcpListener, state: Arc<S>, serve: fn(TcpStream, Arc<S>) -> F)
where
    S: Send + Sync + 'static,
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let state = state.clone();
        wait::spawn(async move {
            // What goes wrong on one connection is the test's own doing.
            let _ = serve(stream, state).await;
        });
    }
}

async fn relay(stream: TcpStream, state: Arc<RelayState>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    let mut kept: Option<Connection> = None;
    while let Some(head) = reader.head().await? {
        let body = reader.body(head.request_framing()).await?;
        state.requests.fetch_add(1, Ordering::Relaxed);
        let mut parts = head.start.split(' ');
        let (method, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("/"));
        let mut request = Request::new(method, &format!("http://{}{target}", state.next));
        for name in &state.passes {
            if let Some(value) = head.field(name) {
                request = request.field(name, value);
            }
        }
        if head.request_framing() != Framing::Done {
            request = request.body(body);
        }
        let status = call(&state, &mut kept, &request).await.unwrap_or(502);
        let text = format!("HTTP/1.1 {status} Relayed\r\ncontent-length: 0\r\n\r\n");
        write.write_all(text.as_bytes()).await?;
    }
    Ok(())
}

async fn call(state: &RelayState, kept: &mut Option<Connection>, request: &Request) -> std::io::Result<u16> {
    let client = state.client.get().ok_or(std::io::ErrorKind::NotConnected)?;
    let mut connection = match kept.take().filter(Connection::is_open) {
        Some(connection) => connection,
        None => client.connect().await?,
    };
    let response = connection.send(request).await?;
    *kept = Some(connection);
    Ok(response.status())
}

async fn hold(stream: TcpStream, state: Arc<HolderState>) -> std::io::Result<()> {
    let mut start = [0; 4];
    loop {
        match stream.peek(&mut start).await? {
            0 => return Ok(()),
            4 => break,
            _ => tokio::task::yield_now().await,
        }
    }
    if &start == b"PRI " {
        return hold_http2(stream, state).await;
    }
    let mut reader = Reader::new(stream);
    let Some(head) = reader.head().await? else { return Ok(()) };
    reader.body(head.request_framing()).await?;
    state.held.fetch_add(1, Ordering::Relaxed);
    // Nothing follows but the end.
    let _ = reader.rest().await;
    state.given_up.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn hold_http2(stream: TcpStream, state: Arc<HolderState>) -> std::io::Result<()> {
    let mut server = h2::server::handshake(stream).await.map_err(std::io::Error::other)?;
    while let Some(request) = server.accept().await {
        let (_request, mut respond): (_, h2::server::SendResponse<Bytes>) =
            request.map_err(std::io::Error::other)?;
        let state = state.clone();
        wait::spawn(async move {
            state.held.fetch_add(1, Ordering::Relaxed);
            let _ = poll_fn(|context| respond.poll_reset(context)).await;
            state.given_up.fetch_add(1, Ordering::Relaxed);
        });
    }
    Ok(())
}
