//! Who may talk to whom: certificates, credentials, proxies, redirects.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use trimtab::courier::{Class, ClientError, SourceConfig};
use trimtab_tests::server::{Auth, Authority, Fault, GitServer, Tls};

use crate::{Courier, Fleet, source};

fn file(fleet: &Fleet, name: &str, content: &str) -> PathBuf {
    let path = fleet.root().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn poll(config: SourceConfig) -> Result<(), ClientError> {
    Courier::new(config).client.poll("refs/heads/main").map(|polled| assert!(polled.id.is_some()))
}

/// The refusal's text, checked to be a matter of configuration.
fn refused(config: SourceConfig) -> String {
    let error = poll(config).unwrap_err();
    assert_eq!(error.class(), Class::Configuration, "{error}");
    error.to_string()
}

fn https(fleet: &Fleet, server: &GitServer, authority: &Authority) -> SourceConfig {
    let mut config = source(&format!("{}/fleet/.git", server.url()));
    config.allow_http = false;
    config.ca_file = Some(file(fleet, "ca.pem", authority.pem()));
    config
}

#[test]
fn only_the_named_authority_is_trusted() {
    let fleet = Fleet::new();
    fleet.commit(&[]);
    let (right, wrong) = (Authority::new(), Authority::new());
    let server = GitServer::start(fleet.root(), Tls::On(&right));
    poll(https(&fleet, &server, &right)).unwrap();
    let message = refused(https(&fleet, &server, &wrong));
    assert!(message.contains("certificate"), "{message}");
    let mut system = https(&fleet, &server, &right);
    system.ca_file = None;
    poll(system).unwrap_err();
    let mut empty = https(&fleet, &server, &right);
    empty.ca_file = Some(file(&fleet, "empty.pem", ""));
    let message = refused(empty);
    assert!(message.contains("empty.pem") && message.contains("no PEM certificate"), "{message}");
}

#[test]
fn a_client_certificate_is_shown_when_there_is_one() {
    let fleet = Fleet::new();
    fleet.commit(&[]);
    let authority = Authority::new();
    let server = GitServer::start(fleet.root(), Tls::Mutual(&authority));
    poll(https(&fleet, &server, &authority)).unwrap_err();
    let mut config = https(&fleet, &server, &authority);
    let (certificate, key) = authority.issue(&["device"]);
    config.client_cert = Some(file(&fleet, "device.pem", &certificate));
    config.client_key = Some(file(&fleet, "device.key", &key));
    poll(config.clone()).unwrap();
    config.client_key = Some(fleet.root().join("nowhere.key"));
    let message = refused(config);
    assert!(message.contains("nowhere.key"), "{message}");
}

#[test]
fn credentials_are_sent_and_never_told() {
    let fleet = Fleet::new();
    fleet.commit(&[]);
    let server = GitServer::start(fleet.root(), Tls::Off);
    let url = format!("{}/fleet/.git", server.url());
    // bob:hunter2
    server.set_auth(Auth::Header("Basic Ym9iOmh1bnRlcjI=".into()));
    let mut config = source(&url);
    let message = refused(config.clone());
    assert!(message.contains("401") && message.contains("password-file"), "{message}");
    config.username = Some("bob".into());
    config.password_file = Some(file(&fleet, "password", "hunter2\n"));
    poll(config.clone()).unwrap();
    server.set_auth(Auth::Header("another".into()));
    let message = refused(config);
    // The server's page repeats the header.
    assert!(message.contains("not with Basic ***") && !message.contains("Ym9iOmh1bnRlcjI="), "{message}");
    let mut config = source(&url);
    config.token_file = Some(file(&fleet, "token", "s3cr3t"));
    let message = refused(config.clone());
    assert!(message.contains("not with Bearer ***") && !message.contains("s3cr3t"), "{message}");
    server.set_auth(Auth::Header("Bearer s3cr3t".into()));
    poll(config.clone()).unwrap();
    config.token_file = Some(fleet.root().join("nowhere"));
    assert!(refused(config.clone()).contains("nowhere"));
    config.token_file = Some(file(&fleet, "token", "two\nlines"));
    assert!(refused(config).contains("one line"));
}

#[test]
fn plain_http_needs_permission() {
    let fleet = Fleet::new();
    fleet.commit(&[]);
    let server = GitServer::start(fleet.root(), Tls::Off);
    let mut config = source(&format!("{}/fleet/.git", server.url()));
    config.allow_http = false;
    let message = refused(config);
    assert!(message.contains("allow-http = true"), "{message}");
    assert_eq!(server.requests(), 0);
}

#[test]
fn a_redirect_is_told_and_not_followed() {
    let fleet = Fleet::new();
    let server = GitServer::start(fleet.root(), Tls::Off);
    let other = GitServer::start(fleet.root(), Tls::Off);
    server.set_fault(Fault::Redirect(format!("{}/fleet/.git?token=s3cr3t", other.url())));
    let message = refused(source(&format!("{}/fleet/.git", server.url())));
    assert!(message.contains(&other.url()) && message.contains("set it as url") && !message.contains("s3cr3t"), "{message}");
    assert_eq!((server.requests(), other.requests()), (1, 0));
}

#[test]
fn statuses_come_with_advice_and_the_pages_first_words() {
    let fleet = Fleet::new();
    let server = GitServer::start(fleet.root(), Tls::Off);
    let url = format!("{}/fleet/.git", server.url());
    server.set_fault(Fault::Status(503, "<b>down\u{7} for\n maintenance</b>".into()));
    let error = poll(source(&url)).unwrap_err();
    assert_eq!(error.class(), Class::Retry);
    assert!(error.to_string().contains("503: <b>down for maintenance</b>"), "{error}");
    server.set_fault(Fault::Status(404, "x".repeat(10_000)));
    let message = refused(source(&url));
    assert!(message.contains("check url") && message.len() < 500, "{message}");
    // A login page, as the Wi-Fi of a hotel shows it.
    server.set_fault(Fault::Status(200, "<html>log in</html>".into()));
    let error = poll(source(&url)).unwrap_err();
    assert!(error.to_string().contains("did not answer") && error.class() == Class::Retry, "{error}");
    server.set_fault(Fault::None);
    assert!(refused(source(&format!("{}/nothing", server.url()))).contains("404"));
}

#[test]
fn a_proxy_is_used_only_if_it_is_named() {
    let fleet = Fleet::new();
    fleet.commit(&[]);
    let authority = Authority::new();
    let server = GitServer::start(fleet.root(), Tls::On(&authority));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = listener.local_addr().unwrap();
    let tunnels = Arc::new(AtomicU64::new(0));
    let count = tunnels.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let count = count.clone();
            std::thread::spawn(move || tunnel(client, &count));
        }
    });
    let mut config = https(&fleet, &server, &authority);
    poll(config.clone()).unwrap();
    assert_eq!(tunnels.load(Ordering::Relaxed), 0);
    config.proxy = Some(format!("http://proxy:s3cr3t@{proxy}"));
    poll(config.clone()).unwrap();
    assert_eq!(tunnels.load(Ordering::Relaxed), 1);
    config.proxy = Some(format!("http://proxy:wr0ng@{proxy}"));
    let message = poll(config).unwrap_err().to_string();
    assert!(!message.contains("wr0ng"), "{message}");
}

/// One CONNECT, for those who know the password.
fn tunnel(client: TcpStream, count: &AtomicU64) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let (mut target, mut allowed) = (String::new(), false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(rest) = line.strip_prefix("CONNECT ") {
            rest.split(' ').next().unwrap().clone_into(&mut target);
        }
        // proxy:s3cr3t
        allowed |= line.to_ascii_lowercase().starts_with("proxy-authorization") && line.contains("cHJveHk6czNjcjN0");
        if line.trim().is_empty() {
            break;
        }
    }
    let mut client = client;
    if !allowed {
        client.write_all(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n").unwrap();
        return;
    }
    count.fetch_add(1, Ordering::Relaxed);
    let mut server = TcpStream::connect(target).unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let back = std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
    let _ = std::io::copy(&mut client, &mut server);
    let _ = server.shutdown(std::net::Shutdown::Both);
    let _ = back.join();
}
