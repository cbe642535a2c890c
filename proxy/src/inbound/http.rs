//! THE inbound stack: what happens to a request on its way in, in order.
//!
//! | step | why here |
//! |---|---|
//! | which try it is, and its deadline: the proxy's word before, else the client's | before the fields that say so are removed |
//! | internal fields, `x-forwarded-client-cert`, hop-by-hop fields and what `Connection` names removed | no rule and no application sees a client's claim; what is judged is what is forwarded, and what is written below cannot be named away |
//! | the kubelet's probes | from a node, exactly as declared: nothing below is asked |
//! | admission | what the connection is not for is refused before anything of it is looked at |
//! | canonical path, where a path rule applies | before it is judged; what is judged is forwarded |
//! | token, where a RequestAuthentication binds | its fields and claims are what rules look at; the token itself goes no further |
//! | external authorizer, where a CUSTOM policy matches | before DENY and ALLOW, as in Istio: they see what it made of the request |
//! | authorization | the newest policy, on each request |
//! | rates, then a place at the application | after authorization, so that what is denied uses up nothing; before a byte of the body is read |
//! | identity header set, trailers held to what a client may say | after the rules saw the request whole |
//! | application | at its own address, by the protocol it speaks; it is shown what is left |
//! | judged again at each change of the policy until the answer has ended | an answer is not for who may no longer ask |
//! | answer: internal fields removed, `retry: spent` where that is so | an application cannot speak as the mesh |
//! | record | last, so that it sees the answer that the client sees |

use super::DIRECTION;
use super::authorizer::{self, About, Agreed, Answer, Edit, Edits, shown};
use super::connection::Connection;
use super::judge::{Denied, Marks, Next, Question};
use super::probe;
use super::revoke::{self, Live};
use super::token;
use super::trailers;
use crate::deadline::Deadline;
use crate::exchange::{Logged, Record, RequestBytes, count_request, observe};
use crate::h1::{Delivered, Handler};
use crate::http::respond::{self, strip_internal};
use crate::http::{Body, Known, Request, RequestHead, Response};
use crate::overload::limiter::{Places, Refused};
use crate::overload::{self, Admission, Limited};
use crate::policy::Policy;
use crate::pool::Wire;
use crate::spending::Trace;
use crate::timer::Timer;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use weft_model::reason::Reason;
use weft_model::request_authentication::Accepted;
use weft_model::service::Protocol;

/// The requests of one connection.
pub struct Inbound {
    connection: Rc<Connection>,
    /// `x-forwarded-client-cert` for this client.
    client_certificate: Option<String>,
}

/// What a request says of itself, beside what it asks for.
#[derive(Clone, Copy)]
struct Came {
    started: Instant,
    grpc: bool,
    /// Which of its caller's tries it is.
    attempt: u32,
    /// When it must be answered.
    deadline: Option<Deadline>,
    trace: Option<Trace>,
}

/// Why a request does not pass that an external authorizer was asked about.
enum Refusal {
    /// The mesh says why.
    Denied(Denied),
    /// This is answered, for that reason and with more of the why.
    Answer(Box<Response>, Reason, String),
}

impl Inbound {
    /// A connection's handler.
    pub fn new(connection: Rc<Connection>) -> Self {
        let own = connection.worker().policy.current().own.workload.as_ref().map(|own| own.identity());
        let client_certificate = connection.peer().map(|peer| match own {
            Some(own) => format!("By={own};{}", peer.presented),
            None => peer.presented.to_string(),
        });
        Self { connection, client_certificate }
    }

    fn record(&self, logged: Logged, marks: Marks, came: Came) -> Record {
        Record {
            worker: self.connection.worker().clone(),
            started: came.started,
            ends: self.connection.ends(),
            client: self.connection.client(),
            endpoint: None,
            tries: came.attempt,
            grpc: came.grpc,
            reason: None,
            detail: None,
            logged: Some(logged),
            marks,
            request_bytes: RequestBytes::Exact(0),
            probe: None,
            in_flight: None,
            live: None,
            deadline: came.deadline,
            places: Places::default(),
            verdict: None,
        }
    }

    /// An answer of our own, counted and written down.
    fn answer(&self, denied: Denied, mut record: Record) -> Response {
        let Denied { reason, detail, undelivered } = denied;
        self.connection.worker().metrics.answered(DIRECTION, reason);
        record.reason = Some(reason);
        record.detail = detail;
        let mut response = Response::local(reason);
        // Only a peer of the mesh knows the mark; others would see an internal field.
        if undelivered && self.connection.peer().is_some() {
            response = respond::undelivered(response);
        }
        observe(respond::for_client(response, reason, record.grpc), record)
    }

    /// Counts a request against the rates and takes its places at the application. Where a rate is reached, when to
    /// come again.
    async fn enter(
        &self,
        head: &RequestHead,
        policy: &Policy,
        came: Came,
    ) -> Result<Places, (Denied, Option<Duration>)> {
        let admission = self.connection.admission(policy).map_err(|denied| (denied, None))?;
        if admission.is_free() {
            return Ok(Places::default());
        }
        let level = policy.config.path_normalization;
        admission.charge(head.method.as_str(), head.path(), level).map_err(|Limited { name, after }| {
            (Denied::new(Reason::RateLimited, Some(format!("rate limit {name}")), false), Some(after))
        })?;
        match admission.places_at_once() {
            Some(places) => Ok(places),
            // Boxed: most requests wait for nothing.
            None => Box::pin(self.queue(&admission, came)).await.map_err(|denied| (denied, None)),
        }
    }

    /// Has a request wait for its turn at the application.
    async fn queue(&self, admission: &Admission, came: Came) -> Result<Places, Denied> {
        let waiting = self.connection.worker().connections.waiting();
        let deadline = came.deadline.map(Deadline::at);
        let outcome = admission.places(came.attempt > 1, deadline).await;
        drop(waiting);
        outcome.map_err(|refused| {
            let reason = match refused {
                Refused::Full => Reason::ConcurrencyLimited,
                Refused::Waited => Reason::QueueTimeout,
                Refused::Late => Reason::RequestTimeout,
            };
            Denied::new(reason, None, false)
        })
    }

    /// Says to the proxy of a caller whether retries were spent on what fails here.
    fn mark_spent(&self, mut response: Response, came: Came) -> Response {
        if self.connection.peer().is_some()
            && respond::is_failing(&response)
            && self.connection.worker().shared.spending.is_spent(came.trace, Instant::now())
        {
            respond::spent(response.head.headers_mut());
        }
        response
    }

    fn wire(&self, head: &RequestHead, policy: &Policy, upgrade: bool) -> Wire {
        match self.connection.protocol(policy) {
            _ if upgrade => Wire::Http1,
            Protocol::Http2 | Protocol::Grpc => Wire::Http2,
            // gRPC exists only over HTTP/2.
            _ if head.is_grpc() => Wire::Http2,
            _ => Wire::Http1,
        }
    }

    /// Asks an external authorizer; then DENY and ALLOW judge what it made of the request.
    async fn ask(
        &self,
        head: &mut RequestHead,
        body: &mut Body,
        question: &Question,
        token: Option<&Accepted>,
        policy: &Policy,
        marks: &mut Marks,
    ) -> Result<Edits, Refusal> {
        let denied = |reason, detail: String| Refusal::Denied(Denied::new(reason, Some(detail), false));
        let providers = &policy.config.extension_providers;
        let Some(provider) = providers.iter().find(|held| held.name == question.provider) else {
            let detail =
                format!("{} names the provider {}, which is not known", question.by, question.provider);
            return Err(denied(Reason::AuthorizationUnresolved, detail));
        };
        if !authorizer::is_showable(head) {
            let detail = "a field that is not UTF-8 cannot be shown to an external authorizer".to_owned();
            return Err(denied(Reason::RequestMalformed, detail));
        }
        let length = body.exact_length();
        let shown = match provider.body {
            Some(how) => shown::read(&self.connection, body, how).await.map_err(Refusal::Denied)?,
            None => None,
        };
        let about = About { head, length, body: shown };
        let edits = match authorizer::ask(&self.connection, provider, Some(about)).await {
            Answer::Agreed(edits) => edits,
            Answer::Denied(response) => {
                let reason = Reason::ExternalAuthorizerDenied;
                return Err(Refusal::Answer(response, reason, question.by.clone()));
            }
            Answer::Failed(why) if provider.fail_open => {
                tracing::warn!(
                    provider = &*provider.name,
                    why,
                    "a request passes that its authorizer did not judge"
                );
                Edits::default()
            }
            Answer::Failed(why) | Answer::Unfit(why) => {
                let response = Box::new(authorizer::failure(provider, head.is_grpc()));
                let detail = format!("{}: {why}", question.by);
                return Err(Refusal::Answer(response, Reason::ExternalAuthorizerFailed, detail));
            }
        };
        let applied = edits.apply(head.headers_mut());
        applied.map_err(|error| denied(Reason::ExternalAuthorizerFailed, error.to_string()))?;
        let judged = self.connection.judge_agreed(head, policy, token, &question.provider, marks);
        judged.map_err(Refusal::Denied)?;
        Ok(edits)
    }

    /// Whether what answers so goes on after its head, and must end if the policy says so.
    fn outlives_its_judgement(response: &Response) -> bool {
        !matches!(response.body, Body::Empty | Body::Full(_))
    }
}

impl Came {
    /// Read before the fields that say so are removed. `mesh`: from a proxy, whose word counts.
    fn new(head: &RequestHead, mesh: bool, started: Instant) -> Self {
        let grpc = head.is_grpc();
        let headers = head.headers();
        let (attempt, deadline) = if mesh {
            let attempt = headers.get_str(Known::XWeftAttempt).and_then(|text| text.parse::<u8>().ok());
            (attempt.map_or(1, |attempt| u32::from(attempt.max(1))), Deadline::marked(headers, started))
        } else {
            (1, None)
        };
        let deadline = deadline.or_else(|| Deadline::claimed(headers, grpc, started));
        Self { started, grpc, attempt, deadline, trace: Trace::of(headers) }
    }

    /// Something that never became a request.
    const fn nothing(started: Instant) -> Self {
        Self { started, grpc: false, attempt: 1, deadline: None, trace: None }
    }
}

/// What the log says of a request: not what may be a token, whether it was looked at or not.
fn logged(head: &RequestHead, policy: &Policy) -> Logged {
    if !token::may_be_in_query(head, &policy.own.tokens) {
        return Logged::new(head);
    }
    let mut shown = head.clone();
    token::hide(&mut shown, &policy.own.tokens);
    Logged::new(&shown)
}

impl Handler for Inbound {
    async fn call(&self, mut request: Request) -> Response {
        let came = Came::new(&request.head, self.connection.peer().is_some(), Instant::now());
        let Came { started, grpc, .. } = came;
        let upgrade = request.head.upgrade().is_some();
        let worker = self.connection.worker();
        let mut policy = worker.policy.current();
        strip_internal(request.head.headers_mut());
        // What is of this hop alone, or named so by the client, does not reach the application: no rule, authorizer
        // or token rests on it, and nothing that is written from here on can be named away.
        request.head.headers_mut().remove_hop_by_hop(upgrade);
        let mut pass = None;
        if self.connection.is_from_node(&policy) {
            // Boxed: probes are rare, and would lie in every request's future.
            (pass, policy) = Box::pin(probe::recognise(&self.connection, &mut request)).await;
        }
        let Request { mut head, mut body } = request;
        // As it came, to be judged again when the policy changes before it has been answered.
        let mut judged = revoke::Request { head: head.clone(), at: token::now(), agreed: None };
        let mut marks = Marks::default();
        let next = match &pass {
            Some(_) => Ok((Next::Pass, None)),
            None => self.connection.judge_request(&mut head, &policy, judged.at, &mut marks),
        };
        let mut answer_fields: Vec<Edit> = Vec::new();
        let next = match next {
            Ok((Next::Pass, _)) => Ok(()),
            Ok((Next::Ask(question), accepted)) => {
                // Boxed: most requests ask nobody.
                let (token, held) = (accepted.as_deref(), policy.version);
                let asking = Box::pin(self.ask(&mut head, &mut body, &question, token, &policy, &mut marks));
                let outcome = match came.deadline {
                    None => asking.await,
                    Some(deadline) => match tokio::time::timeout_at(deadline.at().into(), asking).await {
                        Ok(outcome) => outcome,
                        Err(_) => Err(Refusal::Denied(Denied::new(Reason::RequestTimeout, None, false))),
                    },
                };
                policy = worker.policy.current();
                match outcome {
                    Ok(edits) => {
                        answer_fields.clone_from(&edits.response);
                        judged.agreed = Some(Agreed { provider: question.provider, edits });
                        // It took its time: what holds now is what counts.
                        if policy.version == held {
                            Ok(())
                        } else {
                            let anew = judged.judge(&self.connection, &policy);
                            anew.map(|anew| head = anew.into_head())
                        }
                    }
                    Err(Refusal::Denied(denied)) => Err(denied),
                    Err(Refusal::Answer(response, reason, detail)) => {
                        worker.metrics.answered(DIRECTION, reason);
                        let mut record = self.record(logged(&head, &policy), marks, came);
                        record.reason = Some(reason);
                        record.detail = Some(detail);
                        return observe(respond::for_client(*response, reason, grpc), record);
                    }
                }
            }
            Err(denied) => Err(denied),
        };
        if let Err(denied) = next {
            let challenge = token::challenge(&head, denied.reason).filter(|_| !grpc);
            let mut response = self.answer(denied, self.record(logged(&head, &policy), marks, came));
            if let Some(challenge) = challenge {
                // Of letters that the target's grammar allows.
                let _ = response.head.headers_mut().append("www-authenticate", challenge.as_bytes());
            }
            return response;
        }
        // Only what is let in counts: others could have callers that are let in do without their retries.
        worker.shared.spending.arrived(came.trace, came.attempt, started);
        let places = if pass.is_some() {
            Places::default()
        } else {
            let held = policy.version;
            let outcome = self.enter(&head, &policy, came).await;
            policy = worker.policy.current();
            let outcome = match outcome {
                // It took its time: what holds now is what counts.
                Ok(places) if policy.version != held => match judged.judge(&self.connection, &policy) {
                    Ok(anew) => {
                        head = anew.into_head();
                        Ok(places)
                    }
                    Err(denied) => Err((denied, None)),
                },
                outcome => outcome,
            };
            match outcome {
                Ok(places) => places,
                Err((denied, after)) => {
                    let record = self.record(logged(&head, &policy), marks, came);
                    let mut response = self.answer(denied, record);
                    if let Some(after) = after {
                        respond::come_again(response.head.headers_mut(), grpc, after);
                    }
                    return response;
                }
            }
        };
        let logged = logged(&head, &policy);
        let headers = head.headers_mut();
        if let Some(certificate) = &self.client_certificate
            && headers.append_known(Known::XForwardedClientCert, certificate.as_bytes()).is_err()
        {
            let denied = Denied { reason: Reason::HeaderTooLarge, detail: None, undelivered: false };
            return self.answer(denied, self.record(logged, marks, came));
        }
        if let Some(deadline) = came.deadline {
            let now = Instant::now();
            let refused = if deadline.left(now).is_zero() {
                // Nobody waits for it: the application need not see it.
                Some(Reason::RequestTimeout)
            } else {
                deadline.show(head.headers_mut(), grpc, now).err().map(|_| Reason::HeaderTooLarge)
            };
            if let Some(reason) = refused {
                return self.answer(Denied::new(reason, None, false), self.record(logged, marks, came));
            }
        }
        let wire = self.wire(&head, &policy, upgrade);
        let version = policy.version;
        let edits = judged.agreed.as_ref().map(|agreed| &agreed.edits);
        let body = trailers::guard(body, &policy.own.tokens, edits);
        drop(policy);
        let (body, request_bytes) = count_request(body);
        let application = self.connection.application();
        // From here on a change of the policy finds it, whether or not the application has answered.
        let (connection, in_flight) = (self.connection.clone(), Some(application.begin()));
        let live = match &pass {
            Some(pass) => Live::of_probe(connection, Some(judged), pass.clone(), in_flight),
            None => Live::new(connection, Some(judged), in_flight),
        };
        let mut request = Request::new(head, body);
        let mut sending = pin!(application.send(worker, &mut request, wire));
        let mut timer = Timer::default();
        if let Some(deadline) = came.deadline {
            timer.set_at(deadline.at());
        }
        let sent = poll_fn(|cx| {
            if let Poll::Ready(sent) = live.poll_waiting(sending.as_mut(), cx) {
                return Poll::Ready(sent);
            }
            timer.poll(cx).map(|()| Err(Denied::new(Reason::RequestTimeout, None, false)))
        })
        .await;
        let mut record = self.record(logged, marks, came);
        record.request_bytes = request_bytes;
        // Nor does a request that was not answered say what the application bears.
        if let Ok(Ok(response)) = &sent {
            let head = &response.head;
            if overload::tells_pace(head.status.as_u16(), head.headers().get(Known::GrpcStatus)) {
                places.answered();
            }
        }
        record.places = places;
        record.probe = pass.as_ref().map(|pass| pass.label());
        record.endpoint = Some(application.address());
        let mut response = match sent {
            Ok(Ok(response)) => response,
            // The policy has changed meanwhile, or the deadline has passed.
            Err(denied) => {
                let response = self.answer(Denied { undelivered: false, ..denied }, record);
                return self.mark_spent(response, came);
            }
            Ok(Err(error)) => {
                let reason = match error.reason {
                    Reason::ConnectFailed | Reason::ConnectTimeout => Reason::ApplicationUnreachable,
                    other => other,
                };
                let undelivered = error.delivered == Delivered::No;
                let response = self.answer(Denied { reason, detail: None, undelivered }, record);
                return if undelivered { response } else { self.mark_spent(response, came) };
            }
        };
        if worker.policy.version() != version
            && let Err(denied) = live.judged_by(&worker.policy.current())
        {
            return self.answer(Denied { undelivered: false, ..denied }, record);
        }
        if let (Some(pass), Some(judged)) = (&pass, live.head()) {
            probe::follow(&self.connection, pass, judged, &response.head);
        }
        let headers = response.head.headers_mut();
        strip_internal(headers);
        for edit in &answer_fields {
            // Judged when the authorizer named it; a block that is full takes no more.
            let _ = edit.apply(headers);
        }
        if Self::outlives_its_judgement(&response) {
            if let Body::Tunnel(tunnel) = &mut response.body {
                tunnel.revocable = Some(live);
            } else {
                response.head.headers_mut().remove_hop_by_hop(false);
                record.live = Some(live);
            }
        } else {
            // Told at once, and with it what `live` holds is released.
            response.head.headers_mut().remove_hop_by_hop(false);
        }
        self.mark_spent(observe(response, record), came)
    }

    fn refuse(&self, reason: Reason, head: Option<&RequestHead>) -> Response {
        let policy = self.connection.worker().policy.current();
        let logged = head.map(|head| logged(head, &policy)).unwrap_or_default();
        let record = self.record(logged, Marks::default(), Came::nothing(Instant::now()));
        self.answer(Denied { reason, detail: None, undelivered: false }, record)
    }
}
