//! What changes a proxy: on a unix socket, for its own user and root, and nowhere else.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request};
use weft_tests::mesh::{Builder, Mesh, Proxy};
use weft_tests::{client, process, raw, wait};

const CART: &str = "http://cart.shop/items";

async fn pair(application: &Application) -> Mesh {
    Builder::pair(application.address()).start().await
}

fn ask(proxy: &Proxy, words: &[&str]) -> Command {
    let mut command = Command::new(&weft_tests::binaries::binaries().proxy);
    command.args(words).arg("--admin-socket").arg(proxy.admin_socket());
    command
}

#[tokio::test]
async fn nothing_an_application_posts_over_tcp_stops_or_changes_the_proxy() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let (web, cart) = (mesh.proxy("shop/web-1"), mesh.proxy("shop/cart-1"));
    let paths =
        ["/drain", "/log-level", "/quitquitquit", "/shutdown", "/healthcheck/fail", "/drain?graceful"];
    let ports = [
        web.outbound(),
        mesh.client_of("shop/web-1", "shop/cart").address(),
        web.admin(),
        web.metrics_address(),
        cart.inbound(),
        cart.admin(),
        cart.metrics_address(),
    ];
    for port in ports {
        for path in paths {
            for method in ["POST", "PUT", "DELETE"] {
                let bytes = format!(
                    "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\noff"
                );
                raw::exchange(port, bytes.as_bytes()).await;
            }
        }
        let absolute = format!(
            "POST http://{}/drain HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            web.admin(),
            web.admin()
        );
        raw::exchange(port, absolute.as_bytes()).await;
    }
    for proxy in [web, cart] {
        assert_eq!(proxy.ready().await, Some(true));
        let level = client::fetch(proxy.admin(), "/log-level").await.unwrap();
        assert_eq!((level.status(), level.text().trim()), (200, "info"));
        let answer = Client::direct(proxy.admin()).send(&Request::post("http://admin/drain", "")).await;
        assert_eq!(answer.status(), 405);
        assert!(answer.text().contains("admin.sock"), "it says where: {}", answer.text());
    }
    mesh.client("shop/web-1").get(CART).await.passed();
}

#[tokio::test]
async fn the_socket_drains_and_changes_what_is_logged() {
    let application = Application::start("cart-1").await;
    let mut mesh = pair(&application).await;
    let web = mesh.proxy("shop/web-1");
    let mode = std::fs::metadata(web.admin_socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let level = process::run(ask(web, &["log-level"])).await;
    assert_eq!((level.status.code(), level.stdout.trim()), (Some(0), "info"));
    let wrong = process::run(ask(web, &["log-level", "loud"])).await;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(wrong.stderr.contains("loud"), "{}", wrong.stderr);
    let set = process::run(ask(web, &["log-level", "debug"])).await;
    assert!(set.status.success(), "{}", set.stderr);
    let level = process::run(ask(web, &["log-level"])).await;
    assert_eq!(level.stdout.trim(), "debug");
    let drain = process::run(ask(web, &["drain"])).await;
    assert!(drain.status.success() && drain.stdout.contains("draining"), "{drain:?}");
    wait::until("it drains", async || mesh.proxy("shop/web-1").ready().await != Some(true)).await;
    let (status, _) = mesh.proxy_mut("shop/web-1").process_mut().wait().await;
    assert_eq!(status.code(), Some(0));
    assert!(!mesh.proxy("shop/web-1").admin_socket().exists(), "its file goes with it");
    let gone = process::run(ask(mesh.proxy("shop/web-1"), &["drain"])).await;
    assert_eq!(gone.status.code(), Some(1));
    assert!(gone.stderr.contains("does a proxy run"), "{}", gone.stderr);
}

#[tokio::test]
async fn a_killed_proxy_finds_its_socket_again_and_somebody_elses_is_left_alone() {
    let application = Application::start("cart-1").await;
    let mut mesh = pair(&application).await;
    let web = mesh.proxy_mut("shop/web-1");
    web.kill();
    assert!(web.admin_socket().exists(), "a crash leaves it");
    web.start().await;
    let level = process::run(ask(web, &["log-level"])).await;
    assert!(level.status.success(), "{}", level.stderr);
    web.kill();
    std::fs::remove_file(web.admin_socket()).unwrap();
    let _held = std::os::unix::net::UnixListener::bind(web.admin_socket()).unwrap();
    let ended = process::run(web.command(&[])).await;
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("admin.socket: cannot listen on"), "{}", ended.stderr);
}

#[tokio::test]
async fn another_user_is_refused_by_the_kernels_word_even_where_the_file_is_open_to_all() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let web = mesh.proxy("shop/web-1");
    if !nix::unistd::geteuid().is_root() {
        // Only root can be somebody else; the decision itself has a unit test.
        return;
    }
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for path in web.admin_socket().ancestors().skip(1).take_while(|path| path.starts_with("/tmp/")) {
        open(path, 0o755);
    }
    open(&web.admin_socket(), 0o666);
    let program = web.admin_socket().parent().unwrap().join("other");
    std::fs::copy(&weft_tests::binaries::binaries().proxy, &program).unwrap();
    open(&program, 0o755);
    let mut command = Command::new(&program);
    command.arg("drain").arg("--admin-socket").arg(web.admin_socket());
    std::os::unix::process::CommandExt::uid(&mut command, 65_533);
    let ended = process::run(command).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("only this proxy's user and root"), "{}", ended.stderr);
    assert_eq!(web.ready().await, Some(true));
}
