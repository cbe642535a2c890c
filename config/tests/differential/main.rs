//! The evaluator that the proxy links, against one that is written to be read.
//!
//! `reference` judges JSON documents by plain loops and shares no code with the product. `documented` anchors
//! it on cases whose answer Istio's documentation or tests state: both must give that answer. `random` makes
//! policies and requests from few values, so that rules often match or nearly do; there the two must agree on
//! everything: the verdict, the rule that decided, the audit, and what dry runs would change. The way of a
//! policy is the whole one: document, compiler, wire, index.

// A helper of a test may fail as a test does.
#![allow(clippy::unwrap_used)]

mod documented;
mod random;
mod reference;

use reference::{Answer, Policy, Request};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use weft_config::{SourceFile, compile, render};
use weft_model::authorization::{Action, AuthorizationSet, Decider, Facts, Verdict};
use weft_model::json::Members;
use weft_model::mesh::Mesh;
use weft_model::request::{ConnectionFacts, HttpFacts};
use weft_model::token::VerifiedToken;
use weft_model::wire::{Kind, Resource};

/// How many sets of policies, and requests for each.
const SETS: usize = 1_250;
const REQUESTS: usize = 88;

/// A file with a workload in a namespace of its own, and its policies there, named in order.
fn file(namespace: &str, policies: &[Policy]) -> SourceFile {
    let mut documents = vec![json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "Workload",
        "metadata": {"name": "server", "namespace": namespace},
    })];
    let address = format!("fd00::{:x}", namespace.trim_start_matches('n').parse::<u32>().unwrap_or(0) + 1);
    documents[0]["spec"] = json!({"address": address, "ports": [{"port": 8080}, {"port": 9000}]});
    for (index, policy) in policies.iter().enumerate() {
        documents.push(json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {
                "name": format!("p{index}"), "namespace": namespace,
                "annotations": {"istio.io/dry-run": policy.dry_run.to_string()},
            },
            "spec": policy.spec,
        }));
    }
    let text = documents.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
    SourceFile { name: format!("{namespace}.yaml"), text }
}

fn compiled(files: &[SourceFile]) -> Mesh {
    let compilation = compile(files);
    assert!(!compilation.has_errors(), "{}", render(&compilation.diagnostics, files, false));
    compilation.mesh
}

/// What binds the workload of a namespace, as it comes over the wire.
fn set(mesh: &Mesh, namespace: &str) -> AuthorizationSet {
    let workload = &mesh.workloads[format!("{namespace}/server").as_str()];
    AuthorizationSet::new(workload.authorizations.iter().map(|name| {
        let sent = Resource::Authorization(mesh.authorizations[name].clone()).encode();
        match Resource::decode(Kind::Authorization, name.as_str(), &sent).unwrap() {
            Resource::Authorization(policy) => (name.clone(), Some(policy)),
            other => panic!("{other:?}"),
        }
    }))
}

/// What the product says.
fn judged(set: &AuthorizationSet, request: &Request) -> Answer {
    let source = request.principal.as_ref().map(|text| format!("spiffe://{text}").parse().unwrap());
    let headers = request.http.as_ref().map(|http| http.headers.clone()).unwrap_or_default();
    let headers = headers.as_slice();
    let token = request.http.as_ref().and_then(|http| http.claims.as_ref()).map(|claims| {
        VerifiedToken::new(Members::parse(claims.to_string().as_bytes()).unwrap(), "", Arc::default())
    });
    let facts = Facts {
        connection: ConnectionFacts {
            source: source.as_ref(),
            source_address: request.source_ip.parse().unwrap(),
            original_address: request.remote_ip.as_ref().map(|address| address.parse().unwrap()),
            destination: format!("{}:{}", request.destination_ip, request.port).parse().unwrap(),
            sni: request.sni.as_deref(),
        },
        http: request.http.as_ref().map(|http| HttpFacts {
            method: &http.method,
            authority: &http.authority,
            path: &http.path,
            query: None,
            headers: &headers,
            remote_address: request.remote_ip.as_ref().unwrap().parse().unwrap(),
            token: token.as_ref(),
        }),
    };
    let judgement = set.judge(&facts);
    // What a proxy looks up once per connection changes nothing.
    assert_eq!(set.judge_of(&set.caller(facts.connection.source), &facts), judgement);
    let audits = |decider: &Decider<'_>| decider.policy.action == Action::Audit;
    assert_eq!(judgement.audit, set.matching(&facts).find(audits));
    assert_eq!(judgement.custom, None);
    let nearest = set.nearest_miss(&facts, usize::MAX);
    if judgement.verdict == Verdict::NotAllowed {
        let any = set
            .policies()
            .iter()
            .any(|policy| !policy.rules.is_empty() && !policy.dry_run && policy.action == Action::Allow);
        assert_eq!(nearest.is_some(), any, "what is not allowed has a nearest miss");
    }
    if let Some(nearest) = nearest {
        assert!(!nearest.parts.is_empty() && nearest.complete);
    }
    Answer {
        verdict: verdict(judgement.verdict),
        audit: judgement.audit.map(decider),
        shadow: judgement.shadow.map(verdict),
    }
}

fn decider(decider: Decider<'_>) -> (usize, usize) {
    (decider.policy.name.as_str().trim_start_matches('p').parse().unwrap(), decider.rule)
}

fn verdict(verdict: Verdict<'_>) -> reference::Verdict {
    match verdict {
        Verdict::Allowed(by) => reference::Verdict::Allowed(by.map(decider)),
        Verdict::Denied(by) => reference::Verdict::Denied(decider(by)),
        Verdict::NotAllowed => reference::Verdict::NotAllowed,
        Verdict::Unresolved(name) => panic!("{name} is not held"),
    }
}

#[test]
fn both_give_the_answers_that_istio_documents() {
    let mut failures = String::new();
    for case in documented::cases() {
        let mesh = compiled(&[file("foo", &case.policies)]);
        let set = set(&mesh, "foo");
        for (request, allowed) in &case.requests {
            let product = judged(&set, request);
            let reference = reference::judge("foo", &case.policies, request);
            if product != reference || product.verdict.is_allowed() != *allowed {
                writeln!(
                    failures,
                    "{}: {request:?}\n documented {allowed}\n product {product:?}\n reference {reference:?}",
                    case.says
                )
                .unwrap();
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn both_agree_on_random_policies_and_requests() {
    let mut random = random::Random::new(0x5eed);
    let sets: BTreeMap<String, Vec<Policy>> =
        (0..SETS).map(|index| (format!("n{index}"), random.policies())).collect();
    let files: Vec<SourceFile> = sets.iter().map(|(namespace, policies)| file(namespace, policies)).collect();
    let mesh = compiled(&files);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (namespace, policies) in &sets {
        let set = set(&mesh, namespace);
        for _ in 0..REQUESTS {
            let request = random.request(namespace);
            let product = judged(&set, &request);
            let reference = reference::judge(namespace, policies, &request);
            assert_eq!(
                product,
                reference,
                "{request:?}\n{}",
                json!(policies.iter().map(|p| &p.spec).collect::<Vec<_>>())
            );
            *seen.entry(product.verdict.word()).or_default() += 1;
            *seen.entry("audited").or_default() += usize::from(product.audit.is_some());
            let differs = product
                .shadow
                .as_ref()
                .is_some_and(|shadow| shadow.is_allowed() != product.verdict.is_allowed());
            *seen.entry("changed by dry runs").or_default() += usize::from(differs);
        }
    }
    const { assert!(SETS * REQUESTS >= 100_000) };
    // A comparison of one kind of answer only would prove little.
    for (answer, count) in &seen {
        assert!(*count > SETS * REQUESTS / 100, "{answer}: {count} of {seen:?}");
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
}
