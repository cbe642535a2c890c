//! `PolicyTest` (weft.dev/v1alpha1): requests and what must become of them, for `weft test`.
//!
//! It binds nothing and changes nothing, wherever it lies; it is read as strictly as a policy.

use super::Metadata;
use super::value::{Object, Value};
use crate::case::{Ask, Authorizer, Caller, Case, Destination, Expectation, Fate, Who};
use crate::closest::did_you_mean;
use crate::document::quoted;
use crate::report::At;
use std::collections::HashMap;
use weft_model::json::Members;
use weft_model::names::{Name, Namespace, ServiceName, WorkloadUid};
use weft_model::reason::Reason;
use weft_model::spiffe::SpiffeId;
use weft_model::token::Claims;

/// The most cases of a document.
const CASES_MAX: usize = 10_000;
/// The most header fields of a request.
const FIELDS_MAX: usize = 64;

const FATES: [(&str, Fate); 4] =
    [("allow", Fate::Allow), ("deny", Fate::Deny), ("redirect", Fate::Redirect), ("ask", Fate::Ask)];

/// Reads the cases. Those with errors are left out, and the errors told.
pub(crate) fn read(spec: Option<&Object<'_>>, metadata: &Metadata<'_>) -> Vec<Case> {
    let Some(spec) = spec else { return Vec::new() };
    let test = format!("{}/{}", metadata.namespace.value, metadata.name.value);
    let written = spec.require("cases").and_then(|value| value.items(CASES_MAX)).unwrap_or_default();
    let mut names = HashMap::new();
    let mut cases = Vec::with_capacity(written.len());
    for value in written {
        let Some(object) = value.object() else { continue };
        let name = object.require("name").and_then(Value::text);
        if let Some(name) = name
            && let Some(first) = names.insert(name.value, name.place)
        {
            let first = value.report.location(first);
            value.report.error(name.place, format!("a case of this name is in {first} already"));
        }
        let from = object.require("from").and_then(Value::object).and_then(|from| caller(&from));
        let to = object.require("to").and_then(Value::object).and_then(|to| destination(&to));
        let request = match object.take("request") {
            Some(value) => value.object().and_then(|request| ask(&request)),
            None => Some(http(None, None, None, Vec::new())),
        };
        let authorizer = object.take("authorizer").map(|value| value.choice(&Authorizer::WORDS));
        let expect = object.require("expect").and_then(expectation);
        // What is there and wrong was told, and the case is not what was meant.
        let authorizer = match authorizer {
            Some(None) => continue,
            Some(Some(said)) => Some(said.value),
            None => None,
        };
        let whole = name.zip(from).zip(to).zip(request).zip(expect);
        let Some(((((name, from), to), request), expect)) = whole else { continue };
        let place = value.report.provenance(value.place);
        let (test, name) = (test.clone(), name.value.to_owned());
        cases.push(Case { test, name, place, from, to, request, authorizer, expect });
    }
    cases
}

fn caller(object: &Object<'_>) -> Option<Caller> {
    let token = object.take("claims").map(claims);
    let workload = object.take("workload");
    let principal = object.take("principal");
    let namespace = object.take("namespace");
    let account = object.take("serviceAccount");
    let plaintext = object.take("plaintext").and_then(Value::flag).is_some_and(|flag| flag.value);
    let ip = object.take("ip").and_then(Value::parse).map(|ip| ip.value);
    let given = [workload, principal, namespace].iter().flatten().count();
    if given > 1 || (account.is_some() && namespace.is_none()) {
        object
            .error("say who calls in one way: `workload`, `principal`, or `namespace` with `serviceAccount`");
        return None;
    }
    if plaintext && (principal.is_some() || namespace.is_some()) {
        object.error("a plaintext caller proves no identity: name a `workload`, or nobody");
        return None;
    }
    let who = if let Some(value) = workload {
        Who::Workload(value.parse::<WorkloadUid>()?.value)
    } else if let Some(value) = principal {
        Who::Identity(value.parse_with(identity)?.value)
    } else if let Some(value) = namespace {
        let namespace = value.parse::<Namespace>()?.value;
        let account = match account {
            Some(value) => value.parse::<Name>()?.value,
            None => "default".parse().expect("the default service account must parse"),
        };
        Who::Account(namespace, account)
    } else if plaintext {
        Who::Unknown
    } else {
        object.error(
            "nobody calls: name a `workload`, a `principal` or a `namespace`, or say `plaintext: true`",
        );
        return None;
    };
    let claims = match token {
        Some(read) => Some(read?),
        None => None,
    };
    Some(Caller { who, ip, claims, plaintext })
}

// The claims of a token, as it would carry them in JSON.
fn claims(value: Value<'_>) -> Option<Claims> {
    let text = json(value)?;
    let read = Members::parse(text.as_bytes()).map_err(|error| error.to_string());
    match read.and_then(|members| Claims::new(members).map_err(|error| error.to_string())) {
        Ok(claims) if claims.issuer().is_none() => {
            value.error_hint("a token without `iss` is nobody's", "name the `issuer` of a jwtRule");
            None
        }
        Ok(claims) => Some(claims),
        Err(error) => {
            value.error(error);
            None
        }
    }
}

fn json(value: Value<'_>) -> Option<String> {
    if let Some(items) = value.list_quietly() {
        let items: Option<Vec<_>> = items.into_iter().map(json).collect();
        return Some(format!("[{}]", items?.join(",")));
    }
    if value.text_quietly().is_none() {
        let members = value
            .entries()?
            .into_iter()
            .map(|(key, value)| Some(format!("{}:{}", json_text(key.value), json(value)?)));
        return Some(format!("{{{}}}", members.collect::<Option<Vec<_>>>()?.join(",")));
    }
    if value.is_number() || value.is_flag() {
        return value.text_quietly().map(str::to_owned);
    }
    value.text().map(|text| json_text(text.value))
}

fn json_text(text: &str) -> String {
    let mut written = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => written.extend(['\\', char]),
            char if char.is_control() => written.push_str(&format!("\\u{:04x}", u32::from(char))),
            char => written.push(char),
        }
    }
    written.push('"');
    written
}

// As `principals` are written.
fn identity(text: &str) -> Result<SpiffeId, String> {
    let wanted = || format!("{} is not TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT", quoted(text));
    format!("spiffe://{text}").parse().map_err(|_| wanted())
}

fn destination(object: &Object<'_>) -> Option<Destination> {
    let service = object.take("service");
    let workload = object.take("workload");
    let port = object.take("port").and_then(Value::port).map(|port| port.value);
    match (service, workload) {
        (Some(service), None) => Some(Destination::Service(service.parse::<ServiceName>()?.value, port)),
        (None, Some(workload)) => Some(Destination::Workload(workload.parse::<WorkloadUid>()?.value, port)),
        _ => {
            object.error("say what is called in one way: `service` or `workload`");
            None
        }
    }
}

fn http(method: Option<&str>, path: Option<&str>, host: Option<&str>, headers: Vec<(String, String)>) -> Ask {
    Ask::Http {
        method: method.unwrap_or("GET").to_owned(),
        path: path.unwrap_or("/").to_owned(),
        host: host.map(str::to_owned),
        headers,
    }
}

fn ask(object: &Object<'_>) -> Option<Ask> {
    let protocol = match object.take("protocol") {
        Some(value) => value.choice(&[("http", true), ("tcp", false)])?.value,
        None => true,
    };
    if !protocol {
        for key in ["method", "path", "host", "headers"] {
            if let Some(value) = object.take(key) {
                value.error(format!("opaque bytes have no `{key}`"));
            }
        }
        let server_name = match object.take("serverName") {
            Some(value) => Some(value.parse_with(server_name)?.value),
            None => None,
        };
        return Some(Ask::Tcp { server_name });
    }
    if let Some(value) = object.take("serverName") {
        value.error_hint("a request has no `serverName`", "say `protocol: tcp`, or `host`");
    }
    let method = object.take("method").map(|value| value.parse_with(method));
    let path = object.take("path").map(|value| value.parse_with(path));
    let host = object.take("host").map(Value::text);
    let headers = match object.take("headers") {
        Some(value) => headers(value)?,
        None => Vec::new(),
    };
    // What is there and wrong was told, and the case is not what was meant.
    let text = |held: Option<Option<At<&'_ str>>>| match held {
        None => Some(None),
        Some(None) => None,
        Some(Some(at)) => Some(Some(at.value.to_owned())),
    };
    let (method, path, host) = (text(method)?, text(path)?, text(host)?);
    Some(http(method.as_deref(), path.as_deref(), host.as_deref(), headers))
}

fn server_name(text: &str) -> Result<String, String> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || text.len() > 253 || !text.bytes().all(letter) {
        return Err(format!("{} is not a server's name", quoted(text)));
    }
    Ok(text.to_ascii_lowercase())
}

fn method(text: &str) -> Result<&str, String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(token) {
        return Err(format!("{} is not a method", quoted(text)));
    }
    Ok(text)
}

fn path(text: &str) -> Result<&str, String> {
    let plain = text.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'#');
    if !plain || !(text.starts_with('/') || text == "*") {
        return Err(format!("{} is not a path as it stands in a request: `/…`, escaped", quoted(text)));
    }
    Ok(text)
}

// A text, or a list of texts for a field that comes several times.
fn headers(value: Value<'_>) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    let mut whole = true;
    for (key, value) in value.entries()? {
        let name = key.value.to_ascii_lowercase();
        if method(&name).is_err() {
            value.report.error(key.place, format!("{} is not a field's name", quoted(key.value)));
            whole = false;
        }
        let values = value.list_quietly().unwrap_or_else(|| vec![value]);
        for value in values {
            match value.text() {
                Some(text) => fields.push((name.clone(), text.value.to_owned())),
                None => whole = false,
            }
        }
    }
    if fields.len() > FIELDS_MAX {
        value.error(format!("a request has at most {FIELDS_MAX} fields here"));
        return None;
    }
    whole.then_some(fields)
}

fn expectation(value: Value<'_>) -> Option<Expectation> {
    if value.text_quietly().is_some() {
        return value.choice(&FATES).map(|fate| Expectation::of(fate.value));
    }
    let object = value.object()?;
    let fate = object.require("verdict").and_then(|value| value.choice(&FATES))?;
    let mut expect = Expectation::of(fate.value);
    let text = |key| object.take(key).and_then(Value::text).map(|text| text.value.to_owned());
    expect.reason = object.take("reason").and_then(reason);
    expect.policy = text("policy");
    expect.rule = object.take("rule").and_then(index);
    let enforced = [FATES[0], FATES[1]];
    expect.dry_run = object.take("dryRun").and_then(|value| value.choice(&enforced)).map(|fate| fate.value);
    expect.audit = text("audit");
    expect.route = text("route");
    expect.route_rule = object.take("routeRule").and_then(index);
    expect.backends = object.take("backends").and_then(|value| value.items(16)).map(|items| {
        let mut all: Vec<_> =
            items.into_iter().filter_map(Value::text).map(|text| text.value.to_owned()).collect();
        all.sort();
        all
    });
    expect.status = object.take("status").and_then(status);
    expect.location = text("location");
    if let Some(sent) = object.take("sent").and_then(Value::object) {
        let text = |key| sent.take(key).and_then(Value::text).map(|text| text.value.to_owned());
        expect.sent_path = text("path");
        expect.sent_host = text("host");
        // `null`: the field must be absent, so that a filter which removes it can be tested.
        for (key, value) in sent.take("headers").and_then(Value::entries).unwrap_or_default() {
            let wanted = if value.is_null() { None } else { value.text() };
            expect
                .sent_headers
                .push((key.value.to_ascii_lowercase(), wanted.map(|text| text.value.to_owned())));
        }
    }
    if expect.rule.is_some() && expect.policy.is_none() {
        object.error("`rule` is a rule of `policy`, which is missing");
    }
    if expect.route_rule.is_some() && expect.route.is_none() {
        object.error("`routeRule` is a rule of `route`, which is missing");
    }
    if expect.reason.is_some() && matches!(expect.fate, Fate::Allow | Fate::Ask) {
        object.error("what is not refused has no `reason`");
    }
    Some(expect)
}

// Of an answer that the mesh makes itself.
fn status(value: Value<'_>) -> Option<u16> {
    let status = value.number(200..=599)?.value;
    if (200..300).contains(&status) && status != Reason::CorsPreflight.status().into() {
        value.error("of these statuses the mesh answers itself with 204 alone, to preflights");
        return None;
    }
    u16::try_from(status).ok()
}

fn index(value: Value<'_>) -> Option<usize> {
    value.number(0..=100_000).and_then(|number| usize::try_from(number.value).ok())
}

fn reason(value: Value<'_>) -> Option<Reason> {
    let text = value.text()?;
    let found = Reason::from_label(text.value);
    if found.is_none() {
        let hint = did_you_mean(text.value, Reason::ALL.iter().map(|reason| reason.label()));
        value.error_hint(format!("there is no reason {}", quoted(text.value)), hint);
    }
    found
}
