//! Placeholder while the room is being built.
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use trimtab_model::desired::Desired;
use trimtab_model::digest::Digest;
use trimtab_model::hook::Hook;
use trimtab_model::names::{ComponentName, UnitName};

use crate::host::command::Runner;
use crate::host::units::Systemd;

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookEnd {
    /// With success.
    Done,
    /// It refuses.
    Veto {
        /// Its last words.
        message: String,
    },
    /// It asks for later.
    Later {
        /// Its last words.
        message: String,
    },
    /// It could not be run.
    Failed {
        /// Why.
        message: String,
    },
}

impl HookEnd {
    /// What went wrong.
    pub fn trouble(&self) -> Option<&str> {
        match self {
            HookEnd::Done => None,
            HookEnd::Veto { message } | HookEnd::Later { message } | HookEnd::Failed { message } => Some(message),
        }
    }
}

/// What a hook is told.
#[derive(Debug, Clone)]
pub struct Context {
    /// The commit.
    pub revision: String,
    /// The commit before.
    pub previous: String,
    /// The pass.
    pub pass: u64,
}

/// Runs a hook.
pub async fn run_hook(
    _hook: &Hook,
    _desired: &Desired,
    _contents: &dyn Fn(Digest) -> io::Result<Vec<u8>>,
    _context: &Context,
    _runner: &Runner,
) -> HookEnd {
    HookEnd::Done
}

/// What failed.
#[derive(Debug, Clone)]
pub struct Failed {
    /// What.
    pub resource: String,
    /// Whose.
    pub component: Option<ComponentName>,
    /// Why.
    pub message: String,
}

/// What the checks said.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// What failed.
    pub failed: Vec<Failed>,
    /// Worth telling.
    pub remarks: Vec<String>,
}

/// Watches.
pub async fn watch(
    desired: &Desired,
    _affected: &BTreeSet<ComponentName>,
    watch: &BTreeSet<UnitName>,
    settle: Duration,
    systemd: &Option<Arc<Systemd>>,
    _runner: &Runner,
) -> Verdict {
    let mut verdict = Verdict::default();
    let Some(systemd) = systemd else { return verdict };
    let units: Vec<&UnitName> = watch
        .iter()
        .filter(|unit| desired.units.get(*unit).is_some_and(|unit| unit.active == Some(true) && !unit.oneshot))
        .collect();
    let begun = std::time::Instant::now();
    while !units.is_empty() && verdict.failed.is_empty() {
        for unit in &units {
            if let Ok(found) = systemd.look(unit).await
                && !matches!(found.active.as_str(), "active" | "reloading" | "activating" | "refreshing")
            {
                let component = desired.units.get(*unit).map(|unit| unit.origin.component.clone());
                let message = format!("it did not stay up: {} ({})", found.active, found.sub);
                verdict.failed.push(Failed { resource: format!("unit {unit}"), component, message });
            }
        }
        if begun.elapsed() > settle {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    verdict
}
