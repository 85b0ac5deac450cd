//! What is explained of a resource, from generations and a book made here.

use std::collections::BTreeMap;

use super::*;
use crate::desired::{FileState, Role};
use crate::digest::Digest;
use crate::drift::{DriftState, Takes};
use crate::ledger::KeptDrift;
use crate::transaction::{GENERATION_FORMAT, Line};

const NAME: &str = "file /etc/app.conf";

fn origin(line: u32) -> Origin {
    Origin { component: "app".parse().unwrap(), file: "components/app/files/etc/app.conf".to_owned(), line }
}

fn desired(text: Option<&str>) -> Desired {
    let mut desired = Desired::default();
    desired.components.insert("app".parse().unwrap(), BTreeSet::from(["base".parse().unwrap()]));
    desired.components.insert("top".parse().unwrap(), BTreeSet::from(["app".parse().unwrap()]));
    let Some(text) = text else { return desired };
    let node = Node::File { digest: Digest::of(text.as_bytes()), size: text.len() as u64 };
    let state = FileState { node, mode: 0o644, owner: "root".parse().unwrap(), group: "root".parse().unwrap() };
    let entry = Entry {
        state,
        role: Role::Plain,
        shown: true,
        drift: DriftPolicy::Report,
        ignored: None,
        artifact: None,
        origin: origin(u32::try_from(text.len()).unwrap()),
    };
    desired.entries.insert("/etc/app.conf".parse().unwrap(), entry);
    desired
}

fn generation(number: u64, text: Option<&str>) -> Generation {
    Generation {
        format: GENERATION_FORMAT,
        number,
        revision: format!("commit{number}"),
        inputs: Digest::of(b""),
        at: number * 100,
        withheld: Vec::new(),
        wants: None,
        desired: desired(text),
    }
}

fn line(generation: u64, end: Ended) -> Line {
    let (revision, reason) = (format!("commit{generation}"), String::new());
    Line { generation, revision, effect: Digest::of(b""), at: generation * 100 + 7, duration_ms: 1, end, reason }
}

/// A host whose generations these are, newest line first.
fn explained(texts: &[(u64, Option<&str>)], lines: &[(u64, Ended)], lost: u64) -> Explanation {
    let kept: BTreeMap<u64, Generation> = texts.iter().map(|(number, text)| (*number, generation(*number, *text))).collect();
    let history = lines.iter().map(|(number, end)| line(*number, *end)).collect();
    let ledger = Ledger { generation: lines[0].0, history, ..Ledger::default() };
    let (book, holds) = (DriftBook::default(), Holds::default());
    let memory = Memory { ledger: &ledger, generation: kept.get(&ledger.generation), book: &book, holds: &holds };
    memory.explain(NAME, |number| kept.get(&number).filter(|_| number != lost).cloned())
}

fn told(explanation: &Explanation) -> Vec<(u64, Verb, u64)> {
    explanation.history.iter().map(|came| (came.generation, came.verb, came.at)).collect()
}

#[test]
fn the_generations_that_changed_it_are_told_and_no_others() {
    use Ended::{Committed, Restored, RolledBack};
    let texts = [(1, None), (2, Some("a")), (3, Some("a")), (4, Some("bb")), (5, Some("bb"))];
    let straight = explained(&texts, &[(5, Committed), (4, Committed), (3, Committed), (2, Committed), (1, Committed)], 0);
    assert_eq!(told(&straight), [(4, Verb::Update, 407), (2, Verb::Create, 207)]);
    assert!(!straight.history_is_cut);
    // What was tried and undone changed nothing; what was gone back to did.
    let back =
        explained(&texts, &[(3, Restored), (4, Committed), (5, RolledBack), (3, Committed), (2, Committed), (1, Committed)], 0);
    assert_eq!(told(&back), [(3, Verb::Update, 307), (4, Verb::Update, 407), (2, Verb::Create, 207)]);
    // Where a generation is not kept, nobody guesses beyond it.
    let cut = explained(&texts, &[(5, Committed), (4, Committed), (3, Committed), (2, Committed), (1, Committed)], 3);
    assert_eq!((told(&cut), cut.history_is_cut), (Vec::new(), true));
}

#[test]
fn it_is_told_what_asks_for_it_and_what_depends_on_it() {
    let told = explained(&[(1, Some("abc"))], &[(1, Ended::Committed)], 0);
    assert_eq!((told.origin, told.revision.as_str(), told.policy), (Some(origin(3)), "commit1", DriftPolicy::Report));
    assert_eq!(told.needs, BTreeSet::from(["base".parse().unwrap()]));
    assert_eq!(told.needed_by, BTreeSet::from(["top".parse().unwrap()]));
    assert!(told.wanted && !told.owned);
    let words: Vec<String> = told.state.iter().map(|state| format!("{} {}", state.property, state.wanted)).collect();
    assert_eq!(
        words.join(", "),
        format!("kind file, content {}, 3 bytes, mode 0644, owner root, group root", Digest::of(b"abc").short())
    );
}

#[test]
fn a_private_file_is_explained_without_a_digest() {
    let mut generation = generation(1, Some("hunter2"));
    generation.desired.entries.values_mut().for_each(|entry| entry.shown = false);
    let ledger = Ledger { generation: 1, ..Ledger::default() };
    let memory = Memory { ledger: &ledger, generation: Some(&generation), book: &DriftBook::default(), holds: &Holds::default() };
    let text = serde_json::to_string(&memory.explain(NAME, |_| Some(generation.clone()))).unwrap();
    assert!(text.contains(PRIVATE) && !text.contains(&Digest::of(b"hunter2").short()), "{text}");
}

#[test]
fn resources_are_found_by_any_of_their_names() {
    let names = BTreeSet::from(["file /etc/a".to_owned(), "unit a.service".to_owned(), "image r/a:1".to_owned()]);
    for (asked, found) in [
        ("file /etc/a", Some("file /etc/a")),
        (" /etc/a", Some("file /etc/a")),
        ("a.service", Some("unit a.service")),
        ("a", Some("unit a.service")),
        ("r/a:1", Some("image r/a:1")),
        ("/etc", None),
        ("", None),
    ] {
        assert_eq!(find(asked, &names).as_deref(), found, "{asked}");
    }
}

#[test]
fn what_was_kept_of_a_drift_is_found_also_after_a_kill_and_never_that_of_another() {
    let drift = |differs: &str, found: &str, kept: Option<&[u8]>| Drift {
        id: 1,
        resource: NAME.to_owned(),
        origin: origin(0),
        differs: vec![Difference { property: differs.to_owned(), found: found.to_owned(), wanted: String::new() }],
        seen_ms: 9_000,
        found_ms: 10_500,
        ended_ms: 12_100,
        actor: None,
        failed: false,
        state: DriftState::Repaired,
        left_alone: None,
        kept: kept.map(Digest::of),
        pass: 1,
        revision: String::new(),
    };
    let kept = |path: &str, text: &[u8], at| KeptDrift { path: path.parse().unwrap(), digest: Digest::of(text), at };
    let list = vec![kept("/etc/app.conf", b"later", 13), kept("/etc/other", b"other", 11), kept("/etc/app.conf", b"it", 12)];
    let ledger = Ledger { kept: list, ..Ledger::default() };
    let digest = |drift: &Drift| ledger.kept_of(drift).map(|kept| kept.digest);
    let with = drift("content", "ab", Some(b"later"));
    assert_eq!((digest(&with), with.takes()), (Some(Digest::of(b"later")), Takes::Content));
    assert_eq!(digest(&drift("content", "ab", None)), Some(Digest::of(b"it")));
    assert_eq!(digest(&drift("content", "ab", Some(b"outgrown"))), None);
    let (mode, private) = (drift("mode", "0666", None), drift("content", PRIVATE, None));
    assert_eq!((digest(&mode), mode.takes()), (None, Takes::Nothing));
    assert_eq!((digest(&private), private.takes()), (None, Takes::Private));
    let standing = Drift { state: DriftState::Standing, ended_ms: 0, ..drift("content", "ab", None) };
    assert_eq!(digest(&standing), None);
}
