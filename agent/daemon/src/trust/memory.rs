//! What a host remembers of all that it ever believed: the floor below which nothing is accepted again.
//!
//! Pure: to text and from text. Where it lies (twice) and how it gets there without being torn is the store's room.
//!
//! Format 1 is commit mode's with keys in trust.toml ([`TrustState`] alone), and is still written for it, so that an older trimtab that comes back
//! after a failed update reads it. Format 2 is written as soon as there is something that format 1 has no place for.
//!
//! Guarantees: a text that is not wholly understood is an error, never an empty memory. Two differing copies are taken together: of each thing that only
//! ever grows, the larger.
//! Limits: a memory that is lost altogether is not told from a new host; the caller knows better, and says so ([`Memory::lost`]).

use gix_hash::ObjectId;
use serde::{Deserialize, Serialize};
use trimtab_model::digest::Digest;

use super::policy::RootFile;
use super::state::{self, StateError, TrustState};
use super::statement::Place;

/// The version of the text that holds everything.
pub const FORMAT: u32 = 2;
/// How far the stored floor of time may lag behind the clock, in seconds: flash wears out.
const FLOOR_EVERY: u64 = 24 * 3600;
/// When this program was written or built, seconds since 1970: no clock before it is right.
const WRITTEN: u64 = 1_793_491_200;

/// When this program was built, as far as its build said so.
pub fn built() -> u64 {
    option_env!("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok()).unwrap_or(0).max(WRITTEN)
}

/// What time it is, as far as this host can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Its clock, seconds since 1970.
    pub clock: u64,
    /// Something keeps the clock in step.
    pub synchronised: bool,
}

/// The last accepted release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Released {
    /// The repository that it is of.
    pub repo: String,
    /// Its channel.
    pub channel: String,
    /// Its epoch and sequence.
    pub place: Place,
    /// The SHA-256 of its statement: what was signed, before the first signature.
    pub statement: Digest,
    /// The tag object that it was last seen as: another may carry the same statement under more signatures.
    #[serde(with = "state::hex")]
    pub tag: ObjectId,
    /// The root it was judged under.
    pub root: u64,
    /// When it was issued, seconds since 1970.
    pub issued: u64,
    /// When it runs out, seconds since 1970.
    pub expires: u64,
    /// Who signed it.
    pub signers: Vec<String>,
}

/// The newest `alive` statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Heard {
    /// The release that it names.
    pub place: Place,
    /// When it was issued, seconds since 1970.
    pub issued: u64,
    /// When it runs out, seconds since 1970.
    pub expires: u64,
    /// The tag object that it was seen as.
    #[serde(with = "state::hex")]
    pub tag: ObjectId,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The last accepted commit, in either mode.
    pub accepted: Option<TrustState>,
    /// What stood for it, in release mode.
    pub release: Option<Released>,
    /// The newest root that was believed.
    pub root: Option<RootFile>,
    /// The newest `alive` statement.
    pub alive: Option<Heard>,
    /// A time that has certainly passed, seconds since 1970: the clock, while something kept it in step.
    pub time_floor: u64,
    /// When the source was last asked and something of this was written, seconds since 1970 by this host's clock.
    pub last_poll: u64,
    /// When it was found that an earlier memory was lost, seconds since 1970. Until a second release was accepted after that.
    pub lost: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Text {
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted: Option<TrustState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<Released>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<RootFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alive: Option<Heard>,
    time_floor: u64,
    last_poll: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

#[derive(Deserialize)]
struct Head {
    format: u64,
}

impl Memory {
    /// The memory of a host in commit mode that has accepted this.
    pub fn of(accepted: TrustState) -> Self {
        Self { accepted: Some(accepted), ..Self::default() }
    }

    /// Whether nothing was ever believed.
    pub fn is_empty(&self) -> bool {
        self.accepted.is_none() && self.root.is_none() && self.lost.is_none()
    }

    /// Whether another one says the same but for the tag that carries the statement, and who else signed it. Anybody can put more signatures behind a
    /// statement: a source that does so at each poll must not have flash worn out.
    pub fn is_like(&self, other: &Self) -> bool {
        let plain = |memory: &Self| {
            let mut memory = memory.clone();
            if let Some(release) = &mut memory.release {
                (release.tag, release.signers) = (ObjectId::null(release.tag.kind()), Vec::new());
            }
            memory
        };
        plain(self) == plain(other)
    }

    /// Whether format 1 says all of it.
    fn is_plain(&self) -> bool {
        let rest = (&self.release, &self.root, &self.alive, self.lost);
        self.accepted.is_some() && rest == (&None, &None, &None, None) && self.time_floor == 0 && self.last_poll == 0
    }

    /// The text to store.
    pub fn to_text(&self) -> String {
        if let (Some(accepted), true) = (&self.accepted, self.is_plain()) {
            return accepted.to_text();
        }
        let Self { accepted, release, root, alive, time_floor, last_poll, lost } = self.clone();
        let text = Text { format: FORMAT, accepted, release, root, alive, time_floor, last_poll, lost };
        let mut text = serde_json::to_string_pretty(&text).expect("because every field is a number or a string");
        text.push('\n');
        text
    }

    /// Reads a stored text of either format.
    pub fn from_text(text: &str) -> Result<Self, StateError> {
        // The head first, so that a newer format is told as that and not as damage.
        let head: Head = serde_json::from_str(text).map_err(StateError::Damaged)?;
        if head.format == u64::from(state::FORMAT) {
            return TrustState::from_text(text).map(Self::of);
        }
        if head.format != u64::from(FORMAT) {
            return Err(StateError::Format { format: head.format });
        }
        let Text { accepted, release, root, alive, time_floor, last_poll, lost, .. } =
            serde_json::from_str(text).map_err(StateError::Damaged)?;
        Ok(Self { accepted, release, root, alive, time_floor, last_poll, lost })
    }

    /// Two copies that differ, taken together.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let rank = |memory: &Self| {
            let place = memory.release.as_ref().map(|release| release.place);
            (place, memory.accepted.as_ref().map(|accepted| accepted.accepted_at))
        };
        let (larger, smaller) = if rank(&self) >= rank(&other) { (self, other) } else { (other, self) };
        let version = |root: &Option<RootFile>| root.as_ref().map(|file| file.root.version);
        let age = |alive: &Option<Heard>| alive.as_ref().map(|alive| (alive.place, alive.issued));
        Self {
            root: if version(&larger.root) >= version(&smaller.root) { larger.root } else { smaller.root },
            alive: if age(&larger.alive) >= age(&smaller.alive) { larger.alive } else { smaller.alive },
            time_floor: larger.time_floor.max(smaller.time_floor),
            last_poll: larger.last_poll.max(smaller.last_poll),
            lost: larger.lost.max(smaller.lost),
            accepted: larger.accepted,
            release: larger.release,
        }
    }

    /// The time that has certainly passed for a statement of this epoch. What earlier epochs said of time does not count any more: it may have been
    /// a thief's word.
    pub fn floor(&self, epoch: u64) -> u64 {
        match &self.release {
            Some(release) if release.place.epoch > epoch => built(),
            Some(release) if release.place.epoch == epoch => built().max(self.time_floor).max(release.issued),
            Some(_) => built(),
            None => built().max(self.time_floor),
        }
    }

    /// Takes note of the clock, while something keeps it in step; whether that is worth being written: at most once a day.
    pub fn passes(&mut self, moment: Moment) -> bool {
        let worth = moment.synchronised && moment.clock >= self.time_floor.saturating_add(FLOOR_EVERY);
        if worth {
            (self.time_floor, self.last_poll) = (moment.clock, moment.clock);
        }
        worth
    }
}

#[cfg(test)]
mod tests;
