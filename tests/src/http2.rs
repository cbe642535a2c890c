//! HTTP/2 and gRPC for both ends of the tests, on the `h2` crate.

use crate::http1::Field;
use crate::wait;
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use std::future::poll_fn;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A client's connection.
#[derive(Clone, Debug)]
pub struct Connection {
    sender: SendRequest<Bytes>,
}

/// A request under way: the body up, the response to come.
#[derive(Debug)]
pub struct Exchange {
    /// Where the request's body goes.
    pub send: SendStream<Bytes>,
    response: h2::client::ResponseFuture,
}

/// A response's body, read piece by piece.
#[derive(Debug)]
pub struct Body {
    stream: RecvStream,
    buffer: BytesMut,
}

impl Connection {
    /// HTTP/2 with prior knowledge.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the port must be open");
        Self::over(stream).await
    }

    /// HTTP/2 over an open stream, for instance TLS.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let handshake = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 22)
            .handshake(stream);
        let (sender, connection) = wait::within("the HTTP/2 handshake", handshake).await.expect("HTTP/2");
        wait::spawn(async move {
            // How it ends shows in the exchanges.
            let _ = connection.await;
        });
        Self { sender }
    }

    /// Sends a head; the body follows through [`Exchange::send`] unless `end`.
    pub async fn start(&self, request: Request<()>, end: bool) -> Result<Exchange, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, send) = sender.send_request(request, end)?;
        Ok(Exchange { send, response })
    }

    /// A whole exchange without a body.
    pub async fn get(&self, url: &str, fields: &[(&str, &str)]) -> Result<Whole, h2::Error> {
        let mut request = Request::get(url);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a test's request is well formed");
        self.start(request, true).await?.whole().await
    }
}

/// A whole response.
#[derive(Debug)]
pub struct Whole {
    /// The head.
    pub head: Response<()>,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: HeaderMap,
}

impl Whole {
    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    /// A field, or a trailer where there is no such field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let value = self.head.headers().get(name).or_else(|| self.trailers.get(name))?;
        value.to_str().ok()
    }
}

impl Exchange {
    /// Waits for the head.
    pub async fn response(self) -> Result<(Response<()>, Body, SendStream<Bytes>), h2::Error> {
        let response = wait::within("an HTTP/2 response", self.response).await?;
        let (parts, stream) = response.into_parts();
        Ok((Response::from_parts(parts, ()), Body { stream, buffer: BytesMut::new() }, self.send))
    }

    /// Waits for everything.
    pub async fn whole(self) -> Result<Whole, h2::Error> {
        let (head, mut body, _send) = self.response().await?;
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await? {
            bytes.extend_from_slice(&data);
        }
        let trailers = body.trailers().await?;
        Ok(Whole { head, body: bytes, trailers })
    }
}

impl Body {
    /// The next piece.
    pub async fn data(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let Some(data) = wait::within("HTTP/2 data", self.stream.data()).await else { return Ok(None) };
        let data = data?;
        self.stream.flow_control().release_capacity(data.len())?;
        Ok(Some(data))
    }

    /// The trailers, once the data has ended.
    pub async fn trailers(&mut self) -> Result<HeaderMap, h2::Error> {
        let trailers = wait::within("HTTP/2 trailers", self.stream.trailers()).await?;
        Ok(trailers.unwrap_or_default())
    }

    /// The next gRPC message.
    pub async fn message(&mut self) -> Result<Option<Vec<u8>>, h2::Error> {
        loop {
            if let Some(prefix) = self.buffer.first_chunk::<5>() {
                let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
                if self.buffer.len() >= 5 + length {
                    let message = self.buffer.split_to(5 + length);
                    return Ok(Some(message[5..].to_vec()));
                }
            }
            match self.data().await? {
                Some(data) => self.buffer.put(data),
                None => return Ok(None),
            }
        }
    }
}

/// A gRPC call's head.
pub fn grpc(authority: &str, path: &str) -> http::request::Builder {
    Request::post(format!("http://{authority}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// A gRPC message as it goes over the wire.
pub fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a test's message is short"));
    frame.put_slice(message);
    frame.freeze()
}

/// Sends all of `data` as flow control allows.
pub async fn send_all(send: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<(), h2::Error> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let Some(granted) = poll_fn(|context| send.poll_capacity(context)).await else {
            return Err(h2::Reason::STREAM_CLOSED.into());
        };
        let piece = data.split_to(granted?.min(data.len()));
        let last = end && data.is_empty();
        send.send_data(piece, last)?;
        if last {
            return Ok(());
        }
    }
    if end { send.send_data(Bytes::new(), true) } else { Ok(()) }
}

/// The fields of a head as the ledger keeps them.
pub fn fields_of(headers: &HeaderMap) -> Vec<Field> {
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}
