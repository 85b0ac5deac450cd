//! Reports that are not delivered yet, one file each, and what is remembered of those that are.
//!
//! A file is written beside its place, synced and renamed, so it is whole or not there; its name says which sequences it stands for, when it was
//! made and the highest event in it, so that nothing need be read to know what waits. What the device's key did not sign is set aside.
//!
//! Guarantees: a sequence is given once, whatever is killed when: the highest one stands in the names of the files, and in the state document
//! before the last file goes. The spool keeps its bounds but for the report that is being written.
//! Limits: when it is full, detail goes (two reports become one), not reports. Where the whole folder is lost, sequences go on from the clock.
//! What is done about a disk that is full is in [`room`].

mod room;

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
    /// What was passed over and not told yet, oldest first, at most [`MAX_LOSSES`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) losses: Vec<Loss>,
}

/// How many losses wait to be told; the number of all of them is in [`Cursor::passed_over`].
pub(super) const MAX_LOSSES: usize = 20;

/// A report that a sink never took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Loss {
    /// The sink.
    pub sink: String,
    /// The first sequence that the report stands for.
    pub since_sequence: u64,
    /// Its own.
    pub sequence: u64,
    /// What the sink said last.
    pub why: String,
}

/// How far a sink is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Cursor {
    /// The last sequence that it took.
    pub(super) delivered: u64,
    /// When, milliseconds since 1970.
    pub(super) at_ms: u64,
    /// How many reports it never took and were passed over.
    pub(super) passed_over: u64,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    entries: BTreeMap<u64, Entry>,
    pub(super) state: State,
    /// What a person should hear of.
    remarks: Vec<String>,
    /// There was little room when the last report was written.
    short: bool,
    /// Room that was set aside was given up by this process.
    given_up: bool,
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
            short: false,
            given_up: false,
            #[cfg(test)]
            fuse: std::cell::Cell::new(u32::MAX),
        };
        let state = folder.join(STATE);
        let (mut known, mut damaged) = (None, false);
        match read(&state, MAX_FILE) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(state) => known = Some(state),
                Err(error) => {
                    damaged = true;
                    spool.remarks.push(format!(
                        "{} is damaged ({error}); reports that were delivered before may be delivered again",
                        state.display()
                    ));
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &state)(error)),
        }
        let emptied = spool.list()?;
        // Seconds are far beyond any count of reports: a number that was given before the loss is not given again. Where reports lie and nothing
        // was lost, nothing was delivered yet, and they know what was given.
        let begin = if damaged || (spool.entries.is_empty() && emptied.is_empty()) { now_ms / 1000 } else { 0 };
        spool.state = known.unwrap_or_else(|| State { sequence: begin, ..State::default() });
        for entry in spool.entries.values().chain(&emptied) {
            spool.state.sequence = spool.state.sequence.max(entry.sequence);
            spool.state.last_event = spool.state.last_event.max(entry.event);
        }
        Ok(spool)
    }

    /// Finds what lies there. What was emptied (see [`Self::make_way`]) waits for nobody, and is returned for its numbers.
    fn list(&mut self) -> Result<Vec<Entry>, SpoolError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("look into", &self.folder)(error)),
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let Some(mut known) = entry.file_name().to_str().and_then(Entry::parse) else { continue };
            known.bytes = entry.metadata().map_or(0, |data| data.len());
            found.push(known);
        }
        let (emptied, mut found): (Vec<Entry>, Vec<Entry>) = found.into_iter().partition(|entry| entry.bytes == 0);
        // Merging was cut short: what is in another one as well counts once. It goes with the next delivery.
        found.sort_by_key(|entry| (entry.since, std::cmp::Reverse(entry.sequence)));
        let mut covered = 0;
        for entry in found {
            if entry.sequence > covered {
                covered = entry.sequence;
                self.entries.insert(entry.sequence, entry);
            }
        }
        Ok(emptied)
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

    /// Writes a report; it is on the disk when this comes back. On a disk that is nearly full it is a small one.
    pub(super) fn put(&mut self, report: Report, key: &DeviceKey) -> Result<(), SpoolError> {
        let at_ms = report.at_ms;
        self.make_folder()?;
        self.short = !self.has_room();
        let entry = if self.short {
            self.write_short(report, at_ms, key)?
        } else {
            let entry = self.write_report(report, at_ms, MAX_REPORT, key)?;
            self.set_aside();
            entry
        };
        self.state.last_event = self.state.last_event.max(entry.event);
        Ok(())
    }

    /// First with what room there is, then with what was set aside, then as little as can be said.
    fn write_short(&mut self, report: Report, at_ms: u64, key: &DeviceKey) -> Result<Entry, SpoolError> {
        match self.write_report(report.clone(), at_ms, room::SMALL[0], key) {
            Err(error) if error.is_full() => self.give_up(),
            written => return written,
        }
        match self.write_report(report.clone(), at_ms, room::SMALL[0], key) {
            Err(error) if error.is_full() => self.write_report(report, at_ms, room::SMALL[1], key),
            written => written,
        }
    }

    fn write_report(&mut self, report: Report, at_ms: u64, most: usize, key: &DeviceKey) -> Result<Entry, SpoolError> {
        let event = report.events.iter().map(|event| event.id).max().unwrap_or_default();
        let mut entry = Entry { since: report.since_sequence, sequence: report.sequence, at_ms, event, bytes: 0 };
        let signed = signed(report, most, key);
        let text = [signed.signature.as_bytes(), &signed.report].concat();
        entry.bytes = text.len() as u64;
        self.write(&entry.name(), &text)?;
        self.entries.insert(entry.sequence, entry);
        Ok(entry)
    }

    /// Two oldest reports become one until the bounds are kept; on a full disk also until what waits is no more than may wait there, or than
    /// waited before the newest one.
    pub(super) fn keep_within(&mut self, mut bounds: Bounds, key: &DeviceKey) -> Result<(), SpoolError> {
        if !self.short {
            return self.merge(bounds, MAX_REPORT, usize::MAX, key);
        }
        let newest = self.entries.values().next_back().map_or(0, |entry| entry.bytes);
        bounds.bytes = bounds.bytes.min(room::WAITING.max(self.bytes() - newest));
        match self.merge(bounds, room::SMALL[0], room::STEPS, key) {
            Err(error) if error.is_full() => self.give_up(),
            merged => return merged,
        }
        match self.merge(bounds, room::SMALL[0], room::STEPS, key) {
            // That the disk is full is known.
            Err(error) if error.is_full() => Ok(()),
            merged => merged,
        }
    }

    fn merge(&mut self, bounds: Bounds, most: usize, steps: usize, key: &DeviceKey) -> Result<(), SpoolError> {
        for _ in 0..steps {
            if self.entries.len() < 2 || (self.entries.len() <= bounds.count && self.bytes() <= bounds.bytes) {
                break;
            }
            let mut oldest = self.entries.values().copied();
            let (Some(first), Some(second)) = (oldest.next(), oldest.next()) else { return Ok(()) };
            let (Some((older, _)), Some((newer, _))) = (self.read(first.sequence, key)?, self.read(second.sequence, key)?) else {
                continue;
            };
            self.write_report(older.absorb(newer), first.at_ms, most, key)?;
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
        self.lay_aside(&entry)?;
        Ok(None)
    }

    /// One report, without setting aside what is none.
    pub(super) fn peek(&self, sequence: u64, key: &DeviceKey) -> Result<Option<(Report, Signed)>, SpoolError> {
        let Some(entry) = self.entries.get(&sequence) else { return Ok(None) };
        let path = self.folder.join(entry.name());
        let text = read(&path, MAX_FILE).map_err(failed("read", &path))?;
        Ok(open(&text, key))
    }

    /// One report of at most so many bytes, as far as leaving out can make it so: signed anew, under its own number.
    pub(super) fn less(&mut self, sequence: u64, most: usize, key: &DeviceKey) -> Result<Option<Signed>, SpoolError> {
        Ok(self.read(sequence, key)?.map(|(report, _)| signed(report, most, key)))
    }

    fn lay_aside(&mut self, entry: &Entry) -> Result<(), SpoolError> {
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

    /// Notes how far the sinks are, and forgets what every one of them has: everything up to a sequence.
    pub(super) fn settle(&mut self, through: u64) -> Result<(), SpoolError> {
        match self.save_state() {
            // What was delivered need not wait for room in which to say so: it is the room.
            Err(error) if error.is_full() => {
                self.make_way(through)?;
                match self.save_state() {
                    Err(error) if error.is_full() => {
                        self.give_up();
                        self.save_state()?;
                    }
                    saved => saved?,
                }
            }
            saved => saved?,
        }
        self.forget(through)?;
        self.set_aside();
        Ok(())
    }

    /// Removes what every sink has, but for what the numbers stand in: that is emptied, for its name is enough. After a crash now what else waits is
    /// sent once more, and no number is given twice.
    fn make_way(&mut self, through: u64) -> Result<(), SpoolError> {
        let newest = self.entries.keys().next_back().copied();
        let telling = self.entries.values().max_by_key(|entry| (entry.event, entry.sequence)).map(|entry| entry.sequence);
        let goes = |sequence: u64| sequence <= through && Some(sequence) != newest && Some(sequence) != telling;
        let gone: Vec<Entry> = self.entries.values().filter(|entry| goes(entry.sequence)).copied().collect();
        for entry in gone {
            self.remove(&entry.name())?;
            self.entries.remove(&entry.sequence);
        }
        for entry in self.entries.values_mut().filter(|entry| entry.sequence <= through) {
            let path = self.folder.join(entry.name());
            std::fs::OpenOptions::new().write(true).truncate(true).open(&path).map_err(failed("empty", &path))?;
            entry.bytes = 0;
        }
        Ok(())
    }

    /// Forgets everything up to a sequence. The state must say so on the disk before.
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
        self.make_folder()?;
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
        let written = attempt().map_err(&io);
        if written.as_ref().is_err_and(SpoolError::is_full) {
            // What there was of room is for a smaller one.
            let _ = std::fs::remove_file(&beside);
        }
        written
    }

    fn make_folder(&self) -> Result<(), SpoolError> {
        if self.folder.exists() {
            return Ok(());
        }
        self.step()?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(failed("make", &self.folder))
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

fn signed(report: Report, most: usize, key: &DeviceKey) -> Signed {
    let trusted = format!("trimtab report device={} sequence={} time={}", report.device, report.sequence, report.at_ms);
    let bytes = report.to_bytes_within(most);
    Signed { signature: key.sign(&bytes, &trusted), report: bytes }
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
