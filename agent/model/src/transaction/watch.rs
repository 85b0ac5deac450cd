//! The watch over a new trimtab: what the guard knows, and when it puts the previous one back.
//!
//! A trimtab that crashes, hangs, or cannot read its own memory cannot undo itself. So before it is replaced the old one writes a [`Watch`]
//! down and keeps itself aside; the guard, which is the old program, restores what the watch names unless the new agent takes the watch
//! away. All here is pure: the clock (seconds since the boot, and which boot) and the state of the unit are values.
//!
//! Guarantees: a watch ends, whatever the new trimtab does: by time, after [`MAX_BOOTS`] boots, or as soon as the unit has definitely failed.
//! Limits: an agent that asks for more time again and again gets it as often as its trial has starts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::health::UnitLook;
use crate::ledger::Before;
use crate::names::HostPath;

/// The format of a watch's file.
pub const WATCH_FORMAT: u32 = 1;

/// In so many boots a new trimtab may fail to prove itself; each has the whole time.
pub const MAX_BOOTS: u32 = 3;

/// So often systemd may start a new agent again by itself.
pub const MAX_RESTARTS: u32 = 3;

/// In what is told: that a change must be confirmed because it is one of trimtab itself.
pub const ITSELF: &str = "trimtab itself";

/// A new trimtab that has not proven itself yet. Unknown keys are passed over: what one version writes the version before it must read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// [`WATCH_FORMAT`].
    pub format: u32,
    /// The commit that brings it.
    pub revision: String,
    /// How long it has to prove itself, seconds.
    pub window: u64,
    /// The boot in which the time runs.
    pub boot: String,
    /// When it is over, in seconds since that boot.
    pub deadline: u64,
    /// Boots so far in which it was to prove itself.
    pub boots: u32,
    /// How often systemd had started the agent anew in this boot before.
    #[serde(default)]
    pub restarts: u32,
    /// What is put back, in this order.
    pub files: Vec<Previous>,
    /// Set once all of it was put back.
    #[serde(default)]
    pub restored: Option<Restored>,
}

/// What stood at a path of trimtab's own before the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// The path.
    pub path: HostPath,
    /// What stood there; the content of a file lies beside the watch, by its digest.
    pub was: Before,
}

/// That the previous trimtab was put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Why, one sentence.
    pub reason: String,
    /// The run of the unit that was given up, whose journal may say more; empty when it never ran.
    #[serde(default)]
    pub invocation: String,
    /// Since when it was seen to be started again and again, in seconds since the boot; `None`: it was not, or a guard of before this field.
    /// Of one that crashes the last run may have said nothing yet, and the one before it said why.
    #[serde(default)]
    pub crashing_since: Option<u64>,
    /// When it had been stopped, in seconds since the boot: what the unit says after that is the one before it.
    #[serde(default)]
    pub stopped: u64,
}

/// A moment in the life of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now {
    /// Which boot.
    pub boot: String,
    /// Seconds since it.
    pub uptime: u64,
}

impl Watch {
    /// Gives the whole time again, from now on, and some more.
    pub fn renew(&mut self, now: &Now, more: Duration) {
        self.boot.clone_from(&now.boot);
        self.deadline = now.uptime.saturating_add(self.window).saturating_add(more.as_secs());
    }

    /// Another boot than the one in which the time ran: it counts, and the time runs again. Whether anything was changed.
    pub fn wake(&mut self, now: &Now) -> bool {
        if self.boot == now.boot {
            return false;
        }
        self.boots += 1;
        self.restarts = 0;
        self.renew(now, Duration::ZERO);
        true
    }

    /// How often systemd has started the new one anew by itself.
    pub fn restarts_of(&self, look: &UnitLook) -> u32 {
        // A start that was asked for sets systemd's count back.
        look.restarts.checked_sub(self.restarts).unwrap_or(look.restarts)
    }

    /// Why the previous trimtab must be put back now; `None`: the new one still has time. `look` is the agent's unit, if systemd could say.
    pub fn verdict(&self, now: &Now, look: Option<&UnitLook>) -> Option<String> {
        if self.boots > MAX_BOOTS {
            return Some(format!("it did not prove itself in {MAX_BOOTS} boots"));
        }
        if let Some(look) = look {
            let why = if look.result.is_empty() { "failed" } else { &look.result };
            if look.active == "failed" && !look.sub.ends_with("before-auto-restart") {
                return Some(format!("it failed ({why})"));
            }
            let restarts = self.restarts_of(look);
            if restarts >= MAX_RESTARTS {
                return Some(format!("systemd has started it anew {restarts} times ({why})"));
            }
            if !["loaded", "merged", ""].contains(&look.load.as_str()) {
                return Some(format!("systemd cannot load its unit ({})", look.load));
            }
        }
        (now.uptime >= self.deadline).then(|| format!("it did not prove itself within {} s", self.window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: &str, uptime: u64) -> Now {
        Now { boot: boot.to_owned(), uptime }
    }

    fn watch() -> Watch {
        let (revision, boot) = ("r".to_owned(), "a".to_owned());
        Watch {
            format: WATCH_FORMAT,
            revision,
            window: 60,
            boot,
            deadline: 100,
            boots: 1,
            restarts: 0,
            files: Vec::new(),
            restored: None,
        }
    }

    fn look(active: &str, sub: &str, restarts: u32) -> UnitLook {
        let text = |text: &str| text.to_owned();
        UnitLook {
            load: text("loaded"),
            active: text(active),
            sub: text(sub),
            result: text("exit-code"),
            restarts,
            ..UnitLook::default()
        }
    }

    #[test]
    fn the_time_ends_and_is_given_again() {
        let mut watch = watch();
        assert_eq!(watch.verdict(&at("a", 99), None), None);
        assert!(watch.verdict(&at("a", 100), None).unwrap().contains("within 60 s"));
        watch.renew(&at("a", 98), Duration::from_secs(2));
        assert_eq!(watch.verdict(&at("a", 159), None), None);
        assert!(watch.verdict(&at("a", 160), None).is_some());
    }

    #[test]
    fn a_boot_gives_the_whole_time_but_not_for_ever() {
        let mut watch = watch();
        assert!(!watch.wake(&at("a", 5)));
        for boot in 2..=MAX_BOOTS {
            assert!(watch.wake(&at(&boot.to_string(), 500)), "boot {boot}");
            assert_eq!(watch.verdict(&at(&boot.to_string(), 559), None), None, "boot {boot}");
        }
        assert!(watch.wake(&at("last", 1)));
        assert!(watch.verdict(&at("last", 2), None).unwrap().contains("3 boots"));
    }

    #[test]
    fn a_definite_failure_ends_the_wait() {
        let (watch, now) = (watch(), at("a", 0));
        for (seen, ends) in [
            (look("active", "running", 0), false),
            (look("activating", "start", 0), false),
            (look("activating", "auto-restart", MAX_RESTARTS - 1), false),
            (look("failed", "failed-before-auto-restart", 1), false),
            (look("inactive", "dead", 0), false),
            (look("failed", "failed", 0), true),
            (look("activating", "auto-restart", MAX_RESTARTS), true),
            (UnitLook { load: "bad-setting".to_owned(), ..look("inactive", "dead", 0) }, true),
        ] {
            assert_eq!(watch.verdict(&now, Some(&seen)).is_some(), ends, "{seen:?}");
        }
    }

    #[test]
    fn restarts_of_the_old_one_do_not_count() {
        let watch = Watch { restarts: 7, ..watch() };
        for (restarts, ends) in [(7, false), (8, false), (10, true), (0, false), (2, false), (3, true)] {
            let seen = look("activating", "auto-restart", restarts);
            assert_eq!(watch.verdict(&at("a", 0), Some(&seen)).is_some(), ends, "{restarts}");
        }
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let mut value = serde_json::to_value(watch()).unwrap();
        value["format"] = 2.into();
        value["something"] = "new".into();
        assert_eq!(serde_json::from_value::<Watch>(value).unwrap(), Watch { format: 2, ..watch() });
    }
}
