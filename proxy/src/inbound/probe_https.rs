//! HTTPS probes: the application's own TLS, from a node to a port that is declared for it.
//!
//! Nothing in it can be compared with what was declared, so it is limited by what can be seen: it comes
//! from a node, is TLS and not the mesh's, goes to that port, is short, carries little, and there are few
//! at a time.

use super::DIRECTION;
use super::connection::Connection;
use super::probe::Pass;
use super::revoke::Live;
use crate::stream::Stream;
use crate::tls::MeshAlpn;
use rustls::server::Acceptor;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use weft_model::probe::Check;

/// How long a probe may take: as long as the longest timeout that people give one.
const LIFETIME_MAX: Duration = Duration::from_secs(60);

/// Bytes each way. Two handshakes with long chains fit, and the kubelet reads 10 KiB of an answer.
const BYTES_MAX: u64 = 64 << 10;

/// HTTPS probes that are open at a time, in the process: a few containers, each probed for three ends.
const OPEN_MAX: usize = 16;

/// The longest TLS record with its header: a first message that is longer is none of a prober.
const HELLO_BYTES_MAX: usize = (16 << 10) + 5;

/// How long the first message is waited for.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Whose TLS it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hello {
    /// The mesh's.
    Mesh,
    /// The application's.
    Foreign,
    /// Nobody's: it is broken.
    Broken,
}

/// Counts as open while it lives.
struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The pass of a connection from a node to a port with an HTTPS probe, if the client speaks the
/// application's TLS. Looks at the first bytes and leaves them where they are.
pub async fn recognise(connection: &Connection, stream: &TcpStream) -> Option<Pass> {
    let pass = declared(connection)?;
    let hello = tokio::time::timeout(HELLO_TIMEOUT, peek(stream)).await;
    (matches!(hello, Ok(Ok(Hello::Foreign)))).then_some(pass)
}

fn declared(connection: &Connection) -> Option<Pass> {
    let policy = connection.worker().policy.current();
    if policy.too_old || !connection.is_from_node(&policy) {
        return None;
    }
    let own = policy.own.workload.as_ref()?;
    let port = connection.local().port();
    let index = own.probes.iter().position(|probe| probe.port == port && probe.check == Check::Https)?;
    Some(Pass::new(own.clone(), index))
}

/// Carries it to the application within the limits.
pub async fn carry(connection: Rc<Connection>, pass: Pass, mut client: Stream) {
    let worker = connection.worker().clone();
    let open = &worker.shared.probes.https_open;
    let count = |outcome| worker.connections.probe("https", outcome);
    if open.fetch_add(1, Ordering::Relaxed) >= OPEN_MAX {
        open.fetch_sub(1, Ordering::Relaxed);
        count("refused");
        tracing::warn!(client = %connection.client(), "an HTTPS probe is refused: {OPEN_MAX} are open");
        return;
    }
    let _open = Open(open);
    let application = connection.application().clone();
    // From here on a change of the policy finds it.
    let live = Live::of_probe(connection.clone(), None, Rc::new(pass), Some(application.begin()));
    let mut server = match application.connect_opaque(&worker).await {
        Ok(server) => server,
        Err(reason) => {
            worker.metrics.answered(DIRECTION, reason);
            count("failed");
            return;
        }
    };
    let copied = async {
        tokio::select! {
            biased;
            () = live.ended() => false,
            copied = tokio::time::timeout(LIFETIME_MAX, copy(&mut client, &mut server)) => {
                matches!(copied, Ok(Ok(answered)) if answered > 0)
            }
        }
    };
    let answered = worker.shared.drain.until_forced(copied).await == Some(true);
    count(if answered { "succeeded" } else { "failed" });
}

/// Copies both ways until both have ended or carried all they may; says how much the application said.
async fn copy(client: &mut Stream, server: &mut Stream) -> io::Result<u64> {
    let (from_client, mut to_client) = tokio::io::split(client);
    let (from_server, mut to_server) = tokio::io::split(server);
    let there = async {
        tokio::io::copy(&mut from_client.take(BYTES_MAX), &mut to_server).await?;
        to_server.shutdown().await
    };
    let back = async {
        let answered = tokio::io::copy(&mut from_server.take(BYTES_MAX), &mut to_client).await?;
        to_client.shutdown().await?;
        Ok::<_, io::Error>(answered)
    };
    // Once the application has ended nothing it could still hear matters to a prober.
    tokio::select! {
        answered = back => answered,
        Err(error) = there => Err(error),
    }
}

async fn peek(stream: &TcpStream) -> io::Result<Hello> {
    let mut buffer = vec![0; 2048];
    let mut seen = 0;
    let mut closed = false;
    loop {
        let length = stream.peek(&mut buffer).await?;
        if length > seen {
            seen = length;
            if let Some(hello) = judge(&buffer[..length]) {
                return Ok(hello);
            }
        }
        if length == 0 || closed || length >= HELLO_BYTES_MAX {
            return Ok(Hello::Broken);
        }
        if length == buffer.len() {
            buffer.resize((length * 2).min(HELLO_BYTES_MAX), 0);
            continue;
        }
        // What is there stays there, so readiness must be given up by hand to wait for more.
        let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        closed = stream.ready(Interest::READABLE).await?.is_read_closed();
    }
}

/// Judges the first bytes. `None`: more are needed.
fn judge(mut bytes: &[u8]) -> Option<Hello> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        if !matches!(acceptor.read_tls(&mut bytes), Ok(1..)) {
            return Some(Hello::Broken);
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let mut offered = accepted.client_hello().alpn().into_iter().flatten();
                let mesh = offered.any(|protocol| MeshAlpn::from_bytes(protocol).is_some());
                return Some(if mesh { Hello::Mesh } else { Hello::Foreign });
            }
            Err(_) => return Some(Hello::Broken),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;

    fn hello(alpn: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from("health.example").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_meshs_tls_is_told_from_the_applications() {
        assert_eq!(judge(&hello(&[])), Some(Hello::Foreign));
        assert_eq!(judge(&hello(&[b"h2", b"http/1.1"])), Some(Hello::Foreign));
        assert_eq!(judge(&hello(&[weft_model::ALPN_TCP])), Some(Hello::Mesh));
        // One of the mesh's among others is still a client of the mesh.
        assert_eq!(judge(&hello(&[b"h2", weft_model::ALPN_H2])), Some(Hello::Mesh));
    }

    #[test]
    fn a_first_message_in_pieces_is_waited_for_and_a_broken_one_is_nobodys() {
        let whole = hello(&[b"h2"]);
        for length in [1, 5, 6, 100, whole.len() - 1] {
            assert_eq!(judge(&whole[..length]), None, "{length} bytes");
        }
        let mut broken = whole;
        broken[5] = 0x7f;
        assert_eq!(judge(&broken), Some(Hello::Broken));
        assert_eq!(judge(b"\x16\x03\x01\xff\xff"), Some(Hello::Broken));
    }
}
