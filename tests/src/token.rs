//! A FIDO token in software (`tests/token/token.c`) behind the real ssh-keygen: keys and signatures as a token makes them, and nobody has to touch anything.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::git::{command, run};

/// The versions of OpenSSH's interface to tokens, newest first: 9.1 to 9.9, 8.9, and those after that.
const VERSIONS: [&str; 3] = ["0x000a0000", "0x00090000", "0x000b0000"];

/// A token that this machine's OpenSSH can speak to.
pub struct Token {
    folder: TempDir,
}

impl Default for Token {
    fn default() -> Self {
        Self::new()
    }
}

impl Token {
    /// Builds it, in the version that ssh-keygen asks for.
    ///
    /// # Panics
    /// If there is no C compiler, or no ssh-keygen that takes it.
    pub fn new() -> Self {
        let token = Self { folder: tempfile::tempdir().expect("because the temporary folder can be written") };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("token/token.c");
        for version in VERSIONS {
            let mut cc = command("cc", token.folder.path());
            cc.args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", &format!("-DAPI={version}"), "-o"]);
            run(cc.arg(token.provider()).arg(&source), b"");
            if token.enrol("try", &[]).output().expect("because it is installed").status.success() {
                return token;
            }
        }
        panic!("ssh-keygen takes no version of the token: {:?}", token.enrol("again", &[]).output());
    }

    /// What `SSH_SK_PROVIDER` names.
    pub fn provider(&self) -> PathBuf {
        self.folder.path().join("token.so")
    }

    fn enrol(&self, name: &str, options: &[&str]) -> Command {
        let mut keygen = command("ssh-keygen", self.folder.path());
        keygen.args(["-q", "-t", "ed25519-sk", "-N", "", "-C", name, "-w"]).arg(self.provider()).args(options);
        keygen.arg("-f").arg(self.folder.path().join(name));
        keygen
    }

    /// A new key in it, with further options for ssh-keygen (`-O no-touch-required`): the file that says which.
    pub fn key(&self, name: &str, options: &[&str]) -> PathBuf {
        run(&mut self.enrol(name, options), b"");
        self.folder.path().join(name)
    }
}
