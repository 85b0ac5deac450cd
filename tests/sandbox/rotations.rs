//! What an operator changes about who may release, a command each, and what stands in the way of a release: a Git host that says no, a key of a kind that
//! does not count, a token that has to be touched. Real git, gpg, ssh-keygen and a real device behind each.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::{Value, json};
use trimtab_tests::git::{Key, command, run};
use trimtab_tests::token::Token;

use crate::desk::{DRAFT, Desk, PRODUCTION, public, signing};

/// A desk with two keys, of which both are asked for, and a channel that Bob alone releases to.
struct Two {
    desk: Desk,
    ann: Key,
    bob: Key,
}

impl Two {
    fn new() -> Self {
        let two = Self { desk: Desk::new(), ann: Key::new("ann"), bob: Key::new("bob") };
        let keys = [format!("ann={}", public(&two.ann)), format!("bob={}", public(&two.bob))];
        two.desk.refused(
            &["trust", "init", "--key", &keys[0], "--key", &keys[1], "--alive", "production=ann,bob"],
            &["none may replace the root", "--root-keys"],
        );
        let roles = [
            "--root-keys",
            "ann,bob",
            "--channel",
            "production=2",
            "--channel",
            "staging=1:ann,bob",
            "--alive",
            "production=ann,bob",
        ];
        two.both(&[&["trust", "init", "--key", &keys[0], "--key", &keys[1], "--threshold", "2"], &roles[..]].concat());
        two.desk.commit("note", "root 1\n");
        two
    }

    /// A command that both sign.
    #[track_caller]
    fn both(&self, words: &[&str]) -> String {
        self.desk.good(&[words, &["--sign", &signing(&self.ann), "--sign", &signing(&self.bob)]].concat())
    }

    /// A rotation that both sign, committed; the newest root.
    #[track_caller]
    fn rotate(&self, words: &[&str]) -> Value {
        self.both(&[&["trust", "rotate"], words].concat());
        let shown: Value = serde_json::from_str(&self.desk.good(&["trust", "show", "--json"])).unwrap();
        let newest = shown["roots"].as_array().unwrap().last().unwrap().clone();
        self.desk.commit("note", &format!("root {}\n", newest["version"]));
        assert_eq!(newest["complete"], true, "{words:?}");
        newest
    }
}

fn role(threshold: usize, keys: &[&str]) -> Value {
    json!({ "threshold": threshold, "keys": keys })
}

#[test]
fn keys_thresholds_channels_and_epochs_are_one_command_each() {
    let two = Two::new();
    let (desk, carol) = (&two.desk, Key::new("carol"));
    let pin = desk.pin();
    two.both(&["release", "production", "--push"]);
    // A key more, for everything that the root's keys may.
    let root = two.rotate(&["--add", &format!("carol={}", public(&carol))]);
    assert_eq!(
        (&root["root"], &root["release"]["production"]),
        (&role(2, &["ann", "bob", "carol"]), &role(2, &["ann", "bob", "carol"]))
    );
    // How many it takes for one channel: whose keys these are stays as it was.
    let root = two.rotate(&["--channel", "staging=2", "--channel", "nightly=1:carol", "--alive", "nightly=ann"]);
    assert_eq!(
        (&root["release"]["staging"], &root["release"]["nightly"]),
        (&role(2, &["ann", "bob", "carol"]), &role(1, &["carol"]))
    );
    assert_eq!((&root["release"]["production"], &root["root"]["threshold"]), (&role(2, &["ann", "bob", "carol"]), &2.into()));
    let root = two.rotate(&["--channel", "production=2:ann,bob"]);
    assert_eq!(root["release"]["production"], role(2, &["ann", "bob"]));
    // Out again; where nobody would be left, it is said how to go on.
    desk.refused(
        &["trust", "rotate", "--remove", "carol"],
        &["it takes 1 keys to release to nightly, and 0 would be left", "--channel NAME=N"],
    );
    let root = two.rotate(&["--remove", "carol", "--drop-channel", "nightly"]);
    assert_eq!((root["keys"].as_object().unwrap().len(), &root["release"]["nightly"]), (2, &Value::Null));
    assert_eq!(root["alive"], json!({ "production": role(1, &["ann", "bob"]) }), "who kept it alive has nothing to say any more");
    // What a channel has beside releases.
    desk.refused(
        &["trust", "rotate", "--drop-alive", "staging"],
        &["root 5 has no [alive] for the channel \"staging\"; it has production"],
    );
    desk.refused(
        &["trust", "rotate", "--drop-channel", "nightly"],
        &["root 5 has no channel \"nightly\"; it has production, staging"],
    );
    desk.refused(&["trust", "rotate", "--drop-branch", "main"], &["root 5 has no [commit] for the branch \"main\"; it has none"]);
    let root = two.rotate(&["--alive", "production=ann", "--branch", "main=ann"]);
    assert_eq!((&root["alive"]["production"], &root["commit"]["main"]), (&role(1, &["ann"]), &role(1, &["ann"])));
    desk.refused(
        &["trust", "rotate", "--remove", "ann", "--threshold", "1", "--channel", "production=1:bob", "--channel", "staging=1:bob"],
        &["nobody would be left to keep alive production", "--alive production=KEY", "--drop-alive production"],
    );
    let root = two.rotate(&["--drop-alive", "production", "--drop-branch", "main", "--threshold", "1"]);
    assert_eq!((&root["alive"], &root["commit"], &root["root"]), (&json!({}), &json!({}), &role(1, &["ann", "bob"])));
    let root = two.rotate(&["--new-epoch"]);
    assert_eq!((&root["epoch"], &root["version"]), (&2.into(), &8.into()));
    // A device that slept through all of it catches up in one look.
    two.both(&["release", "production", "--push"]);
    assert_eq!(desk.verify(&["--root-digest", &pin]), (0, "accepted".to_owned(), vec![]));
}

#[test]
fn under_a_root_that_can_follow_no_other_nothing_is_released() {
    let (ann, eve) = (Key::new("ann"), Key::new("eve"));
    let desk = Desk::with_root(&ann);
    let one = std::fs::read_to_string(desk.path("clone/.trimtab/root/1.toml")).unwrap();
    let put = |version: u64, text: &str, key: &Key| {
        desk.write(&format!(".trimtab/root/{version}.sig"), &String::from_utf8(key.sign("trimtab-root", text.as_bytes())).unwrap());
        desk.commit(&format!(".trimtab/root/{version}.toml"), text);
    };
    let release = |says: &[&str]| desk.refused(&["release", "production", "--sign", &signing(&ann)], says);
    let repo = one.split('"').nth(3).unwrap();
    let other = if repo.starts_with('1') { repo.replacen('1', "2", 1) } else { format!("1{}", &repo[1..]) };
    let two = one.replace("version = 1", "version = 2");
    put(2, &two.replace(repo, &other), &ann);
    release(&["root 2 can follow no other", &format!("it is for the repository {other}")]);
    put(2, &one.replace("version = 1", "version = 3"), &ann);
    release(&["root/2.toml says that it is version 3"]);
    // By its own keys, and by none of those who were to replace the one before.
    let line = |key: &Key| key.line().split(' ').take(2).collect::<Vec<_>>().join(" ");
    put(2, &two.replace(&line(&ann), &line(&eve)), &eve);
    release(&["root 2 is not signed by enough", "the keys of root 1"]);
    put(2, &two.replace("epoch = 1", "epoch = 2"), &ann);
    put(3, &one.replace("version = 1", "version = 3"), &ann);
    release(&["root 3 can follow no other", "its epoch 1 is smaller than the 2 before it"]);
}

#[test]
fn a_channel_that_is_given_up_is_closed_to_those_who_stay_there() {
    let two = Two::new();
    let desk = &two.desk;
    let (root, remote) = (desk.path("host"), desk.path("remote.git"));
    let host = |words: &[&str]| {
        let (code, said) = desk.said(&[&["--root", root.to_str().unwrap()], words].concat());
        (code, said, std::fs::read_to_string(root.join("etc/one.conf")).unwrap_or_default())
    };
    desk.good(&["release", "staging", "--push", "--sign", &signing(&two.bob)]);
    let pin = desk.pin();
    let (code, said, _) =
        host(&["init", "--mode", "release", "--channel", "staging", "--root-digest", &pin, "--url", remote.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(host(&["once"]).2, "one\n");
    let old = desk.git(&["rev-parse", "HEAD"]);
    let said = two.both(&["trust", "rotate", "--drop-channel", "staging"]);
    assert!(
        said.contains("git push origin +refs/trimtab/production:refs/trimtab/staging")
            && said.contains("who could release to them still can"),
        "{said}"
    );
    desk.commit("components/one/files/etc/one.conf", "two\n");
    two.both(&["release", "production", "--push"]);
    desk.git(&["fetch", "--quiet", "origin", "refs/trimtab/production:refs/trimtab/production"]);
    desk.git(&["push", "--quiet", "origin", "+refs/trimtab/production:refs/trimtab/staging"]);
    let (code, said, text) = host(&["once"]);
    assert!(
        code == 1 && said.contains("names nobody who may release to the channel \"staging\"") && text == "one\n",
        "{code} {said}"
    );
    // Bob could release to staging under root 1, and does; in a tree that knows of nothing else.
    desk.git(&["checkout", "--quiet", &old]);
    desk.run("git", &["-C", remote.to_str().unwrap(), "update-ref", "-d", "refs/trimtab/staging"]);
    desk.good(&["release", "staging", "--push", "--sign", &signing(&two.bob)]);
    let (code, said, text) = host(&["once"]);
    assert!(code == 1 && said.contains("root 2 names nobody who may release") && text == "one\n", "{code} {said}");
}

#[test]
fn a_git_host_that_says_no_gets_nothing_half_and_loses_nothing() {
    let two = Two::new();
    let (desk, remote) = (&two.desk, two.desk.path("remote.git"));
    desk.good(&["release", "production", "--push", "--sign", &signing(&two.ann)]);
    let draft = desk.served(DRAFT);
    assert!(!draft.is_empty());
    let hook = |name: &str, script: &str| {
        let path = remote.join("hooks").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let countersign = ["release", "production", "--countersign", "--push", "--sign", &signing(&two.bob)];
    // A rule for everything that is pushed, and one for a single reference: the draft, which would go with it, stays.
    for (name, script) in [("pre-receive", "echo 'protected' >&2; exit 1"), ("update", &format!("[ $1 != {PRODUCTION} ]"))] {
        let path = hook(name, script);
        let words: &[&str] = if name == "update" { &["release", "production", "--draft", "--push"] } else { &countersign };
        desk.refused(
            words,
            &["declined", "nothing was changed there", "are kept in this clone", "trimtab release production --draft --push"],
        );
        assert_eq!((desk.served(PRODUCTION), desk.served(DRAFT)), (String::new(), draft.clone()), "{name}");
        assert!(
            desk.said(&["release", "production", "--draft"]).1.contains("2 of 2 signatures"),
            "{name}: nobody has to sign again"
        );
        std::fs::remove_file(path).unwrap();
    }
    // The host that took it back goes on to lead, and this clone has not claimed anything.
    let (code, _) = desk.said(&["release", "production", "--draft", "--push"]);
    assert_eq!((code, desk.served(DRAFT)), (0, String::new()));
    assert_eq!(desk.verify(&["--root-digest", &desk.pin()]).0, 0);

    // A Git host that cannot do several references at once: the release first, by itself.
    desk.run("git", &["-C", remote.to_str().unwrap(), "config", "receive.advertiseAtomic", "false"]);
    desk.commit("components/one/files/etc/one.conf", "two\n");
    desk.good(&["release", "production", "--push", "--sign", &signing(&two.ann)]);
    let before = desk.served(PRODUCTION);
    desk.good(&countersign);
    assert!(desk.served(PRODUCTION) != before && desk.served(DRAFT).is_empty());
    // Where it keeps the draft, the release is out all the same, and that is said.
    desk.good(&["release", "production", "--push", "--sign", &signing(&two.ann)]);
    let before = desk.served(PRODUCTION);
    hook("update", &format!("[ $1 != {DRAFT} ]"));
    let said = desk.good(&countersign);
    assert!(said.contains("it is published; only the draft") && desk.served(PRODUCTION) != before, "{said}");
    assert_eq!(desk.verify(&["--root-digest", &desk.pin()]).0, 0);
}

/// A keyring of its own; its agent ends with it.
struct Gpg(tempfile::TempDir);

impl Gpg {
    fn new() -> Self {
        let gpg = Self(tempfile::tempdir().unwrap());
        std::fs::set_permissions(gpg.0.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        gpg.run(&["--quick-gen-key", "Ann <ann@example.org>", "ed25519", "sign", "never"], b"");
        gpg
    }

    fn run(&self, words: &[&str], input: &[u8]) -> Vec<u8> {
        let mut gpg = command("gpg", self.0.path());
        let quiet = ["--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", ""];
        run(gpg.env("GNUPGHOME", self.0.path()).args(quiet).args(words), input)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").env("GNUPGHOME", self.0.path()).args(["--kill", "gpg-agent"]).status();
    }
}

#[test]
fn an_openpgp_key_counts_for_nobody_and_is_told_so_everywhere() {
    let (two, gpg) = (Two::new(), Gpg::new());
    let desk = &two.desk;
    let says = ["an OpenPGP key (which counts for nobody in releases and roots: sign with an SSH key", "minisign"];
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(desk.path(name), bytes).unwrap();
        desk.path(name).display().to_string()
    };
    // As a key of the root, and as a signature that is brought along.
    let certificate = write("ann.asc", &gpg.run(&["--armor", "--export"], b""));
    desk.refused(&["trust", "rotate", "--add", &format!("pgp={certificate}")], &says);
    desk.refused(&["trust", "rotate", "--add", "pgp=openpgp:0123456789"], &says);
    desk.good(&["release", "production", "--push", "--sign", &signing(&two.ann)]);
    let statement = desk.path("statement").display().to_string();
    desk.good(&["release", "production", "--export", &statement]);
    let bytes = std::fs::read(&statement).unwrap();
    let signature = gpg.run(&["--armor", "--detach-sign"], &bytes);
    desk.refused(&["release", "production", "--attach", &write("statement.asc", &signature), "--push"], &says);
    // Behind a release, as `git tag -s` of somebody whose git signs with gpg puts it there.
    let whole = write("whole", &[&bytes[..], &signature].concat());
    let remote = desk.path("remote.git").display().to_string();
    let stored = desk.run("git", &["-C", &remote, "hash-object", "-t", "tag", "-w", &whole]);
    desk.serve(PRODUCTION, &stored);
    let (code, said) = desk.said(&["verify", &remote, "--channel", "production", "--root-digest", &desk.pin()]);
    assert!(code == 3 && said.contains("below-threshold") && says.iter().all(|one| said.contains(one)), "{code} {said}");
    assert!(said.contains("signed by ann (1 of 2), and by an OpenPGP key") && said.contains("--countersign"), "{said}");
}

#[test]
fn a_token_signs_roots_releases_and_commits_when_it_is_touched() {
    let (token, desk) = (Token::new(), Desk::new());
    let (key, lazy) = (token.key("ann", &[]), token.key("lazy", &["-O", "no-touch-required"]));
    let with_token = |words: &[&str]| {
        let output = desk.trimtab(words).env("SSH_SK_PROVIDER", token.provider()).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap(), said)
    };
    let of = |name: &str, path: &std::path::Path| (format!("{name}={}.pub", path.display()), format!("ssh:{}", path.display()));
    let ((ann, sign), (other, sign_lazy)) = (of("ann", &key), of("lazy", &lazy));
    let init = |sign: &str| {
        let keys = ["--key", &ann, "--key", &other, "--threshold", "1", "--channel", "production=1", "--sign", sign];
        with_token(&[&["trust", "init"][..], &keys].concat())
    };
    let (code, said) = init(&sign_lazy);
    assert!(
        code == 1 && said.contains("a security key that nobody touched: make the key without `no-touch-required`"),
        "{code} {said}"
    );
    let (code, said) = init(&sign);
    assert!(code == 0 && said.contains("Confirm user presence"), "the person is told to touch it\n{code} {said}");
    desk.commit("note", "root 1\n");
    let (code, said) = with_token(&["release", "production", "--push", "--sign", &sign_lazy]);
    assert!(code == 1 && said.contains("nobody touched") && desk.served("refs/trimtab").is_empty(), "{code} {said}");
    let (code, said) = with_token(&["release", "production", "--push", "--sign", &sign]);
    assert!(code == 0 && !desk.served(PRODUCTION).is_empty(), "{code} {said}");
    assert_eq!(desk.verify(&["--root-digest", &desk.pin()]), (0, "accepted".to_owned(), vec![]));
    // A commit, by git itself.
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let mut commit = command("git", &desk.path("home"));
    commit.env("SSH_SK_PROVIDER", token.provider()).arg("-C").arg(desk.path("clone"));
    commit.args(["-c", "gpg.format=ssh", "-c", &format!("user.signingkey={}", key.display())]);
    run(commit.args(["commit", "--quiet", "--allow-empty", "-S", "-m", "by a token"]), b"");
    let trust = desk.path("trust.toml");
    std::fs::write(&trust, format!("mode = \"commit\"\nbranch = \"main\"\nkeys = [\"{}\"]\n", public.trim())).unwrap();
    let said = desk.good(&["verify", ".", "--trust", trust.to_str().unwrap()]);
    assert!(said.contains("sk-ssh-ed25519@openssh.com, made for \"git\"") && said.contains("A host would take it"), "{said}");
}
