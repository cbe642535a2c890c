//! HTTP/2 for the data path: server and client on the `h2` crate, without hyper.
//!
//! `server` reads requests off a connection and gives each to the handler in a task (`tasks`);
//! `client` sends requests over a shared connection without a task per request. Both speak the
//! types of `crate::http`: `decode` and `encode` are where those meet the `http` crate's, `names`
//! saves making names anew, `case` carries their spelling between two proxies. `outgoing` writes a
//! body under flow control, `watch` keeps silent connections honest, `resets` those that take
//! requests back. Nothing here routes, retries or authorizes.

mod case;
mod client;
mod decode;
mod encode;
mod names;
mod outgoing;
mod resets;
mod server;
pub mod settings;
mod tasks;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use client::Ticket;
pub use client::{ClientConnection, Driver};
pub(crate) use decode::{Peer, request_from_h2, response_from_h2, trailers_from_map};
pub(crate) use encode::{request_to_h2, response_to_h2};
pub(crate) use outgoing::{Outgoing, OutgoingError};
pub use server::{Ended, serve};
pub use settings::Settings;
