//! What a request is to do: its rule, filters, backend, session, fault, mirrors and time limits, found in one
//! pass over the request as the application sent it. Owned by one request of [`http`](super::http); nothing
//! is sent here, and nothing waits.
//!
//! Each thing is looked for where it must be: the path is made canonical before any rule reads it, sessions
//! before any filter edits it, and the backend's filters after the rule's.

use super::faults::{self, Drawn};
use super::http::Outbound;
use super::replica::{Outcome, Trying};
use super::session::{self, Session};
use super::{Port, backends};
use crate::http::{Headers, Known, RequestHead, Response, filter};
use crate::worker::Worker;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_model::reason::Reason;
use weft_model::request::HttpFacts;
use weft_model::route::{Backend, Filter, Fraction, RetryPolicy, Route, SessionPersistence};
use weft_model::route_table::Lookup;

/// What a request is to do, once its route is known.
pub(super) struct Plan {
    /// Where it goes.
    pub port: Rc<Port>,
    /// The rule it goes by, if the port has routes.
    pub routed: Option<Routed>,
    /// Where copies of it go; none on most requests.
    pub mirrors: Vec<Rc<Port>>,
    /// The session that the rule has it belong to.
    pub session: Option<Session>,
    /// What goes wrong with it on purpose.
    pub fault: Option<Box<Drawn>>,
    pub timeout: Option<Duration>,
    pub try_timeout: Option<Duration>,
    /// The try under way: what a deadline cuts off is told to the balancer.
    pub trying: Cell<Option<Trying>>,
}

/// A rule of a route, and what of the request its filters need for the answer.
pub(super) struct Routed {
    route: Arc<Route>,
    rule: usize,
    /// The index of the rule's backend; `None`: the Service that was called.
    backend: Option<usize>,
    /// The page's origin, where the rule says who may read answers.
    origin: Option<Box<str>>,
}

// === impl Outbound ===

impl Outbound {
    /// Chooses rule, filters and backend, and edits the request as they say.
    pub(super) fn plan(&self, port: Rc<Port>, head: &mut RequestHead) -> Result<Plan, Box<Response>> {
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
}

// === impl Plan ===

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
    pub(super) fn tried(&self, worker: &Worker, outcome: Option<Outcome>) {
        if let (Some(trying), Some(outcome)) = (self.trying.take(), outcome) {
            self.port.report(worker, trying, outcome);
        }
    }

    /// The try under way is answered, and says in its trailers what became of it.
    pub(super) fn begun(&self) {
        if let Some(mut trying) = self.trying.take() {
            trying.begun(Instant::now());
            self.trying.set(Some(trying));
        }
    }

    pub(super) fn session_policy(&self) -> Option<&SessionPersistence> {
        let of_rule =
            self.routed.as_ref().and_then(|routed| routed.route.rules[routed.rule].session.as_ref());
        of_rule.or(self.port.model.traffic.session.as_ref())
    }

    /// What the rule's owner wants tried again.
    pub(super) fn retry(&self) -> Option<&RetryPolicy> {
        self.routed.as_ref().and_then(|routed| routed.route.rules[routed.rule].retry.as_ref())
    }
}

// === impl Routed ===

impl Routed {
    pub(super) fn apply_to_response(&self, headers: &mut Headers) {
        let rule = &self.route.rules[self.rule];
        filter::apply_to_response(headers, &rule.filters, self.origin.as_deref());
        if let Some(backend) = self.backend {
            filter::apply_to_response(headers, &rule.backends[backend].filters, None);
        }
    }
}
