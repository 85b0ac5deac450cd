//! Two opinions on thousands of commits that somebody bent: what our parser takes, `git verify-commit` takes too; and what git takes and
//! we refuse is refused by a rule that stands in [`RULES`]. A refusal that no rule explains fails.
//!
//! One git process judges many commits: names that do not exist stand between them and mark, in what git says, where one ends.

use std::fmt::Write as _;
use std::process::Stdio;

use gix_hash::ObjectId;
use trimtab::trust::blocks::{self, AnyKey};
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::prove::prove;
use trimtab::trust::pubkey::PublicKey;
use trimtab::trust::tag::Tag;
use trimtab::trust::verdict::Verdict;
use trimtab_tests::git::{IDENTITY, Key, Repo, armor, armor_folded, command, dearmor, header_of, insert, payload, run};

use super::{Fixed, NOW, trust};

/// By which policy a commit that git calls good is refused: words of the refusal, and why it is meant.
const RULES: [(&str, &str); 22] = [
    ("follows the signature", "git leaves every header beginning with `gpgsig` out of what it verifies: bytes could hide there"),
    ("second signature header", "the same, before the signature"),
    ("not folded as ssh-keygen folds it", "one signature has one armor, or ids for the same commit could be minted"),
    ("armor is not an SSH signature's", "the same: git and ssh-keygen read past what stands around the armor"),
    ("base64 is damaged", "the same: ssh-keygen reads past white space"),
    ("reserved field is not empty", "readers are told to ignore it, so it would be a place for twins"),
    ("NUL byte", "git's commands cut a message there, so a person would not see what follows"),
    ("must name one author and one committer", "git verifies without reading them; other programs would"),
    ("repeated or out of order", "which of two would another program believe?"),
    ("a parent twice", "no merge has that"),
    ("has no value", "git writes none"),
    ("has no proper name", "git writes none"),
    ("carriage return", "git writes none"),
    ("id of a parent is damaged", "capitals are another spelling of the same id"),
    ("start with the id of its tree", "the same"),
    ("start with the id of what it names", "of a tag: the same"),
    ("does not name a commit", "a release is of a commit, and of nothing else"),
    ("its name is missing, too long or not plain", "of a tag: a name is compared and shown"),
    ("must name one tagger", "git verifies without reading it; other programs would"),
    ("a header that a tag does not have", "of a tag: git writes none"),
    ("between its signatures or after them", "of a tag: bytes that nobody signed"),
    ("a signature does not end", "of a tag: a marker that begins no whole block"),
];

/// A small generator of numbers: a failure can be run again by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (bound.max(1) as u64)).unwrap()
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// A signed commit of a repository, in its parts.
struct Genuine {
    payload: Vec<u8>,
    armor: Vec<u8>,
    header: &'static str,
}

impl Genuine {
    fn whole(&self) -> Vec<u8> {
        insert(&self.payload, self.header, &self.armor)
    }
}

/// The headers of a commit with what continues them, and the rest.
fn headers(commit: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let at = commit.windows(2).position(|pair| pair == b"\n\n").map_or(commit.len(), |at| at + 1);
    let mut list: Vec<Vec<u8>> = Vec::new();
    for line in commit[..at].split_inclusive(|byte| *byte == b'\n') {
        match list.last_mut() {
            Some(last) if line.starts_with(b" ") => last.extend(line),
            _ => list.push(line.to_vec()),
        }
    }
    (list, commit[at..].to_vec())
}

fn joined(headers: &[Vec<u8>], rest: &[u8]) -> Vec<u8> {
    [&headers.concat(), rest].concat()
}

/// Bends a commit once.
fn bend(genuine: &Genuine, commit: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = commit.to_vec();
    let at = dice.below(bytes.len());
    let (mut list, rest) = headers(commit);
    let blob = dearmor(&genuine.armor);
    let with = |armor: &[u8]| insert(&genuine.payload, genuine.header, armor);
    match dice.below(15) {
        0 => bytes[at] ^= 1 << dice.below(8),
        1 => bytes[at] = *dice.of(b"\0\r\n \t=<>Aa0"),
        2 => bytes.insert(at, *dice.of(b"\0\r\n \t=<>Aa0")),
        3 => drop(bytes.remove(at)),
        4 => bytes.truncate(at),
        5 => bytes.extend(*dice.of(&[&b"\n"[..], b"more\n", b"\0", b"\n\nX: y\n"])),
        6 | 7 => {
            let names = [
                "gpgsig x",
                "gpgsigX-evil x",
                "gpgsig-sha256 x",
                "x-note y",
                "encoding latin1",
                "mergetag object 1",
                "author a <b> 1",
                "odd",
                " on",
                "change-id z",
            ];
            let place = dice.below(list.len() + 1);
            list.insert(place, format!("{}\n", dice.of(&names)).into_bytes());
            return joined(&list, &rest);
        }
        8 => {
            let copy = dice.of(&list).clone();
            let place = dice.below(list.len() + 1);
            list.insert(place, copy);
            return joined(&list, &rest);
        }
        9 => {
            let (one, other) = (dice.below(list.len()), dice.below(list.len()));
            list.swap(one, other);
            return joined(&list, &rest);
        }
        10 => return with(&armor_folded(&blob, *dice.of(&[20, 64, 71, 76, 1000]))),
        11 => {
            let text = String::from_utf8(genuine.armor.clone()).unwrap();
            let (from, to) = dice.of(&[
                ("\n", "\r\n"),
                ("SIGNATURE-----\n", "SIGNATURE----- \n"),
                ("-----END", "\n-----END"),
                ("-----BEGIN", "x\n-----BEGIN"),
                ("U1NIU0", "U1NI U0"),
                ("\n-----END", "=\n-----END"),
            ]);
            return with(text.replace(from, to).as_bytes());
        }
        // What is signed is bent, not what carries it: the signature is another one's or stays good over what is left out.
        12 => {
            let mut blob = blob;
            let at = dice.below(blob.len());
            blob[at] ^= 1 << dice.below(8);
            return with(&armor(&blob));
        }
        13 => return String::from_utf8_lossy(commit).replace("\n\n", "\r\n\r\n").into_bytes(),
        _ => {
            let place = dice.below(list.len());
            list[place] = list[place].to_ascii_uppercase();
            return joined(&list, &rest);
        }
    }
    bytes
}

/// Commits that were odd before they were signed: the signature is good, the form is not git's.
fn odd_and_signed(repo: &Repo, key: &Key, dice: &mut Dice) -> Genuine {
    let tree = repo.tree(&[]);
    let text = String::from_utf8(payload(tree, &[], "message")).unwrap();
    let (from, to) = *dice.of(&[
        ("committer", "x-note y\ncommitter"),
        ("\n\nmessage", "\nencoding a\nencoding b\n\nmessage"),
        ("\n\nmessage", "\nauthor a <b> 1\n\nmessage"),
        ("\n\nmessage", "\nodd\n\nmessage"),
        ("\n\nmessage", "\nx-note a\r\n\nmessage"),
        ("\n\nmessage", "\nx-note a\n b\n \n\nmessage"),
        ("+0000\ncommitter", "\ncommitter"),
        ("<ann@example.org> 1800000000 +0000\n\n", "ann\n\n"),
        ("message", "mess\0age"),
        ("message", "mess\r\nage"),
        ("message", ""),
        ("\nmessage\n", "\n"),
        ("message\n", "message"),
        ("author", "author\u{1}"),
    ]);
    let payload = text.replacen(from, to, 1).into_bytes();
    let armor = key.sign("git", &payload);
    Genuine { payload, armor, header: header_of(tree) }
}

/// Stores all of them with one process; their ids.
fn store(repo: &Repo, kind: &str, commits: &[Vec<u8>]) -> Vec<ObjectId> {
    let folder = tempfile::tempdir().unwrap();
    let mut names = String::new();
    for (number, commit) in commits.iter().enumerate() {
        let path = folder.path().join(number.to_string());
        std::fs::write(&path, commit).unwrap();
        writeln!(names, "{}", path.display()).unwrap();
    }
    let ids = repo.feed(&["hash-object", "-t", kind, "--literally", "-w", "--no-filters", "--stdin-paths"], names.as_bytes());
    ids.lines().map(trimtab_tests::git::id).collect()
}

/// What git says of each, in a few processes. Where git itself gives up, at a commit that is too odd for it, it did not call that one good.
fn git_says(repo: &Repo, verb: &str, ids: &[ObjectId]) -> Vec<bool> {
    let mut all = Vec::new();
    while all.len() < ids.len() {
        let ids = &ids[all.len()..ids.len().min(all.len() + 100)];
        let mut verify = command("git", repo.path());
        verify.arg("-C").arg(repo.path()).args(["-c", "gpg.ssh.allowedSignersFile=signers", verb]);
        for (at, id) in ids.iter().enumerate() {
            verify.arg(id.to_string()).arg(format!("mark-{at}-"));
        }
        let output = verify.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut rest = said.as_str();
        for at in 0..ids.len() {
            let Some((part, after)) = rest.split_once(&format!("mark-{at}-")) else {
                assert!(output.status.code().is_none_or(|code| code > 1), "git went to its end: {said}");
                all.push(false);
                break;
            };
            all.push(part.contains("Good \"git\" signature for ann@example.org"));
            rest = after;
        }
    }
    all
}

fn has_rule(said: &str) -> bool {
    RULES.iter().any(|(words, _)| said.contains(words))
}

/// Judges one commit here, under its true id.
fn we_say(id: ObjectId, commit: &[u8], trust: &TrustConfig) -> Verdict {
    prove(id, &mut Fixed(vec![commit.to_vec()]), trust, None, NOW)
}

/// Bends commits `count` times in a repository of this format; how many both take, and how many git alone takes.
fn compare(format: &str, seed: u64, count: usize) -> (usize, usize) {
    let (repo, key) = (Repo::with_format(format), Key::new("ann@example.org"));
    let trusted = trust(&[&key]);
    repo.write("signers", format!("ann@example.org {}\n", key.line()));
    let mut dice = Dice(seed);
    let mut kept = vec![];
    for message in ["plain", "with\n\na body\n\nTrailer: x"] {
        let id = repo.commit(message, Some(&key));
        let whole = repo.content("commit", id);
        let text = String::from_utf8(whole.clone()).unwrap();
        let (header, end) = (header_of(id), "-----END SSH SIGNATURE-----\n");
        let (start, end) = (text.find(&format!("{header} ")).unwrap(), text.find(end).unwrap() + end.len());
        let armor = text[start + header.len() + 1..end].replace("\n ", "\n").into_bytes();
        let payload = [&whole[..start], &whole[end..]].concat();
        assert_eq!(insert(&payload, header, &armor), whole, "taken apart and put together again");
        kept.push(Genuine { payload, armor, header });
    }
    kept.extend((0..count / 12).map(|_| odd_and_signed(&repo, &key, &mut dice)));
    let mut commits: Vec<Vec<u8>> = kept.iter().map(Genuine::whole).collect();
    while commits.len() < count {
        // Mostly the plain ones: what is bent twice is refused by everybody.
        let genuine = if dice.below(4) == 0 { dice.of(&kept) } else { dice.of(&kept[..2]) };
        let mut commit = genuine.whole();
        for _ in 0..=usize::from(dice.below(6) == 0) {
            if !commit.is_empty() {
                commit = bend(genuine, &commit, &mut dice);
            }
        }
        commits.push(commit);
    }
    let ids = store(&repo, "commit", &commits);
    let git = git_says(&repo, "verify-commit", &ids);
    let (mut both, mut git_alone) = (0, 0);
    for ((id, commit), git) in ids.iter().zip(&commits).zip(git) {
        let ours = we_say(*id, commit, &trusted);
        let shown = String::from_utf8_lossy(commit);
        match (ours.proven().is_some(), git) {
            (true, true) => both += 1,
            (true, false) => panic!("seed {seed}: taken here and not by git ({id}):\n{shown}"),
            (false, true) => {
                git_alone += 1;
                let said = ours.to_string();
                assert!(ours.code() == "malformed" && has_rule(&said), "seed {seed}: no rule explains {said:?} ({id}):\n{shown}");
            }
            (false, false) => {}
        }
    }
    (both, git_alone)
}

#[test]
fn what_is_taken_here_is_taken_by_git_and_what_is_not_has_a_rule() {
    let (both, git_alone) = compare("sha1", 0x7472_696d_7461_6221, 160);
    // The test can see: there are genuine ones among them, and ones that only we refuse.
    assert!(both >= 5 && git_alone >= 10, "{both} {git_alone}");
}

#[test]
fn the_same_in_a_repository_with_sha_256() {
    let (both, git_alone) = compare("sha256", 0x6465_7669_6365_7321, 60);
    assert!(both >= 2 && git_alone >= 3, "{both} {git_alone}");
}

/// Bends a tag once.
fn bend_tag(tag: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = tag.to_vec();
    let at = dice.below(bytes.len());
    let text = String::from_utf8_lossy(tag).into_owned();
    let signed = text.rfind("-----BEGIN");
    let place = signed.unwrap_or(0);
    match dice.below(9) {
        0 => bytes[at] ^= 1 << dice.below(8),
        1 => bytes[at] = *dice.of(b"\0\r\n \t=<>Aa0"),
        2 => bytes.insert(at, *dice.of(b"\0\r\n \t=<>Aa0")),
        3 => drop(bytes.remove(at)),
        4 => bytes.truncate(at),
        5 => bytes.extend(*dice.of(&[&b"\n"[..], b"more\n", b"\0", b"-----BEGIN SSH SIGNATURE-----\n", b"x"])),
        6 => bytes = [&tag[..place], *dice.of(&[&b"\n"[..], b"x\n", b"-----BEGIN PGP SIGNATURE-----\n"]), &tag[place..]].concat(),
        7 if signed.is_some() => {
            bytes = [&tag[..place], &armor_folded(&dearmor(&tag[place..]), *dice.of(&[20, 64, 76, 1000]))].concat();
        }
        _ => {
            let (from, to) = *dice.of(&[
                ("type commit", "type tree"),
                ("tagger", "x-note y\ntagger"),
                ("\n\n", "\nencoding x\n\n"),
                ("object", "Object"),
                ("\ntag ", "\ntag a b"),
                ("object", "object  "),
                ("\n", "\r\n"),
            ]);
            bytes = text.replacen(from, to, 1).into_bytes();
        }
    }
    bytes
}

/// What the strict parsers say of a tag all of whose blocks must be one key's: not yet what its statement says.
fn tag_says(kind: gix_hash::Kind, tag: &[u8], key: &AnyKey) -> Result<(), String> {
    Tag::parse(kind, tag).map_err(|error| error.to_string())?;
    let (_, blocks) = blocks::split(tag).map_err(|error| error.to_string())?;
    for block in &blocks {
        block.signer(&tag[..block.start], b"git", std::iter::once(key)).map_err(|error| error.to_string())?;
    }
    if blocks.is_empty() { Err("it is not signed".to_owned()) } else { Ok(()) }
}

#[test]
fn a_tag_that_is_taken_here_is_taken_by_git_and_what_is_not_has_a_rule() {
    let (repo, key) = (Repo::new(), Key::in_process("ann@example.org"));
    let any = AnyKey::Ssh(PublicKey::parse(&key.blob()).unwrap());
    repo.write("signers", format!("ann@example.org {}\n", key.line()));
    let head = repo.commit("one", None);
    let mut dice = Dice(0x7461_6773_2121_2121);
    let plain = |text: &str, times: usize| {
        let mut tag = [Tag::head(head, "production/1.1", IDENTITY).as_bytes(), text.as_bytes()].concat();
        for _ in 0..times {
            tag.extend(key.sign("git", &tag));
        }
        tag
    };
    // Bent before they were signed, and after.
    let mut tags = vec![plain("text\n", 1), plain("text\n\n", 2), plain("", 1)];
    for odd in ["te\0xt\n", "te\rxt\n", "-----BEGIN\n", "-----BEGIN SSH SIGNATURE-----\ntext\n", "no newline"] {
        tags.push(plain(odd, 1));
    }
    for _ in 0..20 {
        let unsigned = bend_tag(&plain("text\n", 0), &mut dice);
        tags.push([&unsigned[..], &key.sign("git", &unsigned)].concat());
    }
    while tags.len() < 110 {
        let one = dice.of(&tags[..3]).clone();
        tags.push(bend_tag(&one, &mut dice));
    }
    let ids = store(&repo, "tag", &tags);
    let (mut both, mut git_alone) = (0, 0);
    for (tag, git) in tags.iter().zip(git_says(&repo, "verify-tag", &ids)) {
        let ours = tag_says(head.kind(), tag, &any);
        let shown = String::from_utf8_lossy(tag);
        match (ours, git) {
            (Ok(()), true) => both += 1,
            (Ok(()), false) => panic!("taken here and not by git:\n{shown}"),
            (Err(said), true) => {
                git_alone += 1;
                assert!(has_rule(&said), "no rule explains {said:?}:\n{shown}");
            }
            (Err(_), false) => {}
        }
    }
    assert!(both >= 3 && git_alone >= 8, "{both} {git_alone}");
}

/// `TRIMTAB_SEED=… cargo nextest run … soak_differential` repeats one.
#[test]
fn soak_differential() {
    let seed = std::env::var("TRIMTAB_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        u64::from_le_bytes(
            run(command("head", std::path::Path::new("/")).args(["-c", "8", "/dev/urandom"]), b"").try_into().unwrap(),
        ) | 1
    });
    for round in 0..3 {
        for format in ["sha1", "sha256"] {
            let (both, git_alone) = compare(format, seed.wrapping_add(round), 600);
            println!("seed {}, {format}: {both} taken by both, {git_alone} by git alone, of 600", seed.wrapping_add(round));
        }
    }
}
