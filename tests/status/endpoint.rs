//! The endpoint as a process, against clients that are slow, endless, many or curious.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use trimtab_tests::trimtab_binary;

use crate::{Served, example};

/// What comes back for these bytes until the other end is closed; at most ten seconds' worth.
fn ask(served: &Served, request: &str) -> String {
    let mut stream = UnixStream::connect(served.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(served: &Served, path: &str) -> String {
    ask(served, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

#[test]
fn it_answers_and_shows_nothing_that_is_not_for_everybody() {
    let served = Served::on_path(&example());
    for (path, code, says) in [
        ("/healthz", "200", "ok"),
        ("/readyz", "503", "not everything could be converged"),
        ("/status", "200", "\"host\": \"kiosk-7\""),
        ("/metrics", "200", "trimtab_ready 0"),
        ("/", "200", "What is the matter"),
        ("/etc/passwd", "404", "there is /, /status"),
    ] {
        let answer = get(&served, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.contains(says), "{path}: {answer}");
        assert!(!answer.contains("panicked at main.rs") && !answer.contains("retsart = "), "{path}: {answer}");
    }
    let head = ask(&served, "HEAD /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let post = ask(&served, "POST /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    // Two questions over one connection, as a scraper asks.
    let twice = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(&served, twice).matches("HTTP/1.1 200 OK").count(), 2);
}

#[test]
fn an_agent_that_is_gone_is_told_as_gone() {
    let served = Served::on_path(&example());
    let mut document = example();
    document["agentPid"] = i32::MAX.into();
    std::fs::write(served.path().join("run/trimtab/status.json"), document.to_string()).unwrap();
    for (path, code) in [("/healthz", "503"), ("/readyz", "503"), ("/metrics", "503"), ("/status", "200"), ("/", "200")] {
        let answer = get(&served, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.contains("does not run"), "{path}: {answer}");
    }
    std::fs::remove_file(served.path().join("run/trimtab/status.json")).unwrap();
    assert!(get(&served, "/").starts_with("HTTP/1.1 503 "));
}

#[test]
fn who_is_slow_or_endless_is_ended_and_the_others_are_served() {
    let served = Served::on_path(&example());
    let began = Instant::now();
    // As many as it takes, and all of them say nothing.
    let silent: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(served.socket()).unwrap()).collect();
    assert!(get(&served, "/healthz").starts_with("HTTP/1.1 200 "), "somebody is served all the same");
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    drop(silent);

    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(100_000));
    let answer = ask(&served, &large);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200));
    assert!(!ask(&served, &many).starts_with("HTTP/1.1 200 "));
    for garbage in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        assert!(!ask(&served, garbage).starts_with("HTTP/1.1 200 "), "{garbage:?}");
    }
    // A body that never ends, to whom nobody listens.
    let mut stream = UnixStream::connect(served.socket()).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let ended = (0..100_000).any(|_| stream.write_all(chunk.as_bytes()).is_err());
    assert!(ended, "it reads for ever");
    assert!(get(&served, "/healthz").starts_with("HTTP/1.1 200 "));
    let memory = std::fs::read_to_string(format!("/proc/{}/status", served.child.id())).unwrap();
    let peak: u64 = memory.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap();
    println!("the endpoint's peak: {peak} KiB");
    assert!(peak < 48 << 10, "{peak} KiB");
}

#[test]
fn nobody_but_this_host_is_served() {
    for address in ["0.0.0.0:9464", "192.0.2.1:80", "[::]:9464", "9464", "localhost:9464"] {
        let said = Command::new(trimtab_binary()).args(["endpoint", "--listen", address]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(said.status.code(), Some(64), "{address}");
        let why = String::from_utf8_lossy(&said.stderr);
        assert!(why.contains("for this host only") || why.contains("neither a path nor an address"), "{why}");
    }
    let said = Command::new(trimtab_binary()).arg("endpoint").stdin(Stdio::null()).output().unwrap();
    assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("trimtab-status.socket"));
}
