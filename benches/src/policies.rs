//! Policies by the hundred, for the figures that are about many of them: identity, method and path mixed.

use std::fmt::Write as _;

use anyhow::ensure;
use weft_config::{SourceFile, compile};
use weft_model::mesh::Mesh;

pub(crate) fn compiled(files: &[SourceFile]) -> anyhow::Result<Mesh> {
    let compilation = compile(files);
    let error = compilation.diagnostics.first();
    ensure!(!compilation.has_errors(), "{error:?}");
    Ok(compilation.mesh)
}

/// Identity, method and path, as policies mix them: each rule of a policy names another of them.
fn rule(number: usize) -> String {
    let source = match number % 4 {
        0 | 1 => format!("principals: [cluster.local/ns/team-{}/sa/app-{}]", number % 97, number % 89),
        2 => format!("namespaces: [team-{}]", number % 97),
        _ => format!("principals: ['cluster.local/ns/team-{}/*']", number % 97),
    };
    let path = match number % 3 {
        0 => format!("/api/v1/things-{}/*", number % 331),
        1 => format!("/api/v1/things-{}/detail", number % 331),
        _ => format!("/api/v2/{{*}}/things-{}", number % 331),
    };
    let method = ["GET", "POST", "PUT"][number % 5 % 3];
    format!(
        "  - from: [{{source: {{{source}}}}}]\n    to: [{{operation: {{methods: [{method}], paths: ['{path}']}}}}]\n"
    )
}

fn policy(text: &mut String, name: usize, namespace: &str, app: &str, rules: std::ops::Range<usize>) {
    let action = if name % 5 == 4 { "DENY" } else { "ALLOW" };
    // DENY rules are for what nobody here sends, so that both kinds are looked through.
    let shift = if action == "DENY" { 1_000_003 } else { 0 };
    let _ = write!(
        text,
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{name}, namespace: {namespace}}}\n\
         spec:\n  selector: {{matchLabels: {{app: {app}}}}}\n  action: {action}\n  rules:\n"
    );
    rules.for_each(|number| {
        text.push_str(&rule(number + shift).replace("/api/", if shift > 0 { "/internal/" } else { "/api/" }));
    });
    text.push_str("---\n");
}

fn workload(text: &mut String, name: usize, namespace: &str, app: &str) {
    let address = format!("10.{}.{}.{}", name / 65_536, name / 256 % 256, name % 256);
    let _ = write!(
        text,
        "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w{name}, namespace: {namespace}, labels: {{app: {app}}}}}\n\
         spec: {{address: {address}, ports: [{{port: 8080, protocol: http}}]}}\n---\n"
    );
}

pub(crate) fn one_workload(policies: usize, rules: usize) -> Vec<SourceFile> {
    let mut text = String::new();
    workload(&mut text, 1, "shop", "cart");
    for name in 0..policies {
        policy(&mut text, name, "shop", "cart", name * rules..(name + 1) * rules);
    }
    vec![SourceFile { name: "policies.yaml".to_owned(), text }]
}

/// A hundred namespaces of ten workloads, and policies of three rules for them.
pub(crate) fn many_workloads(policies: usize) -> Vec<SourceFile> {
    (0..100)
        .map(|namespace| {
            let (name, mut text) = (format!("team-{namespace}"), String::new());
            (0..10)
                .for_each(|app| workload(&mut text, namespace * 10 + app + 1, &name, &format!("app-{app}")));
            for number in (namespace..policies).step_by(100) {
                policy(
                    &mut text,
                    number,
                    &name,
                    &format!("app-{}", number / 100 % 10),
                    number * 3..number * 3 + 3,
                );
            }
            SourceFile { name: format!("{name}.yaml"), text }
        })
        .collect()
}
