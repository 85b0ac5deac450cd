//! The ssh transport, with a program named `ssh` that runs the far end's command here; and without any.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use trimtab::courier::{Class, Client};
use trimtab_tests::trimtab_binary;

use crate::{Fleet, PATIENCE, files, git, walk};

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A courier whose PATH has `ssh` as given before everything else, or nothing but that.
fn courier(fleet: &Fleet, url: &str, settings: &str, ssh: Option<&str>) -> Client {
    let programs = fleet.root().join("bin");
    fs::create_dir_all(&programs).unwrap();
    let path = if let Some(ssh) = ssh {
        script(&programs.join("ssh"), ssh);
        format!("{}:$PATH", programs.display())
    } else {
        "/nowhere".to_owned()
    };
    let wrapper = fleet.root().join("trimtab");
    script(&wrapper, &format!("PATH=\"{path}\"; export PATH; exec {} \"$@\"", trimtab_binary().display()));
    let config = fleet.root().join("agent.toml");
    fs::write(&config, format!("[source]\nurl = '{url}'\n{settings}")).unwrap();
    Client::spawn(&wrapper, &config, &fleet.root().join("cache"), PATIENCE).unwrap()
}

/// What sshd does: hands the last argument to a shell. Its own arguments are kept for a look.
const FAITHFUL: &str =
    r#"[ "$1" = -G ] && exit 1; echo "$GIT_PROTOCOL $*" >> "$(dirname "$0")/log"; for last; do :; done; exec sh -c "$last""#;

#[test]
fn a_repository_is_fetched_over_ssh() {
    let fleet = Fleet::new();
    let first = fleet.commit(&[("dir/file", "one")]);
    let url = format!("ssh://git@far.example:2222{}/.git", fleet.work().display());
    let mut client = courier(&fleet, &url, "ssh-key = '/etc/key'\nssh-known-hosts = '/etc/hosts.known'", Some(FAITHFUL));
    assert_eq!(client.poll("refs/heads/main").unwrap().id, Some(first));
    client.advance(&first, None).unwrap();
    assert_eq!(walk(&mut client, first), files(&[("dir/file", "one")]));
    let second = fleet.commit(&[("dir/file", "two")]);
    client.advance(&second, Some(&first)).unwrap();
    assert_eq!(walk(&mut client, second), files(&[("dir/file", "two")]));
    let log = fs::read_to_string(fleet.root().join("bin/log")).unwrap();
    assert_eq!(log.lines().count(), 1, "one connection serves them all: {log}");
    for part in
        ["version=2", "-oBatchMode=yes", "-p2222", "-i /etc/key", "-oUserKnownHostsFile=/etc/hosts.known", "-- git@far.example"]
    {
        assert!(log.contains(part), "{part} is not in {log}");
    }
}

#[test]
fn a_connection_that_broke_meanwhile_is_made_anew() {
    let fleet = Fleet::new();
    let first = fleet.commit(&[("file", "one")]);
    // The first connection ends after its first command.
    let once = format!(
        r#"log="$(dirname "$0")/log"; if [ -e "$log" ]; then {FAITHFUL}; fi; echo x >> "$log"
for last; do :; done; exec timeout 1 sh -c "$last""#
    );
    let url = format!("git@far.example:{}/.git", fleet.work().display());
    let mut client = courier(&fleet, &url, "", Some(&once));
    assert_eq!(client.poll("refs/heads/main").unwrap().id, Some(first));
    std::thread::sleep(std::time::Duration::from_millis(1300));
    assert_eq!(client.poll("refs/heads/main").unwrap().id, Some(first));
}

#[test]
fn without_an_ssh_program_it_says_so() {
    let fleet = Fleet::new();
    let mut client = courier(&fleet, "git@far.example:fleet", "", None);
    let error = client.poll("refs/heads/main").unwrap_err();
    assert_eq!(error.class(), Class::Configuration);
    assert!(error.to_string().contains("openssh-client"), "{error}");
}

#[test]
fn what_ssh_complains_about_is_told_with_advice() {
    let fleet = Fleet::new();
    let mut client = courier(&fleet, "git@far.example:fleet", "", Some("echo 'Host key verification failed.' >&2; exit 255"));
    let error = client.poll("refs/heads/main").unwrap_err();
    assert!(error.to_string().contains("Host key verification failed. (put the server's key"), "{error}");
    let mut client = courier(&fleet, "git@far.example:fleet", "idle-timeout = '400ms'", Some("exec sleep 30"));
    let error = client.poll("refs/heads/main").unwrap_err();
    assert!(error.to_string().contains("idle-timeout"), "{error}");
}

#[test]
fn the_systems_own_ssh_takes_the_options() {
    let fleet = Fleet::new();
    git(&fleet.work(), &["--version"]);
    // Nothing listens on port 1.
    let real = "exec /usr/bin/ssh \"$@\"";
    let mut client = courier(&fleet, "ssh://git@127.0.0.1:1/fleet", "", Some(real));
    let error = client.poll("refs/heads/main").unwrap_err().to_string();
    assert!(error.contains("refused") || !Path::new("/usr/bin/ssh").exists(), "{error}");
}
