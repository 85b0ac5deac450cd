//! Where the files of a component go: the conventions of its folders, and its `[[file]]`, `[[directory]]` and `[[symlink]]`.
//!
//! Nothing in a component's folder is ignored in silence: a folder that means nothing, a unit file in the wrong place or an
//! exception for a path that nobody provides is refused, because each is a change that somebody believes to have made.

use std::collections::BTreeMap;

use crate::bundle::{Blob, BlobKind, Bundle};
use crate::desired::Origin;
use crate::drift::{DriftPolicy, Exclusive};
use crate::facts::PathPolicy;
use crate::finding::Findings;
use crate::fleet::read::{Place, brief, did_you_mean};
use crate::fleet::{Component, DeclaredArtifact, DeclaredKeys, MadeDirectory, judge_exclusive};
use crate::names::{AccountName, ComponentName, HostPath, UnitName};

/// The folders of a component.
const FOLDERS: [&str; 6] = ["files", "systemd", "quadlet", "sysusers", "tmpfiles", "sysctl"];
/// Quadlet's file types.
pub(super) const QUADLETS: [&str; 7] = ["container", "pod", "network", "volume", "image", "build", "kube"];
pub(super) const UNIT_DIR: &str = "/etc/systemd/system";
pub(super) const QUADLET_DIR: &str = "/etc/containers/systemd";
const TEMPLATE: &str = ".j2";

/// One path that a component wants, before rendering.
#[derive(Debug, Clone)]
pub(super) struct Draft<'b> {
    pub(super) path: HostPath,
    pub(super) component: ComponentName,
    /// Where it is claimed.
    pub(super) place: Place<'b>,
    pub(super) what: What<'b>,
    pub(super) mode: u32,
    pub(super) owner: AccountName,
    pub(super) group: AccountName,
    pub(super) sensitive: bool,
    pub(super) drift: DriftPolicy,
    /// What nobody declared in it, where it is a directory of the component alone.
    pub(super) exclusive: Option<Exclusive>,
    pub(super) ignored: Option<DeclaredKeys<'b>>,
    pub(super) part: Part,
}

/// What stands at the path.
#[derive(Debug, Clone)]
pub(super) enum What<'b> {
    Bytes(&'b [u8]),
    Template(&'b [u8]),
    Symlink(String),
    Artifact(Box<DeclaredArtifact<'b>>),
    Directory,
}

/// What the path is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Plain,
    UnitFile(UnitName),
    UnitDropIn(UnitName),
    /// A Quadlet file, by its name.
    Quadlet(String),
    /// A drop-in of the Quadlet file of that name.
    QuadletDropIn(String),
    Sysusers,
    Tmpfiles,
    Sysctl,
}

/// Whether the folder of a component is in the bundle.
pub(super) fn is_loaded(bundle: &Bundle, name: &ComponentName) -> bool {
    crate::fleet::component_folder(bundle, name).next().is_some()
}

/// Lays out one component.
pub(super) fn lay_out<'b>(
    bundle: &'b Bundle,
    component: &Component<'b>,
    policy: &PathPolicy,
    findings: &mut Findings,
) -> Vec<Draft<'b>> {
    let root = || "root".parse::<AccountName>().expect("because root is an account name");
    let usual = component.drift.as_ref().map_or_else(DriftPolicy::default, |drift| drift.value);
    let mut drafts = Vec::new();
    for (file, rest, blob) in crate::fleet::component_folder(bundle, &component.name) {
        let place = Place::file(file.as_str());
        let (path, part) = match locate(rest, blob.kind) {
            Ok(Some(located)) => located,
            Ok(None) => continue,
            Err(wrong) => {
                findings.at_with(place, wrong.message, wrong.help);
                continue;
            }
        };
        let Some(what) = content(file.as_str(), blob, findings) else { continue };
        let mode = if blob.kind == BlobKind::Executable { 0o755 } else { 0o644 };
        let (owner, group, component) = (root(), root(), component.name.clone());
        let (sensitive, drift, exclusive, ignored) = (false, usual, None, None);
        drafts.push(Draft { path, component, place, what, mode, owner, group, sensitive, drift, exclusive, ignored, part });
    }
    except(component, &mut drafts, findings);
    for made in &component.directories {
        drafts.push(Draft {
            path: made.path.clone(),
            component: component.name.clone(),
            place: made.place,
            what: What::Directory,
            mode: made.mode.unwrap_or(0o755),
            owner: made.owner.clone().unwrap_or_else(root),
            group: made.group.clone().unwrap_or_else(root),
            sensitive: false,
            drift: made.drift.unwrap_or(usual),
            exclusive: exclusive(made, component, policy, findings),
            ignored: None,
            part: Part::Plain,
        });
    }
    drafts.extend(component.artifacts.iter().filter_map(|declared| artifact(declared, component, usual, findings)));
    for made in &component.symlinks {
        drafts.push(Draft {
            path: made.path.clone(),
            component: component.name.clone(),
            place: made.place,
            what: What::Symlink(made.target.clone()),
            mode: 0o777,
            owner: root(),
            group: root(),
            sensitive: false,
            drift: made.drift.unwrap_or(usual),
            exclusive: None,
            ignored: None,
            part: Part::Plain,
        });
    }
    drafts.retain(|draft| is_allowed(draft, policy, findings));
    drafts
}

/// A file whose bytes are fetched: never configuration that trimtab itself must read, for it does not see them when it renders.
fn artifact<'b>(
    declared: &DeclaredArtifact<'b>,
    component: &Component<'b>,
    usual: DriftPolicy,
    findings: &mut Findings,
) -> Option<Draft<'b>> {
    let root = || "root".parse::<AccountName>().expect("because root is an account name");
    let path = &declared.path;
    if [UNIT_DIR, QUADLET_DIR].iter().any(|folder| path.is_within(folder)) || plain_part(path).ok() != Some(Part::Plain) {
        let help = "put the text itself into the repository; an artifact is for programs and data";
        findings.at_with(
            declared.place,
            format!("{path} cannot be an artifact: what lies there says how the host is managed"),
            help,
        );
        return None;
    }
    Some(Draft {
        path: path.clone(),
        component: component.name.clone(),
        place: declared.place,
        what: What::Artifact(Box::new(declared.clone())),
        mode: declared.mode.unwrap_or(0o644),
        owner: declared.owner.clone().unwrap_or_else(root),
        group: declared.group.clone().unwrap_or_else(root),
        sensitive: declared.sensitive,
        drift: declared.drift.unwrap_or(usual),
        exclusive: None,
        ignored: None,
        part: Part::Plain,
    })
}

/// What a directory is exclusive for, if it may be.
fn exclusive(
    made: &MadeDirectory<'_>,
    component: &Component<'_>,
    policy: &PathPolicy,
    findings: &mut Findings,
) -> Option<Exclusive> {
    let rule = made.exclusive.as_ref()?;
    if let Err(why) = judge_exclusive(&made.path, policy) {
        let help = "declare a directory that belongs to this component alone, e.g. its own below this one";
        findings.at_with(rule.place, format!("{} cannot be exclusive: {why}", made.path), help);
        return None;
    }
    let origin = Origin { component: component.name.clone(), file: rule.place.file.to_owned(), line: rule.place.line() };
    Some(Exclusive { extra: rule.extra, except: rule.except.clone(), origin })
}

struct Wrong {
    message: String,
    help: String,
}

fn wrong<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { message: message.into(), help: help.into() })
}

/// The path on the host and the purpose of a file in a component's folder; `None` for what never becomes a file.
fn locate(rest: &str, kind: BlobKind) -> Result<Option<(HostPath, Part)>, Wrong> {
    let name = rest.rsplit('/').next().unwrap_or(rest);
    if name == ".gitkeep" || name == ".gitignore" {
        return Ok(None);
    }
    let Some((folder, below)) = rest.split_once('/') else {
        if rest == "component.toml" || rest.starts_with("README") {
            return Ok(None);
        }
        let mut help = did_you_mean(rest, ["component.toml"]);
        if help.is_empty() {
            help = format!("files for the host go into one of the folders {}", FOLDERS.join(", "));
        }
        return wrong("this file means nothing directly in a component's folder", help);
    };
    let below = match below.strip_suffix(TEMPLATE) {
        Some(_) if kind == BlobKind::Symlink => return wrong("a symlink cannot be a template", "take the ending .j2 off its name"),
        Some(name) => name,
        None => below,
    };
    let (directory, part) = match folder {
        "files" => ("", Part::Plain),
        "systemd" => (UNIT_DIR, unit_part(below)?),
        "quadlet" => (QUADLET_DIR, quadlet_part(below)?),
        "sysusers" => ("/etc/sysusers.d", conf_part(below, Part::Sysusers)?),
        "tmpfiles" => ("/etc/tmpfiles.d", conf_part(below, Part::Tmpfiles)?),
        "sysctl" => ("/etc/sysctl.d", conf_part(below, Part::Sysctl)?),
        other => {
            let mut help = did_you_mean(other, FOLDERS);
            if help.is_empty() {
                help = format!("the folders of a component are {}", FOLDERS.join(", "));
            }
            return wrong(format!("the folder `{}` means nothing in a component", brief(other)), help);
        }
    };
    if kind == BlobKind::Symlink && part != Part::Plain {
        return wrong(
            format!("symlinks have no meaning in {folder}/"),
            "to mask or enable a unit, write a [[unit]] in component.toml",
        );
    }
    match format!("{directory}/{below}").parse::<HostPath>() {
        Ok(path) if folder == "files" => Ok(Some((path.clone(), plain_part(&path)?))),
        Ok(path) => Ok(Some((path, part))),
        Err(error) => wrong(format!("this cannot be a path on the host: {}", error.why), ""),
    }
}

/// A file in `files/` that lies where another folder would put it: the declarative formats are applied all the same, units are refused,
/// because their place says how they are managed.
fn plain_part(path: &HostPath) -> Result<Part, Wrong> {
    for (directory, folder) in [(UNIT_DIR, "systemd"), (QUADLET_DIR, "quadlet")] {
        if path.is_within(directory) {
            return wrong(
                format!("what belongs into {directory} goes into the component's folder {folder}/"),
                format!("move it to {folder}/"),
            );
        }
    }
    let is_conf = |directory: &str| path.parent().is_some_and(|p| p.as_str() == directory) && ends_in(path.file_name(), "conf");
    Ok(match path {
        _ if is_conf("/etc/sysusers.d") => Part::Sysusers,
        _ if is_conf("/etc/tmpfiles.d") => Part::Tmpfiles,
        _ if is_conf("/etc/sysctl.d") => Part::Sysctl,
        _ => Part::Plain,
    })
}

/// Whether a name has this ending, and something before it. Names on a host are case-sensitive.
pub(super) fn ends_in(name: &str, ending: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, end)| !stem.is_empty() && end == ending)
}

fn conf_part(below: &str, part: Part) -> Result<Part, Wrong> {
    if below.contains('/') || !ends_in(below, "conf") {
        return wrong(
            "only files ending in .conf belong here, without sub-folders",
            "the programs that read them ignore all others",
        );
    }
    Ok(part)
}

fn unit_part(below: &str) -> Result<Part, Wrong> {
    let unit = |name: &str| match name.parse::<UnitName>() {
        Ok(unit) if ["scope", "device"].contains(&unit.kind()) => wrong(format!("a {} has no unit file", unit.kind()), ""),
        Ok(unit) => Ok(unit),
        Err(error) => wrong(format!("`{}` is not a valid unit name: {}", brief(&error.text), error.why), ""),
    };
    match below.split_once('/') {
        None => Ok(Part::UnitFile(unit(below)?)),
        Some((folder, name)) => match folder.strip_suffix(".d") {
            Some(stem) if ends_in(name, "conf") && !name.contains('/') => {
                if crate::names::UNIT_TYPES.contains(&stem) {
                    return wrong(
                        format!("drop-ins for every {stem} of the host are not supported"),
                        "name the unit: <unit>.d/*.conf",
                    );
                }
                Ok(Part::UnitDropIn(unit(stem)?))
            }
            _ => wrong(
                "in systemd/ there are only units and <unit>.d/*.conf",
                "what a target wants is said by the [Install] sections of units",
            ),
        },
    }
}

fn quadlet_part(below: &str) -> Result<Part, Wrong> {
    let kind = |name: &str| name.rsplit_once('.').is_some_and(|(stem, end)| !stem.is_empty() && QUADLETS.contains(&end));
    match below.split_once('/') {
        None if kind(below) => Ok(Part::Quadlet(below.to_owned())),
        None => Ok(Part::Plain),
        Some((folder, name)) => match folder.strip_suffix(".d") {
            Some(stem) if ends_in(name, "conf") && !name.contains('/') => {
                if QUADLETS.contains(&stem) || stem.rsplit_once('.').is_some_and(|(stem, _)| stem.ends_with('-')) {
                    return wrong(
                        "drop-ins for several Quadlet files at once are not supported",
                        "name the file: <name>.container.d/*.conf",
                    );
                }
                if !kind(stem) {
                    return wrong(
                        format!("`{}` is not a Quadlet file", brief(stem)),
                        format!("it ends in one of {}", QUADLETS.join(", ")),
                    );
                }
                Ok(Part::QuadletDropIn(stem.to_owned()))
            }
            _ if kind(name) => {
                wrong("Quadlet files lie directly in quadlet/", "Podman would read it under a name that trimtab does not expect")
            }
            _ => Ok(Part::Plain),
        },
    }
}

fn content<'b>(file: &str, blob: &'b Blob, findings: &mut Findings) -> Option<What<'b>> {
    match blob.kind {
        BlobKind::Symlink => {
            let target = std::str::from_utf8(&blob.bytes).map_err(|_| "it is not UTF-8 text");
            match target.and_then(|target| crate::fleet::judge_target(target).map(|()| target)) {
                Ok(target) => Some(What::Symlink(target.to_owned())),
                Err(why) => {
                    findings.at(Place::file(file), format!("this symlink's target cannot be used: {why}"));
                    None
                }
            }
        }
        _ if file.ends_with(TEMPLATE) => Some(What::Template(&blob.bytes)),
        _ => Some(What::Bytes(&blob.bytes)),
    }
}

/// Applies `[[file]]`.
fn except<'b>(component: &Component<'b>, drafts: &mut [Draft<'b>], findings: &mut Findings) {
    for (path, rule) in &component.files {
        let Some(draft) = drafts.iter_mut().find(|draft| draft.path == *path) else {
            let help = did_you_mean(path.as_str(), drafts.iter().map(|draft| draft.path.as_str()));
            let help = if help.is_empty() { format!("put the file at files{path} (or with the ending .j2)") } else { help };
            findings.at_with(rule.place, format!("none of this component's folders provides {path}"), help);
            continue;
        };
        let only_drift =
            rule.owner.is_none() && rule.group.is_none() && rule.mode.is_none() && !rule.sensitive && rule.drift.is_some();
        draft.drift = rule.drift.unwrap_or(draft.drift);
        if matches!(draft.what, What::Symlink(_)) && only_drift {
            continue;
        }
        if matches!(draft.what, What::Symlink(_)) {
            findings.at(rule.place, format!("{path} is a symlink: it has no mode, and root owns it"));
            continue;
        }
        draft.mode = rule.mode.unwrap_or(draft.mode);
        draft.sensitive = rule.sensitive;
        draft.ignored.clone_from(&rule.ignored);
        if let Some(owner) = &rule.owner {
            draft.owner = owner.clone();
        }
        if let Some(group) = &rule.group {
            draft.group = group.clone();
        }
    }
}

/// How a host lets the repository bring trimtab itself.
pub(super) const SELF_UPDATE: &str =
    "a host lets the repository bring trimtab itself by `self-update = true` under [policy] in its agent.toml";

/// Whether a name is one of trimtab's own units (or their drop-in folders).
pub(super) fn is_own_unit(name: &str) -> bool {
    let name = name.strip_suffix(".d").unwrap_or(name);
    name.parse::<UnitName>().is_ok()
        && name.rsplit_once('.').is_some_and(|(stem, _)| {
            let stem = stem.split('@').next().unwrap_or(stem);
            stem == "trimtab" || stem.starts_with("trimtab-")
        })
}

fn is_allowed(draft: &Draft<'_>, policy: &PathPolicy, findings: &mut Findings) -> bool {
    let path = draft.path.as_str();
    if let Err(why) = policy.judge(&draft.path) {
        findings.at(draft.place, format!("{path} may not be managed: {why}"));
        return false;
    }
    // A repository that could loosen the sandbox of the agent would loosen the rules by which it is judged: the host says whether it may.
    if path.contains("/systemd/") && path.split('/').any(is_own_unit) {
        if !policy.self_update {
            findings.at_with(draft.place, format!("{path} may not be managed: trimtab's own units are local"), SELF_UPDATE);
            return false;
        }
        if !draft.path.is_within(UNIT_DIR) {
            findings.at_with(
                draft.place,
                format!("{path} may not be managed: it is one of trimtab's own units"),
                "units go into systemd/",
            );
            return false;
        }
    }
    if draft.part == Part::Plain
        && (draft.path.is_within(UNIT_DIR)
            || matches!(draft.what, What::Symlink(_) | What::Directory) && draft.path.is_within(QUADLET_DIR))
    {
        findings.at_with(
            draft.place,
            format!("{path} lies among the units"),
            "units go into systemd/ and quadlet/, and their state into [[unit]]",
        );
        return false;
    }
    true
}

/// Finds paths that are claimed twice, or that lie beneath something that is no directory; the first claim in the order of files stays.
pub(super) fn judge_claims<'b>(drafts: Vec<Draft<'b>>, findings: &mut Findings) -> BTreeMap<HostPath, Draft<'b>> {
    let mut claims: BTreeMap<HostPath, Draft<'b>> = BTreeMap::new();
    for draft in drafts {
        match claims.get(&draft.path) {
            None => {
                claims.insert(draft.path.clone(), draft);
            }
            Some(first) => {
                let both = if first.component == draft.component {
                    format!("twice by `{}`", draft.component)
                } else {
                    format!("by `{}` and by `{}`", first.component, draft.component)
                };
                let message = format!("{} is claimed {both}", draft.path);
                findings.at_both(draft.place, message, first.place, "the first claim", "a path belongs to one component, once");
            }
        }
    }
    for draft in claims.values() {
        let mut at = draft.path.parent();
        while let Some(above) = at {
            if let Some(claim) = claims.get(&above)
                && !matches!(claim.what, What::Directory)
            {
                let is = if matches!(claim.what, What::Symlink(_)) { "a symlink" } else { "a file" };
                let message = format!("{} lies beneath {above}, which is {is}", draft.path);
                findings.at_both(draft.place, message, claim.place, "the other claim", "only one of the two can be");
                break;
            }
            at = above.parent();
        }
    }
    claims
}
