//! Reports that are not delivered yet, one file each, and what is remembered of those that are.
//!
//! A file is written beside its place, synced and renamed, so it is whole or not there; its name says which sequences it stands for, when it was
//! made and the highest event in it, so that nothing need be read to know what waits. What the device's key did not sign is set aside.
//!
//! Guarantees: a sequence is given once, whatever is killed when: the highest one stands in the names of the files, and in the state document
//! before the last file goes. The spool keeps its bounds but for the report that is being written.
//! Limits: when it is full, detail goes (two reports become one), not reports. Where the whole folder is lost, sequences go on from the clock.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trimtab_model::outbound::{MAX_REPORT, Report, Signed};

use super::key::DeviceKey;

const STATE: &str = "state.json";
const ASIDE: &str = "aside";
/// How many files that are none of ours are kept for whoever wonders.
const MAX_ASIDE: usize = 16;
/// A report, its signature and some.
const MAX_FILE: u64 = MAX_REPORT as u64 + 4096;

/// The spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct SpoolError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SpoolError + 'a {
    move |source| SpoolError { doing, path: path.to_owned(), source }
}

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) bytes: u64,
    pub(super) count: usize,
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The first sequence that it stands for.
    pub(super) since: u64,
    /// The last one, its own.
    pub(super) sequence: u64,
    /// When the oldest of what is in it was made, milliseconds since 1970.
    pub(super) at_ms: u64,
    /// The highest id of an event in it; 0: none.
    pub(super) event: u64,
    /// Its size.
    pub(super) bytes: u64,
}

impl Entry {
    fn name(&self) -> String {
        format!("{:016}-{:016}-{:016}-{:016}.report", self.since, self.sequence, self.at_ms, self.event)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".report")?.split('-');
        let mut next = || parts.next()?.parse().ok();
        let entry = Self { since: next()?, sequence: next()?, at_ms: next()?, event: next()?, bytes: 0 };
        (entry.name() == name && entry.since <= entry.sequence).then_some(entry)
    }
}

/// What must outlive the reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct State {
    /// The highest sequence that was given when this was written.
    pub(super) sequence: u64,
    /// The highest event that was in a report then.
    pub(super) last_event: u64,
    /// How far each sink is.
    pub(super) sinks: BTreeMap<String, Cursor>,
}

/// How far a sink is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Cursor {
    /// The last sequence that it took.
    pub(super) delivered: u64,
    /// When, milliseconds since 1970.
    pub(super) at_ms: u64,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    entries: BTreeMap<u64, Entry>,
    pub(super) state: State,
    /// What a person should hear of.
    remarks: Vec<String>,
    /// Steps that may still be done before the plug is pulled.
    #[cfg(test)]
    pub(super) fuse: std::cell::Cell<u32>,
}

impl Spool {
    /// What is there. Nothing is made or changed; `now_ms` is where sequences begin in a folder that remembers none.
    pub(super) fn open(folder: &Path, now_ms: u64) -> Result<Self, SpoolError> {
        let mut spool = Self {
            folder: folder.to_owned(),
            entries: BTreeMap::new(),
            state: State::default(),
            remarks: Vec::new(),
            #[cfg(test)]
            fuse: std::cell::Cell::new(u32::MAX),
        };
        let state = folder.join(STATE);
        let mut known = None;
        match read(&state, MAX_FILE) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(state) => known = Some(state),
                Err(error) => spool.remarks.push(format!(
                    "{} is damaged ({error}); reports that were delivered before may be delivered again",
                    state.display()
                )),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &state)(error)),
        }
        spool.list()?;
        // Seconds are far beyond any count of reports: a number that was given before the loss is not given again.
        spool.state = known.unwrap_or_else(|| State { sequence: now_ms / 1000, ..State::default() });
        for entry in spool.entries.values() {
            spool.state.sequence = spool.state.sequence.max(entry.sequence);
            spool.state.last_event = spool.state.last_event.max(entry.event);
        }
        Ok(spool)
    }

    fn list(&mut self) -> Result<(), SpoolError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("look into", &self.folder)(error)),
        };
        let mut found: Vec<Entry> = Vec::new();
        for entry in entries.flatten() {
            let Some(mut known) = entry.file_name().to_str().and_then(Entry::parse) else { continue };
            known.bytes = entry.metadata().map_or(0, |data| data.len());
            found.push(known);
        }
        // Merging was cut short: what is in another one as well counts once. It goes with the next delivery.
        found.sort_by_key(|entry| (entry.since, std::cmp::Reverse(entry.sequence)));
        let mut covered = 0;
        for entry in found {
            if entry.sequence > covered {
                covered = entry.sequence;
                self.entries.insert(entry.sequence, entry);
            }
        }
        Ok(())
    }

    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn take_remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }

    /// The number that the next report will have; given whether or not it can be written.
    pub(super) fn next_sequence(&mut self) -> u64 {
        self.state.sequence += 1;
        self.state.sequence
    }

    /// Writes a report; it is on the disk when this comes back.
    pub(super) fn put(&mut self, report: Report, key: &DeviceKey) -> Result<(), SpoolError> {
        let at_ms = report.at_ms;
        self.write_report(report, at_ms, key).map(|entry| self.state.last_event = self.state.last_event.max(entry.event))
    }

    fn write_report(&mut self, report: Report, at_ms: u64, key: &DeviceKey) -> Result<Entry, SpoolError> {
        let event = report.events.iter().map(|event| event.id).max().unwrap_or_default();
        let mut entry = Entry { since: report.since_sequence, sequence: report.sequence, at_ms, event, bytes: 0 };
        let trusted = format!("trimtab report device={} sequence={} time={}", report.device, report.sequence, report.at_ms);
        let bytes = report.to_bytes();
        let text = [key.sign(&bytes, &trusted).as_bytes(), &bytes].concat();
        entry.bytes = text.len() as u64;
        self.write(&entry.name(), &text)?;
        self.entries.insert(entry.sequence, entry);
        Ok(entry)
    }

    /// Two oldest reports become one until the bounds are kept.
    pub(super) fn keep_within(&mut self, bounds: Bounds, key: &DeviceKey) -> Result<(), SpoolError> {
        while self.entries.len() > 1 && (self.entries.len() > bounds.count || self.bytes() > bounds.bytes) {
            let mut oldest = self.entries.values().copied();
            let (Some(first), Some(second)) = (oldest.next(), oldest.next()) else { return Ok(()) };
            let (Some((older, _)), Some((newer, _))) = (self.read(first.sequence, key)?, self.read(second.sequence, key)?) else {
                continue;
            };
            self.write_report(older.absorb(newer), first.at_ms, key)?;
            // Both names are in the new one's: whatever is left of them after a power cut is passed over.
            self.entries.remove(&first.sequence);
            self.remove(&second.name())?;
            self.remove(&first.name())?;
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes).sum()
    }

    /// One report, if it is there and this device's; one that is not is set aside.
    pub(super) fn read(&mut self, sequence: u64, key: &DeviceKey) -> Result<Option<(Report, Signed)>, SpoolError> {
        let Some(entry) = self.entries.get(&sequence).copied() else { return Ok(None) };
        let path = self.folder.join(entry.name());
        let text = match read(&path, MAX_FILE) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge) => Vec::new(),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        if let Some(found) = open(&text, key).filter(|(report, _)| report.sequence == sequence) {
            return Ok(Some(found));
        }
        self.set_aside(&entry)?;
        Ok(None)
    }

    /// One report, without setting aside what is none.
    pub(super) fn peek(&self, sequence: u64, key: &DeviceKey) -> Result<Option<(Report, Signed)>, SpoolError> {
        let Some(entry) = self.entries.get(&sequence) else { return Ok(None) };
        let path = self.folder.join(entry.name());
        let text = read(&path, MAX_FILE).map_err(failed("read", &path))?;
        Ok(open(&text, key))
    }

    fn set_aside(&mut self, entry: &Entry) -> Result<(), SpoolError> {
        let (path, aside) = (self.folder.join(entry.name()), self.folder.join(ASIDE));
        self.entries.remove(&entry.sequence);
        self.remarks.push(format!("{} is torn or not this device's; it was set aside", path.display()));
        // Its number stays given.
        self.save_state()?;
        self.step()?;
        let _ = std::fs::DirBuilder::new().mode(0o700).create(&aside);
        let there = std::fs::read_dir(&aside).map_or(MAX_ASIDE, Iterator::count);
        if there >= MAX_ASIDE || std::fs::rename(&path, aside.join(entry.name())).is_err() {
            let _ = std::fs::remove_file(&path);
        }
        Ok(())
    }

    /// Forgets what every sink has: everything up to a sequence. The state must say so on the disk before.
    pub(super) fn forget(&mut self, through: u64) -> Result<(), SpoolError> {
        self.entries.retain(|sequence, _| *sequence > through);
        // By name and not by entry: what an earlier merge left goes as well.
        for entry in std::fs::read_dir(&self.folder).map_err(failed("look into", &self.folder))?.flatten() {
            let name = entry.file_name();
            let known = name.to_str().and_then(Entry::parse);
            if known.is_some_and(|known| known.sequence <= through) {
                self.remove(&name.to_string_lossy())?;
            }
        }
        Ok(())
    }

    /// The state document, on the disk when this comes back.
    pub(super) fn save_state(&mut self) -> Result<(), SpoolError> {
        let text = serde_json::to_vec(&self.state).expect("because plain data with string keys always serialises");
        self.write(STATE, &text)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), SpoolError> {
        let path = self.folder.join(name);
        let io = failed("write", &path);
        if !self.folder.exists() {
            self.step()?;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(&io)?;
        }
        // The ledger's disk: what is set aside for it is not for reports.
        crate::store::require_at(&self.folder, bytes.len() as u64)
            .map_err(|error| io(io::Error::other(crate::log::chain(&error))))?;
        let beside = self.folder.join(".new");
        let attempt = || {
            let _ = std::fs::remove_file(&beside);
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            #[cfg(test)]
            if self.fuse.get() == 0 {
                // What a kill in the middle of writing leaves.
                file.write_all(&bytes[..bytes.len() / 2])?;
            }
            self.fused()?;
            file.write_all(bytes)?;
            file.sync_all()?;
            self.fused()?;
            std::fs::rename(&beside, &path)?;
            self.fused()?;
            std::fs::File::open(&self.folder)?.sync_all()
        };
        attempt().map_err(&io)
    }

    fn remove(&self, name: &str) -> Result<(), SpoolError> {
        let path = self.folder.join(name);
        self.step()?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn step(&self) -> Result<(), SpoolError> {
        self.fused().map_err(failed("change", &self.folder))
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn fused(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn fused(&self) -> io::Result<()> {
        let left = self.fuse.get().checked_sub(1).ok_or_else(|| io::Error::other("the plug is pulled"))?;
        self.fuse.set(left);
        Ok(())
    }
}

/// A report with its signature, as the file has them: four lines, then the report to the end.
fn open(text: &[u8], key: &DeviceKey) -> Option<(Report, Signed)> {
    let end = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(3)?.0 + 1;
    let (signature, report) = text.split_at(end);
    let signature = String::from_utf8(signature.to_vec()).ok()?;
    if !key.verifies(report, &signature) {
        return None;
    }
    let parsed = serde_json::from_slice(report).ok()?;
    Some((parsed, Signed { report: report.to_vec(), signature }))
}

fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests;
