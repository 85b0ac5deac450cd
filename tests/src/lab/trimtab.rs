//! Puts trimtab into a machine exactly as its package does: the binary, the units, the system user, the folders.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Machine, Person, project};

/// Where each folder of `units/` goes.
const PLACES: &[(&str, &str)] = &[
    ("units", "/usr/lib/systemd/system"),
    ("units/sysusers.d", "/usr/lib/sysusers.d"),
    ("units/tmpfiles.d", "/usr/lib/tmpfiles.d"),
];

/// The binary under test: `TRIMTAB_LAB_BINARY`, else the one that cargo built beside these tests.
#[must_use]
pub fn binary() -> PathBuf {
    let built = || {
        let tests = std::env::current_exe().expect("because Linux knows it");
        tests.ancestors().nth(2).expect("because cargo puts tests into target/PROFILE/deps").join("trimtab")
    };
    let binary = std::env::var_os("TRIMTAB_LAB_BINARY").map_or_else(built, PathBuf::from);
    assert!(binary.is_file(), "there is no {}: run `cargo build -p trimtab` first (tests/run does)", binary.display());
    binary
}

pub(super) fn install(machine: &Machine) {
    replace_binary(machine);
    for (from, to) in PLACES {
        for entry in fs::read_dir(project().join(from)).expect("because the project has its units").flatten() {
            if entry.path().is_file() {
                let text = fs::read(entry.path()).expect("because it was just listed");
                machine.write(&format!("{to}/{}", entry.file_name().display()), text);
            }
        }
    }
    machine.sh("systemd-sysusers trimtab.conf && systemd-tmpfiles --create trimtab.conf && systemctl daemon-reload");
}

/// Replaces the binary as a package manager does: written beside it, renamed over it, the old one still runs.
pub fn replace_binary(machine: &Machine) {
    let to = machine.outside("/usr/bin/trimtab");
    let beside = machine.outside("/usr/bin/.trimtab.new");
    let copy = |from: &Path| fs::copy(from, &beside).and_then(|_| fs::rename(&beside, &to));
    copy(&binary()).unwrap_or_else(|error| panic!("cannot install {}: {error}", to.display()));
}

/// Pins the person's key and this machine's own Git host with `trimtab init`.
#[track_caller]
pub fn init(machine: &Machine, trusted: &Person<'_>, more: &str) {
    let (name, key) = (machine.name(), trusted.key_file());
    machine.sh(&format!(
        "trimtab init --url https://localhost/fleet.git --ca-file /etc/ssl/lab-ca.pem --key {key} --host {name} {more}"
    ));
}
