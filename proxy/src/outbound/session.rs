//! Sessions (GEP-1619): a client's requests stay with one endpoint, by a token that the client carries.
//!
//! A token names its endpoint by a digest over what is called and the workload's UID, never by an address,
//! and says when the session began and was last used. It is looked up among the backends of the rule and
//! believed for nothing else: a made-up one leads to an endpoint of one of these backends, of one whose weight
//! is 0 by now, too (who has a session there keeps it, as GEP-1619 wants), or to none, and then the balancer
//! picks. Nothing is kept here: every proxy understands every
//! other's tokens, before and after a restart.

use super::Port;
use super::balancer::Balancer;
use super::replica::{Replica, SessionDigest};
use crate::http::{Headers, Known};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};
use weft_model::route::{PathMatch, RouteRule, SessionCarrier, SessionPersistence, ValueMatch};

/// The first byte of a token: what it means may change.
const VERSION: u8 = 1;

/// A token's bytes: the version, the digest, two times.
const TOKEN_BYTES: usize = 1 + size_of::<SessionDigest>() + 2 * TIME_BYTES;

/// A time's bytes, in seconds: enough for 34,000 years.
const TIME_BYTES: usize = 5;

/// How far ahead of ours another proxy's clock may be.
const CLOCK_SKEW: u64 = 60;

/// A client that sends more tokens than cookies of several paths would explain gets no more looked up.
const TOKENS_MAX: usize = 4;

/// A request's session.
pub struct Session {
    now: u64,
    /// What came with the request, and the endpoint that it names.
    held: Option<(Token, Rc<Replica>)>,
    /// The path of a new cookie; `None` where a policy of the Service is not for any one path.
    path: Option<String>,
}

#[derive(Clone, Copy)]
struct Token {
    digest: SessionDigest,
    began: u64,
    used: u64,
}

/// What says that requests to a port have sessions: the rule, with its match, or else the Service's policy.
pub fn policy_of<'a>(
    rule: Option<(&'a RouteRule, &'a PathMatch)>,
    port: &'a Port,
) -> Option<(&'a SessionPersistence, Option<&'a PathMatch>)> {
    match rule {
        Some((RouteRule { session: Some(policy), .. }, matched)) => Some((policy, Some(matched))),
        _ => port.model.traffic.session.as_ref().map(|policy| (policy, None)),
    }
}

// === impl Session ===

impl Session {
    /// One that begins.
    pub fn begin(policy: &SessionPersistence, matched: Option<&PathMatch>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let path = matched.filter(|_| policy.carrier != SessionCarrier::Header).map(cookie_path);
        Self { now, held: None, path }
    }

    /// The one that a request names by its tokens, if its endpoint is one of these and can be asked.
    pub fn find(
        policy: &SessionPersistence,
        matched: Option<&PathMatch>,
        headers: &Headers,
        balancer: &Balancer,
    ) -> Option<Self> {
        let mut session = Self::begin(policy, matched);
        let (now, instant) = (session.now, Instant::now());
        let held = |text: &[u8]| {
            let token = Token::parse(text).filter(|token| token.is_alive(policy, now))?;
            Some((token, balancer.find_session(&token.digest, instant)?))
        };
        session.held = if policy.carrier == SessionCarrier::Header {
            headers.find_all(&policy.name).take(TOKENS_MAX).find_map(held)
        } else {
            let pairs = headers.get_all(Known::Cookie).flat_map(|field| field.split(|byte| *byte == b';'));
            let named = pairs.filter_map(|pair| cookie_value(pair, policy.name.as_bytes()));
            named.take(TOKENS_MAX).find_map(held)
        };
        session.held.is_some().then_some(session)
    }

    /// The session's endpoint.
    pub fn replica(&self) -> Option<Rc<Replica>> {
        self.held.as_ref().map(|(_, replica)| replica.clone())
    }

    /// Tells the client with which endpoint its session is, where that is news.
    pub fn answer(&self, policy: &SessionPersistence, digest: SessionDigest, headers: &mut Headers) {
        let held = self.held.as_ref().map(|(token, _)| *token);
        self.tell(policy, held.filter(|token| token.digest == digest), digest, headers);
    }

    fn tell(
        &self,
        policy: &SessionPersistence,
        held: Option<Token>,
        digest: SessionDigest,
        headers: &mut Headers,
    ) {
        let is_news = held.is_none_or(|token| policy.idle_timeout.is_some() && token.used < self.now);
        let token = Token { digest, began: held.map_or(self.now, |token| token.began), used: self.now };
        // Values are base64, times and a path that was checked.
        if policy.carrier == SessionCarrier::Header {
            let _ = headers.insert(&policy.name, token.text().as_bytes());
        } else if is_news {
            let _ = headers.append_known(Known::SetCookie, self.cookie(policy, &token).as_bytes());
        }
    }

    fn cookie(&self, policy: &SessionPersistence, token: &Token) -> String {
        let mut text = format!("{}={}", policy.name, token.text());
        if let Some(path) = &self.path {
            let _ = write!(text, "; Path={path}");
        }
        text.push_str("; HttpOnly; SameSite=Lax");
        if policy.carrier == SessionCarrier::PermanentCookie
            && let Some(timeout) = policy.absolute_timeout
        {
            let age = Duration::from_secs(self.now.saturating_sub(token.began));
            // Up to a whole second: a cookie of none would be deleted.
            let left = timeout.saturating_sub(age).as_millis().div_ceil(1000);
            let _ = write!(text, "; Max-Age={left}");
        }
        text
    }
}

/// The value of a cookie of that name.
fn cookie_value<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"=")?;
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// The path for which a cookie is sent: what of the match every path begins with (GEP-1619, "Path").
fn cookie_path(matched: &PathMatch) -> String {
    let path = match matched {
        PathMatch::Exact(text) | PathMatch::Prefix(text) => text.to_string(),
        PathMatch::Regex(pattern) => {
            let source = pattern.as_str();
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'~');
            let end = source.bytes().position(|byte| !plain(byte)).unwrap_or(source.len());
            let whole = source.get(..end).filter(|_| !source.contains('|')).unwrap_or_default();
            // The last element may go on, be repeated or be left out.
            let elements =
                if end == source.len() { Some(whole) } else { whole.rsplit_once('/').map(|(head, _)| head) };
            elements.unwrap_or_default().to_owned()
        }
        PathMatch::Rpc {
            service: Some(ValueMatch::Exact(service)),
            method: Some(ValueMatch::Exact(method)),
        } => {
            format!("/{service}/{method}")
        }
        PathMatch::Rpc { service: Some(ValueMatch::Exact(service)), .. } => format!("/{service}"),
        PathMatch::Rpc { .. } => String::new(),
    };
    // A cookie's attributes end at a semicolon.
    if path.starts_with('/') && !path.contains(';') { path } else { "/".to_owned() }
}

// === impl Token ===

impl Token {
    fn parse(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        // Its length is checked before it is decoded, and again by what was decoded.
        if text.len() != TOKEN_BYTES.div_ceil(3) * 4
            || URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) != Ok(TOKEN_BYTES)
            || bytes[0] != VERSION
        {
            return None;
        }
        let (digest, times) = bytes.get(1..)?.split_first_chunk()?;
        let digest = SessionDigest(*digest);
        let (began, used) = times.split_at_checked(TIME_BYTES)?;
        let time = |bytes: &[u8]| bytes.iter().fold(0, |time, byte| time << 8 | u64::from(*byte));
        Some(Self { digest, began: time(began), used: time(used) })
    }

    fn text(&self) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.push(VERSION);
        bytes.extend(self.digest.0);
        for time in [self.began, self.used] {
            bytes.extend_from_slice(&time.to_be_bytes()[size_of::<u64>() - TIME_BYTES..]);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn is_alive(&self, policy: &SessionPersistence, now: u64) -> bool {
        let within = |since: u64, timeout: Option<Duration>| {
            let age = Duration::from_secs(now.saturating_sub(since));
            since <= now.saturating_add(CLOCK_SKEW) && timeout.is_none_or(|timeout| age < timeout)
        };
        within(self.began, policy.absolute_timeout) && within(self.used, policy.idle_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::route::Pattern;

    fn policy(carrier: SessionCarrier, absolute: Option<u64>, idle: Option<u64>) -> SessionPersistence {
        let seconds = |timeout: Option<u64>| timeout.map(Duration::from_secs);
        SessionPersistence {
            carrier,
            name: "sticky".into(),
            absolute_timeout: seconds(absolute),
            idle_timeout: seconds(idle),
        }
    }

    const TOKEN: Token = Token { digest: SessionDigest([7; 16]), began: 1_000, used: 1_500 };

    #[test]
    fn tokens_are_read_as_they_were_written_and_nothing_else_is() {
        let text = TOKEN.text();
        let read = Token::parse(text.as_bytes()).unwrap();
        assert_eq!((read.digest, read.began, read.used), (TOKEN.digest, TOKEN.began, TOKEN.used));
        let longer = format!("{text}A");
        let other = format!("B{}", &text[1..]);
        for wrong in
            ["", "a", &text[1..], &longer, &other, &"=".repeat(text.len()), &"\u{e9}".repeat(text.len() / 2)]
        {
            assert!(Token::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn sessions_end_by_age_and_by_idleness() {
        let alive =
            |absolute, idle, now| TOKEN.is_alive(&policy(SessionCarrier::Header, absolute, idle), now);
        assert!(alive(None, None, 1_000_000));
        assert!(alive(Some(600), None, 1_599) && !alive(Some(600), None, 1_600));
        assert!(alive(None, Some(100), 1_599) && !alive(None, Some(100), 1_600));
        assert!(
            alive(None, None, 1_440) && !alive(None, None, 1_439),
            "from the future, by more than clocks differ"
        );
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let value = |pair: &str| cookie_value(pair.as_bytes(), b"sticky").map(<[u8]>::to_vec);
        assert_eq!(value(" sticky=a "), Some(b"a".to_vec()));
        assert_eq!(value("sticky=\"a\""), Some(b"a".to_vec()));
        for other in ["sticky", "sticky2=a", "nonsticky=a", "Sticky=a", ""] {
            assert_eq!(value(other), None, "{other}");
        }
    }

    #[test]
    fn a_cookies_path_is_what_all_that_match_begin_with() {
        let regex = |source| PathMatch::Regex(Pattern::new(source).unwrap());
        let exact = |text: &str| Some(ValueMatch::Exact(text.into()));
        for (matched, path) in [
            (PathMatch::prefix("/"), "/"),
            (PathMatch::prefix("/cart/"), "/cart"),
            (PathMatch::Exact("/cart/pay".into()), "/cart/pay"),
            (PathMatch::Exact("/a;b".into()), "/"),
            (regex("/p1/p2/.*/p3"), "/p1/p2"),
            (regex("/p1/p2*"), "/p1"),
            (regex("/p1"), "/p1"),
            (regex("/p1|/p2"), "/"),
            (regex(".*"), "/"),
            (PathMatch::Rpc { service: exact("a.B"), method: exact("C") }, "/a.B/C"),
            (PathMatch::Rpc { service: exact("a.B"), method: None }, "/a.B"),
            (PathMatch::Rpc { service: None, method: exact("C") }, "/"),
        ] {
            assert_eq!(cookie_path(&matched), path);
        }
    }

    #[test]
    fn clients_are_told_what_is_new_to_them() {
        let session = Session { now: 1_600, held: None, path: Some("/cart".to_owned()) };
        let told = |carrier, absolute, idle, held: Option<Token>, digest| {
            let mut headers = Headers::new();
            let held = held.filter(|token| token.digest == digest);
            session.tell(&policy(carrier, absolute, idle), held, digest, &mut headers);
            headers
                .iter()
                .next()
                .map(|field| (field.name_str().to_owned(), field.value_str().unwrap().to_owned()))
        };
        let new = Token { digest: SessionDigest([7; 16]), began: 1_600, used: 1_600 }.text();
        let cookie = |more: &str| Some(("set-cookie".to_owned(), format!("sticky={more}")));
        let (seven, eight) = (SessionDigest([7; 16]), SessionDigest([8; 16]));
        let attributes = "Path=/cart; HttpOnly; SameSite=Lax";
        use SessionCarrier::{Header, PermanentCookie, SessionCookie};
        assert_eq!(told(SessionCookie, None, None, None, seven), cookie(&format!("{new}; {attributes}")));
        assert_eq!(told(SessionCookie, None, None, Some(TOKEN), seven), None, "it knows");
        let moved = Token { digest: SessionDigest([8; 16]), began: 1_600, used: 1_600 }.text();
        assert_eq!(
            told(SessionCookie, None, None, Some(TOKEN), eight),
            cookie(&format!("{moved}; {attributes}"))
        );
        let used = Token { used: 1_600, ..TOKEN }.text();
        assert_eq!(
            told(PermanentCookie, Some(900), Some(300), Some(TOKEN), seven),
            cookie(&format!("{used}; {attributes}; Max-Age=300"))
        );
        assert_eq!(told(Header, None, None, Some(TOKEN), seven), Some(("sticky".to_owned(), used)));
    }
}
