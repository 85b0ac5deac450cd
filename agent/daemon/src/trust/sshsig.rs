//! SSH signatures (OpenSSH's `PROTOCOL.sshsig`), checked in process on ring: no `ssh-keygen`, no temporary file.
//!
//! Guarantees: a signature is taken only when its whole blob is understood, its namespace is `git`, its algorithm is the one that the
//! key type demands, and, for a security key, somebody touched it (ssh-keygen and git accept one that nobody touched).
//! RSA signs with SHA-2 only.
//! Limits: whether a certificate counts is for [`cert`](super::cert) to say; the time of a signature is not part of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, SHA512, digest};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};

use super::cert::{self, Authority, CertificateError};
use super::pubkey::{Curve, Fingerprint, KeyError, Material, PublicKey, Reader};

/// The namespace under which git has commits and tags signed.
pub const NAMESPACE: &[u8] = b"git";
/// The bit that says that somebody touched the security key.
const USER_PRESENT: u8 = 1;

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The blob is not what the format says.
    #[error("the signature is damaged: {0}")]
    Malformed(&'static str),
    /// A kind of signature or key that this version does not check.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Signed for something else, for example a file.
    #[error("the signature was made for {0:?}, which is another purpose")]
    WrongNamespace(String),
    /// Signed by a key that is not among the trusted ones; whether the signature itself is good was not looked at.
    #[error("signed by {0}, which is not trusted here")]
    UnknownSigner(Fingerprint),
    /// Made with a certificate of an authority that is not among the trusted ones.
    #[error("signed with a certificate by {0}, which is no trusted authority here")]
    UnknownAuthority(Fingerprint),
    /// Made with a certificate of a trusted authority, and the certificate does not count.
    #[error("the certificate does not count")]
    Certificate(#[source] CertificateError),
    /// Made by a key of a trusted OpenPGP certificate that may not sign.
    #[error("signed by {fingerprint}, which may not sign: {why}")]
    UnusableKey {
        /// The key.
        fingerprint: Fingerprint,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// Names a trusted key, but does not verify with it.
    #[error("the signature does not match")]
    Forged,
    /// Good, but made by a security key that nobody touched.
    #[error("nobody touched the security key")]
    Untouched,
}

/// A signature as it was read, not yet checked.
#[derive(Debug)]
pub struct Signature<'a> {
    key: &'a [u8],
    namespace: &'a [u8],
    hash: &'a [u8],
    inner: Inner<'a>,
}

/// Who made a signature.
#[derive(Debug)]
pub enum Maker<'t, 's> {
    /// A key that is trusted itself.
    Key(&'t PublicKey),
    /// A key that an authority vouches for.
    Certified(&'t Authority, Box<cert::Certificate<'s>>),
}

/// What a key made: the same in a signature over a commit and under a certificate.
#[derive(Debug)]
struct Inner<'a> {
    algorithm: &'a [u8],
    raw: &'a [u8],
    /// What a security key adds: its flags and its counter.
    touch: Option<(u8, u32)>,
}

/// Reads the binary form (what the armor's base64 decodes to).
pub fn parse(blob: &[u8]) -> Result<Signature<'_>, SignatureError> {
    let cut = || SignatureError::Malformed("it is cut off");
    let mut reader = Reader(blob);
    if reader.take(6) != Some(b"SSHSIG") {
        return Err(SignatureError::Malformed("it does not start with SSHSIG"));
    }
    if reader.number().ok_or_else(cut)? != 1 {
        return Err(SignatureError::Malformed("its version is not 1"));
    }
    let key = reader.string().ok_or_else(cut)?;
    let namespace = reader.string().ok_or_else(cut)?;
    // The format tells readers to ignore this field. A field that changes nothing is a way to mint twins: it must be empty.
    if !reader.string().ok_or_else(cut)?.is_empty() {
        return Err(SignatureError::Malformed("its reserved field is not empty"));
    }
    let hash = reader.string().ok_or_else(cut)?;
    let inner = Inner::parse(reader.string().ok_or_else(cut)?)?;
    if !reader.0.is_empty() {
        return Err(SignatureError::Malformed("something follows it"));
    }
    Ok(Signature { key, namespace, hash, inner })
}

/// Checks what a key signed outside of any envelope: a certificate.
pub(super) fn check_raw(key: &PublicKey, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    Inner::parse(signature)?.check(key, message)
}

impl<'s> Signature<'s> {
    /// The blob of the key that it names.
    pub(super) fn key(&self) -> &[u8] {
        self.key
    }

    /// The fingerprint of the key that it names.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.key)
    }

    /// Whether it was made with a certificate.
    pub fn is_certified(&self) -> bool {
        cert::is_certificate(self.key)
    }

    /// The certificate that it was made with, read and not checked.
    pub fn certificate(&self) -> Option<cert::Certificate<'s>> {
        cert::parse(self.key).ok()
    }

    /// What it is, for people: the kind of its key, what it was made for, and over which hash.
    pub fn describe(&self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).escape_debug().to_string();
        let kind = Reader(self.key).string().map(text).unwrap_or_default();
        format!("{kind}, made for {:?}, over {}", text(self.namespace), text(self.hash))
    }

    /// As [`Signature::verify`], and a certificate of one of `authorities` that counts at the time `now` (seconds since 1970) is taken, too.
    pub fn made_by<'t>(
        &self,
        payload: &[u8],
        trusted: impl Iterator<Item = &'t PublicKey>,
        authorities: &'t [Authority],
        now: u64,
    ) -> Result<Maker<'t, 's>, SignatureError> {
        if !cert::is_certificate(self.key) {
            return self.verify(payload, trusted).map(Maker::Key);
        }
        self.purpose(NAMESPACE)?;
        let certificate = cert::parse(self.key)?;
        let authority = certificate.check(authorities, now)?;
        self.inner.check(certificate.key(), &self.signed_bytes(payload)?)?;
        Ok(Maker::Certified(authority, Box::new(certificate)))
    }

    /// Checks the signature over `payload`, made for git; which of the trusted keys made it.
    pub fn verify<'k>(
        &self,
        payload: &[u8],
        trusted: impl Iterator<Item = &'k PublicKey>,
    ) -> Result<&'k PublicKey, SignatureError> {
        self.verify_in(NAMESPACE, payload, trusted)
    }

    /// As [`Signature::verify`], made for the purpose `namespace`.
    pub fn verify_in<'k>(
        &self,
        namespace: &[u8],
        payload: &[u8],
        mut trusted: impl Iterator<Item = &'k PublicKey>,
    ) -> Result<&'k PublicKey, SignatureError> {
        self.purpose(namespace)?;
        // By blob, before anything in it is parsed: what is compared is exactly what was pinned.
        let Some(key) = trusted.find(|key| key.blob() == self.key) else {
            return Err(match PublicKey::parse(self.key) {
                Err(KeyError::Certificate) => {
                    SignatureError::Unsupported("it was made with an SSH certificate, and only plain keys count here")
                }
                Err(KeyError::Malformed(_)) => SignatureError::Malformed("the key in it is damaged"),
                _ => SignatureError::UnknownSigner(Fingerprint::of(self.key)),
            });
        };
        let message = self.signed_bytes(payload)?;
        self.inner.check(key, &message)?;
        Ok(key)
    }

    fn purpose(&self, namespace: &[u8]) -> Result<(), SignatureError> {
        if self.namespace == namespace {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(&self.namespace[..self.namespace.len().min(60)]);
        Err(SignatureError::WrongNamespace(shown.into_owned()))
    }

    /// What the key signed: the same envelope, with the payload's hash in the place of the signature.
    fn signed_bytes(&self, payload: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let hash = match self.hash {
            b"sha512" => digest(&SHA512, payload),
            b"sha256" => digest(&SHA256, payload),
            _ => return Err(SignatureError::Malformed("its hash is neither sha256 nor sha512")),
        };
        let mut message = b"SSHSIG".to_vec();
        for field in [self.namespace, b"", self.hash, hash.as_ref()] {
            let length = u32::try_from(field.len()).expect("because each field came out of a bounded object");
            message.extend(length.to_be_bytes());
            message.extend(field);
        }
        Ok(message)
    }
}

impl<'a> Inner<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, SignatureError> {
        let cut = || SignatureError::Malformed("it is cut off");
        let mut reader = Reader(bytes);
        let algorithm = reader.string().ok_or_else(cut)?;
        let raw = reader.string().ok_or_else(cut)?;
        let touch = if algorithm.starts_with(b"sk-") {
            Some((reader.byte().ok_or_else(cut)?, reader.number().ok_or_else(cut)?))
        } else {
            None
        };
        if !reader.0.is_empty() {
            return Err(SignatureError::Malformed("something follows it"));
        }
        Ok(Self { algorithm, raw, touch })
    }

    fn check(&self, key: &PublicKey, message: &[u8]) -> Result<(), SignatureError> {
        let mismatch = SignatureError::Malformed("its algorithm is not the one of its key");
        match (&key.material, self.algorithm) {
            (Material::Ed25519(point), b"ssh-ed25519") => with(&signature::ED25519, point, message, self.raw),
            (Material::Ecdsa(Curve::P256, point), b"ecdsa-sha2-nistp256") => {
                with(&signature::ECDSA_P256_SHA256_FIXED, point, message, &fixed(self.raw, Curve::P256)?)
            }
            (Material::Ecdsa(Curve::P384, point), b"ecdsa-sha2-nistp384") => {
                with(&signature::ECDSA_P384_SHA384_FIXED, point, message, &fixed(self.raw, Curve::P384)?)
            }
            (Material::Rsa { n, e }, b"rsa-sha2-512" | b"rsa-sha2-256") => {
                let scheme = match self.algorithm {
                    b"rsa-sha2-512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    _ => &signature::RSA_PKCS1_2048_8192_SHA256,
                };
                RsaPublicKeyComponents { n, e }.verify(scheme, message, self.raw).map_err(|_| SignatureError::Forged)
            }
            (Material::Rsa { .. }, b"ssh-rsa") => {
                Err(SignatureError::Unsupported("it was made with RSA and SHA-1, which can be forged; sign with a newer OpenSSH"))
            }
            (Material::SkEd25519 { point, application }, b"sk-ssh-ed25519@openssh.com") => {
                with(&signature::ED25519, point, &self.touched(application, message), self.raw)?;
                self.presence()
            }
            (Material::SkEcdsa { point, application }, b"sk-ecdsa-sha2-nistp256@openssh.com") => {
                let message = self.touched(application, message);
                with(&signature::ECDSA_P256_SHA256_FIXED, point, &message, &fixed(self.raw, Curve::P256)?)?;
                self.presence()
            }
            _ => Err(mismatch),
        }
    }

    /// What a security key signs: its application, flags and counter around the hash of the message.
    fn touched(&self, application: &[u8], message: &[u8]) -> Vec<u8> {
        let (flags, counter) = self.touch.unwrap_or_default();
        let mut bytes = digest(&SHA256, application).as_ref().to_vec();
        bytes.push(flags);
        bytes.extend(counter.to_be_bytes());
        bytes.extend(digest(&SHA256, message).as_ref());
        bytes
    }

    // After the signature itself, so that only a genuine one earns this verdict.
    fn presence(&self) -> Result<(), SignatureError> {
        match self.touch {
            Some((flags, _)) if flags & USER_PRESENT != 0 => Ok(()),
            _ => Err(SignatureError::Untouched),
        }
    }
}

fn with(algorithm: &'static dyn VerificationAlgorithm, point: &[u8], message: &[u8], raw: &[u8]) -> Result<(), SignatureError> {
    UnparsedPublicKey::new(algorithm, point).verify(message, raw).map_err(|_| SignatureError::Forged)
}

/// SSH's pair of integers as the fixed-size pair that ring takes.
fn fixed(raw: &[u8], curve: Curve) -> Result<Vec<u8>, SignatureError> {
    let mut reader = Reader(raw);
    let mut pair = Vec::with_capacity(2 * curve.size());
    for _ in 0..2 {
        let integer = reader.integer().filter(|integer| integer.len() <= curve.size());
        let integer = integer.ok_or(SignatureError::Malformed("its numbers are not in their only legal form"))?;
        pair.resize(pair.len() + curve.size() - integer.len(), 0);
        pair.extend(integer);
    }
    if !reader.0.is_empty() {
        return Err(SignatureError::Malformed("something follows its numbers"));
    }
    Ok(pair)
}

const BEGIN: &[u8] = b"-----BEGIN SSH SIGNATURE-----\n";
const END: &[u8] = b"-----END SSH SIGNATURE-----\n";
/// The length of a line of base64 in what ssh-keygen writes.
const COLUMNS: usize = 70;
/// Several times what the largest key needs.
const MAX_ARMOR: usize = 16 << 10;

/// The binary form of an armored signature, whose armor must be byte for byte what ssh-keygen would write.
pub fn dearmor(armor: &[u8]) -> Result<Vec<u8>, SignatureError> {
    if armor.starts_with(b"-----BEGIN PGP ") {
        return Err(SignatureError::Unsupported("it is an OpenPGP signature; sign with an SSH key (`git config gpg.format ssh`)"));
    }
    if armor.starts_with(b"-----BEGIN SIGNED MESSAGE-----") {
        return Err(SignatureError::Unsupported("it is an X.509 signature; sign with an SSH key (`git config gpg.format ssh`)"));
    }
    if armor.len() > MAX_ARMOR {
        return Err(SignatureError::Malformed("it is longer than 16 KiB"));
    }
    let body = armor.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
    let body = body.ok_or(SignatureError::Malformed("its armor is not an SSH signature's"))?;
    let base64: Vec<u8> = body.iter().copied().filter(|byte| *byte != b'\n').collect();
    let blob = STANDARD.decode(&base64).map_err(|_| SignatureError::Malformed("its base64 is damaged"))?;
    // Written again and compared: whatever freedom base64 or the line breaks leave, one form only is taken.
    if self::armor(&blob) != armor {
        return Err(SignatureError::Malformed("its armor is not folded as ssh-keygen folds it"));
    }
    Ok(blob)
}

/// The armor as ssh-keygen writes it.
pub fn armor(blob: &[u8]) -> Vec<u8> {
    let base64 = STANDARD.encode(blob);
    let mut text = BEGIN.to_vec();
    for line in base64.as_bytes().chunks(COLUMNS) {
        text.extend(line);
        text.push(b'\n');
    }
    text.extend(END);
    text
}
