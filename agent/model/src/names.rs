//! Names that have been checked once and are then believed everywhere.
//!
//! Each type can only be built by parsing, so the planner contains no checks, only decisions.
//! Paths are UTF-8 on purpose: a configuration repository with other names is refused when it is read.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused; the text is for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {why}")]
pub struct NameError {
    /// What kind of name it was meant to be, e.g. "unit name".
    pub what: &'static str,
    /// What was written.
    pub text: String,
    /// Why it cannot be one.
    pub why: &'static str,
}

fn refuse<T>(what: &'static str, text: &str, why: &'static str) -> Result<T, NameError> {
    // A hostile name may be megabytes long; the refusal must stay readable.
    let mut shown: String = text.chars().take(120).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    Err(NameError { what, text: shown, why })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                $check(&text)?;
                Ok(Self(text))
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// An absolute, normal path on the host: starts with `/`, no `.` or `..`, no empty part, no control
    /// characters, at most 4,000 bytes, each part at most 255, never `/` itself.
    HostPath,
    check_host_path
);
name_type!(
    /// A path inside the fleet repository: relative, `/`-separated, normal as [`HostPath`] is.
    RepoPath,
    check_repo_path
);
name_type!(
    /// A systemd unit name with its suffix, e.g. `app.service`, `getty@tty1.service`, `backup@.timer`.
    /// Limits as in systemd.unit(5): 255 bytes, letters, digits and `:-_.\@`.
    UnitName,
    check_unit
);
name_type!(
    /// The name of a component: a folder under `components/`. Letters, digits, `-`, `_`, `.`; first a letter or digit; at most 64.
    ComponentName,
    check_slug
);
name_type!(
    /// The name of a host as the fleet repository writes it in `hosts/<name>.toml`: a DNS-like name, at most 253 bytes.
    HostName,
    check_host_name
);
name_type!(
    /// The name of a user or group: as systemd's strict rules, plus names of digits only being refused.
    AccountName,
    check_account
);

fn check_parts(what: &'static str, text: &str, relative: &str) -> Result<(), NameError> {
    if text.len() > 4000 {
        return refuse(what, text, "it is longer than 4,000 bytes");
    }
    for part in relative.split('/') {
        match part {
            "" => return refuse(what, text, "it has an empty part (a doubled or trailing slash)"),
            "." | ".." => return refuse(what, text, "it contains `.` or `..`"),
            _ if part.len() > 255 => return refuse(what, text, "a part is longer than 255 bytes"),
            _ if part.chars().any(char::is_control) => {
                return refuse(what, text, "it contains a control character");
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_host_path(text: &str) -> Result<(), NameError> {
    match text.strip_prefix('/') {
        None => refuse("host path", text, "it must be absolute (start with `/`)"),
        Some("") => refuse("host path", text, "it is the root directory"),
        Some(rest) => check_parts("host path", text, rest),
    }
}

fn check_repo_path(text: &str) -> Result<(), NameError> {
    if text.starts_with('/') {
        return refuse("repository path", text, "it must be relative");
    }
    check_parts("repository path", text, text)
}

/// The unit types that systemd knows.
pub const UNIT_TYPES: [&str; 11] =
    ["service", "socket", "timer", "path", "target", "mount", "automount", "swap", "slice", "scope", "device"];

fn check_unit(text: &str) -> Result<(), NameError> {
    if text.len() > 255 {
        return refuse("unit name", text, "it is longer than 255 bytes");
    }
    if text.contains('/') {
        return refuse("unit name", text, "it contains a slash");
    }
    if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || ":-_.\\@".contains(*c))) {
        let _ = bad;
        return refuse("unit name", text, "only letters, digits and `:-_.\\@` may be in it");
    }
    match text.rsplit_once('.') {
        None => refuse("unit name", text, "it has no type suffix such as `.service`"),
        Some(("" | "@", _)) => refuse("unit name", text, "there is nothing before the suffix"),
        Some((stem, _)) if stem.starts_with('@') => refuse("unit name", text, "there is nothing before the `@`"),
        Some((_, suffix)) if UNIT_TYPES.contains(&suffix) => Ok(()),
        Some(_) => refuse("unit name", text, "its suffix is not a unit type that systemd knows"),
    }
}

fn check_slug(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 64 {
        return refuse("component name", text, "it must have 1 to 64 characters");
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return refuse("component name", text, "it must start with a letter or a digit");
    }
    if text.chars().any(|c| !(c.is_ascii_alphanumeric() || "-_.".contains(c))) {
        return refuse("component name", text, "only letters, digits, `-`, `_` and `.` may be in it");
    }
    Ok(())
}

fn check_host_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 253 {
        return refuse("host name", text, "it must have 1 to 253 characters");
    }
    for part in text.split('.') {
        if part.is_empty() || part.len() > 63 {
            return refuse("host name", text, "each part between dots must have 1 to 63 characters");
        }
        if part.starts_with('-') || part.chars().any(|c| !(c.is_ascii_alphanumeric() || "-_".contains(c))) {
            return refuse("host name", text, "only letters, digits, `-`, `_` and dots may be in it");
        }
    }
    Ok(())
}

fn check_account(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 31 {
        return refuse("user or group name", text, "it must have 1 to 31 characters");
    }
    if !text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        || text.chars().any(|c| !(c.is_ascii_alphanumeric() || "-_".contains(c)))
    {
        return refuse("user or group name", text, "a letter or `_` first, then letters, digits, `-` and `_`");
    }
    Ok(())
}

impl HostPath {
    /// The directory that holds it; `None` when that is the root.
    pub fn parent(&self) -> Option<HostPath> {
        match self.0.rfind('/') {
            Some(0) | None => None,
            Some(at) => Some(HostPath(self.0[..at].to_owned())),
        }
    }

    /// Its last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Whether it is `other`, or lies beneath it.
    pub fn is_within(&self, other: &str) -> bool {
        let other = other.trim_end_matches('/');
        self.0 == other || (self.0.len() > other.len() && self.0.starts_with(other) && self.0.as_bytes()[other.len()] == b'/')
    }

    /// This path with one more part (or several, `/`-separated) below it.
    pub fn join(&self, below: &str) -> Result<HostPath, NameError> {
        format!("{}/{below}", self.0).parse()
    }

    /// The path without its leading slash, for resolution beneath a root directory handle.
    pub fn relative(&self) -> &str {
        &self.0[1..]
    }
}

impl UnitName {
    /// The type suffix, e.g. `service`.
    pub fn kind(&self) -> &str {
        self.0.rsplit('.').next().unwrap_or_default()
    }

    /// Whether this is a template without an instance (`name@.service`), which can be enabled for nothing and never started.
    pub fn is_template(&self) -> bool {
        self.0.rsplit_once('.').is_some_and(|(stem, _)| stem.ends_with('@'))
    }

    /// The template an instance comes from: `name@.service` for `name@x.service`.
    pub fn template(&self) -> Option<UnitName> {
        let (stem, suffix) = self.0.rsplit_once('.')?;
        let (name, instance) = stem.split_once('@')?;
        (!instance.is_empty()).then(|| UnitName(format!("{name}@.{suffix}")))
    }

    /// Whether drop-ins for `other` are read for this unit as well: it is the same unit, its template, or a prefix of it (`app-.service`
    /// for `app-web.service`).
    pub fn reads_drop_ins_of(&self, other: &UnitName) -> bool {
        let prefix = other.0.rsplit_once('.').filter(|(stem, _)| stem.ends_with('-'));
        let by_prefix = prefix.is_some_and(|(stem, kind)| self.0.starts_with(stem) && self.kind() == kind);
        self == other || by_prefix || self.template().as_ref() == Some(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_absolute_and_normal() {
        for good in ["/etc/a", "/etc/a b/ü", "/x"] {
            assert!(good.parse::<HostPath>().is_ok(), "{good}");
        }
        for bad in ["", "/", "etc/a", "/etc//a", "/etc/a/", "/etc/./a", "/etc/../a", "/etc/a\n", "/a\0"] {
            assert!(bad.parse::<HostPath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn within_is_by_whole_parts() {
        let path: HostPath = "/etc/app/x".parse().expect("because it is normal");
        assert!(path.is_within("/etc"));
        assert!(path.is_within("/etc/app/"));
        assert!(path.is_within("/etc/app/x"));
        assert!(!path.is_within("/etc/ap"));
        assert!(path.is_within("/"));
    }

    #[test]
    fn unit_names_as_systemd_has_them() {
        for good in ["a.service", "a@.service", "a@b.service", "dev-sda\\x2d.swap"] {
            assert!(good.parse::<UnitName>().is_ok(), "{good}");
        }
        for bad in ["a", "../a.service", "a/b.service", "a.conf", ".service", "@x.service", "a b.service"] {
            assert!(bad.parse::<UnitName>().is_err(), "{bad}");
        }
        let instance: UnitName = "a@b.service".parse().expect("because it is a unit");
        assert_eq!(instance.template().map(String::from).as_deref(), Some("a@.service"));
    }

    #[test]
    fn drop_ins_are_read_of_a_unit_its_template_and_its_prefixes() {
        let unit = |text: &str| text.parse::<UnitName>().expect("because it is a unit");
        for (name, other, reads) in [
            ("a.service", "a.service", true),
            ("a@b.service", "a@.service", true),
            ("a-b.service", "a-.service", true),
            ("a@.service", "a@b.service", false),
            ("a-b.timer", "a-.service", false),
            ("ab.service", "a-.service", false),
            ("a-b.service", "a.service", false),
        ] {
            assert_eq!(unit(name).reads_drop_ins_of(&unit(other)), reads, "{name} {other}");
        }
    }
}
