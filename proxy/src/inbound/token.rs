//! Tokens of requests: found, checked, taken out, and their claims put in.
//!
//! Runs before any rule is looked at, so that rules see the request as the application will: without
//! the token (unless its rule forwards it), with the fields that its rule writes. A field of such a name
//! that a client sent is removed always, in any spelling. Checked signatures are remembered per worker; time, place and
//! rule are looked at again whenever a token comes again.

use super::signature;
use crate::http::{Headers, Known, RequestHead};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use weft_model::reason::Reason;
use weft_model::request_authentication::{
    Accepted, CLOCK_LEEWAY, JwtRule, RequestAuthenticationSet, TokenPlace,
};
use weft_model::token::{TOKEN_LENGTH_MAX, TokenError, VerifiedToken};

/// Tokens of each of the two halves of the cache: at 1 to 2 KiB each with their claims, a few MiB per
/// worker at most.
const REMEMBERED_MAX: usize = 1024;
/// Bytes of the tokens of a half; large tokens take more room.
const REMEMBERED_BYTES_MAX: usize = 2 << 20;
/// The longest realm, as Envoy has it.
const REALM_LENGTH_MAX: usize = 256;

/// Why a request's token is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(transparent)]
pub struct Refused(#[from] TokenError);

/// Tokens that this worker has accepted, in two halves: when the young one is full, the old one is
/// forgotten. What is used moves to the young one.
#[derive(Default)]
pub struct TokenCache {
    of: RefCell<Arc<RequestAuthenticationSet>>,
    young: RefCell<HashMap<Box<str>, Rc<Accepted>>>,
    old: RefCell<HashMap<Box<str>, Rc<Accepted>>>,
    young_bytes: Cell<usize>,
    checks: Cell<u64>,
}

/// A token as it was found, with all places that hold it.
struct Found {
    text: String,
    places: Vec<TokenPlace>,
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

/// Finds and checks the request's token, and edits the request as its rule says. `Ok(None)`: the
/// request is anonymous.
pub fn authenticate(
    head: &mut RequestHead,
    set: &Arc<RequestAuthenticationSet>,
    cache: &TokenCache,
    at: i64,
) -> Result<Option<Rc<Accepted>>, Refused> {
    if set.is_empty() {
        return Ok(None);
    }
    let found = find(head, set.places());
    for name in set.written_headers() {
        head.headers_mut().remove_spellings(name);
    }
    let accepted = found.and_then(|found| match found {
        Some(found) => cache.accept(set, &found, at).map(|accepted| Some((found, accepted))),
        None => Ok(None),
    });
    match accepted {
        Ok(None) => Ok(None),
        Ok(Some((found, accepted))) => {
            if let Some(rule) = set.rule(accepted.rule) {
                if !rule.forward {
                    remove(head, &found.places, Some(&found.text));
                }
                write(head.headers_mut(), rule, &accepted.token);
            }
            Ok(Some(accepted))
        }
        Err(error) => {
            // Not for the log either.
            remove(head, set.places(), None);
            Err(Refused(error))
        }
    }
}

/// Whether the query holds what may be a token: one that nobody has looked at, or that is forwarded.
pub fn may_be_in_query(head: &RequestHead, set: &RequestAuthenticationSet) -> bool {
    let Some(query) = head.query() else { return false };
    set.places().iter().any(|place| match place {
        TokenPlace::Query(name) => parameters(query).any(|(key, _)| *decode(key) == *name.as_bytes()),
        TokenPlace::Header { .. } | TokenPlace::Cookie(_) => false,
    })
}

/// Takes whatever may be a token out of a request: the log must not see it.
pub fn hide(head: &mut RequestHead, set: &RequestAuthenticationSet) {
    remove(head, set.places(), None);
}

/// What `WWW-Authenticate` says (RFC 6750, in Envoy's words), if the answer has one.
pub fn challenge(head: &RequestHead, reason: Reason) -> Option<String> {
    if reason.status() != 401 {
        return None;
    }
    let mut realm = format!("http://{}{}", head.authority(), head.path());
    if realm.contains(['"', '\\']) {
        realm.clear();
    }
    realm.truncate(realm.floor_char_boundary(REALM_LENGTH_MAX));
    Some(format!("Bearer realm=\"{realm}\", error=\"invalid_token\""))
}

// === impl Refused ===

impl Refused {
    /// What is answered.
    pub fn reason(&self) -> Reason {
        match self.0 {
            TokenError::Audience => Reason::JwtAudienceRefused,
            TokenError::KeysUnresolved => Reason::JwtKeysUnresolved,
            _ => Reason::JwtInvalid,
        }
    }
}

// === impl TokenCache ===

impl TokenCache {
    /// How many signatures were checked.
    pub fn checks(&self) -> u64 {
        self.checks.get()
    }

    fn accept(
        &self,
        set: &Arc<RequestAuthenticationSet>,
        found: &Found,
        at: i64,
    ) -> Result<Rc<Accepted>, TokenError> {
        if !Arc::ptr_eq(&self.of.borrow(), set) {
            self.young.borrow_mut().clear();
            self.old.borrow_mut().clear();
            self.young_bytes.set(0);
            *self.of.borrow_mut() = set.clone();
        }
        if let Some(held) = self.remembered(set, found) {
            held.times.check_time(at, CLOCK_LEEWAY)?;
            return Ok(held);
        }
        let check = |key: &_, algorithm, message: &[u8], signature: &[u8]| {
            self.checks.set(self.checks.get() + 1);
            signature::check(key, algorithm, message, signature)
        };
        let mut failed = TokenError::Misplaced;
        for place in &found.places {
            match set.accept(&found.text, place, at, &check) {
                Ok(accepted) => {
                    let accepted = Rc::new(accepted);
                    self.remember(found.text.as_str().into(), accepted.clone());
                    return Ok(accepted);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    // A token that its rule accepts at one of these places.
    fn remembered(&self, set: &RequestAuthenticationSet, found: &Found) -> Option<Rc<Accepted>> {
        let young = self.young.borrow().get(&*found.text).cloned();
        let is_new = young.is_some();
        let held = young.or_else(|| self.old.borrow_mut().remove(&*found.text))?;
        let rule = set.rule(held.rule)?;
        if !found.places.iter().any(|place| rule.places.contains(place)) {
            return None;
        }
        if !is_new {
            self.remember(found.text.as_str().into(), held.clone());
        }
        Some(held)
    }

    fn remember(&self, text: Box<str>, accepted: Rc<Accepted>) {
        let mut young = self.young.borrow_mut();
        if young.len() >= REMEMBERED_MAX || self.young_bytes.get() + text.len() > REMEMBERED_BYTES_MAX {
            *self.old.borrow_mut() = std::mem::take(&mut *young);
            self.young_bytes.set(0);
        }
        self.young_bytes.set(self.young_bytes.get() + text.len());
        young.insert(text, accepted);
    }
}

// === Where tokens are ===

// The request's token. The same token in two places is one.
fn find(head: &RequestHead, places: &[TokenPlace]) -> Result<Option<Found>, TokenError> {
    let mut found: Option<Found> = None;
    for place in places {
        let mut note = |text: &[u8]| {
            if text.len() > TOKEN_LENGTH_MAX {
                return Err(TokenError::TooLong);
            }
            let text = std::str::from_utf8(text).map_err(|_| TokenError::Form)?;
            match &mut found {
                Some(held) if held.text != text => return Err(TokenError::Several),
                Some(held) if held.places.contains(place) => {}
                Some(held) => held.places.push(place.clone()),
                None => found = Some(Found { text: text.to_owned(), places: vec![place.clone()] }),
            }
            Ok(())
        };
        match place {
            TokenPlace::Header { name, prefix } => {
                for value in head.headers().find_all(name) {
                    if let Some(text) = behind(value, prefix) {
                        note(text)?;
                    }
                }
            }
            TokenPlace::Query(name) => {
                for (key, value) in parameters(head.query().unwrap_or_default()) {
                    if *decode(key) == *name.as_bytes() {
                        note(&decode(value))?;
                    }
                }
            }
            TokenPlace::Cookie(name) => {
                for value in head.headers().get_all(Known::Cookie) {
                    for value in cookies(value).filter_map(|pair| cookie_value(pair, name)) {
                        note(value)?;
                    }
                }
            }
        }
    }
    Ok(found)
}

// What stands behind the prefix. Names of schemes know no case (RFC 9110, section 11.1).
fn behind<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    if value.is_empty() {
        return None;
    }
    // A prefix with nothing behind it comes without its last blank, and is a token that is none.
    let length = prefix.len().min(value.len().max(prefix.trim_end().len()));
    let (head, prefix) = (value.get(..length)?, &prefix.as_bytes()[..length]);
    let same = if prefix.trim_ascii_end().eq_ignore_ascii_case(b"bearer") {
        head.eq_ignore_ascii_case(prefix)
    } else {
        head == prefix
    };
    same.then(|| value[length..].trim_ascii())
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

// Percent escapes as their bytes; what is no escape stays.
fn decode(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(decoded)
}

fn cookies(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn cookie_value<'v>(pair: &'v [u8], name: &str) -> Option<&'v [u8]> {
    let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.trim_ascii();
    let quoted = value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\""));
    Some(quoted.unwrap_or(value)).filter(|value| !value.is_empty())
}

// === What the request becomes ===

// Takes a token out of these places; `None`: whatever is there.
fn remove(head: &mut RequestHead, places: &[TokenPlace], text: Option<&str>) {
    let is_it = |found: &[u8]| text.is_none_or(|text| text.as_bytes() == found);
    for place in places {
        match place {
            TokenPlace::Header { name, prefix } => head.headers_mut().retain(|field| {
                !(field.name.eq_ignore_ascii_case(name.as_bytes())
                    && behind(field.value, prefix).is_some_and(is_it))
            }),
            TokenPlace::Query(name) => {
                let Some(query) = head.query() else { continue };
                let is_it =
                    |key: &str, value: &str| *decode(key) == *name.as_bytes() && is_it(&decode(value));
                let kept = query.split('&').filter(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    !is_it(key, value)
                });
                let kept = kept.collect::<Vec<_>>().join("&");
                if kept.len() == query.len() {
                    continue;
                }
                let mark = if kept.is_empty() { "" } else { "?" };
                let target = format!("{}{mark}{kept}", head.path());
                // A part of what was a target.
                let _ = head.set_path_and_query(&target);
            }
            TokenPlace::Cookie(name) => {
                let kept: Vec<Vec<u8>> = head
                    .headers()
                    .get_all(Known::Cookie)
                    .map(|value| {
                        let others =
                            cookies(value).filter(|pair| !cookie_value(pair, name).is_some_and(is_it));
                        others.collect::<Vec<_>>().join(&b"; "[..])
                    })
                    .collect();
                head.headers_mut().remove(Known::Cookie);
                for value in kept.iter().filter(|value| !value.is_empty()) {
                    // A part of what was a field.
                    let _ = head.headers_mut().append_known(Known::Cookie, value);
                }
            }
        }
    }
}

/// Writes the fields that a rule makes of a token. A claim that is no field's value (a line end in it, say) is left
/// out: it must not become two fields.
pub fn write(headers: &mut Headers, rule: &JwtRule, token: &VerifiedToken) {
    if let Some(name) = &rule.payload_header {
        let _ = headers.append(name, token.payload().as_bytes());
    }
    for held in &rule.claim_headers {
        if let Some(value) = token.claim_value(&held.claim) {
            let _ = headers.append(&held.header, value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
