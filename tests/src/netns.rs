//! Pods out of network namespaces: real interfaces, real redirection, no root and no `ip`.
//!
//! A test calls [`isolated`]; its body then runs in a process of its own, root of fresh user and
//! network namespaces. In there [`Network`] and [`Pod`] are those of `weft-pods` with what tests need besides:
//! IPv6, sockets opened in every way, programs that run to their end. Where something is not to be had they
//! panic. All of it vanishes with the process.

pub mod nftables;
pub mod wire;

use crate::process::Process;
use crate::wait;
use futures_util::TryStreamExt;
use netlink_packet_route::address::AddressHeaderFlags;
use nix::unistd::{Uid, setfsuid};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Says to the inner process that it is one.
const INSIDE: &str = "WEFT_TESTS_NETNS";

/// Leaves tiers out by name.
const SKIP: &str = "WEFT_TESTS_SKIP";

/// What the launcher exits with when the machine makes no namespaces.
const NO_NAMESPACES: i32 = 125;

/// How long a body may take: each of its waits has a limit, and this is for what hangs in spite of them. Its
/// process outlives it by a little, to end what it started.
const BODY_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Addresses of a pod are on-link in all of 10.0.0.0/8 and fd00::/8, so that pods can have any.
const PREFIX: u8 = 8;

/// A bridge with pods on it.
#[derive(Debug)]
pub struct Network {
    network: weft_pods::Network,
    handle: Handle,
    pods: Cell<u8>,
}

/// A namespace of its own with one interface, `eth0`.
#[derive(Debug)]
pub struct Pod {
    name: String,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
    pod: weft_pods::Pod,
}

/// How a socket is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dial {
    /// From this address.
    pub source: Option<IpAddr>,
    /// With this mark.
    pub mark: Option<u32>,
    /// As this user.
    pub user: Option<u32>,
}

/// Runs `body` in a process of its own, in fresh namespaces. `test` is the test's own name.
pub fn isolated<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let outcome = runtime
            .expect("a runtime must start")
            .block_on(async { tokio::time::timeout(BODY_TIMEOUT, body()).await });
        assert!(outcome.is_ok(), "the test takes longer than {BODY_TIMEOUT:?}");
        return;
    }
    if left_out(test) {
        return;
    }
    // Built out here, where cargo has its network.
    crate::binaries::binaries();
    let executable = std::env::current_exe().expect("a test must know its own path");
    let launcher = executable
        .parent()
        .and_then(Path::parent)
        .map(|directory| directory.join("weft-netns"))
        .expect("a test lies in target/PROFILE/deps");
    let directory = tempfile::tempdir().expect("a temporary directory must be made");
    let mut command = Command::new(launcher);
    command.arg(executable).args([test, "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    // A log shows its end; a trace would push out what went wrong.
    command.env("RUST_BACKTRACE", "0");
    let mut process = Process::start(test, command, directory.path());
    let deadline = Instant::now() + BODY_TIMEOUT + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = process.ended() {
            break status;
        }
        assert!(Instant::now() < deadline, "{test}: its process does not end");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(
        status.code() != Some(NO_NAMESPACES),
        "this machine makes no network namespaces ({}): allow user namespaces, or run as root, or leave these tests \
         out with {SKIP}=netns",
        process.log().trim()
    );
    assert!(status.success(), "{test} failed in its namespaces: {status}\n{}", process.output());
    // A name that fits no test would pass by testing nothing.
    assert!(process.output().contains("1 passed"), "{test} is not the name of this test");
}

/// Whether tests that need namespaces are left out by name; says so.
pub fn left_out(test: &str) -> bool {
    let skipped = std::env::var(SKIP).is_ok_and(|skip| skip.split(',').any(|tier| tier.trim() == "netns"));
    if skipped {
        #[allow(clippy::print_stderr, reason = "nothing is left out silently")]
        {
            eprintln!("{test}: left out, for {SKIP} names netns");
        }
    }
    skipped
}

/// The same for a program that is no test: its output is its own, its end is this one's. It has no
/// deadline but its user's patience.
pub fn program<F: Future<Output = ()>>(body: impl FnOnce() -> F) -> ExitCode {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime must start").block_on(body());
        return ExitCode::SUCCESS;
    }
    crate::binaries::binaries();
    let executable = std::env::current_exe().expect("a program must know its own path");
    let launcher = executable
        .parent()
        .and_then(Path::parent)
        .map(|directory| directory.join("weft-netns"))
        .expect("a program lies in target/PROFILE/examples");
    let status =
        Command::new(&launcher).arg(executable).args(std::env::args_os().skip(1)).env(INSIDE, "1").status();
    let status = status.unwrap_or_else(|error| panic!("{} must be built: {error}", launcher.display()));
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

// === impl Network ===

impl Network {
    /// A network without pods.
    pub async fn new() -> Self {
        let network = weft_pods::Network::new().await.expect("the kernel must make a bridge");
        Self { network, handle: connection(), pods: Cell::new(0) }
    }

    /// A pod at the next address.
    pub async fn pod(&self, name: &str) -> Pod {
        let number = self.pods.get() + 1;
        self.pods.set(number);
        let ipv4 = Ipv4Addr::new(10, 77, 0, number);
        let ipv6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into());
        let pod = self.network.pod(ipv4).await.expect("the kernel must make a pod");
        let pod = Pod { name: name.to_owned(), ipv4, ipv6, pod };
        pod.add_address(ipv6.into());
        // So that a call to any address leaves, and can be redirected.
        pod.within(|handle| async move {
            let eth0 = index(&handle, "eth0").await;
            let ipv6 = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(eth0).build();
            handle.route().add(ipv6).execute().await.expect("a default route must be taken");
        });
        pod
    }

    /// Takes a pod off the network as a node that is lost: nothing that it or anybody sends arrives, and
    /// nobody is told.
    pub async fn lose(&self, pod: &Pod) {
        let port = index(&self.handle, pod.pod.outer_interface()).await;
        let down = LinkUnspec::new_with_index(port).down();
        self.handle.link().change(down.build()).execute().await.expect("an interface must go down");
    }
}

// === impl Pod ===

impl Pod {
    /// Its sockets with one of these ports at either end, listeners and those in TIME_WAIT left out, as the
    /// kernel lists them.
    pub fn sockets(&self, ports: &[u16]) -> Vec<String> {
        let lists = self.run(|| {
            ["tcp", "tcp6"].map(|list| std::fs::read_to_string(format!("/proc/thread-self/net/{list}")))
        });
        let lists = lists.map(|list| list.expect("the kernel must list sockets"));
        let port = |end: &str| end.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
        let of_ports = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, remote, state, ..] = fields[..] else { return false };
            let is_wanted = |end| port(end).is_some_and(|port| ports.contains(&port));
            (is_wanted(local) || is_wanted(remote)) && !matches!(state, "06" | "0A")
        };
        lists.iter().flat_map(|list| list.lines().skip(1)).filter(of_ports).map(ToOwned::to_owned).collect()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    pub fn ipv4(&self) -> IpAddr {
        self.ipv4.into()
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> IpAddr {
        self.ipv6.into()
    }

    /// Does something in the pod, on its thread, one thing after the other.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let caught = self.pod.run(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
        match caught.expect("a pod's thread must live as long as the pod") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts a program in the pod.
    pub fn start(&self, name: &str, command: Command, directory: &Path) -> Process {
        let (name, directory) = (name.to_owned(), directory.to_owned());
        self.run(move || Process::start(&name, command, &directory))
    }

    /// Runs a program in the pod to its end: exit code, standard output, standard error.
    pub fn output(&self, mut command: Command) -> (i32, String, String) {
        let output = self.run(move || command.output()).expect("the program must start");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Gives the pod one more address, usable at once.
    pub fn add_address(&self, address: IpAddr) {
        self.within(move |handle| async move {
            let eth0 = index(&handle, "eth0").await;
            let mut request = handle.address().add(eth0, address, PREFIX);
            if address.is_ipv6() {
                // No other has it, and connects would fail while the kernel makes sure.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            request.execute().await.expect("an address must be taken");
        });
    }

    /// A listener in the pod.
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        let listener = self.listen_blocking(address);
        listener.set_nonblocking(true).expect("a listener must not block");
        TcpListener::from_std(listener).expect("a listener must be registered")
    }

    /// A listener in the pod, for a thread of the test.
    pub fn listen_blocking(&self, address: SocketAddr) -> std::net::TcpListener {
        let listener = self.run(move || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(!address.ip().is_unspecified())?;
            }
            socket.bind(&address.into())?;
            socket.listen(1024)?;
            Ok::<_, io::Error>(std::net::TcpListener::from(socket))
        });
        listener.unwrap_or_else(|error| panic!("{} cannot listen on {address}: {error}", self.name))
    }

    /// A socket in the pod, not yet connected.
    pub fn socket(&self, address: SocketAddr, dial: Dial) -> Socket {
        let socket = self.run(move || {
            // Of this thread alone; the socket keeps it for good.
            let before = dial.user.map(|user| setfsuid(Uid::from_raw(user)));
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP));
            before.map(setfsuid);
            let socket = socket?;
            if let Some(mark) = dial.mark {
                socket.set_mark(mark)?;
            }
            if let Some(source) = dial.source {
                socket.bind(&SocketAddr::new(source, 0).into())?;
            }
            Ok::<_, io::Error>(socket)
        });
        socket.unwrap_or_else(|error| panic!("{} opens no socket: {error}", self.name))
    }

    /// Connects from the pod.
    pub async fn connect(&self, address: SocketAddr, dial: Dial) -> io::Result<TcpStream> {
        let socket = self.socket(address, dial);
        socket.set_nonblocking(true)?;
        let socket = TcpSocket::from_std_stream(socket.into());
        wait::within(&format!("{} reaches {address}", self.name), socket.connect(address)).await
    }

    /// Asks the kernel for something in the pod's namespace.
    fn within<F: Future<Output = ()>>(&self, request: impl FnOnce(Handle) -> F + Send + 'static) {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime must start").block_on(async { request(connection()).await });
        });
    }
}

/// Whether this process has users beside root: not where it was started without privileges.
pub fn has_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().nth(2).and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count > 1)
}

fn connection() -> Handle {
    let (connection, handle, _) = rtnetlink::new_connection().expect("the kernel must take requests");
    wait::spawn(connection);
    handle
}

/// The number of an interface in the namespace that the handle was made in.
async fn index(handle: &Handle, interface: &str) -> u32 {
    let mut found = handle.link().get().match_name(interface.to_owned()).execute();
    let message = found.try_next().await.unwrap_or_else(|error| panic!("{interface}: {error}"));
    message.unwrap_or_else(|| panic!("{interface} is not there")).header.index
}
