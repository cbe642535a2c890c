//! Cases whose answer Istio's documentation or its own tests state. Each says where.

use super::reference::{Http, Policy, Request};
use serde_json::{Value, json};

pub(crate) struct Case {
    /// What is stated, and where.
    pub(crate) says: &'static str,
    pub(crate) policies: Vec<Policy>,
    /// Requests, and whether they pass.
    pub(crate) requests: Vec<(Request, bool)>,
}

fn case(says: &'static str, policies: &[Value], requests: Vec<(Request, bool)>) -> Case {
    let policy = |spec: &Value| Policy { spec: spec.clone(), dry_run: false };
    Case { says, policies: policies.iter().map(policy).collect(), requests }
}

fn get(path: &str) -> Request {
    send("GET", path)
}

fn send(method: &str, path: &str) -> Request {
    let http = Http {
        method: method.to_owned(),
        authority: "httpbin.foo:8000".to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
        claims: None,
    };
    Request { http: Some(http), ..tcp(8080) }
}

fn tcp(port: u16) -> Request {
    Request {
        principal: Some("cluster.local/ns/default/sa/curl".to_owned()),
        source_ip: "10.1.2.3".to_owned(),
        remote_ip: Some("10.1.2.3".to_owned()),
        destination_ip: "10.9.9.9".to_owned(),
        port,
        sni: None,
        http: None,
    }
}

fn of(principal: &str, request: Request) -> Request {
    Request { principal: Some(principal.to_owned()), ..request }
}

fn plaintext(request: Request) -> Request {
    Request { principal: None, ..request }
}

fn from(address: &str, original: &str, request: Request) -> Request {
    Request { source_ip: address.to_owned(), remote_ip: Some(original.to_owned()), ..request }
}

fn to_host(host: &str, mut request: Request) -> Request {
    if let Some(http) = &mut request.http {
        http.authority = host.to_owned();
    }
    request
}

fn with_header(name: &str, value: &str, mut request: Request) -> Request {
    if let Some(http) = &mut request.http {
        http.headers.push((name.to_owned(), value.to_owned()));
    }
    request
}

fn with_token(claims: Value, mut request: Request) -> Request {
    if let Some(http) = &mut request.http {
        http.claims = Some(claims);
    }
    request
}

fn operation(spec: Value) -> Value {
    json!([{"to": [{"operation": spec}]}])
}

fn source(spec: Value) -> Value {
    json!([{"from": [{"source": spec}]}])
}

pub(crate) fn cases() -> Vec<Case> {
    let mut all = order();
    all.extend(sources());
    all.extend(operations());
    all.extend(conditions());
    all.extend(opaque());
    all
}

fn order() -> Vec<Case> {
    let allow_all = json!({"action": "ALLOW", "rules": [{}]});
    let deny_post = json!({"action": "DENY", "rules": operation(json!({"methods": ["POST"]}))});
    vec![
        case("authorization-policy: no ALLOW policies for the workload: allow", &[], vec![(get("/"), true)]),
        case("authorization-policy: allow-nothing matches nothing", &[json!({})], vec![(get("/"), false)]),
        case(
            "authorization-policy: allow-all, rules: - {}",
            std::slice::from_ref(&allow_all),
            vec![(get("/"), true), (tcp(1), true)],
        ),
        case(
            "authorization-policy: deny-all, action DENY and rules: - {}",
            &[json!({"action": "DENY", "rules": [{}]})],
            vec![(get("/"), false), (tcp(8080), false)],
        ),
        case(
            "authorization-policy: any DENY policy that matches denies, before ALLOW",
            &[allow_all.clone(), deny_post.clone()],
            vec![(send("POST", "/"), false), (get("/"), true)],
        ),
        case(
            "authorization-policy: if any of the ALLOW policies match, allow",
            &[json!({}), allow_all.clone()],
            vec![(get("/"), true)],
        ),
        case(
            "authorization-policy: no DENY policy matches and there is no ALLOW policy: allow",
            &[deny_post],
            vec![(get("/"), true)],
        ),
        case(
            "authorization-policy: AUDIT does not affect whether requests are allowed or denied",
            &[json!({"action": "AUDIT", "rules": [{}]})],
            vec![(get("/"), true), (tcp(8080), true)],
        ),
        Case {
            says: "tasks/security/authz-dry-run: the policy is in dry-run mode and not enforced",
            policies: vec![Policy { spec: json!({"action": "DENY", "rules": [{}]}), dry_run: true }],
            requests: vec![(get("/"), true)],
        },
        case(
            "authorization-policy: rules are joined by OR",
            &[json!({"rules": [
                {"to": [{"operation": {"methods": ["GET"]}}]},
                {"to": [{"operation": {"paths": ["/data"]}}]},
            ]})],
            vec![(get("/x"), true), (send("POST", "/data"), true), (send("POST", "/x"), false)],
        ),
    ]
}

fn sources() -> Vec<Case> {
    let httpbin = json!({"action": "ALLOW", "rules": [{
        "from": [
            {"source": {"principals": ["cluster.local/ns/default/sa/curl"]}},
            {"source": {"namespaces": ["test"]}},
        ],
        "to": [
            {"operation": {"methods": ["GET"], "paths": ["/info*"]}},
            {"operation": {"methods": ["POST"], "paths": ["/data"]}},
        ],
        "when": [{"key": "request.auth.claims[iss]", "values": ["https://accounts.google.com"]}],
    }]});
    let token = |request| with_token(json!({"iss": "https://accounts.google.com", "sub": "x"}), request);
    let tester = "cluster.local/ns/test/sa/tester";
    let other = "cluster.local/ns/other/sa/curl";
    vec![
        case(
            "authorization-policy: the example httpbin, its sources, operations and condition",
            &[httpbin],
            vec![
                (token(get("/info")), true),
                (token(get("/info/x")), true),
                (token(send("POST", "/data")), true),
                (of(tester, token(send("POST", "/data"))), true),
                (token(send("POST", "/info")), false),
                (token(get("/data")), false),
                (of(other, token(get("/info"))), false),
                (get("/info"), false),
                (with_token(json!({"iss": "https://evil.example"}), get("/info")), false),
            ],
        ),
        case(
            "authorization-policy: DENY requests from namespaces that are not foo",
            &[json!({"action": "DENY", "rules": source(json!({"notNamespaces": ["foo"]}))})],
            vec![
                (of("cluster.local/ns/foo/sa/x", get("/")), true),
                (of("cluster.local/ns/bar/sa/x", get("/")), false),
                (plaintext(get("/")), false),
            ],
        ),
        case(
            "concepts/security: principals and namespaces need mutual TLS",
            &[json!({"rules": source(json!({"principals": ["*"]}))})],
            vec![(get("/"), true), (plaintext(get("/")), false)],
        ),
        case(
            "authorization-policy: fields of a source are joined by AND",
            &[json!({"rules": source(json!({"namespaces": ["default"], "ipBlocks": ["10.0.0.0/8"]}))})],
            vec![(get("/"), true), (from("192.168.0.1", "10.1.2.3", get("/")), false)],
        ),
        case(
            "authorization-policy: ipBlocks is the address of the packet, remoteIpBlocks the original client's",
            &[json!({"rules": source(json!({"remoteIpBlocks": ["1.2.3.4", "5.6.7.0/24"]}))})],
            vec![
                (from("10.0.0.1", "1.2.3.4", get("/")), true),
                (from("10.0.0.1", "5.6.7.8", get("/")), true),
                (from("1.2.3.4", "10.0.0.1", get("/")), false),
            ],
        ),
        case(
            "authorization-policy: serviceAccounts, with the policy's namespace where none is given",
            &[json!({"rules": source(json!({"serviceAccounts": ["tester", "default/curl"]}))})],
            vec![
                (get("/"), true),
                (of("cluster.local/ns/foo/sa/tester", get("/")), true),
                (of("other.domain/ns/foo/sa/tester", get("/")), true),
                (of("cluster.local/ns/bar/sa/tester", get("/")), false),
                (of("cluster.local/ns/foo/sa/tester2", get("/")), false),
            ],
        ),
        case(
            "tasks/authz-jwt: requestPrincipals, ISSUER/SUBJECT",
            &[
                json!({"rules": source(json!({"requestPrincipals": ["testing@secure.istio.io/testing@secure.istio.io"]}))}),
            ],
            vec![
                (
                    with_token(
                        json!({"iss": "testing@secure.istio.io", "sub": "testing@secure.istio.io"}),
                        get("/"),
                    ),
                    true,
                ),
                (with_token(json!({"iss": "testing@secure.istio.io", "sub": "other"}), get("/")), false),
                (get("/"), false),
            ],
        ),
        case(
            "pilot generator: requestPrincipals are matched as issuer and subject, parted at the last slash",
            &[json!({"rules": source(json!({"requestPrincipals": ["https://accounts.google.com/*"]}))})],
            vec![
                (with_token(json!({"iss": "https://accounts.google.com", "sub": "a"}), get("/")), true),
                (with_token(json!({"iss": "https://accounts.google.com/evil", "sub": "a"}), get("/")), false),
                (with_token(json!({"iss": "https://accounts.google.com"}), get("/")), false),
            ],
        ),
    ]
}

fn operations() -> Vec<Case> {
    vec![
        case(
            "authorization-policy: exact, prefix, suffix and presence match",
            &[json!({"rules": operation(json!({"paths": ["/exact", "/test/*", "*/info"]}))})],
            vec![
                (get("/exact"), true),
                (get("/exact/"), false),
                (get("/test/x/y"), true),
                (get("/test"), false),
                (get("/x/info"), true),
                (get("/x/info/y"), false),
            ],
        ),
        case(
            "tasks/authz-jwt and concepts/security: notPaths excludes a path from what needs a token",
            &[json!({"rules": [{
                "from": [{"source": {"requestPrincipals": ["*"]}}], "to": [{"operation": {"notPaths": ["/healthz"]}}],
            }, {"to": [{"operation": {"paths": ["/healthz"]}}]}]})],
            vec![
                (get("/healthz"), true),
                (get("/x"), false),
                (with_token(json!({"iss": "a", "sub": "b"}), get("/x")), true),
            ],
        ),
        case(
            "authorization-policy: hosts are matched without case",
            &[json!({"rules": operation(json!({"hosts": ["HttpBin.foo", "*.example.com"]}))})],
            vec![
                (to_host("httpbin.foo", get("/")), true),
                (to_host("HTTPBIN.FOO", get("/")), true),
                (to_host("a.EXAMPLE.com", get("/")), true),
                (to_host("example.com", get("/")), false),
            ],
        ),
        case(
            "authorization-policy: a path template's {*} is one segment",
            &[json!({"rules": operation(json!({"paths": ["/foo/{*}"]}))})],
            vec![(get("/foo/bar"), true), (get("/foo/bar/baz"), false), (get("/foo"), false)],
        ),
        case(
            "authorization-policy: /foo/{**}/ matches /foo/bar/ and /foo// but not /foo/bar",
            &[json!({"rules": operation(json!({"paths": ["/foo/{**}/"]}))})],
            vec![(get("/foo/bar/"), true), (get("/foo//"), true), (get("/foo/bar"), false)],
        ),
        case(
            "authorization-policy: /foo/{*}/bar/{**} matches /foo/buzz/bar/ and /foo/buzz/bar/baz",
            &[json!({"rules": operation(json!({"paths": ["/foo/{*}/bar/{**}"]}))})],
            vec![
                (get("/foo/buzz/bar/"), true),
                (get("/foo/buzz/bar/baz"), true),
                (get("/foo/buzz/fizz/bar/x"), false),
            ],
        ),
        case(
            "authorization-policy: fields of an operation are joined by AND, values by OR",
            &[json!({"rules": operation(json!({"methods": ["GET", "HEAD"], "ports": ["8080"]}))})],
            vec![
                (get("/"), true),
                (send("HEAD", "/"), true),
                (send("POST", "/"), false),
                (Request { port: 9000, ..get("/") }, false),
            ],
        ),
        case(
            "authorization-policy: notMethods and notPorts",
            &[
                json!({"action": "DENY", "rules": operation(json!({"notMethods": ["GET"], "notPorts": ["9000"]}))}),
            ],
            vec![
                (get("/"), true),
                (send("POST", "/"), false),
                (Request { port: 9000, ..send("POST", "/") }, true),
            ],
        ),
    ]
}

fn conditions() -> Vec<Case> {
    let when = |key: &str, values: &str, value: Value| json!([{"when": [{"key": key, values: value}]}]);
    let groups = |groups: Value| with_token(json!({"iss": "a", "sub": "b", "groups": groups}), get("/"));
    vec![
        case(
            "tasks/authz-jwt: request.auth.claims[groups], a list of which one is enough",
            &[json!({"rules": when("request.auth.claims[groups]", "values", json!(["group1"]))})],
            vec![
                (groups(json!(["group1", "group2"])), true),
                (groups(json!(["group2"])), false),
                (groups(json!("group1")), true),
                (get("/"), false),
            ],
        ),
        case(
            "conditions: nested claims, request.auth.claims[a][b]",
            &[json!({"rules": when("request.auth.claims[realm][roles]", "values", json!(["admin"]))})],
            vec![
                (with_token(json!({"iss": "a", "realm": {"roles": ["dev", "admin"]}}), get("/")), true),
                (with_token(json!({"iss": "a", "roles": ["admin"]}), get("/")), false),
            ],
        ),
        case(
            "conditions: request.headers[User-Agent] with Mozilla/*",
            &[json!({"rules": when("request.headers[User-Agent]", "values", json!(["Mozilla/*"]))})],
            vec![
                (with_header("user-agent", "Mozilla/5.0 (X11, Linux)", get("/")), true),
                (with_header("user-agent", "curl/8", get("/")), false),
                (get("/"), false),
            ],
        ),
        case(
            "authorization-policy: notValues is a list of negative matches",
            &[json!({"action": "DENY", "rules": when("source.ip", "notValues", json!(["10.1.0.0/16"]))})],
            vec![(get("/"), true), (from("10.2.0.1", "10.2.0.1", get("/")), false)],
        ),
        case(
            "conditions: source.namespace, source.principal, destination.port, connection.sni",
            &[json!({"rules": [{"when": [
                {"key": "source.namespace", "values": ["default"]},
                {"key": "source.principal", "values": ["*/sa/curl"]},
                {"key": "destination.port", "values": ["8080"]},
                {"key": "connection.sni", "values": ["www.example.com"]},
            ]}]})],
            vec![
                (Request { sni: Some("www.example.com".to_owned()), ..get("/") }, true),
                (Request { sni: Some("www.example.com".to_owned()), ..tcp(8080) }, true),
                (get("/"), false),
            ],
        ),
    ]
}

fn opaque() -> Vec<Case> {
    let ports = |action: &str, spec: Value| json!({"action": action, "rules": operation(spec)});
    vec![
        case(
            "tasks/authz-tcp: an ALLOW policy for ports 9000 and 9001",
            &[ports("ALLOW", json!({"ports": ["9000", "9001"]}))],
            vec![(tcp(9000), true), (tcp(9001), true), (tcp(9002), false)],
        ),
        case(
            "tasks/authz-tcp: the rule became invalid with an HTTP-only field, and Istio ignores the ALLOW rule",
            &[json!({"rules": [{"to": [{"operation": {"methods": ["GET"], "ports": ["9000"]}}]}]})],
            vec![(tcp(9000), false), (Request { port: 9000, ..get("/") }, true)],
        ),
        case(
            "tasks/authz-tcp: Istio ignores the HTTP-only fields of a DENY rule, and matches by the ports",
            &[ports("DENY", json!({"methods": ["GET"], "ports": ["9000"]}))],
            vec![(tcp(9000), false), (tcp(9001), true)],
        ),
        case(
            "pilot model: an ALLOW rule is dropped whole, whichever operation needs HTTP",
            &[json!({"rules": [{"to": [
                {"operation": {"paths": ["/x"]}}, {"operation": {"ports": ["9000"]}},
            ]}]})],
            vec![(tcp(9000), false)],
        ),
        case(
            "pilot model: for DENY an excluded HTTP-only value is ignored as well",
            &[ports("DENY", json!({"notPaths": ["/ok"], "ports": ["9000"]}))],
            vec![(tcp(9000), false), (tcp(9001), true)],
        ),
        case(
            "conditions: remote.ip and source.ip hold for HTTP and TCP",
            &[json!({"rules": [{"when": [{"key": "remote.ip", "values": ["10.1.2.3"]}]}]})],
            vec![(tcp(9000), true), (from("10.1.2.4", "10.1.2.4", tcp(9000)), false)],
        ),
    ]
}
