//! Units by convention: what their own text says about how they are managed, and what `[[unit]]` says otherwise.
//!
//! A unit with an `[Install]` section is enabled and runs; one without is only a file, but is restarted on a change when it happens
//! to run. What Quadlet generates cannot be enabled: its `[Install]` section is the generator's business. A template
//! (`x@.service`) is a file; its instances are named by `[[unit]]`.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{Draft, Part, QUADLETS, SELF_UPDATE, What, ends_in, is_own_unit};
use super::uses::{self, Inputs};
use crate::desired::{Artifact, Enablement, Node, OnChange, Origin, Role, Unit};
use crate::drift::DriftPolicy;
use crate::facts::PathPolicy;
use crate::finding::Findings;
use crate::fleet::read::{Place, did_you_mean};
use crate::fleet::selector::matches_pattern;
use crate::fleet::{Component, UnitRule};
use crate::names::{ComponentName, HostPath, UnitName};
use crate::unitfile::{UnitFile, expand};

/// A path with its rendered content.
pub(super) struct Ready<'b> {
    pub(super) draft: Draft<'b>,
    /// `None`: it could not be rendered, and a finding says so.
    pub(super) content: Option<Vec<u8>>,
    /// Of an artifact: what its bytes must be, and where they are.
    pub(super) fetched: Option<(Node, Artifact)>,
}

/// All units of a host, and what their files are for.
#[derive(Default)]
pub(super) struct Units {
    pub(super) managed: BTreeMap<UnitName, Unit>,
    pub(super) images: BTreeMap<String, Origin>,
    pub(super) roles: BTreeMap<HostPath, Role>,
    /// The `.container` files by name.
    pub(super) containers: BTreeMap<String, Container>,
}

/// What a health check must know of a container.
pub(super) struct Container {
    /// The unit that it becomes.
    pub(super) unit: UnitName,
    /// Its name in Podman; `None`: only the running manager knows it.
    pub(super) name: Option<String>,
    /// What its Quadlet file says about Podman's health check: `None` nothing, `Some(false)` that there is none.
    pub(super) health: Option<bool>,
}

/// A parsed unit or Quadlet file, or drop-in.
struct Text<'r> {
    ready: &'r Ready<'r>,
    parsed: UnitFile,
    rendered: &'r str,
}

impl<'r> Text<'r> {
    fn place(&self, start: usize, end: usize) -> Place<'r> {
        Place { file: self.ready.draft.place.file, text: self.rendered, start, end }
    }
}

struct Builder<'r, 'f> {
    files: &'r BTreeMap<HostPath, Ready<'r>>,
    texts: BTreeMap<&'r HostPath, Text<'r>>,
    /// Unit files and Quadlet files by the unit that they define.
    defines: BTreeMap<UnitName, &'r HostPath>,
    /// The units that Quadlet files become, by file name.
    quadlets: BTreeMap<String, UnitName>,
    drop_ins: BTreeMap<UnitName, BTreeSet<&'r HostPath>>,
    rules: BTreeMap<UnitName, (&'r ComponentName, &'r UnitRule<'r>)>,
    policy: &'r PathPolicy,
    components: &'r BTreeMap<ComponentName, Component<'r>>,
    made: Units,
    findings: &'f mut Findings,
    warnings: &'f mut Findings,
}

/// Works out the units of a host from its rendered files and the `[[unit]]` tables of its components.
pub(super) fn units<'r>(
    files: &'r BTreeMap<HostPath, Ready<'r>>,
    components: &'r BTreeMap<ComponentName, Component<'r>>,
    policy: &'r PathPolicy,
    findings: &mut Findings,
    warnings: &mut Findings,
) -> Units {
    let mut builder = Builder {
        files,
        texts: BTreeMap::new(),
        defines: BTreeMap::new(),
        quadlets: BTreeMap::new(),
        drop_ins: BTreeMap::new(),
        rules: BTreeMap::new(),
        policy,
        components,
        made: Units::default(),
        findings,
        warnings,
    };
    builder.read_texts();
    builder.name_quadlets();
    builder.name_units();
    builder.collect_rules();
    builder.protect(policy);
    let mut names: BTreeSet<UnitName> = builder.defines.keys().filter(|unit| !unit.is_template()).cloned().collect();
    // A drop-in of somebody else's unit: restarted when it changes. One for a template or for a prefix has no unit of its own.
    names.extend(builder.drop_ins.keys().filter(|unit| !unit.is_template() && !is_prefix(unit)).cloned());
    names.extend(builder.rules.keys().cloned());
    for name in names {
        builder.build(&name);
    }
    builder.drop_built_images();
    builder.made
}

/// `app-.service`: its drop-ins are for every unit whose name begins with `app-`.
fn is_prefix(unit: &UnitName) -> bool {
    unit.as_str().rsplit_once('.').is_some_and(|(stem, _)| stem.ends_with('-'))
}

impl<'r> Builder<'r, '_> {
    fn read_texts(&mut self) {
        for (path, ready) in self.files {
            if !matches!(ready.draft.part, Part::UnitFile(_) | Part::UnitDropIn(_) | Part::Quadlet(_) | Part::QuadletDropIn(_)) {
                continue;
            }
            // A file that could not be rendered still defines its unit, so that nothing else is said to be missing.
            let bytes = ready.content.as_deref().unwrap_or_default();
            let Ok(rendered) = std::str::from_utf8(bytes) else {
                self.findings.at(Place::file(ready.draft.place.file), "a unit must be UTF-8 text, and this is not");
                continue;
            };
            let (parsed, strays) = UnitFile::parse(rendered);
            let text = Text { ready, parsed, rendered };
            let note = if matches!(ready.draft.what, What::Template(_)) { "the line is that of the rendered file" } else { "" };
            for stray in strays {
                self.findings.at_with(text.place(stray.start, stray.end), stray.message, note);
            }
            self.texts.insert(path, text);
        }
    }

    /// Gives each Quadlet file the unit name that Podman's generator gives it.
    fn name_quadlets(&mut self) {
        for (path, ready) in self.files {
            let Part::Quadlet(file) = &ready.draft.part else { continue };
            let Some((stem, kind)) = file.rsplit_once('.') else { continue };
            let text = self.quadlet_text(path, file);
            let service = match text.last(&uses::section(kind), "ServiceName") {
                Some(service) => service.to_owned(),
                None if ["container", "kube"].contains(&kind) => stem.to_owned(),
                None => format!("{stem}-{kind}"),
            };
            match format!("{service}.service").parse::<UnitName>() {
                Ok(unit) => {
                    if kind == "container" {
                        self.made.containers.insert(file.clone(), container(&unit, &text));
                    }
                    self.quadlets.insert(file.clone(), unit.clone());
                    self.define(unit, path);
                }
                Err(error) => {
                    let why = format!("this Quadlet file would become a unit with an invalid name: {}", error.why);
                    self.findings.at(Place::file(ready.draft.place.file), why);
                }
            }
        }
        for (path, ready) in self.files {
            let Part::QuadletDropIn(file) = &ready.draft.part else { continue };
            let unit = self.quadlets.get(file).cloned().or_else(|| {
                // A drop-in for a Quadlet file of the distribution.
                let (stem, kind) = file.rsplit_once('.')?;
                let stem = if ["container", "kube"].contains(&kind) { stem.to_owned() } else { format!("{stem}-{kind}") };
                format!("{stem}.service").parse().ok()
            });
            match unit {
                Some(unit) => {
                    self.made.roles.insert(path.clone(), Role::Quadlet(unit.clone()));
                    self.drop_ins.entry(unit).or_default().insert(path);
                }
                None => self.findings.at(Place::file(ready.draft.place.file), "this drop-in's folder names no possible unit"),
            }
        }
    }

    fn quadlet_text(&self, path: &HostPath, file: &str) -> UnitFile {
        let folder = format!("{path}.d/");
        let mut text = self.texts.get(path).map(|t| t.parsed.clone()).unwrap_or_default();
        for (other, drop_in) in &self.texts {
            if other.as_str().starts_with(&folder) && drop_in.ready.draft.part == Part::QuadletDropIn(file.to_owned()) {
                text.lay_over(&drop_in.parsed);
            }
        }
        text
    }

    fn name_units(&mut self) {
        for (path, ready) in self.files {
            match &ready.draft.part {
                Part::UnitFile(unit) => self.define(unit.clone(), path),
                Part::UnitDropIn(unit) => {
                    self.made.roles.insert(path.clone(), Role::Unit(unit.clone()));
                    self.drop_ins.entry(unit.clone()).or_default().insert(path);
                }
                _ => {}
            }
        }
    }

    fn define(&mut self, unit: UnitName, path: &'r HostPath) {
        let place = Place::file(self.files[path].draft.place.file);
        if !self.policy.self_update && is_own_unit(unit.as_str()) {
            self.findings.at_with(place, format!("{unit} may not be managed: trimtab's own units are local"), SELF_UPDATE);
            return;
        }
        if let Some(first) = self.defines.get(&unit) {
            let first = Place::file(self.files[*first].draft.place.file);
            self.findings.at_both(
                place,
                format!("{unit} is defined twice"),
                first,
                "",
                "a unit has one file; additions go into <unit>.d/",
            );
            return;
        }
        let role = if matches!(self.files[path].draft.part, Part::Quadlet(_)) {
            Role::Quadlet(unit.clone())
        } else {
            Role::Unit(unit.clone())
        };
        self.made.roles.insert(path.clone(), role);
        self.defines.insert(unit, path);
    }

    fn collect_rules(&mut self) {
        for (name, component) in self.components {
            for (unit, rule) in &component.units {
                if !self.policy.self_update && is_own_unit(unit.as_str()) {
                    self.findings.at_with(
                        rule.place,
                        format!("{unit} may not be managed: trimtab's own units are local"),
                        SELF_UPDATE,
                    );
                } else if unit.is_template() {
                    self.findings.at_with(
                        rule.place,
                        format!("{unit} is a template, which never runs"),
                        "name an instance, e.g. x@one.service",
                    );
                } else if let Some((other, first)) = self.rules.get(unit) {
                    let message = format!("{unit} is claimed by `{other}` and by `{name}`");
                    self.findings.at_both(rule.place, message, first.place, "the first claim", "a unit belongs to one component");
                } else if let Some(owner) = self.defines.get(unit).map(|path| &self.files[*path].draft)
                    && owner.component != *name
                {
                    let message = format!("{unit} is claimed by `{name}`, and `{}` provides it", owner.component);
                    self.findings.at_both(rule.place, message, owner.place, "", "a unit belongs to one component");
                } else {
                    self.rules.insert(unit.clone(), (name, rule));
                }
            }
        }
    }

    /// What the local policy protects is neither brought, nor added to, nor managed; nor enabled or stood in for by another unit's
    /// `[Install]` section.
    fn protect(&mut self, policy: &PathPolicy) {
        let mut refuse = |unit: &UnitName, place: Place<'_>| {
            if let Err(why) = policy.judge_unit(unit) {
                self.findings.at(place, format!("{unit} may not be managed: {why}"));
            }
        };
        let drop_ins = self.drop_ins.iter().flat_map(|(unit, paths)| paths.iter().map(move |path| (unit, *path)));
        for (unit, path) in self.defines.iter().map(|(unit, path)| (unit, *path)).chain(drop_ins) {
            refuse(unit, Place::file(self.files[path].draft.place.file));
        }
        for (unit, (_, rule)) in &self.rules {
            refuse(unit, rule.place);
        }
        for text in self.texts.values() {
            for value in ["Alias", "Also"].iter().flat_map(|key| text.parsed.values("Install", key)) {
                let names = value.value.split_whitespace().filter_map(|name| name.parse::<UnitName>().ok());
                names.for_each(|unit| refuse(&unit, text.place(value.start, value.end)));
            }
        }
    }

    fn build(&mut self, name: &UnitName) {
        let own = self.defines.get(name).or_else(|| self.defines.get(&name.template()?)).copied();
        let order = self.definition(name, own);
        let mut text = UnitFile::default();
        order.iter().filter_map(|path| self.texts.get(*path)).for_each(|part| text.lay_over(&part.parsed));
        let quadlet = order.iter().find_map(|path| match &self.files[*path].draft.part {
            Part::Quadlet(file) | Part::QuadletDropIn(file) => file.rsplit('.').next().filter(|kind| QUADLETS.contains(kind)),
            _ => None,
        });
        let rule = self.rules.get(name).copied();
        let (enabled, active) = match quadlet {
            Some(kind) => (None, self.generated(kind, &text, rule.map(|(_, rule)| rule))),
            None => self.state(name, own.is_some(), &text, rule.map(|(_, rule)| rule)),
        };
        let origin = match (own.or(order.first().copied()), rule) {
            (Some(path), _) => super::origin(&self.files[path].draft),
            (None, Some((component, rule))) => {
                Origin { component: component.clone(), file: rule.place.file.to_owned(), line: rule.place.line() }
            }
            (None, None) => return,
        };
        let drift = self.drift(name, &origin.component, rule.map(|(_, rule)| rule));
        let definition: BTreeSet<HostPath> = order.into_iter().cloned().collect();
        let inputs = uses::inputs(&text, name, quadlet);
        let mut uses = self.used(&inputs, rule.map(|(_, rule)| rule));
        let mut after = self.linked(&inputs, &origin, &mut uses);
        self.doubt(name, rule.map(|(_, rule)| rule), definition.is_empty() && uses.is_empty());
        uses.retain(|path| !definition.contains(path));
        after.remove(name);
        self.images(&inputs, &origin);
        let unit = Unit {
            enabled,
            active,
            oneshot: text.is_oneshot(),
            on_change: rule.and_then(|(_, rule)| rule.on_change).unwrap_or(OnChange::Restart),
            definition,
            uses,
            after,
            generated: quadlet.is_some(),
            image: self.image(&inputs),
            drift,
            origin,
        };
        self.made.managed.insert(name.clone(), unit);
    }

    /// What is done about drift of a unit: as its `[[unit]]` says, or its component.
    fn drift(&mut self, name: &UnitName, component: &ComponentName, rule: Option<&UnitRule<'_>>) -> DriftPolicy {
        let own = rule.and_then(|rule| rule.drift.as_ref());
        let usual = self.components.get(component).and_then(|component| component.drift.as_ref());
        let Some(said) = own.or(usual) else { return DriftPolicy::default() };
        if said.value == DriftPolicy::CreateOnce {
            let help = if own.is_some() {
                "`enforce`, `report` or `ignore`; a [[file]] of its definition can be made once"
            } else {
                "write it in [[file]], [[directory]] or [[symlink]], or give the unit another one in [[unit]]"
            };
            let message = format!("{name} cannot have the policy `create-once`: a unit has a state, and is not made");
            self.findings.at_with(said.place, message, help);
        }
        said.value
    }

    /// What a unit is made of: its file first, then its drop-ins in the order of their own names, as systemd and Podman lay them.
    fn definition(&self, name: &UnitName, own: Option<&'r HostPath>) -> Vec<&'r HostPath> {
        let mut definition: BTreeSet<&HostPath> = own.into_iter().collect();
        for (unit, paths) in &self.drop_ins {
            if name.reads_drop_ins_of(unit) {
                definition.extend(paths);
            }
        }
        let mut order: Vec<_> = definition.into_iter().collect();
        order.sort_by_key(|path| (Some(*path) != own, path.file_name(), path.as_str()));
        order
    }

    /// The units of the Quadlet files that a unit names; the files themselves are added to what it uses.
    fn linked(&mut self, inputs: &Inputs, origin: &Origin, uses: &mut BTreeSet<HostPath>) -> BTreeSet<UnitName> {
        let mut after = BTreeSet::new();
        for other in &inputs.quadlets {
            if let Some(unit) = self.quadlets.get(other) {
                uses.extend(self.defines.get(unit).map(|path| (*path).clone()));
                after.insert(unit.clone());
            } else {
                let place = Place::file(&origin.file);
                self.warnings.at(place, format!("it names the Quadlet file `{other}`, which no component of this host provides"));
            }
        }
        after
    }

    fn generated(&mut self, kind: &str, text: &UnitFile, rule: Option<&UnitRule<'_>>) -> Option<bool> {
        let by_itself = ["container", "kube", "pod"].contains(&kind) && text.is_installable();
        let Some(rule) = rule else { return by_itself.then_some(true) };
        for asked in [&rule.enabled, &rule.masked].into_iter().flatten() {
            self.findings.at_with(
                asked.place,
                "a unit that Quadlet generates cannot be enabled, disabled or masked",
                "its start at boot is its [Install] section's; `active` says whether it runs now",
            );
        }
        rule.active.as_ref().map(|active| active.value).or(by_itself.then_some(true))
    }

    fn state(
        &mut self,
        name: &UnitName,
        own: bool,
        text: &UnitFile,
        rule: Option<&UnitRule<'_>>,
    ) -> (Option<Enablement>, Option<bool>) {
        let installable = own && text.is_installable();
        let (mut enabled, mut active) = if installable { (Some(Enablement::Enabled), Some(true)) } else { (None, None) };
        let Some(rule) = rule else { return (enabled, active) };
        if let Some(asked) = &rule.enabled {
            if own && !installable {
                let help = "give it one (WantedBy=…), or write `active` instead";
                self.findings.at_with(asked.place, format!("{name} has no [Install] section, so `enabled` means nothing"), help);
            }
            enabled = Some(if asked.value { Enablement::Enabled } else { Enablement::Disabled });
            active = Some(asked.value);
        }
        if let Some(asked) = rule.masked.as_ref().filter(|asked| asked.value) {
            if own {
                let help = "leave its file out instead: only a unit that comes from elsewhere can be masked";
                self.findings.at_with(asked.place, format!("{name} is provided by a component and cannot be masked"), help);
            }
            (enabled, active) = (Some(Enablement::Masked), Some(false));
        }
        if let Some(asked) = &rule.active {
            active = Some(asked.value);
        }
        (enabled, active)
    }

    /// The managed paths that are meant by what a unit reads.
    fn used(&mut self, inputs: &Inputs, rule: Option<&UnitRule<'_>>) -> BTreeSet<HostPath> {
        let mut used = BTreeSet::new();
        for path in &inputs.paths {
            if path.contains(['*', '?', '[']) {
                used.extend(self.files.keys().filter(|file| matches_pattern(path, file.as_str())).cloned());
            } else {
                used.extend(beneath(self.files, path).cloned());
            }
        }
        for named in rule.map(|rule| rule.uses.as_slice()).unwrap_or_default() {
            let before = used.len();
            let mut any = false;
            for path in beneath(self.files, named.value.as_str()) {
                any = true;
                used.insert(path.clone());
            }
            if !any && used.len() == before {
                let help = did_you_mean(named.value.as_str(), self.files.keys().map(HostPath::as_str));
                self.findings.at_with(named.place, format!("nothing at {} is managed on this host", named.value), help);
            }
        }
        used
    }

    /// What the distribution's own unit reads cannot be seen from here, so a reload that was asked for in good faith would never come.
    fn doubt(&mut self, name: &UnitName, rule: Option<&UnitRule<'_>>, unconcerned: bool) {
        let Some(rule) = rule.filter(|rule| unconcerned && rule.on_change.is_some_and(|asked| asked != OnChange::Nothing)) else {
            return;
        };
        let message = format!("no change is known to concern {name}, whose own file is not in this repository");
        self.warnings.at_with(rule.place, message, "name the managed paths that it reads in `uses`");
    }

    fn images(&mut self, inputs: &Inputs, origin: &Origin) {
        for (image, line) in &inputs.images {
            if !image.contains("@sha256:") {
                let message = format!("the image `{}` is not pinned by a digest", crate::fleet::read::brief(image));
                self.warnings.at_with(
                    Place::file(&origin.file),
                    message,
                    "write name@sha256:…, so that every host runs the same bytes",
                );
            }
            let origin = Origin { line: *line, ..origin.clone() };
            self.made.images.entry(image.clone()).or_insert(origin);
        }
    }

    /// The image that a Quadlet file names, also by way of an `.image` file. Not what a `.build` file makes: that changes with each build.
    fn image(&self, inputs: &Inputs) -> Option<String> {
        let named = inputs.image.as_ref().filter(|named| !ends_in(named, "build"))?;
        if !ends_in(named, "image") {
            return Some(named.clone());
        }
        let unit = self.quadlets.get(named)?;
        let text = self.quadlet_text(self.defines.get(unit)?, named);
        text.values("Image", "Image").last().and_then(|said| expand(&said.value, unit))
    }

    /// An image that a `.build` makes here is not pulled from anywhere.
    fn drop_built_images(&mut self) {
        for part in
            self.texts.values().filter(|part| matches!(&part.ready.draft.part, Part::Quadlet(file) if ends_in(file, "build")))
        {
            for tag in part.parsed.values("Build", "ImageTag") {
                self.made.images.remove(&tag.value);
            }
        }
    }
}

fn container(unit: &UnitName, text: &UnitFile) -> Container {
    let name = expand(text.last("Container", "ContainerName").unwrap_or("systemd-%N"), unit);
    let by_argument = text.values("Container", "PodmanArgs").iter().any(|a| a.value.contains("--health-cmd"));
    let health = text.last("Container", "HealthCmd").map(|command| command != "none").or(by_argument.then_some(true));
    Container { unit: unit.clone(), name, health }
}

/// The managed paths at a path and beneath it.
fn beneath<'r>(files: &'r BTreeMap<HostPath, Ready<'_>>, path: &str) -> impl Iterator<Item = &'r HostPath> + use<'r> {
    let path = match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        path => path.to_owned(),
    };
    let from = path.clone();
    files
        .range::<str, _>((std::ops::Bound::Included(from.as_str()), std::ops::Bound::Unbounded))
        .map(|(file, _)| file)
        .take_while({
            let path = path.clone();
            move |file| file.as_str().starts_with(&path)
        })
        .filter(move |file| file.is_within(&path))
}
