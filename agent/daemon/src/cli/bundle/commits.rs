//! The commits of a bundle: a branch of a clone, or the release that hosts of a channel are served.
//!
//! A clone does not follow releases by itself, so the remote is asked what the channel is at: a stick with a release that was overtaken would be
//! refused on site. Guarantees: of what the clone and its remote have, the newer release is taken; nothing in the clone is changed.

use std::fs;
use std::path::Path;

use gix_hash::ObjectId;

use crate::author::AuthorError;
use crate::author::desk::Desk;
use crate::author::draft::{Draft, Said};
use crate::trust::statement::{Channel, show_time};
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
        let newest = |name: &str| -> Result<Option<(ObjectId, Draft)>, AuthorError> {
            let there = remote.map(|remote| desk.remote_reference(remote, name)).transpose()?.flatten();
            let read = |object: ObjectId| Ok((object, Draft::parse(object.kind(), desk.tag(object, MAX_TAG)?)?));
            let known: Result<Vec<_>, AuthorError> = desk.reference(name)?.into_iter().chain(there).map(read).collect();
            // Of two that are the same, the remote's: it may have been signed by more.
            Ok(known?.into_iter().max_by_key(|(_, draft)| (draft.said.place(), issued(&draft.said))))
        };
        let name = channel.reference();
        let Some((tag, draft)) = newest(&name)? else {
            let asked = remote.map_or_else(String::new, |remote| format!(" or at {remote}"));
            return Err(AuthorError::refused(format!(
                "nothing was released to {channel} in {}{asked}: there is no {name}; `trimtab release {channel} --push` makes a release",
                desk.folder().display()
            )));
        };
        let Said::Release(statement) = &draft.said else {
            return Err(AuthorError::refused(format!("{name} is no release: look at it with `git cat-file tag {tag}`")));
        };
        let (release, expires) = (Some(statement.tag_name()), Some(statement.expires));
        let mut references = vec![(name, tag)];
        if let Some((alive, _)) = newest(&channel.alive_reference())? {
            references.push((channel.alive_reference(), alive));
        }
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

fn issued(said: &Said) -> u64 {
    match said {
        Said::Release(statement) => statement.issued,
        Said::Alive(alive) => alive.issued,
    }
}
