//! What every shipped binary must do, whatever its processor: answer, judge and render repositories to the same bytes, play the demo,
//! and converge from a signed commit over HTTPS. `packaging/try-arm` runs this on the ARM binaries under qemu, through
//! `TRIMTAB_SHIPPED`; otherwise it runs on the binary of the same build.
// All of this crate is test; clippy's own exemption ends at the functions marked so.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use trimtab_tests::git::{Key, Repo};
use trimtab_tests::server::{Authority, GitServer, Tls};
use trimtab_tests::trimtab_binary;

const EXAMPLES: [(&str, &str); 3] = [("minimal", "any"), ("containers", "shop-1"), ("multi-site", "kiosk-1")];

fn shipped() -> PathBuf {
    std::env::var_os("TRIMTAB_SHIPPED").map_or_else(trimtab_binary, PathBuf::from)
}

fn run(binary: &Path, words: &[&str]) -> Output {
    Command::new(binary).args(words).output().unwrap_or_else(|error| panic!("{} does not run: {error}", binary.display()))
}

#[track_caller]
fn answer(binary: &Path, words: &[&str], code: i32) -> String {
    let output = run(binary, words);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn example(name: &str) -> String {
    format!("{}/../examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn it_answers() {
    let said = answer(&shipped(), &["version"], 0);
    assert!(said.starts_with(&format!("trimtab {} (", env!("CARGO_PKG_VERSION"))), "{said}");
    answer(&shipped(), &["--help"], 0);
    answer(&shipped(), &["no-such-command"], 64);
}

#[test]
fn it_judges_and_renders_the_same_as_this_machine() {
    for (name, host) in EXAMPLES {
        answer(&shipped(), &["validate", &example(name)], 0);
        let render = ["render", &example(name), "--host", host, "--json"];
        let (here, there) = (answer(&trimtab_binary(), &render, 0), answer(&shipped(), &render, 0));
        assert_eq!(here, there, "{name}");
    }
    answer(&shipped(), &["validate", env!("CARGO_MANIFEST_DIR")], 1);
}

#[test]
fn it_plays_the_demo() {
    let said = answer(&shipped(), &["demo"], 0);
    assert!(said.contains("converged: 2 updated") && said.contains("holding the last good state"), "{said}");
}

#[test]
fn it_converges_from_a_signed_commit_over_https_and_refuses_another_authority() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    repo.write("fleet.toml", "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"motd\"]\n");
    repo.write("components/motd/files/etc/motd.j2", "{{ host }}\n");
    repo.commit("One", Some(&key));
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = GitServer::start(repo.path(), Tls::On(&authority));
    let folder = tempfile::tempdir().unwrap();
    let (ca, wrong) = (folder.path().join("ca.pem"), folder.path().join("wrong.pem"));
    std::fs::write(&ca, authority.pem()).unwrap();
    std::fs::write(&wrong, stranger.pem()).unwrap();
    let url = format!("{}/.git", server.url());
    let public = format!("{}.pub", key.path().display());
    for (name, file, code) in [("good", &ca, 2), ("bad", &wrong, 1)] {
        let root = folder.path().join(name);
        std::fs::create_dir(&root).unwrap();
        let (root, file) = (root.display().to_string(), file.display().to_string());
        answer(&shipped(), &["--root", &root, "init", "--url", &url, "--ca-file", &file, "--key", &public, "--host", "edge-1"], 0);
        answer(&shipped(), &["--root", &root, "once"], code);
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("good/etc/motd")).unwrap(), "edge-1\n");
    assert!(!folder.path().join("bad/etc/motd").exists());
    let root = folder.path().join("good").display().to_string();
    answer(&shipped(), &["--root", &root, "once"], 0);
}
