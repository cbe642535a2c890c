//! `ReferenceGrant` (gateway.networking.k8s.io, GEP-709): read for its mistakes, and without effect.
//!
//! Routes of a mesh may lead to Services of any namespace without one (GEP-1294, "Namespace
//! boundaries"): a client could call those Services anyway, and who may is AuthorizationPolicy's to say.

use super::value::{Object, Value};
use weft_model::names::Namespace;

pub(crate) fn read(spec: Option<&Object<'_>>) {
    let Some(spec) = spec else { return };
    for value in spec.require("from").and_then(|value| value.items(16)).unwrap_or_default() {
        let Some(object) = value.object() else { continue };
        for key in ["group", "kind"] {
            object.require(key).and_then(Value::text);
        }
        object.require("namespace").and_then(Value::parse::<Namespace>);
    }
    for value in spec.require("to").and_then(|value| value.items(16)).unwrap_or_default() {
        let Some(object) = value.object() else { continue };
        for key in ["group", "kind"] {
            object.require(key).and_then(Value::text);
        }
        object.take("name").and_then(Value::text);
    }
}
