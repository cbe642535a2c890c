//! The body of a request, as far as an external authorizer is shown it: read before it is asked, and put
//! back in front of the rest.
//!
//! What is not shown as it will be forwarded is never passed over: a body that is too long, that is no
//! text where text is to be shown, or that there is no room for is refused, whatever the provider says
//! of an authorizer that cannot be asked. A client could otherwise choose not to be judged.

use crate::http::Body;
use crate::inbound::connection::Connection;
use crate::inbound::judge::Denied;
use crate::inbound::resumed::{Resumed, Stopped};
use std::time::Duration;
use weft_model::mesh::BodyInCheck;
use weft_model::reason::Reason;

/// What a worker holds of all bodies that are being shown: eight of the longest, or thousands of calls of
/// JSON. Twice as much again is taken while the questions are written.
pub const ROOM: usize = 32 << 20;

/// How long a body may take to come, whatever it comes in: a client that trickles holds room.
const WAIT: Duration = Duration::from_secs(60);

/// What is shown.
#[derive(Debug, Eq, PartialEq)]
pub struct Shown {
    /// Its bytes.
    pub content: Content,
    /// More follows that is not shown.
    pub partial: bool,
}

/// The bytes in one of the two forms that the protocol has.
#[derive(Debug, Eq, PartialEq)]
pub enum Content {
    /// UTF-8.
    Text(String),
    /// Anything.
    Bytes(Vec<u8>),
}

/// Reads a body so far as it is to be shown. `None`: there is none.
pub async fn read(
    connection: &Connection,
    body: &mut Body,
    how: BodyInCheck,
) -> Result<Option<Shown>, Denied> {
    if body.is_end() {
        return Ok(None);
    }
    if !how.allow_partial && body.exact_length().is_some_and(|length| length > how.bytes_max.into()) {
        return Err(too_large(how));
    }
    let mut read = Resumed::new(std::mem::take(body), Some(connection.worker().shown.clone()));
    // One byte more than is shown tells whether there is more.
    let outcome = tokio::time::timeout(WAIT, read.read_over(how.bytes_max as usize)).await;
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(Stopped::Broken(error))) => return Err(Denied::new(error.reason, None, false)),
        Ok(Err(Stopped::Full)) => {
            let detail = "too many bodies are being shown to external authorizers".to_owned();
            return Err(Denied::new(Reason::Overloaded, Some(detail), false));
        }
        Err(_) => return Err(Denied::new(Reason::BodyTimeout, None, false)),
    }
    let shown = cut(read.data(), how)?;
    *body = read.into();
    Ok(shown)
}

fn cut(read: &[u8], how: BodyInCheck) -> Result<Option<Shown>, Denied> {
    let most = how.bytes_max as usize;
    let partial = read.len() > most;
    if read.is_empty() {
        return Ok(None);
    }
    if partial && !how.allow_partial {
        return Err(too_large(how));
    }
    let bytes = read[..read.len().min(most)].to_vec();
    if how.as_bytes {
        return Ok(Some(Shown { content: Content::Bytes(bytes), partial }));
    }
    let text = String::from_utf8(bytes).or_else(|error| {
        let (whole, end) = (error.utf8_error().valid_up_to(), error.utf8_error().error_len());
        let mut bytes = error.into_bytes();
        // A letter that the cut went through is in the part that is not shown.
        if partial && end.is_none() {
            bytes.truncate(whole);
        }
        String::from_utf8(bytes)
    });
    match text {
        Ok(text) => Ok(Some(Shown { content: Content::Text(text), partial })),
        Err(_) => {
            let detail = "the body is not UTF-8, and is to be shown as text (see packAsBytes)".to_owned();
            Err(Denied::new(Reason::ExternalAuthorizerFailed, Some(detail), false))
        }
    }
}

fn too_large(how: BodyInCheck) -> Denied {
    let detail = format!("the external authorizer is shown {} bytes", how.bytes_max);
    Denied::new(Reason::BodyTooLarge, Some(detail), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOW: BodyInCheck = BodyInCheck { bytes_max: 5, allow_partial: true, as_bytes: false };

    fn shown(text: &[u8], how: BodyInCheck) -> Result<Option<Shown>, Reason> {
        cut(text, how).map_err(|denied| denied.reason)
    }

    #[test]
    fn what_is_shown_is_the_beginning_and_says_whether_it_is_all() {
        let text = |text: &str, partial| Ok(Some(Shown { content: Content::Text(text.to_owned()), partial }));
        assert_eq!(shown(b"1234", HOW), text("1234", false));
        assert_eq!(shown(b"12345", HOW), text("12345", false));
        assert_eq!(shown(b"123456", HOW), text("12345", true));
        assert_eq!(shown("1234ü".as_bytes(), HOW), text("1234", true), "cut within a letter");
        assert_eq!(shown(b"", HOW), Ok(None));
        let bytes = BodyInCheck { as_bytes: true, ..HOW };
        let held = Shown { content: Content::Bytes(b"\xff2345".to_vec()), partial: true };
        assert_eq!(shown(b"\xff23456", bytes), Ok(Some(held)));
    }

    #[test]
    fn what_cannot_be_shown_is_refused() {
        let whole = BodyInCheck { allow_partial: false, ..HOW };
        assert_eq!(shown(b"123456", whole), Err(Reason::BodyTooLarge));
        assert_eq!(shown(b"12345", whole).map(|shown| shown.is_some()), Ok(true));
        // A body that ends within a letter is no text; nor is one with a byte that begins none.
        for text in [&b"12\xc3"[..], b"1\xff345", b"1\xff3456"] {
            assert_eq!(shown(text, HOW), Err(Reason::ExternalAuthorizerFailed), "{text:?}");
        }
    }
}
