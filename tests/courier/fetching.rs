//! What is asked for, how often, and that it arrives.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use trimtab::courier::{Client, ClientError};
use trimtab::wire::{ObjectError, ObjectKind, ObjectSource};
use trimtab_tests::server::{Authority, Fault, GitServer, Tls};

use crate::{Courier, Fleet, LIMIT, files, git, id, noise, source, walk};

const FIRST: &[(&str, &str)] =
    &[("fleet.toml", "format = 1\n"), ("components/web/files/etc/motd", "hello\n"), ("hosts/a.toml", "x")];

#[test]
fn a_poll_is_one_request_and_three_kibibytes_with_tls() {
    let fleet = Fleet::new();
    let tip = fleet.commit(FIRST);
    for n in 0..50 {
        git(&fleet.work(), &["branch", &format!("main{n}")]);
    }
    git(&fleet.work(), &["tag", "-a", "-m", "release", "v1"]);
    let authority = Authority::new();
    let server = GitServer::start(fleet.root(), Tls::On(&authority));
    let mut config = source(&format!("{}/fleet/.git", server.url()));
    let ca = fleet.root().join("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    config.ca_file = Some(ca);
    let mut courier = Courier::new(config);
    let polled = courier.client.poll("refs/tags/v1").unwrap();
    println!("poll: {} up, {} down, cold, with TLS", server.bytes_up(), server.bytes_down());
    assert_eq!((server.requests(), polled.traffic.requests), (1, 1));
    assert!(server.bytes_up() + server.bytes_down() <= 3 << 10);
    assert_eq!((polled.id, polled.peeled), (Some(fleet.id("refs/tags/v1")), Some(tip)));
    let polled = courier.client.poll("refs/heads/main").unwrap();
    assert_eq!((polled.id, polled.peeled), (Some(tip), None));
    assert_eq!(courier.client.poll("refs/heads/mai").unwrap().id, None);
    assert_eq!(server.requests(), 3);
    let error = courier.client.poll("main").unwrap_err().to_string();
    assert!(error.contains("full name"), "{error}");
}

/// First contact, then one commit more; gives back the requests that each took.
fn first_and_next(fleet: &Fleet, courier: &mut Client, server: &GitServer) -> (u64, u64) {
    let first = fleet.commit(FIRST);
    server.reset();
    assert_eq!(courier.poll("refs/heads/main").unwrap().id, Some(first));
    courier.advance(&first, None).unwrap();
    assert_eq!(walk(courier, first), files(FIRST));
    let contact = server.requests();
    fleet.commit(&[("components/web/files/etc/motd", "between\n")]);
    let second = fleet.commit(&[("components/web/files/etc/motd", "hello again\n")]);
    server.reset();
    assert_eq!(courier.poll("refs/heads/main").unwrap().id, Some(second));
    courier.advance(&second, Some(&first)).unwrap();
    let mut expected = files(FIRST);
    expected.insert("components/web/files/etc/motd".into(), "hello again\n".into());
    assert_eq!(walk(courier, second), expected);
    let between = fleet.id("HEAD^");
    courier.objects(ObjectKind::Commit, &[between], LIMIT).unwrap();
    let update = server.requests();
    // All of it comes from the cache now.
    courier.advance(&second, Some(&first)).unwrap();
    walk(courier, second);
    assert_eq!(server.requests(), update);
    (contact, update)
}

#[test]
fn first_contact_and_an_update_take_few_requests_and_no_thin_packs() {
    let fleet = Fleet::new();
    let server = GitServer::start(fleet.root(), Tls::Off);
    let mut courier = Courier::new(source(&format!("{}/fleet/.git", server.url())));
    let (contact, update) = first_and_next(&fleet, &mut courier.client, &server);
    // poll, commit, five levels of trees, blobs; then poll, commits with changed trees, blobs.
    assert_eq!((contact, update), (8, 3));
    assert!(server.log().iter().all(|line| !line.contains("thin-pack") && !line.contains("info/refs")), "{:#?}", server.log());
}

#[test]
fn sha256_repositories_work() {
    let fleet = Fleet::with_format("sha256");
    let server = GitServer::start(fleet.root(), Tls::Off);
    let mut courier = Courier::new(source(&format!("{}/fleet/.git", server.url())));
    first_and_next(&fleet, &mut courier.client, &server);
    // What the server said of itself is remembered: the next courier needs one request again.
    courier.client.hang_up();
    server.reset();
    courier.client.poll("refs/heads/main").unwrap();
    assert_eq!(server.requests(), 1, "{:#?}", server.log());
}

#[test]
fn a_server_without_filter_sends_more_but_works() {
    let fleet = Fleet::new();
    git(&fleet.work(), &["config", "uploadpack.allowFilter", "false"]);
    let server = GitServer::start(fleet.root(), Tls::Off);
    let mut courier = Courier::new(source(&format!("{}/fleet/.git", server.url())));
    first_and_next(&fleet, &mut courier.client, &server);
}

#[test]
fn a_server_that_wants_the_handshake_gets_it() {
    let fleet = Fleet::new();
    let server = GitServer::start(fleet.root(), Tls::Off);
    server.set_fault(Fault::RejectBarePost);
    let mut courier = Courier::new(source(&format!("{}/fleet/.git", server.url())));
    first_and_next(&fleet, &mut courier.client, &server);
}

#[test]
fn a_server_of_the_old_protocol_works() {
    let fleet = Fleet::new();
    let server = GitServer::start(fleet.root(), Tls::Off);
    server.set_fault(Fault::OldProtocol);
    let mut courier = Courier::new(source(&format!("{}/fleet/.git", server.url())));
    first_and_next(&fleet, &mut courier.client, &server);
}

#[test]
fn what_is_not_there_or_too_large_is_named() {
    let fleet = Fleet::new();
    fleet.commit(&[("small", "1"), ("large", &"x".repeat(5000))]);
    let server = GitServer::start(fleet.root(), Tls::Off);
    for url in [format!("{}/fleet/.git", server.url()), fleet.work().display().to_string()] {
        let mut courier = Courier::new(source(&url));
        let (small, large, nothing) = (fleet.id("HEAD:small"), fleet.id("HEAD:large"), id(&"1".repeat(40)));
        let mut ask = |ids: &[_], limit| courier.client.objects(ObjectKind::Blob, ids, limit);
        assert!(matches!(ask(&[small, nothing], 10), Err(ObjectError::Missing { id, .. }) if id == nothing));
        assert!(matches!(ask(&[small, large], 10), Err(ObjectError::TooLarge { id, .. }) if id == large));
        assert!(matches!(ask(&[fleet.id("HEAD")], LIMIT), Err(ObjectError::Missing { .. })), "a commit is no blob");
        assert_eq!(ask(&[small, small], 10).unwrap(), [b"1", b"1"]);
        let error = courier.client.advance(&nothing, None).map(|_| ());
        if url.starts_with("http") {
            assert!(matches!(error, Err(ClientError::Missing(id)) if id == nothing), "{error:?}");
        }
    }
}

#[test]
fn tags_and_several_commits_come_by_their_ids() {
    let fleet = Fleet::new();
    let commits = [fleet.commit(&[("a", "1")]), fleet.commit(&[("a", "2")]), fleet.commit(&[("a", "3")])];
    git(&fleet.work(), &["tag", "-a", "-m", "release", "v1", "HEAD^"]);
    let tag = fleet.id("refs/tags/v1");
    let server = GitServer::start(fleet.root(), Tls::Off);
    for old in [false, true] {
        server.set_fault(if old { Fault::OldProtocol } else { Fault::None });
        let mut courier = Courier::new(source(&format!("{}/fleet/.git", server.url())));
        if old {
            // Then only what hangs on the reference can be had.
            assert_eq!(courier.client.poll("refs/tags/v1").unwrap().id, Some(tag));
        } else {
            let found = courier.client.objects(ObjectKind::Commit, &commits, LIMIT).unwrap();
            assert!(found.iter().all(|commit| commit.starts_with(b"tree ")));
            assert_eq!(server.requests(), 1);
        }
        let found = courier.client.objects(ObjectKind::Tag, &[tag], LIMIT).unwrap();
        assert!(found[0].starts_with(format!("object {}", commits[1]).as_bytes()));
        assert_eq!(walk(&mut courier.client, commits[1]), files(&[("a", "2")]));
    }
}

#[test]
fn couriers_side_by_side_share_a_cache() {
    let fleet = Fleet::new();
    let tip = fleet.commit(FIRST);
    let server = GitServer::start(fleet.root(), Tls::Off);
    let courier = Courier::new(source(&format!("{}/fleet/.git", server.url())));
    let socket = courier.folder.path().join("socket");
    let walkers: Vec<_> = (0..6)
        .map(|_| {
            let mut client = Client::connect(&socket, crate::PATIENCE).unwrap();
            std::thread::spawn(move || walk(&mut client, tip))
        })
        .collect();
    for walker in walkers {
        assert_eq!(walker.join().unwrap(), files(FIRST));
    }
}

#[test]
fn a_repository_on_this_machine_needs_no_git_program() {
    let fleet = Fleet::new();
    let tip = fleet.commit(FIRST);
    git(&fleet.work(), &["tag", "-a", "-m", "release", "v1"]);
    git(fleet.root(), &["clone", "-q", "--bare", "fleet", "bare.git"]);
    for url in [fleet.work().display().to_string(), format!("file://{}/bare.git", fleet.root().display())] {
        let mut courier = Courier::new(source(&url));
        assert_eq!(courier.client.poll("refs/heads/main").unwrap().id, Some(tip));
        assert_eq!(courier.client.poll("HEAD").unwrap().id, Some(tip));
        assert_eq!(courier.client.poll("refs/heads/mai").unwrap().id, None);
        assert_eq!(courier.client.poll("refs/tags/v1").unwrap().peeled, Some(tip));
        courier.client.advance(&tip, None).unwrap();
        assert_eq!(walk(&mut courier.client, tip), files(FIRST));
    }
    let error = Courier::new(source("/nowhere/fleet")).client.poll("HEAD").unwrap_err().to_string();
    assert!(error.contains("/nowhere/fleet"), "{error}");
}

#[test]
fn a_rewritten_history_does_not_stop_it() {
    let fleet = Fleet::new();
    let old = fleet.commit(FIRST);
    let server = GitServer::start(fleet.root(), Tls::Off);
    let mut courier = Courier::new(source(&format!("{}/fleet/.git", server.url())));
    git(&fleet.work(), &["checkout", "-q", "--orphan", "other"]);
    let new = fleet.commit(&[("fleet.toml", "format = 2\n")]);
    git(&fleet.work(), &["branch", "-D", "main"]);
    courier.client.advance(&new, Some(&old)).unwrap();
    courier.client.advance(&new, Some(&id(&"2".repeat(40)))).unwrap();
    assert_eq!(walk(&mut courier.client, new)["fleet.toml"], "format = 2\n");
}

#[test]
fn of_a_history_that_is_too_much_only_the_tip_is_taken() {
    let fleet = Fleet::new();
    let commit = |n: u64| {
        let (message, head) = (noise(n, 2000), "commit refs/heads/import\ncommitter t <t@t> 1 +0000\n");
        format!("{head}data {}\n{message}\nM 644 inline file\ndata 1\nx\n", message.len())
    };
    fs::write(fleet.root().join("import"), (0..150).map(commit).collect::<String>()).unwrap();
    git(&fleet.work(), &["-c", "alias.take=!git fast-import --quiet <../import", "take"]);
    let tip = fleet.id("import");
    let server = GitServer::start(fleet.root(), Tls::Off);
    let mut config = source(&format!("{}/fleet/.git", server.url()));
    config.max_bytes = 64 << 10;
    let mut courier = Courier::new(config);
    courier.client.advance(&tip, Some(&id(&"2".repeat(40)))).unwrap();
    // All, the commits alone, the tip alone.
    assert_eq!(server.requests(), 3, "{:#?}", server.log());
    assert_eq!(walk(&mut courier.client, tip), files(&[("file", "x")]));
    assert_eq!(server.requests(), 5);
}

#[test]
fn of_a_long_history_the_commits_come_in_one_request_when_their_trees_are_too_many() {
    let fleet = Fleet::new();
    let first = fleet.commit(FIRST);
    // Each commit has 31 trees of its own.
    let path = "d/".repeat(30);
    let commit = |n: u64| {
        let from = if n == 0 { "from refs/heads/main^0\n" } else { "" };
        let (head, text) = ("commit refs/heads/import\ncommitter t <t@t> 1 +0000\n", format!("{n}"));
        format!("{head}data 1\nm\n{from}M 644 inline {path}file\ndata {}\n{text}\n", text.len())
    };
    fs::write(fleet.root().join("import"), (0..700).map(commit).collect::<String>()).unwrap();
    git(&fleet.work(), &["-c", "alias.take=!git fast-import --quiet <../import", "take"]);
    let tip = fleet.id("import");
    let server = GitServer::start(fleet.root(), Tls::Off);
    let mut courier = Courier::new(source(&format!("{}/fleet/.git", server.url())));
    courier.client.advance(&first, None).unwrap();
    server.reset();
    courier.client.advance(&tip, Some(&first)).unwrap();
    assert_eq!(server.requests(), 2, "{:#?}", server.log());
    for back in [1, 300, 699] {
        let one = fleet.id(&format!("import~{back}"));
        courier.client.objects(ObjectKind::Commit, &[one], LIMIT).unwrap();
    }
    assert_eq!(server.requests(), 2, "every commit was there");
    courier.client.advance(&tip, Some(&first)).unwrap();
    assert_eq!(server.requests(), 2, "and is known to be");
}

#[test]
fn a_large_file_of_somebody_elses_does_not_matter() {
    let fleet = Fleet::new();
    let tip = fleet.commit(&[("mine", "1"), ("theirs", &"x".repeat((16 << 20) + 1))]);
    let server = GitServer::start(fleet.root(), Tls::Off);
    for filters in [true, false] {
        git(&fleet.work(), &["config", "uploadpack.allowFilter", &filters.to_string()]);
        server.reset();
        let mut courier = Courier::new(source(&format!("{}/fleet/.git", server.url())));
        courier.client.advance(&tip, None).unwrap();
        courier.client.objects(ObjectKind::Tree, &[fleet.id("HEAD^{tree}")], LIMIT).unwrap();
        assert_eq!(courier.client.objects(ObjectKind::Blob, &[fleet.id("HEAD:mine")], LIMIT).unwrap(), [b"1"]);
        if !filters {
            let theirs = courier.client.objects(ObjectKind::Blob, &[fleet.id("HEAD:theirs")], LIMIT).map(drop);
            assert!(matches!(theirs, Err(ObjectError::TooLarge { .. })), "{theirs:?}");
        }
    }
}

#[test]
fn more_than_one_reply_can_hold_is_asked_for_again() {
    let fleet = Fleet::new();
    let big: Vec<_> = (0..3u8).map(|n| (format!("f{n}"), char::from(b'a' + n).to_string().repeat(3 << 20))).collect();
    let pairs: Vec<_> = big.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
    let tip = fleet.commit(&pairs);
    let server = GitServer::start(fleet.root(), Tls::Off);
    for url in [format!("{}/fleet/.git", server.url()), fleet.work().display().to_string()] {
        let mut courier = Courier::new(source(&url));
        assert_eq!(walk(&mut courier.client, tip), files(&pairs));
    }
}

#[test]
fn a_download_over_the_bound_is_taken_in_parts() {
    let fleet = Fleet::new();
    let parts: Vec<_> = (0..6).map(|n| (format!("f{n}"), noise(n, 60_000))).collect();
    let pairs: Vec<_> = parts.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
    let tip = fleet.commit(&pairs);
    let server = GitServer::start(fleet.root(), Tls::Off);
    let mut config = source(&format!("{}/fleet/.git", server.url()));
    config.max_bytes = 100_000;
    let mut courier = Courier::new(config);
    assert_eq!(walk(&mut courier.client, tip), files(&pairs));
    assert!(folder_size(&courier.cache()).0 <= 2 * 2 * 100_000 + 10_000, "{:?}", folder_size(&courier.cache()));
}

#[test]
fn a_damaged_cache_heals() {
    let fleet = Fleet::new();
    let tip = fleet.commit(FIRST);
    let server = GitServer::start(fleet.root(), Tls::Off);
    let mut courier = Courier::new(source(&format!("{}/fleet/.git", server.url())));
    walk(&mut courier.client, tip);
    courier.client.hang_up();
    damage(&courier.cache().join("objects"));
    fs::write(courier.cache().join("server"), "rubbish").unwrap();
    assert_eq!(walk(&mut courier.client, tip), files(FIRST));
    courier.client.hang_up();
    fs::remove_dir_all(courier.cache().join("objects")).unwrap();
    fs::write(courier.cache().join("objects"), "rubbish").unwrap();
    assert_eq!(walk(&mut courier.client, tip), files(FIRST));
}

#[test]
fn a_damaged_repository_of_a_bundle_heals() {
    let fleet = Fleet::new();
    let tip = fleet.commit(FIRST);
    let bundle = fleet.root().join("fleet.bundle");
    git(&fleet.work(), &["bundle", "create", "--quiet", bundle.to_str().unwrap(), "main"]);
    let mut courier = Courier::new(source(bundle.to_str().unwrap()));
    let made = courier.cache().join("bundle.git");
    let packs = made.join("objects/pack");
    let with = |ending: &str| {
        let found =
            fs::read_dir(&packs).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.to_str().unwrap().ends_with(ending));
        found.unwrap_or_else(|| panic!("no {ending}"))
    };
    let made_at = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let look = |courier: &mut Courier, what: &str| {
        assert_eq!(courier.client.poll("refs/heads/main").unwrap().id, Some(tip), "{what}");
        assert_eq!(walk(&mut courier.client, tip), files(FIRST), "{what}");
        courier.client.hang_up();
    };
    look(&mut courier, "first");
    let whole = fs::metadata(with(".pack")).unwrap();
    look(&mut courier, "again");
    assert_eq!(made_at(&with(".pack")), whole.modified().unwrap(), "what is sound is not made again");
    // What a power cut leaves of files that nobody synced.
    let cut = |path: PathBuf, size: u64| {
        let mut mode = fs::metadata(&path).unwrap().permissions();
        mode.set_mode(0o600);
        fs::set_permissions(&path, mode).unwrap();
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(size).unwrap();
    };
    cut(with(".pack"), 0);
    look(&mut courier, "no pack");
    cut(with(".pack"), whole.len() / 2);
    look(&mut courier, "half a pack");
    cut(with(".idx"), 0);
    look(&mut courier, "no index");
    fs::remove_file(with(".idx")).unwrap();
    look(&mut courier, "lost index");
    for file in ["packed-refs", "config", "HEAD", "made-from"] {
        cut(made.join(file), 0);
        look(&mut courier, file);
    }
    fs::remove_dir_all(&made).unwrap();
    fs::write(&made, "rubbish").unwrap();
    look(&mut courier, "no folder");
    // What is not in the bundle is missing, and not looked for again and again.
    let other = id(&"3".repeat(40));
    let mut ask = || {
        assert!(matches!(courier.client.objects(ObjectKind::Blob, &[other], LIMIT), Err(ObjectError::Missing { .. })));
        made_at(&with(".pack"))
    };
    let before = made_at(&with(".pack"));
    let (first, second) = (ask(), ask());
    assert!(before != first && first == second, "once in a courier's life: {before:?} {first:?} {second:?}");
}

fn damage(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => damage(&path),
            path => fs::write(path, "blob 3\0abd").unwrap(),
        }
    }
}

/// Bytes and files under a folder.
fn folder_size(folder: &Path) -> (u64, usize) {
    let mut sum = (0, 0);
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let about = entry.metadata().unwrap();
        let (bytes, count) = if about.is_dir() { folder_size(&entry.path()) } else { (about.len(), 1) };
        sum = (sum.0 + bytes, sum.1 + count);
    }
    sum
}

#[test]
fn three_hundred_updates_leave_the_cache_bounded() {
    let fleet = Fleet::new();
    let commit = |n: u32| {
        let (body, head) = (format!("{n}\n").repeat(300), format!("commit refs/heads/import\ncommitter t <t@t> {n} +0000\n"));
        format!("{head}data 1\nx\nM 644 inline etc/file\ndata {}\n{body}\n", body.len())
    };
    let stream = (0..300).map(commit).collect::<String>();
    let script = fleet.root().join("import");
    fs::write(&script, stream).unwrap();
    git(&fleet.work(), &["-c", "alias.take=!git fast-import --quiet <../import", "take"]);
    let commits = git(&fleet.work(), &["rev-list", "--reverse", "import"]);
    let commits: Vec<_> = commits.lines().map(id).collect();
    assert_eq!(commits.len(), 300);
    let server = GitServer::start(fleet.root(), Tls::Off);
    let mut config = source(&format!("{}/fleet/.git", server.url()));
    config.max_bytes = 64 << 10;
    let mut courier = Courier::new(config);
    let mut known = None;
    let mut most = 0;
    for commit in &commits {
        courier.client.advance(commit, known).unwrap();
        assert_eq!(walk(&mut courier.client, *commit).len(), 1);
        known = Some(commit);
        most = most.max(folder_size(&courier.cache()).0);
    }
    let (bytes, count) = folder_size(&courier.cache());
    println!("after 300 updates: {count} files, {bytes} bytes, at most {most}");
    // The quota is twice max-bytes; one update may be on top until the next one.
    assert!(most <= (128 << 10) + 8192, "{most}");
    courier.client.hang_up();
    assert!(fs::read_dir(courier.cache().join("tmp")).unwrap().next().is_none());
}
