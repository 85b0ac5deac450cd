//! A clone of the fleet repository on somebody's desk, worked in with the system's git.
//!
//! Guarantees: a reference is moved only from what it was seen to be; what is pushed replaces exactly what was seen at the remote, or
//! nothing. Limits: the clone is its owner's: its configuration, hooks and credentials count, as for every git command in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use gix_hash::ObjectId;

use super::AuthorError;
use super::programs::{self, GIT};

/// A reference by its full name, what it is to be (`None`: away), and what it was seen to be.
pub type Move<'n> = (&'n str, Option<ObjectId>, Option<ObjectId>);

/// What git says where the other side cannot take several references at once.
const NOT_ATOMIC: &str = "does not support --atomic";

/// A clone.
#[derive(Debug)]
pub struct Desk {
    folder: PathBuf,
    git_dir: PathBuf,
}

impl Desk {
    /// The clone that `folder` lies in: the folder of the work tree, or the repository itself where it has none.
    pub fn open(folder: &Path) -> Result<Self, AuthorError> {
        let desk = Self { folder: folder.to_owned(), git_dir: PathBuf::new() };
        let found = desk.text(&["rev-parse", "--path-format=absolute", "--git-common-dir"]);
        let git_dir = found.map_err(|error| match error {
            AuthorError::Failed { said, .. } => AuthorError::refused(format!(
                "{} is not in a clone of a fleet repository: {said}; go there, or name it with --repo DIR",
                folder.display()
            )),
            error => error,
        })?;
        let top = desk.text(&["rev-parse", "--path-format=absolute", "--show-toplevel"]).unwrap_or_else(|_| git_dir.clone());
        Ok(Self { folder: top.into(), git_dir: git_dir.into() })
    }

    /// The folder of the work tree; the repository's where there is none.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The repository, which all work trees share.
    pub fn git_dir(&self) -> &Path {
        &self.git_dir
    }

    fn git(&self, words: &[&str]) -> Command {
        let mut command = Command::new(GIT.0);
        // What replacement references show, no device sees.
        command.env("GIT_NO_REPLACE_OBJECTS", "1").arg("-C").arg(&self.folder).args(words);
        command
    }

    /// What git prints, without the line's end.
    fn text(&self, words: &[&str]) -> Result<String, AuthorError> {
        let said = programs::output(GIT, &mut self.git(words), b"")?;
        Ok(String::from_utf8_lossy(&said).trim_end().to_owned())
    }

    /// The commit that a revision names.
    pub fn commit(&self, revision: &str) -> Result<ObjectId, AuthorError> {
        let named = format!("{revision}^{{commit}}");
        let found = self.text(&["rev-parse", "--verify", "--quiet", "--end-of-options", &named]);
        let hex =
            found.map_err(|_| AuthorError::refused(format!("there is no commit {revision:?} in {}", self.folder.display())))?;
        id(&hex)
    }

    /// What a reference points to, by its full name.
    pub fn reference(&self, name: &str) -> Result<Option<ObjectId>, AuthorError> {
        match self.text(&["show-ref", "--verify", "--hash", "--", name]) {
            Ok(hex) => id(&hex).map(Some),
            Err(AuthorError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a reference point to `to` (`None`: takes it away) if it points to `was`.
    pub fn set(&self, name: &str, to: Option<ObjectId>, was: Option<ObjectId>) -> Result<(), AuthorError> {
        let none = || "0".repeat(to.or(was).map_or(40, |id| id.kind().len_in_hex()));
        let hex = |id: Option<ObjectId>| id.map_or_else(none, |id| id.to_string());
        let words: &[&str] = match to {
            Some(_) => &["update-ref", name, &hex(to), &hex(was)],
            None if was.is_some() => &["update-ref", "-d", name, &hex(was)],
            None => return Ok(()),
        };
        self.text(words).map(drop)
    }

    /// Stores a tag object of these bytes, which git must find well made.
    pub fn store_tag(&self, bytes: &[u8]) -> Result<ObjectId, AuthorError> {
        let said = programs::output(GIT, &mut self.git(&["hash-object", "-t", "tag", "-w", "--stdin"]), bytes)?;
        id(String::from_utf8_lossy(&said).trim_end())
    }

    /// The content of a tag object of at most `limit` bytes.
    pub fn tag(&self, object: ObjectId, limit: u64) -> Result<Vec<u8>, AuthorError> {
        let bytes = programs::output(GIT, &mut self.git(&["cat-file", "tag", &object.to_string()]), b"")?;
        if bytes.len() as u64 > limit {
            return Err(AuthorError::refused(format!("the tag {object} is larger than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// The content of a file of a commit; `None` where there is none.
    pub fn file(&self, commit: ObjectId, path: &str) -> Result<Option<Vec<u8>>, AuthorError> {
        match programs::output(GIT, &mut self.git(&["cat-file", "blob", &format!("{commit}:{path}")]), b"") {
            Ok(bytes) => Ok(Some(bytes)),
            Err(AuthorError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The tree of a commit.
    pub fn tree_of(&self, commit: ObjectId) -> Result<ObjectId, AuthorError> {
        id(&self.text(&["rev-parse", "--verify", &format!("{commit}^{{tree}}")])?)
    }

    /// Whether `old` is `new` or comes before it.
    pub fn is_ancestor(&self, old: ObjectId, new: ObjectId) -> bool {
        self.text(&["merge-base", "--is-ancestor", &old.to_string(), &new.to_string()]).is_ok()
    }

    /// The subjects of the commits that `new` has and `old` has not, newest first, at most `most`.
    pub fn subjects(&self, old: ObjectId, new: ObjectId, most: usize) -> Vec<String> {
        let (most, range) = (format!("--max-count={most}"), format!("{old}..{new}"));
        let said = self.text(&["log", "--format=%h %s", &most, &range]).unwrap_or_default();
        said.lines().map(|line| line.chars().filter(|c| !c.is_control()).take(120).collect()).collect()
    }

    /// Whose hand writes tags here, as git writes it: name, mail, seconds, zone.
    pub fn tagger(&self) -> Result<String, AuthorError> {
        self.text(&["var", "GIT_COMMITTER_IDENT"])
    }

    /// The remote of this name, if there is one.
    pub fn has_remote(&self, name: &str) -> bool {
        name == "." || self.text(&["remote", "get-url", "--", name]).is_ok()
    }

    /// Fetches what the remote has under `refs/trimtab/`, into references of their own ([`Desk::remote_reference`]).
    pub fn fetch(&self, remote: &str) -> Result<(), AuthorError> {
        let spec = format!("+refs/trimtab/*:{}*", Self::remote_prefix(remote));
        self.text(&["fetch", "--quiet", "--no-tags", "--prune", "--", remote, &spec]).map(drop)
    }

    fn remote_prefix(remote: &str) -> String {
        // A remote may be a URL, or `.`: neither is a part of a name.
        let word: String = remote.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        format!("refs/trimtab-seen/{word}/")
    }

    /// What a reference `refs/trimtab/…` pointed to at the remote when it was fetched last.
    pub fn remote_reference(&self, remote: &str, name: &str) -> Result<Option<ObjectId>, AuthorError> {
        let rest = name.strip_prefix("refs/trimtab/").unwrap_or(name);
        self.reference(&format!("{}{rest}", Self::remote_prefix(remote)))
    }

    /// Pushes, all or nothing: each reference to what it is to be (`None`: away), where the remote still has what was seen there. Where the remote
    /// cannot do that, the first one alone, and what else could not be done afterwards is returned.
    pub fn push(&self, remote: &str, moves: &[Move<'_>]) -> Result<Vec<AuthorError>, AuthorError> {
        let mut heard = Vec::new();
        let Err(error) = self.push_once(remote, moves, &mut heard) else { return Ok(Vec::new()) };
        let [first, others @ ..] = moves else { return Err(error) };
        if others.is_empty() || !String::from_utf8_lossy(&heard).contains(NOT_ATOMIC) {
            return Err(error);
        }
        self.push_once(remote, std::slice::from_ref(first), &mut heard)?;
        Ok(others.iter().filter_map(|one| self.push_once(remote, std::slice::from_ref(one), &mut heard).err()).collect())
    }

    fn push_once(&self, remote: &str, moves: &[Move<'_>], heard: &mut Vec<u8>) -> Result<(), AuthorError> {
        let mut words = vec!["push".to_owned(), "--quiet".to_owned()];
        // One alone is atomic by itself, and not every Git host can do it with several.
        words.extend((moves.len() > 1).then(|| "--atomic".to_owned()));
        let hex = |id: Option<ObjectId>| id.map(|id| id.to_string()).unwrap_or_default();
        for (name, _, was) in moves {
            words.push(format!("--force-with-lease={name}:{}", hex(*was)));
        }
        words.extend(["--".to_owned(), remote.to_owned()]);
        words.extend(moves.iter().map(|(name, to, _)| format!("{}:{name}", hex(*to))));
        let mut command = self.git(&words.iter().map(String::as_str).collect::<Vec<_>>());
        // It may ask for a password or a touch.
        programs::overhear(GIT, &mut command, &[], heard).map_err(|error| match error {
            AuthorError::Failed { .. } => AuthorError::refused(format!(
                "the push to {remote} failed, and nothing was changed there (git's words are above); if it speaks of `stale info` or of a lock, somebody else pushed in between: look at what is there now, and run it again. If the remote declined it, a rule there forbids {}: have it allowed for who releases",
                moves.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(" and ")
            )),
            error => error,
        })
    }

    /// Makes an empty repository in `folder`, with ids of the kind that `format` names.
    pub fn bare(&self, folder: &Path, format: &str) -> Result<(), AuthorError> {
        let mut command = self.git(&["init", "--quiet", "--bare", "--template=", "--object-format", format, "--"]);
        programs::output(GIT, command.arg(folder), b"")?;
        let info = folder.join("objects/info");
        std::fs::create_dir_all(&info).map_err(|source| AuthorError::File { path: info, source })
    }

    /// Writes a git bundle of these references.
    pub fn bundle<'n>(&self, to: &Path, references: impl Iterator<Item = &'n str>) -> Result<(), AuthorError> {
        let mut command = self.git(&["bundle", "create", "--quiet"]);
        programs::output(GIT, command.arg(to).args(references), b"").map(drop)
    }
}

fn id(hex: &str) -> Result<ObjectId, AuthorError> {
    ObjectId::from_hex(hex.as_bytes())
        .map_err(|_| AuthorError::refused(format!("git answered {hex:?} where an object's id was expected")))
}
