//! Applications that speak anything but HTTP: by lines, with a greeting first or not.
//!
//! What they say is told from what a proxy could say itself, and every connection is counted, so that
//! a test can wait for the server's side to be connected while its client is silent.

use crate::wait;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A running server.
#[derive(Debug)]
pub struct Speaker {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Speaker {
    /// Says `greeting` on each connection, then answers each line. `answer` gives nothing to end it.
    pub async fn start(greeting: &str, answer: fn(&str) -> Option<String>) -> Self {
        let greeting = greeting.to_owned();
        Self::serve(move |stream| lines(stream, greeting.clone(), answer)).await
    }

    /// As a mail server greets and answers.
    pub async fn smtp() -> Self {
        Self::smtp_at(IpAddr::V4(Ipv4Addr::LOCALHOST)).await
    }

    /// The same at this address.
    pub async fn smtp_at(address: IpAddr) -> Self {
        Self::smtp_on(TcpListener::bind((address, 0)).await.expect("a free port"))
    }

    /// The same on a listener that is there, as in a pod.
    pub fn smtp_on(listener: TcpListener) -> Self {
        Self::on(listener, |stream| lines(stream, "220 mail.example ESMTP\r\n".to_owned(), mail))
    }

    /// Gives back all bytes as they come, and ends when the client has ended.
    pub async fn echo() -> Self {
        Self::serve(async |mut stream| {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
        .await
    }

    /// Says these bytes and ends.
    pub async fn says(words: &[u8]) -> Self {
        let words = words.to_vec();
        Self::serve(move |mut stream| {
            let words = words.clone();
            async move {
                let _ = stream.write_all(&words).await;
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await
    }

    /// Serves each connection on a free port.
    pub async fn serve<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), serve)
    }

    fn on<F, Fut>(listener: TcpListener, serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicU64::new(0));
        let counted = connections.clone();
        let task = wait::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = stream.set_nodelay(true);
                serving.spawn(serve(stream));
            }
        });
        Self { address, connections, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A mail server's answers.
fn mail(line: &str) -> Option<String> {
    Some(match line.split(' ').next().unwrap_or_default() {
        "EHLO" => "250-mail.example\r\n250 SIZE 1000\r\n".to_owned(),
        "MAIL" | "RCPT" | "." => "250 OK\r\n".to_owned(),
        "DATA" => "354 Go on\r\n".to_owned(),
        "QUIT" => return None,
        _ => String::new(),
    })
}

async fn lines(stream: TcpStream, greeting: String, answer: fn(&str) -> Option<String>) {
    let (read, mut write) = stream.into_split();
    if write.write_all(greeting.as_bytes()).await.is_err() {
        return;
    }
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Some(answer) = answer(&line) else { return };
        if write.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A client of a protocol of lines.
#[derive(Debug)]
pub struct Lines(BufReader<TcpStream>);

impl Lines {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the port must be open");
        Self::over(stream)
    }

    /// Over a connection that is made already.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket option");
        Self(BufReader::new(stream))
    }

    /// Connects by CONNECT at a proxy.
    pub async fn tunnel(proxy: SocketAddr, authority: &str) -> Self {
        let mut client = Self::open(proxy).await;
        client.say(&format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
        assert_eq!(client.hear().await, "HTTP/1.1 200 Connection established\r\n");
        assert_eq!(client.hear().await, "\r\n");
        client
    }

    /// Sends.
    pub async fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).await.expect("the bytes must be sent");
    }

    /// The next line; empty at the end.
    pub async fn hear(&mut self) -> String {
        let mut line = String::new();
        wait::within("a line", self.0.read_line(&mut line)).await.expect("a line of text");
        line
    }

    /// Says and hears.
    pub async fn ask(&mut self, text: &str) -> String {
        self.say(text).await;
        self.hear().await
    }

    /// All that comes until the end; a reset is one.
    pub async fn rest(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = wait::within("the end", self.0.read_to_end(&mut all)).await;
        all
    }

    /// Ends this side, and gives all that comes until the other ends.
    pub async fn end(mut self) -> Vec<u8> {
        self.0.get_mut().shutdown().await.expect("a half-close");
        self.rest().await
    }
}
