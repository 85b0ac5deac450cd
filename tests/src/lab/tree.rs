//! The root trees that the machines are overlays of: Debian 13 with systemd, Podman, a Git host and a registry, and for the
//! scenarios that ask for it Debian 12.
//!
//! It takes 25 to 70 seconds, once: it is kept in the cache folder under a name that is the digest of all that went into
//! it (packages, configuration, scripts), so that a change here makes a new one. Several test processes may ask at once:
//! one prepares, the others wait. A tree that was left half-made is never taken for a whole one: it is renamed last.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::machine::{Boot, Machine};
use super::mirror;

/// Which Debian a machine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Suite {
    /// Debian 13: systemd 257 and Podman 5.4.
    #[default]
    Trixie,
    /// Debian 12: systemd 252, and a Podman that knows no Quadlet. It has rpm, too.
    Bookworm,
}

impl Suite {
    const ALL: [Self; 2] = [Self::Trixie, Self::Bookworm];

    fn name(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Bookworm => "bookworm",
        }
    }

    fn packages(self) -> Vec<&'static str> {
        match self {
            Self::Trixie => PACKAGES.to_vec(),
            // No container ever runs there.
            Self::Bookworm => {
                let unused = [
                    "netavark",
                    "aardvark-dns",
                    "nftables",
                    "passt",
                    "strace",
                    "busybox-static",
                    "prometheus",
                    "prometheus-alertmanager",
                    "victoria-metrics",
                ];
                PACKAGES.iter().copied().filter(|name| !unused.contains(name)).chain(["rpm"]).collect()
            }
        }
    }

    /// Where its prepared tree is.
    fn root(self, cache: &Path) -> PathBuf {
        cache.join(format!("tree-{}", self.stamp()))
    }

    fn stamp(self) -> String {
        let mut digest = Sha256::new();
        let packages = self.packages().join(",");
        let furniture = FURNITURE.iter().flat_map(|(name, text)| [*name, *text]);
        for part in [self.name(), &packages, IMAGES].into_iter().chain(furniture) {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        format!("{:02x?}", &digest.finalize()[..6]).replace(|c: char| !c.is_ascii_hexdigit(), "")
    }
}

/// What a machine is made of, and why.
const PACKAGES: &[&str] = &[
    // the system under test: PID 1, the bus, containers (nftables: netavark calls nft)
    "systemd",
    "systemd-sysv",
    "dbus",
    "podman",
    "crun",
    "netavark",
    "aardvark-dns",
    "nftables",
    "passt",
    // what a person and the tests look at it with
    "iproute2",
    "procps",
    "curl",
    "jq",
    "strace",
    "ca-certificates",
    "openssl",
    // the Git host and the person's git
    "git",
    "openssh-client",
    "openssh-server",
    "nginx-light",
    "fcgiwrap",
    // the registry and what its images are made of
    "docker-registry",
    "busybox-static",
    // what reports are sent to, and what checks them
    "prometheus",
    "prometheus-alertmanager",
    "victoria-metrics",
    "minisign",
];

/// Configuration that is laid into the tree at /lab and installed from there by `furnish.sh`.
const FURNITURE: &[(&str, &str)] = &[
    ("furnish.sh", include_str!("furniture/furnish.sh")),
    ("nginx.conf", include_str!("furniture/nginx.conf")),
    ("registry.yml", include_str!("furniture/registry.yml")),
    ("containers.conf", include_str!("furniture/containers.conf")),
    ("registries.conf", include_str!("furniture/registries.conf")),
    ("gitconfig", include_str!("furniture/gitconfig")),
];

/// Fills the registry; runs in a booted machine.
const IMAGES: &str = include_str!("furniture/images.sh");

/// A prepared tree. It is not removed by anyone while this is held.
#[derive(Debug)]
pub struct Tree {
    /// Its root folder, never written to.
    pub root: PathBuf,
    _in_use: File,
}

/// The tree in `cache`, prepared now if it is not there yet.
#[must_use]
pub fn prepare(cache: &Path, suite: Suite) -> Tree {
    fs::create_dir_all(cache.join("run")).unwrap_or_else(|error| panic!("cannot make {}: {error}", cache.display()));
    let root = suite.root(cache);
    let in_use = lock_file(&root.with_extension("lock"));
    if root.is_dir() {
        in_use.lock_shared().expect("because flock on an open local file does not fail");
        return Tree { root, _in_use: in_use };
    }
    let alone = lock_file(&cache.join("prepare.lock"));
    alone.lock().expect("because flock on an open local file does not fail");
    if !root.is_dir() {
        make(cache, &root, suite);
    }
    in_use.lock_shared().expect("because flock on an open local file does not fail");
    let keep = Suite::ALL.map(|suite| suite.root(cache));
    remove_unused(cache, |name| name.starts_with("tree-") && keep.iter().all(|tree| !tree.ends_with(name)));
    Tree { root, _in_use: in_use }
}

/// The tree in `cache`, which is there.
pub(super) fn prepared(cache: &Path, suite: Suite) -> Tree {
    let root = suite.root(cache);
    let in_use = lock_file(&root.with_extension("lock"));
    in_use.lock_shared().expect("because flock on an open local file does not fail");
    Tree { root, _in_use: in_use }
}

fn make(cache: &Path, root: &Path, suite: Suite) {
    let began = Instant::now();
    let name = suite.name();
    let mirror = mirror::of_this_machine();
    let half = root.with_extension("half");
    say(&format!("preparing the lab's Debian {name} tree from {mirror} (once, about a minute, 500 MB in {})", cache.display()));
    remove(&half);
    let include = format!("--include={}", suite.packages().join(","));
    run(Command::new("mmdebstrap").args(["--quiet", "--variant=minbase", &include, name]).arg(&half).arg(&mirror));
    fs::create_dir_all(half.join("lab")).expect("because the tree was just made");
    for (name, content) in FURNITURE {
        fs::write(half.join("lab").join(name), content).expect("because the tree was just made");
    }
    run(Command::new("chroot").arg(&half).args(["/bin/bash", "/lab/furnish.sh"]));
    if suite == Suite::Trixie {
        fill_registry(cache, &half);
    }
    fs::rename(&half, root).unwrap_or_else(|error| panic!("cannot name {}: {error}", root.display()));
    say(&format!("the lab's tree is ready after {} s", began.elapsed().as_secs()));
}

/// Images are built and pushed by Podman itself in a machine of the half-made tree; the registry's files are then kept.
fn fill_registry(cache: &Path, half: &Path) {
    let tree = Tree { root: half.to_owned(), _in_use: lock_file(&half.with_extension("lock")) };
    let machine = Machine::boot(tree, None, cache, &Boot { name: "images", ..Boot::default() });
    machine.write("/root/images.sh", IMAGES);
    machine.sh("bash /root/images.sh");
    for folder in ["var/lib/docker-registry", "var/lib/lab"] {
        let from = machine.upper().join(folder).join(".");
        run(Command::new("cp").args(["-a", "--"]).arg(from).arg(make_dir(&half.join(folder))));
    }
    drop(machine);
    remove(&half.with_extension("lock"));
}

/// What was prepared earlier and no running test holds: half a gigabyte each.
pub(super) fn remove_unused(cache: &Path, is_old: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && is_old(&entry.file_name().to_string_lossy()) {
            let lock = path.with_extension("lock");
            if lock_file(&lock).try_lock().is_ok() {
                remove(&path);
                remove(&lock);
            }
        }
    }
}

pub(super) fn lock_file(path: &Path) -> File {
    File::create(path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()))
}

fn make_dir(path: &Path) -> &Path {
    fs::create_dir_all(path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
    path
}

pub(super) fn remove(path: &Path) {
    // As rm does it: the tree has devices and folders that nobody may enter; what is not there is fine.
    run(Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(path));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Past the test harness's capture: somebody waits for this minute.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "lab: {line}");
}
