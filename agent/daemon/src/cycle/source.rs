//! From the source to a rendering: poll, advance, prove, read, render. Blocking; the cycle runs it on a thread of its own.
//!
//! Nothing here touches the machine or the store. Whatever goes wrong becomes an [`Answer`] with what to do about it.

use std::path::PathBuf;
use std::time::Instant;

use gix_hash::ObjectId;
use trimtab_model::bundle::Bundle;
use trimtab_model::desired::Rendered;
use trimtab_model::digest::Digest;
use trimtab_model::facts::Host;
use trimtab_model::finding::{Finding, Findings, Spot};
use trimtab_model::names::RepoPath;
use trimtab_model::status::CourierStatus;

use crate::courier::{self, Client, ClientError, Way};
use crate::log::{Laps, chain};
use crate::render::{Limits, RenderError, render_in_child};
use crate::trust::Class;
use crate::trust::decide::decide;
use crate::trust::fresh;
use crate::trust::keys::TrustConfig;
use crate::trust::memory::{Memory, Moment};
use crate::trust::prove::Proven;
use crate::trust::release::Rules;
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
    pub(super) memory: Memory,
    pub(super) host: Host,
    pub(super) inputs: Digest,
    /// The keys of the renderings that need no second look: the one in force and the one that was refused.
    pub(super) known: Vec<Key>,
    /// How to come by a courier.
    pub(super) way: Way,
    pub(super) moment: Moment,
    /// Why nothing may be fetched: there is no room for it.
    pub(super) full: Option<String>,
}

/// What came of it, and what is to be remembered before anything follows from it.
pub(super) struct Answered {
    pub(super) answer: Answer,
    pub(super) memory: Option<Memory>,
    pub(super) remarks: Vec<String>,
    /// What the courier said of itself, where it came to answer.
    pub(super) courier: Option<CourierStatus>,
}

impl From<Answer> for Answered {
    fn from(answer: Answer) -> Self {
        Self { answer, memory: None, remarks: Vec::new(), courier: None }
    }
}

/// What the source's newest is to this host.
pub(super) enum Answer {
    /// The tip is one of the known ones.
    Same { key: Key },
    /// A new statement about a revision that is known: there is nothing to be rendered.
    Renewed { proven: Box<Proven>, new: bool, key: Key },
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
            Answer::Same { .. } | Answer::Renewed { .. } | Answer::Full { .. } | Answer::Rendered { .. } | Answer::Wrong { .. } => {
                true
            }
            Answer::Refused { verdict, .. } => verdict.class() != Some(Class::Retry),
            Answer::Trouble { class, .. } => *class != Class::Retry,
        }
    }
}

impl Ask {
    pub(super) fn run(self) -> Answered {
        let mut learned = Answered::from(Answer::Same { key: self.of(String::new()) });
        match self.look(&mut learned) {
            Ok(answer) | Err(answer) => Answered { answer, ..learned },
        }
    }

    fn of(&self, commit: String) -> Key {
        Key { commit, inputs: self.inputs }
    }

    fn look(&self, learned: &mut Answered) -> Result<Answer, Answer> {
        let clock = Laps::start();
        let mut courier = self.way.open().map_err(|error| of_client(&error, ""))?;
        let beside = self.trust.alive_reference();
        let polled = courier.poll_beside(self.trust.reference(), beside.as_deref()).map_err(|error| of_client(&error, ""))?;
        clock.lap("polled");
        learned.courier = Some(polled.courier);
        let Some(tip) = polled.id else { return Err(self.nothing_there()) };
        let commit = tip.to_string();
        if let Some(key) = self.is_known(tip) {
            self.listen(polled.beside, &mut courier, learned);
            return Ok(Answer::Same { key });
        }
        if let Some(message) = self.full.clone() {
            return Err(Answer::Full { message, commit });
        }
        let have = self.memory.accepted.as_ref().map(|state| state.commit).or(self.memory.base);
        if have != Some(tip) {
            courier.advance(&tip, have.as_ref()).map_err(|error| of_client(&error, &commit))?;
        }
        clock.lap("fetched commits and changed trees");
        let judged = decide(tip, polled.beside, &mut courier, &self.trust, &self.memory, self.moment);
        (learned.memory, learned.remarks) = (judged.memory, judged.remarks);
        let (proven, new) = match judged.verdict {
            Verdict::Accepted(proven) => (proven, true),
            Verdict::Unchanged(proven) => (proven, false),
            verdict => return Err(Answer::Refused { verdict, commit }),
        };
        let commit = proven.commit().to_string();
        let key = self.of(commit.clone());
        // In release mode another tag may stand for a commit that is known: signed anew, or gone back to.
        if self.known.contains(&key) {
            return Ok(Answer::Renewed { proven, new, key });
        }
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

    /// The reference is not there.
    fn nothing_there(&self) -> Answer {
        let reference = self.trust.reference();
        let message = match self.trust.alive_reference() {
            None => format!("the repository has no {reference}; push it, or correct `branch` in trust.toml"),
            Some(_) => {
                format!("the repository has no {reference}; make a release (`trimtab release`), or correct `channel` in trust.toml")
            }
        };
        Answer::Trouble { message, class: Class::Hold, commit: String::new() }
    }

    /// The key of what the reference names, when that needs no second look.
    fn is_known(&self, tip: ObjectId) -> Option<Key> {
        let commit = match Rules::of(&self.trust) {
            None => Some(tip),
            Some(rules) => {
                let release = self.memory.release.as_ref().filter(|release| {
                    release.tag == tip
                        && release.repo == rules.anchor.repo.as_str()
                        && release.channel == rules.policy.channel.as_str()
                });
                release.and(self.memory.accepted.as_ref()).map(|accepted| accepted.commit)
            }
        };
        commit.map(|commit| self.of(commit.to_string())).filter(|key| self.known.contains(key))
    }

    /// The release is the same; only the `alive` statement beside it may be a new one.
    fn listen(&self, alive: Option<ObjectId>, courier: &mut Client, learned: &mut Answered) {
        let (Some(alive), Some(rules), Some(root)) = (alive, Rules::of(&self.trust), &self.memory.root) else { return };
        match fresh::hear(alive, courier, &root.root, rules, &self.memory, self.moment) {
            Ok(Some(heard)) => learned.memory = Some(Memory { alive: Some(heard), ..self.memory.clone() }),
            Ok(None) => {}
            Err(why) => learned.remarks.push(format!("the `alive` statement of the channel does not count: {why}")),
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
