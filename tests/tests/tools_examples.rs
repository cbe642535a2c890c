//! The examples are what they say: free of problems, and every rule of them tested by a case that holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_tests::binaries::binaries;
use weft_tests::process::{self, Ended};

fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let entries = fs::read_dir(root).expect("the examples must be there");
    let mut all: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    all.retain(|path| path.is_dir());
    all.sort();
    for task in [
        "default-deny",
        "dry-run",
        "external-authorizer",
        "jwt-protected-api",
        "namespace-isolation",
        "permissive-migration",
        "resilience",
    ] {
        assert!(all.iter().any(|path| path.ends_with(task)), "the example {task} is missing: {all:?}");
    }
    all
}

async fn weft(arguments: &[&str], path: &Path) -> Ended {
    let mut command = Command::new(&binaries().cli);
    command.args(arguments).arg(path);
    process::run(command).await
}

#[tokio::test]
async fn every_example_is_free_of_problems() {
    for path in examples() {
        let ended = weft(&["check", "--deny-warnings"], &path).await;
        assert!(ended.status.success(), "{}:\n{}{}", path.display(), ended.stdout, ended.stderr);
    }
}

#[tokio::test]
async fn every_rule_of_every_example_is_tested_by_a_case_that_holds() {
    for path in examples() {
        let ended = weft(&["test", "--coverage-min", "100"], &path).await;
        assert!(ended.status.success(), "{}:\n{}{}", path.display(), ended.stdout, ended.stderr);
    }
}

/// One policy more than the example has, so that it is another set.
const DENY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: closed, namespace: \
                    checkout }\nspec: { action: DENY, rules: [{}] }\n";
const UNTRUE: &str = "apiVersion: weft.dev/v1alpha1\nkind: PolicyTest\nmetadata: { name: untrue }\nspec:\n  cases:\n  - \
                      { name: untrue, from: { workload: shop/web-1 }, to: { service: checkout/cart }, request: { path: \
                      /cart/42 }, expect: deny }\n";

#[tokio::test]
async fn exit_codes_are_as_documented() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("a name").to_owned()
    };
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    let shop = shop.to_str().expect("a name");
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).expect("a directory");
    for entry in fs::read_dir(shop).expect("the example") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, closed.join(path.file_name().expect("a name"))).expect("a copy");
    }
    fs::write(closed.join("closed.yaml"), DENY).expect("a file");
    let closed = closed.to_str().expect("a name");
    let bad = write("bad.yaml", "kind: [");
    let warned = write(
        "warned.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: { name: a }\nspec: { ports: [{ port: 80 }] }\n",
    );
    let untrue = write("untrue.yaml", UNTRUE);
    let nothing = directory.path().join("nothing").to_str().expect("a name").to_owned();
    let asked = ["--from", "shop/web-1", "--to", "checkout/cart"];
    for (code, arguments) in [
        (0, vec!["check", shop]),
        (0, vec!["check", &warned]),
        (1, vec!["check", "--deny-warnings", &warned]),
        (1, vec!["check", &bad]),
        (2, vec!["check", &nothing]),
        (0, vec!["test", shop]),
        (1, vec!["test", shop, &untrue]),
        (2, vec!["test", &bad]),
        (2, vec!["test", &warned]),
        (0, [&["explain", shop][..], &asked].concat()),
        (0, [&["explain", closed][..], &asked].concat()),
        (2, [&["explain", &bad][..], &asked].concat()),
        (2, vec!["explain", shop, "--from", "shop/web-1", "--to", "checkout/nothing"]),
        (
            2,
            vec![
                "explain",
                "--live",
                "--control",
                "127.0.0.1:1",
                "--from",
                "shop/web-1",
                "--to",
                "checkout/cart",
            ],
        ),
        (0, vec!["who-can", shop, "--to", "checkout/cart"]),
        (2, vec!["who-can", &bad, "--to", "checkout/cart"]),
        (0, vec!["diff", "--requests-max", "99", shop, shop]),
        (0, vec!["diff", "--requests-max", "99", shop, closed]),
        (1, vec!["diff", "--requests-max", "99", closed, shop]),
        (1, vec!["diff", "--requests-max", "99", "--fail-on", "any", shop, closed]),
        (0, vec!["diff", "--requests-max", "99", "--fail-on", "never", closed, shop]),
        (2, vec!["diff", shop, &bad]),
        (2, vec!["status", "--control", "127.0.0.1:1"]),
        (2, vec!["wait", "--control", "127.0.0.1:1"]),
    ] {
        let mut command = Command::new(&binaries().cli);
        command.args(&arguments);
        let ended = process::run(command).await;
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}\n{}{}", ended.stdout, ended.stderr);
        // What goes wrong is said where errors go, and nothing else is.
        assert_eq!(code == 2, !ended.stderr.is_empty(), "{arguments:?}\n{}", ended.stderr);
    }
}
