//! The client before a proxy: HTTP/1.1, as an application that uses the outbound port as its HTTP
//! proxy or calls a per-service port.

use crate::application::pattern;
use crate::http1::{Field, Framing, Head, Reader, chunk, field};
use crate::wait;
use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use weft_model::reason::Reason;

/// What an error says where an answer had begun, and did not end. Whoever made it died meanwhile.
pub const CUT: &str = "the answer was cut after its head";

/// Bytes per piece of a long upload.
const PIECE: usize = 64 * 1024;

/// Where requests go, and in which form.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    address: SocketAddr,
    /// Whether the target is sent in absolute form, as to an HTTP proxy.
    absolute: bool,
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    url: String,
    fields: Vec<Field>,
    body: Option<Vec<u8>>,
    trailers: Option<Vec<Field>>,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its head.
    pub head: Head,
    /// Its body.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Vec<Field>,
}

/// A connection that is kept.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    reader: Reader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    open: bool,
}

// === impl Request ===

impl Request {
    /// A request for `url`, `http://HOST[:PORT]/PATH`.
    pub fn new(method: &str, url: &str) -> Self {
        Self {
            method: method.to_owned(),
            url: url.to_owned(),
            fields: Vec::new(),
            body: None,
            trailers: None,
        }
    }

    /// A GET.
    pub fn get(url: &str) -> Self {
        Self::new("GET", url)
    }

    /// A POST with a body of known length.
    pub fn post(url: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut request = Self::new("POST", url);
        request.body = Some(body.into());
        request
    }

    /// With a body of known length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Adds a field.
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The `x-request-id` for the application's ledger.
    pub fn id(self, id: &str) -> Self {
        self.field("x-request-id", id)
    }

    /// Sends the body in one chunk with these trailers after it.
    pub fn trailers(mut self, trailers: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.trailers = Some(trailers.iter().map(owned).collect());
        self
    }

    fn bytes(&self, absolute: bool) -> Vec<u8> {
        let (host, path) = split(&self.url);
        let target = if absolute { self.url.clone() } else { path.to_owned() };
        let mut text = format!("{} {target} HTTP/1.1\r\n", self.method);
        if field(&self.fields, "host").is_none() {
            text += &format!("Host: {host}\r\n");
        }
        for (name, value) in &self.fields {
            text += &format!("{name}: {value}\r\n");
        }
        match (&self.body, &self.trailers) {
            (_, Some(_)) => text += "Transfer-Encoding: chunked\r\n\r\n",
            (Some(body), None) => text += &format!("Content-Length: {}\r\n\r\n", body.len()),
            (None, None) => text += "\r\n",
        }
        let mut bytes = text.into_bytes();
        let body = self.body.as_deref().unwrap_or_default();
        let Some(trailers) = &self.trailers else {
            bytes.extend_from_slice(body);
            return bytes;
        };
        if !body.is_empty() {
            bytes.extend_from_slice(&chunk(body));
        }
        bytes.extend_from_slice(b"0\r\n");
        for (name, value) in trailers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

// === impl Response ===

impl Response {
    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// The first field of this name, in any case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// Why the mesh answered itself. `None`: it did not.
    pub fn reason(&self) -> Option<Reason> {
        let label = self.field("x-weft-reason")?;
        Some(Reason::from_label(label).unwrap_or_else(|| panic!("no such reason: {label:?}")))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Which application answered.
    pub fn application(&self) -> &str {
        self.field("x-application").unwrap_or("none")
    }

    /// Panics unless this is the mesh's own answer for `reason`, with its status.
    #[track_caller]
    pub fn refused_with(&self, reason: Reason) {
        assert_eq!((self.status(), self.reason()), (reason.status(), Some(reason)), "{}", self.text());
    }

    /// Panics unless the application answered with 200.
    #[track_caller]
    pub fn passed(&self) {
        assert_eq!((self.status(), self.reason()), (200, None), "{}", self.text());
    }
}

// === impl Client ===

impl Client {
    /// Through an HTTP proxy at `address`.
    pub fn through(address: SocketAddr) -> Self {
        Self { address, absolute: true }
    }

    /// Straight to `address`, whatever the URL's host.
    pub fn direct(address: SocketAddr) -> Self {
        Self { address, absolute: false }
    }

    /// The address that is dialled.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, url: &str) -> Response {
        self.send(&Request::get(url)).await
    }

    /// Whether a GET has that status now: to be asked until it has, while the policy changes. A request
    /// under way when a policy comes that denies it is cut, which is no answer yet.
    pub async fn is_answered(&self, url: &str, status: u16) -> bool {
        self.try_send(&Request::get(url)).await.is_ok_and(|response| response.status() == status)
    }

    /// One request on a connection of its own.
    pub async fn send(&self, request: &Request) -> Response {
        match self.try_send(request).await {
            Ok(response) => response,
            Err(error) => panic!("no answer to {} {}: {error}", request.method, request.url),
        }
    }

    /// One request on a connection of its own.
    pub async fn try_send(&self, request: &Request) -> io::Result<Response> {
        self.connect().await?.send(request).await
    }

    /// A connection that is kept.
    pub async fn connect(&self) -> io::Result<Connection> {
        self.over(TcpStream::connect(self.address).await?)
    }

    /// The same over a connection that is there, for instance one from a pod.
    pub fn over(&self, stream: TcpStream) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Connection { client: *self, reader: Reader::new(read), write, open: true })
    }

    /// CONNECT: a tunnel to `authority`, or the answer that refused it.
    pub async fn tunnel(&self, authority: &str) -> Result<TcpStream, Response> {
        let mut connection = self.connect().await.expect("the proxy must listen");
        let text = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        connection.write.write_all(text.as_bytes()).await.expect("the proxy must read");
        let head = wait::within("an answer to CONNECT", connection.reader.head());
        let head = head.await.expect("a head").expect("an answer");
        if head.status() != 200 {
            let body = connection.reader.body(head.response_framing("CONNECT")).await.expect("a body");
            return Err(Response { head, body, trailers: Vec::new() });
        }
        let (read, buffered) = connection.reader.into_parts();
        assert!(buffered.is_empty(), "nothing comes through a tunnel before something is sent");
        Ok(read.reunite(connection.write).expect("two halves of one stream"))
    }

    /// Sends `length` patterned bytes in chunks, and checks that an echo of exactly these comes
    /// back, both at the same time.
    pub async fn echo(&self, url: &str, length: u64) {
        let Connection { mut reader, mut write, .. } = self.connect().await.expect("a connection");
        let request = Request::new("POST", url).field("Transfer-Encoding", "chunked");
        let head = request.bytes(self.absolute);
        let upload = async move {
            write.write_all(&head).await?;
            let mut sent = 0;
            while sent < length {
                let piece = PIECE.min((length - sent) as usize);
                write.write_all(&chunk(&pattern(sent, piece))).await?;
                sent += piece as u64;
            }
            write.write_all(b"0\r\n\r\n").await?;
            Ok::<_, io::Error>(write)
        };
        let download = async {
            let head = reader.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            assert_eq!(head.status(), 200, "{head:?}");
            let mut framing = head.response_framing("POST");
            let mut received = 0;
            while let Some(piece) = reader.next(&mut framing).await? {
                assert!(piece == pattern(received, piece.len()), "the echo differs after byte {received}");
                received += piece.len() as u64;
            }
            Ok::<_, io::Error>(received)
        };
        let (_, received) = tokio::try_join!(upload, download).expect("the echo is whole");
        assert_eq!(received, length);
    }
}

// === impl Connection ===

impl Connection {
    /// Whether another request may be sent.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// One exchange. The body is sent while the answer is awaited.
    pub async fn send(&mut self, request: &Request) -> io::Result<Response> {
        let bytes = request.bytes(self.client.absolute);
        let Self { reader, write, .. } = self;
        let upload = async {
            // A server may answer and close before it has read all: the answer tells.
            let _ = write.write_all(&bytes).await;
            std::future::pending::<()>().await;
        };
        let what = format!("an answer to {} {}", request.method, request.url);
        let download = wait::within(&what, async {
            let mut head = reader.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            while head.status() == 100 {
                head = reader.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            }
            let framing = head.response_framing(&request.method);
            let cut = |error: io::Error| io::Error::new(error.kind(), CUT);
            let body = reader.body(framing).await.map_err(cut)?;
            let trailers = std::mem::take(&mut reader.trailers);
            Ok::<_, io::Error>((Response { head, body, trailers }, framing))
        });
        let (response, framing) = tokio::select! {
            answer = download => answer?,
            () = upload => unreachable!("the upload never ends by itself"),
        };
        let close = response.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.open = !close && framing != Framing::Close;
        Ok(response)
    }

    /// Sends a request and does not wait.
    pub async fn begin(&mut self, request: &Request) -> io::Result<()> {
        let bytes = request.bytes(self.client.absolute);
        self.write.write_all(&bytes).await
    }

    /// Waits for the answer to a request that was begun.
    pub async fn finish(&mut self, method: &str) -> io::Result<Response> {
        let head = self.head().await?;
        let body = self.reader.body(head.response_framing(method)).await?;
        Ok(Response { head, body, trailers: std::mem::take(&mut self.reader.trailers) })
    }

    /// Waits for an answer's head only.
    pub async fn head(&mut self) -> io::Result<Head> {
        let head = wait::within("an answer's head", self.reader.head()).await?;
        head.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The bytes that the server sends until it closes.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        wait::within("the server closes", self.reader.rest()).await
    }

    /// The stream and what was read ahead, for protocols of one's own.
    pub fn into_parts(self) -> (OwnedReadHalf, Vec<u8>, OwnedWriteHalf) {
        let (read, buffered) = self.reader.into_parts();
        (read, buffered, self.write)
    }
}

/// GET of a path on a plain server, such as a metrics port. Errors are for the caller to retry.
pub async fn fetch(address: SocketAddr, path: &str) -> io::Result<Response> {
    let request = Request::get(&format!("http://{address}{path}")).field("Connection", "close");
    Client::direct(address).try_send(&request).await
}

fn split(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").expect("a test's URL is http");
    let slash = rest.find(['/', '?']).unwrap_or(rest.len());
    (&rest[..slash], if slash == rest.len() { "/" } else { &rest[slash..] })
}
