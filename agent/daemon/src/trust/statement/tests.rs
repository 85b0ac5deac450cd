//! What statements are taken, and that what is written is read back.

use proptest::prelude::*;

use super::*;

const GOOD: &str = "trimtab-release v1\nrepo: 1b4e28ba-2fa1-11d2-883f-0016d3cca427\nchannel: production\nepoch: 1\nseq: 50\n\
    commit: b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0\ntree: 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nroot: 1\n\
    issued: 2026-11-20T00:00:00Z\nexpires: 2027-01-20T00:00:00Z\n";

fn parse(text: &str) -> Result<Statement, StatementError> {
    Statement::parse(text.as_bytes())
}

#[test]
fn a_statement_is_read() {
    let statement = parse(GOOD).unwrap();
    assert_eq!(statement.place, Place { epoch: 1, seq: 50 });
    assert_eq!((statement.issued, statement.expires), (1_795_132_800, 1_800_403_200));
    assert_eq!(statement.tag_name(), "production/1.50");
    assert_eq!(statement.to_text(), format!("{GOOD}\n"));
    assert_eq!(parse(&format!("{GOOD}\n")).unwrap(), statement);
    let own = parse(&format!("{GOOD}x-ticket: OPS-7: now\nx-2: \n")).unwrap().own;
    assert_eq!(own, [("x-ticket".to_owned(), "OPS-7: now".to_owned()), ("x-2".to_owned(), String::new())]);
}

#[test]
fn everything_else_is_refused_by_its_line() {
    let id = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
    let cases = [
        (GOOD.replace("v1", "v2"), 1),
        (GOOD.replace("seq: 50\n", ""), 5),
        (GOOD.replace("seq: 50\n", "seq: 50\nseq: 50\n"), 6),
        (GOOD.replace("seq: 50\n", "seq: 50\nextra: 1\n"), 6),
        (GOOD.replace("seq: 50", "seq: 050"), 5),
        (GOOD.replace("seq: 50", "seq: +50"), 5),
        (GOOD.replace("seq: 50", "seq: 0"), 5),
        (GOOD.replace("seq: 50", "seq:50"), 5),
        (GOOD.replace("seq: 50", "seq:  50"), 5),
        (GOOD.replace("seq: 50", "seq: 9223372036854775808"), 5),
        (GOOD.replace("seq: 50", "Seq: 50"), 5),
        (GOOD.replace("1b4e", "1B4E"), 2),
        (GOOD.replace("production", "pro/duction"), 3),
        (GOOD.replace("production", "x.alive"), 3),
        (GOOD.replace("production", "../x"), 3),
        (GOOD.replace(id, &id[..39]), 6),
        (GOOD.replace(id, &id.to_uppercase()), 6),
        (GOOD.replace(id, &format!("{id}000000000000000000000000")), 7),
        (GOOD.replace("00Z\nexpires", "00+00:00\nexpires"), 9),
        (GOOD.replace("T00:00:00Z\nexpires", " 00:00:00Z\nexpires"), 9),
        (GOOD.replace("2026-11-20", "2026-11-31"), 9),
        (GOOD.replace("2027-01-20", "2026-11-20"), 1),
        (format!("{GOOD}\n\n"), 11),
        (format!("{GOOD}\nx-a: 1\n"), 11),
        (format!("{GOOD}x-a: 1\nx-a: 1\n"), 12),
        (format!("{GOOD}X-a: 1\n"), 11),
        (format!("{GOOD}x-a: \u{7}\n"), 11),
        (GOOD.replace('\n', "\r\n"), 1),
        (GOOD.trim_end().to_owned(), 1),
        (format!(" {GOOD}"), 1),
        (String::new(), 1),
        (format!("{GOOD}x-a: {}\n", "y".repeat(1000)), 11),
    ];
    for (text, line) in cases {
        let error = parse(&text).expect_err(&text);
        assert_eq!(error.line, line, "{error}\n{text}");
    }
    assert!(Alive::parse(GOOD.as_bytes()).is_err());
}

fn place() -> impl Strategy<Value = Place> {
    (1..=MAX_NUMBER, 1..=MAX_NUMBER).prop_map(|(epoch, seq)| Place { epoch, seq })
}

fn times() -> impl Strategy<Value = (u64, u64)> {
    (0u64..253_402_300_798).prop_flat_map(|issued| (Just(issued), issued + 1..253_402_300_799))
}

fn names() -> impl Strategy<Value = (RepoId, Channel)> {
    ("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "[A-Za-z0-9][A-Za-z0-9_-]{0,40}")
        .prop_map(|(repo, channel)| (repo.parse().unwrap(), channel.parse().unwrap()))
}

fn ids() -> impl Strategy<Value = (ObjectId, ObjectId)> {
    let id = |length| proptest::collection::vec(any::<u8>(), length).prop_map(|bytes| ObjectId::from_bytes_or_panic(&bytes));
    prop_oneof![(id(20), id(20)), (id(32), id(32))]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        (repo, channel) in names(),
        place in place(),
        (commit, tree) in ids(),
        root in 1..=MAX_NUMBER,
        (issued, expires) in times(),
        own in proptest::collection::btree_map("x-[a-z0-9-]{1,20}", "[ -~äö✓]{0,60}", 0..4),
    ) {
        let alive = Alive { repo: repo.clone(), channel: channel.clone(), place, issued, expires };
        prop_assert_eq!(Alive::parse(alive.to_text().as_bytes()).unwrap(), alive);
        let own = own.into_iter().collect();
        let statement = Statement { repo, channel, place, commit, tree, root, issued, expires, own };
        prop_assert_eq!(Statement::parse(statement.to_text().as_bytes()).unwrap(), statement);
    }

    /// What is taken has one reading: written again it is the same text, but for the blank line at its end.
    #[test]
    fn what_is_read_is_written_the_same(at in 0..GOOD.len(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut text = GOOD.as_bytes().to_vec();
        if cut { text.remove(at); } else { text[at] = byte; }
        if let Ok(statement) = Statement::parse(&text) {
            let written = statement.to_text();
            prop_assert_eq!(written.trim_end().as_bytes(), text.trim_ascii_end());
        }
    }
}
