//! What a host remembers of the commit that it accepted last, so that nothing older and nothing beside it is accepted later.
//!
//! Pure: to text and from text. Where it lies and how it gets there without being torn is the store's room.
//! Guarantees: a text that is not wholly understood is an error, never an empty state: "trust anything" cannot come out of damage.
//! Limits: what counts where it is lost altogether is for the caller to say.

use gix_hash::ObjectId;
use serde::{Deserialize, Serialize};
use trimtab_model::digest::Digest;

use super::Class;
use super::pubkey::Fingerprint;

/// The version of the text that this code writes and reads.
pub const FORMAT: u32 = 1;

/// The last accepted commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrustState {
    format: u32,
    mode: String,
    /// The ref it came from, in full, e.g. `refs/heads/main`.
    pub branch: String,
    /// Its id as it was served. Only a place to look from: see `payload`.
    #[serde(with = "hex")]
    pub commit: ObjectId,
    /// The SHA-256 of what was signed: this is what the next commit must descend from.
    pub payload: Digest,
    /// The key that signed it.
    pub signer: Fingerprint,
    /// The comment of that key in `trust.toml` at that time; may be empty.
    pub signer_name: String,
    /// When it was accepted, in seconds since 1970 by this host's clock.
    pub accepted_at: u64,
    /// A time that has certainly passed, in seconds since 1970. Commit mode has no proof of time and only carries it along.
    pub time_floor: u64,
}

/// Why a stored state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is not the text that was written.
    #[error("the trust state is damaged")]
    Damaged(#[source] serde_json::Error),
    /// It was written by another version.
    #[error("the trust state has format {format}, this version of trimtab knows {FORMAT} only; install the newer trimtab again")]
    Format {
        /// What it says.
        format: u64,
    },
    /// It was written in another mode.
    #[error(
        "the trust state was written in mode {mode:?}, and going back to commit mode would loosen what is required; remove it on purpose to allow that"
    )]
    Mode {
        /// What it says.
        mode: String,
    },
}

impl StateError {
    /// A person's turn; but damage, where what else is known of this host stands in for it.
    pub fn class(&self) -> Class {
        Class::Halt
    }
}

#[derive(Deserialize)]
struct Head {
    format: u64,
    mode: String,
}

impl TrustState {
    /// A state of commit mode.
    pub(super) fn new(
        branch: String,
        commit: ObjectId,
        payload: Digest,
        signer: (Fingerprint, String),
        accepted_at: u64,
        time_floor: u64,
    ) -> Self {
        let (signer, signer_name) = signer;
        Self { format: FORMAT, mode: "commit".to_owned(), branch, commit, payload, signer, signer_name, accepted_at, time_floor }
    }

    /// The same as what stands for a release.
    pub(super) fn of_release(self) -> Self {
        Self { mode: "release".to_owned(), ..self }
    }

    /// The text to store.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("because every field is a number or a string");
        text.push('\n');
        text
    }

    /// Reads a stored text.
    pub fn from_text(text: &str) -> Result<Self, StateError> {
        // The head first, so that a newer format is told as that and not as damage.
        let head: Head = serde_json::from_str(text).map_err(StateError::Damaged)?;
        if head.format != u64::from(FORMAT) {
            return Err(StateError::Format { format: head.format });
        }
        if head.mode != "commit" {
            return Err(StateError::Mode { mode: head.mode.chars().take(40).collect() });
        }
        serde_json::from_str(text).map_err(StateError::Damaged)
    }
}

pub(super) mod hex {
    use gix_hash::ObjectId;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in crate::trust) fn serialize<S: Serializer>(id: &ObjectId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(in crate::trust) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectId, D::Error> {
        let text = String::deserialize(from)?;
        ObjectId::from_hex(text.as_bytes()).map_err(|_| D::Error::custom("not the id of a commit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> TrustState {
        let id = ObjectId::from_hex(b"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0").unwrap();
        TrustState::new("refs/heads/main".into(), id, Digest::of(b"x"), (Fingerprint::of(b"k"), "ann".into()), 1_800_000_000, 7)
    }

    #[test]
    fn reads_back_what_it_writes() {
        assert_eq!(TrustState::from_text(&state().to_text()).unwrap(), state());
    }

    #[test]
    fn damage_is_never_an_empty_state() {
        let text = state().to_text();
        for length in 0..text.len() - 1 {
            assert!(TrustState::from_text(&text[..length]).is_err() || text[length..].trim().is_empty(), "{length}");
        }
        let change = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            TrustState::from_text(&text.replace(from, to))
        };
        assert!(matches!(change("\"format\": 1", "\"format\": 2"), Err(StateError::Format { format: 2 })));
        assert!(matches!(change("\"commit\",", "\"release\","), Err(StateError::Mode { .. })));
        assert!(matches!(change("time-floor", "time-roof"), Err(StateError::Damaged(_))));
        assert!(matches!(change("b6fc4", "x6fc4"), Err(StateError::Damaged(_))));
        assert!(matches!(change("sha256:", "sha1:"), Err(StateError::Damaged(_))));
        assert!(matches!(change("SHA256:", "MD5:"), Err(StateError::Damaged(_))));
    }
}
