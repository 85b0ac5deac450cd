//! The courier against real git servers, good and bad ones.
// All of this crate is test; clippy's own exemption ends at the functions marked so.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod access;
mod bombs;
#[cfg(target_arch = "x86_64")]
mod boundary;
mod deliver;
mod faults;
mod fetching;
mod hostile;
mod process;
mod push;
mod ssh;

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use trimtab::courier::{Artifacts, Client, CourierConfig, Location, ObjectId, SourceConfig, serve};
use trimtab::wire::{ObjectKind, ObjectSource};

/// The most that a test waits for a courier.
const PATIENCE: Duration = Duration::from_secs(30);
const LIMIT: u64 = 16 << 20;

/// Runs git, apart from whatever this machine's git is configured to do.
fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([("GIT_AUTHOR_NAME", "t"), ("GIT_AUTHOR_EMAIL", "t@t"), ("GIT_COMMITTER_NAME", "t"), ("GIT_COMMITTER_EMAIL", "t@t")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A folder with one repository in it, `fleet`.
struct Fleet {
    folder: TempDir,
}

impl Fleet {
    fn new() -> Self {
        Self::with_format("sha1")
    }

    fn with_format(format: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fleet = Self { folder };
        std::fs::create_dir(fleet.work()).unwrap();
        git(&fleet.work(), &["init", "-q", "-b", "main", &format!("--object-format={format}")]);
        git(&fleet.work(), &["config", "uploadpack.allowFilter", "true"]);
        fleet
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn work(&self) -> PathBuf {
        self.root().join("fleet")
    }

    /// Writes these files and commits.
    fn commit(&self, files: &[(&str, &str)]) -> ObjectId {
        for (path, content) in files {
            let path = self.work().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        git(&self.work(), &["add", "-A"]);
        git(&self.work(), &["commit", "-q", "--allow-empty", "-m", "change"]);
        self.id("HEAD")
    }

    fn id(&self, revision: &str) -> ObjectId {
        id(&git(&self.work(), &["rev-parse", "--verify", revision]))
    }
}

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).unwrap()
}

/// Text that does not compress to nothing.
fn noise(seed: u64, size: usize) -> String {
    let mut state = seed;
    let mut text = String::new();
    while text.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text += &(state >> 16).to_string();
    }
    text
}

/// A source with short times.
fn source(url: &str) -> SourceConfig {
    let mut config = SourceConfig::new(Location::parse(url).unwrap());
    config.allow_http = true;
    config.idle_timeout = Duration::from_secs(10);
    config.total_timeout = Duration::from_secs(20);
    config
}

/// A courier behind a socket, as systemd would start it: one for each connection.
struct Courier {
    client: Client,
    folder: TempDir,
}

impl Courier {
    fn new(config: SourceConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let cache = folder.path().join("cache");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (cache, source) = (cache.clone(), config.clone());
                std::thread::spawn(move || {
                    serve(
                        stream,
                        CourierConfig { source, sinks: Vec::new(), artifacts: Artifacts::default(), cache: cache.clone() },
                        &cache,
                    )
                });
            }
        });
        Self { client: Client::connect(&socket, PATIENCE).unwrap(), folder }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }
}

/// All files of a commit, as the agent would get them: commit, then level by level of trees, then all blobs at once.
fn walk(client: &mut Client, commit: ObjectId) -> BTreeMap<String, String> {
    let text = client.objects(ObjectKind::Commit, &[commit], LIMIT).unwrap().remove(0);
    let text = String::from_utf8(text).unwrap();
    let root = id(text.lines().next().unwrap().strip_prefix("tree ").unwrap());
    let (mut level, mut blobs) = (vec![(String::new(), root)], Vec::new());
    while !level.is_empty() {
        let ids: Vec<_> = level.iter().map(|(_, id)| *id).collect();
        let trees = client.objects(ObjectKind::Tree, &ids, LIMIT).unwrap();
        let above = std::mem::take(&mut level);
        for ((prefix, _), tree) in above.iter().zip(trees) {
            let mut rest = tree.as_slice();
            while !rest.is_empty() {
                let end = rest.iter().position(|b| *b == 0).unwrap();
                let (mode, name) = std::str::from_utf8(&rest[..end]).unwrap().split_once(' ').unwrap();
                let size = root.as_bytes().len();
                let id = ObjectId::from_bytes_or_panic(&rest[end + 1..end + 1 + size]);
                rest = &rest[end + 1 + size..];
                if mode == "40000" {
                    level.push((format!("{prefix}{name}/"), id));
                } else {
                    blobs.push((format!("{prefix}{name}"), id));
                }
            }
        }
    }
    let ids: Vec<_> = blobs.iter().map(|(_, id)| *id).collect();
    let contents = client.objects(ObjectKind::Blob, &ids, LIMIT).unwrap();
    blobs.into_iter().zip(contents).map(|((path, _), content)| (path, String::from_utf8(content).unwrap())).collect()
}

fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
}
