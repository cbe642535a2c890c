//! The program itself: exit codes and messages of a start that is refused, and a whole life.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-control");

struct Fixture {
    directory: tempfile::TempDir,
}

/// A program that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Fixture {
    fn new(policy: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("policies")).unwrap();
        fs::write(directory.path().join("policies/a.yaml"), policy).unwrap();
        Self { directory }
    }

    fn state(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, listen: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.directory.path()).env_clear();
        command.args(["--policies", "policies", "--state", "state"]);
        command.args(["--listen", listen, "--admin-listen", "127.0.0.1:0"]);
        command
    }

    /// A start that must be refused: code 2 and one message, and no authority half made.
    fn refused(&self, mut command: Command, said: &str) {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let stderr = stderr(&output);
        assert!(stderr.contains(said), "{said:?} in {stderr}");
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn bad_flags_ports_policies_and_keys_are_one_message_and_code_2() {
    let fixture = Fixture::new("");
    let mut flags = fixture.command("127.0.0.1:0");
    flags.args(["--certificate-lifetime", "never"]);
    fixture.refused(flags, "--certificate-lifetime");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = format!("cannot listen on {address} (--listen): Address already in use");
    fixture.refused(fixture.command(&address), &said);
    assert!(!fixture.state().join("state").exists(), "nothing was made");

    let broken = Fixture::new(
        "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: { name: mesh }\nspec: { trustDomian: a }\n",
    );
    broken.refused(broken.command("127.0.0.1:0"), "a.yaml:4");
    assert!(!broken.state().join("state/ca.key").exists(), "no authority for policies that are refused");

    let missing = Fixture::new("");
    fs::remove_dir_all(missing.state().join("policies")).unwrap();
    missing.refused(missing.command("127.0.0.1:0"), "cannot read the policies in policies: No such file");

    let exposed = Fixture::new("");
    fs::create_dir(exposed.state().join("state")).unwrap();
    fs::write(exposed.state().join("state/ca.key"), "secret").unwrap();
    fs::set_permissions(exposed.state().join("state/ca.key"), Permissions::from_mode(0o644)).unwrap();
    exposed.refused(exposed.command("127.0.0.1:0"), "may be read by others than its owner (mode 0644)");

    let file = Fixture::new("");
    fs::write(file.state().join("state"), "").unwrap();
    file.refused(file.command("127.0.0.1:0"), "the state directory (--state) cannot be used");
}

#[test]
fn it_says_when_it_is_ready_issues_tokens_beside_it_and_ends_on_a_signal() {
    let fixture = Fixture::new("");
    let mut command = fixture.command("127.0.0.1:0");
    // The environment says what flags do not.
    command.env("WEFT_LOG", "off").stderr(Stdio::piped());
    command.stdout(Stdio::null());
    let mut running = Running(command.spawn().unwrap());
    let child = &mut running.0;
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.next().unwrap().unwrap();
    assert!(ready.starts_with("weft-control is ready: proxies on 127.0.0.1:"), "{ready}");

    let mut token = Command::new(PROGRAM);
    token.current_dir(fixture.state()).env("WEFT_STATE", "state");
    let output = token.args(["token", "--workload", "shop/cart-1"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'.').count(), 1);

    fixture.refused(fixture.command("127.0.0.1:0"), "is in use by another weft-control");

    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
