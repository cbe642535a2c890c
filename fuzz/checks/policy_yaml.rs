//! Policy files, as anyone with write access to a directory may leave them.
//!
//! Beyond "no panic": the same text gives the same answer, every diagnostic points into the text, what is
//! printed of it holds no control characters, and all that was compiled reaches a proxy as it was compiled: what
//! a proxy would refuse, or take for something else, must have been an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use weft_config::{SourceFile, compile, render};
use weft_model::mesh::Mesh;
use weft_model::names::ResourceName;
use weft_model::wire::Resource;

pub(crate) fn check(text: &str) {
    let files = [SourceFile { name: "policy.yaml".to_owned(), text: text.to_owned() }];
    let compilation = compile(&files);
    let again = compile(&files);
    assert_eq!(compilation.mesh, again.mesh);
    assert_eq!(compilation.cases, again.cases);
    assert_eq!(format!("{:?}", compilation.diagnostics), format!("{:?}", again.diagnostics));
    // A line of YAML may end in a carriage return too, and its parser looks one line past the end.
    let lines = text.matches(['\n', '\r']).count() + 2;
    for diagnostic in &compilation.diagnostics {
        assert!((1..=lines).contains(&(diagnostic.line as usize)), "{diagnostic:?}");
    }
    arrives(&compilation.mesh);
    let rendered = render(&compilation.diagnostics, &files, false);
    assert!(rendered.chars().all(|character| !character.is_control() || character == '\n'), "{rendered:?}");
}

fn arrives(mesh: &Mesh) {
    fn each<T>(held: &BTreeMap<ResourceName, Arc<T>>, resource: fn(Arc<T>) -> Resource) {
        held.iter().for_each(|(name, held)| arrives_as(name.as_str(), &resource(held.clone())));
    }
    arrives_as("mesh", &Resource::MeshConfig(mesh.config.clone()));
    for (uid, workload) in &mesh.workloads {
        arrives_as(&uid.to_string(), &Resource::Workload(workload.clone()));
    }
    each(&mesh.services, Resource::Service);
    each(&mesh.endpoints, Resource::Endpoints);
    each(&mesh.routes, Resource::Route);
    each(&mesh.traffic_policies, Resource::TrafficPolicy);
    each(&mesh.authorizations, Resource::Authorization);
    each(&mesh.peer_authentications, Resource::PeerAuthentication);
    each(&mesh.request_authentications, Resource::RequestAuthentication);
}

fn arrives_as(name: &str, resource: &Resource) {
    let arrived = Resource::decode(resource.kind(), name, &resource.encode());
    assert_eq!(arrived.as_ref(), Ok(resource), "{name}");
}
