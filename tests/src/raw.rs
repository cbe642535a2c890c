//! Exact bytes in, exact bytes out: for what a well-behaved client would never send.

use crate::http1::{Head, Reader};
use crate::wait;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a server answered to bytes.
#[derive(Debug)]
pub struct Answer {
    /// The first answer's head, if there was one.
    pub head: Option<Head>,
    /// Everything after it.
    pub rest: Vec<u8>,
    /// Whether the server ended the connection by itself.
    pub closed: bool,
}

impl Answer {
    /// The status; 0 when there was no answer.
    pub fn status(&self) -> u16 {
        self.head.as_ref().map_or(0, Head::status)
    }

    /// The label in `x-weft-reason`.
    pub fn reason(&self) -> Option<&str> {
        self.head.as_ref()?.field("x-weft-reason")
    }
}

/// Sends `bytes` and reads until the server closes, without closing first.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> Answer {
    let stream = TcpStream::connect(address).await.expect("the port must be open");
    let (read, mut write) = stream.into_split();
    let bytes = bytes.to_vec();
    // The server may answer and close before it has read everything; then the write fails.
    let writer = wait::spawn(async move {
        let _ = write.write_all(&bytes).await;
        write
    });
    let mut reader = Reader::new(read);
    let answer = wait::within("the server answers the raw bytes and closes", async {
        let head = reader.head().await.ok().flatten();
        let rest = reader.rest().await;
        Answer { head, closed: true, rest: rest.unwrap_or_default() }
    })
    .await;
    writer.abort();
    answer
}

/// Sends `bytes` and reads only the first answer's head.
pub async fn first_head(address: SocketAddr, bytes: &[u8]) -> Head {
    let stream = TcpStream::connect(address).await.expect("the port must be open");
    let mut reader = Reader::new(stream);
    let (stream, _) = {
        let (mut stream, buffer) = reader.into_parts();
        stream.write_all(bytes).await.expect("the bytes must be sent");
        (stream, buffer)
    };
    reader = Reader::new(stream);
    wait::within("the server answers", reader.head()).await.expect("a head").expect("an answer")
}

/// A server that reads a request's head and answers every connection with the same bytes, then
/// ends the connection.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Answers with `answer`.
    pub async fn start(answer: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let answer = answer.to_vec();
        let task = wait::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.clone();
                wait::spawn(async move {
                    let mut reader = Reader::new(stream);
                    let _ = reader.head().await;
                    let (mut stream, _) = reader.into_parts();
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.shutdown().await;
                    // Lingers until the peer closes, so that no reset destroys the answer.
                    let mut sink = [0; 1024];
                    while matches!(stream.read(&mut sink).await, Ok(count) if count > 0) {}
                });
            }
        });
        Self { address, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
