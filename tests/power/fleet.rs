//! The repository and the operator of the swept machine: an old revision, a new one, and what the operator had in their places.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use trimtab_tests::git::{Key, Repo};
use trimtab_tests::server::{GitServer, Tls};

/// Contents of the operator's that must be somewhere at every moment, each with the path where it stood.
pub(crate) const ORIGINALS: [(&str, &str); 4] = [
    ("/etc/app/original.conf", "the operator's, taken over by the old revision\n"),
    ("/etc/app/given-back.conf", "the operator's, given back by the new revision\n"),
    ("/etc/app/taken.conf", "the operator's, taken over by the new revision\n"),
    ("/etc/beside.conf", "the operator's, and nobody else's business\n"),
];

/// What the operator wrote over managed files since the old revision.
pub(crate) const DRIFT: [(&str, &str); 3] = [
    ("/etc/app/drifted.conf", "a night's work on a file that changes\n"),
    ("/etc/app/spoiled.conf", "a night's work on a file that stays\n"),
    ("/etc/app/drifted-leaving.conf", "a night's work on a file that leaves\n"),
];

const COMPONENT: &str = "components/one/component.toml";

/// A signed repository with the old revision on its branch.
pub(crate) struct Fleet {
    repo: Repo,
    key: Key,
    /// So many more files change with the new revision: beyond a handful they are synced otherwise.
    many: usize,
    /// It is fetched from here, and so goes through the courier's cache; else it is read where it lies.
    server: Option<GitServer>,
}

impl Fleet {
    /// The repository at its old revision.
    pub(crate) fn new(many: usize, fetched: bool) -> Self {
        let repo = Repo::new();
        repo.git(&["config", "uploadpack.allowFilter", "true"]);
        let server = fetched.then(|| GitServer::start(repo.path(), Tls::Off));
        let fleet = Self { repo, key: Key::new("person"), many, server };
        fleet.repo.write("fleet.toml", "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"one\"]\n");
        for name in ["original", "given-back", "drifted", "spoiled", "drifted-leaving", "leaving", "mode", "replaced"] {
            fleet.file(&format!("etc/app/{name}.conf"), &format!("{name}, the old one\n"));
        }
        for number in 0..many {
            fleet.file(&format!("etc/many/{number}.conf"), &format!("{number}, the old one\n"));
        }
        let directory = "[[directory]]\npath = \"/srv/data\"\nmode = \"0750\"\n";
        let symlink = "[[symlink]]\npath = \"/etc/app/link\"\ntarget = \"replaced.conf\"\n";
        fleet.repo.write(COMPONENT, format!("{directory}{symlink}"));
        fleet.commit("The old one");
        fleet
    }

    /// Puts the new revision on the branch.
    pub(crate) fn renew(&self) {
        for name in ["given-back", "drifted-leaving", "leaving"] {
            fs::remove_file(self.repo.path().join(format!("components/one/files/etc/app/{name}.conf")))
                .expect("because it was there");
        }
        for name in ["original", "drifted", "taken"] {
            self.file(&format!("etc/app/{name}.conf"), &format!("{name}, the new one\n"));
        }
        // Of more than one block, with one that is long enough for several writes.
        let long = (0..3000).fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "line {line}");
            text
        });
        self.file("etc/app/replaced.conf", &long);
        self.file("etc/deep/er/new.conf", &long[..10_000]);
        for number in 0..self.many {
            self.file(&format!("etc/many/{number}.conf"), &format!("{number}, the new one\n"));
            // Each in a directory that must be made on the way: the moment between its making and its mode is short.
            self.file(&format!("etc/fresh/{number}/new.conf"), "new\n");
        }
        let mode = |path: &str, mode: &str| format!("[[file]]\npath = \"{path}\"\nmode = \"{mode}\"\n");
        let directory = "[[directory]]\npath = \"/srv/data\"\nmode = \"0755\"\n[[directory]]\npath = \"/srv/more\"\n";
        let symlink = "[[symlink]]\npath = \"/etc/app/link\"\ntarget = \"mode.conf\"\n";
        let files = mode("/etc/app/mode.conf", "0600") + &mode("/etc/app/replaced.conf", "0640");
        self.repo.write(COMPONENT, format!("{files}{directory}{symlink}"));
        self.commit("The new one");
    }

    /// The commit that is asked for.
    pub(crate) fn head(&self) -> String {
        self.repo.head().to_string()
    }

    fn file(&self, path: &str, content: &str) {
        self.repo.write(&format!("components/one/files/{path}"), content);
    }

    fn commit(&self, message: &str) {
        self.repo.commit(message, Some(&self.key));
    }

    /// The machine before trimtab came: its local settings, and what its operator has.
    pub(crate) fn furnish(&self, root: &Path) {
        let write = |path: &str, content: &str| {
            let path = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().expect("because it is beneath the root")).expect("because the disk is ours");
            fs::write(path, content).expect("because the disk is ours");
        };
        let source = match &self.server {
            Some(server) => format!("url = \"{}/.git\"\nallow-http = true", server.url()),
            None => format!("url = \"{}\"", self.repo.path().display()),
        };
        write("/etc/trimtab/agent.toml", &format!("[source]\n{source}\n[host]\nname = \"box\"\n"));
        let keys = self.key.line();
        write("/etc/trimtab/trust.toml", &format!("mode = \"commit\"\nbranch = \"main\"\nkeys = [\"{keys}\"]\n"));
        for (path, content) in ORIGINALS {
            write(path, content);
        }
        fs::create_dir_all(root.join("run")).expect("because the disk is ours");
        fs::create_dir_all(root.join("noise")).expect("because the disk is ours");
    }

    /// What the operator does on a host that is managed already.
    pub(crate) fn tamper(root: &Path) {
        for (path, content) in DRIFT {
            fs::write(root.join(path.trim_start_matches('/')), content).expect("because the disk is ours");
        }
    }
}
