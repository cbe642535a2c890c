//! THE outbound stack: what happens to a request on its way out, in order.
//!
//! | step | why here |
//! |---|---|
//! | destination | everything after depends on it; unknown ends here |
//! | hop-by-hop and internal fields removed | before any rule sees them: an application cannot speak as the mesh |
//! | route: rule, filters, backend | on the request as the application sent it |
//! | faults on purpose, by the Service's policy | on the request as the application sent it, its path as routes see it; within the deadline, before any try |
//! | deadline: the route's or the client's, whichever is earlier | around all tries and the answer, so that retries and the waits between them spend it |
//! | mirrors | copies of the request as its backend gets it; once it goes out, so that faults and limits hold for them, too |
//! | tries: balancer → pool → wire | each try is another endpoint, where there is one, and says to its proxy which it is and what is left |
//! | answer: internal fields, filters | what the peer's proxy says of itself stays visible |
//! | record | last, so that it sees the answer that the application sees |

use super::plan::Plan;
use super::replica::Outcome;
use super::tries::{Fared, Progress};
use super::verdict::Verdict;
use super::{DIRECTION, Port, Target, ends_of, mirror, target_of};
use crate::deadline::Deadline;
use crate::exchange::{Logged, Record, RequestBytes, count_request, observe};
use crate::h1::Handler;
use crate::http::replay::Replay;
use crate::http::respond::{self, strip_internal};
use crate::http::{Body, Known, Request, RequestHead, Response};
use crate::inbound::judge::Marks;
use crate::metrics::{Ends, ServiceLabels};
use crate::policy::Asked;
use crate::pool::Wire;
use crate::worker::Worker;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use weft_model::reason::Reason;

/// One connection from the application.
pub struct Outbound {
    pub(super) worker: Rc<Worker>,
    pub(super) client: SocketAddr,
    target: Target,
    /// The proxy's own question: no route leads it elsewhere, and it goes to proven identities alone.
    pub(super) own: bool,
    /// What the last request found, valid for that version of the policy.
    found: RefCell<Option<(u64, Rc<Port>)>>,
}

impl Outbound {
    /// A connection's handler.
    pub fn new(worker: Rc<Worker>, client: SocketAddr, target: Target) -> Self {
        Self { worker, client, target, own: false, found: RefCell::default() }
    }

    /// For a question of the proxy's own, whose answer decides about others.
    pub fn of_the_proxy(worker: Rc<Worker>, client: SocketAddr, target: Target) -> Self {
        Self { own: true, ..Self::new(worker, client, target) }
    }

    async fn port(&self, head: &RequestHead) -> Result<Rc<Port>, Reason> {
        let worker = &self.worker;
        match &self.target {
            Target::Destination { asked, port } => {
                let version = worker.policy.version();
                if let Some((held, port)) = &*self.found.borrow()
                    && *held == version
                {
                    return Ok(port.clone());
                }
                let port = worker.destinations.port(worker, asked, *port).await?;
                *self.found.borrow_mut() = Some((version, port.clone()));
                Ok(port)
            }
            Target::Proxy => {
                let (asked, port): (Asked, u16) = target_of(worker, head.authority(), Some(80))?;
                worker.destinations.port(worker, &asked, port).await
            }
        }
    }

    fn record(&self, logged: Option<Logged>, started: Instant, ends: Rc<Ends>, grpc: bool) -> Record {
        Record {
            worker: self.worker.clone(),
            started,
            ends,
            client: self.client,
            endpoint: None,
            tries: 0,
            grpc,
            reason: None,
            detail: None,
            logged,
            marks: Marks::default(),
            request_bytes: RequestBytes::Exact(0),
            probe: None,
            in_flight: None,
            live: None,
            deadline: None,
            places: crate::overload::limiter::Places::default(),
            verdict: None,
        }
    }

    /// The ends of a request that reached no endpoint.
    fn ends_nowhere(&self, service: Arc<ServiceLabels>) -> Rc<Ends> {
        Rc::new(ends_of(&self.worker, service))
    }

    /// Has the request copied once its body has passed; the body to send instead.
    pub(super) fn mirrored(&self, plan: &Plan, head: &RequestHead, body: Body, wire: Wire) -> Body {
        let (worker, ports, head) = (self.worker.clone(), plan.mirrors.clone(), head.clone());
        let copy = Box::new(move |body| mirror::send(&worker, ports, head, body, wire));
        Replay::new(&self.worker.spares, body, Some(copy)).body()
    }

    /// An answer of our own, counted and written down.
    fn answer(&self, mut response: Response, reason: Reason, mut record: Record) -> Response {
        self.worker.metrics.answered(DIRECTION, reason);
        record.reason = Some(reason);
        response = respond::for_client(response, reason, record.grpc);
        observe(response, record)
    }
}

impl Handler for Outbound {
    async fn call(&self, request: Request) -> Response {
        let started = Instant::now();
        let Request { mut head, body } = request;
        let grpc = head.is_grpc();
        let logged = Some(Logged::new(&head));
        let claimed = Deadline::claimed(head.headers(), grpc, started);
        let found = match claimed {
            None => self.port(&head).await,
            Some(deadline) => match tokio::time::timeout_at(deadline.at().into(), self.port(&head)).await {
                Ok(found) => found,
                Err(_) => Err(Reason::RequestTimeout),
            },
        };
        let port = match found {
            Ok(port) => port,
            Err(reason) => {
                let record = self.record(logged, started, self.ends_nowhere(Arc::default()), grpc);
                return self.answer(Response::local(reason), reason, record);
            }
        };
        let upgrade = head.upgrade().is_some();
        strip_internal(head.headers_mut());
        head.headers_mut().remove_hop_by_hop(upgrade);
        // An HTTP/1.0 client may name no host; beyond this hop every request has one.
        if head.authority().is_empty() && head.set_authority(&port.labels.host).is_err() {
            return self.refuse(Reason::HostInvalid, Some(&head));
        }
        let plan = match self.plan(port.clone(), &mut head) {
            Ok(plan) => plan,
            Err(response) => {
                let label = response.head.headers().get_str(Known::XWeftReason);
                let reason = label.and_then(Reason::from_label).unwrap_or(Reason::Internal);
                let record = self.record(logged, started, self.ends_nowhere(port.labels.clone()), grpc);
                return self.answer(*response, reason, record);
            }
        };
        let wire = match (upgrade, grpc) {
            (true, _) => Wire::Http1,
            (false, true) => Wire::Http2,
            (false, false) => Wire::Any,
        };
        let (body, request_bytes) = count_request(body);
        let of_route = plan.timeout.and_then(|timeout| Deadline::after(started, timeout));
        let deadline = Deadline::earlier(claimed, of_route);
        let progress = Progress::default();
        let fared = {
            let request = Request::new(head, body);
            let tries = pin!(async {
                if let Some(fault) = &plan.fault
                    && let Some(response) = Box::pin(fault.apply(&self.worker, grpc)).await
                {
                    return Fared { response, ..Fared::local(Reason::FaultInjected, None, 0) };
                }
                self.try_endpoints(&plan, request, wire, deadline, &progress).await
            });
            match deadline {
                None => tries.await,
                Some(deadline) => match tokio::time::timeout_at(deadline.at().into(), tries).await {
                    Ok(fared) => fared,
                    Err(_) => {
                        // A caller's own patience says nothing of the endpoint.
                        let own = of_route.is_some_and(|own| own.at() == deadline.at());
                        plan.tried(&self.worker, own.then_some(Outcome::Failed));
                        progress.timed_out(&self.worker)
                    }
                },
            }
        };
        let ends = match &fared.replica {
            Some(replica) => replica.ends(&self.worker, &plan.port.labels),
            None => self.ends_nowhere(plan.port.labels.clone()),
        };
        let mut record = self.record(logged, started, ends, grpc);
        record.request_bytes = request_bytes;
        record.tries = fared.tries;
        record.in_flight = fared.in_flight;
        record.verdict = plan.trying.take().map(|trying| Verdict::new(plan.port.clone(), trying));
        record.deadline = deadline;
        if let Some(replica) = &fared.replica {
            record.endpoint = Some(replica.endpoint.address);
        }
        let mut response = fared.response;
        if let Some(reason) = fared.reason {
            return self.answer(response, reason, record);
        }
        let headers = response.head.headers_mut();
        if fared.replica.as_ref().is_some_and(|replica| replica.identity.is_none()) {
            strip_internal(headers);
        } else {
            // Said to this proxy; what it means for the application's callers is noted.
            headers.remove(Known::XWeftRetry);
        }
        if !matches!(response.body, Body::Tunnel(_)) {
            headers.remove_hop_by_hop(false);
        }
        if let Some(routed) = &plan.routed {
            routed.apply_to_response(headers);
        }
        if let (Some(session), Some(replica)) = (&plan.session, &fared.replica)
            && let Some(policy) = plan.session_policy()
        {
            session.answer(policy, plan.port.balancer.session_digest(replica), headers);
        }
        observe(response, record)
    }

    fn refuse(&self, reason: Reason, head: Option<&RequestHead>) -> Response {
        let ends = self.ends_nowhere(Arc::default());
        let record = self.record(head.map(Logged::new), Instant::now(), ends, false);
        self.answer(Response::local(reason), reason, record)
    }
}
