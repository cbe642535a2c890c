//! Response heads and trailer sections, as any server may send them.
//!
//! Beyond "no panic": what is taken lies within the input and is read the same way without what follows.

use weft_proxy::h1::parse::{response_head, trailers};
use weft_proxy::http::Limits;

/// Whether the input says something.
pub(crate) fn check(input: &[u8]) -> bool {
    let limits = Limits::default();
    if let Ok(Some((taken, head))) = response_head(input, &limits) {
        assert!((1..=input.len()).contains(&taken));
        let same = response_head(&input[..taken], &limits).ok().flatten();
        let (again, same) = same.expect("the bytes of a head must be a head");
        assert_eq!(again, taken);
        assert_eq!(format!("{head:?}"), format!("{same:?}"));
    }
    if let Ok(Some((taken, fields))) = trailers(input, &limits) {
        assert!((1..=input.len()).contains(&taken));
        let same = trailers(&input[..taken], &limits).ok().flatten();
        let (again, same) = same.expect("the bytes of trailers must be trailers");
        assert_eq!(again, taken);
        assert_eq!(format!("{fields:?}"), format!("{same:?}"));
    }
    true
}
