//! Offline bundles: made with real git, minisign and ssh-keygen; applied where nothing else is reached; refused when a byte of them is another.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use trimtab_model::digest::Digest;
use trimtab_model::report::{Outcome, Pass, Wake};
use trimtab_tests::git::command;
use trimtab_tests::server::{Authority, GitServer, Tls};
use trimtab_tests::trimtab_binary;

use crate::Sandbox;

/// A host that reaches nothing, a repository elsewhere, and a stick between them.
struct Far {
    sandbox: Sandbox,
    stick: tempfile::TempDir,
}

impl Far {
    fn new() -> Self {
        let sandbox = Sandbox::new("");
        let toml = sandbox.root().join("etc/trimtab/agent.toml");
        fs::write(toml, "[source]\nurl = \"https://127.0.0.1:1/fleet.git\"\n[host]\nname = \"box\"\n").unwrap();
        Self { sandbox, stick: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.stick.path().join(name)
    }

    fn create(&self, name: &str, more: &[&str]) -> Output {
        let mut command = command(trimtab_binary().to_str().unwrap(), self.stick.path());
        command
            .args(["bundle", "create", "--host", "box", "--output"])
            .arg(self.file(name))
            .arg("--repo")
            .arg(self.sandbox.repo.path())
            .args(more);
        command.output().unwrap()
    }

    #[track_caller]
    fn created(&self, name: &str, more: &[&str]) {
        let output = self.create(name, more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn apply(&self, name: &str) -> Result<Pass, String> {
        let output = self.sandbox.trimtab(&["bundle", "apply", "--json"]).arg(self.file(name)).output().unwrap();
        serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn one(&self) -> String {
        self.sandbox.read("etc/one.conf")
    }
}

fn told(pass: &Pass) -> String {
    format!("{:?} {} {:?} {:?}", pass.outcome, pass.source_error, pass.failures, pass.trust)
}

#[test]
fn a_host_without_a_network_lives_on_bundles_and_takes_nothing_older() {
    let far = Far::new();
    assert_eq!(far.sandbox.once().outcome, Outcome::Unreachable);
    far.created("first", &[]);
    let pass = far.apply("first").unwrap();
    assert_eq!((pass.outcome, pass.wake, far.one().as_str()), (Outcome::Converged, Wake::Bundle, "one\n"), "{}", told(&pass));
    let first = far.sandbox.repo.head().to_string();
    let second = far.sandbox.revise("two\n");
    far.created("second", &[]);
    let pass = far.apply("second").unwrap();
    assert_eq!((pass.outcome, pass.revision, far.one().as_str()), (Outcome::Converged, second.clone(), "two\n"));
    assert_eq!(far.apply("second").unwrap().outcome, Outcome::Unchanged);
    // The old stick again.
    let pass = far.apply("first").unwrap();
    assert_eq!(
        (pass.outcome, pass.trust.verdict.as_str(), far.one().as_str()),
        (Outcome::Held, "rewritten", "two\n"),
        "{}",
        told(&pass)
    );
    assert!(pass.trust.message.contains("most likely it is an older one"), "{}", told(&pass));
    // Between sticks it is held by what it has.
    fs::write(far.sandbox.root().join("etc/one.conf"), "spoiled\n").unwrap();
    far.sandbox.once();
    assert_eq!(far.one(), "two\n");
    // A plain git bundle, and one of a stranger.
    let third = far.sandbox.revise("three\n");
    far.sandbox.repo.git(&["bundle", "create", "--quiet", far.file("plain").to_str().unwrap(), "main"]);
    assert_eq!((far.apply("plain").unwrap().revision, far.one().as_str()), (third.clone(), "three\n"));
    far.sandbox.repo.write("components/one/files/etc/one.conf", "a stranger's\n");
    far.sandbox.repo.commit("No signature", None);
    far.created("stranger", &[]);
    let pass = far.apply("stranger").unwrap();
    assert_eq!(
        (pass.outcome, pass.trust.verdict.as_str(), far.one().as_str()),
        (Outcome::Held, "unsigned", "three\n"),
        "{}",
        told(&pass)
    );
    // One that leans on what the host may have.
    far.sandbox.repo.git(&["bundle", "create", "--quiet", far.file("thin").to_str().unwrap(), &format!("{first}..main")]);
    let pass = far.apply("thin").unwrap();
    assert!(told(&pass).contains("leans on commits that it does not hold"), "{}", told(&pass));
    assert!(!far.sandbox.root().join("var/cache/trimtab-applying").exists(), "what was laid out is gone");
}

#[test]
fn a_bundle_as_the_source_is_followed_as_it_is_exchanged() {
    let far = Far::new();
    let file = far.file("fleet.bundle");
    let toml = far.sandbox.root().join("etc/trimtab/agent.toml");
    fs::write(toml, format!("[source]\nurl = \"file://{}\"\n[host]\nname = \"box\"\n", file.display())).unwrap();
    let make = || far.sandbox.repo.git(&["bundle", "create", "--quiet", file.to_str().unwrap(), "main"]);
    make();
    assert_eq!(far.sandbox.once().outcome, Outcome::Converged);
    assert_eq!(far.sandbox.once().outcome, Outcome::Unchanged);
    far.sandbox.revise("two\n");
    make();
    let pass = far.sandbox.once();
    assert_eq!((pass.outcome, far.one().as_str()), (Outcome::Converged, "two\n"), "{}", told(&pass));
    // Torn out while it was written.
    far.sandbox.revise("three\n");
    make();
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 30]).unwrap();
    let pass = far.sandbox.once();
    assert!(pass.outcome >= Outcome::Unreachable && far.one() == "two\n", "{}", told(&pass));
    fs::write(&file, whole).unwrap();
    assert_eq!(far.sandbox.once().outcome, Outcome::Converged);
    assert_eq!(far.one(), "three\n");
}

fn minisign(folder: &Path, words: &[&str]) {
    let output = Command::new("minisign").args(words).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn artifacts_come_with_it_and_their_signatures_too() {
    let far = Far::new();
    let folder = far.stick.path();
    let authority = Authority::new();
    fs::create_dir(far.file("files")).unwrap();
    fs::write(far.file("ca.pem"), authority.pem()).unwrap();
    let server = GitServer::start(folder, Tls::On(&authority));
    minisign(folder, &["-G", "-W", "-p", "maker.pub", "-s", "maker.key"]);
    let public = fs::read_to_string(far.file("maker.pub")).unwrap().lines().nth(1).unwrap().to_owned();
    let bytes: Vec<u8> = (0..2_500_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes().into_iter().take(1)).collect();
    fs::write(far.file("files/tool"), &bytes).unwrap();
    minisign(folder, &["-S", "-s", "maker.key", "-m", "files/tool"]);
    let (size, digest) = (bytes.len(), Digest::of(&bytes).hex());
    far.sandbox.repo.write(
        "components/one/component.toml",
        format!("[[artifact]]\npath = \"/opt/tool\"\nurl = \"{}/files/tool\"\nsize = {size}\nsha256 = \"{digest}\"\nminisign = \"{public}\"\n", server.url()),
    );
    far.sandbox.push();
    let ca = far.file("ca.pem").display().to_string();
    let key = far.file("maker.key").display().to_string();
    far.created("with", &["--ca-file", &ca, "--sign-key", &key]);
    drop(server);
    // Anybody can look into it, and check it, with what everybody has.
    let tar = Command::new("tar").arg("-xf").arg(far.file("with")).arg("-C").arg(folder).output().unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    minisign(folder, &["-V", "-q", "-p", "maker.pub", "-m", "manifest"]);
    assert_eq!(fs::read(folder.join("artifacts").join(&digest)).unwrap(), bytes);
    let show = |more: &[&str]| {
        let output = far.sandbox.trimtab(&["bundle", "show", "--json"]).arg(far.file("with")).args(more).output().unwrap();
        (
            output.status.success(),
            serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (_, shown, err) = show(&[]);
    assert_eq!((shown["parts"].as_array().map(Vec::len), &shown["signerIsKnown"]), (Some(3), &false.into()), "{shown} {err}");
    assert_eq!(show(&["--key", &far.file("maker.pub").display().to_string()]).1["signerIsKnown"], true);
    fs::write(far.file("person.pub"), far.sandbox.key.line()).unwrap();
    let (good, _, err) = show(&["--key", &far.file("person.pub").display().to_string()]);
    assert!(!good && err.contains("no key with that name counts here"), "{err}");
    let pass = far.apply("with").unwrap();
    assert_eq!(pass.outcome, Outcome::Converged, "{}", told(&pass));
    assert!(fs::read(far.sandbox.root().join("opt/tool")).unwrap() == bytes);
    // Without its artifacts it takes what does not need them, and says what is missing.
    far.sandbox.repo.git(&["bundle", "create", "--quiet", far.file("bare").to_str().unwrap(), "main"]);
    let other = Far { sandbox: Sandbox::new(""), stick: far.stick };
    let trust = fs::read(far.sandbox.root().join("etc/trimtab/trust.toml")).unwrap();
    fs::write(other.sandbox.root().join("etc/trimtab/trust.toml"), trust).unwrap();
    let pass = other.apply("bare").unwrap();
    assert_eq!((pass.outcome, other.sandbox.read("etc/two.conf").as_str()), (Outcome::Partial, "two\n"));
    assert!(told(&pass).contains("is not in the bundle"), "{}", told(&pass));
}

#[test]
fn a_bundle_with_another_byte_is_refused_before_anything_is_changed() {
    let far = Far::new();
    let ssh = far.sandbox.key.path().display().to_string();
    far.created("good", &["--sign-key", &ssh]);
    let good = fs::read(far.file("good")).unwrap();
    let position = |needle: &[u8]| good.windows(needle.len()).position(|window| window == needle).unwrap();
    let (manifest, pack) = (position(b"trimtab-bundle v1"), position(b"PACK"));
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let part = position(b"repository.bundle\0");
    // A header that says so itself, after it was altered.
    let fit = |bytes: &mut [u8], head: usize| {
        let head = &mut bytes[head..head + 512];
        let sum: u32 = head.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) }).sum();
        head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    };
    let headed = |head: usize, at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[head + at..head + at + with.len()].copy_from_slice(with);
        fit(&mut bytes, head);
        bytes
    };
    let size = u64::from_str_radix(std::str::from_utf8(&good[part + 124..part + 135]).unwrap(), 8).unwrap();
    let shorter = format!("{:011o}", size - 1);
    let swapped = {
        // The parts of another bundle behind this manifest.
        far.sandbox.revise("other\n");
        far.created("other", &[]);
        let other = fs::read(far.file("other")).unwrap();
        let at = other.windows(18).position(|window| window == b"repository.bundle\0").unwrap();
        [&good[..part], &other[at..]].concat()
    };
    let added = {
        let mut bytes = good[..good.len() - 1024].to_vec();
        bytes.extend_from_slice(&good[part..part + 512]);
        let size = bytes.len();
        bytes[size - 512 + 124..size - 512 + 135].copy_from_slice(b"00000000000");
        fit(&mut bytes, size - 512);
        [bytes, vec![0; 1024]].concat()
    };
    for (what, bytes, expected) in [
        ("cut in the pack", good[..pack + 100].to_vec(), "is cut short"),
        ("cut at its end", good[..good.len() - 1024].to_vec(), "is cut short here"),
        ("a byte of the pack", flipped(pack + 20), "is not what the manifest says"),
        ("a byte of the manifest's digest", flipped(manifest + 70), ""),
        ("a byte of a header", flipped(part + 3), "its checksum"),
        ("swapped", swapped, "repository.bundle"),
        ("renamed", headed(part, 0, b"x"), "xepository.bundle lies here where the manifest has repository.bundle"),
        ("renamed to lead elsewhere", headed(part, 0, b"../"), "the name here is not one that a bundle has"),
        ("its first file", headed(0, 0, b"x"), "the first file in it is xanifest, and not manifest"),
        ("a link", headed(part, 156, b"2"), "no plain file with a short name"),
        ("a longer name", headed(part, 345, b"etc"), "no plain file with a short name"),
        ("shorter", headed(part, 124, shorter.as_bytes()), &format!("bytes, and the manifest says {size}")),
        ("added to", added, "the manifest does not have it"),
        ("empty", Vec::new(), "cut short"),
        ("something else", b"#!/bin/sh\nrm -rf /\n".repeat(100), "no header of a tar file"),
    ] {
        fs::write(far.file("bad"), bytes).unwrap();
        let error = far.apply("bad").map(|pass| told(&pass)).unwrap_err();
        assert!(error.contains(expected) && error.contains("bad"), "{what}: {error}");
        assert!(
            !far.sandbox.root().join("etc/one.conf").exists() && !far.sandbox.root().join("var/lib/trimtab/ledger.json").exists(),
            "{what}"
        );
    }
    // Exchanged between the reading and the use: what is used is hashed again.
    fs::write(far.file("bad"), &good).unwrap();
    let opened = trimtab::bundle::open(&far.file("bad"), &mut |_, _| {}).unwrap();
    opened.copy_repository(&mut Vec::new()).unwrap();
    fs::OpenOptions::new().write(true).open(far.file("bad")).unwrap().write_all_at(b"x", pack as u64 + 20).unwrap();
    let error = opened.copy_repository(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("was changed while it was used"), "{error}");
    // The manifest is signed: one whose digests were made to fit again is not the one that was.
    let unsigned = {
        far.created("unsigned", &[]);
        fs::read(far.file("unsigned")).unwrap()
    };
    assert!(!unsigned.windows(13).any(|window| window == b"SSH SIGNATURE"));
    let (head, tail) = (&unsigned[..1024], &unsigned[1024..]);
    let signature = position(b"manifest.sig\0");
    let grafted = [head, &good[signature..part], tail].concat();
    fs::write(far.file("grafted"), grafted).unwrap();
    let error = far.apply("grafted").map(|pass| told(&pass)).unwrap_err();
    assert!(error.contains("the signature of") && error.contains("does not match"), "{error}");
    assert_eq!(far.apply("good").unwrap().outcome, Outcome::Converged);
}

/// Settings of an agent that polls when somebody asks, and never tries again by itself.
const QUIET: &str = "[agent]\ninterval = \"1h\"\nretry-interval = \"1h\"\nretry-max = \"1h\"\n";

impl Far {
    /// Another source and further settings.
    fn follow(&self, url: &str, more: &str) {
        let toml = self.sandbox.root().join("etc/trimtab/agent.toml");
        fs::write(toml, format!("[source]\nurl = \"{url}\"\n[host]\nname = \"box\"\n{more}")).unwrap();
    }

    fn agent(&self) -> crate::Agent {
        let agent = self.sandbox.agent();
        crate::until("the agent made a pass", || {
            self.sandbox.status().is_some_and(|status| status.agent_pid == agent.0.id() && status.last_pass.is_some())
        });
        agent
    }
}

#[test]
fn a_running_agent_takes_a_bundle_and_goes_on_with_its_source() {
    let far = Far::new();
    far.follow("https://127.0.0.1:1/fleet.git", QUIET);
    far.created("first", &[]);
    let agent = far.agent();
    let pass = far.apply("first").unwrap();
    assert_eq!((pass.outcome, pass.wake, far.one().as_str()), (Outcome::Converged, Wake::Bundle, "one\n"), "{}", told(&pass));
    let status = far.sandbox.status().unwrap();
    assert_eq!((status.agent_pid, status.last_applied_revision), (agent.0.id(), far.sandbox.repo.head().to_string()));
    assert!(!far.sandbox.root().join("var/cache/trimtab-applying").exists(), "what was laid out is gone");
    assert!(!far.sandbox.root().join("var/lib/trimtab/applying").exists());
    // What it repairs with later lies with the host; and the source is what it was.
    fs::write(far.sandbox.root().join("etc/one.conf"), "spoiled\n").unwrap();
    crate::until("it is repaired", || far.one() == "one\n");
    let (code, _, said) = far.sandbox.said(&["sync"]);
    assert!(code == 1, "{code} {said}");
    let last = far.sandbox.status().unwrap().last_pass.unwrap();
    assert_eq!((last.outcome, last.wake), (Outcome::Unreachable, Wake::Asked), "{}", told(&last));

    far.sandbox.revise("two\n");
    far.created("second", &["--sign-key", &far.sandbox.key.path().display().to_string()]);
    let with_key = |key: &str| {
        let key = far.file(key).display().to_string();
        far.sandbox.trimtab(&["bundle", "apply", "--json", "--key", &key]).arg(far.file("second")).output().unwrap()
    };
    fs::write(far.file("eve.pub"), trimtab_tests::git::Key::new("eve").line()).unwrap();
    fs::write(far.file("person.pub"), far.sandbox.key.line()).unwrap();
    let refused = with_key("eve.pub");
    assert!(refused.status.code() == Some(1) && far.one() == "one\n");
    let taken = with_key("person.pub");
    assert!(taken.status.code() == Some(2) && far.one() == "two\n", "{}", String::from_utf8_lossy(&taken.stderr));
    // By the same proof.
    let pass = far.apply("first").unwrap();
    assert_eq!((pass.outcome, pass.trust.verdict.as_str(), far.one().as_str()), (Outcome::Held, "rewritten", "two\n"));
    assert!(pass.trust.message.contains("most likely it is an older one"), "{}", told(&pass));
    let torn = fs::read(far.file("second")).unwrap();
    fs::write(far.file("torn"), &torn[..torn.len() - 2000]).unwrap();
    assert!(far.apply("torn").unwrap_err().contains("is cut short"));
    assert_eq!(agent_pid(&far), agent.0.id(), "it is the same agent all along");
}

fn agent_pid(far: &Far) -> u32 {
    far.sandbox.status().unwrap().agent_pid
}

#[test]
fn a_running_agent_reads_a_bundle_itself_whoever_looked_at_it_before() {
    let far = Far::new();
    far.follow("https://127.0.0.1:1/fleet.git", QUIET);
    far.created("good", &[]);
    let good = fs::read(far.file("good")).unwrap();
    fs::write(far.file("torn"), &good[..good.len() - 2000]).unwrap();
    let requests = far.sandbox.root().join("var/lib/trimtab/requests");
    let ask = |name: &str, key: &str| {
        fs::create_dir_all(&requests).unwrap();
        let text = serde_json::json!({ "ask": "bundle", "file": far.file(name), "key": key });
        fs::write(requests.join("1.json"), text.to_string()).unwrap();
    };
    let last = || far.sandbox.status().unwrap().last_pass.unwrap();
    // Left by who does not wait any more, for an agent that ended: told, and not done.
    fs::create_dir_all(requests.parent().unwrap()).unwrap();
    ask("good", "");
    let agent = far.agent();
    assert!(last().remarks.iter().any(|remark| remark.contains("ask again")), "{:?}", last().remarks);
    assert_eq!((far.one().as_str(), requests.join("1.json").exists()), ("", false));
    for (name, key, says) in [
        ("torn", String::new(), "the key that must have signed it is none"),
        ("good", far.sandbox.key.line().to_owned(), "is not signed, and a signature by SHA256:"),
        ("missing", far.sandbox.key.line().to_owned(), "cannot read"),
    ] {
        let before = last().number;
        ask(name, &key);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
        crate::until("it was looked at", || last().number > before);
        let pass = last();
        assert_eq!((pass.wake, pass.outcome, far.one().as_str()), (Wake::Bundle, Outcome::Partial, ""), "{}", told(&pass));
        assert!(told(&pass).contains(says), "{says}: {}", told(&pass));
    }
    assert_eq!(far.apply("good").unwrap().outcome, Outcome::Converged);
}

#[test]
fn soak_what_a_stick_brought_is_confirmed_by_the_source_where_that_was_reached_before() {
    let far = Far::new();
    let away = far.file("away");
    let served = far.file("served");
    far.sandbox.repo.git(&["clone", "--quiet", "--bare", ".", served.to_str().unwrap()]);
    far.follow(
        served.to_str().unwrap(),
        &format!("{QUIET}[guard]\nconfirm = \"always\"\nconfirm-timeout = \"10s\"\nsettle = \"1s\"\n"),
    );
    let _agent = far.agent();
    assert_eq!(far.one(), "one\n");
    far.sandbox.revise("two\n");
    far.created("two", &[]);
    fs::rename(&served, &away).unwrap();
    let pass = far.apply("two").unwrap();
    assert_eq!((pass.outcome, far.one().as_str()), (Outcome::RolledBack, "one\n"), "{}", told(&pass));
    assert!(pass.reason().contains("the source was not reached within 10s"), "{}", pass.reason());
    // Where the source was away before, nothing is to be learned from it.
    let (code, _, said) = far.sandbox.said(&["sync"]);
    assert!(code != 0, "{said}");
    far.sandbox.revise("three\n");
    far.created("three", &[]);
    let pass = far.apply("three").unwrap();
    assert_eq!((pass.outcome, far.one().as_str()), (Outcome::Converged, "three\n"), "{}", told(&pass));
    // It is back, and has less than the stick: not an answer that undoes anything, and it was reached.
    fs::rename(&away, &served).unwrap();
    let (_, _, said) = far.sandbox.said(&["sync"]);
    assert_eq!(far.one(), "three\n", "{said}");
    far.sandbox.revise("four\n");
    far.created("four", &[]);
    let pass = far.apply("four").unwrap();
    assert_eq!((pass.outcome, far.one().as_str()), (Outcome::Converged, "four\n"), "{}", told(&pass));
}

#[test]
fn what_git_is_told_of_its_files_changes_nothing_in_a_bundle() {
    let far = Far::new();
    // Left out of archives, and changed in them: no host does either.
    far.sandbox.repo.write(".gitattributes", "hosts export-ignore\nfleet.toml export-subst\n");
    let fleet = fs::read_to_string(far.sandbox.repo.path().join("fleet.toml")).unwrap();
    far.sandbox.repo.write("fleet.toml", format!("{fleet}# $Format:%n]broken$\n"));
    far.sandbox.repo.write("hosts/box.toml", "");
    far.sandbox.push();
    let mut create = command(trimtab_binary().to_str().unwrap(), far.stick.path());
    let output = create.args(["bundle", "create", "--output"]).arg(far.file("all")).arg("--repo").arg(far.sandbox.repo.path());
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(far.apply("all").unwrap().outcome, Outcome::Converged);
}

#[test]
fn nothing_is_written_through_a_link_in_the_couriers_folder() {
    let far = Far::new();
    let root = far.sandbox.root();
    // A bundle that takes a while to be laid out.
    let noise: Vec<u8> = (0..8_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[n as usize % 3]).collect();
    far.sandbox.repo.write("far-too-much", noise);
    far.sandbox.push();
    far.created("large", &[]);
    let cache = root.join("var/cache/trimtab");
    let bait = far.file("bait");
    fs::create_dir_all(&cache).unwrap();
    fs::create_dir(&bait).unwrap();
    // A courier that was taken over has this folder, and puts a link in the place of whatever comes to lie in it.
    let done = std::sync::atomic::AtomicBool::new(false);
    let over = |done: &std::sync::atomic::AtomicBool| {
        let mut exchanged = 0;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            for entry in fs::read_dir(&cache).unwrap().flatten() {
                let is_new = entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "taken";
                if is_new && entry.path().read_dir().is_ok_and(|mut files| files.next().is_some()) {
                    let _ = fs::remove_dir_all(cache.join("taken"));
                    let _ = fs::rename(entry.path(), cache.join("taken"));
                    let _ = std::os::unix::fs::symlink(&bait, entry.path());
                    exchanged += 1;
                }
            }
        }
        exchanged
    };
    let pass = std::thread::scope(|scope| {
        let racer = scope.spawn(|| over(&done));
        let pass = far.apply("large");
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        println!("exchanged: {}", racer.join().unwrap());
        pass
    });
    let caught: Vec<_> = fs::read_dir(&bait).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(caught.is_empty(), "written through the link: {caught:?}");
    assert_eq!(pass.unwrap().outcome, Outcome::Converged);
}
