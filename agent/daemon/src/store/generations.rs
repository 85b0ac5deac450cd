//! Generations: each state that was in force or is being tried, in `generations/<number>.json`. Their contents are among the blobs.
//!
//! A file is written whole and durable before the ledger names its number; afterwards only the commit that it stands for may change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use trimtab_model::desired::Node;
use trimtab_model::digest::Digest;
use trimtab_model::transaction::{GENERATION_FORMAT, Generation};

use super::{Store, StoreError, read_document, sync_folder};

const FOLDER: &str = "generations";

impl Store {
    /// Keeps a generation, after the contents that it names.
    pub fn save_generation(&mut self, generation: &Generation) -> Result<(), StoreError> {
        self.writable()?;
        let folder = self.file(FOLDER);
        if !folder.exists() {
            DirBuilder::new().mode(0o700).create(&folder).map_err(StoreError::io("make the folder", &folder))?;
            sync_folder(&folder)?;
        }
        let bytes = serde_json::to_vec(generation).expect("because plain data with string keys always serialises");
        self.save(&self.generation_file(generation.number), &bytes)
    }

    /// A generation; `None`: it is not kept (any more). [`StoreError::Stale`]: it is, but cannot be read;
    /// [`StoreError::Newer`]: a later trimtab wrote it.
    pub fn load_generation(&self, number: u64) -> Result<Option<Generation>, StoreError> {
        let path = self.generation_file(number);
        let Some(bytes) = read_document(&path)? else { return Ok(None) };
        // Before the rest is read: a later format may have fields that are unknown here.
        #[derive(serde::Deserialize)]
        struct Format {
            format: u64,
        }
        if let Ok(Format { format }) = serde_json::from_slice(&bytes)
            && format > u64::from(GENERATION_FORMAT)
        {
            return Err(StoreError::Newer { path, found: format, known: GENERATION_FORMAT });
        }
        let generation = serde_json::from_slice(&bytes).map_err(|source| StoreError::Stale { path, source })?;
        Ok(Some(generation))
    }

    /// The numbers of the kept generations and the lengths of their files in bytes.
    pub fn generations(&self) -> Result<BTreeMap<u64, u64>, StoreError> {
        let folder = self.file(FOLDER);
        let io = StoreError::io("list", &folder);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(io(error)),
        };
        let mut numbers = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(&io)?;
            if let Some(number) = number_of(&entry.path()) {
                numbers.insert(number, entry.metadata().map_or(0, |meta| meta.len()));
            }
        }
        Ok(numbers)
    }

    /// Removes the oldest generations beyond the bounds, and what a crash left half-written; `held` stay whatever the bounds say. Returns
    /// the contents that those left name.
    pub fn retain_generations(
        &mut self,
        held: &BTreeSet<u64>,
        keep: usize,
        max_bytes: u64,
    ) -> Result<BTreeSet<Digest>, StoreError> {
        self.writable()?;
        let mut contents = BTreeSet::new();
        let (mut kept, mut bytes) = (0, 0);
        // The held ones first: their contents cost the others nothing.
        let numbers = self.generations()?;
        let (first, others): (Vec<u64>, Vec<u64>) = numbers.keys().rev().partition(|number| held.contains(number));
        for number in first.into_iter().chain(others) {
            let generation = match self.load_generation(number) {
                Ok(Some(generation)) => generation,
                _ if held.contains(&number) => continue,
                _ => {
                    self.remove_generation(number)?;
                    continue;
                }
            };
            let new: u64 = contents_of(&generation).filter(|(digest, _)| !contents.contains(digest)).map(|(_, size)| size).sum();
            let own = numbers.get(&number).copied().unwrap_or(0) + new;
            if !held.contains(&number) {
                if kept >= keep || bytes + own > max_bytes {
                    self.remove_generation(number)?;
                    continue;
                }
                (kept, bytes) = (kept + 1, bytes + own);
            }
            contents.extend(contents_of(&generation).map(|(digest, _)| digest));
        }
        let Ok(entries) = fs::read_dir(self.file(FOLDER)) else { return Ok(contents) };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| number_of(path).is_none()) {
            // Left by a crash; that it cannot be removed is no reason to stop.
            let _ = fs::remove_file(path);
        }
        Ok(contents)
    }

    fn remove_generation(&self, number: u64) -> Result<(), StoreError> {
        let path = self.generation_file(number);
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))
    }

    fn generation_file(&self, number: u64) -> PathBuf {
        self.file(FOLDER).join(format!("{number}.json"))
    }
}

/// The contents that a generation names, with their lengths.
pub fn contents_of(generation: &Generation) -> impl Iterator<Item = (Digest, u64)> + '_ {
    generation.desired.entries.values().filter_map(|entry| match &entry.state.node {
        Node::File { digest, size } => Some((*digest, *size)),
        _ => None,
    })
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}
