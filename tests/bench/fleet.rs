//! The work: a signed repository of a thousand small files, served over TLS, and a sandbox that follows it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use trimtab_tests::git::{Key, Repo};
use trimtab_tests::server::{Authority, GitServer, Tls};

/// How many files the host has, in folders of twenty; two kilobytes each on average.
pub(crate) const FILES: usize = 1_000;

pub(crate) struct Fleet {
    binary: PathBuf,
    pub(crate) repo: Repo,
    key: Key,
    folder: tempfile::TempDir,
    memory: std::cell::RefCell<Option<PathBuf>>,
    pub(crate) server: GitServer,
}

impl Fleet {
    pub(crate) fn new(binary: &Path, files: usize) -> Self {
        let folder = tempfile::tempdir().expect("because the temporary folder can be written");
        let (served, authority) = (folder.path().join("served"), Authority::new());
        let bare = served.join("fleet.git");
        fs::create_dir_all(&bare).expect("because the folder is ours");
        fs::write(folder.path().join("ca.pem"), authority.pem()).expect("because the folder is ours");
        let (repo, key) = (Repo::new(), Key::new("bench"));
        let at = bare.display().to_string();
        repo.git(&["init", "--quiet", "--bare", "--initial-branch=main", &at]);
        // As forges have it: the courier fetches what the host needs by id.
        repo.git(&["--git-dir", &at, "config", "uploadpack.allowFilter", "true"]);
        repo.git(&["--git-dir", &at, "config", "uploadpack.allowAnySHA1InWant", "true"]);
        repo.git(&["remote", "add", "origin", &at]);
        repo.write("fleet.toml", "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"load\"]\n");
        let server = GitServer::start(&served, Tls::On(&authority));
        let fleet = Self { binary: binary.to_owned(), repo, key, folder, memory: std::cell::RefCell::default(), server };
        for number in 0..files {
            fleet.write(number, 0);
        }
        fleet.push("A thousand files");
        fleet.enrol();
        fleet
    }

    fn enrol(&self) {
        let key = self.folder.path().join("key.pub");
        fs::write(&key, self.key.line()).expect("because the folder is ours");
        fs::create_dir_all(self.root()).expect("because the folder is ours");
        let url = format!("{}/fleet.git", self.server.url());
        let mut init = self.trimtab("init");
        // An hour: nothing but what the bench asks for happens meanwhile.
        init.args(["--url", &url, "--host", "bench", "--interval", "1h"]);
        init.arg("--key").arg(key).arg("--ca-file").arg(self.folder.path().join("ca.pem"));
        crate::process::measure(&mut init, &[0]);
    }

    /// The folder in which it lives.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// A command of the program, on the sandbox.
    pub(crate) fn trimtab(&self, command: &str) -> Command {
        let mut trimtab = Command::new(&self.binary);
        trimtab.arg("--root").arg(self.root()).arg(command);
        trimtab
    }

    /// Where a file is managed.
    pub(crate) fn managed(&self, number: usize) -> PathBuf {
        self.root().join(format!("etc/load/{:03}/{number:04}.conf", number / 20))
    }

    /// Writes a file of the work tree; every version differs.
    pub(crate) fn write(&self, number: usize, version: usize) {
        let path = format!("components/load/files/etc/load/{:03}/{number:04}.conf", number / 20);
        self.repo.write(&path, text(number, version));
    }

    /// The content of a file at a version.
    pub(crate) fn wants(number: usize, version: usize) -> String {
        text(number, version)
    }

    /// Commits, signs and pushes; the commit.
    pub(crate) fn push(&self, message: &str) -> String {
        let revision = self.repo.commit(message, Some(&self.key));
        self.repo.git(&["push", "--quiet", "origin", "HEAD:main"]);
        revision.to_string()
    }

    /// Has what is of one boot only on a tmpfs, as on a real host.
    pub(crate) fn run_in_memory(&self) {
        let memory = Path::new("/dev/shm").join(self.folder.path().file_name().expect("because it has one"));
        fs::create_dir_all(memory.join("run")).expect("because /dev/shm can be written");
        std::os::unix::fs::symlink(memory.join("run"), self.root().join("run")).expect("because nothing stands there");
        *self.memory.borrow_mut() = Some(memory);
    }

    /// The status document, once there is one.
    pub(crate) fn status(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&fs::read(self.root().join("run/trimtab/status.json")).ok()?).ok()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let _ = fs::remove_dir_all(memory);
        }
    }
}

/// Lines that do not compress to nothing, the same on every machine; 200 to 3,800 bytes.
fn text(number: usize, version: usize) -> String {
    let mut state = (number as u64) << 20 | version as u64 | 1 << 60;
    let mut next = || {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let lines = 5 + next() % 90;
    let mut text = String::new();
    for line in 0..lines {
        writeln!(text, "option.{line:02} = {:016x}{:08x}", next(), next() as u32).expect("because a String takes everything");
    }
    text
}
