//! Cross-origin requests (GEP-1767, the Fetch standard's CORS protocol): who may read answers.
//!
//! Browsers enforce it; the mesh only says what a route's owner allows. It is no authorization: a
//! client that is not a browser is not bound by it.

use std::fmt::Write;
use std::time::Duration;

/// What a route allows to pages of other origins.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cors {
    /// Whose pages.
    pub origins: Vec<OriginMatch>,
    /// Whether with cookies and certificates.
    pub credentials: bool,
    /// By which methods, beyond GET, HEAD and POST.
    pub methods: Listed,
    /// With which request headers.
    pub headers: Listed,
    /// Which headers of the answer pages may read.
    pub expose: Listed,
    /// How long a preflight's answer is kept.
    pub max_age: Duration,
}

/// Names, or any.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listed {
    /// `*`.
    Any,
    /// These, as written.
    Names(Vec<Box<str>>),
}

/// An origin that is allowed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OriginMatch {
    /// `*`.
    Any,
    /// `scheme://host` or `scheme://host:port`, in lower case.
    Exact(Box<str>),
    /// `scheme://*.domain`: what is between the two parts is one or more labels.
    Subdomains {
        /// `scheme://`
        scheme: Box<str>,
        /// `.domain`, or `.domain:port`
        suffix: Box<str>,
    },
}

/// Fields of an answer, in order.
pub type Fields = Vec<(&'static str, String)>;

// === impl OriginMatch ===

impl OriginMatch {
    /// Reads `*`, `scheme://host[:port]` or `scheme://*.domain[:port]`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        let (scheme, authority) = lower.split_once("://")?;
        let scheme_is_valid = scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, port.parse::<u16>().ok().filter(|port| *port != 0).map(|_| port)?)
            }
            _ => (authority, ""),
        };
        let is_host = |host: &str| {
            !host.is_empty()
                && host.len() <= 253
                && host.split('.').all(|label| {
                    !label.is_empty()
                        && label
                            .bytes()
                            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                })
        };
        if !scheme_is_valid {
            return None;
        }
        let port = if port.is_empty() { String::new() } else { format!(":{port}") };
        match host.strip_prefix("*.") {
            Some(domain) => is_host(domain).then(|| Self::Subdomains {
                scheme: format!("{scheme}://").into(),
                suffix: format!(".{domain}{port}").into(),
            }),
            None => is_host(host).then(|| Self::Exact(format!("{scheme}://{host}{port}").into())),
        }
    }

    /// As it is written.
    pub fn text(&self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::Exact(text) => text.to_string(),
            Self::Subdomains { scheme, suffix } => format!("{scheme}*{suffix}"),
        }
    }

    /// Whether the origin, as a browser sends it, is meant.
    pub fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(text) => origin.eq_ignore_ascii_case(text),
            Self::Subdomains { scheme, suffix } => {
                let origin = origin.to_ascii_lowercase();
                let rest = origin.strip_prefix(&**scheme).and_then(|rest| rest.strip_suffix(&**suffix));
                rest.is_some_and(|labels| {
                    !labels.is_empty() && labels.bytes().all(|byte| !matches!(byte, b'/' | b':' | b'@'))
                })
            }
        }
    }
}

// === impl Listed ===

impl Default for Listed {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

impl Listed {
    /// The field's value; `asked` stands for `*` where that is not allowed.
    fn value(&self, credentials: bool, asked: Option<&str>) -> Option<String> {
        match self {
            // With credentials a browser takes `*` by the letter.
            Self::Any if credentials => asked.map(str::to_owned),
            Self::Any => Some("*".to_owned()),
            Self::Names(names) if names.is_empty() => None,
            Self::Names(names) => {
                let mut text = String::new();
                for (index, name) in names.iter().enumerate() {
                    let _ = write!(text, "{}{name}", if index == 0 { "" } else { ", " });
                }
                Some(text)
            }
        }
    }
}

// === impl Cors ===

impl Cors {
    /// Whether pages of the origin are allowed.
    pub fn allows(&self, origin: &str) -> bool {
        // What is echoed must not be able to carry anything else.
        (1..=512).contains(&origin.len())
            && origin.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
            && self.origins.iter().any(|allowed| allowed.matches(origin))
    }

    /// What is said in the answer to a preflight. Empty where the origin is not allowed: the browser
    /// then refuses.
    pub fn preflight(&self, origin: &str, method: &str, headers: Option<&str>) -> Fields {
        if !self.allows(origin) {
            return Vec::new();
        }
        let mut fields = self.allow(origin);
        if let Some(value) = self.methods.value(self.credentials, Some(method)) {
            fields.push(("access-control-allow-methods", value));
        }
        if let Some(value) = self.headers.value(self.credentials, headers) {
            fields.push(("access-control-allow-headers", value));
        }
        fields.push(("access-control-max-age", self.max_age.as_secs().to_string()));
        fields
    }

    /// What is said in the answer to a request, made by a page of that origin or by none.
    pub fn answer(&self, origin: Option<&str>) -> Fields {
        let Some(origin) = origin.filter(|origin| self.allows(origin)) else {
            // Another origin would be told otherwise, and caches must know (the Fetch standard, "CORS
            // protocol and HTTP caches").
            let fixed = self.origins.contains(&OriginMatch::Any) && !self.credentials;
            return if fixed { Vec::new() } else { vec![("vary", "Origin".to_owned())] };
        };
        let mut fields = self.allow(origin);
        // `*` is all but what needs credentials; with them it would be a header's name.
        if let Some(value) = self.expose.value(self.credentials, None) {
            fields.push(("access-control-expose-headers", value));
        }
        fields
    }

    fn allow(&self, origin: &str) -> Fields {
        let mut fields = Vec::new();
        if self.origins.contains(&OriginMatch::Any) && !self.credentials {
            fields.push(("access-control-allow-origin", "*".to_owned()));
        } else {
            fields.push(("access-control-allow-origin", origin.to_owned()));
            // Caches must not give one origin's answer to another.
            fields.push(("vary", "Origin".to_owned()));
        }
        if self.credentials {
            fields.push(("access-control-allow-credentials", "true".to_owned()));
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        let origins = origins.iter().map(|text| OriginMatch::parse(text).unwrap()).collect();
        let names = |names: &[&str]| Listed::Names(names.iter().map(|name| (*name).into()).collect());
        Cors {
            origins,
            methods: names(&["PUT", "DELETE"]),
            headers: names(&["x-a"]),
            expose: names(&["x-b", "x-c"]),
            max_age: Duration::from_secs(5),
            ..Cors::default()
        }
    }

    #[test]
    fn origins_match_by_scheme_host_and_port() {
        let matches = |pattern: &str, origin: &str| OriginMatch::parse(pattern).unwrap().matches(origin);
        assert!(matches("https://shop.example", "https://SHOP.example"));
        assert!(!matches("https://shop.example", "http://shop.example"));
        assert!(!matches("https://shop.example", "https://shop.example:8443"));
        assert!(matches("https://*.example:8443", "https://a.b.example:8443"));
        assert!(!matches("https://*.example", "https://example"));
        assert!(!matches("https://*.example", "https://evil.test/.example"));
        assert!(!matches("https://*.example", "https://evilexample"));
        assert!(matches("*", "null"));
        for text in [
            "",
            "shop.example",
            "https://",
            "https://a b",
            "https://a/",
            "https://*",
            "https://a:0",
            "https://a.*.b",
        ] {
            assert_eq!(OriginMatch::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_preflight_says_what_is_allowed() {
        let fields = cors(&["https://a.example"]).preflight("https://a.example", "PUT", Some("x-a"));
        let value = |name| fields.iter().find(|(held, _)| *held == name).map(|(_, value)| value.as_str());
        assert_eq!(value("access-control-allow-origin"), Some("https://a.example"));
        assert_eq!(value("vary"), Some("Origin"));
        assert_eq!(value("access-control-allow-methods"), Some("PUT, DELETE"));
        assert_eq!(value("access-control-allow-headers"), Some("x-a"));
        assert_eq!(value("access-control-max-age"), Some("5"));
        assert_eq!(value("access-control-allow-credentials"), None);
        assert!(cors(&["https://a.example"]).preflight("https://b.example", "PUT", None).is_empty());
    }

    #[test]
    fn with_credentials_nothing_is_a_star() {
        let open = Cors { methods: Listed::Any, headers: Listed::Any, expose: Listed::Any, ..cors(&["*"]) };
        assert!(
            open.preflight("https://a", "PUT", Some("x-z"))
                .contains(&("access-control-allow-methods", "*".to_owned()))
        );
        let closed = Cors { credentials: true, ..open };
        let fields = closed.preflight("https://a", "PUT", Some("x-z"));
        assert!(fields.iter().all(|(_, value)| value != "*"), "{fields:?}");
        assert!(fields.contains(&("access-control-allow-headers", "x-z".to_owned())));
        assert!(
            closed.answer(Some("https://a")).iter().all(|(name, _)| *name != "access-control-expose-headers")
        );
    }

    #[test]
    fn an_origin_that_could_carry_more_than_itself_is_not_echoed() {
        for origin in ["https://a,https://b", "https://a\r\nx: y", "https://a b", ""] {
            assert!(cors(&["*"]).answer(Some(origin)).is_empty(), "{origin:?}");
        }
        assert!(cors(&["*"]).answer(Some(&format!("https://{}", "a".repeat(600)))).is_empty());
        let vary = [("vary", "Origin".to_owned())];
        assert_eq!(cors(&["https://a"]).answer(None), vary);
        assert_eq!(cors(&["https://a"]).answer(Some("https://b")), vary);
    }
}
