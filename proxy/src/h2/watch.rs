//! Watches a connection: is its peer still there, and is there still a use for it?
//!
//! One timer per connection, looked at a few times a minute. Silence for an interval sends a
//! PING; silence for the timeout after that means the peer is gone. Anything read counts as an
//! answer. It only judges; the connection's task acts. `Metered` tells it what was read, and the
//! client whether anything was written since a request was queued.

use super::settings::Settings;
use crate::stream::Stream;
use ::h2::{Ping, PingPong};
use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// What passed over a connection.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    read: Cell<bool>,
    written: Cell<u64>,
}

/// A stream that counts.
pub(crate) struct Metered {
    stream: Stream,
    meter: Rc<Meter>,
}

/// What the watch found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// The peer does not answer.
    Dead,
    /// No stream for as long as a connection may idle.
    Idle,
}

/// The watch over one connection.
pub(crate) struct Watch {
    timer: Pin<Box<Sleep>>,
    meter: Rc<Meter>,
    ping: Option<PingPong>,
    asked: bool,
    interval: Duration,
    timeout: Duration,
    idle: Option<Duration>,
    streams_seen: u64,
    idle_since: Instant,
    looks: u64,
}

// === impl Meter ===

impl Meter {
    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.get()
    }
}

// === impl Watch ===

impl Watch {
    /// `ping` is the connection's; `idle` is the longest time without a stream.
    pub(crate) fn new(
        settings: &Settings,
        meter: Rc<Meter>,
        ping: Option<PingPong>,
        idle: Option<Duration>,
    ) -> Self {
        let ping = ping.filter(|_| settings.keepalive.is_some());
        let interval = match (settings.keepalive, idle) {
            (Some(keepalive), Some(idle)) => keepalive.min(idle),
            (Some(interval), None) | (None, Some(interval)) => interval,
            // Nothing to look for.
            (None, None) => Duration::from_secs(3600),
        };
        Self {
            timer: Box::pin(sleep(interval)),
            meter,
            ping,
            asked: false,
            interval,
            timeout: settings.keepalive_timeout,
            idle,
            streams_seen: 0,
            idle_since: Instant::now(),
            looks: 0,
        }
    }

    /// How often it has looked at the connection: a slow clock for who has one.
    pub(crate) fn looks(&self) -> u64 {
        self.looks
    }

    /// `streams` counts the streams opened so far; `busy` says whether one is open.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, streams: u64, busy: bool) -> Poll<Verdict> {
        if self.asked
            && let Some(ping) = &mut self.ping
            && ping.poll_pong(cx).is_ready()
        {
            self.asked = false;
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            self.looks += 1;
            let now = Instant::now();
            let heard = self.meter.read.replace(false);
            if self.asked && !heard {
                return Poll::Ready(Verdict::Dead);
            }
            if busy || streams != self.streams_seen {
                self.streams_seen = streams;
                self.idle_since = now;
            } else if self.idle.is_some_and(|idle| now.duration_since(self.idle_since) >= idle) {
                self.idle_since = now;
                self.timer.as_mut().reset(now + self.interval);
                return Poll::Ready(Verdict::Idle);
            }
            let mut next = self.interval;
            if !heard
                && let Some(ping) = &mut self.ping
                && ping.send_ping(Ping::opaque()).is_ok()
            {
                self.asked = true;
                next = self.timeout;
                let _ = ping.poll_pong(cx);
            }
            self.timer.as_mut().reset(now + next);
        }
    }
}

// === impl Metered ===

impl Metered {
    pub(crate) fn new(stream: Stream) -> (Self, Rc<Meter>) {
        let meter = Rc::new(Meter::default());
        (Self { stream, meter: Rc::clone(&meter) }, meter)
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(length)) = written {
            self.meter.written.set(self.meter.written.get() + length as u64);
        }
        written
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_ready() {
            this.meter.read.set(true);
        }
        read
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.count(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
