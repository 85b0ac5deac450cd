//! The status document: put together from what the cycle holds in memory, at no cost on the machine but one file in `/run`.
//!
//! Guarantees: nothing is asked of the source, of systemd or of the disk for it; an idle pass writes the document to tmpfs and nothing else.
//! Limits: what is known of the source since boot (when it last answered, how often it was asked) begins anew after a reboot.

use std::time::Duration;

use trimtab_model::condition::{Moment, conditions};
use trimtab_model::desired::Desired;
use trimtab_model::names::UnitName;
use trimtab_model::observed::UnitFound;
use trimtab_model::status::{Clock, ConditionKind, Status, TrialLine, TrustStatus, Truth, UNITS, UnitStatus, transition};

use super::{Cycle, Hold, now_ms};
use crate::host::sys::is_clock_kept;
use crate::log::chain;
use crate::outbox::Outbox;
use crate::trust::fresh;
use crate::trust::memory::Moment as Clocked;
use crate::trust::release::Rules;

/// The group that may read the status document: that of the endpoint's user.
const READERS: &str = "trimtab-status";

/// A pass that finds nothing takes no longer, on the slowest of devices; one that hangs for so long is ended by systemd.
const GRACE: Duration = Duration::from_secs(300);

/// A change that is being tried may wait for many units and checks, one after the other.
const TRIAL: Duration = Duration::from_secs(3 * 3600);

impl Cycle {
    /// For who looks: at the end of a pass, and when a trial in the middle of one begins to wait for something.
    pub(super) fn write_status(&mut self) {
        let status = self.status();
        self.history.told(&status);
        let text = serde_json::to_vec_pretty(&status).expect("because plain data with string keys always serialises");
        let readers = self.readers();
        if let Err(error) = self.store.save_status(&text, readers) {
            // The report of a pass must not be what makes the next one fail.
            // Not among what `once` answers, so it must not be filtered away with it.
            tracing::warn!(target: "trimtab", "the status document cannot be written: {}", chain(&error));
        }
        self.write_textfile(&status);
    }

    /// The group of the endpoint's user, where there is one.
    fn readers(&mut self) -> Option<u32> {
        let is_root = nix::unistd::geteuid().is_root();
        if is_root && !self.places.is_sandbox() { self.machine.accounts.group(READERS) } else { None }
    }

    /// The host as this process knows it.
    pub(super) fn status(&self) -> Status {
        let now_ms = now_ms();
        let (ledger, book) = (&self.ledger, &self.kept.book);
        let mut status = Status {
            agent_pid: if self.hold == Hold::Agent { std::process::id() } else { 0 },
            host: self.host.name.to_string(),
            at_ms: now_ms,
            next_ms: self.next(now_ms),
            last_applied_revision: ledger.revision.clone(),
            generation: ledger.generation,
            good_generation: ledger.good,
            mode: self.settings.agent.mode,
            holds: self.holds().clone(),
            trust: self.trust_status(),
            clock: self.clock(now_ms / 1000),
            managed_files: ledger.entries.len(),
            managed_units: ledger.units.len(),
            units: self.seen.clone(),
            watch: self.watch.clone(),
            trial: ledger.trial.as_ref().map(|trial| TrialLine {
                phase: trial.phase,
                revision: trial.revision.clone(),
                generation: trial.generation,
                guarded: trial.guarded.clone(),
            }),
            denied: ledger.denied.clone(),
            changes: ledger.history.clone(),
            ..self.history.status()
        };
        status.device = self.sending.outbox.as_ref().map(Outbox::device).unwrap_or_default();
        status.queue = self.sending.queue();
        status.tell_drift(book);
        let moment = Moment {
            now: now_ms / 1000,
            booted: (now_ms / 1000).saturating_sub(crate::host::facts::uptime()),
            stale_after: self.settings.agent.stale_after.as_secs(),
        };
        let is_behind = status.clock == Clock::Behind && !self.moment().synchronised;
        status.conditions = transition(self.history.since(), conditions(&status, book, moment), (!is_behind).then_some(moment.now));
        let ready = status.condition(ConditionKind::Ready);
        let (is_ready, reason) = ready.map_or((false, String::new()), |ready| (ready.status == Truth::True, ready.message.clone()));
        (status.ready, status.reason) = (is_ready, reason);
        status
    }

    /// When this document is followed by another at the latest, milliseconds since 1970; 0: nobody stays to write one.
    fn next(&self, now_ms: u64) -> u64 {
        if self.hold != Hold::Agent {
            return 0;
        }
        let agent = &self.settings.agent;
        // A tenth is added to an interval at random; a pass may pull images before it tries anything.
        let pause = agent.interval + agent.interval / 10;
        let longest = if self.ledger.trial.is_some() { TRIAL } else { agent.pull_timeout };
        let within = pause + GRACE + longest;
        now_ms.saturating_add(u64::try_from(within.as_millis()).unwrap_or(u64::MAX))
    }

    fn trust_status(&self) -> TrustStatus {
        let memory = &self.memory;
        let mut trust = TrustStatus { mode: "commit".to_owned(), state_lost: memory.lost.is_some(), ..self.history.trust() };
        if let Some(state) = &memory.accepted {
            format!("{} {}", state.signer_name, state.signer).trim_start().clone_into(&mut trust.signer);
            trust.revision = state.commit.to_string();
            trust.accepted_at = state.accepted_at;
            // What was accepted was heard: this much is known after a reboot.
            trust.last_contact = trust.last_contact.max(state.accepted_at);
        }
        trust.root_version = memory.root.as_ref().map(|file| file.root.version);
        trust.root_digest = memory.root.as_ref().map(|file| file.digest().to_string());
        if let Some(rules) = Rules::of(&self.trust) {
            "release".clone_into(&mut trust.mode);
            if let Some(release) = &memory.release {
                trust.signer = release.signers.join(", ");
                (trust.epoch, trust.sequence) = (Some(release.place.epoch), Some(release.place.seq));
                trust.statement = Some(release.statement.to_string());
                trust.expires = memory.ends();
                fresh::freshness(memory, rules, self.moment()).code().clone_into(&mut trust.freshness);
            }
        }
        trust
    }

    /// What time it is, as far as trust may build on it. Not [`Clock::Synchronised`]: what was accepted under a clock that was wrong must not make a
    /// right one count as wrong.
    pub(super) fn moment(&self) -> Clocked {
        let synchronised = is_clock_kept().or_else(|| self.is_marked()) == Some(true);
        Clocked { clock: now_ms() / 1000, synchronised }
    }

    fn clock(&self, now: u64) -> Clock {
        let floor = match (&self.memory.release, &self.memory.accepted) {
            (Some(_), _) => self.memory.floor_now(),
            (None, Some(state)) => state.time_floor.max(state.accepted_at),
            (None, None) => 0,
        };
        match is_clock_kept().or_else(|| self.is_marked()) {
            _ if now < floor => Clock::Behind,
            Some(true) => Clock::Synchronised,
            Some(false) => Clock::Unsynchronised,
            None => Clock::Unknown,
        }
    }

    /// What systemd-timesyncd leaves when it has set the clock; for where the kernel may not be asked (containers, units of others).
    fn is_marked(&self) -> Option<bool> {
        let mark = self.places.root.join("run/systemd/timesync/synchronized");
        (!self.places.is_sandbox() && mark.exists()).then_some(true)
    }

    /// Remembers how the managed units are, for the status document.
    pub(super) fn saw_units<'a>(&mut self, desired: &Desired, found: impl Iterator<Item = (&'a UnitName, &'a UnitFound)>) {
        let units = found.filter(|(name, _)| desired.units.contains_key(*name) || self.ledger.units.contains_key(*name));
        self.seen = units.take(UNITS).map(|(name, found)| unit(desired, name, found)).collect();
    }

    /// Looks at the units again after something was changed; before that the last look told all.
    pub(super) async fn look_again(&mut self) {
        let Some(systemd) = &self.machine.systemd else { return };
        let Some(current) = &self.current else { return };
        let names = current.desired.units.keys().chain(self.ledger.units.keys());
        let names: std::collections::BTreeSet<&UnitName> = names.collect();
        match systemd.observe(names.into_iter()).await {
            Ok(units) => {
                let desired = std::mem::take(&mut self.current);
                if let Some(current) = &desired {
                    self.saw_units(&current.desired, units.iter());
                }
                self.current = desired;
            }
            // What the look before the change saw is still told; the next pass looks anew, and says why it cannot.
            Err(error) => tracing::debug!("{}", chain(&error)),
        }
    }
}

fn unit(desired: &Desired, name: &UnitName, found: &UnitFound) -> UnitStatus {
    let wanted = desired.units.get(name);
    let active = match wanted.and_then(|unit| unit.active) {
        Some(true) => "active",
        Some(false) => "inactive",
        None => "",
    };
    UnitStatus {
        name: name.to_string(),
        wanted: active.to_owned(),
        active: found.active.clone(),
        sub: found.sub.clone(),
        image: desired.image_of(name).unwrap_or_default().to_owned(),
    }
}
