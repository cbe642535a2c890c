//! A body whose beginning was read before anybody wanted it, put back in front of its rest.

use crate::http::{Body, BodyError, Frame, LocalBody};
use bytes::BytesMut;
use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

/// What was read, and what was not.
pub struct Resumed {
    /// In one piece, whatever pieces it came in: a client that sends single bytes makes it no larger.
    read: BytesMut,
    /// What came behind it and ended the reading: trailers, or that it broke off.
    last: Option<Result<Frame, BodyError>>,
    rest: Body,
    /// Nothing follows.
    ended: bool,
    /// How many bytes are still to be given, if that was certain before any was read: an end that came since, and
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
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
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
        Self { read: BytesMut::new(), last: None, rest: body, ended: false, length, room }
    }

    /// What was read.
    pub fn data(&self) -> &[u8] {
        &self.read
    }

    /// Whether there is no more than what was read, trailers included.
    pub fn is_whole(&self) -> bool {
        self.last.is_none() && self.is_over()
    }

    /// Reads until the end of the data, or until there is more than `most` bytes of it.
    pub async fn read_over(&mut self, most: usize) -> Result<(), Stopped> {
        while !self.is_over() && self.last.is_none() && self.read.len() <= most {
            match self.rest.frame().await {
                None => self.ended = true,
                Some(Ok(Frame::Data(data))) => {
                    if self.room.as_ref().is_some_and(|room| !room.take(data.len())) {
                        return Err(Stopped::Full);
                    }
                    self.read.extend_from_slice(&data);
                }
                Some(last) => {
                    let broken = last.as_ref().err().copied();
                    self.last = Some(last);
                    return broken.map_or(Ok(()), |error| Err(Stopped::Broken(error)));
                }
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.ended || self.rest.is_end()
    }

    /// What was read, which has its room back.
    fn give(&mut self) -> BytesMut {
        if let Some(room) = &self.room {
            room.give_back(self.read.len());
        }
        std::mem::take(&mut self.read)
    }
}

impl From<Resumed> for Body {
    fn from(resumed: Resumed) -> Self {
        Self::Boxed(Box::new(resumed))
    }
}

impl LocalBody for Resumed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = if !self.read.is_empty() {
            Poll::Ready(Some(Ok(Frame::Data(self.give().freeze()))))
        } else if let Some(last) = self.last.take() {
            Poll::Ready(Some(last))
        } else {
            self.rest.poll_frame(cx)
        };
        if let (Some(length), Poll::Ready(Some(Ok(Frame::Data(data))))) = (&mut self.length, &frame) {
            *length = length.saturating_sub(data.len() as u64);
        }
        frame
    }

    fn exact_length(&self) -> Option<u64> {
        self.length
    }

    fn is_end(&self) -> bool {
        self.read.is_empty() && self.last.is_none() && self.is_over()
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
        self.give();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Headers;
    use bytes::Bytes;
    use std::collections::VecDeque;
    use std::task::Waker;

    struct Pieces(VecDeque<Frame>);

    impl LocalBody for Pieces {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn pieces(frames: impl IntoIterator<Item = Frame>) -> Body {
        Body::Boxed(Box::new(Pieces(frames.into_iter().collect())))
    }

    fn data(text: &'static str) -> Frame {
        Frame::Data(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_body_that_was_looked_into_is_as_it_was() {
        let mut headers = Headers::new();
        headers.append("x-checksum", b"1").unwrap();
        for most in [0, 1, 2, 4, 9] {
            let frames = [data("ab"), data("cd"), data("e"), Frame::Trailers(headers.clone())];
            let mut read = Resumed::new(pieces(frames), None);
            read.read_over(most).await.unwrap();
            assert!(read.data().len() > most || read.data() == b"abcde", "{most}");
            assert!(!read.is_whole(), "there are trailers");
            let (data, trailers) = Body::from(read).collect(10).await.unwrap();
            assert_eq!(data, "abcde");
            assert_eq!(trailers.unwrap().find("x-checksum"), Some(&b"1"[..]));
        }
    }

    #[tokio::test]
    async fn a_body_in_single_bytes_takes_no_more_than_one_in_a_piece() {
        let bytes = 100_000;
        let mut read = Resumed::new(pieces((0..bytes).map(|_| data("x"))), None);
        read.read_over(bytes).await.unwrap();
        assert_eq!(read.data().len(), bytes);
        assert!(read.read.capacity() <= 2 * bytes, "{}", read.read.capacity());
        assert_eq!(Body::from(read).collect(bytes).await.unwrap().0.len(), bytes);
    }

    fn body(text: &'static str) -> Body {
        Body::Full(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn what_was_read_comes_again_and_gives_its_room_back() {
        let room = Room::new(10);
        let mut read = Resumed::new(body("12345"), Some(room.clone()));
        read.read_over(9).await.unwrap();
        assert_eq!((read.data(), read.is_whole(), room.taken.get()), (&b"12345"[..], true, 5));
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
        first.read_over(9).await.unwrap();
        let mut second = Resumed::new(body("6789"), Some(room.clone()));
        assert_eq!(second.read_over(9).await, Err(Stopped::Full));
        drop(second);
        drop(first);
        assert_eq!(room.taken.get(), 0);
        assert!(Resumed::new(body("12345678"), Some(room.clone())).read_over(9).await.is_ok());
    }
}
