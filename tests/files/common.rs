//! What the tests share: a folder that plays the root, and ways to be somebody or somewhere else.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use trimtab::host::observe::observe;
use trimtab::host::place::{Batch, New, NewNode, PlaceError};
use trimtab::host::root::Root;
use trimtab_model::names::HostPath;
use trimtab_model::observed::{Expected, Found, Meta};

/// A temp folder that plays `/`.
pub(crate) struct Sandbox {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) root: Root,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self::in_folder(&std::env::temp_dir())
    }

    pub(crate) fn in_folder(folder: &Path) -> Self {
        let dir = tempfile::tempdir_in(folder).unwrap();
        // As a root directory has it; the default of 0700 would hide it from other users.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = Root::open(dir.path()).unwrap();
        Self { dir, root }
    }

    /// The real path of a path on the host.
    pub(crate) fn real(&self, host: &str) -> PathBuf {
        self.dir.path().join(host.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, host: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.real(host).parent().unwrap()).unwrap();
        fs::write(self.real(host), content).unwrap();
    }

    pub(crate) fn text(&self, host: &str) -> String {
        fs::read_to_string(self.real(host)).unwrap()
    }

    pub(crate) fn found(&self, host: &str) -> Found {
        observe(&self.root, [&path(host)]).remove(&path(host)).unwrap()
    }

    pub(crate) fn expected(&self, host: &str) -> Expected {
        self.found(host).expectation()
    }

    /// Stages, switches and finishes one thing of ours.
    pub(crate) fn put(&self, host: &str, node: NewNode<'_>, mode: u32, expected: Expected) -> Result<Meta, PlaceError> {
        let mut batch = Batch::new(&self.root);
        let staged = batch.stage(&path(host), ours(node, mode))?;
        let meta = batch.switch(staged, expected)?;
        batch.finish()?;
        Ok(meta)
    }

    /// Every name beneath a folder that trimtab may have left behind.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_name().to_string_lossy().starts_with(".trimtab-") {
                    found.push(entry.path());
                }
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), found);
                }
            }
        }
        let mut found = Vec::new();
        walk(self.dir.path(), &mut found);
        found
    }
}

pub(crate) fn path(text: &str) -> HostPath {
    text.parse().unwrap()
}

/// Owned by whoever runs the tests.
pub(crate) fn ours(node: NewNode<'_>, mode: u32) -> New<'_> {
    New { node, mode, uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
}

/// Inode and times of all that is beneath a folder, to see that nothing was touched.
pub(crate) fn stamps(folder: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let stamp = |path: PathBuf| fs::symlink_metadata(&path).map(|m| (path, (m.ino(), m.ctime(), m.ctime_nsec()))).unwrap();
    entries.map(stamp).collect()
}

pub(crate) fn is_root(why: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: {why} needs root");
    }
    root
}

/// A whole error chain as the edge prints it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

const INSIDE: &str = "TRIMTAB_TEST_INSIDE";

/// Runs the rest of the test `name` (its full path in this binary) in a child started through `wrap`; true inside of it.
pub(crate) fn inside(name: &str, wrap: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == *name) {
        return true;
    }
    let test = std::env::current_exe().unwrap();
    let status = Command::new(wrap[0])
        .args(&wrap[1..])
        .arg(test)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .status()
        .unwrap();
    assert!(status.success(), "{name} inside {wrap:?}: {status}");
    false
}

/// True in a child with mounts of its own; false when there is nothing (more) to do.
pub(crate) fn own_mounts(name: &str) -> bool {
    is_root("mounting") && inside(name, &["unshare", "--mount", "--propagation", "private"])
}

pub(crate) fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}: {status}");
}
