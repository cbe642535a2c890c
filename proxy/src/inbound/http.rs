//! THE inbound stack: what happens to a request on its way in, in order.
//!
//! | step | why here |
//! |---|---|
//! | admission | what the connection is not for is refused before anything of it is looked at |
//! | internal fields removed, identity header set | no rule and no application sees a client's claim |
//! | canonical path, where a path rule applies | before it is judged; what is judged is forwarded |
//! | authorization | the newest policy, on each request |
//! | hop-by-hop fields removed | after the rules saw the request whole |
//! | application | at its own address, by the protocol it speaks |
//! | answer: internal fields removed | an application cannot speak as the mesh |
//! | record | last, so that it sees the answer that the client sees |

use super::{Application, DIRECTION, is_own};
use crate::exchange::{Logged, Record, RequestBytes, count_request, observe};
use crate::h1::{Delivered, Handler};
use crate::http::respond::{self, strip_internal};
use crate::http::{Body, Known, Request, RequestHead, Response};
use crate::metrics::{Ends, ServiceLabels};
use crate::policy::Policy;
use crate::pool::{Pool, Wire};
use crate::tls::Peer;
use crate::worker::Worker;
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use weft_model::authorization::{Authorization, Decider, Facts, Verdict};
use weft_model::path;
use weft_model::reason::Reason;
use weft_model::request::{ConnectionFacts, HttpFacts};
use weft_model::service::Protocol;
use weft_model::sni::MeshServerName;
use weft_model::workload::Description;

/// Whether a connection's requests are looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// They are.
    Admitted,
    /// Each is refused for this reason.
    Refused(Reason),
}

/// One connection to the workload.
pub struct Inbound {
    worker: Rc<Worker>,
    application: Rc<Application>,
    client: SocketAddr,
    /// As the mesh advertises it.
    local: SocketAddr,
    peer: Option<Arc<Peer>>,
    server_name: Option<MeshServerName>,
    sni: Option<String>,
    admission: Admission,
    /// `x-forwarded-client-cert` for this client.
    client_certificate: Option<String>,
    /// What requests are counted under, for that version of the policy.
    ends: RefCell<Option<(u64, Rc<Ends>)>>,
}

/// Whether an opaque connection may pass.
pub(super) enum Judged {
    /// It may.
    Admitted,
    /// It may not.
    Denied {
        /// Why.
        reason: Reason,
        /// More of the why, for the log.
        detail: String,
    },
}

/// Why a request is not let through.
struct Denied {
    reason: Reason,
    detail: Option<String>,
    undelivered: bool,
}

impl Inbound {
    /// A connection's handler.
    pub fn new(
        worker: Rc<Worker>,
        application: Rc<Application>,
        client: SocketAddr,
        local: SocketAddr,
        peer: Option<Arc<Peer>>,
        server_name: Option<MeshServerName>,
        admission: Admission,
    ) -> Self {
        let client_certificate = peer.as_ref().map(|peer| {
            let own = worker.policy.current().own.workload.as_ref().map(|own| own.identity());
            match own {
                Some(own) => format!("By={own};URI={}", peer.identity),
                None => format!("URI={}", peer.identity),
            }
        });
        let sni = server_name.as_ref().map(ToString::to_string);
        let ends = RefCell::default();
        Self {
            worker,
            application,
            client,
            local,
            peer,
            server_name,
            sni,
            admission,
            client_certificate,
            ends,
        }
    }

    /// What requests are counted under.
    pub(super) fn ends(&self) -> Rc<Ends> {
        let version = self.worker.policy.version();
        if let Some((held, ends)) = &*self.ends.borrow()
            && *held == version
        {
            return ends.clone();
        }
        let own = self.worker.policy.current().own.clone();
        let source =
            self.peer.as_ref().map_or_else(Arc::<Description>::default, |peer| peer.description.clone());
        let ends = Rc::new(Ends {
            direction: DIRECTION,
            source,
            source_identity: self.peer.as_ref().map(|peer| Arc::new(peer.identity.clone())),
            destination: own.description.clone(),
            destination_identity: own.workload.as_ref().map(|workload| Arc::new(workload.identity())),
            service: Arc::new(self.service_labels()),
            mutual_tls: self.peer.is_some(),
            cells: RefCell::default(),
        });
        *self.ends.borrow_mut() = Some((version, ends.clone()));
        ends
    }

    // Only a name that was checked to be this workload's becomes a label.
    fn service_labels(&self) -> ServiceLabels {
        let policy = self.worker.policy.current();
        let Some(own) = &policy.own.workload else { return ServiceLabels::default() };
        let named = match &self.server_name {
            Some(MeshServerName::Service { service, .. }) if self.admission == Admission::Admitted => {
                Some(service)
            }
            _ => {
                own.port(self.local.port()).and_then(|port| port.services.first()).map(|(service, _)| service)
            }
        };
        named.map_or_else(ServiceLabels::default, |service| ServiceLabels {
            host: format!("{}.{}.svc.cluster.local", service.name, service.namespace).into(),
            name: service.name.as_str().into(),
            namespace: service.namespace.as_str().into(),
        })
    }

    /// What holds whatever is asked for: that the connection is for this workload, and that this proxy
    /// knows enough to judge.
    fn admit(&self, policy: &Policy) -> Result<(), Denied> {
        if let Admission::Refused(reason) = self.admission {
            // Plaintext is refused for good; the others were meant for somebody else.
            return Err(Denied { reason, detail: None, undelivered: reason != Reason::TlsRequired });
        }
        let Some(own) = &policy.own.workload else {
            return Err(Denied { reason: Reason::ConfigurationMissing, detail: None, undelivered: true });
        };
        if let Some(name) = &self.server_name
            && !is_own(name, own, self.local.port())
        {
            // The mesh changed since the connection was made.
            return Err(Denied { reason: Reason::WorkloadMismatch, detail: None, undelivered: true });
        }
        if policy.too_old {
            return Err(Denied { reason: Reason::PolicyTooOld, detail: None, undelivered: false });
        }
        if let Some(name) = own.request_authentications.first() {
            let detail = Some(format!("{name} is not understood"));
            return Err(Denied { reason: Reason::AuthorizationUnresolved, detail, undelivered: false });
        }
        Ok(())
    }

    /// Admission, canonical path, authorization.
    fn judge(&self, head: &mut RequestHead, policy: &Policy) -> Result<(), Denied> {
        self.admit(policy)?;
        if policy.own.authorization.needs_canonical_path() {
            make_canonical(head)?;
        }
        let http = HttpFacts {
            method: head.method.as_str(),
            authority: head.authority(),
            path: head.path(),
            query: head.query(),
            headers: head.headers(),
            remote_address: remote_address(head, self.client.ip(), policy.config.trusted_proxies),
        };
        self.authorize(policy, Some(http))
    }

    /// Judges an opaque connection.
    pub(super) fn judge_connection(&self) -> Judged {
        let policy = self.worker.policy.current();
        match self.admit(&policy).and_then(|()| self.authorize(&policy, None)) {
            Ok(()) => Judged::Admitted,
            Err(denied) => {
                Judged::Denied { reason: denied.reason, detail: denied.detail.unwrap_or_default() }
            }
        }
    }

    fn authorize(&self, policy: &Policy, http: Option<HttpFacts<'_>>) -> Result<(), Denied> {
        let connection = ConnectionFacts {
            source: self.peer.as_ref().map(|peer| &peer.identity),
            source_address: self.client.ip(),
            destination: self.local,
            sni: self.sni.as_deref(),
        };
        let metrics = &self.worker.metrics;
        match policy.own.authorization.decide(&Facts { connection, http }) {
            Verdict::Allowed(None) => Ok(()),
            Verdict::Allowed(Some(decider)) => {
                metrics.decided(policy.version, "allow", address(decider.policy), decider.rule, || {
                    name(decider.policy)
                });
                Ok(())
            }
            Verdict::Denied(decider) => {
                metrics.decided(policy.version, "deny", address(decider.policy), decider.rule, || {
                    name(decider.policy)
                });
                let detail = Some(describe(&decider));
                Err(Denied { reason: Reason::AuthorizationDenied, detail, undelivered: false })
            }
            Verdict::NotAllowed => {
                metrics.decided(policy.version, "deny", 0, 0, || "none matches".to_owned());
                let detail = Some("no ALLOW policy matches".to_owned());
                Err(Denied { reason: Reason::AuthorizationDenied, detail, undelivered: false })
            }
            Verdict::Unresolved(missing) => {
                metrics.decided(policy.version, "deny", 0, 1, || "unresolved".to_owned());
                let detail = Some(format!("{missing} is not held"));
                Err(Denied { reason: Reason::AuthorizationUnresolved, detail, undelivered: false })
            }
        }
    }

    pub(super) fn client(&self) -> SocketAddr {
        self.client
    }

    pub(super) fn source(&self) -> &str {
        self.peer.as_ref().map_or("", |peer| peer.identity.as_str())
    }

    pub(super) fn application(&self) -> &Rc<Pool> {
        self.application.pool()
    }

    fn record(&self, logged: Option<Logged>, started: Instant, grpc: bool) -> Record {
        Record {
            worker: self.worker.clone(),
            started,
            ends: self.ends(),
            client: self.client,
            endpoint: None,
            tries: 1,
            grpc,
            reason: None,
            detail: None,
            logged,
            request_bytes: RequestBytes::Exact(0),
            in_flight: None,
        }
    }

    /// An answer of our own, counted and written down.
    fn answer(&self, denied: Denied, mut record: Record) -> Response {
        let Denied { reason, detail, undelivered } = denied;
        self.worker.metrics.answered(DIRECTION, reason);
        record.reason = Some(reason);
        record.detail = detail;
        let mut response = Response::local(reason);
        // Only a peer of the mesh knows the mark; others would see an internal field.
        if undelivered && self.peer.is_some() {
            response = respond::undelivered(response);
        }
        observe(respond::for_client(response, reason, record.grpc), record)
    }

    fn wire(&self, head: &RequestHead, policy: &Policy, upgrade: bool) -> Wire {
        let declared = policy.own.workload.as_ref().and_then(|own| own.port(self.local.port()));
        match declared.map(|port| port.protocol).unwrap_or_default() {
            _ if upgrade => Wire::Http1,
            Protocol::Http2 | Protocol::Grpc => Wire::Http2,
            // gRPC exists only over HTTP/2.
            _ if head.is_grpc() => Wire::Http2,
            _ => Wire::Http1,
        }
    }
}

impl Handler for Inbound {
    async fn call(&self, request: Request) -> Response {
        let started = Instant::now();
        let Request { mut head, body } = request;
        let grpc = head.is_grpc();
        let logged = Some(Logged::new(&head));
        let upgrade = head.upgrade().is_some();
        let policy = self.worker.policy.current();
        let headers = head.headers_mut();
        strip_internal(headers);
        headers.remove(Known::XForwardedClientCert);
        if let Err(denied) = self.judge(&mut head, &policy) {
            return self.answer(denied, self.record(logged, started, grpc));
        }
        let headers = head.headers_mut();
        headers.remove_hop_by_hop(upgrade);
        if let Some(certificate) = &self.client_certificate
            && headers.append_known(Known::XForwardedClientCert, certificate.as_bytes()).is_err()
        {
            let denied = Denied { reason: Reason::HeaderTooLarge, detail: None, undelivered: false };
            return self.answer(denied, self.record(logged, started, grpc));
        }
        let wire = self.wire(&head, &policy, upgrade);
        drop(policy);
        let (body, request_bytes) = count_request(body);
        let in_flight = self.application.pool().begin();
        let sent = self.application.pool().send(&self.worker, Request::new(head, body), wire).await;
        let mut record = self.record(logged, started, grpc);
        record.request_bytes = request_bytes;
        record.endpoint = Some(self.application.pool().address());
        record.in_flight = Some(in_flight);
        match sent {
            Ok(mut response) => {
                let headers = response.head.headers_mut();
                strip_internal(headers);
                if !matches!(response.body, Body::Tunnel(_)) {
                    headers.remove_hop_by_hop(false);
                }
                observe(response, record)
            }
            Err(error) => {
                let reason = match error.reason {
                    Reason::ConnectFailed | Reason::ConnectTimeout => Reason::ApplicationUnreachable,
                    other => other,
                };
                let undelivered = error.delivered == Delivered::No;
                self.answer(Denied { reason, detail: None, undelivered }, record)
            }
        }
    }

    fn refuse(&self, reason: Reason, head: Option<&RequestHead>) -> Response {
        let record = self.record(head.map(Logged::new), Instant::now(), false);
        self.answer(Denied { reason, detail: None, undelivered: false }, record)
    }
}

/// Makes the path canonical, and puts the canonical bytes into the request: what is judged is what
/// is forwarded.
fn make_canonical(head: &mut RequestHead) -> Result<(), Denied> {
    let malformed = |detail: String| Denied {
        reason: Reason::RequestMalformed,
        detail: Some(detail),
        undelivered: false,
    };
    if head.path() == "*" {
        return Ok(());
    }
    let target = match path::canonical(head.path()) {
        Err(error) => return Err(malformed(error.to_string())),
        Ok(canonical) if canonical == head.path() => return Ok(()),
        Ok(canonical) => match head.query() {
            Some(query) => format!("{canonical}?{query}"),
            None => canonical.into_owned(),
        },
    };
    head.set_path_and_query(&target).map_err(|error| malformed(error.to_string()))
}

/// The original client: with N trusted proxies in front, the N-th address of `x-forwarded-for`
/// counted from the right; what is not there or no address is nobody's claim.
fn remote_address(head: &RequestHead, client: IpAddr, trusted: u32) -> IpAddr {
    if trusted == 0 {
        return client;
    }
    let forwarded: Vec<&[u8]> = head
        .headers()
        .get_all(Known::XForwardedFor)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .collect();
    forwarded
        .len()
        .checked_sub(trusted as usize)
        .and_then(|index| forwarded.get(index))
        .and_then(|text| std::str::from_utf8(text).ok())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(client)
}

fn address(policy: &Authorization) -> usize {
    std::ptr::from_ref(policy).addr()
}

fn name(policy: &Authorization) -> String {
    format!("{}/{}", policy.namespace, policy.name)
}

fn describe(decider: &Decider<'_>) -> String {
    let Decider { policy, rule } = decider;
    let place = policy.rules.get(*rule).map(|rule| &rule.provenance).filter(|place| place.line > 0);
    let place = place.unwrap_or(&policy.provenance);
    format!("{}/{} rule {rule} ({}:{})", policy.namespace, policy.name, place.file, place.line)
}
