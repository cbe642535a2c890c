//! What crosses a pod's wire, as tests ask for it: [`weft_pods::Wire`], which fails a test where it sees too
//! little to prove anything.
//!
//! Begin with [`Wire::tap`], end with [`Wire::stop`], then ask [`Seen`].

use super::Pod;
use std::net::SocketAddr;

/// A running capture.
#[derive(Debug)]
pub struct Wire(weft_pods::Wire);

/// What was captured.
#[derive(Debug)]
pub struct Seen(weft_pods::Seen);

// === impl Wire ===

impl Wire {
    /// Begins to capture what leaves the pod and what reaches it. Call it in the test's own body.
    pub fn tap(pod: &Pod) -> Self {
        Self(weft_pods::Wire::tap(&pod.pod).expect("root of a namespace may capture"))
    }

    /// Ends the capture.
    pub fn stop(self) -> Seen {
        Seen(self.0.stop().expect("a capture must not panic"))
    }
}

// === impl Seen ===

impl Seen {
    /// Whether anything was sent to that address and port.
    pub fn reached(&self, address: SocketAddr) -> bool {
        self.0.flows().any(|flow| flow.to == address)
    }

    /// Whether the marker was on the wire.
    pub fn shows(&self, marker: &[u8]) -> bool {
        self.0.shows(marker)
    }

    /// Panics if the marker was on the wire, or if too little was seen to say so: nothing at all, not all,
    /// or a stream with a hole.
    #[track_caller]
    pub fn never_shows(&self, marker: &[u8]) {
        assert!(self.0.bytes() > 0, "nothing was on the wire: the capture proves nothing");
        if let Some(flow) = self.0.showing(marker).next() {
            panic!("{} went from {} to {} in plaintext", marker.escape_ascii(), flow.from, flow.to);
        }
        let broken = self.0.broken().next();
        assert!(
            !self.0.cut && broken.is_none(),
            "{broken:?}: the capture has missed packets, and proves nothing"
        );
    }
}
