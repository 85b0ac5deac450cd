//! Makes `tests/fuzz/known` and the first inputs of each corpus, with git, ssh-keygen, gpg, minisign and tar; and shrinks what the engine found.
//!
//! Not part of the ordinary tests: signatures are made anew by keys that are thrown away, so that all of it changes together.
//! `cargo test -p trimtab-tests --test replay make:: -- --ignored`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use trimtab::courier::protocol::{Class, Reply, Traffic};
use trimtab_model::drift::DriftBook;
use trimtab_model::hold::{Held, HoldBook, Holds};
use trimtab_model::ledger::Ledger;
use trimtab_model::status::Status;
use trimtab_tests::fuzz::{folder, known};
use trimtab_tests::git::{Key, Repo, command, run};
use trimtab_tests::release::{Hand, Mini, RootText, Say};

fn keep(path: PathBuf, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn known_file(name: &str, bytes: impl AsRef<[u8]>) {
    keep(folder().join("known").join(name), bytes);
}

fn seed(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    keep(folder().join("corpus").join(target).join(name), bytes);
}

/// Several files as one input.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(&0)
}

fn example(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(path)).unwrap()
}

#[test]
#[ignore = "makes all keys anew"]
fn make_known() {
    let kinds: [(&str, &[&str]); 4] = [
        ("ed25519", &["-t", "ed25519"]),
        ("rsa", &["-t", "rsa", "-b", "2048"]),
        ("p256", &["-t", "ecdsa", "-b", "256"]),
        ("p384", &["-t", "ecdsa", "-b", "384"]),
    ];
    let made = kinds.map(|(name, options)| (name, Key::made(options, name)));
    let touched = [("sk-ed25519", Key::sk_ed25519("sk-ed25519")), ("sk-p256", Key::sk_ecdsa("sk-p256"))];
    for (name, key) in made.iter().chain(&touched) {
        known_file(&format!("{name}.pub"), format!("{}\n", key.line()));
        known_file(&format!("{name}.sig"), key.sign("git", known::PAYLOAD));
    }
    certified();
    openpgp();
    let mini = Mini::new();
    known_file("minisign.pub", format!("untrusted comment: minisign public key\n{}\n", mini.public()));
    known_file("payload.minisig", mini.minisig(known::PAYLOAD, &[]));
    known_file("signed.tar", bundle(&mini));
    commits(&made[0].1);
}

/// A certificate by an authority, and a signature with it.
fn certified() {
    let (authority, key) = (Key::new("authority"), Key::new("ann"));
    let public = key.path().with_extension("pub");
    let options = ["-I", "ann of site 3", "-n", "ann,bob", "-V", "20260101:20380101"];
    run(
        command("ssh-keygen", key.path().parent().unwrap()).args(["-q", "-s"]).arg(authority.path()).args(options).arg(&public),
        b"",
    );
    let certificate = key.path().with_file_name("key-cert.pub");
    let mut sign = command("ssh-keygen", key.path().parent().unwrap());
    let signature = run(sign.args(["-Y", "sign", "-n", "git", "-f"]).arg(&certificate), known::PAYLOAD);
    known_file("authority.pub", format!("{}\n", authority.line()));
    known_file("certified.sig", signature);
    let line = fs::read_to_string(certificate).unwrap();
    known_file("certificate.bin", Key::from_line(line.trim_end()).blob());
}

fn openpgp() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let gpg = |args: &[&str], input: &[u8]| {
        let mut gpg = command("gpg", home.path());
        gpg.env("GNUPGHOME", home.path()).args([
            "--batch",
            "--quiet",
            "--no-tty",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        run(gpg.arg("--faked-system-time=1790000000").args(args), input)
    };
    gpg(&["--quick-gen-key", "Ann <ann@example.org>", "ed25519", "sign", "0"], b"");
    let list = String::from_utf8(gpg(&["--list-keys", "--with-colons"], b"")).unwrap();
    let print = list.lines().find_map(|line| line.strip_prefix("fpr:")).unwrap().trim_matches(':').to_owned();
    known_file("openpgp.fingerprint", format!("{print}\n"));
    known_file("openpgp.asc", gpg(&["--armor", "--export", &print], b""));
    known_file("openpgp.sig", gpg(&["--armor", "--detach-sign", "-u", &print], known::PAYLOAD));
    // A second kind of key, for the reader alone.
    gpg(&["--quick-gen-key", "Bob <bob@example.org>", "rsa2048", "cert", "5y"], b"");
    let list = String::from_utf8(gpg(&["--list-keys", "--with-colons", "bob@example.org"], b"")).unwrap();
    let bob = list.lines().find_map(|line| line.strip_prefix("fpr:")).unwrap().trim_matches(':').to_owned();
    gpg(&["--quick-add-key", &bob, "rsa2048", "sign", "2y"], b"");
    seed("openpgp", "certificate-rsa-subkey", gpg(&["--armor", "--export", &bob], b""));
    seed("openpgp", "signature-rsa-subkey", gpg(&["--armor", "--detach-sign", "-u", &bob], known::PAYLOAD));
    // A commit that git has gpg sign.
    let repo = Repo::new();
    let wrapper = repo.path().join("gpg-as-ann");
    let script = format!(
        "#!/bin/sh\nexec gpg --homedir '{}' --batch --quiet --no-tty --pinentry-mode loopback --passphrase '' \"$@\"\n",
        home.path().display()
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let program = format!("gpg.program={}", wrapper.display());
    let signing = format!("user.signingkey={print}");
    repo.git(&[
        "-c",
        "gpg.format=openpgp",
        "-c",
        &program,
        "-c",
        &signing,
        "commit",
        "--quiet",
        "--allow-empty",
        "-S",
        "-m",
        "by gpg",
    ]);
    known_file("commit-openpgp", repo.content("commit", repo.head()));
    let _ = Command::new("gpgconf").env("GNUPGHOME", home.path()).args(["--kill", "gpg-agent"]).status();
}

fn commits(key: &Key) {
    for (format, name) in [("sha1", "commit-ssh"), ("sha256", "commit-sha256")] {
        let repo = Repo::with_format(format);
        repo.write("fleet.toml", "format = 1\n");
        repo.write("components/web/files/etc/a", "x\n");
        repo.write(".trimtab/root/1.toml", "x\n");
        repo.commit("Title\n\nText.\n\nTrimtab-Channel: production", Some(key));
        known_file(name, repo.content("commit", repo.head()));
        seed("commit", &format!("plain-{format}"), repo.content("commit", repo.commit("no signature", None)));
        for path in ["HEAD^{tree}", "HEAD:components", "HEAD:.trimtab/root"] {
            let name = format!("{format}{}", path.trim_start_matches("HEAD").replace(['^', '{', '}', ':', '/', '.'], "-"));
            seed("tree", &name, repo.content("tree", repo.resolve(path)));
        }
    }
    let repo = Repo::new();
    let base = repo.commit("base", Some(key));
    repo.git(&["checkout", "--quiet", "-b", "side"]);
    repo.git(&["-c", "i18n.commitEncoding=latin1", "commit", "--quiet", "--allow-empty", "-m", "latin"]);
    seed("commit", "encoding", repo.content("commit", repo.head()));
    let tag = repo.head();
    repo.git(&["-c", &format!("user.signingkey={}", key.path().display()), "tag", "-s", "-m", "signed", "v1"]);
    seed("tag", "git-tag-s", repo.content("tag", repo.resolve("v1")));
    repo.git(&["checkout", "--quiet", "main"]);
    repo.commit("main", Some(key));
    repo.git(&[
        "-c",
        &format!("user.signingkey={}", key.path().display()),
        "merge",
        "--quiet",
        "--no-ff",
        "-S",
        "-m",
        "Merge",
        "v1",
    ]);
    known_file("commit-merge", repo.content("commit", repo.head()));
    assert_ne!(base, tag);
}

/// A bundle as `trimtab bundle create` makes it, with the tar of this machine, its manifest signed.
fn bundle(mini: &Mini) -> Vec<u8> {
    use trimtab_model::digest::Digest;
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| keep(folder.path().join(name), bytes);
    let (repository, artifact) = (b"# v2 git bundle\nx".as_slice(), b"artifact\n".as_slice());
    let hex = Digest::of(artifact).hex();
    let image = format!("localhost:5000/app@{}", Digest::of(b"image"));
    let manifest = format!(
        "trimtab-bundle v1\ncreated: 2026-11-21T15:00:00Z\npart: {} {} repository.bundle\npart: {} {} artifacts/{hex}\npart: {} 5 images/1.tar {image}\n",
        Digest::of(repository),
        repository.len(),
        Digest::of(artifact),
        artifact.len(),
        Digest::of(b"image"),
    );
    seed("manifest", "three-parts", &manifest);
    put("manifest", manifest.as_bytes());
    put("manifest.minisig", mini.minisig(manifest.as_bytes(), &[]).as_bytes());
    put("repository.bundle", repository);
    put(&format!("artifacts/{hex}"), artifact);
    put("images/1.tar", b"image");
    let tar = |names: &[&str]| {
        let mut tar = command("tar", folder.path());
        tar.arg("-C").arg(folder.path()).args([
            "--format=ustar",
            "--owner=root:0",
            "--group=root:0",
            "--mode=0644",
            "--mtime=@0",
            "-b1",
            "-cf",
            "-",
        ]);
        run(tar.args(names), b"")
    };
    let hex = format!("artifacts/{hex}");
    let parts = ["manifest", "manifest.minisig", "repository.bundle", &hex, "images/1.tar"];
    seed("bundle", "unsigned", tar(&[&parts[..1], &parts[2..]].concat()));
    seed("bundle", "git", b"# v2 git bundle\n");
    tar(&parts)
}

#[test]
#[ignore = "makes the corpus anew, from what is in known"]
fn make_seeds() {
    for (name, armor) in known::signatures() {
        seed("sshsig", name, armor);
        seed("blocks", name, armor);
        seed("sshsig", &format!("{name}-blob"), trimtab_tests::git::dearmor(armor));
        let over = [known::PAYLOAD, armor].concat();
        seed("blocks", &format!("{name}-behind-its-text"), over);
    }
    for name in known::SSH {
        let line = known::file(&format!("{name}.pub"));
        seed("line", name, line.trim_ascii_end());
        seed("line", &format!("{name}-blob"), known::ssh_key(name).blob());
    }
    seed("line", "authority", [b"cert-authority,principals=\"ann,bob\" ", known::file("authority.pub").trim_ascii_end()].concat());
    seed("line", "certificate-blob", known::file("certificate.bin"));
    let minisig = known::file("payload.minisig");
    seed("minisign", "signature", &minisig);
    seed("minisign", "key", known::minisign().to_string());
    let block = trimtab::trust::blocks::of_minisig(std::str::from_utf8(&minisig).unwrap()).unwrap();
    seed("blocks", "minisign", &block);
    seed("blocks", "three", [&block[..], &known::file("rsa.sig"), &known::file("openpgp.sig")].concat());
    seed("openpgp", "signature", known::file("openpgp.sig"));
    seed("openpgp", "certificate", known::file("openpgp.asc"));
    seed("bundle", "signed", known::file("signed.tar"));
    for name in ["commit-ssh", "commit-openpgp", "commit-sha256", "commit-merge"] {
        seed("commit", name, known::file(name));
    }
    released();
    found();
    stored();
    fleets();
    courier();
}

fn released() {
    let tag = known::release();
    seed("tag", "release", tag);
    let (end, _) = trimtab::trust::blocks::split(tag).unwrap();
    let start = tag.windows(2).position(|pair| pair == b"\n\n").unwrap() + 2;
    seed("statement", "release", &tag[start..end]);
    let repo = Repo::new();
    repo.commit("base", None);
    let (ssh, mini) = (Key::new("ann"), Mini::new());
    let hands = [Hand::Ssh(&ssh), Hand::Mini(&mini)];
    let say = Say::of(&repo, "production", (1, 50));
    seed("tag", "release-by-strangers", say.tag(&hands));
    seed("tag", "alive", say.alive(&hands));
    let alive = say.alive(&[]);
    let start = alive.windows(2).position(|pair| pair == b"\n\n").unwrap() + 2;
    seed("statement", "alive", &alive[start..]);
    let roots = known::roots();
    let steps: Vec<&[u8]> = roots.next.iter().flat_map(|(text, signatures)| [text.as_bytes(), signatures.as_slice()]).collect();
    seed("chain", "two-steps", joined(&steps));
    seed("chain", "one-step", joined(&steps[..2]));
    seed("chain", "skipped", joined(&steps[2..]));
    seed("root", "quick", &roots.next[0].0);
    let keys: Vec<(&str, Hand<'_>)> = vec![("ann", hands[0]), ("safe key", hands[1])];
    let text =
        RootText::new(&keys[..1], &[("root", 1, &["ann"]), ("release.\"site-3\"", 1, &["ann"]), ("commit.main", 0, &["ann"])])
            .text();
    seed("root", "ssh-and-branch", text);
    let pinned = |key: &str| {
        format!("mode = \"release\"\nchannel = \"production\"\nrepo = \"{}\"\n{key}\n", trimtab_tests::release::REPO_ID)
    };
    seed(
        "trust_toml",
        "release-root",
        pinned("root = \"/etc/trimtab/root.toml\"\nmin-epoch = 1\nmin-seq = 40\non-stale = \"hold\"\nrequire-state = true"),
    );
    seed("trust_toml", "release-digest", pinned(&format!("root-digest = \"{}\"", roots.first.digest())));
    let lines =
        [known::file("ed25519.pub"), known::file("rsa.pub")].map(|line| String::from_utf8(line).unwrap().trim_end().to_owned());
    seed(
        "trust_toml",
        "commit",
        format!(
            "mode = \"commit\"\nbranch = \"main\"\nkeys = {lines:?}\ntrailer = \"production\"\nverify = \"all-since-trusted\"\n"
        ),
    );
    let (armor, print) =
        (String::from_utf8(known::file("openpgp.asc")).unwrap(), String::from_utf8(known::file("openpgp.fingerprint")).unwrap());
    seed(
        "trust_toml",
        "openpgp",
        format!(
            "mode = \"commit\"\nbranch = \"main\"\n[[openpgp]]\nname = \"ann\"\nfingerprint = \"{}\"\ncertificate = '''\n{armor}'''\n",
            print.trim_end()
        ),
    );
}

fn found() {
    let one = |format: &str, name: &str, keys: &str, wanted: &str, found: &str| {
        seed(&format!("keys_{format}"), name, joined(&[keys.as_bytes(), wanted.as_bytes(), found.as_bytes()]));
    };
    // The examples of the model's own tests, in short.
    one(
        "json",
        "nested",
        "server.port\n*.password\ntoken\nusers.*.seen",
        "{\n  \"server\": {\n    \"port\": 80,\n    \"host\": \"a\"\n  },\n  \"users\": [{\"name\": \"x\", \"seen\": 0}]\n}\n",
        "{\"users\":[{\"seen\":17}],\"token\":\"t\\\"1\",\"server\":{\"password\":null,\"port\":8080}}",
    );
    one("json", "empty", "a.b", "{}", "{\"a\":{\"b\":[1,2.5e3,true]}}");
    one(
        "toml",
        "tables",
        "server.port\ntop\nstate\ninline.a\ndeep.er.k\nlist.0.n",
        "# head\nname = 'x'\ninline = { a = 1, b = 2 }\ndotted.y = 1\n[server] # s\nport = 80\n[deep.er.est]\nz = 1\n[[list]]\nn = 1\n",
        "top = [1, 2]\ninline = { a = '''q''' }\n[server]\nport = 0x1F90\n[state]\nsince = 2024-01-01\n[[list]]\nn = \"one\"\n[deep.er]\nk = true\n",
    );
    one(
        "yaml",
        "blocks",
        "server.port\ntoken\nlist.*.seen\nempty\nflow.a\ntext",
        "# head\nserver:\n  port: 80 # p\nlist:\n  - name: x\n    seen: 1\nempty:\nflow: {b: 1}\ntext: |\n  one\nlast: &a [1, 2]\n",
        "server: {port: '0o17'}\nlist:\n- {name: x, seen: [1, {a: b}]}\nempty: yes\nflow:\n  a: \"x: y\"\ntext: a # b\ntoken: !x 1\n",
    );
    one(
        "yaml",
        "anchors",
        "a\nb",
        "%TAG ! tag:x,2000:\n---\na: &x !y [1]\nb: *x\n? c\n: >-\n  d\n",
        "{a: 1, b: *x, \"c\\n\": 'd'}\n",
    );
    one(
        "ini",
        "sections",
        "server.port\n*.password\ntop\nnew\n'remote \"origin\"'.url",
        "; head\ntop=1\n[server]\n  host = a\n  port: 80\n\n[db]\nuser = u\n",
        "top = 2\n[db]\npassword = a\n  b\n[server]\nport = 8080\n[new]\nx=1\n[remote \"origin\"]\n\turl = here\n",
    );
    one(
        "systemd",
        "unit",
        "Service.Environment\nUnit.Description",
        "[Unit]\nDescription=a\n[Service]\nEnvironment=A=1\nExecStart=/bin/x \\\n  --y\n",
        "[Service]\nEnvironment=\nEnvironment=C=3 \\\n# why\n  D=4\n[Unit]\nDescription=b",
    );
    for (name, path) in [("dots", "server.port"), ("quotes", "section.\"dotted.key\".'a b'"), ("any", "*.password")] {
        seed("keys_path", name, path);
    }
}

fn stored() {
    let text = |which: u8, value: serde_json::Value| [&[which], value.to_string().as_bytes()].concat();
    seed("stored", "ledger", text(b'l', serde_json::to_value(Ledger::default()).unwrap()));
    seed("stored", "drift", text(b'd', serde_json::to_value(DriftBook::default()).unwrap()));
    seed("stored", "status", text(b's', serde_json::to_value(Status::default()).unwrap()));
    let held = |until| Held { reason: "why".to_owned(), since: 1_799_000_000, until, by: "ann".to_owned() };
    let holds =
        Holds { format: 1, suspended: Some(held(1_800_000_100)), pins: [("/etc/a".to_owned(), held(1_700_000_000))].into() };
    seed("stored", "holds", text(b'h', serde_json::to_value(HoldBook { holds, ..HoldBook::default() }).unwrap()));
    let roots = known::roots();
    let digest = trimtab_model::digest::Digest::of(b"x");
    let id = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
    let memory = |seq: u64, root: &str| {
        serde_json::json!({
            "format": 2,
            "release": {"repo": trimtab_tests::release::REPO_ID, "channel": "production", "place": {"epoch": 1, "seq": seq}, "statement": digest, "tag": id, "root": 1, "issued": 7, "expires": 9, "signers": ["ann"]},
            "root": root, "alive": {"place": {"epoch": 1, "seq": seq}, "issued": 7, "expires": 9, "tag": id},
            "time-floor": 1_800_000_000u64, "last-poll": 0, "lost": seq,
        })
        .to_string()
    };
    seed("memory", "two-copies", joined(&[memory(1, &roots.next[0].0).as_bytes(), memory(2, &roots.first.text).as_bytes()]));
    let plain = serde_json::json!({"format": 1, "mode": "commit", "branch": "refs/heads/main", "commit": id, "payload": digest,
        "signer": "SHA256:/6YYQ5gBxIAlP8QuyTSD3j5o6C0eHI4LC7NIbn2/GB8", "signer-name": "ann", "accepted-at": 1_800_000_000u64, "time-floor": 7});
    seed("memory", "format-1", plain.to_string());
}

fn fleets() {
    let component = example("containers/components/web/component.toml");
    let (fleet, host) = (example("multi-site/fleet.toml"), example("multi-site/hosts/kiosk-1.toml"));
    let unit = example("minimal/components/hello/systemd/hello.service");
    let template = example("multi-site/components/kiosk/files/etc/kiosk/screen.conf.j2");
    seed("fleet", "examples", joined(&[&fleet, &host, &component, &unit, &template]));
    let small = b"format = 1\n[[group]]\nname = \"all\"\ncomponents = [\"web\"]\n[variables]\nport = 80\n".as_slice();
    let rules = b"[variables]\nname = { type = \"string\", default = \"x\" }\n[[file]]\npath = \"/etc/web/web.conf\"\nmode = \"0640\"\nignore-keys = [\"a.b\"]\n[[health]]\nname = \"up\"\nunit = \"web.service\"\n".as_slice();
    seed(
        "fleet",
        "small",
        joined(&[
            small,
            b"[labels]\nsite = \"lab\"\n",
            rules,
            &unit,
            b"{{ port }} {{ name | upper }}\n{% for x in [1, 2] %}{{ x }}{% endfor %}\n",
        ]),
    );
    seed(
        "fleet",
        "guarded",
        joined(&[&example("guarded/fleet.toml"), b"", &example("guarded/components/app/component.toml"), &unit, b""]),
    );
    seed("unit", "service", unit);
    seed(
        "unit",
        "container",
        "[Container]\nImage=x\nEnvironment=\"A=1 2\" 'B=%n' \\\n# why\n  C\\ =%%\n[Install]\nWantedBy=\nWantedBy=a.target\n",
    );
}

fn courier() {
    let frame = |which: u8, reply: &Reply, body: &[u8]| {
        let mut bytes = vec![which];
        trimtab::wire::send(&mut bytes, "peer", reply, body).unwrap();
        bytes
    };
    let id = || Some("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0".to_owned());
    let traffic = Traffic { requests: 1, up: 2, down: 3 };
    seed("client", "polled", frame(0, &Reply::Polled { id: id(), peeled: id(), beside: None, traffic, courier: None }, b""));
    seed("client", "advanced", frame(1, &Reply::Advanced { traffic }, b""));
    seed("client", "fetched", frame(2, &Reply::Fetched { end: true }, b"artifact"));
    seed(
        "client",
        "undelivered",
        frame(3, &Reply::Undelivered { lasting: true, unfit: false, retry_after: Some(9), message: "no".to_owned() }, b""),
    );
    seed("client", "objects", frame(4, &Reply::Objects { sizes: vec![2, 3, 0, 1] }, b"abcdef"));
    seed("client", "missing", frame(5, &Reply::Missing { id: "01".repeat(20) }, b""));
    let (long, odd) = (Reply::Failed { class: Class::Retry, message: "x".repeat(20_000) }, "a\n<3>b\u{1b}[2J".to_owned());
    seed("client", "a-message-without-end", frame(1, &long, b""));
    seed("client", "a-message-of-several-lines", frame(0, &Reply::Failed { class: Class::Retry, message: odd.clone() }, b""));
    seed(
        "client",
        "a-refusal-of-several-lines",
        frame(3, &Reply::Undelivered { lasting: true, unfit: false, retry_after: None, message: odd }, b""),
    );
    let unknown = format!("{{\"{}\\n\":1}}", "x".repeat(20_000));
    let length = u32::try_from(unknown.len()).unwrap().to_be_bytes();
    seed("client", "an-answer-nobody-knows", [&[1][..], &length, &[0; 8], unknown.as_bytes()].concat());
    seed("client", "failed", frame(0, &Reply::Failed { class: Class::Hold, message: "why".to_owned() }, b""));
    let slice: &[&[u8]] = &[
        b"40000 components\0\x0140000 hosts\0\x02100644 fleet.toml\0\x03",
        b"40000 web\0\x04",
        b"100644 edge-1.toml\0\x03120000 x\0\x05",
        b"format = 1\n",
        b"100755 run\0\x03",
        b"../y",
    ];
    seed("slice", "sha1", slice.join(&[0xff, 0xff][..]));
    seed("slice", "sha256", [b" ", &slice.join(&[0xff, 0xff][..])[..]].concat());
}
