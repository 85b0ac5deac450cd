//! trimtab: a pull-based GitOps agent for edge devices and bare VMs.
//!
//! The rooms, and who may import whom (only to the left; `tests/tidy` holds it):
//! `model <- log, wire, durable, sinks <- host, courier, trust, store, render <- config, probe <- watch, outbox, endpoint, author <- apply <- cycle <- run <- cli <- main`.
//! The map is `agent/README.md`.

pub mod apply;
pub mod author;
pub mod bundle;
pub mod cli;
pub mod config;
pub mod courier;
pub mod cycle;
pub mod durable;
pub mod endpoint;
pub mod host;
pub mod log;
pub mod outbox;
pub mod probe;
pub mod render;
pub mod run;
pub mod sinks;
pub mod store;
pub mod trust;
pub mod watch;
pub mod wire;
