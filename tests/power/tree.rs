//! What stands on a disk, path by path, and whether it may stand there after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use trimtab_model::digest::Digest;

/// What is trimtab's own or nobody's: not compared with what stood there before.
const APART: [&str; 6] = ["/var/lib/trimtab", "/etc/trimtab/state", "/var/cache", "/run", "/noise", "/lost+found"];

/// One thing at a path, with everything about it that must survive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Thing {
    /// A file: its content, its mode and its owner.
    File(Vec<u8>, u32, u32),
    /// A symlink and its target.
    Link(String),
    /// A directory with this mode and owner.
    Folder(u32, u32),
}

/// Everything beneath a folder, by its path from there.
pub(crate) type Tree = BTreeMap<String, Thing>;

/// Reads all there is, trimtab's own things too. An error is what a reader would meet.
pub(crate) fn read(root: &Path) -> Result<Tree, String> {
    let mut tree = Tree::new();
    read_into(root, "", &mut tree)?;
    Ok(tree)
}

fn read_into(root: &Path, folder: &str, tree: &mut Tree) -> Result<(), String> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let failed = |path: &str| {
        let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
        move |error: std::io::Error| format!("{path} cannot be read: {error}")
    };
    for entry in fs::read_dir(at(folder)).map_err(failed(folder))? {
        let name =
            entry.map_err(failed(folder))?.file_name().into_string().map_err(|name| format!("{} is no text", name.display()))?;
        let path = format!("{folder}/{name}");
        let about = at(&path).symlink_metadata().map_err(failed(&path))?;
        let mode = about.permissions().mode() & 0o7777;
        let thing = if about.is_symlink() {
            Thing::Link(fs::read_link(at(&path)).map_err(failed(&path))?.display().to_string())
        } else if about.is_dir() {
            read_into(root, &path, tree)?;
            Thing::Folder(mode, about.uid())
        } else {
            Thing::File(fs::read(at(&path)).map_err(failed(&path))?, mode, about.uid())
        };
        tree.insert(path, thing);
    }
    Ok(())
}

/// Without what is trimtab's own: what the machine and its operator see.
pub(crate) fn visible(tree: &Tree) -> Tree {
    let is_apart = |path: &str| {
        APART.iter().any(|apart| path.strip_prefix(apart).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    tree.iter().filter(|(path, _)| !is_apart(path)).map(|(path, thing)| (path.clone(), thing.clone())).collect()
}

/// Each path must be as it was or as it shall be: whole, with its mode and owner.
pub(crate) fn is_old_or_new(seen: &Tree, old: &Tree, new: &Tree) -> Result<(), String> {
    let paths: BTreeSet<&String> = seen.keys().chain(old.keys()).chain(new.keys()).collect();
    for path in paths {
        let (seen, old, new) = (seen.get(path), old.get(path), new.get(path));
        // A staged copy, of which a cut may leave anything; and a directory of the component's, which the next pass knows of, between being
        // made and getting its mode.
        let staged = path.rsplit('/').next().is_some_and(|name| name.starts_with(".trimtab-"));
        let young =
            path.starts_with("/srv/") && matches!((seen, old, new), (Some(Thing::Folder(0o700, 0)), None, Some(Thing::Folder(..))));
        if seen != old && seen != new && !staged && !young {
            return Err(format!("{path} is neither old nor new: {}, was {}, shall be {}", tell(seen), tell(old), tell(new)));
        }
    }
    Ok(())
}

/// The first difference between what is there and what should be.
pub(crate) fn is_same(seen: &Tree, wanted: &Tree) -> Result<(), String> {
    let paths: BTreeSet<&String> = seen.keys().chain(wanted.keys()).collect();
    match paths.into_iter().find(|path| seen.get(*path) != wanted.get(*path)) {
        Some(path) => Err(format!("{path} is {}, and should be {}", tell(seen.get(path)), tell(wanted.get(path)))),
        None => Ok(()),
    }
}

fn tell(thing: Option<&Thing>) -> String {
    match thing {
        None => "nothing".to_owned(),
        Some(Thing::File(content, mode, uid)) => {
            let zeros = if content.iter().all(|byte| *byte == 0) { " (all zeros)" } else { "" };
            format!("a file of {} bytes{zeros}, mode {mode:04o}, user {uid}, {}", content.len(), Digest::of(content))
        }
        Some(other) => format!("{other:?}"),
    }
}
