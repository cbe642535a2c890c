//! What crosses a pod's wire: a packet capture on the outer end of its interface, where nothing of the
//! pod's inside (loopback, redirection) is seen any more, only what leaves it and what reaches it.
//!
//! Begin with [`Wire::tap`], end with [`Wire::stop`], then ask [`Seen`]. TCP streams are put together
//! again, so that a marker is found across packets; a hole in one fails the claim that something was
//! never there, since what was not seen proves nothing.

use super::Pod;
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// All protocols, in the network's byte order.
const ALL_PROTOCOLS: i32 = (0x0003_u16).to_be() as i32;

/// What waits to be read; the kernel may give less.
const RECEIVE_BYTES: usize = 8 << 20;

/// Longer than any packet, segmentation offload included.
const PACKET_BYTES_MAX: usize = 256 << 10;

/// How long a read waits before it looks whether it is over.
const READ_TIMEOUT: Duration = Duration::from_millis(20);

const ETHERNET_BYTES: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;

/// A running capture.
#[derive(Debug)]
pub struct Wire {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Vec<u8>>>,
}

/// One direction of a TCP connection.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Flow {
    /// Who sends.
    pub from: SocketAddr,
    /// Who receives.
    pub to: SocketAddr,
}

/// What was captured.
#[derive(Debug)]
pub struct Seen {
    flows: BTreeMap<Flow, Vec<(u32, Vec<u8>)>>,
}

struct Segment<'a> {
    flow: Flow,
    sequence: u32,
    payload: &'a [u8],
}

// === impl Wire ===

impl Wire {
    /// Begins to capture what leaves the pod and what reaches it. Call it in the test's own body.
    pub fn tap(pod: &Pod) -> Self {
        let interface = pod.outer_interface();
        let index = interface_index(&interface);
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL_PROTOCOLS)))
            .expect("root of a namespace may capture");
        // What the kernel does not give, holes will show.
        let _ = socket.set_recv_buffer_size(RECEIVE_BYTES);
        socket.set_read_timeout(Some(READ_TIMEOUT)).expect("an option must be set");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let reader = std::thread::Builder::new().name(format!("wire {interface}")).spawn(move || {
            let mut packets = Vec::new();
            let mut buffer = vec![0; PACKET_BYTES_MAX];
            loop {
                // Looked at before the read: what was on the wire when it was stopped is read.
                let last = stopped.load(Ordering::Acquire);
                match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
                    Ok((length, Some(from))) if from.ifindex() == index => {
                        packets.push(buffer[..length].to_vec());
                    }
                    Ok(_) => {}
                    Err(_) if last => return packets,
                    Err(_) => {}
                }
            }
        });
        Self { stop, reader: reader.expect("a thread must start") }
    }

    /// Ends the capture.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Release);
        let packets = self.reader.join().expect("a capture must not panic");
        let mut flows: BTreeMap<Flow, Vec<(u32, Vec<u8>)>> = BTreeMap::new();
        for segment in packets.iter().filter_map(|packet| segment(packet)) {
            let held = flows.entry(segment.flow).or_default();
            if !segment.payload.is_empty() {
                held.push((segment.sequence, segment.payload.to_vec()));
            }
        }
        Seen { flows }
    }
}

// === impl Seen ===

impl Seen {
    /// Every flow, with and without payload.
    pub fn flows(&self) -> BTreeSet<Flow> {
        self.flows.keys().copied().collect()
    }

    /// Whether anything was sent to that address and port.
    pub fn reached(&self, address: SocketAddr) -> bool {
        self.flows.keys().any(|flow| flow.to == address)
    }

    /// Bytes of payload, all flows together.
    pub fn payload_bytes(&self) -> usize {
        self.flows.values().flatten().map(|(_, payload)| payload.len()).sum()
    }

    /// Whether the marker was on the wire.
    pub fn shows(&self, marker: &[u8]) -> bool {
        self.flows.values().any(|segments| find(&joined(segments).0, marker))
    }

    /// Panics if the marker was on the wire, or if too little was seen to say so: nothing at all, or a
    /// stream with a hole.
    #[track_caller]
    pub fn never_shows(&self, marker: &[u8]) {
        assert!(self.payload_bytes() > 0, "nothing was on the wire: the capture proves nothing");
        for (flow, segments) in &self.flows {
            let (stream, holes) = joined(segments);
            assert!(
                !find(&stream, marker),
                "{} went from {} to {} in plaintext",
                marker.escape_ascii(),
                flow.from,
                flow.to
            );
            assert_eq!(holes, 0, "{flow:?}: the capture has missed packets, and proves nothing");
        }
    }
}

/// The stream that the segments make, and how many holes it has. Holes are left out.
fn joined(segments: &[(u32, Vec<u8>)]) -> (Vec<u8>, usize) {
    let Some((first, _)) = segments.first() else { return (Vec::new(), 0) };
    // Relative to a place half the space before, so that what was sent again sorts before.
    let base = first.wrapping_sub(1 << 31);
    let mut sorted: Vec<_> =
        segments.iter().map(|(sequence, bytes)| (u64::from(sequence.wrapping_sub(base)), bytes)).collect();
    sorted.sort_by_key(|(at, bytes)| (*at, bytes.len()));
    let (mut stream, mut holes) = (Vec::new(), 0);
    let mut next = sorted[0].0;
    for (at, bytes) in sorted {
        if at > next {
            holes += 1;
            next = at;
        }
        let overlap = usize::try_from(next - at).unwrap_or(usize::MAX);
        if let Some(new) = bytes.get(overlap..) {
            stream.extend_from_slice(new);
            next += new.len() as u64;
        }
    }
    (stream, holes)
}

fn find(stream: &[u8], marker: &[u8]) -> bool {
    stream.windows(marker.len()).any(|window| window == marker)
}

fn segment(packet: &[u8]) -> Option<Segment<'_>> {
    let kind = u16::from_be_bytes(*packet.get(12..ETHERNET_BYTES)?.first_chunk()?);
    let packet = packet.get(ETHERNET_BYTES..)?;
    let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match kind {
        IPV4 if *packet.get(9)? == TCP => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let length = usize::from(u16::from_be_bytes(*packet.get(2..4)?.first_chunk()?));
            // Longer than it can say: segmentation offload.
            let end = if length == 0 { packet.len() } else { length.min(packet.len()) };
            let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..at + 4)?.first_chunk::<4>()?));
            (address(12)?.into(), address(16)?.into(), packet.get(header..end)?)
        }
        IPV6 if *packet.get(6)? == TCP => {
            let length = usize::from(u16::from_be_bytes(*packet.get(4..6)?.first_chunk()?));
            let end = if length == 0 { packet.len() } else { (40 + length).min(packet.len()) };
            let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..at + 16)?.first_chunk::<16>()?));
            (address(8)?.into(), address(24)?.into(), packet.get(40..end)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..at + 2)?.first_chunk()?));
    let flow = Flow { from: SocketAddr::new(from, port(0)?), to: SocketAddr::new(to, port(2)?) };
    let sequence = u32::from_be_bytes(*tcp.get(4..8)?.first_chunk()?);
    let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    Some(Segment { flow, sequence, payload })
}

fn interface_index(name: &str) -> usize {
    let path = format!("/proc/self/net/dev_snmp6/{name}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let index = text.lines().find_map(|line| line.strip_prefix("ifIndex"));
    index.and_then(|index| index.trim().parse().ok()).expect("an interface must have a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_whole_across_reordering_repetition_and_the_end_of_the_number_space() {
        let at = |sequence: u32, text: &str| (sequence, text.as_bytes().to_vec());
        let segments = [at(u32::MAX - 1, "ab"), at(4, "gh"), at(0, "cdef"), at(2, "ef"), at(4, "g")];
        assert_eq!(joined(&segments), (b"abcdefgh".to_vec(), 0));
        let segments = [at(10, "ab"), at(13, "d")];
        assert_eq!(joined(&segments), (b"abd".to_vec(), 1));
        assert!(find(b"abcdefgh", b"cde") && !find(b"abd", b"bc"));
    }
}
