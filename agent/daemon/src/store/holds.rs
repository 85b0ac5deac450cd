//! What a person told this host to leave alone, as it is kept beside the ledger.

use trimtab_model::hold::{FORMAT, HoldBook};

use super::{Store, StoreError, read_document};

const HOLDS: &str = "holds.json";

impl Store {
    /// What is held; nothing when there is no such document. One that makes no sense is an error, and what it held is not known.
    pub fn load_holds(&self) -> Result<HoldBook, StoreError> {
        let path = self.file(HOLDS);
        let Some(bytes) = read_document(&path)? else { return Ok(HoldBook::default()) };
        let advice = "what was suspended or pinned is not known any more: say it again (`trimtab suspend`, `trimtab pin`), or `trimtab resume`";
        let book: HoldBook =
            serde_json::from_slice(&bytes).map_err(|source| StoreError::Damaged { path: path.clone(), advice, source })?;
        if book.holds.format > FORMAT {
            return Err(StoreError::Newer { path, found: u64::from(book.holds.format), known: FORMAT });
        }
        Ok(book)
    }

    /// Replaces the document.
    pub fn save_holds(&mut self, book: &HoldBook) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(book).expect("because plain data with string keys always serialises");
        let path = self.file(HOLDS);
        self.save(&path, &bytes)
    }
}
