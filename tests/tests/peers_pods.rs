//! Transparent pods with other people's programs in them, as they come: curl, Python's web server, openssl,
//! h2load, grpcio. Nothing tells them of a mesh. Needs tests/peers/install.sh; `make test-peers` runs it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use weft_model::reason::Reason;
use weft_tests::mesh::authorization;
use weft_tests::netns::isolated;
use weft_tests::netns::wire::Wire;
use weft_tests::peers::{find, script, unproxied};
use weft_tests::pods::{Builder, Member, PodSpec, Pods};
use weft_tests::process::Process;
use weft_tests::wait;

const MARKER: &str = "marked-77d0a1-body";
const SECRET_NAME: &str = "marked-4b1e92.example";

/// Runs a program in a pod to its end; what it wrote to standard output, and whether it succeeded.
async fn run(mesh: &Pods, member: &Member, program: &Path, arguments: &[&str]) -> (String, bool) {
    // A directory for each run, so that none reads another's output.
    let directory = tempfile::Builder::new().tempdir_in(mesh.directory()).expect("a directory");
    let mut command = unproxied(program);
    command.args(arguments);
    let mut process = member.pod().start("peer", command, directory.path());
    let (status, _) = process.wait().await;
    (process.output() + &process.log(), status.success())
}

async fn succeed(mesh: &Pods, member: &Member, program: &Path, arguments: &[&str]) -> String {
    let (said, success) = run(mesh, member, program, arguments).await;
    assert!(success, "{} {arguments:?}\n{said}", program.display());
    said
}

/// Waits until something in the pod listens on that port of the pod's own address.
async fn listens(member: &Member, address: SocketAddr) {
    wait::until(&format!("{address} listens"), async || member.caller(address).stream().await.is_ok()).await;
}

#[test]
fn curl_reads_from_pythons_web_server_and_nobody_on_the_wire_does() {
    isolated("curl_reads_from_pythons_web_server_and_nobody_on_the_wire_does", || async {
        let (Some(curl), Some(python)) = (find("curl"), find("python")) else { return };
        let deny =
            authorization("no-admin", "cart", "DENY", "[{ to: [{ operation: { paths: ['/admin*'] } }] }]");
        let mesh = Builder::pair().policy("deny", &deny).start().await;
        let (cart, web) = (mesh.member("shop/cart-1"), mesh.member("shop/web-1"));
        let files = tempfile::tempdir().expect("a directory");
        fs::write(files.path().join("greeting"), MARKER).expect("a file");
        let mut command = Command::new(&python);
        command.args(["-m", "http.server", "8080", "--bind", "::", "--directory"]).arg(files.path());
        let _server: Process = cart.pod().start("python", command, mesh.directory());
        listens(cart, cart.ipv4(8080)).await;
        let wire = Wire::tap(cart.pod());
        for address in [mesh.vip("shop/cart"), mesh.vip6("shop/cart"), cart.ipv4(8080), cart.ipv6(8080)] {
            for version in ["--http1.1", "--http1.0", "--http2-prior-knowledge"] {
                let url = format!("http://{address}/greeting");
                let arguments = ["--silent", "--show-error", "--fail", "--max-time", "30", version, &url];
                assert_eq!(succeed(&mesh, web, &curl, &arguments).await, MARKER, "{address} {version}");
            }
            let url = format!("http://{address}/admin");
            let denied = succeed(&mesh, web, &curl, &["--silent", "--include", &url]).await;
            let reason = format!("x-weft-reason: {}", Reason::AuthorizationDenied.label());
            assert!(denied.starts_with("HTTP/1.1 403") && denied.contains(&reason), "{denied}");
        }
        wire.stop().never_shows(MARKER.as_bytes());
    });
}

#[test]
fn an_applications_own_tls_is_its_own_from_end_to_end() {
    isolated("an_applications_own_tls_is_its_own_from_end_to_end", || async {
        let (Some(curl), Some(openssl)) = (find("curl"), find("openssl")) else { return };
        let mesh = Builder::default()
            .mesh_config("{ nodeCidrs: [10.77.0.2/32] }")
            .service("shop/cart", 443, 8443)
            .with_protocol("tls")
            .pod(PodSpec::new("node/node-1").foreign())
            .pod(
                PodSpec::new("shop/cart-1")
                    .serves(8443)
                    .protocol("tls")
                    .spec("probes: [{ httpGet: { path: /, port: 8443, scheme: HTTPS } }]"),
            )
            .pod(PodSpec::new("shop/web-1"))
            .pod(PodSpec::new("shop/stranger-1").foreign())
            .start()
            .await;
        let (cart, web) = (mesh.member("shop/cart-1"), mesh.member("shop/web-1"));
        let path = |name: &str| mesh.directory().join(name).to_string_lossy().into_owned();
        let (key, certificate) = (path("own.key"), path("own.crt"));
        let request = [
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-keyout",
            &key,
            "-out",
            &certificate,
            "-subj",
            "/CN=own",
            "-addext",
            &format!("subjectAltName=DNS:{SECRET_NAME}"),
        ];
        succeed(&mesh, cart, &openssl, &request).await;
        let mut command = Command::new(&openssl);
        command.args(["s_server", "-accept", "8443", "-www", "-quiet", "-cert", &certificate, "-key", &key]);
        let _server: Process = cart.pod().start("s_server", command, mesh.directory());
        listens(cart, cart.ipv4(8443)).await;
        let wire = Wire::tap(web.pod());
        let vip = mesh.vip("shop/cart");
        let connect = format!("{SECRET_NAME}:443:{vip}");
        let url = format!("https://{SECRET_NAME}/");
        // It believes that certificate and no other, so the TLS it sees is the application's.
        let arguments = [
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "30",
            "--cacert",
            &certificate,
            "--connect-to",
            &connect,
            &url,
        ];
        let page = succeed(&mesh, web, &curl, &arguments).await;
        assert!(page.contains("s_server"), "{page}");
        // In the application's own hello the name is in clear; in the mesh's it is not there at all.
        wire.stop().never_shows(SECRET_NAME.as_bytes());
        // From the node it is a probe, and what a stranger brings is plaintext to the mesh.
        let direct = format!("https://{}/", cart.ipv4(8443));
        let probe = ["--silent", "--insecure", "--max-time", "30", &direct];
        let page = succeed(&mesh, mesh.member("node/node-1"), &curl, &probe).await;
        assert!(page.contains("s_server"), "{page}");
        let (page, success) = run(&mesh, mesh.member("shop/stranger-1"), &curl, &probe).await;
        assert!(!success && !page.contains("s_server"), "{page}");
    });
}

#[test]
fn h2load_has_no_failed_request_through_pods() {
    isolated("h2load_has_no_failed_request_through_pods", || async {
        let Some(h2load) = find("h2load") else { return };
        let mesh = Builder::pair().start().await;
        let cart = mesh.member("shop/cart-1");
        let _application = cart.application("cart-1", 8080);
        for address in [mesh.vip("shop/cart"), cart.ipv4(8080)] {
            let url = format!("http://{address}/items");
            for arguments in [&["-n2000", "-c4", "-m10"][..], &["-n2000", "-c4", "--h1"]] {
                let arguments = [arguments, &[&url]].concat();
                let said = succeed(&mesh, mesh.member("shop/web-1"), &h2load, &arguments).await;
                assert!(said.contains("2000 succeeded, 0 failed, 0 errored"), "{said}");
                assert!(said.contains("status codes: 2000 2xx"), "{said}");
            }
        }
    });
}

#[test]
fn probes_of_curl_and_grpcio_pass_from_the_node_alone() {
    isolated("probes_of_curl_and_grpcio_pass_from_the_node_alone", || async {
        let (Some(curl), Some(grpcio)) = (find("curl"), find("grpcio")) else { return };
        let probes = "probes: [{ httpGet: { path: '/healthz?full=1', port: 8080, httpHeaders: [{ name: X-Probe, value: \
                      a }] } }, { grpc: { port: 9090, service: shop.Cart } }]";
        let mesh = Builder::default()
            .mesh_config("{ nodeCidrs: [10.77.0.2/32, 'fd77::2/128'] }")
            .service("shop/cart", 80, 8080)
            .pod(PodSpec::new("node/node-1").foreign())
            .pod(PodSpec::new("shop/cart-1").serves(8080).serves(9090).protocol("grpc").spec(probes))
            .pod(PodSpec::new("shop/stranger-1").foreign())
            .start()
            .await;
        let cart = mesh.member("shop/cart-1");
        let (_web, _health) = (cart.application("web", 8080), cart.application("health", 9090));
        let health = script("grpc_probe.py");
        let health = health.to_string_lossy();
        for [web, grpc] in [[cart.ipv4(8080), cart.ipv4(9090)], [cart.ipv6(8080), cart.ipv6(9090)]] {
            let url = format!("http://{web}/healthz?full=1");
            let get = [
                "--silent",
                "--output",
                "-",
                "--write-out",
                " %{http_code}",
                "--globoff",
                "--header",
                "X-Probe: a",
                &url,
            ];
            let target = grpc.to_string();
            for (from, expected) in [("node/node-1", "200"), ("shop/stranger-1", "403")] {
                let member = mesh.member(from);
                let said = succeed(&mesh, member, &curl, &get).await;
                assert!(said.ends_with(expected), "{from}: {said}");
                let (said, success) = run(&mesh, member, &grpcio, &[&health, &target, "shop.Cart"]).await;
                assert_eq!(success, expected == "200", "{from}: {said}");
                let (said, success) = run(&mesh, member, &grpcio, &[&health, &target, "shop.Bank"]).await;
                assert!(!success, "{from}: {said}");
            }
        }
    });
}
