//! Event sources on a real file system: what somebody else does beneath a folder that plays the root is seen at once, and told with who it was.
//!
//! Each test runs by fanotify (where this user may) and by inotify. What is done is done by another process: what is ours is left out.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bounds;
mod seeing;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use trimtab::host::root::Root;
use trimtab::watch::{Glimpse, Watch};
use trimtab_model::drift::Watched;

/// More than any test makes.
const MANY: usize = 8192;

/// A folder with a tree that is watched.
struct Scene {
    folder: tempfile::TempDir,
    watch: Watch,
    watched: Watched,
    most: usize,
    runtime: tokio::runtime::Runtime,
}

impl Scene {
    /// `make` is run in the folder before it is watched.
    fn new(by_fanotify: bool, make: &str, paths: &[&str], exclusive: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        shell(folder.path(), make);
        let root = Root::open(folder.path()).unwrap();
        let parse = |list: &[&str]| list.iter().map(|path| path.parse().unwrap()).collect();
        let watched = Watched { paths: parse(paths), exclusive: parse(exclusive), units: Vec::new() };
        let watch = if by_fanotify { Watch::new(&root) } else { Watch::new(&root).without_fanotify() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut scene = Self { folder, watch, watched, most: MANY, runtime };
        scene.arm();
        scene
    }

    fn arm(&mut self) {
        self.watch.arm(&self.watched, self.most, false);
        // What is watched no more is still told until the thread has changed over.
        std::thread::sleep(Duration::from_millis(30));
    }

    /// What comes of a command in the folder, within two seconds.
    fn after(&mut self, command: &str) -> Glimpse {
        shell(self.folder.path(), command);
        self.seen()
    }

    fn seen(&mut self) -> Glimpse {
        let due = async { tokio::time::timeout(Duration::from_secs(2), self.watch.due()).await };
        let _ = self.runtime.block_on(due);
        self.arm();
        self.watch.take(&[])
    }

    /// The resources that a command has seen change.
    #[track_caller]
    fn sees(&mut self, command: &str) -> Vec<String> {
        // What is looked at here is told one after the other; how long that may take is another test's.
        self.watch.calm();
        let glimpse = self.after(command);
        assert!(!glimpse.everything, "everything after {command}");
        glimpse.sightings.into_iter().map(|sighting| sighting.resource).collect()
    }

    /// Nothing comes of a command.
    #[track_caller]
    fn ignores(&mut self, command: &str) {
        shell(self.folder.path(), command);
        std::thread::sleep(Duration::from_millis(150));
        let glimpse = self.watch.take(&[]);
        assert!(glimpse.is_empty(), "after {command}: {glimpse:?}");
    }
}

fn shell(folder: &Path, command: &str) {
    let output = Command::new("sh").args(["-ec", command]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Both ways, or inotify alone where fanotify is not permitted.
fn each_way(test: impl Fn(bool)) {
    for by_fanotify in [true, false] {
        test(by_fanotify);
    }
}
