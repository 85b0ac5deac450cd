//! `trimtab probe`: started by the agent as a transient unit, asks the network whether a service is healthy.

use std::process::ExitCode;

use clap::Subcommand;
use trimtab_model::health::Timing;

use crate::probe::ask::{Question, ask};

/// What to ask.
#[derive(Debug, Subcommand)]
pub(super) enum Probe {
    /// A GET that must be answered.
    Http {
        /// http:// or https://.
        url: String,
        /// A status that is good; without any, 200 to 299.
        #[arg(long)]
        status: Vec<u16>,
        /// What the answer must contain.
        #[arg(long)]
        body: Option<String>,
        #[command(flatten)]
        pace: Pace,
    },
    /// A connection that must be accepted.
    Tcp {
        /// host:port.
        address: String,
        #[command(flatten)]
        pace: Pace,
    },
}

/// How long and how often.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Pace {
    #[arg(long, default_value_t = 60_000)]
    timeout_ms: u64,
    #[arg(long, default_value_t = 2_000)]
    interval_ms: u64,
    #[arg(long, default_value_t = 0)]
    settle_ms: u64,
    #[arg(long, default_value_t = 2)]
    retries: u32,
}

/// Asks until it is decided: exit 0 healthy, 1 not, and then the last line says why.
pub(super) fn run(probe: Probe) -> ExitCode {
    let (question, pace) = match probe {
        Probe::Http { url, status, body, pace } => (Question::Http { url, status, body }, pace),
        Probe::Tcp { address, pace } => (Question::Tcp(address), pace),
    };
    let Pace { timeout_ms, interval_ms, settle_ms, retries } = pace;
    match ask(&question, Timing { timeout_ms, interval_ms, settle_ms, retries }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::say(&format!("{}\n", super::chain(&error)));
            ExitCode::FAILURE
        }
    }
}
