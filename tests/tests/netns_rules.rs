//! The redirection rules in real network namespaces: each claim is a real connection, over IPv4 and
//! IPv6, that lands where it should, or a change to the kernel's rules that `check` notices.
//!
//! `app` is the pod with the rules; listeners stand where a proxy would. Who answers a call says so.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use weft_proxy::listener::original_dst::OriginalDst;
use weft_proxy::rules::settings::{Bypass, RulesSettings};
use weft_proxy::rules::table::Verdict;
use weft_proxy::rules::wanted::{LINES_MAX, RuleSet};
use weft_proxy::rules::why::Question;
use weft_proxy::rules::{self, Finding, RulesError};
use weft_tests::netns::nftables::{Family, change, flush, pass_ipv6, redirection, switch_off};
use weft_tests::netns::{Dial, Network, Pod, has_users, isolated};

/// A call that lands nowhere within this is a failure of the test, not of the machine.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

const MARK: u32 = 0x77;

struct Scene {
    app: Pod,
    peer: Pod,
}

impl Scene {
    async fn new() -> Self {
        let network = Network::new().await;
        Self { app: network.pod("app").await, peer: network.pod("peer").await }
    }

    /// Listeners where the proxy would have them.
    fn proxy(&self) {
        answer(self.app.listen_blocking(at("127.0.0.1:15001")), "outbound");
        answer(self.app.listen_blocking(at("[::1]:15001")), "outbound");
        answer(self.app.listen_blocking(at("[::]:15006")), "inbound");
    }

    fn install(&self, settings: RulesSettings) {
        let rules = RuleSet::new(settings).expect("the settings must make sense");
        self.app.run(move || rules::install(&rules)).expect("the rules must be taken");
    }

    fn check(&self, settings: RulesSettings) -> Vec<Finding> {
        let rules = RuleSet::new(settings).expect("the settings must make sense");
        self.app.run(move || rules::check(&rules)).expect("the rules must be shown")
    }

    /// The same port of both pods' addresses, the peer's first.
    fn peer_at(&self, port: u16) -> [SocketAddr; 2] {
        [SocketAddr::new(self.peer.ipv4(), port), SocketAddr::new(self.peer.ipv6(), port)]
    }

    fn app_at(&self, port: u16) -> [SocketAddr; 2] {
        [SocketAddr::new(self.app.ipv4(), port), SocketAddr::new(self.app.ipv6(), port)]
    }
}

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address must parse")
}

fn settings(lines: &[&str]) -> RulesSettings {
    let lines = lines.iter().map(|line| line.parse().expect("a line must parse")).collect();
    RulesSettings { bypass: Bypass::Mark(MARK), lines, ..RulesSettings::default() }
}

/// Answers each connection with who was reached and, at the proxy, what was dialled.
fn answer(listener: TcpListener, who: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a listener must accept");
            let said = match (who, OriginalDst::look_up(&stream)) {
                ("outbound" | "inbound", Ok(found)) => {
                    format!("{who} {}", SocketAddr::new(found.ip().to_canonical(), found.port()))
                }
                ("outbound" | "inbound", Err(refusal)) => format!("{who} {refusal}"),
                _ => who.to_owned(),
            };
            // The caller may have what it wanted.
            let _ = stream.write_all(said.as_bytes());
        }
    });
}

/// Who answers a call, or `refused`.
fn call(pod: &Pod, address: SocketAddr, dial: Dial) -> String {
    let socket = pod.socket(address, dial);
    // A reset at the end, so that thousands of calls leave nothing behind.
    socket.set_linger(Some(Duration::ZERO)).expect("an option must be set");
    match socket.connect_timeout(&address.into(), CALL_TIMEOUT) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return "refused".to_owned(),
        Err(error) => panic!("{} calls {address}: {error}", pod.name()),
    }
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(CALL_TIMEOUT)).expect("an option must be set");
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap_or_else(|error| panic!("{address} says nothing: {error}"));
    said
}

fn plainly(pod: &Pod, address: SocketAddr) -> String {
    call(pod, address, Dial::default())
}

fn marked(pod: &Pod, address: SocketAddr) -> String {
    call(pod, address, Dial { mark: Some(MARK), ..Dial::default() })
}

fn proxy_binary() -> PathBuf {
    let executable = std::env::current_exe().expect("a test must know its own path");
    let directory = executable.parent().and_then(Path::parent);
    directory.expect("a test lies in target/PROFILE/deps").join("weft-proxy")
}

/// Runs `weft-proxy rules` in the pod.
fn command(pod: &Pod, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(proxy_binary());
    command.arg("rules").args(arguments);
    pod.output(command)
}

#[test]
fn what_the_pod_calls_arrives_at_the_proxy_with_its_destination() {
    isolated("what_the_pod_calls_arrives_at_the_proxy_with_its_destination", || async {
        let scene = Scene::new().await;
        answer(scene.peer.listen_blocking(at("[::]:80")), "peer");
        for address in scene.peer_at(80) {
            assert_eq!(plainly(&scene.app, address), "peer");
        }
        scene.proxy();
        scene.install(settings(&[]));
        for address in scene.peer_at(80) {
            assert_eq!(plainly(&scene.app, address), format!("outbound {address}"));
        }
        // Nobody need be there.
        for address in [at("198.51.100.7:443"), at("[2001:db8::7]:443"), at("10.96.0.10:15001")] {
            assert_eq!(plainly(&scene.app, address), format!("outbound {address}"));
        }
        // The peer has no rules and calls whom it likes.
        answer(scene.app.listen_blocking(SocketAddr::new(scene.app.ipv4(), 15020)), "metrics");
        assert_eq!(plainly(&scene.peer, scene.app_at(15020)[0]), "metrics");
    });
}

#[test]
fn what_calls_the_pod_arrives_at_the_proxy_with_its_destination() {
    isolated("what_calls_the_pod_arrives_at_the_proxy_with_its_destination", || async {
        let scene = Scene::new().await;
        answer(scene.app.listen_blocking(at("[::]:8080")), "application");
        scene.proxy();
        scene.install(settings(&[]));
        for port in [8080, 9999, 15000, 15001] {
            for address in scene.app_at(port) {
                assert_eq!(plainly(&scene.peer, address), format!("inbound {address}"));
            }
        }
        // A direct hit names the listener itself, which is what makes it a loop.
        for address in scene.app_at(15006) {
            assert_eq!(plainly(&scene.peer, address), format!("inbound {address}"));
            assert!(OriginalDst::inbound(address, address, &[at("[::]:15006")], |_| true).is_err());
        }
        // The proxy's other leg reaches the application where it was called.
        for address in scene.app_at(8080) {
            assert_eq!(marked(&scene.app, address), "application");
        }
    });
}

#[test]
fn without_the_proxy_nothing_passes() {
    isolated("without_the_proxy_nothing_passes", || async {
        let scene = Scene::new().await;
        answer(scene.peer.listen_blocking(at("[::]:80")), "peer");
        answer(scene.app.listen_blocking(at("[::]:80")), "application");
        scene.install(settings(&[]));
        for address in scene.peer_at(80) {
            assert_eq!(plainly(&scene.app, address), "refused");
        }
        for address in scene.app_at(80) {
            assert_eq!(plainly(&scene.peer, address), "refused");
        }
    });
}

#[test]
fn the_last_line_that_matches_decides() {
    isolated("the_last_line_that_matches_decides", || async {
        let scene = Scene::new().await;
        for port in [80, 5432] {
            answer(scene.peer.listen_blocking(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)), "peer");
            answer(scene.app.listen_blocking(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)), "app");
        }
        scene.proxy();
        let peer = [scene.peer.ipv4(), scene.peer.ipv6()].map(|address| address.to_string());
        for (index, address) in peer.iter().enumerate() {
            let [http, database] = [80, 5432].map(|port| scene.peer_at(port)[index]);
            let [own_http, own_database] = [80, 5432].map(|port| scene.app_at(port)[index]);
            let (exclude, include) = (format!("exclude {address}"), format!("include {address} port 5432"));
            scene.install(settings(&[&exclude, &include]));
            assert_eq!(plainly(&scene.app, http), "peer");
            assert_eq!(plainly(&scene.app, database), format!("outbound {database}"));
            assert_eq!(plainly(&scene.peer, own_http), "app");
            assert_eq!(plainly(&scene.peer, own_database), format!("inbound {own_database}"));
            // The other way round the same two lines say something else.
            scene.install(settings(&[&include, &exclude]));
            assert_eq!(plainly(&scene.app, database), "peer");
            assert_eq!(plainly(&scene.peer, own_database), "app");
            // One direction alone.
            scene.install(settings(&["exclude inbound port 5432"]));
            assert_eq!(plainly(&scene.app, database), format!("outbound {database}"));
            assert_eq!(plainly(&scene.peer, own_database), "app");
        }
    });
}

#[test]
fn the_proxys_own_connections_pass_by_their_mark() {
    isolated("the_proxys_own_connections_pass_by_their_mark", || async {
        let scene = Scene::new().await;
        answer(scene.peer.listen_blocking(at("[::]:80")), "peer");
        scene.proxy();
        scene.install(settings(&["include all"]));
        for address in scene.peer_at(80) {
            assert_eq!(marked(&scene.app, address), "peer");
            let other = Dial { mark: Some(MARK + 1), ..Dial::default() };
            assert_eq!(call(&scene.app, address, other), format!("outbound {address}"));
        }
    });
}

#[test]
fn the_proxys_own_connections_pass_by_their_user() {
    isolated("the_proxys_own_connections_pass_by_their_user", || async {
        let scene = Scene::new().await;
        answer(scene.peer.listen_blocking(at("[::]:80")), "peer");
        scene.proxy();
        // Without privileges there is one user: then the rules change instead of the caller.
        let cases = if has_users() { vec![(2102, 2102, 1000)] } else { vec![(0, 0, 0), (7, 7, 0)] };
        for (bypass, proxy, application) in cases {
            let bypass_user = Bypass::User(bypass);
            scene.install(RulesSettings { bypass: bypass_user, ..settings(&[]) });
            for address in scene.peer_at(80) {
                let by = |user| call(&scene.app, address, Dial { user: Some(user), ..Dial::default() });
                if has_users() || proxy == 0 {
                    assert_eq!(by(proxy), "peer");
                }
                if application != bypass {
                    assert_eq!(by(application), format!("outbound {address}"));
                }
            }
        }
    });
}

#[test]
fn what_stays_in_the_pod_is_left_alone_and_the_proxy_reaches_its_own_workload() {
    let test = "what_stays_in_the_pod_is_left_alone_and_the_proxy_reaches_its_own_workload";
    isolated(test, || async {
        let scene = Scene::new().await;
        answer(scene.app.listen_blocking(at("[::]:8080")), "application");
        scene.proxy();
        scene.install(settings(&["include all"]));
        for address in [at("127.0.0.1:8080"), at("127.9.9.9:8080"), at("[::1]:8080")] {
            assert_eq!(plainly(&scene.app, address), "application");
        }
        for (index, address) in scene.app_at(8080).into_iter().enumerate() {
            // The application calls its own address; the proxy delivers there.
            assert_eq!(plainly(&scene.app, address), "application");
            assert_eq!(marked(&scene.app, address), "application");
            // The proxy calls the workload as a peer: known by where it calls from.
            let loopback: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
            let dial = Dial { mark: Some(MARK), source: Some(loopback[index]), ..Dial::default() };
            assert_eq!(call(&scene.app, address, dial), format!("inbound {address}"));
            // Not a way in for the application.
            let dial = Dial { source: Some(loopback[index]), ..Dial::default() };
            assert_eq!(call(&scene.app, address, dial), "application");
        }
    });
}

#[test]
fn the_proxy_can_try_its_rules_in_each_family() {
    isolated("the_proxy_can_try_its_rules_in_each_family", || async {
        let scene = Scene::new().await;
        scene.proxy();
        let probes = [at("127.0.0.1:15002"), at("[::1]:15002")];
        let outcome = || probes.map(|probe| marked(&scene.app, probe));
        assert_eq!(outcome(), ["refused", "refused"]);
        scene.install(settings(&["exclude all"]));
        assert_eq!(outcome(), probes.map(|probe| format!("outbound {probe}")));
        // Not for the application, and not on another address of the pod.
        assert_eq!(probes.map(|probe| plainly(&scene.app, probe)), ["refused", "refused"]);
        assert_eq!(marked(&scene.app, scene.app_at(15002)[0]), "refused");
        change(&scene.app, Family::Inet, pass_ipv6("weft", "outbound"));
        assert_eq!(outcome(), ["outbound 127.0.0.1:15002", "refused"]);
        change(&scene.app, Family::Inet, flush("weft", "outbound"));
        assert_eq!(outcome(), ["refused", "refused"]);
    });
}

#[test]
fn installing_again_replaces_and_removing_restores() {
    isolated("installing_again_replaces_and_removing_restores", || async {
        let scene = Scene::new().await;
        answer(scene.peer.listen_blocking(at("[::]:80")), "peer");
        scene.proxy();
        let flags = ["--bypass", "mark:0x77"];
        let run = |arguments: &[&str]| command(&scene.app, &[arguments, &flags].concat());
        assert_eq!(command(&scene.app, &["remove"]).0, 0, "nothing there is nothing to complain about");
        let (code, _, said) = run(&["install", "--line", "exclude port 80", "--line", "exclude 10.0.0.0/8"]);
        assert_eq!((code, said.as_str()), (0, ""));
        assert_eq!(plainly(&scene.app, scene.peer_at(80)[0]), "peer");
        for _ in 0..2 {
            let (code, said, _) = run(&["install"]);
            assert_eq!(code, 0);
            assert!(said.contains("outbound to 15001, inbound to 15006"), "{said}");
            assert_eq!(run(&["check"]), (0, "all rules are in place\n".to_owned(), String::new()));
            for address in scene.peer_at(80) {
                assert_eq!(plainly(&scene.app, address), format!("outbound {address}"));
            }
        }
        // Its whole text is a dry run.
        let (code, text, _) = run(&["print", "--line", "exclude port 5432"]);
        assert_eq!(code, 0);
        assert!(text.contains("meta mark 0x77 return") && text.contains("line1_ports"), "{text}");
        assert_eq!(run(&["check"]).0, 0);
        assert_eq!(command(&scene.app, &["remove"]).0, 0);
        for address in scene.peer_at(80) {
            assert_eq!(plainly(&scene.app, address), "peer");
        }
        let (code, said, _) = run(&["check"]);
        assert_eq!(code, 1);
        assert!(said.contains("there is no table inet weft"), "{said}");
    });
}

#[test]
fn why_names_the_line() {
    isolated("why_names_the_line", || async {
        let scene = Scene::new().await;
        let lines = ["--line", "exclude 10.0.0.0/8", "--line", "include outbound port 5432"];
        let why = |address: &str| command(&scene.app, &[&["why", address][..], &lines].concat());
        let (code, said, _) = why("10.9.9.9:5432");
        assert_eq!(code, 0);
        assert_eq!(
            said,
            "outbound to 10.9.9.9:5432: redirected to 15001 (line 2: include outbound port 5432)\n\
             inbound from 10.9.9.9 to port 5432: passes by (line 1: exclude 10.0.0.0/8)\n"
        );
        let own = scene.app_at(5432)[1].to_string();
        assert!(why(&own).1.contains("passes by (within this pod)"), "{own}");
        let (code, _, said) = why("db:5432");
        assert_eq!(code, 2);
        assert!(said.contains("is not ADDRESS:PORT"), "{said}");
        let (code, _, said) = command(&scene.app, &["print", "--line", "exclude port x"]);
        assert_eq!(code, 2);
        assert!(said.contains("is no port"), "{said}");
        let (code, _, said) = command(&scene.app, &["install", "--inbound-port", "15001"]);
        assert_eq!(code, 2);
        assert!(said.contains("both 15001"), "{said}");
    });
}

#[test]
fn check_names_what_was_flushed_left_out_or_added() {
    isolated("check_names_what_was_flushed_left_out_or_added", || async {
        let scene = Scene::new().await;
        let wanted = || settings(&["exclude 10.0.0.0/8,fd00::/8 port 5432"]);
        let said = || scene.check(wanted()).iter().map(ToString::to_string).collect::<Vec<_>>();

        assert_eq!(scene.check(wanted()), [Finding::NoTable]);
        scene.install(wanted());
        assert_eq!(scene.check(wanted()), []);

        // Emptied, as `nft flush table` does.
        change(&scene.app, Family::Inet, flush("weft", "outbound"));
        assert_eq!(said().len(), 9);
        assert!(said().iter().all(|finding| finding.starts_with("outbound: missing: ")), "{:?}", said());
        scene.install(wanted());

        // A rule that lets IPv6 pass, in front of ours.
        change(&scene.app, Family::Inet, pass_ipv6("weft", "outbound"));
        assert_eq!(said(), ["outbound: not ours: meta = [0a] return"]);
        scene.install(wanted());

        // Other lines than were installed.
        let other = scene.check(settings(&["exclude 10.0.0.0/8,fd00::/8 port 5433"]));
        assert_eq!(
            other.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["the set line1_ports does not hold: 5433"]
        );

        // Switched off.
        change(&scene.app, Family::Inet, switch_off("weft"));
        assert_eq!(scene.check(wanted()), [Finding::Dormant]);
        scene.install(wanted());
        assert_eq!(scene.check(wanted()), []);

        // Half of it, as an older tool would have made it.
        scene.app.run(rules::remove).unwrap();
        change(&scene.app, Family::Ipv4, redirection("weft"));
        assert_eq!(
            said(),
            [
                "the table weft is there as ip alone: IPv6 passes by",
                "the table ip weft redirects connections in its chain out: another mesh or an earlier rule set; \
                 remove it first"
            ]
        );
    });
}

#[test]
fn rules_of_another_mesh_are_named_and_left_alone() {
    isolated("rules_of_another_mesh_are_named_and_left_alone", || async {
        let scene = Scene::new().await;
        change(&scene.app, Family::Inet, redirection("other"));
        let rules = RuleSet::new(settings(&[])).unwrap();
        let refused = scene.app.run(move || rules::install(&rules)).unwrap_err();
        assert!(matches!(refused, RulesError::Taken(_)), "{refused}");
        assert!(refused.to_string().contains("the table inet other"), "{refused}");
        assert_eq!(scene.check(settings(&[]))[0], Finding::NoTable, "nothing was changed");
        let (code, _, said) = command(&scene.app, &["install"]);
        assert_eq!(code, 1);
        assert!(said.contains("already redirected: the table inet other"), "{said}");
    });
}

#[test]
fn without_the_capability_the_message_says_what_to_do() {
    // Outside of any namespace of ours, as nobody in particular.
    weft_tests::binaries::binaries();
    let mut command = Command::new(proxy_binary());
    command.args(["rules", "check"]);
    if nix::unistd::geteuid().is_root() {
        command.uid(65534);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("need the capability NET_ADMIN"), "{said}");
}

#[test]
fn without_ipv6_the_rules_stand_and_ipv4_is_redirected() {
    isolated("without_ipv6_the_rules_stand_and_ipv4_is_redirected", || async {
        let scene = Scene::new().await;
        let disabled = scene.app.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"));
        disabled.expect("a namespace's own settings must be writable");
        answer(scene.app.listen_blocking(at("127.0.0.1:15001")), "outbound");
        scene.install(settings(&["exclude fd00::/8"]));
        let address = scene.peer_at(80)[0];
        assert_eq!(plainly(&scene.app, address), format!("outbound {address}"));
    });
}

#[test]
fn the_longest_list_fits_into_one_transaction() {
    isolated("the_longest_list_fits_into_one_transaction", || async {
        let scene = Scene::new().await;
        let lines: Vec<String> = (0..LINES_MAX)
            .map(|line| {
                let nets = (0..3).map(|net| format!("10.{line}.{net}.0/28,fd00:{line:x}:{net:x}::/64"));
                format!("exclude {} port {}", nets.collect::<Vec<_>>().join(","), 1000 + 2 * line)
            })
            .collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        scene.install(settings(&lines));
        assert_eq!(scene.check(settings(&lines)), []);
    });
}

#[test]
fn the_kernel_and_why_agree_on_two_hundred_random_lists() {
    isolated("the_kernel_and_why_agree_on_two_hundred_random_lists", || async {
        const LISTS: usize = 200;
        const CALLS_PER_LIST: usize = 12;
        const PORTS: [u16; 5] = [79, 80, 443, 5432, 8080];
        let scene = Scene::new().await;
        scene.proxy();
        let others: Vec<IpAddr> = [
            "10.0.0.1",
            "10.1.0.1",
            "10.1.2.3",
            "10.200.255.254",
            "fd00::1",
            "fd00:1::1",
            "fd00:1:2::3",
            "fdff::1",
        ]
        .map(|address| address.parse().unwrap())
        .to_vec();
        for address in &others {
            scene.peer.add_address(*address);
        }
        for port in PORTS {
            let all = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            answer(scene.peer.listen_blocking(all), "direct");
            answer(scene.app.listen_blocking(all), "direct");
        }
        let mut random = Random(0x5eed_0f77_ef77);
        for list in 0..LISTS {
            let lines: Vec<String> = (0..1 + random.below(8)).map(|_| random.line(&others, &PORTS)).collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            scene.install(settings(&lines));
            let rules = RuleSet::new(settings(&lines)).unwrap();
            for _ in 0..CALLS_PER_LIST {
                let (other, port) = (random.pick(&others), random.pick(&PORTS));
                let destination = SocketAddr::new(other, port);
                let answer = rules.why(Question::outbound(destination, false));
                let expected = match answer.verdict {
                    Verdict::Pass => "direct".to_owned(),
                    Verdict::Redirect(_) => format!("outbound {destination}"),
                };
                assert_eq!(plainly(&scene.app, destination), expected, "list {list}: {lines:?}: {answer}");

                let own = if other.is_ipv4() { scene.app.ipv4() } else { scene.app.ipv6() };
                let destination = SocketAddr::new(own, port);
                let answer = rules.why(Question::inbound(other, port, false));
                let expected = match answer.verdict {
                    Verdict::Pass => "direct".to_owned(),
                    Verdict::Redirect(_) => format!("inbound {destination}"),
                };
                let dial = Dial { source: Some(other), ..Dial::default() };
                assert_eq!(
                    call(&scene.peer, destination, dial),
                    expected,
                    "list {list}: {lines:?}: {answer}"
                );
            }
        }
    });
}

/// `nft` reads what `print` writes, and makes of it what `install` makes.
#[cfg(feature = "peers")]
#[test]
fn nft_makes_the_same_rules_of_the_printed_text() {
    isolated("nft_makes_the_same_rules_of_the_printed_text", || async {
        let scene = Scene::new().await;
        let lines = [
            "exclude 10.0.0.0/8,10.128.0.0/9,2001:db8::/32 port 5432,8000-8080",
            "include 0.0.0.0/0,::/0",
            "exclude inbound port 1-65535",
            "include outbound all",
        ];
        for bypass in ["mark:0x77", "uid:2102", "gid:2102"] {
            let mut flags = vec!["--bypass", bypass];
            lines.iter().for_each(|line| flags.extend(["--line", line]));
            flags.extend(["--tcp-probe-node", "192.0.2.0/24,2001:db8::/64", "--tcp-probe-port", "5432,6379"]);
            let (code, text, said) = command(&scene.app, &[&["print"][..], &flags].concat());
            assert_eq!((code, said.as_str()), (0, ""));
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("rules.nft");
            std::fs::write(&file, text).unwrap();
            for _ in 0..2 {
                let mut nft = Command::new("nft");
                nft.arg("-f").arg(&file);
                let (code, _, said) = scene.app.output(nft);
                assert_eq!((code, said.as_str()), (0, ""));
                let (_, said, _) = command(&scene.app, &[&["check"][..], &flags].concat());
                assert_eq!(said, "all rules are in place\n");
            }
        }
    });
}

/// Small, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("what is below a usize is one")
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn line(&mut self, addresses: &[IpAddr], ports: &[u16]) -> String {
        let mut line = self.pick(&["include", "exclude"]).to_owned();
        line += self.pick(&["", "", " inbound", " outbound"]);
        let shape = self.below(7);
        if shape >= 3 {
            let networks = (0..1 + self.below(3)).map(|_| {
                let address = self.pick(addresses);
                let length = match address {
                    IpAddr::V4(_) => self.pick(&[0, 8, 9, 15, 16, 24, 31, 32]),
                    IpAddr::V6(_) => self.pick(&[0, 7, 8, 16, 31, 48, 64, 127, 128]),
                };
                ipnet::IpNet::new(address, length).expect("a length must fit").trunc().to_string()
            });
            line += &format!(" {}", networks.collect::<Vec<_>>().join(","));
        }
        if shape < 5 && shape > 0 {
            let ranges = (0..1 + self.below(2)).map(|_| {
                let (one, other) = (self.pick(ports), self.pick(ports));
                format!("{}-{}", one.min(other), one.max(other) + self.below(2) as u16)
            });
            line += &format!(" port {}", ranges.collect::<Vec<_>>().join(","));
        } else if shape == 0 {
            line += " all";
        }
        line
    }
}
