//! Whatever is in a file, compiling it ends, soon, and without a panic.

// A helper of a test may fail as a test does.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;
use weft_config::{SourceFile, compile, render};

/// A small generator (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}

fn sources() -> Vec<String> {
    let mut all = Vec::new();
    for directory in ["tests/corpus", "tests/good", "../examples/shop"] {
        for entry in fs::read_dir(format!("{}/{directory}", env!("CARGO_MANIFEST_DIR"))).unwrap() {
            all.push(fs::read_to_string(entry.unwrap().path()).unwrap());
        }
    }
    all.sort();
    all
}

fn mutated(random: &mut Random, sources: &[String]) -> String {
    const PIECES: [&str; 24] = [
        "\n", "- ", "{", "}", "[", "]", ": ", "&a ", "*a", "\"", "'", "|", ">", "\t", "---\n", "!!str ",
        "<<: *a", "null", "~", "0", "?", "\u{0}", "\u{fffd}", "%",
    ];
    let mut chars: Vec<char> = sources[random.below(sources.len())].chars().collect();
    for _ in 0..=random.below(4) {
        let at = random.below(chars.len() + 1);
        match random.below(4) {
            0 => chars.truncate(at),
            1 => drop(chars.drain(at..(at + random.below(20)).min(chars.len()))),
            2 => drop(chars.splice(at..at, PIECES[random.below(PIECES.len())].chars())),
            _ => {
                let other: Vec<char> = sources[random.below(sources.len())].chars().collect();
                let from = random.below(other.len() + 1);
                let to = (from + random.below(60)).min(other.len());
                drop(chars.splice(at..at, other[from..to].iter().copied()));
            }
        }
    }
    chars.into_iter().collect()
}

/// The processor time this thread has had: a clock counts what a busy machine's other processes have as well.
fn spent() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn mutations_never_panic() {
    let sources = sources();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20_000 {
        let text = mutated(&mut random, &sources);
        let files = [SourceFile { name: "m.yaml".to_owned(), text }];
        let compilation = compile(&files);
        let lines = u32::try_from(files[0].text.lines().count()).unwrap();
        for diagnostic in &compilation.diagnostics {
            assert!((1..=lines.max(1) + 1).contains(&diagnostic.line), "{diagnostic:?}\n{}", files[0].text);
        }
        render(&compilation.diagnostics, &files, false);
    }
}

#[test]
fn large_and_odd_files_end_soon() {
    // What is refused at once may be large; the rest costs an unoptimised build seconds.
    let (large, size) = (10 << 20, 1 << 20);
    let odd = [
        "[".repeat(large),
        "{a: ".repeat(large / 4),
        "- ".repeat(large / 2),
        "[".to_owned() + &"a,".repeat(size / 2),
        "a: b\n".repeat(size / 5),
        "---\n".repeat(size / 4),
        "x".repeat(size),
        "\"".to_owned() + &"x ".repeat(size / 2),
        "'".repeat(size),
        "&a ".repeat(large / 3),
        "# c\n".repeat(size / 4),
        "\n".repeat(size),
        "? ".repeat(large / 2),
        "!!x ".repeat(size / 4),
        "a:\n".repeat(size / 3),
        "a: |\n  x\n".repeat(size / 9),
        "kind: A\n---\n".repeat(size / 12),
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {x: 1}\n---\n".repeat(10_000),
    ];
    for text in odd {
        let head: String = text.chars().take(24).collect();
        let before = spent();
        let files = [SourceFile { name: "odd.yaml".to_owned(), text }];
        let compilation = compile(&files);
        assert!(compilation.diagnostics.len() <= 2_001);
        render(&compilation.diagnostics, &files, false);
        // An unoptimised build; what this finds is quadratic time.
        let taken = spent() - before;
        assert!(taken < Duration::from_secs(15), "{head:?} took {taken:?}");
    }
    assert!(!spent().is_zero(), "the kernel must count it");
}

#[test]
fn time_is_linear_in_the_number_of_policies() {
    let mut text = String::new();
    for index in 0..10_000 {
        text += &format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p-{index}, namespace: n-{}}}\n\
             spec:\n  selector: {{matchLabels: {{app: a-{}}}}}\n  rules:\n  - from: [{{source: {{principals: [cluster.local/ns/a/sa/b]}}}}]\n\
             \x20   to: [{{operation: {{methods: [GET], paths: [/a/*]}}}}]\n---\n",
            index % 100,
            index % 1_000,
        );
    }
    for index in 0..2_000 {
        text += &format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w-{index}, namespace: n-{}, labels: {{app: a-{}}}}}\n\
             spec: {{address: 10.0.{}.{}, ports: [{{port: 80}}]}}\n---\n",
            index % 100,
            index % 1_000,
            index / 250,
            index % 250 + 1,
        );
    }
    let before = spent();
    let compilation = compile(&[SourceFile { name: "many.yaml".to_owned(), text }]);
    assert!(compilation.diagnostics.is_empty(), "{:?}", compilation.diagnostics.first());
    assert_eq!(compilation.mesh.authorizations.len(), 10_000);
    // About a second unoptimised; quadratic time would be minutes.
    let taken = spent() - before;
    assert!(!taken.is_zero() && taken < Duration::from_secs(15), "{taken:?}");
}
