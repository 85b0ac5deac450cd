//! The courier as a process, and what the agent's end makes of couriers that die, lie or sleep.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trimtab::courier::protocol::{MAX_PIECE, Reply, Request, Traffic};
use trimtab::courier::{Class, Client, ClientError, Part};
use trimtab::wire::{self, ObjectKind, ObjectSource};
use trimtab_model::outbound::Signed;
use trimtab_tests::server::{Auth, Fault, GitServer, Tls};
use trimtab_tests::trimtab_binary;

use crate::{Fleet, PATIENCE, files, id, walk};

#[test]
fn killed_in_the_middle_it_is_told_at_once_and_the_next_call_works() {
    let fleet = Fleet::new();
    let tip = fleet.commit(&[("file", "content")]);
    let server = GitServer::start(fleet.root(), Tls::Off);
    let config = fleet.root().join("agent.toml");
    fs::write(&config, format!("[source]\nurl = '{}/fleet/.git'\nallow-http = true", server.url())).unwrap();
    let mut client = Client::spawn(&trimtab_binary(), &config, &fleet.root().join("cache"), PATIENCE).unwrap();
    assert_eq!(client.poll("refs/heads/main").unwrap().id, Some(tip));
    server.set_fault(Fault::Stall(0));
    let child = client.child_id().unwrap();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        kill(Pid::from_raw(i32::try_from(child).unwrap()), Signal::SIGKILL).unwrap();
    });
    let start = Instant::now();
    let error = client.poll("refs/heads/main").unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5) && error.class() == Class::Retry, "{error} after {:?}", start.elapsed());
    assert!(!fs::exists(format!("/proc/{child}")).unwrap(), "the courier was not reaped");
    killer.join().unwrap();
    server.set_fault(Fault::None);
    assert_eq!(walk(&mut client, tip), files(&[("file", "content")]));
    let limits = fs::read_to_string(format!("/proc/{}/limits", client.child_id().unwrap())).unwrap();
    assert!(limits.contains("Max address space         1073741824"), "{limits}");
    let status = fs::read_to_string(format!("/proc/{}/status", client.child_id().unwrap())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
}

#[test]
fn a_configuration_that_cannot_be_used_is_told_to_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.toml");
    for (text, expected) in [
        (None, "agent.toml"),
        (Some("[source]\nurl = 'https://bob:hunter2@x/y'"), "no place for credentials"),
        (Some("[source]\nurl = 'https://x/y'\nidle = 3"), "unknown field"),
        (Some("[source]\nurl = 'https://x/y'\nca-file = '/nowhere.pem'"), "/nowhere.pem"),
        (Some("[source]\nurl = 'https://x/y'\nproxy = 'not a proxy'"), "proxy"),
    ] {
        match text {
            Some(text) => fs::write(&config, text).unwrap(),
            None => assert!(!config.exists()),
        }
        let mut client = Client::spawn(&trimtab_binary(), &config, folder.path(), PATIENCE).unwrap();
        let error = client.poll("refs/heads/main").unwrap_err();
        assert_eq!(error.class(), Class::Configuration, "{error}");
        assert!(error.to_string().contains(expected) && !error.to_string().contains("hunter2"), "{error}");
    }
    let error = Client::spawn(&folder.path().join("nothing"), &config, folder.path(), PATIENCE).map(|_| ()).unwrap_err();
    assert!(matches!(error, ClientError::Spawn { .. }), "{error}");
    let error = Client::connect(&folder.path().join("nothing"), PATIENCE).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("trimtab-courier.socket"), "{error}");
}

#[test]
fn the_environment_gives_credentials_but_a_proxy_only_when_told() {
    let fleet = Fleet::new();
    fleet.commit(&[]);
    let server = GitServer::start(fleet.root(), Tls::Off);
    server.set_auth(Auth::Header("Bearer s3cr3t".into()));
    fs::write(fleet.root().join("token"), "s3cr3t\n").unwrap();
    let wrapper = fleet.root().join("wrapper");
    let text = format!(
        "#!/bin/sh\nCREDENTIALS_DIRECTORY={} http_proxy=http://127.0.0.1:1 exec {} \"$@\"\n",
        fleet.root().display(),
        trimtab_binary().display()
    );
    fs::write(&wrapper, text).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let config = fleet.root().join("agent.toml");
    let poll = |proxy: &str| {
        let url = server.url();
        fs::write(&config, format!("[source]\nurl = '{url}/fleet/.git'\nallow-http = true\ntoken-file = 'token'\n{proxy}"))
            .unwrap();
        Client::spawn(&wrapper, &config, &fleet.root().join("cache"), PATIENCE).unwrap().poll("refs/heads/main")
    };
    assert!(poll("").unwrap().id.is_some());
    let error = poll("proxy = 'environment'").unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn started_by_hand_it_says_who_starts_it() {
    let mut command = std::process::Command::new(trimtab_binary());
    let output = command.args(["courier", "--config", "/x", "--cache", "/y"]).stdin(std::process::Stdio::null()).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("systemd or the agent starts it"), "{told}");
}

/// A courier that answers every request with what this makes of it.
fn liar(answer: impl Fn(&mut UnixStream, Request) + Send + 'static) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            while let Ok((request, _)) = wire::receive::<Request>(&mut stream, "agent", 1 << 20) {
                answer(&mut stream, request);
            }
        }
    });
    (folder, socket)
}

#[test]
fn lies_about_sizes_are_found_out() {
    for (sizes, body) in [
        (vec![], 0),
        (vec![3], 4),
        (vec![4], 3),
        (vec![11], 11),
        (vec![1, 1, 1], 3),
        (vec![u64::MAX, 2], 1),
        (vec![1, u64::MAX], 0),
    ] {
        let (_folder, socket) = liar(move |stream, _| {
            let head = Reply::Objects { sizes: sizes.clone() };
            let _ = wire::send(stream, "agent", &head, &vec![b'x'; body]);
        });
        let mut client = Client::connect(&socket, PATIENCE).unwrap();
        let ids = [id(&"3".repeat(40)), id(&"4".repeat(40))];
        let error = client.objects(ObjectKind::Blob, &ids, 10).unwrap_err();
        assert!(error.to_string().contains("sizes") || error.to_string().contains("no answer"), "{error}");
    }
}

#[test]
fn answers_to_other_questions_and_huge_frames_are_refused() {
    let (_folder, socket) = liar(|stream, request| {
        let _ = match request {
            Request::Poll { .. } | Request::Deliver { .. } => {
                wire::send(stream, "agent", &Reply::Advanced { traffic: Traffic::default() }, &[])
            }
            // A body that nobody asked for.
            Request::Advance { .. } => wire::send(stream, "agent", &Reply::Advanced { traffic: Traffic::default() }, &[0; 100]),
            // More than a piece.
            Request::Fetch { .. } => wire::send(stream, "agent", &Reply::Fetched { end: false }, &vec![0; MAX_PIECE + 1]),
            // Ids that nobody asked for.
            Request::Objects { .. } => wire::send(stream, "agent", &Reply::Missing { id: "5".repeat(40) }, &[]),
        };
    });
    let mut client = Client::connect(&socket, PATIENCE).unwrap();
    let tip = id(&"3".repeat(40));
    assert!(matches!(client.poll("HEAD"), Err(ClientError::Unexpected)));
    assert!(matches!(client.advance(&tip, None), Err(ClientError::Wire(_))));
    let report = Signed { report: b"{}".to_vec(), signature: "x".to_owned() };
    assert!(matches!(client.deliver("ops", &[report]), Err(ClientError::Unexpected)));
    let fetched = client.fetch("https://h/x", Part::Signature, 0);
    assert!(matches!(fetched, Err(ClientError::Wire(_))), "{fetched:?}");
    let error = client.objects(ObjectKind::Blob, &[tip], 10).unwrap_err().to_string();
    assert!(error.contains("5555"), "{error}");
    let (_folder, socket) = liar(|stream, _| {
        let _ = stream.write_all(&[0xff; 12]);
    });
    let mut client = Client::connect(&socket, PATIENCE).unwrap();
    assert!(client.poll("HEAD").is_err());
}

#[test]
fn a_courier_that_sleeps_or_trickles_costs_no_more_than_the_patience() {
    for trickle in [false, true] {
        let (_folder, socket) = liar(move |stream, _| {
            let frame = [0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 0].into_iter().chain([b' '; 200]);
            for byte in frame {
                std::thread::sleep(Duration::from_millis(100));
                if trickle && stream.write_all(&[byte]).is_err() {
                    return;
                }
            }
        });
        let mut client = Client::connect(&socket, Duration::from_millis(600)).unwrap();
        let start = Instant::now();
        let error = client.poll("HEAD").unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(5), "{error} after {:?}", start.elapsed());
        assert_eq!(error.class(), Class::Retry);
    }
}
