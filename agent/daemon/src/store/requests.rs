//! What a person asked the running agent for: a file each in `requests/`, written by the command line and taken by the agent.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trimtab_model::hold::Held;

use super::{Places, Store, StoreError, make_private, read_document, write_beside};

const FOLDER: &str = "requests";

/// One wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Go back to a generation.
    Rollback {
        /// Which; the one before the one in force if none is named.
        generation: Option<u64>,
        /// Why: stands in the history and in every report until a newer revision comes.
        reason: String,
    },
    /// Try again what was denied.
    Retry {
        /// The commit or the begin of it; everything that is denied if none is named.
        revision: Option<String>,
    },
    /// Leave a resource, or the whole host ([`trimtab_model::hold::HOST`]), as it is for a while.
    Hold {
        /// The resource, as a plan names it.
        name: String,
        /// Why, until when, and who says so.
        held: Held,
    },
    /// Hold it no longer.
    Release {
        /// Likewise.
        name: String,
    },
    /// Allow a revision what the guards refused it.
    Approve {
        /// The commit or the begin of it.
        revision: String,
    },
    /// Make one pass whose source is an offline bundle.
    Bundle {
        /// Its file, from the root of the host.
        file: String,
        /// The public key that must have signed it, as a root file writes one.
        key: Option<String>,
    },
}

impl Request {
    /// Leaves it for the agent, in the file that is returned; it is gone once the agent has taken it. Needs no lock: the agent holds that.
    pub fn leave(&self, places: &Places) -> Result<PathBuf, StoreError> {
        let folder = places.state.join(FOLDER);
        make_private(&places.state)?;
        if !folder.exists() {
            DirBuilder::new().mode(0o700).create(&folder).map_err(StoreError::io("make the folder", &folder))?;
        }
        let bytes = serde_json::to_vec(self).expect("because plain data with string keys always serialises");
        let path = folder.join(format!("{}.json", std::process::id()));
        write_beside(&path, &bytes, 0o600, false)?;
        Ok(path)
    }
}

/// What was taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// What was asked for, in no order.
    pub requests: Vec<Request>,
    /// Wishes that could not be read, to be told; they were taken away as well.
    pub unread: Vec<StoreError>,
}

impl Store {
    /// Takes all wishes. One that cannot be read does not keep the others from being taken.
    pub fn take_requests(&mut self) -> Result<Taken, StoreError> {
        self.writable()?;
        let folder = self.file(FOLDER);
        let io = StoreError::io("list", &folder);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Taken::default()),
            Err(error) => return Err(io(error)),
        };
        let mut taken = Taken::default();
        for entry in entries {
            let path = entry.map_err(&io)?.path();
            // What is still being written has another ending.
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read = read_document(&path).and_then(|bytes| {
                serde_json::from_slice(&bytes.unwrap_or_default())
                    .map_err(|source| StoreError::Request { path: path.clone(), source })
            });
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            match read {
                Ok(request) => taken.requests.push(request),
                Err(error) => taken.unread.push(error),
            }
        }
        Ok(taken)
    }
}
