//! Connections to one place: an endpoint's proxy, a plain endpoint, or the application.
//!
//! HTTP/1.1 connections carry one exchange at a time and come back when it is over; HTTP/2 ones are
//! shared. Between proxies the wire is chosen by load: while few requests are in flight to the peer
//! HTTP/1.1 is cheaper (each request pays its own wake-ups either way), with many HTTP/2 is (writes
//! batch). gRPC always goes over HTTP/2 and Upgrade always over HTTP/1.1. A pool belongs to a worker.
//!
//! A server may close an idle connection while a request is on its way to it. Connections are left before
//! that ([`idle`]); a request that still meets it is sent once more where it can be sent twice, or where our
//! own proxy says that it did not take it, and otherwise fails: nothing is guessed.

mod dial;
mod idle;
mod leaving;

pub use dial::{DEFAULT_CONNECT_TIMEOUT, Dial};

use crate::h1::{self, Delivered, Recycle, SendError};
use crate::h2;
use crate::http::{Known, Limits, Request, Response};
use crate::metrics::Direction;
use crate::outbound::connections::Connections;
use crate::outbound::limits::Place;
use crate::stream::Stream;
use crate::tls::MeshAlpn;
use crate::worker::Worker;
use idle::{IDLE_AGE_MAX, IdleAge};
use leaving::Leaving;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use weft_model::reason::Reason;
use weft_runtime::spawn_local;

/// Idle HTTP/1.1 connections kept per place and worker. Above what is in flight at once in practice: a
/// connection that is closed for want of room costs a new one, and its port for a minute; an idle one
/// costs a few hundred bytes here and is closed by age.
const IDLE_MAX: usize = 1024;

/// In flight to a peer from which on HTTP/2 is the cheaper wire.
const H2_IN_FLIGHT_MIN: usize = 4;

/// HTTP/2 connections to one place from one worker.
const H2_CONNECTIONS_MAX: usize = 8;

/// Which wire a request must or may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wire {
    /// By load.
    Any,
    /// One exchange at a time.
    Http1,
    /// Multiplexed.
    Http2,
    /// A connection of its own: opaque bytes.
    Opaque,
}

/// Connections to one place.
pub struct Pool {
    address: SocketAddr,
    dial: Dial,
    direction: Direction,
    idle: RefCell<Vec<(Instant, h1::ClientConnection)>>,
    idle_age: IdleAge,
    shared: RefCell<Vec<h2::ClientConnection>>,
    connecting: Cell<bool>,
    /// When the last HTTP/2 handshake failed, and why.
    failed: Cell<Option<(Instant, Reason)>>,
    connected: Notify,
    in_flight: Cell<usize>,
    /// Connections that were begun.
    dials: Cell<u64>,
    limits: Rc<Limits>,
    /// What the peer's proxy said of its drain: others are the better choice then.
    leaving: Leaving,
    /// What its connections are counted by.
    connections: Option<Rc<Connections>>,
}

/// What is to be given back when a connection is closed.
pub type Held = Option<Box<dyn Any>>;

/// A request in flight: lowers the count when dropped.
pub struct InFlight {
    pool: Rc<Pool>,
    /// Its place among all that are under way to the Service, given back with it.
    place: Option<Place>,
}

impl InFlight {
    /// Keeps the place for as long as the request is in flight.
    #[must_use]
    pub fn with(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.pool.in_flight.set(self.pool.in_flight.get().saturating_sub(1));
        drop(self.place.take());
    }
}

// === impl Pool ===

impl Pool {
    /// An empty pool.
    pub fn new(
        address: SocketAddr,
        dial: Dial,
        direction: Direction,
        connections: Option<Rc<Connections>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            address,
            idle_age: IdleAge::new(matches!(dial, Dial::Mesh { .. })),
            dial,
            direction,
            idle: RefCell::default(),
            shared: RefCell::default(),
            connecting: Cell::new(false),
            failed: Cell::new(None),
            connected: Notify::new(),
            in_flight: Cell::new(0),
            dials: Cell::new(0),
            limits: Rc::default(),
            leaving: Leaving::default(),
            connections,
        })
    }

    /// Where it leads.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Connections that were begun so far: tells whether one had to be made meanwhile.
    pub fn dials(&self) -> u64 {
        self.dials.get()
    }

    /// Whether the peer asked its clients, lately, to go elsewhere.
    pub fn is_leaving(&self, now: Instant) -> bool {
        self.leaving.is_away(now)
    }

    /// The peer said that it drains: by `x-weft-draining`, or by GOAWAY. Idle connections are closed from this
    /// side, so that none is closed by the peer while a request is on its way.
    fn left(&self) {
        self.leaving.told(Instant::now());
        self.idle.borrow_mut().clear();
    }

    /// Counts a request as in flight until the guard is dropped.
    pub fn begin(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight { pool: self.clone(), place: None }
    }

    /// Sends a request on a connection that is there or on a new one. What it came as stays with the caller:
    /// the head whatever comes of it, and a body that is at hand; one that arrives meanwhile is taken.
    pub async fn send(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        request: &mut Request,
        wire: Wire,
    ) -> Result<Response, SendError> {
        if self.takes_http2(wire) {
            return self.send_http2(worker, request).await;
        }
        self.send_http1(worker, request).await
    }

    fn takes_http2(&self, wire: Wire) -> bool {
        match (wire, &self.dial) {
            (Wire::Http1 | Wire::Opaque, _) | (Wire::Any, Dial::Plain) => false,
            (Wire::Http2, _) => true,
            // Where connections are few, they are shared.
            (Wire::Any, Dial::Mesh { .. }) => self.in_flight.get() >= H2_IN_FLIGHT_MIN || self.is_limited(),
        }
    }

    fn is_limited(&self) -> bool {
        self.connections.as_ref().is_some_and(|connections| connections.is_limited())
    }

    /// Whether a request would find a connection to use.
    pub fn has_free(&self, wire: Wire) -> bool {
        if wire == Wire::Opaque {
            return false;
        }
        if self.takes_http2(wire) {
            return self.shared.borrow().iter().any(|held| held.is_open() && held.has_room());
        }
        !self.idle.borrow().is_empty()
    }

    /// Closes one connection that is not used, if there is one.
    pub fn give_up_idle(&self) -> bool {
        // The one that lay idle longest.
        let mut idle = self.idle.borrow_mut();
        if !idle.is_empty() {
            drop(idle.remove(0));
            return true;
        }
        let mut shared = self.shared.borrow_mut();
        let unused = shared.iter().position(|connection| connection.in_flight() == 0);
        unused.map(|index| drop(shared.swap_remove(index))).is_some()
    }

    async fn send_http1(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        request: &mut Request,
    ) -> Result<Response, SendError> {
        let repeatable = request.head.method.is_idempotent() && request.body.is_at_hand();
        // A connection that lay idle may have been closed meanwhile; one that says so before the
        // request left it costs nothing but a look at the next.
        while let Some((since, connection)) = self.take_idle(worker, repeatable) {
            match connection.send(request, Some(self.clone() as Rc<dyn Recycle>)).await {
                // Said by the peer, not by the connection: another connection would hear the same.
                Err(error) if error.reason != Reason::ConnectionReset || error.aborted => return Err(error),
                Err(SendError { delivered: Delivered::No, intact: true, .. }) => {
                    self.found_closed(worker, since, "before");
                }
                // It was on its way when the server closed. Once more, on a connection that is new and
                // cannot have been closed for its age.
                Err(SendError { intact: true, .. }) if repeatable => {
                    worker.connections.reused_closed(self.direction, "repeated");
                    break;
                }
                Err(error) => {
                    worker.connections.reused_closed(self.direction, "lost");
                    return Err(error);
                }
                sent => return self.heard(sent),
            }
        }
        // Boxed: a new connection is rare, and its handshake would lie in every request's future.
        let (stream, held) = match Box::pin(self.connect(worker, MeshAlpn::Http1)).await {
            Ok(connected) => connected,
            Err(reason) => return Err(SendError::new(reason, Delivered::No, true)),
        };
        let mut connection = h1::ClientConnection::new(stream, self.limits.clone()).holding(held);
        if matches!(self.dial, Dial::Mesh { .. }) {
            connection = connection.to_mesh();
        }
        let sent = connection.send(request, Some(self.clone() as Rc<dyn Recycle>)).await;
        self.heard(sent)
    }

    /// `Connection: close` alone says nothing of the peer: an answer that came before its request had been
    /// read ends its connection too.
    fn heard(&self, mut sent: Result<Response, SendError>) -> Result<Response, SendError> {
        if let (Ok(response), Dial::Mesh { .. }) = (&mut sent, &self.dial)
            && response.head.headers().contains(Known::XWeftDraining)
        {
            response.head.headers_mut().remove(Known::XWeftDraining);
            self.left();
        }
        sent
    }

    /// A connection that may be used again; `repeatable`: for a request that can be sent twice.
    fn take_idle(&self, worker: &Worker, repeatable: bool) -> Option<(Instant, h1::ClientConnection)> {
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            return None;
        }
        let now = Instant::now();
        // An application that stops closes its connections, whatever its habits were.
        let stopping = self.direction == Direction::Inbound && worker.shared.drain.is_draining();
        let limit =
            if stopping && !repeatable { Duration::ZERO } else { self.idle_age.limit(repeatable, now) };
        while let Some((since, mut connection)) = idle.pop() {
            let open = if repeatable { connection.seems_open() } else { connection.is_open() };
            if !open {
                self.found_closed(worker, since, "before");
            } else if now.duration_since(since) < limit {
                return Some((since, connection));
            } else {
                // Let go of, so that there are never more than were in use. What lies below is older.
                return None;
            }
        }
        None
    }

    /// The server has closed a connection that lay idle since then. One that breaks while a request is on
    /// it teaches nothing: it may be the request's doing.
    fn found_closed(&self, worker: &Worker, since: Instant, outcome: &'static str) {
        let now = Instant::now();
        self.idle_age.closed(now.duration_since(since), now);
        worker.connections.reused_closed(self.direction, outcome);
    }

    async fn send_http2(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        request: &mut Request,
    ) -> Result<Response, SendError> {
        // Twice: a connection that goes away between being found and being used is replaced once.
        let mut last = Reason::ConnectionReset;
        for _ in 0..2 {
            let connection = match self.http2(worker).await {
                Ok(connection) => connection,
                Err(reason) => return Err(SendError::new(reason, Delivered::No, true)),
            };
            match connection.send(request).await {
                Err(SendError { delivered: Delivered::No, intact: true, reason, .. })
                    if reason == Reason::ConnectionReset || !connection.is_open() =>
                {
                    last = reason;
                }
                other => return other,
            }
        }
        Err(SendError::new(last, Delivered::No, true))
    }

    async fn http2(self: &Rc<Self>, worker: &Rc<Worker>) -> Result<h2::ClientConnection, Reason> {
        let asked = Instant::now();
        loop {
            let full = {
                let mut shared = self.shared.borrow_mut();
                let mut asked_to_go = false;
                shared.retain(|connection| {
                    let open = connection.is_open();
                    asked_to_go |= !open && connection.was_asked_to_go();
                    open
                });
                if asked_to_go && matches!(self.dial, Dial::Mesh { .. }) {
                    self.left();
                }
                if let Some(connection) = shared.iter().find(|connection| connection.has_room()) {
                    return Ok(connection.clone());
                }
                shared.len() >= H2_CONNECTIONS_MAX
            };
            if full {
                return Err(Reason::Overloaded);
            }
            if self.connecting.get() {
                // One handshake at a time; whoever waits takes what it brought, its failure included, so
                // that those who wait do not fail one after the other.
                self.connected.notified().await;
                if let Some((at, reason)) = self.failed.get()
                    && at >= asked
                {
                    return Err(reason);
                }
                continue;
            }
            self.connecting.set(true);
            let made = Connecting(self);
            let connection = Box::pin(self.connect_http2(worker)).await;
            match &connection {
                Ok(connection) => self.shared.borrow_mut().push(connection.clone()),
                Err(reason) => self.failed.set(Some((Instant::now(), *reason))),
            }
            drop(made);
            return connection;
        }
    }

    async fn connect_http2(self: &Rc<Self>, worker: &Rc<Worker>) -> Result<h2::ClientConnection, Reason> {
        let (stream, held) = self.connect(worker, MeshAlpn::H2).await?;
        let settings = match self.dial {
            Dial::Mesh { .. } => h2::Settings::mesh(),
            Dial::Plain => h2::Settings::client(),
        };
        let (connection, driver) = h2::ClientConnection::handshake(stream, &settings).await?;
        if let Some(connections) = self.connections.clone() {
            connection.tell_room(Rc::new(move || connections.freed()));
        }
        spawn_local("http2 client", async move {
            driver.await;
            drop(held);
        });
        Ok(connection)
    }

    /// Makes a connection for opaque bytes.
    pub async fn connect_opaque(&self, worker: &Rc<Worker>) -> Result<(Stream, Held), Reason> {
        self.connect(worker, MeshAlpn::Tcp).await
    }

    /// Takes in a connection that was made and on which nothing was said. One between proxies was made
    /// for opaque bytes and serves nothing else: it is closed.
    pub fn adopt(&self, stream: Stream, held: Held) {
        if matches!(self.dial, Dial::Plain) {
            self.recycle(h1::ClientConnection::new(stream, self.limits.clone()).holding(held));
        }
    }

    async fn connect(&self, worker: &Rc<Worker>, alpn: MeshAlpn) -> Result<(Stream, Held), Reason> {
        // Before anything is dialled: at its limit the Service hears nothing of it.
        let place = self.connections.as_ref().map(Connections::enter).transpose()?;
        self.dials.set(self.dials.get() + 1);
        let made = self.dial.connect(worker, self.address, self.direction, alpn).await;
        let outcome = match &made {
            Ok(_) => "ok",
            Err(reason) => reason.label(),
        };
        worker.connections.dialled(self.direction, outcome);
        made.map(|stream| (stream, place.map(|place| Box::new(place) as Box<dyn Any>)))
    }

    /// Whether nothing is connected and nothing under way.
    pub fn is_empty(&self) -> bool {
        self.in_flight.get() == 0 && self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }

    /// Closes what lay idle too long.
    pub fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain_mut(|(since, connection)| {
            let age = now.duration_since(*since);
            let open = connection.is_open();
            if !open {
                self.idle_age.closed(age, now);
            }
            open && age < IDLE_AGE_MAX
        });
        // A handle that is dropped while its connection has no streams closes it.
        if self.in_flight.get() == 0 && self.idle.borrow().is_empty() {
            self.shared.borrow_mut().retain(|connection| connection.is_open() && connection.in_flight() > 0);
        }
    }

    /// Closes all that is idle: the place is no longer what it was.
    pub fn close_idle(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }
}

impl Recycle for Pool {
    fn recycle(&self, connection: h1::ClientConnection) {
        if let Some(timeout) = connection.peer_idle_timeout() {
            self.idle_age.stated(timeout);
        }
        if self.connections.as_ref().is_some_and(|connections| connections.wanted_elsewhere() > 0) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX {
            idle.push((Instant::now(), connection));
            drop(idle);
            if let Some(connections) = &self.connections {
                connections.freed();
            }
        }
    }
}

/// Ends the state "connecting" however the handshake ends, its being dropped included.
struct Connecting<'a>(&'a Pool);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.connected.notify_waiters();
    }
}
