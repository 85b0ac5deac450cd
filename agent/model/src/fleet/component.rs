//! `components/<name>/component.toml`: variables, dependencies, and the exceptions to the conventions.

use std::collections::BTreeMap;

use super::artifact::{DeclaredArtifact, read_artifact};
use super::command::{DeclaredHook, read_hook};
use super::drift::{ExclusiveRule, read_exclusive, read_policy};
use super::file::read_components;
use super::health::{DeclaredCheck, read_check};
use super::ignore::{DeclaredKeys, read_ignored};
use super::read::{Document, Located, Place, Table, brief, did_you_mean};
use super::variable::{Variables, read_variables};
use crate::bundle::{Blob, Bundle};
use crate::desired::{Confirm, OnChange};
use crate::drift::DriftPolicy;
use crate::finding::Findings;
use crate::names::{AccountName, ComponentName, HostPath, NameError, RepoPath, UnitName};

/// One component: its TOML, if it has any.
#[derive(Debug)]
pub struct Component<'s> {
    /// Its name.
    pub name: ComponentName,
    /// What it is for.
    pub description: String,
    /// Components that it needs.
    pub depends: Vec<Located<'s, ComponentName>>,
    /// What can be set for it.
    pub variables: Variables<'s>,
    /// Exceptions for files that its folders provide.
    pub files: BTreeMap<HostPath, FileRule<'s>>,
    /// Files whose bytes lie elsewhere.
    pub artifacts: Vec<DeclaredArtifact<'s>>,
    /// Directories that it makes.
    pub directories: Vec<MadeDirectory<'s>>,
    /// Symlinks that it makes.
    pub symlinks: Vec<MadeSymlink<'s>>,
    /// Exceptions for units.
    pub units: BTreeMap<UnitName, UnitRule<'s>>,
    /// What must be true before a change counts as good.
    pub health: Vec<DeclaredCheck<'s>>,
    /// Programs that run at fixed places of a pass.
    pub hooks: Vec<DeclaredHook<'s>>,
    /// Its failure does not reach what it depends on.
    pub isolate: bool,
    /// When each change of it must be confirmed by reaching the source, whatever it touches.
    pub confirm: Option<Confirm>,
    /// What is done about drift of all that is its own, where nothing else is said.
    pub drift: Option<Located<'s, DriftPolicy>>,
}

/// `[[file]]`.
#[derive(Debug, Clone)]
pub struct FileRule<'s> {
    /// Owner, if not root.
    pub owner: Option<AccountName>,
    /// Group, if not root.
    pub group: Option<AccountName>,
    /// Mode, if not as the file's executable bit says.
    pub mode: Option<u32>,
    /// Its content is never shown.
    pub sensitive: bool,
    /// What is done about drift of it.
    pub drift: Option<DriftPolicy>,
    /// Keys in it that belong to somebody else.
    pub ignored: Option<DeclaredKeys<'s>>,
    /// The path in the table.
    pub place: Place<'s>,
}

/// `[[directory]]`.
#[derive(Debug, Clone)]
pub struct MadeDirectory<'s> {
    /// Where.
    pub path: HostPath,
    /// Owner.
    pub owner: Option<AccountName>,
    /// Group.
    pub group: Option<AccountName>,
    /// Mode.
    pub mode: Option<u32>,
    /// What is done about drift of it.
    pub drift: Option<DriftPolicy>,
    /// What happens to what nobody declared in it.
    pub exclusive: Option<ExclusiveRule<'s>>,
    /// The path in the table.
    pub place: Place<'s>,
}

/// `[[symlink]]`.
#[derive(Debug, Clone)]
pub struct MadeSymlink<'s> {
    /// Where.
    pub path: HostPath,
    /// What it points to, as written.
    pub target: String,
    /// What is done about drift of it.
    pub drift: Option<DriftPolicy>,
    /// The path in the table.
    pub place: Place<'s>,
}

/// `[[unit]]`.
#[derive(Debug, Clone)]
pub struct UnitRule<'s> {
    /// Started at boot or not.
    pub enabled: Option<Located<'s, bool>>,
    /// Cannot be started at all.
    pub masked: Option<Located<'s, bool>>,
    /// Running now or not.
    pub active: Option<Located<'s, bool>>,
    /// What a change asks for.
    pub on_change: Option<OnChange>,
    /// Managed paths that it reads, beside those that are worked out.
    pub uses: Vec<Located<'s, HostPath>>,
    /// What is done about drift of it.
    pub drift: Option<Located<'s, DriftPolicy>>,
    /// The name in the table.
    pub place: Place<'s>,
}

/// The files of a component's folder: what follows `components/<name>/`, with the blob.
pub(crate) fn folder<'s>(
    bundle: &'s Bundle,
    name: &ComponentName,
) -> impl Iterator<Item = (&'s RepoPath, &'s str, &'s Blob)> + use<'s> {
    let prefix = format!("components/{name}/");
    let from = prefix.clone();
    bundle
        .files
        .range::<str, _>((std::ops::Bound::Included(from.as_str()), std::ops::Bound::Unbounded))
        .take_while(move |(path, _)| path.as_str().starts_with(&prefix))
        .map({
            let cut = from.len();
            move |(path, blob)| (path, &path.as_str()[cut..], blob)
        })
}

impl<'s> Component<'s> {
    /// Reads a component whose folder is in the bundle. One without a `component.toml`, or whose one cannot be parsed, has none of it.
    pub fn read(bundle: &'s Bundle, name: &ComponentName, findings: &mut Findings) -> Self {
        let mut component = Self {
            name: name.clone(),
            description: String::new(),
            depends: Vec::new(),
            variables: BTreeMap::new(),
            files: BTreeMap::new(),
            artifacts: Vec::new(),
            directories: Vec::new(),
            symlinks: Vec::new(),
            units: BTreeMap::new(),
            health: Vec::new(),
            hooks: Vec::new(),
            isolate: false,
            confirm: None,
            drift: None,
        };
        let Some((file, _, blob)) = folder(bundle, name).find(|(_, rest, _)| *rest == "component.toml") else {
            return component;
        };
        let Some(document) = Document::parse(file.as_str(), &blob.bytes, findings) else { return component };
        let mut root = document.root();
        component.description = root.string("description", findings).map(|text| text.value).unwrap_or_default();
        component.depends = read_components(&mut root, "depends", bundle, findings);
        component.variables = read_variables(root.table("variables", findings), findings);
        for table in root.tables("file", findings) {
            component.read_file(table, findings);
        }
        let artifacts = root.tables("artifact", findings);
        component.artifacts.extend(artifacts.into_iter().filter_map(|table| read_artifact(table, findings)));
        for table in root.tables("directory", findings) {
            component.read_directory(table, findings);
        }
        for table in root.tables("symlink", findings) {
            component.read_symlink(table, findings);
        }
        for table in root.tables("unit", findings) {
            component.read_unit(table, findings);
        }
        component.health.extend(root.tables("health", findings).into_iter().filter_map(|table| read_check(table, findings)));
        component.hooks.extend(root.tables("hook", findings).into_iter().filter_map(|table| read_hook(table, findings)));
        component.isolate = root.boolean("isolate", findings).is_some_and(|asked| asked.value);
        component.drift = read_policy(&mut root, findings);
        component.confirm = root.string("confirm", findings).and_then(|text| read_confirm(&text, findings));
        root.finish(findings);
        component
    }

    fn read_file(&mut self, mut table: Table<'_, 's>, findings: &mut Findings) {
        let path = name::<HostPath>(&mut table, "path", true, findings);
        let rule = FileRule {
            owner: name(&mut table, "owner", false, findings).map(|n| n.value),
            group: name(&mut table, "group", false, findings).map(|n| n.value),
            mode: mode(&mut table, findings),
            sensitive: table.boolean("sensitive", findings).is_some_and(|b| b.value),
            drift: read_policy(&mut table, findings).map(|policy| policy.value),
            ignored: read_ignored(&mut table, path.as_ref().map(|path| &path.value), findings),
            place: path.as_ref().map_or(table.place, |path| path.place),
        };
        table.finish(findings);
        let Some(path) = path else { return };
        if let Some(first) = self.files.get(&path.value) {
            findings.at_both(path.place, format!("there are two [[file]] for {}", path.value), first.place, "the first", "");
        }
        self.files.insert(path.value, rule);
    }

    fn read_directory(&mut self, mut table: Table<'_, 's>, findings: &mut Findings) {
        let path = name::<HostPath>(&mut table, "path", true, findings);
        let owner = name(&mut table, "owner", false, findings).map(|n| n.value);
        let group = name(&mut table, "group", false, findings).map(|n| n.value);
        let mode = mode(&mut table, findings);
        let drift = read_policy(&mut table, findings).map(|policy| policy.value);
        let exclusive = read_exclusive(&mut table, findings);
        table.finish(findings);
        if let Some(path) = path {
            self.directories.push(MadeDirectory { path: path.value, owner, group, mode, drift, exclusive, place: path.place });
        }
    }

    fn read_symlink(&mut self, mut table: Table<'_, 's>, findings: &mut Findings) {
        let path = name::<HostPath>(&mut table, "path", true, findings);
        let target = table.required_string("target", findings);
        if let Some(target) = &target
            && let Err(why) = judge_target(&target.value)
        {
            findings.at(target.place, format!("this cannot be the target of a symlink: {why}"));
        }
        let drift = read_policy(&mut table, findings).map(|policy| policy.value);
        table.finish(findings);
        if let (Some(path), Some(target)) = (path, target) {
            self.symlinks.push(MadeSymlink { path: path.value, target: target.value, drift, place: path.place });
        }
    }

    fn read_unit(&mut self, mut table: Table<'_, 's>, findings: &mut Findings) {
        let unit = name::<UnitName>(&mut table, "name", true, findings);
        let mut uses = Vec::new();
        for text in table.strings("uses", findings) {
            match text.value.parse() {
                Ok(value) => uses.push(Located { value, place: text.place }),
                Err(error) => refuse_name(&error, text.place, findings),
            }
        }
        let on_change = table.string("on-change", findings).and_then(|text| match text.value.as_str() {
            "restart" => Some(OnChange::Restart),
            "reload" => Some(OnChange::Reload),
            "nothing" => Some(OnChange::Nothing),
            other => {
                let help = did_you_mean(other, ["restart", "reload", "nothing"]);
                let help = if help.is_empty() { "`restart`, `reload` or `nothing`".to_owned() } else { help };
                findings.at_with(text.place, format!("`{}` is not something to do on a change", brief(other)), help);
                None
            }
        });
        let rule = UnitRule {
            enabled: table.boolean("enabled", findings),
            masked: table.boolean("masked", findings),
            active: table.boolean("active", findings),
            on_change,
            uses,
            drift: read_policy(&mut table, findings),
            place: unit.as_ref().map_or(table.place, |unit| unit.place),
        };
        table.finish(findings);
        if let (Some(masked), Some(other)) =
            (rule.masked.as_ref().filter(|m| m.value), rule.enabled.as_ref().or(rule.active.as_ref()))
            && other.value
        {
            findings.at_both(
                masked.place,
                "a masked unit cannot be started",
                other.place,
                "and this asks for it",
                "remove one of the two",
            );
        }
        let Some(unit) = unit else { return };
        if let Some(first) = self.units.get(&unit.value) {
            findings.at_both(unit.place, format!("there are two [[unit]] for {}", unit.value), first.place, "the first", "");
        }
        self.units.insert(unit.value, rule);
    }
}

fn read_confirm(text: &Located<'_, String>, findings: &mut Findings) -> Option<Confirm> {
    match text.value.as_str() {
        "always" => Some(Confirm::Always),
        "after-reboot" => Some(Confirm::AfterReboot),
        other => {
            let help = did_you_mean(other, ["always", "after-reboot"]);
            let help = if help.is_empty() { "`always` or `after-reboot`".to_owned() } else { help };
            findings.at_with(text.place, format!("a change cannot be confirmed `{}`", brief(other)), help);
            None
        }
    }
}

/// Why a text cannot be the target of a symlink.
pub(crate) fn judge_target(target: &str) -> Result<(), &'static str> {
    match target {
        "" => Err("it is empty"),
        _ if target.len() > 4000 => Err("it is longer than 4,000 bytes"),
        _ if target.chars().any(char::is_control) => Err("it contains a control character"),
        _ => Ok(()),
    }
}

pub(super) fn refuse_name(error: &NameError, place: Place<'_>, findings: &mut Findings) {
    findings.at(place, format!("`{}` is not a valid {}: {}", brief(&error.text), error.what, error.why));
}

pub(super) fn name<'s, T: std::str::FromStr<Err = NameError>>(
    table: &mut Table<'_, 's>,
    key: &'static str,
    required: bool,
    findings: &mut Findings,
) -> Option<Located<'s, T>> {
    let text = if required { table.required_string(key, findings)? } else { table.string(key, findings)? };
    match text.value.parse() {
        Ok(value) => Some(Located { value, place: text.place }),
        Err(error) => {
            refuse_name(&error, text.place, findings);
            None
        }
    }
}

pub(super) fn mode(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<u32> {
    let item = table.item("mode")?;
    const HELP: &str = "three or four octal digits in quotes, e.g. mode = \"0640\"";
    let Some(text) = item.value.as_str() else {
        // mode = 640 would be decimal 640, 0o1200: the classic accident.
        findings.at_with(item.place, format!("`mode` must be a string, and this is {}", item.kind()), HELP);
        return None;
    };
    if !(3..=4).contains(&text.len()) || !text.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        findings.at_with(item.place, format!("`{}` is not a mode", brief(text)), HELP);
        return None;
    }
    u32::from_str_radix(text, 8).ok()
}
