//! The demo's HTTP client: what a program in a workload does, with its proxy as its HTTP proxy.
//! Reads bodies of a declared length or until the end, which is what the demo's servers send.

use anyhow::{Context, bail};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Longest wait for one answer: the demo shows an error rather than nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that is kept.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    open: bool,
    /// To the server itself, in whose form requests are then written.
    direct: bool,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    fields: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    /// A field by its lower-case name, or an empty text.
    pub(crate) fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(held, _)| held == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// Why the mesh answered itself; empty if the application answered.
    pub(crate) fn reason(&self) -> &str {
        self.field("x-weft-reason")
    }
}

impl Connection {
    /// Dials.
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("dialling {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), open: true, direct: false })
    }

    /// A connection that was opened elsewhere, to the server itself.
    pub(crate) fn over(stream: std::net::TcpStream) -> anyhow::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream)?;
        Ok(Self { stream: BufReader::new(stream), open: true, direct: true })
    }

    /// Whether another request may be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// One exchange. `url` is `http://HOST/PATH`, sent in full to an HTTP proxy, else as host and path.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        url: &str,
        fields: &[(&str, &str)],
    ) -> anyhow::Result<Response> {
        let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
        let path = url.trim_start_matches("http://").trim_start_matches(host);
        let target = if self.direct { path } else { url };
        let mut text = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in fields {
            text += &format!("{name}: {value}\r\n");
        }
        if method == "POST" {
            text += "content-length: 5\r\n";
        }
        text += "\r\n";
        if method == "POST" {
            text += "order";
        }
        self.open = false;
        let exchange = async {
            self.stream.write_all(text.as_bytes()).await?;
            self.read().await
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.context("no answer in time")?
    }

    async fn read(&mut self) -> anyhow::Result<Response> {
        let start = self.line().await?;
        let status = start.split(' ').nth(1).and_then(|word| word.parse().ok());
        let Some(status) = status else { bail!("the connection ended before an answer") };
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else { break };
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response { status, fields, body: String::new() };
        let mut body = Vec::new();
        match response.field("content-length").parse::<usize>() {
            Ok(length) => {
                body.resize(length, 0);
                self.stream.read_exact(&mut body).await?;
                self.open = !response.field("connection").eq_ignore_ascii_case("close");
            }
            Err(_) => {
                self.stream.read_to_end(&mut body).await?;
            }
        }
        response.body = String::from_utf8_lossy(&body).into_owned();
        Ok(response)
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok(line)
    }
}

/// One request on a connection of its own.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    url: &str,
    fields: &[(&str, &str)],
) -> anyhow::Result<Response> {
    Connection::open(address).await?.send(method, url, fields).await
}

/// GET of a path on a plain server.
pub(crate) async fn fetch(address: SocketAddr, path: &str) -> anyhow::Result<Response> {
    fetch_over(Connection::open(address).await?, &address.to_string(), path).await
}

/// GET of a path on a plain server, over a connection of its own.
pub(crate) async fn fetch_over(
    mut connection: Connection,
    address: &str,
    path: &str,
) -> anyhow::Result<Response> {
    let text = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    connection.stream.write_all(text.as_bytes()).await?;
    tokio::time::timeout(ANSWER_TIMEOUT, connection.read()).await.context("no answer in time")?
}
