//! Closed loop over cleartext HTTP/2: some connections, each with a fixed number of streams in flight. What a stream
//! carries is a GET or a unary gRPC call.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{net::TcpStream, task::LocalSet, time::sleep_until};

use super::{Options, Recorder, Window, expect_answer, grpc, say};
use crate::{
    http1::Answer,
    scenario::{Scenario, Shape},
};

/// As large as the application's, so that windows do not limit what is measured.
const WINDOW_BYTES: u32 = 4 << 20;

/// What each stream sends.
#[derive(Clone)]
pub(crate) enum Call {
    Get { uri: String },
    Grpc { uri: String, message: Bytes },
}

struct Shared {
    options: Options,
    call: Call,
    window: Window,
    stopped: Cell<bool>,
    recorder: RefCell<Recorder>,
}

pub(super) fn run(options: &Options, connections: usize, streams: usize) -> Result<(Recorder, Duration)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            open.push(connect(options.target).await?);
        }
        let window = Window::from_now(options);
        let shared = Rc::new(Shared {
            options: options.clone(),
            call: Call::of(&options.scenario, &options.host),
            window,
            stopped: Cell::new(false),
            recorder: RefCell::new(Recorder::new()),
        });
        let tasks: Vec<_> = open
            .iter()
            .flat_map(|sender| (0..streams).map(|_| sender.clone()))
            .map(|sender| tokio::task::spawn_local(drive(sender, shared.clone())))
            .collect();
        sleep_until(window.begin.into()).await;
        let began = Instant::now();
        say("begin");
        sleep_until(window.end.into()).await;
        shared.stopped.set(true);
        for task in tasks {
            task.await.context("a stream's task must not panic")?;
        }
        let elapsed = began.elapsed();
        let shared = Rc::try_unwrap(shared).ok().context("all streams must have ended")?;
        Ok((shared.recorder.into_inner(), elapsed))
    })
}

pub(crate) async fn connect(target: SocketAddr) -> Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(target).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(stream)
        .await
        .context("no HTTP/2 handshake")?;
    // Its errors reach every stream of the connection, which counts them.
    tokio::task::spawn_local(async move { connection.await.ok() });
    Ok(sender)
}

async fn drive(mut sender: SendRequest<Bytes>, shared: Rc<Shared>) {
    while !shared.stopped.get() {
        let sent = Instant::now();
        let result = shared.call.exchange(&mut sender).await;
        let now = Instant::now();
        match result.and_then(|answer| expect_answer(answer, &shared.options.scenario)) {
            Ok(()) if now < shared.window.begin => {}
            Ok(()) => shared.recorder.borrow_mut().answered(now - sent),
            // A broken connection breaks all its streams at once: no reconnection, the round has failed anyway.
            Err(error) => {
                shared.recorder.borrow_mut().failed(&error);
                return;
            }
        }
    }
}

// === impl Call ===

impl Call {
    pub(crate) fn of(scenario: &Scenario, host: &str) -> Self {
        let uri = format!("http://{host}{}", scenario.path());
        match scenario.shape {
            Shape::Grpc { .. } => Self::Grpc { uri, message: grpc::message(scenario.body_bytes) },
            _ => Self::Get { uri },
        }
    }

    /// Sends it and reads its answer.
    pub(crate) async fn exchange(&self, sender: &mut SendRequest<Bytes>) -> Result<Answer> {
        std::future::poll_fn(|context| sender.poll_ready(context)).await.context("cannot send")?;
        match self {
            Self::Get { uri } => get(sender, uri).await,
            Self::Grpc { uri, message } => grpc::call(sender, uri, message.clone()).await,
        }
    }
}

async fn get(sender: &mut SendRequest<Bytes>, uri: &str) -> Result<Answer> {
    let request = http::Request::get(uri).header("user-agent", "weft-bench").body(())?;
    let (response, _) = sender.send_request(request, true).context("cannot send")?;
    let (head, mut body) = response.await.context("no answer")?.into_parts();
    let mut body_bytes = 0;
    while let Some(data) = body.data().await {
        let length = data.context("cannot read")?.len();
        body_bytes += length;
        body.flow_control().release_capacity(length)?;
    }
    Ok(Answer { status: head.status.as_u16(), body_bytes, close: false })
}
