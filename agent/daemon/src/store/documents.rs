//! The small documents: the trust state, the status.

use std::path::{Path, PathBuf};

use trimtab_model::drift::DriftBook;

use super::{Store, StoreError, read_document, write_to};

const TRUST: &str = "trust-state.json";
const STATUS: &str = "status.json";
const BOOK: &str = "drift.json";

/// The trust state as its two copies have it. They differ after a crash between the two writes or a disk that lost one; which of them
/// counts (the one that has seen more) is for the trust room to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustCopies {
    /// The copy in the store; written first.
    pub main: Option<String>,
    /// The copy in the other folder.
    pub second: Option<String>,
}

impl Store {
    /// Saves both copies of the trust state.
    pub fn save_trust_state(&mut self, text: &str) -> Result<(), StoreError> {
        let (main, second) = (self.file(TRUST), self.places.trust_copy.join(TRUST));
        self.save(&main, text.as_bytes())?;
        self.save(&second, text.as_bytes())
    }

    /// Where both copies of the trust state lie.
    pub fn trust_paths(&self) -> [PathBuf; 2] {
        [self.file(TRUST), self.places.trust_copy.join(TRUST)]
    }

    /// Both copies of the trust state, each as it is. Text that is not UTF-8 (a torn file) comes with replacement characters, so that it
    /// is refused as damaged by its reader, and not taken for "none yet".
    pub fn load_trust_state(&self) -> Result<TrustCopies, StoreError> {
        let load = |path: &Path| {
            let bytes = read_document(path)?;
            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        Ok(TrustCopies { main: load(&self.file(TRUST))?, second: load(&self.places.trust_copy.join(TRUST))? })
    }

    /// Replaces the status document. Not for everybody: why a unit failed is told with its last words, and they are its own; `readers` is the
    /// number of the one group that may read it. Not synced: it does not outlive a boot.
    pub fn save_status(&self, status: &[u8], readers: Option<u32>) -> Result<(), StoreError> {
        self.writable()?;
        let path = self.places.runtime.join(STATUS);
        write_to(&path, status, 0o640, false, readers)
    }

    /// Replaces the book of drift, durably.
    pub fn save_book(&mut self, book: &DriftBook) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(book).expect("because plain data with string keys always serialises");
        self.save(&self.file(BOOK), &bytes)
    }

    /// The book of drift; `None`: nothing ever drifted.
    pub fn load_book(&self) -> Result<Option<DriftBook>, StoreError> {
        let path = self.file(BOOK);
        let Some(bytes) = read_document(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| StoreError::Stale { path, source })
    }

    /// The status document as it was saved last since boot.
    pub fn load_status(&self) -> Result<Option<Vec<u8>>, StoreError> {
        read_document(&self.places.runtime.join(STATUS))
    }
}
