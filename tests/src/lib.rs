//! The harness of the integration tests: whole programs, real sockets, nothing mocked.
//!
//! [`mesh`] starts the built binaries as processes; [`application`] is what stands behind a proxy;
//! [`client`] what stands before one; [`raw`] and [`raw_http2`] send and read exact bytes; [`speaker`] speaks
//! anything but HTTP; [`relay`] calls on, or never answers; [`certificate`] makes certificates, good and bad; [`issuer`] makes tokens;
//! [`netns`] makes pods of network namespaces, [`pods`] a mesh of them; [`wait`] waits for a condition,
//! never for a time. A test that fails
//! prints the end of every process's log.

#![forbid(unsafe_code)]

pub mod application;
pub mod authorizer;
pub mod binaries;
pub mod certificate;
pub mod client;
pub mod figures;
pub mod http1;
pub mod http2;
pub mod issuer;
pub mod key_server;
pub mod mesh;
pub mod metrics;
pub mod netns;
pub mod peers;
pub mod pods;
pub mod ports;
pub mod process;
pub mod raw;
pub mod raw_http2;
pub mod relay;
pub mod speaker;
pub mod tamper;
pub mod traffic;
pub mod wait;
pub mod websocket;
