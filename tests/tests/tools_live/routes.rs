//! Routes and faults of the caller's proxy, and opaque connections: whatever a mesh did with a request is
//! written down as what a case expects, and the command must agree.

use super::Random;
use std::fmt::Write;
use std::fs;
use std::process::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::binaries::binaries;
use weft_tests::client::Request;
use weft_tests::mesh::{Builder, Mesh, Workload, authorization, route};
use weft_tests::speaker::Speaker;
use weft_tests::{process, wait};

/// Sets of routes; each costs the mesh a generation.
const ROUNDS: usize = 16;
/// Requests of each.
const REQUESTS: usize = 16;

const MATCHED: &[&str] = &[
    "{ type: Exact, value: /a }",
    "{ type: Exact, value: /ab }",
    "{ value: /a }",
    "{ value: /a/b }",
    "{ value: /b }",
    "{ type: RegularExpression, value: '/[ab].*' }",
    "{ type: RegularExpression, value: '/a|/b/c' }",
];
const PATHS: &[&str] = &[
    "/a",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/ab",
    "/b",
    "/b/c",
    "/b?x=1",
    "/b?x=2&x=1",
    "/a?y=a%20b",
    "//a",
    "/b/../a",
    "/%61",
    "/a%2fb",
    "/a%2",
    "/",
    "/z",
];
const QUERIES: &[&str] = &[
    "{ name: x, value: '1' }",
    "{ name: y, value: a%20b }",
    "{ name: x, type: RegularExpression, value: '[12]' }",
];
const TEAMS: &[&str] =
    &["{ name: x-team, value: red }", "{ name: x-team, type: RegularExpression, value: 'r.*|blue' }"];
const METHODS: &[&str] = &["GET", "POST", "DELETE"];

// What the rule or fault is for, as the keys of a mapping.
fn matched(random: &mut Random, queries: bool) -> String {
    let mut text = format!("path: {}", random.of(MATCHED));
    if random.below(4) == 0 {
        write!(text, ", headers: [{}]", random.of(TEAMS)).expect("a String");
    }
    if queries && random.below(4) == 0 {
        write!(text, ", queryParams: [{}]", random.of(QUERIES)).expect("a String");
    }
    text
}

fn rule(random: &mut Random, name: &str) -> String {
    let mut matches = matched(random, true);
    if random.below(4) == 0 {
        write!(matches, ", method: {}", random.of(METHODS)).expect("a String");
    }
    if random.below(6) == 0 {
        let to = random.of(&[
            "hostname: other.example, statusCode: 301",
            "path: { type: ReplaceFullPath, replaceFullPath: /moved }",
        ]);
        return format!(
            "{{ matches: [{{ {matches} }}], filters: [{{ type: RequestRedirect, requestRedirect: {{ {to} }} }}] }}"
        );
    }
    let set = format!(
        "{{ type: RequestHeaderModifier, requestHeaderModifier: {{ set: [{{ name: x-rule, value: {name} }}] }} }}"
    );
    let rewrite = random.of(&[
        "",
        "",
        ", { type: URLRewrite, urlRewrite: { path: { type: ReplaceFullPath, replaceFullPath: /new } } }",
        ", { type: URLRewrite, urlRewrite: { hostname: inner.example } }",
    ]);
    let backends = random.of(&[
        "{ name: cart, port: 80 }",
        "{ name: next, port: 80 }",
        "{ name: cart, port: 80, weight: 0 }, { name: next, port: 80, weight: 3 }",
    ]);
    format!("{{ matches: [{{ {matches} }}], filters: [{set}{rewrite}], backendRefs: [{backends}] }}")
}

/// Routes and faults, and by what the round is known.
fn policies(random: &mut Random, round: usize) -> String {
    let marker = format!(
        "{{ matches: [{{ path: {{ type: Exact, value: /round }} }}], filters: [{{ type: ResponseHeaderModifier, responseHeaderModifier: \
         {{ set: [{{ name: x-round, value: '{round}' }}] }} }}], backendRefs: [{{ name: cart, port: 80 }}] }}"
    );
    let mut rules = |route: usize, count: usize| -> Vec<String> {
        (0..count).map(|index| rule(random, &format!("r{round}-{route}-{index}"))).collect()
    };
    let first = [vec![marker], rules(0, 4)].concat();
    let second = rules(1, 2);
    let mut text = route("first", "cart", &format!("[{}]", first.join(", ")));
    write!(text, "---\n{}", route("second", "cart", &format!("[{}]", second.join(", ")))).expect("a String");
    let faults: Vec<_> = (0..random.below(3))
        .map(|_| {
            let mut matches = matched(random, false);
            if random.below(2) == 0 {
                write!(matches, ", methods: [{}]", random.of(METHODS)).expect("a String");
            }
            let caller = random.of(&["web", "web", "other"]);
            let share = random.of(&["", "", ", percent: 0"]);
            format!(
                "{{ match: {{ {matches}, principals: [cluster.local/ns/shop/sa/{caller}] }}, abort: {{ httpStatus: 418{share} }}, \
                 expires: '2099-01-01T00:00:00Z' }}"
            )
        })
        .collect();
    if !faults.is_empty() {
        write!(
            text,
            "---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: cart, namespace: shop }}\nspec:\n  targetRefs: \
             [{{ kind: Service, name: cart }}]\n  faults: [{}]\n",
            faults.join(", ")
        )
        .expect("a String");
    }
    text
}

/// Sends a random request; the case that expects what became of it.
async fn sent(
    random: &mut Random,
    mesh: &Mesh,
    applications: &[Application],
    name: &str,
) -> (String, Option<Reason>) {
    let (method, path) = (random.of(METHODS), random.of(PATHS));
    let teams: Vec<_> = (0..random.below(3)).map(|_| random.of(&["red", "blue", "rose"])).collect();
    let mut request = Request::new(method, &format!("http://cart.shop{path}")).id(name);
    for team in &teams {
        request = request.field("x-team", team);
    }
    if method == "POST" {
        request = request.field("content-length", "0");
    }
    let response = mesh.client("shop/web-1").send(&request).await;
    let expect = match response.reason() {
        Some(reason) => {
            let verdict = if reason == Reason::RouteRedirect { "redirect" } else { "deny" };
            let location = response.field("location").map(|location| format!(", location: '{location}'"));
            let status = response.status();
            format!(
                "verdict: {verdict}, reason: {reason}, status: {status}{}",
                location.unwrap_or_default(),
                reason = reason.label()
            )
        }
        None => {
            let application = response.application();
            let held =
                applications.iter().find(|held| held.count(name) == 1).expect("one application has it");
            let seen = held.request(name);
            let field = |name: &str| seen.field(name).unwrap_or_default().to_owned();
            format!(
                "verdict: allow, backends: ['shop/{application}:80'], sent: {{ path: '{}', host: '{}', headers: {{ x-rule: '{}' }} }}",
                seen.target,
                field("host"),
                field("x-rule")
            )
        }
    };
    let fields = if teams.is_empty() {
        String::new()
    } else {
        format!(", headers: {{ x-team: [{}] }}", teams.join(", "))
    };
    let case = format!(
        "  - {{ name: {name}, from: {{ workload: shop/web-1 }}, to: {{ service: shop/cart }}, request: {{ method: {method}, path: \
         '{path}', host: cart.shop{fields} }}, expect: {{ {expect} }} }}\n"
    );
    (case, response.reason())
}

/// The command must find that all cases hold.
async fn agrees(mesh: &Mesh, cases: &str) {
    let file = mesh.directory().join("cases.yaml");
    let head = "apiVersion: weft.dev/v1alpha1\nkind: PolicyTest\nmetadata: { name: live }\nspec:\n  cases:\n";
    fs::write(&file, format!("{head}{cases}")).expect("a file");
    let mut command = Command::new(&binaries().cli);
    command.arg("test").arg(mesh.policies()).arg(&file);
    let ended = process::run(command).await;
    assert!(ended.status.success(), "{}{}\n{cases}", ended.stdout, ended.stderr);
}

#[tokio::test]
async fn what_a_mesh_does_with_random_requests_by_random_routes_is_what_the_command_says() {
    let applications = [Application::start("cart").await, Application::start("next").await];
    let mesh = Builder::pair(applications[0].address())
        .service("shop/next")
        .workload(Workload::new("shop/next-1").serves(applications[1].address()))
        .start()
        .await;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut reasons = Vec::new();
    for round in 0..ROUNDS {
        let policies = policies(&mut random, round);
        let before = mesh.generation().await;
        mesh.write_policy("random", &policies);
        wait::until("the new routes are enforced", async || {
            let response = mesh.client("shop/web-1").get("http://cart.shop/round").await;
            let status = mesh.status().await;
            let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
            status["generation"] != before.as_str()
                && response.field("x-round") == Some(round.to_string().as_str())
                && proxies
                    .iter()
                    .all(|proxy| proxy["current"] == true && proxy["generation"] == status["generation"])
        })
        .await;
        let mut cases = String::new();
        for index in 0..REQUESTS {
            let (case, reason) = sent(&mut random, &mesh, &applications, &format!("c-{round}-{index}")).await;
            cases += &case;
            reasons.push(reason);
        }
        agrees(&mesh, &cases).await;
    }
    // All of them happen, or the comparison says little.
    for reason in [
        None,
        Some(Reason::RouteNotFound),
        Some(Reason::RouteRedirect),
        Some(Reason::FaultInjected),
        Some(Reason::RequestMalformed),
    ] {
        let count = reasons.iter().filter(|held| **held == reason).count();
        assert!(count >= 5, "{reason:?} {count} times: {reasons:?}");
    }
}

/// Whether bytes that are no request's come back from the server behind a Service.
async fn is_carried(mesh: &Mesh, service: &str) -> bool {
    let address = mesh.client_of("shop/web-1", service).address();
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    // A proxy that refuses may have ended the connection already.
    if stream.write_all(b"\x01\x02\x03 none\r\n\r\n").await.is_err() || stream.shutdown().await.is_err() {
        return false;
    }
    let mut answer = Vec::new();
    let ended = wait::within("an end", stream.read_to_end(&mut answer)).await;
    ended.is_ok() && answer.starts_with(b"\x01\x02\x03 none")
}

#[tokio::test]
async fn opaque_bytes_are_carried_where_the_command_says_so() {
    let (bare, plain) = (Speaker::echo().await, Speaker::echo().await);
    let services = ["bare", "routed", "judged", "declared", "opaque"].map(|name| format!("shop/{name}"));
    let mut web = Workload::new("shop/web-1");
    for service in &services {
        web = web.calls(service, 80);
    }
    let judged = Speaker::echo().await;
    let mesh = Builder::default()
        .service_of("shop/bare", "bare", None)
        .with_protocol("")
        .service_of("shop/routed", "bare", None)
        .with_protocol("")
        .service_of("shop/judged", "judged", None)
        .with_protocol("")
        .service_of("shop/declared", "plain", None)
        .service_of("shop/opaque", "plain", None)
        .with_protocol("tcp")
        .workload(Workload::new("shop/bare-1").serves(bare.address()).protocol(""))
        .workload(Workload::new("shop/judged-1").serves(judged.address()).protocol(""))
        .workload(Workload::new("shop/plain-1").serves(plain.address()).protocol("tcp"))
        .workload(web)
        .policy("routed", &route("routed", "routed", "[{ backendRefs: [{ name: bare, port: 80 }] }]"))
        .policy(
            "judged",
            &authorization("judged", "judged", "ALLOW", "[{ to: [{ operation: { methods: [GET] } }] }, {}]"),
        )
        .start()
        .await;
    let (mut cases, mut carried) = (String::new(), 0);
    for service in &services {
        let passes = is_carried(&mesh, service).await;
        carried += usize::from(passes);
        let expect = if passes { "allow" } else { "deny" };
        writeln!(
            cases,
            "  - {{ name: {service}, from: {{ workload: shop/web-1 }}, to: {{ service: {service} }}, request: {{ protocol: tcp }}, expect: \
             {expect} }}"
        )
        .expect("a String");
    }
    agrees(&mesh, &cases).await;
    assert_eq!(carried, 2, "{cases}");
}
