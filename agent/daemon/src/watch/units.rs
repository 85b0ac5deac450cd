//! systemd's signals about the managed units, heard by a task of its own while the loop waits or works.
//!
//! Guarantees: one connection, and only signals of managed units (and of unit files, which name none) come over it; it is made anew when it
//! breaks or when other units are managed. Whenever one was made, everything is looked at once, for what changed before it was not heard. Limits: systemd does not say who asked for a job; that there was one is remembered, so that a unit that changed
//! without one is told as the unit's own doing, and with one as nobody's that is known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use trimtab_model::names::UnitName;

use super::reader::{Job, Shared};
use crate::host::units::{Signal, Signals};

/// After the connection broke, this long nothing is tried.
const AGAIN: Duration = Duration::from_secs(5);

/// How many jobs are remembered.
const MAX_JOBS: usize = 512;

/// The task that listens; it ends with this.
#[derive(Debug, Default)]
pub(super) struct Listener {
    units: Vec<UnitName>,
    task: Option<JoinHandle<()>>,
}

impl Listener {
    /// Hears of these units from now on.
    pub(super) fn listen(&mut self, units: &[UnitName], shared: &Arc<Shared>) {
        if self.task.is_some() && self.units == units {
            return;
        }
        self.stop();
        units.clone_into(&mut self.units);
        if units.is_empty() {
            return;
        }
        self.task = Some(tokio::spawn(hear(units.to_vec(), shared.clone())));
    }

    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn hear(units: Vec<UnitName>, shared: Arc<Shared>) {
    loop {
        match Signals::subscribe(&units).await {
            Ok(signals) => {
                {
                    let mut inbox = shared.inbox();
                    inbox.hears_units = true;
                    // What happened since the last look, be it a pass or the last of another connection's signals, was heard by nobody.
                    inbox.note_everything();
                }
                shared.notify.notify_one();
                follow(signals, &shared).await;
                let mut inbox = shared.inbox();
                inbox.hears_units = false;
                inbox.note_now();
                drop(inbox);
                shared.notify.notify_one();
            }
            Err(error) => tracing::debug!("{}", crate::log::chain(&error)),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow(mut signals: Signals, shared: &Shared) {
    // systemd announces every change of any property; only these two are of interest.
    let mut states: BTreeMap<String, (String, String)> = BTreeMap::new();
    while let Some(signal) = signals.next().await {
        let mut inbox = shared.inbox();
        let news = match signal {
            Signal::State { unit, active, sub } => {
                let state = (active, sub);
                let same = states.get(&unit) == Some(&state);
                if !same {
                    states.insert(unit.clone(), state);
                    inbox.note(format!("unit {unit}"), None);
                }
                !same
            }
            Signal::Job { unit, job } => {
                if inbox.jobs.len() == MAX_JOBS {
                    inbox.jobs.pop_front();
                }
                inbox.jobs.push_back(Job { unit, job, at: Instant::now() });
                false
            }
            Signal::Files => {
                inbox.note_everything();
                true
            }
        };
        drop(inbox);
        if news {
            shared.notify.notify_one();
        }
    }
}
