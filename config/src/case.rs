//! What a `PolicyTest` asks: requests, and what is expected to become of each.
//!
//! Cases are read by the same strict reader as policies, so a mistyped key is an error and not a
//! case that always passes. Judging them is the command's business (`weft test`).

use std::net::IpAddr;
use weft_model::authorization::Provenance;
use weft_model::names::{Name, Namespace, ServiceName, WorkloadUid};
use weft_model::reason::Reason;
use weft_model::spiffe::SpiffeId;
use weft_model::token::Claims;

/// One request and what is expected of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Case {
    /// The `PolicyTest` it belongs to, `NAMESPACE/NAME`.
    pub test: String,
    /// What it claims.
    pub name: String,
    /// Where it was written.
    pub place: Provenance,
    /// Who calls.
    pub from: Caller,
    /// What is called.
    pub to: Destination,
    /// What is asked.
    pub request: Ask,
    /// What an external authorizer answers, where one is asked. `None`: that is not said.
    pub authorizer: Option<Authorizer>,
    /// What must become of it.
    pub expect: Expectation,
}

/// Who calls.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// Which identity.
    pub who: Who,
    /// Its address; by default the workload's.
    pub ip: Option<IpAddr>,
    /// The claims of a token whose signature and time are good, at a place where it is looked for.
    pub claims: Option<Claims>,
    /// Without a proxy of the mesh: no identity is proven and no route applies.
    pub plaintext: bool,
}

/// An identity as a case names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Who {
    /// A workload of the mesh.
    Workload(WorkloadUid),
    /// Whoever has this identity.
    Identity(SpiffeId),
    /// A service account in the mesh's trust domain.
    Account(Namespace, Name),
    /// Nobody that the mesh knows.
    Unknown,
}

/// What is called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// A Service; without a port, its only one.
    Service(ServiceName, Option<u16>),
    /// A workload's own address; without a port, its only one.
    Workload(WorkloadUid, Option<u16>),
}

/// What is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ask {
    /// Opaque bytes.
    Tcp {
        /// The server that their own TLS names.
        server_name: Option<String>,
    },
    /// A request.
    Http {
        /// The method.
        method: String,
        /// Path and query.
        path: String,
        /// The authority; by default the Service's name.
        host: Option<String>,
        /// Fields by lower-case name, in order.
        headers: Vec<(String, String)>,
    },
}

/// What an external authorizer answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Authorizer {
    /// It agrees, and changes nothing of the request.
    Allow,
    /// It refuses.
    Deny,
    /// It says nothing that counts.
    Fail,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It reaches the application, whichever endpoint is chosen.
    Allow,
    /// It reaches no application.
    Deny,
    /// A route answers it with a redirect.
    Redirect,
    /// An external authorizer is asked, and its answer decides.
    Ask,
}

/// What is expected; what is left out is not looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expectation {
    /// Whether it passes.
    pub fate: Fate,
    /// Why it does not.
    pub reason: Option<Reason>,
    /// The policy that decides, `NAMESPACE/NAME`.
    pub policy: Option<String>,
    /// The index of its rule.
    pub rule: Option<usize>,
    /// What would become of it with the dry runs enforced.
    pub dry_run: Option<Fate>,
    /// The AUDIT policy that matches, `NAMESPACE/NAME`, or `none`.
    pub audit: Option<String>,
    /// The route that is taken, `NAMESPACE/NAME`; empty: none.
    pub route: Option<String>,
    /// The index of its rule.
    pub route_rule: Option<usize>,
    /// All Services that it may be sent to, `NAMESPACE/NAME:PORT`, sorted.
    pub backends: Option<Vec<String>>,
    /// The status of a redirect or refusal.
    pub status: Option<u16>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// Path and query as the application sees them.
    pub sent_path: Option<String>,
    /// The authority as the application sees it.
    pub sent_host: Option<String>,
    /// Fields as the application sees them; `None`: absent.
    pub sent_headers: Vec<(String, Option<String>)>,
}

// === impl Authorizer ===

impl Authorizer {
    /// The words of a case.
    pub const WORDS: [(&str, Self); 3] = [("allow", Self::Allow), ("deny", Self::Deny), ("fail", Self::Fail)];
}

// === impl Fate ===

impl Fate {
    /// The word in a case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Redirect => "redirect",
            Self::Ask => "ask",
        }
    }
}

// === impl Expectation ===

impl Expectation {
    /// Only what becomes of it.
    pub fn of(fate: Fate) -> Self {
        Self {
            fate,
            reason: None,
            policy: None,
            rule: None,
            dry_run: None,
            audit: None,
            route: None,
            route_rule: None,
            backends: None,
            status: None,
            location: None,
            sent_path: None,
            sent_host: None,
            sent_headers: Vec::new(),
        }
    }
}
