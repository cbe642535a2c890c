//! How the callers' proxies treat requests to a Service, and its replicas' own: what TrafficPolicy and
//! XBackendTrafficPolicy say together, and what holds where they say nothing. Drawn things are told with their
//! share: chance has no place in an answer.

use std::time::{Duration, SystemTime};
use weft_model::mesh::Mesh;
use weft_model::request::HttpFacts;
use weft_model::route::{Fraction, SessionCarrier, SessionPersistence};
use weft_model::service::Service;
use weft_model::spiffe::SpiffeId;
use weft_model::traffic::{
    Concurrency, Connections, FailureKind, Fault, HashOn, LoadBalancing, Per, RateLimit, Traffic,
    ZonePreference,
};
use weft_proxy::outbound::connections::DEFAULT_CONNECTION_WAIT;

/// What holds for a Service's requests.
pub(super) fn traffic_of(mesh: &Mesh, service: &Service) -> std::sync::Arc<Traffic> {
    let named = service.traffic_policies.iter();
    Traffic::joined(named.filter_map(|name| mesh.traffic_policies.get(name).map(|held| &**held)))
}

/// What goes wrong with this request on purpose: of the faults that are not over the first that is for it.
pub(super) fn fault(traffic: &Traffic, caller: Option<&SpiffeId>, facts: &HttpFacts<'_>) -> Option<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut alive = traffic.faults.iter().filter(|fault| !fault.is_over(now));
    alive.find(|fault| fault.matches(caller, facts)).map(|fault| told(fault, now))
}

fn told(fault: &Fault, now: u64) -> String {
    let delay = fault.delay.map(|delay| format!("{} wait {}", of(delay.share), shown(delay.time)));
    let abort = fault.abort.map(|abort| {
        let http = abort.status.map(|status| status.as_u16().to_string());
        let grpc = abort.grpc_status.map(|status| format!("gRPC status {status}"));
        let answer: Vec<_> = http.into_iter().chain(grpc).collect();
        format!("{} are answered {} (fault_injected)", of(abort.share), answer.join(", or "))
    });
    let both: Vec<_> = delay.into_iter().chain(abort).collect();
    format!("{}, for {} more", both.join("; "), shown(Duration::from_secs(fault.expires.saturating_sub(now))))
}

fn of(share: Fraction) -> String {
    if share.numerator >= share.denominator {
        return "all such requests".to_owned();
    }
    format!("{} of {} such requests", share.numerator, share.denominator)
}

/// The session that a request belongs to: its rule's, else its Service's.
pub(super) fn session(of_rule: Option<&SessionPersistence>, traffic: &Traffic) -> Option<String> {
    let (session, origin) = match (of_rule, &traffic.session) {
        (Some(session), _) => (session, "the rule"),
        (None, Some(session)) => (session, "the Service's policy"),
        (None, None) => return None,
    };
    let carrier = match session.carrier {
        SessionCarrier::SessionCookie => "cookie",
        SessionCarrier::PermanentCookie => "permanent cookie",
        SessionCarrier::Header => "header",
    };
    let absolute = session.absolute_timeout.map(|time| format!(", for {} at most", shown(time)));
    let idle = session.idle_timeout.map(|time| format!(", for {} without requests", shown(time)));
    let times: String = absolute.into_iter().chain(idle).collect();
    Some(format!("stays with one endpoint by the {carrier} {}{times}, by {origin}", session.name))
}

/// Everything else, one line each.
pub(super) fn lines(traffic: &Traffic) -> Vec<String> {
    let budget = traffic.retry_budget.unwrap_or_default();
    let mut lines = vec![
        format!("balancing: {}", balancing(&traffic.load_balancing)),
        format!(
            "retry budget: {} % of the requests of {}, at least {}",
            budget.percent,
            shown(budget.interval),
            budget.floor
        ),
        ejection(traffic),
    ];
    lines.extend(connections(&traffic.connections));
    lines.extend(traffic.rate_limits.iter().map(rate_limit));
    lines.extend(traffic.concurrency.as_ref().map(concurrency));
    lines
}

fn balancing(held: &LoadBalancing) -> String {
    let mut text = held.algorithm.as_str().to_owned();
    match &held.hash {
        Some(HashOn::Header(name)) => text += &format!(" of the header {name}"),
        Some(HashOn::Cookie(name)) => text += &format!(" of the cookie {name}"),
        Some(HashOn::Source) => text += " of the calling workload",
        None => {}
    }
    if held.zone == ZonePreference::Prefer {
        text += ", the own zone first";
    }
    if !held.slow_start.is_zero() {
        text += &format!(", slow start of {}", shown(held.slow_start));
    }
    text
}

fn ejection(traffic: &Traffic) -> String {
    let held = &traffic.ejection;
    if held.max_percent == 0 {
        return "ejection: only of what cannot be connected to".to_owned();
    }
    let counts = match held.counts {
        FailureKind::GatewayErrors => "gateway errors",
        FailureKind::ServerErrors => "server errors",
    };
    format!(
        "ejection: after {} {counts} in a row, or below {} % of successes; {} to {}, {} % of the endpoints at most",
        held.consecutive,
        held.success_rate_min,
        shown(held.base_time),
        shown(held.max_time),
        held.max_percent
    )
}

fn connections(held: &Connections) -> Option<String> {
    let in_flight = held.in_flight_max.map(|most| format!("{most} under way"));
    let connections = held.connections_max.map(|most| format!("{most} connections"));
    let limits: Vec<_> = in_flight.into_iter().chain(connections).collect();
    let most = (!limits.is_empty()).then(|| format!("at most {}", limits.join(" and ")));
    let for_connection = held.connections_max.map(|_| DEFAULT_CONNECTION_WAIT);
    let wait = Some(held.wait).filter(|wait| !wait.is_zero()).or(for_connection);
    let wait = wait.map(|wait| format!("{} wait at most, {} each", held.pending_max, shown(wait)));
    let all: Vec<_> = most.into_iter().chain(wait).collect();
    (!all.is_empty()).then(|| format!("limits: {}, from each proxy", all.join("; ")))
}

fn rate_limit(held: &RateLimit) -> String {
    let per = match held.per {
        Per::Service => "",
        Per::Client => " by each client",
    };
    let some = if held.methods.is_empty() && held.paths.is_empty() { "" } else { " of some requests" };
    format!(
        "rate limit {}: {} in {}{per}{some}, {} at once, at each replica",
        held.name,
        held.requests,
        shown(held.interval),
        held.burst
    )
}

fn concurrency(held: &Concurrency) -> String {
    let most =
        if held.min < held.max { format!("{} to {}", held.min, held.max) } else { held.max.to_string() };
    format!("concurrency: {most} at once at each replica; {} wait, {} at most", held.queue, shown(held.wait))
}

fn shown(duration: Duration) -> String {
    format!("{duration:?}")
}
