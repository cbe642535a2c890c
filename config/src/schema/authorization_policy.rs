//! `AuthorizationPolicy` (security.istio.io/v1): who may call, with Istio's documented meaning.
//!
//! What could never match is an error here: in an ALLOW it is a typo, in a DENY it is a hole.

use super::conditions::{
    blocks, conditions, header_free_host, principal, request_principal, service_account,
};
use super::metadata::Metadata;
use super::selector::{Target, target};
use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::{At, Place};
use http::Method;
use std::cell::{OnceCell, RefCell};
use std::sync::Arc;
use weft_model::authorization::{Action, Authorization, Clause, Operation, Rule as Model, Source};
use weft_model::names::Namespace;
use weft_model::spiffe::TrustDomain;
use weft_model::string_match::StringMatch;

/// The most items of any list of a policy.
const ITEMS_MAX: usize = 512;

/// What a policy's owner wrote.
#[derive(Debug)]
pub(crate) struct AuthorizationPolicy<'r> {
    pub(crate) target: Target<'r>,
    pub(crate) action: Action,
    pub(crate) dry_run: bool,
    /// The external authorizer of CUSTOM.
    pub(crate) provider: Option<At<&'r str>>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) memo: Memo,
}

/// What joining found out about the policy by itself, so that joining it again need not.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    /// Rules that never decide, and the rule before each that is why.
    pub(crate) shadowed: OnceCell<Box<[(usize, usize)]>>,
    /// The policy, under these trust domains.
    pub(crate) model: RefCell<Option<(Vec<TrustDomain>, Arc<Authorization>)>>,
}

#[derive(Debug, Default)]
pub(crate) struct Rule {
    /// Where it stands.
    pub(crate) place: Option<Place>,
    pub(crate) model: Model,
    /// The first field that needs HTTP.
    pub(crate) http: Option<At<&'static str>>,
    /// The first field that looks at a token.
    pub(crate) token: Option<At<&'static str>>,
    /// The ports that operations name.
    pub(crate) ports: Vec<At<u16>>,
    /// The trust domains that exact principals name.
    pub(crate) trust_domains: Vec<At<Box<str>>>,
    /// The paths that operations name.
    pub(crate) paths: Vec<RulePath>,
}

/// A path that a rule names. Whether any request can have it depends on the MeshConfig.
#[derive(Debug)]
pub(crate) struct RulePath {
    pub(crate) place: Place,
    /// As it is written.
    pub(crate) text: Box<str>,
    /// A path that it should match.
    pub(crate) sample: Box<str>,
    /// Whether the sample is the beginning of one.
    pub(crate) partial: bool,
}

impl Rule {
    pub(crate) fn needs_http(&mut self, key: &'static str, place: Place) {
        self.http.get_or_insert(At { value: key, place });
        if let "requestPrincipals" | "request.auth" = key {
            self.token.get_or_insert(At { value: key, place });
        }
    }
}

pub(crate) fn read<'r>(spec: Option<&Object<'r>>, metadata: &Metadata<'_>) -> AuthorizationPolicy<'r> {
    let Some(spec) = spec else {
        let dry_run = metadata.dry_run.is_some();
        return AuthorizationPolicy {
            target: Target::All,
            action: Action::Allow,
            dry_run,
            provider: None,
            rules: Vec::new(),
            memo: Memo::default(),
        };
    };
    let target = target(spec, metadata);
    let (action, provider) = action(spec);
    if let (Some(place), Action::Audit | Action::Custom) = (metadata.dry_run, action) {
        let message = "only ALLOW and DENY can be a dry run";
        spec.report().error_hint(place, message, "AUDIT decides nothing: it needs none");
    }
    let mut rules = Vec::new();
    let written = spec.take("rules");
    let items = written.and_then(Value::list).unwrap_or_default();
    if items.len() > ITEMS_MAX {
        spec.error(format!("the policy has {} rules; at most {ITEMS_MAX} are allowed", items.len()));
    }
    for item in items.iter().take(ITEMS_MAX) {
        rules.extend(rule(*item, metadata));
    }
    if action == Action::Deny && items.is_empty() {
        let hint = "write `rules: [{}]` to deny everything";
        let message = "a DENY policy without rules matches nothing, so it denies nothing";
        spec.report().error_hint(spec.place(), message, hint);
    } else if action == Action::Custom && items.is_empty() {
        let hint = "write `rules: [{}]` to ask about everything";
        let message = "a CUSTOM policy without rules matches nothing, so nobody is asked";
        spec.report().error_hint(spec.place(), message, hint);
    } else if let (Some(written), true) = (written, items.is_empty()) {
        let hint = "leave `rules` out to say so on purpose, or write `rules: [{}]` to allow everything";
        spec.report().warn(written.place, "`rules` is empty: the policy allows nothing", hint);
    }
    split_rules(&items);
    AuthorizationPolicy {
        target,
        action,
        dry_run: metadata.dry_run.is_some(),
        provider,
        rules,
        memo: Memo::default(),
    }
}

// The action, and the provider of CUSTOM.
fn action<'r>(spec: &Object<'r>) -> (Action, Option<At<&'r str>>) {
    let words = [
        ("ALLOW", Action::Allow),
        ("DENY", Action::Deny),
        ("AUDIT", Action::Audit),
        ("CUSTOM", Action::Custom),
    ];
    let written = spec.take("action").and_then(|value| value.choice(&words));
    // An action that cannot be read fails the policy, which then denies.
    let action = written.map_or(Action::Allow, |action| action.value);
    let provider = spec.take("provider");
    match (action, provider) {
        (Action::Custom, None) => {
            let hint = "write `provider: {name: NAME}`, NAME being of MeshConfig's `extensionProviders`";
            spec.report().error_hint(spec.place(), "the action CUSTOM needs a `provider`", hint);
            (action, None)
        }
        (Action::Custom, Some(value)) => {
            let name = value.object().and_then(|object| object.require("name")).and_then(Value::text);
            (action, name)
        }
        (_, Some(value)) => {
            value.error("`provider` belongs to the action CUSTOM");
            (action, None)
        }
        (_, None) => (action, None),
    }
}

// `- from: …` followed by `- to: …`: one `-` too many makes OR of AND.
fn split_rules(items: &[Value<'_>]) {
    for pair in items.windows(2) {
        let (first, second) = (pair[0].entries_quietly(), pair[1].entries_quietly());
        if let ([first @ ("from" | "to")], [second @ ("to" | "when" | "from")]) = (&first[..], &second[..])
            && first != second
        {
            let message =
                format!("`{first}` and `{second}` are two rules here, and one of them is enough to match");
            let hint = format!("remove the `-` before `{second}` if both were meant to hold");
            pair[1].report.warn(pair[1].place, message, hint);
        }
    }
}

fn rule(value: Value<'_>, metadata: &Metadata<'_>) -> Option<Rule> {
    let object = value.object()?;
    let mut rule = Rule { place: Some(value.place), ..Rule::default() };
    rule.model.provenance = value.report.provenance(value.place);
    for item in object.take("from").and_then(|value| value.items(ITEMS_MAX)).unwrap_or_default() {
        let source = item.object().and_then(|item| item.require("source")).and_then(Value::object);
        if let Some(object) = source {
            let source = source_fields(&object, metadata, &mut rule);
            rule.model.sources.push(source);
        }
    }
    for item in object.take("to").and_then(|value| value.items(ITEMS_MAX)).unwrap_or_default() {
        let operation = item.object().and_then(|item| item.require("operation")).and_then(Value::object);
        if let Some(object) = operation {
            let operation = operation_fields(&object, &mut rule);
            rule.model.operations.push(operation);
        }
    }
    if let Some(items) = object.take("when").and_then(|value| value.items(ITEMS_MAX)) {
        conditions(&items, metadata, &mut rule);
    }
    Some(rule)
}

/// Reads a clause: one list of values, one of exclusions.
pub(crate) fn clause<'r, T>(
    object: &Object<'r>,
    [any, not]: [&'static str; 2],
    mut parse: impl FnMut(Value<'r>) -> Option<T>,
) -> Clause<T> {
    let mut read = |key| -> Vec<T> {
        let items = object.take(key).and_then(|value| value.items(ITEMS_MAX)).unwrap_or_default();
        items.into_iter().filter_map(&mut parse).collect()
    };
    Clause { any: read(any), not: read(not) }
}

/// Text in Istio's spelling: exact, `prefix*`, `*suffix`, `*`.
pub(crate) fn pattern<'r>(value: Value<'r>) -> Option<(At<&'r str>, StringMatch)> {
    let text = value.text()?;
    if text.value.is_empty() {
        value.error("the value is empty");
        return None;
    }
    let parsed = StringMatch::parse(text.value);
    let inner = text.value.strip_prefix('*').unwrap_or(text.value);
    let inner =
        if inner.len() == text.value.len() { inner.strip_suffix('*').unwrap_or(inner) } else { inner };
    if inner.contains('*') {
        let hint = "a `*` stands for something only at the beginning or at the end, not at both";
        value.error_hint(format!("{} has a `*` within it", quoted(text.value)), hint);
        return None;
    }
    Some((text, parsed))
}

fn source_fields(object: &Object<'_>, metadata: &Metadata<'_>, rule: &mut Rule) -> Source {
    let source = Source {
        principals: clause(object, ["principals", "notPrincipals"], |value| principal(value, rule)),
        namespaces: clause(object, ["namespaces", "notNamespaces"], namespace),
        service_accounts: clause(object, ["serviceAccounts", "notServiceAccounts"], |value| {
            service_account(value, metadata)
        }),
        ip_blocks: clause(object, ["ipBlocks", "notIpBlocks"], blocks),
        remote_ip_blocks: clause(object, ["remoteIpBlocks", "notRemoteIpBlocks"], blocks),
        request_principals: clause(object, ["requestPrincipals", "notRequestPrincipals"], |value| {
            rule.needs_http("requestPrincipals", value.place);
            request_principal(value)
        }),
    };
    if object.is_empty() {
        object.error("`source` is empty: leave `from` out to mean any source");
    }
    let accounts = object.has("serviceAccounts") || object.has("notServiceAccounts");
    let others = ["principals", "notPrincipals", "namespaces", "notNamespaces"];
    if accounts && others.iter().any(|key| object.has(key)) {
        object.error("`serviceAccounts` cannot stand beside `principals` or `namespaces`");
    }
    source
}

/// A namespace, or a pattern of one.
pub(crate) fn namespace(value: Value<'_>) -> Option<StringMatch> {
    let (text, pattern) = pattern(value)?;
    if let StringMatch::Exact(name) = &pattern
        && name.parse::<Namespace>().is_err()
    {
        value.error(format!("{} is not a valid namespace", quoted(text.value)));
        return None;
    }
    Some(pattern)
}

fn operation_fields(object: &Object<'_>, rule: &mut Rule) -> Operation {
    let operation = Operation {
        hosts: clause(object, ["hosts", "notHosts"], |value| {
            rule.needs_http("hosts", value.place);
            header_free_host(value)
        }),
        methods: clause(object, ["methods", "notMethods"], |value| {
            rule.needs_http("methods", value.place);
            method(value)
        }),
        paths: clause(object, ["paths", "notPaths"], |value| {
            rule.needs_http("paths", value.place);
            path(value, &mut rule.paths)
        }),
        ports: clause(object, ["ports", "notPorts"], port),
    };
    if let Some(items) = object.take("ports").and_then(Value::list_quietly) {
        let number = |value: &Value<'_>| Some(value.at(value.text_quietly()?.parse::<u16>().ok()?));
        rule.ports.extend(items.iter().filter_map(number));
    }
    if object.is_empty() {
        object.error("`operation` is empty: leave `to` out to mean any operation");
    }
    operation
}

/// A port, which Istio writes as text.
pub(crate) fn port(value: Value<'_>) -> Option<u16> {
    let text = value.text()?;
    let digits = text.value.bytes().all(|byte| byte.is_ascii_digit()) && !text.value.starts_with('0');
    let port = text.value.parse::<u16>().ok().filter(|_| digits);
    if port.is_none() {
        value.error_hint(format!("{} is not a port", quoted(text.value)), "write one number from 1 to 65535");
    }
    port
}

pub(crate) fn method(value: Value<'_>) -> Option<StringMatch> {
    let (text, pattern) = pattern(value)?;
    if let StringMatch::Exact(name) = &pattern {
        let upper = name.to_ascii_uppercase();
        if Method::from_bytes(name.as_bytes()).is_err() {
            value.error(format!("{} is not an HTTP method", quoted(text.value)));
            return None;
        }
        if upper != **name {
            let hint = format!("methods are compared with case: write {upper}");
            value.error_hint(format!("{} is not a method that anybody sends", quoted(text.value)), hint);
            return None;
        }
    }
    Some(pattern)
}

// Paths are judged without query, and in a form that the MeshConfig chooses: which of them no request has is
// looked at when it is known.
pub(crate) fn path(value: Value<'_>, paths: &mut Vec<RulePath>) -> Option<StringMatch> {
    let text = value.text()?;
    if !text.value.contains(['{', '}']) {
        pattern(value)?;
    }
    let Ok(parsed) = StringMatch::parse_path(text.value) else {
        let message = format!("{} is not a path template", quoted(text.value));
        value.error_hint(
            message,
            "`{*}` stands for a segment of its own, `{**}` for any number of them, as the last operator",
        );
        return None;
    };
    if text.value.contains(['?', '#']) {
        value.error_hint("a path is judged without its query", "remove what follows the `?`");
        return None;
    }
    if let Some((sample, partial)) = sample(&parsed) {
        let (text, sample) = (text.value.into(), sample.into());
        paths.push(RulePath { place: value.place, text, sample, partial });
    }
    Some(parsed)
}

// A path that the pattern should match, and whether it is cut off.
fn sample(pattern: &StringMatch) -> Option<(String, bool)> {
    match pattern {
        StringMatch::Exact(path) => Some((path.to_string(), false)),
        // The letter keeps a segment that ends in dots from meaning "here" or "above".
        StringMatch::Prefix(path) if path.ends_with('.') => Some((format!("{path}x"), true)),
        StringMatch::Prefix(path) => Some((path.to_string(), true)),
        StringMatch::Suffix(path) => Some((format!("/x{path}"), false)),
        StringMatch::Template(template) => {
            Some((template.as_str().replace("{**}", "x").replace("{*}", "x"), false))
        }
        StringMatch::Presence => None,
    }
}
