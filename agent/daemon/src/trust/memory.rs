//! What a host remembers of all that it ever believed: the floor below which nothing is accepted again.
//!
//! Pure: to text and from text. Where it lies (twice) and how it gets there without being torn is the store's room.
//!
//! Format 1 is commit mode's with keys in trust.toml ([`TrustState`] alone), and is still written for it, so that an older trimtab that comes back
//! after a failed update reads it. Format 3 is written as soon as there is something that format 1 has no place for. Format 2, which knew nothing of
//! pins and of other channels, is read.
//!
//! Guarantees: a text that is not wholly understood is an error, never an empty memory. Two differing copies are taken together: of each thing that only
//! ever grows, the larger; but where something was forgotten on purpose ([`Memory::turn`]), the copy that knows of it.
//! Limits: a memory that is lost altogether is not told from a new host; the caller knows better, and says so ([`Memory::lost`]).

use gix_hash::ObjectId;
use serde::{Deserialize, Serialize};
use trimtab_model::digest::Digest;

use super::policy::RootFile;
use super::state::{self, StateError, TrustState};
use super::statement::Place;

/// The version of the text that holds everything.
pub const FORMAT: u32 = 3;
/// The oldest one that is read with the same fields, as far as it has them.
const READ_FROM: u64 = 2;
/// How far the stored floor of time may lag behind the clock, in seconds: flash wears out.
const FLOOR_EVERY: u64 = 24 * 3600;
/// How far past the build the floor of time may run where nothing was accepted that says more, in seconds.
const FLOOR_ALONE: u64 = 366 * 24 * 3600;
/// How long the first `alive` statement about a release is waited for where none was ever heard, in seconds.
const FIRST_ALIVE: u64 = 24 * 3600;
/// Of so many other channels it is remembered how far they had come. Only trust.toml, by a person's hand, makes one more.
pub const EARLIER: usize = 32;
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
    /// Since when an `alive` statement about it is waited for, seconds since 1970: when it was accepted, by a clock that was kept, or when it was issued.
    #[serde(default)]
    pub since: u64,
    /// Who signed it.
    pub signers: Vec<String>,
}

/// How far a channel had come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Passed {
    /// The repository.
    pub repo: String,
    /// The channel.
    pub channel: String,
    /// The epoch and sequence of the last accepted release.
    pub place: Place,
    /// The SHA-256 of its statement.
    pub statement: Digest,
    /// When it was issued, seconds since 1970.
    pub issued: u64,
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
    /// Of which keys it was ([`Root::alive_print`](super::root::Root::alive_print)): under others it counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Digest>,
}

/// Where the roots came from under which the rest was accepted, before trust.toml pinned another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Former {
    /// The digest of the root file that was pinned; not known of a memory of format 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Digest>,
    /// The digest of the newest root that was believed.
    pub root: Digest,
    /// Its version.
    pub version: u64,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The last accepted commit, in either mode.
    pub accepted: Option<TrustState>,
    /// What stood for it, in release mode.
    pub release: Option<Released>,
    /// How far other channels had come when this host left them.
    pub earlier: Vec<Passed>,
    /// The newest root that was believed.
    pub root: Option<RootFile>,
    /// The digest of the root file that trust.toml pinned when that was believed.
    pub pin: Option<Digest>,
    /// Another root is pinned now than that under which the rest was accepted: whether that counts is settled by the next tree that is vouched for.
    pub former: Option<Former>,
    /// The newest `alive` statement.
    pub alive: Option<Heard>,
    /// A time that has certainly passed, seconds since 1970: the clock, while something kept it in step.
    pub time_floor: u64,
    /// The epoch in which that was noted; in another it says nothing.
    pub time_epoch: u64,
    /// When the source was last asked and something of this was written, seconds since 1970 by this host's clock.
    pub last_poll: u64,
    /// When it was found that an earlier memory was lost, seconds since 1970. Until a second revision was accepted after that.
    pub lost: Option<u64>,
    /// The commit that was in force when it was lost, in commit mode: what comes next descends from it.
    pub base: Option<ObjectId>,
    /// How often something was forgotten on purpose, so that a copy that is behind does not bring it back.
    pub turn: u64,
    /// How often it was written: of two copies the one with more is the later. Format 1 does not say it.
    pub written: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Text {
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted: Option<TrustState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<Released>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Passed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<RootFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pin: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<Former>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alive: Option<Heard>,
    time_floor: u64,
    time_epoch: Option<u64>,
    last_poll: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    #[serde(default)]
    turn: u64,
    #[serde(default)]
    written: u64,
}

#[derive(Deserialize)]
struct Head {
    format: u64,
}

impl Released {
    /// How far its channel has come with it.
    pub fn passed(&self) -> Passed {
        let Self { repo, channel, place, statement, issued, .. } = self;
        Passed { repo: repo.clone(), channel: channel.clone(), place: *place, statement: *statement, issued: *issued }
    }

    /// Whether it is of this channel of this repository.
    pub fn is_of(&self, repo: &str, channel: &str) -> bool {
        self.repo == repo && self.channel == channel
    }
}

impl Memory {
    /// The memory of a host in commit mode that has accepted this.
    pub fn of(accepted: TrustState) -> Self {
        Self { accepted: Some(accepted), ..Self::default() }
    }

    /// Whether nothing was ever believed.
    pub fn is_empty(&self) -> bool {
        self.accepted.is_none() && self.root.is_none() && self.lost.is_none() && self.earlier.is_empty()
    }

    /// Whether another one says the same but for the tag that carries the statement, and who else signed it. Anybody can put more signatures behind a
    /// statement: a source that does so at each poll must not have flash worn out.
    pub fn is_like(&self, other: &Self) -> bool {
        let plain = |memory: &Self| {
            let mut memory = Self { written: 0, ..memory.clone() };
            if let Some(release) = &mut memory.release {
                (release.tag, release.signers) = (ObjectId::null(release.tag.kind()), Vec::new());
            }
            memory
        };
        plain(self) == plain(other)
    }

    /// Whether format 1 says all of it.
    fn is_plain(&self) -> bool {
        self.accepted.as_ref().is_some_and(|accepted| *self == Self { written: self.written, ..Self::of(accepted.clone()) })
    }

    /// It, as it is to be written in the place of this one.
    #[must_use]
    pub fn after(self, other: &Self) -> Self {
        Self { written: other.written.saturating_add(1), ..self }
    }

    /// The text to store.
    pub fn to_text(&self) -> String {
        if let (Some(accepted), true) = (&self.accepted, self.is_plain()) {
            return accepted.to_text();
        }
        let Self {
            accepted,
            release,
            earlier,
            root,
            pin,
            former,
            alive,
            time_floor,
            time_epoch,
            last_poll,
            lost,
            base,
            turn,
            written,
        } = self.clone();
        let (time_epoch, base) = (Some(time_epoch), base.map(|id| id.to_string()));
        let format = FORMAT;
        let text = Text {
            format,
            accepted,
            release,
            earlier,
            root,
            pin,
            former,
            alive,
            time_floor,
            time_epoch,
            last_poll,
            lost,
            base,
            turn,
            written,
        };
        let mut text = serde_json::to_string_pretty(&text).expect("because every field is a number or a string");
        text.push('\n');
        text
    }

    /// Reads a stored text of any format that there was.
    pub fn from_text(text: &str) -> Result<Self, StateError> {
        // The head first, so that a newer format is told as that and not as damage.
        let head: Head = serde_json::from_str(text).map_err(StateError::Damaged)?;
        if head.format == u64::from(state::FORMAT) {
            return TrustState::from_text(text).map(Self::of);
        }
        if !(READ_FROM..=u64::from(FORMAT)).contains(&head.format) {
            return Err(StateError::Format { format: head.format });
        }
        let text: Text = serde_json::from_str(text).map_err(StateError::Damaged)?;
        let damaged = |what: &str| StateError::Damaged(serde::de::Error::custom(what));
        let base =
            text.base.map(|id| ObjectId::from_hex(id.as_bytes()).map_err(|_| damaged("not the id of a commit"))).transpose()?;
        let time_epoch = match text.time_epoch {
            Some(epoch) => epoch,
            None if head.format < u64::from(FORMAT) => text.root.as_ref().map_or(0, |file| file.root.epoch),
            None => return Err(damaged("missing field `time-epoch`")),
        };
        let Text { accepted, mut release, earlier, root, pin, former, alive, time_floor, last_poll, lost, turn, written, .. } =
            text;
        for release in release.iter_mut().filter(|release| release.since == 0) {
            release.since = release.issued;
        }
        let memory = Self {
            accepted,
            release,
            earlier,
            root,
            pin,
            former,
            alive,
            time_floor,
            time_epoch,
            last_poll,
            lost,
            base,
            turn,
            written,
        };
        if head.format == u64::from(FORMAT) {
            return Ok(memory);
        }
        // Before it was bounded, one wrong day of the clock wrote any year there.
        Ok(Self { time_floor: memory.time_floor.min(memory.reach()), ..memory })
    }

    /// Two copies that differ, taken together; `self` is the one that is written first, which settles what is left open.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let lost = self.lost.max(other.lost);
        let rank = |memory: &Self| {
            let (accepted_at, has) = (memory.accepted.as_ref().map(|accepted| accepted.accepted_at), memory.release.is_some());
            (
                memory.turn,
                memory.written,
                has,
                memory.has_left(&self) || memory.has_left(&other),
                memory.place_beside(&self, &other),
                accepted_at,
            )
        };
        let (larger, smaller) = if rank(&self) >= rank(&other) { (self, other) } else { (other, self) };
        if larger.turn > smaller.turn {
            return Self { lost, ..larger };
        }
        let version = |root: &Option<RootFile>| root.as_ref().map(|file| file.root.version);
        let age = |alive: &Option<Heard>| alive.as_ref().map(|alive| (alive.place, alive.issued));
        let is_same_role = |one: &Option<Heard>, other: &Option<Heard>| match (one, other) {
            (Some(one), Some(other)) => one.role == other.role,
            _ => true,
        };
        let mut merged = larger.clone();
        if version(&smaller.root) > version(&larger.root) {
            (merged.root, merged.pin) = (smaller.root.clone(), smaller.pin);
        }
        if larger.written == smaller.written
            && is_same_role(&larger.alive, &smaller.alive)
            && age(&smaller.alive) > age(&larger.alive)
        {
            merged.alive.clone_from(&smaller.alive);
        }
        // Epochs only go up; what was noted in an earlier one counts no more.
        let noted = |memory: &Self| (memory.time_epoch, memory.time_floor);
        (merged.time_epoch, merged.time_floor) = noted(&larger).max(noted(&smaller));
        merged.last_poll = larger.last_poll.max(smaller.last_poll);
        (merged.lost, merged.base) = (lost, larger.base.or(smaller.base));
        for passed in smaller.earlier.into_iter().chain(smaller.release.iter().map(Released::passed)) {
            merged.keep(passed);
        }
        merged
    }

    /// Whether it went on from the channel that the other one is at to its own: then it was written after that.
    fn has_left(&self, other: &Self) -> bool {
        let left = |release: &Released| {
            let of = |known: &Passed| (&known.repo, &known.channel) == (&release.repo, &release.channel);
            self.earlier.iter().any(|known| of(known) && known.place >= release.place)
        };
        other.release.as_ref().is_some_and(left)
    }

    /// Its place, where it and the other one are of the same channel: across channels numbers say nothing.
    fn place_beside(&self, one: &Self, other: &Self) -> Option<Place> {
        let line = |memory: &Self| memory.release.as_ref().map(|release| (release.repo.clone(), release.channel.clone()));
        self.release.as_ref().filter(|_| line(one) == line(other)).map(|release| release.place)
    }

    /// How far this channel of this repository had come when something of it was last accepted.
    pub fn passed(&self, repo: &str, channel: &str) -> Option<Passed> {
        let now = self.release.iter().map(Released::passed);
        let of = |passed: &Passed| passed.repo == repo && passed.channel == channel;
        now.chain(self.earlier.iter().cloned()).filter(of).max_by_key(|passed| passed.place)
    }

    /// Remembers how far another channel had come; of each only the farthest.
    fn keep(&mut self, passed: Passed) {
        if self.passed(&passed.repo, &passed.channel).is_some_and(|known| known.place >= passed.place) {
            return;
        }
        self.earlier.retain(|known| (&known.repo, &known.channel) != (&passed.repo, &passed.channel));
        self.earlier.push(passed);
        let more = self.earlier.len().saturating_sub(EARLIER);
        self.earlier.drain(..more);
    }

    /// This release is the accepted one from now on; that of another channel is kept among the earlier ones.
    pub(super) fn take(&mut self, release: Released) {
        self.earlier.retain(|known| (&known.repo, &known.channel) != (&release.repo, &release.channel));
        let before = self.release.replace(release);
        if let Some(before) = before {
            self.keep(before.passed());
        }
    }

    /// This root is believed from now on, found by following from the one that is pinned. Whether another one was pinned before.
    pub(super) fn believe(&mut self, root: RootFile, pin: Digest) -> bool {
        let is_other = self.pin != Some(pin);
        if is_other {
            let holds = self.accepted.is_some() || !self.earlier.is_empty();
            if let (Some(was), true, None) = (&self.root, holds, &self.former) {
                self.former = Some(Former { pin: self.pin, root: was.digest(), version: was.root.version });
            }
            self.turn += u64::from(self.root.is_some());
            (self.alive, self.pin) = (None, Some(pin));
        }
        self.root = Some(root);
        is_other
    }

    /// What was accepted under a root that nobody vouches for any more counts no more.
    pub(super) fn forget(&mut self) {
        (self.accepted, self.release, self.alive, self.base) = (None, None, None, None);
        self.earlier.clear();
        (self.time_floor, self.time_epoch) = (0, 0);
        self.turn += 1;
    }

    /// The `alive` statement that was heard last, if it is of the keys that the newest root names for this channel.
    pub fn heard(&self, channel: &str) -> Option<&Heard> {
        let role = self.root.as_ref()?.root.alive_print(channel)?;
        self.alive.as_ref().filter(|heard| heard.role == Some(role))
    }

    /// Until when the accepted release counts as the newest, seconds since 1970. Where somebody is to say so again and again, and has said nothing of
    /// this one yet, that is as long as he had time to.
    pub fn ends(&self) -> Option<u64> {
        let release = self.release.as_ref()?;
        let channel = release.channel.as_str();
        if self.root.as_ref().and_then(|file| file.root.alive_print(channel)).is_none() {
            return Some(release.expires);
        }
        match self.heard(channel) {
            Some(heard) if heard.place == release.place => Some(heard.expires),
            heard => {
                let life = heard.map_or(FIRST_ALIVE, |heard| heard.expires.saturating_sub(heard.issued));
                let last = heard.map_or(0, |heard| heard.expires);
                Some(release.since.saturating_add(life).max(last).min(release.expires))
            }
        }
    }

    /// How far the floor of time may run: behind the end of what is accepted it decides nothing more, and a clock that was wrong for a day must not
    /// make everything too old that comes after it.
    fn reach(&self) -> u64 {
        self.ends().map_or(built().saturating_add(FLOOR_ALONE), |end| end.max(built()).saturating_add(1))
    }

    /// The time that has certainly passed for a statement of this epoch, of a channel that had come so far. What was said and noted in earlier epochs
    /// does not count any more: it may have been a thief's word.
    pub fn floor(&self, epoch: u64, passed: Option<&Passed>) -> u64 {
        let noted = if self.time_epoch == epoch { self.time_floor.min(self.reach()) } else { 0 };
        let said = passed.filter(|passed| passed.place.epoch == epoch).map_or(0, |passed| passed.issued);
        built().max(noted).max(said)
    }

    /// The same for what is accepted.
    pub fn floor_now(&self) -> u64 {
        match &self.release {
            Some(release) => self.floor(release.place.epoch, Some(&release.passed())),
            None => self.floor(self.epoch(), None),
        }
    }

    /// The epoch of the newest root; 0 where there is none.
    pub fn epoch(&self) -> u64 {
        self.root.as_ref().map_or(0, |file| file.root.epoch)
    }

    /// Time has come to at least this in this epoch.
    pub(super) fn reached(&mut self, epoch: u64, time: u64) {
        self.time_floor = if self.time_epoch == epoch { self.time_floor.min(self.reach()).max(time) } else { time };
        self.time_epoch = epoch;
    }

    /// Takes note of the clock, while something keeps it in step; whether that is worth being written: at most once a day.
    pub fn passes(&mut self, moment: Moment) -> bool {
        let (epoch, clock) = (self.epoch(), moment.clock.min(self.reach()));
        let known = if self.time_epoch == epoch { self.time_floor } else { 0 };
        let worth = moment.synchronised && clock >= known.saturating_add(FLOOR_EVERY);
        if worth {
            (self.time_floor, self.time_epoch, self.last_poll) = (clock, epoch, moment.clock);
        }
        worth
    }
}

#[cfg(test)]
mod tests;
