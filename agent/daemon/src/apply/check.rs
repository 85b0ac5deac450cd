//! The checks before the switch: the tools' own checkers over copies of what is about to be written.
//!
//! Guarantees: runs before anything of the pass touches the machine; only units and Quadlet files that change are judged, but in the
//! company of everything they will stand beside, so that a reference to something that comes in the same pass is found.
//! Limits: units that leave in this pass are still seen by the unit checker; a program that `ExecStart=` names must exist already or
//! be a managed path. Where a checker is missing, that is told and nothing is held up: the old systemd that lacks it must still be managed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trimtab_model::desired::{Desired, Enablement, Node, Role};
use trimtab_model::names::{HostPath, UnitName};
use trimtab_model::plan::{Action, Plan};

use super::Contents;
use super::verify::{Complaint, Subjects, Verdict};
use crate::host::command::{self, Command, CommandError, Runner};
use crate::host::keys;
use crate::host::root::Root;

const UNITS: &str = "/etc/systemd/system";
const QUADLETS: &str = "/etc/containers/systemd";

/// Where a unit's own file may lie when only a drop-in of it is ours.
const UNIT_FOLDERS: [&str; 5] =
    [UNITS, "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

const GENERATORS: [&str; 3] =
    ["/usr/lib/systemd/system-generators/podman-system-generator", "/usr/libexec/podman/quadlet", "/usr/lib/podman/quadlet"];

const TIMEOUT: Duration = Duration::from_secs(120);

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The copies could not be written.
    #[error("could not lay out copies for the checkers in {folder}")]
    Copies {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A checker did not run.
    #[error("could not check the changed units")]
    Checker {
        /// Why.
        source: CommandError,
    },
}

/// A folder of copies that is gone with this value.
struct Copies(PathBuf);

impl Drop for Copies {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Copies {
    fn make(scratch: &Path) -> Result<Self, CheckError> {
        let random = std::hash::RandomState::new().build_hasher().finish();
        let folder = scratch.join(format!("check-{random:016x}"));
        let failed = |source| CheckError::Copies { folder: folder.clone(), source };
        fs::create_dir_all(scratch).map_err(failed)?;
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
        let copies = Self(folder.clone());
        for part in ["units", "quadlets"] {
            fs::create_dir(folder.join(part)).map_err(failed)?;
        }
        Ok(copies)
    }

    fn write(&self, part: &str, name: &str, bytes: &[u8]) -> Result<(), CheckError> {
        let path = self.0.join(part).join(name);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&self.0))?;
            fs::write(&path, bytes)
        };
        write().map_err(|source| CheckError::Copies { folder: self.0.clone(), source })
    }

    fn part(&self, part: &str) -> String {
        self.0.join(part).to_string_lossy().into_owned()
    }
}

/// The changed definitions of a plan.
struct Changed<'a> {
    units: BTreeMap<&'a HostPath, &'a UnitName>,
    quadlets: BTreeMap<&'a HostPath, &'a UnitName>,
    leaving: BTreeSet<&'a HostPath>,
}

impl<'a> Changed<'a> {
    fn of(plan: &'a Plan, wanted: &'a Desired) -> Self {
        let mut changed = Self { units: BTreeMap::new(), quadlets: BTreeMap::new(), leaving: BTreeSet::new() };
        for step in &plan.steps {
            match &step.action {
                Action::Put { path, .. } => match wanted.entries.get(path).map(|entry| &entry.role) {
                    Some(Role::Unit(unit)) => drop(changed.units.insert(path, unit)),
                    Some(Role::Quadlet(unit)) => drop(changed.quadlets.insert(path, unit)),
                    _ => {}
                },
                Action::Remove { path, .. } => drop(changed.leaving.insert(path)),
                _ => {}
            }
        }
        changed
    }
}

/// Checks what the plan is about to write. Any error in the verdict: nothing of the plan may be carried out.
pub(super) async fn check(
    plan: &Plan,
    wanted: &Desired,
    contents: &Contents<'_>,
    root: &Root,
    runner: &Runner,
    scratch: &Path,
) -> Result<Verdict, CheckError> {
    let changed = Changed::of(plan, wanted);
    if changed.units.is_empty() && changed.quadlets.is_empty() {
        return Ok(Verdict::default());
    }
    let copies = Copies::make(scratch)?;
    let folder = copies.0.clone();
    let failed = |source| CheckError::Copies { folder: folder.clone(), source };
    for (path, entry) in &wanted.entries {
        let (part, beneath) = match entry.role {
            Role::Unit(_) => ("units", UNITS),
            Role::Quadlet(_) => ("quadlets", QUADLETS),
            _ => continue,
        };
        let (Node::File { digest, .. }, Some(name)) = (&entry.state.node, below(path, beneath)) else { continue };
        let stands = keys::around(root, path, entry, contents(*digest).map_err(failed)?, false);
        copies.write(part, name, &stands)?;
    }
    let quadlets =
        if changed.quadlets.is_empty() { Verdict::default() } else { quadlets(&changed, wanted, &copies, runner).await? };
    if !quadlets.errors.is_empty() {
        // What the generator refuses leaves no unit to look at.
        return Ok(quadlets);
    }
    Ok(quadlets.and(units(&changed, wanted, &copies, runner).await?))
}

fn below<'p>(path: &'p HostPath, folder: &str) -> Option<&'p str> {
    path.as_str().strip_prefix(folder)?.strip_prefix('/')
}

/// Podman's Quadlet generator, where this host has one.
pub(super) fn quadlet_generator() -> Option<String> {
    GENERATORS.iter().find_map(|path| command::find(path))
}

async fn quadlets(changed: &Changed<'_>, wanted: &Desired, copies: &Copies, runner: &Runner) -> Result<Verdict, CheckError> {
    let Some(generator) = quadlet_generator() else {
        let message =
            "podman's Quadlet generator is not on this host (it comes with podman 4.4 or newer), so nothing would come of it"
                .to_owned();
        let errors = changed.quadlets.keys().map(|path| Complaint { path: (*path).clone(), message: message.clone() }).collect();
        return Ok(Verdict { errors, warnings: Vec::new() });
    };
    // The operator's own are part of the company: a container of ours may be on a network of theirs.
    copy_foreign(changed, wanted, copies).map_err(|source| CheckError::Copies { folder: copies.0.clone(), source })?;
    let (from, to) = (copies.part("quadlets"), copies.part("units"));
    // For real and not as a dry run: its output files are what the unit checker needs next.
    let generating = Command::new("quadlet", [generator.as_str(), "-no-kmsg-log", &to, &to, &to])
        .about("check Quadlet files")
        .env("QUADLET_UNIT_DIRS", from.as_str())
        .timeout(TIMEOUT);
    let output = command::run(&generating, runner).await.map_err(|source| CheckError::Checker { source })?;
    let subjects = Subjects {
        stands_for: QUADLETS,
        files: changed.quadlets.keys().filter_map(|path| Some((below(path, QUADLETS)?.to_owned(), (*path).clone()))).collect(),
        all: names(Path::new(&from)),
        folder: from,
        ..Subjects::default()
    };
    Ok(subjects.read_quadlet(&output.text(), output.is_success()))
}

fn copy_foreign(changed: &Changed<'_>, wanted: &Desired, copies: &Copies) -> io::Result<()> {
    for name in names(Path::new(QUADLETS)) {
        let Ok(path) = format!("{QUADLETS}/{name}").parse::<HostPath>() else { continue };
        if wanted.entries.contains_key(&path) || changed.leaving.contains(&path) {
            continue;
        }
        let to = copies.0.join("quadlets").join(&name);
        fs::create_dir_all(to.parent().unwrap_or(&copies.0))?;
        fs::copy(path.as_str(), to)?;
    }
    Ok(())
}

/// The names of all plain files beneath a folder, at most two levels down; nothing if there is no such folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut folders = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
            if kind.is_dir() && depth < 2 {
                folders.push((entry.path(), format!("{prefix}{name}/"), depth + 1));
            } else if kind.is_file() {
                all.insert(format!("{prefix}{name}"));
            }
        }
    }
    all
}

async fn units(changed: &Changed<'_>, wanted: &Desired, copies: &Copies, runner: &Runner) -> Result<Verdict, CheckError> {
    let folder = copies.part("units");
    let mut subjects = Subjects {
        stands_for: UNITS,
        all: names(Path::new(&folder)),
        coming: coming(wanted),
        folder: folder.clone(),
        ..Subjects::default()
    };
    let mut arguments = BTreeSet::new();
    for (path, unit) in changed.units.iter().chain(&changed.quadlets) {
        if let Some(name) = below(path, UNITS) {
            subjects.files.insert(name.to_owned(), (*path).clone());
        }
        if changed.quadlets.contains_key(path) {
            subjects.generated.insert(unit.to_string(), (*path).clone());
        }
        // The unit's own file speaks for the unit; a drop-in only where no file of the unit changes.
        let own = path.file_name() == unit.as_str() || !path.as_str().contains(".d/");
        if own || !subjects.units.contains_key(unit.as_str()) {
            subjects.units.insert(unit.to_string(), (*path).clone());
        }
        let is_masked = wanted.units.get(*unit).is_some_and(|unit| unit.enabled == Some(Enablement::Masked));
        if !is_masked {
            arguments.extend(unit_file(&folder, unit));
        }
    }
    if arguments.is_empty() {
        return Ok(Verdict::default());
    }
    let output = match analyze(&folder, &arguments, &["--man=no", "--recursive-errors=one"], runner).await {
        // systemd before 250 does not know the second option, and then always says success unless it could not load a unit.
        Ok(output) if !output.is_success() && output.text().contains("unrecognized option") => {
            analyze(&folder, &arguments, &["--man=no"], runner).await
        }
        other => other,
    };
    match output {
        Ok(output) => Ok(subjects.read_analyze(&output.text(), output.is_success())),
        Err(CommandError::Missing { program }) => {
            tracing::warn!("{program} is not on this host: changed units are not checked before they are switched");
            Ok(Verdict::default())
        }
        Err(source) => Err(CheckError::Checker { source }),
    }
}

async fn analyze(
    folder: &str,
    arguments: &BTreeSet<String>,
    options: &[&str],
    runner: &Runner,
) -> Result<command::Output, CommandError> {
    let words = ["systemd-analyze", "verify"].iter().chain(options).map(|word| (*word).to_owned());
    let verifying = Command::new("verify", words.chain(arguments.iter().cloned()))
        .about("check unit files")
        // The empty last part stands for the usual folders.
        .env("SYSTEMD_UNIT_PATH", format!("{folder}:"))
        .env("SYSTEMD_LOG_TARGET", "console")
        .env("SYSTEMD_COLORS", "0")
        .timeout(TIMEOUT);
    command::run(&verifying, runner).await
}

/// The file to hand to the checker for a unit: the copy, or the distribution's when only a drop-in of it is ours.
fn unit_file(folder: &str, unit: &UnitName) -> Option<String> {
    let template = unit.template();
    let names = std::iter::once(unit.as_str()).chain(template.as_ref().map(UnitName::as_str));
    let folders = std::iter::once(folder).chain(UNIT_FOLDERS);
    let mut candidates = names.flat_map(|name| folders.clone().map(move |folder| format!("{folder}/{name}")));
    candidates.find(|path| Path::new(path).is_file())
}

/// Paths under which programs will stand that do not yet.
fn coming(wanted: &Desired) -> BTreeSet<String> {
    let is_coming = |node: &Node| matches!(node, Node::File { .. } | Node::Symlink { .. });
    wanted.entries.iter().filter(|(_, entry)| is_coming(&entry.state.node)).map(|(path, _)| path.to_string()).collect()
}
