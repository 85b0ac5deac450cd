//! The executor on a real folder, without systemd: order, intent, failure and giving back.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use trimtab_model::desired::{Desired, Entry, FileState, Node, Origin, Role};
use trimtab_model::observed::Observed;
use trimtab_model::plan::plan;

use super::*;
use crate::host::observe;
use crate::store::Places;

/// A sandbox, a store, and what the last pass wanted.
struct Bench {
    folder: tempfile::TempDir,
    machine: Machine,
    store: Store,
    ledger: Ledger,
    contents: RefCell<BTreeMap<Digest, Vec<u8>>>,
}

fn places(folder: &std::path::Path) -> Places {
    Places { state: folder.join("state"), trust_copy: folder.join("copy"), runtime: folder.join("run") }
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sandbox = folder.path().join("root");
        fs::create_dir(&sandbox).unwrap();
        fs::set_permissions(&sandbox, fs::Permissions::from_mode(0o755)).unwrap();
        let root = Root::open(&sandbox).unwrap();
        let store = Store::open(places(folder.path())).unwrap();
        let machine = Machine {
            way: None,
            accounts: Accounts::load(&root),
            root,
            systemd: None,
            runner: Runner::Child,
            patience: Patience { unit: Duration::from_secs(10), pull: Duration::from_secs(10) },
            scratch: folder.path().join("run"),
            keep: 64 << 20,
        };
        Self { folder, machine, store, ledger: Ledger::default(), contents: RefCell::default() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path.trim_start_matches('/'))
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.at(path)).ok()
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    /// A file that is wanted.
    fn want(&self, desired: &mut Desired, component: &str, path: &str, text: &str) {
        let digest = Digest::of(text.as_bytes());
        self.contents.borrow_mut().insert(digest, text.as_bytes().to_vec());
        put(desired, component, path, Node::File { digest, size: text.len() as u64 });
    }

    fn plan(&self, desired: &Desired) -> Plan {
        let paths: BTreeSet<&HostPath> = desired.entries.keys().chain(self.ledger.entries.keys()).collect();
        let own = BTreeMap::from([("root".to_owned(), Some(nix::unistd::geteuid().as_raw()))]);
        let group = BTreeMap::from([("root".to_owned(), Some(nix::unistd::getegid().as_raw()))]);
        let entries = observe::observe(&self.machine.root, paths);
        plan(desired, &Observed { entries, users: own, groups: group, ..Observed::default() }, &self.ledger)
    }

    async fn apply(&mut self, plan: &Plan, desired: &Desired) -> Applied {
        let contents =
            |digest: Digest| self.contents.borrow().get(&digest).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        apply(&mut self.machine, plan, desired, &contents, &mut self.ledger, &mut self.store, Refusal::Whole).await
    }

    async fn pass(&mut self, desired: &Desired) -> Applied {
        let plan = self.plan(desired);
        self.apply(&plan, desired).await
    }

    /// Nothing is left to do, nothing is left lying about, and the ledger on disk is the one in memory.
    fn assert_settled(&self, desired: &Desired) {
        let plan = self.plan(desired);
        assert!(plan.is_empty() && plan.bookkeeping.is_empty(), "{plan:#?}");
        assert_eq!(self.store.load_ledger().unwrap().ledger, self.ledger);
        let listing = std::process::Command::new("find").arg(self.at("")).args(["-name", ".trimtab-*"]).output().unwrap();
        assert!(listing.stdout.is_empty(), "{}", String::from_utf8_lossy(&listing.stdout));
    }
}

fn put(desired: &mut Desired, component: &str, path: &str, node: Node) {
    let mode = if matches!(node, Node::Directory) { 0o750 } else { 0o640 };
    let state = FileState { node, mode, owner: "root".parse().unwrap(), group: "root".parse().unwrap() };
    let origin = Origin { component: component.parse().unwrap(), file: "x".to_owned(), line: 0 };
    desired.entries.insert(
        path.parse().unwrap(),
        Entry {
            state,
            role: Role::Plain,
            shown: true,
            drift: trimtab_model::drift::DriftPolicy::default(),
            ignored: None,
            artifact: None,
            origin,
        },
    );
    desired.components.entry(component.parse().unwrap()).or_default();
}

#[tokio::test]
async fn converges_holds_and_gives_everything_back() {
    let mut bench = Bench::new();
    bench.write("/etc/motd", "the operator's");
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/etc/motd", "ours");
    bench.want(&mut desired, "a", "/opt/app/deep/file", "new");
    put(&mut desired, "a", "/opt/app/dir", Node::Directory);
    bench.want(&mut desired, "a", "/opt/app/dir/inside", "in");
    put(&mut desired, "a", "/opt/app/link", Node::Symlink { target: "deep/file".to_owned() });
    let applied = bench.pass(&desired).await;
    assert!(applied.is_complete(), "{applied:#?}");
    bench.assert_settled(&desired);
    assert_eq!(bench.text("/opt/app/link").as_deref(), Some("new"));
    assert_eq!(fs::metadata(bench.at("/opt/app/dir")).unwrap().permissions().mode() & 0o7777, 0o750);

    let nothing = Desired::default();
    assert!(bench.pass(&nothing).await.is_complete());
    bench.assert_settled(&nothing);
    assert_eq!(bench.text("/etc/motd").as_deref(), Some("the operator's"));
    assert!(!bench.at("/opt").exists(), "directories made on the way go as well");
    assert_eq!(bench.ledger, Ledger::default());
}

#[tokio::test]
async fn a_failure_takes_its_component_and_its_dependents_and_nobody_else() {
    let mut bench = Bench::new();
    let mut desired = Desired::default();
    for (component, path) in [("bad", "/etc/a"), ("bad", "/etc/unknown"), ("needs", "/etc/b"), ("free", "/etc/c")] {
        bench.want(&mut desired, component, path, path);
    }
    desired.entries.get_mut("/etc/unknown").unwrap().state.owner = "nobody-has-this".parse().unwrap();
    desired.components.insert("needs".parse().unwrap(), BTreeSet::from(["bad".parse().unwrap()]));
    let applied = bench.pass(&desired).await;
    assert!(!applied.is_complete());
    let texts: Vec<String> = applied.outcomes.iter().map(|outcome| format!("{outcome:?}")).collect();
    assert!(texts.iter().any(|text| text.contains("user nobody-has-this does not exist")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("it depends on component bad, of which file /etc/unknown failed")), "{texts:?}");
    // Staged before the failure was known, and still not switched.
    assert_eq!((bench.text("/etc/a"), bench.text("/etc/b")), (None, None));
    assert_eq!(bench.text("/etc/c").as_deref(), Some("/etc/c"));
    let owned: Vec<&str> = bench.ledger.entries.keys().map(HostPath::as_str).collect();
    assert_eq!(owned, ["/etc/c"]);
    assert!(!bench.ledger.entries["/etc/c"].pending);
}

#[tokio::test]
async fn an_edit_between_look_and_switch_is_a_race_and_stays() {
    let mut bench = Bench::new();
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/etc/conf", "one");
    assert!(bench.pass(&desired).await.is_complete());
    bench.want(&mut desired, "a", "/etc/conf", "two");
    let plan = bench.plan(&desired);
    bench.write("/etc/conf", "edited meanwhile");
    let applied = bench.apply(&plan, &desired).await;
    assert!(matches!(applied.outcomes[0], Outcome::Raced { .. }), "{applied:#?}");
    assert_eq!(bench.text("/etc/conf").as_deref(), Some("edited meanwhile"));
    assert!(bench.ledger.entries["/etc/conf"].pending, "it is still to be done");
    assert!(bench.pass(&desired).await.is_complete());
    bench.assert_settled(&desired);
}

#[tokio::test]
async fn what_drift_repair_overwrites_is_kept() {
    let mut bench = Bench::new();
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/etc/conf", "ours");
    bench.want(&mut desired, "a", "/etc/other", "ours too");
    desired.entries.values_mut().for_each(|entry| entry.state.mode = 0o644);
    assert!(bench.pass(&desired).await.is_complete());
    bench.write("/etc/conf", "somebody's work");
    fs::set_permissions(bench.at("/etc/other"), fs::Permissions::from_mode(0o666)).unwrap();
    let applied = bench.pass(&desired).await;
    assert!(applied.is_complete());
    // A mode put right loses nobody's work, so there is one thing to keep and not two.
    assert_eq!(applied.kept.iter().map(|kept| kept.path.as_str()).collect::<Vec<_>>(), ["/etc/conf"]);
    assert_eq!(bench.store.read(&applied.kept[0].digest).unwrap(), b"somebody's work");
    bench.assert_settled(&desired);
}

/// Whether a text is in any blob, under its name or not yet.
fn is_in_store(bench: &Bench, text: &str) -> bool {
    let found = std::process::Command::new("grep").args(["-rqF", text]).arg(bench.folder.path().join("state")).status().unwrap();
    found.success()
}

#[tokio::test]
async fn what_is_private_is_overwritten_and_kept_nowhere() {
    // Declared private, sensitive, closed by who wrote it, opened by who wrote it; and one that is none of that.
    let cases = [
        ("/etc/closed", 0o600, true, 0o600, true),
        ("/etc/sensitive", 0o644, false, 0o644, true),
        ("/etc/closed-now", 0o644, true, 0o640, true),
        ("/etc/opened-now", 0o600, true, 0o644, true),
        ("/etc/open", 0o644, true, 0o644, false),
    ];
    for (path, wanted_mode, shown, found_mode, private) in cases {
        let mut bench = Bench::new();
        let mut desired = Desired::default();
        bench.want(&mut desired, "a", path, "ours");
        let entry = desired.entries.get_mut(path).unwrap();
        (entry.state.mode, entry.shown) = (wanted_mode, shown);
        assert!(bench.pass(&desired).await.is_complete());
        bench.write(path, "hunter2");
        fs::set_permissions(bench.at(path), fs::Permissions::from_mode(found_mode)).unwrap();
        let applied = bench.pass(&desired).await;
        assert!(applied.is_complete() && bench.text(path).as_deref() == Some("ours"), "{path}");
        bench.store.sync().unwrap();
        assert_eq!((applied.kept.is_empty(), is_in_store(&bench, "hunter2")), (private, !private), "{path}");
        let told = applied.remarks.iter().any(|remark| remark.contains("not kept: it is private"));
        assert_eq!((told, bench.ledger.kept.is_empty()), (private, private), "{path}: {:?}", applied.remarks);
        // Nothing of anybody's is lost with a mode, so nothing is said.
        fs::set_permissions(bench.at(path), fs::Permissions::from_mode(0o604)).unwrap();
        let applied = bench.pass(&desired).await;
        assert!(applied.is_complete() && applied.remarks.is_empty(), "{path}: {:?}", applied.remarks);
        // Nor is it kept when the path leaves at the same time: nobody may know any more that it was sensitive.
        bench.write(path, "hunter3");
        assert!(bench.pass(&Desired::default()).await.is_complete());
        bench.store.sync().unwrap();
        assert!(!is_in_store(&bench, "hunter3"), "{path}");
    }
}

#[tokio::test]
async fn the_oldest_of_what_is_kept_goes_when_there_is_too_much() {
    let mut bench = Bench::new();
    bench.machine.keep = 25;
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/etc/conf", "ours");
    desired.entries.values_mut().for_each(|entry| entry.state.mode = 0o644);
    assert!(bench.pass(&desired).await.is_complete());
    let mut kept = Vec::new();
    for (text, outgrown) in [("0123456789", false), ("a123456789", false), ("0123456789", false), ("b123456789", true)] {
        bench.write("/etc/conf", text);
        let applied = bench.pass(&desired).await;
        assert_eq!(applied.outgrown, outgrown, "{text}");
        kept = bench.ledger.kept.iter().map(|kept| bench.store.read(&kept.digest).unwrap()).collect();
    }
    // The same content twice takes room once.
    assert_eq!(kept, [b"b123456789", b"0123456789"]);
    bench.assert_settled(&desired);
}

#[tokio::test]
async fn without_a_saved_intent_nothing_is_touched() {
    let mut bench = Bench::new();
    // A store that is only looked at refuses to save.
    bench.store = Store::look(places(bench.folder.path())).unwrap();
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/etc/deep/conf", "ours");
    let applied = bench.pass(&desired).await;
    assert!(matches!(applied.not_begun, Some(NotBegun::Unsaved(_))), "{applied:#?}");
    assert!(matches!(applied.outcomes[0], Outcome::Skipped { .. }));
    assert!(!bench.at("/etc").exists());
    assert_eq!(bench.ledger, Ledger::default());
}

#[tokio::test]
async fn drift_is_repaired_without_room_to_write_it_down_and_nothing_new_is_begun() {
    let mut bench = Bench::new();
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/etc/conf", "ours");
    assert!(bench.pass(&desired).await.is_complete());
    let saved = bench.store.load_ledger().unwrap();
    bench.store = Store::look(places(bench.folder.path())).unwrap();
    bench.write("/etc/conf", "somebody's");
    let applied = bench.pass(&desired).await;
    assert!(applied.not_begun.is_none() && applied.unsaved.is_some(), "told, and not called complete: {applied:#?}");
    assert_eq!(bench.text("/etc/conf").as_deref(), Some("ours"));
    assert_eq!(bench.store.load_ledger().unwrap(), saved);

    bench.write("/etc/conf", "somebody's");
    bench.want(&mut desired, "a", "/etc/new", "new");
    let applied = bench.pass(&desired).await;
    assert!(matches!(applied.not_begun, Some(NotBegun::Unsaved(_))), "{applied:#?}");
    assert!(!bench.at("/etc/new").exists());
}

#[tokio::test]
async fn content_that_is_not_what_its_digest_says_is_never_written() {
    let mut bench = Bench::new();
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/etc/conf", "right");
    bench.contents.borrow_mut().insert(Digest::of(b"right"), b"wrong".to_vec());
    let applied = bench.pass(&desired).await;
    assert!(matches!(&applied.outcomes[0], Outcome::Failed { message } if message.contains("digest differs")), "{applied:#?}");
    assert!(!bench.at("/etc/conf").exists());
}

#[tokio::test]
async fn an_adopted_file_is_given_back_as_it_was_after_an_update() {
    let mut bench = Bench::new();
    bench.write("/etc/conf", "same");
    fs::set_permissions(bench.at("/etc/conf"), fs::Permissions::from_mode(0o640)).unwrap();
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/etc/conf", "same");
    let plan = bench.plan(&desired);
    assert!(plan.is_empty() && !plan.bookkeeping.is_empty());
    assert!(bench.apply(&plan, &desired).await.is_complete());
    bench.want(&mut desired, "a", "/etc/conf", "updated");
    assert!(bench.pass(&desired).await.is_complete());
    assert_eq!(bench.text("/etc/conf").as_deref(), Some("updated"));
    assert!(bench.pass(&Desired::default()).await.is_complete());
    assert_eq!(bench.text("/etc/conf").as_deref(), Some("same"));
}

#[tokio::test]
async fn systemds_own_steps_are_not_run_in_a_sandbox() {
    let mut bench = Bench::new();
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/etc/sysusers.d/app.conf", "u app -");
    desired.entries.get_mut("/etc/sysusers.d/app.conf").unwrap().role = Role::Sysusers;
    let plan = bench.plan(&desired);
    let applied = bench.apply(&plan, &desired).await;
    assert!(
        applied.is_complete() && applied.outcomes.iter().any(|outcome| matches!(outcome, Outcome::NotRun { .. })),
        "{applied:#?}"
    );
    bench.assert_settled(&desired);
}

#[tokio::test]
async fn directories_on_the_way_are_written_down_before_they_are_made() {
    let mut bench = Bench::new();
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/opt/app/deep/file", "new");
    let plan = bench.plan(&desired);
    let (folder, opt) = (bench.folder.path().to_owned(), bench.at("/opt"));
    // Contents are asked for just before they are staged: what a kill at this moment would find.
    let seen = RefCell::new(None);
    let contents = |_: Digest| {
        let known = Store::look(places(&folder)).unwrap().load_ledger().unwrap().ledger.made;
        seen.replace(Some((opt.exists(), known.len())));
        Ok(b"new".to_vec())
    };
    let applied = apply(&mut bench.machine, &plan, &desired, &contents, &mut bench.ledger, &mut bench.store, Refusal::Whole).await;
    assert!(applied.is_complete(), "{applied:#?}");
    assert_eq!(seen.into_inner(), Some((false, 3)));
}

#[tokio::test]
async fn a_path_that_is_gone_takes_the_directories_that_a_killed_pass_left() {
    let mut bench = Bench::new();
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/opt/app/deep/file", "new");
    assert!(bench.pass(&desired).await.is_complete());
    // A pass that removed it was killed before it wrote that down, with one of the three directories gone.
    fs::remove_dir_all(bench.at("/opt/app/deep")).unwrap();
    assert!(bench.pass(&Desired::default()).await.is_complete());
    assert!(!bench.at("/opt").exists());
    assert_eq!(bench.ledger, Ledger::default());
}

#[tokio::test]
async fn directories_of_what_never_came_go_again() {
    let mut bench = Bench::new();
    let mut desired = Desired::default();
    bench.want(&mut desired, "a", "/opt/app/deep/file", "new");
    bench.want(&mut desired, "b", "/etc/conf", "conf");
    bench.contents.borrow_mut().insert(Digest::of(b"new"), b"damaged".to_vec());
    let plan = bench.plan(&desired);
    // Killed while it staged: made and written down, and nothing more.
    fs::create_dir_all(bench.at("/opt/app")).unwrap();
    bench.ledger.made.extend(["/opt".parse().unwrap(), "/opt/app".parse().unwrap(), "/opt/app/deep".parse().unwrap()]);
    assert!(!bench.apply(&plan, &desired).await.is_complete());
    let used = BTreeSet::from(["/etc".parse().unwrap()]);
    assert_eq!((bench.at("/opt").exists(), &bench.ledger.made), (false, &used));
    assert_eq!(bench.text("/etc/conf").as_deref(), Some("conf"));
    // Also when there is nothing else to do, and not where somebody has moved in.
    let mut desired = Desired::default();
    bench.want(&mut desired, "b", "/etc/conf", "conf");
    bench.write("/srv/app/theirs", "theirs");
    fs::create_dir(bench.at("/srv/app/ours")).unwrap();
    bench.ledger.made.extend(["/srv/app".parse().unwrap(), "/srv/app/ours".parse().unwrap()]);
    assert!(bench.pass(&desired).await.is_complete());
    assert!(!bench.at("/srv/app/ours").exists() && bench.at("/srv/app/theirs").exists());
    assert_eq!(bench.ledger.made, used);
    bench.assert_settled(&desired);
}
