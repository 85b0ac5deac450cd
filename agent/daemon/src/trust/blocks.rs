//! Signature blocks behind a text: any number, SSH and minisign mixed.
//!
//! ```text
//! -----BEGIN MINISIGN SIGNATURE-----
//! (the four lines of a .minisig file)
//! -----END MINISIGN SIGNATURE-----
//! -----BEGIN SSH SIGNATURE-----
//! (base64, as ssh-keygen folds it)
//! -----END SSH SIGNATURE-----
//! ```
//!
//! In a tag each block covers all bytes of the object before it, so that what plain `git tag -s` appends is a legal last block; in a `.sig` file each
//! covers the whole of the other file.
//!
//! Guarantees: from the first marker on there is nothing but whole blocks; no marker stands in the text before; at most [`MAX_BLOCKS`] blocks.
//! Limits: what is inside of a block is looked at when it is checked. An OpenPGP block is told apart, and counts for nobody.

use super::minisign::{MinisignError, MinisignKey, MinisignSignature};
use super::pubkey::PublicKey;
use super::sshsig::{self, SignatureError};

/// The most blocks that are looked at.
pub const MAX_BLOCKS: usize = 64;
/// The longest block: an SSH signature by the largest key, several times over.
const MAX_BLOCK: usize = 24 << 10;

/// What is said of an OpenPGP signature.
pub const OPENPGP: &str = "an OpenPGP key (which counts for nobody in releases and roots: sign with an SSH key, `git config gpg.format ssh`, or with minisign)";

/// What made a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// OpenSSH, `ssh-keygen -Y sign`.
    Ssh,
    /// minisign.
    Minisign,
    /// OpenPGP, which this build does not check in a release.
    OpenPgp,
}

impl BlockKind {
    const ALL: [Self; 3] = [Self::Ssh, Self::Minisign, Self::OpenPgp];

    fn begin(self) -> &'static [u8] {
        match self {
            Self::Ssh => b"-----BEGIN SSH SIGNATURE-----\n",
            Self::Minisign => b"-----BEGIN MINISIGN SIGNATURE-----\n",
            Self::OpenPgp => b"-----BEGIN PGP SIGNATURE-----\n",
        }
    }

    fn end(self) -> &'static [u8] {
        match self {
            Self::Ssh => b"-----END SSH SIGNATURE-----\n",
            Self::Minisign => b"-----END MINISIGN SIGNATURE-----\n",
            Self::OpenPgp => b"-----END PGP SIGNATURE-----\n",
        }
    }
}

/// Why bytes are not a text with blocks behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BlockError(pub &'static str);

/// One block, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block<'a> {
    /// What made it.
    pub kind: BlockKind,
    /// Where it starts: in a tag it covers exactly the bytes before.
    pub start: usize,
    /// All of it, both markers included.
    pub text: &'a [u8],
}

/// A key that signs releases and roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyKey {
    /// An SSH key.
    Ssh(PublicKey),
    /// A minisign key.
    Minisign(MinisignKey),
}

impl AnyKey {
    /// Its name for people: the fingerprint as `ssh-keygen -l` prints it, or `minisign` and the key's id.
    pub fn print(&self) -> String {
        match self {
            Self::Ssh(key) => key.fingerprint().to_string(),
            Self::Minisign(key) => format!("minisign:{}", key.id()),
        }
    }
}

/// Why a block counts for nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// None of the keys made it; what it says of itself.
    #[error("{0} signed it, and no key with that name counts here")]
    Unknown(String),
    /// It names one of the keys and does not verify with it.
    #[error("a signature that names {key} does not match: {why}")]
    Bad {
        /// Which key, as it calls itself.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// It is not what its kind is written as.
    #[error("a signature is damaged: {0}")]
    Malformed(String),
    /// Good, but made by a security key that nobody touched.
    #[error(
        "{0} signed it, a security key that nobody touched: make the key without `no-touch-required`, sign again, and touch it"
    )]
    Untouched(String),
    /// A kind that is not checked here.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl Block<'_> {
    /// Which of these keys made it, over `payload`, under the SSH namespace.
    pub fn signer<'k>(
        &self,
        payload: &[u8],
        namespace: &[u8],
        keys: impl Iterator<Item = &'k AnyKey> + Clone,
    ) -> Result<&'k AnyKey, BlockFault> {
        match self.kind {
            BlockKind::Ssh => self.ssh(payload, namespace, keys),
            BlockKind::Minisign => self.minisign(payload, keys),
            BlockKind::OpenPgp => Err(BlockFault::Unsupported(OPENPGP)),
        }
    }

    fn ssh<'k>(
        &self,
        payload: &[u8],
        namespace: &[u8],
        keys: impl Iterator<Item = &'k AnyKey> + Clone,
    ) -> Result<&'k AnyKey, BlockFault> {
        let malformed = |error: SignatureError| BlockFault::Malformed(error.to_string());
        let blob = sshsig::dearmor(self.text).map_err(malformed)?;
        let signature = sshsig::parse(&blob).map_err(malformed)?;
        let found = keys.clone().find(|key| matches!(key, AnyKey::Ssh(key) if key.blob() == signature.key()));
        let Some(found @ AnyKey::Ssh(key)) = found else { return Err(BlockFault::Unknown(signature.fingerprint().to_string())) };
        match signature.verify_in(namespace, payload, std::iter::once(key)) {
            Ok(_) => Ok(found),
            Err(SignatureError::Untouched) => Err(BlockFault::Untouched(found.print())),
            Err(error) => Err(BlockFault::Bad { key: found.print(), why: error.to_string() }),
        }
    }

    fn minisign<'k>(&self, payload: &[u8], keys: impl Iterator<Item = &'k AnyKey> + Clone) -> Result<&'k AnyKey, BlockFault> {
        let malformed = |error: MinisignError| BlockFault::Malformed(error.to_string());
        let inside = &self.text[self.kind.begin().len()..self.text.len() - self.kind.end().len()];
        let text = std::str::from_utf8(inside).map_err(|_| BlockFault::Malformed("it is not UTF-8".to_owned()))?;
        let signature = MinisignSignature::parse(text).map_err(malformed)?;
        // An id proves nothing and two keys may have the same: one of them must match.
        let mut last = None;
        for found in keys.filter(|key| matches!(key, AnyKey::Minisign(key) if key.id() == signature.key_id())) {
            let AnyKey::Minisign(key) = found else { continue };
            match key.verify(payload, &signature) {
                Ok(_) => return Ok(found),
                Err(error) => last = Some(BlockFault::Bad { key: found.print(), why: error.to_string() }),
            }
        }
        Err(last.unwrap_or_else(|| BlockFault::Unknown(format!("minisign:{}", signature.key_id()))))
    }
}

/// Takes a text and the blocks behind it apart: where the text ends, and the blocks. Without a marker all of it is text.
pub fn split(bytes: &[u8]) -> Result<(usize, Vec<Block<'_>>), BlockError> {
    let first = starts(bytes).find(|at| kind_at(&bytes[*at..]).is_some());
    let Some(first) = first else { return Ok((bytes.len(), Vec::new())) };
    let mut blocks = Vec::new();
    let mut at = first;
    while at < bytes.len() {
        let kind = kind_at(&bytes[at..]).ok_or(BlockError("something stands between its signatures or after them"))?;
        if blocks.len() == MAX_BLOCKS {
            return Err(BlockError("it has more than 64 signatures"));
        }
        let rest = &bytes[at..];
        let end = starts(rest).find(|at| rest[*at..].starts_with(kind.end())).ok_or(BlockError("a signature does not end"))?;
        let length = end + kind.end().len();
        if length > MAX_BLOCK {
            return Err(BlockError("a signature is longer than 24 KiB"));
        }
        blocks.push(Block { kind, start: at, text: &rest[..length] });
        at += length;
    }
    Ok((first, blocks))
}

/// The blocks of a `.sig` file, which holds nothing else.
pub fn only(bytes: &[u8]) -> Result<Vec<Block<'_>>, BlockError> {
    match split(bytes)? {
        (0, blocks) if !blocks.is_empty() => Ok(blocks),
        _ => Err(BlockError("it does not begin with a signature")),
    }
}

/// A `.minisig` file's text as a block.
pub fn of_minisig(text: &str) -> Result<Vec<u8>, MinisignError> {
    MinisignSignature::parse(text)?;
    Ok([BlockKind::Minisign.begin(), text.as_bytes(), BlockKind::Minisign.end()].concat())
}

/// Where lines start.
fn starts(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let after = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(after)
}

fn kind_at(line: &[u8]) -> Option<BlockKind> {
    BlockKind::ALL.into_iter().find(|kind| line.starts_with(kind.begin()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SSH: &str = "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n";
    const MINI: &str = "-----BEGIN MINISIGN SIGNATURE-----\na\nb\nc\nd\n-----END MINISIGN SIGNATURE-----\n";
    const PGP: &str = "-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n";

    #[test]
    fn blocks_are_found_behind_the_text_each_where_it_starts() {
        let whole = format!("text\n\n{MINI}{SSH}{PGP}");
        let (end, blocks) = split(whole.as_bytes()).unwrap();
        assert_eq!(end, 6);
        assert_eq!(
            blocks.iter().map(|block| block.kind).collect::<Vec<_>>(),
            [BlockKind::Minisign, BlockKind::Ssh, BlockKind::OpenPgp]
        );
        assert_eq!(blocks[1].start, 6 + MINI.len());
        assert_eq!(blocks[1].text, SSH.as_bytes());
        assert_eq!(split(b"no block").unwrap(), (8, Vec::new()));
        assert_eq!(only(SSH.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn nothing_stands_between_or_after() {
        for bad in [
            format!("{SSH}x"),
            format!("{SSH}\n"),
            format!("{SSH}text\n{SSH}"),
            format!("{SSH}\n{SSH}"),
            SSH.trim_end().to_owned(),
            SSH.replace("END SSH", "END MINISIGN"),
            format!("{SSH}-----BEGIN SIGNED MESSAGE-----\n"),
            SSH.repeat(65),
            format!("-----BEGIN SSH SIGNATURE-----\n{}-----END SSH SIGNATURE-----\n", "A\n".repeat(13 << 10)),
        ] {
            assert!(split(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(200)]);
        }
        assert!(only(b"").is_err() && only(b"text\n").is_err() && only(format!("\n{SSH}").as_bytes()).is_err());
        // A marker counts at the begin of a line only.
        assert_eq!(split(format!("x {SSH}").as_bytes()).unwrap().1, Vec::new());
    }
}
