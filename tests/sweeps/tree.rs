//! What stands beneath a sandbox's root, and how it may differ while a pass is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// trimtab's own: not compared, only looked through for leftovers.
const OWN: [&str; 4] = ["etc/trimtab/state", "run/trimtab", "var/cache/trimtab", "var/lib/trimtab"];

/// Everything beneath a root but what is trimtab's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree(pub(crate) BTreeMap<String, Thing>);

/// One of them, with all that must not be half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Thing {
    File { content: String, mode: u32, owner: (u32, u32) },
    Link { target: String, owner: (u32, u32) },
    Directory { mode: u32, owner: (u32, u32) },
}

impl Tree {
    pub(crate) fn of(root: &Path) -> Self {
        let mut tree = BTreeMap::new();
        walk(root, root, &mut tree);
        Self(tree)
    }

    /// What is neither as in `old` nor as in `new`. With `under_way` a pass was cut off: what it staged beside its targets is there, and a
    /// directory that it makes may not have its mode yet.
    pub(crate) fn strangers(&self, old: &Self, new: &Self, under_way: bool) -> Vec<String> {
        let paths: BTreeSet<&String> = self.0.keys().chain(old.0.keys()).chain(new.0.keys()).collect();
        let mut wrong = Vec::new();
        for path in paths {
            let (now, was, will) = (self.0.get(path), old.0.get(path), new.0.get(path));
            let half_made = matches!(
                (now, will),
                (Some(Thing::Directory { mode, .. }), Some(Thing::Directory { mode: final_mode, .. })) if mode & !final_mode == 0
            );
            if now == was || now == will || (under_way && (is_temp(path) || half_made)) {
                continue;
            }
            wrong.push(format!("/{path} is {now:?}, it was {was:?} and shall be {will:?}"));
        }
        wrong
    }
}

fn walk(root: &Path, folder: &Path, tree: &mut BTreeMap<String, Thing>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if OWN.contains(&name.as_str()) {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        let (mode, owner) = (meta.mode() & 0o7777, (meta.uid(), meta.gid()));
        let thing = if meta.is_dir() {
            walk(root, &path, tree);
            Thing::Directory { mode, owner }
        } else if meta.is_symlink() {
            Thing::Link { target: fs::read_link(&path).unwrap().display().to_string(), owner }
        } else {
            Thing::File { content: digest(&fs::read(&path).unwrap()), mode, owner }
        };
        tree.insert(name, thing);
    }
}

/// A content by its digest, in hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    trimtab_model::digest::Digest::of(bytes).hex()
}

fn is_temp(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.starts_with(".trimtab-") || (name.starts_with('.') && name.ends_with(".new"))
}

/// Temporary files anywhere, in trimtab's own folders too (the courier's cache is another process's).
pub(crate) fn leftovers(root: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            // Of an artifact that is in its place nothing is on its way any more.
            if is_temp(&path.display().to_string()) || path.parent().is_some_and(|above| above.ends_with("var/lib/trimtab/parts")) {
                left.push(path.strip_prefix(root).unwrap().display().to_string());
            }
            if entry.file_type().unwrap().is_dir() && !path.ends_with("var/cache/trimtab") {
                folders.push(path);
            }
        }
    }
    left
}
