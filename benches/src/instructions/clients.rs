//! The clients of one case, in lockstep: every connection or stream sends one request, then all answers are awaited.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    contender::Running,
    http1::{self, AnswerReader},
    load::{expect_answer, http2},
    raw,
    scenario::{Scenario, Shape},
};

/// One step takes milliseconds; a proxy that takes longer than this has stopped.
const STEP_MAX: Duration = Duration::from_secs(60);

const READ_BYTES: usize = 32 * 1024;

/// What sends the requests of one case.
pub(super) enum Clients {
    Http1(Vec<Http1>),
    Http2(Vec<SendRequest<Bytes>>, usize),
    Tcp(Vec<TcpStream>),
    Connect(usize),
}

pub(super) struct Http1 {
    stream: TcpStream,
    reader: AnswerReader,
}

// === impl Clients ===

impl Clients {
    pub(super) async fn open(scenario: &Scenario, running: &Running) -> Result<Self> {
        let mut streams = Vec::new();
        let raw = running.tcp_target.context("no port for opaque bytes")?;
        match scenario.shape {
            Shape::Closed { connections } | Shape::Denied { connections } => {
                for _ in 0..connections {
                    let stream = TcpStream::connect(running.target).await?;
                    stream.set_nodelay(true)?;
                    streams.push(Http1 { stream, reader: AnswerReader::default() });
                }
                Ok(Self::Http1(streams))
            }
            Shape::Http2 { connections, streams } | Shape::Grpc { connections, streams } => {
                let target = match scenario.shape {
                    Shape::Grpc { .. } => running.grpc_target.context("no port for gRPC")?,
                    _ => running.http2_target,
                };
                let mut open = Vec::new();
                for _ in 0..connections {
                    open.push(http2::connect(target).await?);
                }
                Ok(Self::Http2(open, streams))
            }
            Shape::Tcp { connections } => {
                let mut streams = Vec::new();
                for _ in 0..connections {
                    let stream = TcpStream::connect(raw).await?;
                    stream.set_nodelay(true)?;
                    streams.push(stream);
                }
                Ok(Self::Tcp(streams))
            }
            Shape::Connect { connections } => Ok(Self::Connect(connections)),
            Shape::Open { .. } | Shape::Idle { .. } | Shape::IdleTcp { .. } => bail!("not a case of the mix"),
        }
    }

    /// How many requests one step has.
    pub(super) fn at_once(&self) -> usize {
        match self {
            Self::Http1(connections) => connections.len(),
            Self::Http2(connections, streams) => connections.len() * streams,
            Self::Tcp(streams) => streams.len(),
            Self::Connect(connections) => *connections,
        }
    }

    /// Sends one request each, and awaits all answers.
    pub(super) async fn step(&mut self, scenario: &Scenario, running: &Running) -> Result<()> {
        timeout(STEP_MAX, self.exchange(scenario, running)).await.context("no answer")?
    }

    async fn exchange(&mut self, scenario: &Scenario, running: &Running) -> Result<()> {
        let bytes = scenario.body_bytes;
        match self {
            Self::Http1(connections) => {
                let request = match scenario.upload_bytes {
                    0 => http1::get(&running.host, &scenario.path()),
                    upload => http1::post(&running.host, &scenario.path(), upload),
                };
                for connection in &mut *connections {
                    connection.stream.write_all(&request).await?;
                }
                for connection in connections {
                    connection.answer(scenario).await?;
                }
                Ok(())
            }
            Self::Http2(connections, streams) => {
                let call = http2::Call::of(scenario, &running.host);
                let exchanges = connections.iter().flat_map(|sender| (0..*streams).map(|_| sender.clone()));
                let exchanges = exchanges.map(|mut sender| {
                    let call = call.clone();
                    tokio::task::spawn_local(async move { call.exchange(&mut sender).await })
                });
                for exchange in exchanges.collect::<Vec<_>>() {
                    expect_answer(exchange.await??, scenario)?;
                }
                Ok(())
            }
            Self::Tcp(streams) => {
                let request = raw::request(scenario.upload_bytes, bytes)?;
                for stream in &mut *streams {
                    stream.write_all(&request).await?;
                }
                for stream in streams {
                    stream.read_exact(&mut vec![0; bytes]).await?;
                }
                Ok(())
            }
            Self::Connect(connections) => {
                let raw = running.tcp_target.context("no port for opaque bytes")?;
                let request = raw::request(scenario.upload_bytes, bytes)?;
                for _ in 0..*connections {
                    let mut stream = TcpStream::connect(raw).await?;
                    raw::exchange(&mut stream, &request, bytes, &mut raw::buffer()).await?;
                    stream.shutdown().await?;
                    ensure!(stream.read(&mut [0; 1]).await? == 0, "bytes after the answer");
                }
                Ok(())
            }
        }
    }
}

// === impl Http1 ===

impl Http1 {
    async fn answer(&mut self, scenario: &Scenario) -> Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = self.stream.read(&mut buffer).await?;
            ensure!(count > 0, "closed before the end of the answer");
            if let Some(answer) = self.reader.feed(&buffer[..count])? {
                return expect_answer(answer, scenario);
            }
        }
    }
}
