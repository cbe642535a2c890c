//! Connections outside the mesh that are not HTTP: opaque bytes, and the application's own TLS.
//!
//! Where the port's mode lets plaintext in and nothing declares HTTP, a silent client may be waiting
//! for the application to speak: after a moment the application's side is connected as well, if the
//! policy would let opaque bytes pass at all. A port that carries HTTP never gets there.

use super::connection::Connection;
use super::judge::Denied;
use super::plaintext_clients::Verdict;
use super::tcp::{self, Opened};
use crate::detect::{self, DEFAULT_SILENCE_MAX, Expect, Opening, Spoken};
use crate::policy::Policy;
use crate::worker::Worker;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// What a connection turned out to be.
pub enum First {
    /// The client spoke.
    Client(Spoken),
    /// The application did, or the client spoke what is neither the mesh's nor HTTP: what came of the trial
    /// whether it may.
    Opaque(Rc<Connection>, Result<Opened, Denied>),
}

/// Finds out who speaks first. `None`: nobody, or the connection broke.
pub async fn first(connection: Rc<Connection>, opening: &mut Opening, silence: Duration) -> Option<First> {
    let silent_until = Instant::now() + DEFAULT_SILENCE_MAX;
    let spoken = async |opening: &mut Opening| {
        let spoken = timeout_at(silent_until, opening.spoken(Expect::Any)).await.ok()?.ok()?;
        Some(First::Client(spoken))
    };
    match timeout(silence, opening.spoken(Expect::Any)).await {
        Ok(said) => return Some(First::Client(said.ok()?)),
        Err(_) if opening.has_begun() => return spoken(opening).await,
        Err(_) => {}
    }
    let tried = connection.clone();
    let mut trial = pin!(tcp::open(&tried));
    let opened = tokio::select! {
        biased;
        opened = &mut trial => opened,
        said = spoken(opening) => match said {
            // It goes on: an external authorizer is asked once.
            Some(First::Client(Spoken::Opaque)) => return Some(First::Opaque(connection, trial.await)),
            said => return said,
        },
    };
    let mut opened = match opened {
        Ok(opened) => opened,
        // What may not pass as opaque may still be HTTP, or the mesh's: it is waited for.
        Err(denied) => {
            let tried_by = connection.worker().policy.current();
            let said = spoken(opening).await?;
            let same = connection.worker().policy.current().binds_as(&tried_by);
            return Some(match said {
                // Whoever denied it is not asked again.
                First::Client(Spoken::Opaque) if same => First::Opaque(connection, Err(denied)),
                said => said,
            });
        }
    };
    let said = tokio::select! {
        biased;
        heard = opened.hear() => match heard {
            Ok(_) => return Some(First::Opaque(connection, Ok(opened))),
            // Nothing of the application's is held for who may not go on.
            Err(_) => {
                drop(opened);
                return spoken(opening).await;
            }
        },
        said = spoken(opening) => said,
    };
    match said {
        // The connection that was made is the one that carries what the client says.
        Some(First::Client(Spoken::Opaque | Spoken::Nothing)) => Some(First::Opaque(connection, Ok(opened))),
        Some(First::Client(spoken)) => {
            if spoken.is_http() {
                opened.park(&connection);
            }
            Some(First::Client(spoken))
        }
        other => other,
    }
}

/// Counts a connection outside the mesh, and notes its client: who has to move before a port can be
/// STRICT. A node whose probes are let through, and nothing else of it, is no client to look after.
pub fn count(connection: &Connection, verdict: &'static str) {
    let noted = match verdict {
        "admitted" => Verdict::Admitted,
        "refused" => Verdict::Refused,
        _ => {
            let worker = connection.worker();
            let place = source(&worker.policy.current(), connection.client());
            return worker.connections.plaintext(verdict, place);
        }
    };
    count_stranger(connection.worker(), connection.client(), connection.local(), noted);
}

/// The same of a connection of which nothing else is known.
pub fn count_stranger(worker: &Worker, client: SocketAddr, local: SocketAddr, verdict: Verdict) {
    let policy = worker.policy.current();
    let label = if verdict == Verdict::Admitted { "admitted" } else { "refused" };
    worker.connections.plaintext(label, source(&policy, client));
    worker.shared.plaintext_clients.note(&policy, client.ip().to_canonical(), local.port(), verdict);
}

/// Where a client is, as far as the mesh's configuration says.
pub fn source(policy: &Policy, client: SocketAddr) -> &'static str {
    if policy.config.cidrs.is_empty() {
        return "unknown";
    }
    if policy.config.is_outside(client.ip()) { "outside" } else { "mesh" }
}

/// Serves a client that said what is neither the mesh's nor HTTP. `tls`: the application's own.
pub async fn serve(connection: Rc<Connection>, opening: Opening, tls: bool) {
    let opened = tcp::open(&connection).await;
    carry(connection, opening, opened, tls).await;
}

/// Carries a connection of opaque bytes, if it may. `opened`: what came of the trial.
pub async fn carry(connection: Rc<Connection>, opening: Opening, opened: Result<Opened, Denied>, tls: bool) {
    match tcp::judge(&connection, opened) {
        Ok(opened) => {
            count(&connection, "admitted");
            let (stream, buffered) = opening.into_parts();
            tcp::carry_over(connection, opened, stream, buffered).await;
        }
        Err(denied) => {
            // Whoever could not be served, but was let in, has to move before the port can be STRICT.
            let admitted = connection.admit(&connection.worker().policy.current()).is_ok();
            count(&connection, if admitted { "admitted" } else { "refused" });
            tcp::refuse(&connection, &denied);
            if tls {
                detect::refuse_tls(opening).await;
            } else {
                opening.into_stream().reset_on_close();
            }
        }
    }
}
