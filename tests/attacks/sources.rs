//! Attacks by the server, or by a courier that was taken over: everything but the bytes that were asked for.

use gix_hash::ObjectId;
use trimtab::trust::Class;
use trimtab::trust::prove::{Proven, prove};
use trimtab::trust::tree::{self, TreeError};
use trimtab::trust::verdict::Verdict;
use trimtab::wire::{ObjectError, ObjectKind, ObjectSource};
use trimtab_model::bundle::Bundle;
use trimtab_tests::git::{Key, Liar, Repo};

use super::{Fixed, NOW, accept, assert_code, trust};

/// A repository with one file in one component, and its proven tip.
fn fleet() -> (Repo, Key, Proven) {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    repo.write("fleet.toml", "format = 1\n");
    repo.write("components/web/files/etc/motd", "hello\n");
    let tip = repo.commit("one", Some(&key));
    let proven = accept(&repo, tip, &trust(&[&key]), None);
    (repo, key, proven)
}

fn read(proven: &Proven, source: &mut impl ObjectSource) -> Result<Bundle, TreeError> {
    let paths = ["fleet.toml", "components/web"].map(|path| path.parse().unwrap());
    tree::read(proven, source, &paths, |_| Vec::new())
}

fn liar<F: FnMut(ObjectKind, ObjectId, &mut Vec<u8>)>(repo: &Repo, lie: F) -> Liar<F> {
    Liar { honest: repo.source(), lie }
}

#[test]
fn r19_one_flipped_byte_in_a_blob_a_tree_or_a_commit() {
    let (repo, key, proven) = fleet();
    assert_eq!(read(&proven, &mut repo.source()).unwrap().files.len(), 2);
    let flip = |wanted: ObjectKind| {
        move |kind: ObjectKind, _: ObjectId, bytes: &mut Vec<u8>| {
            if kind == wanted {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
        }
    };
    for kind in [ObjectKind::Blob, ObjectKind::Tree] {
        let error = read(&proven, &mut liar(&repo, flip(kind))).unwrap_err();
        assert_eq!(error.class(), Class::Retry);
        assert!(format!("{error:?}").contains("Mismatch"), "{error:?}");
    }
    let verdict = prove(proven.commit(), &mut liar(&repo, flip(ObjectKind::Commit)), &trust(&[&key]), None, NOW);
    assert_code(&verdict, "wrong-object");
    assert_eq!(verdict.class(), Some(Class::Retry));
}

#[test]
fn a_flipped_byte_in_an_ancestor() {
    let (repo, key, proven) = fleet();
    repo.commit("between", None);
    let tip = repo.commit("tip", Some(&key));
    let mut source = liar(&repo, |_, id, bytes| {
        if id != tip {
            bytes[60] ^= 1;
        }
    });
    assert_code(&prove(tip, &mut source, &trust(&[&key]), Some(proven.state()), NOW), "wrong-object");
}

#[test]
fn truncated_and_prolonged_objects() {
    let (repo, key, proven) = fleet();
    let lies: [fn(&mut Vec<u8>); 4] =
        [Vec::clear, |bytes| bytes.truncate(bytes.len() - 1), |bytes| bytes.push(b'\n'), |bytes| bytes.insert(0, 0)];
    for lie in lies {
        for wanted in [ObjectKind::Blob, ObjectKind::Tree] {
            let mut source = liar(&repo, |kind, _, bytes: &mut Vec<u8>| {
                if kind == wanted {
                    lie(bytes);
                }
            });
            assert!(format!("{:?}", read(&proven, &mut source).unwrap_err()).contains("Mismatch"));
        }
        let mut source = liar(&repo, |_, _, bytes: &mut Vec<u8>| lie(bytes));
        assert_code(&prove(proven.commit(), &mut source, &trust(&[&key]), None, NOW), "wrong-object");
    }
}

#[test]
fn endless_answers_are_refused_before_they_are_hashed() {
    let (repo, key, proven) = fleet();
    let mut source = liar(&repo, |_, _, bytes: &mut Vec<u8>| bytes.resize(17 << 20, 0));
    assert_code(&prove(proven.commit(), &mut source, &trust(&[&key]), None, NOW), "malformed");
    let error = read(&proven, &mut source).unwrap_err();
    assert!(matches!(error, TreeError::TooLarge { .. }), "{error:?}");
    let mut source = liar(&repo, |kind, _, bytes: &mut Vec<u8>| {
        if kind == ObjectKind::Blob {
            bytes.resize(17 << 20, 0);
        }
    });
    let error = read(&proven, &mut source).unwrap_err();
    assert!(
        matches!(&error, TreeError::TooLarge { path, limit } if path.ends_with("motd") && *limit == 16 << 20
        || path == "fleet.toml"),
        "{error:?}"
    );
}

#[test]
fn o1_one_object_in_the_place_of_another() {
    // What a forged pack index does: both objects are genuine, only not the ones that were asked for.
    let (repo, key, proven) = fleet();
    let (a, b) = (repo.resolve("HEAD:fleet.toml"), repo.resolve("HEAD:components/web/files/etc/motd"));
    let (of_a, of_b) = (repo.content("blob", a), repo.content("blob", b));
    let mut source = liar(&repo, |_, id, bytes: &mut Vec<u8>| {
        if id == a {
            bytes.clone_from(&of_b);
        } else if id == b {
            bytes.clone_from(&of_a);
        }
    });
    assert!(format!("{:?}", read(&proven, &mut source).unwrap_err()).contains("Mismatch"));
    // A signed commit in the place of another signed commit.
    let tip = repo.commit("two", Some(&key));
    let old = repo.content("commit", proven.commit());
    let mut source = liar(&repo, |_, _, bytes: &mut Vec<u8>| bytes.clone_from(&old));
    assert_code(&prove(tip, &mut source, &trust(&[&key]), None, NOW), "wrong-object");
}

#[test]
fn one_kind_in_the_place_of_another() {
    // The content of a blob, served as a tree and as a commit: the kind is part of the id.
    let (repo, key, proven) = fleet();
    let commit = repo.content("commit", proven.commit());
    let blob = repo.object("blob", &commit);
    let mut source = Fixed(vec![commit]);
    assert_code(&prove(blob, &mut source, &trust(&[&key]), None, NOW), "wrong-object");
}

#[test]
fn more_or_fewer_objects_than_were_asked_for() {
    let (repo, key, proven) = fleet();
    let commit = repo.content("commit", proven.commit());
    for answer in [vec![], vec![commit.clone(), commit]] {
        let verdict = prove(proven.commit(), &mut Fixed(answer.clone()), &trust(&[&key]), None, NOW);
        assert_code(&verdict, "wrong-object");
        assert!(read(&proven, &mut Fixed(answer)).is_err());
    }
}

/// A source without some commits, as behind a shallow boundary, that may also name the wrong one as missing.
struct Without {
    repo: trimtab_tests::git::RepoSource,
    missing: Vec<ObjectId>,
    named: Option<ObjectId>,
    calls: usize,
}

impl ObjectSource for Without {
    fn objects(&mut self, kind: ObjectKind, ids: &[ObjectId], limit: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        self.calls += 1;
        assert!(self.calls < 100, "asked again and again");
        match ids.iter().find(|id| self.missing.contains(id)) {
            Some(id) => Err(ObjectError::Missing { kind, id: self.named.unwrap_or(*id) }),
            None => self.repo.objects(kind, ids, limit),
        }
    }
}

#[test]
fn what_cannot_be_had_is_no_verdict_about_it() {
    let (repo, key, proven) = fleet();
    let trust = trust(&[&key]);
    let between = repo.commit("between", None);
    let tip = repo.commit("tip", Some(&key));
    let mut without = Without { repo: repo.source(), missing: vec![between], named: None, calls: 0 };
    let verdict = prove(tip, &mut without, &trust, Some(proven.state()), NOW);
    assert_code(&verdict, "unavailable");
    assert_eq!(verdict.class(), Some(Class::Retry));
    assert!(matches!(verdict, Verdict::Unavailable { .. }) && verdict.cause().is_some());
    // A source that names an object that was not asked for ends the walk, not the agent.
    let mut liar = Without { named: Some(tip), ..without };
    liar.calls = 0;
    assert_code(&prove(tip, &mut liar, &trust, Some(proven.state()), NOW), "unavailable");
    assert!(liar.calls < 5, "{}", liar.calls);
    liar.missing = vec![tip];
    assert_code(&prove(tip, &mut liar, &trust, None, NOW), "unavailable");
}

#[test]
fn one_side_of_a_merge_may_be_missing() {
    let (repo, key, proven) = fleet();
    repo.git(&["checkout", "--quiet", "--orphan", "vendor"]);
    let vendor = repo.commit("vendor", None);
    let tree = repo.resolve("main^{tree}");
    let tip = repo.signed(&key, tree, &[vendor, proven.commit()], "merge");
    let mut without = Without { repo: repo.source(), missing: vec![vendor], named: None, calls: 0 };
    assert_code(&prove(tip, &mut without, &trust(&[&key]), Some(proven.state()), NOW), "accepted");
}
