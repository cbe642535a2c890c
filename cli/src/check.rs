//! `weft check DIR|FILE…`: compiles policies and prints every problem.
//!
//! Exit code 0: no errors (there may be warnings); 1: errors, or warnings with `--deny-warnings`; 2:
//! nothing to check, or it cannot be read.

mod sarif;

use crate::input;
use clap::ValueEnum;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use weft_config::{Compilation, Diagnostic, Severity, SourceFile, render};
use weft_model::authentication::TlsMode;
use weft_model::route::RouteKind;
use weft_model::service::ServiceTarget;
use weft_model::traffic::TrafficKind;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Directories, of which every *.yaml and *.yml is read, and files
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// How to say it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Fail on warnings, too
    #[arg(long)]
    deny_warnings: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    Text,
    Json,
    Sarif,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    files: usize,
    errors: usize,
    warnings: usize,
    services: usize,
    workloads: usize,
    http_routes: usize,
    grpc_routes: usize,
    tls_routes: usize,
    tcp_routes: usize,
    authorization_policies: usize,
    peer_authentications: usize,
    request_authentications: usize,
    traffic_policies: usize,
    backend_traffic_policies: usize,
    peer_authentication_default: &'static str,
}

#[derive(Serialize)]
struct Answer<'a> {
    diagnostics: &'a [Diagnostic],
    /// How many workloads each policy binds, those that are refused included.
    bound: BTreeMap<&'a str, usize>,
    summary: &'a Summary,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    input::finish("check", judge(arguments, input::colour()))
}

// What to print and the exit code; or why there is nothing to judge.
fn judge(arguments: &Arguments, colour: bool) -> Result<(String, u8), String> {
    let (files, compilation) = input::read(&arguments.paths)?;
    let summary = Summary::new(&files, &compilation);
    let text = match arguments.output {
        Output::Text => text(&files, &compilation, &summary, colour),
        Output::Json => json(&compilation, &summary),
        Output::Sarif => input::json(&sarif::document(&compilation.diagnostics, &root(&arguments.paths))),
    };
    let fails = compilation.has_errors() || (arguments.deny_warnings && summary.warnings > 0);
    Ok((text, u8::from(fails)))
}

// Of one directory, files go by their names within it.
fn root(paths: &[PathBuf]) -> String {
    match paths {
        [only] if only.is_dir() => only.to_string_lossy().into_owned(),
        _ => String::new(),
    }
}

fn json(compilation: &Compilation, summary: &Summary) -> String {
    let mesh = &compilation.mesh;
    let held = mesh.authorizations.keys().chain(mesh.peer_authentications.keys());
    let held = held.chain(mesh.request_authentications.keys());
    let mut bound: BTreeMap<&str, usize> = held.map(|name| (name.as_str(), 0)).collect();
    for workload in mesh.workloads.values() {
        let names = workload.authorizations.iter().chain(&workload.peer_authentications);
        for name in names.chain(&workload.request_authentications) {
            *bound.entry(name.as_str()).or_default() += 1;
        }
    }
    input::json(&Answer { diagnostics: &compilation.diagnostics, bound, summary })
}

fn text(files: &[SourceFile], compilation: &Compilation, summary: &Summary, colour: bool) -> String {
    let count = |number: usize, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    let policies = |number: usize, noun: &str| {
        format!("{number} {noun} {}", if number == 1 { "policy" } else { "policies" })
    };
    let routes = summary.http_routes + summary.grpc_routes + summary.tls_routes + summary.tcp_routes;
    let traffic_policies = summary.traffic_policies + summary.backend_traffic_policies;
    format!(
        "{}{}, {}; {}: {}, {}, {}, {}, {}, {}, {}; mutual TLS where no policy speaks: {}\n",
        render(&compilation.diagnostics, files, colour),
        count(summary.errors, "error"),
        count(summary.warnings, "warning"),
        count(summary.files, "file"),
        count(summary.services, "service"),
        count(summary.workloads, "workload"),
        count(routes, "route"),
        policies(summary.authorization_policies, "authorization"),
        count(summary.peer_authentications, "peer authentication"),
        count(summary.request_authentications, "request authentication"),
        policies(traffic_policies, "traffic"),
        summary.peer_authentication_default,
    )
}

impl Summary {
    fn new(files: &[SourceFile], compilation: &Compilation) -> Self {
        let of = |severity: Severity| {
            compilation.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
        };
        let mesh = &compilation.mesh;
        let routes = |kind: RouteKind| mesh.routes.values().filter(|route| route.kind == kind).count();
        let traffic =
            |kind: TrafficKind| mesh.traffic_policies.values().filter(|policy| policy.kind == kind).count();
        let named = |target: &ServiceTarget| matches!(target, ServiceTarget::Service(_));
        Self {
            files: files.len(),
            errors: of(Severity::Error),
            warnings: of(Severity::Warning),
            services: mesh.services.values().filter(|service| named(&service.target)).count(),
            workloads: mesh.workloads.len(),
            http_routes: routes(RouteKind::Http),
            grpc_routes: routes(RouteKind::Grpc),
            tls_routes: routes(RouteKind::Tls),
            tcp_routes: routes(RouteKind::Tcp),
            authorization_policies: mesh.authorizations.len(),
            peer_authentications: mesh.peer_authentications.len(),
            request_authentications: mesh.request_authentications.len(),
            traffic_policies: traffic(TrafficKind::Weft),
            backend_traffic_policies: traffic(TrafficKind::Gateway),
            peer_authentication_default: match mesh.config.peer_authentication_default {
                TlsMode::Strict => "STRICT",
                TlsMode::Permissive => "PERMISSIVE",
                TlsMode::Disable => "DISABLE",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str, output: Output, deny_warnings: bool) -> Result<(String, u8), String> {
        let directory = tempfile::tempdir().unwrap();
        if !text.is_empty() {
            std::fs::write(directory.path().join("a.yaml"), text).unwrap();
        }
        judge(&Arguments { paths: vec![directory.path().to_owned()], output, deny_warnings }, false)
    }

    const WARNED: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                          metadata: {name: a}\nspec: {rules: []}\n";

    #[test]
    fn errors_fail_and_warnings_only_if_asked_to() {
        let (text, code) = judged(WARNED, Output::Text, false).unwrap();
        assert!(code == 0 && text.contains("0 errors, 1 warning; 1 file:"), "{text}");
        assert_eq!(judged(WARNED, Output::Text, true).unwrap().1, 1);
        let (text, code) = judged("kind: Nothing\n", Output::Text, false).unwrap();
        assert!(code == 1 && text.contains("a.yaml:1:1"), "{text}");
    }

    #[test]
    fn json_has_every_diagnostic_with_its_place() {
        let (text, _) = judged(WARNED, Output::Json, false).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["diagnostics"][0]["severity"], "warning");
        assert_eq!(answer["diagnostics"][0]["line"], 4);
        assert_eq!(answer["diagnostics"][0]["path"], "spec.rules");
        assert_eq!(answer["bound"]["AuthorizationPolicy/default/a"], 0);
        assert_eq!(answer["summary"]["authorizationPolicies"], 1);
        assert_eq!(answer["summary"]["peerAuthenticationDefault"], "STRICT");
    }

    #[test]
    fn json_counts_each_kind_and_names_what_binds_nobody() {
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, name: a, appProtocol: http}, \
                       {port: 90, name: b, appProtocol: grpc}]}\n---\n";
        let route = |kind: &str, port: u16| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{parentRefs: [{{group: \
                 '', kind: Service, name: a, port: {port}}}], rules: [{{backendRefs: [{{name: a, port: {port}}}]}}]}}\n---\n"
            )
        };
        let tokens = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a}\nspec: {jwtRules: [{issuer: 'https://a.example', jwks: \
                      '{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"1\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}'}]}\n---\n";
        let traffic = "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec: {targetRefs: [{kind: \
                       Service, name: a}], retryBudget: {percent: 5}}\n";
        let all = format!("{service}{}{}{tokens}{traffic}", route("HTTPRoute", 80), route("GRPCRoute", 90));
        let (text, _) = judged(&all, Output::Json, false).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["bound"]["RequestAuthentication/default/a"], 0, "{text}");
        for kind in ["httpRoutes", "grpcRoutes", "requestAuthentications", "trafficPolicies"] {
            assert_eq!(answer["summary"][kind], 1, "{kind}: {text}");
        }
        let (text, _) = judged(&all, Output::Text, false).unwrap();
        assert!(
            text.contains("2 routes, ") && text.contains("1 request authentication, 1 traffic policy;"),
            "{text}"
        );
    }

    #[test]
    fn sarif_has_every_diagnostic_and_fails_as_text_does() {
        let (text, code) = judged("kind: Nothing\n", Output::Sarif, false).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        let results = answer["runs"][0]["results"].as_array().unwrap();
        assert!(code == 1 && !results.is_empty() && results[0]["level"] == "error", "{text}");
    }

    #[test]
    fn a_directory_without_policies_is_bad_usage() {
        assert!(judged("", Output::Text, false).unwrap_err().contains("holds no *.yaml"));
        let paths = vec![PathBuf::from("/nowhere/at/all")];
        let nowhere = Arguments { paths, output: Output::Text, deny_warnings: false };
        assert!(judge(&nowhere, false).unwrap_err().contains("No such file"));
    }
}
