//! What crosses a pod's wire: a packet capture on the outer end of its interface, where nothing of the
//! pod's inside (loopback, redirection) is seen any more, only what leaves it and what reaches it.

use crate::pod::Pod;
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// All protocols, in the network's byte order.
const ALL_PROTOCOLS: i32 = (0x0003_u16).to_be() as i32;

/// Longer than any packet, segmentation offload included.
const PACKET_BYTES_MAX: usize = 256 << 10;

/// What is kept: what a demo sends, many times over.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// How long a read waits before it looks whether it is over.
const READ_TIMEOUT: Duration = Duration::from_millis(20);

const ETHERNET_BYTES: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const TCP: u8 = 6;

/// A running capture.
#[derive(Debug)]
pub struct Wire {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Seen>,
}

/// What was captured: the payloads of TCP, in the order in which they came.
#[derive(Debug, Default)]
pub struct Seen {
    payloads: Vec<Vec<u8>>,
    bytes: usize,
    /// Whether something was left out for want of room.
    pub cut: bool,
}

impl Wire {
    /// Begins to capture what leaves the pod and what reaches it.
    pub fn tap(pod: &Pod) -> io::Result<Self> {
        let index = interface_index(pod.outer_interface())?;
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL_PROTOCOLS)))?;
        socket.set_read_timeout(Some(READ_TIMEOUT))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let name = format!("wire {}", pod.outer_interface());
        let reader = std::thread::Builder::new().name(name).spawn(move || {
            let mut seen = Seen::default();
            let mut buffer = vec![0; PACKET_BYTES_MAX];
            loop {
                // Looked at before the read: what was on the wire when it was stopped is read.
                let last = stopped.load(Ordering::Acquire);
                match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
                    Ok((length, Some(from))) if from.ifindex() == index => {
                        seen.keep(buffer.get(..length).and_then(payload).unwrap_or_default());
                    }
                    Ok(_) => {}
                    Err(_) if last => return seen,
                    Err(_) => {}
                }
            }
        })?;
        Ok(Self { stop, reader })
    }

    /// Ends the capture.
    pub fn stop(self) -> io::Result<Seen> {
        self.stop.store(true, Ordering::Release);
        self.reader.join().map_err(|_| io::Error::other("the capture broke off"))
    }
}

impl Seen {
    fn keep(&mut self, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        self.bytes += payload.len();
        self.cut |= self.bytes > KEPT_BYTES_MAX;
        if !self.cut {
            self.payloads.push(payload.to_vec());
        }
    }

    /// Bytes that went over the wire, without headers.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the marker was on the wire. It must be short enough to be sent in one piece.
    pub fn shows(&self, marker: &[u8]) -> bool {
        self.payloads.iter().any(|payload| payload.windows(marker.len()).any(|window| window == marker))
    }
}

/// What a packet of TCP over IPv4 carries.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    if packet.get(12..ETHERNET_BYTES)? != IPV4 {
        return None;
    }
    let packet = packet.get(ETHERNET_BYTES..)?;
    if *packet.get(9)? != TCP {
        return None;
    }
    let header = usize::from(packet[0] & 0x0f) * 4;
    let length = usize::from(u16::from_be_bytes(*packet.get(2..4)?.first_chunk()?));
    // Longer than it can say: segmentation offload.
    let end = if length == 0 { packet.len() } else { length.min(packet.len()) };
    let tcp = packet.get(header..end)?;
    tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)
}

fn interface_index(name: &str) -> io::Result<usize> {
    // The thread's own: a pod's thread would see other interfaces.
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{name}"))?;
    let index = text.lines().find_map(|line| line.strip_prefix("ifIndex"));
    let index = index.and_then(|index| index.trim().parse().ok());
    index.ok_or_else(|| io::Error::other(format!("the interface {name} has no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packets_payload_is_what_follows_its_headers() {
        let mut packet = vec![0; ETHERNET_BYTES];
        packet[12..14].copy_from_slice(&IPV4);
        let mut ip = vec![0x45, 0, 0, 44, 0, 0, 0, 0, 64, TCP, 0, 0];
        ip.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let mut tcp = vec![0; 20];
        tcp[12] = 0x50;
        packet.extend_from_slice(&ip);
        packet.extend_from_slice(&tcp);
        packet.extend_from_slice(b"bodyPAD");
        assert_eq!(payload(&packet), Some(&b"body"[..]));
        assert_eq!(payload(&packet[..40]), None);
        packet[12] = 0x86;
        assert_eq!(payload(&packet), None);
        let mut seen = Seen::default();
        seen.keep(b"a marker");
        assert!(seen.shows(b"mark") && !seen.shows(b"other"));
        assert_eq!(seen.bytes(), 8);
    }
}
