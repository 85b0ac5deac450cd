//! Looking at the host, and planning.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use trimtab_model::desired::{Desired, Node};
use trimtab_model::digest::Digest;
use trimtab_model::drift::IgnoredKeys;
use trimtab_model::keys::MAX_FILE;
use trimtab_model::names::{HostPath, UnitName};
use trimtab_model::observed::{Alike, Found, Observed};
use trimtab_model::plan::{Plan, is_stray, plan};
use trimtab_model::report::{Failure, Outcome, Pass, Wake};

use super::{Cycle, Wanted, worsen};
use crate::apply::on_this_host;
use crate::host::{keys, observe, strays};
use crate::log::{Laps, chain};

impl Cycle {
    /// Looks at everything that is wanted or owned, and plans.
    pub(super) async fn plan(&mut self, wanted: &Wanted, wake: Wake, pass: &mut Pass) -> Plan {
        let has_units = self.machine.systemd.is_some();
        // A sandbox makes files of Quadlets and nothing else: it needs no generator.
        let (desired, problems) =
            if has_units { on_this_host(&wanted.desired, &self.ledger) } else { (Cow::Borrowed(&wanted.desired), Vec::new()) };
        let mut observed = Observed { has_units, ..Observed::default() };
        self.machine.accounts.refresh();
        // What was written with an owner that nothing wants any more is still judged by it.
        let states =
            desired.entries.values().map(|entry| &entry.state).chain(self.ledger.entries.values().map(|owned| &owned.state));
        for state in states {
            if !observed.users.contains_key(state.owner.as_str()) {
                observed.users.insert(state.owner.to_string(), self.machine.accounts.user(state.owner.as_str()));
            }
            if !observed.groups.contains_key(state.group.as_str()) {
                observed.groups.insert(state.group.to_string(), self.machine.accounts.group(state.group.as_str()));
            }
        }
        let clock = Laps::start();
        let paths: BTreeSet<&HostPath> = desired.entries.keys().chain(self.ledger.entries.keys()).collect();
        (observed.entries, observed.xattrs) = observe::observe_whole(&self.machine.root, paths);
        for (folder, exclusive) in &desired.exclusive {
            let is_stray = |path: &HostPath| is_stray(path, exclusive, &desired, &self.ledger);
            observed.strays.insert(folder.clone(), strays::look(&self.machine.root, folder, is_stray));
        }
        observed.purge = self.purge(&desired, wanted, &observed, pass);
        observed.alike = self.alike(wanted, &desired, &observed);
        clock.lap("looked at files");
        let fought = self.fought_over(wanted, wake);
        observed.pinned = self.holds().pins.keys().chain(fought.keys()).cloned().collect();
        self.units(&desired, &mut observed, pass).await;
        let is_kept = |digest: &Digest, size: u64| self.store.has(digest) && self.store.size(digest) == size;
        let artifacts = desired.artifacts().filter(|(_, _, _, digest, size)| is_kept(digest, *size));
        observed.contents = artifacts.map(|(_, _, _, digest, _)| digest).collect();
        self.images(&desired, wanted.fresh, &mut observed, pass).await;
        clock.lap("looked at units and images");
        let mut plan = plan(&desired, &observed, &self.ledger);
        self.tell_fought(&fought, &mut plan);
        self.order_own(&mut plan, &desired);
        plan.problems.extend(problems);
        clock.lap("planned");
        plan
    }

    /// Files that are not as wanted, but may be so but for the keys in them that belong to others.
    fn alike(&self, wanted: &Wanted, desired: &Desired, observed: &Observed) -> BTreeMap<HostPath, Alike> {
        let mut all = BTreeMap::new();
        for (path, want) in &desired.entries {
            let owned = self.ledger.entries.get(path);
            // What was written was written around the keys that were ignored then.
            let before = self.current.as_ref().and_then(|current| current.desired.entries.get(path));
            let (now, then) = (want.ignored.as_ref(), before.map_or(want.ignored.as_ref(), |before| before.ignored.as_ref()));
            let (Node::File { digest, .. }, false) = (&want.state.node, now.or(then).is_none()) else { continue };
            let Some(Found::File { digest: is, size, .. }) = observed.entries.get(path) else { continue };
            if is == digest || *size > MAX_FILE as u64 {
                continue;
            }
            let Some(found) = keys::found(&self.machine.root, path) else { continue };
            let is_alike = |ignored: Option<&IgnoredKeys>, digest: Digest, settled: bool| {
                let content = ignored.zip(self.content(&wanted.contents, digest).ok());
                content.is_some_and(|(ignored, content)| keys::is_alike(ignored, &content, &found, settled))
            };
            let written = match owned.map(|owned| &owned.state.node) {
                Some(Node::File { digest, .. }) => is_alike(then, *digest, true),
                _ => false,
            };
            let alike = Alike { wanted: is_alike(now, *digest, keys::is_settled(owned, want)), written };
            all.insert(path.clone(), alike);
        }
        all
    }

    async fn units(&mut self, desired: &Desired, observed: &mut Observed, pass: &mut Pass) {
        let Some(systemd) = &self.machine.systemd else { return };
        let names: BTreeSet<&UnitName> = desired.units.keys().chain(self.ledger.units.keys()).collect();
        if names.is_empty() {
            return;
        }
        match systemd.observe(names.into_iter()).await {
            Ok(units) => {
                observed.units = units;
                self.saw_units(desired, observed.units.iter());
            }
            Err(error) => {
                // Files can still be put right; units are looked at again by the next pass.
                observed.has_units = false;
                pass.failures.push(Failure { resource: "systemd".to_owned(), message: chain(&error), skipped: false });
                worsen(pass, Outcome::Partial);
            }
        }
    }
}
