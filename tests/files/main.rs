//! Files on the host and the store, on real file systems: no mocks, temp folders as roots.
//!
//! Tests that need root say so and pass without it; those that mount re-run themselves in a mount namespace of their own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)] // a test that surprises shall fail where it stands

mod common;
mod generations;
mod links;
mod observing;
mod placing;
mod remembering;
mod strays;
mod trouble;
