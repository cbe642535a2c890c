//! What the fuzz targets hold parsers to, on random inputs in every run of the tests: the very checks,
//! so that a property that breaks is seen before a fuzzer runs.

// A helper of a test may fail as a test does.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use weft_config::{Compiler, SourceFile, Sources, compile, read_directory};
use weft_model::mesh::Mesh;
use weft_model::wire::{Kind, Resource};

#[path = "../../fuzz/checks/jwt.rs"]
mod jwt;
#[path = "../../fuzz/checks/mesh_server_name.rs"]
mod mesh_server_name;
#[path = "../../fuzz/checks/path_canonical.rs"]
mod path_canonical;
#[path = "../../fuzz/checks/policy_yaml.rs"]
mod policy_yaml;
#[path = "../../fuzz/checks/spiffe_id.rs"]
mod spiffe_id;
#[path = "../../fuzz/checks/wire_resource.rs"]
mod wire_resource;

/// A small generator (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    /// Pieces one after another: closer to what a parser takes than bytes by chance.
    fn text(&mut self, pieces: &[&str], most: usize) -> String {
        (0..=self.below(most)).map(|_| pieces[self.below(pieces.len())]).collect()
    }

    /// A few bytes changed, removed or repeated.
    fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, u8::try_from(self.below(256)).unwrap()),
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

/// What paths are made of here: all that any parser looks at, often enough to meet.
const PATH_PIECES: &[&str] = &[
    "/", "/", "/", "/", "a", "b", ".", ".", "..", "..", "%2e", "%2E", "%61", "%41", "A", "%2f", "%5c", "%5C",
    "%25", "%00", "%", "%zz", "\\", ";", "~", "%7e", "%e4", "admin", "*", "ä", " ", "%3f", "%C3%A4", ":",
    "%3a", "+", "%2B", "%20", "\"", "%22", "[", "%5b", "%0a", "&", "%26", "%3B",
];

#[test]
fn canonical_paths_are_fixed_points_with_nothing_left_to_resolve() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let taken =
        (0..200_000).filter(|_| path_canonical::check(&format!("/{}", random.text(PATH_PIECES, 8)))).count();
    assert!(taken > 10_000, "{taken} of the paths have a canonical form");
}

#[test]
fn spellings_that_any_of_several_parsers_reads_alike_are_one_path_to_policy() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut read: [HashMap<Vec<u8>, (String, String)>; path_canonical::PARSERS.len()] = Default::default();
    let mut met = 0;
    for _ in 0..150_000 {
        let path = format!("/{}", random.text(PATH_PIECES, 6));
        // What is refused gets no verdict.
        let Ok(canonical) = weft_model::path::canonical(&path) else { continue };
        for ((name, parser), read) in path_canonical::PARSERS.iter().zip(&mut read) {
            let Some(reading) = parser(&path) else { continue };
            match read.get(&reading) {
                None => drop(read.insert(reading, (path.clone(), canonical.to_string()))),
                Some((other, held)) => {
                    met += usize::from(*other != path);
                    assert_eq!(
                        *held, canonical,
                        "{name} reads {path} and {other} alike, and policy does not"
                    );
                }
            }
        }
    }
    assert!(met > 50_000, "two spellings of one path have met {met} times");
}

#[test]
fn a_path_in_another_spelling_is_one_path_to_policy_or_refused() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    let mut met = 0;
    for _ in 0..150_000 {
        let path = format!("/{}", random.text(PATH_PIECES, 6));
        let steps: Vec<u8> =
            (0..=random.below(8)).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        let other = path_canonical::respelled(&path, &steps);
        met += usize::from(other != path && path_canonical::meet(&path, &other));
    }
    assert!(met > 5_000, "two spellings of one path have met {met} times");
}

#[test]
fn tokens_and_key_sets_have_one_spelling() {
    const PIECES: &[&str] = &[
        "eyJhbGciOiJFUzI1NiJ9",
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJhIn0.",
        "eyJhbGciOiJub25lIn0",
        "eyJpc3MiOiJhIn0",
        "e30",
        ".",
        ".",
        ".",
        "AA",
        "A",
        "=",
        "-",
        "_",
        " ",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"keys\"",
        "\"\\u0061\"",
        "1",
        "-1e3",
        "null",
        "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}",
    ];
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let taken = (0..200_000).filter(|_| jwt::check(&random.text(PIECES, 6))).count();
    assert!(taken > 10, "{taken} of the texts are tokens");
}

#[test]
fn spiffe_ids_have_one_spelling() {
    const PIECES: &[&str] = &[
        "spiffe://",
        "cluster.local",
        "/ns/",
        "/sa/",
        "shop",
        "web",
        "a-b",
        "A",
        "/",
        "..",
        "%2f",
        "?x",
        "#y",
        ":1",
        "@",
        "_",
        ".",
        "-",
        "ä",
        "\0",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut taken = 0;
    for _ in 0..200_000 {
        let text = match random.below(2) {
            0 => random.text(PIECES, 8),
            _ => {
                let parts = ["cluster.local", "shop", "web"].map(|part| match random.below(6) {
                    0 => random.text(PIECES, 2),
                    _ => part.to_owned(),
                });
                format!("spiffe://{}/ns/{}/sa/{}", parts[0], parts[1], parts[2])
            }
        };
        taken += usize::from(spiffe_id::check(&text));
    }
    assert!(taken > 10_000, "{taken} were SPIFFE IDs");
}

#[test]
fn server_names_come_back_as_they_went() {
    const PIECES: &[&str] = &[
        "80", "0", "65535", "65536", ".", "cart", "shop", "workload", "uid", "-", "A", "+1", "", "a.b", "%",
        "x-y",
    ];
    let mut random = Random(0x0123_4567_89ab_cdef);
    let taken = (0..200_000).filter(|_| mesh_server_name::check(&random.text(PIECES, 8))).count();
    assert!(taken > 100, "{taken} were server names");
}

#[test]
fn resources_that_are_taken_survive_another_way_over_the_wire() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut files = read_directory(format!("{root}/examples/shop")).unwrap();
    let text = fs::read_to_string(format!("{root}/config/tests/good/base.yaml")).unwrap();
    files.push(SourceFile { name: "base.yaml".to_owned(), text });
    let mut resources = resources(&compile(&files).mesh);
    // Each example by itself, since several say what holds for the mesh.
    for example in fs::read_dir(format!("{root}/examples")).unwrap() {
        let Ok(files) = read_directory(example.unwrap().path()) else { continue };
        resources.extend(self::resources(&compile(&files).mesh));
    }
    resources.sort();
    resources.dedup();
    assert!(resources.len() > 50, "{} resources", resources.len());
    keep_as_seeds("wire_resource", resources.iter().map(|(kind, bytes)| [&[*kind], &**bytes].concat()));
    let mut random = Random(0xdead_beef_cafe_f00d);
    let (mut taken, mut tried) = (0, 0);
    for _ in 0..500 {
        for (kind, bytes) in &resources {
            let mut input = vec![*kind];
            input.extend(random.mutated(bytes));
            taken += usize::from(wire_resource::check(&input));
            tried += 1;
        }
    }
    assert!(taken * 10 > tried && taken < tried, "{taken} of {tried} were taken");
}

// What a fuzzer begins with (`make fuzz-seeds`): few of each size, so that it is quick to go through them.
fn keep_as_seeds(target: &str, seeds: impl IntoIterator<Item = Vec<u8>>) {
    let Some(directory) = std::env::var_os("WEFT_FUZZ_SEEDS") else { return };
    let directory = std::path::Path::new(&directory).join(target);
    fs::create_dir_all(&directory).unwrap();
    let mut seen = std::collections::HashSet::new();
    for seed in seeds {
        if seen.insert((seed[0], seed.len().ilog2())) {
            fs::write(directory.join(format!("{:02}-{:03}", seed[0], seed.len())), seed).unwrap();
        }
    }
}

// Each as it goes over the wire, with the number of its kind.
fn resources(mesh: &Mesh) -> Vec<(u8, Vec<u8>)> {
    let mut all = vec![Resource::MeshConfig(mesh.config.clone())];
    all.extend(mesh.workloads.values().map(|held| Resource::Workload(Arc::clone(held))));
    all.extend(mesh.services.values().map(|held| Resource::Service(Arc::clone(held))));
    all.extend(mesh.endpoints.values().map(|held| Resource::Endpoints(Arc::clone(held))));
    all.extend(mesh.routes.values().map(|held| Resource::Route(Arc::clone(held))));
    all.extend(mesh.authorizations.values().map(|held| Resource::Authorization(Arc::clone(held))));
    all.extend(mesh.peer_authentications.values().map(|held| Resource::PeerAuthentication(Arc::clone(held))));
    all.extend(
        mesh.request_authentications.values().map(|held| Resource::RequestAuthentication(Arc::clone(held))),
    );
    all.extend(mesh.traffic_policies.values().map(|held| Resource::TrafficPolicy(Arc::clone(held))));
    let number = |kind: Kind| Kind::ALL.iter().position(|held| *held == kind).unwrap();
    all.iter().map(|held| (u8::try_from(number(held.kind())).unwrap(), held.encode())).collect()
}

#[test]
fn policy_files_give_one_answer_that_points_into_them() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let mut sources: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    sources.sort();
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..4_000 {
        let source = random.below(sources.len());
        let text = random.mutated(&sources[source]);
        policy_yaml::check(&String::from_utf8_lossy(&text));
    }
}

#[test]
fn what_fuzzers_begin_with_and_what_they_found_holds() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds");
    let each = |target: &str, check: &dyn Fn(&[u8])| {
        let entries: Vec<_> = fs::read_dir(format!("{seeds}/{target}")).unwrap().collect();
        assert!(!entries.is_empty(), "{target} has no seeds");
        for entry in entries {
            check(&fs::read(entry.unwrap().path()).unwrap());
        }
    };
    each("wire_resource", &|bytes| {
        wire_resource::check(bytes);
    });
    let text = |check: &dyn Fn(&str), bytes: &[u8]| check(&String::from_utf8_lossy(bytes));
    each("jwt", &|bytes| {
        text(
            &|text| {
                jwt::check(text);
            },
            bytes,
        )
    });
    each("spiffe_id", &|bytes| {
        text(
            &|text| {
                spiffe_id::check(text);
            },
            bytes,
        )
    });
    each("mesh_server_name", &|bytes| {
        text(
            &|text| {
                mesh_server_name::check(text);
            },
            bytes,
        )
    });
    let path = |text: &str| {
        let (path, other) = text.split_once('\n').unwrap_or((text, text));
        let respelled = path_canonical::respelled(path, other.as_bytes());
        for path in [path, other, &respelled] {
            path_canonical::check(path);
        }
        path_canonical::meet(path, other);
        path_canonical::meet(path, &respelled);
    };
    each("path_canonical", &|bytes| text(&path, bytes));
}

/// Files that are edited at random.
struct Edited {
    files: Vec<SourceFile>,
    /// Good documents that belong together, and in which file each is, if in any.
    good: Vec<(String, Option<usize>)>,
    /// Documents with every mistake that the tests of the compiler know.
    broken: Vec<String>,
}

/// How many files there are at most.
const FILES: usize = 4;

impl Edited {
    fn new() -> Self {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
        let broken = read_directory(format!("{root}/corpus")).unwrap().into_iter().map(|file| file.text);
        let base = fs::read_to_string(format!("{root}/good/base.yaml")).unwrap();
        let policies = (1..=6).map(|port| policy(&format!("p-{port}"), port).text);
        let good = base.split("---\n").map(str::to_owned).chain(policies).enumerate();
        let good = good.map(|(number, text)| (text, Some(number % FILES))).collect();
        Self { files: Vec::new(), good, broken: broken.collect() }
    }

    /// Puts a document into another file, or takes it away: what is left fits together as a rule.
    fn move_document(&mut self, random: &mut Random) {
        let at = random.below(self.good.len());
        self.good[at].1 = (random.below(8) > 0).then_some(random.below(FILES));
        let held = |number| self.good.iter().filter(move |(_, place)| *place == Some(number));
        self.files = (0..FILES)
            .filter(|number| held(*number).next().is_some())
            .map(|number| {
                let texts: Vec<_> = held(number).map(|(text, _)| text.as_str()).collect();
                SourceFile { name: format!("{number}.yaml"), text: texts.join("---\n") }
            })
            .collect();
    }

    /// Writes a file of good and broken documents, some of them damaged, or takes a file away.
    fn write_anything(&mut self, random: &mut Random) {
        let name = format!("{}.yaml", random.below(FILES));
        let pieces = (0..=random.below(4)).map(|_| match random.below(2) {
            0 => self.broken[random.below(self.broken.len())].as_str(),
            _ => self.good[random.below(self.good.len())].0.as_str(),
        });
        let mut text = pieces.collect::<Vec<_>>().join("\n---\n");
        if random.below(8) == 0 {
            text = String::from_utf8_lossy(&random.mutated(text.as_bytes())).into_owned();
        }
        match self.files.binary_search_by(|file| file.name.cmp(&name)) {
            Ok(at) if random.below(4) == 0 => drop(self.files.remove(at)),
            Ok(at) => self.files[at].text = text,
            Err(at) => self.files.insert(at, SourceFile { name, text }),
        }
    }
}

/// Compiles after each edit, with what is remembered and from nothing; gives how often that was without
/// errors, and how many policies were the very same as before.
fn edited(seed: u64, mut edit: impl FnMut(&mut Edited, &mut Random)) -> (usize, usize) {
    let mut random = Random(seed);
    let sources = Sources::default();
    let mut compiler = Compiler::new(&sources);
    let mut edited = Edited::new();
    let mut before = Mesh::default();
    let (mut clean, mut shared) = (0, 0);
    for _ in 0..EDITS {
        edit(&mut edited, &mut random);
        let files = &edited.files;
        if random.below(16) == 0 {
            compiler.prepare(files);
        }
        let (again, new) = (compiler.compile(files), compile(files));
        assert_eq!(again.diagnostics, new.diagnostics, "{files:#?}");
        assert_eq!(again.cases, new.cases);
        assert!(again.mesh == new.mesh, "{:#?}\n{:#?}", again.mesh, new.mesh);
        clean += usize::from(!new.has_errors());
        let held = |(name, policy): (&_, &Arc<_>)| {
            before.authorizations.get(name).is_some_and(|held| Arc::ptr_eq(held, policy))
        };
        shared += again.mesh.authorizations.iter().filter(|policy| held(*policy)).count();
        before = again.mesh;
    }
    (clean, shared)
}

/// Edits of one sequence.
const EDITS: usize = 50;

#[test]
fn what_is_compiled_after_edits_is_what_is_compiled_from_nothing() {
    let (clean, shared) = edited(0x2545_f491_4f6c_dd1d, Edited::move_document);
    // Most of it is good and stays as it is, or the comparison says little.
    assert!(clean > EDITS / 2 && shared > EDITS, "{clean} clean, {shared} shared");
}

#[test]
fn what_is_wrong_after_edits_is_what_is_wrong_from_nothing() {
    let (clean, _) = edited(0x9e37_79b9_7f4a_7c15, Edited::write_anything);
    assert!(clean < EDITS / 2, "{clean} clean");
}

fn policy(name: &str, port: u16) -> SourceFile {
    SourceFile {
        name: format!("{name}.yaml"),
        text: format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {{action: \
             DENY, rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]}}\n"
        ),
    }
}

#[test]
fn an_edit_of_one_file_leaves_the_policies_of_all_others_as_they_are() {
    let sources = Sources::default();
    let mut compiler = Compiler::new(&sources);
    let first = compiler.compile(&[policy("a", 1), policy("b", 1)]).mesh;
    let second = compiler.compile(&[policy("a", 1), policy("b", 2)]).mesh;
    let same = |name: &str| {
        let name = format!("AuthorizationPolicy/default/{name}");
        Arc::ptr_eq(&first.authorizations[name.as_str()], &second.authorizations[name.as_str()])
    };
    assert!(same("a") && !same("b"));
    // Another trust domain is another policy, though its file is the same.
    let renamed = SourceFile {
        name: "mesh.yaml".to_owned(),
        text: "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {trustDomain: b.example}\n"
            .to_owned(),
    };
    let third = compiler.compile(&[policy("a", 1), policy("b", 2), renamed.clone()]);
    assert_eq!(third.diagnostics, compile(&[policy("a", 1), policy("b", 2), renamed]).diagnostics);
    assert!(!Arc::ptr_eq(
        &second.authorizations["AuthorizationPolicy/default/a"],
        &third.mesh.authorizations["AuthorizationPolicy/default/a"]
    ));
}

#[test]
fn a_compiler_that_keeps_too_much_out_of_use_says_so() {
    let file = |number: usize| SourceFile {
        name: "a.yaml".to_owned(),
        text: format!("# {number}\n#{}\n", "x".repeat(1024 * 1024)),
    };
    let sources = Sources::default();
    let mut compiler = Compiler::new(&sources);
    let compiled = (0..100).position(|number| {
        compiler.compile(&[file(number)]);
        compiler.is_wasteful()
    });
    // The last two texts of a file are in use.
    assert_eq!(compiled, Some(65), "more than 64 MiB of what came before them");
}
