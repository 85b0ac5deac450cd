//! Keys of structured files that belong to somebody else: left alone by every pass, kept by every write.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use trimtab_model::plan::Cause;
use trimtab_model::report::Outcome;

use super::Sandbox;
use super::operator::tree;

const RULE: &str = "[[file]]\npath = \"/etc/app.toml\"\nignore = [\"server.port\", \"state\"]\n";
const WANTED: &str = "# the app\nname = \"one\"\n\n[server]\nhost = \"a\" # here\nport = 80\n";

fn sandbox(settings: &str) -> Sandbox {
    let sandbox = Sandbox::new(settings);
    sandbox.repo.write("components/one/component.toml", RULE);
    sandbox.repo.write("components/one/files/etc/app.toml", WANTED);
    sandbox.push();
    sandbox
}

fn write(sandbox: &Sandbox, text: &str) {
    fs::create_dir_all(sandbox.root().join("etc")).unwrap();
    fs::write(sandbox.root().join("etc/app.toml"), text).unwrap();
}

#[test]
fn what_only_others_changed_is_no_drift_and_nothing_is_written() {
    let sandbox = sandbox("");
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    assert_eq!(sandbox.read("etc/app.toml"), WANTED);
    // Rewritten by a program that knows nothing of comments and sets what is its own.
    let theirs = "name = 'one'\n[state]\nseen = 1979-05-27\n[server]\nport = 8080\nhost = \"a\"\n";
    write(&sandbox, theirs);
    sandbox.once();
    let before = tree(&sandbox.root().join("var"));
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.changes.len()), (Outcome::Unchanged, 0), "{:?}", pass.changes);
    assert_eq!(sandbox.read("etc/app.toml"), theirs);
    let after = tree(&sandbox.root().join("var"));
    let changed: Vec<_> =
        after.iter().filter(|(path, is)| !path.ends_with("lock") && before.get(*path) != Some(is)).map(|(path, _)| path).collect();
    assert!(changed.is_empty(), "a pass with nothing to do wrote {changed:?}");
    assert_eq!(sandbox.said(&["plan", "--offline"]).0, 0, "nothing is planned");
}

#[test]
fn what_is_put_right_and_what_is_updated_keeps_the_keys_of_others() {
    let sandbox = sandbox("");
    sandbox.once();
    write(&sandbox, &WANTED.replace("80", "8080").replace("\"one\"", "\"spoiled\""));
    let (code, shown, _) = sandbox.said(&["plan", "--offline"]);
    assert!(code == 2 && shown.contains("-name = \"spoiled\"") && !shown.contains("-port"), "{shown}");
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.changes[0].cause), (Outcome::Converged, Cause::Drift));
    assert_eq!(sandbox.read("etc/app.toml"), WANTED.replace("80", "8080"));
    assert!(pass.kept.iter().any(|(path, _)| path == "/etc/app.toml"), "what was spoiled is kept");

    // An update is no drift, although the found content is not the written one; its comments arrive.
    let newer = WANTED.replace("# the app", "# the application").replace("host = \"a\"", "host = \"b\"");
    sandbox.repo.write("components/one/files/etc/app.toml", &newer);
    sandbox.push();
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.changes[0].cause), (Outcome::Converged, Cause::Update), "{:?}", pass.changes);
    assert_eq!(sandbox.read("etc/app.toml"), newer.replace("80", "8080"));
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);

    // The mode alone: nothing of the content is touched, and nothing of it is kept as drift.
    let path = sandbox.root().join("etc/app.toml");
    let theirs = "name='one'\nstate=1\nserver={host='b',port=1}\n";
    write(&sandbox, theirs);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.kept.len()), (Outcome::Converged, 0), "{pass:?}");
    assert_eq!((sandbox.read("etc/app.toml").as_str(), fs::metadata(&path).unwrap().permissions().mode() & 0o777), (theirs, 0o644));

    // What cannot be read is drift as a whole.
    write(&sandbox, "name = \n[server]\nport = 8080\n");
    assert_eq!(sandbox.once().changes[0].cause, Cause::Drift);
    assert_eq!(sandbox.read("etc/app.toml"), newer);

    // Keys that are nobody else's any more: an intended change, not drift.
    write(&sandbox, &newer.replace("80", "8080"));
    sandbox.repo.write("components/one/component.toml", "");
    sandbox.push();
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.changes[0].cause), (Outcome::Converged, Cause::Update), "{:?}", pass.changes);
    assert_eq!(sandbox.read("etc/app.toml"), newer);
}

#[test]
fn what_stood_there_with_keys_of_others_is_adopted_and_given_back() {
    let sandbox = sandbox("[guard]\nadopt = \"report\"\n");
    let theirs = WANTED.replace("80", "9999");
    write(&sandbox, &theirs);
    let pass = sandbox.once();
    assert_eq!(pass.outcome, Outcome::Converged, "nothing of the operator's is replaced: {}", pass.reason());
    assert_eq!(sandbox.read("etc/app.toml"), theirs);
    write(&sandbox, &theirs.replace("9999", "1").replace("\"one\"", "\"two\""));
    sandbox.once();
    assert_eq!(sandbox.read("etc/app.toml"), WANTED.replace("80", "1"));
    fs::remove_file(sandbox.repo.path().join("components/one/files/etc/app.toml")).unwrap();
    sandbox.repo.write("components/one/component.toml", "");
    sandbox.push();
    sandbox.once();
    assert_eq!(sandbox.read("etc/app.toml"), theirs, "the operator's original, with what was in it");
}

/// What stands on a file after it was written is what it is held to; values are told nowhere.
#[test]
fn extended_attributes_that_somebody_sets_are_drift_and_go() {
    let sandbox = Sandbox::new("");
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    let path = sandbox.root().join("etc/one.conf");
    let set = |name: &str| rustix::fs::setxattr(&path, name, b"hush-hush", rustix::fs::XattrFlags::empty());
    if set("user.note") == Err(rustix::io::Errno::OPNOTSUPP) {
        eprintln!("skipped: the file system of the temporary folder knows no extended attributes");
        return;
    }
    let (code, shown, _) = sandbox.said(&["plan", "--offline"]);
    assert!(code == 2 && shown.contains("xattr") && shown.contains("user.note is set") && !shown.contains("hush"), "{shown}");
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.changes.len(), pass.changes[0].cause), (Outcome::Converged, 1, Cause::Drift));
    assert_eq!(pass.changes[0].differs[0].property, "xattr");
    assert_eq!(pass.kept.len(), 0, "its content is ours");
    let mut names = [0; 4096];
    let length = rustix::fs::listxattr(&path, &mut names[..]).unwrap();
    assert!(!String::from_utf8_lossy(&names[..length]).contains("user.note"), "it is gone");
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);

    // What was there before trimtab came is as it should be; without it, it is told once that it cannot be given back.
    let path = sandbox.root().join("etc/three.conf");
    fs::write(&path, "three\n").unwrap();
    rustix::fs::setxattr(&path, "user.note", b"mine", rustix::fs::XattrFlags::empty()).unwrap();
    sandbox.repo.write("components/one/files/etc/three.conf", "three\n");
    sandbox.push();
    sandbox.once();
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);
    rustix::fs::removexattr(&path, "user.note").unwrap();
    let pass = sandbox.once();
    assert_eq!((pass.outcome, pass.changes[0].differs[0].found.as_str()), (Outcome::Converged, "user.note is gone"));
    assert!(pass.remarks.iter().any(|remark| remark.contains("user.note")), "{:?}", pass.remarks);
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);
}
