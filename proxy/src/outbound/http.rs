//! THE outbound stack: what happens to a request on its way out, in order.
//!
//! | step | why here |
//! |---|---|
//! | destination | everything after depends on it; unknown ends here |
//! | hop-by-hop and internal fields removed | before any rule sees them: an application cannot speak as the mesh |
//! | route: rule, filters, backend | on the request as the application sent it |
//! | faults on purpose, by the Service's policy | on the request as the application sent it; within the deadline, before any try |
//! | mirrors | copies of the request as its backend gets it |
//! | deadline: the route's or the client's, whichever is earlier | around all tries and the answer, so that retries and the waits between them spend it |
//! | tries: balancer → pool → wire | each try is another endpoint, where there is one, and says to its proxy which it is and what is left |
//! | answer: internal fields, filters | what the peer's proxy says of itself stays visible |
//! | record | last, so that it sees the answer that the application sees |

use super::balancer::{Outcome, Replica, Trying};
use super::faults::{self, Drawn};
use super::replay::Replay;
use super::retry::{self, Answered, Next, TRIES_MAX};
use super::session::{self, Session};
use super::{DIRECTION, Port, Target, affinity, backends, classify, ends_of, limits, mirror, target_of};
use crate::deadline::Deadline;
use crate::exchange::{Logged, Record, RequestBytes, count_request, observe};
use crate::h1::{Delivered, Handler, SendError};
use crate::http::respond::{self, strip_internal};
use crate::http::{Body, HeaderError, Headers, Known, Request, RequestHead, Response, filter};
use crate::inbound::judge::Marks;
use crate::metrics::{Ends, ServiceLabels};
use crate::policy::Asked;
use crate::pool::Wire;
use crate::spending::Trace;
use crate::worker::Worker;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_model::reason::Reason;
use weft_model::request::HttpFacts;
use weft_model::route::{Backend, Filter, Fraction, RetryPolicy, Route, SessionPersistence};
use weft_model::route_table::Lookup;
use weft_model::service::Protocol;

/// One connection from the application.
pub struct Outbound {
    worker: Rc<Worker>,
    client: SocketAddr,
    target: Target,
    /// The proxy's own question: no route leads it elsewhere, and it goes to proven identities alone.
    own: bool,
    /// What the last request found, valid for that version of the policy.
    found: RefCell<Option<(u64, Rc<Port>)>>,
}

/// What a request is to do, once its route is known.
struct Plan {
    /// Where it goes.
    port: Rc<Port>,
    /// The rule it goes by, if the port has routes.
    routed: Option<Routed>,
    /// Where copies of it go; none on most requests.
    mirrors: Vec<Rc<Port>>,
    /// The session that the rule has it belong to.
    session: Option<Session>,
    /// What goes wrong with it on purpose.
    fault: Option<Box<Drawn>>,
    timeout: Option<Duration>,
    try_timeout: Option<Duration>,
    /// The try under way: what a deadline cuts off is told to the balancer.
    trying: Cell<Option<Trying>>,
}

/// How far the tries have come, for who ends them from outside.
#[derive(Default)]
struct Progress {
    tries: Cell<usize>,
    replica: RefCell<Option<Rc<Replica>>>,
    trace: Cell<Option<Trace>>,
}

/// A rule of a route, and what of the request its filters need for the answer.
struct Routed {
    route: Arc<Route>,
    rule: usize,
    /// The index of the rule's backend; `None`: the Service that was called.
    backend: Option<usize>,
    /// The page's origin, where the rule says who may read answers.
    origin: Option<Box<str>>,
}

/// How a request fared.
struct Fared {
    response: Response,
    replica: Option<Rc<Replica>>,
    in_flight: Option<crate::pool::InFlight>,
    reason: Option<Reason>,
    tries: u32,
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

    /// Chooses rule, filters and backend, and edits the request as they say.
    fn plan(&self, port: Rc<Port>, head: &mut RequestHead) -> Result<Plan, Box<Response>> {
        let local = |reason| Box::new(Response::local(reason));
        if port.model.unresolved.is_some() {
            return Err(local(Reason::ResourceUnresolved));
        }
        let policy = self.worker.policy.current();
        let timeout_default = policy.config.request_timeout_default;
        if self.own {
            let timeout = timeout_default;
            return Ok(Plan::unrouted(port, timeout));
        }
        let model = port.model.clone();
        // What the routes are chosen by is what is forwarded.
        if model.routes.looks_at_path() {
            head.make_path_canonical(policy.config.path_normalization)
                .map_err(|_| local(Reason::RequestMalformed))?;
        }
        let fault;
        let chosen = {
            let facts = HttpFacts {
                method: head.method.as_str(),
                authority: head.authority(),
                path: head.path(),
                query: head.query(),
                headers: head.headers(),
                remote_address: self.client.ip(),
                token: None,
            };
            fault = faults::draw(&self.worker, &model.traffic.faults, &facts);
            match model.routes.lookup(&facts) {
                Lookup::Unrouted => {
                    let session = session::policy_of(None, &port).map(|(policy, _)| {
                        let found = Session::find(policy, None, head.headers(), &port.balancer);
                        found.unwrap_or_else(|| Session::begin(policy, None))
                    });
                    return Ok(Plan { session, fault, ..Plan::unrouted(port, timeout_default) });
                }
                Lookup::NotFound => return Err(local(Reason::RouteNotFound)),
                Lookup::Unresolved(_) => return Err(local(Reason::ResourceUnresolved)),
                Lookup::Rule(chosen) => chosen,
            }
        };
        let (rule, matched) = (chosen.rule, &chosen.matched.path);
        let origin = filter::has_cors(&rule.filters)
            .then(|| head.headers().get_str(Known::Origin).map(Box::from))
            .flatten();
        let backend_of = |service: &Option<_>| {
            let model = service.as_ref().and_then(|named| model.backends.get(named));
            model.map(|model| self.worker.destinations.of(&self.worker, model))
        };
        // Its session, as the request says before anything edits it. It stays where it is, whatever the
        // weights are now (GEP-1619).
        let sessions = rule.session.is_some() || model.backend_sessions || model.traffic.session.is_some();
        let find = |port: &Port, head: &RequestHead| {
            let (policy, matched) = session::policy_of(Some((rule, matched)), port)?;
            Session::find(policy, matched, head.headers(), &port.balancer)
        };
        let (held, mut session) = if !sessions {
            (None, None)
        } else if rule.backends.is_empty() {
            (None, find(&port, head))
        } else {
            let at = |(index, backend): (usize, &Backend)| {
                let port = backend_of(&backend.service)?;
                Some((index, find(&port, head)?))
            };
            rule.backends.iter().enumerate().find_map(at).unzip()
        };
        filter::apply_to_request(head, &rule.filters, matched)?;
        let (backend, to) = if rule.backends.is_empty() {
            // No backends: the rule changes requests on their way to the Service that was called.
            (None, port.clone())
        } else {
            let drawn = held.or_else(|| backends::draw(&rule.backends, &mut self.worker.random.borrow_mut()));
            let index = drawn.ok_or_else(|| local(Reason::BackendInvalid))?;
            let backend = &rule.backends[index];
            filter::apply_to_request(head, &backend.filters, matched)?;
            (Some(index), backend_of(&backend.service).ok_or_else(|| local(Reason::BackendInvalid))?)
        };
        if to.model.unresolved.is_some() {
            return Err(local(Reason::ResourceUnresolved));
        }
        if sessions && session.is_none() {
            let policy = session::policy_of(Some((rule, matched)), &to);
            session = policy.map(|(policy, matched)| Session::begin(policy, matched));
        }
        // Collected only where there are any: an empty Vec allocates nothing.
        let mirrors = rule.filters.iter().filter_map(|filter| match filter {
            Filter::Mirror(mirror) if self.draws(mirror.share) => {
                backend_of(&mirror.service).filter(|port| port.model.unresolved.is_none())
            }
            _ => None,
        });
        let mirrors = mirrors.collect();
        let timeout = match rule.request_timeout {
            Some(Duration::ZERO) => None,
            Some(timeout) => Some(timeout),
            None => timeout_default,
        };
        let try_timeout = rule.backend_request_timeout.filter(|timeout| !timeout.is_zero());
        let routed = Routed { route: chosen.route.clone(), rule: chosen.index, backend, origin };
        Ok(Plan { routed: Some(routed), mirrors, session, fault, try_timeout, ..Plan::unrouted(to, timeout) })
    }

    /// Whether this request is one of the share.
    fn draws(&self, share: Fraction) -> bool {
        let denominator = usize::try_from(share.denominator).unwrap_or(usize::MAX);
        let drawn = self.worker.random.borrow_mut().below(denominator);
        share.takes(u32::try_from(drawn).unwrap_or(u32::MAX))
    }

    /// Makes tries until one answers, each at another endpoint.
    async fn try_endpoints(
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
        // What the owner wants tried again must still be there then.
        let kept = policy.map(|_| {
            let body = std::mem::take(&mut request.body);
            let replay = Replay::new(body, None);
            request.body = replay.body();
            (request.head.clone(), replay)
        });
        let mut tried: Vec<Rc<Replica>> = Vec::new();
        let key = affinity::of_request(&port.model.traffic, &request.head, worker);
        let pick = |tried: &[Rc<Replica>]| {
            port.balancer.pick(tried, key, &mut worker.random.borrow_mut(), Instant::now())
        };
        let kept_with = plan.session.as_ref().and_then(Session::replica);
        let mut replica = match kept_with.or_else(|| pick(&tried)) {
            Some(replica) => replica,
            None => {
                let at_hand = if request.body.is_at_hand() { request.body.exact_length() } else { None };
                let body = at_hand.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
                let bytes = request.head.headers().size() + body;
                // Boxed: rare, and it would lie in every request's future.
                match Box::pin(limits::await_endpoint(worker, port, bytes, || pick(&[]))).await {
                    Ok(replica) => replica,
                    Err(reason) => return Fared::local(reason, None, 1),
                }
            }
        };
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
                let sent = pin!(replica.pool.send(worker, request, wire));
                match plan.try_timeout {
                    None => sent.await,
                    Some(timeout) => match tokio::time::timeout(timeout, sent).await {
                        Ok(sent) => sent,
                        Err(_) => Err(SendError {
                            reason: Reason::RequestTimeout,
                            delivered: Delivered::Maybe,
                            aborted: false,
                            request: None,
                        }),
                    },
                }
            };
            let error = match sent {
                Ok(response) => {
                    let counts = port.model.traffic.ejection.counts;
                    let mesh = replica.identity.is_some();
                    plan.tried(worker, Some(classify::of_answer(&response, mesh, grpc, counts)));
                    let next = match (policy, &kept) {
                        (Some(policy), Some((_, body))) => {
                            let left = deadline.map(|deadline| deadline.left(Instant::now()));
                            let answered = Answered { answer: &response, mesh, tries, body, left };
                            retry::after_answer(policy, &answered, &mut worker.random.borrow_mut())
                        }
                        _ => Next::Pass,
                    };
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
                    if let (Some(wait), Some((head, replay))) = (again, &kept) {
                        // Its connection goes with it, or comes back to its pool: not ours to wait for.
                        drop((response, in_flight));
                        tokio::time::sleep(wait).await;
                        tried.push(replica.clone());
                        request = Request::new(head.clone(), replay.body());
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
            plan.tried(worker, classify::of_error(&error));
            tried.push(replica.clone());
            let opted = policy.zip(kept.as_ref()).filter(|(policy, (_, replay))| {
                retry::wants_failure(policy, &error, tries) && replay.is_whole()
            });
            let back = match (error.request, opted) {
                (Some(back), _) if retry::is_safe(&method, error.delivered) && tries < TRIES_MAX => {
                    Some(*back)
                }
                (_, Some((_, (head, replay)))) => Some(Request::new(head.clone(), replay.body())),
                _ => None,
            };
            // Another endpoint, else none: what failed here would fail here again. One that took too long
            // or broke off may do better, if its owner says so.
            let next = pick(&tried).or_else(|| opted.and_then(|_| pick(&[])));
            let (Some(back), Some(next)) = (back, next) else {
                if tries > 1 {
                    spent();
                }
                return Fared::local(error.reason, Some(replica), tries);
            };
            // Drawn before the wait: others draw during it.
            let wait = opted.map_or(Duration::ZERO, |(policy, _)| {
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
            if !port.budget.withdraw(now, &port.allowance) {
                spent();
                worker.metrics.retried(error.reason, "budget");
                return Fared::local(Reason::RetryBudgetExhausted, Some(replica), tries);
            }
            worker.metrics.retried(error.reason, "made");
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            request = back;
            replica = next;
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
        }
    }

    /// The ends of a request that reached no endpoint.
    fn ends_nowhere(&self, service: Arc<ServiceLabels>) -> Rc<Ends> {
        Rc::new(ends_of(&self.worker, service))
    }

    /// Has the request copied once its body has passed; the body to send instead.
    fn mirrored(&self, plan: &Plan, head: &RequestHead, body: Body, wire: Wire) -> Body {
        let (worker, ports, head) = (self.worker.clone(), plan.mirrors.clone(), head.clone());
        Replay::new(body, Some(Box::new(move |body| mirror::send(&worker, ports, head, body, wire)))).body()
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
        let (mut body, request_bytes) = count_request(body);
        if !plan.mirrors.is_empty() && !upgrade {
            body = self.mirrored(&plan, &head, body, wire);
        }
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

impl Plan {
    /// To the Service that was called.
    fn unrouted(port: Rc<Port>, timeout: Option<Duration>) -> Self {
        Self {
            port,
            routed: None,
            mirrors: Vec::new(),
            session: None,
            fault: None,
            timeout,
            try_timeout: None,
            trying: Cell::default(),
        }
    }

    /// Tells what the try under way says of its endpoint.
    fn tried(&self, worker: &Worker, outcome: Option<Outcome>) {
        if let (Some(trying), Some(outcome)) = (self.trying.take(), outcome) {
            self.port.report(worker, trying, outcome);
        }
    }

    fn session_policy(&self) -> Option<&SessionPersistence> {
        let of_rule =
            self.routed.as_ref().and_then(|routed| routed.route.rules[routed.rule].session.as_ref());
        of_rule.or(self.port.model.traffic.session.as_ref())
    }

    /// What the rule's owner wants tried again.
    fn retry(&self) -> Option<&RetryPolicy> {
        self.routed.as_ref().and_then(|routed| routed.route.rules[routed.rule].retry.as_ref())
    }
}

impl Routed {
    fn apply_to_response(&self, headers: &mut Headers) {
        let rule = &self.route.rules[self.rule];
        filter::apply_to_response(headers, &rule.filters, self.origin.as_deref());
        if let Some(backend) = self.backend {
            filter::apply_to_response(headers, &rule.backends[backend].filters, None);
        }
    }
}

impl Fared {
    fn local(reason: Reason, replica: Option<Rc<Replica>>, tries: usize) -> Self {
        Self {
            response: Response::local(reason),
            replica,
            in_flight: None,
            reason: Some(reason),
            tries: count(tries),
        }
    }
}

impl Progress {
    /// How a request fared whose deadline passed.
    fn timed_out(&self, worker: &Worker) -> Fared {
        if self.tries.get() > 1 {
            worker.shared.spending.spent(self.trace.get(), Instant::now());
        }
        Fared::local(Reason::RequestTimeout, self.replica.take(), self.tries.get().max(1))
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
