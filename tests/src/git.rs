//! Real repositories made by the system's git, real keys and signatures made by ssh-keygen, and sources that serve or falsify them.
//!
//! Nothing of the machine's own git or ssh configuration is seen. Security keys are played in software: their signatures are those of the
//! real thing (`ssh-keygen -Y verify` agrees), and nobody has to touch anything.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gix_hash::ObjectId;
use ring::digest::{SHA256, SHA512, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use tempfile::TempDir;
use trimtab::wire::{ObjectError, ObjectKind, ObjectSource};

/// Who and when, in every commit that is not told otherwise.
pub const IDENTITY: &str = "Ann Example <ann@example.org> 1800000000 +0000";

/// A program that sees nothing of this machine's configuration.
pub fn command(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()));
    command
        .env("HOME", home)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "Ann Example").env(format!("GIT_{who}_EMAIL"), "ann@example.org");
        command.env(format!("GIT_{who}_DATE"), "1800000000 +0000");
    }
    command
}

/// Runs a program with `input`, which must succeed; its standard output.
pub fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("because it is installed");
    let mut stdin = child.stdin.take().expect("because it is piped");
    let output = std::thread::scope(|scope| {
        // Beside the reading: a program that writes before it has read all must not wait for ever. One that stops reading may.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("because it was started")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A repository in a folder of its own, with a work tree, on the branch `main`.
#[derive(Debug)]
pub struct Repo {
    folder: TempDir,
}

impl Default for Repo {
    fn default() -> Self {
        Self::new()
    }
}

impl Repo {
    /// An empty repository with SHA-1 ids.
    pub fn new() -> Self {
        Self::with_format("sha1")
    }

    /// An empty repository with `sha1` or `sha256` ids.
    pub fn with_format(format: &str) -> Self {
        let repo = Self { folder: tempfile::tempdir().expect("because the temporary folder can be written") };
        repo.git(&["init", "--quiet", "--initial-branch=main", &format!("--object-format={format}")]);
        repo.git(&["config", "gpg.format", "ssh"]);
        repo
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs git in it; what it prints, without the line's end.
    pub fn git(&self, args: &[&str]) -> String {
        self.feed(args, b"")
    }

    /// Runs git in it with `input`; what it prints, without the line's end.
    pub fn feed(&self, args: &[&str], input: &[u8]) -> String {
        let output = run(command("git", self.path()).arg("-C").arg(self.path()).args(args), input);
        String::from_utf8_lossy(&output).trim_end().to_owned()
    }

    /// Writes a file of the work tree.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        let parent = path.parent().expect("because it lies in the repository");
        std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, content)).expect("because the folder is ours");
    }

    /// Commits the work tree as it is, as a person does: `git add`, `git commit`, signed by `key` if there is one.
    pub fn commit(&self, message: &str, key: Option<&Key>) -> ObjectId {
        self.git(&["add", "--all"]);
        let signing = key.map(|key| format!("user.signingkey={}", key.path().display()));
        let mut args = vec!["-c", signing.as_deref().unwrap_or("x.y=z"), "commit", "--quiet", "--allow-empty", "-m", message];
        args.extend(key.map(|_| "-S"));
        self.git(&args);
        self.head()
    }

    /// The commit that is checked out.
    pub fn head(&self) -> ObjectId {
        self.resolve("HEAD")
    }

    /// The object that a revision names.
    pub fn resolve(&self, revision: &str) -> ObjectId {
        id(&self.git(&["rev-parse", revision]))
    }

    /// Stores an object as it is, however odd; its id.
    pub fn object(&self, kind: &str, content: &[u8]) -> ObjectId {
        id(&self.feed(&["hash-object", "-t", kind, "--literally", "-w", "--stdin"], content))
    }

    /// The content of an object.
    pub fn content(&self, kind: &str, object: ObjectId) -> Vec<u8> {
        run(command("git", self.path()).arg("-C").arg(self.path()).args(["cat-file", kind, &object.to_string()]), b"")
    }

    /// Stores a tree of these entries, in this order: mode, name, id.
    pub fn tree(&self, entries: &[(&str, &[u8], ObjectId)]) -> ObjectId {
        let mut content = Vec::new();
        for (mode, name, id) in entries {
            content.extend([mode.as_bytes(), b" ", name, b"\0", id.as_slice()].concat());
        }
        self.object("tree", &content)
    }

    /// Stores a commit of any tree and parents, signed by `key` over exactly what is stored.
    pub fn signed(&self, key: &Key, tree: ObjectId, parents: &[ObjectId], message: &str) -> ObjectId {
        let payload = payload(tree, parents, message);
        self.object("commit", &insert(&payload, header_of(tree), &key.sign("git", &payload)))
    }

    /// An untrusted source of its objects.
    pub fn source(&self) -> RepoSource {
        RepoSource::open(self.path())
    }
}

/// An id from hex.
pub fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).expect("because git prints ids")
}

/// The header that carries a commit's signature in a repository with ids of this kind.
pub fn header_of(id: ObjectId) -> &'static str {
    if id.kind() == gix_hash::Kind::Sha256 { "gpgsig-sha256" } else { "gpgsig" }
}

/// A commit before it is signed.
pub fn payload(tree: ObjectId, parents: &[ObjectId], message: &str) -> Vec<u8> {
    let mut text = format!("tree {tree}\n");
    for parent in parents {
        let _ = writeln!(text, "parent {parent}");
    }
    let _ = write!(text, "author {IDENTITY}\ncommitter {IDENTITY}\n\n{message}\n");
    text.into_bytes()
}

/// A commit with a header put behind its others, as git puts the signature.
pub fn insert(payload: &[u8], header: &str, armor: &[u8]) -> Vec<u8> {
    let at = payload.windows(2).position(|pair| pair == b"\n\n").expect("because a commit has a message") + 1;
    let mut commit = payload[..at].to_vec();
    for (number, line) in armor.trim_ascii_end().split(|byte| *byte == b'\n').enumerate() {
        let lead = if number == 0 { header } else { "" };
        commit.extend([lead.as_bytes(), b" ", line, b"\n"].concat());
    }
    commit.extend(&payload[at..]);
    commit
}

/// A key that signs.
pub struct Key {
    line: String,
    secret: Secret,
}

enum Secret {
    File(TempDir),
    Ed25519(Ed25519KeyPair),
    SkEd25519(Ed25519KeyPair),
    SkEcdsa(EcdsaKeyPair),
    None,
}

/// What a security key says about the touch: somebody was there.
pub const TOUCHED: u8 = 1;
const APPLICATION: &[u8] = b"ssh:";

impl Key {
    /// A new ed25519 key whose comment is `name`.
    pub fn new(name: &str) -> Self {
        Self::made(&["-t", "ed25519"], name)
    }

    /// A new ed25519 key that signs in this process: the same signatures as ssh-keygen's, thousands in a second.
    pub fn in_process(name: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).expect("because there is randomness");
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("because it was just made");
        let blob = strings(&[b"ssh-ed25519", pair.public_key().as_ref()]);
        Self { line: format!("ssh-ed25519 {} {name}", STANDARD.encode(blob)), secret: Secret::Ed25519(pair) }
    }

    /// A new key made by `ssh-keygen` with these options.
    pub fn made(options: &[&str], name: &str) -> Self {
        let folder = tempfile::tempdir().expect("because the temporary folder can be written");
        let file = folder.path().join("key");
        run(command("ssh-keygen", folder.path()).args(["-q", "-N", "", "-C", name, "-f"]).arg(&file).args(options), b"");
        let line = std::fs::read_to_string(folder.path().join("key.pub")).expect("because ssh-keygen wrote it");
        Self { line: line.trim_end().to_owned(), secret: Secret::File(folder) }
    }

    /// A key of which only the public line is known.
    pub fn from_line(line: &str) -> Self {
        Self { line: line.to_owned(), secret: Secret::None }
    }

    /// A new FIDO ed25519 key, in software.
    pub fn sk_ed25519(name: &str) -> Self {
        let random = ring::rand::SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&random).expect("because there is randomness");
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("because it was just made");
        let blob = strings(&[b"sk-ssh-ed25519@openssh.com", pair.public_key().as_ref(), APPLICATION]);
        Self { line: format!("sk-ssh-ed25519@openssh.com {} {name}", STANDARD.encode(blob)), secret: Secret::SkEd25519(pair) }
    }

    /// A new FIDO P-256 key, in software.
    pub fn sk_ecdsa(name: &str) -> Self {
        let random = ring::rand::SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("because there is randomness");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("because it was just made");
        let kind = "sk-ecdsa-sha2-nistp256@openssh.com";
        let blob = strings(&[kind.as_bytes(), b"nistp256", pair.public_key().as_ref(), APPLICATION]);
        Self { line: format!("{kind} {} {name}", STANDARD.encode(blob)), secret: Secret::SkEcdsa(pair) }
    }

    /// The line of its `.pub` file.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Its public blob.
    pub fn blob(&self) -> Vec<u8> {
        let base64 = self.line.split(' ').nth(1).expect("because a key line has two words");
        STANDARD.decode(base64).expect("because ssh-keygen wrote it")
    }

    /// The file of the private key, for git.
    pub fn path(&self) -> PathBuf {
        let Secret::File(folder) = &self.secret else { unreachable!("a security key has no file; sign with `Key::sign`") };
        folder.path().join("key")
    }

    /// The armored signature over `payload`; a security key is touched.
    pub fn sign(&self, namespace: &str, payload: &[u8]) -> Vec<u8> {
        match &self.secret {
            Secret::File(home) => {
                run(command("ssh-keygen", home.path()).args(["-Y", "sign", "-n", namespace, "-f"]).arg(self.path()), payload)
            }
            Secret::Ed25519(pair) => {
                let raw = pair.sign(&envelope(namespace, "sha512", payload));
                let inner = strings(&[b"ssh-ed25519", raw.as_ref()]);
                armor(&signature_blob(&self.blob(), namespace, b"", "sha512", &inner))
            }
            _ => self.sign_with_flags(namespace, payload, TOUCHED),
        }
    }

    /// As [`Key::sign`], with what the security key says about the touch.
    pub fn sign_with_flags(&self, namespace: &str, payload: &[u8], flags: u8) -> Vec<u8> {
        let message = envelope(namespace, "sha512", payload);
        let counter = 7u32.to_be_bytes();
        let signed = [digest(&SHA256, APPLICATION).as_ref(), &[flags], &counter, digest(&SHA256, &message).as_ref()].concat();
        let (kind, raw) = match &self.secret {
            Secret::SkEd25519(pair) => ("sk-ssh-ed25519@openssh.com", pair.sign(&signed).as_ref().to_vec()),
            Secret::SkEcdsa(pair) => {
                let random = ring::rand::SystemRandom::new();
                let raw = pair.sign(&random, &signed).expect("because there is randomness");
                ("sk-ecdsa-sha2-nistp256@openssh.com", integers(raw.as_ref()))
            }
            Secret::File(_) | Secret::Ed25519(_) | Secret::None => unreachable!("only a security key says that it was touched"),
        };
        let inner = [strings(&[kind.as_bytes(), &raw]), vec![flags], counter.to_vec()].concat();
        armor(&signature_blob(&self.blob(), namespace, b"", "sha512", &inner))
    }

    /// Whether `ssh-keygen -Y verify` takes a signature: a second opinion on what is built here by hand.
    pub fn openssh_accepts(&self, namespace: &str, payload: &[u8], armor: &[u8]) -> bool {
        let folder = tempfile::tempdir().expect("because the temporary folder can be written");
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("because the folder is ours");
            path
        };
        let (signers, signature) = (file("signers", format!("ann {}\n", self.line).as_bytes()), file("signature", armor));
        let mut verify = command("ssh-keygen", folder.path());
        verify.args(["-Y", "verify", "-I", "ann", "-n", namespace, "-f"]).arg(signers).arg("-s").arg(signature);
        let input = std::fs::File::open(file("payload", payload)).expect("because it was just written");
        verify.stdin(input).output().expect("because it is installed").status.success()
    }
}

/// SSH's strings, one after the other.
pub fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let length = |part: &[u8]| u32::try_from(part.len()).expect("because it is short").to_be_bytes();
    parts.iter().flat_map(|part| [&length(part)[..], part].concat()).collect()
}

/// The two numbers of an ECDSA signature of fixed size, as SSH's integers.
pub fn integers(pair: &[u8]) -> Vec<u8> {
    let (r, s) = pair.split_at(pair.len() / 2);
    let positive = |number: &[u8]| {
        let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let lead: &[u8] = if number.get(start).is_some_and(|byte| *byte >= 0x80) { &[0] } else { &[] };
        [lead, &number[start..]].concat()
    };
    strings(&[&positive(r), &positive(s)])
}

/// What an SSH key signs for a payload.
pub fn envelope(namespace: &str, hash: &str, payload: &[u8]) -> Vec<u8> {
    let hashed = digest(if hash == "sha256" { &SHA256 } else { &SHA512 }, payload);
    [b"SSHSIG".to_vec(), strings(&[namespace.as_bytes(), b"", hash.as_bytes(), hashed.as_ref()])].concat()
}

/// The binary form of an SSH signature.
pub fn signature_blob(key: &[u8], namespace: &str, reserved: &[u8], hash: &str, inner: &[u8]) -> Vec<u8> {
    let fields = strings(&[key, namespace.as_bytes(), reserved, hash.as_bytes(), inner]);
    [b"SSHSIG".to_vec(), 1u32.to_be_bytes().to_vec(), fields].concat()
}

/// The armor, folded at 70 columns as ssh-keygen folds it.
pub fn armor(blob: &[u8]) -> Vec<u8> {
    armor_folded(blob, 70)
}

/// The armor, folded at any column.
pub fn armor_folded(blob: &[u8], columns: usize) -> Vec<u8> {
    let base64 = STANDARD.encode(blob);
    let lines = base64.as_bytes().chunks(columns).flat_map(|line| [line, b"\n"].concat());
    [b"-----BEGIN SSH SIGNATURE-----\n".to_vec(), lines.collect(), b"-----END SSH SIGNATURE-----\n".to_vec()].concat()
}

/// The binary form inside an armor.
pub fn dearmor(armor: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(armor);
    let base64: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(base64).expect("because ssh-keygen wrote it")
}

/// The objects of a repository, by `git cat-file --batch`.
pub struct RepoSource {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl RepoSource {
    /// Serves the repository at `path`.
    pub fn open(path: &Path) -> Self {
        let mut command = command("git", path);
        command.arg("-C").arg(path).args(["cat-file", "--batch"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("because git is installed");
        let stdin = child.stdin.take().expect("because it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("because it is piped"));
        Self { child, stdin, stdout }
    }

    fn one(&mut self, kind: ObjectKind, id: ObjectId, limit: u64) -> Result<Vec<u8>, ObjectError> {
        let failed = |error: std::io::Error| ObjectError::Unavailable { message: error.to_string() };
        writeln!(self.stdin, "{id}").and_then(|()| self.stdin.flush()).map_err(failed)?;
        let mut head = String::new();
        self.stdout.read_line(&mut head).map_err(failed)?;
        let mut words = head.trim_end().split(' ').skip(1);
        let (found, size) = (words.next().unwrap_or_default(), words.next().and_then(|size| size.parse::<u64>().ok()));
        let Some(size) = size else { return Err(ObjectError::Missing { kind, id }) };
        let mut bytes = Vec::new();
        (&mut self.stdout).take(size + 1).read_to_end(&mut bytes).map_err(failed)?;
        bytes.pop();
        if found != format!("{kind:?}").to_lowercase() {
            return Err(ObjectError::Missing { kind, id });
        }
        if size > limit { Err(ObjectError::TooLarge { kind, id, limit }) } else { Ok(bytes) }
    }
}

impl ObjectSource for RepoSource {
    fn objects(&mut self, kind: ObjectKind, ids: &[ObjectId], limit: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        ids.iter().map(|id| self.one(kind, *id, limit)).collect()
    }
}

impl Drop for RepoSource {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A source that may change what it hands over.
pub struct Liar<F> {
    /// The honest source behind it.
    pub honest: RepoSource,
    /// What it does to each object.
    pub lie: F,
}

impl<F: FnMut(ObjectKind, ObjectId, &mut Vec<u8>)> ObjectSource for Liar<F> {
    fn objects(&mut self, kind: ObjectKind, ids: &[ObjectId], _: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        // Without the asker's bound: a liar does not keep it.
        let mut answer = self.honest.objects(kind, ids, u64::MAX)?;
        for (id, bytes) in ids.iter().zip(&mut answer) {
            (self.lie)(kind, *id, bytes);
        }
        Ok(answer)
    }
}

/// A source that writes down what it was asked for.
pub struct Counted<S> {
    /// The source behind it.
    pub source: S,
    /// Each call: the kind and the ids.
    pub calls: Vec<(ObjectKind, Vec<ObjectId>)>,
}

impl<S> Counted<S> {
    /// Counts the calls of `source`.
    pub fn new(source: S) -> Self {
        Self { source, calls: Vec::new() }
    }
}

impl<S: ObjectSource> ObjectSource for Counted<S> {
    fn objects(&mut self, kind: ObjectKind, ids: &[ObjectId], limit: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        self.calls.push((kind, ids.to_vec()));
        self.source.objects(kind, ids, limit)
    }
}
