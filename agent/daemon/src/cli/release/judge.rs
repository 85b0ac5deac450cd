//! What hosts would say, before anything is published: their own code on the very objects, through their own courier.

use std::time::{SystemTime, UNIX_EPOCH};

use gix_hash::ObjectId;

use super::session::Session;
use crate::author::AuthorError;
use crate::author::draft::{Draft, Said};
use crate::cli::enrol::trust_by_digest;
use crate::trust::decide::decide;
use crate::trust::memory::{Memory, Moment};

use crate::trust::root::pin_of;

/// Refuses what a host would refuse: one that was enrolled a minute ago, and one that has what is in force.
pub(super) fn judge(session: &Session, draft: &Draft, object: ObjectId) -> Result<(), AuthorError> {
    // Trust begins where it begins for the hosts that are there: with the first root of what is in force.
    let commit = session.release.as_ref().map_or(draft.commit, |current| current.draft.commit);
    let roots = session.roots(commit)?;
    let first = roots.0.first().ok_or_else(|| AuthorError::refused(format!("commit {commit} has no root 1")))?;
    let trust = trust_by_digest(&session.channel, &first.root.repo, &pin_of(&first.text))?;
    let mut reached = session.reached()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    let moment = |clock| Moment { clock, synchronised: true };
    let mut hosts = vec![("a host that was just enrolled".to_owned(), Memory::default())];
    if let Some(current) = &session.release
        && let Said::Release(statement) = &current.draft.said
    {
        // At the time when it was made: what ran out since was taken all the same.
        let judged = decide(current.object, None, reached.courier(), &trust, &Memory::default(), moment(statement.issued));
        let who = format!("a host that has {}", current.draft.said.tag_name());
        hosts.extend(judged.memory.filter(|memory| memory.release.is_some()).map(|memory| (who, memory)));
    }
    let name = draft.said.tag_name();
    for (who, memory) in hosts {
        let (tag, alive) = match (&draft.said, &session.release) {
            (Said::Release(_), _) => (object, None),
            (Said::Alive(_), Some(release)) => (release.object, Some(object)),
            (Said::Alive(_), None) => return Ok(()),
        };
        let judged = decide(tag, alive, reached.courier(), &trust, &memory, moment(now));
        if judged.verdict.proven().is_none() {
            return Err(AuthorError::refused(format!(
                "{who} would refuse {name}, so it is not published ({}): {}",
                judged.verdict.code(),
                judged.verdict
            )));
        }
        if let (Some(_), Some(remark)) = (alive, judged.remarks.first()) {
            return Err(AuthorError::refused(format!("{who} would pass over {name}, so it is not published: {remark}")));
        }
    }
    Ok(())
}
