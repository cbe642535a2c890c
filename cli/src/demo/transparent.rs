//! `weft demo --transparent`: the shop in pods, with programs that know nothing of a mesh. No
//! `http_proxy`, no port of a proxy: they call each other by name and address, and the kernel redirects
//! them. Each step says what it does, does it, and checks what it claims; what was on the wire is claimed
//! from a capture of it.

use super::pods::{Member, PodMesh, call, fetch};
use super::report::Report;
use anyhow::Context;
use std::net::SocketAddr;
use weft_pods::Wire;

const WEB: &str = "shop/web-1";
const AUDIT: &str = "ops/audit-1";
const CATALOG: &str = "shop/catalog-v1-1";
const CARTS: [&str; 3] = ["checkout/cart-1", "checkout/cart-2", "checkout/cart-3"];

const CART: &str = "cart.checkout";
const CART_URL: &str = "http://cart.checkout/cart/42";

/// What must never be seen on a wire.
const MARKER: &str = "marked-5a1f9c-order";
const MARKED_URL: &str = "http://cart.checkout/cart/marked-5a1f9c-order";

/// Tells the story; whether every claim held. `keep`: goes on until Ctrl-C.
pub(crate) async fn tell(keep: bool, report: &mut Report) -> anyhow::Result<bool> {
    report.title("weft demo --transparent: a shop in pods, whose programs know nothing of a mesh");
    report.step("A mesh of pods starts");
    let mut mesh = PodMesh::start().await?;
    started(&mesh, report);
    calls(&mesh, report).await?;
    policies(&mesh, report).await?;
    wire(&mesh, report).await?;
    probes(&mesh, report).await?;
    killed(&mut mesh, report).await?;
    let held = report.finish();
    if keep {
        invitation(&mesh, report)?;
        // Until Ctrl-C, which drops the mesh.
        std::future::pending::<()>().await;
    }
    Ok(held)
}

fn started(mesh: &PodMesh, report: &mut Report) {
    let count = mesh.members().count();
    report.say(&format!(
        "{count} workloads, each in a network namespace of its own with a proxy beside it, and one control API. No \
         root, no containers."
    ));
    let width = mesh.members().map(|member| member.uid.len()).max().unwrap_or(0);
    for member in mesh.members() {
        report.show(&format!("{:width$}  {:12}  {}", member.uid, member.pod.address(), member.identity));
    }
    let seconds = report.elapsed().as_secs_f64();
    let claim = format!("every proxy is ready: certificate, configuration, redirection ({seconds:.1} s)");
    report.check(true, &claim);
}

async fn calls(mesh: &PodMesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("Programs call each other as they always did");
    let web = mesh.member(WEB)?;
    let address = mesh.resolve(CART)?;
    let how =
        if mesh.named { "looks up its name and finds" } else { "is told (names cannot be served here)" };
    report.say(&format!("web's program wants {CART_URL}, {how} {address}, and connects there."));
    let response = call(&web.pod, address, "GET", CART_URL).await?;
    report.check(response.status == 200, &format!("it is answered: {}", response.status));
    let told: serde_json::Value = serde_json::from_str(&response.body).unwrap_or_default();
    report.show(&told.to_string());
    let server = server(mesh, response.field("x-application"))?;
    let application = server.application()?;
    report.check(
        told["reached"].as_str() == Some(&application.to_string()),
        &format!("{} was reached at its own address {application}, not at a proxy's", server.uid),
    );
    let source = format!("source_principal=\"{}\"", web.identity);
    let mutual = ["connection_security_policy=\"mutual_tls\"", source.as_str()];
    let seen = server.metrics().await?.sum("istio_requests_total", &mutual);
    report.check(seen == 1.0, &format!("its proxy saw {} over mutual TLS", web.identity));
    let second = mesh.member(CARTS[1])?;
    let direct = second.application()?;
    let response = call(&web.pod, direct, "GET", CART_URL).await?;
    report.check(
        response.status == 200 && second.uid.ends_with(response.field("x-application")),
        &format!("a pod's own address, {direct}, leads to that pod: {}", response.field("x-application")),
    );
    Ok(())
}

fn server<'m>(mesh: &'m PodMesh, application: &str) -> anyhow::Result<&'m Member> {
    let found = mesh.members().find(|member| !application.is_empty() && member.uid.ends_with(application));
    found.context("an application that is not in the mesh answered")
}

async fn policies(mesh: &PodMesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("The same policies hold: nobody can step around them");
    let address = mesh.resolve(CART)?;
    let audit = &mesh.member(AUDIT)?.pod;
    let allowed = call(audit, address, "GET", CART_URL).await?;
    report.check(allowed.status == 200, &format!("ops/audit reads the cart: {}", allowed.status));
    let denied = call(audit, address, "POST", CART_URL).await?;
    let reason = "authorization_denied";
    report.check(denied.reason() == reason, &format!("and may not write to it: {} {reason}", denied.status));
    let direct = mesh.member(CARTS[0])?.application()?;
    let denied = call(&mesh.member(CATALOG)?.pod, direct, "GET", CART_URL).await?;
    report.check(
        denied.reason() == reason,
        &format!("shop/catalog dials the pod itself, past the Service: {} {reason}", denied.status),
    );
    let denied = call(&mesh.outsider, direct, "GET", CART_URL).await?;
    report.check(
        denied.reason() == "tls_required",
        &format!("a machine outside of the mesh does, too: {} {}", denied.status, denied.reason()),
    );
    Ok(())
}

async fn wire(mesh: &PodMesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("On the wire there is nothing to read");
    report.say(&format!(
        "The path of web's next order is /cart/{MARKER}. Every packet of its pod is captured."
    ));
    let web = mesh.member(WEB)?;
    let tap = Wire::tap(&web.pod)?;
    let response = call(&web.pod, mesh.resolve(CART)?, "GET", MARKED_URL).await?;
    let seen = tap.stop()?;
    report.check(
        response.status == 200 && response.body.contains(MARKER),
        "the application got it, and said it back",
    );
    let whole = !seen.cut && seen.broken().next().is_none();
    report.check(
        seen.bytes() > 0 && whole && !seen.shows(MARKER.as_bytes()),
        &format!("{} bytes crossed the wire, and it is not among them", seen.bytes()),
    );
    let tap = Wire::tap(&mesh.outsider)?;
    let direct = mesh.member(CARTS[0])?.application()?;
    call(&mesh.outsider, direct, "GET", MARKED_URL).await?;
    let seen = tap.stop()?;
    report.check(
        seen.shows(MARKER.as_bytes()),
        "the same capture does show it where a program outside of the mesh sends it (and is refused)",
    );
    Ok(())
}

async fn probes(mesh: &PodMesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("The kubelet probes without a certificate, exactly as declared");
    let cart = mesh.member(CARTS[0])?.application()?;
    let declared = fetch(&mesh.node, cart, "/healthz").await?;
    report.check(declared.status == 200, &format!("the node asks for /healthz: {}", declared.status));
    let other = fetch(&mesh.node, cart, "/cart/42").await?;
    let claim = format!("and for anything else: {} {}", other.status, other.reason());
    report.check(other.reason() == "tls_required", &claim);
    let elsewhere = fetch(&mesh.outsider, cart, "/healthz").await?;
    let claim = format!("another machine asks for /healthz: {} {}", elsewhere.status, elsewhere.reason());
    report.check(elsewhere.reason() == "tls_required", &claim);
    Ok(())
}

async fn killed(mesh: &mut PodMesh, report: &mut Report) -> anyhow::Result<()> {
    report.step("A proxy that dies takes the connections with it, and leaks nothing");
    let address = mesh.resolve(CART)?;
    mesh.kill_proxy(WEB)?;
    let tap = Wire::tap(&mesh.member(WEB)?.pod)?;
    let dead = |told: anyhow::Result<super::http::Response>| match told {
        Ok(response) => (false, format!("it was answered: {}", response.status)),
        Err(error) => (true, format!("{error:#}")),
    };
    let (refused, how) = dead(call(&mesh.member(WEB)?.pod, address, "GET", MARKED_URL).await);
    let seen = tap.stop()?;
    report.check(refused, &format!("web's proxy is killed; its program's next call fails ({how})"));
    report.check(!seen.shows(MARKER.as_bytes()), "and nothing of it went over the wire");
    mesh.restart(WEB).await?;
    let response = call(&mesh.member(WEB)?.pod, address, "GET", CART_URL).await?;
    report.check(response.status == 200, &format!("the proxy is back: {}", response.status));
    mesh.kill_proxy(CARTS[0])?;
    let direct: SocketAddr = mesh.member(CARTS[0])?.application()?;
    let (refused, how) = dead(call(&mesh.outsider, direct, "GET", CART_URL).await);
    report.check(refused, &format!("cart-1's proxy is killed; nobody gets at its application ({how})"));
    mesh.restart(CARTS[0]).await?;
    let response = call(&mesh.member(WEB)?.pod, direct, "GET", CART_URL).await?;
    report.check(response.status == 200, &format!("the proxy is back: {}", response.status));
    Ok(())
}

/// What can be tried while the mesh is kept.
fn invitation(mesh: &PodMesh, report: &mut Report) -> anyhow::Result<()> {
    let into = |uid: &str| -> anyhow::Result<String> {
        let id = mesh.member(uid)?.process_id().with_context(|| format!("{uid} has no process"))?;
        Ok(format!("nsenter -t {id} -U --preserve-credentials -n -m"))
    };
    let cart =
        if mesh.named { CART_URL.to_owned() } else { format!("http://{}/cart/42", mesh.resolve(CART)?) };
    report.step("The mesh keeps running until Ctrl-C. Try:");
    report.say(&format!(
        "{web} curl -i {cart}             # as shop/web\n\
         {audit} curl -i -X POST {cart}     # as ops/audit: denied\n\
         {web} curl http://127.0.0.1:15020/metrics\n\
         {web} curl http://127.0.0.1:15000/dump\n\
         $EDITOR {policies}/authorization.yaml",
        web = into(WEB)?,
        audit = into(AUDIT)?,
        policies = mesh.policies().display(),
    ));
    Ok(())
}
