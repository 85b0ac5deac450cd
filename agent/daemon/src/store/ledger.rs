//! The ledger on disk: the newest and the one before it.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use trimtab_model::digest::Digest;
use trimtab_model::ledger::{FORMAT, Ledger};

use super::{Store, StoreError, beside, read_document, write_beside};

const NAME: &str = "ledger.json";
const OLD: &str = "ledger.json.old";
const ADVICE: &str = "trimtab no longer knows what it owns on this machine: bring the file back from a backup, or move the ledger files \
                      away to start over (then what is in the repository is taken over as it stands, and what has left it stays)";

/// A ledger as it was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The ledger; empty before the first change.
    pub ledger: Ledger,
    /// Set when the newest could not be read and the one before it was taken; to be told to the operator.
    pub warning: Option<String>,
}

/// What came of reading one file.
enum Reading {
    Absent,
    Whole(Box<Ledger>),
    /// The bytes are not JSON: a disk that lied about a write.
    Torn(serde_json::Error),
}

#[derive(Deserialize)]
struct Head {
    format: Option<u64>,
}

impl Store {
    /// Loads the ledger. There being none yet is an empty one; being unreadable is an error.
    pub fn load_ledger(&self) -> Result<Loaded, StoreError> {
        let (newest, old) = (self.file(NAME), self.file(OLD));
        let torn = match read(&newest)? {
            Reading::Whole(ledger) => return Ok(Loaded { ledger: *ledger, warning: None }),
            Reading::Absent => None,
            Reading::Torn(source) => Some(source),
        };
        let what = if torn.is_some() { "is damaged" } else { "is missing" };
        match (read(&old)?, torn) {
            (Reading::Whole(ledger), _) => {
                let generation = ledger.generation;
                let warning = format!(
                    "{} {what}; the ledger before it (generation {generation}) is used: files of the last change may count as not ours",
                    newest.display()
                );
                Ok(Loaded { ledger: *ledger, warning: Some(warning) })
            }
            (Reading::Absent, None) => Ok(Loaded { ledger: Ledger::default(), warning: None }),
            (_, Some(source)) => Err(StoreError::Damaged { path: newest, advice: ADVICE, source }),
            (Reading::Torn(source), None) => Err(StoreError::Damaged { path: old, advice: ADVICE, source }),
        }
    }

    /// Saves the ledger, after the contents that it names, and keeps the one before it. Where there is no room left it takes what was set
    /// aside for it.
    pub fn save_ledger(&mut self, ledger: &Ledger) -> Result<(), StoreError> {
        let (path, old) = (self.file(NAME), self.file(OLD));
        self.writable()?;
        let bytes = serde_json::to_vec(ledger).expect("because plain data with string keys always serialises");
        // Never a second time: the kernel tells a lost write only once.
        self.sync()?;
        let known = self.saved.take();
        let attempt = || keep_old(&path, &old, known).and_then(|()| write_beside(&path, &bytes, 0o600, true));
        match attempt() {
            Err(error) if error.is_full() && self.give_up_reserve() => attempt()?,
            saved => saved?,
        }
        self.saved = Some(Digest::of(&bytes));
        self.set_aside(bytes.len() as u64);
        Ok(())
    }
}

fn read(path: &Path) -> Result<Reading, StoreError> {
    let Some(bytes) = read_document(path)? else { return Ok(Reading::Absent) };
    // Before the rest is read: a later format may have fields that are unknown here.
    let head: Head = match serde_json::from_slice(&bytes) {
        Ok(head) => head,
        Err(error) if error.is_data() => Head { format: None },
        Err(error) => return Ok(Reading::Torn(error)),
    };
    match head.format {
        Some(found) if found > u64::from(FORMAT) => Err(StoreError::Newer { path: path.to_owned(), found, known: FORMAT }),
        _ => match serde_json::from_slice(&bytes) {
            Ok(ledger) => Ok(Reading::Whole(Box::new(ledger))),
            Err(source) if source.is_data() => Err(StoreError::Damaged { path: path.to_owned(), advice: ADVICE, source }),
            Err(error) => Ok(Reading::Torn(error)),
        },
    }
}

// Each step of a change saves the ledger, and to know the bytes again costs a small part of reading them as one.
fn is_whole(newest: &Path, saved: Option<Digest>) -> bool {
    let is_ours = |bytes: &[u8]| saved.is_some_and(|saved| Digest::of(bytes) == saved);
    matches!(read_document(newest), Ok(Some(bytes)) if is_ours(&bytes)) || matches!(read(newest), Ok(Reading::Whole(_)))
}

// A second name for the newest, moved over the old one: at each instant there is a newest, and a whole one before it. A torn newest is not
// worth keeping: it must not push out the last whole one.
fn keep_old(newest: &Path, old: &Path, saved: Option<Digest>) -> Result<(), StoreError> {
    if !is_whole(newest, saved) {
        return Ok(());
    }
    let second = beside(old);
    let _ = fs::remove_file(&second);
    // File systems without hard links get a copy.
    let linked = fs::hard_link(newest, &second).or_else(|_| fs::copy(newest, &second).map(drop));
    linked.and_then(|()| fs::rename(&second, old)).map_err(|error| {
        let _ = fs::remove_file(&second);
        StoreError::io("keep the ledger before", old)(error)
    })
}
