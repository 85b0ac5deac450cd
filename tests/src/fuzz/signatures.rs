//! Signatures: armor, blobs, blocks, keys. What counts was made by somebody.

use trimtab::trust::blocks::{self, AnyKey, BlockKind};
use trimtab::trust::minisign::{MinisignKey, MinisignSignature};
use trimtab::trust::openpgp::{self, Certificate};
use trimtab::trust::pubkey::PublicKey;
use trimtab::trust::signers::Line;
use trimtab::trust::threshold::{Over, Quorum, ROOT_NAMESPACE};
use trimtab::trust::{cert, sshsig};

use super::known;

/// An armored SSH signature; what is not armored is taken for the blob inside of one.
pub fn sshsig(bytes: &[u8]) {
    let (armor, blob) = match sshsig::dearmor(bytes) {
        Ok(blob) => {
            assert_eq!(sshsig::armor(&blob), bytes, "the armor has another form");
            (bytes.to_vec(), blob)
        }
        Err(_) => (sshsig::armor(bytes), bytes.to_vec()),
    };
    assert!(sshsig::dearmor(&armor).is_ok_and(|again| again == blob) || armor.len() > 16 << 10);
    let Ok(signature) = sshsig::parse(&blob) else {
        assert!(known::signers().check(&armor, known::PAYLOAD, known::NOW).is_err());
        return;
    };
    let keys = || known::signers().keys.iter().map(|trusted| &trusted.key);
    let plain = signature.verify(known::PAYLOAD, keys());
    let any = signature.made_by(known::PAYLOAD, keys(), &known::signers().authorities, known::NOW);
    assert!(any.is_ok() || plain.is_err());
    if any.is_ok() {
        assert!(known::was_made(&armor, known::signatures()), "nobody made this signature");
    }
    // Over nothing else, and for nothing else.
    assert!(signature.verify(b"what was not signed\n", keys()).is_err());
    assert!(signature.verify_in(ROOT_NAMESPACE, known::PAYLOAD, keys()).is_err());
    assert!(signature.made_by(b"", keys(), &known::signers().authorities, known::NOW).is_err());
}

/// Blocks behind a text, as in a tag or in a file of its own.
pub fn blocks(bytes: &[u8]) {
    let Ok((end, found)) = blocks::split(bytes) else { return };
    assert!(found.len() <= blocks::MAX_BLOCKS);
    let mut all = bytes[..end].to_vec();
    for block in &found {
        assert_eq!(block.start, all.len(), "a block does not begin where the one before it ends");
        all.extend(block.text);
    }
    assert_eq!(all, bytes, "something is in no block and not in the text");
    assert_eq!(blocks::split(&bytes[..end]).map(|(end, blocks)| (end, blocks.len())), Ok((end, 0)), "a marker stands in the text");
    assert_eq!(blocks::only(bytes).is_ok(), end == 0 && !found.is_empty());
    for block in &found {
        let who = block.signer(&bytes[..block.start], b"git", known::any_keys().iter());
        assert!(who.is_err() || bytes[..block.start] == *known::PAYLOAD, "nobody signed this text");
        // As it stands in a `.sig` file.
        let Ok(key) = block.signer(known::PAYLOAD, b"git", known::any_keys().iter()) else { continue };
        match block.kind {
            BlockKind::Ssh => assert!(known::was_made(block.text, known::signatures()), "nobody made this block"),
            BlockKind::Minisign => assert_eq!(*key, AnyKey::Minisign(known::minisign())),
            BlockKind::OpenPgp => unreachable!("it counts for nobody"),
        }
    }
    // However often somebody signs, it is one.
    let keys = known::named_keys(&["ann", "bob", "eve"]);
    let quorum = Quorum { threshold: 2, keys: keys.iter().collect() };
    if let Ok(tally) = quorum.count(&found, Over::All(known::PAYLOAD), ROOT_NAMESPACE) {
        unreachable!("nobody signed this as a root: {:?}", tally.signers);
    }
}

/// The text of a `.minisig` file, or the line of a key.
pub fn minisign(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(key) = text.parse::<MinisignKey>() {
        assert_eq!(key.to_string(), text, "the key has another form");
    }
    let Ok(signature) = MinisignSignature::parse(text) else {
        assert!(blocks::of_minisig(text).is_err());
        return;
    };
    let block = blocks::of_minisig(text).expect("because it was parsed");
    assert_eq!(blocks::only(&block).map(|blocks| blocks.len()), Ok(1), "a signature breaks out of its block");
    let key = known::minisign();
    if let Ok(comment) = key.verify(known::PAYLOAD, &signature) {
        let genuine = String::from_utf8(known::file("payload.minisig")).expect("because minisign wrote it");
        let signed = |text: &str| text.split_once('\n').map(|(_, signed)| signed.to_owned());
        assert_eq!(signed(text), signed(&genuine), "nobody made this signature");
        assert!(!comment.contains(['\n', '\r', '\x1b']));
    }
    assert!(key.verify(b"what was not signed\n", &signature).is_err());
}

/// The line of a key as `trust.toml` has it; what is no line is taken for the blob of a key or of a certificate.
pub fn line(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    match Line::parse(text) {
        Ok(line) => {
            let key = line.key();
            assert_eq!(PublicKey::parse(key.blob()).as_ref(), Ok(key), "the key has another form");
            let print = key.fingerprint();
            assert_eq!(print.to_string().parse(), Ok(print));
        }
        Err(error) => assert!(error.message.len() < 2000 && error.help.len() < 2000, "a refusal that nobody can read"),
    }
    if let Ok(key) = PublicKey::parse(bytes) {
        assert_eq!(key.blob(), bytes);
        assert!(!cert::is_certificate(bytes));
    }
    if let Ok(certificate) = cert::parse(bytes) {
        assert!(certificate.id().len() < 2000 && !certificate.id().chars().any(char::is_control));
        assert_eq!(PublicKey::parse(certificate.key().blob()).as_ref(), Ok(certificate.key()));
        if certificate.check(std::slice::from_ref(known::authority()), known::NOW).is_ok() {
            assert_eq!(bytes, known::file("certificate.bin"), "the authority did not make this certificate");
        }
    }
}

/// An armored OpenPGP signature, or an armored certificate.
pub fn openpgp(bytes: &[u8]) {
    let pinned = &known::signers().openpgp;
    if openpgp::check(pinned, bytes, known::PAYLOAD, known::NOW).is_ok() {
        assert_eq!(bytes, known::file("openpgp.sig"), "nobody made this signature");
    }
    assert!(openpgp::check(pinned, bytes, b"what was not signed\n", known::NOW).is_err());
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let print = String::from_utf8(known::file("openpgp.fingerprint")).unwrap_or_default();
    if let Ok(certificate) = Certificate::parse(text, print.trim_end(), "ann") {
        assert_eq!(certificate.fingerprint(), pinned[0].fingerprint());
        assert_eq!(Certificate::parse(text, print.trim_end(), "ann").as_ref(), Ok(&certificate));
    }
}
