//! The change that every sweep cuts short: a host on one revision, and a next one with every kind of change of files.
//!
//! Only the command line and the files are looked at, never the agent's insides: the same sweeps hold for any engine.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use trimtab_tests::git::{Key, Repo};
use trimtab_tests::trace::{Call, End, Gate, Verdict, Watch};
use trimtab_tests::trimtab_binary;

use crate::tree::{Tree, digest, leftovers};

/// What the operator had before trimtab came, at paths that the fleet takes: in the first revision, and in the second.
const RETURNED: &str = "the operator's, taken by the first revision and given back by the second\n";
const TAKEN: &str = "the operator's, taken by the second revision\n";

/// A host in a folder, on the first revision, with the second one in its repository; and what it must look like at each of them.
pub(crate) struct Scene {
    _repo: Repo,
    _key: Key,
    folder: tempfile::TempDir,
    /// On the first revision.
    pub(crate) old: Tree,
    /// On the second.
    pub(crate) new: Tree,
    /// After everything has left but one file.
    bare: Tree,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let (repo, key) = (Repo::new(), Key::new("person"));
        let folder = tempfile::tempdir_in(disk()).unwrap();
        let root = folder.path().join("base");
        operator(&root);
        let etc = root.join("etc/trimtab");
        fs::create_dir_all(&etc).unwrap();
        let url = repo.path().display();
        let files = folder.path().join("files");
        fs::create_dir(&files).unwrap();
        // At last all but one file leave, and that is meant.
        let guard = format!("[guard]\nmax-removals = \"100%\"\n[artifacts]\nallow = [\"file://{}/\"]\n", files.display());
        fs::write(etc.join("agent.toml"), format!("[source]\nurl = \"{url}\"\n[host]\nname = \"box\"\n{guard}")).unwrap();
        fs::write(etc.join("trust.toml"), trust(&key, "main")).unwrap();
        fleet(&repo, &["one", "two"]);
        first(&repo, &artifact(&files, "1"));
        repo.commit("The first revision", Some(&key));
        let host = Host { root, words: folder.path().join("base") };
        host.expect(2, "converged");
        host.expect(0, "unchanged");
        let old = Tree::of(&host.root);
        second(&repo, &artifact(&files, "2"));
        repo.commit("The second revision", Some(&key));
        repo.git(&["checkout", "--quiet", "-b", "later"]);
        fleet(&repo, &["rest"]);
        repo.write("components/rest/files/etc/rest.conf", "rest\n");
        repo.commit("All but one file leave", Some(&key));
        repo.git(&["checkout", "--quiet", "main"]);
        let mut scene = Self { _repo: repo, _key: key, folder, new: old.clone(), bare: old.clone(), old };
        let host = scene.copy("reference");
        host.expect(2, "converged");
        host.expect(0, "unchanged");
        scene.new = Tree::of(&host.root);
        host.leave();
        scene.bare = Tree::of(&host.root);
        host.forget();
        assert_ne!(scene.old, scene.new, "a change that changes nothing proves nothing");
        scene
    }

    /// The host on the first revision, to be copied from.
    pub(crate) fn base(&self) -> PathBuf {
        self.folder.path().join("base")
    }

    /// A fresh copy of it.
    pub(crate) fn copy(&self, name: &str) -> Host {
        self.copy_to(&self.folder.path().join(name))
    }

    /// As [`Scene::copy`], on another disk.
    pub(crate) fn copy_to(&self, root: &Path) -> Host {
        Host::copied(&self.base(), root, self.folder.path())
    }

    /// Whether a host whose pass was cut off is whole: each file old or new, nobody else's touched, the originals kept, the ledger readable.
    pub(crate) fn is_whole(&self, host: &Host, under_way: bool) -> Result<(), String> {
        let now = Tree::of(&host.root);
        none(now.strangers(&self.old, &self.new, under_way), "half-done")?;
        host.keeps("etc/taken.conf", TAKEN)?;
        host.keeps("etc/returned.conf", RETURNED)?;
        let status = host.run(&["status"]);
        match status.code {
            0 | 1 | 3 | 4 if !status.err.contains("damaged") => Ok(()),
            _ => Err(format!("what it remembers cannot be read: {status}")),
        }
    }

    /// Whether the passes after it finish the work, leave nothing behind, and give back the operator's files when all leaves.
    pub(crate) fn recovers(&self, host: &Host) -> Result<(), String> {
        self.converges(host)?;
        host.leave();
        none(Tree::of(&host.root).strangers(&self.bare, &self.bare, false), "not given back")
    }

    fn converges(&self, host: &Host) -> Result<(), String> {
        let mut next = host.run(&["once", "--json"]);
        // A fault of the machine's is nobody's fault: what was being undone for it is undone to the end, and then tried again by itself.
        if next.code == 1 && next.outcome() == "partial" {
            let wrong = Tree::of(&host.root).strangers(&self.old, &self.old, false);
            none(wrong, &format!("not undone by a rollback ({next})"))?;
            next = host.run(&["once", "--json"]);
        }
        if ![0, 2].contains(&next.code) {
            return Err(format!("the next pass does not converge: {next}"));
        }
        let empty = host.run(&["once", "--json"]);
        if (empty.code, empty.outcome().as_str()) != (0, "unchanged") {
            return Err(format!("the pass after the next one is not empty: {empty}"));
        }
        none(Tree::of(&host.root).strangers(&self.new, &self.new, false), "not as the revision says")?;
        none(leftovers(&host.root), "left behind")
    }
}

fn none(wrong: Vec<String>, what: &str) -> Result<(), String> {
    if wrong.is_empty() { Ok(()) } else { Err(format!("{what}:\n  {}", wrong.join("\n  "))) }
}

/// Sandboxes lie in memory where they can: what a power cut does is another sweep's business.
pub(crate) fn disk() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if tempfile::tempdir_in(&shm).is_ok() { shm } else { std::env::temp_dir() }
}

fn trust(key: &Key, branch: &str) -> String {
    format!("mode = \"commit\"\nbranch = \"{branch}\"\nkeys = [\"{}\"]\n", key.line())
}

fn fleet(repo: &Repo, components: &[&str]) {
    let text = format!("format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = {components:?}\n");
    repo.write("fleet.toml", text);
}

fn operator(root: &Path) {
    for folder in ["etc/app", "srv", "opt"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
    let put = |path: &str, content: &str, mode: u32| {
        fs::write(root.join(path), content).unwrap();
        fs::set_permissions(root.join(path), Permissions::from_mode(mode)).unwrap();
    };
    put("etc/returned.conf", RETURNED, 0o640);
    put("etc/taken.conf", TAKEN, 0o600);
    put("etc/beside.conf", "nobody's business\n", 0o644);
    put("etc/app/beside.conf", "nor this\n", 0o604);
    symlink("beside.conf", root.join("etc/app/link-beside")).unwrap();
    symlink("/nowhere", root.join("etc/taken-link")).unwrap();
}

/// Larger than one write, and than what is left when little is left.
fn large(letter: &str) -> String {
    letter.repeat(100_000)
}

/// A program that is no file of the repository: it comes through a courier, and lies in the store before it is placed.
fn artifact(files: &Path, version: &str) -> String {
    let (file, bytes) = (files.join(version), large(version));
    fs::write(&file, &bytes).unwrap();
    let (size, digest) = (bytes.len(), digest(bytes.as_bytes()));
    let url = file.display();
    format!("[[artifact]]\npath = \"/opt/tool\"\nurl = \"file://{url}\"\nsize = {size}\nsha256 = \"{digest}\"\nmode = \"0755\"\n")
}

fn first(repo: &Repo, artifact: &str) {
    repo.write("components/one/files/etc/app/replaced.conf", "old\n");
    repo.write("components/one/files/etc/app/mode.conf", "the same\n");
    repo.write("components/one/files/etc/app/leaving.conf", "leaving\n");
    repo.write("components/one/files/etc/returned.conf", "ours\n");
    repo.write("components/one/files/srv/large", large("o"));
    repo.write("components/one/files/srv/deep/er/leaving.conf", "leaving\n");
    repo.write(
        "components/one/component.toml",
        format!(
            "{artifact}[[symlink]]\npath = \"/etc/app/current\"\ntarget = \"replaced.conf\"\n\
         [[symlink]]\npath = \"/etc/app/leaving-link\"\ntarget = \"replaced.conf\"\n\
         [[directory]]\npath = \"/var/lib/app\"\nmode = \"0755\"\n\
         [[directory]]\npath = \"/var/lib/leaving\"\nmode = \"0755\"\n"
        ),
    );
    repo.write("components/two/files/etc/two.conf", "two\n");
}

fn second(repo: &Repo, artifact: &str) {
    for path in ["etc/app/leaving.conf", "etc/returned.conf", "srv/deep/er/leaving.conf"] {
        repo.git(&["rm", "--quiet", &format!("components/one/files/{path}")]);
    }
    repo.write("components/one/files/etc/app/replaced.conf", "new, and longer than before\n");
    repo.write("components/one/files/etc/app/created.conf", "created\n");
    repo.write("components/one/files/etc/taken.conf", "ours\n");
    repo.write("components/one/files/etc/taken-link", "a file where the operator had a link\n");
    repo.write("components/one/files/srv/large", large("n"));
    repo.write("components/one/files/srv/new/deep/er/file", "in directories that are made on the way\n");
    repo.write(
        "components/one/component.toml",
        format!(
            "{artifact}[[file]]\npath = \"/etc/app/mode.conf\"\nmode = \"0600\"\n\
         [[file]]\npath = \"/srv/large\"\nmode = \"0640\"\n\
         [[symlink]]\npath = \"/etc/app/current\"\ntarget = \"created.conf\"\n\
         [[symlink]]\npath = \"/etc/app/new-link\"\ntarget = \"created.conf\"\n\
         [[directory]]\npath = \"/var/lib/app\"\nmode = \"0700\"\n\
         [[directory]]\npath = \"/var/lib/new\"\nmode = \"0750\"\n"
        ),
    );
    repo.write("components/two/files/etc/two.conf", "two, the second\n");
    repo.write("components/two/component.toml", "depends = [\"one\"]\n");
}

/// One sandbox.
pub(crate) struct Host {
    pub(crate) root: PathBuf,
    /// Where what it says is written to: not on its disk, which may be full.
    words: PathBuf,
}

/// What a command answered.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ok(pass) = serde_json::from_str::<serde_json::Value>(&self.out) else {
            return write!(f, "exit {}\n{}\n{}", self.code, self.out, self.err);
        };
        write!(f, "exit {}", self.code)?;
        for part in ["outcome", "source_error", "problems", "failures", "remarks"] {
            write!(f, "\n  {part}: {}", pass[part])?;
        }
        write!(f, "\n{}", self.err)
    }
}

impl Ran {
    /// It ended, and not as wanted: something is wrong (1), the change was undone (3) or not even that (4).
    pub(crate) fn is_bad(&self) -> bool {
        [1, 3, 4].contains(&self.code)
    }

    /// The word for how the pass ended; empty when nothing was told.
    pub(crate) fn outcome(&self) -> String {
        let pass: serde_json::Value = serde_json::from_str(&self.out).unwrap_or_default();
        pass["outcome"].as_str().unwrap_or_default().to_owned()
    }
}

impl Host {
    /// A copy of the host in a folder; what it says is written to another, which is not on its disk.
    pub(crate) fn copied(from: &Path, to: &Path, words: &Path) -> Self {
        let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
        assert!(copied.unwrap().success(), "the start state could not be copied to {}", to.display());
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let words = words.join(format!("words-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        Self { root: to.to_owned(), words }
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        let output =
            Command::new(trimtab_binary()).arg("--root").arg(&self.root).args(words).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    #[track_caller]
    pub(crate) fn expect(&self, code: i32, outcome: &str) {
        let ran = self.run(&["once", "--json"]);
        assert_eq!((ran.code, ran.outcome().as_str()), (code, outcome), "{ran}");
    }

    /// `trimtab once`, stopped at each place. How it ended, and what it said.
    pub(crate) fn traced(&self, decide: impl FnMut(usize, &Call) -> Verdict) -> (End, Ran) {
        let words = [OsStr::new("--root"), self.root.as_os_str(), OsStr::new("once"), OsStr::new("--json")];
        let gate = Gate::new(trimtab_binary().as_os_str(), &words, |command| self.listen(command));
        let end = gate.run(Watch::Files, decide);
        (end, self.heard(end))
    }

    /// `trimtab once` under a limit of the shell's `ulimit`.
    pub(crate) fn limited(&self, limit: &str) -> (End, Ran) {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit {limit}; exec \"$0\" --root \"$1\" once --json"));
        command.arg(trimtab_binary()).arg(&self.root).stdin(Stdio::null());
        self.listen(&mut command);
        let end = End::of(command.status().unwrap());
        (end, self.heard(end))
    }

    fn listen(&self, command: &mut Command) {
        let file = |ending| fs::File::create(self.words.with_extension(ending)).unwrap();
        command.stdout(file("out")).stderr(file("err"));
    }

    fn heard(&self, end: End) -> Ran {
        let said = |ending| fs::read_to_string(self.words.with_extension(ending)).unwrap();
        Ran { code: if let End::Exited(code) = end { code } else { -1 }, out: said("out"), err: said("err") }
    }

    /// Kills the pass at this place; false when it came to its end before.
    pub(crate) fn killed_at(&self, place: usize) -> Result<bool, String> {
        let mut stopped = String::new();
        let (end, ran) = self.traced(|at, call| {
            if at < place {
                return Verdict::Go;
            }
            stopped = call.to_string();
            Verdict::Kill
        });
        match end {
            End::Killed(_) => Ok(true),
            End::Exited(0 | 2) => Ok(false),
            End::Exited(_) => Err(format!("it was to die at {stopped:?} and ended: {ran}")),
        }
    }

    /// An original of the operator's stands at its path or lies, whole, in the store.
    fn keeps(&self, path: &str, original: &str) -> Result<(), String> {
        let hex = digest(original.as_bytes());
        let blob = self.root.join("var/lib/trimtab/blobs").join(&hex[..2]).join(&hex[2..]);
        let has = |path: &Path| fs::read_to_string(path).is_ok_and(|text| text == original);
        if has(&self.root.join(path)) || has(&blob) { Ok(()) } else { Err(format!("the operator's {path} is lost")) }
    }

    /// Follows the branch on which all but one file leave.
    fn leave(&self) {
        let file = self.root.join("etc/trimtab/trust.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(file, text.replace("branch = \"main\"", "branch = \"later\"")).unwrap();
        self.expect(2, "converged");
    }

    /// Takes it away. A courier whose agent was killed may still be tidying its cache: then the rest goes with the scene.
    pub(crate) fn forget(self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}
