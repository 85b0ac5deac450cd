//! What a person holds back: the whole host (`suspend`, or `agent.mode = "observe"`), or single resources (`pin`).
//!
//! A host that is held is looked at as ever: the source is asked, what it answers proven (and remembered as accepted, so that nothing older is
//! taken later), rendered and planned; all that differs is told, and nothing is done about it. Nothing is tried, so no generation is
//! made and nothing becomes trimtab's. A change that was begun before is brought to its end first: half done is the worst state to hold a host in.
//! Limits: holds that cannot be read hold nothing; each pass says so until a person says anew what is to be held.

use std::time::Duration;

use trimtab_model::drift::LeftAlone;
use trimtab_model::hold::{Clocks, HOST, Held, HoldBook, Holds};
use trimtab_model::report::{Failure, Outcome, Pass};
use trimtab_model::status::Mode;

use super::{Cycle, Hold, Wanted, worsen};
use crate::host::root::Root;
use crate::log::chain;
use crate::store::Store;

/// What is known of holds.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    book: HoldBook,
    /// Why it could not be read.
    trouble: Option<String>,
}

/// The clocks that a hold is judged by.
pub(crate) fn clocks(root: &Root) -> Clocks {
    Clocks { wall: super::now_ms() / 1000, boot: crate::host::facts::boot_id(root), uptime: crate::host::facts::uptime() }
}

impl HeldBack {
    pub(super) fn load(store: &Store) -> Self {
        match store.load_holds() {
            Ok(book) => Self { book, trouble: None },
            // Ending here would leave the host to nobody.
            Err(error) => Self { book: HoldBook::default(), trouble: Some(chain(&error)) },
        }
    }
}

impl Cycle {
    /// What is held now.
    pub fn holds(&self) -> &Holds {
        &self.held.book.holds
    }

    /// In how long the next hold ends.
    pub fn next_hold_end(&self) -> Option<Duration> {
        self.held.book.next_end(&clocks(&self.machine.root)).map(Duration::from_secs)
    }

    /// Why the whole host is left as it is, if it is.
    pub(super) fn left_alone(&self) -> Option<LeftAlone> {
        match (&self.holds().suspended, self.settings.agent.mode) {
            (Some(_), _) => Some(LeftAlone::Suspended),
            (None, Mode::Observe) => Some(LeftAlone::Observing),
            (None, Mode::Enforce) => None,
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.left_alone().is_some()
    }

    /// Ends what is over.
    pub(super) fn review_holds(&mut self) {
        let (ended, changed) = self.held.book.review(&clocks(&self.machine.root));
        for (name, held) in &ended {
            let what = if name == HOST { "the suspension of this host" } else { name.as_str() };
            let word = if name == HOST { "is over" } else { "is not pinned any more" };
            self.remarks.push(format!("{what} {word}: its time has come ({}, said {})", held.reason, held.by));
        }
        if changed {
            self.save_holds();
        }
    }

    /// What a person asked for; in force from here on, also when it cannot be written down.
    pub(super) fn hold_back(&mut self, name: &str, held: Held, pass: &mut Pass) {
        let (reason, by) = (held.reason.clone(), held.by.clone());
        if !self.held.book.hold(name, held, &clocks(&self.machine.root)) {
            let message = format!("{name} was not pinned, for as much as may be is pinned already; see `trimtab holds`");
            pass.failures.push(Failure { resource: "holds".to_owned(), message, skipped: false });
            worsen(pass, Outcome::Partial);
            return;
        }
        self.save_holds();
        tracing::info!(
            trimtab_pass = pass.number,
            trimtab_resource = name,
            trimtab_outcome = "held",
            "{name} is held by {by}: {reason}"
        );
    }

    pub(super) fn release(&mut self, name: &str, pass: &mut Pass) {
        self.held.book.release(name);
        // Also when nothing was held: it is how a book that cannot be read is replaced.
        self.save_holds();
        tracing::info!(
            trimtab_pass = pass.number,
            trimtab_resource = name,
            trimtab_outcome = "released",
            "{name} is not held any more"
        );
    }

    fn save_holds(&mut self) {
        if self.hold == Hold::ReadOnly {
            return;
        }
        match self.store.save_holds(&self.held.book) {
            Ok(()) => self.held.trouble = None,
            Err(error) => {
                let message = format!("what is held could not be written down, and ends with this process: {}", chain(&error));
                self.remarks.push(message);
            }
        }
    }

    /// Nothing is held from here on: the host is given back as a whole.
    pub(super) fn forget_holds(&mut self) {
        self.held = HeldBack::default();
    }

    /// How the pass ends with what is left alone, and by whom. Last, so that it is no matter that outlasts its cause.
    pub(super) fn tell_held(&self, pass: &mut Pass) {
        if let Some(trouble) = &self.held.trouble {
            pass.failures.push(Failure { resource: "holds".to_owned(), message: trouble.clone(), skipped: false });
            worsen(pass, Outcome::Partial);
        }
        pass.paused = self.paused(super::now_ms() / 1000);
        if !pass.paused.is_empty() {
            worsen(pass, Outcome::Paused);
        }
        for why in pass.changes.iter().filter_map(|change| change.left_alone.clone()).collect::<Vec<_>>() {
            worsen(pass, if why.is_held() { Outcome::Paused } else { Outcome::Drifted });
        }
    }

    /// What is held back, in one sentence; empty when nothing is.
    fn paused(&self, now: u64) -> String {
        let holds = self.holds();
        if let Some(held) = &holds.suspended {
            return format!("this host is suspended for {} more by {}: {}", left(held, now), held.by, held.reason);
        }
        if self.settings.agent.mode == Mode::Observe {
            return "this host only observes (agent.mode = \"observe\")".to_owned();
        }
        let mut pins = holds.pins.iter();
        match (pins.next(), pins.len()) {
            (None, _) => String::new(),
            (Some((name, held)), 0) => format!("{name} is pinned for {} more by {}: {}", left(held, now), held.by, held.reason),
            (Some((name, held)), more) => {
                format!("{name} is pinned for {} more by {}: {}; and {more} more are pinned", left(held, now), held.by, held.reason)
            }
        }
    }

    /// Keeps in mind what the newest revision wants of a host that is held: it is rendered once, and looked at again and again. Of the contents
    /// only what a comparison needs stays.
    pub(super) fn keep_aim(&mut self, wanted: Option<&Wanted>) {
        self.aimed = wanted.filter(|_| self.is_paused()).map(|wanted| {
            let is_read = |digest: &trimtab_model::digest::Digest| {
                let node = |entry: &trimtab_model::desired::Entry| {
                    matches!(entry.state.node, trimtab_model::desired::Node::File { digest: of, .. } if of == *digest)
                };
                wanted.desired.entries.values().any(|entry| entry.ignored.is_some() && node(entry))
            };
            let contents = wanted.contents.iter().filter(|(digest, _)| is_read(digest));
            let contents = contents.map(|(digest, bytes)| (*digest, bytes.clone())).collect();
            wanted.with(contents)
        });
    }
}

/// To the minute: a sentence that changes with each pass would be news each time. To the hour where it is long.
fn left(held: &Held, now: u64) -> String {
    let seconds = held.until.saturating_sub(now);
    let step = if seconds > 2 * 3600 { 3600 } else { 60 };
    humantime::format_duration(Duration::from_secs(seconds.div_ceil(step) * step)).to_string()
}
