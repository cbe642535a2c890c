//! A request on its way to a server: its head, its body, and whether it could be sent again.
//!
//! A body that is at hand leaves with the head and stays in the request, which can so be sent once
//! more. A body that is still arriving is not touched before the head was taken
//! by the kernel, nor, where the client expects `100 Continue`, before the server asked for it or
//! a second went by.

use super::encode;
use super::framing::Framing;
use super::output::Output;
use super::writer::BodyWriter;
use crate::http::{Body, BodyError, Known, Request};
use crate::stream::Stream;
use crate::timer::Timer;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// How long a server may leave the expectation unanswered: old ones do not know it.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// A request being sent.
#[derive(Default)]
pub(crate) struct Upload {
    output: Output,
    writer: Option<BodyWriter>,
    /// The body, once the answer's head was here before the upload's end.
    body: Body,
    /// Waits for `100 Continue` since the head was sent.
    expecting: bool,
    timer: Timer,
    touched: bool,
    failed: bool,
    resumed: bool,
}

/// Why an upload ended early.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// The server takes no more.
    Io,
    /// The body failed.
    Body(BodyError),
}

// === impl Upload ===

impl Upload {
    /// Encodes the request.
    pub(crate) fn begin(&mut self, request: &Request) {
        let length = request.body.exact_length();
        let framing = encode::request(&request.head, length, self.output.text());
        self.output.restart();
        self.touched = false;
        self.failed = false;
        self.resumed = false;
        self.expecting = false;
        match &request.body {
            Body::Empty | Body::Tunnel(_) => self.writer = None,
            Body::Full(bytes) => {
                self.writer = None;
                self.output.push(bytes.clone());
            }
            Body::H1(_) | Body::H2(_) | Body::Replay(_) | Body::Boxed(_) => {
                self.writer = Some(BodyWriter::new(framing)).filter(|writer| !writer.is_done());
                self.expecting = self.writer.is_some() && expects_continue(request);
                debug_assert!(framing != Framing::None, "requests always have a framing");
            }
        }
    }

    /// Sends on, from this body. `Ready` when all was sent.
    pub(crate) fn poll(
        &mut self,
        stream: &mut Stream,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        if self.failed {
            return Poll::Pending;
        }
        loop {
            if ready!(self.output.poll_write(stream, cx)).is_err() {
                self.failed = true;
                return Poll::Ready(Err(UploadError::Io));
            }
            let Some(writer) = &mut self.writer else { return Poll::Ready(Ok(())) };
            if self.expecting {
                self.timer.start(CONTINUE_TIMEOUT);
                ready!(self.timer.poll(cx));
                self.expecting = false;
            }
            self.touched = true;
            let gathered = writer.poll_gather(body, &mut self.output, cx);
            if writer.is_done() {
                self.writer = None;
            }
            match gathered {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.failed = true;
                    return Poll::Ready(Err(UploadError::Body(error)));
                }
                Poll::Pending if self.output.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    // What was gathered leaves now; the body has our waker.
                    if ready!(self.output.poll_write(stream, cx)).is_err() {
                        self.failed = true;
                        return Poll::Ready(Err(UploadError::Io));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Sends on, from the body that was kept.
    pub(crate) fn poll_kept(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        let mut body = std::mem::take(&mut self.body);
        let polled = self.poll(stream, &mut body, cx);
        if !self.is_done() && !self.failed {
            self.body = body;
        }
        polled
    }

    /// Keeps the body for the rest of the upload, if there is a rest.
    pub(crate) fn keep(&mut self, body: &mut Body) {
        if self.writer.is_some() && !self.failed {
            self.body = std::mem::take(body);
        }
    }

    /// The server asked for the body.
    pub(crate) fn resume(&mut self) {
        self.resumed |= std::mem::take(&mut self.expecting);
        self.timer.clear();
    }

    /// Whether the upload can go on since it was last asked.
    pub(crate) fn resumes(&mut self) -> bool {
        std::mem::take(&mut self.resumed)
    }

    /// Whether everything was sent.
    pub(crate) fn is_done(&self) -> bool {
        self.writer.is_none() && self.output.is_empty() && !self.failed
    }

    /// Whether a byte of the request was sent.
    pub(crate) fn started(&self) -> bool {
        self.output.started()
    }

    /// Whether the body was polled, so that the request cannot be sent once more.
    pub(crate) fn touched(&self) -> bool {
        self.touched
    }
}

fn expects_continue(request: &Request) -> bool {
    let expect = request.head.headers().get(Known::Expect);
    expect.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
}
