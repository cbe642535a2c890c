//! The accept loop: a permit first, then a connection, then a task of its own.
//!
//! It never ends by itself: an error of one connection is that connection's, and when the process
//! runs out of file descriptors it pauses, so that nothing spins and nothing dies. It reads nothing.

pub mod original_dst;
pub mod redirected;

use crate::h1::Drain;
use crate::metrics::Direction;
use crate::worker::Worker;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use weft_runtime::{drain, spawn_local};

/// Connections a worker holds at once, of both directions: at about 10 KiB each, a third of a
/// gigabyte; past it new ones wait in the backlog.
pub const DEFAULT_CONNECTIONS_MAX: usize = 32_768;

/// How long to wait when the process or the system has no file descriptor left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How long to wait while the worker holds as many connections as it may.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Accepts until dropped.
pub async fn accept<F, Fut>(worker: Rc<Worker>, listener: TcpListener, direction: Direction, serve: F)
where
    F: Fn(Rc<Worker>, TcpStream, SocketAddr) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let serve = Rc::new(serve);
    if let Err(error) = worker.shared.settings.tcp.apply(&listener) {
        tracing::warn!(%error, "a listener cannot be set: its connections are not probed");
    }
    loop {
        while worker.connections.open() >= DEFAULT_CONNECTIONS_MAX {
            worker.connections.refused();
            tokio::time::sleep(FULL_PAUSE).await;
        }
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "accepting pauses");
                worker.connections.refused();
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
        };
        // On a socket of both families IPv4 comes in another form; policy knows one.
        let client = match client.ip().to_canonical() {
            ip @ IpAddr::V4(_) => SocketAddr::new(ip, client.port()),
            IpAddr::V6(_) => client,
        };
        let open = worker.connections.accepted(direction);
        let guard = worker.shared.drain.opened();
        let (worker, serve) = (worker.clone(), serve.clone());
        spawn_local("connection", async move {
            // Made in here: a future that is moved in and awaited has its room twice, in every connection.
            serve(worker, stream, client).await;
            drop((open, guard));
        });
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// How long an idle connection may still bring a request once the process drains. Peers are told to
/// go by answers and GOAWAY; one that says nothing for so long will not miss the connection.
const DRAIN_IDLE_GRACE: Duration = Duration::from_secs(2);

/// The drain as HTTP/1 connections see it: the application's own pass an untouched watch.
#[derive(Clone, Debug)]
pub struct ConnectionDrain {
    watch: drain::Watch,
    told: bool,
}

impl ConnectionDrain {
    /// Follows the process's drain.
    pub fn new(watch: &drain::Watch) -> Self {
        Self { watch: watch.clone(), told: false }
    }

    /// For a connection from a proxy of the mesh.
    pub fn from_mesh(watch: &drain::Watch) -> Self {
        Self { told: true, ..Self::new(watch) }
    }
}

impl Drain for ConnectionDrain {
    fn draining(&self) -> bool {
        self.watch.is_draining()
    }

    fn is_told(&self) -> bool {
        self.told
    }

    async fn quiet(&self) {
        self.watch.draining().await;
        tokio::select! {
            // Nothing is accepted any more: what is idle has no other use.
            () = self.watch.closing() => {}
            () = tokio::time::sleep(DRAIN_IDLE_GRACE) => {}
        }
    }
}
