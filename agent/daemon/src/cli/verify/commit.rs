//! The steps of commit mode: the commit, its signature, its key, and how it stands to what was accepted before.
//!
//! Limits: an explanation, as of release mode's; the verdict is the device's own.

use gix_hash::ObjectId;

use super::steps::Steps;
use crate::author::reach::Reached;
use crate::log::chain as causes;
use crate::trust::ancestry::{self, Accepted, Descent};
use crate::trust::chain;
use crate::trust::commit::{Commit, MAX_COMMIT};
use crate::trust::decide;
use crate::trust::hash::Verified;
use crate::trust::keys::{TRAILER, TrustConfig, Verify};
use crate::trust::memory::{Memory, Moment};
use crate::trust::prove;
use crate::trust::sshsig::{self, SignatureError};
use crate::trust::statement::show_time;
use crate::trust::vouch;
use crate::wire::ObjectKind;

/// The most keys that are named.
const MAX_NAMES: usize = 20;

impl Steps {
    /// The steps of commit mode, as far as they lead.
    pub(super) fn commit(&mut self, tip: ObjectId, reached: &mut Reached, trust: &TrustConfig, memory: &Memory, moment: Moment) {
        let Some(commit) = self.well_formed(tip, reached) else { return };
        let Some(trust) = self.whose(&commit, reached, trust, memory) else { return };
        let now = moment.clock.max(memory.floor_now());
        let time = prove::time(&commit, memory.accepted.as_ref(), now);
        if !self.signed(&commit, &trust, time) {
            return;
        }
        if let Some(want) = trust.trailer() {
            let found: Vec<String> = commit.trailers(TRAILER).map(|found| String::from_utf8_lossy(found).into_owned()).collect();
            let found = if found.is_empty() { "it has none".to_owned() } else { found.join(", ") };
            let expected = format!("it says `{TRAILER}: {want}`");
            self.add("channel", prove::channel(&commit, &trust).is_ok(), expected, found);
        }
        self.descent(&commit, reached, &trust, memory, time);
    }

    fn well_formed(&mut self, tip: ObjectId, reached: &mut Reached) -> Option<Commit> {
        let expected = "a commit as git writes it, whose bytes are what its id names".to_owned();
        let object = match Verified::new(reached.courier(), MAX_COMMIT).one(ObjectKind::Commit, tip, MAX_COMMIT) {
            Ok(object) => object,
            Err(error) => {
                self.add("commit", false, expected, causes(&error));
                return None;
            }
        };
        match Commit::parse(&object) {
            Ok(commit) => {
                let found = format!("{} bytes, tree {}, {} parents", object.bytes().len(), commit.tree, commit.parents.len());
                self.add("commit", true, expected, found);
                Some(commit)
            }
            Err(malformed) => {
                self.add("commit", false, expected, malformed.what);
                None
            }
        }
    }

    /// Whose commits count: those of trust.toml, or of the newest root where that is pinned.
    fn whose(&mut self, commit: &Commit, reached: &mut Reached, trust: &TrustConfig, memory: &Memory) -> Option<TrustConfig> {
        let Some(anchor) = trust.anchor() else { return Some(trust.clone()) };
        let root = self.roots(commit.tree, reached, anchor, memory)?;
        let is_of = chain::is_of(&root, commit.tree, reached.courier());
        let expected = format!("the tree holds a root file of {}", anchor.repo);
        let good = matches!(is_of, Ok(true));
        self.add("repository", good, expected, if good { "it does" } else { "it does not" });
        match decide::keys(&root, trust.reference()) {
            Ok(keys) => Some(trust.with_keys(keys)),
            Err(verdict) => {
                self.add(
                    "role",
                    false,
                    format!("root {} names keys for {}", root.root.version, trust.reference()),
                    verdict.to_string(),
                );
                None
            }
        }
    }

    /// One signature, made for git, by a key that counts, over these very bytes.
    fn signed(&mut self, commit: &Commit, trust: &TrustConfig, time: u64) -> bool {
        let form = "one SSH signature, made for git".to_owned();
        let Some(armor) = commit.armor.as_deref() else {
            return self.add("signature", false, form, "the commit is not signed (`git commit -S`)");
        };
        let judged = trust.signers().check(armor, &commit.payload, time);
        if let Err(error @ (SignatureError::Malformed(_) | SignatureError::Unsupported(_) | SignatureError::WrongNamespace(_))) =
            &judged
        {
            return self.add("signature", false, form, causes(error));
        }
        let blob = sshsig::dearmor(armor).unwrap_or_default();
        let signature = sshsig::parse(&blob);
        let described = signature.as_ref().map_or_else(|_| "an OpenPGP signature".to_owned(), sshsig::Signature::describe);
        self.add("signature", true, form, described);
        let who = match &signature {
            Ok(signature) => signature.fingerprint().to_string(),
            Err(_) => String::new(),
        };
        let is_certified = signature.as_ref().is_ok_and(sshsig::Signature::is_certified);
        self.key(trust, &judged, &who, is_certified);
        if is_certified && !matches!(judged, Err(SignatureError::UnknownAuthority(_))) {
            self.certificate(&judged, &blob, time);
        }
        match &judged {
            Ok(signer) => {
                self.add("match", true, "the signature covers these very bytes".to_owned(), format!("it does, by {signer}"))
            }
            Err(error @ SignatureError::Forged) => {
                self.add("match", false, "the signature covers these very bytes".to_owned(), causes(error))
            }
            Err(error @ SignatureError::Untouched) => {
                self.add("touch", false, "somebody touched the security key".to_owned(), causes(error))
            }
            Err(_) => false,
        }
    }

    fn key(&mut self, trust: &TrustConfig, judged: &Result<impl Sized, SignatureError>, who: &str, is_certified: bool) {
        let signers = trust.signers();
        let named = |name: &str, print: String| if name.is_empty() { print } else { format!("{name} ({print})") };
        let (rule, names): (_, Vec<String>) = if is_certified {
            let names = signers.authorities.iter().map(|one| named(&one.comment, one.key.fingerprint().to_string()));
            ("authority", names.collect())
        } else {
            ("key", signers.keys.iter().map(|one| named(&one.comment, one.key.fingerprint().to_string())).collect())
        };
        let more = names.len().saturating_sub(MAX_NAMES);
        let mut list = names.into_iter().take(MAX_NAMES).collect::<Vec<_>>().join(", ");
        if more > 0 {
            list += &format!(" and {more} more");
        }
        let list = if list.is_empty() { "nobody counts".to_owned() } else { list };
        let (ok, found) = match judged {
            Err(SignatureError::UnknownAuthority(print) | SignatureError::UnknownSigner(print)) => {
                (false, format!("{print}, which is none of them"))
            }
            Err(error @ SignatureError::UnusableKey { .. }) => (false, causes(error)),
            _ if is_certified => (true, "it is one of them".to_owned()),
            _ => (true, who.to_owned()),
        };
        self.add(rule, ok, format!("one of those that count: {list}"), found);
    }

    fn certificate(&mut self, judged: &Result<impl Sized, SignatureError>, blob: &[u8], time: u64) {
        let expected = format!("the certificate is a user's, for one of the principals, and good at {}", show_time(time));
        let id =
            sshsig::parse(blob).ok().and_then(|signature| signature.certificate().map(|certificate| certificate.id().to_owned()));
        match judged {
            Err(error @ SignatureError::Certificate(_)) => self.add("certificate", false, expected, causes(error)),
            _ => self.add("certificate", true, expected, format!("of {:?}", id.unwrap_or_default())),
        };
    }

    /// How it stands to what was accepted before.
    fn descent(&mut self, commit: &Commit, reached: &mut Reached, trust: &TrustConfig, memory: &Memory, time: u64) {
        let Some(state) = &memory.accepted else {
            self.add("ancestry", true, "anything (nothing was accepted before)".to_owned(), "it would be the first");
            return;
        };
        let expected = format!("it is {}, which was accepted on {}, or comes after it", state.commit, show_time(state.accepted_at));
        if commit.digest == state.payload {
            self.add("ancestry", true, expected, "it is that one");
            return;
        }
        let accepted = Accepted { payload: state.payload, commit: state.commit };
        let found = match trust.verify() {
            Verify::Tip => ancestry::descent(commit, accepted, reached.courier()).map(Ok),
            Verify::AllSinceTrusted => {
                let check = |between: &Commit| prove::signer(between, trust, time).map(|_| ());
                vouch::descent(commit, accepted, reached.courier(), check)
            }
        };
        let (ok, found) = match found {
            Ok(Ok(Descent::Descends)) => (true, "it comes after it".to_owned()),
            Ok(Ok(Descent::RolledBack)) => (false, "it comes before it: an older commit is served again".to_owned()),
            Ok(Ok(Descent::Rewritten)) => (false, "neither: the branch was rewritten, or another one is served".to_owned()),
            Ok(Ok(Descent::TooFar)) => (false, "that one was not found among so many before it that a device gives up".to_owned()),
            Ok(Err(unvouched)) => {
                self.add("ancestry", true, expected, "it comes after it");
                self.add(
                    "vouched",
                    false,
                    "each commit since then is signed by a key that counts".to_owned(),
                    unvouched.to_string(),
                );
                return;
            }
            Err(error) => (false, causes(&error)),
        };
        self.add("ancestry", ok, expected, found);
        if ok && trust.verify() == Verify::AllSinceTrusted {
            self.add("vouched", true, "each commit since then is signed by a key that counts".to_owned(), "each is");
        }
    }
}
