//! The system's programs, run on behalf of the person at the terminal.
//!
//! Guarantees: what a program says on its standard output never mixes with this program's own answers; its words end up in the error when
//! it fails. Limits: a program that waits for a person (a passphrase, a touch) is waited for without end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::AuthorError;

/// The most that is kept of a program's last words.
const MAX_WORDS: usize = 2000;

/// A program, and the package that brings it.
pub(super) type Program = (&'static str, &'static str);
/// Git.
pub(super) const GIT: Program = ("git", "git");
/// OpenSSH's keys.
pub(super) const SSH_KEYGEN: Program = ("ssh-keygen", "openssh-client");
/// minisign.
pub(super) const MINISIGN: Program = ("minisign", "minisign");

/// Runs a program with `input` to its end; its standard output. What it says on standard error is told only when it fails.
pub(super) fn output(program: Program, command: &mut Command, input: &[u8]) -> Result<Vec<u8>, AuthorError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| missing(program, source))?;
    let mut stdin = child.stdin.take().expect("because it is piped");
    let waited = std::thread::scope(|scope| {
        // Beside the reading: a program that answers before it has read all must not wait for ever. One that stops reading may.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output()
    });
    let output = waited.map_err(|source| missing(program, source))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(AuthorError::Failed { command: shown(command), said: last_words(&output.stderr) })
}

/// Runs a program that may ask the person at the terminal for something. What it says goes to standard error as it says it, but for lines
/// that begin with one of `noise`.
pub(super) fn converse(program: Program, command: &mut Command, noise: &[&str]) -> Result<(), AuthorError> {
    overhear(program, command, noise, &mut Vec::new())
}

/// As [`converse`]; what it said is put into `heard` as well, as much as is kept of last words.
pub(super) fn overhear(program: Program, command: &mut Command, noise: &[&str], heard: &mut Vec<u8>) -> Result<(), AuthorError> {
    command.stdin(Stdio::inherit()).stderr(Stdio::piped());
    // Its standard output is for the person as well; ours is for answers, which a script may read.
    command.stdout(std::io::stderr());
    let mut child = command.spawn().map_err(|source| missing(program, source))?;
    let mut lines = BufReader::new(child.stderr.take().expect("because it is piped"));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&line);
        if !noise.iter().any(|begin| text.starts_with(begin)) {
            let _ = std::io::stderr().lock().write_all(&line);
        }
        if heard.len() < MAX_WORDS {
            heard.append(&mut line);
        }
        line.clear();
    }
    let status = child.wait().map_err(|source| missing(program, source))?;
    if status.success() {
        Ok(())
    } else {
        Err(AuthorError::Failed { command: shown(command), said: "its words are above".to_owned() })
    }
}

fn missing((program, package): Program, source: std::io::Error) -> AuthorError {
    AuthorError::Missing { program, package, source }
}

/// The command as a person would type it: its name and words, without the folder that it was sent to.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ")
}

fn last_words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(MAX_WORDS)..]).trim().to_owned();
    if text.is_empty() { "it said nothing".to_owned() } else { text }
}

/// A folder of this user's alone that goes away with this value.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty one in the temporary folder.
    pub fn new() -> Result<Self, AuthorError> {
        let base = std::env::temp_dir();
        let mut attempt = 0;
        loop {
            // Made and not found: in /tmp others could have laid one (or a link) of that name.
            let path = base.join(format!("trimtab-{}-{attempt}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < 100 => attempt += 1,
                Err(source) => return Err(AuthorError::File { path, source }),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a new file in it, for this user's eyes only.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, AuthorError> {
        let path = self.0.join(name);
        let write = || {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(content)
        };
        write().map_err(|source| AuthorError::File { path: path.clone(), source })?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Reads a file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, AuthorError> {
    use std::io::Read as _;
    let failed = |source| AuthorError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(AuthorError::refused(format!("{} is larger than {limit} bytes", path.display())));
    }
    Ok(bytes)
}
