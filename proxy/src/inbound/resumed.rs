//! A body whose beginning was read before anybody wanted it, put back in front of its rest.

use crate::http::{Body, BodyError, Frame, LocalBody};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// What was read, and what was not.
pub struct Resumed {
    frames: VecDeque<Result<Frame, BodyError>>,
    /// Bytes in the frames.
    bytes: usize,
    rest: Body,
    /// How many are still to be given, if that was certain before any was read: an end that came since, and
    /// trailers with it, must not change how the body is framed.
    length: Option<u64>,
    room: Option<Room>,
}

/// What a worker's bodies that were read early may take together.
#[derive(Clone, Debug)]
pub struct Room {
    taken: Rc<Cell<usize>>,
    most: usize,
}

/// Why no more is read.
#[derive(Debug)]
pub enum Stopped {
    /// There is no room for it. What did not fit is lost: such a body goes nowhere any more.
    Full,
    /// It broke off.
    Broken(BodyError),
}

// === impl Room ===

impl Room {
    /// For so many bytes.
    pub fn new(most: usize) -> Self {
        Self { taken: Rc::default(), most }
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = self.taken.get().saturating_add(bytes);
        if taken > self.most {
            return false;
        }
        self.taken.set(taken);
        true
    }

    fn give_back(&self, bytes: usize) {
        self.taken.set(self.taken.get().saturating_sub(bytes));
    }
}

// === impl Resumed ===

impl Resumed {
    /// Nothing is read yet. `room`: what the bytes are counted against.
    pub fn new(body: Body, room: Option<Room>) -> Self {
        let length = body.exact_length();
        Self { frames: VecDeque::new(), bytes: 0, rest: body, length, room }
    }

    /// Bytes that were read.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The pieces of data that were read.
    pub fn data(&self) -> impl Iterator<Item = &[u8]> {
        self.frames.iter().filter_map(|frame| match frame {
            Ok(Frame::Data(data)) => Some(&**data),
            Ok(Frame::Trailers(_)) | Err(_) => None,
        })
    }

    /// Whether it is certain that nothing follows what was read.
    pub fn is_whole(&self) -> bool {
        self.rest.is_end()
    }

    /// Reads one frame more and keeps it; `None` at the end.
    pub async fn read(&mut self) -> Result<Option<&Frame>, Stopped> {
        let Some(frame) = self.rest.frame().await else { return Ok(None) };
        if let Ok(Frame::Data(data)) = &frame {
            if self.room.as_ref().is_some_and(|room| !room.take(data.len())) {
                return Err(Stopped::Full);
            }
            self.bytes += data.len();
        }
        self.frames.push_back(frame);
        match self.frames.back() {
            Some(Ok(frame)) => Ok(Some(frame)),
            Some(Err(error)) => Err(Stopped::Broken(*error)),
            None => Ok(None),
        }
    }
}

impl From<Resumed> for Body {
    fn from(resumed: Resumed) -> Self {
        Self::Boxed(Box::new(resumed))
    }
}

impl LocalBody for Resumed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = match self.frames.pop_front() {
            Some(frame) => {
                if let Ok(Frame::Data(data)) = &frame {
                    self.bytes -= data.len();
                    if let Some(room) = &self.room {
                        room.give_back(data.len());
                    }
                }
                Some(frame)
            }
            None => ready!(self.rest.poll_frame(cx)),
        };
        if let (Some(length), Some(Ok(Frame::Data(data)))) = (&mut self.length, &frame) {
            *length = length.saturating_sub(data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn exact_length(&self) -> Option<u64> {
        self.length
    }

    fn is_end(&self) -> bool {
        self.frames.is_empty() && self.rest.is_end()
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) {
        self.rest.poll_progress(cx);
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        self.rest.poll_broken(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.rest.poll_finish(cx)
    }
}

impl Drop for Resumed {
    fn drop(&mut self) {
        if let Some(room) = &self.room {
            room.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Headers;
    use bytes::Bytes;
    use std::task::Waker;

    #[tokio::test]
    async fn a_body_that_was_looked_into_is_as_it_was() {
        let mut headers = Headers::new();
        headers.append("x-checksum", b"1").unwrap();
        let frames = VecDeque::from([
            Ok(Frame::Data(Bytes::from_static(b"ab"))),
            Ok(Frame::Data(Bytes::from_static(b"cd"))),
            Ok(Frame::Trailers(headers)),
        ]);
        let mut body = Body::from(Resumed { frames, bytes: 4, rest: Body::Empty, length: None, room: None });
        assert!(!body.is_end());
        let (data, trailers) = body.collect(10).await.unwrap();
        assert_eq!(data, "abcd");
        assert_eq!(trailers.unwrap().find("x-checksum"), Some(&b"1"[..]));
    }

    fn body(text: &'static str) -> Body {
        Body::Full(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn what_was_read_comes_again_and_gives_its_room_back() {
        let room = Room::new(10);
        let mut read = Resumed::new(body("12345"), Some(room.clone()));
        assert!(matches!(read.read().await, Ok(Some(Frame::Data(data))) if &**data == b"12345"));
        assert!(matches!(read.read().await, Ok(None)));
        assert_eq!((read.bytes(), read.is_whole(), room.taken.get()), (5, true, 5));
        assert_eq!((read.exact_length(), read.is_end()), (Some(5), false));
        let mut cx = Context::from_waker(Waker::noop());
        let again = read.poll_frame(&mut cx);
        assert!(matches!(again, Poll::Ready(Some(Ok(Frame::Data(data)))) if &*data == b"12345"));
        assert_eq!((read.exact_length(), read.is_end(), room.taken.get()), (Some(0), true, 0));
    }

    #[tokio::test]
    async fn bodies_share_the_room_and_none_goes_beyond_it() {
        let room = Room::new(8);
        let mut first = Resumed::new(body("12345"), Some(room.clone()));
        assert!(first.read().await.is_ok());
        let mut second = Resumed::new(body("6789"), Some(room.clone()));
        assert!(matches!(second.read().await, Err(Stopped::Full)));
        drop(second);
        drop(first);
        assert_eq!(room.taken.get(), 0);
        assert!(Resumed::new(body("12345678"), Some(room.clone())).read().await.is_ok());
    }
}
