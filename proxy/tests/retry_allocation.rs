//! That a request may be tried again costs no allocation as long as it is not: counted over whole exchanges on
//! real sockets, with a rule that retries and one that does not. A test binary of its own: it counts what its
//! allocator does on the worker's thread; client and application have threads of their own.

// A helper of a test may fail as a test does.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use clap::Parser;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use weft_model::authorization::Provenance;
use weft_model::endpoints::{Endpoint, Health, Wire};
use weft_model::names::{ResourceName, ServiceName};
use weft_model::route::{PathMatch, RetryPolicy, Route, RouteKind, RouteMatch, RouteRule};
use weft_model::route_table::RouteTable;
use weft_model::service::{Protocol, Service, ServicePort, ServiceTarget};
use weft_model::workload::Description;
use weft_proxy::access_log::{AccessLog, Mode};
use weft_proxy::inbound::probe::Probes;
use weft_proxy::metrics::Families;
use weft_proxy::outbound::{Target, serve};
use weft_proxy::overload::Guards;
use weft_proxy::policy::{self, Asked, Destination, DestinationPort, EndpointSet, Policy, Resolution};
use weft_proxy::settings::{Flags, Settings};
use weft_proxy::shared::Shared;
use weft_proxy::spending::Spending;
use weft_proxy::tls::Tls;
use weft_proxy::worker::Worker;
use weft_runtime::readiness::Readiness;
use weft_runtime::registry::Registry;
use weft_runtime::{drain, workers};

const REQUESTS: u64 = 400;

/// What the first requests of a worker allocate more: its first body that is kept, say.
const ONCE: u64 = 16;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Reads to the end of a message, of which each here ends in these bytes.
fn read_message(stream: &mut TcpStream, end: &[u8]) -> bool {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    while !read.ends_with(end) {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => read.extend_from_slice(&buffer[..count]),
            Err(error) => panic!("{error}, and so far: {:?}", String::from_utf8_lossy(&read)),
        }
    }
    true
}

/// An application that answers what ends so.
fn application(end: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while read_message(&mut stream, end) {
            stream.write_all(ANSWER).unwrap();
        }
    });
    address
}

/// A client that sends a request again and again, each after the answer to the one before.
fn client(request: &'static [u8]) -> (TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_nodelay(true).unwrap();
    std::thread::spawn(move || {
        for _ in 0..REQUESTS {
            stream.write_all(request).unwrap();
            assert!(read_message(&mut stream, b"\r\n\r\nok"));
        }
    });
    let (accepted, from) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    (accepted, from)
}

fn route(retry: Option<RetryPolicy>) -> RouteTable {
    let anything = RouteMatch {
        path: PathMatch::Prefix("/".into()),
        headers: Vec::new(),
        queries: Vec::new(),
        method: None,
    };
    let rule = RouteRule {
        name: "".into(),
        matches: vec![anything],
        filters: Vec::new(),
        backends: Vec::new(),
        request_timeout: None,
        backend_request_timeout: None,
        retry,
        session: None,
        provenance: Provenance::default(),
    };
    let route = Route {
        kind: RouteKind::Http,
        namespace: "shop".parse().unwrap(),
        name: "cart".parse().unwrap(),
        created: None,
        server_names: Vec::new(),
        rules: vec![rule],
        provenance: Provenance::default(),
    };
    let name = ResourceName::of("HTTPRoute", &route.namespace, &route.name);
    RouteTable::new([(name, Some(Arc::new(route)))])
}

/// A policy that knows one Service, whose one endpoint is the application.
fn policy(asked: &Asked, application: SocketAddr, retry: Option<RetryPolicy>) -> Policy {
    let name: ServiceName = "shop/cart".parse().unwrap();
    let endpoint = Endpoint {
        uid: "shop/cart-1".parse().unwrap(),
        address: application,
        wire: Wire::Plain,
        weight: 1,
        zone: "".into(),
        health: Health::Ready,
        description: Arc::<Description>::default(),
    };
    let held = ServicePort { port: 80, protocol: Protocol::Http, name: "http".into(), routes: Vec::new() };
    let service = Arc::new(Service {
        target: ServiceTarget::Service(name),
        addresses: Vec::new(),
        ports: vec![held],
        traffic_policies: Vec::new(),
    });
    let port = DestinationPort {
        destination: service.resource_name(),
        service: service.clone(),
        port: 80,
        protocol: Protocol::Http,
        routes: route(retry),
        backends: HashMap::new(),
        endpoints: Arc::new(EndpointSet { endpoints: vec![Arc::new(endpoint)] }),
        traffic: Arc::default(),
        is_backend: false,
        backend_sessions: false,
        unresolved: None,
    };
    let destination = Destination { name: service.resource_name(), service, ports: vec![Arc::new(port)] };
    let mut policy = Policy::default();
    policy.destinations.insert(asked.clone(), Resolution::Known(Arc::new(destination)));
    policy
}

/// What the worker's thread allocates for one connection with so many requests.
fn allocations(request: &'static [u8], end: &'static [u8], retry: Option<RetryPolicy>) -> u64 {
    let flags = Flags::parse_from([
        "weft-proxy",
        "--workload=shop/web-1",
        "--control-address=127.0.0.1:1",
        "--control-roots=/none",
        "--outbound-listen=none",
        "--workers=1",
    ]);
    let settings = Arc::new(Settings::load(flags).unwrap());
    let registry = Registry::new("weft-proxy", "0").unwrap();
    let (publisher, handle, _asked) = policy::channel();
    let asked = Asked::Service("shop/cart".parse().unwrap());
    publisher.publish(policy(&asked, application(end), retry));
    let (readiness, _certificate) = Readiness::new("certificate");
    let (_trigger, watch) = drain::channel();
    let shared = Arc::new(Shared {
        namespace: settings.namespace(),
        policy: handle,
        tls: Arc::new(Tls::new()),
        families: Families::new(&registry).unwrap(),
        registry,
        access_log: AccessLog::to_stdout(Mode::Off).unwrap(),
        told: Default::default(),
        limits: Default::default(),
        drain: watch,
        probes: Probes::default(),
        arrivals: None,
        plaintext_clients: Default::default(),
        budgets: Default::default(),
        guards: Guards::new(Instant::now()),
        spending: Spending::new(Instant::now()),
        readiness,
        admitting: watch::channel(true).1,
        settings,
    });
    let runtime = workers::build_runtime().unwrap();
    let (stream, from) = client(request);
    let counted = allocation_counter::measure(|| {
        runtime.block_on(async {
            let worker = Worker::new(shared);
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            serve(worker, stream, from, Target::Destination { asked, port: 80 }).await;
        });
    });
    counted.count_total
}

#[test]
fn a_request_that_is_not_retried_allocates_nothing_for_being_able_to_be() {
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: cart\r\nX-A: b\r\n\r\n";
    const AT_HAND: &[u8] = b"POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\n\r\nhello";
    const STREAMED: &[u8] =
        b"POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let retry = RetryPolicy { codes: vec![503], attempts: 2, backoff: Duration::from_millis(25) };
    for (request, end) in [(GET, &b"\r\n\r\n"[..]), (AT_HAND, b"hello"), (STREAMED, b"\r\n0\r\n\r\n")] {
        let name = String::from_utf8_lossy(request);
        let without = allocations(request, end, None);
        let with = allocations(request, end, Some(retry.clone()));
        println!("{with} allocations with a rule that retries, {without} without: {name:?}");
        assert!(without > REQUESTS, "the counter counts: {without}");
        assert!(with <= without + ONCE, "{with} allocations, {without} without retries: {name:?}");
    }
}
