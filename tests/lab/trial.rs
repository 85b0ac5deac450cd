//! What scenarios of undone changes look at: how a pass ended, what is denied, what the history says, and that nothing is tried again.

use trimtab_tests::lab::{Machine, Watched, eventually};

/// One more line in the `[guard]` that every scenario's machine has.
pub(crate) fn guard(m: &Machine, line: &str) {
    m.sh(&format!("sed -i 's/^\\[guard\\]$/&\\n{line}/' /etc/trimtab/agent.toml"));
}

/// The exit code of a pass by hand; its report is then what [`pass`] looks at.
pub(crate) fn once(m: &Machine) -> i32 {
    let ran = m.try_sh("trimtab once --json > /tmp/pass.json");
    assert!(m.sh("stat -c %s /tmp/pass.json") != "0", "{ran}");
    ran.code
}

/// The next pass by hand must end with this outcome and exit code.
#[track_caller]
pub(crate) fn ends(m: &Machine, outcome: &str, code: i32) {
    let found = once(m);
    assert!(
        found == code && pass(m, ".outcome") == outcome,
        "{outcome} ({code}) was expected: {found}, {}",
        m.read("/tmp/pass.json")
    );
}

/// A part of the report of the last pass by hand, by jq.
pub(crate) fn pass(m: &Machine, what: &str) -> String {
    m.sh(&format!("jq -r '{what}' /tmp/pass.json"))
}

/// A part of the status document, by jq.
pub(crate) fn status(m: &Machine, what: &str) -> String {
    m.sh(&format!("trimtab status --json | jq -rc '{what}'"))
}

/// The change in progress: its phase as the ledger on the disk has it; `null` when there is none.
pub(crate) fn phase(m: &Machine) -> String {
    m.sh("trimtab history --json | jq -r .trial.phase")
}

/// The history, newest first: `3 rolled-back` for each line, with `*` at the one in force.
pub(crate) fn history(m: &Machine) -> String {
    let line = r#""\(.generation) \(.end)\(if .inForce then " *" else "" end)""#;
    m.sh(&format!("trimtab history --json | jq -r '.history[] | {line}'")).replace('\n', ", ")
}

/// What is denied, newest first: the begin of the revision, what fell, by whom, how often it was tried.
pub(crate) fn denied(m: &Machine) -> Vec<String> {
    let line = r#""\(.revision[:12]) [\(.components | join(","))] \(.by.by) \(.tries)""#;
    m.sh(&format!("trimtab history --json | jq -r '.denied[] | {line}'")).lines().map(str::to_owned).collect()
}

/// As [`denied`] has a revision that was tried once and fell.
pub(crate) fn entry(revision: &str, components: &str, by: &str) -> String {
    format!("{} [{components}] {by} 1", &revision[..12])
}

/// Waits for the running agent to have put a revision in force, and to be well with it.
#[track_caller]
pub(crate) fn in_force(m: &Machine, revision: &str) {
    eventually("it is in force", 40, || {
        status(m, "[.ready, .lastAppliedRevision, .trial]") == format!("[true,\"{revision}\",null]")
    });
}

/// Waits for the running agent to have undone a revision for this reason: the report says so, a person reads it, and it is denied.
#[track_caller]
pub(crate) fn undone(m: &Machine, revision: &str, because: &str) {
    let wanted = format!("[\"rolled-back\",\"{revision}\",null]");
    eventually("it is undone", 60, || status(m, "[.lastPass.outcome, .lastPass.undone.revision, .trial]") == wanted);
    assert_told(m, revision, because);
}

/// What was undone is told to whoever asks for the status, and stands in the history.
#[track_caller]
pub(crate) fn assert_told(m: &Machine, revision: &str, because: &str) {
    let (told, short) = (m.try_sh("trimtab status"), &revision[..12]);
    assert_eq!(told.code, 1, "an undone change is no success: {told}");
    assert!(told.out.contains("NOT READY") && told.out.contains(&format!("because     {because}")), "{because}: {told}");
    assert!(told.out.contains(&format!("revision {short}, ")), "{told}");
    assert!(denied(m).first().is_some_and(|first| first.starts_with(short)), "{short}: {:?}", denied(m));
    let past = m.sh("trimtab history");
    assert!(past.lines().any(|line| line.contains(short) && line.contains("rolled-back")), "{past}");
}

/// Three more passes of the running agent touch nothing of this and try nothing.
#[track_caller]
pub(crate) fn nothing_more(m: &Machine, paths: &[&str], units: &[&str]) {
    let number = || status(m, ".lastPass.number").parse::<u64>().expect("because passes are numbered");
    let before = (Watched::new(m, paths, units), history(m), denied(m), number());
    eventually("three more passes", 40, || number() >= before.3 + 3);
    before.0.assert_same(&Watched::new(m, paths, units));
    assert_eq!((history(m), denied(m)), (before.1, before.2), "nothing is tried again");
}
