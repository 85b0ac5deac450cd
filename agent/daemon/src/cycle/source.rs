//! From the source to a rendering: poll, advance, prove, read, render. Blocking; the cycle runs it on a thread of its own.
//!
//! Nothing here touches the machine or the store. Whatever goes wrong becomes an [`Answer`] with what to do about it.

use std::path::PathBuf;
use std::time::Instant;

use trimtab_model::bundle::Bundle;
use trimtab_model::desired::Rendered;
use trimtab_model::digest::Digest;
use trimtab_model::facts::Host;
use trimtab_model::finding::{Finding, Findings, Spot};
use trimtab_model::names::RepoPath;

use crate::courier::{self, Client, ClientError, Way};
use crate::log::{Laps, chain};
use crate::render::{Limits, RenderError, render_in_child};
use crate::trust::Class;
use crate::trust::keys::TrustConfig;
use crate::trust::prove::{Proven, prove};
use crate::trust::state::TrustState;
use crate::trust::tree;
use crate::trust::verdict::Verdict;

/// Under which key a rendering can be used again: the same commit, rendered from the same inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// The commit's id in hex.
    pub(super) commit: String,
    /// Digest over the host, the program's version (another one may render otherwise) and `trust.toml` (a key that was taken out of it
    /// must stop counting for the revision in force, too).
    pub(super) inputs: Digest,
}

/// Everything that asking the source needs, by value: it goes to another thread.
pub(super) struct Ask {
    pub(super) program: PathBuf,
    pub(super) trust: TrustConfig,
    pub(super) state: Option<TrustState>,
    pub(super) host: Host,
    pub(super) inputs: Digest,
    /// The keys of the renderings that need no second look: the one in force and the one that was refused.
    pub(super) known: Vec<Key>,
    /// How to come by a courier.
    pub(super) way: Way,
    pub(super) now: u64,
    /// Why nothing may be fetched: there is no room for it.
    pub(super) full: Option<String>,
}

/// What came of it.
pub(super) enum Answer {
    /// The tip is one of the known ones.
    Same { key: Key },
    /// A proven commit and what it wants of this host.
    Rendered { proven: Box<Proven>, proven_at: Instant, new: bool, key: Key, rendered: Box<Rendered> },
    /// A proven commit that does not make a host: a mistake in the repository.
    Wrong { proven: Box<Proven>, new: bool, key: Key, findings: Findings },
    /// Not proven.
    Refused { verdict: Verdict, commit: String },
    /// There is news, and no room to fetch it.
    Full { message: String, commit: String },
    /// It could not be asked, or its answer could not be used.
    Trouble { message: String, class: Class, commit: String },
}

impl Answer {
    /// Whether the source was reached and answered, whatever it said.
    pub(super) fn is_reached(&self) -> bool {
        match self {
            Answer::Same { .. } | Answer::Full { .. } | Answer::Rendered { .. } | Answer::Wrong { .. } => true,
            Answer::Refused { verdict, .. } => verdict.class() != Some(Class::Retry),
            Answer::Trouble { class, .. } => *class != Class::Retry,
        }
    }
}

impl Ask {
    pub(super) fn run(self) -> Answer {
        match self.look() {
            Ok(answer) | Err(answer) => answer,
        }
    }

    fn look(&self) -> Result<Answer, Answer> {
        let clock = Laps::start();
        let mut courier = self.way.open().map_err(|error| of_client(&error, ""))?;
        let polled = courier.poll(self.trust.reference()).map_err(|error| of_client(&error, ""))?;
        clock.lap("polled");
        let Some(tip) = polled.id else {
            let message = format!("the repository has no {}; push it, or correct `branch` in trust.toml", self.trust.reference());
            return Err(Answer::Trouble { message, class: Class::Hold, commit: String::new() });
        };
        let commit = tip.to_string();
        let key = Key { commit: commit.clone(), inputs: self.inputs };
        if self.known.contains(&key) {
            return Ok(Answer::Same { key });
        }
        if let Some(message) = self.full.clone() {
            return Err(Answer::Full { message, commit });
        }
        let have = self.state.as_ref().map(|state| state.commit);
        if have != Some(tip) {
            courier.advance(&tip, have.as_ref()).map_err(|error| of_client(&error, &commit))?;
        }
        clock.lap("fetched commits and changed trees");
        let verdict = prove(tip, &mut courier, &self.trust, self.state.as_ref(), self.now);
        let (proven, new) = match verdict {
            Verdict::Accepted(proven) => (proven, true),
            Verdict::Unchanged(proven) => (proven, false),
            verdict => return Err(Answer::Refused { verdict, commit }),
        };
        let proven_at = Instant::now();
        clock.lap("proven");
        let bundle = match self.read(&proven, &mut courier) {
            Ok(bundle) => bundle,
            Err(error) => return Err(unread(&error, proven, new, key)),
        };
        clock.lap("read this host's slice");
        // The courier is not needed any more; it tidies its cache and ends while the rendering goes on.
        std::thread::spawn(move || drop(courier));
        let rendered = render_in_child(&self.program, &bundle, &self.host, Limits::default());
        clock.lap("rendered");
        match rendered {
            Ok(rendered) => Ok(Answer::Rendered { proven, proven_at, new, key, rendered: Box::new(rendered) }),
            Err(RenderError::Refused { findings }) => Ok(Answer::Wrong { proven, new, key, findings }),
            // It would die the same way each time: it is the revision's fault, and not tried again until there is another.
            Err(RenderError::Died { death, at }) => {
                let mut findings = Findings::default();
                let spot = Spot::file(at.as_deref().unwrap_or("fleet.toml"));
                findings.push(Finding::new(format!("the rendering {death}"), spot));
                Ok(Answer::Wrong { proven, new, key, findings })
            }
            Err(error) => Err(Answer::Trouble { message: chain(&error), class: Class::Retry, commit }),
        }
    }

    /// This host's own slice of the tree.
    fn read(&self, proven: &Proven, courier: &mut Client) -> Result<Bundle, tree::TreeError> {
        let host_file = format!("hosts/{}.toml", self.host.name);
        let first: Vec<RepoPath> =
            ["fleet.toml", &host_file].iter().map(|path| path.parse().expect("because a host name has no slash")).collect();
        // What is wrong with the repository is told by the rendering, all of it at once: here the reading only stops.
        let more = |bundle: &Bundle| trimtab_model::render::needs(bundle, &self.host).unwrap_or_default();
        tree::read(proven, courier, &first, more)
    }
}

/// What the commit itself is to blame for is found at each look: remembered, or a file that is too large would be fetched with every poll.
fn unread(error: &tree::TreeError, proven: Box<Proven>, new: bool, key: Key) -> Answer {
    let Some(path) = error.wrong_at() else {
        return Answer::Trouble { message: chain(error), class: error.class(), commit: key.commit };
    };
    let mut findings = Findings::default();
    findings.push(Finding::new(chain(error), Spot::file(path)));
    Answer::Wrong { proven, new, key, findings }
}

fn of_client(error: &ClientError, commit: &str) -> Answer {
    let class = match error.class() {
        // Somebody may have to change something, here or at the server; until then it is looked for again, and never given up.
        courier::protocol::Class::Retry | courier::protocol::Class::Configuration => Class::Retry,
        courier::protocol::Class::Hold => Class::Hold,
    };
    Answer::Trouble { message: chain(error), class, commit: commit.to_owned() }
}
