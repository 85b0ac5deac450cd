//! The steps that are systemd's: appliers, reload, boot states, jobs.

use std::time::{Duration, Instant};

use trimtab_model::desired::{Desired, Role};
use trimtab_model::names::{HostPath, UnitName};
use trimtab_model::plan::Action;

use super::{Outcome, Pass, chain, network};
use crate::host::command::{self, Command, CommandError, Runner};
use crate::host::units::{BootState, JobVerb, Systemd, UnitError};

const SANDBOX: &str = "not run in a sandbox";

const SYSCTL: [&str; 3] = ["/usr/lib/systemd/systemd-sysctl", "/lib/systemd/systemd-sysctl", "systemd-sysctl"];

/// What a finished step did, for the journal.
pub(super) fn done_word(action: &Action) -> &'static str {
    match action {
        Action::Pull { .. } => "pulled",
        Action::Fetch { .. } => "fetched",
        Action::Put { .. } => "wrote",
        Action::Remove { .. } => "removed",
        Action::Purge { .. } => "purged",
        Action::Restore { .. } => "put back",
        Action::Sysusers { .. } | Action::Tmpfiles { .. } | Action::Sysctl { .. } => "applied",
        Action::DaemonReload => "had systemd read its unit files again",
        Action::Enable { .. } => "enabled",
        Action::Disable { .. } => "disabled",
        Action::Mask { .. } => "masked",
        Action::Unmask { .. } => "unmasked",
        Action::Stop { .. } => "stopped",
        Action::Start { .. } => "started",
        Action::Restart { .. } => "restarted",
        Action::Reload { .. } => "reloaded",
        Action::Forget { .. } => "forgot",
    }
}

impl Pass<'_> {
    /// One step that is no file's.
    pub(super) async fn step(&mut self, at: usize) {
        if self.skip(at) {
            // An applier that was left out leaves its files pending, as one that failed does.
            self.note_applier(at);
            return;
        }
        let outcome = self.carry_out(at).await;
        if matches!(outcome, Outcome::Failed { .. }) {
            self.note_applier(at);
            self.reload_failed |= matches!(self.plan.steps[at].action, Action::DaemonReload);
        }
        self.ended(at, outcome);
    }

    fn note_applier(&mut self, at: usize) {
        match self.plan.steps[at].action {
            Action::Sysusers { .. } => self.appliers_failed.push(Role::Sysusers),
            Action::Tmpfiles { .. } => self.appliers_failed.push(Role::Tmpfiles),
            Action::Sysctl { .. } => self.appliers_failed.push(Role::Sysctl),
            _ => {}
        }
    }

    async fn carry_out(&mut self, at: usize) -> Outcome {
        let action = &self.plan.steps[at].action;
        if let Action::Forget { unit } = action {
            self.ledger.units.remove(unit);
            return Outcome::Done;
        }
        let Some(systemd) = self.machine.systemd.clone() else { return Outcome::NotRun { because: SANDBOX } };
        let runner = self.machine.runner.clone();
        match action {
            Action::Sysusers { paths } => tool(&runner, "sysusers", &["systemd-sysusers"], &[], paths).await,
            Action::Tmpfiles { paths } => tool(&runner, "tmpfiles", &["systemd-tmpfiles"], &["--create"], paths).await,
            Action::Sysctl { paths } => tool(&runner, "sysctl", &SYSCTL, &[], paths).await,
            Action::DaemonReload => {
                self.reload_due = false;
                ended(systemd.daemon_reload().await)
            }
            Action::Enable { unit } => self.enable(&systemd, unit).await,
            Action::Disable { unit } => self.boot_state(&systemd, unit, BootState::Disabled).await,
            Action::Mask { unit } => self.boot_state(&systemd, unit, BootState::Masked).await,
            Action::Unmask { unit } => self.boot_state(&systemd, unit, BootState::Unmasked).await,
            Action::Stop { unit, .. } => self.job(&systemd, JobVerb::Stop, unit).await,
            Action::Start { unit } => self.job(&systemd, JobVerb::Start, unit).await,
            Action::Reload { unit } => self.job(&systemd, JobVerb::Reload, unit).await,
            Action::Restart { unit } => match network::of(self.wanted, unit, self.contents) {
                Some(name) => self.renew_network(at, &systemd, unit, &name).await,
                None => self.job(&systemd, JobVerb::Restart, unit).await,
            },
            // Files and images are done by now, or left out with everything else.
            Action::Pull { .. }
            | Action::Fetch { .. }
            | Action::Put { .. }
            | Action::Remove { .. }
            | Action::Purge { .. }
            | Action::Restore { .. }
            | Action::Forget { .. } => Outcome::Skipped { because: "something before it failed".to_owned() },
        }
    }

    async fn enable(&mut self, systemd: &Systemd, unit: &UnitName) -> Outcome {
        match systemd.look(unit).await {
            Ok(found) if found.file_state.starts_with("masked") => {
                let unmasked = self.boot_state(systemd, unit, BootState::Unmasked).await;
                if unmasked != Outcome::Done {
                    return unmasked;
                }
            }
            Ok(_) => {}
            Err(error) => return ended(Err(error)),
        }
        self.boot_state(systemd, unit, BootState::Enabled).await
    }

    async fn boot_state(&mut self, systemd: &Systemd, unit: &UnitName, wanted: BootState) -> Outcome {
        match systemd.boot_state(unit, wanted).await {
            Ok(changed) => {
                self.reload_due |= changed;
                Outcome::Done
            }
            // Nothing there that could be enabled is as disabled as it gets.
            Err(error) if wanted != BootState::Enabled && error.is_absent() => Outcome::Done,
            Err(error) => ended(Err(error)),
        }
    }

    async fn job(&mut self, systemd: &Systemd, verb: JobVerb, unit: &UnitName) -> Outcome {
        if verb != JobVerb::Stop {
            self.reload_if_due().await;
        }
        let begun = Instant::now();
        match systemd.job(verb, unit, self.machine.patience.unit).await {
            Ok(outcome) => {
                if !outcome.condition_met {
                    let remark =
                        format!("systemd left {unit} inactive, for a condition of it (Condition…=) is not met on this host");
                    self.applied.remarks.push(remark);
                }
                if verb != JobVerb::Stop {
                    self.has_read(unit);
                }
                Outcome::Done
            }
            // It is not even loaded: as stopped as it gets.
            Err(error) if verb == JobVerb::Stop && error.is_absent() => Outcome::Done,
            Err(error) => {
                self.unasked = matches!(error, UnitError::NoBus { .. } | UnitError::Lost { .. } | UnitError::Call { .. });
                if verb != JobVerb::Stop && matches!(error, UnitError::Slow { .. }) {
                    // systemd goes on with the job, and what it starts reads what is there now: the next pass must wait for it and not
                    // begin it anew, or a unit that is slow to start would never get to the end.
                    self.has_read(unit);
                }
                let mut message = chain(&error);
                if let Some((blamed, invocation)) = error.invocation() {
                    message.push_str(&last_words(&self.machine.runner, Some(blamed), invocation, begun.elapsed(), None).await);
                }
                Outcome::Failed { message }
            }
        }
    }

    /// systemd must know of links that were made before it starts what they link.
    pub(super) async fn reload_if_due(&mut self) {
        if !std::mem::take(&mut self.reload_due) {
            return;
        }
        let Some(systemd) = self.machine.systemd.clone() else { return };
        if let Err(error) = systemd.daemon_reload().await {
            self.applied
                .remarks
                .push(format!("units were enabled or disabled, but systemd has not read that yet: {}", chain(&error)));
        }
    }

    /// `podman network create --ignore` keeps an existing network as it is, so a restart alone would change nothing.
    async fn renew_network(&mut self, at: usize, systemd: &Systemd, unit: &UnitName, name: &str) -> Outcome {
        let users = users(self.wanted, unit);
        let mut running = Vec::new();
        for user in users {
            if systemd.look(&user).await.is_ok_and(|found| matches!(found.active.as_str(), "active" | "activating" | "reloading")) {
                running.push(user);
            }
        }
        for user in &running {
            let stopped = self.job(systemd, JobVerb::Stop, user).await;
            if stopped != Outcome::Done {
                return stopped;
            }
        }
        let stopped = self.job(systemd, JobVerb::Stop, unit).await;
        if stopped != Outcome::Done {
            return stopped;
        }
        let removed = network::remove(name, &self.machine.runner).await;
        // Also after a failure: better the old network than none.
        let started = self.job(systemd, JobVerb::Start, unit).await;
        for user in running {
            // Those with a step of their own are started by it, in its turn.
            if !self.has_step(at, &user) {
                let started = self.job(systemd, JobVerb::Start, &user).await;
                if let Outcome::Failed { message } = started {
                    self.applied.remarks.push(format!("{user} was stopped for its network and did not come back: {message}"));
                }
            }
        }
        match removed {
            Err(error) => {
                // It runs, but with the old network: the next pass must try again.
                self.has_not_read(unit);
                Outcome::Failed { message: format!("its network could not be made anew: {}", chain(&error)) }
            }
            Ok(()) => started,
        }
    }

    fn has_step(&self, after: usize, unit: &UnitName) -> bool {
        self.plan.steps[after + 1..].iter().any(|step| match &step.action {
            Action::Start { unit: other } | Action::Restart { unit: other } => other == unit,
            _ => false,
        })
    }
}

/// Units that are started after a network's.
fn users(wanted: &Desired, network: &UnitName) -> Vec<UnitName> {
    wanted.units.iter().filter(|(_, unit)| unit.after.contains(network)).map(|(name, _)| name.clone()).collect()
}

fn ended(result: Result<(), UnitError>) -> Outcome {
    result.map_or_else(|error| Outcome::Failed { message: chain(&error) }, |()| Outcome::Done)
}

async fn tool(runner: &Runner, what: &'static str, programs: &[&str], options: &[&str], paths: &[HostPath]) -> Outcome {
    let program = programs.iter().find_map(|program| command::find(program)).unwrap_or_else(|| (*programs[0]).to_owned());
    let words = std::iter::once(program.as_str()).chain(options.iter().copied()).chain(paths.iter().map(HostPath::as_str));
    let result = command::run(&Command::new(what, words), runner).await.and_then(command::Output::successful);
    result.map_or_else(|error: CommandError| Outcome::Failed { message: chain(&error) }, |_| Outcome::Done)
}

/// What a run of a unit said at the end, for whoever must find out why it does not run: its own words, and systemd's about it.
/// A process that ends at once may be gone before the journal has looked up its run: its unit is known all the same, so what that said since
/// a time ago is taken as well, if the unit is given; `until`: what was said less long ago than that is somebody else's.
pub(crate) async fn last_words(
    runner: &Runner,
    unit: Option<&str>,
    invocation: &str,
    ago: Duration,
    until: Option<Duration>,
) -> String {
    let (own, systemds) = (format!("_SYSTEMD_INVOCATION_ID={invocation}"), format!("INVOCATION_ID={invocation}"));
    let (units, since) = (unit.map(|unit| format!("_SYSTEMD_UNIT={unit}")), format!("--since=-{}s", ago.as_secs() + 1));
    let until = until.map(|until| format!("--until=-{}s", until.as_secs()));
    let mut words = vec!["journalctl", &own, "+", &systemds];
    words.extend(units.iter().flat_map(|units| ["+", units.as_str()]));
    words.extend(until.as_deref());
    words.extend([&since, "-n", "10", "--no-pager", "-q", "-o", "cat"]);
    // What it said a moment ago may still be on its way into the journal.
    let flush = Command::new("journal", ["journalctl", "--sync"]).timeout(Duration::from_secs(10));
    if let Err(error) = command::run(&flush, runner).await {
        tracing::debug!("the journal could not be waited for: {}", chain(&error));
    }
    match command::run(&Command::new("journal", words).timeout(Duration::from_secs(10)), runner).await {
        Ok(output) if output.is_success() && !output.stdout.is_empty() => {
            format!("\nits last words:\n{}", command::last_lines(&String::from_utf8_lossy(&output.stdout), 10))
        }
        _ => String::new(),
    }
}
