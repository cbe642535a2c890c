//! HTTPS probes: the application's own TLS, from a node to a port that is declared for it.
//!
//! Nothing in it can be compared with what was declared, so it is limited by what can be seen: it comes
//! from a node, is TLS and not the mesh's, goes to that port, is short, carries little, and there are few
//! at a time.

use super::DIRECTION;
use super::connection::Connection;
use super::judge::Next;
use super::probe::Pass;
use super::revoke::Live;
use crate::detect::client_hello::ClientHello;
use crate::stream::Stream;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_model::probe::Check;

/// How long a probe may take: as long as the longest timeout that people give one.
const LIFETIME_MAX: Duration = Duration::from_secs(60);

/// Bytes each way. Two handshakes with long chains fit, and the kubelet reads 10 KiB of an answer.
const BYTES_MAX: u64 = 64 << 10;

/// HTTPS probes that are open at a time, in the process: a few containers, each probed for three ends.
const OPEN_MAX: usize = 16;

/// Counts as open while it lives.
struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The pass of a connection from a node to a port with an HTTPS probe, whose client speaks the
/// application's TLS. Where the policy lets it in as anybody's plaintext it needs none, and no limits.
pub fn recognise(connection: &Connection, hello: &ClientHello) -> Option<Pass> {
    if !hello.whole || hello.mesh {
        return None;
    }
    let pass = declared(connection)?;
    let policy = connection.worker().policy.current();
    (!matches!(connection.try_opaque(&policy), Ok(Next::Pass))).then_some(pass)
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
        Ok((server, _)) => server,
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
