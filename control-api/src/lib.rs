//! `weft-control`, the control API: policy sources in, discovery and certificates out.
//!
//! A change's way, by module: [`source`] (documents as they are now) → [`resolve`] (which text of each
//! file is in force) → [`index`] (the single owner) → [`snapshot`] (encoded, versioned, immutable) →
//! [`discovery`] (each proxy's part of it, pushed). A certificate's way: [`server`] (who calls) →
//! [`ca`] (may it, sign). [`app`] wires all; [`admin`] and [`status`] tell people.
//!
//! Invariants: only the index makes snapshots; nobody else holds state that outlives a stream. What is
//! not understood is never weaker than what was in force before it. The proxies live on without us.

#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod ca;
pub mod capture;
pub mod discovery;
pub mod index;
pub mod jwks;
pub mod metrics;
pub mod own_certificate;
pub mod report;
pub mod resolve;
pub mod server;
pub mod settings;
pub mod snapshot;
pub mod source;
pub mod state;
pub mod status;
pub mod tls;

#[cfg(test)]
mod fixture;

use std::error::Error;
use std::fmt::Write;

/// Random bytes that nobody can predict.
fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's randomness must work");
    bytes
}

/// `N` random bytes as lower-case hexadecimal.
fn random_hex(count: usize) -> String {
    let bytes = random_bytes::<32>();
    bytes.iter().take(count).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// The beginning of a text that a peer sent.
fn bounded(text: &str) -> String {
    text.chars().take(128).collect()
}
