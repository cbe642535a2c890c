//! The order in which a pod is captured: listen, redirect, give up privileges, accept. Nothing is
//! refused for being early, nothing passes when the proxy is gone, and a pod that cannot be captured
//! says why.

use nix::sys::signal::Signal;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};
use weft_model::reason::Reason;
use weft_tests::client::{Client, Request};
use weft_tests::netns::nftables::{Family, change, redirection};
use weft_tests::netns::wire::Wire;
use weft_tests::netns::{Dial, Pod, has_users, isolated};
use weft_tests::pods::{Builder, Member, PodSpec, Pods};
use weft_tests::wait;

const MARKER: &str = "marked-5d20aa61-body";

/// How often a client races the start of its proxy.
const STARTS: u32 = 40;

/// How often a client tries in vain while its proxy is gone.
const TRIES: u32 = 200;

/// `shop/web-1` has no proxy until the test starts it.
async fn pair_with_late_web(web: PodSpec) -> Pods {
    Builder::default()
        .service("shop/cart", 80, 8080)
        .pod(PodSpec::new("shop/cart-1").serves(8080))
        .pod(web.not_started())
        .start()
        .await
}

/// What a program that dials until it gets through has seen on its way.
struct Dialled {
    refused: u32,
    status: u16,
}

/// Dials a Service's address again and again, as a program does that wants its database. Without
/// redirection nobody answers there, so an attempt is given up after a while.
async fn dial_until_answered(pod: &Pod, address: SocketAddr) -> Dialled {
    let mut refused = 0;
    let deadline = Instant::now() + wait::SOON;
    while Instant::now() < deadline {
        let attempt = tokio::time::timeout(Duration::from_millis(200), pod.connect(address, Dial::default()));
        match attempt.await {
            Ok(Ok(stream)) => {
                let mut connection = Client::direct(address).over(stream).expect("a connection");
                let response = connection.send(&Request::get("http://cart/")).await;
                let response = response.expect("what was accepted is answered");
                return Dialled { refused, status: response.status() };
            }
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => refused += 1,
            // Nobody there yet.
            Ok(Err(_)) | Err(_) => {}
        }
    }
    panic!("{address} never answers {}", pod.name());
}

#[test]
fn a_client_that_is_early_waits_and_is_never_refused() {
    isolated("a_client_that_is_early_waits_and_is_never_refused", || async {
        let mut mesh = pair_with_late_web(PodSpec::new("shop/web-1")).await;
        let _application = mesh.member("shop/cart-1").application("cart-1", 8080);
        let vip = mesh.vip("shop/cart");
        for start in 0..STARTS {
            let web = mesh.member_mut("shop/web-1");
            // As a new pod: no rules, no certificate.
            assert_eq!(web.rules(&["remove"]).0, 0);
            let _ = fs::remove_dir_all(web.directory().join("state"));
            let pod = web.pod().clone();
            let early = wait::spawn(async move { dial_until_answered(&pod, vip).await });
            // From well before the proxy to when it may have redirected and does not accept yet.
            tokio::time::sleep(Duration::from_millis(u64::from(start % 8) * 5)).await;
            web.spawn();
            let dialled = wait::within("the early client is answered", early).await.expect("no panic");
            assert_eq!((dialled.refused, dialled.status), (0, 200), "start {start}");
            web.kill();
        }
    });
}

#[test]
fn without_the_control_api_waiting_ends_with_a_reason() {
    isolated("without_the_control_api_waiting_ends_with_a_reason", || async {
        let web = PodSpec::new("shop/web-1").settings("startup: { timeout: 1s }");
        let mut mesh = pair_with_late_web(web).await;
        mesh.kill_control();
        let vip = mesh.vip("shop/cart");
        let web = mesh.member_mut("shop/web-1");
        web.spawn();
        wait::until("the proxy says what is missing", async || {
            web.ready().await.is_some_and(|(status, text)| {
                status == 503 && text.contains("certificate") && text.contains("configuration")
            })
        })
        .await;
        let answer = web.caller(vip).get("http://cart/").await;
        answer.refused_with(Reason::ConfigurationMissing);
        assert!(web.process().log().contains("not ready in time"), "{}", web.process().log());
    });
}

/// Capabilities of every thread of a process, of one kind.
fn capabilities(process: u32, kind: &str) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let of = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(':'))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    tasks.filter_map(|task| of(task.ok()?)).collect()
}

#[test]
fn a_running_proxy_can_mark_its_connections_and_nothing_else() {
    isolated("a_running_proxy_can_mark_its_connections_and_nothing_else", || async {
        const NET_RAW: u64 = 1 << 13;
        let mesh = Builder::default()
            .pod(PodSpec::new("shop/mark-1"))
            .pod(PodSpec::new("shop/user-1").bypass("uid:0"))
            .start()
            .await;
        for (uid, kept) in [("shop/mark-1", NET_RAW), ("shop/user-1", 0)] {
            for kind in ["CapEff", "CapPrm"] {
                let held = capabilities(mesh.member(uid).process().id(), kind);
                // The main thread and at least one worker.
                assert!(held.len() >= 2 && held.iter().all(|held| *held == kept), "{uid} {kind}: {held:x?}");
            }
            let inherited = capabilities(mesh.member(uid).process().id(), "CapInh");
            assert!(inherited.iter().all(|held| *held == 0), "{uid}: {inherited:x?}");
        }
    });
}

/// Nothing goes out from `shop/web-1`, nothing comes in to `shop/cart-1`.
async fn closed(mesh: &Pods, stranger: &Member) {
    let (cart, web) = (mesh.member("shop/cart-1"), mesh.member("shop/web-1"));
    for address in [mesh.vip("shop/cart"), mesh.vip6("shop/cart"), stranger.ipv4(80), stranger.ipv6(80)] {
        let error = web.caller(address).stream().await.expect_err("nothing goes out");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
    }
    for address in [cart.ipv4(8080), cart.ipv6(8080)] {
        let error = stranger.caller(address).stream().await.expect_err("nothing comes in");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
    }
}

#[test]
fn a_proxy_that_is_gone_leaves_its_pod_closed_until_it_is_back() {
    isolated("a_proxy_that_is_gone_leaves_its_pod_closed_until_it_is_back", || async {
        let mut mesh = Builder::pair().pod(PodSpec::new("out/side-1").foreign()).start().await;
        let application = mesh.member("shop/cart-1").application("cart-1", 8080);
        let _outside = mesh.member("out/side-1").application("side-1", 80);
        let call = async |mesh: &Pods| {
            mesh.member("shop/web-1").caller(mesh.vip("shop/cart")).get("http://cart/").await
        };
        call(&mesh).await.passed();
        let seen = application.requests().len();
        // Crashed, and stopped as it should be: the rules stay.
        for crash in [true, false] {
            for uid in ["shop/cart-1", "shop/web-1"] {
                let member = mesh.member_mut(uid);
                if crash {
                    member.kill();
                } else {
                    member.process().signal(Signal::SIGTERM);
                    let (status, _) = member.process_mut().wait().await;
                    assert_eq!(status.code(), Some(0), "{uid}");
                    member.kill();
                }
                assert_eq!(member.rules(&["check"]).0, 0, "{uid}");
            }
            closed(&mesh, mesh.member("out/side-1")).await;
            assert_eq!(application.requests().len(), seen);
            for uid in ["shop/cart-1", "shop/web-1"] {
                mesh.member_mut(uid).start().await;
                assert_eq!(mesh.member(uid).rules(&["check"]).0, 0, "{uid}");
            }
            mesh.member("out/side-1")
                .caller(mesh.member("shop/cart-1").ipv4(8080))
                .get("http://cart/")
                .await
                .refused_with(Reason::TlsRequired);
        }
        call(&mesh).await.passed();
    });
}

#[test]
fn a_proxy_killed_under_load_lets_no_plaintext_out() {
    isolated("a_proxy_killed_under_load_lets_no_plaintext_out", || async {
        let mut mesh = Builder::pair().start().await;
        let application = mesh.member("shop/cart-1").application("cart-1", 8080);
        let wire = Wire::tap(mesh.member("shop/web-1").pod());
        let vip = mesh.vip("shop/cart");
        let direct = mesh.member("shop/cart-1").ipv4(8080);
        // Told each time the proxy is back; closed when it is over.
        let (back, is_back) = tokio::sync::watch::channel(());
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let address = if number % 2 == 0 { vip } else { direct };
                let caller = mesh.member("shop/web-1").caller(address);
                let mut is_back = is_back.clone();
                wait::spawn(async move {
                    let (mut failed, mut in_a_row) = (0_u32, 0);
                    while is_back.has_changed().is_ok() {
                        let request = Request::post("http://cart/echo", MARKER.repeat(50));
                        match caller.try_send(&request).await {
                            Ok(response) if response.status() == 200 => in_a_row = 0,
                            // At once, so that much is tried while nobody is there.
                            Ok(_) | Err(_) => (failed, in_a_row) = (failed + 1, in_a_row + 1),
                        }
                        if in_a_row == TRIES {
                            // More would only crowd the capture, which must see every packet.
                            let _ = is_back.changed().await;
                            in_a_row = 0;
                        }
                        tokio::task::yield_now().await;
                    }
                    failed
                })
            })
            .collect();
        for _ in 0..3 {
            let served = application.requests().len();
            wait::until("calls go through", async || application.requests().len() > served + 50).await;
            let web = mesh.member_mut("shop/web-1");
            web.kill();
            // Connections that were open are gone, and new ones are refused: for a while.
            let caller = web.caller(vip);
            for _ in 0..200 {
                let error = caller.stream().await.expect_err("nobody is there");
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            }
            web.start().await;
            back.send_replace(());
        }
        drop(back);
        let mut failed = 0;
        for client in clients {
            failed += client.await.expect("no panic");
        }
        assert!(failed > 0, "the clients have noticed nothing: the test tests nothing");
        wire.stop().never_shows(MARKER.as_bytes());
    });
}

/// Starts the proxy of a pod that is not fit for it, and gives its last words.
async fn refused_start(
    mesh: &mut Pods,
    uid: &str,
    change: impl FnOnce(&mut std::process::Command),
) -> String {
    let member = mesh.member_mut(uid);
    member.spawn_as(change);
    let (status, _) = member.process_mut().wait().await;
    assert_eq!(status.code(), Some(2), "{}", member.process().log());
    let said = member.process().log();
    let _ = fs::remove_file(member.directory().join(format!("{}.log", uid.replace('/', "."))));
    said
}

#[test]
fn a_pod_that_cannot_be_captured_is_told_why_and_left_as_it_was() {
    isolated("a_pod_that_cannot_be_captured_is_told_why_and_left_as_it_was", || async {
        let mut mesh = Builder::default()
            .pod(PodSpec::new("shop/web-1").not_started())
            .pod(PodSpec::new("shop/weak-1").not_started())
            .start()
            .await;
        let uid = "shop/web-1";
        let untouched = |mesh: &Pods| {
            let (_, said, _) = mesh.member(uid).rules(&["check"]);
            assert!(said.contains("there is no table inet weft"), "{said}");
        };
        for (address, setting) in [
            ("127.0.0.1:15001", "rules.outboundPort"),
            ("[::1]:15001", "rules.outboundPort"),
            ("[::]:15006", "rules.inboundPort"),
        ] {
            let taken = mesh.member(uid).pod().listen(address.parse().unwrap());
            let said = refused_start(&mut mesh, uid, |_| {}).await;
            assert!(said.contains(setting) && said.contains("another process listens there"), "{said}");
            untouched(&mesh);
            drop(taken);
        }
        let taken = mesh.member(uid).pod().listen("[::]:15002".parse().unwrap());
        let said = refused_start(&mut mesh, uid, |_| {}).await;
        assert!(said.contains("port 15002 is needed to try the redirection"), "{said}");
        untouched(&mesh);
        drop(taken);

        // Run as somebody whom the rules do not let pass.
        mesh.member(uid).edit_settings("bypass: mark:0x77", "bypass: uid:2102");
        let said = refused_start(&mut mesh, uid, |_| {}).await;
        assert!(said.contains("rules.bypass is uid:2102, but this process runs as user 0"), "{said}");
        assert!(said.contains("runAsUser"), "{said}");
        untouched(&mesh);

        mesh.member(uid).edit_settings("bypass: uid:2102", "bypass: mark:0x77");

        // Rules of another tool are left alone.
        change(mesh.member(uid).pod(), Family::Inet, redirection("other"));
        let said = refused_start(&mut mesh, uid, |_| {}).await;
        assert!(said.contains("already redirected: the table inet other"), "{said}");
        untouched(&mesh);

        // Without one capability after the other: what the pod's thread starts cannot get it back.
        let without = |mesh: &Pods, capability| {
            let dropped =
                mesh.member("shop/weak-1").pod().run(move || remove_capability_from_bounding_set(capability));
            dropped.expect("root of a namespace may give up what it has");
        };
        let uid = "shop/weak-1";
        without(&mesh, CapabilitySet::NET_RAW);
        let said = refused_start(&mut mesh, uid, |_| {}).await;
        assert!(said.contains("give it the capability NET_RAW"), "{said}");
        let (_, checked, _) = mesh.member(uid).rules(&["check"]);
        assert!(checked.contains("there is no table inet weft"), "{checked}");
        without(&mesh, CapabilitySet::NET_ADMIN);
        let said = refused_start(&mut mesh, uid, |_| {}).await;
        assert!(said.contains("may not set marks on its connections"), "{said}");
        mesh.member(uid).edit_settings("bypass: mark:0x77", "bypass: uid:0");
        let said = refused_start(&mut mesh, uid, |_| {}).await;
        assert!(said.contains("need the capability NET_ADMIN"), "{said}");
    });
}

#[test]
fn before_the_rules_a_program_reaches_whom_it_dials_and_after_them_only_by_the_list() {
    let test = "before_the_rules_a_program_reaches_whom_it_dials_and_after_them_only_by_the_list";
    isolated(test, || async {
        // An init container's program, before and after the proxy of its pod has started.
        let web = PodSpec::new("shop/web-1").line("exclude outbound port 9999");
        let mut mesh = Builder::default()
            .service("shop/cart", 80, 8080)
            .pod(PodSpec::new("shop/cart-1").serves(8080))
            .pod(web.not_started())
            .pod(PodSpec::new("out/side-1").foreign())
            .start()
            .await;
        let _application = mesh.member("shop/cart-1").application("cart-1", 8080);
        let excluded = mesh.member("out/side-1").application("excluded", 9999);
        let side = mesh.member("out/side-1").ipv4(9999);
        mesh.member("shop/web-1").caller(side).get("http://side/").await.passed();
        mesh.member_mut("shop/web-1").start().await;
        let web = mesh.member("shop/web-1");
        web.caller(side).get("http://side/").await.passed();
        assert_eq!(excluded.requests().len(), 2);
        web.caller(mesh.vip("shop/cart")).get("http://cart/").await.passed();
        // As `why` says, with the proxy's own settings.
        let (code, said, _) = web.rules(&["why", &side.to_string()]);
        assert_eq!(code, 0);
        assert!(said.contains("passes by (line 1: exclude outbound port 9999)"), "{said}");
        mesh.member_mut("shop/web-1").kill();
        // Excluded is excluded, proxy or not.
        mesh.member("shop/web-1").caller(side).get("http://side/").await.passed();
    });
}

#[test]
fn a_proxy_without_privileges_works_behind_rules_that_another_has_installed() {
    isolated("a_proxy_without_privileges_works_behind_rules_that_another_has_installed", || async {
        // As a pod's sidecar is run; a machine with one user has it run as that.
        let user = if has_users() { 2102 } else { 0 };
        let cart = PodSpec::new("shop/cart-1").serves(8080).bypass(&format!("uid:{user}")).rules_by_other();
        let mut mesh = Builder::default()
            .service("shop/cart", 80, 8080)
            .pod(cart.not_started())
            .pod(PodSpec::new("shop/web-1"))
            .start()
            .await;
        let parent = mesh.directory().to_owned();
        let cart = mesh.member_mut("shop/cart-1");
        for path in
            [parent.as_path(), &parent.join("state"), cart.directory(), &cart.directory().join("token")]
        {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
        assert_eq!(cart.rules(&["install"]).0, 0);
        let application = cart.application("cart-1", 8080);
        cart.spawn_as(|command| {
            command.uid(user).gid(user);
        });
        cart.wait_ready().await;
        let response = mesh.member("shop/web-1").caller(mesh.vip("shop/cart")).get("http://cart/").await;
        response.passed();
        assert_eq!(application.requests().len(), 1);
    });
}
