//! Health checks and hooks of a host: what component.toml says, with what only shows when files meet.
//!
//! A check of a container needs the container, and a health check in it; a program that is a managed file must be one that can be run.

use std::collections::BTreeMap;

use super::layout::What;
use super::units::{Ready, Units};
use crate::desired::Origin;
use crate::finding::Findings;
use crate::fleet::read::{Located, Place, brief, did_you_mean};
use crate::fleet::{Ask, Component, DeclaredCheck};
use crate::health::{HealthCheck, Probe};
use crate::hook::Hook;
use crate::names::{ComponentName, HostPath, UnitName};

/// The most checks of one host, and the most hooks: each check is a process or a connection while a change is judged.
const MAX: usize = 200;

struct Judge<'r, 'f> {
    files: &'r BTreeMap<HostPath, Ready<'r>>,
    units: &'r Units,
    findings: &'f mut Findings,
    warnings: &'f mut Findings,
}

/// All checks and hooks, in the order of components and of their files.
pub(super) fn checks<'r>(
    files: &'r BTreeMap<HostPath, Ready<'r>>,
    components: &'r BTreeMap<ComponentName, Component<'r>>,
    units: &'r Units,
    findings: &mut Findings,
    warnings: &mut Findings,
) -> (Vec<HealthCheck>, Vec<Hook>) {
    let mut judge = Judge { files, units, findings, warnings };
    let (mut health, mut hooks) = (Vec::new(), Vec::new());
    for (name, component) in components {
        let origin = |place: Place<'_>| Origin { component: name.clone(), file: place.file.to_owned(), line: place.line() };
        for check in &component.health {
            if let Some(probe) = judge.probe(check) {
                health.push(HealthCheck { probe, timing: check.timing, origin: origin(check.place) });
            }
            judge.bound(health.len(), check.place, "health checks");
        }
        for hook in &component.hooks {
            judge.program(&hook.run, hook.place);
            judge.hook_program(&hook.run, hook.place);
            let (run, user) = (hook.run.clone(), hook.user.clone());
            hooks.push(Hook { on: hook.on, run, timeout_ms: hook.timeout_ms, user, origin: origin(hook.place) });
            judge.bound(hooks.len(), hook.place, "hooks");
        }
    }
    (health, hooks)
}

impl Judge<'_, '_> {
    fn bound(&mut self, count: usize, place: Place<'_>, what: &str) {
        if count == MAX + 1 {
            self.findings.at(place, format!("this host has more than {MAX} {what}"));
        }
    }

    fn probe(&mut self, check: &DeclaredCheck<'_>) -> Option<Probe> {
        Some(match &check.ask {
            Ask::Unit(unit) => {
                self.unit(unit, check.place);
                Probe::Unit { unit: unit.clone() }
            }
            Ask::Http { url, status, body } => Probe::Http { url: url.clone(), status: status.clone(), body: body.clone() },
            Ask::Tcp(address) => Probe::Tcp { address: address.clone() },
            Ask::Command { run, user, memory_max } => {
                self.program(run, check.place);
                Probe::Command { run: run.clone(), user: user.clone(), memory_max: *memory_max }
            }
            Ask::Container { quadlet, image_health } => self.container(quadlet, *image_health)?,
        })
    }

    /// A unit of the distribution may well be asked; one that is nearly called like one of ours is a typing error.
    fn unit(&mut self, unit: &UnitName, place: Place<'_>) {
        if let Some(managed) = self.units.managed.get(unit) {
            if managed.active == Some(false) {
                self.findings.at(place, format!("{unit} is to be stopped on this host, so it cannot be healthy"));
            }
            return;
        }
        // By the stem: a common `.service` would make strangers alike.
        let ending = format!(".{}", unit.kind());
        let stem = |unit: &'_ str| unit.len() - ending.len();
        let others = self.units.managed.keys().map(UnitName::as_str).filter(|other| other.ends_with(&ending));
        let help = did_you_mean(&unit.as_str()[..stem(unit.as_str())], others.map(|other| &other[..stem(other)]));
        if !help.is_empty() {
            let help = help.replace("`?", &format!("{ending}`?"));
            self.warnings.at_with(place, format!("{unit} is no unit of any component of this host"), help);
        }
    }

    fn container(&mut self, quadlet: &Located<'_, String>, image_health: bool) -> Option<Probe> {
        let Some(container) = self.units.containers.get(&quadlet.value) else {
            let message = format!("no component of this host provides the Quadlet file `{}`", brief(&quadlet.value));
            let help = did_you_mean(&quadlet.value, self.units.containers.keys().map(String::as_str));
            self.findings.at_with(quadlet.place, message, help);
            return None;
        };
        match container.health {
            Some(true) => {}
            None if image_health => {}
            None => {
                let message = format!("{} has no health check that Podman could make", brief(&quadlet.value));
                let help = "give it a HealthCmd=, or write `image-health = true` if its image brings a HEALTHCHECK";
                self.findings.at_with(quadlet.place, message, help);
                return None;
            }
            Some(false) => {
                self.findings.at(quadlet.place, format!("{} turns its health check off (HealthCmd=none)", brief(&quadlet.value)));
                return None;
            }
        }
        let Some(name) = container.name.clone() else {
            let message =
                "the container's name is not known before it runs, for its ContainerName= has a specifier that only systemd knows";
            self.findings.at(quadlet.place, message);
            return None;
        };
        Some(Probe::Container { name, unit: container.unit.clone() })
    }

    /// A hook is run with the content that is wanted, before anything is fetched, and judges the change that brings it.
    fn hook_program(&mut self, run: &[String], place: Place<'_>) {
        let ready = run.first().and_then(|program| self.files.get(program.as_str()));
        if let Some(ready) = ready.filter(|ready| matches!(ready.draft.what, What::Artifact(_))) {
            let help = "put a program into files/ that calls it";
            self.findings.at_with(place, format!("{} is an artifact and cannot be a hook", ready.draft.path), help);
        }
    }

    /// A program that is a managed file can be run as it is.
    fn program(&mut self, run: &[String], place: Place<'_>) {
        let Some(ready) = run.first().and_then(|program| self.files.get(program.as_str())) else { return };
        let program = &ready.draft.path;
        match &ready.draft.what {
            What::Directory => self.findings.at(place, format!("{program} is a directory and cannot be run")),
            What::Symlink(_) => {
                // Before the switch the link may not be there, or lead to what was there before.
                self.findings.at_with(place, format!("{program} is a symlink"), "name the file that it leads to");
            }
            What::Bytes(_) | What::Template(_) if ready.draft.mode & 0o111 == 0 => {
                let help = "give it the executable bit in Git (git update-index --chmod=+x FILE), or a mode under [[file]]";
                self.findings.at_with(place, format!("{program} cannot be run, for it has no executable bit"), help);
            }
            What::Artifact(_) if ready.draft.mode & 0o111 == 0 => {
                let help = "write mode = \"0755\" in its [[artifact]]";
                self.findings.at_with(place, format!("{program} cannot be run, for it has no executable bit"), help);
            }
            What::Artifact(_) | What::Bytes(_) | What::Template(_) => {}
        }
    }
}
