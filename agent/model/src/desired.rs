//! What is wanted on this host: files, units and images, each with the place in the repository that put it there.
//!
//! A desired state is complete and small: contents are named by digest and lie beside it ([`Rendered`]), so it can be kept in memory
//! and in the ledger's neighbourhood for as long as the agent runs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::drift::{DriftPolicy, Exclusive, IgnoredKeys};
use crate::health::HealthCheck;
use crate::hook::Hook;
use crate::names::{AccountName, ComponentName, HostPath, UnitName};

/// Everything that is wanted on one host. Serialises the same for the same input, so its digest names a rendering.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Files, symlinks and directories by path.
    pub entries: BTreeMap<HostPath, Entry>,
    /// Units whose state is managed, by name; a unit file without an entry here is only a file.
    pub units: BTreeMap<UnitName, Unit>,
    /// Images that must be present before anything is switched, as `Image=` names them.
    pub images: BTreeMap<String, Origin>,
    /// What each component (in use on this host) needs first; `depends` in component.toml.
    pub components: BTreeMap<ComponentName, BTreeSet<ComponentName>>,
    /// What must be true before a change counts as good, in the order of components and of their files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health: Vec<HealthCheck>,
    /// Programs to run at fixed places of a pass, in the order of components and of their files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Components whose every change must be confirmed by reaching the source (`confirm = "always"` or `"after-reboot"`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub confirm: BTreeMap<ComponentName, Confirm>,
    /// Components whose failure does not reach what they depend on (`isolate = true`).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub isolated: BTreeSet<ComponentName>,
    /// Directories in which only what is declared is wanted (`[[directory]] exclusive = …`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exclusive: BTreeMap<HostPath, Exclusive>,
}

/// When a change of a component counts as confirmed, whatever it touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confirm {
    /// When the source was reached with it.
    Always,
    /// When the source was reached with it after a reboot.
    AfterReboot,
}

/// A desired state and the contents that it names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// What is wanted.
    pub desired: Desired,
    /// The content of each file, by digest.
    pub contents: BTreeMap<Digest, Vec<u8>>,
}

/// The place in the repository that put something on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// The component.
    pub component: ComponentName,
    /// The file in the repository.
    pub file: String,
    /// The line in it, from 1; 0 when the whole file is meant.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub line: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(line: &u32) -> bool {
    *line == 0
}

/// One path on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What stands at the path, with its mode and owner.
    pub state: FileState,
    /// What the file is for: decides who must be told when it changes.
    pub role: Role,
    /// Whether its content may be shown in a plan or a diff: false for `sensitive = true` and for every file that not everybody may read.
    pub shown: bool,
    /// What is done about drift of it.
    #[serde(default, skip_serializing_if = "DriftPolicy::is_default")]
    pub drift: DriftPolicy,
    /// Keys in it that belong to somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored: Option<IgnoredKeys>,
    /// Where its bytes are fetched from, when they are not in the repository (`[[artifact]]`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where the bytes of a file are when they are not in the repository. What they must be, digest and length, is said by its [`Node::File`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Artifact {
    /// `https://…`, or `http://` and `file://` where the host's own settings allow it.
    pub url: String,
    /// The minisign public key (`RW…`) by which the bytes must be signed; the signature lies at the URL with `.minisig` after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minisign: Option<String>,
}

impl Artifact {
    /// Whether the URL is one that a courier may be asked for; a sentence if not.
    pub fn check(&self) -> Result<(), &'static str> {
        crate::fleet::judge_url(&self.url)
    }

    /// The URL as it may be shown: what follows a `?` may be somebody's secret.
    pub fn shown_url(&self) -> &str {
        self.url.split('?').next().unwrap_or_default()
    }
}

/// The state of one path, as wanted or as written: all that drift is judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// A regular file, a symlink or a directory.
    #[serde(flatten)]
    pub node: Node,
    /// Permission bits, 0 to 0o7777; not compared for symlinks (they have none).
    pub mode: u32,
    /// Owner by name; resolved on the host.
    pub owner: AccountName,
    /// Group by name; resolved on the host.
    pub group: AccountName,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Node {
    /// A regular file.
    File {
        /// Digest of its content.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Its target, as written.
        target: String,
    },
    /// A directory; what is in it is not its business.
    Directory,
}

/// What a file is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "of", rename_all = "kebab-case")]
pub enum Role {
    /// Nothing in particular.
    Plain,
    /// A unit file, or a drop-in of the unit.
    Unit(UnitName),
    /// A Quadlet file, or a drop-in of one, that becomes the unit.
    Quadlet(UnitName),
    /// `sysusers.d`: applied by systemd-sysusers before other files are written.
    Sysusers,
    /// `tmpfiles.d`: applied by systemd-tmpfiles.
    Tmpfiles,
    /// `sysctl.d`: applied by systemd-sysctl.
    Sysctl,
}

/// Whether a unit is started at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enablement {
    /// `systemctl enable`: its `[Install]` section is in force.
    Enabled,
    /// Not started at boot by its `[Install]` section.
    Disabled,
    /// `systemctl mask`: cannot be started at all.
    Masked,
}

/// What a change of a unit's inputs asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    /// Stop and start it (if it is active).
    #[default]
    Restart,
    /// Ask it to reload where it can; restart when its own unit file changed, which no reload can apply.
    Reload,
    /// Leave it running with the old input.
    Nothing,
}

/// One unit whose state is managed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// At boot; `None`: not our business (static and generated units).
    pub enabled: Option<Enablement>,
    /// Now: `Some(true)` active, `Some(false)` stopped, `None`: not our business, but restarted on change when it happens to run.
    pub active: Option<bool>,
    /// A unit that runs to its end (`Type=oneshot` without `RemainAfterExit=`): it is started when its inputs change, and being inactive is no drift.
    pub oneshot: bool,
    /// What to do when an input changes.
    pub on_change: OnChange,
    /// Its own definition: unit file, drop-ins, Quadlet file. A change here cannot be applied by a reload.
    pub definition: BTreeSet<HostPath>,
    /// Other managed files that it reads: `EnvironmentFile=`, `Volume=`, `ExecStart=`, …, worked out from the definition.
    pub uses: BTreeSet<HostPath>,
    /// Units whose restart carries this one along (a container's network or pod): also worked out.
    pub after: BTreeSet<UnitName>,
    /// The unit is made by Quadlet's generator: it cannot be enabled or disabled, its file can only be removed.
    pub generated: bool,
    /// The image that its Quadlet file names. It says nothing that the definition does not say, and is no part of
    /// [`Desired::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What is done about drift of it.
    #[serde(default, skip_serializing_if = "DriftPolicy::is_default")]
    pub drift: DriftPolicy,
    /// Where it comes from.
    pub origin: Origin,
}

impl Desired {
    /// The entries whose bytes are fetched, with what they must be.
    pub fn artifacts(&self) -> impl Iterator<Item = (&HostPath, &Entry, &Artifact, Digest, u64)> {
        self.entries.iter().filter_map(|(path, entry)| match (&entry.state.node, &entry.artifact) {
            (Node::File { digest, size }, Some(artifact)) => Some((path, entry, artifact, *digest, *size)),
            _ => None,
        })
    }

    /// The digest that names this rendering: the same for the same input, on any machine.
    pub fn digest(&self) -> Digest {
        let of =
            |state: &Self| Digest::of(&serde_json::to_vec(state).expect("because plain data with string keys always serialises"));
        if self.units.values().all(|unit| unit.image.is_none()) {
            return of(self);
        }
        // An older trimtab did not write it down, and what it put in force or denied must be known again.
        let mut older = self.clone();
        older.units.values_mut().for_each(|unit| unit.image = None);
        of(&older)
    }

    /// A digest of what this state means for the host, and of nothing else: a comment that moves a line in the repository changes an
    /// [`Origin`] and nothing on the host. What was denied is known again by it.
    pub fn effect(&self) -> Digest {
        let mut bare = self.clone();
        let origins = bare.entries.values_mut().map(|entry| &mut entry.origin);
        let origins = origins.chain(bare.units.values_mut().map(|unit| &mut unit.origin)).chain(bare.images.values_mut());
        let origins = origins.chain(bare.health.iter_mut().map(|check| &mut check.origin));
        let origins = origins.chain(bare.exclusive.values_mut().map(|exclusive| &mut exclusive.origin));
        for origin in origins.chain(bare.hooks.iter_mut().map(|hook| &mut hook.origin)) {
            (origin.file, origin.line) = (String::new(), 0);
        }
        // The same bytes from elsewhere are the same file.
        bare.entries.values_mut().for_each(|entry| entry.artifact = None);
        bare.digest()
    }

    /// The image that a unit's container runs, as its Quadlet file names it.
    pub fn image_of(&self, unit: &UnitName) -> Option<&str> {
        let unit = self.units.get(unit)?;
        // A state that an older trimtab put in force does not say it; there it is the image that came with the unit's own file.
        let same = |origin: &Origin| (&origin.component, &origin.file) == (&unit.origin.component, &unit.origin.file);
        let came = || self.images.iter().find(|(_, origin)| unit.generated && same(origin)).map(|(image, _)| image.as_str());
        unit.image.as_deref().or_else(came)
    }

    /// Everything whose change means that `unit` runs with old input, as one digest; recorded when the unit is (re)started.
    pub fn inputs(&self, unit: &Unit) -> Digest {
        self.inputs_of(unit, |path| self.entries.get(path).map(|entry| &entry.state))
    }

    /// As [`Desired::inputs`], where what stands at some paths is known to be something else than what is wanted.
    pub fn inputs_of<'a>(&'a self, unit: &Unit, state: impl Fn(&HostPath) -> Option<&'a FileState>) -> Digest {
        let mut text = String::new();
        for path in unit.definition.iter().chain(&unit.uses) {
            let line = serde_json::to_string(&state(path)).expect("because plain data with string keys always serialises");
            text.push_str(path.as_str());
            text.push(' ');
            text.push_str(&line);
            text.push('\n');
        }
        Digest::of(text.as_bytes())
    }
}
