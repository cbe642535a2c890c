//! What goes over the wire comes back equal, and what is not understood is refused.

use super::*;
use crate::authentication::{PolicyScope, TlsMode};
use crate::authorization::{
    Action, Clause, Condition, Operation, RequestPrincipal, Rule, ServiceAccount, Source,
};
use crate::cors::{Cors, Listed, OriginMatch};
use crate::endpoints::{Endpoint, Health, Wire};
use crate::jwks::{Jwk, KeyMaterial};
use crate::mesh::OutboundTraffic;
use crate::names::ServiceName;
use crate::probe::{Check, GrpcCheck, HttpCheck, PROBES_MAX, Probe};
use crate::request_authentication::{ClaimHeader, JwtRule, KeySource, TokenPlace};
use crate::route::{
    Backend, Filter, Fraction, HeaderEdit, Mirror, PathEdit, PathMatch, Pattern, Redirect, RetryPolicy,
    Rewrite, RouteMatch,
};
use crate::route::{RouteKind, RouteRule, SessionCarrier, SessionPersistence, ValueMatch};
use crate::service::{Protocol, ServicePort, ServiceTarget};
use crate::string_match::{PathTemplate, StringMatch};
use crate::token::Algorithm;
use crate::traffic::{
    self, Abort, Connections, Delay, Ejection, FailureKind, Fault, HashOn, LoadBalancing, Traffic,
    TrafficKind, ZonePreference,
};
use crate::workload::WorkloadPort;
use std::collections::BTreeMap;
use std::time::Duration;

fn cart() -> ServiceName {
    "shop/cart".parse().unwrap()
}

fn texts() -> Clause<StringMatch> {
    Clause {
        any: vec![
            StringMatch::Exact("a".into()),
            StringMatch::Prefix("b".into()),
            StringMatch::Suffix("c".into()),
            StringMatch::Presence,
            StringMatch::Template(PathTemplate::parse("/x/{*}").unwrap()),
        ],
        not: vec![StringMatch::Exact("d".into())],
    }
}

fn nets() -> Clause<ipnet::IpNet> {
    Clause { any: vec!["10.0.0.0/8".parse().unwrap()], not: vec!["fd00::/8".parse().unwrap()] }
}

fn traffic_policy() -> TrafficPolicy {
    TrafficPolicy {
        kind: TrafficKind::Gateway,
        namespace: "shop".parse().unwrap(),
        name: "cart".parse().unwrap(),
        traffic: Arc::new(Traffic {
            load_balancing: LoadBalancing {
                algorithm: traffic::Algorithm::ConsistentHash,
                hash: Some(HashOn::Header("x-user".into())),
                slow_start: Duration::from_secs(30),
                zone: ZonePreference::Prefer,
            },
            connections: Connections {
                in_flight_max: Some(9),
                connections_max: Some(11),
                wait: Duration::from_secs(20),
                pending_max: 8,
                pending_bytes_max: 7,
            },
            ejection: Ejection {
                counts: FailureKind::ServerErrors,
                consecutive: 3,
                success_rate_min: 70,
                window: Duration::from_secs(5),
                requests_min: 7,
                base_time: Duration::from_millis(1500),
                max_time: Duration::from_secs(60),
                max_percent: 30,
            },
            retry_budget: Some(traffic::RetryBudget {
                percent: 10,
                interval: Duration::from_secs(5),
                floor: 1,
            }),
            rate_limits: vec![traffic::RateLimit {
                name: "orders".into(),
                requests: 10,
                interval: Duration::from_secs(2),
                burst: 3,
                per: traffic::Per::Client,
                methods: vec![StringMatch::Exact("POST".into())],
                paths: vec![StringMatch::Prefix("/orders".into())],
            }],
            concurrency: Some(traffic::Concurrency {
                min: 1,
                max: 9,
                queue: 4,
                wait: Duration::from_millis(7),
            }),
            session: route().rules[0].session.clone(),
            faults: vec![Fault {
                principals: vec!["spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()],
                namespaces: vec!["shop".into()],
                methods: vec![http::Method::GET],
                path: Some(PathMatch::prefix("/a")),
                headers: vec![("x-a".parse().unwrap(), ValueMatch::Exact("1".into()))],
                delay: Some(Delay { time: Duration::from_secs(2), share: Fraction::ALL }),
                abort: Some(Abort {
                    status: Some(http::StatusCode::SERVICE_UNAVAILABLE),
                    grpc_status: None,
                    share: Fraction { numerator: 1, denominator: 100 },
                }),
                expires: 2_000_000_000,
            }],
        }),
        provenance: Provenance { file: "traffic.yaml".into(), line: 3 },
    }
}

fn authorization() -> Authorization {
    let ports = Clause { any: vec![80], not: vec![81] };
    let account = ServiceAccount { namespace: "shop".parse().unwrap(), name: "web".parse().unwrap() };
    let accounts = Clause { any: vec![account.clone()], not: vec![account] };
    let principal = |text| RequestPrincipal::parse(text).unwrap();
    let principals = Clause { any: vec![principal("https://a/*")], not: vec![principal("*a/b")] };
    Authorization {
        namespace: "shop".parse().unwrap(),
        name: "cart".parse().unwrap(),
        action: Action::Deny,
        dry_run: true,
        provider: None,
        rules: vec![Rule {
            sources: vec![Source {
                principals: texts(),
                namespaces: texts(),
                service_accounts: accounts.clone(),
                ip_blocks: nets(),
                remote_ip_blocks: nets(),
                request_principals: principals.clone(),
            }],
            operations: vec![Operation {
                hosts: texts(),
                ports: ports.clone(),
                methods: texts(),
                paths: texts(),
            }],
            conditions: vec![
                Condition::RequestHeader("x-a".into(), texts()),
                Condition::SourcePrincipal(texts()),
                Condition::SourceNamespace(texts()),
                Condition::SourceServiceAccount(accounts),
                Condition::RequestPrincipal(principals),
                Condition::RequestClaim(["realm".into(), "roles".into()].into(), texts()),
                Condition::ConnectionSni(texts()),
                Condition::SourceIp(nets()),
                Condition::RemoteIp(nets()),
                Condition::DestinationIp(nets()),
                Condition::DestinationPort(ports),
            ],
            provenance: Provenance { file: "a.yaml".into(), line: 7 },
        }],
        provenance: Provenance { file: "a.yaml".into(), line: 1 },
    }
}

fn route() -> Route {
    let edit = HeaderEdit {
        set: vec![("x-a".parse().unwrap(), "1".parse().unwrap())],
        add: vec![("x-b".parse().unwrap(), "2".parse().unwrap())],
        remove: vec!["x-c".parse().unwrap()],
    };
    Route {
        kind: RouteKind::Http,
        namespace: "shop".parse().unwrap(),
        name: "cart".parse().unwrap(),
        created: Some(1_700_000_000),
        server_names: vec!["a.shop.example".into(), "*.shop.example".into()],
        rules: vec![RouteRule {
            name: "all".into(),
            matches: vec![
                RouteMatch {
                    path: PathMatch::Regex(Pattern::new("/a.*").unwrap()),
                    headers: vec![("x-a".parse().unwrap(), ValueMatch::Exact("1".into()))],
                    queries: vec![("q".into(), ValueMatch::Regex(Pattern::new("a+").unwrap()))],
                    method: Some(http::Method::GET),
                },
                RouteMatch {
                    path: PathMatch::Rpc {
                        service: Some(ValueMatch::Exact("shop.Cart".into())),
                        method: None,
                    },
                    headers: vec![],
                    queries: vec![],
                    method: None,
                },
            ],
            filters: vec![
                Filter::RequestHeaders(edit.clone()),
                Filter::ResponseHeaders(edit),
                Filter::Redirect(Redirect {
                    scheme: Some("https".into()),
                    hostname: None,
                    port: Some(443),
                    path: Some(PathEdit::Full("/x".into())),
                    status: http::StatusCode::FOUND,
                }),
                Filter::Rewrite(Rewrite {
                    hostname: Some("a".into()),
                    path: Some(PathEdit::Prefix("/b".into())),
                }),
                Filter::Cors(Cors {
                    origins: ["https://a", "https://*.b:8443"]
                        .map(|text| OriginMatch::parse(text).unwrap())
                        .into(),
                    credentials: true,
                    methods: Listed::Any,
                    headers: Listed::Names(vec!["x-a".into()]),
                    expose: Listed::default(),
                    max_age: Duration::from_secs(5),
                }),
                Filter::Mirror(Mirror {
                    service: Some((cart(), 80)),
                    share: Fraction { numerator: 1, denominator: 1000 },
                }),
            ],
            backends: vec![
                Backend { service: Some((cart(), 80)), weight: 9, filters: vec![] },
                Backend { service: None, weight: 1, filters: vec![] },
            ],
            request_timeout: Some(Duration::ZERO),
            backend_request_timeout: Some(Duration::from_millis(5)),
            retry: Some(RetryPolicy {
                codes: vec![500, 503],
                attempts: 2,
                backoff: Duration::from_millis(25),
            }),
            session: Some(SessionPersistence {
                carrier: SessionCarrier::PermanentCookie,
                name: "JSESSIONID".into(),
                absolute_timeout: Some(Duration::from_secs(3600)),
                idle_timeout: None,
            }),
            provenance: Provenance::default(),
        }],
        provenance: Provenance::default(),
    }
}

fn endpoints() -> Endpoints {
    let description = Arc::new(Description { workload: "cart".into(), ..Description::default() });
    let endpoint = |uid: &str, wire| Endpoint {
        uid: uid.parse().unwrap(),
        address: "127.0.0.1:80".parse().unwrap(),
        wire,
        weight: 1,
        zone: "a".into(),
        health: Health::Ready,
        description: description.clone(),
    };
    Endpoints {
        target: ServiceTarget::Service(cart()),
        port: 80,
        slice: 0,
        endpoints: vec![
            endpoint("shop/cart-1", Wire::Weft("spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap())),
            endpoint("shop/cart-2", Wire::Plain),
        ],
    }
}

fn probes() -> Vec<Probe> {
    let http = |path, authority, fields: &[_]| Check::Http(HttpCheck::new(path, authority, fields).unwrap());
    let checks = [
        http("/healthz?full=1", None, &[]),
        http("/", Some("health.example"), &[("x-probe", "1"), ("x-probe", "2")]),
        Check::Https,
        Check::Grpc(GrpcCheck::new("shop.Cart").unwrap()),
        Check::Tcp,
    ];
    checks.into_iter().map(|check| Probe { port: 8080, check }).collect()
}

fn request_authentication() -> RequestAuthentication {
    let point = |length: usize| [&[4][..], &vec![7; length - 1]].concat().into();
    let key = |material, algorithm| Jwk { id: Some("one".into()), algorithm, material };
    let keys = [
        key(KeyMaterial::rsa(&[0xff; 256], &[1, 0, 1]).unwrap(), Some(Algorithm::Ps256)),
        key(KeyMaterial::P256(point(65)), None),
        key(KeyMaterial::P384(point(97)), Some(Algorithm::Es384)),
        key(KeyMaterial::P521(point(133)), Some(Algorithm::Es512)),
        Jwk { id: None, ..key(KeyMaterial::Ed25519([9; 32].into()), Some(Algorithm::EdDsa)) },
    ];
    let rule = JwtRule {
        issuer: "https://id.example".into(),
        audiences: vec!["a".into()],
        keys: Some(keys.into()),
        key_source: None,
        places: vec![
            TokenPlace::Header { name: "x-token".into(), prefix: "Bearer ".into() },
            TokenPlace::Query("q".into()),
            TokenPlace::Cookie("c".into()),
        ],
        forward: true,
        payload_header: Some("x-payload".into()),
        claim_headers: vec![ClaimHeader { header: "x-group".into(), claim: "a.b".into() }],
        space_delimited: ["scope".into()].into(),
    };
    let source = KeySource { uri: "https://id.example/keys".into(), timeout: Duration::from_secs(5) };
    let unresolved = JwtRule { keys: None, key_source: Some(source), payload_header: None, ..rule.clone() };
    RequestAuthentication {
        namespace: "shop".parse().unwrap(),
        name: "jwt".parse().unwrap(),
        rules: vec![rule, unresolved],
        provenance: Provenance { file: "a.yaml".into(), line: 3 },
    }
}

fn all() -> Vec<Resource> {
    let names = |text: &str| vec![text.parse().unwrap()];
    vec![
        Resource::TrustBundle(Arc::new(TrustBundle {
            trust_domain: "cluster.local".parse().unwrap(),
            roots: vec![vec![1, 2]],
        })),
        Resource::MeshConfig(Arc::new(MeshConfig {
            cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            node_cidrs: vec!["192.0.2.0/24".parse().unwrap()],
            request_timeout_default: Some(Duration::from_secs(1)),
            outbound_traffic: OutboundTraffic::RegistryOnly,
            path_normalization: crate::path::Normalization::MergeSlashes,
            extension_providers: vec![crate::mesh::ExtensionProvider {
                name: "authorizer".into(),
                service: cart(),
                port: 9000,
                timeout: Duration::from_millis(500),
                fail_open: true,
                status_on_error: 503,
                body: Some(crate::mesh::BodyInCheck {
                    bytes_max: 8192,
                    allow_partial: true,
                    as_bytes: false,
                }),
            }],
            ..MeshConfig::default()
        })),
        Resource::Authorization(Arc::new(authorization())),
        Resource::PeerAuthentication(Arc::new(PeerAuthentication {
            namespace: "shop".parse().unwrap(),
            name: "default".parse().unwrap(),
            scope: PolicyScope::Workload,
            mode: None,
            ports: BTreeMap::from([(80, Some(TlsMode::Permissive))]),
            provenance: Provenance::default(),
        })),
        Resource::RequestAuthentication(Arc::new(request_authentication())),
        Resource::Workload(Arc::new(Workload {
            uid: "shop/cart-1".parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            service_account: "cart".parse().unwrap(),
            trust_domain: "cluster.local".parse().unwrap(),
            description: Description {
                namespace: "shop".into(),
                service_account: "cart".into(),
                ..Description::default()
            },
            addresses: vec!["127.0.0.1".parse().unwrap()],
            ports: vec![WorkloadPort {
                port: 8080,
                protocol: Protocol::Http,
                services: vec![(cart(), 80)],
                traffic_policies: Vec::new(),
            }],
            authorizations: names("AuthorizationPolicy/shop/cart"),
            peer_authentications: names("PeerAuthentication/shop/default"),
            request_authentications: vec![],
            zone: "a".into(),
            probes: probes(),
        })),
        Resource::Route(Arc::new(route())),
        Resource::TrafficPolicy(Arc::new(traffic_policy())),
        Resource::Endpoints(Arc::new(endpoints())),
        Resource::Service(Arc::new(Service {
            target: ServiceTarget::Service(cart()),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            ports: vec![ServicePort {
                port: 80,
                protocol: Protocol::Grpc,
                name: "grpc".into(),
                routes: names("HTTPRoute/shop/cart"),
            }],
            traffic_policies: names("TrafficPolicy/shop/cart"),
        })),
        Resource::Generation(Arc::new(Generation { epoch: "abc".into(), number: 7 })),
    ]
}

#[test]
fn every_resource_comes_back_equal() {
    let kinds: Vec<Kind> = all().iter().map(Resource::kind).collect();
    assert_eq!(kinds, Kind::ALL);
    for resource in all() {
        let bytes = resource.encode();
        let name = resource.name();
        let back = Resource::decode(resource.kind(), name.as_str(), &bytes).unwrap();
        assert_eq!(back, resource);
        assert_eq!(back.encode(), bytes);
    }
}

#[test]
fn a_resource_under_another_name_is_refused() {
    for resource in all() {
        let refused = Resource::decode(resource.kind(), "other", &resource.encode());
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{:?}", resource.kind());
    }
}

#[test]
fn a_newer_level_or_none_is_not_understood() {
    for resource in all() {
        for level in [0_u64, u64::from(crate::LEVEL) + 1] {
            // Field 1 as a varint, again at the end: the last one counts.
            let mut bytes = resource.encode();
            prost::encoding::encode_key(1, prost::encoding::WireType::Varint, &mut bytes);
            prost::encoding::encode_varint(level, &mut bytes);
            let refused = Resource::decode(resource.kind(), resource.name().as_str(), &bytes);
            assert!(matches!(refused, Err(Refusal::NotUnderstood(_))), "{:?} {level}", resource.kind());
        }
    }
}

#[test]
fn more_tries_than_a_route_may_ask_for_are_invalid() {
    let Resource::Route(route) = all().into_iter().find(|held| held.kind() == Kind::Route).unwrap() else {
        unreachable!()
    };
    let decoded = |attempts| {
        let mut route = (*route).clone();
        let retry = route.rules.iter_mut().find_map(|rule| rule.retry.as_mut());
        retry.expect("a rule that retries").attempts = attempts;
        let resource = Resource::Route(Arc::new(route));
        Resource::decode(Kind::Route, resource.name().as_str(), &resource.encode())
    };
    assert!(decoded(10).is_ok());
    for attempts in [11, 100, u32::MAX] {
        assert!(matches!(decoded(attempts), Err(Refusal::Invalid(_))), "{attempts}");
    }
}

#[test]
fn unknown_enum_values_and_empty_oneofs_are_not_understood() {
    let policy =
        v1::Authorization { needs_level: 1, namespace: "a".into(), name: "b".into(), ..Default::default() };
    let refused = |message: v1::Authorization| {
        matches!(
            Resource::decode(Kind::Authorization, "AuthorizationPolicy/a/b", &message.encode_to_vec()),
            Err(Refusal::NotUnderstood(_))
        )
    };
    for action in [0, 99] {
        assert!(refused(v1::Authorization { action, ..policy.clone() }), "action {action}");
    }
    let rule = |rule| v1::Authorization { action: 1, rules: vec![rule], ..policy.clone() };
    let empty_match = v1::Source { principals: vec![v1::StringMatch { kind: None }], ..Default::default() };
    assert!(refused(rule(v1::AuthorizationRule { sources: vec![empty_match], ..Default::default() })));
    let nothing = v1::AuthorizationRule { sources: vec![v1::Source::default()], ..Default::default() };
    assert!(refused(rule(nothing)), "a source that says nothing matches everybody");
    let nothing = v1::AuthorizationRule { operations: vec![v1::Operation::default()], ..Default::default() };
    assert!(refused(rule(nothing)), "an operation that says nothing matches everything");
    assert!(refused(v1::Authorization { action: 3, dry_run: true, ..policy.clone() }), "AUDIT is no dry run");
    assert!(refused(v1::Authorization { action: 4, dry_run: false, ..policy.clone() }), "CUSTOM by nobody");
    let provided = v1::Authorization { action: 2, provider: "x".to_owned(), ..policy.clone() };
    assert!(refused(provided), "only CUSTOM has a provider");
    let empty_condition = v1::Condition::default();
    assert!(refused(rule(v1::AuthorizationRule { conditions: vec![empty_condition], ..Default::default() })));
}

#[test]
fn a_probe_that_is_not_understood_or_cannot_be_one_refuses_its_workload() {
    let Some(Resource::Workload(workload)) = all().into_iter().find(|one| one.kind() == Kind::Workload)
    else {
        panic!("a workload")
    };
    let decode = |probes: Vec<v1::Probe>| {
        let message = v1::Workload { probes, ..workload::to_wire(&workload) };
        Resource::decode(Kind::Workload, workload.uid.as_str(), &message.encode_to_vec())
    };
    let http = |path: &str| v1::Probe {
        port: 8080,
        check: Some(v1::probe::Check::Http(v1::HttpProbe {
            path_and_query: path.to_owned(),
            ..Default::default()
        })),
    };
    assert!(decode(vec![http("/")]).is_ok());
    assert!(matches!(decode(vec![v1::Probe { port: 8080, check: None }]), Err(Refusal::NotUnderstood(_))));
    assert!(matches!(decode(vec![http("/a/../b")]), Err(Refusal::Invalid(_))));
    assert!(matches!(decode(vec![v1::Probe { port: 0, ..http("/") }]), Err(Refusal::Invalid(_))));
    assert!(matches!(decode(vec![http("/"); PROBES_MAX + 1]), Err(Refusal::Invalid(_))));
}

#[test]
fn bytes_that_are_no_message_are_refused_and_never_panic() {
    for kind in Kind::ALL {
        for bytes in [&[0xff; 16][..], &[8][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f][..]] {
            assert!(Resource::decode(kind, "x", bytes).is_err());
        }
    }
}

#[test]
fn keys_and_places_that_are_not_understood_refuse_the_whole_policy() {
    let good = request_authentication::to_wire(&request_authentication());
    let refused = |edit: &dyn Fn(&mut v1::JwtRule)| {
        let mut message = good.clone();
        edit(&mut message.rules[0]);
        Resource::decode(
            Kind::RequestAuthentication,
            "RequestAuthentication/shop/jwt",
            &message.encode_to_vec(),
        )
        .unwrap_err()
    };
    let key = |rule: &mut v1::JwtRule, edit: fn(&mut v1::Key)| edit(&mut rule.keys.as_mut().unwrap().keys[0]);
    for refusal in [
        refused(&|rule| rule.issuer.clear()),
        refused(&|rule| rule.places.clear()),
        refused(&|rule| rule.places[0].kind = None),
        refused(&|rule| key(rule, |key| key.material = None)),
        refused(&|rule| key(rule, |key| key.algorithm = 0)),
        refused(&|rule| key(rule, |key| key.algorithm = 99)),
    ] {
        assert!(matches!(refusal, Refusal::NotUnderstood(_)), "{refusal:?}");
    }
    for refusal in [
        refused(&|rule| key(rule, |key| key.algorithm = v1::KeyAlgorithm::Es256.into())),
        refused(&|rule| key(rule, |key| key.material = Some(v1::key::Material::Ed25519(vec![1])))),
        refused(&|rule| {
            key(rule, |key| {
                let weak = v1::RsaKey { modulus: vec![0xff; 128], exponent: vec![1, 0, 1] };
                key.material = Some(v1::key::Material::Rsa(weak));
            });
        }),
    ] {
        assert!(matches!(refusal, Refusal::Invalid(_)), "{refusal:?}");
    }
}
