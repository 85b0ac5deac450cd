//! Signing by the programs that people have their keys in: ssh-keygen (key file, ssh-agent, FIDO token) and minisign.
//!
//! Guarantees: a signature comes back as the block that a statement or a root file carries, in the one form that devices take.
//! Limits: whether the key may sign this is not known here; what it made is judged by `trust`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use super::AuthorError;
use super::programs::{self, MINISIGN, SSH_KEYGEN, Scratch};
use crate::trust::blocks::{AnyKey, OPENPGP};

/// The largest signature file.
const MAX_SIGNATURE: u64 = 64 << 10;

/// Where a signature comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningKey {
    /// An SSH key: a private key's file, or a public one's whose secret half is beside it, in ssh-agent or in a token.
    Ssh(PathBuf),
    /// An SSH key in ssh-agent, as the line of its `.pub` file.
    SshAgent(String),
    /// A minisign secret key's file.
    Minisign(PathBuf),
}

impl FromStr for SigningKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("ssh", file)) if !file.is_empty() => Ok(Self::Ssh(home(file))),
            Some(("minisign", file)) if !file.is_empty() => Ok(Self::Minisign(home(file))),
            _ => Err("write ssh:FILE (a key or its .pub) or minisign:FILE (a secret key)".to_owned()),
        }
    }
}

/// The shell expands `~/` only at the begin of a word, and here it stands behind a colon.
pub(super) fn home(file: &str) -> PathBuf {
    match (file.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => file.into(),
    }
}

impl SigningKey {
    /// The key that git itself would sign with in this folder, if it is an SSH key (`gpg.format ssh`, `user.signingkey`).
    pub fn of_git(folder: &Path) -> Option<Self> {
        let config = |words: &[&str]| {
            let mut command = Command::new("git");
            command.arg("-C").arg(folder).arg("config").args(words);
            let said = programs::output(programs::GIT, &mut command, b"").ok()?;
            Some(String::from_utf8_lossy(&said).trim().to_owned()).filter(|said| !said.is_empty())
        };
        if config(&["--get", "gpg.format"])? != "ssh" {
            return None;
        }
        let key = config(&["--type=path", "--get", "user.signingkey"])?;
        let literal = key.strip_prefix("key::").unwrap_or(&key);
        Some(if literal.split_once(' ').is_some() { Self::SshAgent(literal.to_owned()) } else { Self::Ssh(key.into()) })
    }

    /// The public half, where it can be seen without asking anybody.
    pub fn public(&self) -> Option<AnyKey> {
        match self {
            Self::Ssh(path) => {
                let beside = PathBuf::from(format!("{}.pub", path.display()));
                let file = if path.extension().is_some_and(|end| end == "pub") { path } else { &beside };
                super::roots::key(&file.to_string_lossy()).ok()
            }
            Self::SshAgent(line) => super::roots::key(line).ok(),
            Self::Minisign(_) => None,
        }
    }

    /// Signs `message`; `about` goes into the comment that minisign signs along. The block, with its line's end.
    pub fn sign(&self, namespace: &str, message: &[u8], about: &str) -> Result<Vec<u8>, AuthorError> {
        let scratch = Scratch::new()?;
        let file = scratch.write("message", message)?;
        match self {
            Self::Ssh(key) => ssh(&scratch, key, namespace, &file),
            Self::SshAgent(line) => ssh(&scratch, &scratch.write("key.pub", format!("{line}\n").as_bytes())?, namespace, &file),
            Self::Minisign(key) => {
                let signature = scratch.path().join("message.minisig");
                let mut command = Command::new(MINISIGN.0);
                command.args(["-S", "-t", about, "-s"]).arg(key).arg("-x").arg(&signature).arg("-m").arg(&file);
                programs::converse(MINISIGN, &mut command, &[])?;
                block_of(&programs::read(&signature, MAX_SIGNATURE)?)
            }
        }
    }
}

fn ssh(scratch: &Scratch, key: &Path, namespace: &str, file: &Path) -> Result<Vec<u8>, AuthorError> {
    let mut command = Command::new(SSH_KEYGEN.0);
    command.args(["-Y", "sign", "-n", namespace, "-f"]).arg(key).arg(file);
    programs::converse(SSH_KEYGEN, &mut command, &["Signing file ", "Write signature to "])?;
    block_of(&programs::read(&scratch.path().join("message.sig"), MAX_SIGNATURE)?)
}

/// A signature as ssh-keygen or minisign writes it into a file, as a block.
pub fn block_of(file: &[u8]) -> Result<Vec<u8>, AuthorError> {
    let text = file.trim_ascii();
    if text.starts_with(b"-----BEGIN SSH SIGNATURE-----\n") || text.starts_with(b"-----BEGIN MINISIGN SIGNATURE-----\n") {
        return Ok([text, b"\n"].concat());
    }
    if text.starts_with(b"untrusted comment: ") {
        return Ok([b"-----BEGIN MINISIGN SIGNATURE-----\n", text, b"\n-----END MINISIGN SIGNATURE-----\n"].concat());
    }
    if text.starts_with(b"-----BEGIN PGP ") {
        return Err(AuthorError::refused(format!("this is a signature by {OPENPGP}")));
    }
    Err(AuthorError::refused("this is no signature: expected what `ssh-keygen -Y sign` or `minisign -S` writes (.sig, .minisig)"))
}

/// Reads such a file.
pub fn read_block(path: &Path) -> Result<Vec<u8>, AuthorError> {
    block_of(&programs::read(path, MAX_SIGNATURE)?)
}
