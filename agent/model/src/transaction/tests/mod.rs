//! Tests of the transaction: domains, guards, transitions; and a machine that re-enacts the daemon's passes with them.

mod domains;
mod guards;
mod machine;
mod steps;
mod stories;
mod table;
mod walks;

use std::collections::BTreeSet;

use super::*;
use crate::plan::tests::host::component;

fn components(names: &[&str]) -> BTreeSet<ComponentName> {
    names.iter().map(|name| component(name)).collect()
}

fn failure(resource: &str) -> Failure {
    Failure { resource: resource.to_owned(), message: "it did not work".to_owned(), skipped: false }
}

fn trial() -> Trial {
    Trial {
        phase: Phase::Trying,
        generation: 8,
        back_to: 7,
        revision: "beef".to_owned(),
        effect: digest("beef"),
        watch: BTreeSet::new(),
        affected: BTreeSet::new(),
        guarded: Vec::new(),
        reboot: false,
        starts: 1,
        boot: "boot".to_owned(),
        pass: 3,
        at: 1000,
        fallen: BTreeSet::new(),
        blameless: false,
        causes: Vec::new(),
        amiss: Vec::new(),
    }
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}
