//! Dependencies point one way, and the proxy stays small: `cli, tests, benches → proxy, control-api →
//! config, runtime → model`.

use std::collections::BTreeSet;
use std::process::Command;

/// The names of the crates that `package` links, as shipped.
fn linked(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--package", package, "--edges", "normal", "--prefix", "none"])
        .args(["--format", "{p}"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo must run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[track_caller]
fn ours(package: &str, expected: &[&str]) {
    let linked = linked(package);
    let ours: BTreeSet<_> =
        linked.iter().map(String::as_str).filter(|name| name.starts_with("weft")).collect();
    let mut expected: BTreeSet<_> = expected.iter().copied().collect();
    expected.insert(package);
    assert_eq!(ours, expected, "what {package} links of ours");
}

#[test]
fn the_proxy_links_model_and_runtime_and_nothing_of_kubernetes() {
    ours("weft-proxy", &["weft-model", "weft-runtime"]);
    let linked = linked("weft-proxy");
    let foreign =
        ["kube", "kube-core", "k8s-openapi", "gateway-api", "schemars", "openssl", "ring", "native-tls"];
    let found: Vec<_> = foreign.into_iter().filter(|name| linked.contains(*name)).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_model_is_pure() {
    ours("weft-model", &[]);
    let linked = linked("weft-model");
    for name in ["tokio", "hyper", "tonic", "rustls", "kube", "tracing"] {
        assert!(!linked.contains(name), "the model links {name}");
    }
}

#[test]
fn the_other_crates_point_one_way() {
    ours("weft-runtime", &[]);
    ours("weft-config", &["weft-model"]);
    ours("weft-control", &["weft-config", "weft-model", "weft-runtime"]);
    ours("weft-pods", &["weft-runtime"]);
    ours("weft", &["weft-config", "weft-model", "weft-pods", "weft-proxy", "weft-runtime"]);
}

/// What is not sent to the image's builder cannot be built there.
#[test]
fn an_image_is_built_of_every_crate() {
    let tree = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let read = |name| std::fs::read_to_string(tree.join(name)).expect("the file must be there");
    let (workspace, sent) = (read("Cargo.toml"), read(".dockerignore"));
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = [")).expect("members");
    let members: Vec<_> =
        members.trim_end_matches(']').split(", ").map(|name| name.trim_matches('"')).collect();
    assert!(members.contains(&"proxy"), "{members:?}");
    for name in members {
        assert!(sent.lines().any(|line| line == format!("!{name}/")), ".dockerignore leaves {name} out");
    }
}
