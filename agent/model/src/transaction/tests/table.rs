//! The table of power cuts, walked: a machine is stopped after every durable step of a change that goes well, of one that must be undone, of
//! one that cuts the host off, and of one that cannot be undone; each stop is a row of the table, and ends as that says.

use std::collections::{BTreeMap, BTreeSet};

use super::digest;
use super::machine::Machine;
use crate::desired::{Desired, Role};
use crate::plan::tests::host::{Faults, Host, entry_of, path, service_of, unit};
use crate::report::Outcome;
use crate::transaction::*;

/// A change of a service and of a file that it reads; what is left of the old state is taken away.
fn state(version: &str) -> Desired {
    let mut desired = Desired::default();
    desired.entries.insert(path("/etc/systemd/system/a.service"), entry_of("app", version, Role::Unit(unit("a.service"))));
    desired.entries.insert(path(&format!("/etc/{version}")), entry_of("app", version, Role::Plain));
    desired.units.insert(unit("a.service"), service_of("app", "/etc/systemd/system/a.service", &[&format!("/etc/{version}")]));
    desired.components.insert("app".parse().unwrap(), BTreeSet::new());
    desired
}

/// A machine with `old` in force and `new` as the newest commit.
fn machine() -> Machine {
    let mut machine = Machine::new(Host::default());
    machine.push(state("old"));
    assert_eq!(machine.pass(), Ok(Outcome::Converged));
    machine.push(state("new"));
    machine
}

fn scenes() -> Vec<(String, Machine)> {
    let good = machine();
    let mut guarded = good.clone();
    guarded.guarded = true;
    let mut cut_off = guarded.clone();
    cut_off.cut_off_by = Some(state("new").effect());
    let mut reboots = good.clone();
    reboots.reboots = true;
    let mut bad = good.clone();
    bad.host.faults.deadly.insert(digest("new"));
    let mut bad_after_reboot = reboots.clone();
    bad_after_reboot.host.faults_of_the_boot.insert(digest("new"));
    let scenes = [
        ("good", good),
        ("guarded", guarded),
        ("cut off", cut_off),
        ("reboots", reboots),
        ("bad", bad),
        ("bad after the reboot", bad_after_reboot),
    ];
    let old_fails = |(name, machine): &(&'static str, Machine)| {
        let mut machine = machine.clone();
        machine.host.faults.refused.insert(digest("old"));
        (format!("{name}, with an old state that does not start any more"), machine)
    };
    let more: Vec<_> = scenes.iter().map(old_fails).collect();
    scenes.into_iter().map(|(name, machine)| (name.to_owned(), machine)).chain(more).collect()
}

/// Passes until no trial is open but one that cannot be undone.
fn end(machine: &mut Machine) -> Outcome {
    for _ in 0..8 {
        let outcome = machine.pass().unwrap();
        match machine.host.ledger.trial.as_ref().map(|trial| trial.phase) {
            None | Some(Phase::Degraded) => return outcome,
            Some(Phase::AwaitingReboot) => machine.restart(true),
            Some(_) => {}
        }
    }
    panic!("it does not end: {:#?}", machine.host.ledger.trial)
}

fn words(row: &Row) -> BTreeSet<String> {
    row.ends.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_stop_is_a_row_of_the_table_and_ends_as_that_says() {
    let mut seen: BTreeMap<Option<Phase>, BTreeSet<String>> = BTreeMap::new();
    for ((scene, machine), reboot) in scenes().into_iter().flat_map(|scene| [(scene.clone(), false), (scene, true)]) {
        for fuel in 0.. {
            let mut stopped = machine.clone();
            stopped.host.fuel = Some(fuel);
            let killed = stopped.pass().is_err();
            stopped.restart(reboot);
            let phase = stopped.host.ledger.trial.as_ref().map(|trial| trial.phase);
            let row = TABLE.iter().find(|row| row.phase == phase).unwrap();
            let outcome = end(&mut stopped);
            let word = serde_json::to_value(outcome).unwrap().as_str().unwrap().to_owned();
            assert!(words(row).contains(&word), "{scene}, stopped after {fuel} steps in {phase:?}: {word}, not {}", row.ends);
            seen.entry(phase).or_default().insert(word);
            if stopped.host.ledger.trial.is_some() {
                // What was in the way is gone: it is undone after all.
                stopped.host.faults = Faults::default();
                assert_eq!(end(&mut stopped), Outcome::RolledBack, "{scene}, {fuel}");
                if phase == Some(Phase::Degraded) {
                    seen.entry(phase).or_default().insert("rolled-back".to_owned());
                }
            }
            assert!(stopped.host.ledger.trial.is_none());
            if !killed {
                break;
            }
        }
    }
    // Each row was seen, with each of its ends.
    for row in &TABLE {
        assert_eq!(seen.get(&row.phase), Some(&words(row)), "{:?}", row.phase);
    }
}

#[test]
fn a_start_does_what_the_table_says() {
    let trial = |phase| Trial { phase, ..super::trial() };
    let rows: [(Phase, &str, Resume); 7] = [
        (Phase::Trying, "boot", Resume::Forward),
        (Phase::Trying, "next boot", Resume::Forward),
        (Phase::AwaitingReboot, "boot", Resume::Wait),
        (Phase::AwaitingReboot, "next boot", Resume::Forward),
        (Phase::Confirming, "boot", Resume::Forward),
        (Phase::RollingBack, "boot", Resume::GoOnUndoing),
        (Phase::Degraded, "next boot", Resume::GoOnUndoing),
    ];
    for (phase, boot, what) in rows {
        assert_eq!(trial(phase).resume(boot), what, "{phase:?} in {boot}");
    }
    // A fourth start undoes it; waiting for a reboot is no start, and after that the count begins anew.
    for phase in [Phase::Trying, Phase::Confirming] {
        let mut worn = trial(phase);
        for _ in 1..MAX_STARTS {
            assert_eq!(worn.resume("boot"), Resume::Forward);
        }
        assert!(matches!(worn.resume("boot"), Resume::Undo(why) if why.contains("3 times")), "{phase:?}");
    }
    let mut patient = Trial { starts: MAX_STARTS, ..trial(Phase::AwaitingReboot) };
    for _ in 0..10 {
        assert_eq!(patient.resume("boot"), Resume::Wait);
    }
    assert_eq!((patient.resume("next boot"), patient.phase), (Resume::Forward, Phase::Trying));
    for _ in 1..MAX_STARTS {
        assert_eq!(patient.resume("next boot"), Resume::Forward);
    }
    assert!(matches!(patient.resume("next boot"), Resume::Undo(_)));
    // What is being undone is undone however often it takes.
    let mut undoing = Trial { starts: 100, ..trial(Phase::RollingBack) };
    assert_eq!(undoing.resume("boot"), Resume::GoOnUndoing);
}
