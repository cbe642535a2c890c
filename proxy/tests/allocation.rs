//! What every request goes through before it is judged allocates nothing where there is nothing to do. A test
//! binary of its own: it counts what its allocator does.

// A helper of a test may fail as a test does.
#![allow(clippy::unwrap_used)]

use weft_model::path::Normalization;
use weft_proxy::h1::parse::request_head;
use weft_proxy::http::respond::strip_internal;
use weft_proxy::http::{Limits, RequestHead};

fn head(target: &str, fields: &str) -> RequestHead {
    let text = format!("GET {target} HTTP/1.1\r\nHost: cart.shop\r\n{fields}\r\n");
    request_head(text.as_bytes(), &Limits::default()).unwrap().unwrap().1
}

fn prepare(head: &mut RequestHead) -> u64 {
    let counted = allocation_counter::measure(|| {
        strip_internal(head.headers_mut());
        head.make_path_canonical(Normalization::default()).unwrap();
    });
    counted.count_total
}

#[test]
fn a_usual_request_is_made_canonical_without_an_allocation() {
    let fields = "Accept: */*\r\nX-Request-Id: 1\r\nX-Forwarded-For: 10.0.0.1\r\nCookie: a=b\r\n";
    for target in ["/", "/items/7?all=1", "/a%20b/.well-known", "/%C3%A4:x"] {
        let mut head = head(target, fields);
        assert_eq!(prepare(&mut head), 0, "{target}");
        assert_eq!(head.path_and_query(), target);
    }
    let mut odd = head("/a/../b?c=d", "X-Forwarded-Client-Cert: x\r\nx_weft_reason: y\r\n");
    assert!(prepare(&mut odd) > 0, "the counter counts");
    assert_eq!(odd.path_and_query(), "/b?c=d");
    assert_eq!(odd.headers().iter().count(), 1, "Host alone is left");
}
