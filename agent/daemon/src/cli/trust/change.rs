//! `trimtab trust rotate` and `revoke`: the next root file.

use std::process::ExitCode;

use clap::Args;

use super::init::{Roles, checked};
use super::{Common, Signing, pair, roots_of, show, sign, write};
use crate::author::AuthorError;
use crate::author::desk::Desk;
use crate::author::draft::Draft;
use crate::author::roots::{self, Roots};
use crate::trust::root::{Role, Root};
use crate::trust::statement::{Channel, MAX_NUMBER, REFS};
use crate::trust::tag::MAX_TAG;
use crate::trust::threshold::NamedKey;

/// `trimtab trust rotate`.
#[derive(Debug, Args)]
pub(super) struct RotateArgs {
    /// Take this key out, by its name. May be given several times.
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
    #[command(flatten)]
    next: Next,
}

/// `trimtab trust revoke`.
#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The name of the key.
    #[arg(value_name = "NAME", required = true)]
    keys: Vec<String>,
    #[command(flatten)]
    next: Next,
}

/// What else the next root says.
#[derive(Debug, Args)]
pub(super) struct Next {
    /// Put this key in. With as many --remove, each takes the place of the one removed, wherever that stood; otherwise it may do what the root's
    /// keys may, unless --channel, --alive or --branch name it for something. May be given several times.
    #[arg(long, value_name = "NAME=KEY", value_parser = pair)]
    add: Vec<(String, String)>,
    /// How many keys it takes to replace the root.
    #[arg(long, value_name = "N")]
    threshold: Option<usize>,
    #[command(flatten)]
    roles: Roles,
    /// Give a channel up: nothing is released to it any more, and nobody keeps it alive. May be given several times.
    #[arg(long, value_name = "NAME")]
    drop_channel: Vec<Channel>,
    /// Nobody says any more how far this channel has come: until when a release is fresh, it says itself. May be given several times.
    #[arg(long, value_name = "CHANNEL")]
    drop_alive: Vec<Channel>,
    /// No commit of this branch counts any more on hosts in commit mode. May be given several times.
    #[arg(long, value_name = "BRANCH")]
    drop_branch: Vec<String>,
    /// Begin a new epoch: every release signed before it stops being accepted, whatever its number. After the theft of as many keys as a
    /// release takes.
    #[arg(long)]
    new_epoch: bool,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    common: Common,
}

pub(super) fn rotate(args: &RotateArgs) -> Result<ExitCode, AuthorError> {
    let (desk, roots, signed) = make(&args.remove, &args.next)?;
    write(&desk, &roots)?;
    if !args.next.common.json && !args.next.drop_channel.is_empty() {
        super::super::say(&(what_is_dropped(&args.next, &roots.newest()?.root) + "\n"));
    }
    show::tell(&roots, &signed, args.next.common.json)
}

pub(super) fn revoke(args: &RevokeArgs) -> Result<ExitCode, AuthorError> {
    let (desk, roots, signed) = make(&args.keys, &args.next)?;
    write(&desk, &roots)?;
    if !args.next.common.json {
        super::super::say(&what_stops(&desk, &roots, &args.keys)?);
    }
    show::tell(&roots, &signed, args.next.common.json)
}

fn make(remove: &[String], next: &Next) -> Result<(Desk, Roots, Vec<String>), AuthorError> {
    let desk = Desk::open(&next.common.repo)?;
    let mut roots = roots_of(&desk)?;
    let old = roots.in_force().map_err(|error| {
        AuthorError::refused(format!(
            "{error}\nOne root at a time: complete it, or take its two files away, before the next is made"
        ))
    })?;
    let root = successor(&old.root, remove, next)?;
    roots.0.push(checked(&root)?);
    let signed = sign::sign_all(&desk, &mut roots, &next.signing)?;
    Ok((desk, roots, signed))
}

fn successor(old: &Root, remove: &[String], next: &Next) -> Result<Root, AuthorError> {
    let mut root = old.clone();
    root.version += 1;
    if next.new_epoch {
        root.epoch = root
            .epoch
            .checked_add(1)
            .filter(|epoch| *epoch <= MAX_NUMBER)
            .ok_or_else(|| AuthorError::refused("there is no further epoch"))?;
    }
    for name in remove {
        if old.key(name).is_none() {
            let names: Vec<&str> = old.keys.iter().map(|named| named.name.as_str()).collect();
            return Err(AuthorError::refused(format!("root {} has no key {name:?}; it has {}", old.version, names.join(", "))));
        }
    }
    root.keys.retain(|named| !remove.contains(&named.name));
    for (name, key) in &next.add {
        if root.key(name).is_some() {
            return Err(AuthorError::refused(format!(
                "root {} has a key {name:?} already: give the new one another name",
                old.version
            )));
        }
        root.keys.push(NamedKey { name: name.clone(), key: roots::key(key)? });
    }
    let swaps = next.add.len() == remove.len();
    let replace = |role: &mut Role| {
        for (at, name) in remove.iter().enumerate() {
            let Some(place) = role.keys.iter().position(|key| key == name) else { continue };
            if swaps { role.keys[place].clone_from(&next.add[at].0) } else { drop(role.keys.remove(place)) }
        }
    };
    replace(&mut root.root);
    root.release.values_mut().chain(root.alive.values_mut()).chain(root.commit.values_mut()).for_each(replace);
    if !swaps {
        let everywhere = next.add.iter().map(|(name, _)| name).filter(|name| !next.roles.names(name));
        for name in everywhere {
            root.root.keys.push(name.clone());
            root.release.values_mut().for_each(|role| role.keys.push(name.clone()));
        }
    }
    if !next.roles.root_keys.is_empty() {
        root.root.keys.clone_from(&next.roles.root_keys);
    }
    if let Some(threshold) = next.threshold {
        root.root.threshold = threshold;
    }
    let everybody = root.root.keys.clone();
    drop_roles(&mut root, next)?;
    next.roles.apply(&mut root, &everybody)?;
    enough(&root)?;
    let same = Root { version: old.version, ..root.clone() } == *old;
    if same {
        return Err(AuthorError::refused(
            "nothing would change: say what with --add, --remove, --threshold, --root-keys, --channel, --alive, --branch, --drop-channel, --drop-alive, --drop-branch or --new-epoch",
        ));
    }
    Ok(root)
}

/// Takes out what is given up.
fn drop_roles(root: &mut Root, next: &Next) -> Result<(), AuthorError> {
    let version = root.version - 1;
    let missing = |what: &str, name: &str, there: Vec<String>| {
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        Err(AuthorError::refused(format!("root {version} has no {what} {name:?}; it has {there}")))
    };
    for channel in &next.drop_channel {
        if root.release.remove(channel).is_none() {
            return missing("channel", channel.as_str(), root.release.keys().map(ToString::to_string).collect());
        }
        root.alive.remove(channel);
    }
    for channel in &next.drop_alive {
        let is_dropped = next.drop_channel.contains(channel);
        if root.alive.remove(channel).is_none() && !is_dropped {
            return missing("[alive] for the channel", channel.as_str(), root.alive.keys().map(ToString::to_string).collect());
        }
    }
    for branch in &next.drop_branch {
        if root.commit.remove(branch).is_none() {
            return missing("[commit] for the branch", branch, root.commit.keys().cloned().collect());
        }
    }
    Ok(())
}

/// What hosts have of a channel that was given up.
fn what_is_dropped(next: &Next, root: &Root) -> String {
    let other = root.release.keys().next().map_or("OTHER", Channel::as_str);
    let channels = next.drop_channel.iter().map(|channel| {
        format!(
            "Hosts that follow {channel} look at {channel} only and do not see this root: who could release to them still can. Move them to another \
             channel first (`channel` in trust.toml). To close {channel} for those that stay behind, show them this root: once a release to {other} \
             carries it, `git push origin +{REFS}{other}:{REFS}{channel}`. They keep what they have, and take nothing new.\n"
        )
    });
    channels.collect()
}

/// Said in the words of what was asked for, where the parser would point into a file that is not there yet.
fn enough(root: &Root) -> Result<(), AuthorError> {
    let nobody = |what: &str, name: &str, drop: &str| {
        Err(AuthorError::refused(format!(
            "nobody would be left to {what} {name}: name another key with --{drop} {name}=KEY, or say --drop-{drop} {name}"
        )))
    };
    if let Some((channel, _)) = root.alive.iter().find(|(_, role)| role.keys.is_empty()) {
        return nobody("keep alive", channel.as_str(), "alive");
    }
    if let Some((branch, _)) = root.commit.iter().find(|(_, role)| role.keys.is_empty()) {
        return nobody("sign commits of", branch, "branch");
    }
    let roles = [("replace the root".to_owned(), &root.root)].into_iter();
    let roles = roles.chain(root.release.iter().map(|(channel, role)| (format!("release to {channel}"), role)));
    for (what, role) in roles {
        if role.keys.len() < role.threshold {
            return Err(AuthorError::refused(format!(
                "it takes {} keys to {what}, and {} would be left ({}): add another with --add, or lower the threshold with --threshold N or --channel NAME=N",
                role.threshold,
                role.keys.len(),
                role.keys.join(", ")
            )));
        }
    }
    Ok(())
}

/// Where releases are pushed to, unless somebody says otherwise.
const ORIGIN: &str = "origin";

/// What the releases in force are worth under the new root.
fn what_stops(desk: &Desk, roots: &Roots, keys: &[String]) -> Result<String, AuthorError> {
    let newest = &roots.newest()?.root;
    if desk.has_remote(ORIGIN) {
        // Without a network, by what was seen last.
        let _ = desk.fetch(ORIGIN);
    }
    let mut text = format!(
        "{} stops counting on each device from the poll in which it sees root {}, complete, in a release.\n",
        keys.join(", "),
        newest.version
    );
    for (channel, role) in &newest.release {
        let reference = format!("{REFS}{channel}");
        let seen = [desk.remote_reference(ORIGIN, &reference)?, desk.reference(&reference)?];
        let parsed =
            seen.into_iter().flatten().filter_map(|object| Draft::parse(object.kind(), desk.tag(object, MAX_TAG).ok()?).ok());
        let Some(draft) = parsed.max_by_key(|draft| draft.said.place()) else { continue };
        let (signers, _) = draft.signers(&newest.quorum(role));
        let place = draft.said.place();
        if place.epoch != newest.epoch {
            text.push_str(&format!(
                "{channel}/{place} is of an older epoch and stops being accepted; hosts that have it keep it.\n"
            ));
        } else if signers.len() < role.threshold {
            text.push_str(&format!(
                "{channel}/{place} has {} of {} signatures that still count and stops being accepted; hosts that have it keep it.\n",
                signers.len(),
                role.threshold
            ));
        }
        text.push_str(&format!(
            "  Next for {channel}: once root {} is complete and pushed, `trimtab release {channel} --push`.\n",
            newest.version
        ));
    }
    text.push('\n');
    Ok(text)
}
