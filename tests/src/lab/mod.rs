//! The lab: disposable machines with a real systemd, D-Bus, journal, Podman, git server and registry.
//!
//! A [`Machine`] boots in about two seconds over a Debian tree that is prepared once and kept ([`tree`]). It has no
//! network but its own loopback; the git server (HTTPS) and the registry run inside it. A [`Person`] works in it with
//! plain git and ssh-keygen. Everything is asserted from outside with the system's own tools.
//!
//! Guarantees: a machine, its processes, its mounts and its folder are gone when its owner is, however that ended.
//! Nothing outside the machine's namespaces and `${TRIMTAB_LAB_CACHE:-/var/cache/trimtab-lab}` is touched.
//! Limits: it needs root, systemd-nspawn and mmdebstrap. CLOCK_REALTIME is everybody's, never set it in a machine.
//!
//! Failing is panicking here, as in any test: a harness that returned errors would only move the `unwrap` into each line.
#![allow(clippy::panic)]

pub mod layer;
pub mod machine;
mod mirror;
pub mod person;
pub mod tree;
pub mod trimtab;
pub mod watch;

use std::path::PathBuf;

pub use machine::{Boot, Machine, Ran};
pub use person::Person;
pub use tree::Suite;
pub use watch::{Watched, eventually};

/// Boots a machine called `name` with trimtab installed; `None` when the lab is to be left out (`TRIMTAB_LAB=skip`).
///
/// # Panics
/// When the lab cannot run here and nobody said that it may be left out: a lab that is silently green proves nothing.
#[must_use]
pub fn boot(name: &str) -> Option<Machine> {
    boot_with(&Boot { name, ..Boot::default() })
}

/// As [`boot`], with more said about the machine.
#[must_use]
pub fn boot_with(boot: &Boot<'_>) -> Option<Machine> {
    if !open() {
        return None;
    }
    let tree = tree::prepare(&cache(), boot.suite);
    let layer = (!boot.bare).then(|| layer::prepare(&cache(), boot.suite, &tree));
    let machine = Machine::boot(tree, layer, &cache(), boot);
    if boot.git.is_some() {
        let empty = "git init -q --bare /srv/git/fleet.git && chown -R www-data:www-data /srv/git";
        machine.sh(&format!("test -d /srv/git/fleet.git || ({empty})"));
    }
    Some(machine)
}

/// Whether the lab may be used: `false` when `TRIMTAB_LAB=skip` says so.
#[must_use]
pub fn open() -> bool {
    if std::env::var_os("TRIMTAB_LAB").is_some_and(|value| value == "skip") {
        return false;
    }
    let missing = missing();
    assert!(
        missing.is_empty(),
        "the lab cannot run here: {}. `sudo tests/run lab` brings what it needs; TRIMTAB_LAB=skip leaves these tests out.",
        missing.join(", ")
    );
    true
}

/// Where the tree and the running machines' folders are.
#[must_use]
pub fn cache() -> PathBuf {
    std::env::var_os("TRIMTAB_LAB_CACHE").map_or_else(|| "/var/cache/trimtab-lab".into(), PathBuf::from)
}

/// The project's own folder.
#[must_use]
pub fn project() -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("because tests/ lies in the project").to_owned()
}

fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("it needs root".to_owned());
    }
    for tool in ["systemd-nspawn", "mmdebstrap", "unshare", "nsenter"] {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&paths).any(|folder| folder.join(tool).is_file()) {
            missing.push(format!("{tool} is not installed"));
        }
    }
    missing
}
