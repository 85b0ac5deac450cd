//! `trimtab verify` and `trust explain`: what a device would say, rule by rule, and what a device says of itself; each beside what the device does.

use std::fs;
use std::path::PathBuf;

use gix_hash::ObjectId;
use serde_json::Value;
use trimtab_model::report::Outcome;
use trimtab_tests::git::{Key, command, insert, payload, run};

use crate::Sandbox;
use crate::releases::Released;

const STATE: &str = "var/lib/trimtab/trust-state.json";

/// What `verify` answers: exit code, verdict, the rules that do not hold, and all of it.
fn verify(sandbox: &Sandbox, words: &[&str]) -> (i32, String, String, Value) {
    let repo = sandbox.repo.path().display().to_string();
    let trust = sandbox.root().join("etc/trimtab/trust.toml").display().to_string();
    let mut trimtab = sandbox.trimtab(&["verify", &repo, "--trust", &trust, "--json"]);
    let output = trimtab.args(words).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let steps = said["steps"].as_array().unwrap();
    let broken: Vec<&str> = steps.iter().filter(|step| step["ok"] == false).map(|step| step["rule"].as_str().unwrap()).collect();
    (output.status.code().unwrap(), said["verdict"].as_str().unwrap().to_owned(), broken.join(" "), said.clone())
}

fn rules(said: &Value) -> String {
    let steps = said["steps"].as_array().unwrap().iter();
    steps.map(|step| step["rule"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

fn found(said: &Value, rule: &str) -> String {
    let step = said["steps"].as_array().unwrap().iter().find(|step| step["rule"] == rule);
    step.unwrap_or_else(|| panic!("no {rule} in {said}"))["found"].as_str().unwrap().to_owned()
}

fn trust(sandbox: &Sandbox, lines: &str) {
    let text = format!("mode = \"commit\"\nbranch = \"main\"\n{lines}\n");
    fs::write(sandbox.root().join("etc/trimtab/trust.toml"), text).unwrap();
}

/// Puts a commit of what is checked out, signed like this, at the branch.
fn serve(sandbox: &Sandbox, text: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> ObjectId {
    let repo = &sandbox.repo;
    let bytes = payload(repo.resolve("HEAD^{tree}"), &[repo.resolve("HEAD")], text);
    let tip = repo.object("commit", &insert(&bytes, "gpgsig", &sign(&bytes)));
    repo.git(&["update-ref", "refs/heads/main", &tip.to_string()]);
    tip
}

#[test]
fn each_rule_of_commit_mode_is_told_and_the_verdict_is_the_device_s() {
    let sandbox = Sandbox::new("");
    let (ann, eve) = (&sandbox.key, Key::new("eve"));
    let good = sandbox.repo.head();
    let all = "reference clock commit signature key match ancestry tree fleet";
    let (code, verdict, broken, said) = verify(&sandbox, &[]);
    assert_eq!((code, verdict.as_str(), broken.as_str(), rules(&said).as_str()), (0, "accepted", "", all), "{said}");
    assert!(found(&said, "signature").starts_with("ssh-ed25519, made for \"git\", over sha"), "{said}");
    assert!(found(&said, "ancestry").contains("would be the first") && found(&said, "match").contains("person (SHA256:"), "{said}");

    // Each of these, step by step, and by the device itself, which was just enrolled.
    let device = |what: &str, broken: &str, verdict: &str| {
        let told = verify(&sandbox, &[]);
        assert_eq!((told.0, told.1.as_str(), told.2.as_str()), (3, verdict, broken), "{what}: {}", told.3);
        let pass = sandbox.once();
        assert_eq!((pass.trust.verdict.as_str(), &pass.trust.message), (verdict, &told.3["message"].as_str().unwrap().to_owned()));
        sandbox.repo.git(&["update-ref", "refs/heads/main", &good.to_string()]);
    };
    sandbox.repo.git(&["commit", "--quiet", "--allow-empty", "-m", "unsigned"]);
    device("unsigned", "signature", "unsigned");
    serve(&sandbox, "by a stranger", |bytes| eve.sign("git", bytes));
    device("by a stranger", "key", "unknown-signer");
    serve(&sandbox, "for another purpose", |bytes| ann.sign("file", bytes));
    device("for another purpose", "signature", "wrong-namespace");
    serve(&sandbox, "altered", |bytes| ann.sign("git", &[bytes, b"x"].concat()));
    device("altered", "match", "forged");
    serve(&sandbox, "OpenPGP", |_| b"-----BEGIN PGP SIGNATURE-----\n\niQ\n-----END PGP SIGNATURE-----\n".to_vec());
    let told = verify(&sandbox, &[]);
    assert_eq!((told.0, told.2.as_str()), (3, "signature"), "{}", told.3);
    let twice = {
        let text = sandbox.repo.content("commit", good);
        sandbox.repo.object("commit", &insert(&text, "gpgsig", &ann.sign("git", &text)))
    };
    sandbox.repo.git(&["update-ref", "refs/heads/main", &twice.to_string()]);
    device("two signatures", "commit", "malformed");

    // A security key that nobody touched.
    let token = Key::sk_ed25519("token");
    trust(&sandbox, &format!("keys = [\"{}\"]", token.line()));
    serve(&sandbox, "untouched", |bytes| token.sign_with_flags("git", bytes, 0));
    device("untouched", "touch", "untouched");

    // A channel.
    trust(&sandbox, &format!("keys = [\"{}\"]\ntrailer = \"production\"", ann.line()));
    device("no channel", "channel", "wrong-channel");
    serve(&sandbox, "Title\n\nTrimtab-Channel: staging", |bytes| ann.sign("git", bytes));
    device("another channel", "channel", "wrong-channel");
}

#[test]
fn each_rule_of_a_certificate_is_told() {
    let sandbox = Sandbox::new("");
    let (authority, other) = (Key::new("site CA"), Key::new("other CA"));
    let ca = |key: &Key, options: &str| trust(&sandbox, &format!("keys = ['cert-authority{options} {}']", key.line()));
    let certify = |words: &[&str]| {
        let mut certify = command("ssh-keygen", sandbox.root().as_path());
        certify.args(["-q", "-s"]).arg(authority.path()).args(["-I", "ann@site"]).args(words);
        run(certify.arg(sandbox.key.path().with_extension("pub")), b"");
        let signing = format!("user.signingkey={}", sandbox.key.path().with_file_name("key-cert.pub").display());
        sandbox.repo.git(&["-c", &signing, "commit", "--quiet", "--allow-empty", "-S", "-m", "certified"]);
    };
    certify(&["-n", "ann"]);
    ca(&authority, ",principals=\"ann\"");
    let (code, verdict, broken, said) = verify(&sandbox, &[]);
    assert_eq!((code, verdict.as_str(), broken.as_str()), (0, "accepted", ""), "{said}");
    assert_eq!(rules(&said), "reference clock commit signature authority certificate match ancestry tree fleet");
    assert!(
        found(&said, "signature").starts_with("ssh-ed25519-cert-v01@openssh.com")
            && found(&said, "certificate").contains("ann@site")
    );
    let judged = || {
        let (code, verdict, broken, said) = verify(&sandbox, &[]);
        (code, verdict, broken, said.to_string())
    };
    ca(&other, "");
    assert_eq!((judged().0, judged().1.as_str(), judged().2.as_str()), (3, "unknown-authority", "authority"));
    ca(&authority, ",principals=\"bob\"");
    let told = judged();
    assert_eq!((told.0, told.1.as_str(), told.2.as_str()), (3, "certificate", "certificate"), "{}", told.3);
    ca(&authority, "");
    certify(&["-n", "ann", "-V", "20200101:20200201"]);
    let told = judged();
    assert_eq!((told.0, told.1.as_str(), told.2.as_str()), (3, "certificate", "certificate"), "{}", told.3);
    assert!(told.3.contains("valid until 2020-02-01T00:00:00Z"), "{}", told.3);
}

#[test]
fn a_memory_makes_the_desk_say_what_that_very_device_says() {
    let sandbox = Sandbox::new("");
    let key = format!("keys = [\"{}\"]", sandbox.key.line());
    let first = sandbox.repo.head();
    sandbox.revise("two\n");
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    let state = sandbox.root().join(STATE);
    let memory = state.to_str().unwrap();
    let judged = |words: &[&str]| {
        let (code, verdict, broken, said) = verify(&sandbox, words);
        (code, format!("{verdict}: {broken}"), said)
    };
    let same = |what: &str| {
        let (code, told, said) = judged(&["--memory", memory]);
        assert_eq!(code, 3, "{said}");
        assert_eq!(told, what, "{said}");
        let pass = sandbox.once();
        assert_eq!(
            (pass.trust.verdict.as_str(), pass.trust.message.as_str()),
            (told.split(':').next().unwrap(), said["message"].as_str().unwrap())
        );
    };
    let (code, told, said) = judged(&["--memory", memory]);
    assert!(code == 0 && told == "unchanged: " && found(&said, "ancestry") == "it is that one", "{said}");
    let two = sandbox.repo.head();
    sandbox.repo.git(&["reset", "--quiet", "--hard", &first.to_string()]);
    assert_eq!(judged(&[]).0, 0, "to a device that was just enrolled it is a commit like any other");
    same("rolled-back: ancestry");
    sandbox.revise("another two\n");
    same("rewritten: ancestry");
    // Unsigned work under a signed tip.
    sandbox.repo.git(&["reset", "--quiet", "--hard", &two.to_string()]);
    sandbox.repo.write("components/one/files/etc/one.conf", "somebody's\n");
    sandbox.repo.commit("unsigned", None);
    sandbox.revise("three\n");
    let (code, told, said) = judged(&["--memory", memory]);
    assert!(code == 0 && told == "accepted: " && found(&said, "ancestry") == "it comes after it", "{said}");
    trust(&sandbox, &format!("{key}\nverify = \"all-since-trusted\""));
    same("unvouched: vouched");
    // What is no memory, or of a trimtab that is newer, is not taken for none.
    for (text, says) in [("{", "EOF"), ("{\"format\": 99}", "99")] {
        let other = sandbox.folder.path().join("other.json");
        fs::write(&other, text).unwrap();
        let (code, _, said) = sandbox.said(&[
            "verify",
            sandbox.repo.path().to_str().unwrap(),
            "--trust",
            sandbox.root().join("etc/trimtab/trust.toml").to_str().unwrap(),
            "--memory",
            other.to_str().unwrap(),
        ]);
        assert!(code == 1 && said.contains(says) && said.contains("other.json"), "{code} {said}");
    }
}

#[test]
fn a_memory_of_releases_counts_at_the_desk_as_on_the_device() {
    let host = Released::new("");
    let state = host.sandbox.root().join(STATE);
    let one = host.release(1);
    host.sandbox.revise("two\n");
    host.release(2);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    let judged = |memory: Option<&PathBuf>| {
        let words: Vec<&str> = memory.map(|path| ["--memory", path.to_str().unwrap()]).into_iter().flatten().collect();
        let (code, verdict, broken, said) = verify(&host.sandbox, &words);
        (code, format!("{verdict}: {broken}"), said["message"].as_str().unwrap().to_owned())
    };
    assert_eq!(judged(Some(&state)).1, "unchanged: ");
    host.serve(one);
    assert_eq!((judged(None).0, judged(None).1.as_str()), (0, "accepted: "), "whoever was just enrolled takes it");
    let told = judged(Some(&state));
    assert_eq!((told.0, told.1.as_str()), (3, "rolled-back: order"));
    assert_eq!(host.sandbox.once().trust.message, told.2);
    // Of another commit: within the same second the same words would be the same statement.
    host.sandbox.revise("three\n");
    host.release(2);
    let told = judged(Some(&state));
    assert_eq!((told.0, told.1.as_str()), (3, "equivocation: order"), "another statement of that number");
    assert_eq!(host.sandbox.once().trust.message, told.2);
}
