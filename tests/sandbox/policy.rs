//! What is done about drift, and what a person holds back: on a folder, through the command line.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use trimtab_model::drift::LeftAlone;
use trimtab_model::report::{Outcome, Pass};

use crate::{Sandbox, until};

const HOUR: [&str; 4] = ["--reason", "a test", "--until", "1h"];

impl Sandbox {
    fn put(&self, path: &str, text: &str) {
        let at = self.root().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, text).unwrap();
    }

    fn declare(&self, component: &str, toml: &str) {
        self.repo.write(&format!("components/{component}/component.toml"), toml);
        self.push();
    }
}

fn left(pass: &Pass) -> Vec<(&str, Option<&LeftAlone>)> {
    pass.changes.iter().map(|change| (change.resource.as_str(), change.left_alone.as_ref())).collect()
}

#[test]
fn each_policy_does_what_it_says() {
    let sandbox = Sandbox::new("");
    sandbox.declare("one", "drift = \"report\"\n");
    sandbox.declare("two", "[[file]]\npath = \"/etc/two.conf\"\ndrift = \"ignore\"\n");
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    sandbox.put("etc/one.conf", "mine\n");
    sandbox.put("etc/two.conf", "mine too\n");
    for _ in 0..2 {
        let pass = sandbox.once();
        assert_eq!((pass.outcome, left(&pass)), (Outcome::Drifted, vec![("file /etc/one.conf", Some(&LeftAlone::Policy))]));
    }
    assert_eq!(sandbox.said(&["once"]).0, 5);
    let (code, text, _) = sandbox.said(&["plan", "--offline"]);
    assert!(code == 5 && text.contains("left alone: only reported, as the repository says"), "{code} {text}");
    assert_eq!((sandbox.read("etc/one.conf"), sandbox.read("etc/two.conf")), ("mine\n".into(), "mine too\n".into()));
    // What cannot be done at all is told before what is only reported.
    fs::create_dir_all(sandbox.root().join("etc/three.conf")).unwrap();
    sandbox.repo.write("components/one/files/etc/three.conf", "three\n");
    sandbox.revise("an update\n");
    sandbox.repo.write("components/two/files/etc/two.conf", "another update\n");
    sandbox.push();
    assert_eq!(sandbox.once().outcome, Outcome::Partial);
    fs::remove_dir(sandbox.root().join("etc/three.conf")).unwrap();
    let pass = sandbox.once();
    assert_eq!(sandbox.read("etc/one.conf"), "an update\n", "{}", pass.reason());
    assert_eq!(sandbox.read("etc/two.conf"), "another update\n");
    // What the updates overwrote is kept.
    let (_, text, _) = sandbox.said(&["backups", "show", "/etc/two.conf"]);
    assert_eq!(text, "mine too\n");
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);
}

#[test]
fn what_is_created_once_belongs_to_whoever_changes_it() {
    let sandbox = Sandbox::new("");
    sandbox.put("etc/two.conf", "from before\n");
    let once = "drift = \"create-once\"\n[[directory]]\npath = \"/var/lib/one\"\n";
    sandbox.repo.write("components/one/files/var/lib/one/db", "first\n");
    sandbox.repo.write("components/one/component.toml", once);
    sandbox.declare("two", "[[file]]\npath = \"/etc/two.conf\"\ndrift = \"create-once\"\n");
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    assert_eq!((sandbox.read("etc/two.conf"), sandbox.read("etc/one.conf")), ("from before\n".into(), "one\n".into()));
    sandbox.put("var/lib/one/db", "rows\n");
    sandbox.revise("two\n");
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);
    assert_eq!((sandbox.read("etc/one.conf"), sandbox.read("var/lib/one/db")), ("one\n".into(), "rows\n".into()));
    fs::remove_file(sandbox.root().join("etc/one.conf")).unwrap();
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    assert_eq!(sandbox.read("etc/one.conf"), "two\n");
    // The component leaves: with it what trimtab made, and not what somebody else did.
    sandbox.repo.write("fleet.toml", crate::FLEET.replace("\"one\", ", ""));
    sandbox.push();
    let pass = sandbox.once();
    assert_eq!(pass.outcome, Outcome::Converged, "{}", pass.reason());
    assert_eq!((sandbox.read("etc/one.conf"), sandbox.read("var/lib/one/db")), (String::new(), "rows\n".into()));
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);
    assert_eq!(sandbox.read("etc/two.conf"), "from before\n");
}

#[test]
fn what_nobody_declared_is_told_purged_kept_and_guarded() {
    let sandbox = Sandbox::new("");
    let declare = |extra: &str| {
        sandbox.declare("one", &format!("[[directory]]\npath = \"/etc/d\"\nexclusive = \"{extra}\"\nexcept = [\"*.bak\"]\n"));
    };
    sandbox.repo.write("components/one/files/etc/d/ours", "ours\n");
    declare("report");
    for (at, text) in [("etc/d/theirs", "theirs\n"), ("etc/d/x.bak", "x\n"), ("etc/d/folder/deep", "deep\n"), ("etc/e", "e\n")] {
        sandbox.put(at, text);
    }
    let (outside, root) = (sandbox.folder.path().join("outside"), sandbox.root());
    fs::write(&outside, "outside\n").unwrap();
    symlink(&outside, root.join("etc/d/link")).unwrap();
    sandbox.once();
    let pass = sandbox.once();
    let names: Vec<&str> = left(&pass).iter().map(|(name, _)| *name).collect();
    assert_eq!((pass.outcome, names), (Outcome::Drifted, vec!["file /etc/d/folder", "file /etc/d/link", "file /etc/d/theirs"]));

    // A plan shows it, the pass that brings the rule carries it out.
    declare("purge");
    let (_, text, _) = sandbox.said(&["plan"]);
    assert!(text.contains("- file /etc/d/theirs  remove (drift)") && text.contains("extra: a file -> nothing"), "{text}");
    let pass = sandbox.once();
    assert_eq!(pass.outcome, Outcome::Drifted, "the folder stays: {}", pass.reason());
    assert!(left(&pass).contains(&("file /etc/d/theirs", None)), "{:?}", left(&pass));
    assert!(!root.join("etc/d/theirs").exists() && fs::symlink_metadata(root.join("etc/d/link")).is_err());
    assert_eq!(fs::read_to_string(&outside).unwrap(), "outside\n", "no link is followed");
    let kept = ["etc/d/ours", "etc/d/x.bak", "etc/d/folder/deep", "etc/e"].map(|at| sandbox.read(at));
    assert_eq!(kept, ["ours\n", "x\n", "deep\n", "e\n"]);
    assert_eq!(sandbox.said(&["backups", "show", "/etc/d/theirs"]).1, "theirs\n");
    fs::remove_dir_all(root.join("etc/d/folder")).unwrap();
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);

    // More than is kept is told, and left.
    fs::write(root.join("etc/d/huge"), vec![0; (4 << 20) + 1]).unwrap();
    assert_eq!(sandbox.once().outcome, Outcome::Drifted);
    assert!(root.join("etc/d/huge").exists());
    fs::remove_file(root.join("etc/d/huge")).unwrap();

    // Many at once are a mistake until somebody says otherwise.
    for number in 0..20 {
        sandbox.put(&format!("etc/d/many-{number}"), "x\n");
    }
    let pass = sandbox.once();
    assert_eq!(pass.outcome, Outcome::Partial);
    assert!(pass.reason().contains("20 files there are not declared") && root.join("etc/d/many-7").exists(), "{}", pass.reason());
    assert!(left(&pass).iter().all(|(_, why)| *why == Some(&LeftAlone::Policy)));
    let head = sandbox.repo.head().to_string();
    assert_eq!(sandbox.said(&["approve", &head]).0, 0);
    assert!(!root.join("etc/d/many-7").exists() && root.join("etc/d/ours").exists());
}

#[test]
fn what_is_private_is_not_purged_and_lies_nowhere_else() {
    let sandbox = Sandbox::new("");
    let declare = |more: &str| {
        sandbox.declare("one", &format!("[[directory]]\npath = \"/etc/d\"\nexclusive = \"purge\"\n{more}"));
    };
    let mode = |at: &str, mode: u32| fs::set_permissions(sandbox.root().join(at), fs::Permissions::from_mode(mode)).unwrap();
    let is_stored = |text: &str| {
        let blobs = sandbox.root().join("var/lib/trimtab/blobs");
        let ran = Command::new("grep").args(["-rqF", text]).arg(&blobs).status().unwrap();
        assert!(blobs.is_dir() && matches!(ran.code(), Some(0 | 1)));
        ran.success()
    };
    sandbox.repo.write("components/one/files/etc/d/token", "hunter1\n");
    declare("\n[[file]]\npath = \"/etc/d/token\"\nsensitive = true\n");
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    sandbox.put("etc/d/tls.key", "hunter2\n");
    for closed in [0o600, 0o640, 0o400] {
        mode("etc/d/tls.key", closed);
        let pass = sandbox.once();
        assert_eq!(left(&pass), [("file /etc/d/tls.key", Some(&LeftAlone::Policy))], "{closed:o}");
        assert!(pass.outcome == Outcome::Drifted && sandbox.read("etc/d/tls.key") == "hunter2\n" && !is_stored("hunter2"));
    }
    let (_, text, _) = sandbox.said(&["plan"]);
    assert!(text.contains("no copy is kept: remove it by hand, or name it in `except`"), "{text}");
    // Who opens it says that it is for everybody.
    mode("etc/d/tls.key", 0o644);
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    assert!(!sandbox.root().join("etc/d/tls.key").exists() && is_stored("hunter2"));

    // What the repository called sensitive while it had it.
    fs::remove_file(sandbox.repo.path().join("components/one/files/etc/d/token")).unwrap();
    declare("");
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    assert!(!sandbox.root().join("etc/d/token").exists());
    sandbox.put("etc/d/token", "hunter3\n");
    for _ in 0..2 {
        let pass = sandbox.once();
        assert!(pass.outcome == Outcome::Partial && pass.reason().contains("private"), "{}", pass.reason());
        assert!(sandbox.read("etc/d/token") == "hunter3\n" && !is_stored("hunter3"));
    }
}

#[test]
fn a_pin_holds_one_file_and_everything_else_goes_on() {
    let sandbox = Sandbox::new("");
    let (code, _, err) = sandbox.said(&[&["pin", "/etc/one.conf"], &HOUR[..]].concat());
    assert!(code == 1 && err.contains("is not managed"), "{code} {err}");
    sandbox.once();
    let (code, _, err) = sandbox.said(&[&["pin", "/etc/one.cnf"], &HOUR[..]].concat());
    assert!(code == 1 && err.contains("did you mean `/etc/one.conf`?"), "{code} {err}");
    let (code, text, err) = sandbox.said(&[&["pin", "/etc/one.conf"], &HOUR[..]].concat());
    assert!(code == 0 && text.contains("file /etc/one.conf") && text.contains("a test"), "{code} {text}{err}");
    let pass = sandbox.once();
    assert_eq!(pass.outcome, Outcome::Paused, "never ready, also when nothing differs");
    assert!(pass.paused.contains("file /etc/one.conf is pinned for 1h more"), "{}", pass.paused);
    sandbox.put("etc/one.conf", "mine\n");
    sandbox.repo.write("components/two/files/etc/two.conf", "two more\n");
    sandbox.revise("one more\n");
    let pass = sandbox.once();
    assert_eq!(left(&pass), [("file /etc/one.conf", Some(&LeftAlone::Pinned)), ("file /etc/two.conf", None)]);
    assert_eq!((sandbox.read("etc/one.conf"), sandbox.read("etc/two.conf")), ("mine\n".into(), "two more\n".into()));
    // Also its removal.
    sandbox.repo.git(&["rm", "--quiet", "components/one/files/etc/one.conf"]);
    sandbox.repo.write("components/one/files/etc/other.conf", "other\n");
    sandbox.push();
    let pass = sandbox.once();
    assert_eq!(
        (pass.outcome, sandbox.read("etc/one.conf").as_str(), sandbox.read("etc/other.conf").as_str()),
        (Outcome::Paused, "mine\n", "other\n")
    );
    assert!(left(&pass).contains(&("file /etc/one.conf", Some(&LeftAlone::Pinned))));
    let status = sandbox.status().unwrap();
    assert!(!status.ready && status.holds.pins["file /etc/one.conf"].reason == "a test");
    assert_eq!(sandbox.said(&["unpin", "/etc/two.conf"]).0, 1);
    assert_eq!(sandbox.said(&["unpin", "/etc/one.conf"]).0, 0);
    assert_eq!((sandbox.once().outcome, sandbox.read("etc/one.conf")), (Outcome::Converged, String::new()));
    assert_eq!(sandbox.said(&["backups", "show", "/etc/one.conf"]).1, "mine\n");
    assert_eq!(sandbox.said(&["pin", "/etc/two.conf", "--until", "1h"]).0, 64, "without a reason");
    assert_eq!(sandbox.said(&["pin", "/etc/two.conf", "--reason", "x", "--until", "91days"]).0, 64);
}

#[test]
fn a_suspended_host_is_told_about_and_not_touched_until_it_is_over() {
    let sandbox = Sandbox::new("[agent]\ninterval = \"1s\"\nretry-interval = \"1s\"\n");
    let agent = sandbox.agent();
    until("converged", || sandbox.status().is_some_and(|status| status.ready));
    let (code, text, err) = sandbox.said(&[&["suspend"], &HOUR[..]].concat());
    assert!(code == 0 && text.starts_with("the whole host\n    until 2"), "{code} {text}{err}");
    sandbox.put("etc/one.conf", "mine\n");
    sandbox.repo.write("components/two/files/etc/three.conf", "three\n");
    let newest = sandbox.revise("an update\n");
    let both = || {
        let pass = sandbox.status().and_then(|status| status.last_pass);
        pass.filter(|pass| pass.changes.len() == 2 && pass.revision == newest)
    };
    until("both are told", || both().is_some());
    let pass = both().unwrap();
    assert_eq!(pass.outcome, Outcome::Paused);
    assert!(pass.changes.iter().all(|change| change.left_alone == Some(LeftAlone::Suspended)), "{:?}", left(&pass));
    // Going back is a change, too; and a reboot of the agent ends nothing.
    let (_, text, _) = sandbox.said(&["suspend", "--reason", "longer", "--until", "2h", "--json"]);
    let holds: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(holds["suspended"]["reason"], "longer");
    drop(agent);
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.changes.len()), (Outcome::Paused, 2));
    assert!(pass.reason().contains("longer") && pass.generation == 1, "{}", pass.reason());
    // Also without the source: drift of what is in force is told and left.
    fs::rename(sandbox.repo.path(), sandbox.folder.path().join("away")).unwrap();
    let pass = sandbox.once();
    assert_eq!((pass.outcome, left(&pass)), (Outcome::Unreachable, vec![("file /etc/one.conf", Some(&LeftAlone::Suspended))]));
    fs::rename(sandbox.folder.path().join("away"), sandbox.repo.path()).unwrap();
    assert_eq!(sandbox.read("etc/one.conf"), "mine\n");

    let _agent = sandbox.agent();
    until("still told", || both().is_some());
    let (code, text, err) = sandbox.said(&["resume"]);
    assert!(code == 0 && text.starts_with("Nothing is held"), "{code} {text}{err}");
    until("done", || sandbox.read("etc/one.conf") == "an update\n" && sandbox.read("etc/three.conf") == "three\n");
    until("ready", || sandbox.status().is_some_and(|status| status.ready && status.last_applied_revision == newest));
    assert_eq!(sandbox.said(&["resume"]).0, 1, "there is nothing to resume");
}

#[test]
fn a_hold_ends_by_itself_and_what_waited_is_done_at_once() {
    // An interval that no test waits for.
    let sandbox = Sandbox::new("[agent]\ninterval = \"1h\"\n");
    let _agent = sandbox.agent();
    until("converged", || sandbox.status().is_some_and(|status| status.ready));
    assert_eq!(sandbox.said(&["suspend", "--reason", "shortly", "--until", "4s"]).0, 0);
    sandbox.revise("an update\n");
    assert_eq!(sandbox.said(&["sync"]).0, 5);
    assert_eq!(sandbox.read("etc/one.conf"), "one\n");
    until("done", || sandbox.read("etc/one.conf") == "an update\n");
    until("told", || sandbox.status().is_some_and(|status| status.ready && status.holds.is_empty()));
}

#[test]
fn a_host_that_observes_is_written_by_nobody_and_left_as_it_is() {
    let sandbox = Sandbox::new("[guard]\nadopt = \"report\"\n[agent]\nmode = \"observe\"\n");
    sandbox.put("etc/two.conf", "the operator's\n");
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.generation), (Outcome::Paused, 0));
    assert!(pass.reason().starts_with("this host only observes"), "{}", pass.reason());
    let observing = Some(&LeftAlone::Observing);
    assert_eq!(left(&pass), [("file /etc/one.conf", observing), ("file /etc/two.conf", observing)]);
    assert!(pass.changes[1].replaces);
    let (code, text, _) = sandbox.said(&["plan"]);
    assert!(code == 5 && text.contains("left alone: this host only observes"), "{code} {text}");
    let status = sandbox.status().unwrap();
    assert!(!status.ready && status.managed_files == 0 && status.mode == trimtab_model::status::Mode::Observe);
    let (code, _, err) = sandbox.said(&["rollback", "--reason", "x"]);
    assert_eq!(code, 1, "{err}");
    assert!(!sandbox.root().join("etc/one.conf").exists() && sandbox.read("etc/two.conf") == "the operator's\n");
    // It goes on as a first converge.
    let toml = sandbox.root().join("etc/trimtab/agent.toml");
    fs::write(&toml, fs::read_to_string(&toml).unwrap().replace("\"observe\"", "\"enforce\"")).unwrap();
    assert_eq!(sandbox.once().outcome, Outcome::Held, "guard.adopt holds as ever");
    assert_eq!(sandbox.said(&["once", "--adopt=replace"]).0, 2);
    assert_eq!((sandbox.read("etc/two.conf").as_str(), sandbox.once().outcome), ("two\n", Outcome::Unchanged));
}

#[test]
fn holds_that_cannot_be_read_cost_no_agent_and_are_told() {
    let sandbox = Sandbox::new("");
    sandbox.once();
    sandbox.put("var/lib/trimtab/holds.json", "{\"holds\":");
    let pass = sandbox.once();
    assert_eq!(pass.outcome, Outcome::Partial);
    assert!(pass.reason().contains("holds.json is damaged") && pass.reason().contains("say it again"), "{}", pass.reason());
    assert_eq!(sandbox.said(&["holds"]).0, 78);
    assert_eq!(sandbox.said(&["resume"]).0, 0);
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);
}
