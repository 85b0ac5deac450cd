//! The page in a real Chromium: on a phone and on a desk, with a document in which everything is long and hostile.
//!
//! Left out, and said so, where there is no chromium (`tests/run` brings it with the lab).

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{Served, example};

const SCRIPT: &str = "<script>console.log('owned')</script><img src=http://192.0.2.7/x onerror=\"console.log('owned')\">";

/// Everything that a repository, a program or a person can put into a document, at its worst.
fn hostile() -> Value {
    let mut document = example();
    let long = "x".repeat(300);
    for pointer in [
        "/host",
        "/reason",
        "/conditions/1/message",
        "/lastPass/failures/0/message",
        "/lastPass/failures/0/resource",
        "/lastPass/findings/list/0/message",
        "/lastPass/changes/0/differs/0/found",
        "/drift/0/resource",
        "/drift/0/actor/command",
        "/trust/signer",
        "/units/0/name",
        "/units/1/image",
        "/holds/suspended/reason",
        "/denied/0/causes/0/message",
        "/changes/0/reason",
    ] {
        *document.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = format!("{SCRIPT}{long}").into();
    }
    document
}

fn chromium(folder: &Path, words: &[&str]) -> Option<(String, String)> {
    let profile = tempfile::tempdir_in(folder).unwrap();
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]);
    // Whatever it has in mind of its own (time, updates, accounts: those switches do not end all of it) must not leave this machine.
    command.args(["--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).args(words);
    let said = command.output().ok()?;
    Some((String::from_utf8_lossy(&said.stdout).into_owned(), String::from_utf8_lossy(&said.stderr).into_owned()))
}

/// What a browser's record says was asked for: the address, and the origin of the page that asked.
fn requests(log: &str) -> Vec<(String, String)> {
    let log: Value = serde_json::from_str(log).unwrap();
    let text = |params: &Value, key: &str| params[key].as_str().unwrap_or_default().to_owned();
    let events = log["events"].as_array().unwrap().iter().map(|event| &event["params"]);
    events
        .filter(|params| params["url"].is_string() && params["method"].is_string())
        .map(|params| (text(params, "url"), text(params, "initiator")))
        .collect()
}

/// A free port of the loopback; another may take it in between, as the next try would see.
fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn fetch(address: &str) -> String {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        if let Ok(mut stream) = std::net::TcpStream::connect(address) {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            return answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        }
        assert!(std::time::Instant::now() < deadline, "it does not listen on {address}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Serves the page beside one that measures it: the page itself lets nobody frame it and runs nothing.
fn measure(page: String) -> u16 {
    const MEASURE: &str = "<!DOCTYPE html><title>m</title><iframe id=f src=/page style='width:390px;height:844px;border:0'></iframe>\
        <p id=r>nothing</p><script>f.onload=()=>{const d=f.contentDocument.documentElement;r.textContent=`wide ${d.scrollWidth} of ${d.clientWidth}, tall ${d.scrollHeight}`}</script>";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap_or(0);
            let body = if head[..read].starts_with(b"GET /page") { page.as_str() } else { MEASURE };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

#[test]
fn the_page_is_drawn_without_a_word_in_the_console_a_request_or_a_sideways_scroll() {
    let folder = tempfile::tempdir().unwrap();
    if chromium(folder.path(), &["--version"]).is_none() {
        println!("left out: there is no chromium here");
        return;
    }
    let address = format!("127.0.0.1:{}", free());
    let _served = Served::new(&hostile(), &address);
    let page = fetch(&address);
    let (log, shot) = (folder.path().join("net.json"), folder.path().join("phone.png"));
    let words = [
        format!("--log-net-log={}", log.display()),
        format!("--screenshot={}", shot.display()),
        "--window-size=390,844".to_owned(),
        format!("http://{address}/"),
    ];
    let (_, said) = chromium(folder.path(), &words.each_ref().map(String::as_str)).unwrap();
    assert!(fs::metadata(&shot).unwrap().len() > 10_000, "it was drawn: {said}");
    let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:#?}");
    // What the browser asked for, by its own record.
    let own = format!("http://{address}/");
    let asked = requests(&fs::read_to_string(&log).unwrap());
    assert!(asked.iter().any(|(url, _)| *url == own), "the record is read: {asked:?}");
    // The browser's own wishes have no page that began them.
    let elsewhere: Vec<_> = asked.iter().filter(|(url, by)| by.starts_with("http://127.0.0.1") && *url != own).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");

    let (dom, _) = chromium(folder.path(), &["--dump-dom", &own]).unwrap();
    assert!(dom.contains("&lt;script&gt;console.log('owned')"), "it is told as text");
    assert!(!dom.contains("<script>console") && !dom.contains("<img"), "{dom}");

    let port = measure(page);
    let measured = format!("http://127.0.0.1:{port}/");
    let (dom, _) = chromium(folder.path(), &["--virtual-time-budget=5000", "--dump-dom", &measured]).unwrap();
    let result = dom.split("<p id=\"r\">").nth(1).and_then(|rest| rest.split('<').next()).unwrap_or_default();
    assert!(
        result.starts_with("wide 390 of 390, tall ") || result.starts_with("wide 375 of 375, tall "),
        "{result}: it scrolls sideways"
    );
    println!("at 390 px: {result}");
}
