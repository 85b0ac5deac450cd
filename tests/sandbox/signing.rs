//! Commit mode through the whole program, agent and courier: what the parts are tried for elsewhere holds when they are put together.

use std::fs;

use trimtab_model::report::Outcome;
use trimtab_tests::git::{Key, Repo, command, run};

use crate::Sandbox;

fn trust(sandbox: &Sandbox, lines: &str) {
    let text = format!("mode = \"commit\"\nbranch = \"main\"\n{lines}\n");
    fs::write(sandbox.root().join("etc/trimtab/trust.toml"), text).unwrap();
}

#[test]
fn a_repository_with_sha_256_is_followed() {
    let sandbox = Sandbox::of(Repo::with_format("sha256"), "");
    let first = sandbox.once();
    assert_eq!((first.outcome, first.trust.verdict.as_str()), (Outcome::Converged, "accepted"), "{first:?}");
    assert_eq!(sandbox.read("etc/one.conf"), "one\n");
    for number in 0..3 {
        let revision = sandbox.revise(&format!("revision {number}\n"));
        assert_eq!(revision.len(), 64);
        let pass = sandbox.once();
        assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Converged, "accepted"), "{pass:?}");
        assert_eq!(sandbox.read("etc/one.conf"), format!("revision {number}\n"));
    }
    sandbox.repo.write("components/one/files/etc/one.conf", "unsigned\n");
    sandbox.repo.commit("unsigned", None);
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Held, "unsigned"), "{pass:?}");
    sandbox.repo.git(&["reset", "--quiet", "--hard", "HEAD~3"]);
    assert_eq!(sandbox.once().trust.verdict, "rolled-back");
    assert_eq!(sandbox.read("etc/one.conf"), "revision 2\n");
}

#[test]
fn a_commit_signed_with_a_certificate_is_followed() {
    let sandbox = Sandbox::of(Repo::new(), "");
    let authority = Key::new("site CA");
    trust(&sandbox, &format!("keys = ['cert-authority,principals=\"ann\" {}']", authority.line()));
    let key = sandbox.key.path();
    let mut certify = command("ssh-keygen", sandbox.root().as_path());
    run(certify.args(["-q", "-s"]).arg(authority.path()).args(["-I", "ann", "-n", "ann"]).arg(key.with_extension("pub")), b"");
    let signing = format!("user.signingkey={}", key.with_file_name("key-cert.pub").display());
    assert_eq!(sandbox.once().trust.verdict, "unknown-signer", "the key alone does not count");
    sandbox.repo.git(&["-c", &signing, "commit", "--quiet", "--allow-empty", "-S", "-m", "certified"]);
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Converged, "accepted"), "{pass:?}");
    assert!(pass.trust.signer.starts_with("ann, certified by site CA (SHA256:"), "{}", pass.trust.signer);
    trust(&sandbox, &format!("keys = ['cert-authority,principals=\"bob\" {}']", authority.line()));
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Held, "certificate"), "{pass:?}");
}

#[test]
fn unsigned_work_does_not_ride_along_where_every_commit_is_asked() {
    let sandbox = Sandbox::of(Repo::new(), "");
    let key = format!("keys = [\"{}\"]\n", sandbox.key.line());
    trust(&sandbox, &format!("{key}verify = \"all-since-trusted\""));
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    for number in 0..20 {
        sandbox.revise(&format!("signed {number}\n"));
    }
    assert_eq!(sandbox.once().trust.verdict, "accepted");
    sandbox.repo.write("components/one/files/etc/one.conf", "somebody's\n");
    let unsigned = sandbox.repo.commit("unsigned", None).to_string();
    sandbox.repo.write("components/two/files/etc/two.conf", "signed on top\n");
    sandbox.push();
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Held, "unvouched"), "{pass:?}");
    assert!(pass.trust.message.contains(&unsigned) && pass.trust.message.contains("Ann Example"), "{}", pass.trust.message);
    assert_eq!(sandbox.read("etc/one.conf"), "signed 19\n");
    // Somebody looked, and lets this host pass.
    trust(&sandbox, &key);
    assert_eq!(sandbox.once().trust.verdict, "accepted");
    assert_eq!(sandbox.read("etc/one.conf"), "somebody's\n");
}

#[test]
fn a_key_that_is_taken_out_counts_no_more_for_what_is_in_force_either() {
    let sandbox = Sandbox::new("");
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    let keys = |key: &Key| trust(&sandbox, &format!("keys = [\"{}\"]", key.line()));
    // The source serves what it served before; only what this host asks of it is another.
    keys(&Key::new("who came instead"));
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str()), (Outcome::Held, "unknown-signer"), "{pass:?}");
    assert_eq!(sandbox.read("etc/one.conf"), "one\n", "and it stays as it is");
    keys(&sandbox.key);
    assert_eq!(sandbox.once().trust.verdict, "unchanged");
}
