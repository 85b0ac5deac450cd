//! What somebody without a trusted key, or with the server in his hands, may try against a host, and what comes of it.
//!
//! One test per attack, named after it (the letters are those of the project's attack table). Repositories, keys and signatures are
//! made by git and ssh-keygen; a hostile object is written as it is.

// The helpers here are tests too, but clippy sees that only of functions that say `#[test]`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod alive;
mod certificates;
mod commits;
mod differential;
mod history;
mod lives;
mod memories;
mod openpgp;
mod releases;
mod roots;
mod signatures;
mod sources;
mod tokens;
mod trees;
mod vouched;

use gix_hash::ObjectId;
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::prove::{Proven, prove};
use trimtab::trust::state::TrustState;
use trimtab::trust::verdict::Verdict;
use trimtab::wire::{ObjectError, ObjectKind, ObjectSource};
use trimtab_tests::git::{Key, Repo};

/// This host's clock.
const NOW: u64 = 1_800_000_100;

/// A configuration that trusts these keys on `main`.
fn trust(keys: &[&Key]) -> TrustConfig {
    trust_with(keys, "")
}

/// The same with further lines.
fn trust_with(keys: &[&Key], more: &str) -> TrustConfig {
    let lines: Vec<_> = keys.iter().map(|key| format!("{:?}", key.line())).collect();
    let text = format!("mode = \"commit\"\nbranch = \"main\"\nkeys = [{}]\n{more}\n", lines.join(", "));
    TrustConfig::parse("trust.toml", &text).unwrap_or_else(|findings| panic!("{}", findings.draw(false)))
}

/// What a host with this configuration and this memory says about a commit of the repository.
fn judge(repo: &Repo, tip: ObjectId, trust: &TrustConfig, state: Option<&TrustState>) -> Verdict {
    let verdict = prove(tip, &mut repo.source(), trust, state, NOW);
    assert_eq!(verdict.class().is_none(), verdict.proven().is_some(), "only what is proven asks for nothing: {verdict:?}");
    verdict
}

/// A source that answers everything with the same objects.
struct Fixed(Vec<Vec<u8>>);

impl ObjectSource for Fixed {
    fn objects(&mut self, _: ObjectKind, _: &[ObjectId], _: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        Ok(self.0.clone())
    }
}

/// As [`judge`] on a first contact, for a commit of these bytes under their true id, without a process for each.
fn judge_bytes(commit: Vec<u8>, trust: &TrustConfig) -> Verdict {
    let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
    hasher.update(format!("commit {}\0", commit.len()).as_bytes());
    hasher.update(&commit);
    prove(hasher.try_finalize().unwrap(), &mut Fixed(vec![commit]), trust, None, NOW)
}

/// The proof of a commit that must be accepted.
fn accept(repo: &Repo, tip: ObjectId, trust: &TrustConfig, state: Option<&TrustState>) -> Proven {
    match judge(repo, tip, trust, state) {
        Verdict::Accepted(proven) => *proven,
        other => panic!("{other:?}: {other}"),
    }
}

/// Asserts the verdict by its code, and that it says so.
#[track_caller]
fn assert_code(verdict: &Verdict, code: &str) {
    assert_eq!(verdict.code(), code, "{verdict:?}");
    assert!(verdict.to_string().len() > 20 && !verdict.to_string().ends_with('.'), "{verdict}");
}
