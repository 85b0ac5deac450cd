//! What comes out of looking at a tip: more than yes or no, because forged, unknown, rolled back and "could not check" lead to different things.
//!
//! Guarantees: each verdict has a stable code for journal and status, one sentence that says what a person should do, and a class that
//! says what the agent does. Limits: text in a verdict that comes from the repository is cut short and quoted.

use gix_hash::ObjectId;

use super::Class;
use super::cert::CertificateError;
use super::fault::ReleaseFault;
use super::hash::FetchError;
use super::prove::Proven;
use super::pubkey::Fingerprint;

/// The outcome of proving one tip.
#[derive(Debug)]
pub enum Verdict {
    /// Signed by a trusted key, and newer than what was accepted before (or the first). Store its state before acting on it.
    Accepted(Box<Proven>),
    /// What was accepted before, still signed by a key that is trusted now. Nothing to store.
    Unchanged(Box<Proven>),
    /// It carries no signature.
    Unsigned,
    /// It is signed in a way that is not checked here: OpenPGP where no such key is trusted, X.509, SHA-1.
    UnsupportedSignature {
        /// What kind of signature it is and what to use instead.
        what: &'static str,
    },
    /// Signed by a key that is not in `trust.toml`.
    UnknownSigner {
        /// The key that the signature names.
        fingerprint: Fingerprint,
    },
    /// Signed with a certificate by an authority that is not in `trust.toml`.
    UnknownAuthority {
        /// The authority's key.
        fingerprint: Fingerprint,
    },
    /// Signed with a certificate that does not count.
    Certificate {
        /// Why not.
        why: CertificateError,
    },
    /// Signed by a key of a pinned OpenPGP certificate that may not sign: revoked, expired, made for something else.
    UnusableKey {
        /// The key.
        fingerprint: Fingerprint,
        /// Why it may not.
        why: &'static str,
    },
    /// The signature names a trusted key and does not match: the commit or the signature was tampered with.
    Forged,
    /// Signed for another purpose than git.
    WrongNamespace {
        /// The purpose it names.
        namespace: String,
    },
    /// Signed with a security key that nobody touched.
    Untouched,
    /// Not a commit as git writes it.
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// Its objects carry the marks of a SHA-1 collision attack.
    Collision,
    /// The required trailer is missing or names another channel.
    WrongChannel {
        /// The channel that this host follows.
        want: String,
        /// What the commit names, if it names one.
        found: Option<String>,
    },
    /// Not every commit since the accepted one is signed as `verify = "all-since-trusted"` asks.
    Unvouched(Unvouched),
    /// It is an ancestor of what was accepted before.
    RolledBack,
    /// It neither descends from what was accepted before nor precedes it.
    Rewritten,
    /// No answer within the bound of the walk.
    TooFar {
        /// How many commits were looked at.
        commits: usize,
    },
    /// A release that is not accepted.
    Release(Box<ReleaseFault>),
    /// The source handed over other bytes than the id names.
    WrongObject {
        /// What exactly.
        source: FetchError,
    },
    /// It could not be checked.
    Unavailable {
        /// Why.
        source: FetchError,
    },
}

impl Verdict {
    /// The stable name of the verdict, for journal and status.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Unchanged(_) => "unchanged",
            Self::Unsigned => "unsigned",
            Self::UnsupportedSignature { .. } => "unsupported-signature",
            Self::UnknownSigner { .. } => "unknown-signer",
            Self::UnknownAuthority { .. } => "unknown-authority",
            Self::Certificate { .. } => "certificate",
            Self::UnusableKey { .. } => "unusable-key",
            Self::Forged => "forged",
            Self::WrongNamespace { .. } => "wrong-namespace",
            Self::Untouched => "untouched",
            Self::Malformed { .. } => "malformed",
            Self::Collision => "collision",
            Self::WrongChannel { .. } => "wrong-channel",
            Self::Unvouched(_) => "unvouched",
            Self::RolledBack => "rolled-back",
            Self::Rewritten => "rewritten",
            Self::TooFar { .. } => "too-far",
            Self::Release(fault) => fault.code(),
            Self::WrongObject { .. } => "wrong-object",
            Self::Unavailable { .. } => "unavailable",
        }
    }

    /// What the agent does about it; `None` when there is nothing to be done about.
    pub fn class(&self) -> Option<Class> {
        match self {
            Self::Accepted(_) | Self::Unchanged(_) => None,
            Self::WrongObject { .. } => Some(Class::Retry),
            Self::Unavailable { source } => Some(source.class()),
            _ => Some(Class::Hold),
        }
    }

    /// The proof, when there is one.
    pub fn proven(&self) -> Option<&Proven> {
        match self {
            Self::Accepted(proven) | Self::Unchanged(proven) => Some(proven),
            _ => None,
        }
    }

    /// What lies under a verdict that could not be reached.
    pub fn cause(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::WrongObject { source } | Self::Unavailable { source } => Some(source),
            _ => None,
        }
    }
}

impl From<ReleaseFault> for Verdict {
    fn from(fault: ReleaseFault) -> Self {
        Self::Release(Box::new(fault))
    }
}

impl std::fmt::Display for Verdict {
    /// One sentence without a full stop: what is the matter and what to do.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accepted(proven) => write!(f, "the commit is signed by {}", proven.signed_by()),
            Self::Unchanged(proven) => write!(f, "the commit is the one accepted before, signed by {}", proven.signed_by()),
            Self::Release(fault) => fault.fmt(f),
            Self::Unsigned => {
                f.write_str("the commit is not signed; sign it (`git commit --amend -S`) or push a signed commit on top (forges do not sign merges with your key)")
            }
            Self::UnsupportedSignature { what } => write!(f, "the commit's signature cannot be checked: {what}"),
            Self::UnknownSigner { fingerprint } => write!(
                f,
                "the commit is signed by {fingerprint}, a key that is not in trust.toml; if that key is meant to be trusted, add it there, otherwise find out who pushed it"
            ),
            Self::UnknownAuthority { fingerprint } => write!(
                f,
                "the commit is signed with a certificate by {fingerprint}, an authority that is not in trust.toml; if its certificates are meant to count, add `cert-authority` and that key there, otherwise find out who pushed it"
            ),
            Self::Certificate { why } => write!(f, "the commit is signed with a certificate that does not count: {why}"),
            Self::UnusableKey { fingerprint, why } => write!(f, "the commit is signed by {fingerprint}, a key that may not sign: {why}"),
            Self::Forged => f.write_str(
                "the commit names a trusted key, but its signature does not match: the commit was altered after signing; do not use it, find out who pushed it",
            ),
            Self::WrongNamespace { namespace } => write!(
                f,
                "the commit carries a signature made for {namespace:?}, not for git: it was taken from somewhere else; find out who pushed it"
            ),
            Self::Untouched => f.write_str(
                "the commit was signed by a security key that nobody touched; make the key without `no-touch-required` and sign again",
            ),
            Self::Malformed { what } => write!(f, "the commit is not as git writes it: {what}; commit again with plain git"),
            Self::Collision => f.write_str("the commit's objects carry a SHA-1 collision attack; find out who pushed them"),
            Self::WrongChannel { want, found: Some(found) } => write!(
                f,
                "the commit is meant for the channel {found:?}, and this host follows {want:?}; push a commit with the trailer `Trimtab-Channel: {want}`"
            ),
            Self::WrongChannel { want, found: None } => write!(
                f,
                "the commit names no channel, and this host follows {want:?}; commit with `--trailer 'Trimtab-Channel: {want}'`"
            ),
            Self::Unvouched(unvouched) => unvouched.fmt(f),
            Self::RolledBack => f.write_str(
                "the source serves an older commit than the one accepted before; to go back on purpose, push a new commit (`git revert`)",
            ),
            Self::Rewritten => f.write_str(
                "the commit does not descend from the one accepted before: the branch was rewritten, or another one is served; push a commit that descends from it, or, if the change is meant, name the new commit in trust.toml (`min-commit = \"<its id>\"`) and remove this host's memory of the old one (trust-state.json in /var/lib/trimtab and in /etc/trimtab/state)",
            ),
            Self::TooFar { commits } => write!(
                f,
                "the commit accepted before was not found among the {commits} commits before this one; push the history in between in steps, or name the new commit in trust.toml (`min-commit = \"<its id>\"`) and remove this host's memory of the old one (trust-state.json in /var/lib/trimtab and in /etc/trimtab/state)"
            ),
            Self::WrongObject { .. } => {
                f.write_str("the source handed over other bytes than it was asked for: its cache or the server's repository is damaged, or it lies; nothing was used, it is asked again")
            }
            Self::Unavailable { .. } => f.write_str("the commit could not be checked; the last good state is held and it is tried again"),
        }
    }
}

/// Commits without a signature that counts.
#[derive(Debug)]
pub struct Unvouched {
    /// The oldest of them.
    pub commit: ObjectId,
    /// Its author line, escaped and cut short: the author's own word, for people.
    pub author: String,
    /// How many there are at least.
    pub count: usize,
    /// What is wrong with the oldest.
    pub why: Box<Verdict>,
}

impl std::fmt::Display for Unvouched {
    /// One sentence without a full stop: which, why and what to do.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { commit, author, count, why } = self;
        let carry = if *count == 1 { "commit carries" } else { "commits carry" };
        write!(
            f,
            "since the last accepted commit {count} {carry} no signature that counts, and `verify = \"all-since-trusted\"` asks it of each; \
             the first is {commit} by \"{author}\": "
        )?;
        match **why {
            Verdict::Unsigned => f.write_str("it is not signed")?,
            _ => write!(f, "{why}")?,
        }
        write!(
            f,
            "; sign them anew from there on (`git rebase --exec 'git commit --amend --no-edit -S' {commit}^`), or, when somebody has looked at them, \
             let this host pass them once with `verify = \"tip\"` in trust.toml"
        )
    }
}
