//! The commits of a bundle: a branch of a clone, or the release that hosts of a channel are served.
//!
//! A clone does not follow releases by itself, so the remote is asked what the channel is at: a stick with a release that was overtaken would be
//! refused on site. Guarantees: of what the clone and its remote have, the newer release is taken that a host would take, by the hosts' own code:
//! whoever may push can put a higher number there; nothing in the clone is changed. Limits: a host that has seen more than both refuses it on site.

use std::fs;
use std::path::Path;

use gix_hash::ObjectId;

use crate::author::AuthorError;
use crate::author::desk::Desk;
use crate::author::draft::{Draft, Said};
use crate::author::reach::{Reach, Reached};
use crate::author::roots::Roots;
use crate::cli::enrol::trust_by_digest;
use crate::trust::decide::decide;
use crate::trust::keys::TrustConfig;
use crate::trust::memory::{Memory, Moment};
use crate::trust::release::Judged;
use crate::trust::root::{Root, pin_of};
use crate::trust::statement::{Channel, Statement, show_time};
use crate::trust::tag::MAX_TAG;

/// What goes into a bundle.
pub(super) struct Commits {
    /// By the names that hosts look for; the first is what they follow.
    references: Vec<(String, ObjectId)>,
    /// The release, for people.
    pub(super) release: Option<String>,
    /// When it runs out, seconds since 1970.
    pub(super) expires: Option<u64>,
}

impl Commits {
    /// A branch.
    pub(super) fn of_branch(desk: &Desk, branch: &str) -> Result<Self, AuthorError> {
        let name = format!("refs/heads/{branch}");
        let tip = desk.reference(&name)?.ok_or_else(|| {
            AuthorError::refused(format!(
                "there is no branch {branch:?} in {}: name one with --rev BRANCH",
                desk.folder().display()
            ))
        })?;
        Ok(Self { references: vec![(name, tip)], release: None, expires: None })
    }

    /// What a channel is at, and who keeps it alive. `remote`: whom to ask, if the clone has it.
    pub(super) fn of_channel(desk: &Desk, channel: &Channel, remote: Option<&str>) -> Result<Self, AuthorError> {
        let remote = remote.filter(|remote| desk.has_remote(remote));
        if let Some(remote) = remote {
            desk.fetch(remote).map_err(|error| {
                AuthorError::refused(format!("{error}\nto take what this clone has, without asking {remote}, say --offline"))
            })?;
        }
        let here = |name: &str| desk.reference(name).map(|object| object.map(|object| (object, "this clone".to_owned())));
        let there = |name: &str| match remote {
            Some(remote) => desk.remote_reference(remote, name).map(|object| object.map(|object| (object, remote.to_owned()))),
            None => Ok(None),
        };
        let name = channel.reference();
        let (mine, theirs) = (here(&name)?, there(&name)?);
        if mine.is_none() && theirs.is_none() {
            let asked = remote.map_or_else(String::new, |remote| format!(" or at {remote}"));
            return Err(AuthorError::refused(format!(
                "nothing was released to {channel} in {}{asked}: there is no {name}; `trimtab release {channel} --push` makes a release",
                desk.folder().display()
            )));
        }
        // Trust begins where it began for what this clone has seen in force, and with what is checked out; whoever may push makes what the remote has.
        let trust = trust(desk, channel, mine.as_ref().map(|(object, _)| *object), theirs.as_ref().map(|(object, _)| *object))?;
        let mut host = Host {
            desk,
            trust,
            reached: Reached::new(&desk.git_dir().to_string_lossy(), &Reach::default())?,
            memory: Memory::default(),
        };
        let mut best: Option<(ObjectId, Statement)> = None;
        for (object, place) in mine.into_iter().chain(theirs) {
            match host.takes(object) {
                Ok(statement) => best = Some((object, statement)),
                Err(why) => tracing::warn!("{name} of {place} ({object}) is passed over, as by hosts: {why}"),
            }
        }
        let Some((tag, statement)) = best else {
            return Err(AuthorError::refused(format!(
                "no host would take what stands at {name}, for the reasons above: find out who put it there; `trimtab release {channel} --push` makes a release, and `trimtab verify` tells more"
            )));
        };
        let (release, expires) = (Some(statement.tag_name()), Some(statement.expires));
        let mut references = vec![(name, tag)];
        let name = channel.alive_reference();
        let mut alive = None;
        for (object, place) in here(&name)?.into_iter().chain(there(&name)?) {
            match host.hears(tag, object) {
                Ok(()) => alive = Some(object),
                Err(why) => tracing::warn!("{name} of {place} ({object}) is passed over, as by hosts: {why}"),
            }
        }
        references.extend(alive.map(|alive| (name, alive)));
        Ok(Self { references, release, expires })
    }

    /// The object that hosts follow.
    pub(super) fn tip(&self) -> ObjectId {
        self.references[0].1
    }

    /// What a person should know of the release.
    pub(super) fn words(&self, now: u64) -> String {
        let (Some(release), Some(expires)) = (&self.release, self.expires) else { return String::new() };
        let late = if expires < now { "; it has run out: only hosts that have it already take it, make a new one" } else { "" };
        format!(", {release}, good until {}{late}", show_time(expires))
    }

    /// Writes them as a git bundle, out of a repository in `scratch` that has these names, and borrows the objects.
    pub(super) fn write(&self, desk: &Desk, scratch: &Path, to: &Path) -> Result<(), AuthorError> {
        let failed = |source| AuthorError::File { path: scratch.to_owned(), source };
        let folder = scratch.join("names.git");
        let format = self.tip().kind().to_string();
        desk.bare(&folder, &format)?;
        let borrowed = format!("{}\n", desk.git_dir().join("objects").display());
        fs::write(folder.join("objects/info/alternates"), borrowed).map_err(failed)?;
        let names = Desk::open(&folder)?;
        for (name, object) in &self.references {
            names.set(name, Some(*object), None)?;
        }
        names.bundle(to, self.references.iter().map(|(name, _)| name.as_str()))?;
        fs::remove_dir_all(&folder).map_err(failed)
    }
}

/// What a host enrolled with the first root would make of each, one after the other.
struct Host<'d> {
    desk: &'d Desk,
    trust: TrustConfig,
    reached: Reached,
    memory: Memory,
}

impl Host<'_> {
    /// Has it judge a release, at the time when that was made: what has run out is told, and is still the newest.
    fn takes(&mut self, tag: ObjectId) -> Result<Statement, String> {
        let draft = self.read(tag)?;
        let Said::Release(statement) = draft.said else { return Err("it is no release".to_owned()) };
        let judged = self.judge(tag, None, statement.issued);
        if judged.verdict.proven().is_none() {
            return Err(format!("{} ({})", judged.verdict, judged.verdict.code()));
        }
        self.memory = judged.memory.unwrap_or_else(|| self.memory.clone());
        Ok(statement)
    }

    /// Has it judge who keeps that release alive.
    fn hears(&mut self, tag: ObjectId, alive: ObjectId) -> Result<(), String> {
        let Said::Alive(said) = self.read(alive)?.said else { return Err("it is no alive statement".to_owned()) };
        let judged = self.judge(tag, Some(alive), said.issued);
        if let Some(remark) = judged.remarks.first() {
            return Err(remark.clone());
        }
        self.memory = judged.memory.unwrap_or_else(|| self.memory.clone());
        Ok(())
    }

    fn read(&self, tag: ObjectId) -> Result<Draft, String> {
        let read = self.desk.tag(tag, MAX_TAG).and_then(|bytes| Draft::parse(tag.kind(), bytes));
        read.map_err(|error| crate::log::chain(&error))
    }

    fn judge(&mut self, tag: ObjectId, alive: Option<ObjectId>, clock: u64) -> Judged {
        decide(tag, alive, self.reached.courier(), &self.trust, &self.memory, Moment { clock, synchronised: true })
    }
}

/// Trust that begins with the first root of the first of these commits that has one.
fn trust(desk: &Desk, channel: &Channel, mine: Option<ObjectId>, theirs: Option<ObjectId>) -> Result<TrustConfig, AuthorError> {
    let of_tag = |tag: ObjectId| Draft::parse(tag.kind(), desk.tag(tag, MAX_TAG).ok()?).ok().map(|draft| draft.commit);
    let commits = [mine.and_then(of_tag), desk.commit("HEAD").ok(), theirs.and_then(of_tag)];
    let first =
        commits.into_iter().flatten().find_map(|commit| Roots::read(|path| desk.file(commit, path)).ok()?.0.into_iter().next());
    let Some(first) = first else {
        return Err(AuthorError::refused(format!(
            "there is no {} where trust could begin: neither in a release to {channel} nor in what is checked out in {}",
            Root::path(1),
            desk.folder().display()
        )));
    };
    trust_by_digest(channel, &first.root.repo, &pin_of(&first.text))
}
