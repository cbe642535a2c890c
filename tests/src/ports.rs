//! Free ports on loopback for programs that are told where to listen.
//!
//! A port is claimed by a UDP socket of the same number, held by the harness, so that test
//! processes that run side by side never hand out the same one; it lies below the kernel's range for
//! outgoing connections, so that no client socket can take it meanwhile.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Claimed ports are taken from here up to the kernel's own range.
const FIRST: u16 = 10_000;

/// The default start of the kernel's range, used where /proc does not say.
const EPHEMERAL_FIRST: u16 = 32_768;

/// A port that belongs to this test until it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UdpSocket,
}

impl Port {
    /// Claims a port that nothing listens on.
    pub fn claim() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let span = ephemeral_first().saturating_sub(FIRST).max(1000);
        // Processes start at different places so that they rarely meet.
        let start = (std::process::id().wrapping_mul(7919) % u32::from(span)) as u16;
        for _ in 0..span {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + (u32::from(start) + u32::from(step)).rem_euclid(u32::from(span)) as u16;
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _claim: claim };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + span);
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

fn ephemeral_first() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .filter(|first| *first > FIRST)
        .unwrap_or(EPHEMERAL_FIRST)
}
