//! Closed loop over opaque TCP: each connection sends its next request as soon as it has its answer, or each exchange
//! has a connection of its own, which finds the cost of a new connection.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
    time::sleep_until,
};

use super::{Options, Recorder, Window, say};
use crate::raw;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Connections {
    Kept,
    OnePerExchange,
}

struct Shared {
    options: Options,
    request: Vec<u8>,
    window: Window,
    stopped: Cell<bool>,
    recorder: RefCell<Recorder>,
}

pub(super) fn run(options: &Options, connections: usize, kind: Connections) -> Result<(Recorder, Duration)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let shared = Rc::new(Shared {
            options: options.clone(),
            request: raw::request(options.scenario.upload_bytes, options.scenario.body_bytes)?,
            window: Window::from_now(options),
            stopped: Cell::new(false),
            recorder: RefCell::new(Recorder::new()),
        });
        let window = shared.window;
        let tasks: Vec<_> = (0..connections)
            .map(|_| {
                let shared = shared.clone();
                tokio::task::spawn_local(async move {
                    if let Err(error) = drive(&shared, kind).await {
                        shared.recorder.borrow_mut().failed(&error);
                    }
                })
            })
            .collect();
        sleep_until(window.begin.into()).await;
        let began = Instant::now();
        say("begin");
        sleep_until(window.end.into()).await;
        shared.stopped.set(true);
        for task in tasks {
            task.await.context("a connection's task must not panic")?;
        }
        let elapsed = began.elapsed();
        let shared = Rc::try_unwrap(shared).ok().context("all connections must have ended")?;
        Ok((shared.recorder.into_inner(), elapsed))
    })
}

/// Until the window is over; a connection that fails is an error of the round, so it is not made again.
async fn drive(shared: &Shared, kind: Connections) -> Result<()> {
    let mut buffer = raw::buffer();
    let mut kept = None;
    while !shared.stopped.get() {
        let sent = Instant::now();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(shared.options.target).await.context("cannot connect")?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let answer_bytes = shared.options.scenario.body_bytes;
        raw::exchange(&mut stream, &shared.request, answer_bytes, &mut buffer).await?;
        let now = Instant::now();
        match kind {
            Connections::Kept => kept = Some(stream),
            Connections::OnePerExchange => {
                // Ended in order, by both sides: what a reset would cut short is part of the cost.
                stream.shutdown().await.context("cannot end")?;
                let count = stream.read(&mut buffer).await.context("no end")?;
                ensure!(count == 0, "bytes after the answer");
            }
        }
        if now >= shared.window.begin {
            shared.recorder.borrow_mut().answered(now - sent);
        }
    }
    Ok(())
}
