//! As much of RFC 6455 as an echo needs: the handshake and short, whole frames.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The opcodes used here.
const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// `Sec-WebSocket-Accept` for a key.
pub fn accept_key(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{GUID}")))
}

/// Echoes frames until a close frame or the end.
pub async fn echo<R, W>(read: R, buffered: Vec<u8>, mut write: W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut read = io::Cursor::new(buffered).chain(read);
    loop {
        let (opcode, payload) = read_frame(&mut read).await?;
        write_frame(&mut write, opcode, &payload, None).await?;
        if opcode == CLOSE {
            return write.shutdown().await;
        }
    }
}

/// One frame: opcode and payload, unmasked.
pub async fn read_frame(read: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let first = read.read_u8().await?;
    let second = read.read_u8().await?;
    let length = match second & 0x7f {
        126 => u64::from(read.read_u16().await?),
        127 => read.read_u64().await?,
        short => u64::from(short),
    };
    let mask = if second & 0x80 != 0 { read.read_u32().await?.to_be_bytes() } else { [0; 4] };
    let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    read.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok((first & 0x0f, payload))
}

/// Writes one whole frame, masked as clients must.
pub async fn write_frame(
    write: &mut (impl AsyncWrite + Unpin),
    opcode: u8,
    payload: &[u8],
    mask: Option<[u8; 4]>,
) -> io::Result<()> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(masked | length as u8),
        length @ 126..65_536 => {
            frame.push(masked | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(masked | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| frame.extend_from_slice(mask)).unwrap_or([0; 4]);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    write.write_all(&frame).await
}

/// A client's text frame.
pub async fn send_text(write: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    write_frame(write, TEXT, text.as_bytes(), Some([1, 2, 3, 4])).await
}

/// A client's close frame.
pub async fn send_close(write: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    write_frame(write, CLOSE, &[3, 232], Some([1, 2, 3, 4])).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_is_accepted_as_the_rfc_says() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
