//! Which workloads a policy is for: `selector.matchLabels`, `targetRefs`, or all.

use super::metadata::labels;
use super::value::{Object, Value};
use super::{Labels, Metadata};
use crate::report::{At, Place};
use weft_model::names::ServiceName;

/// What a policy binds.
#[derive(Debug)]
pub(crate) enum Target<'r> {
    /// Every workload of its namespace, or of the mesh from the root namespace.
    All,
    /// The workloads with these labels.
    Labels(At<Labels<'r>>),
    /// The workloads behind these Services.
    Services(Vec<At<ServiceName>>),
}

impl Target<'_> {
    pub(crate) fn place(&self) -> Option<Place> {
        match self {
            Self::All => None,
            Self::Labels(labels) => Some(labels.place),
            Self::Services(services) => services.first().map(|service| service.place),
        }
    }
}

/// Reads `selector`. A selector that cannot be read selects everything: the failed policy then
/// closes all that it may have been meant for.
pub(crate) fn selector<'r>(spec: &Object<'r>) -> Target<'r> {
    let Some(value) = spec.take("selector") else { return Target::All };
    let Some(object) = value.object() else { return Target::All };
    let Some(wanted) = object.require("matchLabels") else { return Target::All };
    let Some(labels) = labels(wanted) else { return Target::All };
    if labels.is_empty() {
        let hint = "leave `selector` out to mean every workload of the namespace";
        wanted.error_hint("the selector has no labels", hint);
        return Target::All;
    }
    Target::Labels(value.at(labels))
}

/// Reads `targetRefs` (and `targetRef`, its older form) beside `selector`.
pub(crate) fn target<'r>(spec: &Object<'r>, metadata: &Metadata<'_>) -> Target<'r> {
    let selected = selector(spec);
    let one = spec.take("targetRef").map(|value| vec![value]);
    let Some(references) = spec.take("targetRefs").map(|value| value.items(16)).unwrap_or(one) else {
        return selected;
    };
    if spec.has("selector") || (spec.has("targetRef") && spec.has("targetRefs")) {
        spec.error("only one of `selector`, `targetRef` and `targetRefs` may be given");
        return Target::All;
    }
    let services: Option<Vec<_>> =
        references.into_iter().map(|reference| reference_to_service(reference, metadata)).collect();
    services.map_or(Target::All, Target::Services)
}

/// The Services that references name, without those that name none.
pub(crate) fn services(references: Vec<Value<'_>>, metadata: &Metadata<'_>) -> Vec<At<ServiceName>> {
    references.into_iter().filter_map(|reference| reference_to_service(reference, metadata)).collect()
}

fn reference_to_service(value: Value<'_>, metadata: &Metadata<'_>) -> Option<At<ServiceName>> {
    let object = value.object()?;
    let group = object.take("group").and_then(Value::text).map_or("", |group| group.value);
    let kind = object.require("kind").and_then(Value::text)?;
    let name = object.require("name").and_then(Value::text)?;
    if let Some(namespace) = object.take("namespace").and_then(Value::text)
        && namespace.value != metadata.namespace.value.as_str()
    {
        value.report.error(namespace.place, "a policy can only be for Services of its own namespace");
        return None;
    }
    if kind.value != "Service" || !matches!(group, "" | "core") {
        value.report.error(kind.place, "policies for other than Services (group \"\") are not evaluated yet");
        return None;
    }
    match ServiceName::new(metadata.namespace.value.as_str(), name.value) {
        Ok(service) => Some(value.at(service)),
        Err(error) => {
            value.report.error(name.place, error.to_string());
            None
        }
    }
}
