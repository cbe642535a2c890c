//! `weft explain DIR --from … --to …`: what becomes of one request, and why.
//!
//! Verdict, deciding rule with its file and line, nearest miss, the TLS mode that holds and what says
//! so, and the way: route, filters, faults, timeouts, retries, backends with what their callers' proxies and
//! replicas keep to (session, retry budget, limits). `--live` explains with the policies that a
//! control API has in force, and says which proxies on the way enforce them. Exit code 0: answered,
//! whatever the answer; 2: no answer.

mod delivery;
mod live;
mod treatment;

use crate::input;
use crate::judge::{Answer, Branch, Judge, Local, Outcome, Prepared, describe, notes, tls_origin};
use crate::query::{From, Request};
use clap::ValueEnum;
use delivery::Delivery;
use live::Live;
use serde::Serialize;
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use weft_model::authentication::TlsMode;
use weft_model::authorization::Decider;
use weft_model::mesh::Mesh;
use weft_model::route::RouteRule;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The directories and files with the policies
    #[arg(required_unless_present = "live")]
    paths: Vec<PathBuf>,
    /// Explain with the policies that the control API has in force
    #[arg(long, conflicts_with = "paths")]
    live: bool,
    /// The admin address of weft-control
    #[arg(long, env = "WEFT_CONTROL_ADMIN", default_value = "127.0.0.1:15014")]
    control: SocketAddr,
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    request: Request,
    /// How to say it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// The whole explanation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    /// `allow`, `deny`, `redirect`, or `mixed` where endpoints differ.
    verdict: &'static str,
    /// Why it does not pass; of several the first.
    reason: Option<&'static str>,
    status: Option<u16>,
    location: Option<String>,
    from: FromSaid,
    to: String,
    route: Option<RouteSaid>,
    /// `None`: no proxy of the mesh sends requests here.
    delivery: Option<Delivery>,
    /// What goes wrong with it on purpose.
    fault: Option<String>,
    backends: Vec<BackendSaid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<Live>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FromSaid {
    workload: Option<String>,
    principal: Option<String>,
    address: Option<String>,
    proxied: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RouteSaid {
    name: String,
    rule: usize,
    place: String,
    filters: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendSaid {
    name: String,
    weight: Option<u32>,
    filters: Vec<String>,
    /// How its callers treat it: policies by kind and name, with their places.
    traffic_policies: Vec<String>,
    /// The session that it belongs to.
    session: Option<String>,
    /// What else holds for it there.
    treatment: Vec<String>,
    sent_path: Option<String>,
    /// Why no endpoint gets it.
    ends: Option<&'static str>,
    /// Endpoints that answer alike stand together.
    endpoints: Vec<EndpointsSaid>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointsSaid {
    workloads: Vec<String>,
    verdict: &'static str,
    reason: Option<&'static str>,
    why: String,
    policy: Option<String>,
    rule: Option<usize>,
    place: Option<String>,
    /// The external authorizer that is asked.
    authorizer: Option<AuthorizerSaid>,
    /// The ALLOW rule that failed on least, where none matched.
    nearest_miss: Option<String>,
    /// Audits, and what dry runs would change.
    notes: Vec<String>,
    tls_mode: &'static str,
    tls_origin: String,
    /// How the request comes to the endpoint.
    transport: &'static str,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct AuthorizerSaid {
    provider: String,
    /// `None`: MeshConfig names none, so nobody agrees.
    service: Option<String>,
    timeout: Option<String>,
    /// Whether a request passes that it could not be asked about.
    fail_open: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    input::finish("explain", explain(arguments).map(|text| (text, 0)))
}

fn explain(arguments: &Arguments) -> Result<String, String> {
    let in_force = if arguments.live { Some(live::InForce::fetch(arguments.control)?) } else { None };
    let compilation = match &in_force {
        Some(held) => held.compile()?,
        None => input::load(&arguments.paths)?,
    };
    let judge = Judge::new(compilation.mesh);
    let (from, request) = (arguments.from.caller()?, &arguments.request);
    let mut prepared =
        judge.prepare(&from, &request.to, &request.ask()).map_err(|error| error.to_string())?;
    prepared.authorizer = request.authorizer;
    let outcome = prepared.judge();
    let mut explanation = Explanation::new(&judge, &prepared, &outcome);
    explanation.live = in_force.map(|held| held.enforced(&prepared, &outcome)).transpose()?;
    Ok(match arguments.output {
        Output::Json => input::json(&explanation),
        Output::Text => explanation.text(),
    })
}

impl Explanation {
    fn new(judge: &Judge, prepared: &Prepared<'_>, outcome: &Outcome<'_>) -> Self {
        let caller = &prepared.caller;
        let answered: Option<Local> = outcome.answered();
        let backends = outcome.branches.iter().map(|branch| {
            BackendSaid::new(judge, prepared, outcome.chosen.as_ref().map(|chosen| chosen.rule), branch)
        });
        Self {
            verdict: outcome.fate().map_or("mixed", |fate| fate.word()),
            reason: outcome.reason().map(|reason| reason.label()),
            status: answered.as_ref().map(|local| local.status),
            location: answered.and_then(|local| local.location),
            from: FromSaid {
                workload: caller.workload.as_ref().map(ToString::to_string),
                principal: caller.identity.as_ref().map(|identity| identity.principal().to_owned()),
                address: caller.address.map(|address| address.to_string()),
                proxied: caller.proxied,
            },
            to: format!("{} port {}", prepared.service.resource_name(), prepared.port.port),
            route: outcome.chosen.as_ref().map(|chosen| RouteSaid {
                name: format!("{}/{}", chosen.route.namespace, chosen.route.name),
                rule: chosen.index,
                place: format!("{}:{}", chosen.rule.provenance.file, chosen.rule.provenance.line),
                filters: chosen.rule.filters.iter().map(delivery::filter).collect(),
            }),
            delivery: prepared.head.as_ref().filter(|_| caller.proxied).map(|head| {
                Delivery::new(outcome.chosen.as_ref().map(|chosen| chosen.rule), head, &judge.mesh.config)
            }),
            fault: prepared.head.as_ref().filter(|_| caller.proxied && outcome.local.is_none()).and_then(
                |head| {
                    let traffic = treatment::traffic_of(&judge.mesh, prepared.service);
                    treatment::fault(&traffic, caller.identity.as_ref(), &prepared.facts(head))
                },
            ),
            backends: backends.collect(),
            live: None,
        }
    }

    fn text(&self) -> String {
        let mut text = self.verdict.to_uppercase();
        // Writing to a String cannot fail.
        if let (Some(reason), Some(status)) = (self.reason, self.status) {
            let _ = write!(text, ": {status} {reason}");
        }
        if let Some(location) = &self.location {
            let _ = write!(text, " to {location}");
        }
        text.push('\n');
        let from = &self.from;
        let named = from.workload.as_deref().unwrap_or(if from.principal.is_some() { "" } else { "anybody" });
        let principal = from.principal.as_deref().unwrap_or("no identity");
        let proxy = if from.proxied { "" } else { ", without a proxy" };
        let address = from.address.as_ref().map(|address| format!(" at {address}")).unwrap_or_default();
        let _ = writeln!(text, "  from   {}{address}, {principal}{proxy}", named);
        let _ = writeln!(text, "  to     {}", self.to);
        match &self.route {
            Some(route) => {
                let _ = writeln!(text, "  route  {} rule {} ({})", route.name, route.rule, route.place);
                for filter in &route.filters {
                    let _ = writeln!(text, "         filter: {filter}");
                }
            }
            None if from.proxied => text.push_str("  route  none: the destination itself\n"),
            None => text.push_str("  route  none: the client has no proxy\n"),
        }
        if let Some(delivery) = &self.delivery {
            delivery.write(&mut text);
        }
        if let Some(fault) = &self.fault {
            let _ = writeln!(text, "  fault  {fault}");
        }
        let total: u64 = self.backends.iter().filter_map(|backend| backend.weight).map(u64::from).sum();
        for backend in &self.backends {
            backend.write(&mut text, total);
        }
        if let Some(live) = &self.live {
            live.write(&mut text);
        }
        text
    }
}

impl BackendSaid {
    fn new(judge: &Judge, prepared: &Prepared<'_>, rule: Option<&RouteRule>, branch: &Branch<'_>) -> Self {
        let mut endpoints: Vec<EndpointsSaid> = Vec::new();
        for (end, answer) in &branch.ends {
            let port = end.endpoint.address.port();
            let mutual = end.is_mutual(prepared.caller.proxied);
            let mut said = EndpointsSaid::new(judge, end.own, port, mutual, answer);
            said.nearest_miss = prepared.nearest_miss(branch, end, answer);
            let workload = format!("{}:{port}", end.endpoint.uid);
            match endpoints.iter_mut().find(|held| held.is_alike(&said)) {
                Some(held) => held.workloads.push(workload),
                None => endpoints.push(EndpointsSaid { workloads: vec![workload], ..said }),
            }
        }
        let name = match branch.backend {
            None => prepared.service.resource_name().to_string(),
            Some(backend) => match &backend.service {
                Some((name, port)) => format!("{name}:{port}"),
                None => "nowhere".to_owned(),
            },
        };
        let service = match branch.backend {
            None => Some(prepared.service),
            Some(backend) => {
                let named = backend.service.as_ref();
                named.and_then(|(name, _)| judge.mesh.services.get(&name.resource_name())).map(|held| &**held)
            }
        };
        let named = service.filter(|_| prepared.caller.proxied).map(|held| held.traffic_policies.as_slice());
        let held = named.unwrap_or_default().iter().map(|name| match judge.mesh.traffic_policies.get(name) {
            Some(held) => {
                format!("{} {}/{} ({})", held.kind.as_str(), held.namespace, held.name, held.provenance)
            }
            None => format!("{name}, which is not held"),
        });
        let traffic_policies = held.collect();
        let traffic = service
            .filter(|_| prepared.caller.proxied && branch.local.is_none())
            .map(|held| treatment::traffic_of(&judge.mesh, held));
        // Sessions are of requests.
        let of_rule = rule.and_then(|rule| rule.session.as_ref());
        let session = traffic.as_ref().filter(|_| prepared.head.is_some());
        let session = session.and_then(|traffic| treatment::session(of_rule, traffic));
        let sent = branch.head.as_ref().map(|head| head.path_and_query().to_owned());
        Self {
            name,
            weight: branch.backend.map(|backend| backend.weight),
            traffic_policies,
            session,
            treatment: traffic.map(|traffic| treatment::lines(&traffic)).unwrap_or_default(),
            filters: branch
                .backend
                .iter()
                .flat_map(|backend| &backend.filters)
                .map(delivery::filter)
                .collect(),
            sent_path: sent.filter(|path| {
                prepared.head.as_ref().is_none_or(|head| head.path_and_query() != path.as_str())
            }),
            ends: branch.local.as_ref().map(|local| local.reason.label()),
            endpoints,
        }
    }

    fn write(&self, text: &mut String, total: u64) {
        if let Some(weight) = self.weight {
            let percent = (u64::from(weight) * 100).checked_div(total).unwrap_or(0);
            let _ = writeln!(text, "  backend {} (weight {weight}, {percent} %)", self.name);
        }
        for filter in &self.filters {
            let _ = writeln!(text, "         filter: {filter}");
        }
        for policy in &self.traffic_policies {
            let _ = writeln!(text, "         {policy}");
        }
        for line in self.session.iter().chain(&self.treatment) {
            let _ = writeln!(text, "         {line}");
        }
        if let Some(path) = &self.sent_path {
            let _ = writeln!(text, "         the application sees {path}");
        }
        if let Some(reason) = self.ends {
            let _ = writeln!(text, "  DENY   {reason}");
        }
        for held in &self.endpoints {
            let _ = writeln!(text, "  {:6} at {}", held.verdict.to_uppercase(), held.workloads.join(", "));
            let _ = writeln!(text, "         {}", held.why);
            if let Some(authorizer) = &held.authorizer {
                let _ = writeln!(text, "         {authorizer}");
            }
            if let Some(nearest) = &held.nearest_miss {
                let _ = writeln!(text, "         nearest: {nearest}");
            }
            for note in &held.notes {
                let _ = writeln!(text, "         {note}");
            }
            let _ = writeln!(
                text,
                "         TLS mode {} ({}); the request comes {}",
                held.tls_mode, held.tls_origin, held.transport
            );
        }
    }
}

impl EndpointsSaid {
    fn new(judge: &Judge, own: &crate::judge::Own, port: u16, mutual: bool, answer: &Answer<'_>) -> Self {
        let decider = answer.decider();
        Self {
            workloads: Vec::new(),
            verdict: answer.fate().word(),
            reason: answer.reason().map(|reason| reason.label()),
            why: describe(answer),
            policy: decider.map(|held| format!("{}/{}", held.policy.namespace, held.policy.name)),
            rule: decider.map(|held| held.rule),
            place: decider.map(|held| format!("{}:{}", held.provenance().file, held.provenance().line)),
            authorizer: answer.asks().map(|by| AuthorizerSaid::new(&judge.mesh, by)),
            nearest_miss: None,
            notes: notes(answer),
            tls_mode: match own.tls_mode(port) {
                TlsMode::Strict => "STRICT",
                TlsMode::Permissive => "PERMISSIVE",
                TlsMode::Disable => "DISABLE",
            },
            tls_origin: tls_origin(&judge.mesh, own, port),
            transport: if mutual { "by mutual TLS" } else { "in plaintext" },
        }
    }

    fn is_alike(&self, other: &Self) -> bool {
        let told = |held: &Self| (held.why.clone(), held.nearest_miss.clone(), held.notes.clone());
        (self.verdict, self.tls_mode, &self.tls_origin, self.transport)
            == (other.verdict, other.tls_mode, &other.tls_origin, other.transport)
            && told(self) == told(other)
    }
}

impl AuthorizerSaid {
    fn new(mesh: &Mesh, by: Decider<'_>) -> Self {
        let provider = by.policy.provider.as_deref().unwrap_or_default();
        let held = mesh.config.extension_providers.iter().find(|held| *held.name == *provider);
        Self {
            provider: provider.to_owned(),
            service: held.map(|held| format!("{}:{}", held.service, held.port)),
            timeout: held.map(|held| format!("{:?}", held.timeout)),
            fail_open: held.is_some_and(|held| held.fail_open),
        }
    }
}

impl fmt::Display for AuthorizerSaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(service), Some(timeout)) = (&self.service, &self.timeout) else {
            return write!(f, "authorizer: {}, which MeshConfig does not name: nobody agrees", self.provider);
        };
        let failing = if self.fail_open { "passes" } else { "is denied" };
        write!(
            f,
            "authorizer: {} at {service}, by gRPC; without an answer within {timeout} the request {failing}",
            self.provider
        )
    }
}

#[cfg(test)]
mod tests;
