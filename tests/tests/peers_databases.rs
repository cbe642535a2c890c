//! Databases of Debian behind a port that declares nothing, with mutual TLS between the proxies: MariaDB,
//! whose server speaks first, and PostgreSQL, whose client does. Needs tests/peers/install.sh.

use nix::unistd::{Gid, Uid, User, chown, geteuid};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_tests::mesh::{Builder, Mesh};
use weft_tests::peers::{find, run, succeed};
use weft_tests::ports::Port;
use weft_tests::process::{self, Process};
use weft_tests::wait;

/// The user that databases run as where the tests run as root: they refuse to be root.
const USER: &str = "nobody";

/// A database: its process ends before its directory.
struct Database {
    _process: Process,
    _directory: tempfile::TempDir,
}

/// A directory that this user, or the one the databases run as, owns.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::Builder::new().prefix("weft-peer-").tempdir().expect("a directory");
    let data = directory.path().join("data");
    std::fs::create_dir(&data).expect("a directory");
    if let Some((user, group)) = other_user() {
        let open = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(directory.path(), open).expect("permissions");
        chown(&data, Some(user), Some(group)).expect("a directory of the database's");
    }
    (directory, data)
}

fn other_user() -> Option<(Uid, Gid)> {
    if !geteuid().is_root() {
        return None;
    }
    let user = User::from_name(USER).expect("users").unwrap_or_else(|| panic!("the user {USER} is missing"));
    Some((user.uid, user.gid))
}

fn command(program: &Path) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    if let Some((user, group)) = other_user() {
        command.uid(user.as_raw()).gid(group.as_raw());
    }
    command
}

async fn prepare(mut command: Command, arguments: &[&str]) {
    command.args(arguments);
    let ended = process::run(command).await;
    assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
}

async fn mariadb(server: &Path, port: u16) -> Database {
    let (directory, data) = directory();
    let data = data.to_string_lossy().into_owned();
    let paths = [format!("--datadir={data}"), format!("--tmpdir={data}")];
    let install = server.with_file_name("../bin/mariadb-install-db");
    let rest =
        ["--no-defaults", &paths[0], &paths[1], "--skip-test-db", "--auth-root-authentication-method=normal"];
    prepare(command(&install), &rest).await;
    let mut start = command(server);
    start.args(["--no-defaults", &paths[0], &paths[1], "--bind-address=127.0.0.1"]);
    start.args([format!("--port={port}"), format!("--socket={data}/socket")]);
    let process = Process::start("mariadbd", start, directory.path());
    process.logged("ready for connections").await;
    Database { _process: process, _directory: directory }
}

async fn postgresql(server: &Path, port: u16) -> Database {
    let (directory, data) = directory();
    let data = data.to_string_lossy().into_owned();
    let initdb = server.with_file_name("initdb");
    prepare(command(&initdb), &["-D", &data, "-U", "weft", "--auth=trust", "-N"]).await;
    let mut start = command(server);
    start.args(["-D", &data, "-p", &port.to_string(), "-F"]);
    start.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
    let process = Process::start("postgres", start, directory.path());
    process.logged("ready to accept connections").await;
    Database { _process: process, _directory: directory }
}

async fn undeclared(port: &Port) -> Mesh {
    Builder::undeclared(port.address()).start().await
}

/// Opaque connections at the server's proxy, by mutual TLS.
async fn carried(mesh: &Mesh) -> f64 {
    let labels = [("reporter", "destination"), ("connection_security_policy", "mutual_tls")];
    mesh.proxy("shop/cart-1").metrics().await.sum("istio_tcp_connections_opened_total", &labels)
}

fn declares(mesh: &Mesh, protocol: &str) -> bool {
    mesh.proxy("shop/web-1").process().log().contains(&format!("appProtocol: {protocol}"))
}

#[tokio::test]
async fn mariadb_greets_through_the_mesh_on_a_port_that_declares_nothing() {
    let Some(server) = find("mariadbd") else { return };
    let Some(client) = find("mariadb") else { return };
    let port = Port::claim();
    let _database = mariadb(&server, port.number()).await;
    let mesh = undeclared(&port).await;
    let address = mesh.client_of("shop/web-1", "shop/cart").address();
    let target = ["--host=127.0.0.1".to_owned(), format!("--port={}", address.port())];
    let fixed = ["--no-defaults", &target[0], &target[1], "--user=root", "--batch", "--skip-column-names"];
    let query = "create database shop; create table shop.items (name text); \
        insert into shop.items values ('apple'), ('pear'); select count(*), repeat('x', 1000000) from shop.items";
    let ended = succeed(&client, &[&fixed[..], &["--execute", query]].concat()).await;
    assert_eq!(ended.stdout.trim_end(), format!("2\t{}", "x".repeat(1_000_000)));
    for _ in 0..5 {
        let ended = succeed(&client, &[&fixed[..], &["--execute", "select 40 + 2"]].concat()).await;
        assert_eq!(ended.stdout, "42\n");
    }
    assert_eq!(carried(&mesh).await, 6.0);
    assert!(declares(&mesh, "mysql"), "the guess is told with the line that declares it");
}

#[tokio::test]
async fn postgresql_answers_through_the_mesh_on_a_port_that_declares_nothing() {
    let Some(server) = find("postgres") else { return };
    let Some(client) = find("psql") else { return };
    let port = Port::claim();
    let _database = postgresql(&server, port.number()).await;
    let mesh = undeclared(&port).await;
    let address = mesh.client_of("shop/web-1", "shop/cart").address();
    // As clients do by default: they ask for TLS first, and go on without.
    let target = format!("host=127.0.0.1 port={} user=weft dbname=postgres sslmode=prefer", address.port());
    for _ in 0..5 {
        let query = "select sum(number), repeat('x', 100000) from generate_series(1, 1000) as number";
        let ended = succeed(&client, &[&target, "-tAc", query]).await;
        assert_eq!(ended.stdout.trim_end(), format!("500500|{}", "x".repeat(100_000)));
    }
    assert_eq!(carried(&mesh).await, 5.0);
    assert!(declares(&mesh, "postgres"), "the guess is told with the line that declares it");
    // One that insists on TLS hears from the server itself that there is none.
    let strict = target.replace("prefer", "require");
    let ended = run(&client, &[&strict, "-tAc", "select 1"]).await;
    assert!(ended.stderr.contains("server does not support SSL"), "{}", ended.stderr);
    wait::until("it was carried too", async || carried(&mesh).await == 6.0).await;
}
