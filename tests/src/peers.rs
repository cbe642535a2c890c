//! Foreign programs as clients and servers: found, or missed by name.
//!
//! A peer that is missing fails its test with one sentence. `WEFT_PEERS_SKIP=h2load,curl` turns
//! peers off by name; each one that is turned off is printed.

use crate::process::{self, Ended, Process};
use crate::wait;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The peers that can be turned off.
pub const NAMES: [&str; 12] = [
    "curl",
    "openssl",
    "h2load",
    "python",
    "grpcio",
    "websockets",
    "xds-protos",
    "pyjwt",
    "mariadbd",
    "mariadb",
    "postgres",
    "psql",
];

/// The program of a peer. `None`: it is turned off by name.
pub fn find(name: &str) -> Option<PathBuf> {
    assert!(NAMES.contains(&name), "{name} is no peer: {NAMES:?}");
    let skipped = std::env::var("WEFT_PEERS_SKIP").unwrap_or_default();
    for word in skipped.split(',').filter(|word| !word.is_empty()) {
        assert!(NAMES.contains(&word), "WEFT_PEERS_SKIP names {word:?}, which is none of {NAMES:?}");
    }
    if skipped.split(',').any(|word| word == name) {
        #[allow(clippy::print_stderr, reason = "what is turned off must be seen")]
        {
            eprintln!("turned off by WEFT_PEERS_SKIP: {name}");
        }
        return None;
    }
    let found = match name {
        "grpcio" => python("grpc"),
        "websockets" => python("websockets"),
        "xds-protos" => python("envoy"),
        "pyjwt" => python("jwt"),
        "python" => on_path("python3"),
        // Not a link to it: what belongs to it lies beside it.
        "postgres" => on_path("postgres").and_then(|path| path.canonicalize().ok()).or_else(debians_postgres),
        program => on_path(program),
    };
    let switch = format!("run tests/peers/install.sh, or turn it off with WEFT_PEERS_SKIP={name}");
    Some(found.unwrap_or_else(|| panic!("the peer {name} is missing: {switch}")))
}

/// A script of tests/peers.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// Starts a server script and waits until it serves.
pub async fn serve(python: &Path, name: &str, port: u16, directory: &Path) -> Process {
    let mut command = Command::new(python);
    command.arg(script(name)).args(["server", &port.to_string()]);
    let server = Process::start(name, command, directory);
    wait::until(&format!("{name} serves"), async || server.output().contains("serving")).await;
    server
}

/// Runs a peer that must succeed.
pub async fn succeed(program: &Path, arguments: &[&str]) -> Ended {
    let ended = run(program, arguments).await;
    assert!(
        ended.status.success(),
        "{} {arguments:?}: {}\n{}\n{}",
        program.display(),
        ended.status,
        ended.stdout,
        ended.stderr
    );
    ended
}

/// Runs a peer.
pub async fn run(program: &Path, arguments: &[&str]) -> Ended {
    let mut command = unproxied(program);
    command.args(arguments);
    process::run(command).await
}

/// A peer's command. A proxy of the machine's own must not come between.
pub fn unproxied(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in
        ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"]
    {
        command.env_remove(name);
    }
    command
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Servers lie where only administrators look.
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Debian keeps each version apart, off the path.
fn debians_postgres() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions.flatten().map(|version| version.path().join("bin/postgres")).find(|path| path.is_file())
}

/// The interpreter of the virtual environment, if it has the module.
fn python(module: &str) -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    let target = test.ancestors().nth(3)?;
    let environment = target.join("peers/clients");
    let packages = std::fs::read_dir(environment.join("lib")).ok()?;
    let present = packages.flatten().any(|entry| entry.path().join("site-packages").join(module).is_dir());
    present.then(|| environment.join("bin/python3"))
}
