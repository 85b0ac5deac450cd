//! The repository and the operator of the swept machine: an old revision, a new one, and what the operator had in their places.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use trimtab::trust::statement::show_time;
use trimtab_tests::git::{Key, Repo};
use trimtab_tests::release::{Hand, Mini, REPO_ID, RootText, Say};
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
    /// Who signs its releases, where the host follows those.
    hands: Option<(Mini, Key)>,
    /// It is fetched from here, and so goes through the courier's cache; else it is read where it lies.
    server: Option<GitServer>,
}

impl Fleet {
    /// The repository at its old revision.
    pub(crate) fn new(many: usize, fetched: bool, released: bool) -> Self {
        let repo = Repo::new();
        repo.git(&["config", "uploadpack.allowFilter", "true"]);
        let server = fetched.then(|| GitServer::start(repo.path(), Tls::Off));
        let hands = released.then(|| (Mini::new(), Key::new("bob")));
        let fleet = Self { repo, key: Key::new("person"), many, hands, server };
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
        fleet.commit("The old one", 1);
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
        self.commit("The new one", 2);
    }

    /// The commit that is asked for.
    pub(crate) fn head(&self) -> String {
        self.repo.head().to_string()
    }

    fn file(&self, path: &str, content: &str) {
        self.repo.write(&format!("components/one/files/{path}"), content);
    }

    /// The `number`th revision; where releases are followed, release 1.`number` under root `number`.
    fn commit(&self, message: &str, number: u64) {
        if let (Some(root), Some((safe, _))) = (self.root(number), &self.hands) {
            let by = [Hand::Mini(safe), Hand::Ssh(&self.key)];
            root.write(&self.repo, &by);
            self.repo.commit(message, Some(&self.key));
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("because no clock is before 1970").as_secs();
            let times = (show_time(now - 60), show_time(now + 60 * 86_400));
            Say { root: number, times, ..Say::of(&self.repo, "production", (1, number)) }.release(&self.repo, &by);
        } else {
            self.repo.commit(message, Some(&self.key));
        }
    }

    /// The root of a version: in the second one a key is gone.
    fn root(&self, version: u64) -> Option<RootText<'_>> {
        let (safe, bob) = self.hands.as_ref()?;
        let (both, three): (&[&str], &[&str]) = (&["person", "safe"], &["person", "safe", "bob"]);
        let mut keys = vec![("person", Hand::Ssh(&self.key)), ("safe", Hand::Mini(safe))];
        let names = if version == 1 { three } else { both };
        if version == 1 {
            keys.push(("bob", Hand::Ssh(bob)));
        }
        Some(RootText { version, ..RootText::new(&keys, &[("root", 2, names), ("release.production", 2, names)]) })
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
        if let Some(root) = self.root(1) {
            write("/etc/trimtab/root.toml", &root.text());
            let text = format!("mode = \"release\"\nchannel = \"production\"\nrepo = \"{REPO_ID}\"\nroot = \"root.toml\"\n");
            write("/etc/trimtab/trust.toml", &text);
        } else {
            let keys = self.key.line();
            write("/etc/trimtab/trust.toml", &format!("mode = \"commit\"\nbranch = \"main\"\nkeys = [\"{keys}\"]\n"));
        }
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
