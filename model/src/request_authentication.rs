//! Which tokens a workload accepts: RequestAuthentication, with Istio's documented meaning.
//!
//! A request without a token is anonymous. A token that is there must be good: its issuer must have a
//! rule for the place where it was found, its signature must verify with one of that rule's keys, its
//! time and audience must fit. Where several rules have the issuer, one that accepts is enough. Several
//! different tokens in one request are refused: Istio leaves open which of them would count.
//!
//! Signatures are checked by a function of the caller's: this crate holds no cryptography.

use crate::authorization::Provenance;
use crate::jwks::{Jwk, KeyMaterial};
use crate::names::{Name, Namespace, ResourceName};
use crate::token::{Algorithm, Token, TokenError, VerifiedToken};
use std::sync::Arc;
use std::time::Duration;

/// How far clocks may differ when `exp`, `nbf` and `iat` are looked at, in seconds; Envoy's default.
pub const CLOCK_LEEWAY: i64 = 60;

/// The claims whose text is always a list with blanks between its items, as in Istio.
pub const SPACE_DELIMITED: [&str; 2] = ["permission", "scope"];

/// One policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestAuthentication {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Name,
    /// Which tokens it accepts.
    pub rules: Vec<JwtRule>,
    /// Where it was written.
    pub provenance: Provenance,
}

/// The tokens of one issuer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JwtRule {
    /// `iss`, exactly.
    pub issuer: Box<str>,
    /// One of these must be in `aud`; none: any audience will do.
    pub audiences: Vec<Box<str>>,
    /// What signatures are checked with. `None`: they have not been fetched, and nothing is accepted.
    pub keys: Option<Arc<[Jwk]>>,
    /// Where the control API fetches them.
    pub key_source: Option<KeySource>,
    /// Where tokens of this issuer are looked for.
    pub places: Vec<TokenPlace>,
    /// Whether the application sees the token.
    pub forward: bool,
    /// The field that gets the claims in base64url, by lower-case name.
    pub payload_header: Option<Box<str>>,
    /// Fields that get a claim each.
    pub claim_headers: Vec<ClaimHeader>,
    /// Claims whose text is a list with blanks between its items.
    pub space_delimited: Arc<[Box<str>]>,
}

/// Where keys are fetched.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeySource {
    /// The address of the key set.
    pub uri: Box<str>,
    /// How long one fetch may take.
    pub timeout: Duration,
}

/// A place of a request where a token may be.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum TokenPlace {
    /// A header field.
    Header {
        /// Its lower-case name.
        name: Box<str>,
        /// What stands before the token.
        prefix: Box<str>,
    },
    /// A parameter of the query.
    Query(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// A header field that gets a claim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClaimHeader {
    /// Its lower-case name.
    pub header: Box<str>,
    /// The claim, or the names of nested ones with dots between them.
    pub claim: Box<str>,
}

/// Checks a signature: key, algorithm, what was signed, signature. The key fits the algorithm.
pub type CheckSignature<'a> = dyn Fn(&KeyMaterial, Algorithm, &[u8], &[u8]) -> bool + 'a;

/// Which rule accepted a token, and what it is allowed from and until.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Accepted {
    /// The token.
    pub token: VerifiedToken,
    /// The rule, by its policy's and its own place in the set.
    pub rule: (usize, usize),
    /// The token's own claims of time, to be looked at again each time it comes.
    pub times: crate::token::Claims,
}

/// All that binds one workload.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RequestAuthenticationSet {
    policies: Vec<Arc<RequestAuthentication>>,
    unresolved: Option<ResourceName>,
    places: Vec<TokenPlace>,
    written_headers: Vec<Box<str>>,
}

// === impl TokenPlace ===

impl TokenPlace {
    /// Where tokens are looked for if a rule does not say.
    pub fn defaults() -> Vec<Self> {
        let header = Self::Header { name: "authorization".into(), prefix: "Bearer ".into() };
        vec![header, Self::Query("access_token".into())]
    }
}

// === impl RequestAuthenticationSet ===

impl RequestAuthenticationSet {
    /// Joins the policies that a workload names; `None` stands for one that is not held.
    pub fn new(named: impl IntoIterator<Item = (ResourceName, Option<Arc<RequestAuthentication>>)>) -> Self {
        let mut set = Self::default();
        for (name, policy) in named {
            let Some(policy) = policy else {
                set.unresolved = Some(name);
                continue;
            };
            for rule in &policy.rules {
                for place in &rule.places {
                    if !set.places.contains(place) {
                        set.places.push(place.clone());
                    }
                }
                for header in rule.written_headers() {
                    if !set.written_headers.iter().any(|held| **held == *header) {
                        set.written_headers.push(header.into());
                    }
                }
            }
            set.policies.push(policy);
        }
        set
    }

    /// Whether no policy binds the workload.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.unresolved.is_none()
    }

    /// A policy that binds the workload and is not held: nothing may pass.
    pub fn unresolved(&self) -> Option<&ResourceName> {
        self.unresolved.as_ref()
    }

    /// Where tokens are looked for.
    pub fn places(&self) -> &[TokenPlace] {
        &self.places
    }

    /// The fields that rules write: they never pass as a client sent them.
    pub fn written_headers(&self) -> &[Box<str>] {
        &self.written_headers
    }

    /// A rule that accepted a token.
    pub fn rule(&self, (policy, rule): (usize, usize)) -> Option<&JwtRule> {
        self.policies.get(policy)?.rules.get(rule)
    }

    /// All rules, with their places in the set.
    pub fn rules(&self) -> impl Iterator<Item = ((usize, usize), &JwtRule)> {
        self.policies.iter().enumerate().flat_map(|(policy, held)| {
            held.rules.iter().enumerate().map(move |(rule, held)| ((policy, rule), held))
        })
    }

    /// Judges a token that was found at a place, at a time (seconds since 1970).
    pub fn accept(
        &self,
        text: &str,
        place: &TokenPlace,
        now: i64,
        check: &CheckSignature<'_>,
    ) -> Result<Accepted, TokenError> {
        let token = Token::parse(text)?;
        let Some(issuer) = token.claims.issuer() else { return Err(TokenError::IssuerUnknown) };
        let mut failed = TokenError::IssuerUnknown;
        for (at, rule) in self.rules().filter(|(_, rule)| *rule.issuer == *issuer) {
            match rule.accept(&token, place, now, check) {
                Ok(()) => {
                    let delimited = rule.space_delimited.clone();
                    let verified = VerifiedToken::new(token.claims.all.clone(), token.payload, delimited);
                    return Ok(Accepted { token: verified, rule: at, times: token.claims });
                }
                // The one that came furthest says most.
                Err(error) if rank(&error) >= rank(&failed) => failed = error,
                Err(_) => {}
            }
        }
        Err(failed)
    }
}

fn rank(error: &TokenError) -> u8 {
    match error {
        TokenError::IssuerUnknown => 0,
        TokenError::Misplaced => 1,
        TokenError::Expired | TokenError::NotYetValid => 2,
        TokenError::Audience => 3,
        TokenError::KeyUnknown => 4,
        TokenError::Signature => 5,
        TokenError::KeysUnresolved => 6,
        _ => 7,
    }
}

// === impl JwtRule ===

impl JwtRule {
    /// An issuer's tokens in the usual places, for whichever audience; of them nothing is forwarded and no field
    /// is written.
    pub fn new(issuer: &str, keys: Option<Arc<[Jwk]>>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences: Vec::new(),
            keys,
            key_source: None,
            places: TokenPlace::defaults(),
            forward: false,
            payload_header: None,
            claim_headers: Vec::new(),
            space_delimited: Arc::default(),
        }
    }

    /// The fields that it writes.
    pub fn written_headers(&self) -> impl Iterator<Item = &str> {
        self.payload_header.as_deref().into_iter().chain(self.claim_headers.iter().map(|held| &*held.header))
    }

    fn accept(
        &self,
        token: &Token<'_>,
        place: &TokenPlace,
        now: i64,
        check: &CheckSignature<'_>,
    ) -> Result<(), TokenError> {
        if !self.places.contains(place) {
            return Err(TokenError::Misplaced);
        }
        token.claims.check_time(now, CLOCK_LEEWAY)?;
        if !(self.audiences.is_empty() || token.claims.is_for(&self.audiences)) {
            return Err(TokenError::Audience);
        }
        let Some(keys) = &self.keys else { return Err(TokenError::KeysUnresolved) };
        let (signed, id) = (token.signed.as_bytes(), token.key_id.as_deref());
        let mut failed = TokenError::KeyUnknown;
        for key in keys.iter().filter(|key| key.fits(token.algorithm, id)) {
            if check(&key.material, token.algorithm, signed, &token.signature) {
                return Ok(());
            }
            failed = TokenError::Signature;
        }
        Err(failed)
    }
}

#[cfg(test)]
mod tests;
