//! What a person told this host to leave alone for a while: `trimtab suspend`, `resume`, `pin`, `unpin`.
//!
//! With a reason and an end, always: what has no end is forgotten for ever. While one is in force the host is not `Ready`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The format of the document.
pub const FORMAT: u32 = 1;

/// Everything that is held, a document of its own beside the ledger (`holds.json`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Holds {
    /// [`FORMAT`].
    pub format: u32,
    /// The whole host: nothing is updated, repaired or removed; it is looked at, and what differs is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Held>,
    /// Single resources, by [`Change::resource`](crate::plan::Change::resource).
    pub pins: BTreeMap<String, Held>,
}

/// Who holds something, why, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Why, in the person's words.
    pub reason: String,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// Until when, seconds since 1970; from there on it is as if it had never been.
    pub until: u64,
    /// Who: the login user where known, else the user.
    pub by: String,
}

impl Held {
    /// Whether it is in force at a time, seconds since 1970.
    pub fn holds(&self, now: u64) -> bool {
        now < self.until
    }
}

impl Holds {
    /// What is in force at a time (seconds since 1970), without what has ended.
    #[must_use]
    pub fn at(&self, now: u64) -> Holds {
        Holds {
            format: FORMAT,
            suspended: self.suspended.clone().filter(|held| held.holds(now)),
            pins: self.pins.iter().filter(|(_, held)| held.holds(now)).map(|(name, held)| (name.clone(), held.clone())).collect(),
        }
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.suspended.is_none() && self.pins.is_empty()
    }
}
