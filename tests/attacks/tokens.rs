//! Releases and roots signed with security keys: what a touched one signs counts like any other signature, what nobody touched counts for nobody. The
//! signatures are made here to PROTOCOL.u2f; ssh-keygen's opinion is asked on each kind.

use trimtab::trust::memory::Memory;
use trimtab_tests::git::{Key, TOUCHED};
use trimtab_tests::release::Say;

use super::NOW;
use super::releases::{Fleet, People, kept, place};

/// What puts a signature behind a tag.
type Signs<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

/// Three people, two of whom have tokens, an ed25519 and an ECDSA one.
fn people() -> People {
    People { ann: Key::sk_ed25519("ann"), bob: Key::sk_ecdsa("bob"), ..People::new() }
}

#[test]
fn tokens_sign_roots_and_releases() {
    let fleet = Fleet::of(people());
    let say = Say::of(&fleet.repo, "production", (1, 1));
    let both = say.release(&fleet.repo, &[fleet.people.ann(), fleet.people.bob()]);
    let memory = fleet.accept(both, &Memory::default(), kept(NOW));
    assert_eq!((place(&memory), memory.release.as_ref().unwrap().signers.len()), ((1, 1), 2));
    // ssh-keygen agrees on what each of them made.
    let text = say.tag(&[]);
    for (key, namespace) in [(&fleet.people.ann, "git"), (&fleet.people.bob, "git"), (&fleet.people.ann, "trimtab-root")] {
        assert!(key.openssh_accepts(namespace, &text, &key.sign(namespace, &text)), "{}", key.line());
        assert!(!key.openssh_accepts(namespace, b"something else", &key.sign(namespace, &text)), "{}", key.line());
    }
    // A rotation by tokens alone.
    let mut root = fleet.people.root();
    root.version = 2;
    root.write(&fleet.repo, &[fleet.people.ann(), fleet.people.bob()]);
    fleet.repo.commit("two", None);
    let next = Say::of(&fleet.repo, "production", (1, 2)).release(&fleet.repo, &[fleet.people.ann(), fleet.people.safe()]);
    let memory = fleet.accept(next, &memory, kept(NOW));
    assert_eq!(memory.root.unwrap().root.version, 2);
}

#[test]
fn what_nobody_touched_counts_for_nobody() {
    let fleet = Fleet::of(people());
    let (ann, bob) = (&fleet.people.ann, &fleet.people.bob);
    let bytes = Say::of(&fleet.repo, "production", (1, 1)).tag(&[]);
    let signed = |blocks: &[Signs<'_>]| blocks.iter().fold(bytes.clone(), |tag, block| [&tag[..], &block(&tag)].concat());
    let untouched = |tag: &[u8]| ann.sign_with_flags("git", tag, 0);
    let verified = |tag: &[u8]| ann.sign_with_flags("git", tag, TOUCHED | 4);
    let bobs = |tag: &[u8]| bob.sign("git", tag);
    // ssh-keygen and git take it; a host does not, and says why.
    assert!(ann.openssh_accepts("git", &bytes, &untouched(&bytes)));
    let words = |tag: &[u8], code: &str| {
        let words = fleet.refuses(tag, &Memory::default(), code);
        assert!(words.contains("a security key that nobody touched"), "{words}");
    };
    words(&signed(&[&untouched]), "unknown-signer");
    words(&signed(&[&bobs, &untouched]), "below-threshold");
    // Beside enough others it does no harm, and who had a PIN asked for has touched it as well.
    let safe = |tag: &[u8]| fleet.people.safe().block("git", tag);
    let memory = fleet.accept(fleet.repo.object("tag", &signed(&[&untouched, &bobs, &safe])), &Memory::default(), kept(NOW));
    assert_eq!(memory.release.unwrap().signers.len(), 2);
    fleet.accept(fleet.repo.object("tag", &signed(&[&verified, &bobs])), &Memory::default(), kept(NOW));
    // The mark of the touch, and the counter, are under the signature.
    for (from_end, name) in [(5, "flags"), (1, "counter")] {
        let altered = |tag: &[u8]| {
            let mut blob = trimtab::trust::sshsig::dearmor(&ann.sign("git", tag)).unwrap();
            let at = blob.len() - from_end;
            blob[at] ^= 4;
            trimtab_tests::git::armor(&blob)
        };
        let words = fleet.refuses(&signed(&[&altered, &bobs]), &Memory::default(), "forged");
        assert!(words.contains("does not match"), "{name}: {words}");
    }
}
