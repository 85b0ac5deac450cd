//! The whole program on a sandbox folder: no root, no systemd, a repository on disk. What the lab shows on a real machine is shown there;
//! here is what needs many passes or an agent that is watched, quickly.

mod artifacts;
mod artifacts_amiss;
mod bundles;
mod desk;
mod explain;
mod keys;
mod operator;
mod past;
mod policy;
mod releases;
mod reports;
mod rotations;
mod signing;
mod spooled;
mod sticks;
mod trusting;
mod verdicts;
mod walls;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use trimtab_model::report::{Outcome, Pass};
use trimtab_model::status::Status;
use trimtab_tests::git::{Key, Repo};
use trimtab_tests::trimtab_binary;

struct Sandbox {
    repo: Repo,
    key: Key,
    folder: tempfile::TempDir,
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const FLEET: &str = "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"one\", \"two\"]\n";

impl Sandbox {
    fn new(settings: &str) -> Self {
        Self::of(Repo::new(), settings)
    }

    fn of(repo: Repo, settings: &str) -> Self {
        let sandbox = Self { repo, key: Key::new("person"), folder: tempfile::tempdir().unwrap() };
        sandbox.repo.write("fleet.toml", FLEET);
        sandbox.repo.write("components/one/files/etc/one.conf", "one\n");
        sandbox.repo.write("components/two/files/etc/two.conf", "two\n");
        sandbox.push();
        let etc = sandbox.root().join("etc/trimtab");
        fs::create_dir_all(&etc).unwrap();
        let url = sandbox.repo.path().display().to_string();
        fs::write(etc.join("agent.toml"), format!("[source]\nurl = \"{url}\"\n[host]\nname = \"box\"\n{settings}")).unwrap();
        let keys = format!("mode = \"commit\"\nbranch = \"main\"\nkeys = [\"{}\"]\n", sandbox.key.line());
        fs::write(etc.join("trust.toml"), keys).unwrap();
        sandbox
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn push(&self) {
        self.repo.commit("A change", Some(&self.key));
    }

    fn trimtab(&self, words: &[&str]) -> Command {
        let mut command = Command::new(trimtab_binary());
        command.arg("--root").arg(self.root()).args(words).stdin(Stdio::null());
        command
    }

    fn once(&self) -> Pass {
        let output = self.trimtab(&["once", "--json"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// Exit code, standard output, standard error.
    fn said(&self, words: &[&str]) -> (i32, String, String) {
        let output = self.trimtab(words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// A commit that says this in a file of component `one`.
    fn revise(&self, text: &str) -> String {
        self.repo.write("components/one/files/etc/one.conf", text);
        self.push();
        self.repo.head().to_string()
    }

    fn agent(&self) -> Agent {
        Agent(self.trimtab(&["agent"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// How many reports wait in the spool.
    fn waiting(&self) -> usize {
        let folder = fs::read_dir(self.root().join("var/lib/trimtab/spool"));
        folder.map_or(0, |list| list.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "report")).count())
    }

    /// The highest sequence that waits or is known to have been given.
    fn newest(&self) -> u64 {
        let spool = self.root().join("var/lib/trimtab/spool");
        let state: serde_json::Value =
            serde_json::from_slice(&fs::read(spool.join("state.json")).unwrap_or_default()).unwrap_or_default();
        let names =
            fs::read_dir(spool).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let waiting = names.filter_map(|name| name.strip_suffix(".report")?.split('-').nth(1)?.parse().ok()).max();
        waiting.max(state["sequence"].as_u64()).unwrap_or_default()
    }

    fn status(&self) -> Option<Status> {
        serde_json::from_slice(&fs::read(self.root().join("run/trimtab/status.json")).ok()?).ok()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap_or_default()
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_revision_that_wants_nothing_is_refused_and_the_host_is_held() {
    let sandbox = Sandbox::new("");
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    sandbox.repo.write("fleet.toml", FLEET.replace("\"*\"", "\"role=nobody\""));
    sandbox.push();
    fs::write(sandbox.root().join("etc/one.conf"), "spoiled\n").unwrap();
    let pass = sandbox.once();
    assert_eq!(pass.outcome, Outcome::Held);
    assert!(pass.reason().contains("wants nothing at all"), "{}", pass.reason());
    assert_eq!(
        (sandbox.read("etc/one.conf"), sandbox.read("etc/two.conf")),
        ("one\n".to_owned(), "two\n".to_owned()),
        "repaired and kept"
    );
}

#[test]
fn drift_is_repaired_at_its_pace_while_the_source_is_away() {
    let sandbox = Sandbox::new("[agent]\ninterval = \"1s\"\nretry-interval = \"1h\"\nretry-max = \"1h\"\n");
    let agent = sandbox.agent();
    until("converged", || sandbox.status().is_some_and(|status| status.ready && status.generation == 1));
    fs::rename(sandbox.repo.path(), sandbox.folder.path().join("away")).unwrap();
    until("noticed", || sandbox.status().is_some_and(|status| !status.ready));
    for text in ["spoiled\n", "again\n"] {
        fs::write(sandbox.root().join("etc/one.conf"), text).unwrap();
        until("repaired", || sandbox.read("etc/one.conf") == "one\n");
    }
    let status = sandbox.status().unwrap();
    assert!(!status.ready && status.reason.contains("source"), "a pass that did not ask does not make it well: {}", status.reason);
    fs::rename(sandbox.folder.path().join("away"), sandbox.repo.path()).unwrap();
    drop(agent);
}

#[test]
fn a_component_that_leaves_takes_only_what_is_its_own() {
    let sandbox = Sandbox::new("");
    let etc = sandbox.root().join("etc");
    fs::write(etc.join("two.conf"), "the operator's\n").unwrap();
    sandbox.once();
    assert_eq!(sandbox.read("etc/two.conf"), "two\n");
    fs::write(etc.join("beside.conf"), "mine\n").unwrap();
    sandbox.repo.write("fleet.toml", FLEET.replace(", \"two\"", ""));
    sandbox.push();
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    assert_eq!(sandbox.read("etc/two.conf"), "the operator's\n");
    assert_eq!(sandbox.read("etc/beside.conf"), "mine\n");
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);
}

#[test]
fn what_a_repair_overwrote_can_be_read_again() {
    let sandbox = Sandbox::new("");
    sandbox.once();
    fs::write(sandbox.root().join("etc/one.conf"), "a night's work\n").unwrap();
    let pass = sandbox.once();
    assert_eq!(sandbox.read("etc/one.conf"), "one\n");
    let (path, digest) = pass.kept.first().expect("it was kept");
    assert_eq!(path, "/etc/one.conf");
    let hex = digest.strip_prefix("sha256:").unwrap();
    let blob = Path::new("var/lib/trimtab/blobs").join(&hex[..2]).join(&hex[2..]);
    assert_eq!(sandbox.read(blob.to_str().unwrap()), "a night's work\n");
    // It outlives the next revisions, which tidy the store.
    sandbox.repo.write("components/one/files/etc/one.conf", "one more\n");
    sandbox.push();
    sandbox.once();
    assert_eq!(sandbox.read(blob.to_str().unwrap()), "a night's work\n");
}

#[test]
fn a_lost_memory_is_told_and_nothing_older_is_taken() {
    let sandbox = Sandbox::new("");
    let first = sandbox.repo.head();
    sandbox.once();
    sandbox.repo.write("components/one/files/etc/one.conf", "newer\n");
    sandbox.push();
    sandbox.once();
    fs::remove_dir_all(sandbox.root().join("var/lib/trimtab")).unwrap();
    let told = sandbox.once();
    assert!(told.remarks.iter().any(|remark| remark.contains("is lost")), "{:?}", told.remarks);
    assert!(sandbox.root().join("var/lib/trimtab/trust-state.json").exists(), "both copies stand again");
    sandbox.repo.git(&["reset", "--quiet", "--hard", &first.to_string()]);
    let held = sandbox.once();
    assert_eq!((held.outcome, held.trust.verdict.as_str()), (Outcome::Held, "rolled-back"));
    assert_eq!(sandbox.read("etc/one.conf"), "newer\n");
}

/// R36 on the whole program: gone or spoiled in both copies, it stops nothing, nothing older is taken, and it is told until it is over.
#[test]
fn a_memory_of_commits_that_is_gone_or_spoiled_falls_back_to_what_is_in_force() {
    let sandbox = Sandbox::new("");
    let older = sandbox.repo.head().to_string();
    sandbox.once();
    sandbox.revise("newer\n");
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    let copies = ["var/lib/trimtab", "etc/trimtab/state"].map(|folder| sandbox.root().join(folder).join("trust-state.json"));
    let at = |revision: &str| sandbox.repo.git(&["reset", "--quiet", "--hard", revision]);
    let newest = || sandbox.repo.head().to_string();
    let stale = || {
        let status = sandbox.status().unwrap();
        let stale = status.condition(trimtab_model::status::ConditionKind::Stale).unwrap();
        (status.trust.state_lost, stale.reason.clone())
    };
    for spoil in [None, Some("{"), Some("{\"format\": 1, \"mode\": \"release\"}"), Some("\0\0\0")] {
        let in_force = newest();
        for copy in &copies {
            match spoil {
                None => fs::remove_file(copy).unwrap(),
                Some(text) => fs::write(copy, text).unwrap(),
            }
        }
        at(&older);
        let held = sandbox.once();
        assert_eq!((held.outcome, held.trust.verdict.as_str()), (Outcome::Held, "rolled-back"), "{spoil:?}: {held:?}");
        assert!(held.remarks.iter().any(|remark| remark.contains("is lost") && remark.contains(&in_force)), "{:?}", held.remarks);
        assert_eq!(stale(), (true, "MemoryLost".to_owned()));
        // What is in force says nothing new; what descends from it is taken, and after a second one it is over.
        at(&in_force);
        assert_eq!((sandbox.once().outcome, stale().0), (Outcome::Unchanged, true));
        for (text, lost) in [("next\n", true), ("and next\n", false)] {
            sandbox.revise(&format!("{spoil:?} {text}"));
            assert_eq!((sandbox.once().outcome, stale().0), (Outcome::Converged, lost), "{spoil:?}");
        }
        at(&older);
        assert_eq!(sandbox.once().trust.verdict, "rolled-back");
        at(&sandbox.status().unwrap().trust.revision);
    }
}

/// A package put another program at the path of this one, and whoever does restarts was told not to.
#[test]
fn an_agent_whose_program_was_replaced_works_on() {
    let sandbox = Sandbox::new("");
    let (program, newer) = (sandbox.folder.path().join("trimtab"), sandbox.folder.path().join("newer"));
    fs::copy(trimtab_binary(), &program).unwrap();
    let mut command = Command::new(&program);
    command.arg("--root").arg(sandbox.root()).arg("agent").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let agent = Agent(command.spawn().unwrap());
    until("the first state", || sandbox.read("etc/one.conf") == "one\n");
    fs::write(&newer, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&newer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::rename(&newer, &program).unwrap();
    sandbox.revise("two\n");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent.0.id().try_into().unwrap()), nix::sys::signal::Signal::SIGHUP).unwrap();
    until("the next state", || sandbox.read("etc/one.conf") == "two\n");
    // Its processes have a name.
    let name = fs::read_to_string(format!("/proc/{}/comm", agent.0.id())).unwrap();
    assert_eq!(name, "trimtab\n");
}
