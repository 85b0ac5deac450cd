//! Asking hooks and health checks: which ones, with what, and what their answers mean for the pass.

use std::collections::{BTreeMap, BTreeSet};

use trimtab_model::desired::Desired;
use trimtab_model::digest::Digest;
use trimtab_model::hook::{Hook, HookPhase};
use trimtab_model::names::{ComponentName, UnitName};
use trimtab_model::report::{Failure, Pass};

use super::{Cycle, Wanted};
use crate::probe::{self, HookEnd};

/// What hooks that tell of a failure may hold up its undoing, at most.
const TELLING_MS: u64 = 30_000;

/// The state that hooks are run for.
pub(super) struct About<'a> {
    pub(super) desired: &'a Desired,
    /// Contents that may not be in the store yet.
    pub(super) contents: &'a BTreeMap<Digest, Vec<u8>>,
    pub(super) revision: &'a str,
    /// Number of the pass.
    pub(super) pass: u64,
}

impl Wanted {
    pub(super) fn about(&self, pass: u64) -> About<'_> {
        About { desired: &self.desired, contents: &self.contents, revision: &self.key.commit, pass }
    }
}

impl Cycle {
    /// Runs hooks that nothing waits for to be well: what goes wrong with them is a remark.
    pub(super) async fn tell_hooks(
        &mut self,
        about: &About<'_>,
        phase: HookPhase,
        only: Option<&BTreeSet<ComponentName>>,
        pass: &mut Pass,
    ) {
        for (hook, end) in self.hooks(about, phase, only).await {
            if let Some(message) = end.trouble() {
                pass.remarks.push(format!("{hook}: {message}"));
            }
        }
    }

    /// Runs the hooks of a phase, of all components or of `only` some; how each ended, by a name for reports.
    pub(super) async fn hooks(
        &mut self,
        about: &About<'_>,
        phase: HookPhase,
        only: Option<&BTreeSet<ComponentName>>,
    ) -> Vec<(String, HookEnd)> {
        let mut hooks: Vec<Hook> = about.desired.hooks.clone();
        if phase == HookPhase::PreRemove {
            hooks.extend(self.hooks_of_the_leaving(about.desired));
        }
        let is_meant = |hook: &Hook| hook.on == phase && only.is_none_or(|only| only.contains(&hook.origin.component));
        let mut ends = Vec::new();
        for mut hook in hooks.into_iter().filter(is_meant) {
            if matches!(phase, HookPhase::OnFailure | HookPhase::OnRollback) {
                hook.timeout_ms = hook.timeout_ms.min(TELLING_MS);
            }
            let name = format!("hook {} of {}", phase.word(), hook.origin.component);
            let context = probe::Context {
                revision: about.revision.to_owned(),
                previous: self.ledger.revision.clone(),
                pass: about.pass,
                state: self.places.store().state,
            };
            let contents = |digest: Digest| match about.contents.get(&digest) {
                Some(bytes) => Ok(bytes.clone()),
                None => self.store.read(&digest).map_err(std::io::Error::other),
            };
            let end = probe::run_hook(&hook, about.desired, &contents, &context, &self.machine.runner).await;
            let stops = phase == HookPhase::PreApply && end.trouble().is_some();
            ends.push((name, end));
            if stops {
                break;
            }
        }
        ends
    }

    /// What left the repository has its hooks in the generation that still had it.
    fn hooks_of_the_leaving(&self, wanted: &Desired) -> Vec<Hook> {
        let left: BTreeSet<&ComponentName> = self
            .ledger
            .entries
            .values()
            .map(|owned| &owned.origin.component)
            .chain(self.ledger.units.values().map(|owned| &owned.origin.component))
            .filter(|component| !wanted.components.contains_key(*component))
            .collect();
        if left.is_empty() {
            return Vec::new();
        }
        let numbers = self.store.generations().unwrap_or_default();
        for number in numbers.into_keys().rev() {
            let Ok(Some(generation)) = self.store.load_generation(number) else { continue };
            if left.iter().all(|component| generation.desired.components.contains_key(*component)) {
                return generation.desired.hooks.into_iter().filter(|hook| left.contains(&hook.origin.component)).collect();
            }
        }
        Vec::new()
    }

    /// What of a state is not healthy: the checks of the affected components, and the units that were touched.
    pub(super) async fn judge_health(
        &mut self,
        desired: &Desired,
        affected: &BTreeSet<ComponentName>,
        watch: &BTreeSet<UnitName>,
        pass: &mut Pass,
    ) -> Vec<(Option<ComponentName>, Failure)> {
        let verdict =
            probe::watch(desired, affected, watch, self.settings.guard.settle, &self.machine.systemd, &self.machine.runner).await;
        pass.remarks.extend(verdict.remarks);
        verdict
            .failed
            .into_iter()
            .map(|failed| (failed.component, Failure { resource: failed.resource, message: failed.message, skipped: false }))
            .collect()
    }
}
