//! What people write and sign: statements, root files and chains of them, `trust.toml`.

use trimtab::trust::chain;
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::root::{MAX_ROOT, Root};
use trimtab_model::finding::{Findings, MAX_FINDINGS};

use super::{known, objects};

/// The text of a release, or of an `alive` statement.
pub fn statement(bytes: &[u8]) {
    objects::statement_of(bytes);
}

/// A refusal that somebody can read, however odd what is refused.
pub(super) fn readable(findings: &Findings) {
    assert!(!findings.list.is_empty() && findings.list.len() <= MAX_FINDINGS, "{} findings", findings.list.len());
    for finding in &findings.list {
        let length = finding.spots.iter().map(|spot| spot.text.len() + spot.label.len()).sum::<usize>();
        assert!(
            finding.message.len() + finding.help.len() + length < 16 << 10,
            "a finding of {} bytes",
            finding.message.len() + length
        );
    }
    assert!(findings.draw(false).len() < 1 << 20);
}

/// The text of a root file.
pub fn root(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Root::parse("2.toml", text) {
        Ok(root) => {
            assert!(bytes.len() as u64 <= MAX_ROOT);
            let again = Root::parse("2.toml", &root.to_text());
            assert_eq!(again.as_ref().ok(), Some(&root), "it is written as something else: {}", root.to_text());
            let roles =
                [&root.root].into_iter().chain(root.release.values()).chain(root.alive.values()).chain(root.commit.values());
            for role in roles {
                let quorum = root.quorum(role);
                assert!(
                    quorum.threshold >= 1 && quorum.threshold <= quorum.keys.len(),
                    "a threshold that cannot be met, or is none"
                );
                assert_eq!(quorum.keys.len(), role.keys.len(), "a role names a key twice, or one that is not there");
            }
        }
        Err(findings) => readable(&findings),
    }
}

/// Root files that follow root 1 of [`known::roots`]: text, signatures, text, signatures, with NUL bytes between.
pub fn chain(bytes: &[u8]) {
    let genuine = known::roots();
    let mut newest = genuine.first.clone();
    let mut parts = bytes.split(|byte| *byte == 0);
    while let Some(text) = parts.next() {
        let signatures = parts.next();
        let version = newest.root.version + 1;
        match chain::step(&newest.root, version, text, signatures) {
            Ok(next) => {
                assert_eq!((next.root.version, next.text.as_bytes()), (version, text));
                assert!(next.root.epoch >= newest.root.epoch && next.root.repo == newest.root.repo);
                assert!(genuine.next.iter().any(|(one, _)| one.as_bytes() == text), "nobody signed this root");
                newest = next;
            }
            Err(fault) => assert!(fault.to_string().len() < 1 << 20),
        }
    }
}

/// The text of `trust.toml`.
pub fn trust_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match TrustConfig::parse("trust.toml", text) {
        Ok(config) => {
            assert_eq!(TrustConfig::parse("trust.toml", text).as_ref().ok(), Some(&config));
            assert!(config.reference().starts_with("refs/"));
            assert!(config.anchor().is_some() || !config.signers().is_empty(), "nobody is trusted, and nobody is told");
            if config.alive_reference().is_some() {
                assert!(config.anchor().is_some() && config.keys().is_empty());
            }
            let _ = config.digest();
            if let Ok(pinned) = config.with_root("1.toml", &known::roots().first.text) {
                assert!(pinned.anchor().is_none_or(|anchor| anchor.repo == known::roots().first.root.repo));
            }
        }
        Err(findings) => readable(&findings),
    }
}
