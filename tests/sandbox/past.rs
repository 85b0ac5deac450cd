//! History, differences, going back, trying again, allowing: with and without an agent, and never with a network.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use trimtab_model::report::Outcome;
use trimtab_model::status::{ConditionKind, Truth};

use crate::{FLEET, Sandbox, until};

impl Sandbox {
    fn json(&self, words: &[&str]) -> Value {
        let (code, out, err) = self.said(words);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?} ended with {code}: {error}\n{out}{err}"))
    }

    /// The repository cannot be reached.
    fn cut(&self) {
        fs::rename(self.repo.path(), self.folder.path().join("away")).unwrap();
    }

    fn mend(&self) {
        fs::rename(self.folder.path().join("away"), self.repo.path()).unwrap();
    }

    /// A host that went through three revisions.
    fn three() -> (Self, [String; 3]) {
        let sandbox = Self::new("");
        sandbox.repo.write("components/one/files/etc/key", "secret 1\n");
        sandbox.repo.write("components/one/component.toml", "[[file]]\npath = \"/etc/key\"\nmode = \"0600\"\n");
        let revisions = ["1\n", "2\n", "3\n"].map(|text| {
            if text == "3\n" {
                sandbox.repo.write("components/one/files/etc/key", "secret 3\n");
            }
            let revision = sandbox.revise(text);
            assert_eq!(sandbox.once().outcome, Outcome::Converged);
            revision
        });
        (sandbox, revisions)
    }
}

fn generations(history: &Value, mark: &str) -> Vec<u64> {
    let rows = history["history"].as_array().unwrap().iter().filter(|row| row[mark] == true);
    rows.map(|row| row["generation"].as_u64().unwrap()).collect()
}

#[test]
fn the_history_says_what_was_in_force_and_what_is_kept() {
    let (sandbox, revisions) = Sandbox::three();
    sandbox.cut();
    let history = sandbox.json(&["history", "--json"]);
    assert_eq!((&history["generation"], &history["good"]), (&3.into(), &3.into()));
    assert_eq!(generations(&history, "inForce"), [3]);
    assert_eq!(generations(&history, "kept"), [3, 2, 1]);
    let rows = history["history"].as_array().unwrap();
    let told: Vec<&str> = rows.iter().map(|row| row["revision"].as_str().unwrap()).collect();
    assert_eq!(told, [&revisions[2], &revisions[1], &revisions[0]]);
    assert!(rows.iter().all(|row| row["end"] == "committed" && row["effect"].as_str().unwrap().starts_with("sha256:")));
    let (code, text, _) = sandbox.said(&["history"]);
    assert_eq!(code, 0);
    let first = text.lines().next().unwrap();
    assert!(
        first.starts_with("*    3") && first.contains(&revisions[2][..12]) && first.ends_with("(in force, last good)"),
        "{text}"
    );
    // What the bounds took away is told as such.
    fs::remove_file(sandbox.root().join("var/lib/trimtab/generations/1.json")).unwrap();
    let (_, text, _) = sandbox.said(&["history"]);
    assert!(text.lines().last().unwrap().ends_with("committed  (not kept)"), "{text}");
    let (code, text, _) = Sandbox::new("").said(&["history"]);
    assert!(code == 0 && text.starts_with("No generation yet"), "{code} {text}");
}

#[test]
fn two_generations_are_compared_without_a_network_and_nothing_private_is_shown() {
    let (sandbox, _) = Sandbox::three();
    sandbox.cut();
    let (code, text, err) = sandbox.said(&["diff", "1", "2"]);
    assert_eq!(code, 2, "{text}{err}");
    for part in ["file /etc/one.conf", "--- generation 1", "+++ generation 2", "    -1\n", "    +2\n", "1 differ"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let (_, text, _) = sandbox.said(&["diff", "3", "1"]);
    assert!(text.contains("content: private -> other, and not shown") && !text.contains("secret"), "{text}");
    let document = sandbox.json(&["diff", "3", "1", "--json"]);
    assert_eq!((&document["from"]["generation"], &document["to"]["generation"]), (&3.into(), &1.into()));
    assert_eq!(document["changes"].as_array().unwrap().len(), 2);
    let (code, text, _) = sandbox.said(&["diff", "2", "2"]);
    assert!(code == 0 && text.starts_with("No difference"), "{code} {text}");
    let (code, _, err) = sandbox.said(&["diff", "1", "9"]);
    assert!(code == 1 && err.contains("generation 9 is not kept"), "{code} {err}");
    assert_eq!(sandbox.said(&["diff", "1"]).0, 64);
    // Without generations it is a plan, as it always was.
    fs::write(sandbox.root().join("etc/one.conf"), "spoiled\n").unwrap();
    let (code, text, _) = sandbox.said(&["diff", "--offline"]);
    assert!(code == 2 && text.contains("--- on the host"), "{code} {text}");
}

#[test]
fn a_person_goes_back_without_an_agent_or_a_network_and_that_holds() {
    let (sandbox, revisions) = Sandbox::three();
    sandbox.cut();
    let (code, text, err) = sandbox.said(&["rollback", "--reason", "the pumps stand still"]);
    assert_eq!(code, 0, "{text}{err}");
    assert!(text.contains("Generation 2 is in force"), "{text}");
    assert_eq!(sandbox.read("etc/one.conf"), "2\n");
    let history = sandbox.json(&["history", "--json"]);
    assert_eq!((generations(&history, "inForce"), &history["good"]), (vec![2], &2.into()));
    let first = &history["history"][0];
    assert_eq!((&first["end"], &first["reason"]), (&"restored".into(), &"the pumps stand still".into()));
    assert_eq!(history["denied"][0]["revision"], revisions[2].as_str());
    sandbox.mend();
    // The newest revision is the one that was left: told with the reason, and not taken up again. Drift is repaired to what is in force.
    fs::write(sandbox.root().join("etc/one.conf"), "spoiled\n").unwrap();
    for _ in 0..2 {
        let pass = sandbox.once();
        assert_eq!((pass.outcome, pass.generation), (Outcome::RolledBack, 2));
        assert!(pass.reason().contains("the pumps stand still"), "{}", pass.reason());
        assert_eq!(sandbox.read("etc/one.conf"), "2\n");
    }
    let (code, text, _) = sandbox.said(&["status"]);
    assert_eq!(code, 1);
    for part in ["2, in force and whole", "undone      revision", "because     operator: the pumps stand still", "trimtab retry"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    // A name that is not kept, the one in force, no reason: refused before anything is done.
    for (words, says) in [
        (&["rollback", "2", "--reason", "x"][..], "in force already"),
        (&["rollback", "7", "--reason", "x"], "generation 7 is not kept (any more); kept are: 1, 2, 3"),
    ] {
        let (code, _, err) = sandbox.said(words);
        assert!(code == 1 && err.contains(says), "{code} {err}");
    }
    assert_eq!(sandbox.said(&["rollback", "1"]).0, 64);
    assert_eq!(sandbox.said(&["rollback", "1", "--reason", " "]).0, 64);
    assert_eq!(sandbox.said(&["rollback", "0", "--reason", "x"]).0, 64);
    assert_eq!(sandbox.read("etc/one.conf"), "2\n");
    // A newer revision is a new matter.
    sandbox.revise("4\n");
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    assert_eq!(sandbox.read("etc/one.conf"), "4\n");
}

#[test]
fn what_cannot_be_gone_back_to_is_no_success() {
    let (sandbox, _) = Sandbox::three();
    // Its content is lost: a disk that forgot.
    let digest = trimtab_model::digest::Digest::of(b"1\n").hex();
    fs::remove_file(sandbox.root().join("var/lib/trimtab/blobs").join(&digest[..2]).join(&digest[2..])).unwrap();
    let (code, text, err) = sandbox.said(&["rollback", "1", "--reason", "x"]);
    assert!(code != 0 && code != 2 && err.contains("generation 1 is not in force, generation 3 is"), "{code} {text}{err}");
    assert_eq!(sandbox.read("etc/one.conf"), "3\n");
    // Nor is a generation whose place is taken.
    fs::remove_file(sandbox.root().join("etc/one.conf")).unwrap();
    fs::create_dir(sandbox.root().join("etc/one.conf")).unwrap();
    let (code, text, err) = sandbox.said(&["rollback", "2", "--reason", "x"]);
    assert!(code == 1 && err.contains("not all of it is in place"), "{code} {text}{err}");
}

#[test]
fn what_was_left_is_taken_up_again_when_a_person_asks() {
    let (sandbox, revisions) = Sandbox::three();
    let (code, _, err) = sandbox.said(&["retry"]);
    assert!(code == 1 && err.contains("nothing is denied"), "{code} {err}");
    assert_eq!(sandbox.said(&["rollback", "1", "--reason", "x"]).0, 0);
    let (code, _, err) = sandbox.said(&["retry", "0123456789"]);
    assert!(code == 1 && err.contains(&format!("denied are: {}", &revisions[2][..12])), "{code} {err}");
    assert_eq!(sandbox.said(&["retry", "main"]).0, 64);
    let (code, text, err) = sandbox.said(&["retry", &revisions[2][..9]]);
    assert_eq!(code, 0, "{text}{err}");
    assert_eq!(sandbox.read("etc/one.conf"), "3\n");
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);
    assert_eq!(sandbox.json(&["history", "--json"])["denied"], Value::Array(Vec::new()));
}

#[test]
fn a_running_agent_does_what_a_person_asks() {
    let (sandbox, revisions) = Sandbox::three();
    let settings = sandbox.root().join("etc/trimtab/agent.toml");
    let text = fs::read_to_string(&settings).unwrap() + "[agent]\ninterval = \"1h\"\n";
    fs::write(&settings, text).unwrap();
    let agent = sandbox.agent();
    until("ready", || sandbox.status().is_some_and(|status| status.ready && status.agent_pid > 0));
    sandbox.cut();
    let pass = sandbox.json(&["rollback", "1", "--reason", "by hand", "--json"]);
    assert_eq!(pass["generation"], 1);
    assert_eq!(sandbox.read("etc/one.conf"), "1\n");
    assert!(fs::read_dir(sandbox.root().join("var/lib/trimtab/requests")).unwrap().next().is_none(), "it was taken");
    sandbox.mend();
    let (code, text, err) = sandbox.said(&["retry", &revisions[2]]);
    assert_eq!(code, 0, "{text}{err}");
    assert_eq!(sandbox.read("etc/one.conf"), "3\n");
    // The agent still holds what is in force.
    let (code, text, err) = sandbox.said(&["sync"]);
    assert_eq!(code, 0, "{text}{err}");
    drop(agent);
}

#[test]
fn many_removals_wait_for_somebody_to_allow_them() {
    let sandbox = Sandbox::new("[guard]\nmax-removals = 3\n");
    for number in 0..5 {
        sandbox.repo.write(&format!("components/two/files/etc/two/{number}"), "two\n");
    }
    sandbox.push();
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    sandbox.repo.write("fleet.toml", FLEET.replace(", \"two\"", ""));
    let revision = sandbox.revise("newer\n");
    let pass = sandbox.once();
    assert_eq!(pass.outcome, Outcome::Held);
    let says = "takes away 6 of 7 managed files and units";
    assert!(pass.reason().contains(says) && pass.reason().contains("guard.max-removals (3)"), "{}", pass.reason());
    assert_eq!((sandbox.read("etc/one.conf"), sandbox.read("etc/two/0")), ("one\n".to_owned(), "two\n".to_owned()));
    // Another revision is not allowed with it, and an approval that the source did not see is not lost.
    let (code, _, _) = sandbox.said(&["approve", "0123456789abcdef"]);
    assert_eq!((code, sandbox.read("etc/two/0")), (1, "two\n".to_owned()));
    assert_eq!(sandbox.said(&["approve", "HEAD"]).0, 64);
    sandbox.cut();
    let (code, _, err) = sandbox.said(&["approve", &revision[..10]]);
    assert!(code == 75 && err.contains("the approval is kept"), "{code} {err}");
    assert_eq!(sandbox.read("etc/two/0"), "two\n");
    sandbox.mend();
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    assert_eq!((sandbox.read("etc/one.conf"), sandbox.read("etc/two/0")), ("newer\n".to_owned(), String::new()));
    assert!(!sandbox.root().join("etc/two").exists());
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);
}

#[test]
fn a_boot_changes_no_transition_and_the_passes_go_on() {
    let sandbox = Sandbox::new("");
    let times = || -> Vec<(ConditionKind, Truth, u64)> {
        let conditions = sandbox.status().expect("because a pass was made").conditions;
        conditions.iter().map(|one| (one.kind, one.status, one.last_transition_time)).collect()
    };
    let lines = || -> Vec<u64> { sandbox.status().unwrap().history.iter().map(|line| line.number).collect() };
    let book = || {
        let meta = fs::metadata(sandbox.root().join("var/lib/trimtab/drift.json")).unwrap();
        (meta.ino(), meta.mtime_nsec())
    };
    // What lies in /run is gone with the machine's power.
    let boot = || fs::remove_dir_all(sandbox.root().join("run")).unwrap();
    assert_eq!((sandbox.once().outcome, sandbox.once().outcome), (Outcome::Converged, Outcome::Unchanged));
    assert_eq!(sandbox.said(&["suspend", "--reason", "a test", "--until", "1h"]).0, 0);
    sandbox.revise("two\n");
    let last = sandbox.once();
    assert_eq!((last.number, last.outcome), (3, Outcome::Paused));
    let (before, written) = (times(), book());
    assert!(before.iter().any(|(kind, status, _)| (*kind, *status) == (ConditionKind::Suspended, Truth::True)), "{before:?}");
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let now = second();
    until("the clock goes on", || second() > now + 1);

    for number in [4, 5] {
        boot();
        let pass = sandbox.once();
        assert_eq!((pass.number, pass.outcome, times()), (number.min(4), Outcome::Paused, before.clone()));
        assert_eq!((lines(), book()), (vec![3, 1], written), "and a pass that changes nothing writes nothing");
    }
    // What changes, changes now.
    assert_eq!(sandbox.said(&["resume"]).0, 0);
    boot();
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    for (was, is) in before.iter().zip(times()) {
        let moves = matches!(was.0, ConditionKind::Suspended | ConditionKind::Ready | ConditionKind::Reconciling);
        assert!(was.0 == is.0 && moves == (is.2 > now), "{was:?} {is:?}");
    }
    assert!(book() != written);
}
