//! The demo's story, step by step. Each step says what it does, does it, and checks what it claims.

use super::http::{self, Response};
use super::mesh::Mesh;
use super::metrics::Metrics;
use super::report::Report;
use super::stream::Stream;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

const WEB: &str = "shop/web-1";
const AUDIT: &str = "ops/audit-1";
const CATALOG: &str = "shop/catalog-v1-1";
const CARTS: [&str; 3] = ["checkout/cart-1", "checkout/cart-2", "checkout/cart-3"];

const CART_URL: &str = "http://cart.checkout/cart/42";
const ADMINISTRATION_URL: &str = "http://cart.checkout/cart/administration";
const CATALOG_URL: &str = "http://catalog.shop/items";

/// The file that is edited live, and the edit.
const EDITED_FILE: &str = "authorization.yaml";
const EDIT: (&str, &str) = ("methods: [\"GET\", \"POST\"]", "methods: [\"GET\"]");

/// Longest wait for a policy to be enforced before the claim counts as failed.
const ENFORCED_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests of the split; with a tenth expected, 24 is seven deviations away.
const SPLIT_REQUESTS: u32 = 400;

/// Everything runs.
pub(crate) fn started(mesh: &Mesh, report: &mut Report) {
    let workloads = mesh.workloads().count();
    report.say(&format!(
        "One control API, {workloads} workloads, each behind a proxy of its own: {} processes, no privileges.",
        mesh.processes()
    ));
    report.say(&format!("Policies: {}", mesh.policies().display()));
    let seconds = report.elapsed().as_secs_f64();
    report.check(true, &format!("every proxy has its certificate and its configuration ({seconds:.1} s)"));
}

/// Who is who.
pub(crate) async fn identities(mesh: &Mesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("Every workload has an identity, and every call proves it");
    report.say(
        "Each proxy made a key, and the control API's authority signed a short-lived certificate for it:",
    );
    let width = mesh.workloads().map(|workload| workload.uid.len()).max().unwrap_or(0);
    for workload in mesh.workloads() {
        report.show(&format!("{:width$}  {}", workload.uid, workload.identity));
    }
    let web = mesh.workload(WEB)?;
    let response = http::send(web.outbound, "GET", CART_URL, &[]).await?;
    report.check(
        response.status == 200,
        &format!("web calls {CART_URL} through its proxy: {}", response.status),
    );
    let server = mesh.workloads().find(|workload| workload.uid.ends_with(response.field("x-application")));
    let server = server.context("an application that is not in the mesh answered")?;
    let metrics = Metrics::scrape(server.metrics).await?;
    let source = format!("source_principal=\"{}\"", web.identity);
    let mutual = metrics.sum("istio_requests_total", &[&source, "connection_security_policy=\"mutual_tls\""]);
    report.check(mutual == 1.0, &format!("{}'s proxy saw {} over mutual TLS", server.uid, web.identity));
    let client = Metrics::scrape(web.metrics).await?;
    let destination = format!("destination_principal=\"{}\"", server.identity);
    let known = client.sum("istio_requests_total", &[&destination, "response_code=\"200\""]);
    report.check(known == 1.0, &format!("web's proxy saw {}", server.identity));
    let inbound = server.inbound.context("a server without an inbound port")?;
    let plain = http::send(inbound, "GET", CART_URL, &[]).await?;
    refused(report, "a program without a certificate dials the cart itself", &plain, 403, "tls_required");
    Ok(())
}

/// Who may call what.
pub(crate) async fn authorization(mesh: &Mesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("Who may call what is decided by identity, method and path");
    let outbound = |uid: &str| mesh.workload(uid).map(|workload| workload.outbound);
    let allowed = http::send(outbound(AUDIT)?, "GET", CART_URL, &[]).await?;
    report.check(allowed.status == 200, &format!("ops/audit reads the cart: {}", allowed.status));
    let denied = http::send(outbound(AUDIT)?, "POST", CART_URL, &[]).await?;
    refused(report, "ops/audit writes to the cart", &denied, 403, "authorization_denied");
    let denied = http::send(outbound(CATALOG)?, "GET", CART_URL, &[]).await?;
    refused(report, "shop/catalog reads the cart", &denied, 403, "authorization_denied");
    let denied = http::send(outbound(WEB)?, "GET", ADMINISTRATION_URL, &[]).await?;
    refused(report, "shop/web asks for the cart's administration", &denied, 403, "authorization_denied");
    report
        .say("The client is told the reason and no more. The proxy that refused logs which policy decided:");
    let line = logged(mesh, "/cart/administration").await?;
    let detail = line["detail"].as_str().unwrap_or_default().to_owned();
    report.show(&format!("source={} path={} detail={detail}", line["source"], line["path"]));
    let policy = "checkout/no-administration";
    report.check(detail.contains(policy), &format!("the policy that decided is {policy}"));
    Ok(())
}

/// The line of a cart's access log with this path. The log is written by a thread of its own.
async fn logged(mesh: &Mesh, path: &str) -> anyhow::Result<serde_json::Value> {
    let start = Instant::now();
    while start.elapsed() < ENFORCED_TIMEOUT {
        for uid in CARTS {
            if let Some(line) = mesh.access_log(uid)?.into_iter().find(|line| line["path"] == path) {
                return Ok(line);
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("no access log has a line for {path}")
}

/// Where calls go.
pub(crate) async fn routing(mesh: &Mesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("A route sends a tenth of the calls to a new version");
    let web = mesh.workload(WEB)?;
    let mut connection = http::Connection::open(web.outbound).await?;
    let mut versions = BTreeMap::<String, u32>::new();
    for _ in 0..SPLIT_REQUESTS {
        let response = connection.send("GET", CATALOG_URL, &[]).await?;
        *versions.entry(response.field("x-version").to_owned()).or_default() += 1;
    }
    let count = |version: &str| versions.get(version).copied().unwrap_or(0);
    let (first, second) = (count("v1"), count("v2"));
    report.check(
        first + second == SPLIT_REQUESTS && (4..=90).contains(&second),
        &format!("of {SPLIT_REQUESTS} calls to {CATALOG_URL}, {first} went to v1 and {second} to v2 (90:10)"),
    );
    let mut previews = 0;
    for _ in 0..20 {
        let response = connection.send("GET", CATALOG_URL, &[("x-preview", "true")]).await?;
        previews += u32::from(response.field("x-version") == "v2");
    }
    report.check(previews == 20, &format!("with `x-preview: true`, {previews} of 20 went to v2"));
    Ok(())
}

/// A replica dies under reads.
pub(crate) async fn failure(mesh: &mut Mesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("A replica is killed under a stream of GETs, and no call fails");
    let (outbound, metrics) = {
        let web = mesh.workload(WEB)?;
        (web.outbound, web.metrics)
    };
    let before = Metrics::scrape(metrics).await?.sum("weft_outbound_retries_total", &[]);
    let stream = Stream::start(outbound, 4, "GET", CART_URL);
    stream.more(200).await;
    mesh.kill(CARTS[0], true)?;
    stream.more(600).await;
    let outcomes = stream.stop().await?;
    for (application, count) in &outcomes.by_application {
        report.show(&format!("{application}  {count} answers"));
    }
    let (total, failed, words) = (outcomes.total(), outcomes.failures(), how(&outcomes.failed));
    let killed = format!("{} was killed, proxy and application", CARTS[0]);
    report.check(failed == 0, &format!("{killed}: of {total} GETs {failed} failed{words}"));
    let retried = Metrics::scrape(metrics).await?.sum("weft_outbound_retries_total", &[]) - before;
    report.check(retried >= 1.0, &format!("web's proxy tried {retried} of them again on another replica"));
    mesh.restart(CARTS[0]).await?;
    report.say(&format!("{} is back.", CARTS[0]));
    Ok(())
}

/// A replica dies under writes.
pub(crate) async fn orders(mesh: &mut Mesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("The same under a stream of POSTs: none is executed twice");
    report.say("A POST that was already under way may have been executed, so it is not tried again:");
    let outbound = mesh.workload(WEB)?.outbound;
    let stream = Stream::start(outbound, 4, "POST", CART_URL);
    stream.more(200).await;
    // The application lives on, so that its ledger can be read afterwards.
    mesh.kill(CARTS[1], false)?;
    stream.more(400).await;
    let outcomes = stream.stop().await?;
    let mut executed = BTreeMap::<String, u32>::new();
    for uid in CARTS {
        let ledger = http::fetch(mesh.workload(uid)?.application, "/ledger").await?;
        let ledger: BTreeMap<String, u32> = serde_json::from_str(&ledger.body)?;
        for (id, count) in ledger {
            *executed.entry(id).or_default() += count;
        }
    }
    let of = |id: &String| executed.get(id).copied().unwrap_or(0);
    let twice = executed.values().filter(|count| **count > 1).count();
    let once = outcomes.succeeded.iter().filter(|id| of(id) == 1).count();
    let succeeded = outcomes.succeeded.len();
    report.check(
        once == succeeded,
        &format!(
            "of {} POSTs {succeeded} were answered with 200, each executed exactly once",
            outcomes.total()
        ),
    );
    report
        .check(twice == 0, &format!("{twice} orders were executed twice, by the applications' own ledgers"));
    let unsure: Vec<_> = outcomes.failed.values().flatten().collect();
    let executed_unsure = unsure.iter().filter(|id| of(id) == 1).count();
    let honest = outcomes.failed.keys().all(|how| how.contains("connection_reset"));
    report.check(
        honest,
        &format!(
            "under way on the killed replica, failed with a reason: {}{}; of these {executed_unsure} had been \
             executed, which the mesh does not guess",
            unsure.len(),
            how(&outcomes.failed)
        ),
    );
    mesh.restart(CARTS[1]).await
}

fn how(failed: &BTreeMap<String, Vec<String>>) -> String {
    let words: Vec<_> = failed.iter().map(|(how, ids)| format!("{how}: {}", ids.len())).collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
}

/// A policy file is edited.
pub(crate) async fn edit(mesh: &Mesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("A policy file is edited, and the verdict changes at once");
    let text = fs::read_to_string(mesh.policies().join(EDITED_FILE))?;
    if !text.contains(EDIT.0) {
        bail!("{EDITED_FILE} does not contain {:?}", EDIT.0);
    }
    let web = mesh.workload(WEB)?;
    let mut connection = http::Connection::open(web.outbound).await?;
    let before = connection.send("POST", CART_URL, &[]).await?;
    report.check(before.status == 200, &format!("web writes to the cart: {}", before.status));
    report.show(&format!(
        "{EDITED_FILE}:  - {}\n{:>width$}  + {}",
        EDIT.0,
        "",
        EDIT.1,
        width = EDITED_FILE.len() + 1
    ));
    let (took, answer) = turn(mesh, &mut connection, &text.replace(EDIT.0, EDIT.1), 403).await?;
    let took_text = took.as_secs_f64() * 1000.0;
    refused(report, &format!("{took_text:.0} ms after the edit"), &answer, 403, "authorization_denied");
    let (took, _) = turn(mesh, &mut connection, &text, 200).await?;
    let took = took.as_secs_f64() * 1000.0;
    report
        .check(true, &format!("{took:.0} ms after it was undone, web writes again, on the same connection"));
    let reload = http::fetch(mesh.control_admin(), "/status").await?;
    report.check(reload.status == 200, "the control API knows which proxy holds which generation: /status");
    Ok(())
}

/// Writes the policy and asks until the answer has this status, ten times in a row so that each
/// replica has very likely been asked.
async fn turn(
    mesh: &Mesh,
    connection: &mut http::Connection,
    text: &str,
    status: u16,
) -> anyhow::Result<(Duration, Response)> {
    let start = Instant::now();
    mesh.write_policy(EDITED_FILE, text)?;
    let mut first = None;
    let mut row = 0;
    while start.elapsed() < ENFORCED_TIMEOUT {
        let response = connection.send("POST", CART_URL, &[]).await?;
        if response.status != status {
            (first, row) = (None, 0);
            continue;
        }
        let took = *first.get_or_insert_with(|| start.elapsed());
        row += 1;
        if row == 10 {
            return Ok((took, response));
        }
    }
    bail!("the verdict did not become {status} within {ENFORCED_TIMEOUT:?} of the edit")
}

/// What was counted.
pub(crate) async fn measured(mesh: &Mesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("All of it was counted, under the names that dashboards know");
    let server = mesh.workload(CARTS[2])?;
    let metrics = Metrics::scrape(server.metrics).await?;
    report.say(&format!("http://{}/metrics, of {} series:", server.metrics, metrics.series()));
    let shown = ["istio_requests_total", "weft_authorization_decisions_total", "weft_tls_handshakes_total"];
    for name in shown {
        for line in metrics.lines(name, &[]).take(3) {
            report.show(&shortened(line));
        }
    }
    // Which of the carts a call went to was the balancer's to say.
    let (mut counted, mut denied) = (0.0, 0.0);
    for uid in CARTS {
        let metrics = Metrics::scrape(mesh.workload(uid)?.metrics).await?;
        counted += metrics.sum("istio_requests_total", &["reporter=\"destination\""]);
        denied += metrics.sum("weft_answers_total", &["authorization_denied"]);
    }
    report.check(counted > 100.0, &format!("the carts' proxies counted {counted} requests by who called"));
    report.check(denied >= 1.0, &format!("{denied} of their own answers, by reason"));
    Ok(())
}

/// A line of metrics with the labels that say the most.
fn shortened(line: &str) -> String {
    const LABELS: [&str; 8] = [
        "source_principal",
        "destination_workload",
        "response_code",
        "connection_security_policy",
        "verdict",
        "policy",
        "alpn",
        "resumed",
    ];
    let Some((name, rest)) = line.split_once('{') else { return line.to_owned() };
    let Some((labels, value)) = rest.rsplit_once('}') else { return line.to_owned() };
    let all = labels.split("\",").count();
    let kept: Vec<_> = labels
        .split("\",")
        .map(|label| label.trim_end_matches('"'))
        .filter(|label| LABELS.iter().any(|kept| label.split("=\"").next() == Some(kept)))
        .map(|label| format!("{label}\""))
        .collect();
    let more = if kept.len() < all { ",…" } else { "" };
    format!("{name}{{{}{more}}}{value}", kept.join(","))
}

/// What can be tried while the mesh is kept.
pub(crate) fn invitation(mesh: &Mesh, report: &mut Report) -> anyhow::Result<()> {
    let (web, audit) = (mesh.workload(WEB)?, mesh.workload(AUDIT)?);
    let (server, policies) = (mesh.workload(CARTS[0])?, mesh.policies());
    report.step("The mesh keeps running until Ctrl-C. Try:");
    report.say(&format!(
        "curl -x http://{} {CATALOG_URL}                 # as shop/web\n\
         curl -x http://{} -i -X POST {CART_URL}  # as ops/audit: denied\n\
         curl http://{}/metrics                          # a proxy's metrics\n\
         curl http://{}/dump                             # what it holds\n\
         curl http://{}/status                           # the control API's view\n\
         $EDITOR {}/{EDITED_FILE}\n\
         kill -9 PID                                     # any process of the mesh; weft-control is {}",
        web.outbound,
        audit.outbound,
        server.metrics,
        server.admin,
        mesh.control_admin(),
        policies.display(),
        mesh.control_id()
    ));
    Ok(())
}

/// Claims that the mesh refused for this reason.
fn refused(report: &mut Report, what: &str, response: &Response, status: u16, reason: &str) {
    let held = response.status == status && response.reason() == reason;
    report.check(held, &format!("{what}: {} {}", response.status, response.reason()));
}
