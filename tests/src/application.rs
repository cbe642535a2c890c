//! The application behind a proxy: an HTTP/1.1 and HTTP/2 (prior knowledge) server that does what a
//! request asks of it and keeps a ledger of every request it has seen.
//!
//! | path | answer |
//! |---|---|
//! | `/echo` | the body back as it comes, then its trailers |
//! | `/bytes/N` | N bytes |
//! | `/discard` | reads the body, answers its length |
//! | `/status/N` | status N |
//! | `/trailers` | a chunked body with the trailer `x-checksum` |
//! | `/close` | ends the connection without an answer |
//! | `/cut` | announces 100 bytes, sends 10, ends the connection |
//! | `/socket` | WebSocket echo |
//! | anything else | `NAME METHOD TARGET` |
//!
//! Fields: `x-request-id` goes into the ledger; `x-test-gate: G` waits before the answer until
//! [`Application::open`] is called with G, `x-test-gate-body: G` after the answer's head and first
//! piece; `x-test-field: Name=value` adds a field to the answer; `x-test-phrase` sets the reason
//! phrase; `x-test-grpc-status` the gRPC status (`NAME=N`: of the application of that name); `x-test-status: NAME=N` has the application of that name
//! answer with status N.

mod http1;
mod http2;

use crate::http1::Field;
use crate::wait;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// One request as the application saw it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recorded {
    /// Which connection it came on, counted from 1.
    pub connection: u64,
    /// `HTTP/1.1` or `HTTP/2`.
    pub version: &'static str,
    /// The method.
    pub method: String,
    /// The target, or `:path`.
    pub target: String,
    /// The fields in order, with the names as they came.
    pub fields: Vec<Field>,
}

impl Recorded {
    /// The first field of this name, in any case.
    pub fn field(&self, name: &str) -> Option<&str> {
        crate::http1::field(&self.fields, name)
    }
}

/// A running application.
#[derive(Debug)]
pub struct Application {
    address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

/// What connections share.
#[derive(Debug)]
struct State {
    name: String,
    requests: Mutex<Vec<Recorded>>,
    waiting: Mutex<BTreeSet<String>>,
    gates: watch::Sender<BTreeSet<String>>,
    connections: AtomicU64,
    /// Bytes of `/bytes/N` that the kernel has taken.
    given: AtomicU64,
    stop: watch::Sender<bool>,
    closing: watch::Sender<bool>,
}

/// What a request asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Wish {
    Text { status: u16 },
    Echo,
    Bytes(u64),
    Discard,
    Trailers,
    Close,
    Cut,
    Socket,
}

impl Application {
    /// Listens on a free port of 127.0.0.1. `name` comes back in `x-application`.
    pub async fn start(name: &str) -> Self {
        Self::on(name, TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
    }

    /// On a listener that is there, for instance one in a pod.
    pub fn on(name: &str, listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            name: name.to_owned(),
            requests: Mutex::default(),
            waiting: Mutex::default(),
            gates: watch::Sender::default(),
            connections: AtomicU64::new(0),
            given: AtomicU64::new(0),
            stop: watch::Sender::default(),
            closing: watch::Sender::default(),
        });
        let task = wait::spawn(accept(listener, state.clone()));
        Self { address, state, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The ledger: every request so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.state.requests.lock().expect("no panic while recording").clone()
    }

    /// How many bytes of `/bytes/N` it could give to its clients so far, over HTTP/1.1.
    pub fn given(&self) -> u64 {
        self.state.given.load(Ordering::Relaxed)
    }

    /// How often the request with this `x-request-id` came.
    pub fn count(&self, id: &str) -> usize {
        self.requests().iter().filter(|request| request.field("x-request-id") == Some(id)).count()
    }

    /// The one request with this `x-request-id`.
    pub fn request(&self, id: &str) -> Recorded {
        let mut found: Vec<_> =
            self.requests().into_iter().filter(|request| request.field("x-request-id") == Some(id)).collect();
        assert_eq!(found.len(), 1, "requests with id {id}");
        found.remove(0)
    }

    /// Waits until a request waits at this gate.
    pub async fn arrived(&self, gate: &str) {
        wait::until(&format!("a request waits at {gate}"), async || {
            self.state.waiting.lock().expect("no panic while recording").contains(gate)
        })
        .await;
    }

    /// Lets those that wait at this gate, and all that come later, pass.
    pub fn open(&self, gate: &str) {
        self.state.gates.send_modify(|open| {
            open.insert(gate.to_owned());
        });
    }

    /// Stops listening and closes idle connections, as a server that shuts down in order: what it has
    /// accepted or begun, it answers.
    pub fn close(&self) {
        self.state.closing.send_replace(true);
    }

    /// Stops listening and ends every connection, as a process that is killed.
    pub fn stop(&self) {
        self.state.stop.send_replace(true);
        self.task.abort();
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn record(&self, request: Recorded) {
        self.requests.lock().expect("no panic while recording").push(request);
    }

    /// Waits at the gate that the field names, if it names one.
    async fn gate(&self, fields: &[Field], field: &str) {
        let Some(gate) = crate::http1::field(fields, field) else { return };
        self.waiting.lock().expect("no panic while recording").insert(gate.to_owned());
        // The sender lives in self, so this ends only by the gate.
        let _ = self.gates.subscribe().wait_for(|open| open.contains(gate)).await;
    }

    /// The answer's fields that do not depend on its framing.
    fn answer_fields(&self, fields: &[Field]) -> Vec<Field> {
        let mut answer = vec![
            ("x-application".to_owned(), self.name.clone()),
            ("content-type".to_owned(), "text/plain".to_owned()),
        ];
        for (_, value) in fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-test-field")) {
            let (name, value) = value.split_once('=').unwrap_or((value, ""));
            answer.push((name.to_owned(), value.to_owned()));
        }
        answer
    }
}

impl Wish {
    fn read(name: &str, target: &str, fields: &[Field]) -> Self {
        let own = |value: &str| value.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
        if let Some(status) = crate::http1::field(fields, "x-test-status").and_then(own) {
            return Self::Text { status };
        }
        let path = target.split('?').next().unwrap_or_default();
        let number = |prefix: &str| path.strip_prefix(prefix).and_then(|text| text.parse::<u64>().ok());
        if let Some(count) = number("/bytes/") {
            return Self::Bytes(count);
        }
        if let Some(status) = number("/status/") {
            return Self::Text { status: status as u16 };
        }
        let upgrade = crate::http1::field(fields, "upgrade").is_some();
        match path {
            "/echo" => Self::Echo,
            "/discard" => Self::Discard,
            "/trailers" => Self::Trailers,
            "/close" => Self::Close,
            "/cut" => Self::Cut,
            "/socket" if upgrade => Self::Socket,
            _ => Self::Text { status: 200 },
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut closing = state.closing.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        let Ok((stream, _)) = accepted else { return };
        spawn_serve(stream, &state);
    }
    // The end of a listener resets what it has not accepted, and tokio may not have heard of that yet: the kernel
    // is asked.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, _)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        let Ok(stream) = stream else { return };
        spawn_serve(stream, &state);
    }
}

fn spawn_serve(stream: TcpStream, state: &Arc<State>) {
    let state = state.clone();
    let connection = state.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let mut stop = state.stop.subscribe();
    wait::spawn(async move {
        let served = async {
            // What goes wrong on one connection is the test's own doing.
            let _ = serve(stream, connection, &state).await;
        };
        tokio::select! {
            () = served => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    });
}

async fn serve(stream: TcpStream, connection: u64, state: &Arc<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut start = [0; 4];
    loop {
        let seen = stream.peek(&mut start).await?;
        if seen == 0 || !b"PRI ".starts_with(&start[..seen]) {
            return http1::serve(stream, connection, state).await;
        }
        if seen == start.len() {
            return http2::serve(stream, connection, state).await;
        }
        // The first four bytes of a client seldom come in two segments.
        tokio::task::yield_now().await;
    }
}

/// A run of bytes with a pattern, so that a mix-up of order shows.
pub fn pattern(offset: u64, length: usize) -> Vec<u8> {
    (offset..offset + length as u64).map(|index| (index % 251) as u8).collect()
}
