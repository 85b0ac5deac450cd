//! A new statement: which commit, which number, under which root.

use std::time::{SystemTime, UNIX_EPOCH};

use gix_hash::ObjectId;

use super::ReleaseArgs;
use super::session::{Known, Session};
use crate::author::AuthorError;
use crate::author::draft::{Draft, Said};
use crate::trust::root::Root;
use crate::trust::statement::{Alive, MAX_NUMBER, Place, Statement};

/// The statement that is asked for, which nobody has signed.
pub(super) fn statement(session: &Session, args: &ReleaseArgs) -> Result<Draft, AuthorError> {
    let issued = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    let expires = issued.saturating_add(args.expires.as_secs());
    if expires <= issued {
        return Err(AuthorError::refused("--expires must be at least a second, e.g. 90d"));
    }
    let tagger = session.desk.tagger()?;
    if args.alive {
        return alive(session, issued, expires, &tagger);
    }
    let commit = commit(session, args)?;
    let roots = session.roots(commit)?;
    let root = &roots.in_force()?.root;
    carries_the_newest_root(session, commit, root)?;
    let place = Place { epoch: root.epoch, seq: next(session, root)? };
    let said = Statement {
        repo: root.repo.clone(),
        channel: args.channel.clone(),
        place,
        commit,
        tree: session.desk.tree_of(commit)?,
        root: root.version,
        issued,
        expires,
        own: Vec::new(),
    };
    Ok(Draft::new(Said::Release(said), commit, &tagger))
}

fn alive(session: &Session, issued: u64, expires: u64, tagger: &str) -> Result<Draft, AuthorError> {
    let Some(Known { draft, .. }) = &session.release else {
        return Err(AuthorError::refused(format!("nothing was released to {} yet, so nothing can be kept alive", session.channel)));
    };
    let Said::Release(statement) = &draft.said else {
        return Err(AuthorError::refused(format!("{} is no release", session.channel.reference())));
    };
    let (repo, channel, place) = (statement.repo.clone(), statement.channel.clone(), statement.place);
    Ok(Draft::new(Said::Alive(Alive { repo, channel, place, issued, expires }), draft.commit, tagger))
}

/// The commit; forwards from the release in force, or back by name.
fn commit(session: &Session, args: &ReleaseArgs) -> Result<ObjectId, AuthorError> {
    let commit = session.desk.commit(args.rollback_to.as_deref().unwrap_or(&args.revision))?;
    let Some(current) = &session.in_force else { return Ok(commit) };
    let (name, was) = (current.draft.said.tag_name(), current.draft.commit);
    match &args.rollback_to {
        None if !session.desk.is_ancestor(was, commit) => Err(AuthorError::refused(format!(
            "{commit} does not contain {was}, which is in force as {name}: bring your clone up to date (git pull); to go back on purpose, say --rollback-to {}",
            args.revision
        ))),
        Some(revision) if !session.desk.is_ancestor(commit, was) => Err(AuthorError::refused(format!(
            "{revision} is not older than {was}, which is in force as {name}: release it without --rollback-to"
        ))),
        _ => Ok(commit),
    }
}

/// A host that slept through a rotation learns of it from the tree of a release: each must carry the newest root.
fn carries_the_newest_root(session: &Session, commit: ObjectId, root: &Root) -> Result<(), AuthorError> {
    let Some(current) = &session.in_force else { return Ok(()) };
    let newest = session.roots(current.draft.commit)?.newest()?.root.version;
    if root.version >= newest {
        return Ok(());
    }
    Err(AuthorError::refused(format!(
        "{commit} has root {}, and root {newest} is in force: a host that has not seen that one yet could not follow. Go back in a new commit: git restore --source {commit} --staged --worktree -- fleet.toml hosts components && git commit, and release that",
        root.version
    )))
}

/// A number that no statement had, seen here or at the remote: two statements with one number are an attack in the eyes of a host.
fn next(session: &Session, root: &Root) -> Result<u64, AuthorError> {
    let newest = session.newest(root.epoch);
    if newest.epoch > root.epoch {
        return Err(AuthorError::refused(format!(
            "epoch {} has begun, and the commit's root {} is still in epoch {}: release a commit that has the newest root",
            newest.epoch, root.version, root.epoch
        )));
    }
    if newest.epoch < root.epoch {
        return Ok(1);
    }
    newest.seq.checked_add(1).filter(|seq| *seq <= MAX_NUMBER).ok_or_else(|| {
        AuthorError::refused(format!(
            "{newest} has the highest number there is: somebody wants to end this channel; find out who signed it, and begin a new epoch (`trimtab trust revoke KEY --new-epoch`)"
        ))
    })
}
