//! Two proxies of one process with a fixed policy, between two ports: for profiling the data path
//! without a control API. `pair CLIENT-PORT SERVER-PORT APPLICATION-PORT`; each proxy is one thread.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use weft_model::authorization::{Action, Authorization, AuthorizationSet, Clause, Operation, Rule, Source};
use weft_model::endpoints::{Endpoint, Health, Wire};
use weft_model::route_table::RouteTable;
use weft_model::service::{Protocol, Service, ServicePort, ServiceTarget};
use weft_model::string_match::StringMatch;
use weft_model::trust::TrustBundle;
use weft_model::workload::{Description, Workload, WorkloadPort};
use weft_proxy::access_log::{AccessLog, Mode};
use weft_proxy::metrics::Families;
use weft_proxy::policy::{self, Asked, Destination, DestinationPort, EndpointSet, Own, Policy, Resolution};
use weft_proxy::shared::Shared;
use weft_proxy::tls::{OwnCertificate, Tls};
use weft_proxy::worker::{self, Listeners};
use weft_runtime::{drain, readiness, registry, workers};

fn main() {
    let mut arguments =
        std::env::args().skip(1).map(|text| text.parse::<u16>().expect("ports must be numbers"));
    let mut port = || arguments.next().expect("CLIENT-PORT SERVER-PORT APPLICATION-PORT must be given");
    let (client, server, application) = (port(), port(), port());
    let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let root_key = KeyPair::generate().expect("a key must be made");
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.subject_alt_names =
        vec![SanType::URI("spiffe://cluster.local".try_into().expect("a URI must be ASCII"))];
    let root_certificate = root.self_signed(&root_key).expect("a root must be made");
    let bundle = TrustBundle {
        trust_domain: "cluster.local".parse().expect("a constant must parse"),
        roots: vec![root_certificate.der().to_vec()],
    };
    let issuer = rcgen::Issuer::new(root, root_key);
    let issue = |identity: &str| {
        let key = KeyPair::generate().expect("a key must be made");
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI(identity.try_into().expect("a URI must be ASCII"))];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = leaf.signed_by(&key, &issuer).expect("a certificate must be made");
        let tls = Tls::new();
        let own = OwnCertificate::new(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .expect("a certificate must fit its key");
        tls.set_certificate(own, bundle.clone()).expect("a certificate must be taken");
        Arc::new(tls)
    };
    let workload = |name: &str, port: u16| {
        let service = "shop/cart".parse().expect("a constant must parse");
        Arc::new(Workload {
            uid: format!("shop/{name}").parse().expect("a constant must parse"),
            namespace: "shop".parse().expect("a constant must parse"),
            service_account: name.parse().expect("a constant must parse"),
            trust_domain: "cluster.local".parse().expect("a constant must parse"),
            description: Description::default(),
            addresses: vec![address(port).ip()],
            ports: vec![WorkloadPort {
                port,
                protocol: Protocol::Http,
                services: vec![(service, 80)],
                traffic_policies: Vec::new(),
            }],
            authorizations: vec![],
            peer_authentications: vec![],
            request_authentications: vec![],
            zone: "".into(),
            probes: Vec::new(),
        })
    };
    let own = |workload: Arc<Workload>, authorization: Arc<AuthorizationSet>| {
        Arc::new(Own { workload: Some(workload), authorization, ..Own::default() })
    };
    let allow = Authorization {
        namespace: "shop".parse().expect("a constant must parse"),
        name: "cart".parse().expect("a constant must parse"),
        action: Action::Allow,
        dry_run: false,
        provider: None,
        rules: vec![Rule {
            sources: vec![Source {
                principals: Clause {
                    any: vec![StringMatch::parse("cluster.local/ns/shop/sa/web")],
                    not: vec![],
                },
                ..Source::default()
            }],
            operations: vec![Operation {
                methods: Clause {
                    any: vec![StringMatch::parse("GET"), StringMatch::parse("POST")],
                    not: vec![],
                },
                paths: Clause { any: vec![StringMatch::parse("/*")], not: vec![] },
                ..Operation::default()
            }],
            ..Rule::default()
        }],
        provenance: Default::default(),
    };
    let named = "AuthorizationPolicy/shop/cart".parse().expect("a constant must parse");
    let server_policy = Policy {
        own: own(workload("cart", server), AuthorizationSet::new([(named, Some(Arc::new(allow)))]).into()),
        ..Policy::default()
    };
    let endpoint = Endpoint {
        uid: "shop/cart".parse().expect("a constant must parse"),
        address: address(server),
        wire: Wire::Weft("spiffe://cluster.local/ns/shop/sa/cart".parse().expect("a constant must parse")),
        weight: 1,
        zone: "".into(),
        health: Health::Ready,
        description: Arc::default(),
    };
    let service = Arc::new(Service {
        target: ServiceTarget::Service("shop/cart".parse().expect("a constant must parse")),
        addresses: vec![],
        ports: vec![ServicePort { port: 80, protocol: Protocol::Http, name: "http".into(), routes: vec![] }],
        traffic_policies: vec![],
    });
    let destination = Destination {
        name: service.resource_name(),
        service: service.clone(),
        ports: vec![Arc::new(DestinationPort {
            destination: service.resource_name(),
            service,
            port: 80,
            protocol: Protocol::Http,
            routes: RouteTable::default(),
            backends: HashMap::new(),
            endpoints: Arc::new(EndpointSet { endpoints: vec![Arc::new(endpoint)] }),
            traffic: Arc::default(),
            is_backend: true,
            backend_sessions: false,
            unresolved: None,
        })],
    };
    let asked = Asked::Service("shop/cart".parse().expect("a constant must parse"));
    let client_policy = Policy {
        own: own(workload("web", client), Arc::default()),
        destinations: HashMap::from([(asked, Resolution::Known(Arc::new(destination)))]),
        ..Policy::default()
    };
    let listen = |port| {
        let listener = TcpListener::bind(address(port)).expect("the port must be free");
        listener.set_nonblocking(true).expect("a listener must take the flag");
        listener
    };
    let outbound = Listeners {
        services: vec![("shop/cart".parse().expect("a constant must parse"), 80, listen(client))],
        ..Listeners::default()
    };
    let inbound = Listeners { inbound: vec![(address(application), listen(server))], ..Listeners::default() };
    let settings = Arc::new(weft_proxy::settings::Settings {
        workload: "shop/pair".parse().expect("a constant must parse"),
        control: weft_proxy::settings::ControlSettings {
            address: "127.0.0.1:1".parse().expect("a constant must parse"),
            roots: "/nonexistent".into(),
            spiffe_id: None,
            token: None,
            bypass: None,
        },
        outbound: weft_proxy::settings::OutboundSettings {
            listen: None,
            services: vec![],
            connect_timeout: weft_proxy::pool::DEFAULT_CONNECT_TIMEOUT,
        },
        inbound: vec![],
        capture: None,
        metrics: address(1),
        admin: address(1),
        state: None,
        last_good_age_max: std::time::Duration::MAX,
        workers: NonZeroUsize::MIN,
        admin_socket: None,
        body_timeout: weft_proxy::http::limits::DEFAULT_STALL_TIMEOUT,
        drain_deadline: std::time::Duration::ZERO,
        drain_quiet: std::time::Duration::ZERO,
        exit_when_alone: false,
        startup_timeout: std::time::Duration::ZERO,
        tcp: Default::default(),
        session_resumption: true,
        log: Default::default(),
        access_log: Mode::Errors,
    });
    let start = |name: &str, policy: Policy, tls: Arc<Tls>, listeners: Listeners| {
        let (publisher, handle, asked) = policy::channel();
        publisher.publish(policy);
        let (_, drain) = drain::channel();
        let (readiness, latch) = readiness::Readiness::new("all");
        latch.release();
        // Both live as long as the process.
        std::mem::forget((latch, asked));
        let registry = registry::Registry::new("pair", "0").expect("a registry must be made");
        let shared = Arc::new(Shared {
            namespace: "shop".parse().expect("a constant must parse"),
            policy: handle,
            tls,
            drain,
            arrivals: None,
            readiness,
            probes: Default::default(),
            plaintext_clients: Default::default(),
            budgets: Default::default(),
            guards: weft_proxy::overload::Guards::new(std::time::Instant::now()),
            spending: weft_proxy::spending::Spending::new(std::time::Instant::now()),
            families: Families::new(&registry).expect("families must be made"),
            access_log: AccessLog::to_stdout(Mode::Errors).expect("a thread must start"),
            told: Default::default(),
            limits: Default::default(),
            settings: settings.clone(),
            registry: registry.clone(),
            admitting: tokio::sync::watch::Sender::new(true).subscribe(),
        });
        let listeners = Arc::new(std::sync::Mutex::new(Some(listeners)));
        workers::start(NonZeroUsize::MIN, name, move |index| async move {
            let listeners = listeners.lock().expect("nobody panicked").take().unwrap_or_default();
            worker::run(index, shared, listeners).await;
        })
        .expect("a thread must start")
    };
    let clients = start("client", client_policy, issue("spiffe://cluster.local/ns/shop/sa/web"), outbound);
    let servers = start("server", server_policy, issue("spiffe://cluster.local/ns/shop/sa/cart"), inbound);
    loop {
        std::thread::park();
        let _ = (&clients, &servers);
    }
}
