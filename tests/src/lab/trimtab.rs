//! Puts trimtab into a machine exactly as its package does (the binary, the units, the system user, the folders), and
//! uses it as an operator does.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Machine, Person, Ran, project};

/// The binary under test: `TRIMTAB_LAB_BINARY`, else the one that cargo built beside these tests.
#[must_use]
pub fn binary() -> PathBuf {
    std::env::var_os("TRIMTAB_LAB_BINARY").map_or_else(crate::trimtab_binary, PathBuf::from)
}

/// A package under test: the file in `TRIMTAB_LAB_PACKAGES` (as `packaging/for-lab` fills it) whose name has this ending. `None` when
/// the lab runs on a binary.
///
/// # Panics
/// When the folder is named and has no such package.
#[must_use]
pub fn package(folder: &str, ending: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("TRIMTAB_LAB_PACKAGES")?).join(folder);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let found = files.flatten().map(|file| file.path()).find(|path| path.to_string_lossy().ends_with(ending));
    Some(found.unwrap_or_else(|| panic!("there is no *{ending} in {}: run packaging/for-lab", folder.display())))
}

/// Copies a file of this host into the machine's `/root`; its path there.
#[track_caller]
pub fn carry(machine: &Machine, file: &Path) -> String {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
    let path = format!("/root/{}", file.file_name().expect("because it was just read").to_string_lossy());
    machine.write(&path, bytes);
    path
}

pub(super) fn install(machine: &Machine) {
    if let Some(deb) = package("", "_amd64.deb") {
        let deb = carry(machine, &deb);
        machine.sh(&format!("dpkg -i {deb} && rm {deb}"));
        return;
    }
    replace_binary(machine);
    // What the packages' scripts do, and packaging/install where it is not given a folder.
    machine.sh("systemd-sysusers trimtab.conf && systemd-tmpfiles --create trimtab.conf && journalctl --update-catalog && systemctl daemon-reload");
}

/// Installs over what is there, as an upgrade does: the new binary is renamed over the old one, which still runs.
pub fn replace_binary(machine: &Machine) {
    if package("", "_amd64.deb").is_some() {
        install(machine);
        return;
    }
    let mut install = Command::new(project().join("packaging/install"));
    install.arg("--binary").arg(binary()).arg("--destdir").arg(machine.outside(""));
    let output = install.output().expect("because the project has it");
    assert!(output.status.success(), "packaging/install: {}", String::from_utf8_lossy(&output.stderr));
}

/// Enrols the machine: it will trust this person's key and follow the machine's own Git host.
#[track_caller]
pub fn enrol(machine: &Machine, trusted: &Person<'_>, more: &str) {
    let (name, key) = (machine.name(), trusted.key_file());
    machine.sh(&format!(
        "trimtab init --url https://localhost/fleet.git --ca-file /etc/ssl/lab-ca.pem --key {key} --host {name} {more}"
    ));
    // So that a scenario that changes a unit does not wait ten seconds for it to settle; those about settling ask for more.
    machine.sh("sed -i 's/^\\[agent\\]$/[guard]\\nsettle = \"1s\"\\n\\n[agent]/' /etc/trimtab/agent.toml");
    machine.sh("systemctl enable --quiet --now trimtab-courier.socket trimtab-status.socket trimtab-guard.path");
}

/// A pass that must change something and end well.
#[track_caller]
pub fn converge(machine: &Machine) -> String {
    expect(machine, 2, "a pass that changes something and ends well")
}

/// A pass that must find nothing to do.
#[track_caller]
pub fn settled(machine: &Machine) -> String {
    expect(machine, 0, "a pass that finds nothing to do")
}

/// A pass that must end badly; what it said on both channels.
#[track_caller]
pub fn refused(machine: &Machine) -> String {
    expect(machine, 1, "a pass that refuses")
}

/// A pass that tries something, or tried it before, and took it back; what it said on both channels.
#[track_caller]
pub fn undone(machine: &Machine) -> String {
    expect(machine, 3, "a pass that undoes what it tried")
}

#[track_caller]
fn expect(machine: &Machine, code: i32, what: &str) -> String {
    let Ran { code: found, out, err } = machine.try_sh("trimtab once");
    assert!(found == code, "on {}: {what} was expected (exit {code}), it was {found}\n{out}\n{err}", machine.name());
    format!("{out}\n{err}")
}

/// One field of the pass that `trimtab once --json` made, by jq.
#[track_caller]
pub fn once_field(machine: &Machine, field: &str) -> String {
    machine.sh(&format!("trimtab once --json | jq -r '{field}'"))
}

/// Starts the agent as an operator does. It polls each second, so that no scenario waits for a minute.
#[track_caller]
pub fn start_agent(machine: &Machine) {
    machine.sh(
        "sed -i 's/^interval = .*/interval = \"1s\"\\nretry-interval = \"1s\"\\nretry-max = \"2s\"/' /etc/trimtab/agent.toml && \
         systemctl enable --quiet --now trimtab.service",
    );
}
