//! Health checks: what must be true of a machine before a change counts as good.
//!
//! A check says what is asked ([`Probe`]) and for how long ([`Timing`]); who asks is the daemon's business. When the answers are enough
//! is judged here ([`Course`], [`UnitCourse`]), fed with times and answers and without a clock.

mod course;
mod unit;

use serde::{Deserialize, Serialize};

use crate::desired::Origin;
use crate::names::{AccountName, UnitName};

pub use course::{Answer, Course, Standing};
pub use unit::{Expected, UnitCourse, UnitLook};

/// One check of a component (`[[health]]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    #[serde(flatten)]
    pub probe: Probe,
    /// How long and how often.
    #[serde(flatten)]
    pub timing: Timing,
    /// Where it comes from; its component is the one that fails with it.
    pub origin: Origin,
}

/// What a check asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Probe {
    /// The unit is active and is not started anew.
    Unit {
        /// The unit.
        unit: UnitName,
    },
    /// A GET is answered as it should be.
    Http {
        /// `http://` or `https://`, without a user name.
        url: String,
        /// The statuses that are good; empty: every one from 200 to 299.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        status: Vec<u16>,
        /// What the first 64 KiB of the answer must contain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// A connection is accepted.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// A program ends with status 0.
    Command {
        /// The program, absolute, and its arguments.
        run: Vec<String>,
        /// Who runs it; root if none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<AccountName>,
        /// Bytes that it may take.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory_max: Option<u64>,
    },
    /// Podman calls the container healthy.
    Container {
        /// The container's name in Podman.
        name: String,
        /// The unit that Quadlet makes of it.
        unit: UnitName,
    },
}

/// How long a check is asked, and when its answers count. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// The whole wait: what is not good (and settled) by then has failed.
    pub timeout_ms: u64,
    /// From the end of one question to the next.
    pub interval_ms: u64,
    /// It must stay good for this long.
    pub settle_ms: u64,
    /// Bad answers in a row (of a unit: restarts) that are borne after it was good once.
    pub retries: u32,
}
