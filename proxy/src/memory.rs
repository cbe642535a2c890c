//! Memory that is not used any more goes back to the kernel.
//!
//! A pod that once had ten thousand connections should not pay for them for ever. The allocator keeps what was freed for
//! a moment, in case it is wanted again, and then gives whole pages back; but by itself it only looks when memory is
//! allocated or freed, and a proxy whose connections have all gone does neither. Its own thread looks in time.
//!
//! It belongs to the program and not to the library, so that tests and fuzz targets keep their own allocator.

use tikv_jemalloc_ctl::background_thread;

/// Starts the thread that gives pages back. Called once capabilities have been given up: a thread keeps its own.
/// Without it the allocator still gives back, later.
pub(crate) fn give_back() {
    if let Err(error) = background_thread::write(true) {
        tracing::warn!(%error, "memory of connections that are gone is given back late: no thread for it");
    }
}
