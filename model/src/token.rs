//! A signed token (JWS in compact form, RFC 7515) with the claims of a JWT (RFC 7519), read strictly.
//!
//! Reading proves nothing: [`Token`] is what a stranger wrote, [`VerifiedToken`] what a rule of a
//! RequestAuthentication accepted (`request_authentication.rs`). Refused while reading: `none`, every
//! algorithm with a shared secret, `crit`, members that come twice, other than base64url, tokens over
//! a size. What the header says about where to find a key (`jwk`, `jku`, `x5c`, `x5u`) is never looked at.

use crate::json::{Json, JsonError, Members};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;

/// The longest token. Header blocks are bounded as well; identity providers stay below 8 KiB.
pub const TOKEN_LENGTH_MAX: usize = 16 * 1024;

/// How a token is signed: with a private key, always.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(missing_docs)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

/// Why a token is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// It is longer than the limit.
    #[error("the token is longer than {TOKEN_LENGTH_MAX} bytes")]
    TooLong,
    /// It is no JWS in compact form.
    #[error("the token is not three parts of base64url")]
    Form,
    /// Its header or its claims are no JSON object.
    #[error("the token's {0}: {1}")]
    Json(&'static str, JsonError),
    /// Its header asks for what is not understood.
    #[error("the token's header has `crit`")]
    Critical,
    /// Its algorithm is none of those accepted.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// A member has another type than it must have.
    #[error("the token's `{0}` has the wrong type")]
    Member(&'static str),
    /// Its issuer has no rule.
    #[error("the token's issuer is not configured")]
    IssuerUnknown,
    /// Its issuer has a rule, but not for where the token was found.
    #[error("the token's issuer is not accepted at that place of the request")]
    Misplaced,
    /// It is not valid any more.
    #[error("the token has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It is for others.
    #[error("the token's audience is not accepted")]
    Audience,
    /// No key of the rule fits it.
    #[error("no key fits the token's algorithm and `kid`")]
    KeyUnknown,
    /// It was not signed with the rule's key.
    #[error("the token's signature does not verify")]
    Signature,
    /// The rule's keys have not been fetched.
    #[error("the keys of the token's issuer are not known yet")]
    KeysUnresolved,
    /// The request carries several tokens.
    #[error("the request carries several tokens")]
    Several,
}

/// A token as it was sent.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    /// How it says it is signed.
    pub algorithm: Algorithm,
    /// Which key it says it is signed with.
    pub key_id: Option<Box<str>>,
    /// Its claims.
    pub claims: Claims,
    /// What is signed.
    pub signed: &'a str,
    /// The claims as they were sent.
    pub payload: &'a str,
    /// The signature.
    pub signature: Vec<u8>,
}

/// What a token says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claims {
    /// All of it.
    pub all: Members,
    /// `exp`, seconds since 1970.
    pub expires: Option<i64>,
    /// `nbf`, likewise.
    pub not_before: Option<i64>,
    /// `iat`, likewise.
    pub issued: Option<i64>,
}

/// A token that was accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedToken {
    claims: Members,
    payload: Box<str>,
    space_delimited: Arc<[Box<str>]>,
}

// === impl Algorithm ===

impl Algorithm {
    /// Each with its name (RFC 7518, RFC 8037).
    pub const ALL: [(&'static str, Self); 10] = [
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("ES512", Self::Es512),
        ("EdDSA", Self::EdDsa),
    ];

    /// By name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }
}

// === impl Token ===

impl<'a> Token<'a> {
    /// Reads a token.
    pub fn parse(text: &'a str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_LENGTH_MAX {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Form)?;
        // Padding, other letters and stray bits at the end are errors: one token has one spelling.
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Form);
        let signature = decode(signature)?;
        let object =
            |part: &str, what| Members::parse(&decode(part)?).map_err(|error| TokenError::Json(what, error));
        let header = object(header, "header")?;
        if header.has("crit") {
            return Err(TokenError::Critical);
        }
        let algorithm = header.text("alg").and_then(Algorithm::of).ok_or(TokenError::Algorithm)?;
        let key_id = match header.get("kid") {
            Some(Json::Text(kid)) => Some(kid.clone()),
            Some(_) => return Err(TokenError::Member("kid")),
            None => None,
        };
        let claims = Claims::new(object(payload, "claims")?)?;
        Ok(Self { algorithm, key_id, claims, signed, payload, signature })
    }
}

// === impl Claims ===

impl Claims {
    /// Checks the claims that have a meaning here.
    pub fn new(all: Members) -> Result<Self, TokenError> {
        for name in ["iss", "sub"] {
            if all.get(name).is_some_and(|value| value.as_text().is_none()) {
                return Err(TokenError::Member(name));
            }
        }
        let audience = match all.get("aud") {
            None | Some(Json::Text(_)) => true,
            Some(Json::List(items)) => items.iter().all(|item| item.as_text().is_some()),
            Some(_) => false,
        };
        if !audience {
            return Err(TokenError::Member("aud"));
        }
        let (expires, not_before) = (date(&all, "exp")?, date(&all, "nbf")?);
        let issued = date(&all, "iat")?;
        Ok(Self { all, expires, not_before, issued })
    }

    /// Who issued it.
    pub fn issuer(&self) -> Option<&str> {
        self.all.text("iss")
    }

    /// Whether it is for one of these.
    pub fn is_for(&self, audiences: &[Box<str>]) -> bool {
        let accepted = |name: &str| audiences.iter().any(|audience| **audience == *name);
        match self.all.get("aud") {
            Some(Json::Text(name)) => accepted(name),
            Some(Json::List(items)) => items.iter().filter_map(Json::as_text).any(accepted),
            _ => false,
        }
    }

    /// Whether it is valid at a time (seconds since 1970), with some leeway for clocks that differ.
    pub fn check_time(&self, now: i64, leeway: i64) -> Result<(), TokenError> {
        if self.expires.is_some_and(|expires| now >= expires.saturating_add(leeway)) {
            return Err(TokenError::Expired);
        }
        let early = |from: Option<i64>| from.is_some_and(|from| now < from.saturating_sub(leeway));
        if early(self.not_before) || early(self.issued) {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }
}

// A NumericDate: seconds since 1970, perhaps with a fraction. What no calendar has is an error.
fn date(claims: &Members, name: &'static str) -> Result<Option<i64>, TokenError> {
    const LATEST: f64 = 253_402_300_800.0;
    let seconds = match claims.get(name) {
        None => return Ok(None),
        Some(Json::Number(text)) => {
            text.parse::<f64>().ok().filter(|seconds| (0.0..LATEST).contains(seconds))
        }
        Some(_) => None,
    };
    // Within the range above every value fits.
    seconds.map(|seconds| Some(seconds as i64)).ok_or(TokenError::Member(name))
}

// === impl VerifiedToken ===

impl VerifiedToken {
    /// What was accepted. `payload`: the claims in base64url, as they were sent; `space_delimited`: the
    /// claims whose text is a list with blanks between its items.
    pub fn new(claims: Members, payload: &str, space_delimited: Arc<[Box<str>]>) -> Self {
        Self { claims, payload: payload.into(), space_delimited }
    }

    /// `iss`
    pub fn issuer(&self) -> &str {
        self.claims.text("iss").unwrap_or_default()
    }

    /// `sub`; empty if there is none.
    pub fn subject(&self) -> &str {
        self.claims.text("sub").unwrap_or_default()
    }

    /// The claims in base64url, as they were sent.
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// All claims.
    pub fn claims(&self) -> &Members {
        &self.claims
    }

    /// Calls `visit` with each text of a claim (its own, or those of a list) until it returns `false`.
    /// `path`: the claim's name, then names within it. Other than texts are no values, as in Istio.
    pub fn visit_claim<'t>(&'t self, path: &[Box<str>], mut visit: impl FnMut(&'t str) -> bool) {
        let Some((first, rest)) = path.split_first() else { return };
        let Some(mut value) = self.claims.get(first) else { return };
        for name in rest {
            let Some(inner) = value.as_object().and_then(|members| members.get(name)) else { return };
            value = inner;
        }
        match value {
            Json::Text(text) if rest.is_empty() && self.space_delimited.contains(first) => {
                let _ = text.split(' ').filter(|word| !word.is_empty()).all(visit);
            }
            Json::Text(text) => {
                let _ = visit(text);
            }
            Json::List(items) => {
                let _ = items.iter().filter_map(Json::as_text).all(visit);
            }
            _ => {}
        }
    }

    /// A claim as a header's value: text, whole numbers and booleans. `name` is a claim's, or the names
    /// of claims within claims with dots between them.
    pub fn claim_value(&self, name: &str) -> Option<&str> {
        let nested = || {
            let mut names = name.split('.');
            let mut value = self.claims.get(names.next()?)?;
            for name in names {
                value = value.as_object()?.get(name)?;
            }
            Some(value)
        };
        match self.claims.get(name).or_else(nested)? {
            Json::Text(text) => Some(text),
            Json::Flag(true) => Some("true"),
            Json::Flag(false) => Some("false"),
            Json::Number(number) if number.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) => {
                Some(number)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
