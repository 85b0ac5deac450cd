//! The lab's scenarios: the whole of trimtab on machines with a real systemd, asserted from outside with the system's
//! own tools (systemctl, podman, stat, journalctl, curl), not through trimtab's own code.
//!
//! Needs root; `tests/run lab [FILTER]` runs it. A scenario that fails shows the end of its machine's journal.

mod agent;
mod artifacts;
#[cfg(target_arch = "x86_64")]
mod boundary;
mod clock;
mod confirm;
mod contend;
mod converge;
mod cutoff;
mod drift;
mod explain;
mod faults;
mod fleet;
mod harness;
mod health;
mod monitoring;
mod operator;
mod package;
mod policy;
mod refuse;
mod releases;
mod reports;
mod rollback;
mod selfupdate;
mod sinks;
mod soak;
mod status;
#[cfg(target_arch = "x86_64")]
mod sweep;
mod trial;
mod watch;
