//! `trimtab trust init`: the first root file.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;

use super::{Common, Signing, pair, roots_of, show, sign};
use crate::author::AuthorError;
use crate::author::desk::Desk;
use crate::author::roots::{self, Roots, Version, majority};
use crate::trust::root::{Role, Root};
use crate::trust::statement::{Channel, RepoId};
use crate::trust::threshold::NamedKey;

/// `trimtab trust init`.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// A key and its name: a .pub file of ssh-keygen's or minisign's, an SSH public key's line, or minisign:RW…. May be given several times.
    #[arg(long = "key", required = true, value_name = "NAME=KEY", value_parser = pair)]
    keys: Vec<(String, String)>,
    /// How many keys it takes to replace the root; more than half of them when it is not given.
    #[arg(long, value_name = "N")]
    threshold: Option<usize>,
    #[command(flatten)]
    roles: Roles,
    /// The id of the repository, a UUID; a new one when it is not given.
    #[arg(long, value_name = "UUID")]
    repo_id: Option<RepoId>,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    common: Common,
}

/// Who may do what, beside replacing the root.
#[derive(Debug, Args)]
pub(super) struct Roles {
    /// The keys that may replace the root, and release to channels for which no keys are named. Without it: in a first root, those that are not
    /// named for something in particular; in a later one, as before.
    #[arg(long = "root-keys", value_name = "KEY,…", value_delimiter = ',')]
    pub(super) root_keys: Vec<String>,
    /// A channel, and how many keys a release to it takes: of all keys, or of those named. May be given several times; without any,
    /// `production` with as many as the root.
    #[arg(long = "channel", value_name = "NAME=N[:KEY,…]", value_parser = pair)]
    pub(super) channels: Vec<(String, String)>,
    /// Keys that may say how far a channel has come (`trimtab release CHANNEL --alive`); one of them is enough.
    #[arg(long = "alive", value_name = "CHANNEL=KEY,…", value_parser = pair)]
    pub(super) alive: Vec<(String, String)>,
    /// Keys that may sign commits of a branch, for hosts in commit mode; one of them is enough.
    #[arg(long = "branch", value_name = "BRANCH=KEY,…", value_parser = pair)]
    pub(super) branches: Vec<(String, String)>,
}

impl Roles {
    /// Puts them into a root; channels for which no keys are named get `everybody`.
    pub(super) fn apply(&self, root: &mut Root, everybody: &[String]) -> Result<(), AuthorError> {
        let names = |list: &str| list.split(',').map(str::to_owned).collect::<Vec<_>>();
        let channel = |name: &str| name.parse::<Channel>().map_err(|why| AuthorError::refused(format!("{name:?}: {why}")));
        for (name, value) in &self.channels {
            let (threshold, keys) = value.split_once(':').map_or((value.as_str(), None), |(count, keys)| (count, Some(keys)));
            let threshold = threshold.parse::<usize>().map_err(|_| {
                AuthorError::refused(format!("--channel {name}={value}: expected a number of keys, as in --channel {name}=2"))
            })?;
            let channel = channel(name)?;
            let known = root.release.get(&channel).map(|role| role.keys.clone());
            let keys = keys.map(names).or(known).unwrap_or_else(|| everybody.to_vec());
            root.release.insert(channel, Role { threshold, keys });
        }
        for (name, keys) in &self.alive {
            root.alive.insert(channel(name)?, Role { threshold: 1, keys: names(keys) });
        }
        for (name, keys) in &self.branches {
            root.commit.insert(name.clone(), Role { threshold: 1, keys: names(keys) });
        }
        Ok(())
    }

    /// Whether a key is named for something in particular.
    pub(super) fn names(&self, key: &str) -> bool {
        if self.root_keys.iter().any(|name| name == key) {
            return true;
        }
        let channels = self.channels.iter().filter_map(|(_, value)| Some(value.split_once(':')?.1));
        let others = self.alive.iter().chain(&self.branches).map(|(_, value)| value.as_str());
        channels.chain(others).any(|list| list.split(',').any(|name| name == key))
    }
}

pub(super) fn run(args: &InitArgs) -> Result<ExitCode, AuthorError> {
    let desk = Desk::open(&args.common.repo)?;
    if !roots_of(&desk)?.0.is_empty() {
        return Err(AuthorError::refused(format!(
            "{} is there already: a repository has one first root; `trimtab trust rotate` makes the next",
            desk.folder().join(Root::path(1)).display()
        )));
    }
    let keys: Result<Vec<NamedKey>, AuthorError> =
        args.keys.iter().map(|(name, key)| Ok(NamedKey { name: name.clone(), key: roots::key(key)? })).collect();
    let keys = keys?;
    let everybody: Vec<String> = if args.roles.root_keys.is_empty() {
        keys.iter().map(|named| named.name.clone()).filter(|name| !args.roles.names(name) || args.keys.len() == 1).collect()
    } else {
        args.roles.root_keys.clone()
    };
    if everybody.is_empty() {
        return Err(AuthorError::refused(
            "each of these keys is named for something in particular, and so none may replace the root: say which may, with --root-keys KEY,…",
        ));
    }
    let threshold = args.threshold.unwrap_or(majority(everybody.len()));
    let own = Role { threshold, keys: everybody.clone() };
    let mut root = Root {
        repo: args.repo_id.clone().map_or_else(new_id, Ok)?,
        version: 1,
        epoch: 1,
        keys,
        root: own.clone(),
        release: BTreeMap::new(),
        alive: BTreeMap::new(),
        commit: BTreeMap::new(),
    };
    args.roles.apply(&mut root, &everybody)?;
    if root.release.is_empty() {
        root.release.insert("production".parse().expect("because it is a plain word"), own);
    }
    let mut roots = Roots(vec![checked(&root)?]);
    let signed = sign::sign_all(&desk, &mut roots, &args.signing)?;
    super::write(&desk, &roots)?;
    show::tell(&roots, &signed, args.common.json)
}

/// The version that a root becomes once it is written: what is written must be what devices will read.
pub(super) fn checked(root: &Root) -> Result<Version, AuthorError> {
    let text = root.to_text();
    let root = Root::parse(&Root::path(root.version), &text).map_err(|findings| AuthorError::refused(findings.draw(false)))?;
    Ok(Version { root, text, signatures: Vec::new() })
}

/// The kernel makes UUIDs, in the very form.
fn new_id() -> Result<RepoId, AuthorError> {
    let path = std::path::PathBuf::from("/proc/sys/kernel/random/uuid");
    let text = std::fs::read_to_string(&path).map_err(|source| AuthorError::File { path, source })?;
    text.trim().parse().map_err(AuthorError::refused)
}
