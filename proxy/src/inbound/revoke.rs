//! What is open when the policy changes is judged again: exactly what is now denied is closed.
//!
//! Requests are judged when they come, by the policy of that moment. From then until its answer has
//! ended each is kept here as [`Live`], with the facts it was judged by, and so is an upgraded or an
//! opaque connection; the worker judges all of them again when what binds the workload changes. Who
//! still waits for the application's answer is told with an answer of our own, who streams is cut off,
//! also if it has stopped reading.

use super::authorizer::Agreed;
use super::connection::Connection;
use super::judge::{Denied, Rejudged};
use super::probe::Pass;
use crate::http::{RequestHead, Revocable};
use crate::policy::Policy;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use weft_model::reason::Reason;

/// How many are judged before others get their turn: at 50 µs for a signature, three milliseconds.
const JUDGED_AT_ONCE: usize = 64;

/// Something open that was admitted.
pub struct Live {
    connection: Rc<Connection>,
    /// The request; `None` for an opaque connection.
    request: Option<Request>,
    /// What let it through in place of the policies.
    pass: Option<Rc<Pass>>,
    revoked: Cell<Option<Reason>>,
    /// Set while the application has not answered: the denial is then told by an answer.
    waiting: Cell<bool>,
    /// The denial that is to be told.
    denied: Cell<Option<Denied>>,
    waker: Cell<Option<Waker>>,
    /// Released with it.
    _held: Option<crate::pool::InFlight>,
}

/// What a request was judged by.
pub struct Request {
    /// Its head as it came, but for the mesh's own fields.
    pub head: RequestHead,
    /// When it came, in seconds since 1970: a token that was good then does not end what it began.
    pub at: i64,
    /// The external authorizer's agreement, where one was asked.
    pub agreed: Option<Agreed>,
}

/// Everything open on a worker.
#[derive(Default)]
pub struct LiveSet {
    members: RefCell<Vec<Weak<Live>>>,
    /// Looked through for what is gone when it has grown so far.
    prune_at: Cell<usize>,
}

// === impl Request ===

impl Request {
    /// Judges it again.
    pub fn judge(&self, connection: &Connection, policy: &Policy) -> Result<Rejudged<'_>, Denied> {
        connection.judge_request_again(&self.head, policy, self.at, self.agreed.as_ref())
    }
}

// === impl Live ===

impl Live {
    /// Notes something open.
    pub fn new(
        connection: Rc<Connection>,
        request: Option<Request>,
        held: Option<crate::pool::InFlight>,
    ) -> Rc<Self> {
        Self::noted(connection, request, None, held)
    }

    /// Notes something open that is a probe.
    pub fn of_probe(
        connection: Rc<Connection>,
        request: Option<Request>,
        pass: Rc<Pass>,
        held: Option<crate::pool::InFlight>,
    ) -> Rc<Self> {
        Self::noted(connection, request, Some(pass), held)
    }

    fn noted(
        connection: Rc<Connection>,
        request: Option<Request>,
        pass: Option<Rc<Pass>>,
        held: Option<crate::pool::InFlight>,
    ) -> Rc<Self> {
        let live = Rc::new(Self {
            connection,
            request,
            pass,
            revoked: Cell::new(None),
            waiting: Cell::new(false),
            denied: Cell::new(None),
            waker: Cell::new(None),
            _held: held,
        });
        live.connection.worker().live.add(&live);
        live
    }

    /// Why it must end, if it must.
    pub fn reason(&self) -> Option<Reason> {
        self.revoked.get()
    }

    /// Resolves when it must end.
    pub async fn ended(&self) {
        poll_fn(|cx| self.poll_revoked(cx)).await;
    }

    /// The request, as it was judged.
    pub fn head(&self) -> Option<&RequestHead> {
        self.request.as_ref().map(|request| &request.head)
    }

    /// Whether this policy admits it, too.
    pub fn judged_by(&self, policy: &Policy) -> Result<(), Denied> {
        match (&self.pass, &self.request) {
            (Some(pass), _) => pass.judge(&self.connection, policy),
            (None, Some(request)) => request.judge(&self.connection, policy).map(drop),
            (None, None) => self.connection.judge_opaque_again(policy),
        }
    }

    /// Polls what brings the application's answer, unless the request must end before it has come.
    pub fn poll_waiting<T>(
        &self,
        answer: Pin<&mut impl Future<Output = T>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, Denied>> {
        self.waiting.set(true);
        if self.poll_revoked(cx).is_ready() {
            let denied = self.denied.take();
            return Poll::Ready(Err(
                denied.unwrap_or_else(|| Denied::new(Reason::AuthorizationDenied, None, false))
            ));
        }
        let answer = answer.poll(cx);
        self.waiting.set(answer.is_pending());
        answer.map(Ok)
    }

    fn judge(&self, policy: &Policy) {
        let Err(denied) = self.judged_by(policy) else { return };
        if self.revoked.replace(Some(denied.reason)).is_some() {
            return;
        }
        if self.waiting.get() {
            self.denied.set(Some(denied));
        } else {
            self.connection.worker().metrics.answered(super::DIRECTION, denied.reason);
            tracing::info!(
                client = %self.connection.client(),
                source = self.connection.source(),
                reason = denied.reason.label(),
                detail = denied.detail.as_deref().unwrap_or_default(),
                "closed: the policy that holds now denies it"
            );
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Revocable for Live {
    fn poll_revoked(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.revoked.get().is_some() {
            return Poll::Ready(());
        }
        match self.waker.take() {
            Some(held) if held.will_wake(cx.waker()) => self.waker.set(Some(held)),
            _ => self.waker.set(Some(cx.waker().clone())),
        }
        Poll::Pending
    }
}

// === impl LiveSet ===

impl LiveSet {
    fn add(&self, live: &Rc<Live>) {
        let mut members = self.members.borrow_mut();
        if members.len() >= self.prune_at.get() {
            members.retain(|member| member.strong_count() > 0);
            self.prune_at.set(members.len() * 2 + 64);
        }
        members.push(Rc::downgrade(live));
    }

    /// Judges everything that is open by this policy. Others of the worker get their turn meanwhile: a
    /// rotated key may mean a signature for each request that is open.
    pub async fn judge(&self, policy: &Policy) {
        // Taken out: closing one must not meet the list borrowed.
        let members = std::mem::take(&mut *self.members.borrow_mut());
        for (index, member) in members.iter().enumerate() {
            if let Some(live) = member.upgrade() {
                live.judge(policy);
            }
            if index % JUDGED_AT_ONCE == JUDGED_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        let mut new = self.members.borrow_mut();
        new.extend(members.into_iter().filter(|member| member.strong_count() > 0));
    }

    /// Keeps the set judged by the newest policy. Ends with the process.
    pub async fn follow(&self, policy: &crate::policy::Reader) {
        let mut changes = policy.changes();
        let mut judged = policy.current();
        while changes.changed().await.is_ok() {
            let now = policy.current();
            if !now.binds_as(&judged) {
                self.judge(&now).await;
            }
            judged = now;
        }
    }
}
