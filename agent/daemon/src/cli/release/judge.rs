//! What a device would say, before anything is published.

use gix_hash::ObjectId;

use super::session::Session;
use crate::author::AuthorError;
use crate::author::draft::Draft;

pub(super) fn judge(_session: &Session, _draft: &Draft, _object: ObjectId) -> Result<(), AuthorError> {
    Ok(())
}
