//! The lab's scenarios: the whole of trimtab on machines with a real systemd, asserted from outside.
//!
//! Needs root; `tests/run lab [FILTER]` runs it. A scenario that fails shows the end of its machine's journal.

mod harness;
