//! What becomes of a request, judged as the two proxies on its way would: by the same route table,
//! the same filters, the same TLS modes and the same evaluator, on the same compiled mesh.
//!
//! The way: who calls → destination → route (rule, filters, backends) → every endpoint that may be
//! chosen → what its proxy checks. What an external authorizer answers is asked of whoever asks. Chance has
//! no place in an answer: all backends with a weight and all their endpoints are judged, and where they
//! differ it is said.

mod inbound;
mod question;
mod why;

pub(crate) use inbound::{Answer, Own};
pub(crate) use question::{Caller, Unanswerable};
pub(crate) use why::{describe, notes, tls_origin};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_config::case::{Ask, Authorizer, Destination, Fate};
use weft_model::endpoints::Endpoint;
use weft_model::mesh::Mesh;
use weft_model::names::{ServiceName, WorkloadUid};
use weft_model::reason::Reason;
use weft_model::request::HttpFacts;
use weft_model::route::Backend;
use weft_model::route::Fraction;
use weft_model::route_table::{Chosen, Lookup, RouteTable};
use weft_model::service::{Service, ServicePort, ServiceTarget};
use weft_model::sni::MeshServerName;
use weft_model::traffic::{Fault, Traffic};
use weft_proxy::deadline::Deadline;
use weft_proxy::http::{Known, RequestHead, Response, filter};

/// A compiled mesh, ready to be asked.
pub(crate) struct Judge {
    pub(crate) mesh: Mesh,
    own: HashMap<WorkloadUid, Own>,
    endpoints: HashMap<(ServiceTarget, u16), Vec<Endpoint>>,
}

/// A question with everything looked up that does not depend on the request.
pub(crate) struct Prepared<'j> {
    pub(crate) caller: Caller,
    pub(crate) service: &'j Service,
    pub(crate) port: &'j ServicePort,
    /// `None`: opaque bytes.
    pub(crate) head: Option<RequestHead>,
    /// What external authorizers answer. `None`: that is not known.
    pub(crate) authorizer: Option<Authorizer>,
    /// What a client's own TLS would name.
    server_name: Option<String>,
    /// A route looks at the path, which has no canonical form.
    refused: bool,
    /// How the Service's callers treat it.
    traffic: Arc<Traffic>,
    /// What a request has where its route does not say.
    timeout_default: Option<Duration>,
    table: RouteTable,
    direct: Vec<End<'j>>,
    backends: HashMap<(ServiceName, u16), Vec<End<'j>>>,
}

/// One endpoint that may be chosen.
pub(crate) struct End<'j> {
    pub(crate) endpoint: &'j Endpoint,
    pub(crate) own: &'j Own,
    server_name: MeshServerName,
    sni: String,
}

/// What becomes of a request.
pub(crate) struct Outcome<'p> {
    /// The rule that was chosen, if routes are attached and one matches.
    pub(crate) chosen: Option<Chosen<'p>>,
    /// It ends before any backend is chosen.
    pub(crate) local: Option<Local>,
    /// Where it may go.
    pub(crate) branches: Vec<Branch<'p>>,
}

/// An answer that is made before any endpoint is chosen.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) reason: Reason,
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
}

/// One backend.
pub(crate) struct Branch<'p> {
    /// `None`: the Service or workload that was asked for.
    pub(crate) backend: Option<&'p Backend>,
    /// The request after the filters, if there are any.
    pub(crate) head: Option<RequestHead>,
    /// It ends here.
    pub(crate) local: Option<Local>,
    /// What each endpoint says.
    pub(crate) ends: Vec<(&'p End<'p>, Answer<'p>)>,
}

// === impl Judge ===

impl Judge {
    pub(crate) fn new(mesh: Mesh) -> Self {
        let own = mesh.workloads.iter().map(|(uid, workload)| (uid.clone(), Own::new(&mesh, workload)));
        let own = own.collect();
        let mut endpoints: HashMap<_, Vec<_>> = HashMap::new();
        for slice in mesh.endpoints.values() {
            let all = endpoints.entry((slice.target.clone(), slice.port)).or_default();
            all.extend(slice.endpoints.iter().cloned());
        }
        Self { mesh, own, endpoints }
    }

    /// Looks up everything that a question names.
    pub(crate) fn prepare(
        &self,
        from: &weft_config::case::Caller,
        to: &Destination,
        ask: &Ask,
    ) -> Result<Prepared<'_>, Unanswerable> {
        let caller = Caller::find(from, &self.mesh)?;
        let (service, port) = question::destination(to, &self.mesh)?;
        let mut head = question::head(ask, service, port)?;
        // Without a proxy there are no routes.
        let table =
            if caller.proxied { self.table(service, port, &caller.namespace) } else { RouteTable::default() };
        if caller.proxied && (port.protocol.is_opaque() || table.opaque().is_some()) {
            head = None;
        }
        let refused = match &mut head {
            Some(head) if table.looks_at_path() => {
                head.make_path_canonical(self.mesh.config.path_normalization).is_err()
            }
            _ => false,
        };
        let server_name = question::server_name(ask);
        let direct = self.ends(&service.target, port.port);
        let backends = if caller.proxied { self.backends(port) } else { HashMap::new() };
        let policies = service.traffic_policies.iter().filter(|_| caller.proxied);
        let policies = policies.filter_map(|name| self.mesh.traffic_policies.get(name));
        let prepared = Prepared {
            traffic: Traffic::joined(policies.map(|held| &**held)),
            timeout_default: self.mesh.config.request_timeout_default,
            caller,
            service,
            port,
            head,
            refused,
            authorizer: None,
            server_name,
            table,
            direct,
            backends,
        };
        prepared.check_address()?;
        Ok(prepared)
    }

    fn table(&self, service: &Service, port: &ServicePort, client: &str) -> RouteTable {
        let ServiceTarget::Service(name) = &service.target else { return RouteTable::default() };
        let named = port.routes_for(client, name.namespace.as_str());
        RouteTable::new(named.map(|name| (name.clone(), self.mesh.routes.get(name).cloned())))
    }

    fn backends(&self, port: &ServicePort) -> HashMap<(ServiceName, u16), Vec<End<'_>>> {
        let routes = port.routes.iter().filter_map(|name| self.mesh.routes.get(name));
        let backends = routes.flat_map(|route| &route.rules).flat_map(|rule| &rule.backends);
        let mut found = HashMap::new();
        for (name, port) in backends.filter_map(|backend| backend.service.as_ref()) {
            let service = self.mesh.services.get(&name.resource_name());
            if let Some(service) = service.filter(|service| service.port(*port).is_some()) {
                found.entry((name.clone(), *port)).or_insert_with(|| self.ends(&service.target, *port));
            }
        }
        found
    }

    fn ends(&self, target: &ServiceTarget, port: u16) -> Vec<End<'_>> {
        let held = self.endpoints.get(&(target.clone(), port)).map(Vec::as_slice).unwrap_or_default();
        let server_name = match target {
            ServiceTarget::Service(name) => MeshServerName::Service { port, service: name.clone() },
            ServiceTarget::Workload(uid) => MeshServerName::Workload { port, uid: uid.clone() },
        };
        let sni = server_name.to_string();
        held.iter()
            .filter_map(|endpoint| {
                let own = self.own.get(&endpoint.uid)?;
                Some(End { endpoint, own, server_name: server_name.clone(), sni: sni.clone() })
            })
            .collect()
    }
}

// === impl Prepared ===

impl Prepared<'_> {
    /// Judges.
    pub(crate) fn judge(&self) -> Outcome<'_> {
        let ended = |local| Outcome { chosen: None, local: Some(local), branches: Vec::new() };
        if self.refused {
            return ended(Local::of(Reason::RequestMalformed));
        }
        let head = self.head.as_ref();
        if head.is_none() && self.expects_requests() {
            return ended(Local::of(Reason::HttpRequired));
        }
        let found = match head {
            Some(head) => self.table.lookup(&self.facts(head)),
            None => self.table.lookup_connection(self.server_name.as_deref()),
        };
        match found {
            Lookup::Unrouted => self.faulted(self.direct(head)),
            Lookup::NotFound => ended(Local::of(Reason::RouteNotFound)),
            Lookup::Unresolved(_) => ended(Local::of(Reason::ResourceUnresolved)),
            Lookup::Rule(chosen) => self.faulted(self.routed(head, chosen)),
        }
    }

    // Whether the caller's proxy takes requests alone to the port, whatever the workload behind it speaks.
    fn expects_requests(&self) -> bool {
        let is_opaque = self.port.protocol.is_opaque() || self.table.opaque().is_some();
        let is_http = self.port.protocol.is_http() || self.table.expects_requests();
        self.caller.proxied && !is_opaque && is_http
    }

    // A fault for every request answers what would otherwise go to an endpoint.
    fn faulted<'p>(&self, mut outcome: Outcome<'p>) -> Outcome<'p> {
        let Some(head) = &self.head else { return outcome };
        let rule = outcome.chosen.map(|chosen| chosen.rule);
        let timeout = rule.and_then(|rule| rule.request_timeout).or(self.timeout_default);
        let Some(answer) = self.fault(head).and_then(|fault| faulted(fault, head, timeout)) else {
            return outcome;
        };
        for branch in &mut outcome.branches {
            if branch.local.as_ref().is_none_or(|local| local.reason == Reason::EndpointsMissing) {
                branch.local = Some(answer.clone());
                branch.ends.clear();
            }
        }
        outcome
    }

    // The first fault that is for the request decides.
    fn fault(&self, head: &RequestHead) -> Option<&Fault> {
        if self.traffic.faults.is_empty() {
            return None;
        }
        let now = u64::try_from(weft_proxy::inbound::token::now()).unwrap_or_default();
        let (facts, caller) = (self.facts(head), self.caller.identity.as_ref());
        let mut alive = self.traffic.faults.iter().filter(|fault| !fault.is_over(now));
        alive.find(|fault| fault.matches(caller, &facts))
    }

    fn direct(&self, head: Option<&RequestHead>) -> Outcome<'_> {
        let branch = self.branch(None, None, head, &self.direct);
        Outcome { chosen: None, local: None, branches: vec![branch] }
    }

    // Without a head: a connection, whose rule has no filters.
    fn routed<'p>(&'p self, head: Option<&RequestHead>, chosen: Chosen<'p>) -> Outcome<'p> {
        let mut outcome = Outcome { chosen: Some(chosen), local: None, branches: Vec::new() };
        let (rule, matched) = (chosen.rule, &chosen.matched.path);
        let filtered = if rule.filters.is_empty() {
            None
        } else {
            let Some(mut head) = head.cloned() else { return outcome };
            if let Err(response) = filter::apply_to_request(&mut head, &rule.filters, matched) {
                outcome.local = Some(Local::answered(&response));
                return outcome;
            }
            Some(head)
        };
        if rule.backends.is_empty() {
            // The rule changes requests on their way to the Service that was called.
            outcome.branches.push(self.branch(None, filtered, head, &self.direct));
            return outcome;
        }
        let with_weight = rule.backends.iter().filter(|backend| backend.weight > 0);
        for backend in with_weight {
            let mut head_here = filtered.clone();
            if !backend.filters.is_empty()
                && let Some(mut edited) = head_here.take().or_else(|| head.cloned())
            {
                if let Err(response) = filter::apply_to_request(&mut edited, &backend.filters, matched) {
                    let local = Some(Local::answered(&response));
                    outcome.branches.push(Branch {
                        backend: Some(backend),
                        head: None,
                        local,
                        ends: Vec::new(),
                    });
                    continue;
                }
                head_here = Some(edited);
            }
            let ends = backend.service.as_ref().and_then(|named| self.backends.get(named));
            outcome.branches.push(match ends {
                Some(ends) => self.branch(Some(backend), head_here, head, ends),
                None => Branch {
                    backend: Some(backend),
                    head: None,
                    local: Some(Local::of(Reason::BackendInvalid)),
                    ends: Vec::new(),
                },
            });
        }
        if outcome.branches.is_empty() {
            outcome.local = Some(Local::of(Reason::BackendInvalid));
        }
        outcome
    }

    // `edited`: after filters; else the request is `head` as it came.
    fn branch<'p>(
        &'p self,
        backend: Option<&'p Backend>,
        edited: Option<RequestHead>,
        head: Option<&RequestHead>,
        ends: &'p [End<'p>],
    ) -> Branch<'p> {
        let local = ends.is_empty().then(|| Local::of(Reason::EndpointsMissing));
        let judged = {
            let head = edited.as_ref().or(head);
            let answer = |end: &'p End<'p>| (end, self.at(end, head));
            ends.iter().map(answer).collect()
        };
        Branch { backend, head: edited, local, ends: judged }
    }

    pub(crate) fn facts<'h>(&self, head: &'h RequestHead) -> HttpFacts<'h> {
        HttpFacts {
            method: head.method.as_str(),
            authority: head.authority(),
            path: head.path(),
            query: head.query(),
            headers: head.headers(),
            remote_address: self.caller.address_or_none(),
            token: None,
        }
    }
}

// The answer that a fault gives to each of its requests, if it gives one to each.
fn faulted(fault: &Fault, head: &RequestHead, timeout: Option<Duration>) -> Option<Local> {
    let all = |share: Fraction| share.numerator >= share.denominator;
    let grpc = head.is_grpc();
    let now = Instant::now();
    let claimed = Deadline::claimed(head.headers(), grpc, now).map(|deadline| deadline.left(now));
    let timeout = timeout.filter(|held| !held.is_zero()).into_iter().chain(claimed).min();
    if let (Some(delay), Some(timeout)) = (fault.delay.filter(|delay| all(delay.share)), timeout)
        && delay.time >= timeout
    {
        return Some(Local::of(Reason::RequestTimeout));
    }
    let abort = fault.abort.filter(|abort| all(abort.share))?;
    let local = Local::of(Reason::FaultInjected);
    if grpc {
        return abort.of_call().map(|_| local);
    }
    Some(Local { status: abort.status?.as_u16(), ..local })
}

// === impl Outcome ===

impl Outcome<'_> {
    /// What becomes of it, whatever chance chooses. `None`: it depends.
    pub(crate) fn fate(&self) -> Option<Fate> {
        if let Some(local) = &self.local {
            return Some(local.fate());
        }
        let mut fates = self.branches.iter().flat_map(Branch::fates);
        let first = fates.next()?;
        fates.all(|fate| fate == first).then_some(first)
    }

    /// Why it ends where it does; of several the first.
    pub(crate) fn reason(&self) -> Option<Reason> {
        let here = self.local.as_ref().map(|local| local.reason);
        here.or_else(|| {
            self.branches.iter().find_map(|branch| {
                let local = branch.local.as_ref().map(|local| local.reason);
                local.or_else(|| branch.ends.iter().find_map(|(_, answer)| answer.reason()))
            })
        })
    }

    /// The status and target of an answer that the mesh makes itself.
    pub(crate) fn answered(&self) -> Option<Local> {
        if let Some(local) = &self.local {
            return Some(local.clone());
        }
        let branch = self.branches.iter().find_map(|branch| branch.local.clone());
        branch.or_else(|| self.reason().map(Local::of))
    }

    /// Where it ends before an endpoint is chosen.
    pub(crate) fn locals(&self) -> impl Iterator<Item = &Local> {
        self.local.iter().chain(self.branches.iter().filter_map(|branch| branch.local.as_ref()))
    }

    /// Each endpoint's answer.
    pub(crate) fn answers(&self) -> impl Iterator<Item = &Answer<'_>> {
        self.branches.iter().flat_map(|branch| &branch.ends).map(|(_, answer)| answer)
    }
}

impl Branch<'_> {
    fn fates(&self) -> impl Iterator<Item = Fate> {
        let ends = self.ends.iter().map(|(_, answer)| answer.fate());
        self.local.iter().map(Local::fate).chain(ends)
    }
}

// === impl Local ===

impl Local {
    fn of(reason: Reason) -> Self {
        Self { reason, status: reason.status(), location: None }
    }

    fn answered(response: &Response) -> Self {
        let headers = response.head.headers();
        let reason = headers.get_str(Known::XWeftReason).and_then(Reason::from_label);
        let location = headers.get_str(Known::Location).map(str::to_owned);
        let reason = reason.unwrap_or(Reason::Internal);
        Self { reason, status: response.head.status.as_u16(), location }
    }

    fn fate(&self) -> Fate {
        if self.reason == Reason::RouteRedirect { Fate::Redirect } else { Fate::Deny }
    }
}
