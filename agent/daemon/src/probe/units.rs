//! A unit's health: looked at when systemd announces a change, when it could have settled, and now and then.

use std::sync::Arc;

use trimtab_model::health::{Expected, Timing, UnitCourse};
use trimtab_model::names::UnitName;

use super::Clocked;
use crate::host::units::{Changes, Systemd};
use crate::log::chain;

/// Watches one unit until it is decided.
pub(super) async fn unit(
    systemd: &Arc<Systemd>,
    unit: &UnitName,
    timing: Timing,
    expected: Expected,
    started: bool,
) -> Result<(), String> {
    let mut watched = UnitCourse::new(expected, timing.retries, started);
    // What ran to its end has nothing to stay. How many restarts are borne is counted by the unit's own course: one restart is
    // announced several times.
    let settle_ms = if expected == Expected::Ended { 0 } else { timing.settle_ms };
    let mut clocked = Clocked::new(Timing { settle_ms, retries: u32::MAX, ..timing });
    // Before the first look, so that nothing can happen in between.
    let mut changes = systemd.changes(unit).await.ok();
    let mut trouble = String::new();
    loop {
        let answer = match systemd.fares(unit).await {
            Ok(look) => Some(watched.judge(&look)),
            Err(error) => {
                // Systemd that cannot be asked says nothing about the unit; the timeout bounds how long that is borne.
                trouble = chain(&error);
                None
            }
        };
        if let Some(decided) = clocked.take(answer) {
            return decided.map_err(|why| if trouble.is_empty() { why } else { format!("{why} ({trouble})") });
        }
        tokio::select! {
            () = tokio::time::sleep_until(clocked.next()) => {}
            told = announced(&mut changes) => if !told {
                changes = None;
            }
        }
    }
}

async fn announced(changes: &mut Option<Changes>) -> bool {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}
