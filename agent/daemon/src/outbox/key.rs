//! The device's key: Ed25519 in minisign's format, so that anybody can check a report with `minisign -V`.
//!
//! The secret key is kept as `minisign -GW` writes it (unencrypted: there is nobody at an edge device to type a password), readable by root
//! alone; the public one lies beside it. Signatures are pre-hashed (`ED`, BLAKE2b-512), which is what minisign makes by default.
//! Format: <https://jedisct1.github.io/minisign/>, section "Signature format" and its neighbours.
//!
//! Guarantees: a secret key that is not whole is never used and never replaced; it is made once, beside its place, and renamed.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::Digest as _;
use ring::rand::SecureRandom as _;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::trust::owner::{OwnerError, read_owned};

/// Longest key file that is read.
const MAX_BYTES: u64 = 4 << 10;
/// Algorithms of the secret key's file: Ed25519, no password, BLAKE2b checksum (which minisign leaves empty where there is no password).
const SECRET_HEAD: [u8; 6] = *b"Ed\0\0B2";

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read, or others could have.
    #[error("the device's key cannot be used")]
    Read(#[from] OwnerError),
    /// Others may read it.
    #[error("{} may be read by others (mode {mode:04o}): whoever read it can sign as this device; make another with `trimtab init` or `minisign -GW`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no unencrypted minisign key.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: &'static str,
    },
    /// It could not be written.
    #[error("the device's key cannot be written to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel gave no random numbers.
    #[error("there are no random numbers to make a key from")]
    Random,
}

/// The key of this device.
pub struct DeviceKey {
    id: [u8; 8],
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceKey({})", self.device())
    }
}

impl DeviceKey {
    /// The key of this host; makes one where there is none. The public key beside it is written when it is missing or another's.
    pub fn obtain(secret: &Path, public: &Path) -> Result<Self, KeyError> {
        let key = match Self::load(secret)? {
            Some(key) => key,
            None => Self::make(secret)?,
        };
        let text = key.public_text();
        if std::fs::read_to_string(public).ok().as_ref() != Some(&text) {
            write(public, &text, 0o644)?;
        }
        Ok(key)
    }

    /// The key of this host; `None`: it has none.
    pub fn load(secret: &Path) -> Result<Option<Self>, KeyError> {
        use std::os::unix::fs::MetadataExt as _;
        match std::fs::symlink_metadata(secret) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(seen) if seen.mode() & 0o077 != 0 && !seen.is_symlink() => {
                return Err(KeyError::Open { path: secret.to_owned(), mode: seen.mode() & 0o7777 });
            }
            _ => {}
        }
        let text = read_owned(secret, MAX_BYTES)?;
        Self::parse(&text).map(Some).map_err(|why| KeyError::Content { path: secret.to_owned(), why })
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let line = text.lines().nth(1).ok_or("it is no minisign key: it has less than two lines")?;
        let bytes = STANDARD.decode(line.trim()).map_err(|_| "it is no minisign key: its second line is not base64")?;
        let bytes: [u8; 158] = bytes.try_into().map_err(|_| "it is no minisign key: it has the wrong length")?;
        if bytes[..2] != SECRET_HEAD[..2] || bytes[4..6] != SECRET_HEAD[4..] {
            return Err("it is no minisign key");
        }
        if bytes[2..4] != [0, 0] {
            return Err("it has a password, and there is nobody to type it: make one with `minisign -GW`");
        }
        let (id, seed, public) = (&bytes[54..62], &bytes[62..94], &bytes[94..126]);
        // This also finds a file that was torn or spoiled: the halves must belong together.
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| "its two halves do not belong together")?;
        Ok(Self { id: id.try_into().expect("because it is eight bytes"), pair })
    }

    fn make(secret: &Path) -> Result<Self, KeyError> {
        let (mut id, mut seed) = ([0; 8], [0; 32]);
        let random = ring::rand::SystemRandom::new();
        random.fill(&mut id).and_then(|()| random.fill(&mut seed)).map_err(|_| KeyError::Random)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Random)?;
        let mut bytes = [0; 158];
        bytes[..6].copy_from_slice(&SECRET_HEAD);
        bytes[54..62].copy_from_slice(&id);
        bytes[62..94].copy_from_slice(&seed);
        bytes[94..126].copy_from_slice(pair.public_key().as_ref());
        let text = format!("untrusted comment: minisign secret key of a trimtab device\n{}\n", STANDARD.encode(bytes));
        write(secret, &text, 0o600)?;
        Ok(Self { id, pair })
    }

    /// The device's name: the key's id as minisign prints it, 16 hexadecimal digits.
    pub fn device(&self) -> String {
        format!("{:016X}", u64::from_le_bytes(self.id))
    }

    /// The public key as `minisign -P` takes it.
    pub fn public(&self) -> String {
        STANDARD.encode([b"Ed".as_slice(), &self.id, self.pair.public_key().as_ref()].concat())
    }

    /// The text of the public key's file.
    pub fn public_text(&self) -> String {
        format!("untrusted comment: minisign public key {}\n{}\n", self.device(), self.public())
    }

    /// The text of a `.minisig` file for these bytes. The trusted comment is signed as well; it must be one line.
    pub fn sign(&self, bytes: &[u8], trusted: &str) -> String {
        let signature = self.pair.sign(&blake2::Blake2b512::digest(bytes));
        let all = self.pair.sign(&[signature.as_ref(), trusted.as_bytes()].concat());
        let signature = STANDARD.encode([b"ED".as_slice(), &self.id, signature.as_ref()].concat());
        let all = STANDARD.encode(all.as_ref());
        format!("untrusted comment: signature of a trimtab device\n{signature}\ntrusted comment: {trusted}\n{all}\n")
    }

    /// Whether this key signed these bytes with this text.
    pub fn verifies(&self, bytes: &[u8], signature: &str) -> bool {
        let check = || {
            let mut lines = signature.lines();
            let signature = STANDARD.decode(lines.nth(1)?).ok()?;
            let trusted = lines.next()?.strip_prefix("trusted comment: ")?;
            let all = STANDARD.decode(lines.next()?).ok()?;
            let signature = signature.strip_prefix(b"ED".as_slice())?.strip_prefix(&self.id)?;
            let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, self.pair.public_key());
            key.verify(&blake2::Blake2b512::digest(bytes), signature).ok()?;
            key.verify(&[signature, trusted.as_bytes()].concat(), &all).ok()
        };
        check().is_some()
    }
}

/// Written beside, synced and renamed. The folder is made where it is missing.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), KeyError> {
    use std::io::Write as _;
    let attempt = || {
        let folder = path.parent().unwrap_or(Path::new("/"));
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        // As everything of trimtab's is named that a power cut may leave behind; the next start takes the name again.
        let mut name = std::ffi::OsString::from(".trimtab-");
        name.push(path.file_name().unwrap_or_default());
        let beside = folder.join(name);
        let _ = std::fs::remove_file(&beside);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        // The unit's own mask is narrower than what a public key wants.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    attempt().map_err(|source| KeyError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (secret, public) = (folder.path().join("etc/device.key"), folder.path().join("etc/device.pub"));
        (folder, secret, public)
    }

    #[test]
    fn a_key_is_made_once_and_stays() {
        let (_folder, secret, public) = places();
        let first = DeviceKey::obtain(&secret, &public).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&secret), mode(&public)), (0o600, 0o644));
        assert_eq!((first.device().len(), std::fs::read_to_string(&public).unwrap()), (16, first.public_text()));
        let signature = first.sign(b"text", "device x");
        std::fs::remove_file(&public).unwrap();
        let again = DeviceKey::obtain(&secret, &public).unwrap();
        assert!(again.verifies(b"text", &signature) && public.exists());
        for (bytes, signature) in [
            (b"texts".as_slice(), signature.clone()),
            (b"text", signature.replace("device x", "device y")),
            (b"text", String::new()),
            (b"text", signature.lines().take(2).collect()),
        ] {
            assert!(!again.verifies(bytes, &signature), "{signature}");
        }
    }

    #[test]
    fn a_key_that_is_not_whole_or_not_private_is_neither_used_nor_replaced() {
        let (_folder, secret, public) = places();
        DeviceKey::obtain(&secret, &public).unwrap();
        let whole = std::fs::read_to_string(&secret).unwrap();
        let line = whole.lines().nth(1).unwrap();
        let mut spoiled = STANDARD.decode(line).unwrap();
        spoiled[70] ^= 1;
        let locked = "RWRTY0IyAAAA".to_owned() + &line[12..];
        for text in
            [&whole[..whole.len() - 20], "", "x\ny\n", &format!("c\n{}\n", STANDARD.encode(spoiled)), &format!("c\n{locked}\n")]
        {
            std::fs::write(&secret, text).unwrap();
            assert!(matches!(DeviceKey::obtain(&secret, &public), Err(KeyError::Content { .. })), "{text}");
            assert_eq!(std::fs::read_to_string(&secret).unwrap(), text);
        }
        std::fs::write(&secret, &whole).unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(DeviceKey::obtain(&secret, &public), Err(KeyError::Open { mode: 0o640, .. })));
    }
}
