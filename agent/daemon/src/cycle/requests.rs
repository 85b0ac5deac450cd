//! What a person asked for through the command line: go back, try again, allow, hold back.
//!
//! The command leaves a file in the store's `requests/` and wakes the agent, which takes it away and does what it asks for.
//! Limits: a crash between the two loses it; the person sees that the command did not end well.

use std::collections::BTreeMap;

use trimtab_model::report::{Failure, Outcome, Pass};
use trimtab_model::transaction::{Denied, DeniedBy};

use super::offline::Stick;
use super::source::Key;
use super::{Asked, Cycle, Hold, Wanted, worsen};
use crate::log::chain;
use crate::store::Request;

impl Cycle {
    /// Takes what was asked for; a wish to go back is what this pass tries.
    pub(super) fn take_requests(&mut self, pass: &mut Pass) -> Option<Wanted> {
        if self.hold == Hold::ReadOnly {
            return None;
        }
        let taken = match self.store.take_requests() {
            Ok(taken) => taken,
            Err(error) => {
                pass.failures.push(Failure { resource: "requests".to_owned(), message: chain(&error), skipped: false });
                worsen(pass, Outcome::Partial);
                return None;
            }
        };
        pass.remarks.extend(taken.unread.iter().map(|error| chain(error)));
        let mut back = None;
        for request in taken.requests {
            match request {
                Request::Retry { revision } => {
                    if self.ledger.retry(revision.as_deref()) {
                        self.refused = None;
                        // What is in force may stand for the same commit without what fell: that is rendered anew, for it is not denied
                        // any more.
                        self.withheld_again = None;
                    } else {
                        let what = revision.map_or_else(String::new, |revision| format!(" of revision {revision}"));
                        pass.remarks.push(format!("nothing{what} is denied: there is nothing to try again"));
                    }
                    self.save_ledger(pass);
                }
                Request::Approve { revision } => self.approve(&revision, pass),
                Request::Hold { name, held } => self.hold_back(&name, held, pass),
                Request::Release { name } => self.release(&name, pass),
                Request::Bundle { file, key } => self.stick = Some(Stick { file, key }),
                Request::Rollback { generation, reason } => back = Some((generation, reason)),
            }
        }
        let (generation, reason) = back?;
        match self.go_back_to(generation, reason) {
            Ok(wanted) => Some(wanted),
            Err(message) => {
                pass.failures.push(Failure { resource: "rollback".to_owned(), message, skipped: false });
                worsen(pass, Outcome::Partial);
                None
            }
        }
    }

    /// Allows what the guards refused: by what it means for the host, so that another commit with the same name is not allowed with it.
    fn approve(&mut self, revision: &str, pass: &mut Pass) {
        self.refused = None;
        self.approving = Some(revision.to_owned());
        pass.remarks.push(format!("revision {revision} may take away and replace what it wants"));
    }

    fn go_back_to(&mut self, generation: Option<u64>, reason: String) -> Result<Wanted, String> {
        if self.is_paused() {
            return Err("nothing is changed on a host that is suspended or only observes; see `trimtab holds`".to_owned());
        }
        let now = self.ledger.generation;
        let number = if let Some(number) = generation {
            number
        } else {
            let kept = self.store.generations().map_err(|error| chain(&error))?;
            let older = self.ledger.before(|number| kept.contains_key(&number));
            older.ok_or("there is no older generation to go back to; see `trimtab history`")?
        };
        if number == now && self.ledger.trial.is_none() {
            return Err(format!("generation {number} is in force already"));
        }
        let target = self
            .recall(number)
            .map_err(|why| format!("generation {number} cannot be gone back to: {why}; see `trimtab history`"))?;
        if number == 0 {
            return Err("generation 0 is the host without trimtab: `trimtab uninstall --remove` goes back to it".to_owned());
        }
        let denies = self.current.as_ref().map(|current| Denied {
            revision: current.key.commit.clone(),
            effect: current.effect,
            components: std::collections::BTreeSet::new(),
            back_to: number,
            at: super::now_ms() / 1000,
            pass: 0,
            causes: vec![Failure { resource: "operator".to_owned(), message: reason.clone(), skipped: false }],
            by: DeniedBy::Person { reason: reason.clone() },
            tries: 1,
        });
        Ok(Wanted {
            key: Key { commit: target.revision, inputs: target.inputs },
            effect: target.desired.effect(),
            desired: target.desired,
            contents: BTreeMap::new(),
            fresh: true,
            all: None,
            withheld: target.withheld,
            asked: Some(Box::new(Asked { number, reason, denies })),
        })
    }
}
