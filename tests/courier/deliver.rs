//! Reports on their way to sinks, good and bad ones: taken once, told clearly, within bounds of time and memory.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use trimtab::courier::{Client, Delivery};
use trimtab::outbox::DeviceKey;
use trimtab_model::event::{Event, EventKind, Severity};
use trimtab_model::outbound::{Occasion, Report, Signed};
use trimtab_model::status::Status;
use trimtab_tests::receiver::{Manner, Receiver};
use trimtab_tests::server::{Authority, Tls};
use trimtab_tests::trimtab_binary;

use crate::PATIENCE;

/// A courier of this build, a device and one sink.
struct Scene {
    folder: tempfile::TempDir,
    client: Client,
    key: DeviceKey,
}

impl Scene {
    fn new(url: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = DeviceKey::obtain(&folder.path().join("device.key"), &folder.path().join("device.pub")).unwrap();
        let config = folder.path().join("agent.toml");
        // The source is nowhere: a delivery has nothing to do with it but its patience.
        let text = format!(
            "[source]\nurl = 'https://127.0.0.1:1/x'\nidle-timeout = '1s'\ntotal-timeout = '2s'\n[[sink]]\nname = 'ops'\ntype = 'webhook'\n\
             url = '{url}/hook'\nallow-http = true\n{more}"
        );
        fs::write(&config, text).unwrap();
        let client = Client::spawn(&trimtab_binary(), &config, &folder.path().join("cache"), PATIENCE).unwrap();
        Self { folder, client, key }
    }

    fn report(&self, sequence: u64, padding: usize) -> Signed {
        let event = Event {
            id: sequence,
            at_ms: 1,
            kind: EventKind::DriftFound,
            severity: Severity::Warning,
            pass: 1,
            revision: String::new(),
            resource: "file /etc/motd".to_owned(),
            message: "x".repeat(padding),
            drift: None,
            count: 1,
        };
        let report = Report {
            format: 1,
            device: self.key.device(),
            host: "box".to_owned(),
            sequence,
            since_sequence: sequence,
            next_ms: 0,
            at_ms: 1,
            occasion: Occasion::Pass,
            status: Status::default(),
            events: vec![event],
            merged: 0,
        };
        let bytes = report.to_bytes();
        Signed { signature: self.key.sign(&bytes, "trimtab"), report: bytes }
    }

    fn deliver(&mut self) -> Delivery {
        let reports = [self.report(1, 10)];
        self.client.deliver("ops", &reports).unwrap()
    }

    /// What is said about a refusal, and whether it lasts.
    fn refused(&mut self) -> (String, bool) {
        match self.deliver() {
            Delivery::Refused { lasting, message, .. } => (message, lasting),
            taken @ Delivery::Taken { .. } => panic!("{taken:?}"),
        }
    }
}

fn minisign(words: &[&str], folder: &Path) -> bool {
    let output = Command::new("minisign").args(words).current_dir(folder).output().expect("because tests/run brings minisign");
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

#[test]
fn a_batch_arrives_with_all_that_was_asked_for_and_minisign_checks_it() {
    let receiver = Receiver::start(Tls::Off);
    let mut scene = Scene::new(&receiver.url(), "token-file = 'TOKEN'\nhmac-file = 'HMAC'\n");
    // The courier reads its configuration when it is started; where the files are is known only now.
    let config = scene.folder.path().join("agent.toml");
    let text = fs::read_to_string(&config).unwrap();
    let path = |name: &str| scene.folder.path().join(name).display().to_string();
    fs::write(&config, text.replace("'TOKEN'", &format!("'{}'", path("token"))).replace("'HMAC'", &format!("'{}'", path("hmac"))))
        .unwrap();
    fs::write(path("token"), "t0ken\n").unwrap();
    fs::write(path("hmac"), "geheim\n").unwrap();
    scene.client = Client::spawn(&trimtab_binary(), &config, &scene.folder.path().join("cache"), PATIENCE).unwrap();
    let reports = [scene.report(41, 10), scene.report(42, 10)];
    assert!(matches!(scene.client.deliver("ops", &reports).unwrap(), Delivery::Taken { .. }));
    let taken = receiver.taken().remove(0);
    assert_eq!((taken.path.as_str(), taken.headers["authorization"].as_str()), ("/hook", "Bearer t0ken"));
    assert_eq!(taken.headers["content-type"], "application/cloudevents-batch+json");
    assert_eq!(taken.headers["idempotency-key"], format!("{}/41-42", scene.key.device()));
    fs::write(path("body"), &taken.body).unwrap();
    let openssl =
        Command::new("openssl").args(["dgst", "-sha256", "-hmac", "geheim", "-r", "body"]).current_dir(&scene.folder).output();
    let openssl = String::from_utf8(openssl.unwrap().stdout).unwrap();
    assert_eq!(taken.headers["x-trimtab-signature-256"], format!("sha256={}", openssl.split(' ').next().unwrap()));
    let batch: Vec<serde_json::Value> = serde_json::from_slice(&taken.body).unwrap();
    let report = batch.iter().rfind(|one| one["type"] == "dev.trimtab.report.v1").unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(report["data"]["report"].as_str().unwrap()).unwrap();
    assert_eq!(bytes, reports[1].report);
    fs::write(path("report"), &bytes).unwrap();
    fs::write(path("report.minisig"), report["data"]["signature"].as_str().unwrap()).unwrap();
    let check = ["-V", "-p", "device.pub", "-m", "report"];
    assert!(minisign(&check, scene.folder.path()), "minisign takes it");
    assert!(
        minisign(&["-V", "-P", &scene.key.public(), "-m", "report"], scene.folder.path()),
        "and by the key on the command line"
    );
    fs::write(path("report"), [&bytes[..], b" "].concat()).unwrap();
    assert!(!minisign(&check, scene.folder.path()), "and not what was changed");
    // Minisign can sign with our key, and what it signed with it is ours.
    fs::write(path("note"), "note").unwrap();
    assert!(minisign(&["-S", "-s", "device.key", "-m", "note"], scene.folder.path()));
    assert!(scene.key.verifies(b"note", &fs::read_to_string(path("note.minisig")).unwrap()));
}

#[test]
fn a_key_that_minisign_made_signs_what_minisign_checks() {
    let folder = tempfile::tempdir().unwrap();
    assert!(minisign(&["-GW", "-s", "device.key", "-p", "theirs.pub"], folder.path()));
    let key = DeviceKey::obtain(&folder.path().join("device.key"), &folder.path().join("device.pub")).unwrap();
    let theirs = fs::read_to_string(folder.path().join("theirs.pub")).unwrap();
    // Not the comment: minisign leaves out zeros at the front of the id.
    assert_eq!(key.public_text().lines().nth(1), theirs.lines().nth(1));
    fs::write(folder.path().join("note"), "note").unwrap();
    fs::write(folder.path().join("note.minisig"), key.sign(b"note", "a comment")).unwrap();
    assert!(minisign(&["-V", "-p", "theirs.pub", "-m", "note"], folder.path()));
}

#[test]
fn what_receivers_answer_is_told_and_says_whether_it_will_last() {
    let receiver = Receiver::start(Tls::Off);
    let mut scene = Scene::new(&receiver.url(), "");
    for (code, lasting, says) in [
        (400, true, "does not understand"),
        (401, true, "token-file"),
        (403, true, "may not write"),
        (404, true, "check url"),
        (413, true, "too much at once"),
        (408, false, "answered 408"),
        (500, false, "answered 500: the page"),
        (502, false, "answered 502"),
        (301, false, "redirects are not followed"),
    ] {
        let fields = vec![("Location", "https://me:geheim@elsewhere.example/?token=geheim".to_owned())];
        receiver.set(Manner::Answer(code, fields, "the\npage".to_owned()));
        let (message, lasts) = scene.refused();
        assert!(lasts == lasting && message.contains(says) && !message.contains("geheim"), "{code}: {message}");
    }
    assert!(receiver.taken().is_empty());
    receiver.set(Manner::Answer(429, vec![("Retry-After", "120".to_owned())], String::new()));
    let Delivery::Refused { retry_after, lasting, .. } = scene.deliver() else { panic!("it was taken") };
    assert_eq!((retry_after, lasting), (Some(Duration::from_secs(120)), false));
    receiver.set(Manner::Fine);
    assert!(matches!(scene.deliver(), Delivery::Taken { .. }));
    // A courier has one sink for its life; another has another.
    assert!(scene.client.deliver("nobody", &[scene.report(1, 1)]).unwrap_err().to_string().contains("started for the sink ops"));
    scene.client.hang_up();
    assert!(matches!(scene.client.deliver("nobody", &[scene.report(1, 1)]).unwrap(), Delivery::Refused { lasting: true, .. }));
}

#[test]
fn hostile_receivers_cost_little_time_and_no_memory() {
    let receiver = Receiver::start(Tls::Off);
    let mut scene = Scene::new(&receiver.url(), "");
    let reports: Vec<Signed> = (1..=2).map(|sequence| scene.report(sequence, 300_000)).collect();
    assert!(matches!(scene.client.deliver("ops", &reports).unwrap(), Delivery::Taken { .. }));
    let peak = |scene: &Scene| {
        let status = fs::read_to_string(format!("/proc/{}/status", scene.client.child_id().unwrap())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = peak(&scene);
    for manner in [
        Manner::Slams,
        Manner::Silent,
        Manner::Trickles(Duration::from_millis(100)),
        Manner::EndlessHead,
        Manner::EndlessPage,
        Manner::Rubbish(b"\x16\x03\x01 nothing that HTTP knows\r\n\r\n".to_vec()),
        Manner::Rubbish(Vec::new()),
        Manner::Rubbish(b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n".to_vec()),
    ] {
        receiver.set(manner.clone());
        let begun = Instant::now();
        let said = scene.client.deliver("ops", &reports).unwrap();
        println!("{manner:.40?}: {said:?} in {:?}", begun.elapsed());
        let Delivery::Refused { message, .. } = said else { panic!("{manner:?} was taken for a yes") };
        assert!(begun.elapsed() < Duration::from_secs(4) && message.len() <= 2000, "{manner:?}: {:?}", begun.elapsed());
    }
    let grown = peak(&scene).saturating_sub(before);
    assert!(grown < 8 << 10, "hostile answers made it {grown} KiB larger");
    // It never lost its head: the same process delivers when the receiver has come to its senses.
    receiver.set(Manner::Fine);
    assert!(matches!(scene.deliver(), Delivery::Taken { .. }));
}

#[test]
fn only_the_right_certificate_counts_on_both_sides() {
    let (right, wrong) = (Authority::new(), Authority::new());
    let receiver = Receiver::start(Tls::Mutual(&right));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    let (certificate, key) = right.issue(&["device"]);
    let shown = format!("client-cert = '{}'\nclient-key = '{}'\n", file("cert", &certificate), file("key", &key));
    let authority = |name: &str, pem: &str| format!("ca-file = '{}'\n", file(name, pem));
    let mut told = Vec::new();
    for (url, more) in [
        (receiver.url(), format!("{}{shown}", authority("wrong", wrong.pem()))),
        // The name in its certificate is another one: 127.0.0.2 is as much this machine as 127.0.0.1.
        (receiver.url().replace("127.0.0.1", "[::ffff:127.0.0.1]"), format!("{}{shown}", authority("right", right.pem()))),
        (receiver.url(), authority("right", right.pem())),
    ] {
        let (message, _) = Scene::new(&url, &more).refused();
        told.push(message);
    }
    println!("{told:#?}");
    assert!(told[0].contains("UnknownIssuer") || told[0].contains("certificate"), "{}", told[0]);
    assert!(told[1].contains("not valid for name") || told[1].contains("certificate"), "{}", told[1]);
    assert!(receiver.taken().is_empty());
    let mut good = Scene::new(&receiver.url(), &format!("{}{shown}", authority("right", right.pem())));
    assert!(matches!(good.deliver(), Delivery::Taken { .. }));
}

#[test]
fn secrets_that_a_sink_echoes_are_in_no_message() {
    let receiver = Receiver::start(Tls::Off);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("password"), "hunter2\n").unwrap();
    let more = format!("username = 'bob'\npassword-file = '{}/password'\n", folder.path().display());
    let mut scene = Scene::new(&receiver.url(), &more);
    receiver.set(Manner::Answer(401, Vec::new(), "not bob:hunter2, nor Basic Ym9iOmh1bnRlcjI=".to_owned()));
    let (message, lasting) = scene.refused();
    assert!(lasting && message.contains("***") && !message.contains("hunter2") && !message.contains("Ym9i"), "{message}");
    fs::remove_file(folder.path().join("password")).unwrap();
    let (message, lasting) = Scene::new(&receiver.url(), &more).refused();
    assert!(lasting && message.contains("cannot read the secret"), "{message}");
}
