//! What crosses a pod's wire: a packet capture on the outer end of its interface, where nothing of the
//! pod's inside (loopback, redirection) is seen any more, only what leaves it and what reaches it.
//!
//! TCP streams are put together again, so that a marker is found across packets. What was not seen proves
//! nothing: holes in streams and what was left out for want of room are told.

use crate::pod::Pod;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;
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

/// What is kept: what a demo or a test sends, many times over.
const KEPT_BYTES_MAX: usize = 256 << 20;

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
    reader: JoinHandle<Seen>,
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
#[derive(Debug, Default)]
pub struct Seen {
    /// Each flow's segments, by sequence number, in the order in which they came.
    flows: BTreeMap<Flow, Vec<(u32, Vec<u8>)>>,
    bytes: usize,
    /// Whether something was left out for want of room.
    pub cut: bool,
}

struct Segment<'a> {
    flow: Flow,
    sequence: u32,
    payload: &'a [u8],
}

// === impl Wire ===

impl Wire {
    /// Begins to capture what leaves the pod and what reaches it. Call it in the network's own namespace.
    pub fn tap(pod: &Pod) -> io::Result<Self> {
        let interface = interface(pod.outer_interface())?;
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL_PROTOCOLS)))?;
        // What the kernel does not give, holes will show.
        let _ = socket.set_recv_buffer_size(RECEIVE_BYTES);
        // Else the bridge and every other pod would crowd its buffer with the same packets.
        bind(socket.as_raw_fd(), &interface)?;
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
                    // Others are from before it was bound.
                    Ok((length, Some(from))) if from.ifindex() == interface.ifindex() => {
                        if let Some(segment) = buffer.get(..length).and_then(segment) {
                            seen.keep(&segment);
                        }
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

// === impl Seen ===

impl Seen {
    fn keep(&mut self, segment: &Segment<'_>) {
        self.bytes += segment.payload.len();
        self.cut |= self.bytes > KEPT_BYTES_MAX;
        if self.cut {
            return;
        }
        let held = self.flows.entry(segment.flow).or_default();
        if !segment.payload.is_empty() {
            held.push((segment.sequence, segment.payload.to_vec()));
        }
    }

    /// Every flow, with or without payload.
    pub fn flows(&self) -> impl Iterator<Item = Flow> {
        self.flows.keys().copied()
    }

    /// Bytes that went over the wire, without headers, all flows together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The flows that the marker was in.
    pub fn showing(&self, marker: &[u8]) -> impl Iterator<Item = Flow> {
        let shows = |segments: &Vec<_>| find(&joined(segments).0, marker);
        self.flows.iter().filter(move |(_, segments)| shows(segments)).map(|(flow, _)| *flow)
    }

    /// Whether the marker was on the wire.
    pub fn shows(&self, marker: &[u8]) -> bool {
        self.showing(marker).next().is_some()
    }

    /// The flows of which packets were missed.
    pub fn broken(&self) -> impl Iterator<Item = Flow> {
        self.flows.iter().filter(|(_, segments)| joined(segments).1 > 0).map(|(flow, _)| *flow)
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

/// An interface of the thread's own namespace: a pod's thread would see others.
fn interface(name: &str) -> io::Result<LinkAddr> {
    let mut named = getifaddrs()?.filter(|held| held.interface_name == name);
    let found = named.find_map(|held| held.address?.as_link_addr().copied());
    found.ok_or_else(|| io::Error::other(format!("there is no interface {name}")))
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

    #[test]
    fn a_packets_payload_is_what_follows_its_headers() {
        let mut packet = vec![0; ETHERNET_BYTES];
        packet[12..14].copy_from_slice(&IPV4.to_be_bytes());
        let mut ip = vec![0x45, 0, 0, 44, 0, 0, 0, 0, 64, TCP, 0, 0];
        ip.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let mut tcp = vec![0; 20];
        tcp[..4].copy_from_slice(&[0, 80, 1, 0]);
        tcp[12] = 0x50;
        packet.extend_from_slice(&ip);
        packet.extend_from_slice(&tcp);
        packet.extend_from_slice(b"bodyPAD");
        let found = segment(&packet).unwrap();
        assert_eq!(found.payload, b"body");
        let flow = Flow { from: "10.0.0.1:80".parse().unwrap(), to: "10.0.0.2:256".parse().unwrap() };
        assert_eq!(found.flow, flow);
        let mut seen = Seen::default();
        seen.keep(&found);
        assert!(seen.shows(b"od") && !seen.shows(b"other") && seen.broken().next().is_none());
        assert_eq!((seen.bytes(), seen.flows().collect::<Vec<_>>()), (4, vec![flow]));
        assert!(segment(&packet[..40]).is_none());
        packet[13] = 6;
        assert!(segment(&packet).is_none());
    }
}
