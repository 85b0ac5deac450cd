//! The host's own slice of the fleet repository: proven bytes, in memory, not yet parsed.
//!
//! A bundle is built by the agent's tree walk (or from a folder by `trimtab validate`), which has already bounded
//! its size and count and refused the entries that no configuration needs. Nothing here has been parsed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::names::{ComponentName, RepoPath};

/// What Git says a blob is; other entry modes (submodules, 100664) never get this far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlobKind {
    /// Mode 100644.
    Regular,
    /// Mode 100755.
    Executable,
    /// Mode 120000; the bytes are the target.
    Symlink,
}

/// One blob of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Regular, executable or symlink.
    pub kind: BlobKind,
    /// Its content, unparsed.
    pub bytes: Vec<u8>,
}

/// The files of the repository that this host needs (or all of them, for `validate`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Path in the repository to content: `fleet.toml`, `hosts/<this>.toml` and the needed `components/<name>/…`.
    pub files: BTreeMap<RepoPath, Blob>,
    /// The names of *all* folders under `components/`, so that a group naming a missing component is told apart
    /// from one that this host does not need.
    pub components: BTreeSet<ComponentName>,
}

impl Bundle {
    /// The blob at a path.
    pub fn get(&self, path: &str) -> Option<&Blob> {
        self.files.get(path)
    }
}
