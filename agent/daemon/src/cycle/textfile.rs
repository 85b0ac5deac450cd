//! The metrics as a file for the node exporter's textfile collector (`status.textfile` in agent.toml).
//!
//! Guarantees: the file is replaced as a whole and never seen half-written; a pass that finds nothing does not write it, but for once in
//! [`OFTEN`], so that an exporter that reads it sees a host that lives without a flash that wears. Limits: it is not synced; after a power cut
//! it may be the one before, and the next pass writes it anew.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use trimtab_model::digest::Digest;
use trimtab_model::status::Status;

use super::{Cycle, Hold};
use crate::endpoint::metrics;

/// Between two writes of a file in which nothing but times and counts of passes changed.
const OFTEN: Duration = Duration::from_secs(300);

/// What moves with every pass, whatever it finds.
const MOVING: [&str; 6] = [
    "trimtab_last_contact_timestamp_seconds",
    "trimtab_last_pass_timestamp_seconds",
    "trimtab_last_pass_duration_seconds",
    "trimtab_passes_total",
    "trimtab_pass_seconds_total",
    "trimtab_polls_total",
];

/// What was written last.
#[derive(Default)]
pub(super) struct Textfile {
    written: Option<(Instant, PathBuf, Digest)>,
    /// Why it could not be written, so that it is said once.
    said: String,
}

impl Cycle {
    /// Writes the metrics where the operator wants them, when they are news.
    pub(super) fn write_textfile(&mut self, status: &Status) {
        let Some(file) = &self.settings.status.textfile else { return };
        if self.hold == Hold::ReadOnly {
            return;
        }
        let path = self.places.root.join(file.strip_prefix("/").unwrap_or(file));
        self.textfile.write(&path, &metrics::classic(status));
    }
}

impl Textfile {
    fn write(&mut self, path: &Path, text: &str) {
        let news = lasting(text);
        let is_known = |(at, to, digest): &(Instant, PathBuf, Digest)| at.elapsed() < OFTEN && to == path && *digest == news;
        if self.written.as_ref().is_some_and(is_known) {
            return;
        }
        match crate::durable::replace(path, text.as_bytes(), 0o644) {
            Ok(()) => {
                self.written = Some((Instant::now(), path.to_owned(), news));
                self.said.clear();
            }
            Err(error) => {
                self.written = None;
                let message = format!("the metrics cannot be written to {}: {error}", path.display());
                if self.said != message {
                    tracing::warn!(target: "trimtab", "{message}");
                    self.said = message;
                }
            }
        }
    }
}

/// The digest of everything that does not move with every pass.
fn lasting(text: &str) -> Digest {
    let moves = |line: &&str| MOVING.iter().any(|name| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    let lines: Vec<&str> = text.lines().filter(|line| !moves(line)).collect();
    Digest::of(lines.join("\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_finds_nothing_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trimtab.prom");
        let mut file = Textfile::default();
        let status = |passes: u64, ready: bool| {
            let mut status = Status { ready, ..Status::default() };
            status.trust.last_contact = passes * 60;
            status.counters.polls = passes;
            status.counters.passes.insert("unchanged".to_owned(), passes);
            metrics::classic(&status)
        };
        file.write(&path, &status(1, true));
        let first = std::fs::read_to_string(&path).unwrap();
        assert!(first.contains("trimtab_ready 1"), "{first}");
        file.write(&path, &status(2, true));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first, "only times and counts of passes changed");
        file.write(&path, &status(3, false));
        assert_ne!(std::fs::read_to_string(&path).unwrap(), first);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        let elsewhere = folder.path().join("other.prom");
        file.write(&elsewhere, &status(3, false));
        assert!(elsewhere.exists(), "another path is news");
    }
}
