//! A statement on its way to enough signatures: the bytes of its tag object, and who signed them so far.
//!
//! Guarantees: a signature is added only when it verifies, by a key that counts and has not signed before, and it covers every byte before it.
//! Limits: whether devices accept the whole is theirs to say (`trust::prove`), and is asked before anything is published.

use gix_hash::ObjectId;
use trimtab_model::digest::Digest;

use super::AuthorError;
use crate::trust::blocks::{self, BlockFault};
use crate::trust::root::Root;
use crate::trust::statement::{Alive, Channel, Place, RELEASE, Statement};
use crate::trust::tag::Tag;
use crate::trust::threshold::{NamedKey, Quorum, RELEASE_NAMESPACE};

/// What a draft says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A release.
    Release(Statement),
    /// How far a channel has come.
    Alive(Alive),
}

impl Said {
    /// Its channel.
    pub fn channel(&self) -> &Channel {
        match self {
            Self::Release(statement) => &statement.channel,
            Self::Alive(alive) => &alive.channel,
        }
    }

    /// The release that it is, or speaks of.
    pub fn place(&self) -> Place {
        match self {
            Self::Release(statement) => statement.place,
            Self::Alive(alive) => alive.place,
        }
    }

    /// The name of its tag.
    pub fn tag_name(&self) -> String {
        match self {
            Self::Release(statement) => statement.tag_name(),
            Self::Alive(alive) => alive.tag_name(),
        }
    }

    fn to_text(&self) -> String {
        match self {
            Self::Release(statement) => statement.to_text(),
            Self::Alive(alive) => alive.to_text(),
        }
    }
}

/// A tag object with a statement and any number of signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The content of the tag object.
    pub bytes: Vec<u8>,
    /// What it says.
    pub said: Said,
    /// The commit that its header names.
    pub commit: ObjectId,
}

impl Draft {
    /// A statement that nobody has signed. `tagger` is as git writes it.
    pub fn new(said: Said, commit: ObjectId, tagger: &str) -> Self {
        let bytes = Tag::head(commit, &said.tag_name(), tagger) + &said.to_text();
        Self { bytes: bytes.into_bytes(), said, commit }
    }

    /// Reads the content of a tag object.
    pub fn parse(kind: gix_hash::Kind, bytes: Vec<u8>) -> Result<Self, AuthorError> {
        let refused = |what: &str| AuthorError::refused(format!("this tag is no statement of trimtab's: {what}"));
        let tag = Tag::parse(kind, &bytes).map_err(|malformed| refused(malformed.what))?;
        let (end, _) = blocks::split(&bytes).map_err(|error| refused(error.0))?;
        let text = bytes.get(tag.message..end).ok_or_else(|| refused("a signature stands in its headers"))?;
        let said = if text.starts_with(RELEASE.as_bytes()) {
            Said::Release(Statement::parse(text).map_err(|error| refused(&error.to_string()))?)
        } else {
            Said::Alive(Alive::parse(text).map_err(|error| refused(&error.to_string()))?)
        };
        Ok(Self { said, commit: tag.object, bytes })
    }

    /// What identifies it, whoever signs: the digest of what stands before the first signature.
    pub fn digest(&self) -> Digest {
        let end = blocks::split(&self.bytes).map_or(self.bytes.len(), |(end, _)| end);
        Digest::of(&self.bytes[..end])
    }

    /// Whether the other one is this one with more signatures behind it.
    pub fn is_begin_of(&self, other: &Self) -> bool {
        other.bytes.starts_with(&self.bytes)
    }

    /// Which keys of the role signed it; and what else is there that counts for nobody.
    pub fn signers(&self, quorum: &Quorum<'_>) -> (Vec<NamedKey>, Vec<String>) {
        let (mut signers, mut others): (Vec<NamedKey>, Vec<String>) = (Vec::new(), Vec::new());
        for block in blocks::split(&self.bytes).map(|(_, blocks)| blocks).unwrap_or_default() {
            match block.signer(&self.bytes[..block.start], RELEASE_NAMESPACE, quorum.keys.iter().map(|named| &named.key)) {
                Ok(key) => {
                    let named = quorum.keys.iter().find(|named| named.key == *key);
                    signers.extend(named.map(|named| (*named).clone()).filter(|named| !signers.contains(named)));
                }
                Err(fault) => others.push(fault.to_string()),
            }
        }
        (signers, others)
    }

    /// Puts a signature behind it; who made it.
    pub fn add(&mut self, block: &[u8], quorum: &Quorum<'_>, role: &str, root: &Root) -> Result<NamedKey, AuthorError> {
        let (known, _) = self.signers(quorum);
        let refused = |why: String| AuthorError::refused(why);
        let mut longer = self.bytes.clone();
        longer.extend(block);
        let (_, blocks) = blocks::split(&longer).map_err(|error| refused(error.to_string()))?;
        let last = blocks.last().filter(|last| last.start == self.bytes.len());
        let last = last.ok_or_else(|| refused("this is not one signature: expected one block".to_owned()))?;
        let found = last.signer(&self.bytes, RELEASE_NAMESPACE, quorum.keys.iter().map(|named| &named.key));
        let key = found.map_err(|fault| refused(not_counted(&fault, quorum, role, root)))?;
        let named = quorum.keys.iter().find(|named| named.key == *key);
        let named = (*named.expect("because it was found among them")).clone();
        if known.contains(&named) {
            return Err(refused(format!(
                "{} has signed this already, and a key counts once for {role}; somebody else has to",
                named.name
            )));
        }
        self.bytes = longer;
        Ok(named)
    }
}

/// Why a signature does not count for a role of this root, and whose would.
pub fn not_counted(fault: &BlockFault, quorum: &Quorum<'_>, role: &str, root: &Root) -> String {
    let who: Vec<String> = quorum.keys.iter().map(ToString::to_string).collect();
    let who = who.join(", ");
    match fault {
        BlockFault::Unknown(key) => {
            let is_this = |named: &&NamedKey| named.to_string().ends_with(&format!("({key})"));
            if let Some(named) = root.keys.iter().find(is_this) {
                return format!(
                    "{role} takes signatures by {who}, and this one is by {named}, which the root names for something else: sign with another key (--sign), or name {} for this as well (--root-keys, --channel NAME=N:KEY,… or --alive, of `trimtab trust init` and `trust rotate`)",
                    named.name
                );
            }
            format!(
                "{role} takes signatures by {who}, and this one is by {key}: name another key with --sign, or have it added (`trimtab trust rotate --add`)"
            )
        }
        BlockFault::Bad { key, why } => format!(
            "the signature by {key} does not fit what is to be signed ({why}); it was made over something else, or over an older draft: export what is to be signed again (`--export FILE`), and sign that"
        ),
        other => other.to_string(),
    }
}
