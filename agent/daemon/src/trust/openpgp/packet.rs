//! OpenPGP's armor, packets, keys and signatures of version 4 (RFC 4880 and RFC 9580), as far as commits, tags and pinned certificates need them.
//!
//! Guarantees: what is returned was wholly understood; every length is checked before it is used; a signature over a commit has one form only
//! (armor as gpg writes it, one packet, numbers without leading zeros); nothing is allocated by a length that was read.
//! Limits: RSA, ECDSA over P-256 and P-384, and EdDSA over Ed25519 as gpg writes it; other algorithms are read past in certificates and refused in signatures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
};

/// The tags of the packets that matter.
pub(super) const SIGNATURE: u8 = 2;
pub(super) const PUBLIC_KEY: u8 = 6;
pub(super) const USER_ID: u8 = 13;
pub(super) const PUBLIC_SUBKEY: u8 = 14;

/// The kinds of a signature's subpackets that matter.
const CREATED: u8 = 2;
const EXPIRES: u8 = 3;
const KEY_EXPIRES: u8 = 9;
const ISSUER: u8 = 16;
const KEY_FLAGS: u8 = 27;
const EMBEDDED: u8 = 32;
const ISSUER_FINGERPRINT: u8 = 33;
/// Kinds that change nothing here and are understood, so that they may be marked critical: preferences, notations excepted.
const HARMLESS: [u8; 9] = [11, 21, 22, 23, 24, 25, 28, 30, 34];

/// Takes an armor off. `exact`: it must be byte for byte what gpg writes, so that one signature has one armor.
pub(super) fn dearmor(text: &[u8], kind: &str, exact: bool) -> Result<Vec<u8>, &'static str> {
    const ODD: &str = "its armor is damaged, or not the one that is asked for";
    let (begin, end) = (format!("-----BEGIN PGP {kind}-----"), format!("-----END PGP {kind}-----"));
    let inner = std::str::from_utf8(text).map_err(|_| ODD)?.trim();
    let inner = inner.strip_prefix(&begin).and_then(|inner| inner.strip_suffix(&end)).ok_or(ODD)?;
    // Headers end at the first empty line.
    let (_, body) = inner.split_once("\n\n").or_else(|| inner.split_once("\r\n\r\n")).ok_or(ODD)?;
    let (mut base64, mut sum) = (String::new(), None);
    for line in body.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix('=') {
            Some(crc) if sum.is_none() && crc.len() == 4 => sum = Some(crc),
            _ if sum.is_some() => return Err(ODD),
            _ => base64.push_str(line),
        }
    }
    let bytes = STANDARD.decode(&base64).map_err(|_| "its base64 is damaged")?;
    let crc = STANDARD.encode(crc24(&bytes));
    if sum.is_some_and(|sum| sum != crc) {
        return Err("its checksum does not match");
    }
    if exact {
        let mut again = format!("{begin}\n\n");
        let base64 = STANDARD.encode(&bytes);
        for line in base64.as_bytes().chunks(64) {
            again.push_str(std::str::from_utf8(line).map_err(|_| ODD)?);
            again.push('\n');
        }
        if sum.is_some() {
            again.push_str(&format!("={crc}\n"));
        }
        if format!("{again}{end}\n").as_bytes() != text {
            return Err("its armor is not folded as gpg folds it, or has headers; sign again with plain gpg");
        }
    }
    Ok(bytes)
}

fn crc24(bytes: &[u8]) -> [u8; 3] {
    let mut crc: u32 = 0x00b7_04ce;
    for byte in bytes {
        crc ^= u32::from(*byte) << 16;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x0100_0000 != 0 {
                crc ^= 0x0186_4cfb;
            }
        }
    }
    let [_, rest @ ..] = crc.to_be_bytes();
    rest
}

/// Reads from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// The next packet: its tag and its body. Lengths that are not known from the start, or longer than they need be, are refused.
    pub(super) fn packet(&mut self) -> Option<(u8, &'a [u8])> {
        let head = self.number(1)?;
        let (tag, length, least) = match head {
            0xc0..=0xff => {
                let (length, least) = self.length()?;
                (head & 0x3f, length, least)
            }
            0x80..=0xbf => {
                let width = [1, 2, 4].get(head & 3)?;
                (head >> 2 & 0xf, self.number(*width)?, [0, 0x100, 0x1_0000][head & 3])
            }
            _ => return None,
        };
        if length < least {
            return None;
        }
        Some((u8::try_from(tag).ok()?, self.take(length)?))
    }

    /// A length as new packets and subpackets have it, and the least that is written with as many bytes.
    fn length(&mut self) -> Option<(usize, usize)> {
        match self.number(1)? {
            short @ 0..=191 => Some((short, 0)),
            middle @ 192..=223 => Some((((middle - 192) << 8) + self.number(1)? + 192, 192)),
            255 => Some((self.number(4)?, 8384)),
            _ => None,
        }
    }

    /// A number in its only legal form, without leading zeros.
    fn integer(&mut self) -> Option<&'a [u8]> {
        let bits = self.number(2)?;
        let bytes = self.take(bits.div_ceil(8))?;
        let first = bytes.first()?;
        ((bytes.len() - 1) * 8 + (8 - first.leading_zeros() as usize) == bits).then_some(bytes)
    }
}

/// What a key is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    /// It cannot sign, or not in a way that is checked here.
    Other,
}

/// A public key or subkey of version 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) fingerprint: [u8; 20],
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) algorithm: u8,
    pub(super) material: Material,
    /// The body with the mark and the length under which it is hashed.
    pub(super) hashed: Vec<u8>,
}

impl Key {
    pub(super) fn parse(body: &[u8]) -> Result<Self, &'static str> {
        const CUT: &str = "a key in it is damaged";
        let mut reader = Reader(body);
        if reader.number(1) != Some(4) {
            return Err("a key in it is not of version 4, which is the one that is read here");
        }
        let created = reader.number(4).ok_or(CUT)?;
        let algorithm = reader.take(1).ok_or(CUT)?[0];
        let material = material(algorithm, &mut reader).ok_or(CUT)?;
        if let Material::Rsa { n, e } = &material {
            let bits = n.len() * 8 - n[0].leading_zeros() as usize;
            if !(2048..=8192).contains(&bits) || e.len() > 4 || *e == [1] || (e[e.len() - 1] & n[n.len() - 1]).is_multiple_of(2) {
                return Err("an RSA key in it has less than 2048 or more than 8192 bits, or is not a legal one");
            }
        }
        let length = u16::try_from(body.len()).map_err(|_| CUT)?.to_be_bytes();
        let hashed = [&[0x99][..], &length, body].concat();
        let mut fingerprint = [0; 20];
        fingerprint.copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, &hashed).as_ref());
        Ok(Self { fingerprint, created: created as u64, algorithm, material, hashed })
    }

    /// Whether a signature with this hash can be checked: each curve goes with the hash of its size.
    pub(super) fn takes(&self, signature: &Signature<'_>) -> bool {
        match self.material {
            Material::P256(_) => signature.hash == 8,
            Material::P384(_) => signature.hash == 9,
            _ => true,
        }
    }

    /// Whether this key made the signature over these bytes.
    pub(super) fn made(&self, signature: &Signature<'_>, data: &[u8]) -> bool {
        if signature.algorithm != self.algorithm {
            return false;
        }
        let tail = signature.hashed.len();
        let trailer = [&[4, 0xff][..], &u32::try_from(tail).unwrap_or_default().to_be_bytes()].concat();
        let message = [data, signature.hashed, &trailer].concat();
        let (algorithm, rsa) = match signature.hash {
            8 => (&SHA256, &RSA_PKCS1_2048_8192_SHA256),
            9 => (&SHA384, &RSA_PKCS1_2048_8192_SHA384),
            10 => (&SHA512, &RSA_PKCS1_2048_8192_SHA512),
            _ => return false,
        };
        let mut context = Context::new(algorithm);
        context.update(&message);
        let hash = context.finish();
        if hash.as_ref()[..2] != signature.left {
            return false;
        }
        let numbers = |size: usize| {
            let pad = |number: &[u8]| Some([vec![0; size.checked_sub(number.len())?], number.to_vec()].concat());
            match signature.numbers.as_slice() {
                [r, s] => Some([pad(r)?, pad(s)?].concat()),
                _ => None,
            }
        };
        let checked = match (&self.material, signature.hash) {
            (Material::Rsa { n, e }, _) => {
                let [number] = signature.numbers.as_slice() else { return false };
                let Some(zeros) = n.len().checked_sub(number.len()) else { return false };
                RsaPublicKeyComponents { n, e }.verify(rsa, &message, &[vec![0; zeros], number.to_vec()].concat()).ok()
            }
            (Material::P256(point), 8) => {
                numbers(32).and_then(|raw| UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(&message, &raw).ok())
            }
            (Material::P384(point), 9) => {
                numbers(48).and_then(|raw| UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(&message, &raw).ok())
            }
            (Material::Ed25519(point), _) => {
                numbers(32).and_then(|raw| UnparsedPublicKey::new(&ED25519, point).verify(hash.as_ref(), &raw).ok())
            }
            _ => None,
        };
        checked.is_some()
    }
}

/// `None`: cut off. What cannot sign is not read further.
fn material(algorithm: u8, reader: &mut Reader<'_>) -> Option<Material> {
    let curve = |reader: &mut Reader<'_>| {
        let length = reader.number(1)?;
        let curve = reader.take(length)?.to_vec();
        Some((curve, reader.integer()?.to_vec()))
    };
    let material = match algorithm {
        1 => Material::Rsa { n: reader.integer()?.to_vec(), e: reader.integer()?.to_vec() },
        19 => match curve(reader)? {
            (oid, point) if oid == [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7] && point.len() == 65 => Material::P256(point),
            (oid, point) if oid == [0x2b, 0x81, 4, 0, 0x22] && point.len() == 97 => Material::P384(point),
            _ => return Some(Material::Other),
        },
        22 => match curve(reader)? {
            (oid, point) if oid == [0x2b, 6, 1, 4, 1, 0xda, 0x47, 0x0f, 1] && point.len() == 33 && point[0] == 0x40 => {
                Material::Ed25519(point[1..].to_vec())
            }
            _ => return Some(Material::Other),
        },
        _ => return Some(Material::Other),
    };
    reader.0.is_empty().then_some(material)
}

/// A signature of version 4, not yet checked.
#[derive(Debug, Clone)]
pub(super) struct Signature<'a> {
    pub(super) kind: u8,
    algorithm: u8,
    pub(super) hash: u8,
    /// What is hashed of it: from its version to the end of the subpackets that are covered.
    hashed: &'a [u8],
    left: [u8; 2],
    numbers: Vec<&'a [u8]>,
    /// Seconds since 1970.
    pub(super) created: Option<u64>,
    pub(super) expires: bool,
    /// Seconds after the key was made; 0: never.
    pub(super) key_expires: u64,
    pub(super) flags: Option<u8>,
    /// The key that says to have made it, by the part that is covered.
    pub(super) issuer: Option<[u8; 20]>,
    /// The last half of the fingerprint, from either part.
    pub(super) issuer_id: Option<[u8; 8]>,
    pub(super) embedded: Option<&'a [u8]>,
    /// A subpacket is marked as one that must be understood, and is not.
    pub(super) critical: bool,
    /// The part that is not covered says more than gpg puts there.
    pub(super) stray: bool,
}

impl<'a> Signature<'a> {
    /// `None`: not a signature of version 4, or damaged.
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let [4, kind, algorithm, hash] = *reader.take(4)? else { return None };
        let length = reader.number(2)?;
        let covered = reader.take(length)?;
        let hashed = &body[..6 + length];
        let length = reader.number(2)?;
        let open = reader.take(length)?;
        let left = reader.take(2)?.try_into().ok()?;
        let mut numbers = Vec::new();
        while !reader.0.is_empty() && numbers.len() < 3 {
            numbers.push(reader.integer()?);
        }
        let mut signature = Self {
            kind,
            algorithm,
            hash,
            hashed,
            left,
            numbers,
            created: None,
            expires: false,
            key_expires: 0,
            flags: None,
            issuer: None,
            issuer_id: None,
            embedded: None,
            critical: false,
            stray: false,
        };
        signature.subpackets(covered, true)?;
        signature.subpackets(open, false)?;
        reader.0.is_empty().then_some(signature)
    }

    fn subpackets(&mut self, area: &'a [u8], covered: bool) -> Option<()> {
        let mut reader = Reader(area);
        while !reader.0.is_empty() {
            let (length, _) = reader.length()?;
            let (head, body) = reader.take(length)?.split_first()?;
            let (critical, kind) = (head & 0x80 != 0, head & 0x7f);
            let number = || Some(u64::from(u32::from_be_bytes(body.try_into().ok()?)));
            match (kind, covered) {
                (ISSUER, _) if self.issuer_id.is_none() => self.issuer_id = Some(body.try_into().ok()?),
                (EMBEDDED, _) if self.embedded.is_none() => self.embedded = Some(body),
                (CREATED, true) if self.created.is_none() => self.created = Some(number()?),
                (EXPIRES, true) => self.expires |= number()? != 0,
                (KEY_EXPIRES, true) if self.key_expires == 0 => self.key_expires = number()?,
                (KEY_FLAGS, true) if self.flags.is_none() => self.flags = Some(body.first().copied().unwrap_or_default()),
                (ISSUER_FINGERPRINT, true) if self.issuer.is_none() => {
                    self.issuer = Some(body.strip_prefix(&[4])?.try_into().ok()?);
                }
                // Said twice: which of the two would others believe?
                (CREATED | KEY_EXPIRES | KEY_FLAGS, true) => self.critical = true,
                (CREATED | ISSUER | EMBEDDED | ISSUER_FINGERPRINT, _) | (_, false) => self.stray = true,
                (kind, true) => self.critical |= critical && !HARMLESS.contains(&kind),
            }
        }
        Some(())
    }

    /// Whether its hash is one that cannot be forged today.
    pub(super) fn is_strong(&self) -> bool {
        matches!(self.hash, 8..=10)
    }
}
