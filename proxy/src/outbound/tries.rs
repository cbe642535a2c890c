//! The tries of a request: one endpoint after the other, until one answers or nothing is left to spend.
//!
//! Here meet what a Service can bear ([`limits`]), which endpoint is next ([`balancer`](super::balancer)),
//! what a try says of it ([`classify`]), whether another is wanted ([`retry`]) and whether there is one in
//! the [`budget`](super::budget). The caller's deadline lies around all of it and may end it at any await.

use super::http::Outbound;
use super::plan::Plan;
use super::replica::Replica;
use super::retry::{self, Answered, Next, TRIES_MAX};
use super::session::Session;
use super::{affinity, classify, connections, limits};
use crate::deadline::Deadline;
use crate::h1::{Delivered, SendError};
use crate::http::replay::Replay;
use crate::http::{HeaderError, Headers, Known, Request, Response, respond};
use crate::pool::{InFlight, Wire};
use crate::spending::Trace;
use crate::worker::Worker;
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};
use weft_model::reason::Reason;
use weft_model::service::Protocol;

/// How far the tries have come, for who ends them from outside.
#[derive(Default)]
pub(super) struct Progress {
    tries: Cell<usize>,
    replica: RefCell<Option<Rc<Replica>>>,
    trace: Cell<Option<Trace>>,
}

/// How a request fared.
pub(super) struct Fared {
    pub response: Response,
    pub replica: Option<Rc<Replica>>,
    pub in_flight: Option<InFlight>,
    pub reason: Option<Reason>,
    pub tries: u32,
}

// === impl Outbound ===

impl Outbound {
    /// Makes tries until one answers, each at another endpoint.
    pub(super) async fn try_endpoints(
        &self,
        plan: &Plan,
        mut request: Request,
        wire: Wire,
        deadline: Option<Deadline>,
        progress: &Progress,
    ) -> Fared {
        let worker = &self.worker;
        let port = &plan.port;
        let mut place = match port.counts.begin(&port.model.traffic.connections) {
            Ok(place) => place,
            Err(reason) => return Fared::local(reason, None, 1),
        };
        let method = request.head.method.clone();
        let grpc = request.head.is_grpc();
        let trace = Trace::of(request.head.headers());
        progress.trace.set(trace);
        // Said of what failed although it was tried again, or may not be: who called need not try, too.
        let spent = || worker.shared.spending.spent(trace, Instant::now());
        port.budget.request(Instant::now(), &port.allowance);
        let policy = plan.retry();
        let mut tried: Vec<Rc<Replica>> = Vec::new();
        let mut until = None;
        let key = affinity::of_request(&port.model.traffic, &request.head, worker);
        let pick = |tried: &[Rc<Replica>]| {
            port.balancer.pick(tried, key, &mut worker.random.borrow_mut(), Instant::now())
        };
        let kept_with = plan.session.as_ref().and_then(Session::replica);
        let mut replica = match kept_with.clone().or_else(|| pick(&tried)) {
            Some(replica) => replica,
            None => {
                let bytes = kept_bytes(&request);
                // Boxed: rare, and it would lie in every request's future.
                match Box::pin(limits::await_endpoint(worker, port, bytes, || pick(&[]))).await {
                    Ok(replica) => replica,
                    Err(reason) => return Fared::local(reason, None, 1),
                }
            }
        };
        // Copied only once it goes out: what a fault or a limit answers reaches nobody.
        if !plan.mirrors.is_empty() && wire != Wire::Http1 {
            request.body = self.mirrored(plan, &request.head, request.body, wire);
        }
        // What the owner wants tried again must still be there then. The head and a body at hand are.
        let replay = policy.filter(|_| !request.body.is_at_hand()).map(|_| {
            let replay = Replay::new(&worker.spares, std::mem::take(&mut request.body), None);
            request.body = replay.body();
            replay
        });
        let is_whole =
            |request: &Request| replay.as_ref().map_or(request.body.is_at_hand(), Replay::is_whole);
        loop {
            let tries = tried.len() + 1;
            progress.tries.set(tries);
            *progress.replica.borrow_mut() = Some(replica.clone());
            if self.own && replica.identity.is_none() {
                return Fared::local(Reason::PeerIdentityMismatch, Some(replica), tries);
            }
            if tries > 1 || deadline.is_some() || plan.try_timeout.is_some() {
                let mesh = replica.identity.is_some();
                let marked = mark(request.head.headers_mut(), deadline, plan.try_timeout, tries, mesh, grpc);
                if marked.is_err() {
                    return Fared::local(Reason::HeaderTooLarge, Some(replica), tries);
                }
            }
            let (in_flight, trying) = replica.begin(Instant::now());
            plan.trying.set(Some(trying));
            let wire = if replica.identity.is_none() { plain_wire(wire, port.model.protocol) } else { wire };
            let sent = {
                // Pinned where it lies: a future that is moved is copied, every byte of it.
                let sent = pin!(replica.pool.send(worker, &mut request, wire));
                match plan.try_timeout {
                    None => sent.await,
                    Some(timeout) => match tokio::time::timeout(timeout, sent).await {
                        Ok(sent) => sent,
                        Err(_) => Err(SendError {
                            reason: Reason::RequestTimeout,
                            delivered: Delivered::Maybe,
                            aborted: false,
                            intact: false,
                        }),
                    },
                }
            };
            let error = match sent {
                Ok(response) => {
                    let counts = port.model.traffic.ejection.counts;
                    let mesh = replica.identity.is_some();
                    if classify::ends_with_status(&response, grpc) {
                        plan.begun();
                    } else {
                        plan.tried(worker, Some(classify::of_answer(&response, mesh, grpc, counts)));
                    }
                    let next = policy.map_or(Next::Pass, |policy| {
                        let left = deadline.map(|deadline| deadline.left(Instant::now()));
                        let whole = is_whole(&request);
                        let answered = Answered { answer: &response, mesh, tries, whole, left };
                        retry::after_answer(policy, &answered, &mut worker.random.borrow_mut())
                    });
                    let again = match next {
                        Next::Pass => None,
                        Next::Refused(why) => {
                            worker.metrics.retried_status(why);
                            None
                        }
                        Next::Again(wait) => {
                            let made = port.budget.withdraw(Instant::now(), &port.allowance);
                            worker.metrics.retried_status(if made { "made" } else { "budget" });
                            if !made {
                                spent();
                            }
                            made.then_some(wait)
                        }
                    };
                    if let Some(wait) = again {
                        // Its connection goes with it, or comes back to its pool: not ours to wait for.
                        drop((response, in_flight));
                        tokio::time::sleep(wait).await;
                        tried.push(replica.clone());
                        if let Some(replay) = &replay {
                            request.body = replay.body();
                        }
                        // Where there is no other, the same one may have recovered.
                        replica = pick(&tried).or_else(|| pick(&[])).unwrap_or(replica);
                        continue;
                    }
                    let told = replica.identity.is_some() && retry::is_spent(response.head.headers());
                    if told || tries > 1 && respond::is_failing(&response) {
                        spent();
                    }
                    let (replica, in_flight) = (Some(replica), Some(in_flight.with(place.take())));
                    return Fared { response, replica, in_flight, reason: None, tries: count(tries) };
                }
                Err(error) => error,
            };
            if error.reason == Reason::ConnectionLimit && error.intact {
                // It says nothing of the endpoint, and was no try: nothing of it is sent before a connection is
                // free. Who is bound to an endpoint waits for that one.
                drop(in_flight);
                plan.trying.take();
                let kept = (key.is_some() || kept_with.is_some()).then_some(&replica);
                let (until, bytes) = (&mut until, kept_bytes(&request));
                let pick = || pick(&tried);
                let waits = connections::await_connection(worker, port, wire, bytes, until, kept, pick);
                match Box::pin(waits).await {
                    Ok(found) => replica = found,
                    Err(reason) => return Fared::local(reason, None, tries),
                }
                continue;
            }
            plan.tried(worker, classify::of_error(&error));
            tried.push(replica.clone());
            let opted =
                policy.filter(|policy| retry::wants_failure(policy, &error, tries) && is_whole(&request));
            let again = error.intact && retry::is_safe(&method, error.delivered) && tries < TRIES_MAX
                || opted.is_some();
            // Another endpoint, else none: what failed here would fail here again. One that took too long
            // or broke off may do better, if its owner says so.
            let next = pick(&tried).or_else(|| opted.and_then(|_| pick(&[])));
            let Some(next) = next.filter(|_| again) else {
                if tries > 1 {
                    spent();
                }
                return Fared::local(error.reason, Some(replica), tries);
            };
            // Drawn before the wait: others draw during it.
            let wait = opted.map_or(Duration::ZERO, |policy| {
                retry::backoff(policy, tries, &mut worker.random.borrow_mut())
            });
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline.left(now) <= wait) {
                worker.metrics.retried(error.reason, "deadline");
                if tries > 1 {
                    spent();
                }
                return Fared::local(error.reason, Some(replica), tries);
            }
            // Who could not connect has loaded nobody: its next try is a first one, and many may have waited
            // for that connection together.
            let is_first =
                tries == 1 && error.delivered == Delivered::No && retry::is_unconnected(error.reason);
            if !is_first && !port.budget.withdraw(now, &port.allowance) {
                spent();
                worker.metrics.retried(error.reason, "budget");
                return Fared::local(Reason::RetryBudgetExhausted, Some(replica), tries);
            }
            worker.metrics.retried(error.reason, "made");
            if let Some(replay) = &replay {
                request.body = replay.body();
            }
            replica = next;
            if !wait.is_zero() {
                // Not under way meanwhile; and who was next may be gone by then.
                drop(in_flight);
                tokio::time::sleep(wait).await;
                if let Some(better) = pick(&tried) {
                    replica = better;
                }
            }
        }
    }
}

// === impl Progress ===

impl Progress {
    /// How a request fared whose deadline passed.
    pub(super) fn timed_out(&self, worker: &Worker) -> Fared {
        if self.tries.get() > 1 {
            worker.shared.spending.spent(self.trace.get(), Instant::now());
        }
        Fared::local(Reason::RequestTimeout, self.replica.take(), self.tries.get().max(1))
    }
}

// === impl Fared ===

impl Fared {
    pub(super) fn local(reason: Reason, replica: Option<Rc<Replica>>, tries: usize) -> Self {
        Self {
            response: Response::local(reason),
            replica,
            in_flight: None,
            reason: Some(reason),
            tries: count(tries),
        }
    }
}

/// Says to an endpoint's proxy which try it is and what is left for it; to an endpoint without one, what is
/// left, as the application reads it.
fn mark(
    headers: &mut Headers,
    deadline: Option<Deadline>,
    try_timeout: Option<Duration>,
    tries: usize,
    mesh: bool,
    grpc: bool,
) -> Result<(), HeaderError> {
    // A request that came back carries what the try before it was told.
    headers.remove(Known::XWeftAttempt);
    headers.remove(Known::XWeftDeadline);
    let now = Instant::now();
    let of_try = try_timeout.and_then(|timeout| Deadline::after(now, timeout));
    match Deadline::earlier(deadline, of_try) {
        Some(deadline) if mesh => deadline.mark(headers, now)?,
        Some(deadline) => deadline.show(headers, grpc, now)?,
        None => {}
    }
    if mesh && tries > 1 {
        // At most two digits: the tries of a request are.
        let text = [b'0' + (tries / 10 % 10) as u8, b'0' + (tries % 10) as u8];
        headers.append_known(Known::XWeftAttempt, if tries < 10 { &text[1..] } else { &text })?;
    }
    Ok(())
}

/// What a request keeps in memory while it waits.
fn kept_bytes(request: &Request) -> usize {
    let at_hand = if request.body.is_at_hand() { request.body.exact_length() } else { None };
    let body = at_hand.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    request.head.headers().size() + body
}

fn count(tries: usize) -> u32 {
    u32::try_from(tries).unwrap_or(u32::MAX)
}

/// To a plain endpoint there is no choice by load: what the port declares, else HTTP/1.1, but
/// gRPC only exists over HTTP/2.
pub(super) fn plain_wire(wire: Wire, protocol: Protocol) -> Wire {
    match (wire, protocol) {
        (Wire::Http2, _) => Wire::Http2,
        (Wire::Any, Protocol::Http2 | Protocol::Grpc) => Wire::Http2,
        _ => Wire::Http1,
    }
}
