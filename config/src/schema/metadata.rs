//! `metadata`: what every document has.

use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::{At, Place};
use std::collections::BTreeMap;
use weft_model::instant::parse_instant;
use weft_model::names::{Name, Namespace, is_subdomain};

/// Labels as they were written.
pub(crate) type Labels<'r> = BTreeMap<&'r str, &'r str>;

/// The namespace of documents that name none, as kubectl has it.
const DEFAULT_NAMESPACE: &str = "default";

#[derive(Clone, Debug)]
pub(crate) struct Metadata<'r> {
    /// The document.
    pub(crate) place: Place,
    pub(crate) name: At<Name>,
    pub(crate) namespace: At<Namespace>,
    pub(crate) labels: Labels<'r>,
    /// When the API server made it, in seconds since 1970.
    pub(crate) created: Option<u64>,
    /// The annotation `istio.io/dry-run`, if it says `true`.
    pub(crate) dry_run: Option<Place>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    Namespaced,
    Mesh,
}

/// Reads the metadata of a document. `None`: it has no name to go by.
pub(crate) fn metadata<'r>(document: &Object<'r>, scope: Scope) -> Option<Metadata<'r>> {
    let value = document.require("metadata")?;
    let object = value.object()?;
    // What the API server adds.
    object.accept(&[
        "uid",
        "resourceVersion",
        "generation",
        "managedFields",
        "ownerReferences",
        "finalizers",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ]);
    if let Some(generated) = object.take("generateName") {
        generated.error("`generateName` is not supported: a document is known by its name");
    }
    let name = object.require("name").and_then(Value::parse::<Name>);
    let namespace = match object.take("namespace") {
        Some(value) => value.parse::<Namespace>(),
        None if object.has("namespace") => None,
        None => Some(value.at(DEFAULT_NAMESPACE.parse().expect("the default namespace must parse"))),
    };
    let labels = object.take("labels").and_then(labels).unwrap_or_default();
    let dry_run = object.take("annotations").and_then(annotations);
    // A client that has not asked the API server yet writes `null`.
    let created = object.take_filled("creationTimestamp").and_then(|value| value.parse_with(parse_instant));
    let namespace = match scope {
        Scope::Namespaced => namespace?,
        Scope::Mesh => {
            namespace.unwrap_or_else(|| value.at(DEFAULT_NAMESPACE.parse().expect("it must parse")))
        }
    };
    let created = created.map(|created| created.value);
    Some(Metadata { place: document.place(), name: name?, namespace, labels, created, dry_run })
}

/// Reads labels. Those that are not valid are reported and left out.
pub(crate) fn labels(value: Value<'_>) -> Option<Labels<'_>> {
    let mut labels = Labels::new();
    for (key, value) in value.entries()? {
        if !is_label_key(key.value) {
            value.report.error(key.place, format!("{} is not a valid label key", quoted(key.value)));
        }
        let Some(text) = value.text() else { continue };
        if !(text.value.is_empty() || is_label_word(text.value)) {
            value.error(format!("{} is not a valid label value", quoted(text.value)));
            continue;
        }
        labels.insert(key.value, text.value);
    }
    Some(labels)
}

fn annotations(value: Value<'_>) -> Option<Place> {
    let mut dry_run = None;
    for (key, value) in value.entries()? {
        let Some(text) = value.text() else { continue };
        let (domain, _) = key.value.split_once('/').unwrap_or_default();
        match key.value {
            "istio.io/dry-run" if text.value == "false" => {}
            "istio.io/dry-run" if text.value == "true" => dry_run = Some(key.place),
            // Taken for `false` it would enforce what was to be tried, for `true` not enforce.
            "istio.io/dry-run" => value.error("the annotation must be \"true\" or \"false\""),
            _ if domain == "istio.io" || domain.ends_with(".istio.io") => {
                let message = format!("the annotation {} is not evaluated", quoted(key.value));
                value.report.warn(key.place, message, None);
            }
            _ => {}
        }
    }
    dry_run
}

/// Whether a text is a label's key: `[PREFIX/]NAME`.
pub(crate) fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_word(name),
        None => is_label_word(key),
    }
}

fn is_label_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && outer(bytes.first())
        && outer(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}
