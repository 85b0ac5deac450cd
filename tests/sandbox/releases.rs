//! A host in release mode, the whole program over HTTPS: it follows releases and rotations, refuses what is served again, and forgets nothing.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use gix_hash::ObjectId;
use trimtab::trust::statement::show_time;
use trimtab_model::report::Outcome;
use trimtab_model::status::{ConditionKind, Status, Truth};
use trimtab_tests::git::Key;
use trimtab_tests::release::{Hand, Mini, REPO_ID, RootText, Say};
use trimtab_tests::server::{Authority, GitServer, Tls};

use crate::Sandbox;

pub(crate) const DAY: u64 = 86_400;

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A sandbox whose host follows `production`, of which two of ann, bob and an offline key must sign releases.
pub(crate) struct Released {
    pub(crate) sandbox: Sandbox,
    server: GitServer,
    ann: Key,
    bob: Key,
    safe: Mini,
}

const ALL: &[&str] = &["ann", "bob", "safe"];

impl Released {
    pub(crate) fn new(more: &str) -> Self {
        let (sandbox, authority) = (Sandbox::new(""), Authority::new());
        let server = GitServer::start(sandbox.repo.path(), Tls::On(&authority));
        sandbox.repo.git(&["config", "uploadpack.allowFilter", "true"]);
        let released = Self { sandbox, server, ann: Key::new("ann"), bob: Key::new("bob"), safe: Mini::new() };
        let etc = released.sandbox.root().join("etc/trimtab");
        let write = |name: &str, text: String| fs::write(etc.join(name), text).unwrap();
        write("ca.pem", authority.pem().to_owned());
        let url = format!("{}/.git", released.server.url());
        write(
            "agent.toml",
            format!("[source]\nurl = \"{url}\"\nca-file = \"{}\"\n[host]\nname = \"box\"\n", etc.join("ca.pem").display()),
        );
        write("root.toml", released.root().text());
        released.trust(more);
        released.root().write(&released.sandbox.repo, &[released.ann(), released.safe()]);
        released.sandbox.push();
        released
    }

    pub(crate) fn trust(&self, more: &str) {
        let text = format!("mode = \"release\"\nchannel = \"production\"\nrepo = \"{REPO_ID}\"\nroot = \"root.toml\"\n{more}");
        fs::write(self.sandbox.root().join("etc/trimtab/trust.toml"), text).unwrap();
    }

    pub(crate) fn ann(&self) -> Hand<'_> {
        Hand::Ssh(&self.ann)
    }

    pub(crate) fn bob(&self) -> Hand<'_> {
        Hand::Ssh(&self.bob)
    }

    pub(crate) fn safe(&self) -> Hand<'_> {
        Hand::Mini(&self.safe)
    }

    pub(crate) fn root(&self) -> RootText<'_> {
        let keys = [("ann", self.ann()), ("bob", self.bob()), ("safe", self.safe())];
        RootText::new(&keys, &[("root", 2, ALL), ("release.production", 2, ALL), ("alive.production", 1, &["bob"])])
    }

    pub(crate) fn say(&self, seq: u64) -> Say {
        let mut say = Say::of(&self.sandbox.repo, "production", (1, seq));
        say.times = (show_time(now() - 60), show_time(now() + 60 * DAY));
        say
    }

    /// A release of what is checked out, by ann and the offline key.
    pub(crate) fn release(&self, seq: u64) -> ObjectId {
        self.say(seq).release(&self.sandbox.repo, &[self.safe(), self.ann()])
    }

    pub(crate) fn serve(&self, tag: ObjectId) {
        self.sandbox.repo.git(&["update-ref", "refs/trimtab/production", &tag.to_string()]);
    }

    pub(crate) fn status(&self) -> Status {
        self.sandbox.status().unwrap()
    }

    /// A pass that is held back with this verdict, and leaves the file as it was.
    #[track_caller]
    fn held(&self, verdict: &str, text: &str) {
        let pass = self.sandbox.once();
        assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Held, verdict), "{pass:?}");
        assert_eq!(self.sandbox.read("etc/one.conf"), text);
    }
}

#[test]
fn a_host_follows_releases_over_https_and_refuses_what_is_served_again() {
    let host = Released::new("");
    let one = host.release(1);
    let pass = host.sandbox.once();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Converged, "accepted"), "{pass:?}");
    assert!(pass.trust.signer.contains("ann (SHA256:") && pass.trust.signer.contains("safe (minisign:"), "{}", pass.trust.signer);
    let trust = host.status().trust;
    assert_eq!((trust.mode.as_str(), trust.epoch, trust.sequence, trust.root_version), ("release", Some(1), Some(1), Some(1)));
    assert!(trust.expires.unwrap() > now() && ["fresh", "unknown"].contains(&trust.freshness.as_str()), "{trust:?}");

    // A branch may move as it likes: nothing is deployed that is not released.
    host.sandbox.revise("two\n");
    host.server.reset();
    let pass = host.sandbox.once();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Unchanged, "unchanged"));
    println!(
        "a poll: {} request, {} up, {} down, cold, with TLS",
        host.server.requests(),
        host.server.bytes_up(),
        host.server.bytes_down()
    );
    assert_eq!(host.server.requests(), 1, "the alive statement is asked for with the release");

    let two = host.release(2);
    host.server.reset();
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    println!(
        "a release: {} requests, {} up, {} down, cold, with TLS",
        host.server.requests(),
        host.server.bytes_up(),
        host.server.bytes_down()
    );
    assert_eq!(host.sandbox.read("etc/one.conf"), "two\n");

    host.serve(one);
    host.held("rolled-back", "two\n");
    host.serve(two);
    assert_eq!(host.sandbox.once().outcome, Outcome::Unchanged);
    // The same statement under one signature more: nothing to render, and nothing to write.
    let remembered = || fs::metadata(host.sandbox.root().join("var/lib/trimtab/trust-state.json")).unwrap().modified().unwrap();
    let before = remembered();
    let text = host.sandbox.repo.content("tag", two);
    let more = host.sandbox.repo.object("tag", &[&text[..], &host.bob().block("git", &text)].concat());
    host.serve(more);
    let pass = host.sandbox.once();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str(), remembered()), (Outcome::Unchanged, "unchanged", before));
    // Another statement about the same commit renders nothing anew, and counts.
    host.release(3);
    let pass = host.sandbox.once();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Unchanged, "accepted"));
    assert_eq!(host.status().trust.sequence, Some(3));
    host.serve(two);
    host.held("rolled-back", "two\n");
}

#[test]
fn a_rotation_is_followed_and_remembered_though_its_release_is_refused() {
    let host = Released::new("");
    host.release(1);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    let keys = [("ann", host.ann()), ("safe", host.safe())];
    let both: &[&str] = &["ann", "safe"];
    let root = RootText { version: 2, ..RootText::new(&keys, &[("root", 2, both), ("release.production", 2, both)]) };
    root.write(&host.sandbox.repo, &[host.ann(), host.safe()]);
    host.sandbox.revise("two\n");
    host.say(2).release(&host.sandbox.repo, &[host.ann(), host.bob()]);
    host.held("below-threshold", "one\n");
    assert_eq!(host.status().trust.root_version, Some(2), "what was believed stays so");
    // A tree without root 2, by those who counted under root 1.
    host.sandbox.repo.git(&["checkout", "--quiet", "HEAD~1"]);
    host.say(3).release(&host.sandbox.repo, &[host.ann(), host.bob()]);
    host.held("below-threshold", "one\n");
    host.sandbox.repo.git(&["checkout", "--quiet", "main"]);
    host.release(4);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    assert_eq!(host.sandbox.read("etc/one.conf"), "two\n");
}

#[test]
fn a_lost_memory_falls_back_to_the_floor_and_is_told() {
    let host = Released::new("min-epoch = 1\nmin-seq = 2\n");
    let (one, two) = (host.release(1), host.release(2));
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    let copies =
        ["var/lib/trimtab/trust-state.json", "etc/trimtab/state/trust-state.json"].map(|path| host.sandbox.root().join(path));
    // One copy is enough, and both stand again.
    for copy in &copies {
        let text = fs::read_to_string(copy).unwrap();
        fs::write(copy, &text[..text.len() / 2]).unwrap();
        let pass = host.sandbox.once();
        assert!(pass.remarks.iter().any(|remark| remark.contains("one copy")), "{:?}", pass.remarks);
        assert_eq!(fs::read_to_string(copy).unwrap(), text);
    }
    let lose = |host: &Released| {
        host.serve(one);
        for copy in &copies {
            fs::write(copy, "{").unwrap();
        }
    };
    lose(&host);
    host.held("rolled-back", "one\n");
    let status = host.status();
    assert!(status.trust.state_lost);
    let stale = status.condition(ConditionKind::Stale).unwrap();
    assert_eq!((stale.status, stale.reason.as_str()), (Truth::True, "MemoryLost"));
    host.serve(two);
    assert_eq!(host.sandbox.once().trust.verdict, "accepted");
    assert!(host.status().trust.state_lost, "until a second release was accepted");
    host.sandbox.revise("three\n");
    host.release(3);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    assert!(!host.status().trust.state_lost);
    // What others could have written is not believed.
    for copy in &copies {
        let mode = |mode| fs::set_permissions(copy, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        mode(0o666);
        let (code, _, said) = host.sandbox.said(&["once"]);
        assert_eq!((code, said.contains("can be written by others")), (78, true), "{said}");
        mode(0o600);
    }
    // A later trimtab's memory is no damage and no loss: that trimtab is what must come back.
    let texts = copies.clone().map(|copy| fs::read(copy).unwrap());
    for copy in &copies {
        fs::write(copy, "{\"format\": 99, \"mode\": \"release\"}").unwrap();
    }
    let (code, _, said) = host.sandbox.said(&["once"]);
    assert_eq!((code, said.contains("install the newer trimtab again")), (78, true), "{said}");
    for (copy, text) in copies.iter().zip(texts) {
        fs::write(copy, text).unwrap();
    }
    // A host that is to wait for a person does, and leaves everything as it is.
    host.trust("require-state = true\n");
    lose(&host);
    let (code, _, said) = host.sandbox.said(&["once"]);
    assert_eq!((code, said.contains("min-seq")), (78, true), "{said}");
    assert_eq!(host.sandbox.read("etc/one.conf"), "three\n");
}

#[test]
fn a_copy_that_is_behind_lets_nothing_old_in() {
    let host = Released::new("");
    let one = host.release(1);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    let copies =
        ["var/lib/trimtab/trust-state.json", "etc/trimtab/state/trust-state.json"].map(|path| host.sandbox.root().join(path));
    let behind = fs::read(&copies[0]).unwrap();
    host.sandbox.revise("two\n");
    host.release(2);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    let newest = fs::read(&copies[0]).unwrap();
    // As of a file system that was put back to what it was yesterday.
    for copy in &copies {
        fs::write(copy, &behind).unwrap();
        host.serve(one);
        host.held("rolled-back", "two\n");
        assert_eq!(fs::read(copy).unwrap(), newest, "and both are the same again");
    }
}

#[test]
fn what_cannot_be_remembered_is_not_put_in_force() {
    let host = Released::new("");
    host.release(1);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    host.sandbox.revise("two\n");
    host.release(2);
    for folder in ["var/lib/trimtab", "etc/trimtab/state"] {
        // Something stands where this copy is written before it takes its name.
        let block = host.sandbox.root().join(folder).join(".trust-state.json.new");
        fs::create_dir(&block).unwrap();
        let pass = host.sandbox.once();
        assert_eq!((pass.outcome, host.sandbox.read("etc/one.conf").as_str()), (Outcome::Held, "one\n"), "{folder}: {pass:?}");
        assert!(pass.failures.iter().any(|failure| failure.resource == "trust state"), "{folder}: {:?}", pass.failures);
        fs::remove_dir(&block).unwrap();
    }
    assert_eq!((host.sandbox.once().outcome, host.sandbox.read("etc/one.conf").as_str()), (Outcome::Converged, "two\n"));
    // Another statement about what is in force changes nothing, and is not told as accepted before it is remembered.
    let block = host.sandbox.root().join("etc/trimtab/state/.trust-state.json.new");
    fs::create_dir(&block).unwrap();
    host.release(3);
    let pass = host.sandbox.once();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Held, "unchanged"), "{pass:?}");
    fs::remove_dir(&block).unwrap();
}

#[test]
fn what_runs_out_is_told_and_stays() {
    let host = Released::new("");
    let mut say = host.say(1);
    let end = now() + 3;
    say.times.1 = show_time(end);
    say.release(&host.sandbox.repo, &[host.safe(), host.ann()]);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    crate::until("it has run out", || now() > end);
    let pass = host.sandbox.once();
    assert_eq!((pass.outcome, host.sandbox.read("etc/one.conf").as_str()), (Outcome::Unchanged, "one\n"));
    // By a clock that nobody keeps it is not certain.
    assert!(["expired", "unknown"].contains(&host.status().trust.freshness.as_str()), "{:?}", host.status().trust);
    host.trust("");
    fs::write(host.sandbox.root().join("etc/one.conf"), "drift\n").unwrap();
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    assert_eq!(host.sandbox.read("etc/one.conf"), "one\n", "it is held on the last good state");
}

#[test]
fn a_host_that_followed_releases_does_not_go_back_to_commits() {
    let host = Released::new("");
    host.release(1);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    let keys = format!("mode = \"commit\"\nbranch = \"main\"\nkeys = [\"{}\"]\n", host.sandbox.key.line());
    fs::write(host.sandbox.root().join("etc/trimtab/trust.toml"), &keys).unwrap();
    let (code, _, said) = host.sandbox.said(&["once"]);
    assert_eq!((code, said.contains("loosen")), (78, true), "{said}");

    // Nor does a running agent that is told to read its configuration again: it goes on as before, and says why.
    host.trust("");
    let toml = host.sandbox.root().join("etc/trimtab/agent.toml");
    let text = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, text + "[agent]\ninterval = \"1h\"\nretry-interval = \"1h\"\nretry-max = \"1h\"\n").unwrap();
    let agent = host.sandbox.agent();
    let last = || host.sandbox.status().and_then(|status| status.last_pass);
    crate::until("it runs", || host.sandbox.status().is_some_and(|status| status.agent_pid == agent.0.id()));
    host.sandbox.revise("two\n");
    fs::write(host.sandbox.root().join("etc/trimtab/trust.toml"), keys).unwrap();
    let before = last().unwrap().number;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    crate::until("it has looked again", || last().is_some_and(|pass| pass.number > before));
    let pass = last().unwrap();
    assert!(pass.failures.iter().any(|failure| failure.message.contains("loosen")), "{pass:?}");
    assert_eq!((pass.outcome, host.sandbox.read("etc/one.conf").as_str()), (Outcome::Partial, "one\n"));
}

/// R35 on the whole program: enrolled on a repository that only says that it is the right one, and told the right root since.
#[test]
fn a_corrected_pin_is_heeded_at_once_and_told() {
    let host = Released::new("");
    host.release(7);
    let etc = host.sandbox.root().join("etc/trimtab");
    let eve = Key::new("eve");
    let evil = trimtab_tests::git::Repo::new();
    let one: &[&str] = &["eve"];
    let root = RootText::new(&[("eve", Hand::Ssh(&eve))], &[("root", 1, one), ("release.production", 1, one)]);
    for path in ["fleet.toml", "components/one/files/etc/one.conf", "components/two/files/etc/two.conf"] {
        evil.write(path, fs::read(host.sandbox.repo.path().join(path)).unwrap());
    }
    evil.write("components/one/files/etc/one.conf", "eve's\n");
    root.write(&evil, &[Hand::Ssh(&eve)]);
    evil.commit("hers", None);
    let hers = |seq| Say { times: host.say(1).times, ..Say::of(&evil, "production", (1, seq)) }.release(&evil, &[Hand::Ssh(&eve)]);
    let right = fs::read_to_string(etc.join("agent.toml")).unwrap();
    let from = |path: &std::path::Path| format!("[source]\nurl = \"{}\"\n[host]\nname = \"box\"\n", path.display());
    fs::write(etc.join("agent.toml"), from(evil.path())).unwrap();
    fs::write(etc.join("root.toml"), root.text()).unwrap();
    hers(1 << 40);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    assert_eq!(host.sandbox.read("etc/one.conf"), "eve's\n");
    // The pin is put right, and the URL not yet.
    fs::write(etc.join("root.toml"), host.root().text()).unwrap();
    hers((1 << 40) + 1);
    host.held("unknown-signer", "eve's\n");
    fs::write(etc.join("agent.toml"), right).unwrap();
    let pass = host.sandbox.once();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Converged, "accepted"), "{pass:?}");
    assert!(pass.remarks.iter().any(|remark| remark.contains("counts no more")), "{:?}", pass.remarks);
    assert_eq!(host.sandbox.read("etc/one.conf"), "one\n");
    let trust = host.status().trust;
    assert_eq!((trust.sequence, trust.statement.is_some(), trust.root_digest.is_some()), (Some(7), true, true));
}

/// A copy of all that a host is.
pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

#[test]
fn a_power_cut_between_what_is_remembered_and_what_is_done() {
    let host = Released::new("");
    host.release(1);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    let before = host.sandbox.folder.path().join("before");
    copy(&host.sandbox.root(), &before);
    host.sandbox.revise("two\n");
    let two = host.release(2);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    let copies = ["var/lib/trimtab/trust-state.json", "etc/trimtab/state/trust-state.json"];
    let remembered = copies.map(|path| fs::read(host.sandbox.root().join(path)).unwrap());
    // After the first copy, and after both: nothing of the host is changed yet, but what it remembers.
    for written in 1..=2 {
        fs::remove_dir_all(host.sandbox.root()).unwrap();
        copy(&before, &host.sandbox.root());
        for (path, text) in copies.iter().zip(&remembered).take(written) {
            fs::write(host.sandbox.root().join(path), text).unwrap();
        }
        // What was accepted before is not gone back to, and what was accepted is put in force.
        host.release(1);
        host.held("rolled-back", "one\n");
        host.serve(two);
        let pass = host.sandbox.once();
        assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Converged, "unchanged"), "{pass:?}");
        assert_eq!(host.sandbox.read("etc/one.conf"), "two\n");
    }
}

#[test]
fn two_hosts_that_are_told_different_things_report_it() {
    // The same people, keys and repository; the server shows one of them the newest release and keeps it from the other.
    let host = Released::new("");
    let toml = host.sandbox.root().join("etc/trimtab/agent.toml");
    let text = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, text + "[[sink]]\nname = \"ops\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:9/hook\"\nallow-http = true\n")
        .unwrap();
    let twin = host.sandbox.folder.path().join("twin");
    copy(&host.sandbox.root(), &twin);
    let told = |root: &std::path::Path| {
        let mut trimtab = std::process::Command::new(trimtab_tests::trimtab_binary());
        let output = trimtab.arg("--root").arg(root).args(["once", "--json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
        let reports = fs::read_dir(root.join("var/lib/trimtab/spool")).unwrap().flatten().map(|entry| entry.path());
        let newest = reports.filter(|path| path.extension().is_some_and(|end| end == "report")).max().unwrap();
        // Four lines of signature, then the report.
        let text = fs::read_to_string(newest).unwrap();
        let report: serde_json::Value = serde_json::from_str(text.splitn(5, '\n').last().unwrap()).unwrap();
        let trust = &report["status"]["trust"];
        let text = |name: &str| trust[name].as_str().unwrap().to_owned();
        let place = (trust["epoch"].as_u64(), trust["sequence"].as_u64());
        (place.0, place.1, text("revision"), text("statement"), text("rootDigest"))
    };
    host.release(4);
    let there = told(&twin);
    assert_eq!((there.0, there.1), (Some(1), Some(4)));
    // The other one is told another release with the same number over the same commit: only the digests tell them apart.
    let mut say = host.say(4);
    say.more = "x-for: the other one\n".to_owned();
    say.release(&host.sandbox.repo, &[host.safe(), host.ann()]);
    let here = told(&host.sandbox.root());
    assert_eq!((here.0, here.1, &here.2, &here.4), (there.0, there.1, &there.2, &there.4));
    assert_ne!(here.3, there.3);
    host.sandbox.revise("two\n");
    host.release(5);
    let newer = told(&host.sandbox.root());
    assert_eq!((newer.0, newer.1), (Some(1), Some(5)));
    assert_ne!(newer.2, there.2);
}

#[test]
fn an_alive_statement_that_names_a_newer_release_shows_that_it_is_withheld() {
    let host = Released::new("");
    host.release(1);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    let alive = |seq| {
        let tag = host.sandbox.repo.object("tag", &host.say(seq).alive(&[host.bob()]));
        host.sandbox.repo.git(&["update-ref", "refs/trimtab/production.alive", &tag.to_string()]);
        assert_eq!(host.sandbox.once().outcome, Outcome::Unchanged);
        let status = host.status();
        let stale = status.condition(ConditionKind::Stale).unwrap();
        (status.trust.freshness.clone(), stale.reason.clone())
    };
    let (freshness, reason) = alive(1);
    assert!(["fresh", "unknown"].contains(&freshness.as_str()) && reason == "Heard", "{freshness} {reason}");
    assert_eq!(alive(2), ("withheld".to_owned(), "Withheld".to_owned()));
    assert_eq!(host.sandbox.read("etc/one.conf"), "one\n");
    // When it is served, all is well.
    host.sandbox.revise("two\n");
    host.release(2);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    assert_ne!(host.status().trust.freshness, "withheld");
}
