//! The machine, looked at and changed: files, accounts, facts.
//!
//! Paths are resolved beneath a [`root::Root`] and nowhere else; [`observe`] only looks, [`place`] only does what it is told.

pub mod accounts;
pub mod facts;
pub mod observe;
pub mod place;
pub mod root;
