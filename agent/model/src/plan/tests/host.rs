//! A host in memory that carries plans out as the daemon's `apply` does, and checks at each step what must never happen.
//!
//! It has files, units with faults, and a ledger of which only what was saved outlives a kill. Every durable step burns one unit of
//! [`Host::fuel`]; when that is used up the process is killed there, wherever it stands.
//!
//! Limits: regular files only; a file that cannot be written and a lost race are not modelled.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{Desired, Enablement, Entry, FileState, Node, OnChange, Origin, Role, Unit};
use crate::digest::Digest;
use crate::ledger::{Before, Ledger, Owned, OwnedUnit};
use crate::names::{ComponentName, HostPath, UnitName};
use crate::observed::{Found, Identity, Meta, Observed, Purge, Running, Stray, StrayKind, UnitFound};
use crate::plan::{Action, Note, Plan, Step, is_stray, paths, plan};

/// The process was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Killed;

/// Contents that units cannot bear.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// A unit that reads one of these does not start.
    pub(crate) refused: BTreeSet<Digest>,
    /// A unit that reads one of these starts, and dies a little later.
    pub(crate) deadly: BTreeSet<Digest>,
    /// A unit that reads one of these starts and stays up, and what asks it is not answered.
    pub(crate) mute: BTreeSet<Digest>,
}

/// What stands at some paths.
type Texts = BTreeMap<HostPath, Before>;

/// A host that lives in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    pub(crate) files: BTreeMap<HostPath, Found>,
    pub(crate) units: BTreeMap<UnitName, UnitFound>,
    pub(crate) images: BTreeSet<String>,
    /// What was there before.
    pub(crate) had: BTreeSet<String>,
    /// What the names of images mean, where somebody gave them to others.
    pub(crate) tags: BTreeMap<String, String>,
    /// By which name each container was started, and what that meant.
    pub(crate) made_of: BTreeMap<UnitName, (String, String)>,
    /// The contents of artifacts that are in the store.
    pub(crate) contents: BTreeSet<Digest>,
    /// In memory.
    pub(crate) ledger: Ledger,
    /// As it was last saved.
    pub(crate) disk: Ledger,
    pub(crate) faults: Faults,
    /// Deadly after the next reboot.
    pub(crate) faults_of_the_boot: BTreeSet<Digest>,
    /// Durable steps until the process is killed; `None`: it is not.
    pub(crate) fuel: Option<usize>,
    /// systemd does not see that a unit file has other content than when it was loaded.
    pub(crate) dim: bool,
    /// What each unit really read when it was last started: what a service runs with.
    pub(crate) running: BTreeMap<UnitName, Texts>,
    /// The definitions as systemd last read them.
    pub(crate) loaded: BTreeMap<UnitName, Texts>,
    pub(crate) tick: i128,
    /// What a person pinned.
    pub(crate) pinned: BTreeSet<String>,
}

/// How a plan ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Components of which a step failed.
    pub(crate) failed: BTreeSet<ComponentName>,
}

pub(crate) fn path(text: &str) -> HostPath {
    text.parse().unwrap()
}

pub(crate) fn unit(text: &str) -> UnitName {
    text.parse().unwrap()
}

pub(crate) fn component(text: &str) -> ComponentName {
    text.parse().unwrap()
}

pub(crate) fn origin(component: &str) -> Origin {
    Origin { component: component.parse().unwrap(), file: format!("components/{component}/x"), line: 0 }
}

pub(crate) fn entry(content: &str, role: Role) -> Entry {
    entry_of("c", content, role)
}

pub(crate) fn entry_of(component: &str, content: &str, role: Role) -> Entry {
    let node = Node::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64 };
    let state = FileState { node, mode: 0o644, owner: "root".parse().unwrap(), group: "root".parse().unwrap() };
    Entry {
        state,
        role,
        shown: true,
        drift: crate::drift::DriftPolicy::default(),
        ignored: None,
        artifact: None,
        origin: origin(component),
    }
}

/// A file whose bytes are fetched.
pub(crate) fn artifact_of(component: &str, content: &str) -> Entry {
    let artifact = crate::desired::Artifact { url: format!("https://dl.example.org/{}", content.len()), minisign: None };
    Entry { artifact: Some(artifact), ..entry_of(component, content, Role::Plain) }
}

pub(crate) fn service(definition: &str, uses: &[&str]) -> Unit {
    service_of("c", definition, uses)
}

pub(crate) fn service_of(component: &str, definition: &str, uses: &[&str]) -> Unit {
    Unit {
        enabled: Some(Enablement::Enabled),
        active: Some(true),
        oneshot: false,
        on_change: OnChange::Restart,
        definition: BTreeSet::from([path(definition)]),
        uses: uses.iter().map(|text| path(text)).collect(),
        after: BTreeSet::new(),
        generated: false,
        image: None,
        drift: crate::drift::DriftPolicy::default(),
        origin: origin(component),
    }
}

impl Host {
    pub(crate) fn meta(&mut self, mode: u32, uid: u32) -> Meta {
        self.tick += 1;
        Meta { mode, uid, gid: 0, identity: Identity { dev: 1, ino: 1, ctime: self.tick } }
    }

    pub(crate) fn file(&mut self, at: &str, content: &str, mode: u32) {
        let meta = self.meta(mode, 0);
        self.files.insert(path(at), Found::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64, meta });
    }

    pub(crate) fn observe(&self) -> Observed {
        let mut units = self.units.clone();
        for (name, found) in &mut units {
            found.needs_reload = self.is_outdated(name);
        }
        Observed {
            alike: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            entries: self.files.clone(),
            units,
            images: self.images.clone(),
            had: self.had.clone(),
            contents: self.contents.clone(),
            users: BTreeMap::from([("root".to_owned(), Some(0))]),
            groups: BTreeMap::from([("root".to_owned(), Some(0))]),
            has_units: true,
            pinned: self.pinned.clone(),
            purge: Purge::Now,
            ..Observed::default()
        }
    }

    pub(crate) fn plan(&self, desired: &Desired) -> Plan {
        let mut observed = self.observe();
        for (name, (_, runs)) in self.made_of.iter().filter(|(name, _)| self.units[*name].active == "active") {
            if let Some(image) = desired.image_of(name).filter(|image| self.images.contains(*image)) {
                let running = Running { runs: runs.clone(), means: self.meaning(image) };
                observed.containers.insert(name.clone(), running);
            }
        }
        for (folder, exclusive) in &desired.exclusive {
            let is_stray = |at: &HostPath| at.parent().as_ref() == Some(folder) && is_stray(at, exclusive, desired, &self.ledger);
            let strays = observed.strays.entry(folder.clone()).or_default();
            for (at, found) in self.files.iter().filter(|(at, _)| is_stray(at)) {
                let Some(meta) = found.meta() else { continue };
                strays.found.insert(at.clone(), Stray { kind: StrayKind::File(1), identity: meta.identity });
            }
        }
        plan(desired, &observed, &self.ledger)
    }

    /// Converges in one go.
    pub(crate) fn converge(&mut self, desired: &Desired) -> Applied {
        let plan = self.plan(desired);
        self.apply(desired, &plan).unwrap()
    }

    /// Carries a plan out as apply does: intent first, then steps, then confirmation. What a failed step needs is left out.
    pub(crate) fn apply(&mut self, desired: &Desired, plan: &Plan) -> Result<Applied, Killed> {
        if plan.steps.is_empty() && plan.bookkeeping.is_empty() {
            return Ok(Applied::default());
        }
        self.intend(desired, plan);
        self.save()?;
        let mut applied = Applied::default();
        let mut done = Vec::new();
        for step in &plan.steps {
            let is_out =
                step.component.as_ref().is_some_and(|own| needs(desired, own).iter().any(|one| applied.failed.contains(one)));
            let works = !is_out && {
                self.burn()?;
                self.step(desired, plan, &step.action)
            };
            if !works && !is_out {
                applied.failed.extend(step.component.clone());
            }
            done.push(works);
        }
        self.settle(desired, plan, &done);
        self.save()?;
        Ok(applied)
    }

    /// One durable step more, if there is fuel for it.
    pub(crate) fn burn(&mut self) -> Result<(), Killed> {
        match &mut self.fuel {
            None => Ok(()),
            Some(0) => Err(Killed),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// Writes the ledger down.
    pub(crate) fn save(&mut self) -> Result<(), Killed> {
        self.burn()?;
        self.disk = self.ledger.clone();
        Ok(())
    }

    /// A new process: what was not saved is lost. After a reboot what is enabled is started, with what is there.
    pub(crate) fn restart(&mut self, reboot: bool) {
        self.fuel = None;
        self.ledger = self.disk.clone();
        if !reboot {
            return;
        }
        self.reload();
        let names: Vec<UnitName> = self.units.keys().cloned().collect();
        for name in names {
            // Its definition as it stands, and the files that it read before.
            let before = self.running.remove(&name).unwrap_or_default();
            let reads = before.into_keys().chain(self.definition(&name).into_keys()).collect();
            let found = self.found(&name);
            found.active = "inactive".to_owned();
            if found.load == "loaded" && found.file_state == "enabled" {
                self.start(&name, self.text_of(&reads));
                if let Some((image, _)) = self.made_of.get(&name).cloned() {
                    self.make(&name, &image);
                }
            }
        }
    }

    /// A little later: what reads something deadly is dead.
    pub(crate) fn wait(&mut self) {
        for (name, read) in &self.running {
            let found = self.units.entry(name.clone()).or_default();
            if found.active == "active" && has(read, &self.faults.deadly) {
                found.active = "failed".to_owned();
            }
        }
    }

    /// Whether a unit runs and answers.
    pub(crate) fn answers(&self, unit: &UnitName) -> bool {
        let mute = self.running.get(unit).is_some_and(|read| has(read, &self.faults.mute));
        self.units.get(unit).is_some_and(|found| found.active == "active") && !mute
    }

    fn intend(&mut self, desired: &Desired, plan: &Plan) {
        for note in &plan.bookkeeping {
            match note {
                Note::Adopt { path, before } => self.own(desired, plan, path, Some(before.clone()), false),
                Note::Confirm { path } => self.own(desired, plan, path, None, self.ledger.entries[path].pending),
                Note::Drop { path } => {
                    self.ledger.entries.remove(path);
                }
                Note::Unit { unit, was, .. } => {
                    self.ledger.units.entry(unit.clone()).or_insert(OwnedUnit {
                        was_enabled: was.map(|was| was.enabled),
                        was_active: was.map(|was| was.active),
                        was_masked: was.is_some_and(|was| was.masked),
                        enabled: None,
                        active: None,
                        inputs: None,
                        generated: false,
                        origin: desired.units[unit].origin.clone(),
                    });
                }
            }
        }
        for step in &plan.steps {
            match &step.action {
                Action::Put { path, before, .. } => self.own(desired, plan, path, before.clone(), true),
                Action::Start { unit } | Action::Restart { unit } | Action::Reload { unit } => {
                    if let Some(owned) = self.ledger.units.get_mut(unit) {
                        owned.inputs = None;
                    }
                }
                _ => {}
            }
        }
    }

    fn own(&mut self, desired: &Desired, plan: &Plan, path: &HostPath, before: Option<Before>, pending: bool) {
        let want = &desired.entries[path];
        let is_left = plan.left.contains(path);
        let state = if is_left { self.ledger.entries[path].state.clone() } else { want.state.clone() };
        let before = before.unwrap_or_else(|| self.ledger.entries[path].before.clone());
        let owned =
            Owned { state, role: want.role.clone(), before, xattrs: None, pending, drift: want.drift, origin: want.origin.clone() };
        self.ledger.entries.insert(path.clone(), owned);
    }

    fn settle(&mut self, desired: &Desired, plan: &Plan, done: &[bool]) {
        for (step, _) in plan.steps.iter().zip(done).filter(|(_, done)| **done) {
            if let Action::Put { path, .. } = &step.action {
                self.ledger.entries.get_mut(path).unwrap().pending = false;
            }
        }
        for note in &plan.bookkeeping {
            match note {
                Note::Confirm { path } => self.ledger.entries.get_mut(path).unwrap().pending = false,
                Note::Unit { unit, settled, .. } => {
                    let resource = format!("unit {unit}");
                    let own: Vec<(&Step, &bool)> =
                        plan.steps.iter().zip(done).filter(|(step, _)| step.action.resource() == resource).collect();
                    if own.iter().any(|(_, done)| !**done) {
                        continue;
                    }
                    let is_down = |step: &Step| matches!(step.action, Action::Stop { .. } | Action::Mask { .. });
                    let down = own.iter().any(|(step, _)| is_down(step));
                    let want = &desired.units[unit];
                    let reads = plan.inputs(desired, &self.ledger, want);
                    let owned = self.ledger.units.get_mut(unit).unwrap();
                    (owned.enabled, owned.active, owned.origin) = (want.enabled, want.active, want.origin.clone());
                    if *settled || down {
                        owned.inputs = Some(reads);
                    }
                }
                Note::Adopt { .. } | Note::Drop { .. } => {}
            }
        }
    }

    /// One step; whether it worked. Nothing is touched that the saved ledger does not own.
    fn step(&mut self, desired: &Desired, plan: &Plan, action: &Action) -> bool {
        self.is_ours(action);
        match action {
            Action::Put { path, expected, .. } => {
                assert_eq!(*expected, self.files.get(path).map_or(Found::Missing.expectation(), Found::expectation));
                let Node::File { digest, size } = desired.entries[path].state.node else { panic!("only files here") };
                let is_here = desired.entries[path].artifact.is_none() || self.contents.contains(&digest);
                assert!(is_here, "{path} is written before its content was fetched");
                let meta = self.meta(desired.entries[path].state.mode, 0);
                self.files.insert(path.clone(), Found::File { digest, size, meta });
            }
            Action::Remove { path, expected } => {
                assert_eq!(*expected, self.files[path].expectation());
                assert!(!desired.entries.contains_key(path), "{path} is wanted and removed");
                self.files.remove(path);
                self.ledger.entries.remove(path);
            }
            Action::Purge { path, expected } => {
                assert_eq!(*expected, self.files[path].expectation());
                let folder = path.parent().unwrap();
                assert!(is_stray(path, &desired.exclusive[&folder], desired, &self.disk), "{path} is purged");
                self.files.remove(path);
            }
            Action::Restore { path, before, .. } => {
                let Before::Original { node: Node::File { digest, size }, mode, uid, .. } = before else {
                    panic!("only files here")
                };
                let meta = self.meta(*mode, *uid);
                self.files.insert(path.clone(), Found::File { digest: *digest, size: *size, meta });
                self.ledger.entries.remove(path);
            }
            Action::DaemonReload => self.reload(),
            Action::Enable { unit } => self.found(unit).file_state = "enabled".to_owned(),
            Action::Disable { unit } | Action::Unmask { unit } => self.found(unit).file_state = "disabled".to_owned(),
            Action::Mask { unit } => self.found(unit).file_state = "masked".to_owned(),
            Action::Stop { unit, .. } => {
                self.found(unit).active = "inactive".to_owned();
                self.running.remove(unit);
            }
            Action::Start { unit } | Action::Restart { unit } => return self.bring(desired, plan, unit, false),
            Action::Reload { unit } => return self.bring(desired, plan, unit, true),
            Action::Forget { unit } => {
                self.ledger.units.remove(unit);
            }
            Action::Fetch { digest, .. } => {
                self.contents.insert(*digest);
            }
            Action::Pull { image } => {
                self.images.insert(image.clone());
                self.tags.remove(image);
            }
            Action::Sysusers { .. } | Action::Tmpfiles { .. } | Action::Sysctl { .. } => {}
        }
        true
    }

    fn is_ours(&self, action: &Action) {
        let owns = match action {
            Action::Put { path, .. } => self.disk.entries.get(path).is_some_and(|owned| owned.pending),
            Action::Remove { path, .. } | Action::Restore { path, .. } => self.disk.entries.contains_key(path),
            Action::Enable { unit }
            | Action::Disable { unit }
            | Action::Mask { unit }
            | Action::Unmask { unit }
            | Action::Stop { unit, .. }
            | Action::Start { unit }
            | Action::Restart { unit }
            | Action::Reload { unit }
            | Action::Forget { unit } => self.disk.units.contains_key(unit),
            _ => true,
        };
        assert!(owns, "{action:?} is about something that the saved ledger does not own");
    }

    /// Starts, restarts or reloads: only with all that it reads in place and known to systemd.
    fn bring(&mut self, desired: &Desired, plan: &Plan, unit: &UnitName, reload: bool) -> bool {
        let Some(want) = desired.units.get(unit) else {
            return self.start(unit, Texts::new());
        };
        for at in want.definition.iter().chain(&want.uses).filter(|at| !plan.left.contains(*at)) {
            let (Some(entry), Some(found)) = (desired.entries.get(at), self.files.get(at)) else {
                assert!(!desired.entries.contains_key(at), "{unit} is started before {at} is there");
                continue;
            };
            let Node::File { digest: wanted, .. } = entry.state.node else { panic!("only files here") };
            assert!(matches!(found, Found::File { digest, .. } if *digest == wanted), "{unit} is started with an old {at}");
        }
        let definition = self.definition(unit);
        // Whether systemd has read what is left as somebody wrote it is not ours to say.
        let is_pinned = |at: &HostPath| self.pinned.contains(&format!("file {at}"));
        // Nor what nobody manages beside it: for a unit with such a part, systemd's picture is left as it is.
        let is_left = want.definition.iter().any(|at| plan.left.contains(at));
        let is_managed = |at: &HostPath| desired.entries.contains_key(at) || self.disk.entries.contains_key(at);
        let is_ours = |at: &HostPath| !plan.left.contains(at) && !is_pinned(at) && (!is_left || is_managed(at));
        let ours = |texts: Texts| texts.into_iter().filter(|(at, _)| is_ours(at)).collect::<Texts>();
        let loaded = ours(self.loaded.get(unit).cloned().unwrap_or_default());
        assert_eq!(loaded, ours(definition.clone()), "{unit} is started with an old definition");
        let is_stray = |at: &&HostPath| !desired.entries.contains_key(*at) && self.disk.entries.contains_key(*at) && !is_pinned(at);
        let stray = definition.keys().find(is_stray);
        assert_eq!(stray, None, "{unit} is started with what left its definition");
        let mut reads = self.read_by(want);
        if reload {
            // A service that reloads goes on with the definition that it was started with.
            let was = self.running.get(unit).cloned().unwrap_or_default();
            reads.retain(|at, _| !want.definition.contains(at));
            reads.extend(was.into_iter().filter(|(at, _)| is_definition(at)));
        }
        let works = self.start(unit, reads);
        if let Some(image) = want.image.as_ref().filter(|_| works && !reload) {
            let is_pulled = self.images.contains(image) || !desired.images.contains_key(image);
            assert!(is_pulled, "{unit} is started before {image} is there");
            self.make(unit, image);
        }
        let reads = plan.inputs(desired, &self.ledger, want);
        if let Some(owned) = self.ledger.units.get_mut(unit).filter(|_| works) {
            owned.inputs = Some(reads);
        }
        works
    }

    /// A container is made of what the name of its image means.
    fn make(&mut self, unit: &UnitName, image: &str) {
        self.made_of.insert(unit.clone(), (image.to_owned(), self.meaning(image)));
    }

    fn meaning(&self, image: &str) -> String {
        self.tags.get(image).cloned().unwrap_or_else(|| image.to_owned())
    }

    fn start(&mut self, unit: &UnitName, reads: Texts) -> bool {
        let works = !has(&reads, &self.faults.refused);
        self.found(unit).active = if works { "active" } else { "failed" }.to_owned();
        self.running.insert(unit.clone(), reads);
        works
    }

    /// What a unit would read if it were started now.
    pub(crate) fn read_by(&self, want: &Unit) -> Texts {
        self.text_of(&want.definition.iter().chain(&want.uses).cloned().collect())
    }

    fn text_of(&self, paths: &BTreeSet<HostPath>) -> Texts {
        paths.iter().filter_map(|at| Some((at.clone(), paths::before(self.files.get(at)?)))).collect()
    }

    /// The unit file and the drop-ins that stand on the host.
    fn definition(&self, unit: &UnitName) -> Texts {
        let (own, folder) = (format!("/etc/systemd/system/{unit}"), format!("/etc/systemd/system/{unit}.d/"));
        let is_part = |at: &&HostPath| at.as_str() == own || at.as_str().starts_with(&folder);
        self.text_of(&self.files.keys().filter(is_part).cloned().collect())
    }

    fn is_outdated(&self, unit: &UnitName) -> bool {
        let (now, then) = (self.definition(unit), self.loaded.get(unit).cloned().unwrap_or_default());
        if self.dim { !now.keys().eq(then.keys()) } else { now != then }
    }

    pub(crate) fn found(&mut self, unit: &UnitName) -> &mut UnitFound {
        self.units.entry(unit.clone()).or_default()
    }

    /// systemd's picture of its units is made anew from the files.
    fn reload(&mut self) {
        for at in ["a.service", "b.service"].map(unit) {
            let definition = self.definition(&at);
            let exists = definition.contains_key(format!("/etc/systemd/system/{at}").as_str());
            self.loaded.insert(at.clone(), definition);
            let found = self.found(&at);
            found.can_reload = true;
            found.load = if exists { "loaded" } else { "not-found" }.to_owned();
            if exists && found.file_state.is_empty() {
                found.file_state = "disabled".to_owned();
            }
            if !exists {
                found.file_state = String::new();
            }
        }
    }
}

/// A component and all that it needs.
fn needs(desired: &Desired, own: &ComponentName) -> BTreeSet<ComponentName> {
    let mut all = BTreeSet::from([own.clone()]);
    let mut open = vec![own.clone()];
    while let Some(at) = open.pop() {
        for next in desired.components.get(&at).into_iter().flatten() {
            if all.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    all
}

fn is_definition(at: &HostPath) -> bool {
    at.is_within("/etc/systemd/system")
}

fn has(read: &Texts, bad: &BTreeSet<Digest>) -> bool {
    let is_bad =
        |before: &Before| matches!(before, Before::Original { node: Node::File { digest, .. }, .. } if bad.contains(digest));
    read.values().any(is_bad)
}
