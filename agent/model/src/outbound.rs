//! What leaves the host: a report is the status document and the events since the last one, under a number of this device's own.
//!
//! It is signed as it is written ([`Signed`]), so that any receiver can check it with public tools (`minisign -V`), and delivered at least
//! once: the device and [`Report::sequence`] (or the device and [`Event::id`]) are the keys to take it once by.

use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::status::Status;

/// The format of a report.
pub const REPORT_FORMAT: u32 = 1;

/// Why a report was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// A pass that did, found or failed at something.
    Pass,
    /// Nothing happened for a while.
    Heartbeat,
}

/// One report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`REPORT_FORMAT`].
    pub format: u32,
    /// The device: the id of its key, 16 hexadecimal digits as minisign prints them.
    pub device: String,
    /// The host's name in the fleet.
    pub host: String,
    /// Counts up by one with each report of this device.
    pub sequence: u64,
    /// The first sequence that this one stands for, when older ones were merged into it for want of room; else the same as `sequence`.
    pub since_sequence: u64,
    /// When it was made, milliseconds since 1970.
    pub at_ms: u64,
    /// Why.
    pub occasion: Occasion,
    /// The host as it was then.
    pub status: Status,
    /// What happened since the last report, oldest first.
    pub events: Vec<Event>,
    /// How many events lost their detail for want of room (their numbers are in [`Event::count`] of the others).
    #[serde(default)]
    pub merged: u64,
}

/// A report as it is spooled and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The [`Report`] as JSON: exactly these bytes are signed.
    pub report: Vec<u8>,
    /// The minisign signature over them (the text of a `.minisig` file).
    pub signature: String,
}
