//! Whether what this host holds is still the newest, as far as signed words can tell.
//!
//! A release says until when it counts as the newest. Where the root names keys under `[alive.<channel>]`, a second, short-lived statement says so
//! more often, so that releases may live for months and a frozen source still shows within a day. It installs nothing: it prolongs, or reveals that
//! there is something newer than what is served.
//!
//! Guarantees: nothing here undoes anything. "Expired" is said only when it is certain: by a clock that is kept, or by time that has certainly passed.
//! A statement counts as long as the newest root names the keys that signed it. A source that takes the next release and keeps back the first word
//! about it shows when the last word has run out, and the new release has been there for as long as such a word lives.
//! Limits: a clock that nobody keeps can be wrong in either direction, and then the answer is "unknown".

use gix_hash::ObjectId;

use super::blocks;
use super::hash::Verified;
use super::memory::{Heard, Memory, Moment};
use super::release::{AHEAD, Rules};
use super::root::Root;
use super::statement::{Alive, Place};
use super::tag::{MAX_TAG, Tag};
use super::threshold::{Over, RELEASE_NAMESPACE};
use crate::wire::{ObjectKind, ObjectSource};

/// The longest life of an `alive` statement, in seconds: one online key is not to say that nothing will ever be newer.
const LONGEST: u64 = 400 * 86_400;

/// How fresh the last accepted release is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It counts as the newest.
    Fresh,
    /// It ran out. What it brought stays.
    Expired,
    /// The clock of this host cannot tell.
    Unknown,
    /// An `alive` statement names a newer release than the source serves.
    Withheld(Place),
}

impl Freshness {
    /// The stable name, for status and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
            Self::Withheld(_) => "withheld",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Fresh => "it is fresh",
            Self::Expired => "it has run out",
            Self::Unknown => "the clock of this host cannot tell",
            Self::Withheld(_) => "a newer one exists and is not served",
        }
    }
}

/// How fresh the last accepted release is; `Fresh` where there is none.
pub fn freshness(memory: &Memory, rules: Rules<'_>, moment: Moment) -> Freshness {
    let (Some(release), Some(expires)) = (&memory.release, memory.ends()) else { return Freshness::Fresh };
    let channel = rules.policy.channel.as_str();
    let has_role = memory.root.as_ref().is_some_and(|file| file.root.alive_print(channel).is_some());
    let heard = memory.heard(channel).filter(|heard| heard.place >= release.place);
    if let Some(heard) = heard.filter(|heard| heard.place > release.place) {
        return Freshness::Withheld(heard.place);
    }
    let floor = memory.floor_now();
    let now = moment.clock.max(floor);
    match now > expires {
        true if moment.synchronised || floor > expires => Freshness::Expired,
        true => Freshness::Unknown,
        // A clock behind what has certainly passed is wrong, and says nothing about what came after.
        false if !moment.synchronised && moment.clock < floor => Freshness::Unknown,
        // Somebody is to say every day that this is the newest, and has not yet; when he has had time to, it counts as run out.
        false if has_role && heard.is_none() => Freshness::Unknown,
        false => Freshness::Fresh,
    }
}

/// Looks at an `alive` tag: what is to be remembered of it, or nothing when it says nothing newer. Why it does not count is for people.
pub fn hear(
    id: ObjectId,
    source: &mut impl ObjectSource,
    root: &Root,
    rules: Rules<'_>,
    memory: &Memory,
    moment: Moment,
) -> Result<Option<Heard>, String> {
    let channel = &rules.policy.channel;
    let (Some(role), print) = (root.alive.get(channel), root.alive_print(channel.as_str())) else { return Ok(None) };
    // What was said by keys that count no more is no measure for what is said by those that do.
    let last = memory.alive.as_ref().filter(|heard| heard.role == print);
    if last.is_some_and(|heard| heard.tag == id) {
        return Ok(None);
    }
    let object = Verified::new(source, MAX_TAG).one(ObjectKind::Tag, id, MAX_TAG).map_err(|error| crate::log::chain(&error))?;
    let bytes = object.bytes();
    let tag = Tag::parse(id.kind(), bytes).map_err(|error| error.to_string())?;
    let (end, blocks) = blocks::split(bytes).map_err(|error| error.to_string())?;
    if end < tag.message {
        return Err("a signature begins within its headers".to_owned());
    }
    let tally = root.quorum(role).count(&blocks, Over::Before(bytes), RELEASE_NAMESPACE);
    tally.map_err(|why| format!("under root {}: {why}", root.version))?;
    let alive = Alive::parse(&bytes[tag.message..end]).map_err(|error| error.to_string())?;
    let same = |what: &str, want: &str, found: &str| {
        if want == found { Ok(()) } else { Err(format!("its {what} is {found:?}, and {want:?} is expected")) }
    };
    same("repository", rules.anchor.repo.as_str(), alive.repo.as_str())?;
    same("channel", channel.as_str(), alive.channel.as_str())?;
    same("tag's name", &alive.tag_name(), &tag.name)?;
    same("epoch", &root.epoch.to_string(), &alive.place.epoch.to_string())?;
    if moment.synchronised && alive.issued > moment.clock + AHEAD {
        return Err("it is dated in the future".to_owned());
    }
    if alive.expires - alive.issued > LONGEST {
        return Err(format!("it is to hold for longer than {} days; say so more often", LONGEST / 86_400));
    }
    let newer = last.is_none_or(|heard| (alive.place, alive.issued) > (heard.place, heard.issued));
    Ok(newer.then_some(Heard { place: alive.place, issued: alive.issued, expires: alive.expires, tag: id, role: print }))
}
