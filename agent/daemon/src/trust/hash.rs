//! The one door through which objects come in: asked for by id, counted, bounded, hashed, and only then handed on.
//!
//! Guarantees: a [`Proved`] object has exactly the bytes that its id names (SHA-1 with collision detection, or SHA-256, by the length of the
//! id); no object is larger than was asked for; all objects of one [`Verified`] together stay under its budget.
//! Limits: a source that never answers is the source's own deadline to end.

use gix_hash::ObjectId;

use super::Class;
use crate::wire::{ObjectError, ObjectKind, ObjectSource};

/// How many objects are asked for in one call: the ids of one frame stay far below the bound of its head.
const BATCH: usize = 4096;

/// Why an object could not be had, or not be believed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The source has no answer.
    #[error("an object could not be had")]
    Source(#[from] ObjectError),
    /// The source answered with other bytes than the id names: a damaged cache, or a lie.
    #[error("the source handed over other bytes than {kind:?} {id} has")]
    Mismatch {
        /// The kind asked for.
        kind: ObjectKind,
        /// The id asked for.
        id: ObjectId,
    },
    /// The bytes carry the marks of a SHA-1 collision attack.
    #[error("{kind:?} {id} carries a SHA-1 collision attack")]
    Collision {
        /// The kind asked for.
        kind: ObjectKind,
        /// The id asked for.
        id: ObjectId,
    },
    /// The source answered with fewer or more objects than asked for.
    #[error("the source handed over {got} objects where {asked} were asked for")]
    Count {
        /// How many ids were sent.
        asked: usize,
        /// How many objects came.
        got: usize,
    },
    /// The source ignored the bound of one object.
    #[error("{kind:?} {id} has {size} bytes where at most {limit} are allowed")]
    Oversize {
        /// The kind asked for.
        kind: ObjectKind,
        /// The id asked for.
        id: ObjectId,
        /// How many bytes came.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// All objects together are more than this step may hold.
    #[error("more than {limit} bytes of objects are needed")]
    Budget {
        /// The bound.
        limit: u64,
    },
}

impl FetchError {
    /// Whether another try may help, or only another commit.
    pub fn class(&self) -> Class {
        match self {
            // Too large by the source's word alone: if that is a lie, the next pass asks again anyway.
            Self::Source(ObjectError::TooLarge { .. }) | Self::Oversize { .. } | Self::Budget { .. } | Self::Collision { .. } => {
                Class::Hold
            }
            Self::Source(_) | Self::Mismatch { .. } | Self::Count { .. } => Class::Retry,
        }
    }
}

/// An object whose bytes are what its id names. Only [`Verified`] can make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    id: ObjectId,
    kind: ObjectKind,
    bytes: Vec<u8>,
}

impl Proved {
    /// Its id.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Its kind, which is part of what was hashed.
    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// Its content, without Git's header.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its content, for keeping.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// For unit tests of the parsers, which need bytes that no source has.
    #[cfg(test)]
    pub(super) fn for_test(kind: ObjectKind, id: ObjectId, bytes: &[u8]) -> Self {
        Self { id, kind, bytes: bytes.to_owned() }
    }
}

/// A source that is checked: what comes out of it is [`Proved`].
#[derive(Debug)]
pub struct Verified<'s, S> {
    source: &'s mut S,
    spent: u64,
    budget: u64,
}

impl<'s, S: ObjectSource> Verified<'s, S> {
    /// Wraps a source; all objects that are fetched through the wrapper may have at most `budget` bytes together.
    pub fn new(source: &'s mut S, budget: u64) -> Self {
        Self { source, spent: 0, budget }
    }

    /// One object of at most `limit` bytes.
    pub fn one(&mut self, kind: ObjectKind, id: ObjectId, limit: u64) -> Result<Proved, FetchError> {
        self.many(kind, &[id], limit)?.pop().ok_or(FetchError::Count { asked: 1, got: 0 })
    }

    /// Several objects of at most `limit` bytes each, in the order asked.
    pub fn many(&mut self, kind: ObjectKind, ids: &[ObjectId], limit: u64) -> Result<Vec<Proved>, FetchError> {
        let mut all = Vec::with_capacity(ids.len());
        while all.len() < ids.len() {
            let rest = &ids[all.len()..];
            let rest = &rest[..rest.len().min(BATCH)];
            // One answer after the other: four thousand files of the largest size would be more than any host has memory for, and who lies
            // is found out at the first.
            let answer = self.source.some(kind, rest, limit)?;
            if answer.is_empty() || answer.len() > rest.len() {
                return Err(FetchError::Count { asked: rest.len(), got: answer.len() });
            }
            for (id, bytes) in rest.iter().zip(answer) {
                all.push(self.prove(kind, *id, bytes, limit)?);
            }
        }
        Ok(all)
    }

    fn prove(&mut self, kind: ObjectKind, id: ObjectId, bytes: Vec<u8>, limit: u64) -> Result<Proved, FetchError> {
        let size = bytes.len() as u64;
        // Sizes first: what is over its bound is not even hashed.
        if size > limit {
            return Err(FetchError::Oversize { kind, id, size, limit });
        }
        self.spent += size;
        if self.spent > self.budget {
            return Err(FetchError::Budget { limit: self.budget });
        }
        let header = format!("{} {size}\0", name(kind));
        let found = digest(id.kind(), &[header.as_bytes(), &bytes]);
        named(kind, id, found).map(|()| Proved { id, kind, bytes })
    }
}

/// Whether what was found is what was asked for.
fn named(kind: ObjectKind, id: ObjectId, found: Option<ObjectId>) -> Result<(), FetchError> {
    match found {
        None => Err(FetchError::Collision { kind, id }),
        Some(found) if found == id => Ok(()),
        Some(_) => Err(FetchError::Mismatch { kind, id }),
    }
}

/// Git's hash over `parts`; `None` when a SHA-1 collision attack shows.
fn digest(kind: gix_hash::Kind, parts: &[&[u8]]) -> Option<ObjectId> {
    let mut hasher = gix_hash::hasher(kind);
    for part in parts {
        hasher.update(part);
    }
    hasher.try_finalize().ok()
}

fn name(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Commit => "commit",
        ObjectKind::Tree => "tree",
        ObjectKind::Blob => "blob",
        ObjectKind::Tag => "tag",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Vec<Vec<u8>>);
    impl ObjectSource for Fixed {
        fn objects(&mut self, _: ObjectKind, _: &[ObjectId], _: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
            Ok(self.0.clone())
        }
    }

    fn hello() -> ObjectId {
        // `printf hello | git hash-object --stdin`
        ObjectId::from_hex(b"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0").unwrap()
    }

    #[test]
    fn gits_own_id_is_found_and_no_other_bytes_or_kind_pass() {
        let ask = |kind, bytes: &[u8]| Verified::new(&mut Fixed(vec![bytes.to_vec()]), 100).one(kind, hello(), 5);
        assert_eq!(ask(ObjectKind::Blob, b"hello").unwrap().bytes(), b"hello");
        assert!(matches!(ask(ObjectKind::Blob, b"hellp"), Err(FetchError::Mismatch { .. })));
        assert!(matches!(ask(ObjectKind::Tree, b"hello"), Err(FetchError::Mismatch { .. })));
        assert!(matches!(ask(ObjectKind::Blob, b"hello!"), Err(FetchError::Oversize { .. })));
    }

    #[test]
    fn counts_and_the_budget_hold() {
        let two = || Fixed(vec![b"hello".to_vec(), b"hello".to_vec()]);
        assert!(matches!(
            Verified::new(&mut two(), 100).one(ObjectKind::Blob, hello(), 5),
            Err(FetchError::Count { asked: 1, got: 2 })
        ));
        let over = Verified::new(&mut two(), 9).many(ObjectKind::Blob, &[hello(), hello()], 5);
        assert!(matches!(over, Err(FetchError::Budget { limit: 9 })), "{over:?}");
        assert_eq!(Verified::new(&mut two(), 10).many(ObjectKind::Blob, &[hello(), hello()], 5).unwrap().len(), 2);
    }

    #[test]
    fn the_sha_1_that_is_linked_sees_a_collision_attack() {
        // One of the two published files of "SHA-1 is a Shambles" (Leurent and Peyrin, 2020): both have the same SHA-1.
        let file = include_bytes!("sha-mbles-1.bin");
        assert_eq!(digest(gix_hash::Kind::Sha1, &[file]), None);
        assert!(digest(gix_hash::Kind::Sha1, &[&file[1..]]).is_some());
    }

    #[test]
    fn a_collision_attack_is_held_and_told_as_what_it_is() {
        use super::super::{prove, release};

        // Nobody has published one behind Git's own header, so what the SHA-1 above says of the file goes on from here.
        let found = digest(gix_hash::Kind::Sha1, &[include_bytes!("sha-mbles-1.bin")]);
        let fault = || named(ObjectKind::Commit, hello(), found).unwrap_err();
        assert!(matches!(fault(), FetchError::Collision { kind: ObjectKind::Commit, id } if id == hello()), "{:?}", fault());
        assert_eq!(fault().class(), Class::Hold, "asked again it would be the same object");
        assert_eq!(fault().to_string(), format!("Commit {} carries a SHA-1 collision attack", hello()));
        for verdict in [prove::of_fetch(fault()), release::of_fetch(fault())] {
            assert_eq!((verdict.code(), verdict.class()), ("collision", Some(Class::Hold)));
            assert!(
                verdict.proven().is_none() && verdict.to_string().contains("SHA-1 collision attack; find out who pushed"),
                "{verdict}"
            );
        }
        assert!(named(ObjectKind::Commit, hello(), Some(hello())).is_ok());
    }
}
