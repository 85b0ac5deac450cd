//! A repository looked at as a device would: through the real courier, which is believed by nobody.
//!
//! Limits: it runs as this user and without a device's sandbox; credentials come from files that the person names, as in agent.toml.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::AuthorError;
use super::programs::Scratch;
use crate::courier::Client;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(660);

/// How a repository is reached, beside its URL.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// The server's certificate authority, if it is not one of the system's.
    pub ca_file: Option<PathBuf>,
    /// A file with a bearer token.
    pub token_file: Option<PathBuf>,
    /// `http://` without TLS is fine.
    pub allow_http: bool,
}

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
        let quote = |text: &str| serde_json::to_string(text).expect("because a string always serialises");
        let mut text = format!("[source]\nurl = {}\n", quote(url));
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

    /// The courier.
    pub fn courier(&mut self) -> &mut Client {
        &mut self.client
    }
}
