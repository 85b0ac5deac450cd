//! SSH certificates (OpenSSH's `PROTOCOL.certkeys`): keys that count because an authority named in `trust.toml` says so.
//!
//! Guarantees: a certificate counts only when it is wholly understood, an authority that is pinned signed it (an authority is a plain key: no
//! chain), it is for a user and not for a host, carries no critical option (this version knows none, and an unknown one must refuse), names one
//! of the principals that the authority's line asks for, and is valid at the time that is given: the larger of this host's clock and its floor of
//! time. git asks for validity at the committer's date, which the signer writes himself; here nobody asks him.
//! Limits: a certificate cannot be revoked but by taking out its authority, so its validity should be short; extensions are the authority's
//! word to an SSH server and mean nothing here, in particular `no-touch-required` does not excuse from touching a security key.

use super::Class;
use super::pubkey::{Fingerprint, KeyError, PublicKey, Reader};
use super::sshsig::{SignatureError, check_raw};
use super::statement::show_time;

/// What the name of each kind of certificate ends with.
const SUFFIX: &[u8] = b"-cert-v01@openssh.com";
/// The largest certificate: a key, an authority, a signature, and room for principals.
pub const MAX_CERTIFICATE: usize = 12 << 10;
/// The most principals that are read; OpenSSH's own bound.
const MAX_PRINCIPALS: usize = 256;
/// A certificate for a person (2 would be one for a host).
const USER: u32 = 1;

/// A key whose certificates count, as its line in `trust.toml` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The key that signs certificates; it signs no commits by itself.
    pub key: PublicKey,
    /// The principals of which a certificate must name one; `None`: any certificate of a user counts.
    pub principals: Option<Vec<String>>,
    /// What follows the key in its line; may be empty.
    pub comment: String,
}

/// Why a certificate of a known authority does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is for a host.
    #[error("it is a host's certificate; have one made for a user (`ssh-keygen -s` without `-h`)")]
    NotAUser,
    /// It carries a critical option.
    #[error("it carries the critical option {0:?}, which is for logins; have one made without it")]
    Critical(String),
    /// Its principals are not among those that count.
    #[error(
        "it names the principals {found:?}, and trust.toml asks of this authority for one of {wanted:?}; have one made with `ssh-keygen -n`"
    )]
    Principals {
        /// What the authority's line lists.
        wanted: Vec<String>,
        /// What the certificate lists.
        found: Vec<String>,
    },
    /// Its time has not come.
    #[error(
        "it is valid only from {} on, which is after this host's time; look at the host's clock and at the certificate (`ssh-keygen -L`)", show_time(*.0)
    )]
    NotYet(u64),
    /// Its time is over.
    #[error("it was valid until {} only; have a new one made, and sign a commit on top with it", show_time(*.0))]
    Expired(u64),
}

impl CertificateError {
    /// Another commit, or another certificate, is needed.
    pub fn class(&self) -> Class {
        Class::Hold
    }
}

/// A certificate as it was read, not yet checked.
#[derive(Debug)]
pub struct Certificate<'a> {
    key: PublicKey,
    kind: u32,
    id: String,
    principals: Vec<String>,
    after: u64,
    before: u64,
    critical: Option<String>,
    authority: &'a [u8],
    /// What the authority signed.
    signed: &'a [u8],
    signature: &'a [u8],
}

/// Whether a key's blob is a certificate.
pub fn is_certificate(blob: &[u8]) -> bool {
    Reader(blob).string().is_some_and(|kind| kind.ends_with(SUFFIX))
}

/// Reads a certificate's blob.
pub fn parse(blob: &[u8]) -> Result<Certificate<'_>, SignatureError> {
    let cut = || SignatureError::Malformed("the certificate in it is cut off");
    if blob.len() > MAX_CERTIFICATE {
        return Err(SignatureError::Malformed("the certificate in it is longer than 12 KiB"));
    }
    let mut reader = Reader(blob);
    let name = reader.string().and_then(|kind| kind.strip_suffix(SUFFIX)).ok_or_else(cut)?;
    // The plain key of a security key keeps the end of its name.
    let kind = if name.starts_with(b"sk-") { [name, b"@openssh.com"].concat() } else { name.to_vec() };
    reader.string().ok_or_else(cut)?; // the nonce
    let key = PublicKey::parse_fields(&kind, &mut reader).map_err(|error| match error {
        KeyError::Malformed(what) => SignatureError::Malformed(what),
        _ => SignatureError::Unsupported("the key in its certificate is of a kind that is not taken; use an ed25519 key"),
    })?;
    reader.long().ok_or_else(cut)?; // the serial number
    let kind = reader.number().ok_or_else(cut)?;
    let id = text(reader.string().ok_or_else(cut)?);
    let mut list = Reader(reader.string().ok_or_else(cut)?);
    let mut principals = Vec::new();
    while !list.0.is_empty() {
        if principals.len() == MAX_PRINCIPALS {
            return Err(SignatureError::Malformed("the certificate in it names more than 256 principals"));
        }
        principals.push(text(list.string().ok_or_else(cut)?));
    }
    let (after, before) = (reader.long().ok_or_else(cut)?, reader.long().ok_or_else(cut)?);
    let options = reader.string().ok_or_else(cut)?;
    let critical = if options.is_empty() { None } else { Some(text(Reader(options).string().ok_or_else(cut)?)) };
    reader.string().ok_or_else(cut)?; // extensions
    reader.string().ok_or_else(cut)?; // reserved
    let authority = reader.string().ok_or_else(cut)?;
    let signed = &blob[..blob.len() - reader.0.len()];
    let signature = reader.string().ok_or_else(cut)?;
    if !reader.0.is_empty() {
        return Err(SignatureError::Malformed("something follows the certificate in it"));
    }
    Ok(Certificate { key, kind, id, principals, after, before, critical, authority, signed, signature })
}

impl Certificate<'_> {
    /// The key that it is about.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// What the authority called it (`ssh-keygen -I`), for people: control characters are escaped, and it is cut short.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Checks it at the time `now` (seconds since 1970) against the authorities that count; which of them made it.
    pub fn check<'t>(&self, authorities: &'t [Authority], now: u64) -> Result<&'t Authority, SignatureError> {
        // By blob: a certificate as an authority, however well signed, is none of them.
        let Some(authority) = authorities.iter().find(|authority| authority.key.blob() == self.authority) else {
            return Err(SignatureError::UnknownAuthority(Fingerprint::of(self.authority)));
        };
        // Before anything that it says is repeated to a person: only what the authority wrote is worth it.
        check_raw(&authority.key, self.signed, self.signature)?;
        self.policy(authority, now).map_err(SignatureError::Certificate)?;
        Ok(authority)
    }

    fn policy(&self, authority: &Authority, now: u64) -> Result<(), CertificateError> {
        if self.kind != USER {
            return Err(CertificateError::NotAUser);
        }
        if let Some(option) = &self.critical {
            return Err(CertificateError::Critical(option.clone()));
        }
        if let Some(wanted) = &authority.principals
            && !self.principals.iter().any(|found| wanted.contains(found))
        {
            return Err(CertificateError::Principals {
                wanted: wanted.clone(),
                found: self.principals.iter().take(10).cloned().collect(),
            });
        }
        if now < self.after {
            return Err(CertificateError::NotYet(self.after));
        }
        if now >= self.before {
            return Err(CertificateError::Expired(self.before));
        }
        Ok(())
    }
}

/// A name in a certificate. What is no UTF-8 or has control characters never equals a principal of `trust.toml`, which has neither.
fn text(bytes: &[u8]) -> String {
    let long = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    if bytes.len() > 200 { format!("{}…", long.escape_debug()) } else { long.escape_debug().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    // `ssh-keygen -s ca -I ann@site -n ann,bob -V 20260101:20270101 key.pub`, by OpenSSH 9.2.
    const BLOB: &[u8] = include_bytes!("ann-cert.bin");

    #[test]
    fn no_cut_and_no_appended_byte_is_taken() {
        let certificate = parse(BLOB).unwrap();
        assert_eq!((certificate.id(), certificate.principals.as_slice()), ("ann@site", &["ann".to_owned(), "bob".to_owned()][..]));
        assert!(is_certificate(BLOB) && !is_certificate(certificate.key().blob()));
        for length in 0..BLOB.len() {
            assert!(parse(&BLOB[..length]).is_err(), "{length}");
        }
        assert!(parse(&[BLOB, b"x"].concat()).is_err());
    }

    #[test]
    fn each_byte_is_covered_by_the_authority() {
        let genuine = parse(BLOB).unwrap();
        let key = PublicKey::parse(genuine.authority).unwrap();
        let trusted = [Authority { key, principals: Some(vec!["bob".into()]), comment: String::new() }];
        let now = u64::midpoint(genuine.after, genuine.before);
        assert_eq!(genuine.check(&trusted, now).unwrap().comment, "");
        for at in 0..BLOB.len() {
            let mut altered = BLOB.to_vec();
            altered[at] ^= 1;
            let taken = parse(&altered).and_then(|certificate| certificate.check(&trusted, now).map(|_| ()));
            assert!(taken.is_err(), "byte {at}");
        }
    }
}
