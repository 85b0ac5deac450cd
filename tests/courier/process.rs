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
use trimtab::trust::hash::{FetchError, Verified};
use trimtab::wire::{self, ObjectError, ObjectKind, ObjectSource};
use trimtab_model::outbound::Signed;
use trimtab_model::status::{CourierStatus, Landlock};
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

/// systemd starts the courier that lies on the disk; the agent is as old as its last restart.
#[test]
fn an_agent_that_nobody_restarted_understands_a_newer_courier() {
    let say = |stream: &mut UnixStream, head: &str| {
        let bytes = [&u32::try_from(head.len()).unwrap().to_be_bytes()[..], &0u64.to_be_bytes(), head.as_bytes()].concat();
        stream.write_all(&bytes).unwrap();
    };
    let id = "1234567890123456789012345678901234567890";
    let (_folder, socket) = liar(move |stream, request| match request {
        Request::Poll { reference, .. } if reference == "refs/heads/main" => say(
            stream,
            &format!(
                r#"{{"polled":{{"id":"{id}","peeled":null,"mirror":"b","traffic":{{"requests":1,"up":2,"down":3,"retried":4}},"courier":{{"landlock":"twofold","detail":"","since":5}}}}}}"#
            ),
        ),
        _ => say(stream, r#"{"failed":{"class":"tomorrow","message":"come again","until":6}}"#),
    });
    let mut client = Client::connect(&socket, PATIENCE).unwrap();
    let polled = client.poll("refs/heads/main").unwrap();
    assert_eq!(polled.id, Some(trimtab::courier::ObjectId::from_hex(id.as_bytes()).unwrap()));
    assert_eq!((polled.traffic.down, polled.courier.landlock), (3, Landlock::Unknown));
    let error = client.poll("refs/heads/other").unwrap_err();
    assert_eq!((error.class(), error.to_string().as_str()), (Class::Retry, "come again"));
}

/// What agents of version 0.1.0 ask, byte by byte. Lines are added here and never changed: a host whose agent nobody restarted would be cut off.
#[test]
fn a_courier_knows_what_every_released_agent_asks() {
    let id = "1234567890123456789012345678901234567890";
    for head in [
        r#"{"poll":{"reference":"refs/heads/main"}}"#,
        r#"{"poll":{"reference":"refs/trimtab/a","beside":"refs/trimtab/a.alive"}}"#,
        r#"{"advance":{"tip":"ID","have":null}}"#,
        r#"{"advance":{"tip":"ID","have":"ID"}}"#,
        r#"{"objects":{"kind":"commit","ids":["ID"],"limit":65536}}"#,
        r#"{"objects":{"kind":"tag","ids":["ID"],"limit":65536}}"#,
        r#"{"objects":{"kind":"tree","ids":["ID"],"limit":65536}}"#,
        r#"{"objects":{"kind":"blob","ids":["ID"],"limit":65536}}"#,
        r#"{"fetch":{"url":"https://a/b","part":{"content":{"size":5}},"from":0}}"#,
        r#"{"fetch":{"url":"https://a/b","part":"signature","from":0}}"#,
        r#"{"deliver":{"sink":"ops","pieces":[{"report":5,"signature":6}]}}"#,
    ] {
        let head = head.replace("ID", id);
        let request: Request = serde_json::from_str(&head).unwrap_or_else(|error| panic!("{head}: {error}"));
        assert_eq!(serde_json::to_string(&request).unwrap(), head, "and this is how this version asks it");
    }
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
    let error = client.objects(ObjectKind::Blob, &[tip], 10).unwrap_err();
    assert!(
        matches!(error, ObjectError::Unavailable { .. }) && error.to_string().contains("5555"),
        "a name proves nothing: {error:?}"
    );
    // Why it failed is one short line, whoever speaks in its name.
    let (_folder, socket) = liar(|stream, _| {
        let message = "\u{1b}[2Jall is well\ntrimtab: \u{9b}".repeat(1000);
        let _ = wire::send(stream, "agent", &Reply::Failed { class: Class::Retry, message }, &[]);
    });
    let said = Client::connect(&socket, PATIENCE).unwrap().poll("HEAD").unwrap_err().to_string();
    assert!(said.contains("all is well") && said.chars().count() <= 2000 && !said.contains(char::is_control), "{said:?}");
    let (_folder, socket) = liar(|stream, _| {
        let _ = stream.write_all(&[0xff; 12]);
    });
    let mut client = Client::connect(&socket, PATIENCE).unwrap();
    assert!(client.poll("HEAD").is_err());
}

/// The most memory that this process has used since it was last asked.
fn peak_since(reset: bool) -> u64 {
    if reset {
        fs::write("/proc/self/clear_refs", "5").unwrap();
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn rubbish_by_the_gibibyte_is_looked_at_as_it_comes() {
    // For each of four thousand objects eight mebibytes that are none of them: the first answer must be the last.
    let (_folder, socket) = liar(|stream, request| {
        let Request::Objects { ids, .. } = request else { return };
        let sizes = vec![8 << 20; ids.len().min(8)];
        let _ = wire::send(stream, "agent", &Reply::Objects { sizes: sizes.clone() }, &vec![b'x'; (8 << 20) * sizes.len()]);
    });
    let mut client = Client::connect(&socket, PATIENCE).unwrap();
    let ids: Vec<_> = (0..4096u32).map(|n| id(&format!("{n:040x}"))).collect();
    let before = peak_since(true);
    let start = Instant::now();
    let found = Verified::new(&mut client, 64 << 20).many(ObjectKind::Blob, &ids, 16 << 20).map(|all| all.len());
    let grown = peak_since(false) - before;
    println!("{found:?} after {:?}, {} MiB", start.elapsed(), grown >> 20);
    assert!(matches!(found, Err(FetchError::Mismatch { id, .. }) if id == ids[0]), "{found:?}");
    // One answer at the liar's end (which is a thread here), the frame that came, and its objects.
    assert!(grown < 260 << 20, "{} MiB", grown >> 20);
}

#[test]
fn objects_one_by_one_are_no_way_to_go_on_for_ever() {
    // Each of them would come just in time, four thousand times.
    let (_folder, socket) = liar(|stream, _| {
        let _ = wire::send(stream, "agent", &Reply::Objects { sizes: vec![1] }, b"x");
    });
    let mut client = Client::connect(&socket, PATIENCE).unwrap();
    let ids = [id(&"3".repeat(40)), id(&"4".repeat(40))];
    let error = client.objects(ObjectKind::Blob, &ids, 16 << 20).unwrap_err().to_string();
    assert!(error.contains("sizes that do not fit"), "{error}");
    assert_eq!(client.objects(ObjectKind::Blob, &ids[..1], 16 << 20).unwrap(), [b"x"], "all that was asked for is enough");
}

#[test]
fn sizes_that_are_a_lie_are_found_out() {
    // One object over its limit, which the others leave room for; less and more than the sizes say; more objects than were asked for.
    for (sizes, bytes) in
        [(vec![15, 5], 20), (vec![4, 4], 9), (vec![4, 5], 8), (vec![2, 2, 2], 6), (vec![u64::MAX, 6], 5), (vec![], 0)]
    {
        let told = sizes.clone();
        let (_folder, socket) = liar(move |stream, _| {
            let _ = wire::send(stream, "agent", &Reply::Objects { sizes: sizes.clone() }, &vec![b'x'; bytes]);
        });
        let mut client = Client::connect(&socket, PATIENCE).unwrap();
        let ids = [id(&"3".repeat(40)), id(&"4".repeat(40))];
        let answer = client.objects(ObjectKind::Blob, &ids, 10);
        assert!(answer.as_ref().is_err_and(|error| error.to_string().contains("sizes that do not fit")), "{told:?}: {answer:?}");
    }
}

#[test]
fn frames_that_are_none_end_the_conversation_at_once_and_cost_nothing() {
    let frame =
        |head: &[u8], body: u64| [&u32::try_from(head.len()).unwrap().to_be_bytes()[..], &body.to_be_bytes(), head].concat();
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let sizes = format!(r#"{{"objects":{{"sizes":[{}0]}}}}"#, "0,".repeat(1_000_000));
    let long = format!(r#"{{"failed":{{"class":"retry","message":"{}"}}}}"#, "x".repeat(3 << 20));
    for (name, bytes) in [
        ("nothing", Vec::new()),
        ("half a length", vec![0; 5]),
        ("half a head", frame(b"{}", 0)[..13].to_vec()),
        ("no JSON", frame(b"\xff\xfe", 0)),
        ("deep JSON", frame(&deep, 0)),
        ("a million sizes", frame(sizes.as_bytes(), 0)),
        ("an unknown answer", frame(br#"{"believed":{}}"#, 0)),
        ("two answers", frame(br#"{"missing":{"id":"x"},"missing":{"id":"x"}}"#, 0)),
        ("a body that never comes", frame(br#"{"objects":{"sizes":[10]}}"#, 10)),
        ("the largest head", [u32::MAX.to_be_bytes().to_vec(), vec![0; 8]].concat()),
        ("the largest body", [2u32.to_be_bytes().to_vec(), u64::MAX.to_be_bytes().to_vec(), b"{}".to_vec()].concat()),
        ("a long complaint", frame(long.as_bytes(), 0)),
    ] {
        let (_folder, socket) = liar(move |stream, _| {
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
        let mut client = Client::connect(&socket, PATIENCE).unwrap();
        let before = peak_since(true);
        let start = Instant::now();
        let error = client.objects(ObjectKind::Blob, &[id(&"3".repeat(40))], 10).unwrap_err().to_string();
        let grown = peak_since(false) - before;
        println!("{name}: {error:.80} after {:?}, {} KiB", start.elapsed(), grown >> 10);
        assert!(start.elapsed() < Duration::from_secs(5), "{name}: {:?}", start.elapsed());
        assert!(grown < 48 << 20, "{name}: {} MiB", grown >> 20);
        // The next try is a new conversation, and as bounded.
        assert!(client.poll("HEAD").is_err(), "{name}");
    }
}

#[test]
fn what_a_courier_says_of_itself_is_listened_to_and_cut() {
    let (_folder, socket) = liar(|stream, _| {
        let courier = CourierStatus { landlock: Landlock::Whole, detail: "\u{1b}[2Jno wall\n".repeat(10_000) };
        let polled =
            Reply::Polled { id: None, peeled: None, beside: None, traffic: Traffic::default(), courier: Some(Box::new(courier)) };
        let _ = wire::send(stream, "agent", &polled, &[]);
    });
    let courier = Client::connect(&socket, PATIENCE).unwrap().poll("HEAD").unwrap().courier;
    assert!(courier.detail.starts_with("[2Jno wall[2J") && courier.detail.len() == 300, "{courier:?}");
    assert!(!courier.detail.contains(char::is_control), "{courier:?}");
}

#[test]
fn answers_without_end_are_answers_to_nothing() {
    // It goes on talking after its answer: what it says is never read beyond the next question, and never held.
    let (_folder, socket) = liar(|stream, _| {
        let polled = Reply::Polled { id: None, peeled: None, beside: None, traffic: Traffic::default(), courier: None };
        while wire::send(stream, "agent", &polled, &[]).is_ok() {}
    });
    let mut client = Client::connect(&socket, Duration::from_secs(2)).unwrap();
    let before = peak_since(true);
    let start = Instant::now();
    assert_eq!(client.poll("HEAD").unwrap().id, None);
    let error = client.objects(ObjectKind::Blob, &[id(&"3".repeat(40))], 10).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "{error} after {:?}", start.elapsed());
    let grown = peak_since(false) - before;
    assert!(grown < 16 << 20, "{} MiB", grown >> 20);
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
