//! Whoever may push can put anything where statements lie: it stops nobody, and is told with how to take it away.

use super::*;

#[test]
fn what_strangers_push_where_statements_lie_stops_nobody() {
    let (key, eve) = (Key::new("ann"), Key::new("eve"));
    let (desk, sign) = (Desk::with_root(&key), signing(&key));
    desk.good(&["release", "production", "--sign", &sign, "--push"]);
    let first = desk.served(PRODUCTION);
    let statement = desk.git(&["cat-file", "tag", &first]);
    let end = statement.find("-----BEGIN").unwrap();
    // Another number, perhaps of another commit with roots of its own, perhaps signed by somebody.
    let forged = |place: (u64, u64), commit: Option<&str>, by: Option<&Key>| {
        let mut text = statement[..end].replace("production/1.1", &format!("production/{}.{}", place.0, place.1));
        text = text.replace("epoch: 1", &format!("epoch: {}", place.0)).replace("seq: 1\n", &format!("seq: {}\n", place.1));
        if let Some(commit) = commit {
            let tree = desk.git(&["rev-parse", &format!("{commit}^{{tree}}")]);
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
            text = text.replace(&field("commit: "), commit).replace(&field("tree: "), &tree);
        }
        let mut bytes = text.into_bytes();
        if let Some(key) = by {
            let signature = key.sign("git", &bytes);
            bytes.extend(signature);
        }
        let mut hash = command("git", &desk.path("home"));
        let said = run(hash.arg("-C").arg(desk.path("remote.git")).args(["hash-object", "-t", "tag", "-w", "--stdin"]), &bytes);
        String::from_utf8(said).unwrap().trim().to_owned()
    };
    let last = i64::MAX.unsigned_abs();
    // Eve's own first root, in a commit that anybody may push to a branch.
    let own = Desk::with_root(&eve);
    let elsewhere = own.path("clone");
    desk.git(&["fetch", "--quiet", elsewhere.to_str().unwrap(), "HEAD:refs/heads/eve"]);
    desk.git(&["push", "--quiet", "origin", "eve"]);
    let hers = desk.git(&["rev-parse", "eve"]);
    let head = desk.git(&["rev-parse", "HEAD"]);
    for (what, object, at) in [
        ("unsigned, the last number", forged((1, last), None, None), DRAFT),
        ("signed by a stranger", forged((1, last), None, Some(&eve)), DRAFT),
        ("signed by a stranger whose own root says that she may", forged((1, last), Some(&hers), Some(&eve)), DRAFT),
        ("of a far epoch", forged((last, last), None, None), DRAFT),
        ("a commit", head.clone(), DRAFT),
        ("published, and unsigned", forged((1, last), None, None), PRODUCTION),
        ("published, and a commit", head, PRODUCTION),
        ("published, by a stranger's own root", forged((1, last), Some(&hers), Some(&eve)), PRODUCTION),
    ] {
        let before = desk.served(PRODUCTION);
        desk.serve(at, &object);
        let said = desk.good(&["release", "production"]);
        assert!(said.contains("production/1.2: commit"), "{what}: {said}");
        let away = format!("{at} at origin is passed over, as by hosts");
        assert!(said.contains(&away) && said.contains(&format!("git push origin :{at}")), "{what}: {said}");
        // It is as it says: taken away, nothing is said any more.
        desk.git(&["push", "--quiet", "origin", &format!(":{at}")]);
        if at == PRODUCTION {
            desk.serve(at, &before);
        }
        assert!(!desk.good(&["release", "production"]).contains("passed over"), "{what}");
        desk.git(&["update-ref", "-d", DRAFT]);
    }
    // Nobody signs such a number by countersigning what lies there.
    desk.serve(DRAFT, &forged((1, last), None, None));
    desk.refused(&["release", "production", "--countersign", "--sign", &sign], &["no unfinished statement", "git push origin :"]);
    // And what is signed by who may goes over it, to where hosts look.
    desk.serve(PRODUCTION, &forged((1, last), None, None));
    desk.good(&["release", "production", "--sign", &sign, "--push"]);
    assert!(desk.served(DRAFT).is_empty());
    assert_eq!(desk.verify(&["--root-digest", &desk.pin()]), (0, "accepted".to_owned(), vec![]));
    // One that was prepared by a program and is signed by nobody yet is found and signed by people.
    desk.commit("components/one/files/etc/one.conf", "two\n");
    desk.good(&["release", "production", "--push"]);
    desk.git(&["update-ref", "-d", DRAFT]);
    desk.good(&["release", "production", "--countersign", "--sign", &sign, "--push"]);
    assert!(desk.git(&["cat-file", "tag", &desk.served(PRODUCTION)]).contains("seq: 3\n"));
    // Who may and signs the last number ends the channel, and is told as such.
    desk.serve(DRAFT, &forged((1, last), None, Some(&key)));
    desk.refused(&["release", "production", "--sign", &sign], &["somebody wants to end this channel"]);
}
