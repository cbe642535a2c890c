//! `weft explain DIR --from … --to …`: what becomes of one request, and why.
//!
//! Verdict, deciding rule with its file and line, nearest miss, the TLS mode that holds and what says
//! so, and the route that is taken. Exit code 0: answered, whatever the answer; 2: no answer.

use crate::input;
use crate::judge::{Answer, Branch, Judge, Local, Outcome, Prepared, describe, notes, tls_origin};
use crate::query::{From, Request};
use clap::ValueEnum;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use weft_model::authentication::TlsMode;
use weft_model::mesh::MeshConfig;
use weft_model::route::{Filter, RouteRule};

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The directories and files with the policies
    #[arg(required = true)]
    paths: Vec<PathBuf>,
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
    backends: Vec<BackendSaid>,
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
    request_timeout: Option<String>,
    try_timeout: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendSaid {
    name: String,
    weight: Option<u32>,
    filters: Vec<String>,
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
    /// The ALLOW rule that failed on least, where none matched.
    nearest_miss: Option<String>,
    /// Audits, and what dry runs would change.
    notes: Vec<String>,
    tls_mode: &'static str,
    tls_origin: String,
    /// How the request comes to the endpoint.
    transport: &'static str,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    input::finish("explain", explain(arguments).map(|text| (text, 0)))
}

fn explain(arguments: &Arguments) -> Result<String, String> {
    let judge = Judge::new(input::load(&arguments.paths)?.mesh);
    let (from, request) = (arguments.from.caller()?, &arguments.request);
    let prepared = judge.prepare(&from, &request.to, &request.ask()).map_err(|error| error.to_string())?;
    let outcome = prepared.judge();
    let explanation = Explanation::new(&judge, &prepared, &outcome);
    Ok(match arguments.output {
        Output::Json => input::json(&explanation),
        Output::Text => explanation.text(),
    })
}

impl Explanation {
    fn new(judge: &Judge, prepared: &Prepared<'_>, outcome: &Outcome<'_>) -> Self {
        let caller = &prepared.caller;
        let answered: Option<Local> = outcome.answered();
        let backends = outcome.branches.iter().map(|branch| BackendSaid::new(judge, prepared, branch));
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
                filters: chosen.rule.filters.iter().map(filter).collect(),
                request_timeout: request_timeout(chosen.rule, &judge.mesh.config).map(shown),
                try_timeout: chosen.rule.backend_request_timeout.filter(|held| !held.is_zero()).map(shown),
            }),
            backends: backends.collect(),
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
                for (what, held) in [("request", &route.request_timeout), ("each try", &route.try_timeout)] {
                    if let Some(held) = held {
                        let _ = writeln!(text, "         timeout of {what}: {held}");
                    }
                }
            }
            None if from.proxied => text.push_str("  route  none: the destination itself\n"),
            None => text.push_str("  route  none: the client has no proxy\n"),
        }
        let total: u64 = self.backends.iter().filter_map(|backend| backend.weight).map(u64::from).sum();
        for backend in &self.backends {
            backend.write(&mut text, total);
        }
        text
    }
}

impl BackendSaid {
    fn new(judge: &Judge, prepared: &Prepared<'_>, branch: &Branch<'_>) -> Self {
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
        let sent = branch.head.as_ref().map(|head| head.path_and_query().to_owned());
        Self {
            name,
            weight: branch.backend.map(|backend| backend.weight),
            filters: branch.backend.iter().flat_map(|backend| &backend.filters).map(filter).collect(),
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
        if let Some(path) = &self.sent_path {
            let _ = writeln!(text, "         the application sees {path}");
        }
        if let Some(reason) = self.ends {
            let _ = writeln!(text, "  DENY   {reason}");
        }
        for held in &self.endpoints {
            let _ = writeln!(text, "  {:6} at {}", held.verdict.to_uppercase(), held.workloads.join(", "));
            let _ = writeln!(text, "         {}", held.why);
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
            nearest_miss: None,
            notes: notes(answer),
            tls_mode: match own.tls.of_port(port) {
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

fn request_timeout(rule: &RouteRule, config: &MeshConfig) -> Option<Duration> {
    rule.request_timeout.or(config.request_timeout_default).filter(|held| !held.is_zero())
}

fn shown(duration: Duration) -> String {
    format!("{duration:?}")
}

fn filter(filter: &Filter) -> String {
    match filter {
        Filter::RequestHeaders(_) => "RequestHeaderModifier",
        Filter::ResponseHeaders(_) => "ResponseHeaderModifier",
        Filter::Redirect(_) => "RequestRedirect",
        Filter::Rewrite(_) => "URLRewrite",
        Filter::Cors(_) => "CORS",
        Filter::Mirror(_) => "RequestMirror",
    }
    .to_owned()
}
