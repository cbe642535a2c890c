//! The bounds of one HTTP connection, each with its reason.

use std::time::Duration;

/// Bounds and waits of an HTTP/1 connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a head, line ends included.
    pub head_bytes_max: usize,
    /// Fields of a head.
    pub fields_max: usize,
    /// Bytes of a request target.
    pub target_bytes_max: usize,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// How long a body may stop arriving, or an answer stop being taken, while the other side
    /// waits for it.
    pub stall_timeout: Duration,
    /// Whether CONNECT is handed to the caller; else it is refused.
    pub connect: bool,
    /// Whether a client that half-closes after its request still gets the answer. Off: a client
    /// that closes is one that gave up, and its request is cancelled.
    pub half_close: bool,
}

/// Applications send up to 60 KiB in practice (cookies, tokens); more than any known server takes.
pub const DEFAULT_HEAD_BYTES_MAX: usize = 96 * 1024;

/// Servers stop at 100; some applications behind them do not.
pub const DEFAULT_FIELDS_MAX: usize = 256;

/// As far as common servers go.
pub const DEFAULT_TARGET_BYTES_MAX: usize = 64 * 1024;

/// A head is one packet or a few: ten seconds are several retransmissions.
pub const DEFAULT_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Longer than clients' pools keep connections, so that they, not we, close them.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// As long as an idle connection: a stalled one holds no more than that plus one buffer.
pub const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(300);

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: DEFAULT_HEAD_BYTES_MAX,
            fields_max: DEFAULT_FIELDS_MAX,
            target_bytes_max: DEFAULT_TARGET_BYTES_MAX,
            head_timeout: DEFAULT_HEAD_TIMEOUT,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
            stall_timeout: DEFAULT_STALL_TIMEOUT,
            connect: false,
            half_close: false,
        }
    }
}
