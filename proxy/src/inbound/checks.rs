//! What is asked of everything that comes to a workload, in this order and written nowhere else: the proxy
//! judges by it, and the tools foretell by it what the proxy would answer.
//!
//! | of a request | of opaque bytes |
//! |---|---|
//! | [`Came::admit`]: it came as the port accepts it, to this workload, and enough is known to judge it | the same |
//! | [`Admitted::make_canonical`]: its path has a canonical form, where an enforced rule looks at paths | |
//! | [`Canonical::authenticate`]: its token is good, where a RequestAuthentication binds | |
//! | [`Authenticated::authorize`]: the policies, by the canonical path | [`Admitted::authorize_opaque`]: the policies |
//! | | then: the port may carry what nobody can look into |
//!
//! Each step yields the only value that has the next one, so that none is left out and none comes early. What
//! a step needs that is not the same for all (whose cache of tokens, what is counted, who asks an external
//! authorizer) is given to it.

use super::judge::Denied;
use crate::http::{Known, RequestHead, TargetError};
use crate::policy::Policy;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use weft_model::authentication::TlsMode;
use weft_model::authorization::Facts;
use weft_model::path::PathError;
use weft_model::reason::Reason;
use weft_model::request::{ConnectionFacts, HttpFacts};
use weft_model::request_authentication::RequestAuthenticationSet;
use weft_model::sni::MeshServerName;
use weft_model::spiffe::SpiffeId;
use weft_model::token::VerifiedToken;

/// How something came to the workload.
#[derive(Clone, Copy)]
pub struct Came<'a> {
    /// Where it came from, an IPv4 address as such.
    pub client: IpAddr,
    /// The address that was dialled, as the mesh advertises it.
    pub local: SocketAddr,
    /// What mutual TLS says that it is for. `None`: plaintext.
    pub server_name: Option<&'a MeshServerName>,
    /// Who the client proved to be.
    pub source: Option<&'a SpiffeId>,
    /// The server that the client's TLS names, the mesh's or its own.
    pub sni: Option<&'a str>,
}

/// What may be judged by the policy.
#[derive(Clone, Copy)]
pub struct Admitted<'a> {
    came: Came<'a>,
    policy: &'a Policy,
}

/// A request whose path is what rules judge.
#[derive(Clone, Copy)]
pub struct Canonical<'a>(Admitted<'a>);

/// A request whose token is good, or that has none.
#[derive(Clone, Copy)]
pub struct Authenticated<'a>(Admitted<'a>);

// === impl Came ===

impl<'a> Came<'a> {
    /// What holds whatever is asked for: that it is for this workload and came as the port accepts it, and
    /// that this proxy knows enough to judge.
    pub fn admit(self, policy: &'a Policy) -> Result<Admitted<'a>, Denied> {
        let Some(own) = &policy.own.workload else {
            return Err(Denied::new(Reason::ConfigurationMissing, None, true));
        };
        let port = self.local.port();
        match (self.server_name, policy.own.tls.of_port(port)) {
            // Refused for good: trying elsewhere would be refused too.
            (None, TlsMode::Strict) => return Err(Denied::new(Reason::TlsRequired, None, false)),
            (None, TlsMode::Permissive | TlsMode::Disable) => {}
            (Some(_), TlsMode::Disable) => return Err(Denied::new(Reason::WorkloadMismatch, None, true)),
            (Some(name), _) if !own.is_meant_by(name, port) => {
                return Err(Denied::new(Reason::WorkloadMismatch, None, true));
            }
            (Some(_), _) => {}
        }
        if policy.too_old {
            return Err(Denied::new(Reason::PolicyTooOld, None, false));
        }
        if let Some(name) = policy.own.tokens.unresolved() {
            let detail = Some(format!("{name} is not held"));
            return Err(Denied::new(Reason::AuthorizationUnresolved, detail, false));
        }
        Ok(Admitted { came: self, policy })
    }

    /// A request that has passed all steps before the policies, under this very policy: an external
    /// authorizer was asked meanwhile.
    pub fn authenticated_before(self, policy: &'a Policy) -> Authenticated<'a> {
        Authenticated(Admitted { came: self, policy })
    }

    fn facts(&self, policy: &Policy) -> ConnectionFacts<'a> {
        ConnectionFacts {
            source: self.source,
            source_address: self.client,
            original_address: (policy.config.trusted_proxies == 0).then_some(self.client),
            destination: self.local,
            sni: self.sni,
        }
    }
}

// === impl Admitted ===

impl<'a> Admitted<'a> {
    /// Where an enforced rule looks at the path, its canonical form is what is judged, asked about and
    /// forwarded.
    pub fn make_canonical(self, head: &mut RequestHead) -> Result<Canonical<'a>, TargetError> {
        if self.policy.own.authorization.needs_canonical_path() {
            head.make_path_canonical(self.policy.config.path_normalization)?;
        }
        Ok(Canonical(self))
    }

    /// The same of a head that must stay as it is: copied only where its path changes.
    pub fn make_canonical_copy(self, head: &mut Cow<'_, RequestHead>) -> Result<Canonical<'a>, TargetError> {
        let level = self.policy.config.path_normalization;
        let is_canonical = |path| matches!(level.canonical(path), Ok(canonical) if canonical == path);
        if !self.policy.own.authorization.needs_canonical_path() || is_canonical(head.path()) {
            return Ok(Canonical(self));
        }
        self.make_canonical(head.to_mut())
    }

    /// Judges opaque bytes by the policies; then whether the port may carry them, so that who is denied
    /// anyway learns nothing of what the port is.
    pub fn authorize_opaque<R, E: From<Denied>>(
        self,
        judge: impl FnOnce(&Facts<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let judged = judge(&Facts { connection: self.came.facts(self.policy), http: None })?;
        self.takes_opaque()?;
        Ok(judged)
    }

    // What the client calls its bytes never helps it: a port that is declared as HTTP takes none that
    // are opaque, nor does one of which nothing is declared while a rule for it, or a RequestAuthentication,
    // looks at HTTP.
    fn takes_opaque(&self) -> Result<(), Denied> {
        let (own, port) = (&self.policy.own, self.came.local.port());
        let protocol = own.protocol(port);
        let refused = |detail: &str| Err(Denied::new(Reason::HttpRequired, Some(detail.to_owned()), false));
        if protocol.is_http() {
            return refused("the port is declared as HTTP");
        }
        if !protocol.is_opaque() && own.authorization.needs_http(port) {
            return refused("a rule for the port looks at HTTP; if it is not, declare appProtocol: tcp");
        }
        if !protocol.is_opaque() && !own.tokens.is_empty() {
            return refused(
                "a RequestAuthentication looks at HTTP; if the port is not, declare appProtocol: tcp",
            );
        }
        Ok(())
    }
}

// === impl Canonical ===

impl<'a> Canonical<'a> {
    /// Checks the request's token by `check`, which also makes of the request what rules see of it. Not called
    /// where no RequestAuthentication binds the workload.
    pub fn authenticate<T, E>(
        self,
        check: impl FnOnce(&'a Arc<RequestAuthenticationSet>) -> Result<Option<T>, E>,
    ) -> Result<(Authenticated<'a>, Option<T>), E> {
        let tokens = &self.0.policy.own.tokens;
        let token = if tokens.is_empty() { None } else { check(tokens)? };
        Ok((Authenticated(self.0), token))
    }
}

// === impl Authenticated ===

impl Authenticated<'_> {
    /// Judges a request by the policies: by its canonical path, whether or not that is what is forwarded.
    pub fn authorize<R>(
        self,
        head: &RequestHead,
        token: Option<&VerifiedToken>,
        judge: impl FnOnce(&Facts<'_>) -> R,
    ) -> Result<R, PathError> {
        let Admitted { came, policy } = self.0;
        let http = HttpFacts {
            method: head.method.as_str(),
            authority: head.authority(),
            path: &judged_path(head, policy)?,
            query: head.query(),
            headers: head.headers(),
            remote_address: remote_address(head, came.client, policy.config.trusted_proxies),
            token,
        };
        // What is declared as opaque is judged so, though the client says HTTP: a rule that needs HTTP holds there as
        // documented for such a port, and no client chooses by how it speaks which rules are for it.
        let http = Some(http).filter(|_| !policy.own.protocol(came.local.port()).is_opaque());
        Ok(judge(&Facts { connection: came.facts(policy), http }))
    }
}

fn judged_path<'h>(head: &'h RequestHead, policy: &Policy) -> Result<Cow<'h, str>, PathError> {
    let (path, rules) = (head.path(), &policy.own.authorization);
    if path == "*" || !rules.looks_at_path() {
        return Ok(Cow::Borrowed(path));
    }
    match policy.config.path_normalization.canonical(path) {
        Err(error) if rules.needs_canonical_path() => Err(error),
        // Audits and dry runs refuse nothing.
        Err(_) => Ok(Cow::Borrowed(path)),
        canonical => canonical,
    }
}

/// The original client: with N trusted proxies in front, the N-th address of `x-forwarded-for`
/// counted from the right; what is not there or no address is nobody's claim.
fn remote_address(head: &RequestHead, client: IpAddr, trusted: u32) -> IpAddr {
    if trusted == 0 {
        return client;
    }
    let forwarded: Vec<&[u8]> = head
        .headers()
        .get_all(Known::XForwardedFor)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .collect();
    forwarded
        .len()
        .checked_sub(trusted as usize)
        .and_then(|index| forwarded.get(index))
        .and_then(|text| std::str::from_utf8(text).ok())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(client)
}
