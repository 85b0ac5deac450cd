//! `trimtab trust`, `release` and `verify` at a desk: real git, ssh-keygen, ssh-agent and minisign. The straight way is told on
//! `examples/trust/README.md` and run by `tests/examples`; here is the way of one person, and every wrong turn.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use trimtab_tests::git::{Key, command, run};
use trimtab_tests::server::{Authority, GitServer, Tls};
use trimtab_tests::trimtab_binary;

use crate::Agent;

mod strangers;

/// A clone with a fleet in it, its bare remote, and a home whose owner has no habits.
pub(crate) struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["home", "tmp"] {
            std::fs::create_dir(desk.path(name)).unwrap();
        }
        for (name, bare) in [("remote.git", "--bare"), ("clone", "--quiet")] {
            desk.run("git", &["init", "--quiet", bare, "--initial-branch=main", name]);
        }
        desk.git(&["remote", "add", "origin", desk.path("remote.git").to_str().unwrap()]);
        desk.write("fleet.toml", "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"one\"]\n");
        desk.write("hosts/kiosk-1.toml", "");
        desk.commit("components/one/files/etc/one.conf", "one\n");
        desk
    }

    /// A desk whose root is one key.
    pub(crate) fn with_root(key: &Key) -> Self {
        let desk = Self::new();
        desk.good(&["trust", "init", "--key", &format!("ann={}", key.line()), "--sign", &signing(key)]);
        desk.commit("note", "root 1\n");
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path("clone").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn run(&self, program: &str, words: &[&str]) -> String {
        let said = run(command(program, &self.path("home")).current_dir(self.folder.path()).args(words), b"");
        String::from_utf8_lossy(&said).trim_end().to_owned()
    }

    pub(crate) fn git(&self, words: &[&str]) -> String {
        self.run("git", &[&["-C", self.path("clone").to_str().unwrap()], words].concat())
    }

    pub(crate) fn commit(&self, path: &str, text: &str) -> String {
        self.write(path, text);
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "-m", text.trim()]);
        self.git(&["push", "--quiet", "origin", "HEAD:main"]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub(crate) fn trimtab(&self, words: &[&str]) -> Command {
        let mut trimtab = command(trimtab_binary().to_str().unwrap(), &self.path("home"));
        trimtab.current_dir(self.path("clone")).env("TMPDIR", self.path("tmp")).args(words).stdin(Stdio::null());
        trimtab
    }

    /// Exit code, and all that was said.
    pub(crate) fn said(&self, words: &[&str]) -> (i32, String) {
        let output = self.trimtab(words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    #[track_caller]
    pub(crate) fn good(&self, words: &[&str]) -> String {
        let (code, said) = self.said(words);
        assert_eq!(code, 0, "{words:?}: {said}");
        said
    }

    /// What is refused says each of these.
    #[track_caller]
    pub(crate) fn refused(&self, words: &[&str], says: &[&str]) {
        let (code, said) = self.said(words);
        assert!(code == 1 && says.iter().all(|one| said.contains(one)), "{words:?}: {code} {says:?}\n{said}");
    }

    pub(crate) fn pin(&self) -> String {
        let shown: Value = serde_json::from_str(&self.good(&["trust", "show", "--json"])).unwrap();
        shown["pin"].as_str().unwrap().to_owned()
    }

    /// What `verify` answers: exit code, verdict, and the rules that do not hold.
    pub(crate) fn verify(&self, words: &[&str]) -> (i32, String, Vec<String>) {
        let remote = self.path("remote.git");
        let all = [&["verify", remote.to_str().unwrap(), "--channel", "production", "--json"], words].concat();
        let output = self.trimtab(&all).output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let broken = said["steps"].as_array().unwrap().iter().filter(|step| step["ok"] == false);
        let broken = broken.map(|step| step["rule"].as_str().unwrap().to_owned()).collect();
        (output.status.code().unwrap(), said["verdict"].as_str().unwrap().to_owned(), broken)
    }

    /// Who could answer in the remote's name: moves one of its references.
    pub(crate) fn serve(&self, reference: &str, object: &str) {
        self.run("git", &["-C", self.path("remote.git").to_str().unwrap(), "update-ref", reference, object]);
    }

    pub(crate) fn served(&self, reference: &str) -> String {
        self.run("git", &["-C", self.path("remote.git").to_str().unwrap(), "for-each-ref", "--format=%(objectname)", reference])
    }
}

pub(crate) const PRODUCTION: &str = "refs/trimtab/production";
pub(crate) const DRAFT: &str = "refs/trimtab/draft/production";

pub(crate) fn signing(key: &Key) -> String {
    format!("ssh:{}", key.path().display())
}

pub(crate) fn public(key: &Key) -> String {
    format!("{}.pub", key.path().display())
}

#[test]
fn one_person_with_one_key_in_an_agent_needs_three_commands() {
    let (desk, key) = (Desk::new(), Key::new("ann"));
    desk.refused(&["release", "production"], &["there is no .trimtab/root/1.toml", "trimtab trust init"]);
    // The secret half is in the agent only.
    let socket = desk.path("agent.sock");
    let agent = Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    let agent = Agent(agent);
    // The socket has a name before anybody listens there; ssh-add ends with 2 until then.
    let add = || command("ssh-add", desk.folder.path()).env("SSH_AUTH_SOCK", &socket).arg("-q").arg(key.path()).output().unwrap();
    crate::until("the agent has the key", || add().status.success());
    let only_public = desk.path("ann.pub");
    std::fs::write(&only_public, format!("{}\n", key.line())).unwrap();
    desk.git(&["config", "gpg.format", "ssh"]);
    desk.git(&["config", "user.signingkey", only_public.to_str().unwrap()]);
    let with_agent = |words: &[&str]| {
        let output = desk.trimtab(words).env("SSH_AUTH_SOCK", &socket).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = with_agent(&["trust", "init", "--key", &format!("ann={}", only_public.display())]);
    assert!(said.contains("complete") && said.contains("release to production:       ann"), "{said}");
    desk.commit("note", "root 1\n");
    let said = with_agent(&["release", "production", "--push", "--json"]);
    drop(agent);
    let (_, json) = said.split_once('{').map(|(before, rest)| (before, format!("{{{rest}"))).unwrap();
    let said: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&said["complete"], &said["seq"], &said["pushed"]), (&true.into(), &1.into(), &PRODUCTION.into()), "{said}");
    assert_eq!(said["preview"][0]["who"], serde_json::json!(["host kiosk-1"]), "{said}");
    assert_eq!(desk.verify(&["--root-digest", &desk.pin()]), (0, "accepted".to_owned(), vec![]));

    // git is of the same mind.
    let signers = desk.path("signers");
    std::fs::write(&signers, format!("ann {}\n", key.line())).unwrap();
    let allowed = format!("gpg.ssh.allowedSignersFile={}", signers.display());
    desk.run(
        "git",
        &["-C", desk.path("remote.git").to_str().unwrap(), "-c", "gpg.format=ssh", "-c", &allowed, "verify-tag", PRODUCTION],
    );
}

#[test]
fn wrong_turns_with_numbers_and_commits_are_refused_and_publish_nothing() {
    let key = Key::new("ann");
    let (desk, sign) = (Desk::with_root(&key), signing(&key));
    let first = desk.git(&["rev-parse", "HEAD"]);
    let release = |words: &[&str]| {
        [&["release", "production", "--sign", &sign], words].concat().iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let refused = |words: &[&str], says: &[&str]| {
        let (words, before) = (release(words), desk.served("refs/trimtab"));
        desk.refused(&words.iter().map(String::as_str).collect::<Vec<_>>(), says);
        assert_eq!(desk.served("refs/trimtab"), before, "{words:?}");
    };
    let good = |words: &[&str]| desk.good(&release(words).iter().map(String::as_str).collect::<Vec<_>>());

    refused(&["--push", "--remote", "elsewhere"], &["no remote \"elsewhere\"", "--remote NAME"]);
    refused(&["no-such-revision"], &["no commit \"no-such-revision\""]);
    refused(&["--countersign"], &["no unfinished statement for production", "trimtab release production"]);
    let (code, said) = desk.said(&["release", "draft", "--sign", &sign]);
    assert!(code == 64 && said.contains("neither `draft` nor `status`"), "{code} {said}");
    desk.refused(
        &["release", "nightly", "--sign", &sign],
        &["has no [release.nightly]", "it has production", "--channel nightly=N"],
    );
    refused(&["--alive", "--push"], &["nothing was released to production yet"]);
    refused(&["--expires", "0s"], &["--expires must be at least a second"]);

    good(&["--push"]);
    refused(&["--alive", "--push"], &["has no [alive.production]", "trust rotate --alive production=KEY"]);
    let second = desk.commit("components/one/files/etc/one.conf", "two\n");
    good(&["--push"]);
    // Behind what is in force: a stale clone, and no rollback by mistake.
    refused(&[&first, "--push"], &["does not contain", "production/1.2", "--rollback-to"]);
    let third = desk.commit("components/one/files/etc/one.conf", "three\n");
    refused(&["--rollback-to", &third, "--push"], &["is not older than", "without --rollback-to"]);
    let said = good(&["--rollback-to", &first, "--push"]);
    assert!(said.contains("production/1.3") && said.contains("- ") && said.contains("two"), "{said}");

    // A fleet that hosts could not use is not signed.
    desk.commit("fleet.toml", "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"gone\"]\n");
    refused(&["--push"], &["gone"]);
    desk.git(&["reset", "--quiet", "--hard", &second]);
    desk.git(&["push", "--quiet", "--force", "origin", "HEAD:main"]);

    // The remote is taken back to an older release: said, and the numbers go on behind the newest that was ever seen.
    let newest = desk.served(PRODUCTION);
    desk.git(&["fetch", "--quiet", "origin", "+refs/trimtab/*:refs/kept/*"]);
    desk.run("git", &["-C", desk.path("remote.git").to_str().unwrap(), "update-ref", "-d", PRODUCTION]);
    let said = good(&[]);
    assert!(said.contains("the remote serves nothing: somebody took it back"), "{said}");
    assert!(said.contains("production/1.4: commit"), "{said}");
    desk.serve(PRODUCTION, &newest);
    // Made before somebody else's release: overtaken, and never published.
    let pending = desk.git(&["rev-parse", DRAFT]);
    good(&["--push"]);
    desk.git(&["update-ref", DRAFT, &pending]);
    desk.refused(&["release", "production", "--draft", "--push"], &["production/1.4 is overtaken: production/1.5 is in force"]);
}

#[test]
fn signatures_that_do_not_count_are_not_added() {
    let (ann, bob, eve) = (Key::new("ann"), Key::new("bob"), Key::new("eve"));
    let desk = Desk::new();
    let (of_ann, of_bob) = (format!("ann={}", public(&ann)), format!("bob={}", public(&bob)));
    desk.refused(&["trust", "init", "--key", &format!("ann={}", ann.path().display())], &["is a secret key"]);
    desk.refused(&["trust", "init", "--key", &of_ann, "--key", &format!("two={}", public(&ann))], &["is called \"ann\" too"]);
    desk.refused(&["trust", "init", "--key", &of_ann, "--threshold", "2"], &["cannot be met"]);
    desk.refused(
        &["trust", "init", "--key", &of_ann, "--sign", &signing(&eve)],
        &["root 1 takes signatures by ann", "trust rotate --add"],
    );
    // A key that is named for something in particular replaces no root, if nobody says so.
    desk.refused(
        &["trust", "init", "--key", &of_ann, "--key", &of_bob, "--alive", "production=ann", "--sign", &signing(&ann)],
        &["root 1 takes signatures by bob", "this one is by ann (SHA256:", "--root-keys"],
    );
    assert!(!desk.path("clone/.trimtab").exists(), "nothing of it is left");
    desk.good(&["trust", "init", "--key", &of_ann, "--key", &of_bob, "--sign", &signing(&ann)]);
    desk.refused(&["trust", "init", "--key", &of_ann], &["is there already", "trust rotate"]);
    desk.refused(&["trust", "sign", "--sign", &signing(&ann)], &["ann has signed root 1 already"]);
    desk.commit("note", "half a root\n");
    desk.refused(&["release", "production"], &["root 1 is not signed by enough", "2 of ann, bob", "ann has", "trust sign"]);
    desk.refused(&["trust", "rotate", "--remove", "ann"], &["root 1 is not signed by enough", "One root at a time"]);
    desk.good(&["trust", "sign", "--sign", &signing(&bob)]);
    desk.commit("note", "root 1\n");

    let release = ["release", "production", "--push", "--sign"];
    desk.refused(
        &[&release[..], &[&signing(&eve)]].concat(),
        &["a release to production takes signatures by ann", "and this one is by SHA256:"],
    );
    desk.good(&[&release[..], &[&signing(&ann)]].concat());
    let draft = desk.served(DRAFT);
    assert!(!draft.is_empty() && desk.served(PRODUCTION).is_empty(), "one of two is where no host looks");
    let again = ["release", "production", "--countersign", "--push", "--sign"];
    desk.refused(&[&again[..], &[&signing(&ann)]].concat(), &["ann has signed this already", "somebody else has to"]);
    desk.refused(&["release", "production", "--countersign"], &["no key to sign with", "bob"]);

    // A signature over something else, and one over this that was altered since.
    let attach = |name: &str, content: &[u8]| {
        let file = desk.path(name);
        std::fs::write(&file, content).unwrap();
        ["release", "production", "--push", "--attach", file.to_str().unwrap()].map(str::to_owned)
    };
    let words = attach("other.sig", &bob.sign("git", b"something else\n"));
    desk.refused(&words.each_ref().map(String::as_str), &["does not fit what is to be signed", "--export"]);
    // A newer one was made here and not pushed: the older one at the remote was given up by that.
    desk.good(&["release", "production", "--sign", &signing(&ann)]);
    let said = desk.good(&["release", "production", "--draft"]);
    assert!(said.contains("production/1.2: commit") && desk.served(DRAFT) == draft, "{said}");
    let statement = desk.path("statement");
    desk.good(&["release", "production", "--export", statement.to_str().unwrap()]);
    let exported = std::fs::read(&statement).unwrap();
    let words = attach("file.sig", &bob.sign("file", &exported));
    desk.refused(&words.each_ref().map(String::as_str), &["made for \"file\""]);
    let words = attach("none.sig", b"hello\n");
    desk.refused(&words.each_ref().map(String::as_str), &["this is no signature"]);
    assert!(desk.served(PRODUCTION).is_empty() && desk.served(DRAFT) == draft, "nothing moved");
    let words = attach("good.sig", &bob.sign("git", &exported));
    desk.good(&words.each_ref().map(String::as_str));
    assert!(!desk.served(PRODUCTION).is_empty() && desk.served(DRAFT).is_empty());
    assert_eq!(desk.verify(&["--root-digest", &desk.pin()]).0, 0);
}

#[test]
fn a_rotation_is_carried_by_every_later_release_and_epochs_begin_anew() {
    let (ann, bob) = (Key::new("ann"), Key::new("bob"));
    let desk = Desk::with_root(&ann);
    let pin = desk.pin();
    let old = desk.git(&["rev-parse", "HEAD"]);
    desk.good(&["release", "production", "--push", "--sign", &signing(&ann)]);
    desk.refused(&["trust", "rotate"], &["nothing would change"]);
    desk.refused(&["trust", "rotate", "--remove", "zoe"], &["root 1 has no key \"zoe\"; it has ann"]);
    desk.refused(&["trust", "revoke", "ann"], &["it takes 1 keys to replace the root, and 0 would be left", "--add"]);
    let add = format!("bob={}", public(&bob));
    let said = desk.good(&["trust", "rotate", "--add", &add, "--alive", "production=bob", "--sign", &signing(&ann)]);
    assert!(said.contains("keep production alive:       bob") && !said.contains("release to production:       ann, bob"), "{said}");
    desk.commit("note", "root 2\n");
    desk.good(&["release", "production", "--push", "--sign", &signing(&ann)]);
    // Without root 2 in it, a host that slept could not follow.
    desk.refused(
        &["release", "production", "--rollback-to", &old, "--sign", &signing(&ann)],
        &["root 2 is in force", "git restore --source"],
    );
    assert_eq!(desk.verify(&["--root-digest", &pin]), (0, "accepted".to_owned(), vec![]), "from root 1 on, in one look");

    // An alive statement: by its own key, about the release in force.
    desk.refused(
        &["release", "production", "--alive", "--push", "--sign", &signing(&ann)],
        &["an alive statement of production takes signatures by bob", "this one is by ann (SHA256:", "--alive"],
    );
    let said = desk.good(&["release", "production", "--alive", "--expires", "1d", "--push", "--sign", &signing(&bob)]);
    assert!(said.contains("production/1.2 is the newest release") && said.contains("refs/trimtab/production.alive"), "{said}");
    assert_eq!(desk.verify(&["--root-digest", &pin]), (0, "accepted".to_owned(), vec![]));

    // Stolen: another key, another epoch, and whatever was signed before is worth nothing.
    let stolen = desk.served(PRODUCTION);
    let unused = Key::new("x");
    let add = format!("ann2={}", public(&unused));
    let said = desk.good(&["trust", "revoke", "ann", "--add", &add, "--new-epoch", "--no-sign"]);
    assert!(said.contains("is of an older epoch and stops being accepted") && said.contains("not complete"), "{said}");
    std::fs::remove_file(desk.path("clone/.trimtab/root/3.toml")).unwrap();
    let new = Key::new("ann");
    let add = format!("ann2={}", public(&new));
    desk.good(&["trust", "revoke", "ann", "--add", &add, "--new-epoch", "--sign", &signing(&ann), "--sign", &signing(&new)]);
    desk.commit("note", "root 3\n");
    let said = desk.good(&["release", "production", "--push", "--sign", &signing(&new)]);
    assert!(said.contains("production/2.1: commit"), "{said}");
    assert_eq!(desk.verify(&["--root-digest", &pin]).0, 0);
    // As a host that has seen root 3 looks at what the thief has.
    let (root, trust) = (desk.path("host"), desk.path("remote.git"));
    desk.good(&[
        "--root",
        root.to_str().unwrap(),
        "init",
        "--mode",
        "release",
        "--channel",
        "production",
        "--root-file",
        ".trimtab/root/3.toml",
        "--url",
        trust.to_str().unwrap(),
    ]);
    desk.serve(PRODUCTION, &stolen);
    let file = root.join("etc/trimtab/trust.toml");
    let output = desk.trimtab(&["verify", trust.to_str().unwrap(), "--trust", file.to_str().unwrap(), "--json"]).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &said["accepted"]), (Some(3), &false.into()), "{said}");
}

#[test]
fn verify_names_the_rule_that_is_broken() {
    let (ann, bob) = (Key::new("ann"), Key::new("bob"));
    let desk = Desk::new();
    let (of_ann, of_bob) = (format!("ann={}", public(&ann)), format!("bob={}", public(&bob)));
    let channels = ["--channel", "production=2", "--channel", "staging=1"];
    let keys = ["trust", "init", "--key", &of_ann, "--key", &of_bob, "--sign", &signing(&ann), "--sign", &signing(&bob)];
    desk.good(&[&keys[..], &channels].concat());
    desk.commit("note", "root 1\n");
    let pin = desk.pin();
    let judged = |words: &[&str]| {
        let (code, verdict, broken) = desk.verify(&[&["--root-digest", &pin], words].concat());
        (code, verdict, broken.join(" "))
    };
    let outcome = |code, verdict: &str, broken: &str| (code, verdict.to_owned(), broken.to_owned());
    assert_eq!(judged(&[]), outcome(3, "missing", "reference"));

    // One of two, and the other channel's: each where hosts of production look.
    desk.good(&["release", "production", "--push", "--sign", &signing(&ann)]);
    desk.serve(PRODUCTION, &desk.served(DRAFT));
    assert_eq!(judged(&[]), outcome(3, "below-threshold", "signatures"));
    desk.good(&["release", "staging", "--push", "--sign", &signing(&ann), "--sign", &signing(&bob)]);
    desk.serve(PRODUCTION, &desk.served("refs/trimtab/staging"));
    assert_eq!(judged(&[]), outcome(3, "wrong-channel", "channel"));
    // A commit, and a tag that says nothing.
    desk.serve(PRODUCTION, &desk.git(&["rev-parse", "HEAD"]));
    assert_eq!(judged(&[]), outcome(3, "not-a-tag", "tag"));
    desk.git(&["tag", "-a", "-m", "hello", "hello"]);
    desk.git(&["push", "--quiet", "--force", "origin", &format!("refs/tags/hello:{PRODUCTION}")]);
    assert_eq!(judged(&[]), outcome(3, "not-a-release", "tag"));
    desk.run("git", &["-C", desk.path("remote.git").to_str().unwrap(), "update-ref", "-d", PRODUCTION]);

    desk.good(&["release", "production", "--push", "--sign", &signing(&ann), "--sign", &signing(&bob)]);
    assert_eq!(judged(&[]), outcome(0, "accepted", ""));
    let shown: Value =
        serde_json::from_str(&desk.good(&["trust", "show", desk.path("remote.git").to_str().unwrap(), "--json"])).unwrap();
    assert_eq!((&shown["pin"], &shown["complete"]), (&pin.as_str().into(), &true.into()));
    // One byte of what was signed.
    let good = desk.served(PRODUCTION);
    let bytes =
        run(command("git", desk.folder.path()).arg("-C").arg(desk.path("remote.git")).args(["cat-file", "tag", &good]), b"");
    let altered = String::from_utf8(bytes).unwrap().replace("channel: production\n", "channel: producti0n\n");
    let mut store = command("git", desk.folder.path());
    store.arg("-C").arg(desk.path("remote.git")).args(["hash-object", "-t", "tag", "-w", "--stdin"]);
    let altered = String::from_utf8(run(&mut store, altered.as_bytes())).unwrap();
    desk.serve(PRODUCTION, altered.trim());
    assert_eq!(judged(&[]), outcome(3, "forged", "signatures channel name"));
    desk.serve(PRODUCTION, &good);

    // Where trust begins: it must be said, and what is pinned must be there.
    let remote = desk.path("remote.git");
    desk.refused(&["verify", remote.to_str().unwrap(), "--channel", "production"], &["where does trust begin?", "--tofu"]);
    let other = format!("sha256:{}", "0".repeat(64));
    desk.refused(
        &["verify", remote.to_str().unwrap(), "--channel", "production", "--root-digest", &other],
        &["no root file of the repository has the digest", &pin],
    );
    assert_eq!(desk.verify(&["--tofu"]).0, 0);

    // The same through TLS and the courier.
    let (authority, ca) = (Authority::new(), desk.path("ca.pem"));
    let server = GitServer::start(desk.folder.path(), Tls::On(&authority));
    std::fs::write(&ca, authority.pem()).unwrap();
    let url = format!("{}/remote.git", server.url());
    let words = ["verify", &url, "--channel", "production", "--root-digest", &pin, "--ca-file", ca.to_str().unwrap()];
    let said = desk.good(&words);
    assert!(said.contains("A host would take it") && !said.contains("NO "), "{said}");
    assert!(server.requests() > 2, "it was asked through the courier");
    let (code, said) = desk.said(&words[..6]);
    assert!(code == 1 && said.contains("certificate"), "{code} {said}");
}

#[test]
fn a_clone_whose_first_root_was_exchanged_publishes_nothing() {
    let (ann, eve) = (Key::new("ann"), Key::new("eve"));
    let desk = Desk::with_root(&ann);
    desk.good(&["release", "production", "--push", "--sign", &signing(&ann)]);
    let before = desk.served("refs/trimtab");
    // Whoever can push to the branch puts a root of her own into the place of the first one, and one who looks at subjects only pulls it.
    std::fs::remove_dir_all(desk.path("clone/.trimtab")).unwrap();
    let keys = [format!("eve={}", public(&eve)), format!("ann={}", public(&ann))];
    let words = ["trust", "init", "--key", &keys[0], "--key", &keys[1], "--threshold", "1", "--channel", "production=1", "--sign"];
    desk.good(&[&words[..], &[&signing(&eve)]].concat());
    desk.commit("note", "nothing to see\n");
    desk.refused(
        &["release", "production", "--push", "--sign", &signing(&ann)],
        &["a host that was just enrolled would refuse production/1.2", "not published", "root-not-found"],
    );
    assert_eq!(desk.served("refs/trimtab"), before);
}

#[test]
fn somebody_who_was_faster_is_not_overwritten() {
    let key = Key::new("ann");
    let desk = Desk::with_root(&key);
    desk.good(&["release", "production", "--push", "--sign", &signing(&key)]);
    desk.commit("components/one/files/etc/one.conf", "two\n");
    // Between the look at the remote and the push: another release of the same number.
    let other = desk.git(&["rev-parse", "HEAD"]);
    // (git calls this when the statement is kept here, which is after the one and before the other.)
    let hook = desk.path("clone/.git/hooks/reference-transaction");
    let remote = desk.path("remote.git");
    let faster = format!("env -u GIT_DIR git -C {} update-ref {PRODUCTION} {other}", remote.display());
    std::fs::write(&hook, format!("#!/bin/sh\n[ $1 = committed ] && grep -q {DRAFT} && {faster}\nexit 0\n")).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    desk.refused(
        &["release", "production", "--push", "--sign", &signing(&key)],
        &["stale info", "somebody else pushed in between", "run it again"],
    );
    assert_eq!(desk.served(PRODUCTION), other, "what was there stays");
    assert!(desk.served(DRAFT).is_empty());
}

#[test]
fn enrolment_pins_what_it_says() {
    let key = Key::new("ann");
    let desk = Desk::with_root(&key);
    desk.good(&["release", "production", "--push", "--sign", &signing(&key)]);
    let (pin, remote) = (desk.pin(), desk.path("remote.git"));
    let init = |name: &str, words: &[&str]| {
        let root = desk.path(name);
        let all =
            [&["--root", root.to_str().unwrap(), "init", "--mode", "release", "--url", remote.to_str().unwrap()], words].concat();
        let (code, said) = desk.said(&all);
        (code, said, std::fs::read_to_string(root.join("etc/trimtab/trust.toml")).unwrap_or_default())
    };
    let (code, said, written) = init("none", &["--channel", "production"]);
    assert!(code == 1 && said.contains("begins with a root") && written.is_empty(), "{code} {said}");
    let (code, said, _) = init("usage", &["--root-digest", &pin]);
    assert!(code == 64 && said.contains("--channel"), "{code} {said}");
    let other = format!("sha256:{}", "0".repeat(64));
    let (code, said, written) = init("wrong", &["--channel", "production", "--root-digest", &other]);
    assert!(code == 1 && said.contains(&pin) && written.is_empty(), "{code} {said}");
    let (code, said, _) = init("channel", &["--channel", "nightly", "--tofu"]);
    assert!(code == 1 && said.contains("has no channel nightly; it has production"), "{code} {said}");
    let (code, said, written) = init("digest", &["--channel", "production", "--root-digest", &pin]);
    assert!(code == 0 && written.contains(&format!("root-digest = \"{pin}\"")) && !said.contains("first use"), "{code} {said}");
    let (code, said, written) = init("tofu", &["--channel", "production", "--tofu"]);
    assert!(code == 0 && said.contains("Trusted on first use") && said.contains(&pin) && written.contains(&pin), "{code} {said}");
    let file = desk.path("clone/.trimtab/root/1.toml");
    let (code, _, written) = init("file", &["--channel", "production", "--root-file", file.to_str().unwrap()]);
    assert!(code == 0 && written.contains("root = \"root.toml\""), "{written}");
    let copied = std::fs::read(desk.path("file/etc/trimtab/root.toml")).unwrap();
    assert_eq!(copied, std::fs::read(&file).unwrap());
    for name in ["digest", "tofu", "file"] {
        let said = desk.good(&["--root", desk.path(name).to_str().unwrap(), "trust", "explain"]);
        assert!(
            said.contains("follows the channel production") && said.contains(&pin) && said.contains("Nothing was accepted yet"),
            "{said}"
        );
    }
}

#[test]
fn nothing_of_a_secret_is_shown_and_no_key_is_an_argument() {
    let key = Key::new("ann");
    let desk = Desk::with_root(&key);
    let trace = desk.path("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-s", "400", "-e", "trace=execve,openat", "-o"]).arg(&trace).arg(trimtab_binary());
    strace.args(["release", "production", "--sign", &signing(&key)]).current_dir(desk.path("clone")).env("HOME", desk.path("home"));
    strace
        .env("TMPDIR", desk.path("tmp"))
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null());
    for who in ["AUTHOR", "COMMITTER"] {
        strace.env(format!("GIT_{who}_NAME"), "ann").env(format!("GIT_{who}_EMAIL"), "ann@example.org");
    }
    let Ok(output) = strace.output() else {
        eprintln!("skipped: there is no strace");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen = std::fs::read_to_string(&trace).unwrap();
    let secret = std::fs::read_to_string(key.path()).unwrap();
    let inside = secret.lines().nth(3).unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!seen.contains(inside) && !said.contains(inside));
    // Who opened the secret key: ssh-keygen, and nobody else.
    let path = format!("\"{}\"", key.path().display());
    let keygen: Vec<&str> = seen.lines().filter(|line| line.contains("execve(") && line.contains("ssh-keygen")).collect();
    let pids: Vec<&str> = keygen.iter().filter_map(|line| line.split_whitespace().next()).collect();
    let opened: Vec<&str> = seen.lines().filter(|line| line.contains("openat(") && line.contains(&path)).collect();
    assert!(!opened.is_empty() && opened.iter().all(|line| pids.iter().any(|pid| line.starts_with(pid))), "{opened:?} {pids:?}");
    // What was signed, and the courier's cache, lay in folders that are gone.
    assert!(seen.contains(&format!("{}/trimtab-", desk.path("tmp").display())));
    assert_eq!(std::fs::read_dir(desk.path("tmp")).unwrap().count(), 0);
}
