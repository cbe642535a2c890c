//! The data plane: one process beside the application that carries its calls.
//!
//! A request's way out: `listener` → `detect` → `outbound` (destination, route) → `outbound/http`
//! (the stack) → `outbound/balancer` → `pool` → `tls/connect` → peer. In: `listener` → `detect` →
//! `tls/accept` → `inbound` → `inbound/http` (the stack: authorization) → `pool` → application.
//! Beside them, on a thread of their own: `control` (what the mesh says), `identity` (who we are),
//! `admin` (what operators ask), `application` (when the application is gone).

#![forbid(unsafe_code)]

pub mod access_log;
pub mod admin;
pub mod app;
pub mod application;
mod buffer;
pub mod capture;
pub mod control;
pub mod deadline;
pub mod describe;
pub mod detect;
pub mod dial;
pub mod exchange;
pub mod h1;
pub mod h2;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod listener;
pub mod measured;
pub mod metrics;
pub mod outbound;
pub mod overload;
pub mod policy;
pub mod pool;
pub mod rules;
pub mod settings;
pub mod shared;
pub mod socket;
pub mod spending;
pub mod state;
pub mod stream;
pub mod tcp;
mod timer;
pub mod tls;
pub mod worker;
