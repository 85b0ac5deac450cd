//! Giving the host back: everything managed goes as if nothing had been declared any more, through the same engine as any change.
//!
//! Originals are put back, units stopped, disabled and removed, directories that were made on the way removed when they are empty.
//! Limits: images stay pulled, and what a unit or a hook made by itself stays.

use std::collections::BTreeMap;

use trimtab_model::desired::Desired;
use trimtab_model::plan::Plan;
use trimtab_model::report::{Outcome, Pass, Wake};

use super::source::Key;
use super::{Cycle, Looked, Wanted, worsen};
use crate::config::Adopt;

impl Cycle {
    /// What stands in place of `guard.adopt` for this process.
    pub fn adopt(&mut self, adopt: Adopt) {
        self.settings.guard.adopt = adopt;
    }

    /// What giving the host back would change; nothing is touched.
    pub async fn look_at_leaving(&mut self) -> Looked {
        self.forget_holds();
        let mut pass = self.begin(Wake::Asked);
        let wanted = self.nothing();
        let plan = self.plan(&wanted, Wake::Asked, &mut pass).await;
        told(&plan, &mut pass);
        Looked { pass, plan, wanted: None }
    }

    /// Gives the host back. Whether nothing is managed any more; otherwise the pass says what could not be given back, and all that is known
    /// of it is still in the store.
    pub async fn leave(&mut self) -> (Pass, bool) {
        self.forget_holds();
        let mut pass = self.begin(Wake::Asked);
        let wanted = self.nothing();
        self.sweep(&wanted.desired);
        let plan = self.plan(&wanted, Wake::Asked, &mut pass).await;
        told(&plan, &mut pass);
        // A change that was being tried leaves with the rest.
        self.ledger.trial = None;
        let done = self.repair(&plan, &wanted, &mut pass).await;
        let is_empty = self.ledger.entries.is_empty() && self.ledger.units.is_empty();
        let gone = done && is_empty && pass.failures.is_empty() && pass.problems.is_empty();
        if !gone {
            worsen(&mut pass, Outcome::Partial);
        }
        self.conclude(&mut pass);
        (pass, gone)
    }

    fn nothing(&self) -> Wanted {
        let desired = Desired::default();
        Wanted {
            key: Key { commit: String::new(), inputs: self.inputs },
            effect: desired.effect(),
            desired,
            contents: BTreeMap::new(),
            fresh: false,
            all: None,
            withheld: Vec::new(),
            asked: None,
        }
    }
}

fn told(plan: &Plan, pass: &mut Pass) {
    pass.changes.clone_from(&plan.changes);
    pass.problems.clone_from(&plan.problems);
    if !plan.problems.is_empty() {
        worsen(pass, Outcome::Partial);
    } else if !plan.steps.is_empty() {
        worsen(pass, Outcome::Converged);
    }
}
