//! The kubelet's probes: what a node may ask of the application without a certificate.
//!
//! A plaintext request from a node that is exactly a declared probe gets a [`Pass`], which stands in for
//! the port's TLS mode and for every policy, for that one request. What else comes on the connection, and
//! what is only nearly a probe, is judged as anybody's plaintext. A probe that was answered with a redirect
//! may follow it, once. HTTPS probes are in [`probe_https`](super::probe_https). TCP probes never come here: the
//! redirection rules let them by.

use super::connection::Connection;
use super::judge::Denied;
use super::resumed::Resumed;
use crate::http::{Body, Known, Request, RequestHead, ResponseHead, Version};
use crate::policy::{Current, Policy};
use bytes::Bytes;
use http::Method;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use weft_model::path::Normalization;
use weft_model::probe::{Check, GRPC_PATH, Get, GrpcCheck, Probe};
use weft_model::reason::Reason;
use weft_model::workload::Workload;

/// How far paths are made one here: what was declared, and what the application itself names, keeps its meaning.
const PATHS: Normalization = Normalization::MergeSlashes;

/// How long the message of a gRPC probe is waited for. The kubelet sends it with the head.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a redirect may be followed. The kubelet follows at once, within the probe's own timeout.
const REDIRECT_AGE_MAX: Duration = Duration::from_secs(10);

/// Redirects that one probe follows: as many as the kubelet does.
const REDIRECTS_MAX: u8 = 10;

/// Redirects that wait to be followed. A workload has few probes, and few nodes probe it: one.
const WAITING_MAX: usize = 64;

/// What a process keeps of its probes. Locked by probes alone, never on the way of a mesh request.
#[derive(Debug, Default)]
pub struct Probes {
    redirects: Mutex<VecDeque<Followed>>,
    /// HTTPS probes that are open.
    pub(super) https_open: AtomicUsize,
}

/// What lets something through in place of the policies.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Who declared it.
    workload: Arc<Workload>,
    /// Which of its probes.
    index: usize,
    /// How many redirects led here.
    redirects: u8,
}

/// A redirect that a probe was answered with.
#[derive(Debug)]
struct Followed {
    node: IpAddr,
    called: SocketAddr,
    authority: Box<str>,
    target: Target,
    pass: Pass,
    until: Instant,
}

/// A path, canonical, and a query.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Target {
    path: Box<str>,
    query: Option<Box<str>>,
}

// === impl Pass ===

impl Pass {
    pub(super) fn new(workload: Arc<Workload>, index: usize) -> Self {
        Self { workload, index, redirects: 0 }
    }

    fn probe(&self) -> Option<&Probe> {
        self.workload.probes.get(self.index)
    }

    /// A word of a closed list, for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self.probe().map(|probe| &probe.check) {
            Some(Check::Http(_)) if self.redirects > 0 => "redirect",
            Some(Check::Http(_)) => "http",
            Some(Check::Grpc(_)) => "grpc",
            Some(Check::Https) => "https",
            Some(Check::Tcp) | None => "none",
        }
    }

    /// Whether it still holds, for what is open when the policy changes.
    pub fn judge(&self, connection: &Connection, policy: &Policy) -> Result<(), Denied> {
        let denied = |reason| Denied { reason, detail: None, undelivered: false };
        let Some(own) = &policy.own.workload else { return Err(denied(Reason::ConfigurationMissing)) };
        if policy.too_old {
            return Err(denied(Reason::PolicyTooOld));
        }
        let declared = self.probe().is_some_and(|probe| own.probes.contains(probe));
        if declared && connection.is_from_node(policy) { Ok(()) } else { Err(denied(Reason::TlsRequired)) }
    }
}

// === Recognition ===

/// Whether the request is a declared probe, by the policy that is returned with the answer. Must be asked
/// for connections from a node only. The body may have been read; it is as it was.
pub async fn recognise(connection: &Connection, request: &mut Request) -> (Option<Rc<Pass>>, Rc<Current>) {
    let asks_grpc = request.head.method == Method::POST && is_grpc(connection, &request.head);
    let message = if asks_grpc { message(connection, &mut request.body).await } else { None };
    let policy = connection.worker().policy.current();
    if policy.too_old || !connection.is_from_node(&policy) {
        return (None, policy);
    }
    let pass = match message {
        Some(message) => grpc(connection, &message, &policy),
        None => get(connection, request, &policy),
    };
    (pass.map(Rc::new), policy)
}

fn get(connection: &Connection, request: &mut Request, policy: &Policy) -> Option<Pass> {
    let Request { head, body } = request;
    // The kubelet speaks HTTP/2 only inside of TLS.
    if head.method != Method::GET || head.version != Version::Http11 || !body.is_end() {
        return None;
    }
    let own = policy.own.workload.as_ref()?;
    let called = connection.local();
    let fields: Vec<_> = head.headers().iter().map(|field| (field.name, field.value)).collect();
    let path = PATHS.canonical(head.path()).ok()?;
    let get = Get { authority: head.authority(), path: &path, query: head.query() };
    let text = called.to_string();
    let declared = own.probes.iter().position(|probe| match &probe.check {
        Check::Http(check) => probe.port == called.port() && check.is(get, &text, fields.iter().copied()),
        _ => false,
    });
    let pass = match declared {
        Some(index) => Pass::new(own.clone(), index),
        None => {
            let found = |followed: &Followed| {
                followed.node == connection.client().ip()
                    && followed.called == called
                    && followed.authority.eq_ignore_ascii_case(get.authority)
                    && *followed.target.path == *get.path
                    && followed.target.query.as_deref() == get.query
                    && own.probes.iter().any(|probe| Some(probe) == followed.pass.probe())
                    && matches!(followed.pass.probe().map(|probe| &probe.check),
                        Some(Check::Http(check)) if check.has_fields(fields.iter().copied(), true))
            };
            connection.worker().shared.probes.take(found, Instant::now())?
        }
    };
    // What was compared is what is forwarded.
    if path != head.path() {
        let target = match head.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.into_owned(),
        };
        head.set_path_and_query(&target).ok()?;
    }
    Some(pass)
}

fn is_grpc(connection: &Connection, head: &RequestHead) -> bool {
    head.version == Version::Http2
        && head.path_and_query() == GRPC_PATH
        && head.authority().eq_ignore_ascii_case(&connection.local().to_string())
        && GrpcCheck::has_fields(head.headers().iter().map(|field| (field.name, field.value)))
}

fn grpc(connection: &Connection, message: &[u8], policy: &Policy) -> Option<Pass> {
    let own = policy.own.workload.as_ref()?;
    let index = own.probes.iter().position(|probe| match &probe.check {
        Check::Grpc(check) => probe.port == connection.local().port() && check.body() == message,
        _ => false,
    })?;
    Some(Pass::new(own.clone(), index))
}

/// The whole body, if it is no longer than a gRPC probe's and comes in time. Whatever was read is put back.
async fn message(connection: &Connection, body: &mut Body) -> Option<Bytes> {
    let own = connection.worker().policy.current().own.workload.clone()?;
    let lengths = own.probes.iter().filter_map(|probe| match &probe.check {
        Check::Grpc(check) if probe.port == connection.local().port() => Some(check.body().len()),
        _ => None,
    });
    let most = lengths.max()?;
    let mut read = Resumed::new(std::mem::take(body), None);
    let outcome = tokio::time::timeout(MESSAGE_TIMEOUT, read.read_over(most)).await;
    // More than that, trailers, or a body that broke off: no probe.
    if outcome == Ok(Ok(())) && read.is_whole() && read.data().len() <= most {
        let message = Bytes::copy_from_slice(read.data());
        *body = Body::from(message.clone());
        return Some(message);
    }
    *body = read.into();
    None
}

// === Redirects ===

/// Notes where a probe's own answer sends it: on the same port, and once.
pub fn follow(connection: &Connection, pass: &Pass, request: &RequestHead, response: &ResponseHead) {
    let is_redirect = matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    if !is_redirect || pass.redirects >= REDIRECTS_MAX || !matches!(pass.label(), "http" | "redirect") {
        return;
    }
    let mut locations = response.headers().get_all(Known::Location);
    let (Some(location), None) = (locations.next(), locations.next()) else { return };
    let Ok(location) = std::str::from_utf8(location) else { return };
    let called = connection.local();
    let Some((authority, target)) = resolve(location, called, request) else { return };
    let followed = Followed {
        node: connection.client().ip(),
        called,
        authority,
        target,
        pass: Pass { redirects: pass.redirects + 1, ..pass.clone() },
        until: Instant::now() + REDIRECT_AGE_MAX,
    };
    connection.worker().shared.probes.add(followed);
}

/// Whom the kubelet asks for what, when it follows. `None`: somebody else, or it does not follow.
fn resolve(location: &str, called: SocketAddr, request: &RequestHead) -> Option<(Box<str>, Target)> {
    let location = location.split('#').next().unwrap_or_default();
    if location.is_empty() || !location.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let (authority, reference) = match location.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => {
            let rest = &location[7..];
            let (authority, reference) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            // It goes on only where it called before.
            let text = called.to_string();
            let without_port = text.strip_suffix(":80").filter(|_| called.port() == 80);
            if authority != text && Some(authority) != without_port {
                return None;
            }
            (authority, reference)
        }
        // Relative ones keep the host that was sent.
        _ => (request.authority(), location),
    };
    let (written, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let directory = request.path().rsplit_once('/').map_or("", |(directory, _)| directory);
    let path = match written {
        "" if reference.len() == location.len() => request.path().to_owned(),
        "" => "/".to_owned(),
        // Another host, or another scheme.
        _ if written.starts_with("//") => return None,
        _ if written.starts_with('/') => written.to_owned(),
        _ if written.split('/').next().is_some_and(|first| first.contains(':')) => return None,
        _ => format!("{directory}/{written}"),
    };
    let path = PATHS.canonical(&path).ok()?.into_owned().into();
    Some((authority.into(), Target { path, query: query.map(Into::into) }))
}

// === impl Probes ===

impl Probes {
    fn add(&self, followed: Followed) {
        let mut redirects = self.redirects.lock().unwrap_or_else(PoisonError::into_inner);
        if redirects.len() >= WAITING_MAX {
            redirects.pop_front();
        }
        redirects.push_back(followed);
    }

    /// Takes one out: it is good for one request.
    fn take(&self, found: impl Fn(&Followed) -> bool, now: Instant) -> Option<Pass> {
        let mut redirects = self.redirects.lock().unwrap_or_else(PoisonError::into_inner);
        redirects.retain(|followed| now < followed.until);
        let index = redirects.iter().position(found)?;
        redirects.remove(index).map(|followed| followed.pass)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use weft_model::probe::Probe;
    use weft_model::workload::{Description, Workload};

    /// A workload with these probes, and nothing else of interest.
    pub(crate) fn workload(probes: Vec<Probe>) -> Workload {
        Workload {
            uid: "shop/cart-1".parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            service_account: "cart".parse().unwrap(),
            trust_domain: "cluster.local".parse().unwrap(),
            description: Description::default(),
            addresses: Vec::new(),
            ports: Vec::new(),
            authorizations: Vec::new(),
            peer_authentications: Vec::new(),
            request_authentications: Vec::new(),
            zone: "".into(),
            probes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Headers;

    fn resolved(location: &str) -> Option<String> {
        let called = "10.0.0.7:8080".parse().unwrap();
        let request =
            RequestHead::new(Method::GET, Version::Http11, "health.example", "/a/b?c=1", Headers::new())
                .unwrap();
        let (authority, Target { path, query }) = resolve(location, called, &request)?;
        Some(format!("{authority} {path}{}", query.map(|query| format!("?{query}")).unwrap_or_default()))
    }

    #[test]
    fn a_redirect_is_followed_as_the_kubelet_does() {
        for (location, expected) in [
            ("/x?y=1#z", Some("health.example /x?y=1")),
            ("x", Some("health.example /a/x")),
            ("../x", Some("health.example /x")),
            ("?d=2", Some("health.example /a/b?d=2")),
            ("http://10.0.0.7:8080/x", Some("10.0.0.7:8080 /x")),
            ("HTTP://10.0.0.7:8080", Some("10.0.0.7:8080 /")),
            ("/x/../y", Some("health.example /y")),
            ("https://10.0.0.7:8080/x", None),
            ("http://10.0.0.7:8081/x", None),
            ("http://10.0.0.7/x", None),
            ("http://10.0.0.8:8080/x", None),
            ("http://user@10.0.0.7:8080/x", None),
            ("//10.0.0.7:8080/x", None),
            ("javascript:x", None),
            ("/a%2fb", Some("health.example /a%2Fb")),
            ("/../../x", None),
            ("#top", None),
            ("", None),
            ("/a b", None),
        ] {
            assert_eq!(resolved(location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn redirects_are_few_young_and_good_for_one_request() {
        let check = Check::Http(weft_model::probe::HttpCheck::new("/", None, &[]).unwrap());
        let workload = Arc::new(testing::workload(vec![Probe { port: 8080, check }]));
        let probes = Probes::default();
        let now = Instant::now();
        let add = |node: u32, until| {
            probes.add(Followed {
                node: IpAddr::from(node.to_be_bytes()),
                called: "10.0.0.7:8080".parse().unwrap(),
                authority: "a".into(),
                target: Target { path: "/".into(), query: None },
                pass: Pass::new(workload.clone(), 0),
                until,
            });
        };
        let of = |node: u32| move |followed: &Followed| followed.node == IpAddr::from(node.to_be_bytes());
        add(1, now + REDIRECT_AGE_MAX);
        assert!(probes.take(of(2), now).is_none());
        assert!(probes.take(of(1), now).is_some());
        assert!(probes.take(of(1), now).is_none());
        add(1, now);
        assert!(probes.take(of(1), now).is_none());
        for node in 0..=WAITING_MAX as u32 {
            add(node, now + REDIRECT_AGE_MAX);
        }
        assert!(probes.take(of(0), now).is_none());
        assert!(probes.take(of(1), now).is_some());
    }
}
