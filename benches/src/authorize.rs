//! What a verdict costs, what policies cost to compile, and what an edit of them costs the control API.
//!
//! Not a side-by-side: one thread, no sockets, the library that the proxy links. Policies go the whole way
//! (YAML, compiler, joined into what binds one workload), and requests are taken in turn from a set large
//! enough that none is remembered by the branch predictor. Given is the median of batches, and the least.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use weft_config::{Compiler, SourceFile, Sources, compile};
use weft_control::snapshot::Snapshot;
use weft_control::snapshot::diff::Diff;
use weft_control::snapshot::generation::GenerationCounter;
use weft_control::state::StateDirectory;
use weft_model::authorization::{AuthorizationSet, Caller, Facts};
use weft_model::mesh::Mesh;
use weft_model::request::{ConnectionFacts, HttpFacts};
use weft_model::spiffe::SpiffeId;
use weft_model::trust::TrustBundle;

/// Batches, and verdicts in each.
const BATCHES: usize = 101;
const VERDICTS: usize = 20_000;

/// Distinct requests.
const REQUESTS: usize = 509;

/// Edits of one policy each.
const EDITS: usize = 9;

/// What to measure.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Policies to compile for the figures of the compiler; 0: leave those out
    #[arg(long, default_value_t = 10_000)]
    policies: usize,
    /// Batches of verdicts: few where instructions are counted
    #[arg(long, default_value_t = BATCHES)]
    batches: usize,
}

struct Sent {
    source: SpiffeId,
    method: &'static str,
    path: String,
}

pub(crate) fn authorize(options: &Options) -> anyhow::Result<()> {
    let mut report = String::new();
    for (policies, rules) in [(10, 1), (10, 10), (100, 10), (1_000, 10)] {
        let mesh = compiled(&one_workload(policies, rules))?;
        let named: Vec<_> =
            mesh.authorizations.iter().map(|(name, held)| (name.clone(), Some(held.clone()))).collect();
        let start = Instant::now();
        let set = AuthorizationSet::new(named);
        let joined = start.elapsed();
        let sent = requests(policies * rules);
        let allowed = sent.iter().filter(|sent| judge(&set, sent, None)).count();
        ensure!(allowed > REQUESTS / 4 && allowed < REQUESTS, "{allowed} of {REQUESTS} are allowed");
        let (median, least) = cost(&set, &sent, true, options.batches);
        let (alone, _) = cost(&set, &sent, false, options.batches);
        writeln!(
            report,
            "verdict, {policies:>5} policies of {rules:>2} rules: {median:>6.0} ns (least {least:.0}), with the caller looked up \
             as well {alone:.0} ns; joined in {:.1} ms",
            millis(joined)
        )?;
    }
    if options.policies == 0 {
        crate::report::text(&report);
        return Ok(());
    }
    let files = many_workloads(options.policies);
    let bytes: usize = files.iter().map(|file| file.text.len()).sum();
    let mut times = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        let mesh = compiled(&files)?;
        times.push(start.elapsed());
        ensure!(mesh.authorizations.len() == options.policies, "every policy is held");
    }
    times.sort();
    writeln!(
        report,
        "compile, {} policies in {} files of {} MB: {:.0} ms (least {:.0})",
        options.policies,
        files.len(),
        bytes / 1_000_000,
        millis(times[1]),
        millis(times[0])
    )?;
    for (how, remembers) in [("with nothing remembered", false), ("as the control API does", true)] {
        let (median, least) = edits(&files, remembers)?;
        writeln!(
            report,
            "edit of one policy to its snapshot, {how}: {:.1} ms (least {:.1})",
            millis(median),
            millis(least)
        )?;
    }
    crate::report::text(&report);
    Ok(())
}

/// From the text of a file that changed to the snapshot that is pushed: the median of edits, and the least.
fn edits(files: &[SourceFile], remembers: bool) -> anyhow::Result<(Duration, Duration)> {
    let state = tempfile::tempdir()?;
    let mut counter = GenerationCounter::load(Arc::new(StateDirectory::open(state.path())?))?;
    let mut files = files.to_vec();
    let sources = Sources::default();
    let mut compiler = Compiler::new(&sources);
    let first = compiler.compile(&files).mesh;
    let trust_domain = first.config.trust_domain.clone();
    let trust = Arc::new(TrustBundle { trust_domain, roots: Vec::new() });
    let mut snapshot = Snapshot::build(first, &trust, &mut counter, None)?;
    let mut times = Vec::new();
    for edit in 0..EDITS {
        let text = &mut files[edit * 7 % 100].text;
        *text = text.replacen("/v1/things-", &format!("/v1/other-{edit}-"), 1);
        let start = Instant::now();
        let compilation = if remembers { compiler.compile(&files) } else { compile(&files) };
        ensure!(!compilation.has_errors(), "the edit is good");
        let next = Snapshot::build(compilation.mesh, &trust, &mut counter, Some(&snapshot))?;
        times.push(start.elapsed());
        let Diff(changed) = Diff::between(Some(&snapshot), &next);
        ensure!(changed.len() == 1 && changed[0].changed == 1, "one resource changes: {changed:?}");
        snapshot = next;
    }
    times.sort();
    Ok((times[EDITS / 2], times[0]))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn compiled(files: &[SourceFile]) -> anyhow::Result<Mesh> {
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

fn one_workload(policies: usize, rules: usize) -> Vec<SourceFile> {
    let mut text = String::new();
    workload(&mut text, 1, "shop", "cart");
    for name in 0..policies {
        policy(&mut text, name, "shop", "cart", name * rules..(name + 1) * rules);
    }
    vec![SourceFile { name: "policies.yaml".to_owned(), text }]
}

/// A hundred namespaces of ten workloads, and policies of three rules for them.
fn many_workloads(policies: usize) -> Vec<SourceFile> {
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

/// Requests of which rules are about: two of three as a rule wants them, the others off by one part.
fn requests(rules: usize) -> Vec<Sent> {
    (0..REQUESTS)
        .map(|index| {
            // Of every five policies one denies.
            let number = index * 7_919 % rules;
            let path = match number % 3 {
                0 => format!("/api/v1/things-{}/item-{index}", number % 331),
                1 => format!("/api/v1/things-{}/detail", number % 331),
                _ => format!("/api/v2/all/things-{}", number % 331),
            };
            let method = ["GET", "POST", "PUT"][number % 5 % 3];
            let method = if index % 3 == 2 { "DELETE" } else { method };
            let source = format!("spiffe://cluster.local/ns/team-{}/sa/app-{}", number % 97, number % 89);
            Sent { source: source.parse().expect("it is an identity"), method, path }
        })
        .collect()
}

/// `caller`: what a proxy looks up once for a connection.
fn judge(set: &AuthorizationSet, sent: &Sent, caller: Option<&Caller>) -> bool {
    let client = std::net::Ipv4Addr::new(10, 1, 2, 3).into();
    let facts = Facts {
        connection: ConnectionFacts {
            source: Some(&sent.source),
            source_address: client,
            original_address: Some(client),
            destination: (std::net::Ipv4Addr::new(10, 0, 0, 1), 8080).into(),
            sni: Some("8080.cart.shop"),
        },
        http: Some(HttpFacts {
            method: sent.method,
            authority: "cart.shop",
            path: &sent.path,
            query: None,
            headers: &(),
            remote_address: client,
            token: None,
        }),
    };
    let judgement = match caller {
        Some(caller) => set.judge_of(caller, &facts),
        None => set.judge(&facts),
    };
    judgement.verdict.is_allowed()
}

/// Nanoseconds per verdict: the median of the batches, and the least. `known`: the callers were looked up
/// before.
fn cost(set: &AuthorizationSet, sent: &[Sent], known: bool, batches: usize) -> (f64, f64) {
    let callers: Vec<_> = sent.iter().map(|sent| known.then(|| set.caller(Some(&sent.source)))).collect();
    let mut batches: Vec<f64> = (0..batches.max(1))
        .map(|_| {
            let start = Instant::now();
            for (sent, caller) in sent.iter().zip(&callers).cycle().take(VERDICTS) {
                black_box(judge(black_box(set), black_box(sent), caller.as_ref()));
            }
            start.elapsed().as_nanos() as f64 / VERDICTS as f64
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    (batches[batches.len() / 2], batches[0])
}
