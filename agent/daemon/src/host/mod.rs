//! The machine, looked at and changed: files, accounts, facts, units, images; and work that needs a process.
//!
//! Paths are resolved beneath a [`root::Root`] and nowhere else; [`observe`] only looks, [`place`] only does what it is told.

pub mod accounts;
pub mod command;
pub mod facts;
pub mod images;
pub mod keys;
pub mod observe;
pub mod place;
pub mod root;
pub mod strays;
pub mod sys;
pub mod units;
mod xattr;
