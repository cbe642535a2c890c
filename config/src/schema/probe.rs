//! Probes of a workload, as Kubernetes writes them in a container: `httpGet`, `grpc`, `tcpSocket`, `exec`.
//!
//! What is read here is what a node may ask in plaintext later, so nothing is rounded: a path that the
//! kubelet would send and the proxy would see otherwise is an error.

use super::value::{Object, Value};
use super::workload::Workload;
use crate::document::quoted;
use crate::report::{At, Place};
use std::net::IpAddr;
use weft_model::path;
use weft_model::probe::{Check, FIELDS_MAX, GrpcCheck, HttpCheck, InvalidProbe, PROBES_MAX, Probe};

/// How a probe is run. It concerns the kubelet alone.
const TIMING: [&str; 6] = [
    "initialDelaySeconds",
    "periodSeconds",
    "timeoutSeconds",
    "successThreshold",
    "failureThreshold",
    "terminationGracePeriodSeconds",
];

/// Reads the key `probes`. Ports and addresses of the workload must be read before.
pub(super) fn read(spec: &Object<'_>, workload: &Workload<'_>) -> Vec<At<Probe>> {
    let mut probes: Vec<At<Probe>> = Vec::new();
    for value in spec.take("probes").and_then(|value| value.items(PROBES_MAX)).unwrap_or_default() {
        let Some(probe) = probe(value, workload) else { continue };
        if let Some(before) = probes.iter().find(|before| before.value == probe.value) {
            // Of two that go over TLS nothing but the port is kept.
            if probe.value.check != Check::Https {
                let before = value.report.location(before.place);
                value.report.warn(value.place, format!("this probe is in {before} already"), None);
            }
            continue;
        }
        probes.push(probe);
    }
    probes
}

fn probe(value: Value<'_>, workload: &Workload<'_>) -> Option<At<Probe>> {
    let object = value.object()?;
    object.accept(&TIMING);
    let (http, grpc, tcp, exec) =
        (object.take("httpGet"), object.take("grpc"), object.take("tcpSocket"), object.take("exec"));
    let given = [http, grpc, tcp, exec].into_iter().flatten().count();
    if given != 1 {
        value.error("a probe has exactly one of `httpGet`, `grpc`, `tcpSocket` and `exec`");
        return None;
    }
    let probe = match (http, grpc, tcp) {
        (Some(http), ..) => http_get(&http.object()?, workload),
        (_, Some(grpc), _) => grpc_check(&grpc.object()?, workload),
        (.., Some(tcp)) => tcp_socket(&tcp.object()?, workload),
        _ => {
            // It runs in the container: nothing of it passes the proxy.
            if let Some(object) = exec.and_then(Value::object) {
                object.accept(&["command"]);
            }
            None
        }
    };
    probe.map(|probe| At { value: probe, place: value.place })
}

fn http_get(object: &Object<'_>, workload: &Workload<'_>) -> Option<Probe> {
    let port = port(object, workload);
    let path = object.take("path").and_then(|value| Some((value, value.text()?.value)));
    let scheme = object.take("scheme").and_then(|value| value.choice(&[("HTTP", false), ("HTTPS", true)]));
    let host = host(object, workload);
    let (fields, authority) = fields(object);
    let port = port?;
    // The kubelet calls a named host at the probe's port, and says so unless it is told what to say.
    let authority = authority.or_else(|| host.map(|host| authority_of(host, port)));
    let text = path.map_or("/", |(_, text)| text);
    match HttpCheck::new(text, authority.as_deref(), &fields) {
        Ok(_) if scheme.is_some_and(|scheme| scheme.value) => Some(Probe { port, check: Check::Https }),
        Ok(check) => Some(Probe { port, check: Check::Http(check) }),
        Err(error) => {
            refuse(object, path.map(|(value, _)| value), text, &error);
            None
        }
    }
}

fn refuse(object: &Object<'_>, path: Option<Value<'_>>, text: &str, error: &InvalidProbe) {
    match (error, path) {
        (InvalidProbe::Path, Some(value)) => {
            let own = text.split('?').next().unwrap_or_default();
            let message = format!("{} is not the path that the proxy would see", quoted(own));
            let hint = match path::canonical(own) {
                Ok(canonical) if !own.contains('#') => Some(format!("write {canonical}")),
                Err(error) => Some(error.to_string()),
                Ok(_) => Some("what follows # is never sent".to_owned()),
            };
            value.error_hint(message, hint);
        }
        (InvalidProbe::Query, Some(value)) => value.error(error.to_string()),
        _ => object.error(error.to_string()),
    }
}

fn grpc_check(object: &Object<'_>, workload: &Workload<'_>) -> Option<Probe> {
    let port = port(object, workload);
    let service = object.take("service").and_then(|value| value.parse_with(GrpcCheck::new));
    // An error in the service was told; without one the server as a whole is asked after.
    let check = match service {
        Some(service) => service.value,
        None if object.has("service") => return None,
        None => GrpcCheck::new("").expect("no service must be one that can be asked after"),
    };
    Some(Probe { port: port?, check: Check::Grpc(check) })
}

fn tcp_socket(object: &Object<'_>, workload: &Workload<'_>) -> Option<Probe> {
    host(object, workload);
    Some(Probe { port: port(object, workload)?, check: Check::Tcp })
}

/// A port of the workload, by number or name.
fn port(object: &Object<'_>, workload: &Workload<'_>) -> Option<u16> {
    let value = object.require("port")?;
    let (found, written) = if value.is_number() {
        let number = value.port()?.value;
        (workload.ports.iter().find(|held| held.port == number), number.to_string())
    } else {
        let name = value.text()?.value;
        (workload.ports.iter().find(|held| held.name == name), quoted(name))
    };
    if found.is_none() {
        let message = format!("the workload has no port {written}");
        value.error_hint(message, "a port that is probed must stand in `ports`");
    }
    found.map(|held| held.port)
}

/// The host that the kubelet calls, in place of the pod's address.
fn host<'r>(object: &Object<'r>, workload: &Workload<'_>) -> Option<&'r str> {
    let value = object.take("host")?;
    let text = value.text()?;
    let own = text
        .value
        .parse::<IpAddr>()
        .is_ok_and(|address| workload.addresses.iter().any(|held| held.value == address));
    if !own {
        let message = format!("the kubelet calls {} and not this workload's address", quoted(text.value));
        let hint = "leave `host` out; a header `Host` says what the application is to see";
        value.report.warn(text.place, message, hint);
    }
    Some(text.value)
}

fn authority_of(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The declared fields, and what one named `Host` says.
fn fields<'r>(object: &Object<'r>) -> (Vec<(&'r str, &'r str)>, Option<String>) {
    let (mut fields, mut host) = (Vec::new(), None);
    let items = object.take("httpHeaders").and_then(|value| value.items(FIELDS_MAX));
    for value in items.unwrap_or_default() {
        let Some(object) = value.object() else { continue };
        let name = object.require("name").and_then(Value::text);
        let text = object.require("value").and_then(Value::text);
        let (Some(name), Some(text)) = (name, text) else { continue };
        if name.value.eq_ignore_ascii_case("host") {
            if host.replace(text.value.to_owned()).is_some() {
                value.error("the header Host comes twice");
            }
            continue;
        }
        // Each by itself, so that the error stands where the header does.
        match HttpCheck::new("/", None, &[(name.value, text.value)]) {
            Ok(_) => fields.push((name.value, text.value)),
            Err(error) => value.error(error.to_string()),
        }
    }
    (fields, host)
}

/// The place of the first probe, for what concerns them all.
pub(crate) fn first(probes: &[At<Probe>]) -> Option<Place> {
    probes.first().map(|probe| probe.place)
}
