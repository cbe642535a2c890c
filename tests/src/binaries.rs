//! The programs under test, built once per test process so that they are never stale.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Where the three programs lie.
#[derive(Debug)]
pub struct Binaries {
    /// The data plane.
    pub proxy: PathBuf,
    /// The control API.
    pub control: PathBuf,
    /// The command line.
    pub cli: PathBuf,
}

/// Builds the programs in the profile of this test (a no-op when they are fresh) and says where
/// they are.
pub fn binaries() -> &'static Binaries {
    static BUILT: OnceLock<Binaries> = OnceLock::new();
    BUILT.get_or_init(build)
}

fn build() -> Binaries {
    // target/PROFILE/deps/test-hash
    let test = std::env::current_exe().expect("a test must know its own path");
    let directory = test.parent().and_then(|deps| deps.parent()).expect("a test lies in target/PROFILE/deps");
    let profile = directory.file_name().and_then(|name| name.to_str()).unwrap_or("debug");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "-p", "weft-proxy", "-p", "weft-control", "-p", "weft", "--bins"]);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if profile != "debug" {
        command.args(["--profile", profile]);
    }
    if let Some(target) = directory.parent() {
        command.arg("--target-dir").arg(target);
    }
    // What cargo tells a running test about its own package must not reach build scripts.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST") {
            command.env_remove(&name);
        }
    }
    let output = command.output().expect("cargo must run");
    assert!(
        output.status.success(),
        "the programs do not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Binaries {
        proxy: directory.join("weft-proxy"),
        control: directory.join("weft-control"),
        cli: directory.join("weft"),
    }
}
