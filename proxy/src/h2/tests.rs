//! Our server and our client against each other, and each against a bare `h2` peer.

mod exchange;
mod hostile;
mod mesh;
mod peer;
mod wires;

use super::{ClientConnection, Ended, Settings, serve};
use crate::h1::Handler;
use crate::http::{
    Body, BodyError, Frame, Headers, LocalBody, Method, Request, RequestHead, Response, Version,
};
use crate::stream::Stream;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use weft_model::reason::Reason;
use weft_runtime::{drain, spawn_local};

/// What a test's server does with a request.
type Answer = Pin<Box<dyn Future<Output = Response>>>;

struct Service(Box<dyn Fn(Request) -> Answer>);

impl Handler for Service {
    async fn call(&self, request: Request) -> Response {
        (self.0)(request).await
    }

    fn refuse(&self, reason: Reason, _head: Option<&RequestHead>) -> Response {
        Response::local(reason)
    }
}

/// A server that runs.
struct Server {
    task: JoinHandle<Ended>,
    drain: drain::Trigger,
}

/// Runs a test on one thread, as a worker would, and not for ever.
fn run<F: Future<Output = ()>>(test: F) {
    let runtime = weft_runtime::workers::build_runtime().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test must end")
    });
}

/// As [`run`], with time that moves only when nothing else does.
fn run_paused<F: Future<Output = ()>>(test: F) {
    let runtime = weft_runtime::workers::build_runtime().unwrap();
    runtime.block_on(async {
        tokio::time::pause();
        tokio::time::timeout(Duration::from_secs(3600), test).await.expect("the test must end");
    });
}

fn start<F, A>(stream: Stream, settings: Settings, service: F) -> Server
where
    F: Fn(Request) -> A + 'static,
    A: Future<Output = Response> + 'static,
{
    let (trigger, watch) = drain::channel();
    let handler = Rc::new(Service(Box::new(move |request| Box::pin(service(request)))));
    let task = spawn_local("server", async move { serve(stream, handler, &settings, &watch).await });
    Server { task, drain: trigger }
}

async fn connect(stream: Stream, settings: &Settings) -> ClientConnection {
    let (client, driver) = ClientConnection::handshake(stream, settings).await.unwrap();
    drop(spawn_local("driver", driver));
    client
}

/// Our client and our server, joined in memory.
async fn pair<F, A>(settings: Settings, service: F) -> (ClientConnection, Server)
where
    F: Fn(Request) -> A + 'static,
    A: Future<Output = Response> + 'static,
{
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = start(Stream::Duplex(far), settings.clone(), service);
    (connect(Stream::Duplex(near), &settings).await, server)
}

/// A bare `h2` client of our server.
async fn bare_client(stream: DuplexStream) -> ::h2::client::SendRequest<Bytes> {
    let (client, connection) = ::h2::client::handshake(stream).await.unwrap();
    drop(spawn_local("bare", async move {
        let _ = connection.await;
    }));
    client
}

fn request(method: Method, path: &str, headers: &[(&str, &str)], body: Body) -> Request {
    let mut block = Headers::new();
    for (name, value) in headers {
        block.append(name, value.as_bytes()).unwrap();
    }
    Request::new(RequestHead::new(method, Version::Http11, "shop.test", path, block).unwrap(), body)
}

fn get(path: &str) -> Request {
    request(Method::GET, path, &[], Body::Empty)
}

async fn text(response: Response) -> String {
    let mut body = response.body;
    String::from_utf8(body.collect(1 << 20).await.unwrap().0.to_vec()).unwrap()
}

/// A body that a test feeds by hand.
#[derive(Clone, Default)]
struct Fed(Rc<FedState>);

#[derive(Default)]
struct FedState {
    frames: RefCell<std::collections::VecDeque<Result<Frame, BodyError>>>,
    closed: Cell<bool>,
    dropped: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

struct FedBody(Fed);

impl Fed {
    fn body(&self) -> Body {
        Body::Boxed(Box::new(FedBody(self.clone())))
    }

    fn push(&self, frame: Result<Frame, BodyError>) {
        self.0.frames.borrow_mut().push_back(frame);
        self.wake();
    }

    fn data(&self, bytes: &'static [u8]) {
        self.push(Ok(Frame::Data(Bytes::from_static(bytes))));
    }

    fn close(&self) {
        self.0.closed.set(true);
        self.wake();
    }

    fn is_dropped(&self) -> bool {
        self.0.dropped.get()
    }

    fn wake(&self) {
        if let Some(waker) = self.0.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl LocalBody for FedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let state = &self.0.0;
        if let Some(frame) = state.frames.borrow_mut().pop_front() {
            return Poll::Ready(Some(frame));
        }
        if state.closed.get() {
            return Poll::Ready(None);
        }
        *state.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for FedBody {
    fn drop(&mut self) {
        self.0.0.dropped.set(true);
    }
}

/// A body of so many bytes that never waits.
struct Zeros(usize);

impl LocalBody for Zeros {
    fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        static CHUNK: [u8; 32 * 1024] = [0; 32 * 1024];
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        let length = self.0.min(CHUNK.len());
        self.0 -= length;
        Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(&CHUNK[..length])))))
    }

    fn exact_length(&self) -> Option<u64> {
        Some(self.0 as u64)
    }
}

fn zeros(length: usize) -> Body {
    Body::Boxed(Box::new(Zeros(length)))
}

/// Waits until something holds; the runtime's other tasks run meanwhile.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{what}");
}

/// Sets its cell when it is dropped.
struct OnDrop(Rc<Cell<bool>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
