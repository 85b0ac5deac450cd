//! Releases as people make them: root files, statements and signatures by git, ssh-keygen and minisign. Texts are written here by hand, not by trimtab's
//! own writer, so that what is tested is not what tests.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gix_hash::ObjectId;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tempfile::TempDir;

use crate::git::{IDENTITY, Key, Repo, armor, command, envelope, run, signature_blob, strings};

/// The id of the repository in every root that is not told otherwise.
pub const REPO_ID: &str = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";

/// A minisign key without a password.
pub struct Mini {
    folder: TempDir,
    public: String,
}

impl Default for Mini {
    fn default() -> Self {
        Self::new()
    }
}

impl Mini {
    /// A new key, made by minisign.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("because the temporary folder can be written");
        let path = |name: &str| folder.path().join(name);
        run(command("minisign", folder.path()).arg("-GW").arg("-p").arg(path("pub")).arg("-s").arg(path("key")), b"");
        let text = std::fs::read_to_string(path("pub")).expect("because minisign wrote it");
        let public = text.lines().nth(1).expect("because it has two lines").to_owned();
        Self { folder, public }
    }

    /// The line that begins with `RW`.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The file of the secret key.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    /// The text of a `.minisig` file, made by minisign with these further options.
    pub fn minisig(&self, bytes: &[u8], options: &[&str]) -> String {
        let path = |name: &str| self.folder.path().join(name);
        std::fs::write(path("text"), bytes).expect("because the folder is ours");
        let mut sign = command("minisign", self.folder.path());
        sign.args(["-S", "-t", "of a test"])
            .args(options)
            .arg("-s")
            .arg(self.path())
            .arg("-m")
            .arg(path("text"))
            .arg("-x")
            .arg(path("sig"));
        run(&mut sign, b"");
        std::fs::read_to_string(path("sig")).expect("because minisign wrote it")
    }
}

/// An SSH key that signs in this process, for tests that need thousands of signatures. ssh-keygen takes what it makes.
pub struct Quick {
    pair: Ed25519KeyPair,
}

impl Quick {
    /// The key that comes of this number: the same each time.
    pub fn new(number: u8) -> Self {
        Self { pair: Ed25519KeyPair::from_seed_unchecked(&[number; 32]).expect("because any 32 bytes are a seed") }
    }

    fn blob(&self) -> Vec<u8> {
        strings(&[b"ssh-ed25519", self.pair.public_key().as_ref()])
    }

    /// The key as an SSH key's line.
    pub fn line(&self) -> String {
        format!("ssh-ed25519 {}", STANDARD.encode(self.blob()))
    }

    fn sign(&self, namespace: &str, bytes: &[u8]) -> Vec<u8> {
        let raw = self.pair.sign(&envelope(namespace, "sha512", bytes));
        armor(&signature_blob(&self.blob(), namespace, b"", "sha512", &strings(&[b"ssh-ed25519", raw.as_ref()])))
    }
}

/// Whoever signs.
#[derive(Clone, Copy)]
pub enum Hand<'k> {
    /// An SSH key.
    Ssh(&'k Key),
    /// A minisign key.
    Mini(&'k Mini),
    /// A key of this process.
    Quick(&'k Quick),
}

impl Hand<'_> {
    /// The key as a root file writes it.
    pub fn line(&self) -> String {
        match self {
            Self::Ssh(key) => key.line().split(' ').take(2).collect::<Vec<_>>().join(" "),
            Self::Mini(key) => format!("minisign:{}", key.public()),
            Self::Quick(key) => key.line(),
        }
    }

    /// A block over these bytes.
    pub fn block(&self, namespace: &str, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Ssh(key) => key.sign(namespace, bytes),
            Self::Quick(key) => key.sign(namespace, bytes),
            Self::Mini(key) => {
                let text = key.minisig(bytes, &[]);
                format!("-----BEGIN MINISIGN SIGNATURE-----\n{text}-----END MINISIGN SIGNATURE-----\n").into_bytes()
            }
        }
    }
}

/// A root file in the making.
#[derive(Clone)]
pub struct RootText<'k> {
    /// The repository's id.
    pub repo: String,
    /// Its version.
    pub version: u64,
    /// Its epoch.
    pub epoch: u64,
    /// All keys by name.
    pub keys: Vec<(&'static str, Hand<'k>)>,
    /// Tables: name, threshold (0: none is written), keys.
    pub roles: Vec<(&'static str, usize, Vec<&'static str>)>,
}

impl<'k> RootText<'k> {
    /// Version 1 of epoch 1 with these keys and roles.
    pub fn new(keys: &[(&'static str, Hand<'k>)], roles: &[(&'static str, usize, &[&'static str])]) -> Self {
        let roles = roles.iter().map(|(name, threshold, keys)| (*name, *threshold, keys.to_vec())).collect();
        Self { repo: REPO_ID.to_owned(), version: 1, epoch: 1, keys: keys.to_vec(), roles }
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let Self { repo, version, epoch, .. } = self;
        let mut text = format!("type = \"trimtab-root\"\nrepo = \"{repo}\"\nversion = {version}\nepoch = {epoch}\n\n[keys]\n");
        for (name, hand) in &self.keys {
            let _ = writeln!(text, "{name} = \"{}\"", hand.line());
        }
        for (name, threshold, keys) in &self.roles {
            let _ = write!(text, "\n[{name}]\n");
            if *threshold > 0 {
                let _ = writeln!(text, "threshold = {threshold}");
            }
            let _ = writeln!(text, "keys = {keys:?}");
        }
        text
    }

    /// The text of its `.sig` file, by these hands.
    pub fn signatures(&self, hands: &[Hand<'_>]) -> Vec<u8> {
        let text = self.text();
        hands.iter().flat_map(|hand| hand.block("trimtab-root", text.as_bytes())).collect()
    }

    /// Puts both files into the work tree, signed by these hands.
    pub fn write(&self, repo: &Repo, hands: &[Hand<'_>]) {
        let path = |ending: &str| format!(".trimtab/root/{}.{ending}", self.version);
        repo.write(&path("toml"), self.text());
        repo.write(&path("sig"), self.signatures(hands));
    }
}

/// A statement in the making.
#[derive(Clone)]
pub struct Say {
    /// The repository's id.
    pub repo: String,
    /// The channel.
    pub channel: String,
    /// Epoch and sequence.
    pub place: (u64, u64),
    /// The commit.
    pub commit: ObjectId,
    /// Its tree.
    pub tree: ObjectId,
    /// The root's version.
    pub root: u64,
    /// When it was made and when it runs out, as they are written.
    pub times: (String, String),
    /// Further lines.
    pub more: String,
}

impl Say {
    /// A statement about what is checked out: issued on 2027-01-15, which is where the tests' clock stands, and good for sixty days.
    pub fn of(repo: &Repo, channel: &str, place: (u64, u64)) -> Self {
        Self {
            repo: REPO_ID.to_owned(),
            channel: channel.to_owned(),
            place,
            commit: repo.head(),
            tree: repo.resolve("HEAD^{tree}"),
            root: 1,
            times: ("2027-01-15T08:00:00Z".to_owned(), "2027-03-16T08:00:00Z".to_owned()),
            more: String::new(),
        }
    }

    /// The text, with the blank line at its end.
    pub fn text(&self) -> String {
        let Self { repo, channel, place: (epoch, seq), commit, tree, root, times: (issued, expires), more } = self;
        format!(
            "trimtab-release v1\nrepo: {repo}\nchannel: {channel}\nepoch: {epoch}\nseq: {seq}\ncommit: {commit}\ntree: {tree}\nroot: {root}\n\
             issued: {issued}\nexpires: {expires}\n{more}\n"
        )
    }

    /// The name of its tag.
    pub fn name(&self) -> String {
        format!("{}/{}.{}", self.channel, self.place.0, self.place.1)
    }

    /// The bytes of its tag, signed by these hands, one after the other.
    pub fn tag(&self, hands: &[Hand<'_>]) -> Vec<u8> {
        signed_tag(self.commit, &self.name(), &self.text(), hands)
    }

    /// Puts its tag into the repository, and the channel's reference on it.
    pub fn release(&self, repo: &Repo, hands: &[Hand<'_>]) -> ObjectId {
        let tag = repo.object("tag", &self.tag(hands));
        repo.git(&["update-ref", &format!("refs/trimtab/{}", self.channel), &tag.to_string()]);
        tag
    }

    /// The bytes of the tag of an `alive` statement about this release.
    pub fn alive(&self, hands: &[Hand<'_>]) -> Vec<u8> {
        let Self { repo, channel, place: (epoch, seq), times: (issued, expires), .. } = self;
        let text = format!(
            "trimtab-alive v1\nrepo: {repo}\nchannel: {channel}\nepoch: {epoch}\nseq: {seq}\nissued: {issued}\nexpires: {expires}\n\n"
        );
        signed_tag(self.commit, &format!("{channel}.alive"), &text, hands)
    }
}

/// A tag of any text, signed by these hands, each over all that stands before.
pub fn signed_tag(commit: ObjectId, name: &str, text: &str, hands: &[Hand<'_>]) -> Vec<u8> {
    let mut tag = format!("object {commit}\ntype commit\ntag {name}\ntagger {IDENTITY}\n\n{text}").into_bytes();
    for hand in hands {
        let block = hand.block("git", &tag);
        tag.extend(block);
    }
    tag
}

/// What a copy of a host's trust state holds it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Epoch and sequence of the newest accepted release.
    pub place: (u64, u64),
    /// The version of the root whose keys count.
    pub root: u64,
}

impl Floor {
    /// Reads a copy, as it lies on the disk. An error: it cannot be read, or holds the host to nothing.
    pub fn read(copy: &[u8]) -> Result<Self, String> {
        let text: serde_json::Value = serde_json::from_slice(copy).map_err(|error| format!("{} bytes: {error}", copy.len()))?;
        let place = &text["release"]["place"];
        let place = place["epoch"].as_u64().zip(place["seq"].as_u64()).ok_or("it names no release")?;
        let root =
            text["root"].as_str().and_then(|root| root.lines().find_map(|line| line.strip_prefix("version = ")?.parse().ok()));
        Ok(Self { place, root: root.ok_or("it names no root")? })
    }
}
