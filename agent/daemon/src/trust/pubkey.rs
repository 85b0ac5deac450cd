//! SSH public keys as they lie on the wire: one strict parser for the keys in `trust.toml` and the keys inside signatures.
//!
//! Guarantees: a key is either fully understood or refused; nothing may follow it; its algorithm is what its blob says.
//! Limits: a certificate is no key (`cert` reads it); DSA is recognised only to be refused by name.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use trimtab_model::digest::Digest;

/// The largest key blob: an 8192-bit RSA key is a little over 1 KiB.
pub const MAX_KEY: usize = 4096;

/// Why bytes are not a key that this version can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes do not have the shape that their algorithm asks for.
    #[error("the key is damaged: {0}")]
    Malformed(&'static str),
    /// An SSH certificate.
    #[error(
        "this is a certificate; write the plain public key (the file without `-cert`), or trust who signs certificates: `cert-authority ssh-ed25519 AAAA… name`"
    )]
    Certificate,
    /// DSA, whose keys are too short to be worth anything.
    #[error("DSA keys (`ssh-dss`) are too weak; make an ed25519 key")]
    Dsa,
    /// RSA below 2048 bits.
    #[error("the RSA key has only {0} bits, at least 2048 are needed; make an ed25519 key")]
    WeakRsa(usize),
    /// An algorithm that is not known.
    #[error(
        "the key type {0:?} is not known; use ssh-ed25519, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ssh-rsa or one of their sk- forms"
    )]
    Unknown(String),
}

/// The name by which people know a key: as `ssh-keygen -l` prints it, `SHA256:` and the unpadded base64 of its SHA-256; of an OpenPGP
/// key `openpgp:` and the forty digits that gpg prints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(Print);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Print {
    Ssh([u8; 32]),
    OpenPgp([u8; 20]),
}

impl Fingerprint {
    /// The fingerprint of a key blob.
    pub fn of(blob: &[u8]) -> Self {
        Self(Print::Ssh(*Digest::of(blob).as_bytes()))
    }

    /// The fingerprint of an OpenPGP key of version 4.
    pub fn openpgp(fingerprint: [u8; 20]) -> Self {
        Self(Print::OpenPgp(fingerprint))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Print::Ssh(digest) => write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(digest)),
            Print::OpenPgp(digest) => {
                f.write_str("openpgp:")?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
            }
        }
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a key fingerprint: expected `SHA256:` and 43 base64 characters, as `ssh-keygen -l` prints it, or `openpgp:` and 40 digits in capitals"
)]
pub struct FingerprintError;

impl FromStr for Fingerprint {
    type Err = FingerprintError;
    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        if let Some(digits) = text.strip_prefix("openpgp:") {
            let digit = |byte: u8| match byte {
                b'0'..=b'9' => Ok(byte - b'0'),
                b'A'..=b'F' => Ok(byte - b'A' + 10),
                _ => Err(FingerprintError),
            };
            let digits = digits.bytes().map(digit).collect::<Result<Vec<u8>, _>>()?;
            let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
            let even = digits.len().is_multiple_of(2);
            return Ok(Self(Print::OpenPgp(bytes.try_into().ok().filter(|_| even).ok_or(FingerprintError)?)));
        }
        let base64 = text.strip_prefix("SHA256:").ok_or(FingerprintError)?;
        let bytes = STANDARD_NO_PAD.decode(base64).map_err(|_| FingerprintError)?;
        Ok(Self(Print::Ssh(bytes.try_into().map_err(|_| FingerprintError)?)))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;
    fn try_from(text: String) -> Result<Self, FingerprintError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// The curve of an ECDSA key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // NIST's own names
pub enum Curve {
    P256,
    P384,
}

impl Curve {
    /// The bytes of one coordinate, and of `r` and `s`.
    pub(super) fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    fn name(self) -> &'static [u8] {
        match self {
            Self::P256 => b"nistp256",
            Self::P384 => b"nistp384",
        }
    }
}

/// What a key is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Material {
    /// The 32 bytes of the point.
    Ed25519(Vec<u8>),
    /// The uncompressed point, `04 x y`.
    Ecdsa(Curve, Vec<u8>),
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// A FIDO key: ed25519 point and application.
    SkEd25519 { point: Vec<u8>, application: Vec<u8> },
    /// A FIDO key: P-256 point and application.
    SkEcdsa { point: Vec<u8>, application: Vec<u8> },
}

/// A public key that can verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    pub(super) material: Material,
    blob: Vec<u8>,
}

impl PublicKey {
    /// Reads a key blob (what the base64 of an `ssh-…` line decodes to).
    pub fn parse(blob: &[u8]) -> Result<Self, KeyError> {
        if blob.len() > MAX_KEY {
            return Err(KeyError::Malformed("it is longer than 4,096 bytes"));
        }
        let mut reader = Reader(blob);
        let kind = reader.string().ok_or(KeyError::Malformed("it is cut off"))?;
        let material = material(kind, &mut reader)?;
        if !reader.0.is_empty() {
            return Err(KeyError::Malformed("something follows it"));
        }
        Ok(Self { material, blob: blob.to_owned() })
    }

    /// Reads what follows the name of a kind of key from the front of a reader, as it stands in a certificate.
    pub(super) fn parse_fields(kind: &[u8], reader: &mut Reader<'_>) -> Result<Self, KeyError> {
        let before = reader.0;
        let material = material(kind, reader)?;
        let fields = &before[..before.len() - reader.0.len()];
        let length = u32::try_from(kind.len()).expect("because the name of a kind that is known is short");
        Ok(Self { material, blob: [&length.to_be_bytes(), kind, fields].concat() })
    }

    /// The algorithm's name as the key line and the blob say it, e.g. `ssh-ed25519`.
    pub fn kind(&self) -> &'static str {
        match self.material {
            Material::Ed25519(_) => "ssh-ed25519",
            Material::Ecdsa(Curve::P256, _) => "ecdsa-sha2-nistp256",
            Material::Ecdsa(Curve::P384, _) => "ecdsa-sha2-nistp384",
            Material::Rsa { .. } => "ssh-rsa",
            Material::SkEd25519 { .. } => "sk-ssh-ed25519@openssh.com",
            Material::SkEcdsa { .. } => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    /// The blob it was read from: two keys are the same key when their blobs are equal.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The point of a plain Ed25519 key.
    pub(super) fn ed25519(&self) -> Option<&[u8]> {
        match &self.material {
            Material::Ed25519(point) => Some(point),
            _ => None,
        }
    }

    /// Its name for people.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.blob)
    }
}

fn material(kind: &[u8], reader: &mut Reader<'_>) -> Result<Material, KeyError> {
    match kind {
        b"ssh-ed25519" => Ok(Material::Ed25519(ed25519_point(reader)?)),
        b"ecdsa-sha2-nistp256" => Ok(Material::Ecdsa(Curve::P256, curve_point(reader, Curve::P256)?)),
        b"ecdsa-sha2-nistp384" => Ok(Material::Ecdsa(Curve::P384, curve_point(reader, Curve::P384)?)),
        b"sk-ssh-ed25519@openssh.com" => {
            Ok(Material::SkEd25519 { point: ed25519_point(reader)?, application: application(reader)? })
        }
        b"sk-ecdsa-sha2-nistp256@openssh.com" => {
            Ok(Material::SkEcdsa { point: curve_point(reader, Curve::P256)?, application: application(reader)? })
        }
        b"ssh-rsa" => rsa(reader),
        b"ssh-dss" => Err(KeyError::Dsa),
        other if other.ends_with(b"-cert-v01@openssh.com") => Err(KeyError::Certificate),
        other => Err(KeyError::Unknown(String::from_utf8_lossy(&other[..other.len().min(60)]).into_owned())),
    }
}

fn ed25519_point(reader: &mut Reader<'_>) -> Result<Vec<u8>, KeyError> {
    let point = reader.string().filter(|point| point.len() == 32);
    point.map(<[u8]>::to_vec).ok_or(KeyError::Malformed("an ed25519 key has 32 bytes"))
}

fn curve_point(reader: &mut Reader<'_>, curve: Curve) -> Result<Vec<u8>, KeyError> {
    if reader.string() != Some(curve.name()) {
        return Err(KeyError::Malformed("its curve is not the one that its type names"));
    }
    let point = reader.string().filter(|point| point.len() == 1 + 2 * curve.size() && point[0] == 4);
    point.map(<[u8]>::to_vec).ok_or(KeyError::Malformed("its point is not an uncompressed point of its curve"))
}

fn application(reader: &mut Reader<'_>) -> Result<Vec<u8>, KeyError> {
    let application = reader.string().filter(|text| !text.is_empty());
    application.map(<[u8]>::to_vec).ok_or(KeyError::Malformed("a security key's application is missing"))
}

fn rsa(reader: &mut Reader<'_>) -> Result<Material, KeyError> {
    let e = reader.integer().ok_or(KeyError::Malformed("the RSA exponent is not a positive integer"))?;
    let n = reader.integer().ok_or(KeyError::Malformed("the RSA modulus is not a positive integer"))?;
    let bits = n.len() * 8 - n[0].leading_zeros() as usize;
    if bits < 2048 {
        return Err(KeyError::WeakRsa(bits));
    }
    if bits > 8192 {
        return Err(KeyError::Malformed("the RSA modulus has more than 8192 bits"));
    }
    // The bounds of the verifier: a key that it would refuse later must be refused here, where a person reads why.
    if e.len() > 4 || e == [1] || e[e.len() - 1].is_multiple_of(2) || n[n.len() - 1].is_multiple_of(2) {
        return Err(KeyError::Malformed("the RSA exponent or modulus is not a legal one"));
    }
    Ok(Material::Rsa { n: n.to_vec(), e: e.to_vec() })
}

/// Reads SSH's wire format (RFC 4251, section 5) from the front of a slice. Never reads past its end, never allocates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        let bytes = self.take(4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(super) fn long(&mut self) -> Option<u64> {
        let bytes = self.take(8)?;
        Some(u64::from_be_bytes(bytes.try_into().expect("because eight were taken")))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let length = usize::try_from(ahead.number()?).ok()?;
        let taken = ahead.take(length)?;
        *self = ahead;
        Some(taken)
    }

    /// A positive `mpint` in its only legal form (no superfluous leading zero), without the zero that marks it as positive.
    pub(super) fn integer(&mut self) -> Option<&'a [u8]> {
        match self.string()? {
            [] => None,
            [0, rest @ ..] => rest.first().is_some_and(|first| *first >= 0x80).then_some(rest),
            [first, ..] if *first >= 0x80 => None,
            positive => Some(positive),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by `ssh-keygen -t ed25519`, its fingerprint as `ssh-keygen -l` printed it.
    const LINE: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIL5H6lzyyka+0EO7qctF56zGtbUFLZ0zN7GBeWfO6y/6";
    const PRINT: &str = "SHA256:/6YYQ5gBxIAlP8QuyTSD3j5o6C0eHI4LC7NIbn2/GB8";

    fn blob() -> Vec<u8> {
        base64::engine::general_purpose::STANDARD.decode(LINE).unwrap()
    }

    #[test]
    fn a_key_has_the_fingerprint_that_ssh_keygen_prints() {
        let key = PublicKey::parse(&blob()).unwrap();
        assert_eq!(key.kind(), "ssh-ed25519");
        assert_eq!(key.fingerprint().to_string(), PRINT);
        assert_eq!(PRINT.parse(), Ok(key.fingerprint()));
        let openpgp = Fingerprint::openpgp([0xa5; 20]);
        assert_eq!((openpgp.to_string().len(), openpgp.to_string().parse()), (48, Ok(openpgp)));
        for bad in ["openpgp:", "openpgp:A5", &openpgp.to_string().to_lowercase(), &(openpgp.to_string() + "A")] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(FingerprintError), "{bad}");
        }
    }

    #[test]
    fn no_cut_and_no_appended_byte_is_taken() {
        let good = blob();
        for length in 0..good.len() {
            assert!(PublicKey::parse(&good[..length]).is_err(), "{length}");
        }
        let mut long = good;
        long.push(0);
        assert_eq!(PublicKey::parse(&long), Err(KeyError::Malformed("something follows it")));
    }

    #[test]
    fn integers_have_one_form_only() {
        let integer = |bytes: &[u8]| {
            let mut wire = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            wire.extend(bytes);
            Reader(&wire).integer().map(<[u8]>::to_vec)
        };
        assert_eq!(integer(&[1]), Some(vec![1]));
        assert_eq!(integer(&[0, 0x80]), Some(vec![0x80]));
        for bad in [&[][..], &[0], &[0, 1], &[0x80], &[0, 0, 0x80]] {
            assert_eq!(integer(bad), None, "{bad:?}");
        }
    }
}
