//! Tests of the transaction: domains, guards, transitions; and a machine that re-enacts the daemon's passes with them.

mod domains;
mod guards;
mod machine;
mod steps;
mod table;
mod walks;

use super::*;

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}
