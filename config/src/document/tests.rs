//! The walk: positions, what it refuses, and what it costs.

use super::*;

fn messages(text: &str) -> Vec<String> {
    walk(text).1.into_iter().map(|flaw| format!("{}:{}: {}", flaw.line, flaw.column, flaw.message)).collect()
}

#[test]
fn every_node_knows_where_it_stands() {
    let (tree, flaws) = walk("a:\n  - b.c: 1\n    d: [x, y]\n---\ne: f\n");
    assert!(flaws.is_empty());
    assert_eq!(tree.documents.len(), 2);
    let at = |text| (0..).find(|node| tree.text(*node) == Some(text)).unwrap();
    assert_eq!(tree.path(at("1")), "a[0][\"b.c\"]");
    assert_eq!(tree.path(at("y")), "a[0].d[1]");
    assert_eq!((tree.nodes[at("y") as usize].line, tree.nodes[at("y") as usize].column), (3, 12));
    assert_eq!(tree.document_of(at("f")), tree.documents[1]);
}

#[test]
fn what_is_ambiguous_is_refused_where_it_stands() {
    assert_eq!(messages("a: 1\nb: 2\na: 3\n"), ["3:1: the key \"a\" comes twice"]);
    assert_eq!(messages("x: {<<: {a: 1}}\n"), ["1:5: merge keys (`<<`) are not supported"]);
    assert_eq!(messages("? [a]\n: 1\n"), ["1:3: a key must be a text"]);
    assert_eq!(messages("a: !!binary eA==\n"), ["1:4: tags (`!…`) are not supported"]);
    assert!(messages("a: &x 1\nb: *x\n").is_empty());
    assert_eq!(messages("a: &x [*x]\n"), ["1:8: the alias contains itself"]);
}

#[test]
fn bombs_and_depth_cost_nothing() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let item = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![item; 9].join(", ")));
    }
    assert!(messages(&bomb)[0].contains("stand for too much"));
    for open in ["[", "{a: ", "- ", "? ", "a:\n ", "&a [", "!x [", "{", "[{"] {
        let deep = open.repeat(200_000);
        let flaws = messages(&deep);
        assert!((1..=FLAWS_MAX).contains(&flaws.len()), "{open}");
    }
}
