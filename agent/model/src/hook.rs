//! Hooks: programs of a component that run at fixed places of a pass.
//!
//! Plain data; the daemon runs them as transient units.

use serde::{Deserialize, Serialize};

use crate::desired::Origin;
use crate::names::AccountName;

/// One hook of a component (`[[hook]]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// When it runs.
    pub on: HookPhase,
    /// The program, absolute, and its arguments. A program that is a managed file is run with the wanted content.
    pub run: Vec<String>,
    /// Killed after this many milliseconds.
    pub timeout_ms: u64,
    /// Who runs it; root if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<AccountName>,
    /// Where it comes from.
    pub origin: Origin,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookPhase {
    /// Before anything of the machine is changed; it may refuse, or ask for later (exit status 75).
    PreApply,
    /// After the change was found to be good.
    PostApply,
    /// After something of the change failed, before it is undone.
    OnFailure,
    /// After the last good state is in force again.
    OnRollback,
    /// Before something of its component is removed.
    PreRemove,
}

impl HookPhase {
    /// All of them, in the order of a pass.
    pub const ALL: [Self; 5] = [Self::PreApply, Self::PostApply, Self::OnFailure, Self::OnRollback, Self::PreRemove];

    /// As component.toml and `TRIMTAB_PHASE` say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::PreApply => "pre-apply",
            Self::PostApply => "post-apply",
            Self::OnFailure => "on-failure",
            Self::OnRollback => "on-rollback",
            Self::PreRemove => "pre-remove",
        }
    }
}
