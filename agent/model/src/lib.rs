//! The pure half of trimtab: what is wanted, what is found, and the plan between them.
//!
//! Data flows one way through this crate:
//! [`bundle`] (proven bytes) → [`fleet`] (parsed) → [`render`] → [`desired`], and
//! [`desired`] + [`observed`] + [`ledger`] → [`plan`].
//!
//! Guarantees: nothing here opens a file, a socket, a clock or an environment variable, and nothing here is
//! asynchronous. The same input gives the same bytes on a laptop, in CI and on the device.
//! `tests/tidy` holds the first sentence; the property tests hold the second.

pub mod bundle;
pub mod condition;
pub mod desired;
pub mod digest;
pub mod drift;
pub mod event;
pub mod explain;
pub mod facts;
pub mod finding;
pub mod fleet;
pub mod health;
pub mod hold;
pub mod hook;
pub mod keys;
pub mod ledger;
pub mod metric;
pub mod names;
pub mod observed;
pub mod outbound;
pub mod plan;
pub mod public;
pub mod render;
pub mod report;
pub mod status;
pub mod transaction;
pub mod unitfile;
pub mod xattr;
