//! Opaque exchanges, for the load generator and the application: a head of eight bytes says how many bytes of request
//! follow it and how many bytes of answer are wanted. Nothing of it looks like a protocol that a proxy might detect.

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const HEAD_BYTES: usize = 8;

/// As large as one exchange may be.
const BYTES_MAX: usize = 64 << 20;

const READ_BYTES: usize = 64 * 1024;

/// Both sides' buffer.
pub(crate) fn buffer() -> Vec<u8> {
    vec![0; READ_BYTES]
}

/// A whole request of at least 100 bytes.
pub(crate) fn request(body_bytes: usize, answer_bytes: usize) -> Result<Vec<u8>> {
    let body_bytes = body_bytes.max(100 - HEAD_BYTES);
    let mut request = Vec::with_capacity(HEAD_BYTES + body_bytes);
    // The first byte of a TLS record would be 0x16, of a method a letter: neither here.
    for length in [body_bytes, answer_bytes] {
        ensure!(length < BYTES_MAX, "{length} bytes are too many");
        request.extend_from_slice(&u32::try_from(length)?.to_be_bytes());
    }
    request.resize(HEAD_BYTES + body_bytes, b'x');
    Ok(request)
}

/// Sends a request and reads its answer.
pub(crate) async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    answer_bytes: usize,
    buffer: &mut [u8],
) -> Result<()> {
    let (mut read, mut write) = stream.split();
    let send = async { write.write_all(request).await.context("cannot send") };
    let receive = async {
        let mut missing = answer_bytes;
        while missing > 0 {
            let count = read.read(buffer).await.context("cannot read")?;
            ensure!(count > 0, "connection closed before the end of the answer");
            missing = missing.checked_sub(count).context("more bytes than the answer has")?;
        }
        Ok(())
    };
    tokio::try_join!(send, receive).map(|_| ())
}

/// Answers one exchange after another until the client ends.
pub(crate) async fn serve(mut stream: TcpStream) -> Result<()> {
    let mut buffer = Vec::new();
    loop {
        let mut head = [0; HEAD_BYTES];
        // An idle connection holds no buffer: what is measured is the proxies' memory, but the machine is one.
        let first = stream.read(&mut head).await?;
        if first == 0 {
            return Ok(());
        }
        stream.read_exact(&mut head[first..]).await?;
        let length =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (mut missing, answer) = (length(0), length(4));
        ensure!(missing < BYTES_MAX && answer < BYTES_MAX, "no exchange is so large");
        buffer.resize(missing.max(answer).min(READ_BYTES), b'x');
        while missing > 0 {
            let room = missing.min(buffer.len());
            let count = stream.read(&mut buffer[..room]).await?;
            ensure!(count > 0, "connection closed before the end of the request");
            missing -= count;
        }
        let mut left = answer;
        while left > 0 {
            let piece = left.min(buffer.len());
            stream.write_all(&buffer[..piece]).await?;
            left -= piece;
        }
        if buffer.len() < READ_BYTES {
            buffer = Vec::new();
        }
    }
}
