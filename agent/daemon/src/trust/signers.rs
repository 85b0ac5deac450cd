//! Whose signature counts: plain keys, authorities of certificates, and OpenPGP certificates, each from one place of a local file.
//!
//! Guarantees: a line is understood wholly or refused with what to do, an option that is not known included; one function says who made a
//! signature over some bytes, for commits and for tags alike; time is given from outside and never taken from what is signed.
//! Limits: a plain key has no expiry and no role: it counts until its line is removed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::cert::Authority;
#[cfg(feature = "openpgp")]
use super::openpgp;
use super::pubkey::{Fingerprint, PublicKey};
use super::sshsig::{self, Maker, SignatureError};

/// The longest comment of a key: it is printed in logs.
const MAX_COMMENT: usize = 200;
/// How a key is written, for refusals.
const EXAMPLE: &str = "write the line of a `.pub` file: `ssh-ed25519 AAAA… name`";
/// How an authority is written, for refusals.
const OPTIONS: &str = "the options that are known are `cert-authority` and, with it, `principals=\"ann,bob\"`, as sshd writes them";

/// A key and the name by which its line calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// The key.
    pub key: PublicKey,
    /// What follows it in its line: usually the name of its owner; may be empty.
    pub comment: String,
}

/// Who signed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The key, as `ssh-keygen -l` or gpg prints it.
    pub fingerprint: Fingerprint,
    /// Its comment in the local file; of a certified key what its authority calls it, and the authority's comment. May be empty.
    pub name: String,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { write!(f, "{}", self.fingerprint) } else { write!(f, "{} ({})", self.name, self.fingerprint) }
    }
}

/// All whose signatures count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signers {
    /// Keys that count by themselves.
    pub keys: Vec<TrustedKey>,
    /// Keys whose certificates count.
    pub authorities: Vec<Authority>,
    /// OpenPGP certificates.
    #[cfg(feature = "openpgp")]
    pub openpgp: Vec<openpgp::Certificate>,
}

/// What one line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A key that counts by itself.
    Key(TrustedKey),
    /// A key whose certificates count.
    Authority(Authority),
}

/// Why a line names nobody who could be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LineError {
    /// What is wrong with it.
    pub message: String,
    /// What to do.
    pub help: String,
    /// The line holds a secret and must not be shown.
    pub secret: bool,
}

impl LineError {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into(), secret: false }
    }
}

impl Line {
    /// Reads the line of a `.pub` file, with or without `cert-authority` before it.
    pub fn parse(text: &str) -> Result<Self, LineError> {
        let text = text.trim();
        if text.contains("PRIVATE KEY") {
            let help = "put the public key here (the file ending in `.pub`), and replace the private one: it has been exposed";
            return Err(LineError { secret: true, ..LineError::new("this is a private key", help) });
        }
        let (options, text) = options(text)?;
        let mut parts = text.splitn(3, ' ');
        let (Some(kind), Some(base64)) = (parts.next(), parts.next()) else {
            return Err(LineError::new("this is not a public key", EXAMPLE));
        };
        let comment = parts.next().unwrap_or_default().trim();
        if comment.chars().any(char::is_control) || comment.len() > MAX_COMMENT {
            let message = "the comment of this key has control characters or more than 200 bytes";
            return Err(LineError::new(message, "one short name is enough"));
        }
        let blob = STANDARD
            .decode(base64)
            .map_err(|_| LineError::new("this is not a public key: its second word is not base64", EXAMPLE))?;
        let key = PublicKey::parse(&blob).map_err(|error| LineError::new("this key cannot be trusted", error.to_string()))?;
        if key.kind() != kind {
            return Err(LineError::new(format!("this key says that it is {kind:?}, but it is {}", key.kind()), EXAMPLE));
        }
        let comment = comment.to_owned();
        Ok(match options {
            None => Self::Key(TrustedKey { key, comment }),
            Some(principals) => Self::Authority(Authority { key, principals, comment }),
        })
    }

    /// The key in it.
    pub fn key(&self) -> &PublicKey {
        match self {
            Self::Key(trusted) => &trusted.key,
            Self::Authority(authority) => &authority.key,
        }
    }
}

/// What options say: nothing, or that it is an authority, perhaps for these principals only.
type Options = Option<Option<Vec<String>>>;

/// Takes the options off the front of a line.
fn options(text: &str) -> Result<(Options, &str), LineError> {
    let kinds = ["ssh-", "ecdsa-", "sk-"];
    if kinds.iter().any(|kind| text.starts_with(kind)) {
        return Ok((None, text));
    }
    let mut quoted = false;
    let end = text.find(|c| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    });
    // A lone word is no option before a key, it is no key.
    let Some((options, rest)) = end.map(|at| (&text[..at], text[at..].trim_start())) else {
        return Err(LineError::new("this is not a public key", EXAMPLE));
    };
    let mut quoted = false;
    let mut parts = options.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    let (mut authority, mut principals) = (false, None);
    // `try_for_each` would hide which one it was.
    for part in &mut parts {
        match part.split_once('=') {
            None if part == "cert-authority" && !authority => authority = true,
            Some(("principals", list)) if principals.is_none() => principals = Some(names(list)?),
            _ => {
                let known = part == "cert-authority" || part.starts_with("principals=");
                let what = if known { "is there twice" } else { "is not known" };
                let shown: String = part.chars().take(60).collect();
                return Err(LineError::new(format!("the option {shown:?} before this key {what}"), OPTIONS));
            }
        }
    }
    if !authority {
        return Err(LineError::new("`principals` are asked of certificates only", OPTIONS));
    }
    Ok((Some(principals), rest))
}

fn names(list: &str) -> Result<Vec<String>, LineError> {
    let inner = list.strip_prefix('"').and_then(|list| list.strip_suffix('"')).unwrap_or_default();
    let names: Vec<String> = inner.split(',').map(str::to_owned).collect();
    // sshd's patterns would make a wide door look narrow: names are compared as they are.
    let plain =
        |name: &String| !name.is_empty() && !name.contains(|c: char| c.is_control() || c.is_whitespace() || "*?!\"\\".contains(c));
    if names.iter().all(plain) {
        Ok(names)
    } else {
        Err(LineError::new("these principals are not a list of names", "write `principals=\"ann,bob\"`: whole names, no patterns"))
    }
}

impl Signers {
    /// Whether nobody counts.
    pub fn is_empty(&self) -> bool {
        #[cfg(feature = "openpgp")]
        let more = !self.openpgp.is_empty();
        #[cfg(not(feature = "openpgp"))]
        let more = false;
        self.keys.is_empty() && self.authorities.is_empty() && !more
    }

    /// Adds what a line says.
    pub fn push(&mut self, line: Line) {
        match line {
            Line::Key(key) => self.keys.push(key),
            Line::Authority(authority) => self.authorities.push(authority),
        }
    }

    /// One line for each, for a digest over all that is trusted.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let keys = self.keys.iter().map(|trusted| trusted.key.fingerprint().to_string());
        let authorities = self.authorities.iter().map(|authority| {
            let principals = authority.principals.as_ref().map_or_else(|| "*".to_owned(), |names| names.join(","));
            format!("cert-authority {principals} {}", authority.key.fingerprint())
        });
        #[cfg(feature = "openpgp")]
        let more = self.openpgp.iter().map(openpgp::Certificate::line);
        #[cfg(not(feature = "openpgp"))]
        let more = std::iter::empty();
        keys.chain(authorities).chain(more)
    }

    /// Who made this armored signature over these bytes. Certificates and OpenPGP keys are asked whether they are valid at `now`, in
    /// seconds since 1970: the larger of this host's clock and its floor of time.
    pub fn check(&self, armor: &[u8], payload: &[u8], now: u64) -> Result<Signer, SignatureError> {
        #[cfg(feature = "openpgp")]
        if armor.starts_with(openpgp::BEGIN_SIGNATURE) && !self.openpgp.is_empty() {
            return openpgp::check(&self.openpgp, armor, payload, now);
        }
        let blob = sshsig::dearmor(armor)?;
        let signature = sshsig::parse(&blob)?;
        match signature.made_by(payload, self.keys.iter().map(|trusted| &trusted.key), &self.authorities, now)? {
            Maker::Key(key) => {
                let name = self.keys.iter().find(|trusted| trusted.key == *key).map(|trusted| trusted.comment.clone());
                Ok(Signer { fingerprint: key.fingerprint(), name: name.unwrap_or_default() })
            }
            Maker::Certified(authority, certificate) => {
                let by =
                    if authority.comment.is_empty() { authority.key.fingerprint().to_string() } else { authority.comment.clone() };
                Ok(Signer {
                    fingerprint: certificate.key().fingerprint(),
                    name: format!("{}, certified by {by}", certificate.id()),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL5H6lzyyka+0EO7qctF56zGtbUFLZ0zN7GBeWfO6y/6";

    #[test]
    fn an_authority_is_written_as_sshd_writes_it() {
        let authority = |text: &str| match Line::parse(text) {
            Ok(Line::Authority(authority)) => (authority.principals, authority.comment),
            other => panic!("{other:?}"),
        };
        assert_eq!(authority(&format!("cert-authority {KEY} site")), (None, "site".into()));
        let named = (Some(vec!["ann".to_owned(), "bob".to_owned()]), "site CA".to_owned());
        assert_eq!(authority(&format!("cert-authority,principals=\"ann,bob\" {KEY} site CA")), named);
        assert_eq!(authority(&format!("principals=\"ann,bob\",cert-authority  {KEY} site CA")), named);
        assert!(matches!(Line::parse(KEY), Ok(Line::Key(_))));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (options, words) in [
            ("cert-authority,no-pty", "\"no-pty\" before this key is not known"),
            ("namespaces=\"git\"", "is not known"),
            ("cert-authority,cert-authority", "is there twice"),
            ("cert-authority,principals=\"a\",principals=\"b\"", "is there twice"),
            ("principals=\"ann\"", "asked of certificates only"),
            ("cert-authority,principals=\"\"", "not a list of names"),
            ("cert-authority,principals=ann", "not a list of names"),
            ("cert-authority,principals=\"a*\"", "not a list of names"),
            ("cert-authority,principals=\"!a\"", "not a list of names"),
            ("cert-authority,principals=\"a,\"", "not a list of names"),
            ("cert-authority,principals=\"a b\"", "not a list of names"),
            ("cert-authority,", "is not known"),
            ("Cert-Authority", "is not known"),
        ] {
            let error = Line::parse(&format!("{options} {KEY} name")).expect_err(options);
            assert!(error.message.contains(words) && !error.help.is_empty(), "{options}: {error:?}");
        }
        assert!(Line::parse("cert-authority").is_err());
        assert!(Line::parse(&format!("cert-authority,principals=\"a {KEY}")).is_err());
    }
}
