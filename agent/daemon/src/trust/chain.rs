//! From the root that this host has to the newest one: each next version is signed by the threshold of the one before and by its own.
//!
//! The files lie in a tree that nobody has vouched for yet; they prove themselves. All that lead on from here are asked for at once, so that a host
//! that slept for years catches up in one poll.
//!
//! Guarantees: versions follow each other without a gap; the repository stays the same and the epoch never goes back; a text is parsed only after the
//! keys of the root before it (or a pinned digest) vouched for its bytes; at most [`MAX_STEPS`] steps a poll, and [`MAX_ROOT`] bytes a file. Never back:
//! a tree without the root that this host has is judged under that root all the same.
//! Limits: what lies behind a step that is refused is not looked at.

use std::collections::BTreeMap;

use gix_hash::ObjectId;
use trimtab_model::digest::Digest;

use super::blocks::{self, BlockError};
use super::hash::{FetchError, Verified};
use super::policy::RootFile;
use super::root::{FOLDER, MAX_ROOT, Root, pin_of};
use super::statement::RepoId;
use super::threshold::{Over, QuorumFault, ROOT_NAMESPACE};
use super::tree::{self, TreeError};
use crate::wire::{ObjectKind, ObjectSource};

/// The most versions that are followed in one poll.
pub const MAX_STEPS: usize = 64;
/// The most bytes of all root files and trees of one poll.
const BUDGET: u64 = (2 * MAX_STEPS as u64) * MAX_ROOT + (4 << 20);

/// Why the next root is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootFault {
    /// A version is missing between ours and one that is there.
    #[error("the tree has root {there} and not root {missing}; keep every root file in the tree")]
    Gap {
        /// The one that is not there.
        missing: u64,
        /// One that is.
        there: u64,
    },
    /// It has no file of signatures.
    #[error("root {version} has no signatures: {version}.sig is missing")]
    NoSignatures {
        /// Which.
        version: u64,
    },
    /// Its signatures cannot be read.
    #[error("the signatures of root {version} cannot be read: {why}")]
    Blocks {
        /// Which.
        version: u64,
        /// What is wrong.
        why: BlockError,
    },
    /// Too few of those who must have signed it.
    #[error("root {version} does not count for the keys of root {by}: {why}")]
    Quorum {
        /// Which.
        version: u64,
        /// Whose keys are asked for: the one before it, or its own.
        by: u64,
        /// What is missing.
        why: QuorumFault,
    },
    /// Signed, and not understood.
    #[error("root {version} cannot be used: {why}")]
    Malformed {
        /// Which.
        version: u64,
        /// Everything that is wrong with it.
        why: String,
    },
    /// It says that it is another version.
    #[error("the file of root {want} says that it is version {found}")]
    Version {
        /// What its name says.
        want: u64,
        /// What it says.
        found: u64,
    },
    /// It is of another repository.
    #[error("root {version} is of the repository {found}, and this host follows {want}")]
    Repo {
        /// Which.
        version: u64,
        /// What this host follows.
        want: RepoId,
        /// What it says.
        found: RepoId,
    },
    /// It goes back to an earlier epoch.
    #[error("root {version} goes back to epoch {found} from {was}")]
    Epoch {
        /// Which.
        version: u64,
        /// The epoch before.
        was: u64,
        /// What it says.
        found: u64,
    },
    /// A file is larger than a root may be.
    #[error("a file of root {version} is larger than 64 KiB")]
    TooLarge {
        /// Which.
        version: u64,
    },
    /// The pinned root is not in the tree.
    #[error("no root file in the tree has the pinned digest {0}; it must stay there, or be pinned as a file")]
    Unpinned(Digest),
    /// The pinned root is of another repository.
    #[error("the pinned root is of the repository {found}, and trust.toml names {want}")]
    PinnedRepo {
        /// What trust.toml names.
        want: RepoId,
        /// What the root says.
        found: RepoId,
    },
    /// None of the roots in the tree is one of this host's repository.
    #[error(
        "the commit's tree holds no root file of the repository {want}: it is of another repository, or `.trimtab/root` was removed"
    )]
    Elsewhere {
        /// What this host follows.
        want: RepoId,
    },
    /// The tree cannot be read.
    #[error("the folder of the roots cannot be read: {0}")]
    Tree(String),
}

impl RootFault {
    /// The stable name, for journal and status.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gap { .. } | Self::Version { .. } => "root-version",
            Self::NoSignatures { .. } => "root-unsigned",
            Self::Blocks { .. } | Self::Malformed { .. } | Self::TooLarge { .. } | Self::Tree(_) => "root-malformed",
            Self::Quorum { why, .. } => match why {
                QuorumFault::Unsigned { .. } => "root-unsigned",
                QuorumFault::Strangers { .. } => "root-unknown-signer",
                QuorumFault::TooFew { .. } => "root-below-threshold",
                QuorumFault::Bad(_) => "root-forged",
            },
            Self::Repo { .. } | Self::PinnedRepo { .. } | Self::Elsewhere { .. } => "root-wrong-repository",
            Self::Epoch { .. } => "root-epoch",
            Self::Unpinned(_) => "root-not-found",
        }
    }
}

/// How far the chain led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The newest root that is believed: the one before, or a later one.
    pub newest: RootFile,
    /// How many steps were taken.
    pub steps: usize,
    /// Why the next one was not.
    pub fault: Option<RootFault>,
}

/// Why the roots of a tree could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// An object could not be had, or not be believed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What was had is not to be believed.
    #[error(transparent)]
    Root(#[from] RootFault),
}

/// Follows the roots in the tree onwards from `current`.
pub fn follow(current: RootFile, tree: ObjectId, source: &mut impl ObjectSource) -> Result<Followed, ChainError> {
    let mut checked = Verified::new(source, BUDGET);
    let names = names(&mut checked, tree)?;
    let have = current.root.version;
    let versions: Vec<u64> =
        (have + 1..).take(MAX_STEPS).take_while(|version| names.contains_key(&format!("{version}.toml"))).collect();
    let texts = contents(&mut checked, &names, &versions, "toml")?;
    let signatures = contents(&mut checked, &names, &versions, "sig")?;
    let mut followed = Followed { newest: current, steps: 0, fault: None };
    for version in versions {
        let text = texts.get(&version).map(Vec::as_slice).unwrap_or_default();
        match step(&followed.newest.root, version, text, signatures.get(&version).map(Vec::as_slice)) {
            Ok(next) => (followed.newest, followed.steps) = (next, followed.steps + 1),
            Err(fault) => {
                followed.fault = Some(fault);
                return Ok(followed);
            }
        }
    }
    let missing = followed.newest.root.version + 1;
    let later =
        names.keys().filter_map(|name| name.strip_suffix(".toml")?.parse::<u64>().ok()).filter(|there| *there > missing).min();
    if let (Some(there), true) = (later, followed.steps < MAX_STEPS) {
        followed.fault = Some(RootFault::Gap { missing, there });
    }
    Ok(followed)
}

/// The root file of the tree whose bytes have this digest.
pub fn pinned(digest: Digest, repo: &RepoId, tree: ObjectId, source: &mut impl ObjectSource) -> Result<RootFile, ChainError> {
    let found = texts(tree, source)?.into_iter().find(|(_, text)| Digest::of(text) == digest);
    let Some((version, text)) = found else { return Err(RootFault::Unpinned(digest).into()) };
    let file = read(version, &text)?;
    debug_assert_eq!(pin_of(&file.text), digest);
    if file.root.repo != *repo {
        return Err(RootFault::PinnedRepo { want: repo.clone(), found: file.root.repo }.into());
    }
    Ok(file)
}

/// The digests of the root files of a tree, by version. Nobody has vouched for them but whoever did for the tree.
pub fn digests(tree: ObjectId, source: &mut impl ObjectSource) -> Result<BTreeMap<u64, Digest>, ChainError> {
    Ok(texts(tree, source)?.into_iter().map(|(version, text)| (version, Digest::of(&text))).collect())
}

/// The root files of a tree, by version, from the first on.
fn texts(tree: ObjectId, source: &mut impl ObjectSource) -> Result<BTreeMap<u64, Vec<u8>>, ChainError> {
    let mut checked = Verified::new(source, BUDGET);
    let names = names(&mut checked, tree)?;
    let mut versions: Vec<u64> = names.keys().filter_map(|name| name.strip_suffix(".toml")?.parse().ok()).collect();
    versions.sort_unstable();
    versions.truncate(2 * MAX_STEPS);
    contents(&mut checked, &names, &versions, "toml")
}

/// Whether a tree is of the repository of this root: it holds that very file, or root 1 of the same repository.
pub fn is_of(file: &RootFile, tree: ObjectId, source: &mut impl ObjectSource) -> Result<bool, ChainError> {
    let mut checked = Verified::new(source, BUDGET);
    let names = names(&mut checked, tree)?;
    let texts = contents(&mut checked, &names, &[1, file.root.version], "toml")?;
    let same = |text: &Vec<u8>| *text == file.text.as_bytes() || read(1, text).is_ok_and(|one| one.root.repo == file.root.repo);
    Ok(texts.values().any(same))
}

/// One step: whether `text` is the root that follows `current`, as version `version`.
pub fn step(current: &Root, version: u64, text: &[u8], signatures: Option<&[u8]>) -> Result<RootFile, RootFault> {
    if text.len() as u64 > MAX_ROOT || signatures.is_some_and(|bytes| bytes.len() as u64 > MAX_ROOT) {
        return Err(RootFault::TooLarge { version });
    }
    let signatures = signatures.ok_or(RootFault::NoSignatures { version })?;
    let blocks = blocks::only(signatures).map_err(|why| RootFault::Blocks { version, why })?;
    // Those who may replace it first: not a word of it is parsed before they vouched for its bytes.
    let over = Over::All(text);
    let quorum = |by: &Root| by.quorum(&by.root).count(&blocks, over, ROOT_NAMESPACE).map(drop);
    quorum(current).map_err(|why| RootFault::Quorum { version, by: current.version, why })?;
    let next = read(version, text)?;
    if next.root.version != version || version != current.version + 1 {
        return Err(RootFault::Version { want: version, found: next.root.version });
    }
    if next.root.repo != current.repo {
        return Err(RootFault::Repo { version, want: current.repo.clone(), found: next.root.repo });
    }
    if next.root.epoch < current.epoch {
        return Err(RootFault::Epoch { version, was: current.epoch, found: next.root.epoch });
    }
    quorum(&next.root).map_err(|why| RootFault::Quorum { version, by: version, why })?;
    Ok(next)
}

fn read(version: u64, text: &[u8]) -> Result<RootFile, RootFault> {
    let malformed = |why: String| RootFault::Malformed { version, why };
    let text = std::str::from_utf8(text).map_err(|_| malformed("it is not UTF-8".to_owned()))?;
    RootFile::parse(&Root::path(version), text).map_err(|findings| malformed(findings.to_string()))
}

/// The files of the folder of the roots, by name.
fn names<S: ObjectSource>(checked: &mut Verified<'_, S>, tree: ObjectId) -> Result<BTreeMap<String, ObjectId>, ChainError> {
    tree::files_in(checked, tree, FOLDER).map_err(|error| match error {
        TreeError::Fetch { source, .. } => ChainError::Fetch(source),
        other => ChainError::Root(RootFault::Tree(other.to_string())),
    })
}

/// What those files of these versions hold that are there.
fn contents<S: ObjectSource>(
    checked: &mut Verified<'_, S>,
    names: &BTreeMap<String, ObjectId>,
    versions: &[u64],
    ending: &str,
) -> Result<BTreeMap<u64, Vec<u8>>, ChainError> {
    let found: Vec<(u64, ObjectId)> =
        versions.iter().filter_map(|version| Some((*version, *names.get(&format!("{version}.{ending}"))?))).collect();
    let ids: Vec<ObjectId> = found.iter().map(|(_, id)| *id).collect();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let objects = checked.many(ObjectKind::Blob, &ids, MAX_ROOT).map_err(|error| match error {
        FetchError::Oversize { id, .. } | FetchError::Source(crate::wire::ObjectError::TooLarge { id, .. }) => {
            let version = found.iter().find(|(_, other)| *other == id).map_or(0, |(version, _)| *version);
            ChainError::Root(RootFault::TooLarge { version })
        }
        other => ChainError::Fetch(other),
    })?;
    Ok(found.iter().map(|(version, _)| *version).zip(objects.into_iter().map(super::hash::Proved::into_bytes)).collect())
}
