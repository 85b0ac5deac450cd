//! Commits and tags: what is signed has one reading.

use gix_hash::{Kind, ObjectId};
use trimtab::trust::commit::{self, Commit};
use trimtab::trust::hash::{Proved, Verified};
use trimtab::trust::statement::{Alive, Statement};
use trimtab::trust::tag::Tag;
use trimtab::trust::threshold::{Over, RELEASE_NAMESPACE};
use trimtab::trust::{blocks, statement};
use trimtab::wire::{ObjectError, ObjectKind, ObjectSource};

use super::known;

/// A source that has one object.
struct One<'b>(&'b [u8]);

impl ObjectSource for One<'_> {
    fn objects(&mut self, _: ObjectKind, _: &[ObjectId], _: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        Ok(vec![self.0.to_vec()])
    }
}

/// The id that git gives these bytes; `None` for what carries a collision.
pub(super) fn id(kind: Kind, object: &str, bytes: &[u8]) -> Option<ObjectId> {
    let mut hasher = gix_hash::hasher(kind);
    hasher.update(format!("{object} {}\0", bytes.len()).as_bytes());
    hasher.update(bytes);
    hasher.try_finalize().ok()
}

fn proved(kind: Kind, bytes: &[u8]) -> Option<Proved> {
    let id = id(kind, "commit", bytes)?;
    Verified::new(&mut One(bytes), commit::MAX_COMMIT).one(ObjectKind::Commit, id, commit::MAX_COMMIT).ok()
}

/// The content of a commit object, in a repository of either kind.
pub fn commit(bytes: &[u8]) {
    for kind in [Kind::Sha1, Kind::Sha256] {
        let Some(object) = proved(kind, bytes) else { continue };
        let _ = (commit::author(&object), commit::parents(&object), commit::tree(&object));
        let Ok(commit) = Commit::parse(&object) else { continue };
        assert_eq!(commit::parents(&object).as_ref(), Ok(&commit.parents));
        assert_eq!(commit::tree(&object), Ok(commit.tree));
        commit.trailers("Trimtab-Channel").for_each(drop);
        // Payload and signature make up the object, byte for byte, and nothing is in neither of them.
        assert_eq!(with_signature(&commit, kind), bytes, "what is signed is not all that is there");
        // The payload is a commit of its own, which says the same.
        let bare = proved(kind, &commit.payload).expect("because it is no larger");
        let bare = Commit::parse(&bare).expect("because only the signature is gone");
        assert_eq!((bare.tree, &bare.parents, bare.digest, &bare.armor), (commit.tree, &commit.parents, commit.digest, &None));
        assert_eq!(bare.payload, commit.payload);
        if let Some(armor) = &commit.armor
            && known::signers().check(armor, &commit.payload, known::NOW).is_ok()
        {
            let made = ["commit-ssh", "commit-openpgp", "commit-sha256", "commit-merge"];
            assert!(made.iter().any(|name| known::file(name) == bytes), "nobody signed this commit");
        }
    }
}

fn with_signature(commit: &Commit, kind: Kind) -> Vec<u8> {
    let Some(armor) = &commit.armor else { return commit.payload.clone() };
    let end = commit.payload.windows(2).position(|pair| pair == b"\n\n").expect("because its headers end") + 1;
    let name: &[u8] = if kind == Kind::Sha256 { b"gpgsig-sha256" } else { b"gpgsig" };
    let lines = armor.strip_suffix(b"\n").expect("because each of its lines ends").split(|byte| *byte == b'\n');
    let mut header = name.to_vec();
    for line in lines {
        header.extend([b" ", line, b"\n"].concat());
    }
    [&commit.payload[..end], &header, &commit.payload[end..]].concat()
}

/// The content of a tag object: its head, its blocks, its statement, and who signed it.
pub fn tag(bytes: &[u8]) {
    for kind in [Kind::Sha1, Kind::Sha256] {
        let Ok(tag) = Tag::parse(kind, bytes) else { continue };
        let headers = std::str::from_utf8(&bytes[..tag.message]).unwrap_or_default();
        if let Some((_, tagger)) = headers.trim_end_matches('\n').rsplit_once("\ntagger ") {
            assert_eq!(Tag::head(tag.object, &tag.name, tagger), headers, "its head has another reading");
        }
        let Ok((end, blocks)) = blocks::split(bytes) else { continue };
        if end < tag.message {
            continue;
        }
        let keys = known::named_keys(&["ann", "bob", "eve"]);
        let quorum = trimtab::trust::threshold::Quorum { threshold: 2, keys: keys.iter().collect() };
        if quorum.count(&blocks, Over::Before(bytes), RELEASE_NAMESPACE).is_ok() {
            let genuine = known::release();
            let (own, _) = blocks::split(genuine).expect("because it was made so");
            assert_eq!(bytes[..end], genuine[..own], "nobody signed this release");
        }
        statement_of(&bytes[tag.message..end]);
    }
}

/// What a statement says is written as it was read.
pub(super) fn statement_of(text: &[u8]) {
    let again = |written: &str| {
        let written = written.as_bytes();
        // One blank line more or less at the end is all the freedom there is.
        assert!(written == text || written.strip_suffix(b"\n") == Some(text), "it is written in two ways");
    };
    assert!(text.len() <= statement::MAX_STATEMENT || Statement::parse(text).is_err());
    if let Ok(said) = Statement::parse(text) {
        assert_eq!(Statement::parse(said.to_text().as_bytes()).as_ref(), Ok(&said));
        again(&said.to_text());
        assert!(said.issued < said.expires && said.place.seq > 0);
        assert!(Alive::parse(text).is_err(), "a release is no `alive` statement");
    }
    if let Ok(said) = Alive::parse(text) {
        assert_eq!(Alive::parse(said.to_text().as_bytes()).as_ref(), Ok(&said));
        again(&said.to_text());
    }
}
