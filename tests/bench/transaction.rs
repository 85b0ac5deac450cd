//! What a change costs as a transaction: from proven to committed, syncs, and what a pass writes that has nothing to do.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::fleet::{FILES, Fleet};
use crate::process::{Agent, measure};
use crate::until;

pub(crate) fn rows(runs: usize, binary: &Path, row: &mut impl FnMut(&'static str, f64, &'static str, Option<f64>)) {
    let fleet = Fleet::new(binary, FILES);
    fleet.run_in_memory();
    measure(&mut fleet.trimtab("once"), &[2]);
    let agent = Agent::start(&mut fleet.trimtab("agent"));
    until("the agent's first pass", || fleet.status().is_some_and(|status| status["lastPass"]["wake"] == "start"));
    let mut version = 1;
    let mut committed = |numbers: &[usize]| -> f64 {
        for &number in numbers {
            fleet.write(number, version);
        }
        version += 1;
        let revision = fleet.push("A change");
        agent.wake();
        until("a committed generation", || fleet.status().is_some_and(|status| status["lastAppliedRevision"] == *revision));
        let status = fleet.status().expect("because it was just there");
        from_proven(&status["lastPass"])
    };
    let all: Vec<usize> = (0..FILES).collect();
    committed(&[1]);
    let mut few: Vec<f64> = (0..runs).map(|_| committed(&[3, 503, 993])).collect();
    let mut many: Vec<f64> = (0..runs.div_ceil(4)).map(|_| committed(&all)).collect();
    for (list, what) in [
        (&mut few, "from proven commit to committed generation, 3 files"),
        (&mut many, "from proven commit to committed generation, 1,000 files"),
    ] {
        list.sort_by(f64::total_cmp);
        row(what, list[list.len() / 2], "ms", None);
    }

    let before = agent.written();
    let passes = 20;
    for _ in 0..passes {
        let number = fleet.status().map(|status| status["lastPass"]["number"].clone());
        agent.wake();
        until("a pass", || fleet.status().is_some_and(|status| Some(&status["lastPass"]["number"]) != number.as_ref()));
    }
    sleep(Duration::from_millis(200));
    row("bytes written by a no-op pass", (agent.written() - before) as f64 / f64::from(passes), "B", Some(0.0));
    drop(agent);
    syncs(&fleet, version, row);
}

/// From the proof to the end of the pass, as the pass itself tells it.
fn from_proven(pass: &Value) -> f64 {
    let part = |name: &str| {
        let parts = pass["parts"].as_array().into_iter().flatten();
        parts.filter(|part| part["part"] == name).filter_map(|part| part["ms"].as_f64()).sum::<f64>()
    };
    pass["duration_ms"].as_f64().unwrap_or(f64::NAN) - part("source") + part("render")
}

#[cfg(target_arch = "x86_64")]
fn syncs(fleet: &Fleet, version: usize, row: &mut impl FnMut(&'static str, f64, &'static str, Option<f64>)) {
    use std::ffi::OsStr;
    use std::process::Stdio;
    use trimtab_tests::trace::{Gate, Verdict, Watch};
    let mut count = |what: &'static str| {
        let command = fleet.trimtab("once");
        let args: Vec<&OsStr> = command.get_args().collect();
        let gate = Gate::new(command.get_program(), &args, |shell| {
            shell.stdout(Stdio::null()).stderr(Stdio::null());
        });
        let mut syncs = 0;
        gate.run(Watch::Files, |_, call| {
            syncs += u32::from(call.name.contains("sync"));
            Verdict::Go
        });
        row(what, f64::from(syncs), "", None);
    };
    fleet.write(7, version);
    fleet.push("One file");
    count("syncs of a pass that changes one file");
    for number in 0..FILES {
        fleet.write(number, version + 1);
    }
    fleet.push("All files");
    count("syncs of a pass that changes 1,000 files");
    count("syncs of a no-op pass");
}

#[cfg(not(target_arch = "x86_64"))]
fn syncs(_: &Fleet, _: usize, _: &mut impl FnMut(&'static str, f64, &'static str, Option<f64>)) {}
