//! Chunk framing, fed whole and in pieces.
//!
//! The first byte chooses how large the pieces are. Data, error and end must not depend on how the
//! network cut the bytes: two readers that disagree there are a smuggled request.

use weft_proxy::h1::chunked::{Decoder, Event};

/// What a body was: its data, whether the framing broke, and what was left for the trailers.
#[derive(Debug, Eq, PartialEq)]
struct Read {
    data: Vec<u8>,
    malformed: bool,
    trailers_at: Option<usize>,
}

fn read(input: &[u8], piece: usize) -> Read {
    let mut decoder = Decoder::default();
    let mut result = Read { data: Vec::new(), malformed: false, trailers_at: None };
    let mut at = 0;
    for piece in input.chunks(piece) {
        let end = at + piece.len();
        loop {
            match decoder.advance(&input[at..end]) {
                Err(_) => {
                    result.malformed = true;
                    return result;
                }
                Ok((skipped, event)) => {
                    assert!(skipped <= end - at);
                    at += skipped;
                    match event {
                        Event::Data(length) => {
                            assert!(length > 0 && length <= end - at);
                            result.data.extend_from_slice(&input[at..at + length]);
                            at += length;
                        }
                        Event::More => {
                            assert_eq!(at, end);
                            break;
                        }
                        Event::Trailers => {
                            result.trailers_at = Some(at);
                            return result;
                        }
                    }
                }
            }
        }
    }
    result
}

/// Whether the input says something.
pub(crate) fn check(input: &[u8]) -> bool {
    let Some((piece, input)) = input.split_first() else { return false };
    if input.is_empty() {
        return false;
    }
    let whole = read(input, input.len());
    for piece in [1, usize::from(*piece).max(1)] {
        assert_eq!(read(input, piece), whole);
    }
    true
}
