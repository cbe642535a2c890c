//! Verdicts in words: the policy, its rule, and where it was written.

use super::{Answer, Own};
use weft_model::authentication::{PeerAuthentication, PolicyScope, TlsMode};
use weft_model::authorization::{Decider, Provenance, Verdict};
use weft_model::mesh::Mesh;

/// Why an endpoint answers as it does.
pub(crate) fn describe(answer: &Answer<'_>) -> String {
    match answer {
        Answer::Unjudged => "the workload has no proxy: nothing is judged".to_owned(),
        Answer::Allowed(None) => "no ALLOW policy binds the workload, and no DENY policy matches".to_owned(),
        Answer::Allowed(Some(decider)) => format!("allowed by {}", rule(decider)),
        Answer::Unadmitted(reason) => reason.text().to_owned(),
        Answer::Path(error) => error.to_string(),
        Answer::Refused(Verdict::Denied(decider)) => format!("denied by {}", rule(decider)),
        Answer::Refused(Verdict::Unresolved(name)) => {
            format!("{name} binds the workload and is not held: it has errors")
        }
        Answer::Refused(_) => "no rule of any ALLOW policy that binds the workload matches".to_owned(),
    }
}

fn rule(decider: &Decider<'_>) -> String {
    let Decider { policy, rule } = decider;
    format!("{}/{} rule {rule} ({})", policy.namespace, policy.name, place_of(decider))
}

/// `FILE:LINE` of a rule.
pub(crate) fn place_of(decider: &Decider<'_>) -> String {
    let Decider { policy, rule } = decider;
    let place = policy.rules.get(*rule).map(|rule| &rule.provenance).filter(|place| place.line > 0);
    let Provenance { file, line } = place.unwrap_or(&policy.provenance);
    format!("{file}:{line}")
}

/// What says which TLS mode holds on a port.
pub(crate) fn tls_origin(mesh: &Mesh, own: &Own, port: u16) -> String {
    let mode = own.tls.of_port(port);
    let named: Vec<_> =
        own.workload.peer_authentications.iter().map(|name| mesh.peer_authentications.get(name)).collect();
    if named.contains(&None) {
        return "a PeerAuthentication that binds the workload has errors, so nothing weaker holds".to_owned();
    }
    let said = |policy: &PeerAuthentication| {
        let place = &policy.provenance;
        format!("PeerAuthentication {}/{} ({}:{})", policy.namespace, policy.name, place.file, place.line)
    };
    let policies = || named.iter().flatten();
    let of_port = policies().find(|policy| {
        policy.scope == PolicyScope::Workload
            && policy.ports.get(&port).is_some_and(|held| *held == Some(mode))
    });
    if let Some(policy) = of_port {
        return format!("{}, for the port", said(policy));
    }
    // The narrowest scope that speaks; one that inherits says nothing.
    for scope in [PolicyScope::Workload, PolicyScope::Namespace, PolicyScope::Mesh] {
        if let Some(policy) = policies().find(|policy| policy.scope == scope && policy.mode == Some(mode)) {
            return said(policy);
        }
    }
    if mesh.config.peer_authentication_default == TlsMode::Strict {
        "no PeerAuthentication speaks: Weft's default".to_owned()
    } else {
        "no PeerAuthentication speaks: the MeshConfig's default".to_owned()
    }
}
