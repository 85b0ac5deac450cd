//! Artifacts: fetched over HTTPS from a real server, signed by the real minisign, and refused when anything about them is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use trimtab_model::digest::Digest;
use trimtab_model::report::{Outcome, Pass};
use trimtab_tests::server::{Auth, Authority, Fault, GitServer, Tls};

use crate::{FLEET, Sandbox};

pub(crate) const TOOL: &str = "usr/local/bin/tool";

/// Has a host follow its repository from a server that wants a token, with artifacts allowed from another one. `folder` is what both serve.
pub(crate) fn follow(sandbox: &Sandbox, folder: &Path, own: &GitServer, artifacts: &GitServer) {
    sandbox.repo.git(&["clone", "--quiet", "--bare", ".", &folder.join("fleet").display().to_string()]);
    let (ca, token) = (folder.join("ca.pem"), folder.join("token"));
    let settings = format!(
        "[source]\nurl = \"{}/fleet\"\nca-file = \"{ca}\"\ntoken-file = \"{}\"\n[host]\nname = \"box\"\n[artifacts]\nallow = [\"{}/files/\"]\nca-file = \"{ca}\"\n",
        own.url(),
        token.display(),
        artifacts.url(),
        ca = ca.display(),
    );
    fs::write(sandbox.root().join("etc/trimtab/agent.toml"), settings).unwrap();
}

/// A sandbox whose artifacts lie on a server of their own.
pub(crate) struct Shop {
    pub(crate) sandbox: Sandbox,
    pub(crate) server: GitServer,
    pub(crate) folder: tempfile::TempDir,
}

impl Shop {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    pub(crate) fn with(more: &str) -> Self {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        fs::create_dir(folder.path().join("files")).unwrap();
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let server = GitServer::start(folder.path(), Tls::On(&authority));
        let settings = format!(
            "{more}[artifacts]\nallow = [\"{}/files/\"]\nca-file = \"{}\"\n",
            server.url(),
            folder.path().join("ca.pem").display()
        );
        let sandbox = Sandbox::new(&settings);
        // `[source]` stands first in agent.toml.
        let toml = sandbox.root().join("etc/trimtab/agent.toml");
        let text = fs::read_to_string(&toml).unwrap().replacen("[source]\n", "[source]\nidle-timeout = \"1s\"\n", 1);
        fs::write(toml, text).unwrap();
        Self { sandbox, server, folder }
    }

    /// Puts a file on the server; `[[artifact]]` of component `one` says what it is.
    pub(crate) fn offer(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder.path().join("files").join(name), bytes).unwrap();
        self.declare(&format!("{}/files/{name}", self.server.url()), bytes, "");
    }

    pub(crate) fn declare(&self, url: &str, bytes: &[u8], more: &str) {
        let (size, digest) = (bytes.len(), Digest::of(bytes).hex());
        let text = format!(
            "[[artifact]]\npath = \"/{TOOL}\"\nurl = \"{url}\"\nsize = {size}\nsha256 = \"{digest}\"\nmode = \"0755\"\n{more}"
        );
        self.sandbox.repo.write("components/one/component.toml", text);
        self.sandbox.push();
    }

    pub(crate) fn tool(&self) -> Option<Vec<u8>> {
        fs::read(self.sandbox.root().join(TOOL)).ok()
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.server.log()
    }

    pub(crate) fn parts(&self) -> usize {
        fs::read_dir(self.sandbox.root().join("var/lib/trimtab/parts")).map_or(0, Iterator::count)
    }
}

/// Bytes that look like a program.
pub(crate) fn program(seed: u8, size: usize) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn minisign(folder: &Path, words: &[&str]) {
    let output = Command::new("minisign").args(words).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A new key in a folder; its public half.
fn key(folder: &Path, name: &str) -> String {
    minisign(folder, &["-G", "-W", "-f", "-p", &format!("{name}.pub"), "-s", &format!("{name}.key")]);
    fs::read_to_string(folder.join(format!("{name}.pub"))).unwrap().lines().nth(1).unwrap().to_owned()
}

pub(crate) fn told(pass: &Pass) -> String {
    pass.failures.iter().map(|failure| format!("{}: {}", failure.resource, failure.message)).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_artifact_is_fetched_once_proven_placed_repaired_and_gone_back_to_without_a_network() {
    let shop = Shop::new();
    let (one, two) = (program(1, 300_000), program(2, 2_500_000));
    let public = key(shop.folder.path(), "maker");
    for (name, bytes) in [("tool-1", &one), ("tool-2", &two)] {
        shop.offer(name, bytes);
        minisign(shop.folder.path(), &["-S", "-s", "maker.key", "-m", &format!("files/{name}")]);
        shop.declare(&format!("{}/files/{name}", shop.server.url()), bytes, &format!("minisign = \"{public}\"\n"));
        let pass = shop.sandbox.once();
        assert_eq!(pass.outcome, Outcome::Converged, "{}", told(&pass));
        assert_eq!(shop.tool().as_ref(), Some(bytes));
        assert_eq!(fs::metadata(shop.sandbox.root().join(TOOL)).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(shop.sandbox.once().outcome, Outcome::Unchanged);
    }
    let asked = shop.asked();
    assert_eq!(asked.len(), 4, "a signature and a content each, and nothing twice: {asked:?}");
    assert_eq!(shop.parts(), 0);
    let Shop { sandbox, server, folder } = shop;
    drop((server, folder));
    fs::write(sandbox.root().join(TOOL), "spoiled").unwrap();
    let pass = sandbox.once();
    assert_eq!((pass.outcome, fs::read(sandbox.root().join(TOOL)).unwrap() == two), (Outcome::Converged, true), "{}", told(&pass));
    let (code, out, err) = sandbox.said(&["rollback", "1", "--reason", "the new one is worse"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(fs::read(sandbox.root().join(TOOL)).unwrap() == one, "its content was kept with its generation");
}

#[test]
fn it_is_another_file_on_another_architecture() {
    let shop = Shop::new();
    let bytes = program(3, 1000);
    let arch = std::env::consts::ARCH;
    fs::write(shop.folder.path().join(format!("files/tool-{arch}")), &bytes).unwrap();
    let text = format!(
        "[variables.builds]\ntype = \"map\"\ndefault = {{ {arch} = {{ size = 1000, sha256 = \"{}\" }} }}\n[[artifact]]\npath = \"/{TOOL}\"\n\
         url = \"{}/files/tool-{{{{ facts.arch }}}}\"\nsize = \"{{{{ builds[facts.arch].size }}}}\"\nsha256 = \"{{{{ builds[facts.arch].sha256 }}}}\"\n",
        Digest::of(&bytes).hex(),
        shop.server.url()
    );
    shop.sandbox.repo.write("components/one/component.toml", text);
    shop.sandbox.push();
    let pass = shop.sandbox.once();
    assert_eq!(pass.outcome, Outcome::Converged, "{}{:?}", told(&pass), pass.findings);
    assert_eq!(shop.tool(), Some(bytes));
    let (code, out, _) = shop.sandbox.said(&["render", &shop.sandbox.repo.path().display().to_string(), "--host", "box"]);
    assert!(code != 0 && out.is_empty(), "without facts there is no architecture: {out}");
}

#[test]
fn what_is_wrong_with_an_artifact_is_told_and_nothing_of_it_is_placed() {
    let shop = Shop::new();
    let bytes = program(4, 200_000);
    let mut other = bytes.clone();
    other[100_000] ^= 1;
    let (public, stranger) = (key(shop.folder.path(), "maker"), key(shop.folder.path(), "stranger"));
    shop.offer("tool", &bytes);
    minisign(shop.folder.path(), &["-S", "-s", "stranger.key", "-m", "files/tool"]);
    fs::write(shop.folder.path().join("files/other"), &other).unwrap();
    fs::write(shop.folder.path().join("files/longer"), [&bytes[..], b"x"].concat()).unwrap();
    fs::write(shop.folder.path().join("files/shorter"), &bytes[1..]).unwrap();
    let signed = |key: &str| format!("minisign = \"{key}\"\n");
    let at = |name: &str| format!("{}/files/{name}", shop.server.url());
    let elsewhere = Fault::Redirect("https://127.0.0.1:1/metadata?token=secret".to_owned());
    for (url, more, fault, expected) in [
        (at("other"), String::new(), Fault::None, "its digest is sha256:"),
        (at("longer"), String::new(), Fault::None, "more than the 200000 bytes"),
        (at("shorter"), String::new(), Fault::None, "has 199999 bytes, and 200000 are declared"),
        (at("tool"), String::new(), Fault::Endless, "more than the 200000 bytes"),
        (at("tool"), String::new(), Fault::Stall(0), "silent for 1s"),
        (at("tool"), String::new(), elsewhere, "does not fetch https://127.0.0.1:1/metadata, for"),
        (at("tool"), String::new(), Fault::Redirect("/files/tool".to_owned()), "redirects more than 5 times"),
        (at("tool"), String::new(), Fault::Status(500, "sorry".to_owned()), "500: sorry"),
        (at("nothing"), String::new(), Fault::None, "404 (no such file)"),
        (at("tool"), signed(&public), Fault::None, "is not the expected one"),
        (at("longer"), signed(&stranger), Fault::None, "longer.minisig: 127.0.0.1 answered 404"),
        ("https://10.0.0.1/admin?do=harm".to_owned(), String::new(), Fault::None, "does not fetch https://10.0.0.1/admin, for"),
        (at("tool").replace("/files/", "/filesystem/"), String::new(), Fault::None, "does not fetch"),
        (at("tool").replace("https://", "http://"), String::new(), Fault::None, "does not fetch http://"),
        ("file:///etc/hostname".to_owned(), String::new(), Fault::None, "does not fetch file:///etc/hostname"),
    ] {
        shop.server.set_fault(fault.clone());
        shop.declare(&url, &bytes, &more);
        let begun = Instant::now();
        let pass = shop.sandbox.once();
        assert!(begun.elapsed() < Duration::from_secs(20), "{fault:?} took {:?}", begun.elapsed());
        let told = told(&pass);
        assert!(told.contains(expected) && !told.contains("secret") && !told.contains("harm"), "{url} {fault:?}: {told}");
        assert_eq!((pass.outcome, shop.tool()), (Outcome::Partial, None), "{url} {fault:?}");
        assert_eq!(shop.sandbox.read("etc/two.conf"), "two\n", "what does not need it is in place");
    }
    shop.server.set_fault(Fault::None);
    shop.declare(&at("tool"), &bytes, &signed(&stranger));
    assert_eq!(shop.sandbox.once().outcome, Outcome::Converged);
    assert_eq!(shop.tool(), Some(bytes));
}

#[test]
fn a_broken_line_is_gone_on_from_where_it_broke() {
    let shop = Shop::new();
    let bytes = program(5, 3_000_000);
    shop.offer("tool", &bytes);
    shop.server.set_fault(Fault::Cut(1_300_000));
    let pass = shop.sandbox.once();
    assert_eq!((pass.outcome, shop.tool().as_ref()), (Outcome::Converged, Some(&bytes)), "{}", told(&pass));
    let ranges = shop.asked().iter().filter(|line| line.contains("range: bytes=")).count();
    assert!((2..6).contains(&ranges), "{:?}", shop.asked());
    // A server that knows no ranges sends it all again, and it is right all the same.
    let bytes = program(6, 3_000_000);
    shop.offer("tool", &bytes);
    fs::create_dir_all(shop.sandbox.root().join("var/lib/trimtab/parts")).unwrap();
    fs::write(shop.sandbox.root().join("var/lib/trimtab/parts").join(Digest::of(&bytes).hex()), &bytes[..2_000_000]).unwrap();
    shop.server.set_fault(Fault::NoRanges);
    let pass = shop.sandbox.once();
    assert_eq!((pass.outcome, shop.tool().as_ref()), (Outcome::Converged, Some(&bytes)), "{}", told(&pass));
    // And what somebody else left there in its place is found out.
    let bytes = program(7, 3_000_000);
    shop.offer("tool", &bytes);
    shop.server.set_fault(Fault::None);
    let part = shop.sandbox.root().join("var/lib/trimtab/parts").join(Digest::of(&bytes).hex());
    fs::write(&part, program(8, 2_000_000)).unwrap();
    assert!(told(&shop.sandbox.once()).contains("its digest is sha256:"));
    assert!(!part.exists(), "it is begun anew");
    assert_eq!(shop.sandbox.once().outcome, Outcome::Converged);
    assert_eq!(shop.tool(), Some(bytes));
}

#[test]
fn a_revision_whose_artifact_does_not_come_is_taken_over_without_it_and_goes_on_from_there() {
    let shop = Shop::with("[agent]\npull-timeout = \"1s\"\n");
    assert_eq!(shop.sandbox.once().outcome, Outcome::Converged);
    let bytes = program(9, 3_000_000);
    shop.offer("tool", &bytes);
    shop.sandbox.repo.write("components/one/files/etc/one.conf", "needs the tool\n");
    shop.sandbox.repo.write("components/two/files/etc/two.conf", "does not\n");
    shop.sandbox.push();
    shop.server.set_fault(Fault::Stall(1_500_000));
    let pass = shop.sandbox.once();
    assert_eq!(pass.outcome, Outcome::Partial);
    let state = |shop: &Shop| (shop.sandbox.read("etc/one.conf"), shop.sandbox.read("etc/two.conf"));
    assert_eq!(state(&shop), ("one\n".to_owned(), "does not\n".to_owned()), "{}", told(&pass));
    assert_eq!((shop.tool(), shop.parts()), (None, 1));
    shop.server.set_fault(Fault::None);
    // A machine that has more to do than this test may need longer for the rest.
    let toml = shop.sandbox.root().join("etc/trimtab/agent.toml");
    fs::write(&toml, fs::read_to_string(&toml).unwrap().replace("pull-timeout = \"1s\"", "pull-timeout = \"1min\"")).unwrap();
    shop.server.reset();
    let pass = shop.sandbox.once();
    assert_eq!(pass.outcome, Outcome::Converged, "{}", told(&pass));
    assert_eq!(state(&shop), ("needs the tool\n".to_owned(), "does not\n".to_owned()));
    assert_eq!(shop.tool(), Some(bytes));
    assert!(shop.asked()[0].contains("range: bytes="), "{:?}", shop.asked());
    assert_eq!(shop.parts(), 0);
}

#[test]
fn what_is_on_the_host_already_is_not_fetched_and_a_damaged_copy_is_fetched_again() {
    let shop = Shop::new();
    let bytes = program(10, 100_000);
    shop.offer("tool", &bytes);
    let at = shop.sandbox.root().join(TOOL);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(&at, &bytes).unwrap();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(shop.sandbox.once().outcome, Outcome::Converged);
    assert_eq!(shop.asked(), Vec::<String>::new());
    let hex = Digest::of(&bytes).hex();
    let blob = shop.sandbox.root().join("var/lib/trimtab/blobs").join(&hex[..2]).join(&hex[2..]);
    assert!(fs::read(&blob).unwrap() == bytes);
    // The flash forgot a bit of the copy, and somebody spoiled the file.
    fs::write(&blob, program(11, 100_000)).unwrap();
    fs::write(&at, "spoiled").unwrap();
    assert_eq!(shop.sandbox.once().outcome, Outcome::Partial);
    let pass = shop.sandbox.once();
    assert_eq!((pass.outcome, shop.tool() == Some(bytes)), (Outcome::Converged, true), "{}", told(&pass));
    assert_eq!(shop.asked().len(), 1);
}

#[test]
fn credentials_go_to_the_sources_own_server_and_nowhere_else() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    fs::create_dir(folder.path().join("files")).unwrap();
    fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    fs::write(folder.path().join("token"), "sesame\n").unwrap();
    let (own, strange) =
        (GitServer::start(folder.path(), Tls::On(&authority)), GitServer::start(folder.path(), Tls::On(&authority)));
    own.set_auth(Auth::Header("Bearer sesame".to_owned()));
    let sandbox = Sandbox::new("");
    follow(&sandbox, folder.path(), &own, &strange);
    let mut text = String::new();
    for (server, name) in [(&own, "own"), (&strange, "strange")] {
        let bytes = program(12, 5000);
        fs::write(folder.path().join("files").join(name), [&bytes[..], name.as_bytes()].concat()).unwrap();
        let bytes = fs::read(folder.path().join("files").join(name)).unwrap();
        let (size, digest) = (bytes.len(), Digest::of(&bytes).hex());
        text += &format!(
            "[[artifact]]\npath = \"/opt/{name}\"\nurl = \"{}/files/{name}\"\nsize = {size}\nsha256 = \"{digest}\"\n",
            server.url()
        );
    }
    sandbox.repo.write("components/one/component.toml", text);
    sandbox.repo.write("fleet.toml", FLEET);
    sandbox.push();
    sandbox.repo.git(&["push", "--quiet", &folder.path().join("fleet").display().to_string(), "main"]);
    let pass = sandbox.once();
    assert_eq!(pass.outcome, Outcome::Converged, "{}{}", told(&pass), pass.source_error);
    let of = |server: &GitServer| server.log().into_iter().find(|line| line.contains("/files/")).unwrap();
    assert!(of(&own).contains("authorization: Bearer sesame"), "{}", of(&own));
    assert!(!of(&strange).contains("authorization"), "{}", of(&strange));
}
