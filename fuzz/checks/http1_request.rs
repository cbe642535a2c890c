//! Request heads, as any client may send them.
//!
//! Beyond "no panic": what is taken lies within the input, the same bytes are read the same way when
//! nothing follows them, and no shorter piece of them is read as a whole head. The last is what request
//! smuggling would need.

use weft_proxy::h1::parse::request_head;
use weft_proxy::http::Limits;

/// Whether the input says something.
pub(crate) fn check(input: &[u8]) -> bool {
    let limits = Limits::default();
    let Ok(Some((taken, head))) = request_head(input, &limits) else { return false };
    assert!((1..=input.len()).contains(&taken));
    let (again, same) = request_head(&input[..taken], &limits)
        .expect("the bytes of a head must be a head")
        .expect("the bytes of a head must be all of it");
    assert_eq!(again, taken);
    assert_eq!(format!("{head:?}"), format!("{same:?}"));
    // Every length in a short head; in a long one the last bytes, where an end could be misread.
    for length in taken.saturating_sub(64)..taken {
        assert!(!matches!(request_head(&input[..length], &limits), Ok(Some(_))));
    }
    true
}
