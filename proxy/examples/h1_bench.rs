//! What our HTTP/1 codec costs: CPU microseconds per request of one thread, over loopback.
//!
//! `cargo run --release --example h1_bench -- [serve|proxy] [connections]`. `serve` answers
//! itself; `proxy` forwards each request on a pooled connection to an origin in another thread.
//! The figure is the thread's own CPU time, system calls included, so it holds on a busy machine.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Instant;
use weft_proxy::h1::{ClientConnection, Handler, NoDrain, Recycle, serve};
use weft_proxy::http::{Body, Headers, Limits, Request, Response, ResponseHead, StatusCode};
use weft_proxy::stream::Stream;

const REQUESTS: usize = 400_000;

const REQUEST: &[u8] =
    b"POST /catalog/items?id=1 HTTP/1.1\r\nHost: catalog.shop\r\nUser-Agent: bench/1.0\r\n\
Accept: */*\r\nContent-Type: application/json\r\nX-Request-Id: 0123456789abcdef\r\n\
Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nContent-Length: 100\r\n\r\n\
0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

/// Answers itself.
struct Local;

/// Forwards to an origin.
struct Forward {
    to: SocketAddr,
    pool: Rc<Pool>,
    limits: Rc<Limits>,
}

#[derive(Default)]
struct Pool(RefCell<Vec<ClientConnection>>);

impl Handler for Local {
    async fn call(&self, mut request: Request) -> Response {
        let _ = request.body.collect(1000).await;
        let mut headers = Headers::with_capacity(2, 128);
        let _ = headers.append("content-type", b"application/json");
        let _ = headers.append("x-a", b"b");
        let body = Body::from(bytes::Bytes::from_static(&[b'x'; 100]));
        Response::new(ResponseHead::new(StatusCode::OK, headers), body)
    }
}

impl Recycle for Pool {
    fn recycle(&self, connection: ClientConnection) {
        self.0.borrow_mut().push(connection);
    }
}

impl Handler for Forward {
    async fn call(&self, mut request: Request) -> Response {
        request.head.headers_mut().remove_hop_by_hop(false);
        let pooled = self.pool.0.borrow_mut().pop();
        let connection = match pooled.and_then(|mut pooled| pooled.is_open().then_some(pooled)) {
            Some(pooled) => pooled,
            None => {
                let stream = tokio::net::TcpStream::connect(self.to).await.expect("the origin must listen");
                let stream = Stream::Tcp(stream);
                let _ = stream.set_nodelay();
                ClientConnection::new(stream, Rc::clone(&self.limits))
            }
        };
        let recycle: Rc<dyn Recycle> = Rc::<Pool>::clone(&self.pool);
        match connection.send(&mut request, Some(recycle)).await {
            Ok(mut response) => {
                response.head.headers_mut().remove_hop_by_hop(false);
                response
            }
            Err(error) => Response::local(error.reason),
        }
    }
}

fn main() {
    let proxy = std::env::args().nth(1).is_some_and(|mode| mode == "proxy");
    let connections = std::env::args().nth(2).and_then(|count| count.parse().ok()).unwrap_or(64);
    let front = TcpListener::bind("127.0.0.1:0").expect("loopback must be there");
    let address = front.local_addr().expect("a bound socket has an address");
    let origin = TcpListener::bind("127.0.0.1:0").expect("loopback must be there");
    let to = origin.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || run(&origin, &Local, usize::MAX));
    std::thread::spawn(move || load(address, connections));
    if proxy {
        let handler = Forward { to, pool: Rc::default(), limits: Rc::default() };
        run(&front, &handler, connections);
    } else {
        run(&front, &Local, connections);
    }
}

/// Sends one request per connection and round.
fn load(address: SocketAddr, connections: usize) {
    let connect = |_| TcpStream::connect(address).expect("the server must listen");
    let mut streams: Vec<_> = (0..connections).map(connect).collect();
    let mut buffer = [0; 4096];
    for _ in 0..REQUESTS / connections {
        for stream in &mut streams {
            stream.write_all(REQUEST).expect("the server must read");
        }
        for stream in &mut streams {
            assert!(stream.read(&mut buffer).expect("the server must answer") > 100);
        }
    }
}

/// Serves so many connections on this thread and prints what they cost.
fn run(listener: &TcpListener, handler: &impl Handler, connections: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limits = Limits::default();
    let listener = listener.try_clone().expect("a socket can be shared");
    listener.set_nonblocking(true).expect("a socket can be nonblocking");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let mut tasks = futures_util::stream::FuturesUnordered::new();
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let mut accepted = 0;
        loop {
            use futures_util::StreamExt;
            tokio::select! {
                stream = listener.accept(), if accepted < connections => {
                    let Ok((stream, _)) = stream else { continue };
                    accepted += 1;
                    let stream = Stream::Tcp(stream);
                    let _ = stream.set_nodelay();
                    tasks.push(serve(stream, handler, &limits, &NoDrain));
                }
                ended = tasks.next(), if !tasks.is_empty() => {
                    if let Some(Err(error)) = ended {
                        say(&format!("a connection failed: {error}"));
                    }
                    if tasks.is_empty() && accepted == connections {
                        break;
                    }
                }
            }
        }
        let cost = (cpu_seconds() - cpu) * 1e6 / REQUESTS as f64;
        say(&format!(
            "{cost:.2} us of CPU per request, {:.0} requests/s",
            REQUESTS as f64 / start.elapsed().as_secs_f64()
        ));
    });
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}
