//! What the fuzz targets hold parsers to, in every run of the tests: the very checks, on the seeds and on what
//! is near them. A target that no longer builds, or a property that breaks, is seen before a fuzzer runs.
//! Those of names, paths, tokens, documents and resources are run by `weft-config`'s `properties`.

// A helper of a test may fail as a test does.
#![allow(clippy::unwrap_used)]

use rustls::pki_types::ServerName;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use weft_config::{compile, read_directory};
use weft_model::wire::Resource;

#[path = "../../fuzz/checks/authorization.rs"]
mod authorization;
#[path = "../../fuzz/checks/client_hello.rs"]
mod client_hello;
#[path = "../../fuzz/checks/http1_chunked.rs"]
mod http1_chunked;
#[path = "../../fuzz/checks/http1_request.rs"]
mod http1_request;
#[path = "../../fuzz/checks/http1_response.rs"]
mod http1_response;
#[path = "../../fuzz/checks/path_template.rs"]
mod path_template;
#[path = "../../fuzz/checks/subscription_ops.rs"]
mod subscription_ops;

/// Those that are run here, and those that `weft-config` runs.
const HERE: [&str; 7] = [
    "authorization",
    "client_hello",
    "http1_chunked",
    "http1_request",
    "http1_response",
    "path_template",
    "subscription_ops",
];
const ELSEWHERE: [&str; 6] =
    ["jwt", "mesh_server_name", "path_canonical", "policy_yaml", "spiffe_id", "wire_resource"];

/// A small generator (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    /// A few bytes changed, removed or repeated.
    fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, b"\r\n\t :;,./%0aA\0\xff"[self.below(14)]),
                2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => {
                    let end = (at + self.below(16)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
        }
        bytes
    }
}

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz"))
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(fuzz().join("seeds").join(target)).unwrap();
    let mut seeds: Vec<_> = entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds
}

/// What a fuzzer begins with, where the tests make it (`make fuzz-seeds`).
fn keep_as_seeds<'s>(target: &str, seeds: impl IntoIterator<Item = &'s Vec<u8>>) {
    let Some(directory) = std::env::var_os("WEFT_FUZZ_SEEDS") else { return };
    let directory = Path::new(&directory).join(target);
    fs::create_dir_all(&directory).unwrap();
    for (number, seed) in seeds.into_iter().enumerate() {
        fs::write(directory.join(format!("{number:02}")), seed).unwrap();
    }
}

/// Runs a check on seeds and what is near them; both what says something and what does not must be met.
fn run(seeds: &[Vec<u8>], times: usize, check: impl Fn(&[u8]) -> bool) {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for seed in seeds {
        check(seed);
        let taken = (0..times).filter(|_| check(&random.mutated(seed))).count();
        assert!(taken > 0, "nothing near {:?} says anything", String::from_utf8_lossy(seed));
    }
}

#[test]
fn every_fuzz_target_has_its_check_run_by_the_tests() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let (_, targets) = manifest.split_once("[[bin]]").unwrap();
    let names = targets.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    let mut run = [&HERE[..], &ELSEWHERE].concat();
    run.sort_unstable();
    assert_eq!(names, run);
    for name in names {
        let target = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            target.contains(&format!("#[path = \"../checks/{name}.rs\"]")),
            "{name} has a body of its own"
        );
    }
    let properties = fs::read_to_string(fuzz().join("../config/tests/properties.rs")).unwrap();
    assert!(ELSEWHERE.iter().all(|name| properties.contains(&format!("{name}::check("))));
}

#[test]
fn heads_and_chunks_are_read_in_one_way() {
    run(&seeds("http1_request"), 20_000, http1_request::check);
    run(&seeds("http1_response"), 20_000, http1_response::check);
    run(&seeds("http1_chunked"), 20_000, http1_chunked::check);
}

#[test]
fn templates_match_as_a_plain_search_says() {
    run(&seeds("path_template"), 20_000, |bytes| path_template::check(&String::from_utf8_lossy(bytes)));
}

#[test]
fn the_index_of_rules_finds_what_looking_at_all_of_them_finds() {
    let root = fuzz().join("..");
    let mut policies = Vec::new();
    for example in fs::read_dir(root.join("examples")).unwrap() {
        let Ok(files) = read_directory(example.unwrap().path()) else { continue };
        let mesh = compile(&files).mesh;
        policies
            .extend(mesh.authorizations.values().map(|held| Resource::Authorization(held.clone()).encode()));
    }
    policies.sort();
    assert!(policies.len() > 5, "{} policies", policies.len());
    let part = |policy: &Vec<u8>| {
        let length = u16::try_from(policy.len()).unwrap().to_le_bytes();
        [&length[..], policy].concat()
    };
    let request = b"\0GET\ncart.shop\n/items/7\nblue\n";
    let alone = policies.iter().map(|policy| [&part(policy)[..], request].concat());
    let pairs =
        policies.windows(2).map(|two| [&part(&two[0])[..], b"\x01", &part(&two[1]), request].concat());
    let seeds: Vec<_> = alone.chain(pairs).collect();
    keep_as_seeds("authorization", seeds.iter().step_by(seeds.len() / 12));
    run(&seeds, 300, authorization::check);
    self::seeds("authorization").iter().for_each(|seed| {
        authorization::check(seed);
    });
}

#[test]
fn the_first_bytes_of_a_connection_mean_the_same_however_they_are_cut() {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut seeds: Vec<Vec<u8>> =
        vec![b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()];
    for (name, alpn) in [("cart.shop", vec![]), ("80.cart.shop", vec![b"weft1-h2".to_vec()])] {
        let config = rustls::ClientConfig::builder_with_provider(provider.clone());
        let config = config.with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = alpn;
        let name = ServerName::try_from(name).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        seeds.push(hello);
    }
    keep_as_seeds("client_hello", &seeds);
    run(&seeds, 300, client_hello::check);
    run(&self::seeds("client_hello"), 300, client_hello::check);
}

#[test]
fn both_halves_of_the_discovery_protocol_agree_whatever_happens_between() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..300 {
        let steps: Vec<u8> =
            (0..random.below(120)).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        assert!(subscription_ops::check(&steps));
    }
}
