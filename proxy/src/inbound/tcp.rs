//! Opaque bytes on their way in: authorized by identity, address and port, then carried.
//!
//! There is no HTTP to look at, so an HTTP field of a rule never admits (see the model), and a port
//! that carries HTTP refuses them. What is denied is closed before the application sees a connection.

use super::authorizer::{self, Answer};
use super::connection::Connection;
use super::judge::{Denied, Marks, Next};
use super::revoke::Live;
use crate::stream::Stream;
use crate::tcp::Pair;
use bytes::{Bytes, BytesMut};
use std::io;
use std::rc::Rc;
use tokio::io::AsyncReadExt;
use weft_model::reason::Reason;

/// A connection to the application, admitted, of which nothing was carried yet.
pub struct Opened {
    /// From the judgement on, a change of the policy finds it.
    live: Rc<Live>,
    stream: Stream,
    /// What the application said so far.
    first: BytesMut,
}

/// What an application says at first: a greeting has room.
const GREETING_BYTES: usize = 1024;

impl Opened {
    /// Waits until the application speaks or ends, or until it may not go on: an error.
    pub async fn hear(&mut self) -> io::Result<usize> {
        self.first.reserve(GREETING_BYTES);
        tokio::select! {
            biased;
            () = self.live.ended() => Err(io::ErrorKind::PermissionDenied.into()),
            heard = self.stream.read_buf(&mut self.first) => heard,
        }
    }

    /// What the application said so far.
    pub fn first(&self) -> &[u8] {
        &self.first
    }

    /// It is not needed: kept for HTTP where nothing was said on it.
    pub fn park(self, connection: &Connection) {
        if self.first.is_empty() {
            connection.application().adopt(self.stream, None);
        }
    }
}

/// Carries a connection to the application until both sides have ended, if it may, and for as long as
/// it may.
pub async fn carry(connection: Rc<Connection>, client: Stream, buffered: Bytes) {
    let opened = open(&connection).await;
    match judge(&connection, opened) {
        Ok(opened) => carry_over(connection, opened, client, buffered).await,
        Err(denied) => {
            refuse(&connection, &denied);
            client.reset_on_close();
        }
    }
}

/// Judges a connection of which it is known by now that it carries opaque bytes; counted here alone.
/// `opened`: what came of the trial.
pub fn judge(connection: &Connection, opened: Result<Opened, Denied>) -> Result<Opened, Denied> {
    if opened.as_ref().is_ok_and(|opened| opened.live.reason().is_some()) {
        // A change of the policy has found it: that is counted and told, and it ends at once.
        return opened;
    }
    let mut marks = Marks::default();
    let judged = connection.judge_opaque(&connection.worker().policy.current(), &mut marks);
    if !marks.is_empty() {
        tracing::info!(
            client = %connection.client(),
            source = connection.source(),
            audit = marks.audit.as_deref().unwrap_or_default(),
            dry_run = marks.dry_run.as_deref().unwrap_or_default(),
            "opaque connection marked"
        );
    }
    let opened = opened?;
    match judged? {
        Next::Pass => Ok(opened),
        Next::Ask(_) => Err(asked_too_late()),
    }
}

/// Connects to the application, if the connection may be carried. A trial: the client may turn out to
/// speak HTTP, to be judged by that, so that nothing is counted or told.
pub async fn open(connection: &Rc<Connection>) -> Result<Opened, Denied> {
    let worker = connection.worker();
    Box::pin(admit(connection)).await?;
    let application = connection.application();
    let live = Live::new(connection.clone(), None, Some(application.begin()));
    match application.connect_opaque(worker).await {
        Ok((stream, _)) => Ok(Opened { live, stream, first: BytesMut::new() }),
        Err(reason) => Err(Denied::new(reason, None, true)),
    }
}

/// Counts and tells a connection that is not carried.
pub fn refuse(connection: &Connection, denied: &Denied) {
    connection.worker().metrics.answered(super::DIRECTION, denied.reason);
    tracing::info!(
        client = %connection.client(),
        source = connection.source(),
        port = connection.local().port(),
        application = %connection.application().address(),
        server_name = connection.sni(),
        reason = denied.reason.label(),
        detail = denied.detail.as_deref().unwrap_or_default(),
        "opaque connection refused"
    );
}

/// Carries an admitted connection.
pub async fn carry_over(connection: Rc<Connection>, opened: Opened, client: Stream, buffered: Bytes) {
    let worker = connection.worker();
    let Opened { live, stream: server, first } = opened;
    let cells = worker.metrics.tcp_cells(&connection.ends());
    let _open = cells.opened();
    let limits = worker.shared.settings.tcp.limits();
    let carried = Pair::new(client, server).carry(buffered, first.freeze(), limits, cells.meter());
    let carried = async {
        tokio::select! {
            biased;
            () = live.ended() => None,
            end = carried => Some(end),
        }
    };
    if let Some(Some(end)) = worker.shared.drain.until_forced(carried).await {
        tracing::debug!(source = connection.source(), end = end.as_str(), "opaque connection ended");
    }
}

fn asked_too_late() -> Denied {
    let detail = "another authorizer is to be asked now".to_owned();
    Denied::new(Reason::AuthorizationUnresolved, Some(detail), false)
}

/// Whether a connection may be carried; an external authorizer is told of its two ends.
async fn admit(connection: &Connection) -> Result<(), Denied> {
    let policy = connection.worker().policy.current();
    let question = match connection.try_opaque(&policy)? {
        Next::Pass => return Ok(()),
        Next::Ask(question) => question,
    };
    let denied = |reason, why: &str| Err(Denied::new(reason, Some(format!("{}: {why}", question.by)), false));
    let providers = &policy.config.extension_providers;
    let Some(provider) = providers.iter().find(|held| held.name == question.provider) else {
        return denied(Reason::AuthorizationUnresolved, "its provider is not known");
    };
    match authorizer::ask(connection, provider, None).await {
        // Edits of a request that there is not: an agreement that rests on them is none.
        Answer::Agreed(edits) if edits.changes_the_request() => {
            return denied(Reason::ExternalAuthorizerFailed, "it agrees to a request, and there is none");
        }
        Answer::Agreed(_) => {}
        Answer::Denied(_) => return denied(Reason::ExternalAuthorizerDenied, "denied"),
        Answer::Failed(why) if provider.fail_open => {
            tracing::warn!(
                provider = &*provider.name,
                why,
                "a connection passes that its authorizer did not judge"
            );
        }
        Answer::Failed(why) | Answer::Unfit(why) => return denied(Reason::ExternalAuthorizerFailed, &why),
    }
    connection.agree(question.provider.clone());
    // It took its time: what holds now is what counts.
    match connection.try_opaque(&connection.worker().policy.current())? {
        Next::Pass => Ok(()),
        Next::Ask(_) => Err(asked_too_late()),
    }
}
