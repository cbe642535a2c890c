//! Pods out of network namespaces, on this machine and without root: what `weft demo --transparent`
//! shows its shop in, and what tests call pods. A process calls [`enter`] while it has one thread, and is root of namespaces of
//! its own from then on; in there [`Network`] is a bridge and each [`Pod`] a further namespace on it.
//! All of it vanishes with the process.
//!
//! It knows nothing of a mesh, and nothing here is part of what runs beside an application.

#![forbid(unsafe_code)]

mod enter;
mod network;
mod pod;
mod wire;

pub use enter::{EnterError, enter, map_users, show_names};
pub use network::{Network, NetworkError};
pub use pod::Pod;
pub use wire::{Flow, Seen, Wire};
