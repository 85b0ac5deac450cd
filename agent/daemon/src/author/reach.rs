//! A repository looked at as a device would: through the real courier, which is believed by nobody.
//!
//! Limits: it runs as this user and without a device's sandbox; credentials come from files that the person names, as in agent.toml.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gix_hash::ObjectId;
use trimtab_model::names::RepoPath;

use super::AuthorError;
use super::desk::Desk;
use super::programs::Scratch;
use super::roots::Roots;
use crate::courier::Client;
use crate::trust::commit::{Commit, MAX_COMMIT};
use crate::trust::hash::Verified;
use crate::trust::root::FOLDER;
use crate::trust::statement::Channel;
use crate::trust::tree::read_unproven;
use crate::wire::ObjectKind;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(660);

/// How a repository is reached, beside its URL.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Reach {
    /// The certificate authority of the server, if it is not one of the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// A file with a bearer token for the server.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Allow http:// without TLS.
    #[arg(long)]
    pub allow_http: bool,
}

/// Where the roots of a repository are found before its first release.
const FIRST: &str = "refs/heads/main";

/// A courier of its own, and the folder that it works in.
pub struct Reached {
    // Before the folder: it works there until it is let go.
    client: Client,
    _folder: Scratch,
}

impl Reached {
    /// Starts a courier for the repository at `url`: whatever agent.toml takes there, or a path.
    pub fn new(url: &str, reach: &Reach) -> Result<Self, AuthorError> {
        let folder = Scratch::new()?;
        // A clone is named as people name folders; a device takes whole paths only.
        let path = Path::new(url);
        let url = if path.is_dir() { Desk::open(path)?.git_dir().display().to_string() } else { url.to_owned() };
        let quote = |text: &str| serde_json::to_string(text).expect("because a string always serialises");
        let mut text = format!("[source]\nurl = {}\n", quote(&url));
        for (key, file) in [("ca-file", &reach.ca_file), ("token-file", &reach.token_file)] {
            let Some(file) = file else { continue };
            let failed = |source| AuthorError::File { path: file.clone(), source };
            let file = std::fs::canonicalize(file).map_err(failed)?;
            text.push_str(&format!("{key} = {}\n", quote(&file.to_string_lossy())));
        }
        if reach.allow_http {
            text.push_str("allow-http = true\n");
        }
        let config = folder.write("agent.toml", text.as_bytes())?;
        Self::start(&config, folder)
    }

    /// Starts a courier for the source of an agent.toml.
    pub fn of_config(config: &Path) -> Result<Self, AuthorError> {
        Self::start(config, Scratch::new()?)
    }

    fn start(config: &Path, folder: Scratch) -> Result<Self, AuthorError> {
        let failed = |source| AuthorError::File { path: "/proc/self/exe".into(), source };
        let program = std::env::current_exe().map_err(failed)?;
        let cache = folder.path().join("cache");
        std::fs::create_dir(&cache).map_err(|source| AuthorError::File { path: cache.clone(), source })?;
        let client = Client::spawn(&program, config, &cache, PATIENCE)?;
        Ok(Self { client, _folder: folder })
    }

    /// The root files of the tree that a reference leads to, through a tag or not. Nothing of it is proven.
    pub fn roots(&mut self, reference: &str) -> Result<Roots, AuthorError> {
        let polled = self.client.poll(reference)?;
        let commit =
            polled.peeled.or(polled.id).ok_or_else(|| AuthorError::refused(format!("the repository has no {reference}")))?;
        self.client.advance(&commit, None)?;
        let tree = self.tree_of(commit)?;
        let folder: RepoPath = FOLDER.parse().expect("because it is a plain path");
        let bundle = read_unproven(tree, &mut self.client, &[folder])?;
        Roots::read(|path| Ok(bundle.get(path).map(|blob| blob.bytes.clone())))
    }

    /// The root files of the tree that a channel is at; a channel without any release yet may be looked at through `main`.
    pub fn roots_of_channel(&mut self, channel: &Channel) -> Result<Roots, AuthorError> {
        if self.client.poll(&channel.reference())?.id.is_some() {
            return self.roots(&channel.reference());
        }
        self.roots(FIRST)
    }

    /// The tree of a commit.
    pub fn tree_of(&mut self, commit: ObjectId) -> Result<ObjectId, AuthorError> {
        let object = Verified::new(&mut self.client, MAX_COMMIT).one(ObjectKind::Commit, commit, MAX_COMMIT)?;
        let parsed = Commit::parse(&object);
        parsed.map(|commit| commit.tree).map_err(|malformed| AuthorError::refused(format!("commit {commit}: {}", malformed.what)))
    }

    /// The courier.
    pub fn courier(&mut self) -> &mut Client {
        &mut self.client
    }
}
