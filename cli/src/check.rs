//! `weft check DIR`: compiles a directory of policies and prints every problem.
//!
//! Exit code 0: no errors (there may be warnings); 1: errors; 2: the directory cannot be read.

use clap::ValueEnum;
use serde::Serialize;
use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use weft_config::{Compilation, Diagnostic, Severity, SourceFile, compile, read_directory, render};
use weft_model::authentication::TlsMode;
use weft_model::service::ServiceTarget;

/// The exit code of what cannot be checked at all, as clap's for bad usage.
const UNUSABLE: u8 = 2;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The directory: every *.yaml and *.yml in it is read
    directory: PathBuf,
    /// How to say it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
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
    authorization_policies: usize,
    peer_authentications: usize,
    peer_authentication_default: &'static str,
}

#[derive(Serialize)]
struct Answer<'a> {
    diagnostics: &'a [Diagnostic],
    summary: &'a Summary,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match judge(arguments, colour) {
        Ok((text, has_errors)) => {
            // Whoever closed the pipe has read enough.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::from(u8::from(has_errors))
        }
        Err(message) => {
            let _ = writeln!(io::stderr(), "weft check: {message}");
            ExitCode::from(UNUSABLE)
        }
    }
}

// What to print, and whether there are errors; or why there is nothing to judge.
fn judge(arguments: &Arguments, colour: bool) -> Result<(String, bool), String> {
    let files = read_directory(&arguments.directory).map_err(|error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{error}{cause}")
    })?;
    if files.is_empty() {
        return Err(format!("{} holds no *.yaml or *.yml", arguments.directory.display()));
    }
    let compilation = compile(&files);
    let summary = Summary::new(&files, &compilation);
    let text = match arguments.output {
        Output::Text => text(&files, &compilation, &summary, colour),
        Output::Json => json(&compilation, &summary),
    };
    Ok((text, compilation.has_errors()))
}

fn json(compilation: &Compilation, summary: &Summary) -> String {
    let answer = Answer { diagnostics: &compilation.diagnostics, summary };
    // Text and numbers always have a JSON form.
    serde_json::to_string_pretty(&answer).unwrap_or_default() + "\n"
}

fn text(files: &[SourceFile], compilation: &Compilation, summary: &Summary, colour: bool) -> String {
    let count = |number: usize, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    let policies = match summary.authorization_policies {
        1 => "1 authorization policy".to_owned(),
        several => format!("{several} authorization policies"),
    };
    format!(
        "{}{}, {}; {}: {}, {}, {}, {}, {}; mutual TLS where no policy speaks: {}\n",
        render(&compilation.diagnostics, files, colour),
        count(summary.errors, "error"),
        count(summary.warnings, "warning"),
        count(summary.files, "file"),
        count(summary.services, "service"),
        count(summary.workloads, "workload"),
        count(summary.http_routes, "route"),
        policies,
        count(summary.peer_authentications, "peer authentication"),
        summary.peer_authentication_default,
    )
}

impl Summary {
    fn new(files: &[SourceFile], compilation: &Compilation) -> Self {
        let of = |severity: Severity| {
            compilation.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
        };
        let mesh = &compilation.mesh;
        let named = |target: &ServiceTarget| matches!(target, ServiceTarget::Service(_));
        Self {
            files: files.len(),
            errors: of(Severity::Error),
            warnings: of(Severity::Warning),
            services: mesh.services.values().filter(|service| named(&service.target)).count(),
            workloads: mesh.workloads.len(),
            http_routes: mesh.routes.len(),
            authorization_policies: mesh.authorizations.len(),
            peer_authentications: mesh.peer_authentications.len(),
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

    fn judged(text: &str, output: Output) -> Result<(String, bool), String> {
        let directory = tempfile::tempdir().unwrap();
        if !text.is_empty() {
            std::fs::write(directory.path().join("a.yaml"), text).unwrap();
        }
        judge(&Arguments { directory: directory.path().to_owned(), output }, false)
    }

    const WARNED: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                          metadata: {name: a}\nspec: {rules: []}\n";

    #[test]
    fn errors_fail_and_warnings_do_not() {
        let (text, has_errors) = judged(WARNED, Output::Text).unwrap();
        assert!(!has_errors && text.contains("0 errors, 1 warning; 1 file:"), "{text}");
        let (text, has_errors) = judged("kind: Nothing\n", Output::Text).unwrap();
        assert!(has_errors && text.contains("a.yaml:1:1"), "{text}");
    }

    #[test]
    fn json_has_every_diagnostic_with_its_place() {
        let (text, _) = judged(WARNED, Output::Json).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["diagnostics"][0]["severity"], "warning");
        assert_eq!(answer["diagnostics"][0]["line"], 4);
        assert_eq!(answer["diagnostics"][0]["path"], "spec.rules");
        assert_eq!(answer["summary"]["authorizationPolicies"], 1);
        assert_eq!(answer["summary"]["peerAuthenticationDefault"], "STRICT");
    }

    #[test]
    fn a_directory_without_policies_is_bad_usage() {
        assert!(judged("", Output::Text).unwrap_err().contains("holds no *.yaml"));
        let nowhere = Arguments { directory: PathBuf::from("/nowhere/at/all"), output: Output::Text };
        assert!(judge(&nowhere, false).unwrap_err().contains("No such file"));
    }
}
