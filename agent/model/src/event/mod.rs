//! What happened, one by one, for who watches: in the journal with a MESSAGE_ID, and in the reports that leave the host.

mod tell;

use serde::{Deserialize, Serialize};

use crate::drift::Drift;
pub use tell::{Said, Telling, View};

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As intended.
    Info,
    /// Somebody should look, not now.
    Warning,
    /// Somebody should look.
    Error,
}

/// What kind of thing happened. Each has a MESSAGE_ID, which never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A new revision was proven and is to be put in force.
    RevisionAccepted,
    /// A revision was not accepted: signature, descent, findings, checks, guards.
    RevisionRefused,
    /// Somebody changed a resource.
    DriftFound,
    /// It was put right.
    DriftRepaired,
    /// It is as it should be again, without trimtab.
    DriftGone,
    /// Something keeps changing a resource back; repairs are made ever more seldom.
    Contended,
    /// A revision is in force.
    Converged,
    /// A revision was tried and undone.
    RolledBack,
    /// It was tried, and not all of it could be undone.
    Degraded,
    /// Not all could be converged.
    Failed,
    /// The host is held on the last good state.
    Held,
    /// The source cannot be used.
    Unreachable,
    /// The source was not heard for longer than it should.
    Stale,
    /// It was heard again, or what was wrong is over.
    Recovered,
    /// A person suspended the host or pinned a resource.
    Suspended,
    /// That ended.
    Resumed,
    /// Local configuration or memory cannot be trusted.
    Halted,
    /// A report that a receiver would not have, whatever was left out of it, was passed over for that receiver.
    ReportLost,
}

impl EventKind {
    /// All of them.
    pub const ALL: [EventKind; 18] = [
        EventKind::RevisionAccepted,
        EventKind::RevisionRefused,
        EventKind::DriftFound,
        EventKind::DriftRepaired,
        EventKind::DriftGone,
        EventKind::Contended,
        EventKind::Converged,
        EventKind::RolledBack,
        EventKind::Degraded,
        EventKind::Failed,
        EventKind::Held,
        EventKind::Unreachable,
        EventKind::Stale,
        EventKind::Recovered,
        EventKind::Suspended,
        EventKind::Resumed,
        EventKind::Halted,
        EventKind::ReportLost,
    ];

    /// The word for it, as it is serialised.
    pub fn word(self) -> &'static str {
        match self {
            EventKind::RevisionAccepted => "revision-accepted",
            EventKind::RevisionRefused => "revision-refused",
            EventKind::DriftFound => "drift-found",
            EventKind::DriftRepaired => "drift-repaired",
            EventKind::DriftGone => "drift-gone",
            EventKind::Contended => "contended",
            EventKind::Converged => "converged",
            EventKind::RolledBack => "rolled-back",
            EventKind::Degraded => "degraded",
            EventKind::Failed => "failed",
            EventKind::Held => "held",
            EventKind::Unreachable => "unreachable",
            EventKind::Stale => "stale",
            EventKind::Recovered => "recovered",
            EventKind::Suspended => "suspended",
            EventKind::Resumed => "resumed",
            EventKind::Halted => "halted",
            EventKind::ReportLost => "report-lost",
        }
    }

    /// Its MESSAGE_ID in the journal: 32 hexadecimal digits, for ever the same (`journalctl MESSAGE_ID=…`; units/trimtab.catalog).
    pub fn message_id(self) -> &'static str {
        match self {
            EventKind::RevisionAccepted => "fce3b878a8d24e13b8eaa5dd6aefeaa4",
            EventKind::RevisionRefused => "f7909fcceacb49ea8c3607d2e2b88bfc",
            EventKind::DriftFound => "3a66f818c5e34db7b9e4612d40c5af20",
            EventKind::DriftRepaired => "945b5e959e4846eba1f486db40978b1a",
            EventKind::DriftGone => "71ee8772b5434c548f5bed24b5003779",
            EventKind::Contended => "b28fc17348d04abea66266e6cef3d725",
            EventKind::Converged => "58104822751340b38b7c18f309fccb5e",
            EventKind::RolledBack => "7058312b607347dcac94af6d9f51598c",
            EventKind::Degraded => "f91ad5f9b24744b7828abac8309aaab3",
            EventKind::Failed => "2caaccb74ad14c68ad049e5bfd9bbc8f",
            EventKind::Held => "56a04e64b8b848ef94c21d65e135d526",
            EventKind::Unreachable => "80a769a99fa74d91847bcdb266a687b9",
            EventKind::Stale => "f45d94a267764e74a519a014d5acb814",
            EventKind::Recovered => "15a1a1c1db2b49d28afac6a87d79de67",
            EventKind::Suspended => "141d6eb732004760ac76cad89c15f5f1",
            EventKind::Resumed => "e8e4e73bb42e4073a99ce119b4250ff9",
            EventKind::Halted => "dd09029afa8f4592b7bb749f324916d8",
            EventKind::ReportLost => "05fdc0487ee1222a1eec03127ddddd6d",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up by one with each event of this host, for ever: with the device's name it is the key by which a receiver knows it again.
    pub id: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// What kind of thing.
    pub kind: EventKind,
    /// How much it matters.
    pub severity: Severity,
    /// The pass.
    pub pass: u64,
    /// The revision that it is about; may be empty.
    pub revision: String,
    /// The resource that it is about; empty for the host as a whole.
    pub resource: String,
    /// One line for a person; without secrets.
    pub message: String,
    /// The drift that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Box<Drift>>,
    /// How many events this one stands for, when detail was merged for want of room; 1 otherwise.
    #[serde(default = "one")]
    pub count: u32,
}

fn one() -> u32 {
    1
}
