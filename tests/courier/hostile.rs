//! N1 to N4 and O1: servers that are silent, slow, endless or lie, against a courier that is a process of its own, with bounds of time and
//! memory from outside; and a repository whose index lies.
//!
//! What each of these says to a person is in `faults` and `access`; here it is what they cost.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use trimtab::courier::{Class, ClientError};
use trimtab::trust::hash::{FetchError, Verified};
use trimtab::wire::{ObjectKind, ObjectSource};
use trimtab_tests::server::Fault;

use crate::bombs::{Scene, sha1};
use crate::{Courier, Fleet, LIMIT, git, source};

/// Beyond the courier's own bounds (here a second and a half in all) only what a loaded machine takes.
const SOON: Duration = Duration::from_secs(10);
const SHORT: &str = "idle-timeout = '500ms'\ntotal-timeout = '1500ms'\nmax-bytes = 1048576";

/// What a poll and a fetch come to under this fault, each soon.
fn under(fault: &Fault) -> (ClientError, String, Scene) {
    let mut scene = Scene::new(SHORT);
    scene.server.set_fault(fault.clone());
    let start = Instant::now();
    let poll = scene.client.poll("refs/heads/main").unwrap_err();
    let (polled, start) = (start.elapsed(), Instant::now());
    let blob = scene.fleet.id("HEAD:file");
    let fetch = scene.client.objects(ObjectKind::Blob, &[blob], LIMIT).unwrap_err().to_string();
    println!("{fault:.60?}: {poll} after {polled:?} / {fetch} after {:?}", start.elapsed());
    assert!(polled < SOON && start.elapsed() < SOON, "{polled:?} {:?}", start.elapsed());
    (poll, fetch, scene)
}

#[test]
fn n1_silence() {
    for after in [0, 10] {
        let (poll, fetch, scene) = under(&Fault::Stall(after));
        assert!(poll.to_string().contains("silent") && fetch.contains("silent"), "{poll} / {fetch}");
        scene.survived();
    }
}

#[test]
fn n2_a_trickle() {
    let (poll, fetch, scene) = under(&Fault::Trickle(Duration::from_millis(100)));
    assert!(poll.to_string().contains("total-timeout") && fetch.contains("total-timeout"), "{poll} / {fetch}");
    scene.survived();
}

#[test]
fn n3_endless_bodies_and_heads() {
    let mut scene = Scene::new(SHORT);
    scene.server.set_fault(Fault::Endless);
    let start = Instant::now();
    // What was asked for comes first; what follows must not be read for ever, whatever is made of the answer.
    let _ = scene.client.poll("refs/heads/main");
    let blob = scene.fleet.id("HEAD:file");
    let _ = scene.client.objects(ObjectKind::Blob, &[blob], LIMIT);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(scene.server.bytes_down() < 16 << 20, "{}", scene.server.bytes_down());
    scene.survived();
    let (poll, _, scene) = under(&Fault::EndlessHead);
    assert_eq!(poll.class(), Class::Retry);
    assert!(scene.server.bytes_down() < 16 << 20, "{}", scene.server.bytes_down());
    scene.survived();
    // A body without end in packets that are each in order: progress for people, in a band of its own.
    let chatter = format!("000dpackfile\n{}", "0015\x02Counting objects\n".repeat(200_000));
    let mut scene = Scene::new(SHORT);
    scene.server.set_fault(Fault::Canned(chatter.into_bytes()));
    let start = Instant::now();
    let error = scene.client.objects(ObjectKind::Blob, &[blob], LIMIT).unwrap_err();
    assert!(start.elapsed() < SOON, "{error} after {:?}", start.elapsed());
    scene.survived();
}

#[test]
fn n4_an_agent_that_cancels_leaves_nothing_behind() {
    // The courier would wait for half a minute; the agent does not.
    let mut scene = Scene::with_patience("idle-timeout = '30s'\ntotal-timeout = '60s'", Duration::from_millis(700));
    scene.client.poll("refs/heads/main").unwrap();
    let child = scene.client.child_id().unwrap();
    let tip = scene.fleet.id("HEAD");
    scene.server.set_fault(Fault::Stall(40));
    let start = Instant::now();
    let error = scene.client.advance(&tip, None).unwrap_err();
    assert!(start.elapsed() < SOON && error.class() == Class::Retry, "{error} after {:?}", start.elapsed());
    assert!(!fs::exists(format!("/proc/{child}")).unwrap(), "the courier was not ended");
    scene.server.set_fault(Fault::None);
    // The next one sweeps what the one before had begun.
    scene.client.poll("refs/heads/main").unwrap();
    assert!(fs::read_dir(scene.fleet.root().join("cache/tmp")).unwrap().next().is_none());
}

#[test]
fn heads_that_lie_cost_no_more_than_the_bounds() {
    let head = |more: &str, body: &str| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\n{more}\r\n\r\n{body}").into_bytes()
    };
    for lie in [
        head("Content-Length: 18446744073709551615", "0000"),
        head("Content-Length: 9223372036854775807", "0000"),
        head("Content-Length: -1", "0000"),
        head("Content-Length: 4\r\nContent-Length: 5", "0000"),
        head("Transfer-Encoding: chunked", "ffffffffffffffff\r\n0000"),
        head("Transfer-Encoding: chunked", "4;a=\"\r\n0000\r\n"),
        head("Content-Encoding: gzip\r\nContent-Length: 4", "0000"),
        b"HTTP/1.1 200 OK\r\n".repeat(1000),
        b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000),
        b"HTTP/9.9 999 \xff\xff\r\n\r\n".to_vec(),
        vec![0; 100_000],
        Vec::new(),
    ] {
        let mut scene = Scene::new(SHORT);
        scene.server.set_fault(Fault::Raw(lie));
        let start = Instant::now();
        // Where what came is a whole answer before the lie shows, it says that there is no such reference.
        let polled = scene.client.poll("refs/heads/main");
        assert!(!matches!(&polled, Ok(polled) if polled.id.is_some()), "{polled:?}");
        let blob = scene.fleet.id("HEAD:file");
        let fetched = scene.client.objects(ObjectKind::Blob, &[blob], LIMIT).unwrap_err();
        println!("{fetched:.100} after {:?}", start.elapsed());
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        scene.server.set_fault(Fault::None);
        // A connection that the server broke meanwhile may cost one more try.
        let _ = scene.client.poll("refs/heads/main");
        scene.survived();
    }
}

#[test]
fn o1_an_index_that_names_one_object_for_another_is_found_out_by_the_agent() {
    let fleet = Fleet::new();
    fleet.commit(&[("asked", "the one that was asked for\n"), ("other", "another one, as genuine\n")]);
    git(&fleet.work(), &["repack", "-q", "-a", "-d"]);
    git(&fleet.work(), &["prune-packed", "-q"]);
    let (asked, other) = (fleet.id("HEAD:asked"), fleet.id("HEAD:other"));
    forge(&fleet.work().join(".git/objects/pack"), asked.as_bytes(), other.as_bytes());
    let mut courier = Courier::new(source(&fleet.work().display().to_string()));
    // The courier is taken in, or there would be nothing to find out.
    let got = courier.client.objects(ObjectKind::Blob, &[asked], LIMIT).unwrap();
    assert_eq!(got, [b"another one, as genuine\n"]);
    let proved = Verified::new(&mut courier.client, LIMIT).one(ObjectKind::Blob, asked, LIMIT);
    assert!(matches!(&proved, Err(FetchError::Mismatch { id, .. }) if *id == asked), "{proved:?}");
}

/// Swaps where the only pack's index says that two objects are (version 2 of the format, Git's gitformat-pack).
fn forge(packs: &Path, one: &[u8], another: &[u8]) {
    let index = fs::read_dir(packs).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.extension().unwrap() == "idx");
    let index = index.unwrap();
    let mut bytes = fs::read(&index).unwrap();
    let count = u32::from_be_bytes(bytes[8 + 255 * 4..8 + 256 * 4].try_into().unwrap()) as usize;
    let ids = 8 + 256 * 4;
    let place = |id: &[u8]| (0..count).find(|n| bytes[ids + 20 * n..][..20] == *id).map(|n| ids + 24 * count + 4 * n).unwrap();
    let (a, b) = (place(one), place(another));
    for n in 0..4 {
        bytes.swap(a + n, b + n);
    }
    let end = bytes.len() - 20;
    let sum = sha1(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum);
    fs::remove_file(&index).unwrap();
    fs::write(&index, bytes).unwrap();
}
