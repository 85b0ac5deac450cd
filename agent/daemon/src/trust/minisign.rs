//! minisign signatures, checked in process: keys and the four lines of a `.minisig` file.
//!
//! Format: <https://jedisct1.github.io/minisign/>, sections "Signature format" and "Public key format". On ring's Ed25519 and BLAKE2b, both of
//! which are linked anyway (the device signs its reports with them), instead of a crate that brings its own of each.
//!
//! Guarantees: only pre-hashed signatures (`ED`) are taken; the trusted comment is seen only after the signature over it was checked; every line has
//! one form only, but for the untrusted comment, which nobody signs.
//! Limits: minisign has no namespace: what is signed must say itself what it is.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2b512, Digest as _};
use ring::signature::{ED25519, UnparsedPublicKey};

/// The longest line of a signature: minisign itself writes comments of at most 8,192 bytes.
const MAX_LINE: usize = 1024;
/// The largest text of a signature.
pub const MAX_SIGNATURE: usize = 4 << 10;

/// Why a key or a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MinisignError {
    /// Not the 56 characters of a public key.
    #[error("this is not a minisign public key; write the line of the `.pub` file that begins with RW")]
    Key,
    /// A secret key, which must never be here.
    #[error("this is a minisign secret key; put the public one here, and replace the secret one: it has been exposed")]
    Secret,
    /// The text is not what minisign writes.
    #[error("the minisign signature is damaged: {0}")]
    Malformed(&'static str),
    /// Without pre-hashing.
    #[error("the minisign signature is of the old kind (`-l`); sign again without `-l`")]
    Legacy,
    /// Another key made it.
    #[error("signed by minisign key {0}, which is not the expected one")]
    OtherKey(KeyId),
    /// Names the key, but does not verify with it.
    #[error("the minisign signature does not match")]
    Forged,
}

/// The id of a key, as minisign prints it: 16 hexadecimal digits. A name, and no proof: anybody can make a key with any id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

/// A public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MinisignKey {
    id: KeyId,
    point: [u8; 32],
}

impl MinisignKey {
    /// A key from its parts: id and Ed25519 point.
    pub fn new(id: [u8; 8], point: [u8; 32]) -> Self {
        Self { id: KeyId(id), point }
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The 32 bytes of its Ed25519 point.
    pub fn point(&self) -> &[u8; 32] {
        &self.point
    }

    /// Checks a signature over these bytes; the trusted comment, which is signed with them.
    pub fn verify<'t>(&self, bytes: &[u8], signature: &MinisignSignature<'t>) -> Result<&'t str, MinisignError> {
        self.verify_hash(&Blake2b512::digest(bytes).into(), signature)
    }

    /// As [`MinisignKey::verify`], for bytes that were too many to be held: their BLAKE2b-512.
    pub fn verify_hash<'t>(&self, hash: &[u8; 64], signature: &MinisignSignature<'t>) -> Result<&'t str, MinisignError> {
        if signature.id != self.id {
            return Err(MinisignError::OtherKey(signature.id));
        }
        let key = UnparsedPublicKey::new(&ED25519, &self.point);
        key.verify(hash, &signature.own).map_err(|_| MinisignError::Forged)?;
        let all = [signature.own.as_slice(), signature.trusted.as_bytes()].concat();
        key.verify(&all, &signature.all).map_err(|_| MinisignError::Forged)?;
        Ok(signature.trusted)
    }
}

impl FromStr for MinisignKey {
    type Err = MinisignError;

    /// The line of a `.pub` file that begins with `RW`.
    fn from_str(text: &str) -> Result<Self, MinisignError> {
        if text.len() > 100 && text.starts_with("RW") {
            return Err(MinisignError::Secret);
        }
        let bytes: [u8; 42] = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(MinisignError::Key)?;
        let [b'E', b'd', rest @ ..] = bytes else { return Err(MinisignError::Key) };
        let (id, point) = rest.split_at(8);
        let (id, point) = (id.try_into().map_err(|_| MinisignError::Key)?, point.try_into().map_err(|_| MinisignError::Key)?);
        Ok(Self::new(id, point))
    }
}

impl fmt::Display for MinisignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode([b"Ed".as_slice(), &self.id.0, &self.point].concat()))
    }
}

/// A signature as it was read, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinisignSignature<'t> {
    id: KeyId,
    own: [u8; 64],
    /// Not to be shown before it was checked: [`MinisignKey::verify`] hands it out.
    trusted: &'t str,
    all: [u8; 64],
}

impl<'t> MinisignSignature<'t> {
    /// Reads the text of a `.minisig` file: exactly four lines.
    pub fn parse(text: &'t str) -> Result<Self, MinisignError> {
        if text.len() > MAX_SIGNATURE {
            return Err(MinisignError::Malformed("it is longer than 4 KiB"));
        }
        let whole = text.strip_suffix('\n').ok_or(MinisignError::Malformed("its last line does not end"))?;
        let mut lines = whole.split('\n');
        let (Some(untrusted), Some(own), Some(trusted), Some(all), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(MinisignError::Malformed("it does not have four lines"));
        };
        comment(untrusted, "untrusted comment: ")?;
        let trusted = comment(trusted, "trusted comment: ")?;
        let damaged = || MinisignError::Malformed("its base64 is damaged");
        let own: [u8; 74] = STANDARD.decode(own).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(damaged)?;
        let all: [u8; 64] = STANDARD.decode(all).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(damaged)?;
        let (head, own) = own.split_at(10);
        match head[..2] {
            [b'E', b'D'] => {}
            [b'E', b'd'] => return Err(MinisignError::Legacy),
            _ => return Err(MinisignError::Malformed("its algorithm is not known")),
        }
        let id = KeyId(head[2..].try_into().map_err(|_| damaged())?);
        Ok(Self { id, own: own.try_into().map_err(|_| damaged())?, trusted, all })
    }

    /// The key that it names.
    pub fn key_id(&self) -> KeyId {
        self.id
    }
}

fn comment<'t>(line: &'t str, lead: &str) -> Result<&'t str, MinisignError> {
    let text = line.strip_prefix(lead).ok_or(MinisignError::Malformed("a comment line does not begin as minisign writes it"))?;
    if line.len() > MAX_LINE || text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(MinisignError::Malformed("a comment is too long or has control characters"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by minisign 0.11: `minisign -GW`, `printf 'hello\n' | minisign -S`.
    const KEY: &str = include_str!("minisign-hello.pub");
    const SIGNATURE: &str = include_str!("minisign-hello.minisig");

    fn key() -> MinisignKey {
        KEY.lines().nth(1).unwrap().parse().unwrap()
    }

    fn check(bytes: &[u8], text: &str) -> Result<String, MinisignError> {
        key().verify(bytes, &MinisignSignature::parse(text)?).map(str::to_owned)
    }

    #[test]
    fn what_minisign_signs_is_taken_and_its_comment_comes_with_it() {
        assert_eq!(check(b"hello\n", SIGNATURE).unwrap(), "of a test");
        assert_eq!(key().to_string(), KEY.lines().nth(1).unwrap());
        assert!(KEY.lines().next().unwrap().ends_with(&key().id().to_string()));
    }

    #[test]
    fn nothing_signed_may_change_and_only_the_untrusted_comment_is_free() {
        assert_eq!(check(b"hello", SIGNATURE), Err(MinisignError::Forged));
        assert_eq!(check(b"hello\n", &SIGNATURE.replace("of a test", "of a toast")), Err(MinisignError::Forged));
        let free = SIGNATURE.replacen("untrusted comment: ", "untrusted comment: anything, ", 1);
        assert!(check(b"hello\n", &free).is_ok());
        // Each byte of the two signatures.
        let line = SIGNATURE.lines().nth(1).unwrap();
        let bytes = STANDARD.decode(line).unwrap();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(check(b"hello\n", &SIGNATURE.replace(line, &STANDARD.encode(bytes))).is_err(), "{at}");
        }
        let other = MinisignKey { id: KeyId([1; 8]), ..key() };
        let signature = MinisignSignature::parse(SIGNATURE).unwrap();
        assert!(matches!(other.verify(b"hello\n", &signature), Err(MinisignError::OtherKey(_))));
    }

    #[test]
    fn other_forms_are_refused() {
        let legacy = SIGNATURE.replacen("\nRU", "\nRW", 1);
        assert_ne!(legacy, SIGNATURE);
        assert_eq!(check(b"hello\n", &legacy), Err(MinisignError::Legacy));
        for bad in [
            String::new(),
            SIGNATURE.trim_end().to_owned(),
            format!("{SIGNATURE}\n"),
            SIGNATURE.replace('\n', "\r\n"),
            SIGNATURE.lines().take(3).collect::<Vec<_>>().join("\n") + "\n",
            SIGNATURE.replace("trusted comment", "Trusted comment"),
            SIGNATURE.replace("of a test", &"x".repeat(2000)),
        ] {
            assert!(matches!(check(b"hello\n", &bad), Err(MinisignError::Malformed(_))), "{bad}");
        }
        assert_eq!("RWQ".parse::<MinisignKey>(), Err(MinisignError::Key));
        assert_eq!(format!("RWRTY0IyAAAA{}", "A".repeat(200)).parse::<MinisignKey>(), Err(MinisignError::Secret));
    }
}
