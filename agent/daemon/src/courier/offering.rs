//! The objects of one status commit as a pack: a blob for each file, their tree, and a commit without parents.
//!
//! Guarantees: the same push gives the same ids and bytes, so that what is sent twice is taken once. Limits: files at the top of the tree
//! only; nothing is a delta, for each push is a few kilobytes and the receiver holds nothing that it could be one against.

use gix_hash::{Kind as Hash, ObjectId};
use gix_object::{Data, Kind};
use gix_pack::data::Version;
use gix_pack::data::output::{Count, Entry, bytes::FromEntriesIter};

use super::CourierError;
use crate::sinks::StatusPush;

/// What is pushed.
#[derive(Debug)]
pub(super) struct Offering {
    /// The commit that the reference is to name.
    pub(super) tip: ObjectId,
    /// Everything that it is made of.
    pub(super) pack: Vec<u8>,
}

/// Builds commit and pack for a repository with ids of this kind.
pub(super) fn offering(push: &StatusPush, hash: Hash) -> Result<Offering, CourierError> {
    let mut objects: Vec<(ObjectId, Kind, Vec<u8>)> = Vec::new();
    let mut keep = |kind: Kind, content: Vec<u8>| {
        let id = gix_object::compute_hash(hash, kind, &content).map_err(fault)?;
        // Two files of one content are one object, and a pack with one twice is refused.
        if !objects.iter().any(|(known, ..)| *known == id) {
            objects.push((id, kind, content));
        }
        Ok::<ObjectId, CourierError>(id)
    };
    let mut files: Vec<_> = push.files.iter().collect();
    files.sort_by(|one, other| one.0.as_bytes().cmp(other.0.as_bytes()));
    let mut tree = Vec::new();
    for (name, content) in files {
        let id = keep(Kind::Blob, content.clone())?;
        tree.extend([b"100644 ", name.as_bytes(), b"\0", id.as_slice()].concat());
    }
    let tree = keep(Kind::Tree, tree)?;
    let who = format!("trimtab <trimtab@localhost> {} +0000", push.at);
    let tip = keep(Kind::Commit, format!("tree {tree}\nauthor {who}\ncommitter {who}\n\n{}\n", push.message).into_bytes())?;
    Ok(Offering { tip, pack: pack(&objects, hash)? })
}

fn pack(objects: &[(ObjectId, Kind, Vec<u8>)], hash: Hash) -> Result<Vec<u8>, CourierError> {
    let entry = |(id, kind, content): &(ObjectId, Kind, Vec<u8>)| {
        let data = Data::new(content, *kind, hash);
        Entry::from_data(&Count::from_data(*id, None), &data, gix::zlib::Compression::DEFAULT)
    };
    let entries = objects.iter().map(entry).collect::<Result<Vec<_>, _>>().map_err(fault)?;
    let count = u32::try_from(entries.len()).map_err(|error| CourierError::Pack(error.into()))?;
    let mut writer = FromEntriesIter::new(std::iter::once(Ok(entries)), Vec::new(), count, Version::V2, hash);
    for written in &mut writer {
        written.map_err(fault)?;
    }
    Ok(writer.into_write())
}

fn fault(error: gix::Error) -> CourierError {
    CourierError::Pack(error.into())
}
