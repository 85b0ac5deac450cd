//! Extended attributes of managed files: which of them count, and in what two sets differ.
//!
//! Nothing in a repository says them. What stands on a file after trimtab wrote it (an ACL that its directory gives to new files) is what it is
//! held to; anything else is drift. Values are known by their digests only, and not told: names are.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::Digest;

/// Digests of values by name.
pub type Xattrs = BTreeMap<String, Digest>;

/// So many names are told.
const TOLD: usize = 8;

/// Whether an attribute is anybody's intention: ACLs, capabilities, and what people and programs set. Labels and measurements
/// (`security.selinux`, `security.ima`, `security.evm`) are the kernel's and its policy's, and a file system's own are its own.
pub fn counts(name: &str) -> bool {
    match name.split_once('.') {
        Some(("user" | "trusted", rest)) => !rest.starts_with("overlay."),
        _ => matches!(name, "security.capability" | "system.posix_acl_access" | "system.posix_acl_default"),
    }
}

/// In what the found attributes differ from the written ones, in words: `user.note is set, security.capability is gone`; empty when they do not.
pub fn differences(written: &Xattrs, found: &Xattrs) -> String {
    let names: BTreeSet<&String> = written.keys().chain(found.keys()).collect();
    let word = |name: &&String| match (written.get(*name), found.get(*name)) {
        (None, Some(_)) => Some("is set"),
        (Some(_), None) => Some("is gone"),
        (Some(was), Some(is)) if was != is => Some("has another value"),
        _ => None,
    };
    let all: Vec<String> = names.into_iter().filter_map(|name| Some(format!("{} {}", name.escape_debug(), word(&name)?))).collect();
    let more = if all.len() > TOLD { format!(", and {} more", all.len() - TOLD) } else { String::new() };
    all.iter().take(TOLD).cloned().collect::<Vec<_>>().join(", ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_meant_counts() {
        for name in ["user.note", "trusted.x", "security.capability", "system.posix_acl_access", "system.posix_acl_default"] {
            assert!(counts(name), "{name}");
        }
        for name in [
            "security.selinux",
            "security.ima",
            "security.evm",
            "system.nfs4_acl",
            "trusted.overlay.origin",
            "user.overlay.x",
            "x",
            "",
        ] {
            assert!(!counts(name), "{name}");
        }
    }

    #[test]
    fn names_are_told_and_values_are_not() {
        let set = |pairs: &[(&str, &str)]| -> Xattrs {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), Digest::of(value.as_bytes()))).collect()
        };
        let (written, found) = (set(&[("user.a", "1"), ("user.b", "1")]), set(&[("user.b", "2"), ("user.c\n", "1")]));
        assert_eq!(differences(&written, &found), "user.a is gone, user.b has another value, user.c\\n is set");
        assert_eq!(differences(&written, &written), "");
        let many: Xattrs = (0..20).map(|n| (format!("user.{n:02}"), Digest::of(b""))).collect();
        assert!(differences(&Xattrs::new(), &many).ends_with("user.07 is set, and 12 more"));
    }
}
