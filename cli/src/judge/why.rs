//! Verdicts in words: the policy, its rule, and where it was written.

use super::{Answer, Own};
use weft_model::authentication::{PeerAuthentication, PolicyScope, TlsMode};
use weft_model::authorization::{Judgement, Verdict};
use weft_model::mesh::Mesh;

/// Why an endpoint answers as it does.
pub(crate) fn describe(answer: &Answer<'_>) -> String {
    let judgement = match answer {
        Answer::Unjudged => return "the workload has no proxy: nothing is judged".to_owned(),
        Answer::Unadmitted(reason) => return reason.text().to_owned(),
        Answer::Token(_, why) => return (*why).to_owned(),
        Answer::Path(error) => return error.to_string(),
        Answer::Asks(by, rest) => {
            let authorizer = by.policy.provider.as_deref().unwrap_or_default();
            return format!("{by} asks the authorizer {authorizer}; if it agrees: {}", verdict(rest));
        }
        Answer::Disagreed(by, reason) => return format!("{by}: {}", reason.text()),
        Answer::Judged(judgement) => judgement,
    };
    match judgement.custom {
        Some(by) => format!("{}; the authorizer that {by} asks agrees", verdict(judgement)),
        None => verdict(judgement),
    }
}

fn verdict(judgement: &Judgement<'_>) -> String {
    match judgement.verdict {
        Verdict::Allowed(None) => "no ALLOW policy binds the workload, and no DENY policy matches".to_owned(),
        Verdict::Allowed(Some(decider)) => format!("allowed by {decider}"),
        Verdict::Denied(decider) => format!("denied by {decider}"),
        Verdict::NotAllowed => "no rule of any ALLOW policy that binds the workload matches".to_owned(),
        Verdict::Unresolved(name) => format!("{name} binds the workload and is not held: it has errors"),
    }
}

/// What is noted beside the verdict and changes nothing: audits, and dry runs that would change it.
pub(crate) fn notes(answer: &Answer<'_>) -> Vec<String> {
    let (Answer::Judged(judgement) | Answer::Asks(_, judgement)) = answer else { return Vec::new() };
    let mut notes: Vec<_> = judgement.audit.iter().map(|decider| format!("audited by {decider}")).collect();
    if let Some(shadow) = judgement.shadow
        && shadow.is_allowed() != judgement.verdict.is_allowed()
    {
        let word = if shadow.is_allowed() { "allowed" } else { "denied" };
        notes.push(match shadow.decider() {
            Some(decider) => format!("with the dry runs enforced: {word} by {decider}"),
            None => format!("with the dry runs enforced: {word}, no ALLOW policy matches"),
        });
    }
    notes
}

/// What says which TLS mode holds on a port.
pub(crate) fn tls_origin(mesh: &Mesh, own: &Own, port: u16) -> String {
    let mode = own.tls_mode(port);
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
