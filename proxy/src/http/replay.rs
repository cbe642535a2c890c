//! A request's body that is kept while it passes, so that it can be sent once more: to another
//! endpoint where the owner of a route wants retries, or to a mirror.
//!
//! Only bodies of at most [`REPLAY_BYTES_MAX`] are kept. A longer one goes on as a stream and what was
//! kept of it is dropped: it is then neither retried nor mirrored. One try reads at a time; what a new
//! try reads first is what earlier ones have read. The memory goes from one body to the next ([`Spares`]), so that
//! a request that is sent once allocates nothing for being able to be sent twice.

use super::body::{Body, BodyError, Frame};
use super::headers::Headers;
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};
use weft_model::reason::Reason;

/// Larger bodies are streamed. What a form, a JSON call or a unary gRPC message needs; a thousand such
/// requests in flight are 64 MiB.
pub const REPLAY_BYTES_MAX: usize = 64 << 10;

/// What a worker holds ready for bodies to be kept in: with the next bound, 1 MiB at most.
const SPARES_MAX: usize = 64;

/// The most that one of them may hold; what a larger body has taken is given back to the allocator.
const SPARE_BYTES_MAX: usize = 16 << 10;

/// Called with a whole body, once.
type Whole = Box<dyn FnOnce(Option<Bytes>)>;

/// Where bodies were kept, for the next ones. A worker has one.
#[derive(Clone, Default)]
pub struct Spares(Rc<RefCell<Vec<Rc<RefCell<Kept>>>>>);

/// A body that can be read again.
pub struct Replay(Rc<RefCell<Kept>>);

#[derive(Default)]
struct Kept {
    /// Where it goes once nobody reads it.
    spares: Option<Spares>,
    source: Body,
    length: Option<u64>,
    /// What has passed, in one piece, whatever pieces it came in; nothing once it is lost.
    data: Vec<u8>,
    trailers: Option<Headers>,
    /// How much has passed.
    size: u64,
    /// All was read.
    ended: bool,
    /// Too long to be kept, or broken.
    lost: bool,
    whole: Option<Whole>,
}

/// One reading of it, from its beginning.
pub struct Reading {
    replay: Replay,
    /// How much of it was read.
    bytes: u64,
    trailers_given: bool,
}

// === impl Spares ===

impl Spares {
    fn take(&self) -> Rc<RefCell<Kept>> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    fn give(&self, kept: Rc<RefCell<Kept>>) {
        let mut spares = self.0.borrow_mut();
        if spares.len() < SPARES_MAX {
            spares.push(kept);
        }
    }
}

// === impl Replay ===

impl Replay {
    /// Keeps a body from now on. `whole` is told the body when all of it has passed, or `None` when it
    /// turned out too long.
    pub fn new(spares: &Spares, source: Body, whole: Option<Whole>) -> Self {
        let replay = Self(spares.take());
        {
            let mut kept = replay.0.borrow_mut();
            kept.length = source.exact_length();
            kept.lost = kept.length.is_some_and(|length| length > REPLAY_BYTES_MAX as u64);
            kept.source = source;
            kept.whole = whole;
            kept.spares = Some(spares.clone());
            if kept.lost {
                kept.tell();
            }
        }
        replay
    }

    /// Whether it can still be read from its beginning.
    pub fn is_whole(&self) -> bool {
        !self.0.borrow().lost
    }

    /// The body, from its beginning.
    pub fn body(&self) -> Body {
        {
            let mut kept = self.0.borrow_mut();
            // At hand it stays so: whoever sends it can give it back, as without this.
            if let (Body::Full(bytes), false) = (&kept.source, kept.lost) {
                let bytes = bytes.clone();
                if let Some(whole) = kept.whole.take() {
                    whole(Some(bytes.clone()));
                }
                return Body::Full(bytes);
            }
        }
        if self.0.borrow().length == Some(0) {
            // Nothing will be read, so that the end is now.
            let mut kept = self.0.borrow_mut();
            if kept.source.is_end() {
                kept.ended = true;
                kept.tell();
                return Body::Empty;
            }
        }
        Body::Replay(Reading { replay: Self(self.0.clone()), bytes: 0, trailers_given: false })
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) > 1 {
            return;
        }
        let mut kept = self.0.take();
        let Some(spares) = kept.spares.take() else { return };
        kept.data.clear();
        if kept.data.capacity() <= SPARE_BYTES_MAX {
            self.0.borrow_mut().data = std::mem::take(&mut kept.data);
        }
        spares.give(self.0.clone());
        // Its source may do what it likes from here on.
        drop(kept);
    }
}

// === impl Kept ===

impl Kept {
    /// What has passed and was not read by who has read so much.
    fn unread(&self, bytes: u64) -> Option<&[u8]> {
        let rest = self.data.get(usize::try_from(bytes).ok()?..)?;
        (!rest.is_empty()).then_some(rest)
    }

    fn tell(&mut self) {
        let Some(whole) = self.whole.take() else { return };
        if self.lost {
            return whole(None);
        }
        whole(Some(Bytes::copy_from_slice(&self.data)));
    }

    fn keep(&mut self, frame: &Option<Result<Frame, BodyError>>) {
        match frame {
            Some(Ok(Frame::Data(data))) => {
                self.size += data.len() as u64;
                if self.size > REPLAY_BYTES_MAX as u64 && !self.lost {
                    self.lost = true;
                    self.data = Vec::new();
                    self.tell();
                }
                if !self.lost {
                    self.data.extend_from_slice(data);
                }
            }
            Some(Ok(Frame::Trailers(trailers))) => self.trailers = Some(trailers.clone()),
            Some(Err(_)) => {
                self.lost = true;
                // A request that broke off is nobody's to repeat.
                self.whole = None;
            }
            None => {}
        }
        if matches!(frame, Some(Ok(Frame::Trailers(_))) | None) || (frame.is_some() && self.source.is_end()) {
            self.ended = true;
            self.tell();
        } else if matches!(frame, Some(Ok(_))) && self.length == Some(self.size) {
            // A writer that was told the length stops here and never asks for the end.
            self.tell();
        }
    }
}

// === impl Reading ===

impl Reading {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut kept = self.replay.0.borrow_mut();
        if let Some(rest) = kept.unread(self.bytes) {
            let data = Bytes::copy_from_slice(rest);
            self.bytes += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::Data(data))));
        }
        if kept.ended {
            let trailers = if self.trailers_given { None } else { kept.trailers.clone() };
            self.trailers_given = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::Trailers(trailers))));
        }
        if kept.lost && self.bytes < kept.size {
            // What came before is not here any more: from the middle on it would be another body.
            return Poll::Ready(Some(Err(BodyError::new(Reason::Internal))));
        }
        let frame = std::task::ready!(kept.source.poll_frame(cx));
        kept.keep(&frame);
        match &frame {
            Some(Ok(Frame::Data(data))) => self.bytes += data.len() as u64,
            Some(Ok(Frame::Trailers(_))) => self.trailers_given = true,
            _ => {}
        }
        Poll::Ready(frame)
    }

    pub(crate) fn exact_length(&self) -> Option<u64> {
        self.replay.0.borrow().length.map(|length| length.saturating_sub(self.bytes))
    }

    pub(crate) fn is_end(&self) -> bool {
        let kept = self.replay.0.borrow();
        let ended = kept.ended || kept.source.is_end();
        kept.unread(self.bytes).is_none() && ended && (kept.trailers.is_none() || self.trailers_given)
    }

    pub(crate) fn poll_progress(&mut self, cx: &mut Context<'_>) {
        self.replay.0.borrow_mut().source.poll_progress(cx);
    }

    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.replay.0.borrow_mut().source.poll_finish(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::LocalBody;
    use super::*;
    use std::collections::VecDeque;
    use std::task::Waker;

    struct Pieces(VecDeque<Result<&'static [u8], BodyError>>);

    impl LocalBody for Pieces {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            let piece = self.0.pop_front();
            Poll::Ready(piece.map(|piece| piece.map(|piece| Frame::Data(Bytes::from_static(piece)))))
        }
    }

    fn pieces(pieces: &[&'static [u8]]) -> Body {
        Body::Boxed(Box::new(Pieces(pieces.iter().map(|piece| Ok(*piece)).collect())))
    }

    fn read(body: &mut Body, frames: usize) -> String {
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = String::new();
        for _ in 0..frames {
            match body.poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => all.push_str(std::str::from_utf8(&data).unwrap()),
                Poll::Ready(None) => all.push('.'),
                other => panic!("{other:?}"),
            }
        }
        all
    }

    fn told() -> (Rc<RefCell<Vec<Option<Bytes>>>>, Whole) {
        let told = Rc::new(RefCell::new(Vec::new()));
        let to = told.clone();
        (told, Box::new(move |body| to.borrow_mut().push(body)))
    }

    #[test]
    fn a_second_reading_begins_with_what_the_first_has_read_and_goes_on() {
        let (told, whole) = told();
        let replay = Replay::new(&Spares::default(), pieces(&[b"one ", b"two ", b"three"]), Some(whole));
        let mut first = replay.body();
        assert_eq!(read(&mut first, 2), "one two ");
        drop(first);
        assert!(replay.is_whole());
        assert!(told.borrow().is_empty());
        assert_eq!(read(&mut replay.body(), 4), "one two three..");
        assert_eq!(read(&mut replay.body(), 2), "one two three.");
        assert_eq!(*told.borrow(), [Some(Bytes::from_static(b"one two three"))]);
    }

    #[test]
    fn memory_goes_from_one_body_to_the_next_and_nothing_else_does() {
        let spares = Spares::default();
        let broken = Body::Boxed(Box::new(Pieces(
            [Ok(&b"a secret"[..]), Err(BodyError::new(Reason::Internal))].into(),
        )));
        let replay = Replay::new(&spares, broken, None);
        let mut first = replay.body();
        assert_eq!(read(&mut first, 1), "a secret");
        let address = replay.0.borrow().data.as_ptr();
        drop(replay);
        assert!(spares.0.borrow().is_empty(), "it is being read");
        drop(first);
        assert_eq!(spares.0.borrow().len(), 1);
        let replay = Replay::new(&spares, pieces(&[b"b"]), None);
        assert!(spares.0.borrow().is_empty());
        assert_eq!(replay.0.borrow().data.as_ptr(), address);
        assert!(replay.is_whole());
        assert_eq!(read(&mut replay.body(), 2), "b.");
        assert_eq!(read(&mut replay.body(), 2), "b.");
    }

    #[test]
    fn what_is_held_ready_has_a_bound() {
        static LARGE: [u8; SPARE_BYTES_MAX + 1] = [b'a'; SPARE_BYTES_MAX + 1];
        let spares = Spares::default();
        let all: Vec<_> =
            (0..2 * SPARES_MAX).map(|_| Replay::new(&spares, pieces(&[&LARGE]), None)).collect();
        for replay in &all {
            read(&mut replay.body(), 2);
        }
        drop(all);
        assert_eq!(spares.0.borrow().len(), SPARES_MAX);
        assert!(spares.0.borrow().iter().all(|kept| kept.borrow().data.capacity() == 0));
    }

    #[test]
    fn a_body_that_comes_by_single_bytes_takes_no_more_room_than_its_bytes() {
        const PIECES: usize = 4096;
        let replay = Replay::new(&Spares::default(), pieces(&[&b"a"[..]; PIECES]), None);
        assert_eq!(read(&mut replay.body(), PIECES).len(), PIECES);
        let kept = replay.0.borrow();
        assert_eq!(kept.data.len(), PIECES);
        assert!(kept.data.capacity() <= 2 * PIECES, "{}", kept.data.capacity());
    }

    #[test]
    fn a_long_body_is_never_read_from_its_middle() {
        static LONG: [u8; REPLAY_BYTES_MAX] = [b'a'; REPLAY_BYTES_MAX];
        let replay = Replay::new(&Spares::default(), pieces(&[&LONG, b"b", b"c"]), None);
        read(&mut replay.body(), 2);
        let mut again = replay.body();
        let frame = again.poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(frame, Poll::Ready(Some(Err(_)))), "{frame:?}");
    }

    #[test]
    fn a_long_body_goes_on_and_is_not_kept() {
        static LONG: [u8; REPLAY_BYTES_MAX] = [b'a'; REPLAY_BYTES_MAX];
        let (told, whole) = told();
        let replay = Replay::new(&Spares::default(), pieces(&[&LONG, b"b", b"c"]), Some(whole));
        let mut body = replay.body();
        read(&mut body, 1);
        assert!(replay.is_whole());
        assert_eq!(read(&mut body, 3), "bc.");
        assert!(!replay.is_whole());
        assert_eq!(*told.borrow(), [None]);
    }

    #[test]
    fn a_body_that_breaks_off_is_told_to_nobody() {
        let (told, whole) = told();
        let broken = BodyError::aborted(Reason::ConnectionReset);
        let source = Body::Boxed(Box::new(Pieces([Ok(&b"a"[..]), Err(broken)].into())));
        let replay = Replay::new(&Spares::default(), source, Some(whole));
        let mut body = replay.body();
        read(&mut body, 1);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(body.poll_frame(&mut cx), Poll::Ready(Some(Err(_)))));
        assert!(!replay.is_whole());
        drop((body, replay));
        assert!(told.borrow().is_empty());
    }

    #[test]
    fn a_body_at_hand_has_its_length_in_every_reading() {
        let replay = Replay::new(&Spares::default(), Body::Full(Bytes::from_static(b"1234")), None);
        let mut first = replay.body();
        assert_eq!(first.exact_length(), Some(4));
        assert_eq!(read(&mut first, 2), "1234.");
        assert!(first.is_end());
        assert!(matches!(replay.body(), Body::Full(_)), "at hand, so that it can be given back");
        let (told, whole) = told();
        assert!(matches!(Replay::new(&Spares::default(), Body::Empty, Some(whole)).body(), Body::Empty));
        assert_eq!(*told.borrow(), [Some(Bytes::new())]);
    }
}
