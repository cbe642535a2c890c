//! What `weft test` says of a request is what the proxies do with it: random policies and requests,
//! judged by the command and sent through a running mesh. Tokens, external authorizers, DENY and ALLOW
//! come together in every way, so that the order in which they are asked is held against each other, too.

#[path = "tools_live/routes.rs"]
mod routes;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::process::Command;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::authorizer::Authorizer;
use weft_tests::binaries::binaries;
use weft_tests::client::{Client, Request};
use weft_tests::issuer::{Issuer, key_set, now, request_authentication};
use weft_tests::mesh::{Builder, Mesh, Workload};
use weft_tests::{process, wait};

/// Sets of policies; each costs the mesh a generation.
const ROUNDS: usize = 30;
/// Requests of each, from every caller.
const REQUESTS: usize = 12;
/// Who calls: two with a proxy, one without.
const CALLERS: [&str; 3] = ["shop/web-1", "ops/admin-1", ""];

/// A small generator (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).expect("a bound")).expect("below it")
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    fn maybe(&mut self, text: impl FnOnce(&mut Self) -> String) -> String {
        if self.below(2) == 0 { text(self) } else { String::new() }
    }
}

const PRINCIPALS: &[&str] = &["cluster.local/ns/shop/sa/web", "cluster.local/ns/ops/*", "*", "*/sa/admin"];
const NAMESPACES: &[&str] = &["shop", "ops", "sh*", "other"];
const BLOCKS: &[&str] = &["127.0.0.0/8", "10.0.0.0/8", "127.0.0.1"];
const METHODS: &[&str] = &["GET", "POST", "DELETE"];
const RULE_PATHS: &[&str] = &["/a", "/a*", "*/b", "/a/{*}", "/a/{**}", "/admin", "*"];
const PATHS: &[&str] = &[
    "/a",
    "/a/b",
    "/a/b/c",
    "/admin",
    "//a",
    "/a/../admin",
    "/%61dmin",
    "/a%2fb",
    "/x/./b",
    "/",
    "/a/?x=/admin",
];
const HOSTS: &[&str] = &["cart.shop", "CART.shop", "*.shop", "other"];
const TEAMS: &[&str] = &["red", "blue", "r*"];
const SUBJECTS: &[&str] = &["https://id.example/joe", "https://id.example/*", "*"];
const GROUPS: &[&str] = &["dev", "ops", "*"];
const ISSUER: &str = "https://id.example";

fn clause(random: &mut Random, key: &str, words: &[&str]) -> String {
    let not = if random.below(4) == 0 { "not" } else { "" };
    let key =
        if not.is_empty() { key.to_owned() } else { format!("{}{}", key[..1].to_uppercase(), &key[1..]) };
    format!("{not}{key}: ['{}'], ", random.of(words))
}

fn rule(random: &mut Random) -> String {
    let mut rule = String::new();
    let source = random.maybe(|random| clause(random, "principals", PRINCIPALS))
        + &random.maybe(|random| clause(random, "namespaces", NAMESPACES))
        + &random.maybe(|random| clause(random, "ipBlocks", BLOCKS))
        + &if random.below(4) == 0 { clause(random, "requestPrincipals", SUBJECTS) } else { String::new() };
    if !source.is_empty() {
        write!(rule, "from: [{{ source: {{ {source} }} }}], ").expect("a String");
    }
    let operation = random.maybe(|random| clause(random, "methods", METHODS))
        + &random.maybe(|random| clause(random, "paths", RULE_PATHS))
        + &random.maybe(|random| clause(random, "hosts", HOSTS));
    if !operation.is_empty() {
        write!(rule, "to: [{{ operation: {{ {operation} }} }}], ").expect("a String");
    }
    let keys = [("request.headers[x-team]", TEAMS), ("request.auth.claims[groups]", GROUPS)];
    let conditions: Vec<_> = keys
        .into_iter()
        .filter_map(|(key, words)| {
            let values = if random.below(2) == 0 { "values" } else { "notValues" };
            let value = random.of(words);
            (random.below(4) == 0).then(|| format!("{{ key: '{key}', {values}: ['{value}'] }}"))
        })
        .collect();
    if !conditions.is_empty() {
        write!(rule, "when: [{}], ", conditions.join(", ")).expect("a String");
    }
    format!("{{ {rule} }}")
}

fn policies(random: &mut Random, issuer: &Issuer, round: usize) -> String {
    let mut text = String::new();
    for index in 0..=random.below(3) {
        let action = random.of(&["ALLOW", "ALLOW", "DENY", "CUSTOM"]);
        let provider = if action == "CUSTOM" { "provider: { name: opa }" } else { "" };
        let rules: Vec<_> = (0..=random.below(3)).map(|_| rule(random)).collect();
        writeln!(
            text,
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: p-{round}-{index}, \
             namespace: shop }}\nspec:\n  selector: {{ matchLabels: {{ app: cart }} }}\n  action: {action}\n  \
             {provider}\n  rules: [{}]\n---",
            rules.join(", ")
        )
        .expect("a String");
    }
    if random.below(2) == 0 {
        let rules = format!("[{{ issuer: '{ISSUER}', audiences: [cart], jwks: '{}' }}]", key_set(&[issuer]));
        writeln!(text, "{}---", request_authentication(&format!("jwt-{round}"), "cart", &rules))
            .expect("a String");
    }
    let mode = random.of(&["STRICT", "PERMISSIVE"]);
    writeln!(
        text,
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: cart, namespace: shop \
         }}\nspec:\n  selector: {{ matchLabels: {{ app: cart }} }}\n  mtls: {{ mode: {mode} }}"
    )
    .expect("a String");
    text
}

/// A request as both are asked.
struct Asked {
    caller: &'static str,
    method: String,
    path: String,
    host: String,
    teams: Vec<String>,
    /// Good, for somebody else, or not signed by whom it says.
    token: Option<String>,
    /// What the authorizer is wished to answer.
    agrees: bool,
}

impl Asked {
    fn random(random: &mut Random, caller: &'static str, tokens: &[String]) -> Self {
        Self {
            caller,
            method: random.of(METHODS).to_owned(),
            path: random.of(PATHS).to_owned(),
            host: random.of(&["cart.shop", "Cart.Shop:80"]).to_owned(),
            teams: (0..random.below(3)).map(|_| random.of(&["red", "blue", "rose"]).to_owned()).collect(),
            token: tokens.get(random.below(2 * tokens.len())).cloned(),
            agrees: random.below(3) > 0,
        }
    }

    fn case(&self, index: usize) -> String {
        let from = match self.caller {
            "" => "plaintext: true, ip: 127.0.0.1".to_owned(),
            workload => format!("workload: {workload}"),
        };
        let Self { method, path, host, teams, .. } = self;
        let (wish, authorizer) = if self.agrees { ("yes", "allow") } else { ("deny", "deny") };
        let mut fields = format!("x-ask: '{wish}', ");
        if !teams.is_empty() {
            write!(fields, "x-team: [{}], ", teams.join(", ")).expect("a String");
        }
        if let Some(token) = &self.token {
            write!(fields, "authorization: 'Bearer {token}'").expect("a String");
        }
        format!(
            "  - {{ name: c-{index}, from: {{ {from} }}, to: {{ service: shop/cart }}, request: {{ method: {method}, path: \
             '{path}', host: '{host}', headers: {{ {fields} }} }}, authorizer: {authorizer}, expect: allow }}\n"
        )
    }

    /// The live answer: `None` if the application answered.
    async fn send(&self, client: Client) -> Option<Reason> {
        let mut request = Request::new(&self.method, &format!("http://{}{}", self.host, self.path));
        for team in &self.teams {
            request = request.field("x-team", team);
        }
        request = request.field("x-ask", if self.agrees { "yes" } else { "deny" });
        if let Some(token) = &self.token {
            request = request.field("authorization", &format!("Bearer {token}"));
        }
        if self.method == "POST" {
            request = request.field("content-length", "0");
        }
        let response = client.send(&request).await;
        let reason = response.reason();
        assert!(reason.is_some() || response.status() == 200, "{:?}", response.head);
        reason
    }
}

/// Waits until the cart's proxy enforces a newer generation than `before`.
async fn enforced(mesh: &Mesh, before: &str) -> String {
    wait::eventually("the new policies are enforced", async || {
        let status = mesh.status().await;
        let problems = &status["source"]["problems"];
        assert_eq!(problems.as_array().map(Vec::len), Some(0), "{problems:#}");
        let generation = status["generation"].as_str().unwrap_or_default().to_owned();
        let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
        let cart = proxies.iter().find(|proxy| proxy["workload"] == "shop/cart-1")?;
        (generation != before && cart["current"] == true && cart["generation"] == generation.as_str())
            .then_some(generation)
    })
    .await
}

#[tokio::test]
async fn what_the_command_says_of_random_requests_is_what_a_mesh_does_with_them() {
    let application = Application::start("cart-1").await;
    let authorizer = Authorizer::start().await;
    let provider = "{ extensionProviders: [{ name: opa, envoyExtAuthzGrpc: { service: opa.auth.svc.cluster.local, port: \
                    80, timeout: 30s } }] }";
    let mesh = Builder::pair(application.address())
        .workload(Workload::new("ops/admin-1"))
        .service("auth/opa")
        .with_protocol("grpc")
        .workload(Workload::new("auth/opa-1").serves(authorizer.address()).protocol("grpc"))
        .mesh_config(provider)
        .start()
        .await;
    let (issuer, other) = (Issuer::new("one", "ES256"), Issuer::new("one", "ES256"));
    let claims = |audience: &str, group: &str| {
        let until = now() + 3600;
        format!(r#"{{"iss":"{ISSUER}","sub":"joe","aud":"{audience}","groups":["{group}"],"exp":{until}}}"#)
    };
    let tokens = [
        issuer.token(&claims("cart", "dev")),
        issuer.token(&claims("cart", "ops")),
        issuer.token(&claims("other", "dev")),
        other.token(&claims("cart", "dev")),
    ];
    let mut generation = mesh.status().await["generation"].as_str().unwrap_or_default().to_owned();
    let cases = mesh.directory().join("cases.yaml");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut allowed, mut denied) = (0, 0);
    let mut reasons = BTreeSet::new();
    for round in 0..ROUNDS {
        let policies = policies(&mut random, &issuer, round);
        mesh.write_policy("random", &policies);
        generation = enforced(&mesh, &generation).await;
        let asked: Vec<_> = CALLERS
            .iter()
            .flat_map(|caller| std::iter::repeat_n(*caller, REQUESTS))
            .map(|caller| Asked::random(&mut random, caller, &tokens))
            .collect();
        let mut text =
            "apiVersion: weft.dev/v1alpha1\nkind: PolicyTest\nmetadata: { name: live }\nspec:\n  cases:\n"
                .to_owned();
        text.extend(asked.iter().enumerate().map(|(index, asked)| asked.case(index)));
        fs::write(&cases, text).expect("a file");
        let mut command = Command::new(&binaries().cli);
        command.args(["test", "--output", "json"]).arg(mesh.policies()).arg(&cases);
        let ended = process::run(command).await;
        let answer: serde_json::Value =
            serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}\n{policies}", ended.stderr));
        for (asked, said) in asked.iter().zip(answer["cases"].as_array().expect("cases")) {
            let client = match asked.caller {
                "" => Client::direct(mesh.proxy("shop/cart-1").inbound()),
                workload => mesh.client(workload),
            };
            let live = asked.send(client).await;
            let offline = said["reason"].as_str().map(|label| Reason::from_label(label).expect("a reason"));
            let verdict = if live.is_some() { "deny" } else { "allow" };
            assert_eq!(
                (said["verdict"].as_str(), offline),
                (Some(verdict), live),
                "round {round}: {}{said:#}\n{policies}",
                asked.case(0)
            );
            reasons.extend(live);
            *if live.is_some() { &mut denied } else { &mut allowed } += 1;
        }
    }
    // Both happen often, or the comparison says little.
    assert!(allowed > 100 && denied > 100, "{allowed} allowed, {denied} denied");
    for reason in [
        Reason::AuthorizationDenied,
        Reason::ExternalAuthorizerDenied,
        Reason::JwtAudienceRefused,
        Reason::JwtInvalid,
        Reason::TlsRequired,
    ] {
        assert!(reasons.contains(&reason), "never {reason:?}: {reasons:?}");
    }
}
