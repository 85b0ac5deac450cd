//! One run of `trimtab release`: the clone, what its remote has, and the rule that a statement must satisfy.

use gix_hash::ObjectId;
use trimtab_model::finding::Findings;

use super::ReleaseArgs;
use super::preview::{Row, fleet, preview};
use crate::author::AuthorError;
use crate::author::desk::Desk;
use crate::author::draft::{Draft, Said};
use crate::author::reach::{Reach, Reached};
use crate::author::roots::Roots;
use crate::trust::root::{Role, Root};
use crate::trust::statement::{Channel, Place, REFS};
use crate::trust::tag::MAX_TAG;
use crate::trust::threshold::Quorum;

/// The names of a channel, which no statement may have: it is the folder of the others' drafts.
const DRAFT: &str = "draft";

/// How far an unfinished statement that nobody has signed may run ahead. One made by a program in between (CI prepares, people sign) is one or two ahead.
const LEAP: u64 = 1000;

/// A statement and the tag object that it is in.
pub(super) struct Known {
    pub(super) object: ObjectId,
    pub(super) draft: Draft,
    /// Somebody who may sign for the channel did.
    stands: bool,
}

/// What references point to, whatever that is: who replaces it must have seen it.
#[derive(Default)]
struct Pointed {
    public: Option<ObjectId>,
    seen: Option<ObjectId>,
    here: Option<ObjectId>,
    there: Option<ObjectId>,
}

/// One run.
pub(super) struct Session {
    pub(super) desk: Desk,
    /// The remote, if there is one and it was asked.
    pub(super) remote: Option<String>,
    pub(super) channel: Channel,
    alive: bool,
    /// What the remote serves to hosts; where there is none, what this clone has.
    pub(super) in_force: Option<Known>,
    /// The release in force: the same, but where an `alive` statement is made.
    pub(super) release: Option<Known>,
    /// What this clone saw in force last: a remote that has less was rolled back.
    pub(super) seen: Option<Known>,
    here: Option<Known>,
    there: Option<Known>,
    pointed: Pointed,
    /// The text of the first root, where trust begins: of what this clone saw in force, else of what is in force, else of what is checked out. Not that
    /// before the others: whoever may push to a branch could exchange it.
    first: Option<String>,
    /// What lies where statements belong and is none that counts, and how to take it away.
    pub(super) remarks: Vec<String>,
}

/// Who must sign a statement.
pub(super) struct Rule {
    pub(super) root: Root,
    pub(super) role: Role,
    /// What is signed, for people.
    pub(super) words: String,
    /// What is signed, by its first word.
    pub(super) kind: &'static str,
}

impl Rule {
    pub(super) fn quorum(&self) -> Quorum<'_> {
        self.root.quorum(&self.role)
    }
}

impl Session {
    pub(super) fn open(args: &ReleaseArgs) -> Result<Self, AuthorError> {
        let desk = Desk::open(&args.repo)?;
        let remote = Some(args.remote.clone()).filter(|remote| !args.offline && desk.has_remote(remote));
        match &remote {
            Some(remote) => desk.fetch(remote)?,
            None if args.push => {
                return Err(AuthorError::refused(format!(
                    "this clone has no remote {:?}: name the one that hosts follow with --remote NAME, or --remote . for this very clone",
                    args.remote
                )));
            }
            None => {}
        }
        let mut session = Self {
            desk,
            remote,
            channel: args.channel.clone(),
            alive: args.alive,
            in_force: None,
            release: None,
            seen: None,
            here: None,
            there: None,
            pointed: Pointed::default(),
            first: None,
            remarks: Vec::new(),
        };
        session.look()?;
        Ok(session)
    }

    /// Looks at all that there is of this channel. Whoever may push can put anything there; only what counts is known afterwards.
    fn look(&mut self) -> Result<(), AuthorError> {
        let (public, unfinished, remote) = (self.reference(), self.draft_reference(), self.remote.clone());
        self.pointed = Pointed {
            public: self.pointed(remote.as_deref(), &public)?,
            seen: self.desk.reference(&public)?,
            here: self.desk.reference(&unfinished)?,
            there: remote.as_deref().map(|remote| self.desk.remote_reference(remote, &unfinished)).transpose()?.flatten(),
        };
        let Pointed { public: served, seen, here, there } = self.pointed;
        self.seen = self.known(seen, None, &public)?;
        self.first = self.seen.as_ref().and_then(|known| self.first_of(known.draft.commit));
        self.in_force = self.published(served, &public)?;
        if self.first.is_none() {
            let commit = self.in_force.as_ref().map(|known| known.draft.commit).or_else(|| self.desk.commit("HEAD").ok());
            self.first = commit.and_then(|commit| self.first_of(commit));
        }
        let release = self.channel.reference();
        self.release = self.published(self.pointed(remote.as_deref(), &release)?, &release)?;
        self.here = self.known(here, None, &unfinished)?;
        self.there = self.known(there, remote.as_deref(), &unfinished)?;
        Ok(())
    }

    fn first_of(&self, commit: ObjectId) -> Option<String> {
        self.roots(commit).ok()?.0.into_iter().next().map(|version| version.text)
    }

    fn pointed(&self, remote: Option<&str>, name: &str) -> Result<Option<ObjectId>, AuthorError> {
        match remote {
            Some(remote) => self.desk.remote_reference(remote, name),
            None => self.desk.reference(name),
        }
    }

    /// What is published; where that is nothing that a host could take, what this clone saw last.
    fn published(&mut self, object: Option<ObjectId>, name: &str) -> Result<Option<Known>, AuthorError> {
        let known = self.known(object, self.remote.clone().as_deref(), name)?;
        match (object, known) {
            (Some(object), None) => {
                let seen = self.desk.reference(name)?.filter(|seen| *seen != object);
                self.known(seen, None, name)
            }
            (_, known) => Ok(known),
        }
    }

    /// The statement in a tag object, if it counts; a remark if it does not.
    fn known(&mut self, object: Option<ObjectId>, remote: Option<&str>, name: &str) -> Result<Option<Known>, AuthorError> {
        let Some(object) = object else { return Ok(None) };
        let read = self.desk.tag(object, MAX_TAG).and_then(|bytes| Draft::parse(object.kind(), bytes));
        let why = match read {
            Ok(draft) => {
                let stands = self.stands(&draft);
                if stands || name == self.draft_reference() && !self.leaps(&draft) {
                    return Ok(Some(Known { object, draft, stands }));
                }
                format!("{} there is signed by nobody who may", draft.said.tag_name())
            }
            Err(AuthorError::Failed { .. } | AuthorError::Refused(_)) => "what lies there is no statement".to_owned(),
            Err(error) => return Err(error),
        };
        let (place, away) = match remote.filter(|remote| *remote != ".") {
            Some(remote) => (format!("{name} at {remote}"), format!("git push {remote} :{name}")),
            None => (format!("{name} in this clone"), format!("git update-ref -d {name}")),
        };
        let remark = format!(
            "{place} is passed over, as by hosts: {why}. Whoever may push can put that there; find out who did, and take it away: {away}"
        );
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
        Ok(None)
    }

    /// Whether somebody who may sign for this channel did: by roots that begin where they should, each signed as it must be.
    fn stands(&self, draft: &Draft) -> bool {
        let Ok(roots) = self.roots(draft.commit) else { return false };
        let first = roots.0.first().map(|version| &version.text);
        let complete = roots.0.iter().take_while(|version| Some(&version.text) == first || roots.is_complete(version));
        let is_ours = self.first.is_none() || self.first.as_ref() == first;
        is_ours
            && complete.map(|version| &version.root).any(|root| {
                let roles = if matches!(draft.said, Said::Alive(_)) { &root.alive } else { &root.release };
                roles.get(&self.channel).is_some_and(|role| !draft.signers(&root.quorum(role)).0.is_empty())
            })
    }

    /// Whether it has a number that nobody who prepares a statement comes to.
    fn leaps(&self, draft: &Draft) -> bool {
        let known = [&self.in_force, &self.release, &self.seen].into_iter().flatten();
        let (newest, place) = (known.map(|known| known.draft.said.place()).max().unwrap_or_default(), draft.said.place());
        let from = if place.epoch == newest.epoch { newest.seq } else { 0 };
        place.seq > from.saturating_add(LEAP)
    }

    /// Where hosts look.
    pub(super) fn reference(&self) -> String {
        if self.alive { self.channel.alive_reference() } else { self.channel.reference() }
    }

    /// Where no host looks.
    pub(super) fn draft_reference(&self) -> String {
        let reference = self.reference();
        format!("{REFS}{DRAFT}/{}", reference.strip_prefix(REFS).unwrap_or(&reference))
    }

    /// The newest number of all statements that were seen of this channel; what nobody has signed counts in the epoch that is now only.
    pub(super) fn newest(&self, epoch: u64) -> Place {
        let all = [&self.in_force, &self.release, &self.seen, &self.here, &self.there].into_iter().flatten();
        let counts = all.filter(|known| known.stands || known.draft.said.place().epoch == epoch);
        counts.map(|known| known.draft.said.place()).max().unwrap_or_default()
    }

    /// The statement that is not in force yet: the longer one of here and there.
    pub(super) fn pending(&self) -> Result<Draft, AuthorError> {
        let draft = match (&self.here, &self.there) {
            (None, None) => {
                return Err(AuthorError::refused(format!(
                    "there is no unfinished statement for {}: `trimtab release {}` makes one",
                    self.channel, self.channel
                )));
            }
            (Some(one), None) | (None, Some(one)) => &one.draft,
            (Some(here), Some(there)) if here.draft.is_begin_of(&there.draft) => &there.draft,
            (Some(here), Some(there)) if there.draft.is_begin_of(&here.draft) => &here.draft,
            // The older of two was given up when the newer one was made.
            (Some(here), Some(there)) if here.draft.said.place() > there.draft.said.place() => &here.draft,
            (Some(here), Some(there)) if here.draft.said.place() < there.draft.said.place() => &there.draft,
            (Some(here), Some(there)) => {
                return Err(AuthorError::refused(format!(
                    "two unfinished statements: {} ({}) here, and {} ({}) at the remote, and neither goes on where the other ends; drop yours (git update-ref -d {}), or make a new one and push that",
                    here.draft.said.tag_name(),
                    here.draft.digest().short(),
                    there.draft.said.tag_name(),
                    there.draft.digest().short(),
                    self.draft_reference()
                )));
            }
        };
        if *draft.said.channel() != self.channel {
            return Err(AuthorError::refused(format!(
                "the unfinished statement is for {}, not for {}",
                draft.said.channel(),
                self.channel
            )));
        }
        Ok(draft.clone())
    }

    /// Refuses what was overtaken: no host takes a number twice, or a lower one.
    pub(super) fn is_newest(&self, draft: &Draft) -> Result<(), AuthorError> {
        let (Some(current), Said::Release(statement)) = (&self.in_force, &draft.said) else { return Ok(()) };
        let place = current.draft.said.place();
        if statement.place > place {
            return Ok(());
        }
        Err(AuthorError::refused(format!(
            "{} is overtaken: {} is in force, and hosts take higher numbers only; make a new one with `trimtab release {}`",
            draft.said.tag_name(),
            current.draft.said.tag_name(),
            self.channel
        )))
    }

    /// The root files of a commit.
    pub(super) fn roots(&self, commit: ObjectId) -> Result<Roots, AuthorError> {
        Roots::read(|path| self.desk.file(commit, path))
    }

    /// Who must sign this, by the root in its own tree.
    pub(super) fn role(&self, draft: &Draft) -> Result<Rule, AuthorError> {
        let roots = self.roots(draft.commit)?;
        let root = roots.in_force()?.root.clone();
        let (roles, kind, table) = match &draft.said {
            Said::Release(statement) => {
                if statement.root != root.version || statement.place.epoch != root.epoch || statement.repo != root.repo {
                    return Err(AuthorError::refused(format!(
                        "{} was made under root {} (epoch {}), and its commit has root {} (epoch {}) of {}: make a new one with `trimtab release {}`",
                        draft.said.tag_name(),
                        statement.root,
                        statement.place.epoch,
                        root.version,
                        root.epoch,
                        root.repo,
                        self.channel
                    )));
                }
                (&root.release, "trimtab-release", "release")
            }
            Said::Alive(_) => (&root.alive, "trimtab-alive", "alive"),
        };
        let Some(role) = roles.get(&self.channel).cloned() else {
            let names: Vec<&str> = roles.keys().map(Channel::as_str).collect();
            let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let advice =
                if table == "alive" { format!("--alive {}=KEY", self.channel) } else { format!("--channel {}=N", self.channel) };
            return Err(AuthorError::refused(format!(
                "root {} has no [{table}.{}] (it has {has}), so nobody may sign this: `trimtab trust rotate {advice}` adds it",
                root.version, self.channel
            )));
        };
        let words = if table == "alive" {
            format!("an alive statement of {}", self.channel)
        } else {
            format!("a release to {}", self.channel)
        };
        Ok(Rule { root, role, words, kind })
    }

    /// What each host and group would get, or all that is wrong with the fleet.
    pub(super) fn preview(&self, draft: &Draft) -> Result<Result<Vec<Row>, Findings>, AuthorError> {
        let mut reached = self.reached()?;
        let new = fleet(self.desk.tree_of(draft.commit)?, reached.courier())?;
        let old = match &self.in_force {
            Some(current) => Some(fleet(self.desk.tree_of(current.draft.commit)?, reached.courier())?),
            None => None,
        };
        Ok(preview(old.as_ref(), &new))
    }

    /// This clone, as a device would reach it.
    pub(super) fn reached(&self) -> Result<Reached, AuthorError> {
        Reached::new(&self.desk.git_dir().to_string_lossy(), &Reach::default())
    }

    /// Keeps a statement in this clone.
    pub(super) fn store(&self, draft: &Draft) -> Result<ObjectId, AuthorError> {
        let object = self.desk.store_tag(&draft.bytes)?;
        self.desk.set(&self.draft_reference(), Some(object), self.pointed.here)?;
        Ok(object)
    }

    /// Pushes it to where it belongs; that reference.
    pub(super) fn push(&self, object: ObjectId, is_complete: bool) -> Result<String, AuthorError> {
        let remote = self.remote.as_deref().expect("because --push without a remote was refused");
        let (public, unfinished) = (self.reference(), self.draft_reference());
        let Pointed { public: in_force, seen, there, .. } = self.pointed;
        if !is_complete {
            // Into this very clone there is nothing to push.
            if remote != "." {
                self.desk
                    .push(remote, &[(&unfinished, Some(object), there)])
                    .map_err(|error| kept(error, &self.channel, self.alive))?;
            }
            return Ok(unfinished);
        }
        let mut moves = vec![(public.as_str(), Some(object), in_force)];
        if remote == "." {
            self.desk.set(&public, Some(object), in_force)?;
        } else {
            moves.extend(there.map(|there| (unfinished.as_str(), None, Some(there))));
            let left = self.desk.push(remote, &moves).map_err(|error| kept(error, &self.channel, self.alive))?;
            if !left.is_empty() {
                // No host looks there, and it is not taken for a new one: its number is not higher.
                crate::cli::complain(&format!(
                    "it is published; only the draft at {remote} could not be taken away: git push {remote} :{unfinished}"
                ));
            }
            self.desk.set(&public, Some(object), seen)?;
        }
        self.desk.set(&unfinished, None, Some(object))?;
        Ok(public)
    }
}

/// What becomes of a statement that could not be pushed.
fn kept(error: AuthorError, channel: &Channel, alive: bool) -> AuthorError {
    let alive = if alive { " --alive" } else { "" };
    AuthorError::refused(format!(
        "{error}\nThe statement and its signatures are kept in this clone: `trimtab release {channel}{alive} --draft --push` tries again"
    ))
}
