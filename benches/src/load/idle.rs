//! Connections that lie idle: each makes one exchange, then all stay open until the window closes. `run` reads the
//! proxies' memory when the window opens, and again after the client is gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Options, Recorder, expect_answer, say};
use crate::{
    http1::{self, AnswerReader},
    raw,
};

pub(super) fn run(options: &Options, connections: usize) -> Result<(Recorder, Duration)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut recorder = Recorder::new();
        let mut open = Vec::with_capacity(connections);
        let mut buffer = raw::buffer();
        for _ in 0..connections {
            let sent = Instant::now();
            match exchange(options, &mut buffer).await {
                Ok(stream) => {
                    recorder.answered(sent.elapsed());
                    open.push(stream);
                }
                Err(error) => {
                    if !recorder.failed(&error) {
                        break;
                    }
                }
            }
        }
        let began = Instant::now();
        say("begin");
        tokio::time::sleep(Duration::from_millis(options.window)).await;
        for stream in &open {
            // Idle means open: one that was closed meanwhile cost nothing and proves nothing.
            let mut byte = [0];
            let state = stream.try_read(&mut byte);
            if state.as_ref().err().map(std::io::Error::kind) != Some(std::io::ErrorKind::WouldBlock) {
                recorder.failed(&anyhow::anyhow!("an idle connection did not stay open: {state:?}"));
            }
        }
        Ok((recorder, began.elapsed()))
    })
}

async fn exchange(options: &Options, buffer: &mut [u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(options.target).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let scenario = &options.scenario;
    if scenario.shape.is_tcp() {
        let request = raw::request(0, scenario.body_bytes)?;
        raw::exchange(&mut stream, &request, scenario.body_bytes, buffer).await?;
        return Ok(stream);
    }
    let mut reader = AnswerReader::default();
    stream.write_all(&http1::get(&options.host, &scenario.path())).await.context("cannot send")?;
    loop {
        let read = stream.read(buffer).await.context("cannot read")?;
        ensure!(read > 0, "connection closed before the end of the answer");
        if let Some(answer) = reader.feed(&buffer[..read])? {
            expect_answer(answer, scenario)?;
            ensure!(!answer.close, "the proxy closes the connection");
            return Ok(stream);
        }
    }
}
