//! The machine: files, accounts, facts, units, images, commands.

pub mod command;
pub mod images;
pub mod units;
