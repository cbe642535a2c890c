//! Unary gRPC calls, for the load generator and the application: one message in a frame each way, and the status in
//! trailers. The request's message says in its first four bytes how many bytes the answer's is to have.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, client::SendRequest, server::SendResponse};
use http::{HeaderMap, HeaderValue};

use crate::http1::Answer;

/// Of a request's message.
const MESSAGE_BYTES: usize = 100;

/// In front of each message: whether it is compressed, and its length.
const FRAME_BYTES: usize = 5;

const CONTENT_TYPE: &str = "application/grpc";

/// Whether a request is a gRPC call.
pub(crate) fn is_call(headers: &HeaderMap) -> bool {
    headers.get("content-type").is_some_and(|value| value.as_bytes().starts_with(CONTENT_TYPE.as_bytes()))
}

/// A request's message in its frame.
pub(crate) fn message(answer_bytes: usize) -> Bytes {
    let mut message = BytesMut::with_capacity(MESSAGE_BYTES);
    message.put_u32(u32::try_from(answer_bytes).unwrap_or(u32::MAX));
    message.resize(MESSAGE_BYTES, b'x');
    framed(&message)
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(message);
    frame.freeze()
}

/// The message of a frame that is whole and alone.
fn unframed(frame: &[u8]) -> Result<&[u8]> {
    let Some(([0, length @ ..], message)) = frame.split_first_chunk::<FRAME_BYTES>() else {
        bail!("no frame of an uncompressed message");
    };
    ensure!(u32::from_be_bytes(*length) as usize == message.len(), "a frame of another length");
    Ok(message)
}

/// Calls, and reads the answer up to its trailers.
pub(crate) async fn call(sender: &mut SendRequest<Bytes>, uri: &str, message: Bytes) -> Result<Answer> {
    let request = http::Request::post(uri)
        .header("content-type", CONTENT_TYPE)
        .header("te", "trailers")
        .header("user-agent", "weft-bench")
        .body(())?;
    let (response, mut stream) = sender.send_request(request, false).context("cannot send")?;
    stream.send_data(message, true).context("cannot send the message")?;
    let (head, mut body) = response.await.context("no answer")?.into_parts();
    let answer = read(&mut body).await?;
    let status = head.status.as_u16();
    if status != 200 {
        return Ok(Answer { status, body_bytes: answer.len(), close: false });
    }
    let message = unframed(&answer)?;
    let trailers = body.trailers().await.context("cannot read trailers")?.context("no trailers")?;
    let code = trailers.get("grpc-status").context("trailers without grpc-status")?;
    ensure!(code == "0", "grpc-status {code:?}");
    Ok(Answer { status, body_bytes: message.len(), close: false })
}

/// Answers one call.
pub(crate) async fn answer(mut body: RecvStream, mut respond: SendResponse<Bytes>) -> Result<()> {
    let request = read(&mut body).await?;
    let (length, _) = unframed(&request)?.split_first_chunk().context("a message without a length")?;
    let message = framed(&vec![b'x'; u32::from_be_bytes(*length) as usize]);
    let response = http::Response::builder().header("content-type", CONTENT_TYPE).body(())?;
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(message, false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}

async fn read(body: &mut RecvStream) -> Result<BytesMut> {
    let mut whole = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.context("cannot read")?;
        body.flow_control().release_capacity(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_how_large_the_answer_is_to_be() {
        let frame = message(70_000);
        assert_eq!(frame.len(), FRAME_BYTES + MESSAGE_BYTES);
        assert_eq!(unframed(&frame).unwrap()[..4], 70_000_u32.to_be_bytes());
    }

    #[test]
    fn a_cut_a_longer_and_a_compressed_frame_are_errors() {
        let frame = message(1);
        assert!(unframed(&frame[..FRAME_BYTES - 1]).is_err());
        assert!(unframed(&frame[..frame.len() - 1]).is_err());
        assert!(unframed(&[&frame[..], b"x"].concat()).is_err());
        assert!(unframed(&[&[1], &frame[1..]].concat()).is_err());
    }
}
