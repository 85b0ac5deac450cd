//! Bad lines and bad servers: each is told clearly, within its bound of time and bytes, and the next try works.

use std::time::{Duration, Instant};

use trimtab::courier::{Class, ClientError, SourceConfig};
use trimtab::wire::{ObjectError, ObjectKind, ObjectSource};
use trimtab_tests::server::{Fault, GitServer, Tls};

use crate::{Courier, Fleet, LIMIT, noise, source};

struct Scene {
    fleet: Fleet,
    server: GitServer,
    courier: Courier,
}

impl Scene {
    fn new(set: impl Fn(&mut SourceConfig)) -> Self {
        let fleet = Fleet::new();
        fleet.commit(&[("file", &"content ".repeat(4000))]);
        let server = GitServer::start(fleet.root(), Tls::Off);
        let mut config = source(&format!("{}/fleet/.git", server.url()));
        set(&mut config);
        Self { courier: Courier::new(config), fleet, server }
    }

    /// What a poll and a fetch say under this fault, each within `most`; and that both work again afterwards.
    fn under(&mut self, fault: &Fault, most: Duration) -> (ClientError, String) {
        self.server.set_fault(fault.clone());
        let start = Instant::now();
        let poll = self.courier.client.poll("refs/heads/main").unwrap_err();
        assert!(start.elapsed() < most, "{:?} for a poll: {poll}", start.elapsed());
        // Not one that the cache has already.
        self.fleet.commit(&[("file", &format!("{start:?} ").repeat(500))]);
        let start = Instant::now();
        let blob = self.fleet.id("HEAD:file");
        let fetch = self.courier.client.objects(ObjectKind::Blob, &[blob], LIMIT).map(drop).unwrap_err();
        assert!(start.elapsed() < most, "{:?} for a fetch: {fetch}", start.elapsed());
        println!("{fault:.40?}: {poll} / {fetch}");
        self.server.set_fault(Fault::None);
        assert!(self.courier.client.poll("refs/heads/main").unwrap().id.is_some());
        self.courier.client.objects(ObjectKind::Blob, &[blob], LIMIT).unwrap();
        (poll, fetch.to_string())
    }
}

#[test]
fn silence_ends_at_the_idle_timeout() {
    let mut scene = Scene::new(|config| config.idle_timeout = Duration::from_millis(400));
    let (poll, fetch) = scene.under(&Fault::Stall(10), Duration::from_secs(5));
    assert_eq!(poll.class(), Class::Retry);
    assert!(poll.to_string().contains("idle-timeout") && fetch.contains("idle-timeout"), "{poll} / {fetch}");
}

#[test]
fn a_trickle_ends_at_the_total_timeout() {
    let mut scene = Scene::new(|config| {
        config.idle_timeout = Duration::from_millis(500);
        config.total_timeout = Duration::from_millis(900);
    });
    let (poll, fetch) = scene.under(&Fault::Trickle(Duration::from_millis(50)), Duration::from_secs(5));
    assert_eq!(poll.class(), Class::Retry);
    assert!(poll.to_string().contains("total-timeout") && fetch.contains("total-timeout"), "{poll} / {fetch}");
}

#[test]
fn an_endless_answer_ends_at_the_byte_limit() {
    let mut scene = Scene::new(|config| config.max_bytes = 1 << 20);
    scene.server.set_fault(Fault::Endless);
    // The poll's answer is complete before the zeros begin; what follows must not be read for ever.
    let start = Instant::now();
    let _ = scene.courier.client.poll("refs/heads/main");
    let blob = scene.fleet.id("HEAD:file");
    let fetched = scene.courier.client.objects(ObjectKind::Blob, &[blob], LIMIT);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    println!("endless: {fetched:.60?}, {} bytes", scene.server.bytes_down());
    // Socket buffers on both sides hold some more than was read.
    assert!(scene.server.bytes_down() < 16 << 20, "{}", scene.server.bytes_down());
    // Packets without end.
    let line = format!("0048{} refs/heads/other-{}\n", "1".repeat(40), "x".repeat(9));
    scene.server.set_fault(Fault::Canned(line.repeat(50_000).into_bytes()));
    scene.server.reset();
    let error = scene.courier.client.poll("refs/heads/main").unwrap_err();
    assert!(error.to_string().contains("65536 bytes"), "{error}");
    scene.server.set_fault(Fault::None);
    scene.courier.client.objects(ObjectKind::Blob, &[blob], LIMIT).unwrap();
}

#[test]
fn a_pack_larger_than_the_limit_is_refused() {
    let mut scene = Scene::new(|config| config.max_bytes = 64 << 10);
    scene.fleet.commit(&[("noise", &noise(7, 400_000))]);
    let blob = scene.fleet.id("HEAD:noise");
    let error = scene.courier.client.objects(ObjectKind::Blob, &[blob], LIMIT).map(drop).unwrap_err();
    assert!(matches!(error, ObjectError::TooLarge { id, .. } if id == blob), "{error}");
    assert!(scene.courier.client.poll("refs/heads/main").unwrap().id.is_some());
}

#[test]
fn a_cut_line_and_rubbish_are_told() {
    let mut scene = Scene::new(|_| {});
    let (poll, _) = scene.under(&Fault::Cut(10), Duration::from_secs(5));
    assert_eq!(poll.class(), Class::Retry, "{poll}");
    for rubbish in [&b""[..], b"zzzz", b"<html>", b"0009ERR x", b"ffff", b"0008pack0000", &vec![0; 70_000]] {
        let (poll, _) = scene.under(&Fault::Canned(rubbish.to_vec()), Duration::from_secs(5));
        assert_eq!(poll.class(), Class::Retry, "{poll}");
    }
}

#[test]
fn a_server_that_is_gone_is_told() {
    let mut scene = Scene::new(|_| {});
    scene.server = GitServer::start(scene.fleet.root(), Tls::Off);
    std::thread::sleep(Duration::from_millis(100));
    let error = scene.courier.client.poll("refs/heads/main").unwrap_err();
    assert_eq!(error.class(), Class::Retry);
    assert!(error.to_string().contains("refused"), "{error}");
}
