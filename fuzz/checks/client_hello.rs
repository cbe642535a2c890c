//! The first bytes of a connection, as any peer may send them.
//!
//! Beyond "no panic": whatever is said of some bytes is said of no shorter piece of them otherwise, so
//! that the way they are cut into packets decides nothing; and a name that is noted could be a host's.

use weft_proxy::detect::client_hello::{CLIENT_HELLO_MAX, Read, read};
use weft_proxy::detect::judge::{Expect, Spoken, judge};

/// Whether the input says something.
pub(crate) fn check(input: &[u8]) -> bool {
    let whole = read(input);
    if let Read::Whole(hello) = &whole
        && let Some(name) = &hello.server_name
    {
        assert!(!hello.mesh && (1..=253).contains(&name.len()));
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || b"-_.0123456789".contains(&byte)));
    }
    let step = input.len() / 64 + 1;
    for length in (0..input.len().min(CLIENT_HELLO_MAX)).step_by(step) {
        match read(&input[..length]) {
            Read::More => {}
            said => assert_eq!(said, whole, "{length}"),
        }
        for expect in [Expect::Http, Expect::Any] {
            let Some(said) = judge(expect, &input[..length]) else { continue };
            // HTTP/1 is believed of a long target before its end is seen.
            let believed = said == Spoken::Http1 && length > 4096;
            assert!(believed || judge(expect, input) == Some(said), "{length}");
        }
    }
    true
}
