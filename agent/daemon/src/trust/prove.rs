//! The one place where a commit becomes believed.
//!
//! Guarantees: only [`prove`] can build a [`Proven`] (and [`super::release`], under its own guarantees). Its commit is well formed and hashed, carries one signature by a key that is in
//! `trust.toml` *now*, names the required channel, and is either the first, the same, or a descendant of what was accepted before.
//! Key and descent are checked anew each time: a key whose line was removed stops counting, for the commit in force too.
//! Limits: those of commit mode, see [`super`]. The committer's date is the signer's own word and is used for nothing.

use gix_hash::ObjectId;
use trimtab_model::digest::Digest;

use super::ancestry::{self, Accepted, Descent};
use super::commit::{Commit, MAX_COMMIT};
use super::hash::{FetchError, Verified};
use super::keys::{Signer, TRAILER, TrustConfig, Verify};
use super::sshsig::SignatureError;
use super::state::TrustState;
use super::verdict::Verdict;
use super::vouch;
use crate::wire::{ObjectError, ObjectKind, ObjectSource};

/// A commit that this host may act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    commit: ObjectId,
    tree: ObjectId,
    payload: Digest,
    signer: Signer,
    /// All who signed, of a release.
    signers: Vec<String>,
    first: bool,
    state: TrustState,
}

impl Proven {
    /// Its id, as it was served.
    pub fn commit(&self) -> ObjectId {
        self.commit
    }

    /// The tree that its signer vouches for.
    pub fn tree(&self) -> ObjectId {
        self.tree
    }

    /// The SHA-256 of what was signed.
    pub fn payload(&self) -> Digest {
        self.payload
    }

    /// Who signed it.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Who signed it, for people: in release mode all of them.
    pub fn signed_by(&self) -> String {
        if self.signers.is_empty() { self.signer.to_string() } else { self.signers.join(", ") }
    }

    /// What a signed commit stands for. Only [`prove`] may say so.
    fn of_commit(commit: &Commit, signer: Signer, first: bool, state: TrustState) -> Self {
        Self { commit: commit.id, tree: commit.tree, payload: commit.digest, signer, signers: Vec::new(), first, state }
    }

    /// What a release stands for. Only [`super::release`] may say so.
    pub(super) fn of_release(commit: ObjectId, tree: ObjectId, signers: Vec<String>, first: bool, state: TrustState) -> Self {
        let signer = Signer { fingerprint: state.signer, name: state.signer_name.clone() };
        Self { commit, tree, payload: state.payload, signer, signers, first, state }
    }

    /// Whether nothing had been accepted before: there was no descent to be checked, which is worth a line in the report.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// What to remember, written before the machine is touched. For an unchanged commit this is the state as it was.
    pub fn state(&self) -> &TrustState {
        &self.state
    }
}

/// Looks at the commit `tip`. `now` is this host's clock in seconds since 1970: with the floor of time it decides
/// whether a certificate is valid, and nothing else.
pub fn prove(tip: ObjectId, source: &mut impl ObjectSource, trust: &TrustConfig, state: Option<&TrustState>, now: u64) -> Verdict {
    match examine(tip, source, trust, state, now) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

fn examine(
    tip: ObjectId,
    source: &mut impl ObjectSource,
    trust: &TrustConfig,
    state: Option<&TrustState>,
    now: u64,
) -> Result<Verdict, Verdict> {
    let object = Verified::new(source, MAX_COMMIT).one(ObjectKind::Commit, tip, MAX_COMMIT).map_err(of_fetch)?;
    let commit = Commit::parse(&object).map_err(|malformed| Verdict::Malformed { what: malformed.what.to_owned() })?;
    let floor = state.map_or(0, |state| state.time_floor);
    let time = time(&commit, state, now);
    let signer = signer(&commit, trust, time)?;
    channel(&commit, trust)?;
    if let Some(state) = state {
        if commit.digest == state.payload {
            return Ok(Verdict::Unchanged(Box::new(Proven::of_commit(&commit, signer, false, state.clone()))));
        }
        let accepted = Accepted { payload: state.payload, commit: state.commit };
        let (descent, bound) = match trust.verify() {
            Verify::Tip => (ancestry::descent(&commit, accepted, source).map_err(of_fetch)?, ancestry::MAX_COMMITS),
            Verify::AllSinceTrusted => {
                let check = |between: &Commit| self::signer(between, trust, time).map(|_| ());
                let vouched = vouch::descent(&commit, accepted, source, check).map_err(of_fetch)?;
                (vouched.map_err(Verdict::Unvouched)?, vouch::MAX_COMMITS)
            }
        };
        match descent {
            Descent::Descends => {}
            Descent::RolledBack => return Err(Verdict::RolledBack),
            Descent::Rewritten => return Err(Verdict::Rewritten),
            Descent::TooFar => return Err(Verdict::TooFar { commits: bound }),
        }
    }
    let next = TrustState::new(
        trust.reference().to_owned(),
        tip,
        commit.digest,
        (signer.fingerprint, signer.name.clone()),
        now.max(floor),
        // Neither this host's clock nor the signer's date proves that a time has passed: the floor is only carried along.
        floor,
    );
    Ok(Verdict::Accepted(Box::new(Proven::of_commit(&commit, signer, state.is_none(), next))))
}

/// The time at which whoever signed it must have been somebody who counts.
pub(crate) fn time(commit: &Commit, state: Option<&TrustState>, now: u64) -> u64 {
    match state {
        // What was accepted with a certificate that was valid then does not become wrong when it runs out; what is new has to be valid now.
        Some(state) if commit.digest == state.payload => state.accepted_at,
        _ => now.max(state.map_or(0, |state| state.time_floor)),
    }
}

/// Who signed it, of those who count then.
pub(crate) fn signer(commit: &Commit, trust: &TrustConfig, time: u64) -> Result<Signer, Verdict> {
    let armor = commit.armor.as_deref().ok_or(Verdict::Unsigned)?;
    trust.signers().check(armor, &commit.payload, time).map_err(of_signature)
}

/// Whether it names the channel that is asked for.
pub(crate) fn channel(commit: &Commit, trust: &TrustConfig) -> Result<(), Verdict> {
    let Some(want) = trust.trailer() else { return Ok(()) };
    if commit.trailers(TRAILER).any(|found| found == want.as_bytes()) {
        return Ok(());
    }
    let found = commit.trailers(TRAILER).next().map(|found| String::from_utf8_lossy(&found[..found.len().min(100)]).into_owned());
    Err(Verdict::WrongChannel { want: want.to_owned(), found })
}

fn of_signature(error: SignatureError) -> Verdict {
    match error {
        SignatureError::Malformed(what) => Verdict::Malformed { what: format!("in its signature: {what}") },
        SignatureError::Unsupported(what) => Verdict::UnsupportedSignature { what },
        SignatureError::WrongNamespace(namespace) => Verdict::WrongNamespace { namespace },
        SignatureError::UnknownSigner(fingerprint) => Verdict::UnknownSigner { fingerprint },
        SignatureError::UnknownAuthority(fingerprint) => Verdict::UnknownAuthority { fingerprint },
        SignatureError::Certificate(why) => Verdict::Certificate { why },
        SignatureError::UnusableKey { fingerprint, why } => Verdict::UnusableKey { fingerprint, why },
        SignatureError::Forged => Verdict::Forged,
        SignatureError::Untouched => Verdict::Untouched,
    }
}

pub(super) fn of_fetch(error: FetchError) -> Verdict {
    match error {
        FetchError::Oversize { .. } | FetchError::Budget { .. } | FetchError::Source(ObjectError::TooLarge { .. }) => {
            Verdict::Malformed { what: "it, or a commit before it, is larger than 256 KiB".to_owned() }
        }
        FetchError::Collision { .. } => Verdict::Collision,
        error @ (FetchError::Mismatch { .. } | FetchError::Count { .. }) => Verdict::WrongObject { source: error },
        error @ FetchError::Source(_) => Verdict::Unavailable { source: error },
    }
}
