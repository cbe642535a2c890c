//! The test application over HTTP/2 with prior knowledge; gRPC is what its content type says.

use super::{Recorded, State, Wish, pattern};
use crate::http1::{Field, field};
use crate::http2::{fields_of, send_all};
use crate::wait;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Bytes per piece of a long body.
const PIECE: usize = 16 * 1024;

pub(super) async fn serve(stream: TcpStream, connection: u64, state: &Arc<State>) -> io::Result<()> {
    let mut server = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 22)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(io::Error::other)?;
    while let Some(request) = server.accept().await {
        let (request, respond) = request.map_err(io::Error::other)?;
        let state = state.clone();
        wait::spawn(async move {
            // A client that went away is the test's own doing.
            let _ = exchange(request, respond, connection, &state).await;
        });
    }
    Ok(())
}

async fn exchange(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: u64,
    state: &State,
) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    let fields = fields_of(&parts.headers);
    let target = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let method = parts.method.as_str().to_owned();
    state.record(Recorded {
        connection,
        version: "HTTP/2",
        method: method.clone(),
        target: target.clone(),
        fields: fields.clone(),
    });
    state.gate(&fields, "x-test-gate").await;
    let grpc = field(&fields, "content-type").is_some_and(|held| held.starts_with("application/grpc"));
    let wish = if grpc { Wish::Echo } else { Wish::read(&state.name, &target, &fields) };
    let status = match wish {
        Wish::Text { status } => status,
        _ => 200,
    };
    let head = answer(status, &state.answer_fields(&fields), grpc);
    match wish {
        Wish::Close | Wish::Cut => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        Wish::Echo => {
            let mut send = respond.send_response(head, false)?;
            echo(&mut body, &mut send, state, &fields).await?;
            let mut trailers = body.trailers().await?.unwrap_or_default();
            if grpc {
                let status = match field(&fields, "x-test-grpc-status").unwrap_or("0").split_once('=') {
                    Some((name, status)) if name == state.name => status,
                    Some(_) => "0",
                    None => field(&fields, "x-test-grpc-status").unwrap_or("0"),
                };
                trailers.insert("grpc-status", value(status));
                trailers.insert("grpc-message", value("done"));
            }
            send.send_trailers(trailers)?;
        }
        Wish::Bytes(count) => {
            drain(&mut body).await?;
            let mut send = respond.send_response(head, false)?;
            let mut sent = 0;
            while sent < count {
                let piece = PIECE.min((count - sent) as usize);
                send_all(&mut send, pattern(sent, piece).into(), false).await?;
                sent += piece as u64;
            }
            send.send_data(Bytes::new(), true)?;
        }
        Wish::Trailers => {
            drain(&mut body).await?;
            let mut send = respond.send_response(head, false)?;
            send.send_data(Bytes::from_static(b"body"), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", value("42"));
            send.send_trailers(trailers)?;
        }
        Wish::Discard => {
            let length = drain(&mut body).await?;
            let mut send = respond.send_response(head, false)?;
            send.send_data(length.to_string().into(), true)?;
        }
        Wish::Text { .. } | Wish::Socket => {
            drain(&mut body).await?;
            let mut send = respond.send_response(head, false)?;
            send.send_data(format!("{} {method} {target}", state.name).into(), true)?;
        }
    }
    Ok(())
}

async fn echo(
    body: &mut RecvStream,
    send: &mut SendStream<Bytes>,
    state: &State,
    fields: &[Field],
) -> Result<(), h2::Error> {
    let mut first = true;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        send_all(send, data, false).await?;
        if std::mem::take(&mut first) {
            state.gate(fields, "x-test-gate-body").await;
        }
    }
    Ok(())
}

async fn drain(body: &mut RecvStream) -> Result<usize, h2::Error> {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        length += data.len();
    }
    Ok(length)
}

fn answer(status: u16, fields: &[Field], grpc: bool) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status.try_into().expect("a test asks for a real status");
    for (name, text) in fields {
        let name: HeaderName = name.parse().expect("a test asks for a real field");
        response.headers_mut().append(name, value(text));
    }
    if grpc {
        response.headers_mut().insert("content-type", value("application/grpc"));
    }
    response
}

fn value(text: &str) -> HeaderValue {
    text.parse().expect("a test asks for a real value")
}
