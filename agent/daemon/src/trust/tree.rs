//! From a proven commit to the files that this host needs, as a [`Bundle`].
//!
//! Only the folders on the way to what is asked for are opened, all of one level in one call, and all blobs in one call: on a
//! cellular link round trips are what costs.
//!
//! Guarantees: every tree and blob is hashed; every entry of every opened tree is checked, also those that nobody asked for; entries are
//! files, executables, symlinks and folders with plain names, in git's order, each name once; at most [`MAX_ENTRIES`] entries,
//! [`MAX_DEPTH`] levels, [`MAX_BLOB`] bytes a file and [`MAX_TOTAL`] bytes in all. Nothing is parsed beyond that.
//! Limits: a symlink's target is data here; whether it may lie on the host is for those who write it.

use std::collections::{BTreeMap, BTreeSet};

use gix_hash::ObjectId;
use trimtab_model::bundle::{Blob, BlobKind, Bundle};
use trimtab_model::names::{ComponentName, RepoPath};

use super::Class;
use super::hash::{FetchError, Verified};
use super::prove::Proven;
use crate::wire::{ObjectError, ObjectKind, ObjectSource};

/// The largest file, in bytes.
pub const MAX_BLOB: u64 = 16 << 20;
/// The most bytes that one host's slice may have, its trees included.
pub const MAX_TOTAL: u64 = 64 << 20;
/// The most entries of all opened trees together.
pub const MAX_ENTRIES: usize = 20_000;
/// The most folders inside each other, the file included.
pub const MAX_DEPTH: usize = 32;
/// The largest tree object: [`MAX_ENTRIES`] entries with names of a usual length.
const MAX_TREE: u64 = 4 << 20;
/// The longest target of a symlink that Linux takes.
const MAX_TARGET: usize = 4095;
/// How much larger a whole repository may be than the slice of one host.
const DESK: usize = 4;
/// The folder whose folders are components.
const COMPONENTS: &str = "components";

/// Why a tree cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// An object could not be had or not be believed.
    #[error("cannot read `{path}` of the commit")]
    Fetch {
        /// The path of the object, or of the first of the call; `/` is the root.
        path: String,
        /// What went wrong.
        source: FetchError,
    },
    /// An entry that has no place in a fleet repository.
    #[error("`{path}` in the commit: {why}")]
    Entry {
        /// The entry, or the folder whose end is missing; what cannot be printed is escaped.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file or folder over its bound.
    #[error("`{path}` in the commit is larger than {limit} bytes")]
    TooLarge {
        /// The file or folder.
        path: String,
        /// The bound.
        limit: u64,
    },
    /// Too many entries.
    #[error("the folders that this host needs have more than {limit} entries, counted up to `{path}`")]
    TooMany {
        /// Where the bound was reached.
        path: String,
        /// The bound.
        limit: usize,
    },
    /// Too many bytes.
    #[error("the files that this host needs have more than {limit} bytes together, counted up to `{path}`")]
    Total {
        /// Where the bound was reached.
        path: String,
        /// The bound.
        limit: u64,
    },
}

impl TreeError {
    /// Whether another try may help, or only another commit.
    pub fn class(&self) -> Class {
        match self {
            Self::Fetch { source, .. } => source.class(),
            _ => Class::Hold,
        }
    }

    /// The path at which the commit itself is wrong: it is so each time it is read, so it must not be fetched again and again.
    pub fn wrong_at(&self) -> Option<&str> {
        match self {
            Self::Fetch { .. } => None,
            Self::Entry { path, .. } | Self::TooLarge { path, .. } | Self::TooMany { path, .. } | Self::Total { path, .. } => {
                Some(path)
            }
        }
    }
}

/// Reads files and whole folders of a proven commit: first those in `first`, then, again and again, those that `more` names after seeing
/// what has been read, until it names nothing new. What does not exist is simply absent. The names under `components/` are always read.
pub fn read(
    proven: &Proven,
    source: &mut impl ObjectSource,
    first: &[RepoPath],
    more: impl FnMut(&Bundle) -> Vec<RepoPath>,
) -> Result<Bundle, TreeError> {
    walk(proven.tree(), source, (MAX_ENTRIES, MAX_TOTAL), first, more)
}

/// As [`read`] of all these folders, for somebody at a desk who is about to vouch for a tree: nothing of it is proven, and no device calls this.
/// A whole repository may be larger than one host's slice.
pub fn read_unproven(tree: ObjectId, source: &mut impl ObjectSource, all: &[RepoPath]) -> Result<Bundle, TreeError> {
    walk(tree, source, (DESK * MAX_ENTRIES, DESK as u64 * MAX_TOTAL), all, |_| Vec::new())
}

fn walk(
    root: ObjectId,
    source: &mut impl ObjectSource,
    (most_entries, most_bytes): (usize, u64),
    first: &[RepoPath],
    mut more: impl FnMut(&Bundle) -> Vec<RepoPath>,
) -> Result<Bundle, TreeError> {
    let mut tree = Reader {
        checked: Verified::new(source, most_bytes),
        root,
        most: (most_entries, most_bytes),
        trees: BTreeMap::new(),
        entries: 0,
        placed: 0,
        bundle: Bundle::default(),
    };
    let mut asked = BTreeSet::new();
    let mut goals = vec![Goal::Names(COMPONENTS.to_owned())];
    let mut wanted = first.to_vec();
    loop {
        goals.extend(wanted.into_iter().filter(|path| asked.insert(path.clone())).map(|path| Goal::All(path.into())));
        if goals.is_empty() {
            return Ok(tree.bundle);
        }
        tree.fill(goals)?;
        tree.components()?;
        wanted = more(&tree.bundle);
        goals = Vec::new();
    }
}

/// The plain files of one folder of a tree, by name; nothing when there is no such folder. For a tree that nobody has vouched for yet: what is
/// found proves nothing, and only the folders on the way are opened.
pub(super) fn files_in<S: ObjectSource>(
    checked: &mut Verified<'_, S>,
    root: ObjectId,
    folder: &str,
) -> Result<BTreeMap<String, ObjectId>, TreeError> {
    let (mut at, mut path) = (root, String::new());
    let mut names = folder.split('/');
    loop {
        let fetched = checked.one(ObjectKind::Tree, at, MAX_TREE).map_err(|error| of_fetch(error, &[at], |_| path.clone()))?;
        let entries = parse(&path, at.kind(), fetched.bytes(), (MAX_ENTRIES, MAX_ENTRIES))?;
        let Some(name) = names.next() else {
            let files = entries.into_iter().filter(|(_, entry)| entry.kind == EntryKind::File(BlobKind::Regular));
            return Ok(files.map(|(name, entry)| (name, entry.id)).collect());
        };
        match entries.get(name) {
            Some(entry) if entry.kind == EntryKind::Folder => (at, path) = (entry.id, join(&path, name)),
            _ => return Ok(BTreeMap::new()),
        }
    }
}

/// What is looked for at a path.
enum Goal {
    /// The file, or everything in the folder.
    All(String),
    /// The names in the folder only.
    Names(String),
}

impl Goal {
    fn path(&self) -> &str {
        match self {
            Self::All(path) | Self::Names(path) => path,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryKind {
    Folder,
    File(BlobKind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    id: ObjectId,
    kind: EntryKind,
}

/// How far the opened trees lead towards a path.
enum Found {
    Nothing,
    Closed(String, ObjectId),
    Open,
    File(ObjectId, BlobKind),
}

struct Reader<'s, S> {
    checked: Verified<'s, S>,
    root: ObjectId,
    /// How many entries and bytes there may be.
    most: (usize, u64),
    /// The opened trees by path; the root's is empty.
    trees: BTreeMap<String, BTreeMap<String, Entry>>,
    entries: usize,
    placed: u64,
    bundle: Bundle,
}

impl<S: ObjectSource> Reader<'_, S> {
    /// Opens trees level by level until every goal is reached, then fetches all files.
    fn fill(&mut self, mut goals: Vec<Goal>) -> Result<(), TreeError> {
        let mut files = BTreeMap::new();
        loop {
            let mut closed = BTreeMap::new();
            let mut waiting = Vec::new();
            while let Some(goal) = goals.pop() {
                match self.find(goal.path()) {
                    Found::Nothing => {}
                    Found::Closed(path, id) => {
                        closed.insert(path, id);
                        waiting.push(goal);
                    }
                    Found::File(id, kind) => {
                        if let Goal::All(path) = goal {
                            files.insert(path, (id, kind));
                        }
                    }
                    Found::Open => {
                        if let Goal::All(path) = goal {
                            goals.extend(self.trees[&path].keys().map(|name| Goal::All(join(&path, name))));
                        }
                    }
                }
            }
            if closed.is_empty() {
                return self.place(files);
            }
            self.open(&closed)?;
            goals = waiting;
        }
    }

    fn find(&self, path: &str) -> Found {
        let Some(mut tree) = self.trees.get("") else { return Found::Closed(String::new(), self.root) };
        let mut end = 0;
        for name in path.split('/') {
            end += name.len() + usize::from(end > 0);
            let Some(entry) = tree.get(name) else { return Found::Nothing };
            match entry.kind {
                EntryKind::File(kind) if end == path.len() => return Found::File(entry.id, kind),
                EntryKind::File(_) => return Found::Nothing,
                EntryKind::Folder => match self.trees.get(&path[..end]) {
                    Some(below) => tree = below,
                    None => return Found::Closed(path[..end].to_owned(), entry.id),
                },
            }
        }
        Found::Open
    }

    fn open(&mut self, closed: &BTreeMap<String, ObjectId>) -> Result<(), TreeError> {
        let ids: Vec<_> = closed.values().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let place = |id: ObjectId| closed.iter().find(|(_, other)| **other == id).map(|(path, _)| path.clone()).unwrap_or_default();
        let objects = self.checked.many(ObjectKind::Tree, &ids, MAX_TREE).map_err(|error| of_fetch(error, &ids, place))?;
        let objects: BTreeMap<_, _> = objects.into_iter().map(|object| (object.id(), object)).collect();
        for (path, id) in closed {
            // Once per place and not per object: a small tree in many places is many entries.
            let room = self.most.0 - self.entries;
            let entries = parse(path, id.kind(), objects[id].bytes(), (room, self.most.0))?;
            self.entries += entries.len();
            self.trees.insert(path.clone(), entries);
        }
        Ok(())
    }

    fn place(&mut self, files: BTreeMap<String, (ObjectId, BlobKind)>) -> Result<(), TreeError> {
        let mut places: BTreeMap<ObjectId, usize> = BTreeMap::new();
        for (id, _) in files.values() {
            *places.entry(*id).or_default() += 1;
        }
        let ids: Vec<_> = places.keys().copied().collect();
        let place =
            |id: ObjectId| files.iter().find(|(_, (other, _))| *other == id).map(|(path, _)| path.clone()).unwrap_or_default();
        let objects = self.checked.many(ObjectKind::Blob, &ids, MAX_BLOB).map_err(|error| of_fetch(error, &ids, place))?;
        let mut contents: BTreeMap<_, _> = objects.into_iter().map(|object| (object.id(), object.into_bytes())).collect();
        for (path, (id, kind)) in files {
            let left = places.entry(id).or_default();
            *left = left.saturating_sub(1);
            // The last place takes the bytes, the others a copy: a slice of 64 MiB must not need twice that.
            let bytes = if *left == 0 { contents.remove(&id) } else { contents.get(&id).cloned() }.unwrap_or_default();
            self.placed += bytes.len() as u64;
            if self.placed > self.most.1 {
                return Err(TreeError::Total { path, limit: self.most.1 });
            }
            if kind == BlobKind::Symlink && (bytes.is_empty() || bytes.len() > MAX_TARGET || bytes.contains(&0)) {
                return Err(entry(path, "it is a symlink to nowhere: its target is empty, too long, or has a NUL byte in it"));
            }
            let name = path.parse::<RepoPath>().map_err(|error| entry(path, error.why))?;
            self.bundle.files.insert(name, Blob { kind, bytes });
        }
        Ok(())
    }

    fn components(&mut self) -> Result<(), TreeError> {
        if !self.bundle.components.is_empty() {
            return Ok(());
        }
        let folders = self.trees.get(COMPONENTS).into_iter().flatten().filter(|(_, entry)| entry.kind == EntryKind::Folder);
        for (name, _) in folders {
            let name = name.parse::<ComponentName>().map_err(|error| {
                entry(join(COMPONENTS, name), &format!("a folder here is a component, and {}; rename it", error.why))
            })?;
            self.bundle.components.insert(name);
        }
        Ok(())
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The path for people: the root has a name too.
fn named(path: &str) -> String {
    if path.is_empty() { "/".to_owned() } else { path.to_owned() }
}

fn entry(path: String, why: &str) -> TreeError {
    TreeError::Entry { path, why: why.to_owned() }
}

fn of_fetch(error: FetchError, ids: &[ObjectId], place: impl Fn(ObjectId) -> String) -> TreeError {
    let place = |id| named(&place(id));
    match error {
        FetchError::Oversize { id, limit, .. } | FetchError::Source(ObjectError::TooLarge { id, limit, .. }) => {
            TreeError::TooLarge { path: place(id), limit }
        }
        FetchError::Budget { limit } => TreeError::Total { path: ids.last().copied().map(place).unwrap_or_default(), limit },
        source => {
            let id = match &source {
                FetchError::Mismatch { id, .. }
                | FetchError::Collision { id, .. }
                | FetchError::Source(ObjectError::Missing { id, .. }) => Some(*id),
                _ => ids.first().copied(),
            };
            TreeError::Fetch { path: id.map(place).unwrap_or_default(), source }
        }
    }
}

/// Takes a tree object apart: `mode SP name NUL id`, again and again, at most `room` of them (of `most` in all).
fn parse(
    folder: &str,
    kind: gix_hash::Kind,
    mut bytes: &[u8],
    (room, most): (usize, usize),
) -> Result<BTreeMap<String, Entry>, TreeError> {
    let damaged = || entry(named(folder), "the folder is damaged: it ends within an entry");
    let mut entries = BTreeMap::new();
    let mut last: Vec<u8> = Vec::new();
    while !bytes.is_empty() {
        if entries.len() == room {
            return Err(TreeError::TooMany { path: named(folder), limit: most });
        }
        let nul = bytes.iter().position(|byte| *byte == 0).ok_or_else(damaged)?;
        let (head, rest) = (&bytes[..nul], &bytes[nul + 1..]);
        let (id, rest) = rest.split_at_checked(kind.len_in_bytes()).ok_or_else(damaged)?;
        let space = head.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
        let (mode, name) = (&head[..space], &head[space + 1..]);
        let shown = || join(folder, &String::from_utf8_lossy(&name[..name.len().min(300)]).escape_debug().to_string());
        let kind = entry_kind(mode).map_err(|why| entry(shown(), why))?;
        let text = check_name(name, kind).map_err(|why| entry(shown(), &why))?;
        let path = join(folder, text);
        if path.split('/').count() > MAX_DEPTH {
            return Err(entry(shown(), "it lies in more than 32 folders"));
        }
        // Control characters and what is too long; and everything that the model's own rules may add one day.
        path.parse::<RepoPath>().map_err(|error| entry(shown(), error.why))?;
        // git sorts a folder as if its name ended in a slash.
        let key = [name, if kind == EntryKind::Folder { b"/" } else { b"" }].concat();
        if entries.insert(text.to_owned(), Entry { id: ObjectId::from_bytes_or_panic(id), kind }).is_some() {
            return Err(entry(shown(), "the name is there twice"));
        }
        if last >= key {
            return Err(entry(shown(), "the folder is not in git's order here"));
        }
        last = key;
        bytes = rest;
    }
    Ok(entries)
}

fn entry_kind(mode: &[u8]) -> Result<EntryKind, &'static str> {
    match mode {
        b"40000" => Ok(EntryKind::Folder),
        b"100644" => Ok(EntryKind::File(BlobKind::Regular)),
        b"100755" => Ok(EntryKind::File(BlobKind::Executable)),
        b"120000" => Ok(EntryKind::File(BlobKind::Symlink)),
        b"160000" => Err("it is a submodule, and a host never follows one; copy what is needed into the repository"),
        _ => Err("its mode is not one that git writes today (100644, 100755, 120000, 40000)"),
    }
}

fn check_name(name: &[u8], kind: EntryKind) -> Result<&str, String> {
    let mode = (kind == EntryKind::File(BlobKind::Symlink)).then_some(gix_validate::path::component::Mode::Symlink);
    // Not `protect_windows`: backslashes and colons are everyday characters in the names of systemd units.
    let options = gix_validate::path::component::Options { protect_windows: false, protect_hfs: true, protect_ntfs: true };
    gix_validate::path::component(name.into(), mode, options).map_err(|error| format!("this name is not allowed: {error}"))?;
    std::str::from_utf8(name).map_err(|_| "its name is not UTF-8; rename it".to_owned())
}
