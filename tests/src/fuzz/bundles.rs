//! Offline bundles: the tar file and its manifest.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use trimtab::bundle::manifest::{MAX_MANIFEST, MAX_PARTS, REPOSITORY};
use trimtab::bundle::{self, Manifest};
use trimtab_model::digest::Digest;

use super::known;

/// The text of a manifest.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    assert_eq!(manifest.text().as_bytes(), bytes, "it is written as something else");
    assert!(manifest.parts.len() <= MAX_PARTS && manifest.parts[0].name == REPOSITORY);
    for (at, part) in manifest.parts.iter().enumerate() {
        assert!(!part.name.starts_with('/') && !part.name.contains(".."), "{}", part.name);
        assert!(manifest.parts[..at].iter().all(|other| other.name != part.name), "{} is there twice", part.name);
    }
}

/// A bundle, as it lies on a stick. The checksums of its headers are mended first: no chance would find them.
pub fn bundle(bytes: &[u8]) {
    let memory = memfd_create(c"bundle", MFdFlags::MFD_CLOEXEC).expect("because there is memory for a small file");
    let mut file = File::from(memory);
    let mended = mend(bytes);
    file.write_all(&mended).expect("because there is memory for a small file");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut last = 0;
    let opened = bundle::open(&path, &mut |at, of| {
        assert!(at <= of && at >= last);
        last = at;
    });
    let Ok(opened) = opened else { return };
    let Some(manifest) = &opened.manifest else {
        assert!(bytes.starts_with(b"# v2 git bundle\n") || bytes.starts_with(b"# v3 git bundle\n"));
        return;
    };
    assert!(manifest.text().len() as u64 <= MAX_MANIFEST);
    for (at, part) in manifest.parts.iter().enumerate() {
        assert_eq!(opened.find(&part.name), Some(at));
        let mut content = Vec::new();
        opened.copy(at, &mut content).expect("because it was read before");
        assert_eq!((content.len() as u64, Digest::of(&content)), (part.size, part.digest), "{} is not what it says", part.name);
    }
    if let Ok(Some(Ok(who))) = opened.signer(known::any_keys(), None) {
        // The manifest is what is signed, and it has the digest of all that follows; who owns a file in an archive, say, nobody reads.
        let (signed, text) = (known::file("signed.tar"), manifest.text());
        assert!(signed.windows(text.len()).any(|part| part == text.as_bytes()), "{who} did not sign this bundle");
    }
}

/// The same with right checksums in all that looks like a header.
fn mend(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for head in bytes.chunks_exact_mut(512).filter(|head| head[257..263] == *b"ustar\0") {
        head[148..156].fill(b' ');
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}
