//! The host's status reference, pushed to real Git: `http-backend`, receive-pack over (what stands for) ssh, and a bare repository here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use trimtab::courier::{Class, CourierError, SourceConfig, push_status};
use trimtab::sinks::StatusPush;
use trimtab_tests::server::{Auth, Fault, GitServer, Tls};

use crate::{Courier, Fleet, git, source};

const REFERENCE: &str = "refs/trimtab/status/edge-1";

fn status(number: u64) -> StatusPush {
    let file = |name: &str, content: String| (name.to_owned(), content.into_bytes());
    StatusPush {
        reference: REFERENCE.to_owned(),
        files: vec![
            file("status.json", format!("{{\"number\": {number}}}\n")),
            file("report.json", format!("{{\"sequence\":{number}}}")),
            file("report.json.minisig", "untrusted comment: x\n".to_owned()),
        ],
        message: format!("edge-1: report {number}"),
        at: 1_700_000_000 + number,
    }
}

/// A bare repository that takes pushes and looks hard at what it is sent.
fn bare(fleet: &Fleet, format: &str) -> PathBuf {
    let path = fleet.root().join("bare.git");
    git(fleet.root(), &["init", "-q", "--bare", "-b", "main", &format!("--object-format={format}"), "bare.git"]);
    for (key, value) in [("http.receivepack", "true"), ("receive.fsckObjects", "true"), ("receive.denyNonFastForwards", "true")] {
        git(&path, &["config", key, value]);
    }
    path
}

fn cache(fleet: &Fleet) -> PathBuf {
    fleet.root().join("cache")
}

/// What a person sees who fetches the reference.
fn assert_there(bare: &Path, number: u64) {
    let person = tempfile::tempdir().unwrap();
    let format = git(bare, &["rev-parse", "--show-object-format"]);
    git(person.path(), &["init", "-q", &format!("--object-format={format}")]);
    git(person.path(), &["fetch", "-q", &bare.display().to_string(), "+refs/trimtab/status/*:refs/trimtab/status/*"]);
    let show = |what: &str| git(person.path(), &["show", &format!("{REFERENCE}:{what}")]);
    assert_eq!(show("status.json"), format!("{{\"number\": {number}}}"));
    assert_eq!(show("report.json"), format!("{{\"sequence\":{number}}}"));
    assert_eq!(
        git(person.path(), &["log", "--format=%s %ct %P", REFERENCE]),
        format!("edge-1: report {number} {}", 1_700_000_000 + number)
    );
    assert_eq!(git(person.path(), &["ls-tree", "--name-only", REFERENCE]), "report.json\nreport.json.minisig\nstatus.json");
    git(person.path(), &["fsck", "--strict"]);
}

/// Pushes twice, and once more the same.
fn succeeds(source: &SourceConfig, fleet: &Fleet, bare: &Path) {
    for number in [1, 2, 2] {
        push_status(source, &cache(fleet), &status(number)).unwrap();
        assert_there(bare, number);
    }
}

#[test]
fn a_bare_repository_here_takes_it_of_either_hash() {
    for format in ["sha1", "sha256"] {
        let fleet = Fleet::new();
        let bare = bare(&fleet, format);
        succeeds(&source(&bare.display().to_string()), &fleet, &bare);
        assert_eq!(git(&bare, &["for-each-ref", "--format=%(refname)"]), REFERENCE);
    }
}

#[test]
fn over_http_the_second_push_asks_nothing_first() {
    let fleet = Fleet::new();
    let bare = bare(&fleet, "sha1");
    let server = GitServer::start(fleet.root(), Tls::Off);
    let source = source(&format!("{}/bare.git", server.url()));
    push_status(&source, &cache(&fleet), &status(1)).unwrap();
    assert_there(&bare, 1);
    assert_eq!(server.requests(), 2, "{:?}", server.log());
    server.reset();
    push_status(&source, &cache(&fleet), &status(2)).unwrap();
    assert_there(&bare, 2);
    assert_eq!(server.requests(), 1, "{:?}", server.log());
    server.reset();
    push_status(&source, &cache(&fleet), &status(2)).unwrap();
    assert_eq!(server.requests(), 0, "what is there is not sent again: {:?}", server.log());
    // Somebody took the reference away, or a backup was restored: it is asked, and mended.
    git(&bare, &["update-ref", "-d", REFERENCE]);
    push_status(&source, &cache(&fleet), &status(3)).unwrap();
    assert_there(&bare, 3);
    // A server that must be asked first.
    server.set_fault(Fault::RejectBarePost);
    push_status(&source, &cache(&fleet), &status(4)).unwrap();
    assert_there(&bare, 4);
}

#[test]
fn over_http_a_repository_with_ids_of_sha256_takes_it() {
    let fleet = Fleet::new();
    let bare = bare(&fleet, "sha256");
    let server = GitServer::start(fleet.root(), Tls::Off);
    succeeds(&source(&format!("{}/bare.git", server.url())), &fleet, &bare);
}

#[test]
fn over_ssh_it_is_receive_pack_without_a_protocol_of_its_own() {
    let fleet = Fleet::new();
    let bare = bare(&fleet, "sha1");
    let programs = fleet.root().join("bin");
    fs::create_dir_all(&programs).unwrap();
    let log = programs.join("log");
    let script =
        format!("#!/bin/sh\necho \"[$GIT_PROTOCOL] $*\" >> '{}'; for last; do :; done; exec sh -c \"$last\"\n", log.display());
    fs::write(programs.join("ssh"), script).unwrap();
    fs::set_permissions(programs.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    // The variable belongs to the whole process, so this test has one of its own.
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "push::pushes_by_the_ssh_of_its_path", "--ignored", "--nocapture"])
        .env("PATH", format!("{}:{}", programs.display(), std::env::var("PATH").unwrap()))
        .env("TEST_FLEET", fleet.root())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    assert_there(&bare, 2);
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(log.lines().count(), 3, "{log}");
    assert!(log.lines().all(|line| line.starts_with("[] ") && line.contains("-- git@far.example git-receive-pack '")), "{log}");
}

/// Not a test of its own: the one above starts it.
#[test]
#[ignore = "started by over_ssh_it_is_receive_pack_without_a_protocol_of_its_own"]
fn pushes_by_the_ssh_of_its_path() {
    let root = PathBuf::from(std::env::var_os("TEST_FLEET").unwrap());
    let source = source(&format!("ssh://git@far.example{}/bare.git", root.display()));
    for number in [1, 2, 2] {
        push_status(&source, &root.join("cache"), &status(number)).unwrap();
    }
}

fn error(source: &SourceConfig, fleet: &Fleet, number: u64) -> CourierError {
    push_status(source, &cache(fleet), &status(number)).unwrap_err()
}

fn told(error: &CourierError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

#[test]
fn a_hook_that_says_no_is_told_in_its_own_words_and_nothing_changes() {
    let fleet = Fleet::new();
    let bare = bare(&fleet, "sha1");
    let server = GitServer::start(fleet.root(), Tls::Off);
    for url in [bare.display().to_string(), format!("{}/bare.git", server.url())] {
        let hook = bare.join("hooks/pre-receive");
        let _ = fs::remove_file(&hook);
        push_status(&source(&url), &cache(&fleet), &status(1)).unwrap();
        fs::write(&hook, "#!/bin/sh\necho 'only ops may write here' >&2\nexit 1\n").unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        let error = error(&source(&url), &fleet, 2);
        let text = told(&error);
        assert!(text.contains(REFERENCE) && text.contains("declined") && text.contains("only ops may write here"), "{text}");
        assert_eq!(error.class(), Class::Configuration);
        assert_there(&bare, 1);
    }
}

#[test]
fn a_server_that_takes_no_pushes_is_told_with_advice() {
    let fleet = Fleet::new();
    let bare = bare(&fleet, "sha1");
    git(&bare, &["config", "http.receivepack", "false"]);
    let server = GitServer::start(fleet.root(), Tls::Off);
    let no_pushes = error(&source(&format!("{}/bare.git", server.url())), &fleet, 1);
    assert!(told(&no_pushes).contains("403") && told(&no_pushes).contains("may not write"), "{no_pushes}");
    assert_eq!(no_pushes.class(), Class::Configuration);
    let nowhere = error(&source(&format!("{}/nowhere.git", server.url())), &fleet, 1);
    assert!(told(&nowhere).contains("404"), "{nowhere}");
    server.set_auth(Auth::Header("Bearer right".to_owned()));
    let stranger = error(&source(&format!("{}/bare.git", server.url())), &fleet, 1);
    assert!(told(&stranger).contains("401"), "{stranger}");
    let missing = error(&source(&fleet.root().join("nowhere.git").display().to_string()), &fleet, 1);
    assert!(told(&missing).contains("nowhere.git") && told(&missing).contains("git in"), "{}", told(&missing));
    let hidden = "refs/trimtab";
    git(&bare, &["config", "receive.hideRefs", hidden]);
    let hidden = error(&source(&bare.display().to_string()), &fleet, 1);
    assert!(told(&hidden).contains("hidden"), "{hidden}");
}

#[test]
fn names_that_are_no_reference_and_lies_are_refused() {
    let fleet = Fleet::new();
    let bare = bare(&fleet, "sha1");
    for name in ["refs/heads/main", "refs/trimtab/status/a..b", "refs/trimtab/status/", "refs/trimtab/status/a b", "HEAD"] {
        let push = StatusPush { reference: name.to_owned(), ..status(1) };
        push_status(&source(&bare.display().to_string()), &cache(&fleet), &push).unwrap_err();
    }
    assert_eq!(git(&bare, &["for-each-ref"]), "");
    let server = GitServer::start(fleet.root(), Tls::Off);
    let source = source(&format!("{}/bare.git", server.url()));
    // "Yes" for another reference, and a report that never ends in one.
    let mut band = b"\x01".to_vec();
    band.extend(b"000eunpack ok\n0019ok refs/heads/main\n0000");
    let canned = [format!("{:04x}", band.len() + 4).as_bytes(), &band, b"0000"].concat();
    server.set_fault(Fault::Canned(canned));
    let lie = error(&source, &fleet, 1);
    assert!(told(&lie).contains("does not say that it took it"), "{}", told(&lie));
    assert_eq!(git(&bare, &["for-each-ref"]), "");
}

#[test]
fn a_slow_or_endless_server_costs_no_more_than_the_bounds() {
    let fleet = Fleet::new();
    bare(&fleet, "sha1");
    let server = GitServer::start(fleet.root(), Tls::Off);
    let mut source = source(&format!("{}/bare.git", server.url()));
    (source.idle_timeout, source.total_timeout) = (Duration::from_millis(300), Duration::from_secs(2));
    for (fault, says) in [
        (Fault::Stall(10), "idle-timeout"),
        (Fault::Trickle(Duration::from_millis(100)), "total-timeout"),
        (Fault::Endless, ""),
        (Fault::Cut(20), ""),
        (Fault::Status(500, "down".to_owned()), "500"),
    ] {
        server.set_fault(fault.clone());
        let began = Instant::now();
        let text = told(&error(&source, &fleet, 1));
        assert!(text.contains(says), "{fault:?}: {text}");
        assert!(began.elapsed() < Duration::from_secs(4), "{fault:?} took {:?}", began.elapsed());
    }
}

#[test]
fn polls_and_fetches_bring_none_of_it() {
    let fleet = Fleet::new();
    let first = fleet.commit(&[("file", "one")]);
    let bare = bare(&fleet, "sha1");
    git(&fleet.work(), &["push", "-q", &bare.display().to_string(), "main"]);
    let server = GitServer::start(fleet.root(), Tls::Off);
    let source = source(&format!("{}/bare.git", server.url()));
    for number in 0..12 {
        let push = StatusPush { reference: format!("refs/trimtab/status/edge-{number}"), ..status(number) };
        push_status(&source, &cache(&fleet), &push).unwrap();
    }
    server.reset();
    let mut courier = Courier::new(source);
    assert_eq!(courier.client.poll("refs/heads/main").unwrap().id, Some(first));
    courier.client.advance(&first, None).unwrap();
    assert!(server.bytes_down() < 2000, "{} bytes came", server.bytes_down());
    let one = git(&bare, &["rev-parse", "refs/trimtab/status/edge-7"]);
    let found = fs::read_dir(courier.cache().join("objects")).unwrap().flatten().any(|fan| fan.path().join(&one[2..]).exists());
    assert!(!found);
}
