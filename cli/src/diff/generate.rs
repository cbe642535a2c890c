//! Requests made of the values that two policy sets mention, near misses included: what a rule
//! matches, what it just does not, and what no rule speaks of.
//!
//! Each destination is asked with the values of the policies and routes that concern it, in every
//! combination, up to a bound; what is left out is counted and told.

use super::Question;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use weft_config::case::{Ask, Authorizer, Caller, Destination, Who};
use weft_model::authorization::{Action, Authorization, Clause, Condition, RequestPrincipal, ServiceAccount};
use weft_model::json::Members;
use weft_model::mesh::Mesh;
use weft_model::names::ResourceName;
use weft_model::route::{PathMatch, Route, ValueMatch};
use weft_model::service::{Service, ServicePort, ServiceTarget};
use weft_model::spiffe::SpiffeId;
use weft_model::string_match::StringMatch;
use weft_model::token::Claims;

/// What stands for "anything that no policy mentions".
const OTHER: &str = "weft-diff-other";
/// The methods that are asked whether or not a policy mentions them.
const METHODS: [&str; 3] = ["GET", "POST", "PATCH"];

/// All requests, at most `most` for each destination, and how many were left out.
pub(super) fn questions(sets: [&Mesh; 2], most: usize) -> (Vec<Question>, usize) {
    let (mut all, mut left_out) = (Vec::new(), 0);
    let mut destinations: BTreeMap<(ResourceName, u16), (&Service, &ServicePort)> = BTreeMap::new();
    for (name, service) in sets.iter().flat_map(|mesh| &mesh.services) {
        for port in &service.ports {
            destinations.entry((name.clone(), port.port)).or_insert((service, port));
        }
    }
    for ((name, number), (service, _)) in destinations {
        let mut values = Values::default();
        for mesh in sets {
            values.collect(mesh, &name, number);
        }
        let to = match &service.target {
            ServiceTarget::Service(name) => Destination::Service(name.clone(), Some(number)),
            ServiceTarget::Workload(uid) => Destination::Workload(uid.clone(), Some(number)),
        };
        left_out += values.combine(&callers(sets, &values), &to, most, &mut all);
    }
    (all, left_out)
}

// What the rules of a destination mention.
#[derive(Default)]
struct Values {
    principals: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    hosts: BTreeSet<String>,
    methods: BTreeSet<String>,
    paths: BTreeSet<String>,
    fields: BTreeSet<(String, String)>,
    /// Issuers of tokens with an audience that their rule takes.
    issuers: BTreeSet<(String, Option<String>)>,
    subjects: BTreeSet<String>,
    claims: BTreeSet<(Vec<String>, String)>,
    /// What TLS names.
    server_names: BTreeSet<String>,
    /// Whether an external authorizer is asked.
    asks: bool,
    /// The trust domain of the set that is read.
    domain: String,
}

impl Values {
    fn collect(&mut self, mesh: &Mesh, name: &ResourceName, port: u16) {
        self.domain = mesh.config.trust_domain.to_string();
        let Some(service) = mesh.services.get(name) else { return };
        let Some(port) = service.port(port) else { return };
        let mut targets = vec![(service.target.clone(), port.port)];
        for route in port.routes.iter().filter_map(|name| mesh.routes.get(name)) {
            self.route(route);
            let backends = route.rules.iter().flat_map(|rule| &rule.backends);
            targets.extend(
                backends
                    .filter_map(|backend| backend.service.clone())
                    .map(|(name, port)| (ServiceTarget::Service(name), port)),
            );
        }
        let mut seen = HashSet::new();
        let endpoints = mesh
            .endpoints
            .values()
            .filter(|slice| targets.contains(&(slice.target.clone(), slice.port)))
            .flat_map(|slice| &slice.endpoints);
        for workload in endpoints.filter_map(|endpoint| mesh.workloads.get(&endpoint.uid)) {
            for policy in workload
                .request_authentications
                .iter()
                .filter_map(|name| mesh.request_authentications.get(name))
            {
                let issuers = policy
                    .rules
                    .iter()
                    .map(|rule| (rule.issuer.to_string(), rule.audiences.first().map(ToString::to_string)));
                self.issuers.extend(issuers);
            }
            for name in workload.authorizations.iter().filter(|name| seen.insert((*name).clone())) {
                if let Some(policy) = mesh.authorizations.get(name) {
                    self.policy(policy);
                }
            }
        }
    }

    fn policy(&mut self, policy: &Authorization) {
        self.asks |= policy.action == Action::Custom;
        for rule in &policy.rules {
            for source in &rule.sources {
                texts(&source.principals, &mut self.principals);
                texts(&source.namespaces, &mut self.namespaces);
                self.accounts(&source.service_accounts);
                self.blocks(&source.ip_blocks);
                self.blocks(&source.remote_ip_blocks);
                self.request_principals(&source.request_principals);
            }
            for operation in &rule.operations {
                texts(&operation.hosts, &mut self.hosts);
                texts(&operation.methods, &mut self.methods);
                let paths = operation.paths.any.iter().chain(&operation.paths.not);
                self.paths.extend(paths.flat_map(paths_of));
            }
            for condition in &rule.conditions {
                self.condition(condition);
            }
        }
    }

    fn condition(&mut self, condition: &Condition) {
        match condition {
            Condition::RequestHeader(name, clause) => {
                let mut values = BTreeSet::new();
                texts(clause, &mut values);
                self.fields.extend(values.into_iter().map(|value| (name.to_string(), value)));
            }
            Condition::SourceServiceAccount(clause) => self.accounts(clause),
            Condition::RequestPrincipal(clause) => self.request_principals(clause),
            Condition::RequestClaim(path, clause) => {
                let mut values = BTreeSet::new();
                texts(clause, &mut values);
                let path: Vec<_> = path.iter().map(ToString::to_string).collect();
                self.claims.extend(values.into_iter().map(|value| (path.clone(), value)));
            }
            Condition::SourcePrincipal(clause) => texts(clause, &mut self.principals),
            Condition::SourceNamespace(clause) => texts(clause, &mut self.namespaces),
            Condition::SourceIp(clause) | Condition::RemoteIp(clause) => self.blocks(clause),
            _ => {}
        }
    }

    fn accounts(&mut self, clause: &Clause<ServiceAccount>) {
        let domain = &self.domain;
        let principal = |held: &ServiceAccount| format!("{domain}/ns/{}/sa/{}", held.namespace, held.name);
        self.principals.extend(clause.any.iter().chain(&clause.not).map(principal));
    }

    fn request_principals(&mut self, clause: &Clause<RequestPrincipal>) {
        for held in clause.any.iter().chain(&clause.not) {
            let one = Clause { any: vec![held.subject.clone()], not: Vec::new() };
            texts(&one, &mut self.subjects);
        }
    }

    // None, and tokens that rules may tell apart: of each issuer, with what rules mention one at a time.
    fn tokens(&self) -> Vec<Option<Claims>> {
        let mut all = vec![None];
        for (issuer, audience) in &self.issuers {
            let token = |subject: &str| {
                let mut members = serde_json::Map::new();
                members.insert("iss".to_owned(), issuer.as_str().into());
                members.insert("sub".to_owned(), subject.into());
                members.extend(audience.iter().map(|audience| ("aud".to_owned(), audience.as_str().into())));
                members
            };
            let subjects = self.subjects.iter().map(String::as_str).chain([OTHER]);
            all.extend(subjects.map(|subject| read(token(subject))));
            for (path, value) in &self.claims {
                let Some((first, rest)) = path.split_first() else { continue };
                let inner = serde_json::Value::from(value.as_str());
                let nested = rest.iter().rev().fold(inner, |inner, name| {
                    serde_json::Value::Object([(name.clone(), inner)].into_iter().collect())
                });
                let mut members = token(OTHER);
                members.insert(first.clone(), nested);
                all.push(read(members));
            }
        }
        all
    }

    fn blocks(&mut self, clause: &Clause<ipnet::IpNet>) {
        for block in clause.any.iter().chain(&clause.not) {
            self.addresses.insert(block.addr());
            self.addresses.insert(block.broadcast());
        }
    }

    fn route(&mut self, route: &Route) {
        for name in &route.server_names {
            self.server_names.extend(match name.strip_prefix("*.") {
                Some(domain) => [format!("x.{domain}"), domain.to_owned()],
                None => [name.to_string(), format!("x.{name}")],
            });
        }
        for matched in route.rules.iter().flat_map(|rule| &rule.matches) {
            match &matched.path {
                PathMatch::Exact(text) | PathMatch::Prefix(text) => {
                    self.paths.extend(around(text).filter(|path| is_path(path)));
                }
                PathMatch::Rpc { service: Some(ValueMatch::Exact(service)), method } => {
                    let method = match method {
                        Some(ValueMatch::Exact(method)) => method,
                        _ => "Method",
                    };
                    self.paths.insert(format!("/{service}/{method}"));
                    self.paths.insert(format!("/{service}/Other"));
                    self.methods.insert("POST".to_owned());
                }
                PathMatch::Regex(_) | PathMatch::Rpc { .. } => {}
            }
            self.methods.extend(matched.method.iter().map(ToString::to_string));
            for (name, value) in &matched.headers {
                if let ValueMatch::Exact(value) = value {
                    self.fields.insert((name.to_string(), value.to_string()));
                }
            }
            for (name, value) in &matched.queries {
                if let ValueMatch::Exact(value) = value {
                    self.paths.insert(format!("/?{name}={value}"));
                }
            }
        }
    }

    // Every combination, or every so-manieth if there are too many.
    fn combine(&self, callers: &[Caller], to: &Destination, most: usize, all: &mut Vec<Question>) -> usize {
        let methods: BTreeSet<_> =
            self.methods.iter().cloned().chain(METHODS.iter().map(ToString::to_string)).collect();
        let methods: Vec<_> = methods.into_iter().filter(|method| is_method(method)).collect();
        let other = ["/".to_owned(), format!("/{OTHER}")];
        let paths: BTreeSet<_> = self.paths.iter().cloned().chain(other).collect();
        let paths: Vec<_> = paths.into_iter().filter(|path| is_path(path)).collect();
        let fields: Vec<_> = std::iter::once(None).chain(self.fields.iter().map(Some)).collect();
        let hosts: Vec<_> = std::iter::once(None).chain(self.hosts.iter().map(Some)).collect();
        let tokens = self.tokens();
        // Where none is asked, what it would answer tells nothing apart.
        let authorizers: &[_] =
            if self.asks { &[None, Some(Authorizer::Allow), Some(Authorizer::Fail)] } else { &[None] };
        let sizes = [
            callers.len(),
            methods.len(),
            paths.len(),
            fields.len(),
            hosts.len(),
            tokens.len(),
            authorizers.len(),
        ];
        let requests = spread(&sizes, most, |digit| {
            let ask = Ask::Http {
                method: methods[digit(methods.len())].clone(),
                path: paths[digit(paths.len())].clone(),
                headers: fields[digit(fields.len())].iter().map(|field| (*field).clone()).collect(),
                host: hosts[digit(hosts.len())].cloned(),
            };
            let claims = tokens[digit(tokens.len())].clone();
            let from = Caller { claims, ..callers[digit(callers.len())].clone() };
            let authorizer = authorizers[digit(authorizers.len())];
            all.push(Question { from, to: to.clone(), ask, authorizer });
        });
        let names: Vec<_> = std::iter::once(None).chain(self.server_names.iter().map(Some)).collect();
        let connections = spread(&[callers.len(), names.len(), authorizers.len()], most, |digit| {
            let from = callers[digit(callers.len())].clone();
            let ask = Ask::Tcp { server_name: names[digit(names.len())].cloned() };
            let authorizer = authorizers[digit(authorizers.len())];
            all.push(Question { from, to: to.clone(), ask, authorizer });
        });
        requests + connections
    }
}

// Makes `most` combinations of so many values each, spread evenly; how many were left out.
fn spread(sizes: &[usize], most: usize, mut make: impl FnMut(&mut dyn FnMut(usize) -> usize)) -> usize {
    let total = sizes.iter().fold(1_usize, |total, size| total.saturating_mul(*size));
    // A stride that shares no factor with the sizes visits every value of each of them.
    let mut stride = total.div_ceil(most.max(1)).max(1);
    while stride > 1 && sizes.iter().any(|size| common_divisor(*size, stride) > 1) {
        stride += 1;
    }
    let (mut index, mut taken) = (0, 0);
    while index < total {
        let mut rest = index;
        make(&mut |size| {
            let digit = rest % size;
            rest /= size;
            digit
        });
        taken += 1;
        index = index.saturating_add(stride);
    }
    total - taken
}

// One of each identity of either mesh, whom the rules mention and whom they just do not.
fn callers(sets: [&Mesh; 2], values: &Values) -> Vec<Caller> {
    let mut identities: BTreeMap<SpiffeId, Who> = BTreeMap::new();
    let mut plain = Vec::new();
    for mesh in sets {
        for (uid, workload) in &mesh.workloads {
            let who = Who::Workload(uid.clone());
            if mesh.plain.contains(uid) {
                plain.push(Caller { who, ip: None, claims: None, plaintext: true });
            } else {
                identities.entry(workload.identity()).or_insert(who);
            }
        }
    }
    let domain = &sets[1].config.trust_domain;
    let spelled = values.principals.iter().cloned();
    let of_namespaces =
        values.namespaces.iter().map(|namespace| format!("{domain}/ns/{namespace}/sa/default"));
    let other = std::iter::once(format!("{domain}/ns/{OTHER}/sa/{OTHER}"));
    for text in spelled.chain(of_namespaces).chain(other) {
        if let Ok(identity) = format!("spiffe://{text}").parse::<SpiffeId>() {
            identities.entry(identity.clone()).or_insert(Who::Identity(identity));
        }
    }
    let nobody = Who::Unknown;
    let first = values.addresses.first().copied();
    let mut all: Vec<_> = identities
        .into_values()
        .map(|who| {
            let ip = if matches!(who, Who::Workload(_)) { None } else { first.or(Some(UNMENTIONED)) };
            Caller { who, ip, claims: None, plaintext: false }
        })
        .collect();
    all.extend(plain);
    for address in values.addresses.iter().copied().chain([UNMENTIONED]) {
        all.push(Caller { who: nobody.clone(), ip: Some(address), claims: None, plaintext: true });
        let stranger = all.iter().find(|caller| matches!(caller.who, Who::Identity(_))).cloned();
        all.extend(stranger.map(|caller| Caller { ip: Some(address), ..caller }));
    }
    all
}

/// An address of a block that is set aside for documents (RFC 5737).
const UNMENTIONED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn read(members: serde_json::Map<String, serde_json::Value>) -> Option<Claims> {
    let text = serde_json::Value::Object(members).to_string();
    Members::parse(text.as_bytes()).ok().and_then(|members| Claims::new(members).ok())
}

fn texts(clause: &Clause<StringMatch>, into: &mut BTreeSet<String>) {
    for pattern in clause.any.iter().chain(&clause.not) {
        match pattern {
            StringMatch::Exact(text) => into.extend([text.to_string(), format!("{text}x")]),
            StringMatch::Prefix(text) => into.extend([text.to_string(), format!("{text}x")]),
            StringMatch::Suffix(text) => into.extend([format!("x{text}"), text.to_string()]),
            StringMatch::Presence => into.extend([OTHER.to_owned()]),
            StringMatch::Template(_) => {}
        }
    }
}

fn paths_of(pattern: &StringMatch) -> Vec<String> {
    match pattern {
        StringMatch::Exact(text) | StringMatch::Prefix(text) => around(text).collect(),
        StringMatch::Suffix(text) => vec![format!("/x{text}"), format!("/x{text}x")],
        StringMatch::Presence => Vec::new(),
        StringMatch::Template(_) => {
            let text = pattern.to_string();
            let one = text.replace("{**}", "x/y").replace("{*}", "x");
            vec![format!("{one}/x"), text.replace("{**}", "x").replace("{*}", ""), one]
        }
    }
}

// The text, and what is just more and just less.
fn around(text: &str) -> impl Iterator<Item = String> + use<> {
    let mut shorter = text.to_owned();
    shorter.pop();
    [text.to_owned(), format!("{text}x"), format!("{}/x", text.trim_end_matches('/')), shorter].into_iter()
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'#')
}

fn is_method(text: &str) -> bool {
    weft_proxy::http::Method::from_bytes(text.as_bytes()).is_ok()
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}
