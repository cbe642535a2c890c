//! What `weft test` says of a request is what the proxies do with it: random policies and requests,
//! judged by the command and sent through a running mesh.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::binaries::binaries;
use weft_tests::client::{Client, Request};
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
        + &random.maybe(|random| clause(random, "ipBlocks", BLOCKS));
    if !source.is_empty() {
        write!(rule, "from: [{{ source: {{ {source} }} }}], ").expect("a String");
    }
    let operation = random.maybe(|random| clause(random, "methods", METHODS))
        + &random.maybe(|random| clause(random, "paths", RULE_PATHS))
        + &random.maybe(|random| clause(random, "hosts", HOSTS));
    if !operation.is_empty() {
        write!(rule, "to: [{{ operation: {{ {operation} }} }}], ").expect("a String");
    }
    if random.below(4) == 0 {
        let values = if random.below(2) == 0 { "values" } else { "notValues" };
        let team = random.of(TEAMS);
        write!(rule, "when: [{{ key: 'request.headers[x-team]', {values}: ['{team}'] }}], ")
            .expect("a String");
    }
    format!("{{ {rule} }}")
}

fn policies(random: &mut Random, round: usize) -> String {
    let mut text = String::new();
    for index in 0..=random.below(3) {
        let action = random.of(&["ALLOW", "ALLOW", "DENY"]);
        let rules: Vec<_> = (0..=random.below(3)).map(|_| rule(random)).collect();
        writeln!(
            text,
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: p-{round}-{index}, \
             namespace: shop }}\nspec:\n  selector: {{ matchLabels: {{ app: cart }} }}\n  action: {action}\n  rules: \
             [{}]\n---",
            rules.join(", ")
        )
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
}

impl Asked {
    fn random(random: &mut Random, caller: &'static str) -> Self {
        Self {
            caller,
            method: random.of(METHODS).to_owned(),
            path: random.of(PATHS).to_owned(),
            host: random.of(&["cart.shop", "Cart.Shop:80"]).to_owned(),
            teams: (0..random.below(3)).map(|_| random.of(&["red", "blue", "rose"]).to_owned()).collect(),
        }
    }

    fn case(&self, index: usize) -> String {
        let from = match self.caller {
            "" => "plaintext: true, ip: 127.0.0.1".to_owned(),
            workload => format!("workload: {workload}"),
        };
        let Self { method, path, host, teams, .. } = self;
        let teams = if teams.is_empty() { String::new() } else { format!("x-team: [{}]", teams.join(", ")) };
        format!(
            "  - {{ name: c-{index}, from: {{ {from} }}, to: {{ service: shop/cart }}, request: {{ method: {method}, path: \
             '{path}', host: '{host}', headers: {{ {teams} }} }}, expect: allow }}\n"
        )
    }

    /// The live answer: `None` if the application answered.
    async fn send(&self, client: Client) -> Option<Reason> {
        let mut request = Request::new(&self.method, &format!("http://{}{}", self.host, self.path));
        for team in &self.teams {
            request = request.field("x-team", team);
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
    let mesh = Builder::pair(application.address()).workload(Workload::new("ops/admin-1")).start().await;
    let mut generation = mesh.status().await["generation"].as_str().unwrap_or_default().to_owned();
    let cases = mesh.directory().join("cases.yaml");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut allowed, mut denied) = (0, 0);
    for round in 0..ROUNDS {
        let policies = policies(&mut random, round);
        mesh.write_policy("random", &policies);
        generation = enforced(&mesh, &generation).await;
        let asked: Vec<_> = CALLERS
            .iter()
            .flat_map(|caller| std::iter::repeat_n(*caller, REQUESTS))
            .map(|caller| Asked::random(&mut random, caller))
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
            *if live.is_some() { &mut denied } else { &mut allowed } += 1;
        }
    }
    // Both happen often, or the comparison says little.
    assert!(allowed > 100 && denied > 100, "{allowed} allowed, {denied} denied");
}
