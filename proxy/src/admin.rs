//! What operators, Prometheus and the kubelet ask: plain HTTP on two listeners and a unix socket.
//!
//! The metrics listener answers everybody: `/metrics`, `/ready`, `/live`. The admin listener is loopback
//! only and answers those and `/dump`, `/log-level`. Neither changes anything: what does (`/drain`, a new
//! log level) is on the unix socket, where the kernel says who asks. All run on the control thread, so
//! that they answer however busy the workers are. One request per connection, small, in bounded time.

pub mod client;
pub mod control;
pub mod dump;
pub mod responder;
pub mod socket;

use crate::shared::Shared;
use responder::{Answer, Request};
use socket::AdminSocket;
use std::sync::Arc;
use weft_runtime::registry::CONTENT_TYPE;

pub use control::Levers;

/// Answers what may be asked by anybody.
pub fn metrics(shared: &Shared, request: &Request) -> Option<Answer> {
    Some(match request.path.as_str() {
        "/metrics" if request.is_read() => {
            Answer { content_type: CONTENT_TYPE, ..Answer::ok(shared.registry.encode()) }
        }
        "/ready" if request.is_read() => {
            let missing = shared.readiness.missing();
            if missing.is_empty() && shared.policy.current().stale {
                Answer::ok(
                    "ready, stale: enforcing the last good configuration, the control API is away\n"
                        .to_owned(),
                )
            } else if missing.is_empty() {
                Answer::ok("ready\n".to_owned())
            } else {
                // By name: what is missing is the first thing anybody wants to know.
                Answer::of(503, format!("missing: {}\n", missing.join(", ")))
            }
        }
        "/live" if request.is_read() => Answer::ok("live\n".to_owned()),
        "/metrics" | "/ready" | "/live" => Answer::of(405, "only GET\n".to_owned()),
        _ => return None,
    })
}

/// Answers what may be asked on the loopback.
pub fn admin(shared: &Shared, levers: &Levers, request: &Request) -> Option<Answer> {
    // A page in a browser on this machine can reach the loopback too; browsers say when they do.
    if request.from_browser {
        return Some(Answer::of(403, "not from a browser\n".to_owned()));
    }
    match request.path.as_str() {
        "/dump" if request.is_read() => {
            let text = serde_json::to_string_pretty(&dump::dump(shared)).unwrap_or_default();
            Some(Answer { content_type: "application/json", ..Answer::ok(text) })
        }
        "/log-level" if request.is_read() => Some(levers.pull(request)),
        "/log-level" | "/drain" => Some(Answer::of(405, not_here(shared))),
        _ => metrics(shared, request),
    }
}

/// Answers what may be asked on the unix socket: everything.
pub fn socket(shared: &Shared, levers: &Levers, request: &Request) -> Option<Answer> {
    match request.path.as_str() {
        "/log-level" | "/drain" => Some(levers.pull(request)),
        _ => admin(shared, levers, request),
    }
}

fn not_here(shared: &Shared) -> String {
    match &shared.settings.admin_socket {
        Some(path) => format!("changes are asked for on the socket {} only\n", path.display()),
        None => "changes are asked for on the admin socket only, and there is none: set state\n".to_owned(),
    }
}

/// Serves all of them until the process ends.
pub fn serve(
    shared: &Arc<Shared>,
    levers: Levers,
    metrics_listener: tokio::net::TcpListener,
    admin_listener: tokio::net::TcpListener,
    admin_socket: Option<AdminSocket>,
) {
    let all = shared.clone();
    weft_runtime::spawn_local(
        "metrics-listener",
        responder::serve(metrics_listener, move |request| metrics(&all, request)),
    );
    let (all, pulled) = (shared.clone(), levers.clone());
    weft_runtime::spawn_local(
        "admin-listener",
        responder::serve(admin_listener, move |request| admin(&all, &pulled, request)),
    );
    if let Some(admin_socket) = admin_socket {
        let all = shared.clone();
        weft_runtime::spawn_local(
            "admin-socket",
            responder::serve(admin_socket, move |request| socket(&all, &levers, request)),
        );
    }
}
