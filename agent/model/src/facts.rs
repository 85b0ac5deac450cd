//! What a host says about itself: the second input of a rendering, beside the repository.
//!
//! A snapshot is plain data so that CI can render for a host it cannot reach. Only things that stay the same between
//! boots are in it: a fact that moved by itself would make every pass a change.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::fleet::selector::matches_pattern;
use crate::names::{HostName, UnitName};
use crate::plan::PROGRAM;

/// What `/etc/os-release` says, by the names of os-release(5).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct OsRelease {
    /// `ID`, e.g. `debian`.
    pub id: String,
    /// `ID_LIKE`, split at spaces.
    pub id_like: Vec<String>,
    /// `VERSION_ID`, e.g. `13`.
    pub version_id: String,
    /// `VERSION_CODENAME`, e.g. `trixie`.
    pub version_codename: String,
    /// `VARIANT_ID`.
    pub variant_id: String,
    /// `PRETTY_NAME`.
    pub pretty_name: String,
}

/// The facts of one host, in templates as `facts.…`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Facts {
    /// The kernel's host name.
    pub hostname: String,
    /// `/etc/machine-id`, 32 hex digits.
    pub machine_id: String,
    /// The architecture as Rust names it: `x86_64`, `aarch64`, `arm`.
    pub arch: String,
    /// The operating system.
    pub os: OsRelease,
    /// The kernel's release, e.g. `6.12.9-arm64`.
    pub kernel: String,
    /// As `systemd-detect-virt` names it: `none`, `kvm`, `container-other`, …
    pub virtualization: String,
    /// Memory in MiB, rounded down to a multiple of 64 so that a firmware update does not re-render a fleet.
    pub memory_mib: u64,
    /// Number of processors online at start.
    pub cpus: u32,
}

/// Everything about a host that a rendering may depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name in the fleet: selects `hosts/<name>.toml`.
    pub name: HostName,
    /// Labels from `/etc/trimtab/agent.toml` (or `--labels`); they win over those of `hosts/<name>.toml`.
    pub labels: BTreeMap<String, String>,
    /// What it says about itself.
    pub facts: Facts,
    /// What the local policy lets the repository manage; local, never from the repository.
    pub policy: PathPolicy,
}

impl Host {
    /// A digest over all of it: with the commit, the key under which a rendering can be reused.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("because plain data with string keys always serialises"))
    }
}

/// Which paths and units the repository may manage on this host. Local (`/etc/trimtab/agent.toml`), judged before anything is read from disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct PathPolicy {
    /// A managed path must be beneath one of these.
    pub allow: Vec<String>,
    /// and beneath none of these.
    pub protect: Vec<String>,
    /// Units that may be neither brought, nor managed, nor added to; `*` stands for any text, `?` for one character.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protect_units: Vec<String>,
    /// Whether it may bring trimtab itself: its program at [`PROGRAM`], and its units. Whoever may do that may do anything here, so it is
    /// this host that says so.
    pub self_update: bool,
}

/// Never managed, whatever the local policy says: trimtab's own trust and memory, the accounts database (sysusers.d is the way), and
/// file systems that are not disks.
pub const ALWAYS_PROTECTED: [&str; 14] = [
    "/etc/trimtab",
    "/var/lib/trimtab",
    "/var/cache/trimtab",
    "/run/trimtab",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/gshadow",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/var/tmp",
];

impl Default for PathPolicy {
    fn default() -> Self {
        let allow = ["/etc", "/opt", "/srv", "/usr/local", "/var", "/home", "/root"];
        Self { allow: allow.map(str::to_owned).to_vec(), protect: Vec::new(), protect_units: Vec::new(), self_update: false }
    }
}

impl PathPolicy {
    /// `Err` says which rule stands against the unit: against itself, or against one that it reaches as a template (`getty@.service`) or as the
    /// prefix of others (`app-.service`, whose drop-ins are theirs).
    pub fn judge_unit(&self, unit: &UnitName) -> Result<(), String> {
        match self.protect_units.iter().find(|rule| reaches(unit, rule)) {
            Some(rule) => Err(format!("{rule} is protected on this host (policy.protect-units in agent.toml)")),
            None => Ok(()),
        }
    }

    /// `Err` says what is wrong with a rule that could never protect anything.
    pub fn check(&self) -> Result<(), String> {
        for rule in &self.protect_units {
            // A rule is judged as one of the names that it stands for.
            let name = rule.replace(['*', '?'], "x");
            let any_kind = rule.ends_with('*');
            if name.parse::<UnitName>().is_err() && !(any_kind && format!("{name}.service").parse::<UnitName>().is_ok()) {
                return Err(format!(
                    "{rule:?} under policy.protect-units names no unit: write e.g. \"ssh.service\" or \"getty@*.service\""
                ));
            }
        }
        Ok(())
    }

    /// `Err` says which rule stands against the path.
    pub fn judge(&self, path: &crate::names::HostPath) -> Result<(), String> {
        if let Some(rule) = ALWAYS_PROTECTED.iter().find(|rule| path.is_within(rule)) {
            return Err(format!("{rule} is never managed by trimtab"));
        }
        if let Some(rule) = self.protect.iter().find(|rule| path.is_within(rule)) {
            return Err(format!("{rule} is protected on this host (policy.protect in agent.toml)"));
        }
        if self.allow.iter().any(|rule| path.is_within(rule)) || self.self_update && path.as_str() == PROGRAM {
            return Ok(());
        }
        if path.as_str() == PROGRAM {
            return Err("it is trimtab itself; policy.self-update in agent.toml lets the repository bring it".to_owned());
        }
        Err(format!("it is outside of the allowed roots ({}); policy.allow in agent.toml widens them", self.allow.join(", ")))
    }
}

/// Whether what is said about a unit is said about one that the rule names.
fn reaches(unit: &UnitName, rule: &str) -> bool {
    if matches_pattern(rule, unit.as_str()) {
        return true;
    }
    let Some((stem, kind)) = unit.as_str().rsplit_once('.') else { return false };
    let begins = |begin: &str| {
        let fixed = rule.split(['*', '?']).next().unwrap_or_default();
        let is_kind = rule.rsplit_once('.').is_none_or(|(_, of)| matches_pattern(of, kind));
        is_kind && (fixed.starts_with(begin) || begin.starts_with(fixed) && fixed.len() < rule.len())
    };
    (stem.ends_with('@') || stem.ends_with('-')) && begins(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protected_unit_is_reached_by_no_other_name() {
        let rules = ["ssh.service", "getty@*.service", "app-one.socket", "net*"];
        let policy = PathPolicy { protect_units: rules.map(str::to_owned).to_vec(), ..PathPolicy::default() };
        let judge = |unit: &str| policy.judge_unit(&unit.parse().expect("because it is a unit"));
        for bad in [
            "ssh.service",
            "getty@tty1.service",
            "getty@.service",
            "app-one.socket",
            "app-.socket",
            "networkd.service",
            "net.socket",
        ] {
            assert!(judge(bad).is_err(), "{bad}");
        }
        for good in [
            "ssh.socket",
            "sshd.service",
            "ssh-.service",
            "ssh@.service",
            "get.service",
            "app-.service",
            "app-two.socket",
            "ne-.service",
        ] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
        assert!(judge("getty@tty1.service").unwrap_err().contains("getty@*.service is protected"));
        assert_eq!(policy.check(), Ok(()));
        for wrong in ["ssh", "/etc/ssh", "a b.service", "*.conf", ""] {
            let policy = PathPolicy { protect_units: vec![wrong.to_owned()], ..PathPolicy::default() };
            assert!(policy.check().is_err(), "{wrong}");
        }
    }
}
