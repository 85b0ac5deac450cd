//! The one place where a release becomes believed.
//!
//! Guarantees: only a statement that the threshold of the channel's keys in the newest root signed is read; it is bound to repository, channel, tag,
//! commit, tree and root; epoch and sequence never go down, and never say two things; a root that was believed stays so, whatever becomes of the
//! release that brought it. What is to be remembered is handed back before anything follows from it.
//! Limits: a freeze inside of a statement's life is only seen by an `alive` statement. Who signs bad content is not stopped here.

use gix_hash::ObjectId;
use trimtab_model::digest::Digest;

use super::begin;
use super::blocks;
use super::chain::{self, ChainError, Followed};
use super::commit::{self, MAX_COMMIT};
use super::fault::ReleaseFault;
use super::fresh::{self, Freshness};
use super::hash::{FetchError, Proved, Verified};
use super::keys::TrustConfig;
use super::memory::{Memory, Moment, Passed, Released};
use super::policy::{Anchor, OnStale, ReleasePolicy, RootFile};
use super::prove::Proven;
use super::pubkey::Fingerprint;
use super::state::TrustState;
use super::statement::{RELEASE, Statement};
use super::tag::{MAX_TAG, Tag};
use super::threshold::{NamedKey, Over, RELEASE_NAMESPACE};
use super::verdict::Verdict;
use crate::wire::{ObjectError, ObjectKind, ObjectSource};

/// So far into the future a statement may be dated, in seconds: clocks differ.
pub(super) const AHEAD: u64 = 600;
/// The most bytes of a tag and its commit together.
const BUDGET: u64 = MAX_TAG + MAX_COMMIT;

/// What a look at the source's newest came to.
#[derive(Debug)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// What is to be remembered, durably, before anything follows from it, and also when the verdict is a refusal (a new root). `None`: nothing new.
    pub memory: Option<Memory>,
    /// What a person should know beside.
    pub remarks: Vec<String>,
}

/// What release mode is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// What trust.toml asks for.
    pub policy: &'a ReleasePolicy,
    /// Where trust begins.
    pub anchor: &'a Anchor,
}

impl<'a> Rules<'a> {
    /// Those of a configuration in release mode.
    pub fn of(trust: &'a TrustConfig) -> Option<Self> {
        match (trust.mode(), trust.anchor()) {
            (super::policy::Mode::Release(policy), Some(anchor)) => Some(Self { policy, anchor }),
            _ => None,
        }
    }
}

/// Looks at the tag `tag`, and at the `alive` tag beside it.
pub fn judge(
    tag: ObjectId,
    alive: Option<ObjectId>,
    source: &mut impl ObjectSource,
    rules: Rules<'_>,
    before: &Memory,
    moment: Moment,
) -> Judged {
    let mut memory = before.clone();
    let mut remarks = Vec::new();
    let verdict = examine(tag, source, rules, &mut memory, &mut remarks, moment).unwrap_or_else(|verdict| verdict);
    if let (Some(alive), Some(root)) = (alive, memory.root.clone()) {
        match fresh::hear(alive, source, &root.root, rules, &memory, moment) {
            Ok(Some(heard)) => memory.alive = Some(heard),
            Ok(None) => {}
            Err(why) => remarks.push(format!("the `alive` statement of the channel does not count: {why}")),
        }
    }
    let verdict = held_back(verdict, rules, before, &mut memory, moment);
    Judged { verdict, memory: (memory != *before).then_some(memory), remarks }
}

/// With `on-stale = "hold"` what is not known to be fresh is not taken; the root that came with it is.
fn held_back(verdict: Verdict, rules: Rules<'_>, before: &Memory, memory: &mut Memory, moment: Moment) -> Verdict {
    let Verdict::Accepted(_) = &verdict else { return verdict };
    let freshness = fresh::freshness(memory, rules, moment);
    if rules.policy.on_stale == OnStale::Continue || freshness == Freshness::Fresh {
        return verdict;
    }
    let mut held = before.clone();
    if let (Some(root), Some(pin)) = (memory.root.take(), memory.pin) {
        held.believe(root, pin);
    }
    held.alive = memory.alive.take();
    *memory = held;
    ReleaseFault::Stale { why: freshness.words() }.into()
}

/// The tag, taken apart, and the tree that its commit names.
struct Subject<'b> {
    tag: Tag,
    bytes: &'b [u8],
    /// Where its text ends and its signatures begin.
    end: usize,
    blocks: Vec<blocks::Block<'b>>,
    tree: ObjectId,
}

fn examine(
    id: ObjectId,
    source: &mut impl ObjectSource,
    rules: Rules<'_>,
    memory: &mut Memory,
    remarks: &mut Vec<String>,
    moment: Moment,
) -> Result<Verdict, Verdict> {
    let object = tag_object(id, source, rules)?;
    let subject = subject(&object, source)?;
    let followed = roots(subject.tree, source, rules, memory)?;
    // Persisted whatever follows: a host that has seen a root never goes back behind it.
    begin::believe(&followed.newest, rules.anchor, memory, remarks).map_err(ReleaseFault::Root)?;
    if let Some(fault) = followed.fault {
        return Err(ReleaseFault::Root(fault).into());
    }
    let (statement, signers) = signed(&subject, rules, &followed.newest)?;
    bind(&statement, &subject, rules, &followed.newest)?;
    begin::settle(subject.tree, source, memory, remarks).map_err(of_chain)?;
    let digest = Digest::of(&subject.bytes[..subject.end]);
    let passed = memory.passed(statement.repo.as_str(), statement.channel.as_str());
    let is_new = order(&statement, &digest, rules, passed.as_ref())?;
    time(&statement, is_new, memory, passed.as_ref(), moment)?;
    let seen = Seen { tag: id, statement, digest, signers: &signers, root: followed.newest.root.version };
    Ok(accept(seen, memory, passed.as_ref(), moment))
}

fn tag_object(id: ObjectId, source: &mut impl ObjectSource, rules: Rules<'_>) -> Result<Proved, Verdict> {
    match Verified::new(source, BUDGET).one(ObjectKind::Tag, id, MAX_TAG) {
        Err(error @ FetchError::Source(ObjectError::Missing { .. })) => {
            // A source cannot say what else it is; what hashes to the id as a commit is one.
            match Verified::new(source, BUDGET).one(ObjectKind::Commit, id, MAX_COMMIT) {
                Ok(_) => Err(ReleaseFault::NotATag { reference: rules.policy.channel.reference() }.into()),
                Err(_) => Err(of_fetch(error)),
            }
        }
        other => other.map_err(of_fetch),
    }
}

fn subject<'b>(object: &'b Proved, source: &mut impl ObjectSource) -> Result<Subject<'b>, Verdict> {
    let bytes = object.bytes();
    let malformed = |what: &str| Verdict::from(ReleaseFault::Malformed { what: what.to_owned() });
    let tag = Tag::parse(object.id().kind(), bytes).map_err(|error| malformed(error.what))?;
    if !bytes[tag.message..].starts_with(format!("{RELEASE}\n").as_bytes()) {
        return Err(ReleaseFault::NotARelease.into());
    }
    let (end, blocks) = blocks::split(bytes).map_err(|error| malformed(error.0))?;
    if end < tag.message {
        return Err(malformed("a signature begins within its headers"));
    }
    let commit = Verified::new(source, BUDGET).one(ObjectKind::Commit, tag.object, MAX_COMMIT).map_err(of_fetch)?;
    let tree = commit::tree(&commit).map_err(|error| malformed(error.what))?;
    Ok(Subject { tag, bytes, end, blocks, tree })
}

/// The newest root: from the one that is remembered, or the pinned one, onwards through the tree.
fn roots(tree: ObjectId, source: &mut impl ObjectSource, rules: Rules<'_>, memory: &Memory) -> Result<Followed, Verdict> {
    begin::first(tree, source, rules.anchor, memory).and_then(|first| chain::follow(first, tree, source)).map_err(of_chain)
}

fn signed(subject: &Subject<'_>, rules: Rules<'_>, root: &RootFile) -> Result<(Statement, Vec<NamedKey>), Verdict> {
    let channel = &rules.policy.channel;
    let version = root.root.version;
    let no_role = || ReleaseFault::NoRole { channel: channel.to_string(), root: version };
    let role = root.root.release.get(channel).ok_or_else(no_role)?;
    let tally = root.root.quorum(role).count(&subject.blocks, Over::Before(subject.bytes), RELEASE_NAMESPACE);
    let tally = tally.map_err(|why| ReleaseFault::Quorum { channel: channel.to_string(), root: version, why })?;
    let text = &subject.bytes[subject.tag.message..subject.end];
    let statement = Statement::parse(text).map_err(ReleaseFault::Statement)?;
    Ok((statement, tally.signers))
}

fn bind(statement: &Statement, subject: &Subject<'_>, rules: Rules<'_>, root: &RootFile) -> Result<(), ReleaseFault> {
    if statement.repo != rules.anchor.repo {
        return Err(ReleaseFault::Repo { want: rules.anchor.repo.to_string(), found: statement.repo.to_string() });
    }
    if statement.channel != rules.policy.channel {
        return Err(ReleaseFault::Channel { want: rules.policy.channel.to_string(), found: statement.channel.to_string() });
    }
    let same = |field, want: String, found: String| {
        if want == found { Ok(()) } else { Err(ReleaseFault::Mismatch { field, want, found }) }
    };
    same("commit", subject.tag.object.to_string(), statement.commit.to_string())?;
    same("tree", subject.tree.to_string(), statement.tree.to_string())?;
    let name = statement.tag_name();
    same("tag", subject.tag.name.chars().take(100).collect(), name)?;
    if statement.root > root.root.version {
        return Err(ReleaseFault::RootMissing { want: statement.root, have: root.root.version });
    }
    if statement.place.epoch != root.root.epoch {
        return Err(ReleaseFault::Epoch { want: root.root.epoch, found: statement.place.epoch });
    }
    Ok(())
}

/// Whether it is newer than what was accepted of this channel before; the same is not.
fn order(statement: &Statement, digest: &Digest, rules: Rules<'_>, passed: Option<&Passed>) -> Result<bool, ReleaseFault> {
    let (floor, found) = (rules.policy.floor, statement.place);
    if found < floor {
        return Err(ReleaseFault::BelowFloor { floor, found });
    }
    match passed {
        None => Ok(true),
        Some(passed) if found < passed.place => Err(ReleaseFault::Older { have: passed.place, found }),
        Some(passed) if found > passed.place => Ok(true),
        Some(passed) if passed.statement == *digest => Ok(false),
        Some(_) => Err(ReleaseFault::Equivocation { place: found }),
    }
}

/// What time it is for this statement; a first sight of it may be too late or too early.
fn time(statement: &Statement, is_new: bool, memory: &Memory, passed: Option<&Passed>, moment: Moment) -> Result<(), ReleaseFault> {
    let floor = memory.floor(statement.place.epoch, passed);
    let now = moment.clock.max(floor);
    if moment.synchronised && statement.issued > now + AHEAD {
        return Err(ReleaseFault::Future { issued: statement.issued, now });
    }
    // A clock that nobody keeps may be years ahead: only what has certainly passed counts then.
    let certain = if moment.synchronised { now } else { floor };
    if is_new && statement.expires < certain {
        return Err(ReleaseFault::Expired { expires: statement.expires, now: certain, clock: moment.clock });
    }
    Ok(())
}

/// A statement that nothing speaks against.
struct Seen<'s> {
    tag: ObjectId,
    statement: Statement,
    digest: Digest,
    signers: &'s [NamedKey],
    root: u64,
}

fn accept(seen: Seen<'_>, memory: &mut Memory, passed: Option<&Passed>, moment: Moment) -> Verdict {
    let Seen { tag, statement, digest, signers, root } = seen;
    let names: Vec<String> = signers.iter().map(ToString::to_string).collect();
    let epoch = statement.place.epoch;
    let now = moment.clock.max(memory.floor(epoch, passed));
    let (repo, channel) = (statement.repo.as_str(), statement.channel.as_str());
    let is_it = |release: &&Released| release.is_of(repo, channel) && release.statement == digest;
    let same = memory.release.as_ref().filter(is_it).map(|release| release.since);
    let (accepted, is_same) = if let (Some(accepted), Some(_)) = (memory.accepted.clone(), same) {
        (accepted, true)
    } else {
        if passed.is_some() {
            memory.lost = None;
        }
        // What was issued later in this epoch has been seen: time does not go back with a statement that is dated earlier.
        memory.reached(epoch, passed.filter(|passed| passed.place.epoch == epoch).map_or(0, |passed| passed.issued));
        let print = signers.first().map_or_else(|| Fingerprint::of(b""), |named| Fingerprint::of(named.key.print().as_bytes()));
        let reference = statement.channel.reference();
        let state = TrustState::new(reference, statement.commit, digest, (print, names.join(", ")), now, 0).of_release();
        (state, false)
    };
    // By a clock that nobody keeps it may be any year.
    let since = if moment.synchronised { now } else { statement.issued };
    memory.take(Released {
        repo: repo.to_owned(),
        channel: channel.to_owned(),
        place: statement.place,
        statement: digest,
        tag,
        root,
        issued: statement.issued,
        expires: statement.expires,
        since: same.unwrap_or(since),
        signers: names.clone(),
    });
    memory.accepted = Some(accepted.clone());
    let proven = Proven::of_release(statement.commit, statement.tree, names, passed.is_none(), accepted);
    if is_same { Verdict::Unchanged(Box::new(proven)) } else { Verdict::Accepted(Box::new(proven)) }
}

pub(super) fn of_chain(error: ChainError) -> Verdict {
    match error {
        ChainError::Fetch(error) => of_fetch(error),
        ChainError::Root(fault) => ReleaseFault::Root(fault).into(),
    }
}

pub(super) fn of_fetch(error: FetchError) -> Verdict {
    match error {
        FetchError::Oversize { .. } | FetchError::Budget { .. } | FetchError::Source(ObjectError::TooLarge { .. }) => {
            let what = "it, its commit, or a root in its tree is larger than it may be".to_owned();
            ReleaseFault::Malformed { what }.into()
        }
        FetchError::Collision { .. } => Verdict::Collision,
        error @ (FetchError::Mismatch { .. } | FetchError::Count { .. }) => Verdict::WrongObject { source: error },
        error @ FetchError::Source(_) => Verdict::Unavailable { source: error },
    }
}
