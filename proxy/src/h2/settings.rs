//! The bounds of one HTTP/2 connection, each with its reason.

use crate::http::Limits;
use std::time::Duration;

/// Streams a peer may have open. As many as hyper and more than Go's 100; what it can cost is
/// bounded by the windows below.
pub const DEFAULT_STREAMS_MAX: u32 = 200;

/// What a peer may send on one stream before we read it. 512 KiB carry 250 MB/s over a round trip
/// of 2 ms, as between zones; a quarter of that over what is common within one.
pub const DEFAULT_STREAM_WINDOW: u32 = 512 * 1024;

/// What a peer may send on all streams before we read it: 32 streams whose readers do not read at
/// all, before they hold the others up. It is the most that one peer's unread bodies can occupy.
pub const DEFAULT_CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// What one stream may have waiting to be written. Two loop turns of a fast socket; more would
/// only move the queue from the sender to us.
pub const DEFAULT_SEND_BUFFER_BYTES_MAX: usize = 128 * 1024;

/// The largest frame we take from an application: what RFC 9113 has everybody take.
pub const DEFAULT_FRAME_BYTES_MAX: u32 = 16 * 1024;

/// The same between two proxies: with its head it fills four TLS records, which leave in one write. A frame of
/// 16 KiB makes a second record of nine bytes and a write of its own. As large as what is read of a body at once.
pub const MESH_FRAME_BYTES_MAX: u32 = crate::buffer::BUFFER_BYTES_LARGE as u32;

/// From the first byte of a connection to its preface and settings.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that was silent for so long is asked whether its peer is still there.
pub const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(10);

/// How long the peer has to answer: several retransmissions.
pub const DEFAULT_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// An application's connection lies idle more often than not, and on the same machine the kernel
/// tells of a peer that is gone: asked less often, and given the time that gRPC gives.
pub const APPLICATION_KEEPALIVE: Duration = Duration::from_secs(30);
/// See [`APPLICATION_KEEPALIVE`].
pub const APPLICATION_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Streams that were reset on our side and are remembered for a second, so that frames which were
/// on their way are told from wrong ones: an upload that is denied leaves a few.
pub const DEFAULT_RESET_MEMORY: usize = 256;

/// Errors of single streams that an application may make on one connection, over all its life.
/// Late frames of streams no longer remembered count too, hence not fewer.
pub const DEFAULT_STREAM_ERRORS_MAX: usize = 1024;

/// Requests that a peer may take back unanswered in a burst, and per second after that. A client
/// that gives up on a slow service takes back what it has in flight, a few hundred; the rapid
/// reset attack (CVE-2023-44487) is tens of thousands a second.
pub const DEFAULT_RESETS_BURST: u32 = 400;
/// See [`DEFAULT_RESETS_BURST`].
pub const DEFAULT_RESETS_PER_SECOND: u32 = 100;

/// The same between two proxies: one connection carries what a whole worker of the peer takes
/// back, and the peer has proved who it is.
pub const MESH_RESETS_BURST: u32 = 2000;
/// See [`MESH_RESETS_BURST`].
pub const MESH_RESETS_PER_SECOND: u32 = 1000;

/// Bounds and waits of an HTTP/2 connection.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What holds for heads on either codec, and the idle timeout.
    pub limits: Limits,
    /// Whether the peer is another proxy: the internal fields for spelling and for undelivered
    /// requests are used only then.
    pub mesh: bool,
    /// Streams the peer may have open; as client, streams we open at most.
    pub streams_max: u32,
    /// Receive window of a stream.
    pub stream_window: u32,
    /// Receive window of the connection.
    pub connection_window: u32,
    /// Bytes of one stream that may wait to be written.
    pub send_buffer_bytes_max: usize,
    /// The largest frame we take.
    pub frame_bytes_max: u32,
    /// Bound on the handshake.
    pub handshake_timeout: Duration,
    /// After how much silence the peer is asked; `None` never asks.
    pub keepalive: Option<Duration>,
    /// How long it has to answer.
    pub keepalive_timeout: Duration,
    /// Unanswered requests a peer may take back at once.
    pub resets_burst: u32,
    /// How many more per second.
    pub resets_per_second: u32,
    /// Streams reset by us that are remembered.
    pub reset_memory: usize,
    /// Errors of single streams that end the connection. `None` between proxies and as client:
    /// such a connection lives for weeks and carries everybody's cancelled requests.
    pub stream_errors_max: Option<usize>,
}

impl Settings {
    /// For a connection between two proxies.
    pub fn mesh() -> Self {
        Self {
            mesh: true,
            frame_bytes_max: MESH_FRAME_BYTES_MAX,
            keepalive: Some(DEFAULT_KEEPALIVE),
            keepalive_timeout: DEFAULT_KEEPALIVE_TIMEOUT,
            stream_errors_max: None,
            resets_burst: MESH_RESETS_BURST,
            resets_per_second: MESH_RESETS_PER_SECOND,
            ..Self::server()
        }
    }

    /// For a server whose clients are applications.
    pub fn server() -> Self {
        Self {
            limits: Limits::default(),
            mesh: false,
            streams_max: DEFAULT_STREAMS_MAX,
            stream_window: DEFAULT_STREAM_WINDOW,
            connection_window: DEFAULT_CONNECTION_WINDOW,
            send_buffer_bytes_max: DEFAULT_SEND_BUFFER_BYTES_MAX,
            frame_bytes_max: DEFAULT_FRAME_BYTES_MAX,
            handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            keepalive: Some(APPLICATION_KEEPALIVE),
            keepalive_timeout: APPLICATION_KEEPALIVE_TIMEOUT,
            resets_burst: DEFAULT_RESETS_BURST,
            resets_per_second: DEFAULT_RESETS_PER_SECOND,
            reset_memory: DEFAULT_RESET_MEMORY,
            stream_errors_max: Some(DEFAULT_STREAM_ERRORS_MAX),
        }
    }

    /// For a client of an application. It asks nothing of a silent peer: gRPC servers close a
    /// connection that pings without a call more than once in five minutes, and over loopback the
    /// kernel tells of a peer that is gone.
    pub fn client() -> Self {
        Self { keepalive: None, stream_errors_max: None, ..Self::server() }
    }

    /// The same within other bounds.
    pub fn within(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What we announce as the largest header list. HTTP/2 counts 32 bytes more per field than
    /// the text has; with that on top, a head that is over *our* limit is refused by us, with a
    /// reason, and only one far beyond it by the protocol library, without.
    pub(crate) fn header_list_max(&self) -> u32 {
        let fields = self.limits.fields_max.saturating_mul(64);
        u32::try_from(self.limits.head_bytes_max.saturating_add(fields)).unwrap_or(u32::MAX)
    }
}
