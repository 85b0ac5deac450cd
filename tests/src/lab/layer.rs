//! The tree with trimtab installed over it, so that not every machine has to install the same thing.
//!
//! It is what a machine's disk holds after the package (or the binary and its units) was installed on it and it was switched off in good
//! order, less what would make two machines the same one. It is kept in the cache folder under a name that is the digest of the tree and of
//! what was installed. Scenarios about installing boot a bare machine instead.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::machine::{Boot, Machine};
use super::tree::{self, Suite, Tree, lock_file, remove};
use super::{project, trimtab};

/// An installed trimtab. It is not removed by anyone while this is held.
#[derive(Debug)]
pub struct Layer {
    /// What lies over the tree, never written to.
    pub root: PathBuf,
    _in_use: File,
}

/// What is its own machine's, or only grows.
const OWN: &[&str] = &[
    "etc/machine-id",
    "etc/hostname",
    "var/log/journal",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/timers",
    "tmp",
    "var/tmp",
];

/// The layer in `cache` over this tree, made now if it is not there yet.
pub(super) fn prepare(cache: &Path, suite: Suite, tree: &Tree) -> Layer {
    let root = cache.join(format!("installed-{}", stamp(tree)));
    let find = || {
        // A lock whose file was removed meanwhile holds nothing: then the folder is gone as well.
        let in_use = lock_file(&root.with_extension("lock"));
        in_use.lock_shared().expect("because flock on an open local file does not fail");
        root.is_dir().then(|| Layer { root: root.clone(), _in_use: in_use })
    };
    if let Some(layer) = find() {
        return layer;
    }
    let alone = lock_file(&cache.join("prepare.lock"));
    alone.lock().expect("because flock on an open local file does not fail");
    if !root.is_dir() {
        tree::remove_unused(cache, |name| name.starts_with("installed-"));
        make(cache, &root, suite);
    }
    find().expect("because nothing is removed while preparation is locked")
}

fn make(cache: &Path, root: &Path, suite: Suite) {
    let machine = Machine::boot(tree::prepared(cache, suite), None, cache, &Boot { name: "installed", suite, ..Boot::default() });
    trimtab::install(&machine);
    machine.halt();
    for own in OWN {
        remove(&machine.upper().join(own));
    }
    fs::rename(machine.upper(), root).unwrap_or_else(|error| panic!("cannot name {}: {error}", root.display()));
}

/// Names the tree and all that [`trimtab::install`] takes.
fn stamp(tree: &Tree) -> String {
    let mut digest = Sha256::new();
    digest.update(tree.root.as_os_str().as_encoded_bytes());
    if let Some(deb) = trimtab::package("", "_amd64.deb") {
        let mut bytes = Vec::new();
        let read = File::open(&deb).and_then(|mut file| file.read_to_end(&mut bytes));
        read.unwrap_or_else(|error| panic!("cannot read {}: {error}", deb.display()));
        digest.update(&bytes);
    } else {
        for path in [trimtab::binary(), project().join("units"), project().join("packaging/install")] {
            look(&path, &mut digest);
        }
    }
    format!("{:02x?}", &digest.finalize()[..6]).replace(|c: char| !c.is_ascii_hexdigit(), "")
}

/// By name, size and time: a debug binary has hundreds of megabytes.
fn look(path: &Path, digest: &mut Sha256) {
    let meta = fs::metadata(path).unwrap_or_else(|error| panic!("cannot look at {}: {error}", path.display()));
    digest.update(path.as_os_str().as_encoded_bytes());
    if !meta.is_dir() {
        digest.update([meta.len().to_be_bytes(), meta.mtime().to_be_bytes(), meta.mtime_nsec().to_be_bytes()].concat());
        return;
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let mut entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for entry in entries {
        look(&entry, digest);
    }
}
