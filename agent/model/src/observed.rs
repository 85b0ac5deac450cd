//! What was found on the host: only of the paths and units that the plan asks about.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::names::{HostPath, UnitName};
use crate::xattr::Xattrs;

/// The host as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// What stands at each path that was asked about.
    pub entries: BTreeMap<HostPath, Found>,
    /// The state of each unit that was asked about; empty when there is no systemd.
    pub units: BTreeMap<UnitName, UnitFound>,
    /// Which of the wanted images are in local storage.
    pub images: BTreeSet<String>,
    /// The images that were there: those of the state in force, where that was once whole and healthy.
    pub had: BTreeSet<String>,
    /// Of what image the container of a running unit is, where the unit names one that is in local storage.
    pub containers: BTreeMap<UnitName, Running>,
    /// Which of the wanted artifacts' contents are in the store.
    pub contents: BTreeSet<Digest>,
    /// Accounts by name, for the owners that are wanted; `None`: there is no such account (yet).
    pub users: BTreeMap<String, Option<u32>>,
    /// Groups by name.
    pub groups: BTreeMap<String, Option<u32>>,
    /// How contents that are not the wanted ones compare but for the keys in them that belong to others; only where there are such keys.
    pub alike: BTreeMap<HostPath, Alike>,
    /// The extended attributes that count of each file that has some ([`crate::xattr::counts`]).
    pub xattrs: BTreeMap<HostPath, Xattrs>,
    /// Whether units are managed at all (false in a sandbox without systemd).
    pub has_units: bool,
    /// What nobody declared in each directory that is declared `exclusive`.
    pub strays: BTreeMap<HostPath, Strays>,
    /// Whether this plan takes such files away, where the repository wants that.
    pub purge: Purge,
    /// What a person pinned, as [`Change::resource`](crate::plan::Change::resource) writes it: nothing of it is touched.
    pub pinned: BTreeSet<String>,
}

/// Of what image a container is, and of what image it would be if it were started now; by Podman's ids of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The image that it was made from.
    pub runs: String,
    /// The image that the declared name means in local storage.
    pub means: String,
}

/// Whether a plan takes away what nobody declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purge {
    /// Not this one, which tries something new: what is purged cannot be brought back with the rest. The plan after it does.
    #[default]
    Later,
    /// It does.
    Now,
    /// It is too much at once (`guard.max-removals`) until somebody allows it: it is told.
    Guarded,
}

/// What was found in an exclusive directory that nobody declared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strays {
    /// By path, at most [`MAX_STRAYS`](crate::drift::MAX_STRAYS).
    pub found: BTreeMap<HostPath, Stray>,
    /// How many more there are, those among them whose names are no text.
    pub more: usize,
    /// Why it could not be looked into; empty when it could.
    pub trouble: String,
}

/// One thing that nobody declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// What it is.
    pub kind: StrayKind,
    /// Which state of which inode.
    pub identity: Identity,
}

/// What stands in an exclusive directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrayKind {
    /// A regular file of so many bytes.
    File(u64),
    /// A regular file that not everybody may read: no copy of it is kept.
    Private,
    /// A symlink to this target.
    Symlink(String),
    /// A directory, whatever is in it.
    Directory,
    /// A FIFO, a socket, a device, or something that could not be read.
    Other,
}

/// Whether a content is the same as another but for the keys in it that belong to others ([`crate::keys`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alike {
    /// As the wanted one.
    pub wanted: bool,
    /// As the one that was written.
    pub written: bool,
}

/// What identifies one state of one inode: if it is the same later, nobody has touched it in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Time of the last inode change, nanoseconds since 1970.
    pub ctime: i128,
}

/// What stands at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing; its parent may be missing too.
    Missing,
    /// A regular file.
    File {
        /// Digest of its content.
        digest: Digest,
        /// Its length.
        size: u64,
        /// Mode, owner and identity.
        meta: Meta,
    },
    /// A symbolic link.
    Symlink {
        /// Its target.
        target: String,
        /// Owner and identity.
        meta: Meta,
    },
    /// A directory.
    Directory {
        /// Mode, owner and identity.
        meta: Meta,
        /// Whether a file system is mounted on it.
        mount: bool,
    },
    /// Something that trimtab neither replaces nor removes: a FIFO, a socket, a device, a mounted-over file, a path whose parent is no
    /// directory, or something that could not be read. The text says which.
    Unfit(String),
}

/// Mode, owner and identity of a found inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Which state of which inode this was.
    pub identity: Identity,
}

/// The state of one unit as systemd's D-Bus interface words it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFound {
    /// `loaded`, `not-found`, `masked`, `bad-setting`, `error`.
    pub load: String,
    /// `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`.
    pub active: String,
    /// E.g. `running`, `exited`, `dead`, `auto-restart`.
    pub sub: String,
    /// `enabled`, `disabled`, `static`, `masked`, `generated`, `indirect`, … or empty when there is no unit file.
    pub file_state: String,
    /// Whether the manager says that the unit's file changed since it was loaded.
    pub needs_reload: bool,
    /// Whether the unit accepts a reload.
    pub can_reload: bool,
    /// Which start of it this is (systemd's `InvocationID`); empty before the first.
    pub invocation: String,
}

impl Found {
    /// A file that not everybody may read: neither its content nor a digest of that (which can be guessed at) may be shown.
    pub fn is_private(&self) -> bool {
        matches!(self, Found::File { meta, .. } if meta.mode & 0o004 == 0)
    }

    /// Mode, owner and identity, where there is an inode.
    pub fn meta(&self) -> Option<&Meta> {
        match self {
            Found::File { meta, .. } | Found::Symlink { meta, .. } | Found::Directory { meta, .. } => Some(meta),
            Found::Missing | Found::Unfit(_) => None,
        }
    }

    /// What must still be true when the step is carried out.
    pub fn expectation(&self) -> Expected {
        match self.meta() {
            Some(meta) => Expected::Same(meta.identity),
            None => Expected::Absent,
        }
    }

    /// A word for it in messages.
    pub fn kind(&self) -> &str {
        match self {
            Found::Missing => "nothing",
            Found::File { .. } => "a file",
            Found::Symlink { .. } => "a symlink",
            Found::Directory { mount: true, .. } => "a mount point",
            Found::Directory { .. } => "a directory",
            Found::Unfit(_) => "something else",
        }
    }
}

/// The precondition of a step on a path: what the plan was made from. Anything else is a race, reported and left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// Nothing stands there.
    Absent,
    /// Exactly this state of this inode stands there.
    Same(Identity),
}
