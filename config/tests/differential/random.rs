//! Policies and requests of few values, so that rules often match or nearly do.

use super::reference::{Http, Policy, Request};
use serde_json::{Map, Value, json};

const PRINCIPALS: [&str; 9] = [
    "cluster.local/ns/shop/sa/web",
    "cluster.local/ns/shop/sa/cart",
    "cluster.local/ns/ops/sa/admin",
    "cluster.local/ns/shop/*",
    "cluster.local/ns/*",
    "cluster.local/ns/sh*",
    "*/sa/web",
    "*",
    "other.example/ns/shop/sa/web",
];
const NAMESPACES: [&str; 6] = ["shop", "ops", "sh*", "*op", "*", "ui"];
const ACCOUNTS: [&str; 4] = ["web", "shop/web", "ops/admin", "shop/cart"];
const BLOCKS: [&str; 7] =
    ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "192.168.0.0/16", "fd00::/8", "0.0.0.0/0", "fd00::1"];
const TOKENS: [&str; 7] =
    ["*", "https://a/alice", "https://a/*", "*/bob", "*a/alice", "https://b/al*", "*ice"];
const HOSTS: [&str; 6] = ["cart.shop", "CART.shop", "*.shop", "cart*", "*", "web.shop"];
const PORTS: [&str; 2] = ["8080", "9000"];
const METHODS: [&str; 5] = ["GET", "POST", "*", "P*", "DELETE"];
const PATHS: [&str; 13] = [
    "/a",
    "/a/b",
    "/a/*",
    "/a*",
    "*.gif",
    "*",
    "/{*}/b",
    "/a/{**}",
    "/a/{*}/c",
    "/",
    "/*",
    "/a/{**}/",
    "/{*}/{*}/{**}",
];
const TEXTS: [&str; 6] = ["red", "blue", "re*", "*d", "*", "green"];
const SERVERS: [&str; 3] = ["8080.cart.shop", "*.shop", "8080*"];

const IDENTITIES: [&str; 6] = [
    "cluster.local/ns/shop/sa/web",
    "cluster.local/ns/shop/sa/cart",
    "cluster.local/ns/ops/sa/admin",
    "cluster.local/ns/shopping/sa/web",
    "other.example/ns/shop/sa/web",
    "cluster.local/ns/OWN/sa/web",
];
const ADDRESSES: [&str; 6] =
    ["10.1.2.3", "10.1.9.9", "10.9.9.9", "192.168.1.1", "fd00::1", "::ffff:10.1.2.3"];
const SENT_PATHS: [&str; 13] =
    ["/", "/a", "/ab", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/x/c", "/x/b", "/a/y.gif", "/x.gif", "/b", "*"];
const SENT_HEADERS: [&str; 9] =
    ["red", "blue", "red, blue", "red,green", "", "reddish", " , ", "green, ,red", "RED"];

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % bound as u64) as usize
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn pick<'v>(&mut self, values: &[&'v str]) -> &'v str {
        values[self.below(values.len())]
    }

    fn some(&mut self, values: &[&str]) -> Value {
        let count = 1 + self.below(3);
        json!((0..count).map(|_| self.pick(values)).collect::<Vec<_>>())
    }

    /// Adds `KEY`, `notKEY`, both or neither.
    fn clause(&mut self, object: &mut Map<String, Value>, key: &str, not: &str, values: &[&str]) {
        match self.below(12) {
            0..=2 => {
                object.insert(key.to_owned(), self.some(values));
            }
            3 => {
                object.insert(not.to_owned(), self.some(values));
            }
            4 => {
                object.insert(key.to_owned(), self.some(values));
                object.insert(not.to_owned(), self.some(values));
            }
            _ => {}
        }
    }

    fn source(&mut self) -> Value {
        loop {
            let mut source = Map::new();
            if self.one_in(4) {
                self.clause(&mut source, "serviceAccounts", "notServiceAccounts", &ACCOUNTS);
            } else {
                self.clause(&mut source, "principals", "notPrincipals", &PRINCIPALS);
                self.clause(&mut source, "namespaces", "notNamespaces", &NAMESPACES);
            }
            self.clause(&mut source, "ipBlocks", "notIpBlocks", &BLOCKS);
            if self.one_in(2) {
                self.clause(&mut source, "remoteIpBlocks", "notRemoteIpBlocks", &BLOCKS);
            }
            if self.one_in(2) {
                self.clause(&mut source, "requestPrincipals", "notRequestPrincipals", &TOKENS);
            }
            if !source.is_empty() {
                return json!({"source": source});
            }
        }
    }

    fn operation(&mut self) -> Value {
        loop {
            let mut operation = Map::new();
            self.clause(&mut operation, "hosts", "notHosts", &HOSTS);
            self.clause(&mut operation, "ports", "notPorts", &PORTS);
            self.clause(&mut operation, "methods", "notMethods", &METHODS);
            self.clause(&mut operation, "paths", "notPaths", &PATHS);
            if !operation.is_empty() {
                return json!({"operation": operation});
            }
        }
    }

    fn condition(&mut self) -> Value {
        let (key, values): (&str, &[&str]) = match self.below(14) {
            0 => ("source.principal", &PRINCIPALS),
            1 => ("source.namespace", &NAMESPACES),
            2 => ("source.serviceAccount", &ACCOUNTS),
            3 => ("source.ip", &BLOCKS),
            4 => ("remote.ip", &BLOCKS),
            5 => ("destination.ip", &BLOCKS),
            6 => ("destination.port", &PORTS),
            7 => ("connection.sni", &SERVERS),
            8 => ("request.auth.principal", &TOKENS),
            9 => ("request.auth.audiences", &TEXTS),
            10 => ("request.auth.claims[groups]", &TEXTS),
            11 => ("request.auth.claims[realm][roles]", &TEXTS),
            12 => ("request.headers[User-Agent]", &TEXTS),
            _ => ("request.headers[x-team]", &TEXTS),
        };
        let mut condition = Map::new();
        condition.insert("key".to_owned(), json!(key));
        let which = if self.one_in(4) { "notValues" } else { "values" };
        condition.insert(which.to_owned(), self.some(values));
        if self.one_in(6) {
            condition.insert("notValues".to_owned(), self.some(values));
        }
        Value::Object(condition)
    }

    fn rule(&mut self) -> Value {
        let mut rule = Map::new();
        if !self.one_in(3) {
            let count = 1 + self.below(3);
            rule.insert("from".to_owned(), (0..count).map(|_| self.source()).collect());
        }
        if !self.one_in(3) {
            let count = 1 + self.below(3);
            rule.insert("to".to_owned(), (0..count).map(|_| self.operation()).collect());
        }
        if self.one_in(3) {
            let count = 1 + self.below(2);
            rule.insert("when".to_owned(), (0..count).map(|_| self.condition()).collect());
        }
        Value::Object(rule)
    }

    pub(crate) fn policies(&mut self) -> Vec<Policy> {
        let count = self.below(8);
        (0..count)
            .map(|_| {
                let action = ["ALLOW", "ALLOW", "DENY", "AUDIT"][self.below(4)];
                // A DENY without rules is refused.
                let rules = if action == "DENY" { 1 + self.below(3) } else { self.below(5) };
                let mut spec = json!({"action": action});
                if rules > 0 {
                    spec["rules"] = (0..rules).map(|_| self.rule()).collect();
                }
                Policy { spec, dry_run: action != "AUDIT" && self.one_in(5) }
            })
            .collect()
    }

    pub(crate) fn request(&mut self, namespace: &str) -> Request {
        let principal = (!self.one_in(6)).then(|| self.pick(&IDENTITIES).replace("OWN", namespace));
        let http = (!self.one_in(5)).then(|| self.http());
        let remote_ip = (http.is_some() || !self.one_in(3)).then(|| self.pick(&ADDRESSES).to_owned());
        Request {
            principal,
            source_ip: self.pick(&ADDRESSES).to_owned(),
            remote_ip,
            destination_ip: ["10.1.2.3", "192.168.1.1"][self.below(2)].to_owned(),
            port: [8080, 9000, 443][self.below(3)],
            sni: (!self.one_in(3)).then(|| self.pick(&["8080.cart.shop", "9000.web.shop", "x"]).to_owned()),
            http,
        }
    }

    fn http(&mut self) -> Http {
        let mut headers = Vec::new();
        for name in ["x-team", "user-agent"] {
            for _ in 0..self.below(3) {
                headers.push((name.to_owned(), self.pick(&SENT_HEADERS).to_owned()));
            }
        }
        let claims = self.one_in(2).then(|| {
            let mut claims = json!({"iss": self.pick(&["https://a", "https://b", "https://a/x"])});
            if !self.one_in(4) {
                claims["sub"] = json!(self.pick(&["alice", "bob", "x/bob"]));
            }
            if self.one_in(2) {
                claims["aud"] = json!([self.pick(&TEXTS), self.pick(&TEXTS)]);
            }
            if self.one_in(2) {
                claims["groups"] = json!(self.pick(&["red", "blue", "green"]));
            }
            if self.one_in(2) {
                claims["realm"] = json!({"roles": ["red", self.pick(&["blue", "reddish"])], "x": 1});
            }
            claims
        });
        Http {
            method: self.pick(&["GET", "POST", "PUT", "DELETE", "get"]).to_owned(),
            authority: self
                .pick(&["cart.shop", "Cart.Shop:8080", "web.shop:80", "x.shop", "cart"])
                .to_owned(),
            path: self.pick(&SENT_PATHS).to_owned(),
            headers,
            claims,
        }
    }
}
