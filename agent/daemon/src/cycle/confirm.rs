//! The guard of reachability: a change that could cut the host off is in force for good only when the source was reached with it.
//!
//! The time runs on the monotonic clock of this boot: a clock that jumps ends nothing early and nothing late. A reboot gives the whole time
//! again, to as many starts as a trial has.

use std::time::{Duration, Instant};

use trimtab_model::report::{Failure, Outcome, Pass};
use trimtab_model::transaction::DeniedBy;

use super::attempt::part;
use super::undo::Fallen;
use super::{Cycle, Wanted, worsen};

/// Between two polls while a change waits to be confirmed.
const AGAIN: Duration = Duration::from_secs(3);

impl Cycle {
    /// Reaches for the source until the time is over; then commits, or undoes.
    pub(super) async fn confirm(&mut self, wanted: Wanted, number: u64, good: bool, pass: &mut Pass) {
        self.renew_watch(super::own::SWITCHING);
        let begun = Instant::now();
        let limit = self.settings.guard.confirm_timeout;
        let guarded = self.ledger.trial.as_ref().map(|trial| trial.guarded.join(", ")).unwrap_or_default();
        tracing::info!(
            trimtab_pass = pass.number,
            trimtab_revision = wanted.key.commit,
            trimtab_outcome = "confirming",
            "what was changed could cut this host off ({guarded}): the source must be reached within {}, or it is undone",
            humantime::format_duration(limit)
        );
        self.write_status();
        self.look_past_bundle();
        let mut last = "it was not tried".to_owned();
        loop {
            if self.hold == super::Hold::Agent && self.machine.systemd.is_some() {
                self.raise_courier().await;
            }
            let question = self.put_question(vec![wanted.key.clone()]);
            match tokio::time::timeout(limit.saturating_sub(begun.elapsed()), question).await.map(|answered| answered.answer) {
                Ok(answer) if answer.is_reached() => break,
                Ok(super::source::Answer::Trouble { message, .. }) => last = message,
                Ok(super::source::Answer::Refused { verdict, .. }) => last = verdict.to_string(),
                Ok(_) => {}
                Err(_) => {
                    if last == "it was not tried" {
                        "it did not answer".clone_into(&mut last);
                    }
                }
            }
            if begun.elapsed() + AGAIN >= limit {
                part(pass, "confirm", begun);
                let message = format!(
                    "the source was not reached within {} with what was changed ({guarded}): {last}",
                    humantime::format_duration(limit)
                );
                let cause = Failure { resource: "source".to_owned(), message, skipped: false };
                let by = DeniedBy::Reach { unreached: 0 };
                self.undo(&wanted.desired, Fallen::All, vec![cause], Some(by), pass).await;
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
        part(pass, "confirm", begun);
        worsen(pass, Outcome::Converged);
        // A new trimtab proves itself at once, whatever else waits.
        if self.awaits_reboot(&wanted, number, pass) {
            return;
        }
        self.commit(&wanted, number, good, begun, pass);
        self.after(&wanted, pass).await;
    }
}
