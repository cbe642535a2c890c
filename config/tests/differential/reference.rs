//! Istio's semantics in plain loops over the documents as they were written. No code of the product.

use serde_json::Value;
use std::net::IpAddr;

#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) spec: Value,
    pub(crate) dry_run: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `TRUST-DOMAIN/ns/NAMESPACE/sa/NAME`
    pub(crate) principal: Option<String>,
    pub(crate) source_ip: String,
    /// Of a request always known.
    pub(crate) remote_ip: Option<String>,
    pub(crate) destination_ip: String,
    pub(crate) port: u16,
    pub(crate) sni: Option<String>,
    pub(crate) http: Option<Http>,
}

#[derive(Clone, Debug)]
pub(crate) struct Http {
    pub(crate) method: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) claims: Option<Value>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Allowed(Option<(usize, usize)>),
    Denied((usize, usize)),
    NotAllowed,
}

/// The verdict, the policy and rule that audits, and the verdict with dry runs enforced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    pub(crate) audit: Option<(usize, usize)>,
    pub(crate) shadow: Option<Verdict>,
}

impl Verdict {
    pub(crate) fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Allowed(None) => "allowed by no policy",
            Self::Allowed(Some(_)) => "allowed",
            Self::Denied(_) => "denied",
            Self::NotAllowed => "not allowed",
        }
    }
}

pub(crate) fn judge(namespace: &str, policies: &[Policy], request: &Request) -> Answer {
    let first = |action: &str, dry_run: bool| {
        policies.iter().enumerate().filter(|(_, policy)| policy.dry_run == dry_run).find_map(
            |(index, policy)| {
                if policy.action() != action {
                    return None;
                }
                let rules = policy.spec["rules"].as_array()?;
                let rule = rules.iter().position(|rule| rule_matches(namespace, action, rule, request))?;
                Some((index, rule))
            },
        )
    };
    let any_allow =
        |dry_run| policies.iter().any(|policy| policy.action() == "ALLOW" && policy.dry_run == dry_run);
    let verdict = |deny: Option<_>, any_allow: bool, allow: Option<_>| match (deny, any_allow, allow) {
        (Some(rule), _, _) => Verdict::Denied(rule),
        (None, false, _) => Verdict::Allowed(None),
        (None, true, Some(rule)) => Verdict::Allowed(Some(rule)),
        (None, true, None) => Verdict::NotAllowed,
    };
    let (deny, allow) = (first("DENY", false), first("ALLOW", false));
    let dry_runs = policies.iter().any(|policy| policy.dry_run);
    Answer {
        verdict: verdict(deny, any_allow(false), allow),
        audit: first("AUDIT", false),
        shadow: dry_runs.then(|| {
            verdict(
                deny.or_else(|| first("DENY", true)),
                any_allow(false) || any_allow(true),
                allow.or_else(|| first("ALLOW", true)),
            )
        }),
    }
}

impl Policy {
    fn action(&self) -> &str {
        self.spec["action"].as_str().unwrap_or("ALLOW")
    }
}

fn texts<'v>(object: &'v Value, key: &str) -> Vec<&'v str> {
    let list = object[key].as_array();
    list.map(|list| list.iter().map(|item| item.as_str().unwrap()).collect()).unwrap_or_default()
}

/// The items of `from` or `to`; none at all is one without conditions.
fn items(rule: &Value, list: &str, item: &str) -> Vec<Value> {
    match rule[list].as_array() {
        Some(list) => list.iter().map(|entry| entry[item].clone()).collect(),
        None => vec![Value::Null],
    }
}

const HTTP_ONLY: [&str; 8] = [
    "requestPrincipals",
    "notRequestPrincipals",
    "hosts",
    "notHosts",
    "methods",
    "notMethods",
    "paths",
    "notPaths",
];

fn rule_matches(namespace: &str, action: &str, rule: &Value, request: &Request) -> bool {
    let (sources, operations) = (items(rule, "from", "source"), items(rule, "to", "operation"));
    let conditions = rule["when"].as_array().cloned().unwrap_or_default();
    if request.http.is_none() && action == "ALLOW" {
        // The whole rule is ignored, whichever of its parts needs HTTP.
        let has = |object: &Value| HTTP_ONLY.iter().any(|key| !object[*key].is_null());
        let needs = |condition: &Value| condition["key"].as_str().unwrap().starts_with("request.");
        if sources.iter().any(has) || operations.iter().any(has) || conditions.iter().any(needs) {
            return false;
        }
    }
    sources.iter().any(|source| {
        operations.iter().any(|operation| {
            source_matches(namespace, action, source, request)
                && operation_matches(operation, request)
                && conditions.iter().all(|condition| condition_matches(namespace, action, condition, request))
        })
    })
}

/// `KEY` and `notKEY` of an object.
fn pair(object: &Value, key: &str, not: &str, test: impl Fn(&str) -> bool) -> bool {
    let (wanted, excluded) = (texts(object, key), texts(object, not));
    (wanted.is_empty() || wanted.iter().any(|value| test(value))) && !excluded.iter().any(|value| test(value))
}

fn source_matches(namespace: &str, action: &str, source: &Value, request: &Request) -> bool {
    let principal = |value: &str| request.principal.as_ref().is_some_and(|own| glob(value, own));
    let of_namespace = |value: &str| in_namespace(value, request);
    let account = |value: &str| is_account(namespace, value, request);
    let token = |value: &str| request_principal(value, request);
    pair(source, "principals", "notPrincipals", principal)
        && pair(source, "namespaces", "notNamespaces", of_namespace)
        && pair(source, "serviceAccounts", "notServiceAccounts", account)
        && pair(source, "ipBlocks", "notIpBlocks", |block| contains(block, &request.source_ip))
        && remote(action, source, ["remoteIpBlocks", "notRemoteIpBlocks"], request)
        && (request.http.is_none() || pair(source, "requestPrincipals", "notRequestPrincipals", token))
}

fn operation_matches(operation: &Value, request: &Request) -> bool {
    let port = |value: &str| value == request.port.to_string();
    if !pair(operation, "ports", "notPorts", port) {
        return false;
    }
    let Some(http) = &request.http else { return true };
    let host = http.authority.to_lowercase();
    let host = host.rsplit_once(':').map_or(host.clone(), |(host, _)| host.to_owned());
    pair(operation, "hosts", "notHosts", |value| glob(&value.to_lowercase(), &host))
        && pair(operation, "methods", "notMethods", |value| glob(value, &http.method))
        && pair(operation, "paths", "notPaths", |value| path(value, &http.path))
}

fn condition_matches(namespace: &str, action: &str, condition: &Value, request: &Request) -> bool {
    let key = condition["key"].as_str().unwrap();
    let values = |test: &dyn Fn(&str) -> bool| pair(condition, "values", "notValues", test);
    if request.http.is_none() && key.starts_with("request.") {
        return true;
    }
    let claim =
        |path: &[&str]| values(&|value| claim_texts(path, request).iter().any(|text| glob(value, text)));
    match key {
        "source.principal" => values(&|value| request.principal.as_ref().is_some_and(|own| glob(value, own))),
        "source.namespace" => values(&|value| in_namespace(value, request)),
        "source.serviceAccount" => values(&|value| is_account(namespace, value, request)),
        "source.ip" => values(&|block| contains(block, &request.source_ip)),
        "remote.ip" => remote(action, condition, ["values", "notValues"], request),
        "destination.ip" => values(&|block| contains(block, &request.destination_ip)),
        "destination.port" => values(&|port| port == request.port.to_string()),
        "connection.sni" => values(&|value| request.sni.as_ref().is_some_and(|sni| glob(value, sni))),
        "request.auth.principal" => values(&|value| request_principal(value, request)),
        "request.auth.audiences" => claim(&["aud"]),
        "request.auth.presenter" => claim(&["azp"]),
        _ => {
            let inner = key.split_once('[').unwrap().1.trim_end_matches(']');
            if key.starts_with("request.auth.claims") {
                return claim(&inner.split("][").collect::<Vec<_>>());
            }
            header(action, condition, inner, request)
        }
    }
}

fn header(action: &str, condition: &Value, name: &str, request: &Request) -> bool {
    let lines =
        request.http.as_ref().unwrap().headers.iter().filter(|(held, _)| held.eq_ignore_ascii_case(name));
    let mut values: Vec<String> = Vec::new();
    for (_, line) in lines {
        if name.eq_ignore_ascii_case("user-agent") {
            values.push(line.clone());
            continue;
        }
        let before = values.len();
        values.extend(line.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()));
        if values.len() == before {
            values.push(String::new());
        }
    }
    if values.is_empty() {
        return texts(condition, "values").is_empty();
    }
    let fits = |value: &String| pair(condition, "values", "notValues", |pattern| glob(pattern, value));
    if action == "ALLOW" { values.iter().all(fits) } else { values.iter().any(fits) }
}

fn remote(action: &str, object: &Value, [key, not]: [&str; 2], request: &Request) -> bool {
    if object[key].is_null() && object[not].is_null() {
        return true;
    }
    match &request.remote_ip {
        Some(address) => pair(object, key, not, |block| contains(block, address)),
        None => action != "ALLOW",
    }
}

fn glob(pattern: &str, value: &str) -> bool {
    match pattern.find('*') {
        None => pattern == value,
        Some(_) if pattern == "*" => !value.is_empty(),
        Some(0) => value.ends_with(&pattern[1..]),
        Some(_) => value.starts_with(&pattern[..pattern.len() - 1]),
    }
}

fn path(pattern: &str, value: &str) -> bool {
    if !pattern.contains('{') {
        return glob(pattern, value);
    }
    // `{*}` is one letter or more within a segment, `{**}` is anything; all else is itself.
    fn rest(pattern: &str, value: &str) -> bool {
        if let Some(after) = pattern.strip_prefix("{**}") {
            (0..=value.len()).any(|end| rest(after, &value[end..]))
        } else if let Some(after) = pattern.strip_prefix("{*}") {
            let longest = value.find('/').unwrap_or(value.len());
            (1..=longest).any(|end| rest(after, &value[end..]))
        } else {
            match (pattern.chars().next(), value.chars().next()) {
                (None, None) => true,
                (Some(a), Some(b)) if a == b => rest(&pattern[1..], &value[1..]),
                _ => false,
            }
        }
    }
    rest(pattern, value)
}

fn in_namespace(value: &str, request: &Request) -> bool {
    let Some(principal) = &request.principal else { return false };
    let parts: Vec<&str> = principal.split('/').collect();
    glob(value, parts[2])
}

fn is_account(policy_namespace: &str, value: &str, request: &Request) -> bool {
    let Some(principal) = &request.principal else { return false };
    let (namespace, name) = value.split_once('/').unwrap_or((policy_namespace, value));
    let parts: Vec<&str> = principal.split('/').collect();
    (parts[2], parts[4]) == (namespace, name)
}

fn claim_texts(path: &[&str], request: &Request) -> Vec<String> {
    let Some(claims) = request.http.as_ref().and_then(|http| http.claims.as_ref()) else { return Vec::new() };
    let mut value = claims;
    for name in path {
        value = &value[*name];
    }
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().filter_map(|item| Some(item.as_str()?.to_owned())).collect(),
        _ => Vec::new(),
    }
}

fn request_principal(value: &str, request: &Request) -> bool {
    if request.http.as_ref().is_none_or(|http| http.claims.is_none()) {
        return false;
    }
    let one = |name| claim_texts(&[name], request).pop().unwrap_or_default();
    let (issuer, subject) = match value.rfind('/') {
        Some(at) => (&value[..at], &value[at + 1..]),
        None if value == "*" => ("*", "*"),
        None if value.starts_with('*') => ("*", value),
        None => (value, "*"),
    };
    glob(issuer, &one("iss")) && glob(subject, &one("sub"))
}

fn contains(block: &str, address: &str) -> bool {
    let (network, length) = match block.split_once('/') {
        Some((network, length)) => (network, Some(length.parse::<u32>().unwrap())),
        None => (block, None),
    };
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (32, u128::from(u32::from(address))),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => (32, u128::from(u32::from(mapped))),
            None => (128, u128::from(address)),
        },
    };
    let ((width, network), (other, address)) =
        (bits(network.parse().unwrap()), bits(address.parse().unwrap()));
    let shift = width - length.unwrap_or(width);
    width == other && network.checked_shr(shift).unwrap_or(0) == address.checked_shr(shift).unwrap_or(0)
}
