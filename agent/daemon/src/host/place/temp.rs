//! The temporary names beside a target, and what to do with those that a crash has left.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use trimtab_model::names::HostPath;

use super::error::{PlaceError, failed};
use crate::host::root::{Root, RootError};

/// What the temporary names begin with; 16 hex digits follow.
const TEMP: &str = ".trimtab-";

/// Removes what a crash left beside the given paths, and beside the directories above them: they too may have been about to be made. Only
/// for the holder of the store's lock: it takes away what another one has just staged. Returns what was removed and what could not be.
pub fn sweep<'p>(root: &Root, paths: impl IntoIterator<Item = &'p HostPath>) -> (Vec<HostPath>, Vec<PlaceError>) {
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for path in paths {
        let mut at = Some(path.clone());
        while let Some(here) = at {
            let above = here.parent();
            // What lies above a known directory is known as well.
            if !seen.insert(above.clone()) {
                break;
            }
            match sweep_beside(root, &here, &mut removed) {
                Ok(()) | Err(PlaceError::Parent(RootError::Missing { .. } | RootError::NotDirectory { .. })) => {}
                Err(error) => failures.push(error),
            }
            at = above;
        }
    }
    (removed, failures)
}

fn sweep_beside(root: &Root, path: &HostPath, removed: &mut Vec<HostPath>) -> Result<(), PlaceError> {
    let io = |errno| failed("list the directory of", path, errno);
    let parent = root.parent(path)?;
    let mut listing = nix::dir::Dir::openat(&parent, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(io)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        if let Ok(name) = entry.map_err(io)?.file_name().to_str()
            && is_temp(name)
        {
            names.push(name.to_owned());
        }
    }
    for name in names {
        let left = match path.parent() {
            Some(parent) => parent.join(&name),
            None => format!("/{name}").parse(),
        };
        let left = left.expect("because a short name of plain letters beneath a normal path is one");
        let gone = match unlinkat(&parent, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => unlinkat(&parent, name.as_str(), UnlinkatFlags::RemoveDir),
            other => other,
        };
        match gone {
            Ok(()) => removed.push(left),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed("remove the leftover", &left, errno)),
        }
    }
    Ok(())
}

pub(crate) fn is_temp(name: &str) -> bool {
    name.strip_prefix(TEMP).is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

// A name that nobody can guess, and that is taken by nobody: `make` must refuse a taken one.
pub(in crate::host) fn make_temp<T>(make: impl Fn(&str) -> nix::Result<T>) -> nix::Result<(String, T)> {
    for _ in 0..100 {
        // The standard library seeds its hash maps from the system's randomness; each `new` gives other keys.
        let name = format!("{TEMP}{:016x}", RandomState::new().build_hasher().finish());
        match make(&name) {
            Err(Errno::EEXIST | Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(made) => return Ok((name, made)),
        }
    }
    Err(Errno::EEXIST)
}
