//! The application behind the proxies: `GET /…/N` is answered with N bytes, over HTTP/1.1 or cleartext HTTP/2, and a
//! gRPC call with a message as large as its own message says.
//! One thread, answers built once per size. It ends when its standard input does, so that it cannot outlive `run`.

use std::{cell::RefCell, collections::HashMap, io::Read as _, net::SocketAddr, rc::Rc, thread};

use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes, BytesMut};
use clap::Args;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use crate::{http1, load::grpc};

const HTTP2_PREFACE: &[u8] = b"PRI";

/// Several MB in flight per connection, so that the client's and the proxies' windows decide, not ours.
const HTTP2_WINDOW_BYTES: u32 = 4 << 20;

#[derive(Args)]
pub(crate) struct Options {
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// Address to listen on for opaque exchanges
    #[arg(long)]
    listen_raw: SocketAddr,
}

/// Answers by size, shared by all connections of the one thread; heads are in front of HTTP/1.1's only.
#[derive(Clone, Default)]
struct Answers {
    whole: Rc<RefCell<HashMap<usize, Bytes>>>,
    bodies: Rc<RefCell<HashMap<usize, Bytes>>>,
}

pub(crate) fn serve(options: &Options) -> Result<()> {
    end_with_standard_input();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(options.listen).await.context("cannot listen")?;
        let raw = TcpListener::bind(options.listen_raw).await.context("cannot listen")?;
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = raw.accept().await {
                stream.set_nodelay(true).ok();
                tokio::task::spawn_local(async move { crate::raw::serve(stream).await.ok() });
            }
        });
        let answers = Answers::default();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answers = answers.clone();
            // A client that goes away mid-request is its own affair: the load generator counts errors.
            tokio::task::spawn_local(async move { connection(stream, answers).await.ok() });
        }
    })
}

fn end_with_standard_input() {
    thread::spawn(|| {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|read| read > 0) {}
        std::process::exit(0);
    });
}

async fn connection(stream: TcpStream, answers: Answers) -> Result<()> {
    let mut start = [0; HTTP2_PREFACE.len()];
    let peeked = stream.peek(&mut start).await?;
    if start[..peeked] == *HTTP2_PREFACE {
        http2(stream, answers).await
    } else {
        http1(stream, answers).await
    }
}

async fn http1(mut stream: TcpStream, answers: Answers) -> Result<()> {
    let mut buffer = BytesMut::with_capacity(8 * 1024);
    loop {
        while let Some(request) = http1::parse_request(&buffer)? {
            while buffer.len() < request.head_bytes + request.body_bytes {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            }
            buffer.advance(request.head_bytes + request.body_bytes);
            stream.write_all(&answers.whole(request.answer_bytes)).await?;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn http2(stream: TcpStream, answers: Answers) -> Result<()> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .handshake(stream)
        .await?;
    while let Some(incoming) = connection.accept().await {
        let (request, mut respond) = incoming?;
        if grpc::is_call(request.headers()) {
            // In a task of its own: this one must go on, or the message does not come.
            tokio::task::spawn_local(async move { grpc::answer(request.into_body(), respond).await.ok() });
            continue;
        }
        let body = answers.body(http1::answer_bytes(request.uri().path()));
        let response = http::Response::builder()
            .header("content-type", "text/plain")
            .header("content-length", body.len())
            .body(())?;
        // h2 holds what the window does not let through yet.
        respond
            .send_response(response, body.is_empty())
            .and_then(|mut stream| if body.is_empty() { Ok(()) } else { stream.send_data(body, true) })?;
    }
    Ok(())
}

// === impl Answers ===

impl Answers {
    fn whole(&self, size: usize) -> Bytes {
        let mut whole = self.whole.borrow_mut();
        whole.entry(size).or_insert_with(|| Bytes::from(http1::answer(size))).clone()
    }

    fn body(&self, size: usize) -> Bytes {
        let mut bodies = self.bodies.borrow_mut();
        bodies.entry(size).or_insert_with(|| Bytes::from(vec![b'x'; size])).clone()
    }
}
