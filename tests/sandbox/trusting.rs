//! `trimtab trust explain`: what a host says of its own trust, in each state that it can be in, beside what it does.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use trimtab_model::report::Outcome;
use trimtab_tests::release::RootText;

use crate::Sandbox;
use crate::releases::Released;

const COPIES: [&str; 2] = ["var/lib/trimtab/trust-state.json", "etc/trimtab/state/trust-state.json"];

#[track_caller]
fn explained(sandbox: &Sandbox, says: &[&str], not: &[&str]) -> Value {
    let (code, said, error) = sandbox.said(&["trust", "explain"]);
    assert!(code == 0 && says.iter().all(|one| said.contains(one)), "{code} {says:?}\n{said}{error}");
    assert!(not.iter().all(|one| !said.contains(one)), "not {not:?}\n{said}");
    serde_json::from_str(&sandbox.said(&["trust", "explain", "--json"]).1).unwrap()
}

fn copies(sandbox: &Sandbox) -> [PathBuf; 2] {
    COPIES.map(|path| sandbox.root().join(path))
}

#[test]
fn a_host_in_release_mode_says_what_it_trusts_and_why_in_each_state() {
    let host = Released::new("");
    let (sandbox, repo) = (&host.sandbox, &host.sandbox.repo);
    let said = explained(
        sandbox,
        &["follows the channel production", "No root was seen yet", "Nothing was accepted yet"],
        &["Freshness", "Last look"],
    );
    assert_eq!((&said["copies"], &said["freshness"], &said["lastLook"]), (&0.into(), &Value::Null, &Value::Null));

    host.release(1);
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    let said = explained(
        sandbox,
        &[
            "Root       1 (epoch 1)",
            "a release takes 2 of ann, bob, safe",
            "Accepted   production/1.1, signed by ann (SHA256:",
            "no release below 1.1 is taken, whoever signs it",
            "Floor      none in trust.toml",
            "Freshness  ",
            "Last look  accepted",
        ],
        &["! "],
    );
    let fresh = said["freshness"].as_str().unwrap();
    assert!(["fresh", "unknown"].contains(&fresh), "by a clock that nobody keeps it may not be certain: {fresh}");
    assert_eq!((&said["copies"], &said["lastLook"]["verdict"]), (&2.into(), &"accepted".into()));

    // Somebody is to keep it alive, and names a release that is not served.
    let alive = repo.object("tag", &host.say(2).alive(&[host.bob()]));
    repo.git(&["update-ref", "refs/trimtab/production.alive", &alive.to_string()]);
    sandbox.once();
    explained(
        sandbox,
        &["Alive      1.2 was the newest", "Freshness  withheld", "find out why the source does not serve the newer one"],
        &[],
    );

    // Below the threshold: what was accepted stays, and what was looked at last is told.
    sandbox.revise("two\n");
    host.say(2).release(repo, &[host.ann()]);
    assert_eq!(sandbox.once().outcome, Outcome::Held);
    explained(
        sandbox,
        &["Accepted   production/1.1", "Last look  below-threshold: ", "signed by ann (1 of 2)", "--countersign"],
        &[],
    );

    // Rotated, and the release that brought the root is taken.
    let keys = [("ann", host.ann()), ("safe", host.safe())];
    let both: &[&str] = &["ann", "safe"];
    let next = RootText { version: 2, ..RootText::new(&keys, &[("root", 2, both), ("release.production", 2, both)]) };
    next.write(repo, &[host.ann(), host.safe()]);
    sandbox.revise("three\n");
    host.release(3);
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    let said = explained(
        sandbox,
        &["Root       2 (epoch 1)", "takes 2 of ann, safe", "Accepted   production/1.3", "judged under root 2"],
        &["bob ("],
    );
    assert_eq!(said["root"]["version"], 2);

    // The source is away.
    let away = sandbox.folder.path().join("away");
    fs::rename(repo.path().join(".git"), &away).unwrap();
    sandbox.once();
    explained(sandbox, &["Accepted   production/1.3", "Last look  not reached: "], &[]);
    fs::rename(&away, repo.path().join(".git")).unwrap();

    // Time that has certainly passed: no clock is asked.
    let expires = explained(sandbox, &[], &[])["release"]["expires"].as_u64().unwrap();
    let good = fs::read_to_string(&copies(sandbox)[0]).unwrap();
    let mut memory: Value = serde_json::from_str(&good).unwrap();
    memory["time-floor"] = (expires + 1).into();
    for copy in copies(sandbox) {
        fs::write(copy, memory.to_string()).unwrap();
    }
    explained(sandbox, &["Freshness  expired (it has run out): what it brought stays in force; a new release"], &[]);

    // One copy, none, and what comes of that.
    fs::write(&copies(sandbox)[0], &good[..good.len() / 2]).unwrap();
    fs::write(&copies(sandbox)[1], &good).unwrap();
    explained(
        sandbox,
        &["! ", "var/lib/trimtab/trust-state.json: ", "1 of 2 copies", "Accepted   production/1.3"],
        &["Nothing of what"],
    );
    fs::write(&copies(sandbox)[1], "{").unwrap();
    explained(sandbox, &["Nothing was accepted yet", "! Nothing of what this host remembered can be read", "require-state"], &[]);
    sandbox.once();
    let said = explained(sandbox, &["Accepted   production/1.3", "! An earlier memory was lost"], &["can be read"]);
    assert!(said["lost"].as_u64().is_some() && said["copies"] == 2, "{said}");
}

#[test]
fn another_channel_in_trust_toml_is_not_explained_with_the_old_one_s_releases() {
    let host = Released::new("");
    host.release(4);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    let trust = host.sandbox.root().join("etc/trimtab/trust.toml");
    let text = fs::read_to_string(&trust).unwrap();
    fs::write(&trust, text.replace("\"production\"", "\"staging\"")).unwrap();
    let said = explained(
        &host.sandbox,
        &[
            "follows the channel staging",
            "nobody may release to staging: add [release.staging]",
            "Before     production/1.4",
            "says nothing about this one",
        ],
        &["no release below", "Freshness"],
    );
    assert_eq!(said["freshness"], Value::Null);
    fs::write(&trust, text.replace("root.toml\"\n", "root.toml\"\nmin-epoch = 1\nmin-seq = 4\non-stale = \"hold\"\n")).unwrap();
    explained(
        &host.sandbox,
        &["Floor      1.4 (min-epoch, min-seq)", "on-stale = \"hold\"", "Accepted   production/1.4"],
        &["Floor      none"],
    );
}

#[test]
fn a_host_in_commit_mode_says_whose_commits_count() {
    let sandbox = Sandbox::new("");
    explained(
        &sandbox,
        &["follows refs/heads/main", "Key        SHA256:", " person", "Nothing was accepted yet", "no expiry"],
        &["Last look"],
    );
    sandbox.once();
    let head = sandbox.repo.head().to_string();
    let said = explained(
        &sandbox,
        &[&format!("Accepted   {head}"), "signed by person (SHA256:", "only what descends from it", "Last look  accepted"],
        &[],
    );
    assert_eq!((&said["mode"], &said["commit"]), (&"commit".into(), &head.as_str().into()));
    sandbox.repo.write("components/one/files/etc/one.conf", "x\n");
    sandbox.repo.commit("unsigned", None);
    sandbox.once();
    explained(&sandbox, &[&format!("Accepted   {head}"), "Last look  unsigned: the commit is not signed"], &[]);
}
