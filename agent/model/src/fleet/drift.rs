//! `drift` and `exclusive` in component.toml: what is done about what somebody changes on the host.

use super::read::{Located, Place, Table, brief, did_you_mean};
use crate::drift::{DriftPolicy, Extra};
use crate::facts::{ALWAYS_PROTECTED, PathPolicy};
use crate::finding::Findings;
use crate::names::HostPath;

const POLICIES: [(&str, DriftPolicy); 4] = [
    ("enforce", DriftPolicy::Enforce),
    ("report", DriftPolicy::Report),
    ("ignore", DriftPolicy::Ignore),
    ("create-once", DriftPolicy::CreateOnce),
];

const EXTRAS: [(&str, Extra); 2] = [("report", Extra::Report), ("purge", Extra::Purge)];

/// Directories in which the distribution, other programs and other people put things: nobody's to declare as theirs alone. Those directly
/// beneath `/` are so as well.
const SHARED: [&str; 44] = [
    "/etc/alternatives",
    "/etc/apparmor.d",
    "/etc/apt",
    "/etc/containers",
    "/etc/containers/systemd",
    "/etc/cron.d",
    "/etc/default",
    "/etc/init.d",
    "/etc/modprobe.d",
    "/etc/network",
    "/etc/pam.d",
    "/etc/pki",
    "/etc/profile.d",
    "/etc/security",
    "/etc/skel",
    "/etc/ssh",
    "/etc/ssl",
    "/etc/ssl/certs",
    "/etc/ssl/private",
    "/etc/sudoers.d",
    "/etc/sysconfig",
    "/etc/sysctl.d",
    "/etc/systemd",
    "/etc/systemd/network",
    "/etc/systemd/system",
    "/etc/sysusers.d",
    "/etc/tmpfiles.d",
    "/etc/udev",
    "/etc/udev/rules.d",
    "/usr/local/bin",
    "/usr/local/etc",
    "/usr/local/lib",
    "/usr/local/sbin",
    "/usr/local/share",
    "/usr/local",
    "/var/cache",
    "/var/lib",
    "/var/lib/containers",
    "/var/local",
    "/var/log",
    "/var/mail",
    "/var/opt",
    "/var/spool",
    "/var/www",
];

/// `exclusive` of a `[[directory]]`.
#[derive(Debug, Clone)]
pub struct ExclusiveRule<'s> {
    /// What happens to what nobody declared.
    pub extra: Extra,
    /// Names that are nobody's business.
    pub except: Vec<String>,
    /// The word.
    pub place: Place<'s>,
}

/// `drift` of a component, a file, a directory, a symlink or a unit.
pub(super) fn read_policy<'s>(table: &mut Table<'_, 's>, findings: &mut Findings) -> Option<Located<'s, DriftPolicy>> {
    let text = table.string("drift", findings)?;
    let value = word(&text, &POLICIES, "is nothing that can be done about drift", findings)?;
    Some(Located { value, place: text.place })
}

/// `exclusive` and `except` of a directory.
pub(super) fn read_exclusive<'s>(table: &mut Table<'_, 's>, findings: &mut Findings) -> Option<ExclusiveRule<'s>> {
    let text = table.string("exclusive", findings);
    let except = table.strings("except", findings);
    for name in &except {
        if name.value.is_empty() || name.value.contains('/') || name.value.chars().any(char::is_control) {
            let help = "a name directly in the directory; `*` stands for any text, `?` for one character";
            findings.at_with(name.place, format!("`{}` can be the name of nothing in the directory", brief(&name.value)), help);
        }
    }
    let Some(text) = text else {
        if let Some(first) = except.first() {
            findings.at_with(first.place, "`except` means nothing without `exclusive`", "`exclusive = \"report\"` or `\"purge\"`");
        }
        return None;
    };
    let extra = word(&text, &EXTRAS, "is nothing that can be done about what nobody declared", findings)?;
    Some(ExclusiveRule { extra, except: except.into_iter().map(|name| name.value).collect(), place: text.place })
}

fn word<T: Copy, const N: usize>(
    text: &Located<'_, String>,
    words: &[(&'static str, T); N],
    wrong: &str,
    findings: &mut Findings,
) -> Option<T> {
    let found = words.iter().find(|(word, _)| *word == text.value).map(|(_, value)| *value);
    if found.is_none() {
        let mut help = did_you_mean(&text.value, words.map(|(word, _)| word));
        if help.is_empty() {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            help = known.join(", ");
        }
        findings.at_with(text.place, format!("`{}` {wrong}", brief(&text.value)), help);
    }
    found
}

/// Why a directory cannot be one component's alone.
pub(crate) fn judge_exclusive(path: &HostPath, policy: &PathPolicy) -> Result<(), String> {
    let text = path.as_str();
    let shared = SHARED.iter().find(|shared| **shared == text);
    if shared.is_some() || path.parent().is_none() {
        return Err("the distribution and other programs put their files there".to_owned());
    }
    let beneath = |rule: &str| rule.parse::<HostPath>().is_ok_and(|rule| rule.is_within(text));
    let protected = ALWAYS_PROTECTED.iter().copied().chain(policy.protect.iter().map(String::as_str));
    match protected.into_iter().find(|rule| beneath(rule)) {
        Some(rule) => Err(format!("{rule} lies in it, which is not for the repository to touch")),
        None => Ok(()),
    }
}
