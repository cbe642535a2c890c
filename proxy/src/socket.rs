//! What every TCP connection is set to, on both legs: those that listeners accept, and those that
//! [`crate::dial`] makes.
//!
//! A peer that vanishes (a node lost, a cable pulled, connection tracking that forgot) says nothing: the
//! kernel's probes find out, and keep what lies between awake.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// How long nothing comes before the kernel probes. Half of the minute for which Linux's connection
/// tracking remembers a half-closed connection, and below every load balancer's idle timeout in use.
pub const DEFAULT_KEEPALIVE_TIME: Duration = Duration::from_secs(30);

/// Between probes that were not answered.
pub const DEFAULT_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a peer may leave bytes or probes unacknowledged: several lost packets and a node's short pause,
/// far below the quarter of an hour for which the kernel would send again.
pub const DEFAULT_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a connection may stay half closed and silent. Applications that half-close on purpose answer
/// at once; those that do it by mistake leave a connection for ever.
pub const DEFAULT_HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(300);

/// The kernel's limits of a keepalive time and interval.
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

/// What connections are set to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpSettings {
    /// Silence until the first probe.
    pub keepalive_time: Duration,
    /// Between probes.
    pub keepalive_interval: Duration,
    /// How long what was sent may stay unacknowledged.
    pub user_timeout: Duration,
    /// Of an opaque connection of which one side has ended.
    pub half_closed_timeout: Duration,
    /// Of an opaque connection. `None`: as long as both peers live. An application's pool may keep a
    /// connection for hours; to cut it is a fault that only shows at its next use.
    pub idle_timeout: Option<Duration>,
}

// === impl TcpSettings ===

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            keepalive_time: DEFAULT_KEEPALIVE_TIME,
            keepalive_interval: DEFAULT_KEEPALIVE_INTERVAL,
            user_timeout: DEFAULT_USER_TIMEOUT,
            half_closed_timeout: DEFAULT_HALF_CLOSED_TIMEOUT,
            idle_timeout: None,
        }
    }
}

impl TcpSettings {
    /// The first value that cannot be: which, its bounds.
    pub fn wrong(&self) -> Option<(&'static str, Duration, Duration, Duration)> {
        let second = Duration::from_secs(1);
        let year = Duration::from_secs(365 * 86_400);
        let bounds = [
            ("tcp.keepaliveTime", Some(self.keepalive_time), KEEPALIVE_MAX),
            ("tcp.keepaliveInterval", Some(self.keepalive_interval), KEEPALIVE_MAX),
            // Milliseconds in 31 bits.
            ("tcp.userTimeout", Some(self.user_timeout), Duration::from_secs(24 * 86_400)),
            ("tcp.halfClosedTimeout", Some(self.half_closed_timeout), year),
            ("tcp.idleTimeout", self.idle_timeout, year),
        ];
        bounds.into_iter().find_map(|(name, value, max)| {
            value.filter(|value| !(second..=max).contains(value)).map(|value| (name, value, second, max))
        })
    }

    /// How long bytes may not come on an opaque connection.
    pub fn limits(&self) -> crate::tcp::Limits {
        crate::tcp::Limits { half_closed_max: self.half_closed_timeout, idle_max: self.idle_timeout }
    }

    /// Sets a connection, or a listener for all that it accepts: Linux copies these options.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        // Small writes leave at once; the peer's delayed acknowledgement must not hold an answer.
        socket.set_tcp_nodelay(true)?;
        let keepalive =
            TcpKeepalive::new().with_time(self.keepalive_time).with_interval(self.keepalive_interval);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(self.user_timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::Dialler;
    use tokio::net::{TcpListener, TcpStream};

    fn settings_of(tcp: &TcpStream) -> (bool, bool, Duration, Duration, Option<Duration>) {
        let socket = SockRef::from(tcp);
        (
            socket.tcp_nodelay().unwrap(),
            socket.keepalive().unwrap(),
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
            socket.tcp_user_timeout().unwrap(),
        )
    }

    #[tokio::test]
    async fn what_is_accepted_and_what_is_connected_is_set_alike() {
        let settings = TcpSettings { keepalive_time: Duration::from_secs(7), ..TcpSettings::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        settings.apply(&listener).unwrap();
        let connected = Dialler::new(None, settings).connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let expected =
            (true, true, Duration::from_secs(7), DEFAULT_KEEPALIVE_INTERVAL, Some(DEFAULT_USER_TIMEOUT));
        assert_eq!(settings_of(&accepted), expected);
        assert_eq!(settings_of(&connected), expected);
    }

    #[test]
    fn a_value_that_the_kernel_refuses_is_found_by_name() {
        assert_eq!(TcpSettings::default().wrong(), None);
        let settings = TcpSettings { user_timeout: Duration::from_millis(5), ..TcpSettings::default() };
        assert_eq!(settings.wrong().map(|(name, ..)| name), Some("tcp.userTimeout"));
        let settings = TcpSettings { keepalive_time: Duration::from_secs(40_000), ..TcpSettings::default() };
        assert_eq!(settings.wrong().map(|(name, ..)| name), Some("tcp.keepaliveTime"));
        let settings = TcpSettings { idle_timeout: Some(Duration::ZERO), ..TcpSettings::default() };
        assert_eq!(settings.wrong().map(|(name, ..)| name), Some("tcp.idleTimeout"));
    }
}
