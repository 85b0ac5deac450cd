//! OpenPGP, for those who sign with it already: commits and tags by keys of certificates that are pinned whole in `trust.toml`.
//!
//! On ring, which is linked anyway. A library would bring more than a hundred crates and 0.8 MB, among them second copies of what is linked and
//! an RSA with an open advisory; and it checks the arithmetic only: what counts is the policy here.
//!
//! Guarantees: a signature counts only when its armor holds exactly one signature packet, over a binary document, with SHA-256 or
//! better, by a key of a pinned certificate whose fingerprint is pinned beside it; that key may sign (key flags, covered by a self-signature with
//! SHA-256 or better), a subkey has signed back, it is not revoked, and it has not expired at the larger of this host's clock and its floor of
//! time. The date of a signature excuses nothing.
//! Limits: keys of version 4, RSA, ECDSA over P-256 and P-384, EdDSA over Ed25519. Nothing is looked up: a revocation counts when it is
//! pinned, and then whoever made it, for a certificate with a revocation in it is no longer one to rely on.

mod packet;

use trimtab_model::digest::Digest;

use self::packet::{Key, Material, PUBLIC_KEY, PUBLIC_SUBKEY, Reader, SIGNATURE, Signature, USER_ID, dearmor};
use super::pubkey::Fingerprint;
use super::signers::Signer;
use super::sshsig::SignatureError;

/// How an armored signature begins.
pub const BEGIN_SIGNATURE: &[u8] = b"-----BEGIN PGP SIGNATURE-----\n";
/// The longest armored certificate: one with many other people's signatures should be exported without them.
pub const MAX_CERTIFICATE: usize = 64 << 10;
/// The longest armored signature.
const MAX_SIGNATURE: usize = 16 << 10;
/// The flag of a key that may sign data.
const MAY_SIGN: u8 = 2;
/// What to do about signatures that are too old.
const RENEW: &str = "have its owner renew it (`gpg --quick-set-expire FINGERPRINT 2y`) and export it without what is old \
     (`gpg --armor --export-options export-minimal --export FINGERPRINT`)";

/// Why a certificate cannot be pinned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CertificateError {
    /// What is wrong with it.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// A pinned certificate: which of its keys may sign, worked out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    name: String,
    primary: [u8; 20],
    digest: Digest,
    keys: Vec<(Key, Use)>,
}

/// What a key of a certificate is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Use {
    /// It signs, until this second since 1970 if there is one.
    Signs(Option<u64>),
    /// It does not count, and why.
    Not(&'static str),
}

fn refuse<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, CertificateError> {
    Err(CertificateError { message: message.into(), help: help.into() })
}

impl Certificate {
    /// Reads an armored certificate (`gpg --armor --export`), whose primary key must have the fingerprint `pinned`; `name` is for people.
    pub fn parse(armored: &str, pinned: &str, name: &str) -> Result<Self, CertificateError> {
        let export = "write what `gpg --armor --export-options export-minimal --export FINGERPRINT` prints";
        if armored.len() > MAX_CERTIFICATE {
            return refuse("this certificate is longer than 64 KiB", export);
        }
        let wanted: String = pinned.chars().filter(|c| *c != ' ').collect::<String>().to_uppercase();
        if wanted.len() != 40 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return refuse("this is not a fingerprint", "write the 40 digits that `gpg --fingerprint` prints");
        }
        let bytes = match dearmor(armored.as_bytes(), "PUBLIC KEY BLOCK", false) {
            Ok(bytes) => bytes,
            Err(why) => return refuse(format!("this is not an armored certificate: {why}"), export),
        };
        let parts = match parts(&bytes) {
            Ok(parts) => parts,
            Err(why) => return refuse(format!("this certificate cannot be used: {why}"), export),
        };
        let found = Fingerprint::openpgp(parts.primary.fingerprint);
        if found != Fingerprint::openpgp(hex(&wanted)) {
            return refuse(
                format!("the certificate is {found}, not the one whose fingerprint is pinned"),
                "compare both with their owner",
            );
        }
        let expires = match parts.own_word() {
            Ok(own) => own,
            Err(why) => return refuse(format!("this certificate cannot be used: {why}"), RENEW),
        };
        let primary = parts.primary.fingerprint;
        let keys = parts.keys(expires);
        if !keys.iter().any(|(_, state)| matches!(state, Use::Signs(_))) {
            let why = keys.iter().find_map(|(_, state)| if let Use::Not(why) = state { Some(*why) } else { None });
            return refuse(format!("no key of this certificate may sign: {}", why.unwrap_or_default()), RENEW);
        }
        Ok(Self { name: name.to_owned(), primary, digest: Digest::of(&bytes), keys })
    }

    /// Its primary key's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::openpgp(self.primary)
    }

    /// What it is called in `trust.toml`; may be empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A line for a digest over all that is trusted.
    pub fn line(&self) -> String {
        format!("{} {}", self.fingerprint(), self.digest)
    }
}

fn hex(text: &str) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = std::str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok()).unwrap_or_default();
    }
    bytes
}

/// A certificate taken apart: each key and name with the signatures that follow it.
struct Parts<'a> {
    primary: Key,
    direct: Vec<Signature<'a>>,
    names: Vec<(&'a [u8], Vec<Signature<'a>>)>,
    subkeys: Vec<(Key, Vec<Signature<'a>>)>,
}

/// Where the signatures that come next belong.
enum Place {
    Primary,
    Name,
    Subkey,
    /// A picture, or something newer: its signatures are read past.
    Elsewhere,
}

fn parts(bytes: &[u8]) -> Result<Parts<'_>, &'static str> {
    const CUT: &str = "a packet in it is damaged";
    let mut reader = Reader(bytes);
    let (PUBLIC_KEY, body) = reader.packet().ok_or(CUT)? else { return Err("it does not start with a public key") };
    let primary = Key::parse(body)?;
    let mut parts = Parts { primary, direct: Vec::new(), names: Vec::new(), subkeys: Vec::new() };
    let mut place = Place::Primary;
    while !reader.0.is_empty() {
        let (tag, body) = reader.packet().ok_or(CUT)?;
        match tag {
            PUBLIC_KEY => return Err("it holds more than one certificate"),
            USER_ID => {
                parts.names.push((body, Vec::new()));
                place = Place::Name;
            }
            PUBLIC_SUBKEY => {
                parts.subkeys.push((Key::parse(body)?, Vec::new()));
                place = Place::Subkey;
            }
            SIGNATURE => {
                // One that cannot be read may be a revocation.
                let signature = Signature::parse(body).ok_or("a signature in it is damaged, or not of version 4")?;
                let list = match place {
                    Place::Primary => Some(&mut parts.direct),
                    Place::Name => parts.names.last_mut().map(|(_, list)| list),
                    Place::Subkey => parts.subkeys.last_mut().map(|(_, list)| list),
                    Place::Elsewhere => None,
                };
                if let Some(list) = list {
                    list.push(signature);
                }
            }
            _ => place = Place::Elsewhere,
        }
    }
    Ok(parts)
}

impl Parts<'_> {
    fn is_own(&self, signature: &Signature<'_>) -> bool {
        let id = &self.primary.fingerprint[12..];
        match (signature.issuer, signature.issuer_id) {
            (Some(issuer), _) => issuer == self.primary.fingerprint,
            (None, Some(issuer)) => issuer == id,
            // Whoever does not say that he is somebody else is taken at his word, and has to prove it.
            (None, None) => true,
        }
    }

    /// What a certificate says about itself has to hold under the policy, or nothing that it says is relied on.
    fn hold(&self, signature: &Signature<'_>, data: &[u8]) -> Result<(), &'static str> {
        if !signature.is_strong() {
            return Err("it vouches for itself with SHA-1 or another hash that can be forged");
        }
        if signature.critical || signature.expires || signature.created.is_none() {
            return Err("a signature in it has no date, expires by itself, or says something that is not understood here");
        }
        if !self.primary.made(signature, data) {
            return Err("a signature in it does not match, or is of a kind that is not checked here");
        }
        Ok(())
    }

    /// What the newest self-signature says of the primary key: whether it may sign, and until when it and all beneath it is valid.
    fn own_word(&self) -> Result<(bool, Option<u64>), &'static str> {
        if matches!(self.primary.material, Material::Other) {
            return Err("its primary key is of a kind that is not checked here (RSA, Ed25519, P-256 and P-384 are)");
        }
        if self.direct.iter().any(|signature| signature.kind == 0x20) {
            return Err("it is revoked");
        }
        let mut own: Vec<&Signature<'_>> = Vec::new();
        for signature in self.direct.iter().filter(|signature| signature.kind == 0x1f && self.is_own(signature)) {
            self.hold(signature, &self.primary.hashed)?;
            own.push(signature);
        }
        for (name, signatures) in &self.names {
            let length = u32::try_from(name.len()).unwrap_or_default().to_be_bytes();
            let data = [&self.primary.hashed[..], &[0xb4], &length, name].concat();
            if signatures.iter().any(|signature| signature.kind == 0x30) {
                continue;
            }
            for signature in signatures.iter().filter(|one| matches!(one.kind, 0x10..=0x13) && self.is_own(one)) {
                self.hold(signature, &data)?;
                own.push(signature);
            }
        }
        let Some(newest) = own.iter().filter_map(|signature| signature.created).max() else {
            return Err("it does not vouch for itself");
        };
        let (mut may_sign, mut expires) = (true, None);
        // Several names are often vouched for in one second: the strictest word holds.
        for signature in own.iter().filter(|signature| signature.created == Some(newest)) {
            may_sign &= signature.flags.is_some_and(|flags| flags & MAY_SIGN != 0);
            expires = earlier(expires, ending(&self.primary, signature));
        }
        Ok((may_sign, expires))
    }

    fn keys(self, (may_sign, expires): (bool, Option<u64>)) -> Vec<(Key, Use)> {
        let own = if may_sign { Use::Signs(expires) } else { Use::Not("its primary key has no signing flag") };
        let mut keys = Vec::with_capacity(1 + self.subkeys.len());
        for (key, signatures) in &self.subkeys {
            let state = self.subkey(key, signatures, expires).unwrap_or_else(Use::Not);
            keys.push((key.clone(), state));
        }
        keys.insert(0, (self.primary, own));
        keys
    }

    fn subkey(&self, key: &Key, signatures: &[Signature<'_>], above: Option<u64>) -> Result<Use, &'static str> {
        if matches!(key.material, Material::Other) {
            return Err("a subkey is of a kind that does not sign");
        }
        if signatures.iter().any(|signature| signature.kind == 0x28) {
            return Err("the subkey is revoked");
        }
        let data = [&self.primary.hashed[..], &key.hashed].concat();
        let bindings = signatures.iter().filter(|signature| signature.kind == 0x18);
        let binding = bindings.max_by_key(|signature| signature.created).ok_or("a subkey is not bound to its certificate")?;
        self.hold(binding, &data)?;
        if binding.flags.is_none_or(|flags| flags & MAY_SIGN == 0) {
            return Err("a subkey has no signing flag");
        }
        // Without it anybody could bind somebody else's signing key to his own certificate.
        let back = binding.embedded.and_then(Signature::parse).filter(|back| back.kind == 0x19 && back.is_strong());
        if !back.is_some_and(|back| !back.critical && key.made(&back, &data)) {
            return Err("a signing subkey has not signed back");
        }
        Ok(Use::Signs(earlier(above, ending(key, binding))))
    }
}

fn ending(key: &Key, signature: &Signature<'_>) -> Option<u64> {
    (signature.key_expires != 0).then(|| key.created + signature.key_expires)
}

fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// Who made this armored signature over these bytes, a commit's or a tag's, with a key that may sign at `now` (seconds since 1970).
pub fn check(certificates: &[Certificate], armor: &[u8], payload: &[u8], now: u64) -> Result<Signer, SignatureError> {
    if armor.len() > MAX_SIGNATURE {
        return Err(SignatureError::Malformed("it is longer than 16 KiB"));
    }
    let bytes = dearmor(armor, "SIGNATURE", true).map_err(SignatureError::Malformed)?;
    let mut reader = Reader(&bytes);
    let Some((SIGNATURE, body)) = reader.packet() else {
        return Err(SignatureError::Malformed("it is not one OpenPGP signature packet"));
    };
    if !reader.0.is_empty() {
        return Err(SignatureError::Malformed("it holds more than one OpenPGP packet"));
    }
    let signature = Signature::parse(body).ok_or(SignatureError::Malformed("it is not an OpenPGP signature of version 4"))?;
    if !signature.is_strong() {
        return Err(SignatureError::Unsupported(
            "it was made with SHA-1 or another hash that can be forged; sign with SHA-256 (`digest-algo SHA256` in gpg.conf)",
        ));
    }
    if signature.kind != 0 {
        return Err(SignatureError::Malformed("it is not over a document of bytes"));
    }
    let (Some(issuer), Some(created)) = (signature.issuer, signature.created) else {
        return Err(SignatureError::Unsupported("it does not name its key and its time; sign with a newer gpg"));
    };
    let id: &[u8] = &issuer[12..];
    let more = signature.critical || signature.stray || signature.expires || signature.embedded.is_some();
    if more || signature.issuer_id.is_some_and(|other| other != id) {
        return Err(SignatureError::Malformed("it says more than gpg writes into a signature over a commit"));
    }
    let fingerprint = Fingerprint::openpgp(issuer);
    let mut all = certificates.iter().flat_map(|certificate| certificate.keys.iter().map(move |key| (certificate, key)));
    let Some((certificate, (key, state))) = all.find(|(_, (key, _))| key.fingerprint == issuer) else {
        return Err(SignatureError::UnknownSigner(fingerprint));
    };
    if !key.takes(&signature) {
        return Err(SignatureError::Unsupported(
            "it was made over P-256 with another hash than SHA-256, or over P-384 with another than SHA-384",
        ));
    }
    if !key.made(&signature, payload) {
        return Err(SignatureError::Forged);
    }
    let unusable = |why| Err(SignatureError::UnusableKey { fingerprint, why });
    match state {
        Use::Not(why) => unusable(*why),
        Use::Signs(Some(end)) if now >= *end => {
            unusable("the key has expired; have its owner prolong it, and pin the new certificate")
        }
        Use::Signs(_) if created < key.created => unusable("the signature says that it is older than its key"),
        Use::Signs(_) => Ok(Signer { fingerprint: certificate.fingerprint(), name: certificate.name.clone() }),
    }
}
