//! Jobs: the proxy ends with its application, and never before it.
//!
//! How long the proxy outlives the application is printed, and bounded generously: the machine may be busy.

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use weft_tests::application::Application;
use weft_tests::mesh::{Builder, Mesh, Workload};
use weft_tests::{client, figures, wait};

/// Jobs that are run, over as many proxies at once as there are workloads.
const JOBS: usize = 100;
const AT_ONCE: usize = 4;

/// What a busy machine may add to the second that is promised.
const SOON_AFTER: Duration = Duration::from_secs(10);

struct Job {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Job {
    /// Runs `script` behind `--`, its output and input piped.
    fn start(mesh: &Mesh, uid: &str, script: &str) -> Self {
        let arguments = ["--", "sh", "-c", script];
        let mut command = Command::from(mesh.proxy(uid).command(&arguments));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the proxy must start");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = wait::within("the command writes a line", self.lines.next_line()).await;
        line.expect("a line must be read").expect("the command must not end")
    }

    async fn write(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        input.write_all(text.as_bytes()).await.expect("the command reads");
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("it runs");
        kill(Pid::from_raw(i32::try_from(id).expect("an id must fit")), signal).expect("it can be signalled");
    }

    /// Its end, from now.
    async fn ends(mut self) -> Ended {
        let start = Instant::now();
        drop(self.child.stdin.take());
        let status = wait::within("the proxy ends", self.child.wait()).await.expect("it can be waited for");
        let took = start.elapsed();
        let mut rest = String::new();
        self.lines.into_inner().read_to_string(&mut rest).await.expect("the rest must be read");
        Ended { code: status.code(), took, rest }
    }
}

struct Ended {
    code: Option<i32>,
    /// How long after it was waited for.
    took: Duration,
    /// What the command wrote last.
    rest: String,
}

/// Workloads whose proxies have started once, so that later starts need no token, and run no more.
async fn jobs(application: &Application, count: usize, settings: &str) -> Mesh {
    let mut builder = Builder::default()
        .service("shop/cart")
        .workload(Workload::new("shop/cart-1").serves(application.address()));
    for number in 1..=count {
        builder = builder.workload(Workload::new(&format!("shop/job-{number}")).settings(settings));
    }
    let mut mesh = builder.start().await;
    for number in 1..=count {
        mesh.proxy_mut(&format!("shop/job-{number}")).kill();
    }
    mesh
}

#[tokio::test]
async fn a_hundred_jobs_end_as_their_commands_and_the_proxy_soon_after() {
    let application = Application::start("cart-1").await;
    let mesh = jobs(&application, AT_ONCE, "").await;
    let mesh = &mesh;
    let run = async |worker: usize| {
        let uid = format!("shop/job-{}", worker + 1);
        let mut slowest = Duration::ZERO;
        for number in (worker..JOBS).step_by(AT_ONCE) {
            let (end, code) = match number % 4 {
                0 => ("exit 0".to_owned(), 0),
                1 => (format!("exit {}", number % 250 + 1), number as i32 % 250 + 1),
                2 => ("kill -TERM $$; sleep 60".to_owned(), 128 + 15),
                _ => ("kill -KILL $$; sleep 60".to_owned(), 128 + 9),
            };
            let mut job = Job::start(mesh, &uid, &format!("echo started; read word; {end}"));
            assert_eq!(job.line().await, "started");
            job.write("go\n").await;
            let ended = job.ends().await;
            assert_eq!(ended.code, Some(code), "job {number}: {end}");
            assert!(ended.took < SOON_AFTER, "job {number}: {:?} after its command", ended.took);
            slowest = slowest.max(ended.took);
        }
        slowest
    };
    let (a, b, c, d) = tokio::join!(run(0), run(1), run(2), run(3));
    let slowest = a.max(b).max(c).max(d);
    figures::show(&format!("the slowest of {JOBS} proxies ended {slowest:?} after its command"));
}

#[tokio::test]
async fn a_command_is_in_the_mesh_and_has_this_process_streams_and_signals() {
    let application = Application::start("cart-1").await;
    let mesh = jobs(&application, 1, "").await;
    let uid = "shop/job-1";
    // A signal may interrupt a read or wait for it, as the shell likes: the end is a word.
    let script = "trap 'echo usr1' USR1; trap 'echo term' TERM; echo started; ulimit -n; \
                  while [ \"$word\" != three ]; do read word && echo \"got $word\"; done; exit 7";
    let mut job = Job::start(&mesh, uid, script);
    assert_eq!(job.line().await, "started", "it is the first line: no log of the proxy's is in its output");
    assert_eq!(job.line().await, soft_limit(), "the proxy's own limit of open files is not its");
    assert_eq!(mesh.proxy(uid).ready().await, Some(true), "the command is started by a proxy that serves");
    mesh.client(uid).get("http://cart.shop/items").await.passed();
    job.signal(Signal::SIGUSR1);
    job.write("one\n").await;
    let mut said = [job.line().await, job.line().await];
    said.sort();
    assert_eq!(said, ["got one", "usr1"]);
    job.signal(Signal::SIGTERM);
    job.write("two\n").await;
    let mut said = [job.line().await, job.line().await];
    said.sort();
    assert_eq!(said, ["got two", "term"]);
    // The application goes on after SIGTERM, and so does its way out, for as long as it lives.
    wait::until("it drains", async || mesh.proxy(uid).ready().await == Some(false)).await;
    for _ in 0..20 {
        mesh.client(uid).get("http://cart.shop/items").await.passed();
    }
    job.write("three\n").await;
    assert_eq!(job.line().await, "got three");
    assert_eq!(job.ends().await.code, Some(7));
}

fn soft_limit() -> String {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("a process must know its limits");
    soft.to_string()
}

#[tokio::test]
async fn a_command_that_outlives_the_deadline_is_waited_for_and_keeps_its_exit_code() {
    let application = Application::start("cart-1").await;
    let mesh = jobs(&application, 1, "drain: { deadline: 200ms }").await;
    let mut job = Job::start(&mesh, "shop/job-1", "trap '' TERM; echo started; read word; exit 3");
    job.line().await;
    job.signal(Signal::SIGTERM);
    let outbound = mesh.proxy("shop/job-1").outbound();
    wait::until("the proxy's part is over", async || tokio::net::TcpStream::connect(outbound).await.is_err())
        .await;
    job.write("go\n").await;
    assert_eq!(job.ends().await.code, Some(3));
}

#[tokio::test]
async fn what_keeps_a_command_from_starting_is_told_by_message_and_exit_code() {
    let application = Application::start("cart-1").await;
    let mut mesh = jobs(&application, 1, "startup: { timeout: 60s }").await;
    let uid = "shop/job-1";
    let run = async |mesh: &Mesh, words: &[&str]| {
        let mut arguments = vec!["--"];
        arguments.extend(words);
        weft_tests::process::run(mesh.proxy(uid).command(&arguments)).await
    };
    let ended = run(&mesh, &["/no/such/program"]).await;
    assert_eq!(ended.status.code(), Some(127), "{}", ended.stderr);
    assert!(ended.stderr.contains("\"/no/such/program\" cannot be started"), "{}", ended.stderr);
    let ended = run(&mesh, &["/"]).await;
    assert_eq!(ended.status.code(), Some(126), "{}", ended.stderr);
    let both = mesh.proxy(uid).command(&["--exit-when-alone", "--", "true"]);
    let ended = weft_tests::process::run(both).await;
    assert_eq!(ended.status.code(), Some(125), "{}", ended.stderr);
    assert!(ended.stderr.contains("exitWhenAlone"), "{}", ended.stderr);
    mesh.kill_control();
    std::fs::remove_dir_all(mesh.proxy(uid).directory().join("state")).unwrap();
    // The others needed a proxy that gets ready.
    mesh.proxy(uid).edit_settings("timeout: 60s", "timeout: 300ms");
    let ended = run(&mesh, &["sh", "-c", "echo started"]).await;
    assert_eq!(ended.status.code(), Some(125), "{}", ended.stderr);
    assert!(ended.stderr.contains("not ready within 300ms, missing: certificate"), "{}", ended.stderr);
    assert_eq!(ended.stdout, "", "nothing was started");
}

#[tokio::test]
async fn a_proxy_that_is_stopped_before_its_command_started_starts_nothing() {
    let application = Application::start("cart-1").await;
    let mut mesh = jobs(&application, 1, "").await;
    mesh.kill_control();
    std::fs::remove_dir_all(mesh.proxy("shop/job-1").directory().join("state")).unwrap();
    let job = Job::start(&mesh, "shop/job-1", "echo started");
    let admin = mesh.proxy("shop/job-1").admin();
    wait::until("it listens", async || client::fetch(admin, "/live").await.is_ok()).await;
    job.signal(Signal::SIGTERM);
    let ended = job.ends().await;
    assert_eq!((ended.code, ended.rest.as_str()), (Some(143), ""));
}

#[tokio::test]
async fn the_proxy_of_a_shared_pid_namespace_ends_with_its_last_process() {
    let application = Application::start("cart-1").await;
    let mesh = jobs(&application, 1, "exitWhenAlone: true").await;
    let uid = "shop/job-1";
    let proxy = mesh.proxy(uid).command(&[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-pod"));
    command.arg(proxy.get_program()).args(proxy.get_args()).arg("---");
    // Its first process ends while another one, of which nobody is the parent, goes on.
    command.args(["sh", "-c", "exec 3<&0; (echo started; read word <&3) &"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut pod = command.spawn().unwrap();
    let mut lines = BufReader::new(pod.stdout.take().unwrap()).lines();
    let started = wait::within("the application starts", lines.next_line()).await.unwrap();
    assert_eq!(started.as_deref(), Some("started"), "this machine must make pid namespaces");
    wait::until("the proxy is ready", async || mesh.proxy(uid).ready().await == Some(true)).await;
    mesh.client(uid).get("http://cart.shop/items").await.passed();
    // Long enough for several looks: the process that is left is seen each time.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        mesh.client(uid).get("http://cart.shop/items").await.passed();
    }
    let start = Instant::now();
    drop(pod.stdin.take());
    let status = wait::within("the pod ends", pod.wait()).await.unwrap();
    let took = start.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(took < SOON_AFTER, "{took:?} after the application");
    figures::show(&format!("the proxy of a shared pid namespace ended {took:?} after the application"));
    let mut rest = String::new();
    lines.into_inner().read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "");
}
