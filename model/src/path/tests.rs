//! What becomes of spellings at each level, and what is refused.

use super::*;
use Normalization::{Base, DecodeAndMergeSlashes, MergeSlashes};

fn check(level: Normalization, cases: &[(&str, &str)]) {
    for (path, expected) in cases {
        let found = level.canonical(path).unwrap_or_else(|error| panic!("{level:?} {path}: {error}"));
        assert_eq!(found, *expected, "{level:?} {path}");
        let again = level.canonical(&found).unwrap();
        assert!(matches!(again, Cow::Borrowed(_)), "{level:?}: {found} is a fixed point, and seen to be one");
        assert_eq!(again, found, "{level:?} {path}");
    }
}

fn check_refused(level: Normalization, cases: &[(&str, PathError)]) {
    for (path, expected) in cases {
        assert_eq!(level.canonical(path), Err(*expected), "{level:?} {path}");
    }
}

const EVERYWHERE: [(&str, &str); 21] = [
    ("/", "/"),
    ("/a/b", "/a/b"),
    ("/a/b/", "/a/b/"),
    ("/a/./b", "/a/b"),
    ("/a/.", "/a/"),
    ("/.", "/"),
    ("/a/../b", "/b"),
    ("/a/..", "/"),
    ("/a/b/..", "/a/"),
    ("/%61dmin", "/admin"),
    ("/x/%2e%2e/admin", "/admin"),
    ("/x/.%2E/admin", "/admin"),
    ("/.well-known/x", "/.well-known/x"),
    ("/...", "/..."),
    ("/a..b", "/a..b"),
    ("/a%3fb", "/a%3Fb"),
    ("/a%23b", "/a%23b"),
    ("/a%20b", "/a%20b"),
    ("/%e4", "/%E4"),
    ("/%C3%A4", "/%C3%A4"),
    ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
];

#[test]
fn spellings_of_one_path_become_one() {
    for level in [Base, MergeSlashes, DecodeAndMergeSlashes] {
        check(level, &EVERYWHERE);
    }
}

#[test]
fn every_level_does_what_the_one_before_does_and_more() {
    check(
        Base,
        &[
            ("//a///b//", "//a///b//"),
            ("/a//../b", "/a/b"),
            ("//..", "/"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/a%2f../b", "/a%2F../b"),
            ("/a%2bb%3a", "/a%2Bb%3A"),
            ("/%252e", "/%252e"),
            ("/a;b=%61", "/a;b=a"),
        ],
    );
    check(
        MergeSlashes,
        &[
            ("//a///b//", "/a/b/"),
            ("//", "/"),
            ("/a%2f%2fb", "/a%2F%2Fb"),
            ("/a;b", "/a;b"),
            ("/%25", "/%25"),
        ],
    );
    check(
        DecodeAndMergeSlashes,
        &[
            ("//a///b", "/a/b"),
            ("/a%2fb", "/a/b"),
            ("/a%2F%2fb", "/a/b"),
            ("/a%5Cb", "/a/b"),
            ("/a%2f", "/a/"),
            ("/a%2f./b", "/a/b"),
            ("/v1/x%3acancel", "/v1/x:cancel"),
            ("/a%2b%40%5b%5D", "/a+@[]"),
        ],
    );
}

#[test]
fn paths_that_servers_read_differently_are_refused() {
    use PathError::{AboveRoot, Ambiguous, Escape, Relative};
    let everywhere = [
        ("a", Relative),
        ("", Relative),
        ("*", Relative),
        ("http://a/", Relative),
        ("/a\\b", Ambiguous),
        ("/a%00", Ambiguous),
        ("/a%0d%0a", Ambiguous),
        ("/a%1f", Ambiguous),
        ("/a%7F", Ambiguous),
        ("/a%", Escape),
        ("/a%2", Escape),
        ("/a%zz", Escape),
        ("/a%u002e", Escape),
        ("/a%+1", Escape),
        ("/ä", Ambiguous),
        ("/a b", Ambiguous),
        ("/a\tb", Ambiguous),
        ("/a\"b", Ambiguous),
        ("/a{b}", Ambiguous),
        ("/a?b", Ambiguous),
        ("/a#b", Ambiguous),
        ("/a/..;/b", Ambiguous),
        ("/a/.;x/b", Ambiguous),
        ("/a/%2e%2e;x=1/b", Ambiguous),
        ("/..", AboveRoot),
        ("/a/../../b", AboveRoot),
        ("/%2e%2E", AboveRoot),
    ];
    for level in [Base, MergeSlashes, DecodeAndMergeSlashes] {
        check_refused(level, &everywhere);
    }
    check_refused(
        MergeSlashes,
        &[("/a//../b", Ambiguous), ("//..", Ambiguous), ("/a//b/../../c", Ambiguous)],
    );
    check_refused(
        DecodeAndMergeSlashes,
        &[
            ("/a//../b", Ambiguous),
            ("/%252e", Ambiguous),
            ("/100%25", Ambiguous),
            ("/a;b", Ambiguous),
            ("/a%3bb", Ambiguous),
            ("/x/..%2fadmin", Ambiguous),
            ("/x%2f../admin", Ambiguous),
            ("/x%5c..%5cadmin", Ambiguous),
            ("/x/a%2fc/../b", Ambiguous),
            ("/z/a/%2e%2e/..", Ambiguous),
            ("/z/a/%2e/../b", Ambiguous),
        ],
    );
}

#[test]
fn without_normalization_everything_stays() {
    for path in ["/a/../b", "//", "/%2e", "/a;b", "*", "/a%zz"] {
        assert!(matches!(Normalization::None.canonical(path), Ok(Cow::Borrowed(same)) if same == path));
    }
}
