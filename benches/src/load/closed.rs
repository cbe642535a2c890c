//! Closed loop: each connection sends its next request as soon as it has its answer. It finds the cost per request at
//! saturation; it cannot tell latency under a given load, which is what the open loop is for.

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

use super::{Options, Recorder, Window, expect_answer, say};
use crate::http1::{self, Answer, AnswerReader};

const READ_BYTES: usize = 32 * 1024;

/// Shared by the connections of the one thread.
struct Shared {
    options: Options,
    request: Vec<u8>,
    window: Window,
    stopped: Cell<bool>,
    recorder: RefCell<Recorder>,
}

struct Connection {
    stream: TcpStream,
    reader: AnswerReader,
    buffer: Vec<u8>,
}

pub(super) fn run(options: &Options, connections: usize) -> Result<(Recorder, Duration)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            open.push(Connection::open(options).await?);
        }
        let window = Window::from_now(options);
        let shared = Rc::new(Shared {
            options: options.clone(),
            request: match options.scenario.upload_bytes {
                0 => http1::get(&options.host, &options.scenario.path()),
                bytes => http1::post(&options.host, &options.scenario.path(), bytes),
            },
            window,
            stopped: Cell::new(false),
            recorder: RefCell::new(Recorder::new()),
        });
        let tasks: Vec<_> = open
            .into_iter()
            .map(|connection| tokio::task::spawn_local(drive(connection, shared.clone())))
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

async fn drive(mut connection: Connection, shared: Rc<Shared>) {
    while !shared.stopped.get() {
        let sent = Instant::now();
        let result = connection.exchange(&shared.request).await;
        let now = Instant::now();
        let result =
            result.and_then(|answer| expect_answer(answer, &shared.options.scenario).map(|()| answer));
        let again = match result {
            Ok(answer) => {
                // Borrowed for a moment only: never across an await.
                let mut recorder = shared.recorder.borrow_mut();
                if now >= shared.window.begin {
                    recorder.answered(now - sent);
                }
                if !answer.close {
                    continue;
                }
                recorder.reconnects += 1;
                true
            }
            Err(error) => shared.recorder.borrow_mut().failed(&error),
        };
        if !again {
            return;
        }
        connection = match Connection::open(&shared.options).await {
            Ok(connection) => connection,
            Err(error) => {
                shared.recorder.borrow_mut().failed(&error);
                return;
            }
        };
    }
}

// === impl Connection ===

impl Connection {
    async fn open(options: &Options) -> Result<Self> {
        let stream = TcpStream::connect(options.target).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, reader: AnswerReader::default(), buffer: vec![0; READ_BYTES] })
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await.context("cannot send")?;
        loop {
            let read = self.stream.read(&mut self.buffer).await.context("cannot read")?;
            ensure!(read > 0, "connection closed before the end of the answer");
            if let Some(answer) = self.reader.feed(&self.buffer[..read])? {
                return Ok(answer);
            }
        }
    }
}
