use super::check::collide;
use super::*;

const WHOLE: &str = r#"
workload: shop/cart-1
control:
  address: 127.0.0.1:15010
  roots: /etc/weft/roots.pem
  spiffeId: spiffe://cluster.local/ns/weft-system/sa/weft-control
  token: /etc/weft/token
outbound:
  listen: 127.0.0.1:15001
  services:
    - { service: shop/catalog, port: 80, listen: 127.0.0.1:9001 }
  connectTimeout: 250ms
inbound:
  - { listen: 127.0.1.1:8080, application: 127.0.0.1:3000 }
metrics: { listen: "127.0.0.1:15020" }
admin: { listen: "127.0.0.1:15000", socket: /run/weft/changes.sock }
state: /run/weft
lastGoodAgeMax: 12h
workers: 1
drain: { deadline: 5s, quiet: 500ms }
startup: { timeout: 1m30s }
log: warn,weft_proxy=debug
accessLog: all
exitWhenAlone: true
"#;

fn load(text: &str, flags: &[&str]) -> Result<Settings, String> {
    use clap::Parser;
    let flags =
        Flags::try_parse_from(["weft-proxy"].iter().chain(flags)).map_err(|error| error.to_string())?;
    let file = file::parse("proxy.yaml", text).map_err(|error| error.to_string())?;
    Settings::join(flags, file).map_err(|error| error.to_string())
}

#[test]
fn a_whole_file_is_read() {
    let settings = load(WHOLE, &[]).unwrap();
    assert_eq!(settings.workload.as_str(), "shop/cart-1");
    assert_eq!(settings.namespace().as_str(), "shop");
    assert_eq!(settings.control.address.as_str(), "127.0.0.1:15010");
    assert_eq!(settings.outbound.listen, "127.0.0.1:15001".parse().ok());
    assert_eq!(settings.outbound.services[0].service.to_string(), "shop/catalog");
    assert_eq!(settings.outbound.connect_timeout, Duration::from_millis(250));
    assert_eq!(settings.inbound[0].application, "127.0.0.1:3000".parse().unwrap());
    assert_eq!(settings.drain_deadline, Duration::from_secs(5));
    assert_eq!(settings.drain_quiet, Duration::from_millis(500));
    assert_eq!(settings.admin_socket, Some("/run/weft/changes.sock".into()));
    assert!(settings.exit_when_alone);
    assert_eq!(settings.startup_timeout, Duration::from_secs(90));
    assert_eq!(settings.last_good_age_max, Duration::from_secs(12 * 3600));
    assert_eq!(settings.access_log, Mode::All);
    assert_eq!(settings.workers.get(), 1);
}

#[test]
fn flags_win_over_the_file_and_defaults_fill_the_rest() {
    let flags = [
        "--workload=shop/web-1",
        "--control-address=weft-control.weft-system.svc:15010",
        "--control-roots=roots.pem",
        "--outbound-listen=none",
        "--outbound-service=shop/a:80=127.0.0.1:9001",
        "--outbound-service=shop/b:81=[::1]:9001",
        "--inbound=127.0.1.1:8080=127.0.0.1:3000,127.0.1.1:8081=127.0.0.1:3001",
        "--drain-deadline=1s",
        "--access-log=off",
        "--exit-when-alone=false",
    ];
    for text in ["", WHOLE] {
        let settings = load(text, &flags).unwrap();
        assert_eq!(settings.workload.as_str(), "shop/web-1");
        assert_eq!(settings.control.address.as_str(), "weft-control.weft-system.svc:15010");
        assert_eq!(settings.outbound.listen, None);
        assert_eq!(settings.outbound.services.len(), 2);
        assert_eq!(settings.inbound.len(), 2);
        assert_eq!(settings.drain_deadline, Duration::from_secs(1));
        assert_eq!(settings.access_log, Mode::Off);
    }
    let settings = load("", &flags).unwrap();
    assert_eq!(settings.metrics, DEFAULT_METRICS_LISTEN.parse().unwrap());
    assert_eq!(settings.admin, DEFAULT_ADMIN_LISTEN.parse().unwrap());
    assert_eq!(settings.startup_timeout, DEFAULT_STARTUP_TIMEOUT);
    assert_eq!(settings.outbound.connect_timeout, DEFAULT_CONNECT_TIMEOUT);
    assert_eq!((settings.drain_quiet, settings.exit_when_alone), (DEFAULT_DRAIN_QUIET, false));
    assert_eq!(settings.admin_socket, None, "there is no directory to put it");
    let socket = |more: &[&str]| load("", &[&flags[..], more].concat()).unwrap().admin_socket;
    assert_eq!(socket(&["--state=/run/weft"]), Some("/run/weft/admin.sock".into()));
    assert_eq!(socket(&["--state=/run/weft", "--admin-socket=none"]), None);
    assert!(settings.state.is_none() && settings.workers.get() <= DEFAULT_WORKERS_MAX);
}

/// The whole file with one line changed.
fn with(line: &str, other: &str) -> String {
    assert!(WHOLE.contains(line), "{line}");
    WHOLE.replace(line, other)
}

#[test]
fn every_mistake_in_a_file_has_one_message_that_says_where_and_what() {
    let cases = [
        (
            with("workload: shop/cart-1", "worklod: shop/cart-1"),
            &["proxy.yaml:2:1", "unknown field `worklod`"][..],
        ),
        (
            with("workload: shop/cart-1", "workload: Shop/cart"),
            &["proxy.yaml:2", "\"Shop/cart\"", "workload UID"],
        ),
        (with("workload: shop/cart-1", "workload: cart-1"), &["workload: \"cart-1\" is not NAMESPACE/NAME"]),
        (
            with("workload: shop/cart-1", ""),
            &["the setting workload is missing", "--workload", "WEFT_WORKLOAD"],
        ),
        (
            with("  address: 127.0.0.1:15010", ""),
            &["control.address is missing", "--control-address", "WEFT_CONTROL_ADDRESS"],
        ),
        (with("  roots: /etc/weft/roots.pem", ""), &["control.roots is missing"]),
        (
            with("address: 127.0.0.1:15010", "address: 127.0.0.1"),
            &["proxy.yaml:4", "\"127.0.0.1\"", "HOST:PORT"],
        ),
        (with("  token:", "  tokn:"), &["proxy.yaml:7:3", "unknown field `tokn`", "expected"]),
        (with("spiffeId: spiffe://", "spiffeId: https://"), &["proxy.yaml:6", "is not a valid SPIFFE ID"]),
        (with("port: 80", "port: 0"), &["proxy.yaml:11", "nonzero"]),
        (with("port: 80", "port: 70000"), &["proxy.yaml:11", "70000"]),
        (
            with("service: shop/catalog", "service: catalog"),
            &["proxy.yaml:11", "\"catalog\"", "NAMESPACE/NAME"],
        ),
        (
            with("application: 127.0.0.1:3000", "application: 127.0.0.1"),
            &["proxy.yaml:14:44", "\"127.0.0.1\" is not an IP address and port"],
        ),
        (
            with("application: 127.0.0.1:3000", "application: 0.0.0.0:3000"),
            &["inbound: 0.0.0.0:3000 is no address"],
        ),
        (
            with("application: 127.0.0.1:3000", "application: 127.0.0.1:15001"),
            &["127.0.0.1:15001 is this proxy's own", "circle"],
        ),
        (with("deadline: 5s", "deadline: 5"), &["proxy.yaml:20:20", "\"5\" is not a valid duration"]),
        (with("workers: 1", "workers: 0"), &["proxy.yaml:19", "nonzero"]),
        (with("log: warn", "log: loud"), &["proxy.yaml:22", "\"loud\"", "use off, error"]),
        (with("accessLog: all", "accessLog: some"), &["proxy.yaml:23", "\"some\" is not off, errors or all"]),
        (with("lastGoodAgeMax: 12h", "lastGoodAgeMax: 0s"), &["lastGood", "24h"]),
        (
            with("listen: \"127.0.0.1:15000\"", "listen: \"0.0.0.0:15000\""),
            &["admin.listen: 0.0.0.0:15000 is not a loopback address"],
        ),
        (
            with("listen: 127.0.0.1:15001", "listen: 10.0.0.1:15001"),
            &["outbound.listen: 10.0.0.1:15001 is not a loopback address"],
        ),
        (
            with("listen: 127.0.0.1:9001", "listen: 10.0.0.1:9001"),
            &["outbound.services: 10.0.0.1:9001 is not"],
        ),
        (
            with("listen: 127.0.0.1:9001", "listen: 127.0.0.1:15001"),
            &[
                "outbound.services (shop/catalog:80): 127.0.0.1:15001 collides with outbound.listen: 127.0.0.1:15001",
            ],
        ),
        (
            with("metrics: { listen: \"127.0.0.1:15020\" }", "metrics: { listen: \"[::]:15001\" }"),
            &["metrics.listen: [::]:15001 collides with outbound.listen"],
        ),
        ("a: [".to_owned(), &["proxy.yaml"]),
        ("- 1\n".to_owned(), &["proxy.yaml"]),
        (format!("{WHOLE}\nworkload: shop/other\n"), &["proxy.yaml", "duplicate"]),
    ];
    for (text, wanted) in cases {
        let message = load(&text, &[]).expect_err(&text);
        for part in wanted {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn wrong_flags_are_named_with_their_value() {
    for (flag, wanted) in [
        ("--admin-listen=15000", "\"15000\" is not an IP address and port"),
        ("--outbound-service=shop/a=127.0.0.1:1", "shop/catalog:80=127.0.0.1:9001"),
        ("--inbound=127.0.0.1:80", "not ADVERTISED=APPLICATION"),
        ("--workers=0", "--workers"),
        ("--token=x", "--token"),
        ("--log=loud", "unknown log level \"loud\""),
    ] {
        let message = load(WHOLE, &[flag]).expect_err(flag);
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn a_connect_timeout_is_neither_too_short_for_anybody_nor_too_long_for_everybody() {
    let said = |text: &str| {
        let settings = load(WHOLE, &[&format!("--connect-timeout={text}")])?;
        Ok::<_, String>(settings.outbound.connect_timeout)
    };
    assert_eq!(said("10ms"), Ok(Duration::from_millis(10)));
    assert_eq!(said("60s"), Ok(Duration::from_secs(60)));
    for wrong in ["0s", "9ms", "61s"] {
        let message = said(wrong).expect_err(wrong);
        assert!(message.contains("outbound.connectTimeout") && message.contains("10ms and 60s"), "{message}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let flags = Flags { config: Some("/does/not/exist.yaml".into()), ..Flags::default() };
    let message = Settings::load(flags).unwrap_err().to_string();
    assert!(
        message.starts_with("the settings file /does/not/exist.yaml (--config) cannot be read"),
        "{message}"
    );
}

#[test]
fn the_same_port_collides_only_where_both_cannot_be_bound() {
    let collides = |one: &str, other: &str| collide(one.parse().unwrap(), other.parse().unwrap());
    assert!(collides("127.0.0.1:80", "127.0.0.1:80"));
    assert!(collides("0.0.0.0:80", "127.0.0.1:80"));
    assert!(collides("127.0.0.1:80", "[::]:80"));
    assert!(collides("[::ffff:127.0.0.1]:80", "127.0.0.1:80"));
    assert!(!collides("127.0.0.1:80", "127.0.0.2:80"));
    assert!(!collides("127.0.0.1:80", "[::1]:80"));
    assert!(!collides("0.0.0.0:80", "[::1]:80"));
    assert!(!collides("127.0.0.1:0", "127.0.0.1:0"));
}

/// A whole file of the transparent mode.
const TRANSPARENT: &str = "
workload: shop/cart-1
control: { address: 127.0.0.1:15010, roots: roots.pem }
capture: { mode: transparent, install: other }
rules:
  bypass: mark:0x77
  lines: [exclude port 5432]
";

#[test]
fn transparent_capture_has_its_own_ports_and_no_http_proxy_unless_asked_for() {
    let settings = load(TRANSPARENT, &[]).unwrap();
    let capture = settings.capture.as_ref().unwrap();
    assert_eq!(capture.installer, Installer::Other);
    assert_eq!(capture.rules.settings().lines.len(), 1);
    assert_eq!(settings.control.bypass, Some(Bypass::Mark(0x77)));
    assert_eq!(settings.outbound.listen, None);
    let listeners: Vec<_> = settings.listeners().iter().map(|(_, address)| address.to_string()).collect();
    assert_eq!(listeners, ["127.0.0.1:15001", "[::1]:15001", "[::]:15006", "[::]:15020", "127.0.0.1:15000"]);
    let settings = load(TRANSPARENT, &["--outbound-listen=127.0.0.1:3128", "--bypass=uid:7"]).unwrap();
    assert_eq!(settings.outbound.listen, "127.0.0.1:3128".parse().ok());
    assert_eq!(settings.control.bypass, Some(Bypass::User(7)));
    // The section may be there for `weft-proxy rules` alone.
    let settings = load(TRANSPARENT, &["--capture=explicit"]).unwrap();
    assert!(settings.capture.is_none() && settings.control.bypass.is_none());
}

#[test]
fn transparent_capture_that_cannot_work_is_refused_with_the_remedy() {
    for (flags, said) in [
        (&["--inbound=127.0.1.1:8080=127.0.0.1:3000"][..], "leave `inbound` out"),
        (&["--metrics-listen=[::]:9999"], "ownPorts: [9999]"),
        (&["--outbound-listen=127.0.0.1:15001"], "collides with outbound.listen"),
        (&["--inbound-port=15001"], "both 15001"),
        (&["--capture=tproxy"], "neither `explicit` nor `transparent`"),
        (&["--capture-install=me"], "neither `itself`"),
    ] {
        let error = load(TRANSPARENT, flags).unwrap_err();
        assert!(error.contains(said), "{flags:?}: {error}");
    }
    assert!(load(TRANSPARENT, &["--metrics-listen=127.0.0.1:9999"]).is_ok());
    assert!(load(TRANSPARENT, &["--metrics-listen=[::]:9999", "--own-port=9999,15021"]).is_ok());
}
